"""`lazydeps lock`: its options and words; `build/pin.py` does the work."""

from __future__ import annotations

from dataclasses import asdict

import click

from lazydeps.build import read
from lazydeps.build.commands import complete_files, output_options
from lazydeps.build.console import Console, mega


@click.command(
    "lock",
    epilog="""\b
Examples:
  lazydeps lock s3://my-bucket/libs/data-science.zip
  lazydeps lock build/layer.zip --json | jq -r .ref""",
)
@click.argument("archive", metavar="ARCHIVE", shell_complete=complete_files)
@output_options
def command(console: Console, archive: str) -> None:
    """Pin ARCHIVE, a path or a URL, that is not a pack: a zip, a Lambda layer, a tar, a wheel.

    Downloads it and checks every member as a start would, then prints the reference.
    """
    from lazydeps.build.pin import pin

    ref = read.as_ref(archive)
    with console.step(f"Checking {ref.shown}"):
        facts = pin(ref)
    if console.result(asdict(facts)):
        return
    console.line(f"{facts.files:,} files, {mega(facts.size)}, {mega(facts.unpacked_size)} unpacked")
    console.line("\n" + facts.ref)
