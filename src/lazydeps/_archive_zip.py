"""Zip files: wheels, Lambda layers, function packages.

`zipfile` takes the directory apart. What it says is compared with each member's own header, with the length of the
file and with what really comes out, because readers differ in which of them they believe.
"""

from __future__ import annotations

import os
import stat

from ._archive import CHUNK, Archive, Member, Names, damaged, unsafe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO
    from zipfile import ZipInfo

    from ._archive import Chunks
    from ._config import Limits

STORED, DEFLATED = 0, 8
DEFLATE_RATIO = 1032
"""Bytes that one byte of deflate can stand for, at most."""
_FULL = 0xFFFFFFFF


class ZipArchive(Archive):
    """A zip file that says the same thing in all the places where it says it."""

    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        self._file = file
        self._where: dict[str, tuple[int, ZipInfo]] = {}
        self.members = []
        infos, directory = _central_directory(file, limits)
        names = Names(limits)
        spans = []
        for info in infos:
            raw = _zip_name(info)
            start = self._check_local(info, raw)
            spans.append((info.header_offset, start + info.compress_size, raw))
            mode = info.external_attr >> 16
            kind = stat.S_IFMT(mode)
            folder = raw.endswith("/")
            if kind not in (0, stat.S_IFLNK, stat.S_IFDIR if folder else stat.S_IFREG):
                raise unsafe(raw, f"is neither file, folder nor link ({stat.filemode(mode)})")
            if info.file_size > info.compress_size * (DEFLATE_RATIO if info.compress_type else 1):
                raise unsafe(raw, f"claims to be {info.file_size} bytes made of {info.compress_size}")
            path = names.add(raw, size=info.file_size, folder=folder)
            if folder:
                if info.file_size:
                    raise unsafe(raw, "is a folder with content")
                continue
            self._where[path] = start, info
            member = Member(path, raw, info.file_size, bool(mode & 0o111), None, _modified(info))
            if kind == stat.S_IFLNK:
                if info.file_size > limits.path:
                    raise unsafe(raw, "is a link with too long a target")
                member.link = b"".join(self._chunks(member)).decode(errors="surrogateescape")
                member.executable = False
            self.members.append(member)
        stop, before = 0, "the archive's begin"
        for start, end, raw in sorted(spans):
            if start < stop:
                raise unsafe(raw, f"overlaps with {before!r}")
            stop, before = end, raw
        if spans and min(spans)[0]:
            raise damaged("does not begin with its first member")
        if stop > directory:
            raise unsafe(before, "reaches into the archive's directory")

    def contents(self) -> Iterator[tuple[Member, Chunks]]:
        for member in self.members:
            if member.link is None:
                yield member, self._chunks(member)

    def _check_local(self, info: ZipInfo, raw: str) -> int:
        """Compare a member's own header with the directory; return where its content begins."""
        from struct import unpack

        if info.flag_bits & 0x2061:
            raise damaged("is encrypted or a patch, which nothing here can read", raw)
        if info.compress_type not in (STORED, DEFLATED):
            raise damaged(f"has compression method {info.compress_type}; only stored and deflate are read", raw)
        self._file.seek(info.header_offset)
        header = self._file.read(30)
        if len(header) < 30 or header[:4] != b"PK\3\4":
            raise damaged("is not where the directory says", raw)
        flags, method, _, _, crc, packed, size, name_size, extra_size = unpack("<HHHHLLLHH", header[6:])
        name, extra = self._file.read(name_size), self._file.read(extra_size)
        if name != info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437"):
            raise unsafe(raw, f"has another name in its own header: {name!r}")
        if _FULL in (packed, size):
            while extra and extra[:2] != b"\1\0":
                extra = extra[4 + int.from_bytes(extra[2:4], "little") :]
            if len(extra) < 20:
                raise damaged("has no zip64 sizes in its own header", raw)
            size, packed = unpack("<QQ", extra[4:20])
        streamed = flags & 8 and not (crc or packed or size)
        found, claimed = (crc, packed, size), (info.CRC, info.compress_size, info.file_size)
        if flags != info.flag_bits or method != info.compress_type or (found != claimed and not streamed):
            raise unsafe(raw, "has other sizes in its own header than in the directory")
        return self._file.tell()

    def _chunks(self, member: Member) -> Chunks:
        from zlib import crc32, decompressobj

        start, info = self._where[member.name]
        self._file.seek(start)
        left, made, check, data = info.compress_size, 0, 0, b""
        state = decompressobj(-15) if info.compress_type else None
        while True:
            if not data:
                data = self._file.read(min(CHUNK, left))
                left -= len(data)
            fed, out = len(data), data
            if state is None:
                data = b""
            else:
                try:
                    out = state.decompress(data, CHUNK)
                except Exception as error:
                    raise damaged(f"is damaged: {error}", member.raw) from error
                data = state.unconsumed_tail
            made += len(out)
            if made > member.size:
                raise unsafe(member.raw, f"holds more than the {member.size} bytes that it claims")
            check = crc32(out, check)
            if out:
                yield out
            if (state is not None and state.eof) or not (fed or out):
                break
        if made != member.size or left or (state is not None and (not state.eof or state.unused_data)):
            raise unsafe(member.raw, f"does not hold the {member.size} bytes that it claims")
        if check != info.CRC:
            raise damaged("is damaged: its CRC is another", member.raw)


