"""`lazydeps package`: its options and words; `build/package.py` does the work."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from lazydeps.build.commands import FILE, FOLDER, NewFile, output_options
from lazydeps.build.console import Console, mega
from lazydeps.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from lazydeps.build.package import PackageOptions


@click.command(
    "package",
    short_help="Build a function's zip file: code, light dependencies, lazydeps.",
    epilog="""\b
Examples:
  lazydeps package --handler app.handler -o function.zip
  lazydeps package -r requirements-light.txt --python 3.13 --arch arm64 --dry-run
  lazydeps package --include app.py --include 'src/**' --exclude '*.md' --no-runtime""",
)
@click.argument("project", type=FOLDER, default=".")
@click.option("-o", "--out", type=NewFile(), default="function.zip", show_default=True, help="The zip file to write.")
@click.option("--handler", metavar="MODULE.FUNCTION", help="What Lambda calls.  [default: the usual one that is there]")
@click.option("--include", multiple=True, metavar="PATTERN", help="Files of the code.  [default: modules and packages]")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Files to leave out.")
@click.option("--with", "requirements", multiple=True, metavar="REQUIREMENT", help="A light dependency.")
@click.option("-r", "--requirement", "requirement_files", type=FILE, multiple=True, help="A requirements file.")
@click.option("--group", "groups", multiple=True, metavar="NAME", help="A dependency group of the project.")
@click.option(
    "--also", multiple=True, metavar="NAME", help="A distribution that goes in although a pack of the lock holds it."
)
@click.option("--python", help="Minor version of the target, 3.11 or later.  [default: the running one]")
@click.option("--arch", help="x86_64 or arm64.  [default: this machine's]")
@click.option("--runtime/--no-runtime", default=None, help="Leave lazydeps itself out, where a layer has it.")
@click.option("--lock", type=FILE, help="The lock file.  [default: lazydeps.lock in the project, if there]")
@click.option("--max-size", type=float, metavar="MB", help="Fail above this size.  [default: warn above 5 MB]")
@click.option("-n", "--dry-run", is_flag=True, help="List what would go in; write nothing.")
@output_options
def command(console: Console, project: Path, dry_run: bool, **options: Any) -> None:
    """Build the zip file of a function: code, light dependencies, lazydeps, lazydeps.lock.

    Distributions that the packs in lazydeps.lock hold are left out. The same inputs give the same bytes.
    """
    from lazydeps.build.layer import check_target
    from lazydeps.build.package import build_package

    asked = _asked(project, **options)
    try:
        check_target(asked.python, asked.arch)
    except ConfigError as error:
        raise click.UsageError(str(error), click.get_current_context()) from error
    with console.step(f"Building {asked.out.name}"):
        done = build_package(asked, dry_run=dry_run)
    for warning in done.warnings:
        console.warn(warning)
    if console.result(asdict(done)):
        return
    if dry_run:
        for name, size in done.contents.items():
            console.line(f"{size:>11,} {name}")
    console.line(
        f"{done.path}: {mega(done.size)}, {mega(done.unpacked_size)} unzipped, {done.files} files, "
        f"for Python {done.python} on {done.arch}{' (dry run: not written)' if dry_run else ''}"
    )
    console.line(", ".join(f"{name} {version}" for name, version in done.distributions.items()) or "no dependencies")
    if done.left_out:
        console.line("Left out: " + ", ".join(f"{name} (in pack {pack})" for name, pack in done.left_out.items()))
    console.line(f"\nCodeSha256 {done.code_sha256}")
    if not dry_run:
        file = shlex.quote(f"fileb://{done.path}")
        console.line(f"\nNext: aws lambda update-function-code --function-name NAME --zip-file {file} \\")
        console.line(f"        --architectures {done.arch}")
        console.line(f"The function needs runtime python{done.python} and handler {done.handler}.")


def _asked(folder: Path, *, max_size: float | None, runtime: bool | None, **options: Any) -> PackageOptions:
    """Return what to build: what the project says, and the command line over it."""
    from lazydeps.build.package import PackageOptions
    from lazydeps.build.project import find_project

    project = find_project(folder)
    if project is not None:
        folder, spec = project.folder, project.package
        for name in ("handler", "include", "exclude", "requirements", "requirement_files", "groups"):
            options[name] = options[name] or getattr(spec, name)
        if options["lock"] is None and project.lock.is_file():
            options["lock"] = project.lock
        runtime = spec.runtime if runtime is None else runtime
        for name in ("python", "arch"):
            there = sorted({value for pack in project.packs.values() for value in getattr(pack, name)})
            if options[name] is None and len(there) > 1:
                raise click.UsageError(f"{project.file} has packs for {' and '.join(there)}: say which with --{name}.")
            options[name] = options[name] or next(iter(there), None)
    return PackageOptions(
        folder=folder,
        max_size=None if max_size is None else int(max_size * 1e6),
        runtime=runtime is not False,
        **options,
    )
