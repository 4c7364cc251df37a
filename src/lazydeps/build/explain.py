"""Say of a file where a pack has it and why: its distribution, set, place in the trace; the rule that left it out."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from .bytecode import pyc_path
from .patterns import expression
from .sets import is_for_tools
from .slim import NOBODY, SOURCES, STRIP, Slimmed, rules
from .trace import FILE_PREFIX, Trace

if TYPE_CHECKING:
    from collections.abc import Mapping

NOWHERE = ""
"""The set of a file that is not in the pack."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """Where each file of one build went."""

    owners: Mapping[str, str]
    """Installed files, with their distributions."""
    sets: Mapping[str, str]
    """Packed files, with their sets."""
    slimmed: Slimmed
    trace: Trace
    boot: Mapping[str, str]
    """Files of the boot set, each with the entry of the trace that it is there for."""
    cache_tag: str

    def removed(self) -> dict[str, str]:
        """Return the files that were left out, each with the rule."""
        return {entry.path: entry.rule for entry in self.slimmed.saved if entry.rule != STRIP}


@dataclass(frozen=True, slots=True)
class Explanation:
    """What there is to say of one file."""

    path: str
    distribution: str
    set: str
    """``boot``, ``data``, ``cold``, or empty if it is not in the pack. Of a module, where its bytecode is."""
    why: str

    def as_dict(self) -> dict[str, str]:
        """Return the fields, for JSON."""
        return asdict(self)


def explain(inventory: Inventory, pattern: str) -> list[Explanation]:
    """Explain every file that a pattern names.

    Args:
        inventory: the build's.
        pattern: a path relative to site-packages, or a pattern (`patterns.py`). Bytecode belongs to its source and is
            explained with it, unless the pattern itself ends in ``.pyc``.

    Returns:
        One explanation a file, sorted. Where nothing is named, one that says so and names the nearest paths.
    """
    known = {*inventory.sets, *inventory.removed()}
    named = expression([pattern.removeprefix("./")])
    found = sorted(
        path for path in known if named.match(path) and (pattern.endswith(".pyc") or not path.endswith(".pyc"))
    )
    if not found:
        return [Explanation(pattern, "", NOWHERE, f"is not in the installation.{_nearest(pattern, sorted(known))}")]
    removed = inventory.removed()
    stripped = {entry.path: entry.bytes for entry in inventory.slimmed.saved if entry.rule == STRIP}
    return [_explain(inventory, path, removed.get(path), stripped.get(path)) for path in found]


def _explain(inventory: Inventory, path: str, removed: str | None, stripped: int | None) -> Explanation:
    owner = inventory.owners.get(path) or inventory.owners.get(_source_of(path), NOBODY)
    if removed is not None and removed != SOURCES:
        rule = rules().rules.get(removed)
        by = f"left out by {removed}" if rule is None else f"left out by the rule {rule.name} ({rule.why})"
        return Explanation(path, owner, NOWHERE, f"{by}; nothing traced touches it.")
    held = path
    if path.endswith(".py"):
        # What an import reads of a module is its bytecode.
        forms = (pyc_path(path, inventory.cache_tag), path + "c")
        held = next((form for form in forms if form in inventory.sets), path)
    words = [_place(inventory, held, path)]
    if removed is not None:
        words.append("its source was left out by --sources drop")
    elif held != path:
        words.append(f"its source is {inventory.sets[path]}")
    if path in inventory.slimmed.kept:
        words.append(f"a rule names it and it stays: {inventory.slimmed.kept[path]}")
    if stripped is not None:
        words.append(f"stripped of {stripped:,} bytes")
    return Explanation(path, owner, inventory.sets[held], "; ".join(words) + ".")


def _place(inventory: Inventory, held: str, path: str) -> str:
    kind = inventory.sets[held]
    if kind == "boot":
        order = inventory.trace.order
        entry = inventory.boot[held]
        position = order.index(entry) + 1
        what = ", ".join(f"`{how}`" for how in inventory.trace.how[:3]) + (" …" if len(inventory.trace.how) > 3 else "")
        place = f"position {position} of {len(order)} in the trace of {what or 'a file that does not say of what'}"
        if entry.removeprefix(FILE_PREFIX) in (held, path):
            return ("opened, " if entry.startswith(FILE_PREFIX) else "traced, ") + place
        return f"a library that {entry} needs, which is {place}"
    if kind == "data":
        return "a running program may open it; the traced one did not"
    if held != path or path.endswith((".so", ".pyc")):
        return "a module that the traced program did not import"
    if path.endswith(".py"):
        return "a source without bytecode"
    return "only tools and test suites read it" if is_for_tools(path) else "nothing asks for it at a start"


def _source_of(path: str) -> str:
    folder, _, name = path.rpartition("/")
    if folder.rpartition("/")[2] == "__pycache__":
        return f"{folder[: -len('__pycache__')]}{name.partition('.')[0]}.py"
    return path.removesuffix("c") if path.endswith(".pyc") else path


def _nearest(pattern: str, known: list[str]) -> str:
    near = difflib.get_close_matches(pattern, known, n=3, cutoff=0.7)
    if not near:
        names: dict[str, str] = {}
        for path in known:
            names.setdefault(path.rpartition("/")[2], path)
        near = [names[name] for name in difflib.get_close_matches(pattern.rpartition("/")[2], names, n=3, cutoff=0.7)]
    return f" Did you mean {', '.join(near)}?" if near else ""
