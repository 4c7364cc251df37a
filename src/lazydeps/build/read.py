"""Read packs where they lie: inspect, verify and extract a file or a reference, without loading anything from it."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from lazydeps import _fetch, _pack
from lazydeps._config import Limits
from lazydeps._digest import format_digest
from lazydeps._pack import Root, Section
from lazydeps._ref import Ref
from lazydeps._sources import Body, Connection, open_source
from lazydeps.build.write import SetSize
from lazydeps.errors import ConfigError, PackFormatError

OnProgress = Callable[[int, int], None]
CHUNK = 8 << 20
"""Bytes of one request."""
SOCKET_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class OpenPack:
    """A pack whose root and index have been read and checked."""

    ref: Ref
    """Pinned, with the root that was found where the caller gave no pin."""
    root: Root
    rest: Section
    size: int
    """Bytes of the whole pack."""
    connection: Connection
    etag: str | None
    limits: Limits

    @property
    def sections(self) -> tuple[Section, Section]:
        """The boot section, and that of the data and cold frames."""
        return self.root.boot, self.rest

    def set_of(self, frame: int) -> str:
        """Return which set a frame holds."""
        return "boot" if frame < len(self.root.boot) else "data" if frame < self.root.data_stop else "cold"

    def set_sizes(self) -> dict[str, SetSize]:
        """Return files and bytes of each set."""
        sizes = {name: SetSize() for name in _pack.SETS}
        for section in self.sections:
            for number in range(section.first, section.first + len(section)):
                sizes[self.set_of(number)].packed += section.packed[number - section.first]
            for file in range(len(section.paths)):
                entry = sizes[self.set_of(section.frames_of(file)[0])]
                entry.files += 1
                entry.unpacked += section.sizes[file]
        return sizes

    def frames(self, on_progress: OnProgress | None = None) -> Iterator[tuple[Section, int, bytes]]:
        """Yield every frame's section, number and content, checked, in stream order."""
        decompress = _fetch.new_decompressor()
        for section, number, packed in self.packed_frames(on_progress):
            yield section, number, _fetch.unpack(decompress, packed, section.frame(number))

    def packed_frames(self, on_progress: OnProgress | None = None) -> Iterator[tuple[Section, int, memoryview]]:
        """Yield every frame's section, number and compressed bytes, checked against its digest, in stream order."""
        done = 0
        for section in self.sections:
            number, stop = section.first, section.first + len(section)
            while number < stop:
                last = number + 1
                begin = section.starts[number - section.first]
                while last < stop and section.starts[last + 1 - section.first] - begin <= CHUNK:
                    last += 1
                body = self.connection.get(begin, section.starts[last - section.first], etag=self.etag)
                while number < last:
                    frame = section.frame(number)
                    packed = memoryview(bytearray(frame.packed))
                    _fetch.read_exactly(body, packed)
                    frame.check(packed)
                    yield section, number, packed
                    done += frame.packed
                    if on_progress is not None:
                        on_progress(done, self.size)
                    number += 1
                body.close()


def as_ref(text: str) -> Ref:
    """Return the reference that a person's argument names: a reference, or a path on this disk."""
    if "://" in text:
        return Ref.parse(text)
    path, _, pin = text.partition("#")
    file = Path(path)
    if not file.is_file():
        raise ConfigError(
            f"there is no pack at {path}: expected a file, or a reference such as s3://BUCKET/KEY#root=…."
        )
    return Ref.parse(file.resolve().as_uri() + (f"#{pin}" if pin else ""))


@contextmanager
def open_pack(ref: Ref, *, environ: Mapping[str, str] = os.environ) -> Iterator[OpenPack]:
    """Open a pack for reading.

    Args:
        ref: where it is. Without a pin the root that is found is taken as it is.
        environ: AWS settings and credentials.

    Raises:
        FetchError, IntegrityError, PackFormatError: it cannot be read, or is not what it should be.
    """
    limits = Limits()
    connection = open_source(ref.url, environ).connect(timeout=SOCKET_TIMEOUT)
    try:
        head = _fetch.fetch_head(connection, ref.root, limits)
        etag, size = head.body.etag, head.body.total
        head.body.close()
        root = Root(head.content, limits=limits)
        root.boot.validate(limits)
        begin, end = root.index_span
        header = read_span(connection, begin - _pack.SKIPPABLE_HEADER, begin, etag)
        if header[:4] != _pack.SKIPPABLE_MAGIC or int.from_bytes(header[4:], "little") != end - begin:
            raise PackFormatError("the pack is damaged: no index stands behind its boot frames. Build it again.")
        packed = read_span(connection, begin, end, etag)
        text = _fetch.unpack_index(root, memoryview(packed), _fetch.new_decompressor())
        rest = root.read_index(text)
        rest.validate(limits)
        if rest.starts[-1] != size:
            raise PackFormatError(
                f"the pack has {size} bytes and its index accounts for {rest.starts[-1]}. Push it again."
            )
        yield OpenPack(Ref(ref.url, root.digest), root, rest, size, connection, etag, limits)
    finally:
        connection.close()


