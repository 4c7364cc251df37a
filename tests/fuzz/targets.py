"""The fuzz targets: functions of bytes that return, or raise what is a finding.

Each calls a parser as the runtime does, lets the errors pass that the parser promises, and checks what must hold of
what it accepts. `TARGETS` is the list; `OPTIONAL` names readers that not every version has.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import socket
from functools import cache
from typing import TYPE_CHECKING, Any

from lazydeps import _pack
from lazydeps._config import Config, Limits
from lazydeps._digest import sha256_digest
from lazydeps._fetch import fetch_head, new_decompressor, read_exactly, unpack
from lazydeps._pack import Frame, Root, Section
from lazydeps._ref import Ref
from lazydeps._sources import Body, Connection, https
from lazydeps._target import check_host
from lazydeps.errors import ConfigError, FetchError, LazydepsError, PackFormatError, UnsafeArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LIMITS = Limits()
HEAD = _pack.ROOT_TAG + _pack.FORMAT_VERSION.to_bytes(4, "little")
MOST_FILES = 3000
"""Files up to which the quadratic part of `check_section` runs."""
FRAME = 1 << 20
"""Largest size that an input of the frame target may claim, bytes."""


class Finding(AssertionError):  # noqa: N818 - what fuzzing is for is called so
    """Something was accepted that must not be, or two readers disagree."""


def hold(condition: object, why: str) -> None:
    """Raise Finding unless a condition holds. Not `assert`: fuzzing runs with ``-O`` as well."""
    if not condition:
        raise Finding(why)


# -- what must hold of a section that `validate` has accepted


def check_section(section: Section) -> None:
    """Check that the frames hold each byte of each file exactly once, whoever asks: `runs` or `frames_of`."""
    files, frames = len(section.paths), range(section.first, section.first + len(section))
    hold(type(section.paths) is list, "paths are a list")
    hold(len(set(section.paths)) == files, "each path once")
    folders = {path[:at] for path in section.paths for at, letter in enumerate(path) if letter == "/"}
    hold(folders.isdisjoint(section.paths), "no file is a folder too")
    for path in section.paths:
        hold(all(0 < len(part.encode()) <= 255 and part not in {".", ".."} for part in path.split("/")), "plain parts")
        hold(len(path.encode()) <= LIMITS.path and not set("\\\0\n\r") & set(path), "a plain path")
    covered: dict[int, int] = {}
    stop = section.bases[0]
    for number in frames:
        frame = section.frame(number)
        for value in (frame.start, frame.packed, frame.base, frame.unpacked):
            hold(type(value) is int, "whole numbers")
        hold(0 < frame.packed <= LIMITS.frame and 0 < frame.unpacked <= LIMITS.frame, "sizes within the limit")
        hold(len(frame.digest) == 32, "a digest of 32 bytes")
        for file, begin, end in _pack.runs(section, number):
            offset, size = section.offsets[file], section.sizes[file]
            hold(frame.base <= begin <= end <= frame.base + frame.unpacked, "a run lies in its frame")
            hold(stop <= begin, "runs do not overlap")
            hold(begin == offset + covered.get(file, 0), "runs of a file join")
            hold(end <= offset + size, "a run lies in its file")
            if file in covered and size == 0:
                raise Finding("an empty file is in one frame")
            covered[file] = covered.get(file, 0) + end - begin
            stop = end
            if files <= MOST_FILES:
                hold(number in section.frames_of(file), "frames_of agrees with files_of")
    hold(len(covered) == files, "each file is in some frame")
    for file, size in enumerate(section.sizes):
        hold(covered[file] == size, "each byte of a file once")
        if files <= MOST_FILES:
            for number in section.frames_of(file):
                hold(number in frames and file in section.files_of(number), "files_of agrees with frames_of")


# -- root, index, head


def sound_tables() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a root's and an index's table that a reader accepts."""
    boot = {
        "paths": ["pkg/__pycache__/__init__.cpython-313.pyc", "pkg/lib.so", "pkg/empty", "pkg/big.bin"],
        "offsets": [512, 2048, 4096, 4608],
        "sizes": [900, 1500, 0, 5000],
        "executable": [1],
        "packed": [700, 90, 80],
        "unpacked": [3600, 3000, 3200],
        "digests": "0a" * 96,
    }
    rest = {
        "paths": ["pkg/data.txt", "dist-1.dist-info/METADATA", "pkg/__init__.py"],
        "offsets": [10312, 11264, 13312],
        "sizes": [10, 1025, 40],
        "executable": [],
        "packed": [300, 200],
        "unpacked": [2992, 1536],
        "digests": "0b" * 64,
    }
    root = {
        "python": "3.13", "pyc_magic": "f30d0d0a", "os": "linux", "arch": "x86_64", "libc": "glibc",
        "libc_version": "2.28", "distributions": {"dist": "1"}, "top_level": ["pkg"], "namespaces": ["pkg/space"],
        "absent": ["pkg/_missing"], "metadata": ["dist-1.dist-info"], "stdlib": ["json", "os.path"],
        "sizes": {"boot": 7400, "data": 1035, "cold": 40}, "boot": boot,
        "index": {"packed": 120, "unpacked": 400, "digest": "0c" * 32, "frames": 2, "data_frames": 1},
    }  # fmt: skip
    return root, rest


