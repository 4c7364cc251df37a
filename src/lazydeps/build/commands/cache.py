"""`lazydeps cache`: its options and words; `build/cache.py` does the work."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from lazydeps.build import cache
from lazydeps.build.commands import PATH, output_options, parse_age, parsed
from lazydeps.build.console import Console, mega
from lazydeps.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_folder = click.option("--cache-dir", type=PATH, help="The cache.  [default: LAZYDEPS_CACHE, or ~/.cache/lazydeps]")
_dry_run = click.option("--dry-run", is_flag=True, help="Remove nothing; say what would be removed.")


@click.group(
    "cache",
    epilog="""\b
Examples:
  lazydeps cache info
  lazydeps cache prune --size 500MB --older-than 30d
  lazydeps cache clear --kind traces --dry-run""",
)
def command() -> None:
    """Look at what builds keep for the next build, and remove it.

    Compressed frames, compiled bytecode and recorded imports, each under a digest of what it was made from. A pack is
    the same with and without them. A build removes by itself what was not used for longest, beyond LAZYDEPS_CACHE_SIZE
    (2GB).
    """


def _place(chosen: Path | None) -> Path:
    place = chosen or cache.default_folder()
    if place is None:
        raise ConfigError("LAZYDEPS_CACHE=0 switches the cache off: name the folder with --cache-dir.")
    return place.absolute()


@command.command(
    "info",
    short_help="Say where the cache is, what it holds, and how old it is.",
    epilog="""\b
Examples:
  lazydeps cache info
  lazydeps cache info --json""",
)
@_folder
@output_options
def info(console: Console, cache_dir: Path | None) -> None:
    """Say where the cache is, what it holds, and since when nobody has used the oldest of it."""
    place = _place(cache_dir)
    there = cache.entries(place)
    kinds = {
        kind: {
            "entries": sum(entry.kind == kind for entry in there),
            "bytes": sum(entry.size for entry in there if entry.kind == kind),
        }
        for kind in cache.KINDS
    }
    oldest = datetime.fromtimestamp(there[0].used).astimezone().isoformat(timespec="seconds") if there else None
    facts: dict[str, Any] = {
        "path": str(place),
        "entries": len(there),
        "bytes": sum(entry.size for entry in there),
        "limit": cache.size_limit(),
        "kinds": kinds,
        "oldest_use": oldest,
    }
    if console.result(facts):
        return
    console.line(f"{place}: {mega(facts['bytes'])} of at most {mega(facts['limit'])}, {len(there):,} entries")
    for kind, entry in kinds.items():
        console.line(f"  {kind:8} {entry['entries']:>7,} entries {mega(entry['bytes']):>12}")
    if oldest is not None:
        console.line(f"  not used for longest: since {oldest}")


@command.command(
    "clear",
    epilog="""\b
Examples:
  lazydeps cache clear
  lazydeps cache clear --kind bytecode --dry-run""",
)
@click.option("--kind", "kinds", type=click.Choice(cache.KINDS), multiple=True, help="Only these.  [default: all]")
@_folder
@_dry_run
@output_options
def clear(console: Console, kinds: tuple[cache.Kind, ...], cache_dir: Path | None, dry_run: bool) -> None:
    """Remove everything, or everything of some kinds."""
    place = _place(cache_dir)
    _report(console, place, cache.clear(place, kinds=kinds or cache.KINDS, dry_run=dry_run), dry_run=dry_run)


@command.command(
    "prune",
    short_help="Remove what was not used for longest.",
    epilog="""\b
Examples:
  lazydeps cache prune --size 500MB
  lazydeps cache prune --older-than 30d --dry-run""",
)
@click.option("--size", callback=parsed(cache.parse_size), metavar="SIZE", help="Keep so much: 500MB, 2GB.")
@click.option("--older-than", callback=parsed(parse_age), metavar="AGE", help="Remove what was not used for: 30d, 12h.")
@_folder
@_dry_run
@output_options
def prune(console: Console, size: int | None, older_than: float | None, cache_dir: Path | None, dry_run: bool) -> None:
    """Remove what was not used for longest, down to a size, or since some time."""
    if size is None and older_than is None:
        raise click.UsageError("say how much may stay (--size) or for how long (--older-than).")
    place = _place(cache_dir)
    _report(console, place, cache.prune(place, size=size, older_than=older_than, dry_run=dry_run), dry_run=dry_run)


def _report(console: Console, place: Path, removed: Iterator[cache.Entry], *, dry_run: bool) -> None:
    count = size = 0
    for entry in removed:
        count += 1
        size += entry.size
    if not console.result({"path": str(place), "removed": count, "freed": size, "dry_run": dry_run}):
        words = "would be removed" if dry_run else "removed"
        console.line(f"{place}: {count:,} entr{'y' if count == 1 else 'ies'} {words}, {mega(size)}")
