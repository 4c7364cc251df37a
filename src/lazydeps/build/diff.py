"""What two packs have in common and what not: distributions, sizes, files.

A file of the same path and size is the same where the frames that hold it have the same digests; where they have not,
both are read and their content is compared. So equal packs are told from their indexes, and of unlike ones only frames
in doubt are fetched.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lazydeps import _fetch, _pack
from lazydeps._ref import Ref
from lazydeps.build import lockfile
from lazydeps.build.read import as_ref, read_span
from lazydeps.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from lazydeps._pack import Section
    from lazydeps.build.read import OpenPack

SPAN = 8 << 20
"""Bytes of one request."""
LARGEST = 10
"""How many files a summary names."""


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file that is not the same in both; 0 bytes where it is not there."""

    path: str
    before: int
    after: int
    kind: str
    """``added``, ``removed`` or ``changed``."""


@dataclass(frozen=True, slots=True)
class Diff:
    """What has changed from one pack to another."""

    before: str
    after: str
    """References, as messages may show them."""
    targets: tuple[str, str]
    added: dict[str, str]
    """Distributions that are new, and their versions."""
    removed: dict[str, str]
    changed: dict[str, tuple[str, str]]
    sizes: dict[str, dict[str, tuple[int, int]]]
    """``boot``, ``data``, ``cold`` and ``total``; of each files, packed and unpacked bytes, before and after."""
    files: tuple[FileChange, ...]
    """By path."""

    @property
    def equal(self) -> bool:
        """Whether the packs hold the same."""
        return not (self.added or self.removed or self.changed or self.files) and self.targets[0] == self.targets[1]

    def count(self, kind: str) -> int:
        """Return how many files were ``added``, ``removed`` or ``changed``."""
        return sum(change.kind == kind for change in self.files)

    def largest(self) -> list[FileChange]:
        """Return the changes of files that weigh most."""
        return sorted(self.files, key=lambda change: (-max(change.before, change.after), change.path))[:LARGEST]

    def as_dict(self, *, files: bool) -> dict[str, Any]:
        """Return it for ``--json``; with ``files`` every file that is not the same, else those that weigh most."""
        listed = self.files if files else self.largest()
        return {
            "before": self.before,
            "after": self.after,
            "targets": list(self.targets),
            "equal": self.equal,
            "distributions": {
                "added": self.added,
                "removed": self.removed,
                "changed": {name: list(pair) for name, pair in self.changed.items()},
            },
            "sizes": self.sizes,
            "files": {kind: self.count(kind) for kind in ("added", "removed", "changed")},
            "contents" if files else "largest": [asdict(change) for change in listed],
        }


def find(word: str, lock: Path) -> Ref:
    """Return the reference that a person's word means: a path, a reference, or ``NAME@TARGET`` of a lock file.

    ``NAME`` alone will do where the lock has it for one target. A file of that name comes first.

    Raises:
        ConfigError: it means nothing.
    """
    from pathlib import Path

    name, _, target = word.partition("@")
    if "://" in word or "/" in word or Path(word.partition("#")[0]).is_file() or not lock.exists():
        return as_ref(word)
    known = lockfile.read(lock)
    targets = lockfile.choose(known, name) if not target else (target,)
    if len(targets) > 1:
        raise ConfigError(f"{lock} has {name!r} for {', '.join(targets)}: say which, {name}@{targets[0]}.")
    return Ref.parse(known.entry(name, targets[0]).ref)


def compare(before: OpenPack, after: OpenPack, *, on_progress: Callable[[int, int], None] | None = None) -> Diff:
    """Compare two open packs.

    Raises:
        FetchError, IntegrityError: content in doubt cannot be read.
    """
    old, new = before.root.distributions, after.root.distributions
    return Diff(
        before=before.ref.shown,
        after=after.ref.shown,
        targets=(_target(before), _target(after)),
        added={name: new[name] for name in sorted(new.keys() - old.keys())},
        removed={name: old[name] for name in sorted(old.keys() - new.keys())},
        changed={name: (old[name], new[name]) for name in sorted(old.keys() & new.keys()) if old[name] != new[name]},
        sizes=_sizes(before, after),
        files=tuple(_files(before, after, on_progress)),
    )


