"""Runs at the start of every process that `support_starts` starts: a fault at a chosen call, and a clock to be moved.

Python imports a module of this name before the program. Without the variables below it changes nothing.

FAULT        a JSON object: ``role`` (parent or child), ``do`` (kill, group or stop), and where: ``at``, the number of a
             point, or ``call``, ``number`` and ``when``. A point is the instant before a call that lazydeps makes, the
             one after it, and for a write the one with half of the bytes written.
FAULT_TRACE  a file that gets a line for each point passed
CLOCK        a file that holds seconds by which `time.monotonic` and `time.time` are ahead
"""

from __future__ import annotations

import json
import os
import sys
import time
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS = (
    "open", "close", "read", "write", "pread", "pwrite", "replace", "unlink", "mkdir", "makedirs", "ftruncate", "lstat",
    "fstat", "statvfs", "fork", "pipe", "memfd_create", "waitpid", "kill", "_exit",
)  # fmt: skip
"""What lazydeps calls of `os`."""
_SIGKILL, _SIGSTOP = 9, 19


def _ours(depth: int = 2) -> bool:
    """Whether lazydeps itself makes the call: Python's own start and imports go through the same functions."""
    return str(sys._getframe(depth).f_globals.get("__name__")).startswith("lazydeps.")


class Points:
    """Counts the points of this process, and does what was asked for at one of them."""

    def __init__(self, fault: dict[str, Any], trace: str | None) -> None:
        self._fault = fault
        self._trace = None if trace is None else os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._role = "parent"
        self._numbers = count()
        self._calls: dict[tuple[str, str], count[int]] = {}
        # What we ourselves call must not be counted.
        self._write, self._kill, self._killpg, self._getpid = os.write, os.kill, os.killpg, os.getpid

    def forked(self) -> None:
        """In lazydeps' own child."""
        self._role = "child"
        self._numbers = count()
        self._calls = {}

    def passed(self, call: str, when: str) -> None:
        """Count a point; perhaps do not return."""
        number = next(self._numbers)
        of_call = next(self._calls.setdefault((call, when), count()))
        if self._trace is not None:
            self._write(self._trace, f"{self._role} {number} {call} {when}\n".encode())
        fault = self._fault
        if fault.get("role") != self._role:
            return
        if (
            fault["at"] != number
            if "at" in fault
            else (call, when, of_call)
            != (
                fault["call"],
                fault["when"],
                fault["number"],
            )
        ):
            return
        if fault["do"] == "group":
            self._killpg(0, _SIGKILL)
        self._kill(self._getpid(), _SIGKILL if fault["do"] == "kill" else _SIGSTOP)


def _watch(points: Points) -> None:
    def watched(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if not _ours():
                return original(*args, **options)
            points.passed(name, "before")
            if name == "pwrite":
                # Written in two halves, as a kernel may: a kill finds one of them.
                handle, data, offset = args
                half = memoryview(data)[: len(data) // 2]
                done = original(handle, half, offset) if half else 0
                points.passed(name, "half")
                if done == len(half):
                    done += original(handle, memoryview(data)[done:], offset + done)
                points.passed(name, "after")
                return done
            result = original(*args, **options)
            if name == "fork" and result == 0:
                points.forked()
            points.passed(name, "after")
            return result

        return call

    for name in CALLS:
        setattr(os, name, watched(name, getattr(os, name)))
    import fcntl
    import mmap

    fcntl.flock = watched("flock", fcntl.flock)

    class Map(mmap.mmap):
        """The record of landed frames is written by assignment."""

        def __setitem__(self, key: Any, value: Any) -> None:
            if not _ours():
                super().__setitem__(key, value)
                return
            points.passed("record", "before")
            super().__setitem__(key, value)
            points.passed("record", "after")

    mmap.mmap = Map  # type: ignore[misc]


def _move_clock(path: str) -> None:
    def ahead() -> float:
        try:
            handle = os_open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return 0.0
        try:
            return float(os_read(handle, 64) or 0)
        finally:
            os_close(handle)

    os_open, os_read, os_close = os.open, os.read, os.close
    monotonic, wall = time.monotonic, time.time
    time.monotonic = lambda: monotonic() + ahead()
    time.time = lambda: wall() + ahead()


if "CLOCK" in os.environ:
    _move_clock(os.environ["CLOCK"])
if "FAULT" in os.environ or "FAULT_TRACE" in os.environ:
    _watch(Points(json.loads(os.environ.get("FAULT", "{}")), os.environ.get("FAULT_TRACE")))
