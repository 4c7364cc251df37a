"""The worker: stream, check, decompress, land. It runs in a forked child, in threads, or in the caller's thread.

Knows nothing of imports. It talks to its owner through what it lands in the store, a wake-up call for each step,
and one result at the end. The hosts that run it are in `_host`.
"""

from __future__ import annotations

import time
from _thread import allocate_lock, get_ident

from ._fetch import fetch_head, new_decompressor, read_exactly, unpack, unpack_index
from ._pack import SKIPPABLE_HEADER, Root
from ._plan import INDEX, Early, Plan, early_ranges
from ._retry import REFUSED, Retry, Tries
from ._store import Landing, Store
from ._target import check_host
from .errors import FetchError, IntegrityError, LazydepsError, PackFormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from threading import Thread
    from typing import Any, TypeVar

    from ._config import Config
    from ._fetch import Decompress, Head
    from ._pack import Frame, Section
    from ._plan import Request
    from ._ref import Ref
    from ._sources import Body, Connection, Source

    Result = TypeVar("Result")

PER_CONNECTION = 85e6
"""Bytes a second that S3 gives one connection."""
FEW = 3
"""Connections where the link is what limits: one brings bytes, one waits for its answer, one unpacks. More would bring
nothing sooner, but what is needed first together with what is needed later."""
LOCK_SECONDS = 120.0
"""How long a worker waits for another process that is landing the same pack."""
ROOT = -2
"""Stands for the root where frames are numbered."""
_threads: set[int] = set()


