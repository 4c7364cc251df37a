"""Ctrl-C, SIGTERM and SIGHUP become one exception, raised once: what cleans up is not interrupted again.

Python's own answer to SIGTERM and SIGHUP is to end at once, and to a second Ctrl-C to leave a clean-up half done.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 10.0
"""Seconds after the first signal from which a further one ends the process at once: a clean-up may hang, too."""


class Interrupted(KeyboardInterrupt):
    """A signal that ends the command. Python code that cares for Ctrl-C cares for this one."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """What a shell makes of a program that this signal ended: 130 for Ctrl-C."""
        return 128 + self.number


class _State:
    """One process has one set of signal handlers."""

    first: float | None = None
    number: int | None = None
    """Which signal came first."""
    held = 0
    waiting: int | None = None


@contextmanager
def raised_once() -> Iterator[None]:
    """Raise `Interrupted` in the main thread at the first signal, and disregard those that follow it.

    Signals that were ignored before (`nohup`, a shell's background job) stay ignored. Outside the main thread this
    does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.first, _State.number, _State.held, _State.waiting = None, None, 0, None
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler not in (signal.SIG_IGN, None):
            signal.signal(number, _take)
    try:
        yield
    except Interrupted:
        raise  # the process is about to end, and a second signal is not to come between
    except BaseException:
        _restore(before)
        raise
    _restore(before)


def exit_code() -> int:
    """Return what a command that was interrupted ends with: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + (_State.number or signal.SIGINT)


def ignore() -> None:
    """Let no further signal come between a command that was interrupted and its exit code."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # the one setting that the interpreter's own end leaves alone


def _restore(before: Mapping[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        if handler not in (signal.SIG_IGN, None):
            signal.signal(number, handler)


@contextmanager
def held() -> Iterator[None]:
    """Let no signal come between steps that belong together, such as starting a process and noting that it runs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.held += 1
    try:
        yield
    finally:
        _State.held -= 1
        if not _State.held and _State.waiting is not None:
            number, _State.waiting = _State.waiting, None
            raise Interrupted(number)


def _take(number: int, frame: FrameType | None) -> None:
    del frame
    now = time.monotonic()
    if _State.first is None:
        _State.first, _State.number = now, number
        if not _State.held:
            raise Interrupted(number)
        _State.waiting = number
    elif now - _State.first > PATIENCE:
        os._exit(128 + number)
