"""The time that is left to whoever imports, as `lazydeps.deadline` sets it. It knows neither packs nor workers."""

from __future__ import annotations

import time
from _thread import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextvars import ContextVar, Token
    from types import TracebackType
    from typing import Protocol

    class Context(Protocol):
        """The context that Lambda passes to a handler."""

        def get_remaining_time_in_millis(self) -> int:
            """Return the milliseconds until Lambda ends the invocation."""
            ...


MARGIN = 0.5
"""Seconds that are kept back of what Lambda leaves: enough to raise an error, and for a handler to answer with it."""
LONGEST = 365 * 86400.0
"""No time is longer: contexts made for tests return numbers that no clock can hold."""
_making = allocate_lock()
_ends: ContextVar[float | None] | None = None


class Deadline:
    """What `deadline` returns. Use it with ``with``."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + min(seconds, LONGEST)
        self._tokens: list[Token[float | None]] = []

    def __enter__(self) -> Deadline:
        global _ends
        if _ends is None:
            from contextvars import ContextVar  # not on the way of a start that uses none

            with _making:
                if _ends is None:
                    _ends = ContextVar("lazydeps_deadline", default=None)
        outer = _ends.get()
        self._tokens.append(_ends.set(self._end if outer is None else min(outer, self._end)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert _ends is not None
        _ends.reset(self._tokens.pop())


def deadline(left: Context | float) -> Deadline:
    """Bound what imports and waits may take inside a ``with`` block, in this thread or task.

        def handler(event, context):
            with lazydeps.deadline(context):
                import pandas  # arrives in time, or raises FetchError while there is time to answer

    Blocks may be nested; the earliest end counts. It bounds waiting for packs, not what modules do when they run, nor
    waiting for another thread that imports the same module.

    Args:
        left: the handler's context, of whose remaining time half a second is kept back, or a number of seconds.
    """
    if isinstance(left, (int, float)):
        return Deadline(left)
    return Deadline(left.get_remaining_time_in_millis() / 1000 - MARGIN)


def forget() -> None:
    """In a forked process: it may never leave the block that it was forked in."""
    if _ends is not None:
        _ends.set(None)


def end() -> float | None:
    """Return the end that counts here and now, in `time.monotonic` seconds; None where there is none."""
    return None if _ends is None else _ends.get()


def seconds_left(timeout: float | None) -> float | None:
    """Return the seconds that something may take, given its own time-out; None for no end."""
    limit = end()
    if limit is None:
        return timeout
    left = max(0.0, limit - time.monotonic())
    return left if timeout is None else min(left, timeout)