def _central_directory(file: BinaryIO, limits: Limits) -> tuple[list[ZipInfo], int]:
    """Return what the directory lists, and where it begins. It must end where the file ends."""
    from struct import unpack
    from zipfile import ZipFile

    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(4) != b"PK\3\4":
        raise damaged("is no zip file: it does not begin with a member")
    base = max(0, size - 65557)
    file.seek(base)
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) < at + 22:
        raise damaged("is cut off: its directory is missing")
    *disks, count, length, start, comment = unpack("<HHHHLLH", tail[at + 4 : at + 22])
    if at + 22 + comment != len(tail):
        raise damaged("has something behind its end")
    end = base + at
    locator = tail[at - 20 : at] if at >= 20 else b""
    if locator[:4] == b"PK\6\7":
        record, end = tail[max(0, at - 76) : at - 20], end - 76
        if len(record) < 56 or record[:4] != b"PK\6\6" or unpack("<Q", locator[8:16])[0] != end:
            raise damaged("has a zip64 directory that is not where it says")
        wide = unpack("<QQQ", record[32:56])
        for narrow, full, value in zip((count, length, start), (0xFFFF, _FULL, _FULL), wide, strict=True):
            if narrow not in (full, value):
                raise damaged("has two directories that say different things (zip64)")
        count, length, start = wide
    if start + length != end or length > limits.index or any(disks[:2]):
        raise damaged("has a directory that is not where it says, or too long")
    if count > limits.files:
        raise damaged(f"claims {count} members; an archive may hold {limits.files}")
    try:
        with ZipFile(file) as opened:
            infos = opened.infolist()
    except UnicodeDecodeError as error:
        raw = bytes(error.object).decode(errors="backslashreplace")
        raise unsafe(raw, "has a name that is not UTF-8") from error
    if len(infos) != count or not count:
        raise damaged(f"lists {len(infos)} members and claims {count}")
    return infos, start


def _modified(info: ZipInfo) -> int:
    """Return a member's time as if its clock were ours."""
    from time import mktime

    try:
        return int(mktime((*info.date_time, 0, 0, -1)))
    except (OverflowError, ValueError):
        return 0


def _zip_name(info: ZipInfo) -> str:
    """Return a member's whole name; zipfile's own ends at a NUL."""
    if info.flag_bits & 0x800:
        return info.orig_filename
    # Without the flag it is code page 437 by the book, and whatever the packer's system used in fact: UTF-8 by now.
    return info.orig_filename.encode("cp437").decode(errors="surrogateescape")
