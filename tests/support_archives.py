"""Archives made byte by byte, so that a test can make one say what no packer would."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

STORED, DEFLATED = 0, 8
UTF8 = 0x800
REGULAR, FOLDER, LINK, FIFO, SOCKET, DEVICE = 0o100644, 0o040755, 0o120777, 0o010644, 0o140644, 0o020644


@dataclass
class Entry:
    """A member of a zip file. ``local`` and ``central`` replace fields in one of the two places where they stand."""

    name: str | bytes
    data: bytes = b""
    mode: int = REGULAR
    method: int = STORED
    flags: int = UTF8
    local: dict[str, int | bytes] = field(default_factory=dict)
    central: dict[str, int | bytes] = field(default_factory=dict)
    both: dict[str, int | bytes] = field(default_factory=dict)
    packed: bytes | None = None
    """What stands there instead of the compressed content."""


def deflate(data: bytes) -> bytes:
    """Return a raw deflate stream."""
    state = zlib.compressobj(wbits=-15)
    return state.compress(data) + state.flush()


def zip_of(*entries: Entry, comment: bytes = b"", wide: dict[str, int] | None = None, **end: int) -> bytes:
    """Return a zip file.

    Args:
        entries: its members.
        comment: what stands behind its end record.
        wide: writes zip64 records too, with these fields replaced.
        end: fields of the end record to replace: ``count``, ``length``, ``start``.
    """
    body, directory = b"", b""
    for entry in entries:
        name = entry.name.encode() if isinstance(entry.name, str) else entry.name
        packed = entry.packed
        if packed is None:
            packed = deflate(entry.data) if entry.method == DEFLATED else entry.data
        facts: dict[str, int | bytes] = {
            "flags": entry.flags, "method": entry.method, "crc": zlib.crc32(entry.data), "packed": len(packed),
            "size": len(entry.data), "name": name, "extra": b"", "offset": len(body), **entry.both,
        }  # fmt: skip
        here, there = {**facts, **entry.local}, {**facts, **entry.central}
        directory += _record(b"PK\1\2", there, struct.pack("<HHHLL", 0, 0, 0, entry.mode << 16, there["offset"]))
        body += _record(b"PK\3\4", here, None) + packed
    facts = {"count": len(entries), "length": len(directory), "start": len(body)}
    tail = b""
    if wide is not None:
        full = {**facts, "at": len(body) + len(directory), **wide}
        tail = struct.pack("<4sQHHLLQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, full["count"], full["count"], full["length"],
                           full["start"]) + struct.pack("<4sLQL", b"PK\6\7", 0, full["at"], 1)  # fmt: skip
        facts = {"count": 0xFFFF, "length": 0xFFFFFFFF, "start": 0xFFFFFFFF}
    facts.update(end)
    return (
        body + directory + tail
        + struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, facts["count"], facts["count"], facts["length"], facts["start"],
                      len(comment))
        + comment
    )  # fmt: skip


def _record(magic: bytes, facts: dict[str, int | bytes], rest: bytes | None) -> bytes:
    name, extra = facts["name"], facts["extra"]
    assert isinstance(name, bytes)
    assert isinstance(extra, bytes)
    fields = struct.pack(
        "<HHHHHLLLHH", 45, facts["flags"], facts["method"], 0, 0x21, facts["crc"], facts["packed"], facts["size"],
        len(name), len(extra),
    )  # fmt: skip
    if rest is None:
        return magic + fields + name + extra
    return magic + b"\x2d\3" + fields + rest + name + extra


def tar_header(
    name: str | bytes, size: int | bytes = 0, kind: bytes = b"0", link: str = "", mode: int = 0o644
) -> bytes:
    """Return one block. ``size`` as bytes is put into its field as it is."""
    name = name.encode() if isinstance(name, str) else name
    length = b"%011o\0" % size if isinstance(size, int) else size
    block = bytearray(
        name.ljust(100, b"\0") + b"%07o\0" % mode + b"0000000\0" * 2 + length.ljust(12, b"\0") + b"00000000000\0"
        + b" " * 8 + kind + link.encode().ljust(100, b"\0") + b"ustar\x0000" + bytes(247)
    )  # fmt: skip
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    """Fill up the last block."""
    return data + bytes(-len(data) % 512)


def tar_member(name: str | bytes, data: bytes = b"", **options: object) -> bytes:
    """Return a header and its content."""
    return tar_header(name, len(data), **options) + padded(data)  # type: ignore[arg-type]


def pax(kind: bytes = b"x", **records: str | bytes) -> bytes:
    """Return an extended header."""
    content = b""
    for key, value in records.items():
        text = b" " + key.replace("__", ".").encode() + b"=" + (value.encode() if isinstance(value, str) else value)
        length = len(text) + 1
        while len(str(length)) + len(text) + 1 != length:
            length += 1
        content += str(length).encode() + text + b"\n"
    return tar_member("./PaxHeaders/x", content, kind=kind)


def tar_of(*members: bytes) -> bytes:
    """Return a tar file."""
    return b"".join(members) + bytes(1024)
