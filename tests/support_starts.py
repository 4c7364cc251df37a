"""Starts in processes that can be killed, stopped and watched; and what must hold of a store after that.

A start is a fresh interpreter with lazydeps in a process group of its own. What happens inside it at a chosen call, and
which time its clock shows, is up to `inside/sitecustomize.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import pytest
from support_packs import THREADS, check_store, pack_tree, write_tree

from benchmarks.server import ObjectServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from lazydeps.build.write import Written

Case = TypeVar("Case")
HERE = Path(__file__).parent
HOSTS = {"fork": "", "threads": THREADS}
"""What a program says first for its worker to run in a forked child, or in threads."""
BOUND = 60.0
"""Seconds after which something that should have ended hangs."""
AT_ONCE = 2 * (os.cpu_count() or 1)
"""Cases that `each` works on at once."""
MODULES = 40


def write_many(folder: Path) -> Written:
    """Write a pack of 40 boot modules, a library in several frames, data that fills requests, and cold modules."""
    noise = random.Random(7)
    files: dict[str, str | bytes] = {
        "many/__init__.py": f"for n in range({MODULES}):\n    __import__(f'many.m{{n}}')\n"
    }
    boot = ["many/__init__.py"]
    for number in range(MODULES):
        files[f"many/m{number}.py"] = f"N = {number}\nTEXT = {noise.randbytes(20_000).hex()!r}\n"
        boot.append(f"many/m{number}.py")
    for number in range(24):
        files[f"many/data{number}.bin"] = noise.randbytes(100_000)
        files[f"dist{number}-1.{number}.dist-info/METADATA"] = (
            f"Metadata-Version: 2.1\nName: dist{number}\nVersion: 1.{number}\n"
        )
    files["many/library.so.1"] = noise.randbytes(3_000_000)
    boot.append("many/library.so.1")
    for number in range(4):
        files[f"many/cold{number}.py"] = f"N = {number}\nTEXT = {noise.randbytes(300_000).hex()!r}\n"
    files["many/fails.py"] = "def boom():\n    raise ValueError('the real error')\n"
    boot.append("many/fails.py")
    write_tree(folder / "tree", files)
    versions = {f"dist{number}": f"1.{number}" for number in range(24)}
    return pack_tree(folder / "p.tar.zst", folder / "tree", boot=boot, distributions=versions)


def write_few(folder: Path) -> Written:
    """Write a small pack of the same name that has a file, and a frame, of each kind: for a start at each point."""
    noise = random.Random(8)
    files: dict[str, str | bytes] = {"many/__init__.py": "from . import m0, m1, m2\n"}
    boot = ["many/__init__.py"]
    for number in range(3):
        files[f"many/m{number}.py"] = f"N = {number}\nTEXT = {noise.randbytes(30_000).hex()!r}\n"
        boot.append(f"many/m{number}.py")
    files["many/library.so.1"] = noise.randbytes(200_000)
    boot.append("many/library.so.1")
    files["many/small.bin"] = b"small"
    files["many/large.bin"] = noise.randbytes(2048) * 1100  # more than a frame, and soon packed
    files["many/cold0.py"] = f"N = 0\nTEXT = {noise.randbytes(3_000).hex()!r}\n"
    write_tree(folder / "tree", files)
    return pack_tree(folder / "p.tar.zst", folder / "tree", boot=boot)


class Shaped(ObjectServer):
    """The benchmark's server, serving a pack at a rate. A port that is given can be served again by another one."""

    def __init__(self, pack: Written, rate: float = 0, *, delay: float = 0.001, port: int = 0) -> None:
        super().__init__({"p.tar.zst": pack.path}, "packs", rate=rate, delay=delay, port=port)
        self._root = pack.root

    @property
    def ref(self) -> str:
        """The pack's reference."""
        return f"{self.endpoint}/packs/p.tar.zst#root={self._root}"


def environ_for(store: Path, **more: str) -> dict[str, str]:
    """Return the environment of a start in a store."""
    path = f"{HERE / 'inside'}:{HERE.parent / 'src'}"
    return {"PATH": os.environ["PATH"], "PYTHONPATH": path, "LAZYDEPS_DIR": str(store), **more}


def program(ref: str, *, before: str = "", inside: str = "", after: str = "", load: str = "ref") -> str:
    """Return a program that imports ``many`` in a block and prints what it got, and its report, as its last line.

    It prints a line just before ``load``. ``before``, ``inside`` and ``after`` are statements, ``load`` the arguments.
    """
    body = "".join(f"    {line}\n" for line in inside.splitlines())
    return f"""import json, os, sys, time, zlib
ref = {ref!r}
{before}
print("begin", flush=True)
import lazydeps
with lazydeps.load({load}):
    import many
{body}
{after}
texts = {{name: module.TEXT for name, module in sorted(sys.modules.items()) if hasattr(module, "TEXT")}}
seen = {{name: zlib.crc32(text.encode()) for name, text in texts.items()}}
print(json.dumps({{"seen": seen, "report": lazydeps.report().as_dict()["packs"][0]}}))
"""


