"""`lazydeps diff`: its options and words; `build/diff.py` does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from lazydeps.build.commands import lock_option, output_options
from lazydeps.build.console import Console, mega

if TYPE_CHECKING:
    from pathlib import Path

    from lazydeps.build.diff import FileChange

SIGNS = {"added": "+", "removed": "-", "changed": "~"}


@click.command(
    "diff",
    epilog="""\b
Examples:
  lazydeps diff old.tar.zst new.tar.zst
  lazydeps diff science@python3.13-arm64 new.tar.zst --files
  lazydeps diff science@python3.13-x86_64 science@python3.13-arm64 --json""",
)
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("--files", is_flag=True, help="List every file that is not the same in both.")
@lock_option("Where names are looked up.")
@output_options
def command(console: Console, before: str, after: str, lock: Path, *, files: bool) -> None:
    """Show what differs from pack A to pack B: distributions, sizes by set, files.

    A and B are paths, references, or names of the lock file with a target. Indexes tell most; where frames differ, the
    files in them are read and compared by content.
    """
    from lazydeps.build import diff
    from lazydeps.build.read import open_pack

    refs = diff.find(before, lock), diff.find(after, lock)
    with (
        console.step(f"Comparing {before} and {after}") as advance,
        open_pack(refs[0]) as old,
        open_pack(refs[1]) as new,
    ):
        found = diff.compare(old, new, on_progress=advance)
    if console.result(found.as_dict(files=files)):
        return
    if found.targets[0] != found.targets[1]:
        console.line(f"target: {found.targets[0]} -> {found.targets[1]}")
    if found.equal:
        console.line("The packs hold the same distributions and the same files.")
    for name, version in found.added.items():
        console.line(f"+ {name} {version}")
    for name, version in found.removed.items():
        console.line(f"- {name} {version}")
    for name, (old_version, new_version) in found.changed.items():
        console.line(f"~ {name} {old_version} -> {new_version}")
    for name, kinds in found.sizes.items():
        console.line(
            f"{name:6} {_change(*kinds['packed'])} packed, {_change(*kinds['unpacked'])} unpacked, "
            f"{kinds['files'][0]:,} -> {kinds['files'][1]:,} files"
        )
    if found.files:
        console.line(
            f"files: {found.count('added'):,} added, {found.count('removed'):,} removed, "
            f"{found.count('changed'):,} changed"
        )
        for change in found.files if files else found.largest():
            console.line(_file_line(change))
        if not files and len(found.files) > diff.LARGEST:
            console.line("These weigh most; --files lists all.")


def _change(before: int, after: int) -> str:
    return f"{mega(before)} -> {mega(after)}"


def _file_line(change: FileChange) -> str:
    size = {"added": change.after, "removed": change.before}.get(change.kind)
    words = f"{size:,}" if size is not None else f"{change.before:,} -> {change.after:,}"
    return f"{SIGNS[change.kind]} {change.path} ({words} bytes)"
