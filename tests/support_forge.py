"""Forge hostile packs: take a sound one apart, change what an author could, seal it again so that only the lie is left.

`Victim` then loads them for real: a fresh interpreter that forks a child for each case, with bounded memory, and
reports how it ended and what it left on the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zstandard

if TYPE_CHECKING:
    from collections.abc import Callable

MAGIC = b"\x5d\x2a\x4d\x18"
SRC = Path(__file__).parent.parent / "src"


def dump(table: object) -> bytes:
    """Spell JSON in the format's one way; surrogates and infinities stay what they are."""
    return json.dumps(table, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def compress(content: bytes, **options: Any) -> bytes:
    """Make a zstd frame."""
    return zstandard.ZstdCompressor(**options).compress(content)


def unpack(frame: bytes) -> bytes:
    """Read a zstd frame."""
    return zstandard.ZstdDecompressor().decompress(frame)


@dataclass
class Forged:
    """A pack in parts. `seal` joins them; sizes and digests are computed anew, then the lies are told."""

    root: dict[str, Any]
    index: dict[str, Any]
    boot: list[bytes]
    """The boot frames, packed."""
    rest: list[bytes]
    magic: bytes = MAGIC
    tag: bytes = b"lazydeps"
    version: int = 1
    lie_index: Callable[[dict[str, Any]], object] = lambda table: None
    """Changes the index after its columns have been computed."""
    lie_root: Callable[[dict[str, Any]], object] = lambda table: None
    """Changes the root after everything in it has been computed."""
    write_index: Callable[[bytes], bytes] = lambda text: text
    """Changes the text of the index before it is compressed."""
    pack_index: Callable[[bytes], bytes] = compress
    write_root: Callable[[bytes], bytes] = lambda text: text
    tail: bytes = b""

    @classmethod
    def read(cls, pack: bytes) -> Forged:
        """Take a sound pack apart."""
        size = int.from_bytes(pack[4:8], "little")
        root = json.loads(pack[20 : 8 + size])
        boot, at = _cut(pack, 8 + size, root["boot"]["packed"])
        start = at + 8
        index = json.loads(unpack(pack[start : start + root["index"]["packed"]]))
        rest, _ = _cut(pack, start + root["index"]["packed"], index["packed"])
        return cls(root, index, boot, rest)

    def content(self, path: str) -> bytearray:
        """Return a writable copy of the frame that holds a file, decompressed; see `replace`."""
        frames, at, _ = self._find(path)
        return bytearray(unpack(frames[at]))

    def replace(self, path: str, content: bytes) -> None:
        """Put other content into the frame that holds a file: of the same length, so that the stream stays in place."""
        frames, at, _ = self._find(path)
        assert len(unpack(frames[at])) == len(content)
        frames[at] = compress(bytes(content))

    def place(self, path: str) -> tuple[int, int]:
        """Return where a file's content begins in its frame, and its size."""
        _, _, offset = self._find(path)
        table = self.root["boot"] if path in self.root["boot"]["paths"] else self.index
        return offset, table["sizes"][table["paths"].index(path)]

    def _find(self, path: str) -> tuple[list[bytes], int, int]:
        base = 0
        for table, frames in ((self.root["boot"], self.boot), (self.index, self.rest)):
            offset = table["offsets"][table["paths"].index(path)] if path in table["paths"] else None
            for at, size in enumerate(table["unpacked"]):
                if offset is not None and base <= offset - 1 < base + size:
                    return frames, at, offset - base
                base += size
        raise LookupError(path)

    def seal(self) -> tuple[bytes, str]:
        """Return the pack and its root's digest, ``sha256:HEX``."""
        for table, frames in ((self.root["boot"], self.boot), (self.index, self.rest)):
            table["packed"] = [len(frame) for frame in frames]
            table["digests"] = "".join(hashlib.sha256(frame).hexdigest() for frame in frames)
        self.lie_index(self.index)
        text = self.write_index(dump(self.index))
        index = self.pack_index(text)
        self.root["index"].update(
            packed=len(index), unpacked=len(text), digest=hashlib.sha256(index).hexdigest(), frames=len(self.rest)
        )
        self.lie_root(self.root)
        content = self.tag + self.version.to_bytes(4, "little") + self.write_root(dump(self.root))
        parts = [self.magic, _length(content), content, *self.boot, MAGIC, _length(index), index, *self.rest, self.tail]
        return b"".join(parts), f"sha256:{hashlib.sha256(content).hexdigest()}"

    def boundaries(self) -> list[int]:
        """Return where each part of the sealed pack begins, and where it ends."""
        pack, _ = self.seal()
        root = int.from_bytes(pack[4:8], "little")
        ends = [4, 8, 16, 20, 8 + root]
        for size in self.root["boot"]["packed"]:
            ends.append(ends[-1] + size)
        ends += [ends[-1] + 4, ends[-1] + 8, ends[-1] + 8 + self.root["index"]["packed"]]
        for size in self.index["packed"]:
            ends.append(ends[-1] + size)
        assert ends[-1] == len(pack)
        return ends


def _cut(pack: bytes, at: int, sizes: list[int]) -> tuple[list[bytes], int]:
    parts = []
    for size in sizes:
        parts.append(pack[at : at + size])
        at += size
    return parts, at


def _length(content: bytes) -> bytes:
    return len(content).to_bytes(4, "little")


def retype(block: bytearray, at: int, kind: bytes, link: bytes = b"") -> None:
    """Make of the tar header at a place one of another kind (``b"2"`` is a symbolic link), its sum right."""
    block[at + 156 : at + 157] = kind
    block[at + 157 : at + 257] = link.ljust(100, b"\0")
    block[at + 148 : at + 156] = b" " * 8
    block[at + 148 : at + 156] = b"%06o\0 " % sum(block[at : at + 512])


@dataclass
class Outcome:
    """How one case ended."""

    status: int
    """The exit code; negative: the signal."""
    hung: bool
    rss: int
    """Most memory that any process of the case had in use, bytes."""
    facts: dict[str, Any]
    """What the child wrote down: ``error`` (class, words, bases) or None; ``value``; ``mark``: whether code ran."""
    left: bool
    """Whether a process was still there when the child had ended."""
    out: str = ""
    err: str = ""


@dataclass
class Victim:
    """A fresh interpreter that loads packs, or runs commands on them, each in a forked child."""

    modules: tuple[str, ...] = ()
    """What it imports beforehand."""
    environ: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> Victim:
        environ = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(SRC),
            "COLUMNS": "500",
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__, *self.modules],
            env={**environ, **self.environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=30)

    def ask(self, box: Path, **request: Any) -> Outcome:
        """Run a case in a folder of its own; see `_child` for what a request may hold."""
        return self.start(box, **request)()

    def start(self, box: Path, **request: Any) -> Callable[[], Outcome]:
        """Begin a case, and return what waits for its end; another victim may work meanwhile."""
        assert self._process.stdin is not None
        for name in ("home", "cwd", "tmp"):
            (box / name).mkdir(parents=True, exist_ok=True)
        before = listing(box)
        self._process.stdin.write(json.dumps({"box": str(box), **request}) + "\n")
        self._process.stdin.flush()

        def finish() -> Outcome:
            assert self._process.stdout is not None
            answer = json.loads(self._process.stdout.readline())
            facts = json.loads((box / "facts").read_text()) if (box / "facts").exists() else {}
            texts = [(box / name).read_text(errors="replace") for name in ("out", "err")]
            for name in ("facts", "out", "err"):
                (box / name).unlink(missing_ok=True)
            assert listing(box) == before, "something was written outside of the store"
            check_store(box / "store")
            return Outcome(answer["status"], answer["hung"], answer["rss"], facts, answer["left"], *texts)

        return finish