@dataclass(frozen=True)
class Outcome:
    """What a start printed."""

    seen: dict[str, int]
    report: dict[str, Any]

    @property
    def frames(self) -> list[int]:
        """The frames that this process fetched."""
        return sorted(frame["index"] for frame in self.report["frames"])


class Start:
    """A started program, in a session and process group of its own. A context manager that leaves nothing running."""

    def __init__(self, code: str, store: Path, *, fault: Mapping[str, Any] | None = None, **environ: str) -> None:
        if fault is not None:
            environ["FAULT"] = json.dumps(fault)
        # Files, not pipes: a process that outlives its parent must not be waited for by reading.
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - closed at its end
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            env=environ_for(store, **environ),
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            start_new_session=True,
        )
        self.pid = self.process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_group()
        self.process.wait()
        self._out.close()
        self._err.close()

    def begun(self) -> bool:
        """Whether the program is about to call ``load``."""
        return bool(os.fstat(self._out.fileno()).st_size)

    def output(self) -> str:
        """What it has printed."""
        return os.pread(self._out.fileno(), 1 << 24, 0).decode()

    def errors(self) -> str:
        """What it has printed to its standard error."""
        return os.pread(self._err.fileno(), 1 << 24, 0).decode()

    def ended(self) -> bool:
        """Whether the program has ended; what it left running may not have."""
        return self.process.poll() is not None

    def children(self) -> list[int]:
        """Return the processes that it has forked."""
        with contextlib.suppress(OSError):
            return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        return []

    def kill_group(self) -> None:
        """Kill everything at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def signal_group(self, number: int) -> None:
        """Send a signal to everything."""
        os.killpg(self.pid, number)

    def outcome(self) -> Outcome:
        """Wait for its end, which must be a good one."""
        __tracebackhide__ = True
        try:
            code = self.process.wait(timeout=BOUND)
        except subprocess.TimeoutExpired:
            pytest.fail(f"hangs\n-- standard output\n{self.output()}\n-- standard error\n{self.errors()}")
        if code != 0:
            pytest.fail(f"ended with {code}\n-- standard output\n{self.output()}\n-- standard error\n{self.errors()}")
        return Outcome(**json.loads(self.output().splitlines()[-1]))

    def gone(self) -> None:
        """Wait until nothing of it runs any more, orphans included."""
        __tracebackhide__ = True
        self.process.wait(timeout=BOUND)
        wait_for(lambda: not living(self.pid), f"processes {living(self.pid)} of a killed start do not end")


def living(group: int) -> list[int]:
    """Return the processes of a group, without those that have died and wait for somebody to ask."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                state, _, members = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
                if int(members) == group and state not in "ZX":
                    found.append(int(folder.name))
    return found


def state_of(pid: int) -> str:
    """Return a process's state as in ``ps``; empty if there is none."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def wait_for(happened: Callable[[], object], otherwise: str, seconds: float = BOUND) -> None:
    """Return when something has happened; fail if it never does."""
    __tracebackhide__ = True
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            pytest.fail(otherwise)
        time.sleep(0.002)


# -- what must hold of a store


def landed_in(store: Path) -> set[int]:
    """Return the frames that a store's record says have landed."""
    for path in store.glob("*/landed"):
        return {number for number, byte in enumerate(path.read_bytes()) if byte == 1}
    return set()


def names_in(store: Path) -> set[str]:
    """Return everything that carries a name in a store, the names of folders included."""
    return {str(path.relative_to(folder)) for folder in store.iterdir() for path in folder.rglob("*")}


class Expected:
    """A pack, and what a start of it gives when nothing goes wrong."""

    @classmethod
    @contextmanager
    def served(cls, write: Callable[[Path], Written], folder: Path, rate: float = 0) -> Iterator[Expected]:
        """Write a pack, serve it at so many bytes a second (0: as fast as it comes), and start it once."""
        pack = write(folder)
        with Shaped(pack, rate) as server:
            yield cls(pack, server.ref, folder / "clean")

    def __init__(self, pack: Written, ref: str, scratch: Path) -> None:
        """Start it once.

        Args:
            pack: the pack.
            ref: where it is served.
            scratch: a folder for the store.
        """
        self.pack, self.ref, self.store = pack, ref, scratch
        tree = pack.path.parent / "tree"
        self.seen = {}
        for path in tree.glob("many/m*.py"):
            values: dict[str, str] = {}
            exec(path.read_text(), values)
            self.seen[f"many.{path.stem}"] = zlib.crc32(values["TEXT"].encode())
        began = time.monotonic()
        with Start(program(ref), scratch) as start:
            self.clean = start.outcome()
        self.seconds = time.monotonic() - began
        """How long a start takes, from its process to its end."""
        self.names = names_in(scratch)
        self.frames = set(self.clean.frames)
        self.packed = {frame["index"]: frame["packed"] for frame in self.clean.report["frames"]}
        assert self.clean.seen == self.seen
        assert self.frames == landed_in(scratch)

    def check(self, outcome: Outcome) -> None:
        """The right modules were imported: their values are those of the sources."""
        assert {name: value for name, value in outcome.seen.items() if "cold" not in name} == self.seen

    def check_next_start(self, store: Path, *, before: str = "") -> str:
        """After a kill: what has a name is whole, and the next start gets right modules and only what is missing.

        Args:
            store: where the killed start landed.
            before: what the next start says first.

        Returns:
            How far the killed start had come: ``no root``, ``midway`` or ``all landed``.
        """
        check_store(store, self.pack)
        landed, had_root = landed_in(store), any(store.glob("*/root"))
        had_index = any(store.glob("*/index"))
        with Start(program(self.ref, before=before), store) as start:
            again = start.outcome()
            start.gone()
        self.check(again)
        assert not landed & set(again.frames), "a frame that had landed was fetched again"
        assert landed | set(again.frames) == self.frames == landed_in(store)
        if had_root:
            index = 0 if had_index else self.pack.size - sum(self.packed.values())  # the index, and less
            assert again.report["bytes_received"] <= sum(map(self.packed.__getitem__, again.frames)) + index
        check_store(store, self.pack)
        names = names_in(store)
        assert not self.names - names
        # What a killed start was writing is written again, over what it left: nothing of it remains, nor grows.
        assert not names - self.names
        return "no root" if not had_root else "midway" if landed != self.frames else "all landed"


