"""`lazydeps gc`: its options and words; `build/stores.py` does the work."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from lazydeps.build.commands import PATH, output_options, parse_age, parsed
from lazydeps.build.console import Console, mega
from lazydeps.build.interrupts import exit_code

if TYPE_CHECKING:
    from pathlib import Path

    from lazydeps.build.stores import Removal


@click.command(
    "gc",
    epilog="""\b
Examples:
  lazydeps gc --dry-run
  lazydeps gc --keep 2 --older-than 7d
  lazydeps gc --dir /mnt/packs --json""",
)
@click.option(
    "--dir", "directory", type=PATH, help="The folder that holds the stores.  [default: LAZYDEPS_DIR, or /tmp/lazydeps]"
)
@click.option(
    "--keep", type=click.IntRange(min=0), default=0, metavar="N", help="Keep the N that were used most recently."
)
@click.option(
    "--older-than",
    callback=parsed(parse_age),
    default="0s",
    metavar="AGE",
    help="Remove only what was not used for so long: 7d, 12h.",
)
@click.option("--dry-run", is_flag=True, help="Remove nothing; say what would be removed.")
@output_options
def command(console: Console, directory: Path | None, keep: int, older_than: float, dry_run: bool) -> int:
    """Remove the stores that no running process uses.

    A store is where a pack or another archive lands, one folder for each. What is removed is fetched again by the next
    start that needs it. A start that runs short of space does the same by itself.

    Exit code 1: something that should have been removed could not be.
    """
    from lazydeps._config import Config
    from lazydeps.build import stores

    place = os.path.abspath(Config.from_environ(os.environ).directory if directory is None else directory)
    done = []
    try:
        for removal in stores.collect(place, keep=keep, older_than=older_than, dry_run=dry_run):
            done.append(removal)
            if not console.as_json:
                console.line(_store_line(removal, dry_run=dry_run))
        finished = 0 if dry_run else stores.finish_removals(place)
    except KeyboardInterrupt:
        console.fail("Interrupted", "a store that was being removed is out of use; the next removal does the rest.")
        return exit_code()
    freed = sum(removal.store.size for removal in done if removal.fate == "removed")
    failed = [removal for removal in done if removal.fate == "failed"]
    facts = {
        "directory": place,
        "dry_run": dry_run,
        "stores": [removal.as_dict() for removal in done],
        "freed": freed,
        "finished": finished,
    }
    for removal in failed:
        console.warn(f"{removal.store.name} could not be removed: {removal.reason}.")
    if not console.result(facts):
        words = "would be freed" if dry_run else "freed"
        earlier = f"; {finished} earlier removal{'s' * (finished > 1)} finished" if finished else ""
        console.line(f"{place}: {len(done)} store{'s' * (len(done) != 1)}, {mega(freed)} {words}{earlier}")
    return 1 if failed else 0


def _store_line(removal: Removal, *, dry_run: bool) -> str:
    from datetime import datetime

    store = removal.store
    fate = "would be removed" if dry_run and removal.fate == "removed" else removal.fate
    count = "unknown" if store.distributions is None else str(store.distributions)
    kind = "" if store.interpreter is None else f"an archive for {store.interpreter}, "
    used = datetime.fromtimestamp(store.last_used).astimezone().isoformat(" ", "minutes")
    return f"{fate:7} {store.root}  {kind}{count} distributions, {mega(store.size)}, last used {used}"
