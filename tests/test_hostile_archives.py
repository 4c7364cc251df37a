"""Archives made to do harm, one a test. Each is pinned, so its digest is right: the checks alone stand in its way."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import zstandard
from support_archives import (
    DEFLATED,
    DEVICE,
    FIFO,
    FOLDER,
    LINK,
    SOCKET,
    Entry,
    deflate,
    pax,
    tar_header,
    tar_member,
    tar_of,
    zip_of,
)

from lazydeps import LazydepsError, PackFormatError, UnsafeArchiveError
from lazydeps._archive import CHUNK, open_archive
from lazydeps._config import Limits

if TYPE_CHECKING:
    from conftest import RunPython

CODE = b"HARM = True\n"
GOOD = Entry("good.py", CODE)
GOOD_TAR = tar_member("good.py", CODE)
GIB = 1 << 30


class Attack(NamedTuple):
    """An archive, and how it has to be refused."""

    suffix: str
    content: bytes
    error: str
    match: str
    """Part of the message."""
    member: str = ""
    """The member that the error names, in its message and, where it is an UnsafeArchiveError, as an attribute."""


def unsafe_zip(match: str, member: str, *entries: Entry) -> Attack:
    """Return an attack with a zip whose first member is harmless."""
    return Attack(".zip", zip_of(GOOD, *entries), "UnsafeArchiveError", match, member)


def unsafe_tar(match: str, member: str, *members: bytes) -> Attack:
    """Return an attack with a tar whose first member is harmless."""
    return Attack(".tar", tar_of(GOOD_TAR, *members), "UnsafeArchiveError", match, member)


def broken(suffix: str, content: bytes, match: str, member: str = "") -> Attack:
    """Return an attack with an archive that cannot be read."""
    return Attack(suffix, content, "PackFormatError", match, member)


def named(name: str, match: str) -> dict[str, Attack]:
    """Return the attacks with a name that no member may have, by zip and by tar."""
    return {
        f"zip {match}: {name[:20]!r}": unsafe_zip(match, name, Entry(name, CODE)),
        f"tar {match}: {name[:20]!r}": unsafe_tar(match, name, pax(path=name), tar_member("evil.py", CODE)),
    }


def link(target: str, match: str) -> dict[str, Attack]:
    """Return the attacks with a symbolic link, by zip and by tar."""
    return {
        f"zip link {target!r}": unsafe_zip(match, "pkg/evil.py", Entry("pkg/evil.py", target.encode(), LINK)),
        f"tar link {target!r}": unsafe_tar(match, "pkg/evil.py", tar_member("pkg/evil.py", kind=b"2", link=target)),
    }


def overlapping() -> bytes:
    """Return a zip in which one member's content holds another's header and content (a bomb without recursion)."""
    inner = zip_of(Entry("evil.py", CODE))[: 30 + 7 + len(CODE)]
    whole = Entry("outer.bin", inner)
    # The second is listed with the place inside the first, which is where its header really is.
    return zip_of(whole, Entry("evil.py", CODE, packed=b"", both={"offset": 30 + 9, "packed": len(CODE)}))


def hidden() -> bytes:
    """Return a zip with a member before the first one that its directory lists."""
    before = zip_of(Entry("evil.py", CODE))[: 30 + 7 + len(CODE)]
    listed = Entry("good.py", CODE, central={"offset": len(before)})
    return before + zip_of(listed, start=len(before) * 2)


def blocks(data: bytes) -> bytes:
    """Return a deflate stream of stored blocks, five bytes longer than its content for each."""
    parts = [data[at : at + 0xFFFF] for at in range(0, len(data), 0xFFFF)]
    heads = [struct.pack("<BHH", part is parts[-1], len(part), len(part) ^ 0xFFFF) for part in parts]
    return b"".join(head + part for head, part in zip(heads, parts, strict=True))


def zst(content: bytes) -> bytes:
    """Return one zstd frame with a checksum."""
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


def with_size(size: bytes) -> bytes:
    """Return a tar member whose size field is given."""
    return tar_header("evil.py", size) + bytes(512)


ROUND = b"#" * (CHUNK - 20)
"""What is, as four stored blocks, as long as what is read at a time."""
LONG = "a" * 251 + ".py"
DEEP = "/".join(["d" * 100] * 11) + "/x.py"
ATTACKS: dict[str, Attack] = {
    # names
    **named("/evil.py", "absolute path"),
    **named("//evil.py", "absolute path"),
    **named("C:/evil.py", "absolute path"),
    **named("c:evil.py", "absolute path"),
    **named("pkg\\..\\evil.py", "backslash"),
    **named("../evil.py", r"'\.\.'"),
    **named("pkg/../../evil.py", r"'\.\.'"),
    **named("pkg/..", r"'\.\.'"),
    **named("./../evil.py", r"'\.\.'"),
    **named("pkg//evil.py", r"'\.\.'"),
    **named("pkg/./evil.py", r"'\.\.'"),
    **named("xx" + LONG, "longer than"),
    **named(DEEP, "longer than"),
    **named("ev\nil.py", "control characters"),
    **named("ev\x7fil.py", "control characters"),
    **named("ev\x9bil.py", "control characters"),
    "zip name not UTF-8, flagged": unsafe_zip("not UTF-8", "ev\\xffil.py", Entry(b"ev\xffil.py", CODE)),
    "zip name not UTF-8": unsafe_zip("not UTF-8", "ev\\udcffil.py", Entry(b"ev\xffil.py", CODE, flags=0)),
    "zip name that ends at a NUL": unsafe_zip("control", "evil.py\0.txt", Entry("evil.py\0.txt", CODE)),
    "tar name not UTF-8": unsafe_tar("not UTF-8", "ev\\udcffil.py", tar_member(b"ev\xffil.py", CODE)),
    "tar long name": unsafe_tar(
        r"'\.\.'", "../evil.py", tar_member("././@LongLink", b"../evil.py\0", kind=b"L"), tar_member("evil.py", CODE)
    ),
    "tar long name with a NUL": unsafe_tar(
        "control", "evil.py\0/x", tar_member("././@LongLink", b"evil.py\0/x\0", kind=b"L"), tar_member("x", CODE)
    ),
    "tar file with a folder's name": unsafe_tar(r"'\.\.'", "evil/", pax(path="evil/"), tar_member("evil.py", CODE)),
    # links and what is no file
    **link("../../evil.py", "leaves the archive"),
    **link("/etc/passwd", "leaves the archive"),
    **link("..\\..\\evil.py", "leaves the archive"),
    **link("nowhere.py", "no file of the archive"),
    **link("../pkg", "no file of the archive"),
    **link("..", "no file of the archive"),
    **link("../..", "no file of the archive"),
    **link("", "no file of the archive"),
    **link("evil.py", "leads to itself"),
    "zip link whose target is too long": unsafe_zip("too long", "evil.py", Entry("evil.py", b"a" * 2000, LINK)),
    "zip FIFO": unsafe_zip("neither file", "evil", Entry("evil", mode=FIFO)),
    "zip socket": unsafe_zip("neither file", "evil", Entry("evil", mode=SOCKET)),
    "zip device": unsafe_zip("neither file", "evil", Entry("evil", mode=DEVICE)),
    "zip folder with a file's name": unsafe_zip("neither file", "evil", Entry("evil", mode=FOLDER)),
    "zip folder with content": unsafe_zip("folder with content", "evil/", Entry("evil/", CODE, FOLDER)),
    "tar hard link": unsafe_tar("hard link", "evil.py", tar_member("evil.py", kind=b"1", link="/etc/passwd")),
    "tar hard link inside": unsafe_tar("hard link", "evil.py", tar_member("evil.py", kind=b"1", link="good.py")),
    "tar character device": unsafe_tar("type b'3'", "evil", tar_member("evil", kind=b"3")),
    "tar block device": unsafe_tar("type b'4'", "evil", tar_member("evil", kind=b"4")),
    "tar FIFO": unsafe_tar("type b'6'", "evil", tar_member("evil", kind=b"6")),
    "tar volume": unsafe_tar("type b'V'", "evil", tar_member("evil", kind=b"V")),
    "tar continued": unsafe_tar("type b'M'", "evil", tar_member("evil", kind=b"M")),
    "tar folder with content": unsafe_tar("with content", "evil", tar_member("evil", CODE, kind=b"5")),
    "tar link with content": unsafe_tar("with content", "evil", tar_member("evil", CODE, kind=b"2", link="good.py")),
    "tar sparse": unsafe_tar("sparse file", "evil", tar_member("evil", CODE, kind=b"S")),
    "tar sparse by pax": unsafe_tar(
        "sparse file", "evil.py", pax(path="evil.py", GNU__sparse__size=str(GIB)), tar_member("x", CODE)
    ),
    # twice the same place
    "zip duplicate": unsafe_zip("twice", "good.py", Entry("good.py", CODE)),
    "zip duplicate by ./": unsafe_zip("twice", "./good.py", Entry("./good.py", CODE)),
    "tar duplicate": unsafe_tar("twice", "good.py", tar_member("good.py", CODE)),
    "zip case": unsafe_zip("only by case", "GOOD.py", Entry("GOOD.py", CODE)),
    "tar case": unsafe_tar("only by case", "Good.py", tar_member("Good.py", CODE)),
    "zip case of other letters": unsafe_zip("only by case", "STRASSE", Entry("straße", CODE), Entry("STRASSE", CODE)),
    "zip normal form": unsafe_zip("only by case", "e\u0301.py", Entry("é.py", CODE), Entry("e\u0301.py", CODE)),
    "zip file, then folder": unsafe_zip("needs a folder", "good.py/evil.py", Entry("good.py/evil.py", CODE)),
    "zip folder, then file": unsafe_zip("file and a folder", "p", Entry("p/evil.py", CODE), Entry("p", CODE)),
    "tar folder, then file": unsafe_tar("file and a folder", "p", tar_member("p", kind=b"5"), tar_member("p", CODE)),
    "tar link, then file through it": unsafe_tar(
        "needs a folder", "p/evil.py", tar_member("p", kind=b"2", link="/tmp"), tar_member("p/evil.py", CODE)
    ),
    "layer with two of a kind": Attack(
        ".zip",
        zip_of(
            Entry("python/good.py", CODE),
            *(Entry(f"python/lib/python3.{n}/site-packages/good.py", CODE) for n in range(11, 16)),
        ),
        "UnsafeArchiveError",
        "twice",
        "good.py",
    ),
    # sizes that lie
    "zip local name": unsafe_zip("another name", "evil.py", Entry("evil.py", CODE, local={"name": b"nice.py"})),
    "zip local size": unsafe_zip("other sizes", "evil.py", Entry("evil.py", CODE, local={"size": 3})),
    "zip local CRC": unsafe_zip("other sizes", "evil.py", Entry("evil.py", CODE, local={"crc": 3})),
    "zip local method": unsafe_zip("other sizes", "evil.py", Entry("evil.py", CODE, local={"method": DEFLATED})),
    "zip local zip64 size": unsafe_zip(
        "other sizes", "evil.py",
        Entry("evil.py", CODE, local={"size": 0xFFFFFFFF, "extra": struct.pack("<HHQQ", 1, 16, 99, len(CODE))}),
    ),
    "zip claims less than there is": unsafe_zip(
        "holds more than", "evil.py", Entry("evil.py", CODE * 9, method=DEFLATED, both={"size": 5})
    ),
    "zip claims more than there is": unsafe_zip(
        "does not hold", "evil.py", Entry("evil.py", CODE * 9, method=DEFLATED, both={"size": 500})
    ),
    "zip goes on behind the stream": unsafe_zip(
        "does not hold", "evil.py", Entry("evil.py", CODE, method=DEFLATED, packed=deflate(CODE) + b"more")
    ),
    "zip goes on behind the stream, at a round place": unsafe_zip(
        "does not hold", "evil.bin",
        Entry("evil.bin", ROUND, method=DEFLATED, packed=blocks(ROUND) + b"more"),
    ),
    "zip stream without end": unsafe_zip(
        "does not hold", "evil.py", Entry("evil.py", CODE, method=DEFLATED, packed=deflate(CODE)[:-1])
    ),
    "zip stored claims less": unsafe_zip("holds more", "evil.py", Entry("evil.py", CODE, both={"size": 4})),
    "zip stored claims more": unsafe_zip("claims to be", "evil.py", Entry("evil.py", CODE, both={"size": 40})),
    "zip bomb by ratio": unsafe_zip(
        "claims to be", "evil.py", Entry("evil.py", b"", method=DEFLATED, both={"size": 3_000_000_000})
    ),
    "zip bomb by total": unsafe_zip(
        "claims 21474836480 bytes", "evil.py",
        Entry("evil.py", CODE, method=DEFLATED, both={
            "size": 0xFFFFFFFF, "packed": 0xFFFFFFFF, "extra": struct.pack("<HHQQ", 1, 16, 20 * GIB, 30_000_000),
        }),
    ),
    "zip overlapping": Attack(".zip", overlapping(), "UnsafeArchiveError", "overlaps with 'outer.bin'", "evil.py"),
    "zip one content twice": unsafe_zip(
        "another name", "evil.py", Entry("evil.py", CODE, packed=b"", central={"offset": 0})
    ),
    "zip into its directory": unsafe_zip(
        "directory", "evil.py", Entry("evil.py", CODE, packed=b"", both={"packed": len(CODE)})
    ),
    "tar negative size": unsafe_tar("claims -1 bytes", "evil.py", with_size(b"\xff" * 12)),
    "tar huge size": unsafe_tar("claims", "evil.py", with_size(b"\x80" + b"\xff" * 11)),
    "tar bomb by total": unsafe_tar("claims", "evil.py", with_size(b"\x80" + (21 * GIB).to_bytes(11, "big"))),
    "tar two sizes": unsafe_tar("two sizes", "evil.py", pax(size="3"), tar_member("evil.py", CODE)),
    "tar pax size below nothing": unsafe_tar("two sizes", "evil.py", pax(size="-3"), tar_member("evil.py", CODE)),
    # extended headers
    "tar pax and long name": unsafe_tar(
        "second time", "./PaxHeaders/x", tar_member("././@LongLink", b"nice.py\0", kind=b"L"), pax(path="evil.py"),
        tar_member("x", CODE),
    ),
    "tar pax for all": unsafe_tar("every member", "./PaxHeaders/x", pax(b"g", path="evil.py"), tar_member("x", CODE)),
    "tar pax with a wrong length": unsafe_tar(
        "cannot be read", "x", tar_member("x", b"99 path=evil.py\n", kind=b"x"), tar_member("x.py", CODE)
    ),
    "tar pax of length 0": unsafe_tar("cannot be read", "x", tar_member("x", b"0 path=evil.py\n", kind=b"x")),
    "tar pax that says a thing twice": unsafe_tar(
        "cannot be read", "x", tar_member("x", b"9 path=a\n9 path=b\n", kind=b"x"), tar_member("x.py", CODE)
    ),
    "tar pax without end": unsafe_tar("in a row", "./PaxHeaders/x", *[pax(comment="x")] * 9),
    "tar pax that is huge": unsafe_tar("extended header of", "x", tar_header("x", 9_000_000, b"x")),
    "tar pax below nothing": unsafe_tar("extended header of -1", "x", tar_header("x", b"\xff" * 12, b"x")),
    "tar pax and no member": broken(".tar", tar_of(GOOD_TAR, pax(path="evil.py")), "and no member"),
    # what cannot be read
    "zip encrypted": broken(".zip", zip_of(Entry("evil.py", CODE, flags=0x801)), "encrypted", "evil.py"),

    "zip strongly encrypted": broken(".zip", zip_of(Entry("evil.py", CODE, flags=0x840)), "encrypted", "evil.py"),
    "zip method": broken(".zip", zip_of(Entry("evil.py", CODE, method=12)), "method 12", "evil.py"),
    "zip CRC": broken(".zip", zip_of(Entry("evil.py", CODE, both={"crc": 7})), "CRC", "evil.py"),
    "zip garbage for deflate": broken(
        ".zip", zip_of(Entry("evil.py", CODE, method=DEFLATED, packed=b"\xff" * 20)), "damaged", "evil.py"
    ),
    "zip trailing garbage": broken(".zip", zip_of(GOOD) + b"x", "behind its end"),
    "zip in a comment": broken(".zip", zip_of(GOOD, comment=zip_of(Entry("evil.py", CODE))), "not where it says"),
    "zip behind a program": broken(".zip", b"#!/bin/sh\n" + zip_of(GOOD), "does not begin"),
    "zip behind a member": broken(
        ".zip", zip_of(Entry("evil.py", CODE))[:49] + zip_of(GOOD), "not where it says"
    ),
    "zip with a member that is not listed": broken(".zip", hidden(), "does not begin"),
    "zip without members": broken(".zip", zip_of(), "does not begin"),
    "zip without directory": broken(".zip", zip_of(GOOD)[:-22], "cut off"),
    "zip claims too few members": broken(".zip", zip_of(GOOD, Entry("evil.py", CODE), count=1), "lists 2"),
    "zip claims more members": broken(".zip", zip_of(GOOD, count=9), "claims 9"),
    "zip directory elsewhere": broken(".zip", zip_of(GOOD, start=7), "not where it says"),
    "zip directory too short": broken(".zip", zip_of(GOOD, length=7), "not where it says"),
    "zip member elsewhere": broken(
        ".zip", zip_of(GOOD, Entry("evil.py", CODE, central={"offset": 3})), "not where", "evil.py"
    ),
    "zip64 with too many members": broken(".zip", zip_of(GOOD, wide={"count": 1 << 40}), "claims 1099511627776"),
    "zip64 with a directory elsewhere": broken(".zip", zip_of(GOOD, wide={"start": 1 << 62}), "not where it says"),
    "zip64 with a huge directory": broken(".zip", zip_of(GOOD, wide={"length": 1 << 62}), "not where it says"),
    "zip64 record elsewhere": broken(".zip", zip_of(GOOD, wide={"at": 0}), "zip64 directory"),
    "zip64 and another truth": broken(".zip", zip_of(GOOD, wide={}, count=7), "different things"),
    "zip64 sizes missing": broken(
        ".zip", zip_of(GOOD, Entry("evil.py", CODE, local={"size": 0xFFFFFFFF})), "zip64 sizes", "evil.py"
    ),
    "tar named zip": broken(".zip", tar_of(GOOD_TAR), "no zip file"),
    "zip named tar": broken(".tar", zip_of(GOOD).ljust(2048, b"\0"), "bad checksum"),
    "tar named tar.gz": broken(".tar.gz", tar_of(GOOD_TAR), "incorrect header"),
    "gzip named tar.zst": broken(".tar.zst", gzip.compress(tar_of(GOOD_TAR)), "cannot be read"),
    "gzip named tar": broken(".tar", gzip.compress(tar_of(GOOD_TAR)), "archive"),
    "text": broken(".tar", b"<html>404</html>" * 100, "invalid header"),
    "gzip of a zip": broken(".tgz", gzip.compress(zip_of(GOOD).ljust(2048, b"\0")), "bad checksum"),
    "empty tar": broken(".tar", tar_of(), "no files"),
    "tar damaged in the middle": broken(".tar", tar_of(GOOD_TAR, bytes([1]) * 512), "invalid header"),
    "tar with one zero block": broken(
        ".tar", GOOD_TAR + bytes(512) + tar_member("evil.py", CODE) + bytes(1024), "behind its end"
    ),
    "tar trailing garbage": broken(".tar", tar_of(GOOD_TAR) + tar_of(tar_member("evil.py", CODE)), "behind its end"),
    "tar trailing zeros without end": broken(
        ".tar.gz", gzip.compress(tar_of(GOOD_TAR) + bytes(50_000_000)), "behind its end"
    ),
    "tar size that is no number": broken(".tar", tar_of(with_size(b"12x45678901\0")), "invalid header"),
    "gzip trailing garbage": broken(".tar.gz", gzip.compress(tar_of(GOOD_TAR)) + b"garbage", "cannot be read"),
    "gzip CRC": broken(".tar.gz", gzip.compress(tar_of(GOOD_TAR))[:-8] + bytes(8), "cannot be read"),
    "zstd trailing garbage": broken(".tar.zst", zst(tar_of(GOOD_TAR)) + b"garbage!", "cannot be read"),
    "zstd checksum": broken(".tar.zst", zst(tar_of(GOOD_TAR))[:-4] + bytes(4), "cannot be read"),
}  # fmt: skip


PROGRAM = """
import json, sys
import lazydeps
found = []
loading = lazydeps.load({ref!r})
for module in ("evil", "good", "pkg"):
    try:
        __import__(module)
        found.append("imported")
    except lazydeps.LazydepsError as error:
        found.append([type(error).__name__, str(error), getattr(error, "member", None)])
