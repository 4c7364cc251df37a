"""`lazydeps list`: its options and words; `build/published.py` does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from lazydeps.build.commands import LOCK, default_destination, output_options
from lazydeps.build.console import Console, mega

if TYPE_CHECKING:
    from pathlib import Path

    from lazydeps.build.published import Published


@click.command(
    "list",
    short_help="Show the packs below a prefix of a bucket, the newest first.",
    epilog="""\b
Examples:
  lazydeps list s3://my-bucket/packs/
  lazydeps list s3://my-bucket/packs/ --name science --lock lazydeps.lock
  lazydeps list s3://my-bucket/packs/ --json | jq -r '.packs[0].ref'""",
)
@click.argument("destination", metavar="[s3://BUCKET/PREFIX/]", required=False)
@click.option("--name", metavar="NAME", help="Only those that were pushed with this name.")
@click.option("--lock", "locks", type=LOCK, multiple=True, help="A lock file whose packs to mark; may be repeated.")
@output_options
def command(console: Console, destination: str | None, name: str | None, locks: tuple[Path, ...]) -> None:
    """Show the packs below a prefix, the newest first: name, target, size, when and from which commit.

    In a configured project the prefix is by default the one that it pushes to.
    """
    from lazydeps.build import published, s3

    destination = destination or default_destination()
    if destination is None:
        raise click.UsageError(
            "no prefix to look at: give it, lazydeps list s3://BUCKET/PREFIX/.", click.get_current_context()
        )
    found = published.locks_of(locks)
    with console.step(f"Looking at {destination}") as advance:
        packs = published.survey(destination, client=s3.new_client(), locks=found, on_progress=advance)
    packs = [pack for pack in packs if name is None or pack.name == name]
    if console.result({"destination": destination, "packs": [pack.as_dict() for pack in packs]}):
        return
    for pack in packs:
        console.line(published_line(pack))
    total = sum(pack.size for pack in packs)
    console.line(f"{destination}: {len(packs)} pack{'s' * (len(packs) != 1)}, {mega(total)}")


def published_line(pack: Published) -> str:
    """Return a pack in one line."""
    words = [
        f"{pack.name or '-':12}",
        f"{pack.target:17}",
        f"{mega(pack.size):>11}",
        pack.published.replace("T", " ").replace("Z", " UTC"),
        pack.root[:12],
        f"commit {_short(pack.commit)}" if pack.commit else "",
        f"({pack.locked})" if pack.locked else "",
    ]
    return "  ".join(word for word in words if word)


def _short(commit: str) -> str:
    digits, _, dirty = commit.partition("-")
    return digits[:12] + ("-" + dirty if dirty else "")
