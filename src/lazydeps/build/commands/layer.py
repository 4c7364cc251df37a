"""`lazydeps layer`: its options and words; `build/layer.py` does the work."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from lazydeps.build.commands import NewFile, output_options
from lazydeps.build.console import Console, mega
from lazydeps.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


@click.command(
    "layer",
    epilog="""\b
Examples:
  lazydeps layer --python 3.13 --arch arm64 -o layer.zip
  aws lambda publish-layer-version --layer-name lazydeps --zip-file fileb://layer.zip \\
    --compatible-runtimes python3.13 --compatible-architectures arm64""",
)
@click.option("-o", "--out", type=NewFile(), required=True, help="The layer to write, NAME.zip.")
@click.option("--python", help="Minor version of the target, 3.11 or later.  [default: the running one]")
@click.option("--arch", help="x86_64 or arm64.  [default: this machine's]")
@click.option(
    "--bytecode/--no-bytecode",
    default=True,
    help="Compile the modules, which takes a Python of that version here. Without bytecode each cold start compiles "
    "them.  [default: compile]",
)
@output_options
def command(console: Console, out: Path, python: str | None, arch: str | None, bytecode: bool) -> None:
    """Write an AWS Lambda layer with lazydeps' runtime, and only that.

    Functions that use the layer need no lazydeps in their own package. The layer holds no pack.
    """
    from lazydeps.build.layer import build_layer, check_target

    try:
        python, arch = check_target(python, arch)
    except ConfigError as error:
        raise click.UsageError(str(error), click.get_current_context()) from error
    with console.step(f"Building the layer for Python {python} on {arch}"):
        done = build_layer(out, python=python, arch=arch, bytecode=bytecode)
    for warning in done.warnings:
        console.warn(warning)
    if console.result(asdict(done)):
        return
    console.line(f"{out}: {mega(done.size)}, {mega(done.unpacked_size)} unzipped, for Python {python} on {arch}")
    console.line(", ".join(f"{name} {version}" for name, version in done.distributions.items()))
    console.line(f"\n{done.digest}")
    console.line(f"CodeSha256 {done.code_sha256}")
    file = shlex.quote(f"fileb://{out}")
    console.line(f"\nNext: aws lambda publish-layer-version --layer-name lazydeps --zip-file {file} \\")
    console.line(f"        --compatible-runtimes python{python} --compatible-architectures {arch}")
