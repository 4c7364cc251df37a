"""Run the programs that a build needs so that none of them, nor what they start, outlives the build.

Each gets a process group of its own: a terminal's Ctrl-C reaches only us, and we end the whole group. uv, for one,
starts build backends and compilers, which would go on without it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

from . import interrupts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

GRACE = 0.5
"""Seconds between the polite signal, on which programs remove their temporary files, and the other one."""

_running: set[subprocess.Popen[Any]] = set()
_lock = threading.Lock()


def run(
    command: Sequence[str],
    *,
    input: bytes = b"",  # noqa: A002 - as in `subprocess.run`
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    on_line: Callable[[str], None] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end and return its exit code and output, as `subprocess.run` does with ``capture_output``.

    Args:
        command: the program and its arguments.
        input: what it reads on standard input.
        cwd: the folder to start in.
        env: its environment; ours by default.
        timeout: seconds that it may take.
        on_line: called, in this thread, with each line of standard error as it comes. Standard output is not kept then.

    Raises:
        subprocess.TimeoutExpired: it took longer; it has been stopped.
        OSError: it could not be started.
    """
    with interrupts.held():
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE if input else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if on_line is not None else subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=env,
            process_group=0,
        )
        with _lock:
            _running.add(process)
    try:
        if on_line is None:
            out, said = process.communicate(input or None, timeout)
        else:
            assert process.stderr is not None
            lines = []
            for line in process.stderr:
                lines.append(line)
                on_line(line.decode(errors="replace").strip())
            out, said = b"", b"".join(lines)
            process.wait(timeout)
        return subprocess.CompletedProcess(command, process.returncode, out, said)
    except BaseException:
        _stop(process)
        raise
    finally:
        with _lock:
            _running.discard(process)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def stop_all() -> None:
    """Stop the programs that other threads wait for; their `run` returns with a negative exit code."""
    with _lock:
        running = list(_running)
    for process in running:
        _signal(process, signal.SIGKILL)


def _stop(process: subprocess.Popen[Any]) -> None:
    """End a process and all that it has started, and wait for its end."""
    _signal(process, signal.SIGTERM)
    give_up = time.monotonic() + GRACE
    # Not yet waited for: until its last member is gone, the group's number cannot become somebody else's.
    while time.monotonic() < give_up and _still_runs(process):
        time.sleep(0.01)
    _signal(process, signal.SIGKILL)
    process.wait()


def _still_runs(process: subprocess.Popen[Any]) -> bool:
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None
    except (AttributeError, ChildProcessError):  # macOS before Python 3.13, or it has been waited for
        return process.poll() is None


def _signal(process: subprocess.Popen[Any], number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        pass  # all gone; macOS says the latter of a group of zombies
