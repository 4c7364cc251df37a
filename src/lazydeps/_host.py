"""Where a worker runs: a forked child where fork is safe, threads elsewhere. One worker, two hosts.

The child has an interpreter lock of its own, so that writing thousands of files does not starve the importing
thread. Both hosts speak to their owner through the same two pipes: one byte a step (and end-of-file when the
worker is gone) in one direction, demands for frames in the other.
"""

from __future__ import annotations

import os
import sys

from . import errors
from .errors import LazydepsError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Thread
    from typing import Any

    from ._worker import Worker

_DEMAND = 16
"""Bytes of a demand: first frame and the one behind the last, 8 bytes each, signed, little-endian."""
_END = bytes(_DEMAND)
"""No frames at all: the owner needs no more."""


_SIGKILL = 9
"""`signal.SIGKILL`, without the import."""


class Host:
    """A running worker, seen from its owner."""

    kind = ""
    """``fork`` or ``threads``; stands in reports."""

    def __init__(self) -> None:
        self._wake_read, self._wake_write = os.pipe()
        # The owner keeps the reading end of the demand pipe too: a demand to a worker that has just ended must not
        # raise SIGPIPE, which some programs let kill them.
        self._demand_read, self._demand_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._demand_write, False)
        self._own = {handle: _identity(handle) for handle in (self._wake_read, self._demand_read, self._demand_write)}
        self.ended = False

    def wait(self, seconds: float) -> None:
        """Return at the worker's next step, when it has ended, or after this many seconds."""
        from select import POLLIN, poll

        # A new object each time: a signal handler may import, and so wait, in the middle of this very wait.
        watch = poll()
        try:
            if not self._is_own(self._wake_read):
                raise OSError
            watch.register(self._wake_read, POLLIN)
            if watch.poll(int(seconds * 1000)) and not self.ended and not os.read(self._wake_read, 65536):
                self.ended = True
        except OSError:
            self.ended = True  # somebody closed the pipe under us

    def demand(self, first: int, stop: int) -> None:
        """Ask for frames ahead of everything that has not been requested yet."""
        message = first.to_bytes(8, "little", signed=True) + stop.to_bytes(8, "little", signed=True)
        self._tell(message)

    def result(self) -> tuple[LazydepsError | None, dict[str, Any] | None]:
        """Return what the worker ended with: its error and its figures; no figures if it died. Call after `ended`."""
        raise TypeError(f"{type(self).__name__} lacks what every host has")

    def stop(self) -> None:
        """End the worker at once. The store stays usable."""
        raise TypeError(f"{type(self).__name__} lacks what every host has")

    def abandon(self) -> None:
        """Let go of everything in a process forked from the owner, and leave the worker alone."""
        raise TypeError(f"{type(self).__name__} lacks what every host has")

    def _tell(self, message: bytes) -> None:
        try:
            if self._is_own(self._demand_write):
                os.write(self._demand_write, message)
        except OSError:
            pass  # the pipe is full, which asks for enough, or the worker has ended, which whoever asked sees next

    def _is_own(self, handle: int) -> bool:
        """Whether a descriptor is still what we opened. Some programs close what is not theirs."""
        found = _identity(handle)
        # `get`: another thread may still hold this host when its worker has ended and everything is closed.
        return found is not None and found == self._own.get(handle)

    def _close(self) -> None:
        for handle in self._own:
            if self._is_own(handle):
                os.close(handle)
        self._own.clear()

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b".")
        except BlockingIOError:
            pass  # the owner has wake-ups enough to read
        except BrokenPipeError:
            pass  # the owner is gone; the demand pipe says so too


def _identity(handle: int) -> tuple[int, int] | None:
    try:
        facts = os.fstat(handle)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def fork_is_safe() -> bool:
    """Whether this is Linux with a single thread, C threads included: nobody can hold a lock across the fork."""
    if sys.platform != "linux":
        return False
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False


