"""One start: a fresh process, its clock, its processor time; and, in starts that nobody times, what else it takes.

The clock is the parent's, from just before the process is made until its first byte on the readiness pipe. A process
is killed when it has said all it had to say: on Lambda it would live on, so its end is no part of a start.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.environments import last_lines
from benchmarks.model import Built, Work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.conditions import Place

BUCKET = "bench"
TIMEOUT = 300.0
"""Seconds that a start may take. The slowest contender, on the slowest link, needs a tenth of it."""
SAMPLING = 0.002
"""Seconds between two looks at the memory of a start that is observed."""
PREFIX = "lazydeps-bench-"
"""Of everything that a run makes outside its own folders; what follows is its process number."""
MEMORY = Path("/dev/shm")
ENOUGH = 6 << 30
"""Bytes that have to be free in memory for the scratch folders of a round."""


class StartFailed(Exception):
    """A start did not get ready. The message says why, with the last lines of the process."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a start went; see `model.Sample`."""

    seconds: float
    cpu_seconds: float
    facts: dict[str, Any]


class Scratch:
    """Empty folders for the starts, in memory where there is room, removed in one go. A context manager.

    Files in memory, because disks tell on each other: ext4 is slow to create files for seconds after many were removed.
    """

    def __init__(self) -> None:
        if MEMORY.is_dir():
            _remove_orphans(MEMORY)
        self.in_memory = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ENOUGH
        self._root = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=MEMORY if self.in_memory else None))
        self.kept = self._root / "kept"
        """A folder that stays from start to start, for what a second start is to find."""
        self.kept.mkdir()

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        self._empty()
        shutil.rmtree(self._root, ignore_errors=True)

    def new(self) -> Path:
        """Return an empty folder."""
        return Path(tempfile.mkdtemp(dir=self._root))

    def new_volume(self) -> tuple[Path, bool]:
        """Return an empty folder, and whether it is a file system of its own, whose use can be asked for."""
        folder = self.new()
        command = ["mount", "-t", "tmpfs", "-o", "mode=0700", "lazydeps-bench", str(folder)]
        try:
            mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
        except OSError:
            mounted = False
        return folder, mounted

    def end_round(self) -> None:
        """Remove what the starts of a round left, where that disturbs nobody: in memory."""
        if self.in_memory:
            self._empty()

    def _empty(self) -> None:
        _unmount_below(self._root)
        for path in self._root.iterdir():
            if path.is_dir() and path != self.kept:
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_file():
                path.unlink()


def _unmount_below(folder: Path) -> None:
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        if (mount := line.split()[1]).startswith(f"{folder}/"):
            subprocess.run(["umount", "-l", mount], capture_output=True, check=False)


def _remove_orphans(folder: Path) -> None:
    """Remove what runs that were killed left in memory. The names tell the processes that made them."""
    for path in folder.glob(f"{PREFIX}*"):
        owner = path.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdecimal() and not Path("/proc", owner).exists():
            _unmount_below(path)
            shutil.rmtree(path, ignore_errors=True)


def start(
    built: Built, work: Work, place: Place, tmp: Path, *, wrapper: Sequence[str] = (), ends: bool = False
) -> Outcome:
    """Start a process and wait until it is ready.

    Args:
        built: what to start.
        work: what it imports.
        place: the server, and what the process has at its disposal.
        tmp: an empty folder.
        wrapper: a command to run it under.
        ends: let it end by itself, instead of killing it when it has written its facts.

    Raises:
        StartFailed: it ended, or took longer than `TIMEOUT`, before it was ready; or wrote no JSON object.
    """
    with _Start(built, work, place, tmp, wrapper) as running:
        running.wait_ready()
        facts = running.read_facts()
        if ends:
            running.wait_end()
    return Outcome(running.seconds, running.cpu_seconds, facts)


