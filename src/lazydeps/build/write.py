"""Write a pack: members in, one deterministic ``.tar.zst`` out.

Knows the format (``docs/reference/pack-format.md``) and nothing of requirements, traces or interpreters: the members
come in their final order.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Literal

from lazydeps import _pack
from lazydeps._config import Limits
from lazydeps.errors import ConfigError, LazydepsError

from .cache import key
from .compress import compress, library
from .epoch import EPOCH, source_date

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .cache import Cache

SetName = Literal["boot", "data", "cold"]

BOOT_GROWTH = ((4, 128 << 10), (4, 256 << 10), (4, 512 << 10), (4, 1 << 20))
"""How many boot frames of which unpacked size (bytes) come first: small ones, so that the first import starts soon."""
FRAME = 2 << 20
"""Unpacked size of every other frame, bytes. Big files are cut at this size, so that several workers share them.
ADR 0008 says what other sizes cost."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file of the pack."""

    path: str
    """Posix path relative to site-packages."""
    source: Path
    """Where its content is on this disk."""
    set: SetName


@dataclass(frozen=True, slots=True)
class Target:
    """The interpreter and system that a pack is for."""

    python: str
    """Minor version, ``3.13``."""
    arch: str
    """``x86_64``, ``arm64``, or ``any`` for a pack without machine code."""
    pyc_magic: str
    """`importlib.util.MAGIC_NUMBER` in hex."""
    os: str = "linux"
    libc: str = "glibc"
    libc_version: str = ""
    """The newest glibc that a library in the pack asks for; empty where none asks."""


@dataclass(slots=True)
class SetSize:
    """What one set holds."""

    files: int = 0
    packed: int = 0
    unpacked: int = 0


@dataclass(frozen=True, slots=True)
class Written:
    """A pack that has been written."""

    path: Path
    root: str
    """The pack's identity, ``sha256:HEX``."""
    size: int
    """Bytes."""
    boot_size: int
    """Bytes from the head of the file through the last boot frame."""
    unpacked_size: int
    files: int
    sets: dict[str, SetSize]


@dataclass(slots=True)
class _Table:
    """One section's index while its frames are being cut."""

    paths: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    executable: list[int] = field(default_factory=list)
    packed: list[int] = field(default_factory=list)
    unpacked: list[int] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    sets: list[SetName] = field(default_factory=list)
    """The set that each frame belongs to."""

    def as_json(self) -> dict[str, object]:
        return {
            "paths": self.paths,
            "offsets": self.offsets,
            "sizes": self.sizes,
            "executable": self.executable,
            "packed": self.packed,
            "unpacked": self.unpacked,
            "digests": "".join(self.digests),
        }


