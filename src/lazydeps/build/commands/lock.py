"""`lazydeps lock`: its options and words; `build/pin.py` does the work."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from lazydeps.build import read
from lazydeps.build.commands import complete_files, lock_option, output_options
from lazydeps.build.console import Console, mega

if TYPE_CHECKING:
    from pathlib import Path


@click.command(
    "lock",
    epilog="""\b
Examples:
  lazydeps lock s3://my-bucket/libs/data-science.zip
  lazydeps lock s3://my-bucket/libs/data-science.zip --name libs
  lazydeps lock build/layer.zip --json | jq -r .ref""",
)
@click.argument("archive", metavar="ARCHIVE", shell_complete=complete_files)
@click.option("--name", metavar="NAME", help="Pin it under this name in the lock file, which load() reads.")
@lock_option("The lock file that --name writes.")
@output_options
def command(console: Console, archive: str, name: str | None, lock: Path) -> None:
    """Pin ARCHIVE, a path or a URL, that is not a pack: a zip, a Lambda layer, a tar, a wheel.

    Downloads it and checks every member as a start would, then prints the reference.
    """
    from lazydeps.build import lockfile
    from lazydeps.build.pin import pin, pin_in_lock

    ref = read.as_ref(archive)
    if name is not None:
        lockfile.check_name(name)
        lockfile.read(lock, missing=True)  # damage is found before the download
    with console.step(f"Checking {ref.shown}"):
        facts = pin(ref)
    for warning in facts.warnings:
        console.warn(warning)
    if name is not None:
        pin_in_lock(lock, name, facts)
    if console.result({**asdict(facts), **({} if name is None else {"name": name, "lock": str(lock)})}):
        return
    console.line(f"{facts.files:,} files, {mega(facts.size)}, {mega(facts.unpacked_size)} unpacked")
    console.line("\n" + facts.ref)
    if name is not None:
        console.line(f"\n{lock}: {name} is pinned for any target")
