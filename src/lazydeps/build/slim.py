"""Leave out of an installed tree what no running program reads, by the rules of ``prune.toml``; say what was saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from .options import PackOptions


@dataclass(frozen=True, slots=True)
class Slimmed:
    """What was left out of a tree."""

    removed: dict[str, str]
    """Posix paths relative to the tree, each with the rule that named it."""


def slim(tree: Path, options: PackOptions) -> Slimmed:
    """Remove files from an installed tree before it is compiled."""
    del tree, options
    return Slimmed({})