def _target(pack: OpenPack) -> str:
    return lockfile.target_key(pack.root.python, pack.root.arch)


def _sizes(before: OpenPack, after: OpenPack) -> dict[str, dict[str, tuple[int, int]]]:
    both = before.set_sizes(), after.set_sizes()
    found = {
        name: {kind: (getattr(both[0][name], kind), getattr(both[1][name], kind)) for kind in _KINDS}
        for name in _pack.SETS
    }
    found["total"] = {
        kind: (sum(one[kind][0] for one in found.values()), sum(one[kind][1] for one in found.values()))
        for kind in _KINDS
    }
    return found


_KINDS = ("files", "packed", "unpacked")


def _files(before: OpenPack, after: OpenPack, on_progress: Callable[[int, int], None] | None) -> Iterable[FileChange]:
    old, new = _places(before), _places(after)
    changes = [FileChange(path, _size(old[path]), 0, "removed") for path in old.keys() - new.keys()]
    changes += [FileChange(path, 0, _size(new[path]), "added") for path in new.keys() - old.keys()]
    doubtful = []
    for path in old.keys() & new.keys():
        if _size(old[path]) != _size(new[path]):
            changes.append(FileChange(path, _size(old[path]), _size(new[path]), "changed"))
        elif _pieces(*old[path]) != _pieces(*new[path]):
            doubtful.append(path)
    if doubtful:
        digests = [
            _digests(pack, [places[path] for path in doubtful], on_progress)
            for pack, places in ((before, old), (after, new))
        ]
        for path in doubtful:
            if digests[0][path] != digests[1][path]:
                changes.append(FileChange(path, _size(old[path]), _size(new[path]), "changed"))
    return sorted(changes, key=lambda change: change.path)


_Place = tuple["Section", int]


def _places(pack: OpenPack) -> dict[str, _Place]:
    return {path: (section, file) for section in pack.sections for file, path in enumerate(section.paths)}


def _size(place: _Place) -> int:
    section, file = place
    return section.sizes[file]


def _pieces(section: Section, file: int) -> list[tuple[bytes, int]]:
    """Return where a file's bytes are: the digests of its frames, and where in the first of them it begins."""
    frames = [section.frame(number) for number in section.frames_of(file)]
    return [(frame.digest, section.offsets[file] - frame.base) for frame in frames]


def _digests(
    pack: OpenPack, places: Iterable[_Place], on_progress: Callable[[int, int], None] | None
) -> dict[str, bytes]:
    """Return the SHA-256 of files, by path; only the frames that hold them are read."""
    wanted: dict[int, Section] = {}
    states = {}
    for section, file in places:
        states[section.paths[file]] = hashlib.sha256()
        wanted.update(dict.fromkeys(section.frames_of(file), section))
    decompress, numbers, at = _fetch.new_decompressor(), sorted(wanted), 0
    while at < len(numbers):
        section, stop = wanted[numbers[at]], at + 1
        first = section.frame(numbers[at])
        end = first.start + first.packed
        while stop < len(numbers) and wanted[numbers[stop]] is section:
            frame = section.frame(numbers[stop])
            if frame.start != end or end - first.start > SPAN:
                break
            end, stop = frame.start + frame.packed, stop + 1
        block = memoryview(read_span(pack.connection, first.start, end, pack.etag))
        for number in numbers[at:stop]:
            frame = section.frame(number)
            packed = block[frame.start - first.start :][: frame.packed]
            frame.check(packed)
            content = _fetch.unpack(decompress, packed, frame)
            for file, begin, finish in _pack.runs(section, number):
                if section.paths[file] in states:
                    states[section.paths[file]].update(content[begin - frame.base : finish - frame.base])
        at = stop
        if on_progress is not None:
            on_progress(at, len(numbers))
    return {path: state.digest() for path, state in states.items()}