lazydeps.uninstall()
for module in ("evil", "good", "pkg"):
    try:
        __import__(module)
        found.append("importable")
    except ModuleNotFoundError:
        pass
print(json.dumps(found))
"""


def everything_in(folder: Path) -> set[str]:
    """Return the names of all that a folder holds, but what a failed load leaves in its store: the locks, what came."""
    rest = ("/lock", "/users", "/parts", "/parts/archive")
    found = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    return {
        name for name in found if not (name.startswith("lazydeps/") and (name.endswith(rest) or "/" not in name[9:]))
    }


@pytest.mark.parametrize("attack", ATTACKS)
def test_refused(run_python: RunPython, tmp_path: Path, attack: str) -> None:
    """The error is of the right class and names the member; nothing is written anywhere, nothing can be imported."""
    suffix, content, error, match, member = ATTACKS[attack]
    archive = tmp_path / f"archive{suffix}"
    archive.write_bytes(content)
    (tmp_path / "home").mkdir()
    (tmp_path / "lazydeps").mkdir(mode=0o700)
    before = everything_in(tmp_path)
    ref = f"{archive.as_uri()}#sha256={hashlib.sha256(content).hexdigest()}"
    done = run_python(PROGRAM.format(ref=ref), timeout=30)
    found = json.loads(done.stdout)
    assert found == [found[0]] * 3
    kind, message, named = found[0]
    assert kind == error, message
    with pytest.raises(ValueError, match=match):
        raise ValueError(message)
    assert (named or member) == member
    assert repr(member) in message or not member
    assert everything_in(tmp_path) == before


def read_all(content: bytes, suffix: str, limits: Limits | None = None) -> dict[str, bytes]:
    """Read an archive in this process."""
    archive = open_archive(io.BytesIO(content), suffix, limits or Limits())
    return {member.name: b"".join(chunks) for member, chunks in archive.contents()}


WHOLE = {
    "zip": (".zip", zip_of(GOOD, Entry("b.py", CODE * 40, method=DEFLATED))),
    "zip64": (".zip", zip_of(GOOD, wide={})),
    "tar": (".tar", tar_of(GOOD_TAR, pax(path="b.py"), tar_member("x", CODE))),
    "tar.gz": (".tar.gz", gzip.compress(tar_of(GOOD_TAR), mtime=0)),
    "tar.gz, two members": (".tgz", gzip.compress(GOOD_TAR, mtime=0) + gzip.compress(bytes(1024), mtime=0)),
    "tar.zst": (".tar.zst", zst(tar_of(GOOD_TAR))),
    "tar.zst, two frames": (".tar.zst", zst(GOOD_TAR) + b"\x50\x2a\x4d\x18\x03\0\0\0abc" + zst(bytes(1024))),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_truncated_anywhere(kind: str) -> None:
    """Whole, it is read; cut off after any of its bytes, it is refused."""
    suffix, content = WHOLE[kind]
    assert read_all(content, suffix)["good.py"] == CODE
    for size in range(len(content)):
        with pytest.raises(LazydepsError):
            read_all(content[:size], suffix)


@pytest.mark.parametrize("kind", WHOLE)
def test_damaged_anywhere(kind: str) -> None:
    """With any one byte changed, it is refused by one of our errors or read as something of the declared sizes."""
    suffix, content = WHOLE[kind]
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 0x55
        try:
            found = read_all(bytes(damaged), suffix)
        except LazydepsError:
            continue
        assert all(len(data) <= len(CODE) * 40 for data in found.values()), at


def test_too_many_files() -> None:
    """One member more than the limit is one too many, and so is an extended header too many."""
    limits = Limits()
    limits.files = 3
    members = [f"m{number}.py" for number in range(4)]
    assert len(read_all(zip_of(*(Entry(name, CODE) for name in members[:3])), ".zip", limits)) == 3
    with pytest.raises(PackFormatError, match="claims 4 members"):
        read_all(zip_of(*(Entry(name, CODE) for name in members)), ".zip", limits)
    assert len(read_all(tar_of(*(tar_member(name, CODE) for name in members[:3])), ".tar", limits)) == 3
    with pytest.raises(UnsafeArchiveError, match=r"m3\.py.*one more than the 3"):
        read_all(tar_of(*(tar_member(name, CODE) for name in members)), ".tar", limits)


def test_a_bomb_of_many_members() -> None:
    """Members that are small one by one are counted together."""
    limits = Limits()
    limits.unpacked = 1_000_000
    bomb = gzip.compress(tar_of(*(tar_member(f"m{number}", bytes(300_000)) for number in range(4))))
    with pytest.raises(UnsafeArchiveError, match="m3"):
        read_all(bomb, ".tar.gz", limits)
    with pytest.raises(UnsafeArchiveError, match="m3"):
        read_all(zip_of(*(Entry(f"m{n}", bytes(300_000), method=DEFLATED) for n in range(4))), ".zip", limits)


def test_a_bomb_of_extended_headers() -> None:
    """What describes members counts as well: gigabytes of comments compress to nothing."""
    limits = Limits()
    limits.unpacked = 1_000_000
    members = (pax(comment="a" * 60_000) + tar_member(f"m{number}", b"") for number in range(20))
    with pytest.raises(UnsafeArchiveError, match="extended headers of more than 1000000 bytes"):
        read_all(gzip.compress(tar_of(*members)), ".tar.gz", limits)


def load(run_python: RunPython, folder: Path, suffix: str, content: bytes, code: str) -> list[object]:
    """Load an archive in a fresh interpreter, run code and return the JSON list it prints."""
    archive = folder / f"archive{suffix}"
    archive.write_bytes(content)
    ref = f"{archive.as_uri()}#sha256={hashlib.sha256(content).hexdigest()}"
    head = f"import importlib, json, os, sys, lazydeps\nwith lazydeps.load({ref!r}): import good\n"
    tail = "\nprint(json.dumps([found, lazydeps.report().packs[0].store + '/tree']))"
    result = json.loads(run_python(head + code + tail, timeout=30).stdout)
    assert isinstance(result, list)
    return result


@pytest.mark.parametrize("name", ["json.py", "json/__init__.py", "sqlite3/evil.py", "lazydeps/evil.py", "json.pyc",
                                  "dbm.cpython-399-x86_64-linux-gnu.so", "_json.abi3.so"])  # fmt: skip
def test_the_standard_library_is_not_shadowed(run_python: RunPython, tmp_path: Path, name: str) -> None:
    """What stands where a module of the standard library, or lazydeps, belongs is not even written."""
    code = """