class Stats:
    """What a worker did, in plain numbers that survive the trip to its owner. Times are `time.monotonic` seconds."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, float, float, float]] = []
        """``(frame, requested, received, landed)`` for each frame that this worker fetched."""
        self.requests = 0
        self.bytes = 0
        self.retries = 0
        self.hedges = 0
        self.phases: list[tuple[str, float, float]] = []
        self.first_byte: list[float] = []

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return dict(vars(self))


class Worker:
    """Brings a pack, or some frames of it, into a store."""

    def __init__(
        self,
        *,
        ref: Ref,
        source: Source,
        store: Store,
        config: Config,
        wake: Callable[[], None] = lambda: None,
        only: Sequence[int] | None = None,
        complete: bool = False,
        seconds: float | None = None,
        once: bool = False,
    ) -> None:
        """Describe the work; `run` does it.

        Args:
            ref: the pinned reference.
            source: where the pack is.
            store: where it lands.
            config: connections, timeouts, limits.
            wake: called after each step that an importer may be waiting for.
            only: these data or cold frames instead of the boot and data sets.
            complete: every frame, and the boot set's bytecode as plain files too.
            seconds: all the time there is for it. None: no end but those of `_retry`.
            once: whether a first failure is final.
        """
        self.stats = Stats()
        self._ref = ref
        self._source = source
        self._store = store
        self._config = config
        self._wake = wake
        self._only = only
        self._complete = complete
        self._etag: str | None = None
        self._root: Root
        self._plan: Plan | None = None
        self._landing: Landing | None = None
        self._active = 0
        """How many connections are bringing something."""
        self._error: BaseException | None = None
        self._stopped = False
        self._refetched: set[int] = set()
        self._early: list[Early] = []
        self._asking: dict[Early, Connection] = {}
        """Where early requests wait for their answer."""
        self._waiting = 0
        """How many of the active ones wait until the index says what their early request brings."""
        self._reading = 0.0
        """Seconds that all connections together have spent on receiving `Stats.bytes`."""
        self._connections: list[Connection] = []
        self._threads: list[Thread] = []
        from threading import Condition

        self._changed = Condition(allocate_lock())
        self._retry = Retry(
            url=source.url, counters=self.stats, changed=self._changed, over=self._over, seconds=seconds, once=once
        )

    def run(self) -> None:
        """Do the work.

        Raises:
            LazydepsError: it could not be done; what has landed stays usable.
        """
        with WorkerThread():
            self._run()

    def _run(self) -> None:
        store = self._store
        store.prepare()
        try:
            with self._phase("lock"):
                self._take_lock(store)
            try:
                with self._phase("root"):
                    connection, head = self._obtain_root()
                self._landing = Landing(store, self._root, allocate_lock())
                self._wake()
                with self._phase("frames"):
                    self._stream(connection, head)
                if self._complete:
                    self._landing.write_plain_bytecode()
            except BaseException as error:
                self._fail(error)
                raise
            finally:
                for thread in self._threads:
                    thread.join()
                if self._landing is not None:
                    self._landing.close()
        finally:
            store.unlock()
            store.close()

    def stop(self) -> None:
        """Make `run` return soon. Safe to call from any thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._interrupt()

    def _interrupt(self) -> None:
        for connection in tuple(self._connections):
            connection.interrupt()

    def _fail(self, error: BaseException) -> None:
        """Let every thread know that it is over."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()
        self._interrupt()  # of those that wait for bytes, too

    def _is_wanted(self) -> bool:
        return not self._over()

    def _over(self) -> bool:
        return self._stopped or self._error is not None

    def _connect(self) -> Connection:
        connection = self._source.connect(timeout=self._config.socket_timeout)
        connection.may_hedge = self._retry.may_hedge
        connection.left = self._retry.left_for_bytes
        connection.is_wanted = self._is_wanted
        self._connections.append(connection)
        return connection

    def demand(self, first: int, stop: int) -> None:
        """Bring these frames (or `INDEX`) before anything that has not been requested yet."""
        with self._changed:
            if self._plan is not None:
                self._plan.demand(first, stop)
            self._changed.notify_all()

    # -- before the stream

    def _start_threads(self, earlies: Sequence[Early | None]) -> None:
        """Start a thread with a connection of its own for each of these; None: one that begins with the queue."""
        from threading import Thread

        for early in earlies:
            thread = Thread(target=self._connection_loop, args=(None, early), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _take_lock(self, store: Store) -> None:
        waited = 0.0
        pause = 0.001
        while not store.try_lock():
            if self._stopped:
                raise LazydepsError("the load was stopped before it had finished.")
            if self._retry.left() <= 0:
                raise FetchError(
                    f"{self._source.url} was not asked: another process, which has {store.path}/lock, is landing the "
                    "same pack, and the time that was left is over. Try again.",
                    url=self._source.url,
                    retryable=True,
                )
            if waited > LOCK_SECONDS:
                raise LazydepsError(
                    f"another process has held {store.path}/lock for {waited:.0f} seconds "
                    "while landing the same pack. End that process, or set LAZYDEPS_DIR to another folder."
                )
            time.sleep(pause)
            waited += pause  # not the clock: a sandbox that was frozen has not been waiting
            pause = min(pause * 1.5, 0.02)

    def _obtain_root(self) -> tuple[Connection | None, Head | None]:
        """Read the root from the store, or from the source. Return what is left of the first request."""
        store, limits = self._store, self._config.limits
        root = store.read_root(limits)
        connection = head = None
        if root is None:
            connection = self._connect()
            if self._only is None:
                self._early = early_ranges(self._config.connections)
                self._start_threads(self._early)
            head = self._retry.run(lambda: self._fetch_head(connection), Tries(), patient=True)
            root = Root(head.content, limits=limits)
            check_host(root)
            root.boot.validate(limits)
        else:
            check_host(root)
        self._root = root
        store.open_landed(root)
        if self._only is None:
            store.ensure_room(root, store.read_index(root), complete=self._complete)
        if head is not None:
            store.write_root(head.content)
        return connection, head

    def _fetch_head(self, connection: Connection) -> Head:
        with self._changed:
            self.stats.requests += 1
        try:
            check = self._retry.watch()
            head = self._once_more(ROOT, fetch_head, connection, self._ref.root, self._config.limits, check)
        except BaseException:
            connection.close()
            raise
        self._etag = head.body.etag
        self._count(head.body)
        self._count_bytes(SKIPPABLE_HEADER + len(head.content))
        return head

    # -- the stream

    def _stream(self, connection: Connection | None, head: Head | None) -> None:
        rest = self._store.read_index(self._root)
        if rest is not None:
            rest.validate(self._config.limits)
        first = None
        if head is not None:
            # What the first request still holds is an early range like the others, of which some may lie beyond the
            # end of the pack, or be contained in a first request that had to be longer.
            first = Early(SKIPPABLE_HEADER + len(head.content), head.stop)
            for other in self._early:
                other.open = head.stop <= other.start < head.body.total
        early = self._early if first is None else [first, *self._early]
        with self._changed:
            self._plan = plan = Plan(
                self._root, rest, missing=self._store.missing, only=self._only, complete=self._complete, early=early
            )
            if self._retry.refused:
                plan.gather()
            self._active += sum(one.open for one in early)
            for one, waiting in self._asking.items():
                if not one.open:
                    waiting.interrupt()  # nobody needs its answer, so nobody shall wait for it
            self._changed.notify_all()
        if self._only is None and not self._threads:
            self._start_threads([None] * (min(self._config.connections, len(plan) + 4) - 1))
        self._connection_loop(connection, first, None if head is None else head.body)
        for thread in self._threads:
            thread.join()
        if self._error is not None:
            raise self._error
        if self._stopped:
            raise LazydepsError("the load was stopped before it had finished.")

    def _connection_loop(
        self, connection: Connection | None = None, early: Early | None = None, body: Body | None = None
    ) -> None:
        with WorkerThread():
            try:
                if connection is None:
                    connection = self._connect()
                if early is not None and body is None:
                    body = self._ask_early(connection, early)
                plan = self._await_plan()
                if plan is None:
                    return
                decompress = new_decompressor()
                if early is not None and early.open:
                    self._serve_early(plan, connection, early, decompress, body)
                while True:
                    request = self._next(plan)
                    if request is None:
                        break
                    self._serve(connection, request, decompress)
                    with self._changed:
                        self._active -= 1
                        self._changed.notify_all()
            except BaseException as error:
                self._fail(error)
            finally:
                if connection is not None:
                    connection.close()

    def _await_plan(self) -> Plan | None:
        with self._changed:
            while self._plan is None and not self._over():
                self._changed.wait()
            return None if self._over() else self._plan

    def _next(self, plan: Plan) -> Request | None:
        """Return the next request, or None when there will be no more."""
        with self._changed:
            while not self._over():
                if not plan and not self._active:
                    break
                pause = self._retry.not_before - time.monotonic()
                if pause <= 0 and (self._active - self._waiting < FEW or not self._link_is_full()):
                    request = plan.take()
                    if request is not None:
                        self._active += 1
                        return request
                    if not self._active:
                        break
                self._changed.wait(pause if pause > 0 else None)
            self._changed.notify_all()
            return None

    def _link_is_full(self) -> bool:
        """Whether connections bring so much less than S3 would give them that the link must be the reason."""
        return self.stats.bytes < self._reading * PER_CONNECTION / 3

    def _ask_early(self, connection: Connection, early: Early) -> Body | None:
        """Send an early request and return its answer, or None if there is none that is of use."""
        with self._changed:
            if not early.open:
                return None
            self._asking[early] = connection
        connection.is_wanted = lambda: early.open and not self._over()
        try:
            return self._get(connection, early.start, early.stop)
        except LazydepsError as error:
            # It lies beyond the pack's end; or the first request meets the same trouble and tells of it.
            if isinstance(error, FetchError) and error.status in REFUSED:
                self._retry.note_refusal(error)
            return None
        finally:
            connection.is_wanted = self._is_wanted
            with self._changed:
                del self._asking[early]

    def _serve_early(
        self, plan: Plan, connection: Connection, early: Early, decompress: Decompress, body: Body | None
    ) -> None:
        """Land what an early request brings. What it does not is queued like the rest."""
        try:
            if body is not None and body.etag == self._etag:
                self._receive_early(plan, early, decompress, body)
                body.close()
        except (FetchError, PackFormatError):
            connection.close()
        except BaseException:
            connection.close()
            raise
        finally:
            with self._changed:
                plan.close(early)
                self._active -= 1
                self._changed.notify_all()

    def _receive_early(self, plan: Plan, early: Early, decompress: Decompress, body: Body) -> None:
        def wait_for_index() -> None:
            with self._changed:
                # Whoever else is free may have to bring it.
                self._waiting += 1
                self._changed.notify_all()
                while plan.rest is None and not self._over():
                    self._changed.wait()
                self._waiting -= 1

        requested = time.monotonic()
        at = early.start
        for number, begin, end in plan.contents(early, wait_for_index):
            low, high = max(begin, at), min(end, early.stop)
            data = memoryview(bytearray(high - at))
            begun = time.monotonic()
            read_exactly(body, data, self._retry.watch())
            received = time.monotonic()
            self._count_bytes(high - low, received - begun)
            packed, at = data[low - at :], high
            with self._changed:
                early.start = at
                if not plan.expects(number):
                    continue
                if len(packed) < end - begin:
                    joined = plan.join(number, end - begin, low - begin, packed)
                    if joined is None:
                        continue
                    packed = memoryview(joined)
                plan.received(number)
            try:
                if number == INDEX:
                    self._land_index(plan, decompress, packed)
                else:
                    section = plan.section_of(number)
                    self._land_frame(plan, section, section.frame(number), decompress, packed, (requested, received))
            except (FetchError, PackFormatError):  # asked for the plain way, it comes whole or says what is wrong
                with self._changed:
                    plan.give_back(number)
                raise

    def _serve(self, connection: Connection, request: Request, decompress: Decompress) -> None:
        """Bring everything a request names, again where the source fails in a way that may pass."""

        def attempt() -> None:
            try:
                self._receive(connection, request, decompress)
            except BaseException:
                connection.close()
                raise

        try:
            self._retry.run(attempt, request)
        except FetchError as error:
            if not self._retry.may_wait(error):
                raise
            # Back into the queue, where it joins its neighbours: what the source wants is fewer requests.
            with self._changed:
                assert self._plan is not None
                self._plan.gather(request)

    def _receive(self, connection: Connection, request: Request, decompress: Decompress) -> None:
        plan = self._plan
        assert plan is not None
        requested = time.monotonic()
        frames = [request.section.frame(number) for number in request.frames]
        index_start, index_stop = self._root.index_span
        start = frames[0].start if frames else index_start
        stop = index_stop if request.index else frames[-1].start + frames[-1].packed
        body = self._get(connection, start, stop, etag=self._etag)
        buffer = memoryview(bytearray(max((frame.packed for frame in frames), default=0)))
        for frame in frames:
            packed = buffer[: frame.packed]
            begun = time.monotonic()
            read_exactly(body, packed, self._retry.watch())
            received = time.monotonic()
            self._count_bytes(frame.packed, received - begun)
            self._land_frame(plan, request.section, frame, decompress, packed, (requested, received))
            request.frames.popleft()
            request.tries = 0
        if request.index:
            # Behind the frames comes the head of the skippable frame, then its content.
            packed = memoryview(bytearray(stop - (frames[-1].start + frames[-1].packed if frames else start)))
            read_exactly(body, packed, self._retry.watch())
            self._count_bytes(len(packed))
            self._land_index(plan, decompress, packed[-(index_stop - index_start) :])
            request.index = False
        body.close()

    def _land_frame(
        self,
        plan: Plan,
        section: Section,
        frame: Frame,
        decompress: Decompress,
        packed: memoryview,
        times: tuple[float, float],
    ) -> None:
        self._once_more(frame.number, frame.check, packed)
        assert self._landing is not None
        self._landing.land(section, frame.number, memoryview(unpack(decompress, packed, frame)))
        with self._changed:
            plan.landed(frame.number)
            self._retry.progressed()
            self.stats.frames.append((frame.number, *times, time.monotonic()))
        self._wake()

    def _land_index(self, plan: Plan, decompress: Decompress, packed: memoryview) -> None:
        self._once_more(INDEX, self._root.check_index, packed)
        text = unpack_index(self._root, packed, decompress)
        rest = self._root.read_index(text)
        rest.validate(self._config.limits)
        self._store.write_index(text)
        if self._only is None:  # only now is it known how many files the data set has
            self._store.ensure_room(self._root, rest, complete=self._complete, first=rest.first)
        with self._changed:
            plan.add_index(rest)
            self._changed.notify_all()
        self._wake()

    def _once_more(self, what: int, check: Callable[..., Result], *args: Any) -> Result:
        """Run a check of digests; ask for what fails it a second time, as a bit may flip on the way.

        A second failure means that the object is wrong.
        """
        try:
            return check(*args)
        except IntegrityError:
            if what in self._refetched:
                raise
            self._refetched.add(what)
            name = {INDEX: "the index", ROOT: "the root"}.get(what, f"frame {what}")
            raise FetchError(
                f"{name} of {self._source.url} came damaged.", url=self._source.url, retryable=True
            ) from None

    # -- shared

    def _get(self, connection: Connection, start: int, stop: int, *, etag: str | None = None) -> Body:
        with self._changed:
            self.stats.requests += 1
        body = connection.get(start, stop, etag=etag)
        self._count(body)
        return body

    def _count(self, body: Body) -> None:
        with self._changed:
            if self._etag is None:
                self._etag = body.etag
            self._retry.answered()
            self.stats.first_byte.append(body.first_byte)

    def _count_bytes(self, count: int, seconds: float = 0.0) -> None:
        with self._changed:
            self.stats.bytes += count
            self._reading += seconds

    def _phase(self, name: str) -> _Phase:
        return _Phase(self.stats, name)


class _Phase:
    """Times a part of the work: ``with`` records its begin and end, however it ends."""

    def __init__(self, stats: Stats, name: str) -> None:
        self._stats, self._name = stats, name

    def __enter__(self) -> None:
        self._begin = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._stats.phases.append((self._name, self._begin, time.monotonic()))


def is_worker_thread() -> bool:
    """Whether the calling thread is doing a worker's work, so that its imports must not wait for a worker."""
    return get_ident() in _threads


def forget_threads() -> None:
    """In a forked process: no thread of the parent does anything here."""
    _threads.clear()


class WorkerThread:
    """Marks the calling thread as one that does a worker's work, for the length of a ``with`` block."""

    def __enter__(self) -> None:
        self._outer = is_worker_thread()
        _threads.add(get_ident())

    def __exit__(self, *_: object) -> None:
        if not self._outer:
            _threads.discard(get_ident())