class ForkHost(Host):
    """The worker in a child process."""

    kind = "fork"

    def __init__(self, worker_for: Callable[[Callable[[], None]], Worker]) -> None:
        super().__init__()
        self._result = os.memfd_create("lazydeps-result")
        self._own[self._result] = _identity(self._result)
        owner = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            self._child(worker_for, owner)
        os.close(self._wake_write)

    def _child(self, worker_for: Callable[[Callable[[], None]], Worker], owner: int) -> None:
        """Run the worker and leave without unwinding into the owner's code."""
        try:
            # What `signal` is made of: importing that one, and `enum` with it, would delay the first request.
            import _signal as signal  # type: ignore[import-not-found]
            import gc

            gc.disable()  # everything here lives until the child ends
            # Ctrl-C reaches the whole process group; the owner decides, and this child follows its pipe.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.close(self._wake_read)
            os.close(self._demand_write)
            worker = worker_for(self._wake)
            from _thread import start_new_thread

            start_new_thread(_listen, (self._demand_read, worker, lambda: os._exit(0)))
            error = None
            try:
                worker.run()
            except BaseException as caught:
                error = caught
            if os.getppid() == owner:
                from json import dumps

                content = dumps({"error": describe(error), "stats": worker.stats.as_dict()}).encode()
                os.pwrite(self._result, content, 0)
        finally:
            os._exit(0)

    def result(self) -> tuple[LazydepsError | None, dict[str, Any] | None]:
        self._reap()
        from json import loads

        content = b""
        if self._is_own(self._result):
            content = os.pread(self._result, os.fstat(self._result).st_size, 0)
        self._close()
        if not content:
            return None, None
        try:
            report = loads(content)
        except ValueError:  # it died while it wrote this
            return None, None
        return revive(report["error"]), report["stats"]

    def stop(self) -> None:
        try:
            os.kill(self._pid, _SIGKILL)
        except ProcessLookupError:
            pass
        self.ended = True
        self._reap()
        self._close()

    def abandon(self) -> None:
        self._close()

    def _reap(self) -> None:
        try:
            os.waitpid(self._pid, 0)
        except ChildProcessError:
            pass  # somebody else in this process waits for every child, or ignores SIGCHLD


class ThreadHost(Host):
    """The worker in threads of this process."""

    kind = "threads"

    def __init__(self, worker_for: Callable[[Callable[[], None]], Worker]) -> None:
        super().__init__()
        from threading import Thread

        self._worker = worker_for(self._wake)
        self._wake_identity = _identity(self._wake_write)
        self._error: BaseException | None = None
        self._listener = Thread(target=_listen, args=(self._demand_read, self._worker, self._worker.stop), daemon=True)
        self._thread: Thread = Thread(target=self._run, name="lazydeps", daemon=True)
        self._listener.start()
        self._thread.start()

    def _run(self) -> None:
        try:
            self._worker.run()
        except BaseException as error:
            self._error = error
        finally:
            if _identity(self._wake_write) == self._wake_identity:
                os.close(self._wake_write)  # end-of-file: the owner sees that it is over

    def wait(self, seconds: float) -> None:
        super().wait(seconds)
        if not self._thread.is_alive():  # a process forked meanwhile may hold the pipe's other end open
            self.ended = True

    def result(self) -> tuple[LazydepsError | None, dict[str, Any] | None]:
        self._join()
        return revive(describe(self._error)), self._worker.stats.as_dict()

    def stop(self) -> None:
        self._worker.stop()
        self.ended = True
        self._join()

    def abandon(self) -> None:
        self._close()
        # Where the worker has ended, the number may be somebody else's by now.
        if _identity(self._wake_write) == self._wake_identity:
            os.close(self._wake_write)

    def _join(self) -> None:
        self._thread.join()
        # Said in so many words: a process forked meanwhile may hold the other end, so that closing it says nothing.
        self._tell(_END)
        self._listener.join()
        self._close()


def _listen(handle: int, worker: Worker, orphaned: Callable[[], None]) -> None:
    """Pass demands on until the owner closes the pipe, on purpose or by dying."""
    while True:
        try:
            message = os.read(handle, _DEMAND)
        except OSError:
            message = b""
        if len(message) < _DEMAND or message == _END:
            orphaned()
            return
        worker.demand(
            int.from_bytes(message[:8], "little", signed=True), int.from_bytes(message[8:], "little", signed=True)
        )


def describe(error: BaseException | None) -> dict[str, Any] | None:
    """Put an error into JSON values: its class, its words and its facts."""
    if error is None:
        return None
    facts = error.facts() if isinstance(error, LazydepsError) else {}
    return {"type": type(error).__name__, "message": str(error), "facts": facts}


def revive(report: dict[str, Any] | None) -> LazydepsError | None:
    """Make the error again that `describe` described."""
    if report is None:
        return None
    kind = getattr(errors, report["type"], None)
    if not (isinstance(kind, type) and issubclass(kind, LazydepsError)):
        return LazydepsError(
            f"the worker failed: {report['type']}: {report['message']}. This is a defect of lazydeps; please report it."
        )
    return kind(report["message"], **report["facts"])