import dbm, json.decoder, sqlite3, _json, lazydeps.errors
found = [module.__spec__.origin for module in (dbm, json, sqlite3, _json, lazydeps)]
for name in ("sqlite3.evil", "lazydeps.evil"):
    try:
        importlib.import_module(name)
        found.append(name)
    except ModuleNotFoundError:
        pass
"""
    content = zip_of(GOOD, Entry(name, b"raise SystemExit('shadowed')\n"))
    origins, tree = load(run_python, tmp_path, ".zip", content, code)
    assert isinstance(tree, str)
    assert isinstance(origins, list)
    assert len(origins) == 5
    assert not any(origin and origin.startswith(tree) for origin in origins)
    assert sorted(path.name for path in Path(tree).iterdir()) == ["__pycache__", "good.py"]


def test_modes_are_dropped(run_python: RunPython, tmp_path: Path) -> None:
    """Of a member's mode only whether it can be executed is kept: no setuid, nothing for others."""
    content = tar_of(
        GOOD_TAR,
        tar_member("setuid", CODE, mode=0o7777),
        tar_member("open", CODE, mode=0o6666),
        tar_member("nothing", CODE, mode=0),
        tar_member("folder", kind=b"5", mode=0o7777),
        tar_member("folder/x", CODE),
    )
    _, tree = load(run_python, tmp_path, ".tar", content, "found = None")
    assert isinstance(tree, str)
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in Path(tree).iterdir()}
    assert modes.pop("__pycache__") & 0o022 == 0
    assert modes == {"good.py": 0o600, "setuid": 0o700, "open": 0o600, "nothing": 0o600, "folder": 0o700}


