"""How long a worker goes on trying: its time, its tries, the pauses between them, and the patience with refusals.

One `Retry` serves all connections of a worker; it knows neither sockets nor frames. Where it can, it measures waiting
by the pauses it made, not by the clock: a sandbox that was frozen for an hour has not been waiting.
"""

from __future__ import annotations

import os
import time

from .errors import FetchError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Condition
    from typing import Protocol, TypeVar

    Result = TypeVar("Result")

    class Counted(Protocol):
        """What is tried again and again."""

        tries: int

    class Counters(Protocol):
        """Where retries are counted, for the report."""

        retries: int
        hedges: int


ATTEMPTS = 5
"""How often a request may fail in a row, without a frame of it having landed, before its failure is final."""
REFUSED = (429, 503)
"""What S3 answers when a prefix is asked too much at once, by all who ask together."""
REFUSAL_SECONDS = 60.0
"""How long such refusals are met with patience instead. A thousand sandboxes that start at once need a few seconds, ten
thousand about ten (benchmarks/storm.py); five attempts would lose most of them."""
FIRST_PAUSE, PAUSE = 0.05, 2.0
"""The longest pause after a first failure and after any, seconds, whatever the server asks for."""
FRAME_SECONDS = 20.0
"""How long one frame, or the root, may take to come: a source that trickles is as good as none."""
HEDGES = 2
"""How many requests of a worker may be sent a second time because the first byte is late. S3's outliers are rare; where
many first bytes are late, the reason lies elsewhere, and twice the requests would make it worse."""
GRACE = 0.2
"""Seconds that a wait for bytes may go on when the time is over: whoever waits for the worker knows what was waiting,
and is to say so first."""


class Tries:
    """Counts the tries of something that is no request of the queue."""

    __slots__ = ("tries",)

    def __init__(self) -> None:
        self.tries = 0


class Retry:
    """The patience of one worker. Every method may be called from any of its threads."""

    def __init__(
        self,
        *,
        url: str,
        counters: Counters,
        changed: Condition,
        over: Callable[[], bool] = bool,
        seconds: float | None = None,
        once: bool = False,
    ) -> None:
        """Begin to count the time.

        Args:
            url: the source, for messages.
            counters: where retries and hedges are counted.
            changed: notified when `over` may have changed; guards everything here.
            over: tells whether nobody waits for the work any more.
            seconds: all the time there is, tries and pauses included. None: no end but those of this module.
            once: whether a first failure is final.
        """
        self._url = url
        self._counters = counters
        self._changed = changed
        self._over = over
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._once = once
        self._refusals = 0
        self._refused_for = 0.0
        """Seconds of pauses after refusals since anything has landed."""
        self.not_before = 0.0
        """No request is sent before this time, because the source asked for a pause."""

    def left(self) -> float:
        """Return the seconds that are left."""
        return float("inf") if self._deadline is None else self._deadline - time.monotonic()

    def left_for_bytes(self) -> float:
        """Return the seconds that are left for waits for bytes."""
        return self.left() + GRACE

    @property
    def refused(self) -> bool:
        """Whether the last thing that the source said was that it is asked too much."""
        return self._refusals > 0

    def answered(self) -> None:
        """Note that the source serves us. Needs the lock."""
        self._refusals = 0

    def progressed(self) -> None:
        """Note that something has landed. Needs the lock."""
        self._refused_for = 0.0

    def may_hedge(self) -> bool:
        """Whether a request whose first byte is late may be sent a second time; counts it."""
        with self._changed:
            if self._once or self._refusals or self._over() or self._counters.hedges >= HEDGES:
                return False
            self._counters.hedges += 1
            return True

    def run(self, attempt: Callable[[], Result], counted: Counted, *, patient: bool = False) -> Result:
        """Call ``attempt`` until it succeeds, fails for good, or has used up its tries or the time.

        Args:
            attempt: what to try.
            counted: what its failures are counted on.
            patient: whether a refusal is waited out here. If not, it is raised.

        Raises:
            FetchError: the last failure.
        """
        while True:
            try:
                return attempt()
            except FetchError as error:
                if error.status in REFUSED and not self._once:
                    if not patient or not self.may_wait(error):
                        raise
                    self.pause(self.not_before - time.monotonic())
                    continue
                counted.tries += 1
                pause = backoff(counted.tries, error.retry_after, _random())
                final = self._once or counted.tries >= ATTEMPTS or not error.retryable
                if final or pause > self.left() or self._over():
                    raise
                with self._changed:
                    self._counters.retries += 1
                self.pause(pause)

    def pause(self, seconds: float) -> None:
        """Sleep, unless it is over."""
        end = time.monotonic() + seconds
        with self._changed:
            while not self._over() and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)

    def may_wait(self, error: FetchError) -> bool:
        """After a failure: whether it is a refusal that there is time to wait out. Sets the time to wait until."""
        if error.status not in REFUSED or self._once or self._over():
            return False
        pause = self.note_refusal(error)
        return self._refused_for <= REFUSAL_SECONDS and pause < self.left()

    def note_refusal(self, error: FetchError) -> float:
        """Set the time to wait until; return the seconds from now until then."""
        with self._changed:
            now = time.monotonic()
            self._counters.retries += 1
            # Connections that are refused together wait together, which counts once.
            if now >= self.not_before:
                self._refusals += 1
                self.not_before = now
            until = now + backoff(self._refusals, error.retry_after, _random())
            if until > self.not_before:
                self._refused_for += until - self.not_before
                self.not_before = until
            return self.not_before - now

    def watch(self) -> Callable[[], None]:
        """Return what a read of one frame calls before each wait for bytes: it raises when there is no point in it."""
        end = time.monotonic() + FRAME_SECONDS

        def check() -> None:
            if self._over():
                raise FetchError("the load was stopped.", url=self._url)
            if time.monotonic() > end or self.left() <= 0:
                raise FetchError(
                    f"{self._url} sends too slowly: a frame did not come whole within the time that was left "
                    f"or {FRAME_SECONDS:g} seconds. Look for a throttled link, or give the function more memory.",
                    url=self._url,
                    retryable=True,
                )

        return check


def backoff(tries: int, retry_after: float | None, random: float) -> float:
    """Return how long to pause after a failure, in seconds.

    Full jitter, so that a thousand sandboxes that failed together do not come back together.

    Args:
        tries: how many tries have failed.
        retry_after: the seconds that the source asks for.
        random: a number from 0 to 1.
    """
    longest = min(PAUSE, FIRST_PAUSE * (1 << min(tries, 16)))
    return max(min(retry_after or 0.0, PAUSE), longest * random)


def _random() -> float:
    # `random` would import hashlib and more; two bytes of the kernel's randomness are jitter enough.
    return int.from_bytes(os.urandom(2), "big") / 65536
