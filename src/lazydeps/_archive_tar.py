"""Tar files, plain or compressed with gzip or zstd.

`tarfile` takes each header apart; the loop over headers, extended ones included, is our own, because `tarfile` takes a
damaged header for the end and lets later records override earlier ones.
"""

from __future__ import annotations

from ._archive import CHUNK, Archive, Member, Names, damaged, unsafe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, BinaryIO

    from ._archive import Chunks
    from ._config import Limits

PACKED_CHUNK = 4096
"""Bytes of zstd input at a time where output cannot be bounded: at most 128 MiB come of them, for a moment."""
BLOCK = 512
"""Bytes of a tar block (POSIX.1-2001, pax)."""
EXTENDED = 64 * 1024
"""Bytes that a tar's extended header, or long name, may have."""
IN_A_ROW = 4
"""Extended headers that one member may have: a global one, its own, a long name, a long target."""
PADDING = 1 << 20
"""Bytes of zeros that may follow the end of a tar."""


class TarArchive(Archive):
    """A tar file, perhaps compressed. All of it is read once for the checks, and once more for the content."""

    def __init__(self, file: BinaryIO, suffix: str, limits: Limits) -> None:
        self._file = file
        self._limits = limits
        self._unpacked: Callable[[BinaryIO], Chunks] = {".tar": _plain, ".tar.zst": _unzstd}.get(suffix, _gunzip)
        self.members = []
        for member, chunks in self._walk():
            self.members.append(member)
            for _ in chunks:
                pass
        if not self.members:
            raise damaged("holds no files")

    def contents(self) -> Iterator[tuple[Member, Chunks]]:
        for member, chunks in self._walk():
            if member.link is None:
                yield member, chunks

    def _walk(self) -> Iterator[tuple[Member, Chunks]]:
        import tarfile

        self._file.seek(0)
        stream = _Stream(self._unpacked(self._file))
        names = Names(self._limits)
        extended: dict[str, bytes] = {}
        in_a_row = 0
        while (block := stream.exactly(BLOCK)) != bytes(BLOCK):
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            kind, raw, size = header.type, header.name, header.size
            if kind in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
                in_a_row += 1
                if not 0 <= size <= EXTENDED or in_a_row > IN_A_ROW:
                    raise unsafe(raw, f"is an extended header of {size} bytes, number {in_a_row} in a row")
                names.charge(raw, size)
                content = stream.exactly(size)
                stream.exactly(-size % BLOCK)
                _extend(extended, kind.decode(), content, raw)
                continue
            raw = extended.get("path", raw.encode(errors="surrogateescape")).decode(errors="surrogateescape")
            link = header.linkname.encode(errors="surrogateescape")
            link_text = extended.get("linkpath", link).decode(errors="surrogateescape")
            if "size" in extended:
                wide = int(extended["size"]) if extended["size"].isdigit() else -1
                # A size that the header can hold has to be the same in both: readers differ in which one they believe.
                if wide != size and wide < 8**11:
                    raise unsafe(raw, f"has two sizes, {size} and {wide}")
                size = wide
            extended, in_a_row = {}, 0
            folder = kind == tarfile.DIRTYPE
            if kind not in (*tarfile.REGULAR_TYPES, tarfile.DIRTYPE, tarfile.SYMTYPE) or kind == tarfile.GNUTYPE_SPARSE:
                found = {b"1": "a hard link", b"S": "a sparse file"}.get(kind, f"of type {kind!r}")
                raise unsafe(raw, f"is neither file, folder nor symbolic link: it is {found}")
            if size and kind in (tarfile.DIRTYPE, tarfile.SYMTYPE):
                raise unsafe(raw, "is a folder or a link with content")
            path = names.add(raw, size=size, folder=folder)
            if not folder:
                is_link = kind == tarfile.SYMTYPE
                executable = bool(header.mode & 0o111) and not is_link
                chunks = stream.chunks(size)
                target = link_text if is_link else None
                yield Member(path, raw, size, executable, target, int(header.mtime)), chunks
                for _ in chunks:
                    pass  # what the caller did not want
            stream.exactly(-size % BLOCK)
        if extended:
            raise damaged("ends with an extended header and no member")
        if stream.exactly(BLOCK) != bytes(BLOCK):
            raise damaged("goes on behind its end")
        stream.end()


