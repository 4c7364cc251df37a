"""Child processes: what this one puts into its environment so that theirs find the packs too.

Two variables. ``PYTHONPATH`` gets the folder `_child` in front, whose ``sitecustomize.py`` every interpreter runs at
its start; ``LAZYDEPS_CHILD`` says to it which interpreter may take which packs from which stores.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

VARIABLE = "LAZYDEPS_CHILD"
"""Lines: kind and prefix of the interpreter, the folder that holds lazydeps, then directory and reference by turns."""
_PACKAGE = os.path.dirname(os.path.abspath(__file__))
FOLDER = f"{_PACKAGE}/_child"

_ours: dict[str, str] = {}
"""Reference to directory, of the packs that this process has loaded."""
_before: tuple[str | None, str] | None = None
"""What ``PYTHONPATH`` was, and what we made of it."""


def tell(packs: Sequence[tuple[str, str]]) -> None:
    """Let processes that start from now on import from these packs too, after those told before.

    Args:
        packs: references, pinned, each with the directory of its store.
    """
    global _before
    if os.pathsep in FOLDER or not os.path.isfile(f"{FOLDER}/sitecustomize.py"):
        return  # a folder that cannot stand on a path, or lies in a zip file
    for ref, directory in packs:
        _ours.setdefault(ref, directory)
    head = [sys.implementation.cache_tag + sys.abiflags, sys.prefix, os.path.dirname(_PACKAGE)]
    known = os.environ.get(VARIABLE, "").split("\n")
    # What this process was told itself, as a child, its own children are told after its own packs.
    inherited = dict(zip(known[4::2], known[3::2], strict=False)) if known[:2] == head[:2] else {}
    lines = head[:]
    for ref, directory in {**_ours, **{ref: inherited[ref] for ref in inherited if ref not in _ours}}.items():
        lines += directory, ref
    value = "\n".join(lines)
    if value.count("\n") != len(lines) - 1:
        return  # a name with a line break in it: no variable of ours can carry that
    path = os.environ.get("PYTHONPATH")
    if FOLDER not in (path or "").split(os.pathsep):
        _before = path, f"{FOLDER}{os.pathsep}{path}" if path else FOLDER
        os.environ["PYTHONPATH"] = _before[1]
    os.environ[VARIABLE] = value


def forget() -> None:
    """Take back what `tell` did; what others have changed meanwhile stays."""
    global _before
    _ours.clear()
    os.environ.pop(VARIABLE, None)
    path = os.environ.get("PYTHONPATH")
    if _before is not None and path == _before[1]:
        path = _before[0]
    elif path is not None:
        entries = path.split(os.pathsep)
        if FOLDER in entries:  # moved or joined by others, or inherited
            entries.remove(FOLDER)
            path = os.pathsep.join(entries) if entries else None
    _before = None
    if path is None:
        os.environ.pop("PYTHONPATH", None)
    elif path != os.environ["PYTHONPATH"]:
        os.environ["PYTHONPATH"] = path
    for finder in sys.meta_path:
        if getattr(finder, "__name__", "") == "lazydeps.Inherited":
            finder.uninstall()  # type: ignore[attr-defined]