def read_span(connection: Connection, start: int, stop: int, etag: str | None) -> bytearray:
    """Fetch bytes ``[start, stop)``."""
    data = bytearray(stop - start)
    body: Body = connection.get(start, stop, etag=etag)
    _fetch.read_exactly(body, memoryview(data))
    body.close()
    return data


def describe(pack: OpenPack, *, files: bool = False) -> dict[str, Any]:
    """Return what `lazydeps inspect` prints."""
    root = pack.root
    report: dict[str, Any] = {
        "ref": pack.ref.shown,
        "root": format_digest(root.digest),
        "format": _pack.FORMAT_VERSION,
        "python": root.python,
        "arch": root.arch,
        "os": root.os,
        "libc": root.libc,
        "libc_version": root.libc_version,
        "size": pack.size,
        "boot_size": root.boot.starts[-1],
        "unpacked_size": sum(root.unpacked(name) for name in _pack.SETS),
        "files": sum(len(section.paths) for section in pack.sections),
        "frames": {
            "boot": len(root.boot),
            "data": root.data_stop - len(root.boot),
            "cold": root.frames - root.data_stop,
        },
        "sets": {
            name: {"files": entry.files, "packed": entry.packed, "unpacked": entry.unpacked}
            for name, entry in pack.set_sizes().items()
        },
        "distributions": root.distributions,
        "top_level": sorted(root.top_level),
    }
    if files:
        report["contents"] = [
            {"path": path, "size": section.sizes[file], "set": pack.set_of(section.frames_of(file)[0])}
            for section in pack.sections
            for file, path in enumerate(section.paths)
        ]
    return report


def verify(pack: OpenPack, *, on_progress: OnProgress | None = None) -> int:
    """Check every frame against its digest, and the tar stream against the index. Return the number of frames.

    Raises:
        IntegrityError: a frame is not what the root promises.
        PackFormatError: the tar stream and the index tell different stories.
    """
    expected = [
        (path, section.offsets[file], section.sizes[file])
        for section in pack.sections
        for file, path in enumerate(section.paths)
    ]
    stream = _FrameStream(pack, on_progress)
    found = []
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|", bufsize=1 << 20) as archive:
            for info in archive:
                if not info.isreg():
                    raise PackFormatError(f"the pack's tar stream holds {info.name!r}, which is no regular file.")
                found.append((info.name, info.offset_data, info.size))
    except tarfile.TarError as error:
        raise PackFormatError(f"the pack's tar stream is damaged: {error}. Build it again.") from error
    stream.drain()
    if found != expected:
        path = next((a or b for a, b in zip(found, expected, strict=False) if a != b), ("the number of files",))[0]
        raise PackFormatError(f"the pack's index and its tar stream differ at {path!r}. Build it again.")
    return len(pack.root.boot) + len(pack.rest)


def extract(pack: OpenPack, folder: Path, *, on_progress: OnProgress | None = None) -> int:
    """Write every file of a pack into a new or empty folder. Return the number of files.

    The folder appears under its name when it is whole.

    Raises:
        ConfigError: the folder holds something already.
    """
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not an empty folder. Name a new one.")
    part = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        part.mkdir(parents=True)
        for section, number, content in pack.frames(on_progress):
            base = section.bases[number - section.first]
            for file, begin, end in _pack.runs(section, number):
                path = part / section.paths[file]
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(path, "ab") as out:
                    out.write(content[begin - base : end - base])
                    if file in section.executable:
                        os.fchmod(out.fileno(), 0o755)
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return sum(len(section.paths) for section in pack.sections)


class _FrameStream:
    """The tar stream of a pack as a file to read from, each frame checked on the way."""

    def __init__(self, pack: OpenPack, on_progress: OnProgress | None) -> None:
        self._frames = pack.frames(on_progress)
        self._rest = b""

    def read(self, size: int) -> bytes:
        while len(self._rest) < size:
            frame = next(self._frames, None)
            if frame is None:
                break
            self._rest += frame[2]
        block, self._rest = self._rest[:size], self._rest[size:]
        return block

    def drain(self) -> None:
        """Check the frames behind the archive's end mark too."""
        for _ in self._frames:
            pass