def dump(table: object) -> bytes:
    """Spell a table as the writer does; text may hold what the writer would not write."""
    text = json.dumps(table, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")


def use_root(root: Root) -> None:
    """Ask a root everything that the runtime and the command ask it."""
    start, stop = root.index_span
    hold(root.boot.starts[-1] < start < stop, "the index lies behind the boot frames")
    hold(len(root.boot) <= root.data_stop <= root.frames, "the sets follow one another")
    for name in _pack.SETS:
        hold(0 <= root.unpacked(name) <= LIMITS.unpacked, "a set's size within the limit")
    hold(0 <= root.index_unpacked <= LIMITS.index, "the index's size within the limit")
    # What people and importlib are shown: text that can be printed, and folders that stay inside.
    shown = [root.python, root.pyc_magic, root.os, root.arch, root.libc, root.libc_version, *sorted(root.top_level)]
    for name, version in root.distributions.items():
        shown += [name, version]
    hold(all(text.isprintable() for text in (*shown, *root.metadata)), "what is printed can be printed")
    for folder in root.metadata:
        hold("/" not in folder and folder.endswith((".dist-info", ".egg-info")), "a folder of metadata")
    for name in root.stdlib:
        hold(name.isprintable(), "names of modules can be printed")
    try:
        check_host(root)
    except LazydepsError as error:
        hold(len(str(error)) < 2000, "an error's text is bounded")


def run_root(data: bytes) -> None:
    """A root's content: checked by its digest, so anything an author can write."""
    try:
        root = Root(data, limits=LIMITS)
        root.boot.validate(LIMITS)
    except (PackFormatError, UnsafeArchiveError) as error:
        hold(len(str(error)) < 10_000, "an error's text is bounded")
        return
    use_root(root)
    check_section(root.boot)


@cache
def _root_with(frames: int) -> Root:
    table, _ = sound_tables()
    table["index"].update(frames=frames, data_frames=0)
    return Root(HEAD + dump(table), limits=LIMITS)


def run_index(data: bytes) -> None:
    """The decompressed index, under a root that promises as many frames as it has."""
    try:
        frames = len(json.loads(data)["packed"])
    except (ValueError, LookupError, TypeError, RecursionError):
        frames = 2
    try:
        section = _root_with(frames).read_index(data)
        section.validate(LIMITS)
    except (PackFormatError, UnsafeArchiveError) as error:
        hold(len(str(error)) < 10_000, "an error's text is bounded")
        return
    check_section(section)


class _Memory(Connection, Body):
    """A source that is a block of bytes, its connection and its body in one."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = self._stop = 0
        self.total, self.etag, self.first_byte = len(data), None, 0.0

    def get(self, start: int, stop: int, *, etag: str | None = None) -> Body:
        if start >= len(self._data):
            raise FetchError("416", status=416)
        self._at, self._stop = start, min(stop, len(self._data))
        self.size = self._stop - self._at
        return self

    def readinto(self, view: memoryview) -> int:
        part = self._data[self._at : min(self._at + len(view), self._stop)]
        view[: len(part)] = part
        self._at += len(part)
        return len(part)

    def close(self) -> None:
        pass


def run_head(data: bytes) -> None:
    """A whole object: what is read before, and with, the root."""
    try:
        head = fetch_head(_Memory(data), None, LIMITS)
    except (PackFormatError, FetchError):
        return
    hold(head.content == data[8 : 8 + len(head.content)], "the content is what stands there")
    hold(head.stop <= len(data), "what was fetched is in the object")
    run_root(head.content)


# -- frames


def _backport() -> Callable[[memoryview, int], bytes] | None:
    """Return 3.14's way to decompress, where the standard library or its backport is there."""
    import sys

    if sys.version_info >= (3, 14):
        return None  # `new_decompressor` is that one
    try:
        from backports import zstd
    except ImportError:
        return None
    import types

    package = types.ModuleType("compression")
    package.zstd = zstd  # type: ignore[attr-defined]
    names = {"compression": package, "compression.zstd": zstd}
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update(names)
    try:
        return new_decompressor()
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


@cache
def decompressors() -> dict[str, Callable[[memoryview, int], bytes]]:
    """Return the ways to decompress that this interpreter has."""
    ways: dict[str, Callable[[memoryview, int], bytes]] = {"own": new_decompressor()}
    other = _backport()
    if other is not None:
        ways["backport"] = other
    return ways


def run_frame(data: bytes) -> None:
    """Three bytes of size, then a frame: each way to decompress gives that size or an error, and both agree."""
    size = int.from_bytes(data[:3], "little") % FRAME + 1
    packed = memoryview(data)[3:]
    frame = Frame(0, 0, len(packed), 0, size, bytes(32))
    answers = {}
    for name, decompress in decompressors().items():
        try:
            answers[name] = unpack(decompress, packed, frame)
            hold(len(answers[name]) == size, "a frame has the size that its index says")
        except PackFormatError:
            answers[name] = b""
    hold(len(set(answers.values())) == 1, f"{' and '.join(answers)} agree")


# -- what a server answers


class _Wire(https.HttpConnection):
    """A connection to a server that has answered already, and that nobody can dial again."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(https.HttpSource("http://127.0.0.1/p.tar.zst", {}), 1.0)
        self._socket, self._peer = sock, ("http", "127.0.0.1")

    def _dial(self, *_: object) -> socket.socket:
        raise ConnectionRefusedError


def run_answer(data: bytes) -> None:
    """One byte of what is asked for, then all that a server sends before it closes the connection."""
    start = (0, 1, 5, 512)[data[0] % 4] if data else 0
    ours, theirs = socket.socketpair()
    connection = _Wire(ours)
    try:
        ours.settimeout(5.0)
        theirs.sendall(data[1 : 128 * 1024])
        theirs.shutdown(socket.SHUT_WR)
        try:
            body = connection.get(start, start + 100)
            hold(body.size >= 0 and body.total >= 0, "sizes are not negative")
            hold(body.size <= 100 or start == 0, "no more than was asked for")
            if data[0] & 4:
                read_exactly(body, memoryview(bytearray(min(64, body.size))))
            body.close()
        except (FetchError, PackFormatError) as error:
            hold(len(str(error)) < 2000 and str(error).isprintable(), "an error's text is bounded and can be printed")
    finally:
        connection.close()
        ours.close()
        theirs.close()


def run_fields(data: bytes) -> None:
    """A header field's value as `Content-Range`, `Retry-After` and `Location`."""
    text = data.decode("latin-1")
    span = https._content_range(text)
    if span is not None:
        hold(0 <= span[0] < span[1] <= span[2], "a range begins before it ends, in the object")
    seconds = https._seconds(text)
    if seconds is not None:
        hold(seconds >= 0, "a pause is not negative")
    try:
        target = https.Target.parse(text)
    except ConfigError:
        return
    hold(target.path.startswith("/") and target.path.isascii() and target.path.isprintable(), "a path for a request")
    hold(target.authority.isascii() and target.authority.isprintable() and " " not in target.authority, "a host")


# -- what people write


def run_ref(data: bytes) -> None:
    """A reference as text, and as the value of each variable."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        ref = Ref.parse(text)
    except ConfigError:
        pass
    else:
        hold(ref.root is None or Ref.parse(str(ref)) == ref, "a pinned reference's text is that reference")
    for name in ("PACK", "DIR", "ALLOW_UNPINNED", "TIMEOUT", "CONNECTIONS"):
        with contextlib.suppress(ConfigError):
            Config.from_environ({f"LAZYDEPS_{name}": text})


@cache
def _trace_file() -> Path:
    import atexit
    import shutil
    import tempfile
    from pathlib import Path

    # In memory where there is such a folder: a disk makes a file that is written over wait for its blocks.
    folder = tempfile.mkdtemp(prefix="lazydeps-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder, "trace.json")


def run_trace(data: bytes) -> None:
    """A saved trace."""
    from lazydeps.build.trace import Trace

    path = _trace_file()
    path.write_bytes(data)
    try:
        trace = Trace.load(path)
    except ConfigError:
        return
    path.write_text(trace.to_json(), encoding="utf-8")
    hold(Trace.load(path) == trace, "a trace's text is that trace")


# -- seeds: sound inputs to start from


def _frame_seeds() -> list[bytes]:
    import zstandard

    seeds = []
    for content in (b"x", b"lazydeps " * 400, bytes(range(256)) * 9, bytes(70_000)):
        size = (len(content) - 1).to_bytes(3, "little")
        for options in ({}, {"write_content_size": False}, {"write_checksum": True}, {"level": 19}):
            compressor = zstandard.ZstdCompressor(**options)
            seeds.append(size + compressor.compress(content))
        seeds.append(size + b"\x5d\x2a\x4d\x18\x04\0\0\0skip" + zstandard.ZstdCompressor().compress(content))
        seeds.append(size + zstandard.ZstdCompressor().compress(content) * 2)
    return seeds


def _answer_seeds() -> list[bytes]:
    body = bytes(range(100))
    ranged = b'HTTP/1.1 206 Partial Content\r\nETag: "a"\r\nContent-Range: bytes %d-%d/%d\r\nContent-Length: %d\r\n\r\n'
    chunked = b"HTTP/1.1 206 OK\r\nContent-Range: bytes 1-100/200\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n"
    error = b"<Error><Code>SlowDown</Code><Region>eu-west-1</Region></Error>"
    return [
        b"\0HTTP/1.1 200 OK\r\nContent-Length: 100\r\nx-amz-request-id: A\r\n\r\n" + body,
        b"\4" + ranged % (0, 99, 100, 100) + body,
        b"\1" + ranged % (1, 100, 200, 100) + body,
        b"\5" + chunked + body + b"\r\n0\r\n\r\n",
        b"\0HTTP/1.1 301 Moved\r\nLocation: https://h/p?q\r\nx-amz-bucket-region: eu-west-1\r\n\r\n",
        b"\0HTTP/1.1 503 Slow Down\r\nRetry-After: 5\r\nContent-Length: %d\r\n\r\n" % len(error) + error,
        b"\0HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 403 No\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n\r\n",
    ]


def _root_seeds() -> list[bytes]:
    root, _ = sound_tables()
    empty = {
        **root,
        "boot": {**{key: [] for key in root["boot"]}, "digests": ""},
        "sizes": dict.fromkeys(_pack.SETS, 0),
    }
    return [HEAD + dump(root), HEAD + dump(empty)]


def _head_seeds() -> list[bytes]:
    return [_pack.SKIPPABLE_MAGIC + len(root).to_bytes(4, "little") + root + bytes(50) for root in _root_seeds()]


def _index_seeds() -> list[bytes]:
    _, rest = sound_tables()
    return [dump(rest), dump({**{key: [] for key in rest}, "digests": ""})]


def _trace_seeds() -> list[bytes]:
    trace = {
        "lazydeps_trace": 1, "python": "3.13", "arch": "x86_64", "how": ["import pkg"],
        "order": ["pkg/__init__.py", "file:pkg/data.txt"], "absent": ["pkg/_missing"], "stdlib": ["json"],
    }  # fmt: skip
    return [dump(trace)]


PIN = b"sha256:" + b"0a" * 32
_FIELD_SEEDS = [
    b"bytes 0-99/100", b"bytes 5-3/4", b"bytes */100", b"120", b"Mon, 01 Jan 2024 00:00:00 GMT", b"https://h:8443/p?q#f",
    b"http://[::1]:80/x", b"http://u:p@h/x",
]  # fmt: skip
_REF_SEEDS = [
    b"s3://bucket/key.tar.zst#root=" + PIN, b"https://h/p.tar.zst#sha256=" + b"0a" * 32, b"file:///p%20q#root=" + PIN,
    b"/tmp/lazydeps", b"12.5", b"64", b"1", b"s3://a/b c s3://d/e\tfile:///f",
]  # fmt: skip


class Target:
    """A name, what runs an input, and the inputs to start from."""

    def __init__(self, name: str, run: Callable[[bytes], None], seeds: Callable[[], list[bytes]], tag: bytes | None):
        self.name = name
        self.run = run
        self.seeds = seeds
        self.tag = tag
        """What stands before the JSON in an input that is JSON; None where it is none."""


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("root", run_root, _root_seeds, HEAD),
        Target("head", run_head, _head_seeds, None),
        Target("index", run_index, _index_seeds, b""),
        Target("frame", run_frame, _frame_seeds, None),
        Target("answer", run_answer, _answer_seeds, None),
        Target("fields", run_fields, lambda: list(_FIELD_SEEDS), None),
        Target("ref", run_ref, lambda: list(_REF_SEEDS), None),
        Target("trace", run_trace, _trace_seeds, b""),
    )
}

OPTIONAL = (("legacy", "lazydeps._legacy"),)
"""Targets of readers that not every version has: a name and the module that it needs. Such a target is a module of that
name beside this one, with ``run(data)`` and ``seeds()``."""
for _name, _needs in OPTIONAL:
    if importlib.util.find_spec(_needs) and __package__ and importlib.util.find_spec(f"{__package__}.{_name}"):
        _module = importlib.import_module(f"{__package__}.{_name}")
        TARGETS[_name] = Target(_name, _module.run, _module.seeds, getattr(_module, "TAG", None))


def name_of(data: bytes) -> str:
    """Return the name under which an input is kept."""
    return sha256_digest(data).hex()[:16]