def _extend(extended: dict[str, bytes], kind: str, content: bytes, raw: str) -> None:
    """Note what an extended header says about the next member. Each thing may be said once."""
    if kind in "LK":
        records = {"path" if kind == "L" else "linkpath": content.rstrip(b"\0")}
    else:
        records = _pax_records(content, raw)
        if kind == "g" and not records.keys().isdisjoint(("path", "linkpath", "size")):
            raise unsafe(raw, "gives every member one name or size")
        if any(key.startswith("GNU.sparse") for key in records):
            raise unsafe(records.get("path", raw.encode()).decode(errors="replace"), "is a sparse file")
    for key in ("path", "linkpath", "size"):
        if key in records:
            if key in extended:
                raise unsafe(raw, f"says a member's {key} for the second time")
            extended[key] = records[key]


def _pax_records(content: bytes, raw: str) -> dict[str, bytes]:
    records: dict[str, bytes] = {}
    while content:
        length = content.partition(b" ")[0]
        stop = int(length) if length.isdigit() and len(length) < 6 else 0
        record = content[len(length) + 1 : stop]
        key, equals, value = record[:-1].partition(b"=")
        name = key.decode(errors="replace")
        if stop > len(content) or record[-1:] != b"\n" or not equals or name in records:
            raise unsafe(raw, "is an extended header that cannot be read")
        records[name] = value
        content = content[stop:]
    return records


class _Stream:
    """Chunks of any length, read by exact counts."""

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks
        self._left = memoryview(b"")

    def _more(self) -> bool:
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._left = memoryview(chunk)
        return True

    def chunks(self, size: int) -> Chunks:
        """Yield the next ``size`` bytes."""
        while size:
            if not self._more():
                raise damaged("is cut off")
            chunk, self._left = self._left[:size], self._left[size:]
            size -= len(chunk)
            yield bytes(chunk)

    def exactly(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        return b"".join(self.chunks(size))

    def end(self) -> None:
        """Make sure that nothing follows but zeros, and few of them."""
        zeros = 0
        while self._more():
            zeros += len(self._left)
            if zeros > PADDING or any(self._left):
                raise damaged("goes on behind its end")
            self._left = memoryview(b"")


def _plain(file: BinaryIO) -> Chunks:
    while chunk := file.read(CHUNK):
        yield chunk


def _gunzip(file: BinaryIO) -> Chunks:
    from zlib import decompressobj

    return _members(file, lambda: decompressobj(31), CHUNK)


def _unzstd(file: BinaryIO) -> Chunks:
    try:
        from compression.zstd import ZstdDecompressor  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        from zstandard import ZstdDecompressor as Decompressor

        return _members(file, Decompressor().decompressobj, PACKED_CHUNK)
    return _members(file, ZstdDecompressor, CHUNK)


def _members(file: BinaryIO, new_state: Callable[[], Any], step: int) -> Chunks:
    """Decompress gzip members or zstd frames one after another, each to its own end."""
    data = file.read(step)
    if not data:
        raise damaged("is empty")
    while data:
        state = new_state()
        bounded = step == CHUNK
        while not state.eof:
            out = state.decompress(data, CHUNK) if bounded else state.decompress(data)
            if out:
                yield out
            # zlib hands back what it has not read; zstd keeps it, and says when it wants more.
            data = getattr(state, "unconsumed_tail", b"") if bounded else b""
            if not data and not state.eof and getattr(state, "needs_input", True):
                data = file.read(step)
                if not data and not out:
                    raise damaged("is cut off")
        data = state.unused_data or file.read(step)