def write_pack(
    out: Path,
    members: Sequence[Member],
    *,
    target: Target,
    distributions: Mapping[str, str],
    absent: Sequence[str] = (),
    stdlib: Sequence[str] = (),
    level: int,
    jobs: int | None = None,
    epoch: int | None = None,
    cache: Cache | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Written:
    """Write a pack.

    The same arguments and the same file contents give the same bytes, whatever the folder, the time or ``jobs``.
    The pack appears under its name only when it is whole.

    Args:
        out: the file to write; replaced if it exists.
        members: the files in final order: boot, then data, then cold.
        target: whom the pack is for.
        distributions: name to version.
        absent: what the recorded import looked for in vain: files, and module paths without suffix.
        stdlib: modules of the standard library that the recorded import imported, in order.
        level: zstd level, 1 to 22.
        jobs: threads that compress. None: one a core.
        epoch: modification time of every member, seconds since 1970. None: ``SOURCE_DATE_EPOCH``, else `EPOCH`.
        cache: where compressed frames are looked for and kept.
        on_progress: called with (bytes done, bytes in all, the file that is being compressed).

    Raises:
        ConfigError: an argument is out of range, the same path stands there twice, or a file changes meanwhile.
        UnsafeArchiveError: a path that a reader would refuse.
    """
    limits = Limits()
    _check_members(members, limits)
    if not 1 <= level <= 22:
        raise ConfigError(f"level {level} is not a zstd level: choose 1 (fast) to 22 (small).")
    if epoch is None:
        epoch = source_date()
        epoch = EPOCH if epoch is None else epoch
    total = sum(member.source.stat().st_size for member in members)
    sets: dict[str, SetSize] = {name: SetSize() for name in _pack.SETS}
    out = out.absolute()
    part = out.with_name(f".{out.name}.{os.getpid()}.partial")
    # Frames are written behind the root, whose size is known only when they are done: they wait in a file without name.
    try:
        with open(part, "w+b") as frames:
            boot, rest = _Table(), _Table()
            done = 0

            def advance(count: int) -> None:
                nonlocal done
                done += count
                if on_progress is not None:
                    on_progress(min(done, total), total, (rest.paths or boot.paths)[-1])

            compressor = _Compressor(frames, level=level, jobs=jobs, cache=cache, on_done=advance)
            with compressor:
                stream = 0
                for table, names in ((boot, ("boot",)), (rest, ("data", "cold"))):
                    chosen = [member for member in members if member.set in names]
                    last = table is rest
                    for chunk, name in _cut(chosen, table, sets, epoch=epoch, base=stream, end=last):
                        compressor.add(chunk, table, name)
                        stream += len(chunk)
            for table in (boot, rest):
                for name, packed in zip(table.sets, table.packed, strict=True):
                    sets[name].packed += packed
            index = _json(rest.as_json())
            index_packed = compress(index, level)
            root = (
                _pack.ROOT_TAG
                + _pack.FORMAT_VERSION.to_bytes(4, "little")
                + _json(
                    {
                        "python": target.python,
                        "pyc_magic": target.pyc_magic,
                        "os": target.os,
                        "arch": target.arch,
                        "libc": target.libc,
                        "libc_version": target.libc_version,
                        "distributions": dict(sorted(distributions.items())),
                        "top_level": sorted(_top_level(members)),
                        "namespaces": sorted(_namespaces(members)),
                        "absent": sorted(set(absent)),
                        "metadata": sorted(_metadata(members)),
                        "stdlib": list(stdlib),
                        "sizes": {name: sets[name].unpacked for name in _pack.SETS},
                        "boot": boot.as_json(),
                        "index": {
                            "packed": len(index_packed),
                            "unpacked": len(index),
                            "digest": hashlib.sha256(index_packed).hexdigest(),
                            "frames": len(rest.packed),
                            "data_frames": sum(name == "data" for name in rest.sets),
                        },
                    }
                )
            )
            if len(root) > limits.root:
                raise ConfigError(
                    f"the boot set has {len(boot.paths)} files and its root {len(root)} bytes; the limit is "
                    f"{limits.root}. Trace fewer imports."
                )
            boot_packed = sum(boot.packed)
            final = part.with_name(part.name + ".joined")
            try:
                with open(final, "wb") as pack:
                    pack.write(_skippable(root))
                    _copy(frames, pack, 0, boot_packed)
                    boot_size = pack.tell()
                    pack.write(_skippable(index_packed))
                    _copy(frames, pack, boot_packed, None)
                    size = pack.tell()
                os.replace(final, out)
            finally:
                final.unlink(missing_ok=True)
    finally:
        part.unlink(missing_ok=True)
    return Written(
        path=out,
        root=f"sha256:{hashlib.sha256(root).hexdigest()}",
        size=size,
        boot_size=boot_size,
        unpacked_size=sum(entry.unpacked for entry in sets.values()),
        files=len(members),
        sets=sets,
    )


def _check_members(members: Sequence[Member], limits: Limits) -> None:
    seen: dict[str, str] = {}
    order = [_pack.SETS.index(member.set) for member in members]
    if order != sorted(order):
        raise LazydepsError("members must come in the order boot, data, cold.")
    for member in members:
        _pack.check_path(member.path, limits)
        if member.path in seen:
            raise ConfigError(f"{member.path} stands in the pack twice.")
        seen[member.path] = member.set
    for path in seen:
        for parent in PurePosixPath(path).parents:
            if str(parent) in seen:
                raise ConfigError(f"{parent} is a file and also the folder of {path}.")


def _cut(
    members: Sequence[Member], table: _Table, sets: dict[str, SetSize], *, epoch: int, base: int, end: bool
) -> Iterator[tuple[bytes, SetName]]:
    """Yield the tar stream of these members in pieces of one frame each, filling in the table's files.

    A header and the first byte of its content share a frame; a frame holds one set only.
    """
    targets = _frame_sizes(boot=bool(members) and members[0].set == "boot")
    limit = next(targets)
    frame = bytearray()
    name: SetName = members[-1].set if members else "cold"
    for number, member in enumerate(members):
        with open(member.source, "rb") as content:
            facts = os.fstat(content.fileno())
            left = size = facts.st_size
            executable = bool(facts.st_mode & 0o100)
            info = tarfile.TarInfo(member.path)
            info.size = size
            info.mtime = epoch
            info.mode = 0o755 if executable else 0o644
            header = info.tobuf(tarfile.PAX_FORMAT)
            if frame and (member.set != name or len(frame) + len(header) + min(size, limit // 2) > limit):
                yield bytes(frame), name
                base += len(frame)
                frame.clear()
                limit = next(targets)
            name = member.set
            frame += header
            table.paths.append(member.path)
            table.offsets.append(base + len(frame))
            table.sizes.append(size)
            if executable:
                table.executable.append(number)
            sets[name].files += 1
            sets[name].unpacked += size
            while left:
                # A frame's worth at a time: some libraries are larger than the memory there is.
                piece = content.read(min(left, max(1, limit - len(frame))))
                if not piece:
                    raise ConfigError(f"{member.path} became shorter while it was packed. Pack again when it is done.")
                frame += piece
                left -= len(piece)
                if left and len(frame) >= limit:
                    yield bytes(frame), name
                    base += len(frame)
                    frame.clear()
                    limit = next(targets)
        frame += bytes(-info.size % tarfile.BLOCKSIZE)
    if end:
        frame += bytes(2 * tarfile.BLOCKSIZE)  # POSIX: two zero blocks end an archive
    if frame:
        yield bytes(frame), name


def _frame_sizes(*, boot: bool) -> Iterator[int]:
    if boot:
        for count, size in BOOT_GROWTH:
            for _ in range(count):
                yield size
    while True:
        yield FRAME


class _Compressor:
    """Compresses frames on all cores and writes them in order; keeps few of them in memory."""

    def __init__(
        self, out: IO[bytes], *, level: int, jobs: int | None, cache: Cache | None, on_done: Callable[[int], None]
    ) -> None:
        self._out = out
        self._level = level
        self._cache = cache
        self._jobs = jobs or os.cpu_count() or 1
        self._on_done = on_done
        self._pool = ThreadPoolExecutor(self._jobs)
        self._waiting: list[tuple[Future[bytes], _Table, int, SetName]] = []

    def __enter__(self) -> _Compressor:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._drain(0)
        self._pool.shutdown(cancel_futures=True)

    def add(self, chunk: bytes, table: _Table, name: SetName) -> None:
        self._waiting.append((self._pool.submit(self._compress, chunk), table, len(chunk), name))
        self._drain(4 * self._jobs)

    def _drain(self, keep: int) -> None:
        while len(self._waiting) > keep:
            future, table, unpacked, name = self._waiting.pop(0)
            packed = future.result()
            self._out.write(packed)
            table.packed.append(len(packed))
            table.unpacked.append(unpacked)
            table.digests.append(hashlib.sha256(packed).hexdigest())
            table.sets.append(name)
            self._on_done(unpacked)

    def _compress(self, chunk: bytes) -> bytes:
        if self._cache is None:
            return compress(chunk, self._level)
        name = key("frame 1", library(), str(self._level), chunk)
        packed = self._cache.get("frames", name)
        if packed is None:
            packed = compress(chunk, self._level)
            self._cache.put("frames", name, packed)
        return packed


def _top_level(members: Sequence[Member]) -> set[str]:
    """Return the names that ``import NAME`` can find: modules, packages, and folders that hold modules."""
    names = set()
    for member in members:
        head, _, tail = member.path.partition("/")
        name = head if tail else head.partition(".")[0]
        if name.isidentifier() and _is_module(member.path):
            names.add(name)
    return names - {"__pycache__"}


def _namespaces(members: Sequence[Member]) -> set[str]:
    """Return the folders that hold modules, at whatever depth, and have no ``__init__`` of any kind."""
    folders: set[str] = set()
    packages: set[str] = set()
    for member in members:
        path = PurePosixPath(member.path)
        if not _is_module(member.path) or path.parent.name == "__pycache__":
            continue
        if path.name.partition(".")[0] == "__init__":
            packages.add(str(path.parent))
        folders.update(str(parent) for parent in path.parents)
    return {
        folder
        for folder in folders - packages - {"."}
        if all(part.isidentifier() for part in folder.split("/")) and "__pycache__" not in folder
    }


def _metadata(members: Sequence[Member]) -> set[str]:
    """Return the folders that describe distributions."""
    heads = {member.path.partition("/")[0] for member in members if "/" in member.path}
    return {head for head in heads if head.endswith((".dist-info", ".egg-info"))}


def _is_module(path: str) -> bool:
    return path.endswith((".py", ".pyc", ".so"))


def _json(table: Mapping[str, object]) -> bytes:
    """Spell a table in the one way the format allows: sorted keys, no spaces, UTF-8."""
    return json.dumps(table, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _skippable(content: bytes) -> bytes:
    return _pack.SKIPPABLE_MAGIC + len(content).to_bytes(4, "little") + content


def _copy(source: IO[bytes], out: IO[bytes], start: int, size: int | None) -> None:
    source.seek(start)
    left = size
    while left is None or left:
        block = source.read(1 << 20 if left is None else min(left, 1 << 20))
        if not block:
            break
        out.write(block)
        left = None if left is None else left - len(block)