class _Start:
    """A process that gets ready. A context manager: nothing of it is left behind the block."""

    def __init__(self, built: Built, work: Work, place: Place, tmp: Path, wrapper: Sequence[str] = ()) -> None:
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self._place = place
        self._tmp = tmp
        self._words = tmp.with_name(tmp.name + ".words")  # what it prints
        self._command = [*wrapper, *built.argv]
        self._environ = {
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "HOME": str(tmp),
            "TMPDIR": str(tmp),
            "BENCH_TMP": str(tmp),
            "BENCH_KEPT": str(tmp.with_name("kept")),
            "BENCH_BUCKET": BUCKET,
            "BENCH_IMPORTS": work.statements,
            **place.environ,
            **built.environ,
        }
        self._text = b""

    def __enter__(self) -> _Start:
        self._ready, write = os.pipe()
        environ = {**self._environ, "BENCH_READY": str(write)}
        try:
            with self._words.open("wb") as words, self._place.confined():
                self._began = time.perf_counter()
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=words,
                    stderr=words,
                    env=environ,
                    cwd=self._tmp,
                    pass_fds=(write,),
                    start_new_session=True,
                )
        except OSError as error:
            os.close(self._ready)
            raise StartFailed(f"did not start: {error}") from error
        finally:
            os.close(write)
        return self

    def __exit__(self, *_: object) -> None:
        # Also ends the children that it has, or left behind: they are in its group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        status, usage = os.wait4(self.pid, 0)[1:]
        self._process.returncode = os.waitstatus_to_exitcode(status)  # `Popen` must not wait for it again
        self.cpu_seconds = usage.ru_utime + usage.ru_stime
        os.close(self._ready)

    @property
    def pid(self) -> int:
        """The process, which leads a session and a group of its own."""
        return self._process.pid

    def wait_ready(self) -> None:
        """Wait for the first byte and stop the clock."""
        self._text = self._read()
        self.seconds = time.perf_counter() - self._began
        if not self._text:
            words = last_lines(self._words.read_text(encoding="utf-8", errors="replace"))
            raise StartFailed(f"ended before it was ready: {words or 'it said nothing'}")

    def read_facts(self) -> dict[str, Any]:
        """Return the JSON object that the process writes."""
        while True:
            with contextlib.suppress(ValueError):
                facts = json.loads(self._text)
                if isinstance(facts, dict):
                    return facts
            more = self._read()
            if not more:
                raise StartFailed(f"wrote no JSON object when it was ready, but {self._text[:80]!r}")
            self._text += more

    def wait_end(self) -> None:
        """Wait until the process has ended by itself, and closed the pipe with that."""
        while self._read():
            pass
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    def _read(self) -> bytes:
        left = self._began + TIMEOUT - time.perf_counter()
        readable, _, _ = select.select([self._ready], [], [], max(0.0, left))
        if not readable:
            raise StartFailed(f"was not ready after {TIMEOUT:.0f} s")
        return os.read(self._ready, 1 << 16)


@dataclass(frozen=True, slots=True)
class Observation:
    """What a start takes besides time, in bytes; see `observe`."""

    peak_memory: int | None
    """Of all its processes together until it was ready; memory that they share counts once. None: not to be seen."""
    peak_store: int
    """In `BENCH_TMP`, until it was ready."""
    landed: int
    """Of the files that it brought."""
    requests: int
    bytes_received: int
    server_cpu_seconds: float


def observe(built: Built, work: Work, place: Place, scratch: Scratch) -> Observation:
    """Observe a start that nobody times, because being looked at slows it.

    Raises:
        StartFailed: see `start`.
    """
    tmp, volume = scratch.new_volume()
    before = place.server.counters()
    with _Start(built, work, place, tmp) as running:
        with _Watch(running.pid, tmp, volume=volume) as watch:
            running.wait_ready()
        facts = running.read_facts()
    after = place.server.counters()
    return Observation(
        peak_memory=watch.memory or None,
        peak_store=watch.store,
        landed=int(facts.get("landed_bytes", 0)) or _walk(tmp, apparent=True),
        requests=after["requests"] - before["requests"],
        bytes_received=after["sent"] - before["sent"],
        server_cpu_seconds=after["cpu_seconds"] - before["cpu_seconds"],
    )


