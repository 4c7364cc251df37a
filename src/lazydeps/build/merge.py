"""Make one trace of several, so that its order serves every program that was recorded.

The order of a pack's boot set is a watermark: a module runs once everything before it has landed. Two things follow.
What a module's body opens has to stand before the module in the merged order too, or it opens a file that is not there
yet. And a module that nobody of the first program needed must not push back what it does need, but has to be there when
its own program comes to the modules that both share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .trace import Trace, entry_key, is_module

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LAST = float("inf")


def merge(traces: Sequence[Trace]) -> Trace:
    """Return a trace with every entry of several, once.

    Modules of the first trace keep their order. What later ones add stands before everything that came after it in
    its own trace; a data file moves up where a later trace shows a module that has to find it. Extension modules that
    are named after another Python or architecture count as those of the first trace, under its names.

    Args:
        traces: at least one; the first one's Python and architecture are the result's.
    """
    first = traces[0]
    order = list(first.order)
    for trace in traces[1:]:
        order = _merge_orders(order, trace.order)
    present = _present(order)
    return Trace(
        python=first.python,
        arch=first.arch,
        how=tuple(dict.fromkeys(how for trace in traces for how in trace.how)),
        order=tuple(order),
        absent=tuple(sorted({path for trace in traces for path in trace.absent} - present)),
        stdlib=tuple(dict.fromkeys(name for trace in traces for name in trace.stdlib)),
    )


def _merge_orders(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """Merge two orders; entries of the second that the first has too appear under its names."""
    names = {entry_key(entry): entry for entry in reversed(first)}
    second = list(dict.fromkeys(names.get(entry_key(entry), entry) for entry in second))
    place = {entry: index for index, entry in enumerate(first)}

    # What is new goes before the earliest of all shared entries that come after it in its own trace.
    before: dict[str, list[str]] = {}
    behind: list[str] = []
    earliest = LAST
    for entry in reversed(second):
        if entry in place:
            earliest = min(earliest, place[entry])
        elif earliest == LAST:
            behind.append(entry)
        else:
            before.setdefault(first[int(earliest)], []).append(entry)
    order: list[str] = []
    for entry in first:
        order += reversed(before.get(entry, ()))
        order.append(entry)
    order += reversed(behind)

    # A shared file that the first program opens late, and the second before a module: up it goes. Files need nothing
    # themselves, so they may stand earlier than anybody asked; modules never move.
    place = {entry: index for index, entry in enumerate(order)}
    moved: dict[str, list[str]] = {}
    moving: set[str] = set()
    earliest = LAST
    for entry in reversed(second):
        if is_module(entry):
            earliest = min(earliest, place[entry])
        elif place[entry] > earliest:
            moved.setdefault(order[int(earliest)], []).append(entry)
            moving.add(entry)
    merged: list[str] = []
    for entry in order:
        merged += reversed(moved.get(entry, ()))
        if entry not in moving:
            merged.append(entry)
    return merged


def _present(order: Iterable[str]) -> set[str]:
    """Return everything that the entries show to be there: files, modules without a suffix, folders."""
    found: set[str] = set()
    for entry in order:
        path = entry.removeprefix("file:")
        found |= {path, path.removesuffix(".py"), entry_key(path)[0]}
        folder = path.rpartition("/")[0]
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return found