class Observer:
    """A process that looks at a store's tree all the time and compares what it sees with the packed files."""

    CODE = """
import json, os, sys
tree, store = sys.argv[1:]
known, bad, looks = {}, [], 0
def look(folder, packed):
    for entry in os.scandir(folder):
        if entry.is_dir():
            look(entry.path, f"{packed}/{entry.name}")
            continue
        facts = entry.stat()
        facts = facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
        if known.get(entry.path) != facts:
            with open(entry.path, "rb") as one, open(f"{packed}/{entry.name}", "rb") as other:
                if one.read() != other.read():
                    bad.append(entry.path)
            known[entry.path] = facts
print("looks", flush=True)
while os.getppid() != 1 and not os.path.exists(f"{store}.stop"):
    looks += 1
    for name in os.listdir(store) if os.path.isdir(store) else ():
        if os.path.isdir(f"{store}/{name}/tree"):
            look(f"{store}/{name}/tree", tree)
print(json.dumps([looks, len(known), bad]))
"""

    def __init__(self, store: Path, pack: Written) -> None:
        self._store = store
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.CODE, str(pack.path.parent / "tree"), str(store)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "looks\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def result(self) -> int:
        """End it; every file that it saw was whole. Return how many."""
        Path(f"{self._store}.stop").touch()
        looks, files, bad = json.loads(self._process.communicate(timeout=BOUND)[0])
        assert bad == []
        assert looks > 1
        return int(files)


def holder_of(store: Path) -> int | None:
    """Return the process that holds a store's lock."""
    for path in store.glob("*/lock"):
        inode = path.stat().st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            # 1: FLOCK  ADVISORY  WRITE 4711 fe:01:1234 0 EOF; waiters have an arrow behind the number
            if words[1] == "FLOCK" and words[5].endswith(f":{inode}"):
                return int(words[4])
    return None


def each(cases: Iterable[Case], work: Callable[[Case], None]) -> None:
    """Do some work for each case, some at once, as most of it is waiting; fail with every case that failed."""
    __tracebackhide__ = True
    failures: list[str] = []
    lock = threading.Lock()

    def attempt(case: Case) -> None:
        try:
            work(case)
        except BaseException as error:  # noqa: BLE001 - pytest's own failure is none of Exception
            with lock:
                failures.append(f"{case}: {error!r}"[:2000])

    cases = list(cases)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(attempt, cases))
    if failures:
        pytest.fail(f"{len(failures)} of {len(cases)} failed\n" + "\n".join(failures[:10]))


# -- frozen and thawed


class Frozen:
    """A start frozen for an hour, all connections cut meanwhile: what a sandbox that waits for its next call sees.

    A context manager; inside it the start's processes are stopped. The clock moves on for all of them.
    """

    def __init__(self, server: Shaped, clock: Path, *starts: Start) -> None:
        """Take what to freeze.

        Args:
            server: what they load from; at the end another one listens in its place.
            clock: the file that they got as ``CLOCK``.
            starts: what to stop.
        """
        self._server, self._clock, self._starts = server, clock, starts

    def __enter__(self) -> Self:
        for start in self._starts:
            start.signal_group(signal.SIGSTOP)
        for start in self._starts:
            wait_for(lambda start=start: all(state_of(pid) == "T" for pid in living(start.pid)), "they do not stop")
        self._server.__exit__()
        ahead = float(self._clock.read_text()) if self._clock.exists() else 0.0
        self._clock.write_text(str(ahead + HOUR))
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__enter__()
        for start in self._starts:
            start.signal_group(signal.SIGCONT)


HOUR = 3600.0
"""Seconds."""


def free_port() -> int:
    """Return a port for a server that another one is to follow."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
