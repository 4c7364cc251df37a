"""What there is to say about traces: what one holds, by package or distribution, and how two differ."""

from __future__ import annotations

import csv
import io
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from lazydeps import _fetch, _pack

from .collect import read_traces
from .merge import merge
from .read import read_span
from .trace import FILE_PREFIX, entry_key, is_module

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .read import OpenPack
    from .trace import Trace


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes of a file."""

    packed: int
    """Its share of the frames that hold it, rounded."""
    unpacked: int


@dataclass(slots=True)
class Group:
    """Entries that belong together."""

    name: str
    entries: int = 0
    packed: int = 0
    unpacked: int = 0
    first: int = 0
    """Place of its first entry in the trace, from 1."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How one trace differs from another. Extension modules of two architectures count as the same entry."""

    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    moved: tuple[str, ...]
    """The fewest entries of both that one would have to move to get from one order to the other."""
    same: int
    absent_first: tuple[str, ...]
    """Looked for in vain by the first only."""
    absent_second: tuple[str, ...]


def read_merged(path: Path) -> Trace:
    """Return what a file holds as one trace: a document, or all those of a log, merged.

    Raises:
        ConfigError: it holds none.
    """
    return merge(read_traces(path))


def kinds(trace: Trace) -> dict[str, int]:
    """Return how many entries of each kind a trace has."""
    counts = {"modules": 0, "extensions": 0, "files": 0}
    for entry in trace.order:
        counts["files" if not is_module(entry) else "modules" if entry.endswith(".py") else "extensions"] += 1
    return counts


def by_package(trace: Trace, sizes: Mapping[str, Size], *, depth: int = 1) -> list[Group]:
    """Group entries by their first folders, the largest first.

    Args:
        trace: the trace.
        sizes: of entries, where a pack is at hand.
        depth: how many levels of folders a name has at most.
    """

    def name(path: str) -> str:
        parts = path.split("/")
        return "/".join(parts[: min(depth, len(parts) - 1)]) or entry_key(parts[0])[0].removesuffix(".py")

    return _grouped(trace, sizes, [name(entry.removeprefix(FILE_PREFIX)) for entry in trace.order])


def by_distribution(trace: Trace, sizes: Mapping[str, Size], owners: Mapping[str, str]) -> list[Group]:
    """Group entries by distribution, the largest first; what none owns stands under "(none)".

    Args:
        trace: the trace.
        sizes: of entries.
        owners: distribution of each file (`owners_of`).
    """
    return _grouped(trace, sizes, [owners.get(entry.removeprefix(FILE_PREFIX), "(none)") for entry in trace.order])


def _grouped(trace: Trace, sizes: Mapping[str, Size], names: Sequence[str]) -> list[Group]:
    groups: dict[str, Group] = {}
    for place, (entry, name) in enumerate(zip(trace.order, names, strict=True), 1):
        group = groups.setdefault(name, Group(name, first=place))
        size = sizes.get(entry, Size(0, 0))
        group.entries += 1
        group.packed += size.packed
        group.unpacked += size.unpacked
    return sorted(groups.values(), key=lambda group: (-group.packed, -group.entries, group.name))


def sizes_in(pack: OpenPack) -> dict[str, Size]:
    """Return the sizes of a pack's files by the entry that a trace would have; a module's is that of its bytecode."""
    sizes: dict[str, Size] = {}
    for section in pack.sections:
        for file, path in enumerate(section.paths):
            frames = [section.frame(number) for number in section.frames_of(file)]
            begin, end = section.offsets[file], section.offsets[file] + section.sizes[file]
            packed = sum(
                frame.packed * (min(end, frame.base + frame.unpacked) - max(begin, frame.base)) / frame.unpacked
                for frame in frames
                if end > begin
            )
            size = Size(round(packed), section.sizes[file])
            folder, _, name = path.rpartition("/")
            if name.endswith(".pyc") and folder.rpartition("/")[2] == "__pycache__":
                sizes[folder.removesuffix("__pycache__") + name.split(".")[0] + ".py"] = size
            elif path.endswith(".py"):
                sizes.setdefault(path, size)
                sizes[FILE_PREFIX + path] = size
            else:
                sizes[path] = size
    return sizes


def owners_of(pack: OpenPack) -> dict[str, str]:
    """Return the distribution of each file, from the packed RECORD files; only their frames are fetched."""
    owners: dict[str, str] = {}
    decompress = _fetch.new_decompressor()
    contents: dict[int, bytes] = {}
    for section in pack.sections:
        for file, path in enumerate(section.paths):
            folder, _, name = path.rpartition("/")
            if name != "RECORD" or not folder.endswith(".dist-info"):
                continue
            text = b""
            for number in section.frames_of(file):
                if number not in contents:
                    frame = section.frame(number)
                    packed = memoryview(read_span(pack.connection, frame.start, frame.start + frame.packed, pack.etag))
                    frame.check(packed)
                    contents[number] = _fetch.unpack(decompress, packed, frame)
            for number in section.frames_of(file):
                base = section.bases[number - section.first]
                for one, begin, end in _pack.runs(section, number):
                    if one == file:
                        text += contents[number][begin - base : end - base]
            distribution = canonicalize_name(folder.removesuffix(".dist-info").rpartition("-")[0])
            for row in csv.reader(io.StringIO(text.decode("utf-8", "replace"))):
                if row:
                    owners[row[0]] = distribution
    return owners


def compare(first: Trace, second: Trace) -> Difference:
    """Say how two traces differ."""
    one = {entry_key(entry): entry for entry in first.order}
    two = {entry_key(entry): entry for entry in second.order}
    places = {key: place for place, key in enumerate(two)}
    shared = [key for key in one if key in two]
    kept = _longest_rising([places[key] for key in shared])
    return Difference(
        only_first=tuple(entry for key, entry in one.items() if key not in two),
        only_second=tuple(entry for key, entry in two.items() if key not in one),
        moved=tuple(one[key] for key in shared if places[key] not in kept),
        same=len(kept),
        absent_first=tuple(sorted(set(first.absent) - set(second.absent))),
        absent_second=tuple(sorted(set(second.absent) - set(first.absent))),
    )


def _longest_rising(values: Sequence[int]) -> set[int]:
    """Return the values of a longest rising subsequence; all values differ."""
    tails: list[int] = []
    before: dict[int, int | None] = {}
    for value in values:
        at = bisect_left(tails, value)
        before[value] = tails[at - 1] if at else None
        tails[at : at + 1] = [value]
    kept: set[int] = set()
    last = tails[-1] if tails else None
    while last is not None:
        kept.add(last)
        last = before[last]
    return kept