def test_nested_archives_are_files(run_python: RunPython, tmp_path: Path) -> None:
    """An archive inside an archive is not opened, so nothing in it counts or can be imported."""
    content = zip_of(GOOD, Entry("inner.zip", zip_of(Entry("../evil.py", CODE))), Entry("inner.whl", b"PK\3\4"))
    code = (
        "found = importlib.util.find_spec('evil') is None and 'inner.zip' in os.listdir(os.path.dirname(good.__file__))"
    )
    assert load(run_python, tmp_path, ".zip", content, "import importlib.util\n" + code)[0] is True


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_links_that_stay_inside_are_second_names(run_python: RunPython, tmp_path: Path, suffix: str) -> None:
    """Links to files of the archive, through other links and up a folder too, become files with the same content."""
    links = {"pkg/lib.so": "lib.so.1", "pkg/lib.so.1": "../libs/real.so", "also.txt": "./pkg/../libs/real.so"}
    if suffix == ".zip":
        entries = [Entry(name, target.encode(), LINK) for name, target in links.items()]
        content = zip_of(*entries, GOOD, Entry("libs/real.so", b"library", 0o100755))
    else:
        members = [tar_member(name, kind=b"2", link=target) for name, target in links.items()]
        content = tar_of(*members, GOOD_TAR, tar_member("libs/real.so", b"library", mode=0o755))
    _, tree = load(run_python, tmp_path, suffix, content, "found = None")
    assert isinstance(tree, str)
    for name in (*links, "libs/real.so"):
        path = Path(tree, name)
        assert path.read_bytes() == b"library"
        assert path.stat().st_mode == 0o100700
        assert not path.is_symlink()