def listing(box: Path) -> dict[str, tuple[int, int]]:
    """Return what is in a folder but for its store: kind and size by path."""
    found = {}
    for path in box.rglob("*"):
        name = str(path.relative_to(box))
        if name != "mark" and name.partition("/")[0] != "store":
            facts = path.lstat()
            found[name] = (stat.S_IFMT(facts.st_mode), 0 if path.is_dir() else facts.st_size)
    return found


def check_store(store: Path) -> None:
    """Check that a store holds its own files, and below ``tree`` nothing but folders and plain files of one name."""
    for folder in store.glob("**/" + "[0-9a-f]" * 32):
        names = {path.name for path in folder.iterdir()}
        assert names <= {"lock", "root", "index", "landed", "code", "parts", "tree"}, names
        for path in folder.rglob("*"):
            facts = path.lstat()
            assert stat.S_ISDIR(facts.st_mode) or (stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1), path
            assert stat.S_ISDIR(facts.st_mode) or not facts.st_mode & 0o077, path


# -- what runs in the interpreter


def _load(request: dict[str, Any], facts: dict[str, Any]) -> None:
    import lazydeps

    scope: dict[str, Any] = {}
    with lazydeps.load(*request["refs"]):
        exec(request["code"], scope)
        facts["value"] = scope.get("value")
    lazydeps.wait(complete=True)


def _command(request: dict[str, Any], facts: dict[str, Any]) -> None:
    from lazydeps.build.cli import run_cli

    facts["value"] = [run_cli(words) for words in request["commands"]]


def _child(request: dict[str, Any]) -> None:
    """Run one case: ``refs`` to load and ``code`` to run, or ``commands``; ``memory`` bytes of address space."""
    box = request["box"]
    os.setpgid(0, 0)
    os.chdir(f"{box}/cwd")
    for handle, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{box}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), handle)
    os.environ.update(LAZYDEPS_DIR=f"{box}/store", PROBE_MARK=f"{box}/mark", TMPDIR=f"{box}/tmp", HOME=f"{box}/home")
    resource.setrlimit(resource.RLIMIT_AS, (request["memory"], request["memory"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    facts: dict[str, Any] = {"error": None, "value": None}
    try:
        (_load if "refs" in request else _command)(request, facts)
    except BaseException as error:  # noqa: BLE001 - the outcome, whatever it is
        bases = [base.__name__ for base in type(error).__mro__]
        facts["error"] = [type(error).__name__, str(error), bases]
    facts["mark"] = os.path.exists(f"{box}/mark")
    sys.stdout.flush()
    sys.stderr.flush()
    with open(f"{box}/facts", "w") as file:
        json.dump(facts, file)


def _serve() -> None:
    for name in sys.argv[1:]:
        __import__(name)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            code = 70
            try:
                _child(request)
                code = 0
            finally:
                os._exit(code)
        end = time.monotonic() + request["timeout"]
        hung = False
        while True:
            pid, status, usage = os.wait4(child, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > end:
                hung = True
                os.killpg(child, signal.SIGKILL)
            time.sleep(0.002)
        left = True
        end = time.monotonic() + 10
        while left and time.monotonic() < end:  # a worker ends when it sees that its owner has
            try:
                os.killpg(child, 0)
                time.sleep(0.002)
            except ProcessLookupError:
                left = False
        if left:
            os.killpg(child, signal.SIGKILL)
        answer = {
            "status": os.waitstatus_to_exitcode(status),
            "hung": hung,
            "rss": usage.ru_maxrss * 1024,
            "left": left,
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