def count_system_calls(built: Built, work: Work, place: Place, scratch: Scratch) -> dict[str, int]:
    """Return how often a start calls the system, by the calls' names; empty where strace is missing.

    Raises:
        StartFailed: see `start`; also where strace may not look.
    """
    strace = shutil.which("strace")
    if strace is None:
        return {}
    table = scratch.new() / "calls"
    # The process must end by itself: strace writes its table then.
    start(built, work, place, scratch.new(), wrapper=(strace, "-f", "-c", "-o", str(table)), ends=True)
    calls = {}
    for line in table.read_text(encoding="utf-8").splitlines():
        # "% time, seconds, usecs/call, calls, errors (or nothing), name"; the last line is the sum of them
        words = line.split()
        if len(words) >= 5 and words[3].isdecimal() and words[-1] != "total":
            calls[words[-1]] = int(words[3])
    return calls


def measure_bare(python: Path, place: Place, scratch: Scratch, rounds: int) -> dict[str, list[float]]:
    """Return seconds of an interpreter's start alone, and of what ``import lazydeps`` adds to it in the same round.

    ``import lazydeps, -X importtime`` is the interpreter's own figure, which its bookkeeping makes a little larger.
    """
    code = "import os\nos.write(int(os.environ['BENCH_READY']), b'{}')"
    nothing = Work(name="bare", requirements=(), statements="")
    alone = Built(argv=(str(python), "-P", "-c", code))
    ours = Built(argv=(str(python), "-P", "-c", "import lazydeps\n" + code))
    seconds: dict[str, list[float]] = {"interpreter": [], "import lazydeps": [], "import lazydeps, -X importtime": []}
    for number in range(rounds + 1):
        without, with_it = (start(built, nothing, place, scratch.new()).seconds for built in (alone, ours))
        command = [str(python), "-P", "-X", "importtime", "-c", "import lazydeps"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PATH": os.defpath})
        if number:
            seconds["interpreter"].append(without)
            seconds["import lazydeps"].append(with_it - without)
            # "import time: SELF | CUMULATIVE | MODULE", in microseconds; the module that was asked for is the last
            seconds["import lazydeps, -X importtime"].append(int(done.stderr.splitlines()[-1].split("|")[1]) / 1e6)
    scratch.end_round()
    return seconds


class _Watch:
    """Looks again and again at the memory of a process with its children, and at a folder. A context manager."""

    def __init__(self, pid: int, folder: Path, *, volume: bool) -> None:
        self.memory = 0
        self.store = 0
        self._pid = pid
        self._folder = folder
        self._volume = volume
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        walked = 0.0
        before = 0
        while True:
            over = self._over.is_set()  # asked before the last look, so that the final state is seen
            now = sum(map(_proportional_memory, _tree(self._pid)))
            # Seen twice: a child that `subprocess` has just made shows its parent's memory as its own until it runs a
            # program of its own (vfork), which is over by the next look.
            self.memory = max(self.memory, min(before, now))
            before = now
            if self._volume:
                facts = os.statvfs(self._folder)
                self.store = max(self.store, (facts.f_blocks - facts.f_bfree) * facts.f_frsize)
            elif over or time.monotonic() - walked > 0.05:  # a walk of thousands of files disturbs more
                self.store = max(self.store, _walk(self._folder))
                walked = time.monotonic()
            if over:
                return
            self._over.wait(SAMPLING)


def _tree(pid: int) -> list[int]:
    """Return a process and its children, and theirs."""
    found = [pid]
    for known in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{known}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def _proportional_memory(pid: int) -> int:
    """Return a process's resident bytes, of shared pages only its part: summed up, each page counts once (PSS)."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def _walk(folder: Path, *, apparent: bool = False) -> int:
    """Return the bytes that the files of a folder take, or those that they hold. Links count once."""
    total = 0
    seen = set()
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                facts = os.lstat(f"{parent}/{name}")
                if facts.st_ino not in seen:
                    seen.add(facts.st_ino)
                    total += facts.st_size if apparent else facts.st_blocks * 512
    return total
