"""`lazydeps rollback`: its options and words; `build/lockfile.py` does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from lazydeps.build.commands import lock_option, output_options

if TYPE_CHECKING:
    from pathlib import Path

    from lazydeps.build.console import Console


@click.command(
    "rollback",
    epilog="""\b
Examples:
  lazydeps rollback science
  lazydeps rollback science --arch arm64 --dry-run
  lazydeps rollback science --to 3f9a0c""",
)
@click.argument("name")
@click.option("--python", help="Only for this Python, 3.13.  [default: all that the lock has]")
@click.option("--arch", help="Only for this architecture, x86_64, arm64 or any.  [default: all that the lock has]")
@click.option("--to", metavar="ROOT", help="Go back to the pack whose root begins so.  [default: the one before]")
@lock_option("The lock file.")
@click.option("--dry-run", is_flag=True, help="Change nothing; say what would be pinned.")
@output_options
def command(
    console: Console, name: str, python: str | None, arch: str | None, to: str | None, lock: Path, *, dry_run: bool
) -> None:
    """Pin again in the lock file what NAME meant before its last push, for every target or the ones chosen.

    The object has to be there still. Going back twice goes back two; to go forward, push that pack again. A function
    starts from it as soon as it is deployed with the changed lock file.
    """
    from lazydeps.build import lockfile

    with lockfile.changing(lock):
        before = lockfile.read(lock)
        chosen = lockfile.choose(before, name, python=python, arch=arch)
        after = lockfile.roll_back_all(before, name, chosen, to=to)
        moved = {
            target: (before.entry(name, target), after.entry(name, target))
            for target in chosen
            if before.entry(name, target) != after.entry(name, target)
        }
        from lazydeps.build.published import check_there  # which takes boto3, and longer than all before

        for _, entry in moved.values():
            with console.step(f"Looking for {entry.digest[:12]}"):
                check_there(entry.ref)
        if not dry_run:
            lockfile.write(lock, after)
    facts = {
        "name": name,
        "lock": str(lock),
        "dry_run": dry_run,
        "targets": {
            target: {"from": old.ref, "to": new.ref, "published": new.published, "left": len(new.previous)}
            for target, (old, new) in moved.items()
        },
    }
    if console.result(facts):
        return
    for target, (old, new) in moved.items():
        console.line(
            f"{name} for {target}: {old.digest[:12]} ({old.published}) -> {new.digest[:12]} ({new.published})"
            f"{', would be pinned' if dry_run else ''}"
        )
        console.line(f"  {new.ref}")
    if not dry_run:
        console.line(f"\nNext: commit {lock}, and deploy the functions that have it.")
