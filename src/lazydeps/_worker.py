"""The worker: stream, check, decompress, land. It runs in a forked child, in threads, or in the caller's thread.

Knows nothing of imports. It talks to its owner through what it lands in the store, a wake-up call for each step,
and one result at the end. The hosts that run it are in `_host`.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock, get_ident
from collections import deque

from ._fetch import fetch_head, new_decompressor, read_exactly, unpack, unpack_index
from ._pack import SKIPPABLE_HEADER, Root, Section
from ._store import Landing, Store, check_space
from ._target import check_host
from .errors import FetchError, IntegrityError, LazydepsError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, TypeVar

    from ._config import Config
    from ._fetch import Decompress, Head
    from ._ref import Ref
    from ._sources import Body, Connection, Source

    Result = TypeVar("Result")

GROWTH = ((4, 1 << 20), (2, 2 << 20), (2, 4 << 20))
"""How many requests of which size (bytes) follow the first one: small ones, so that the frames needed first are not
held up by those needed later, then `LARGEST` ones, so that a start makes few requests."""
LARGEST = 8 << 20
ATTEMPTS = 5
"""How often a request is sent before its failure is final."""
PAUSE = 2.0
"""The longest pause between two of them, seconds, whatever the server asks for."""
LOCK_SECONDS = 120.0
"""How long a worker waits for another process that is landing the same pack."""
FRAME_SECONDS = 20.0
"""How long one frame may take to come: a source that trickles is as good as none."""
INDEX, ROOT = -1, -2
"""Stand for the index and the root where frames are named."""
_threads: set[int] = set()


class Stats:
    """What a worker did, in plain numbers that survive the trip to its owner. Times are `time.monotonic` seconds."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, float, float, float]] = []
        """``(frame, requested, received, landed)`` for each frame that this worker fetched."""
        self.requests = 0
        self.bytes = 0
        self.retries = 0
        self.phases: list[tuple[str, float, float]] = []
        self.first_byte: list[float] = []

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return dict(vars(self))


class Request:
    """A run of neighbouring frames, or the index, that one ranged GET brings."""

    __slots__ = ("frames", "section")

    def __init__(self, section: Section | None, frames: deque[int]) -> None:
        self.section = section
        """None: the index."""
        self.frames = frames
        """What is still to come."""


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
        within: float | None = None,
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
            within: seconds for all of it, and no second try. None: what the configuration says.
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
        self._rest: Section | None = None
        self._landing: Landing
        self._queue: deque[Request] = deque()
        self._active = 0
        self._error: BaseException | None = None
        self._stopped = False
        self._refetched: set[int] = set()
        self._flying: set[int] = set()
        """Frames that a connection has asked for and that have not landed."""
        self._connections: list[Connection] = []
        self._attempts = ATTEMPTS if within is None else 1
        seconds = config.timeout if within is None else within
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._socket_timeout = config.socket_timeout if within is None else min(within, config.socket_timeout)
        from threading import Condition

        self._changed = Condition(allocate_lock())

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
        with self._phase("lock"):
            self._take_lock()
        try:
            with self._phase("root"):
                connection, head = self._obtain_root()
            self._landing = Landing(store, self._root, allocate_lock())
            try:
                self._wake()
                self._stream(connection, head)
                if self._complete:
                    self._landing.write_plain_bytecode()
            finally:
                self._landing.close()
        finally:
            store.unlock()

    def stop(self) -> None:
        """Make `run` return soon. Safe to call from any thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for connection in tuple(self._connections):
            connection.interrupt()

    def _connect(self) -> Connection:
        connection = self._source.connect(timeout=self._socket_timeout)
        self._connections.append(connection)
        return connection

    def demand(self, first: int, stop: int) -> None:
        """Bring these frames (or `INDEX`) before anything that has not been requested yet."""
        with self._changed:
            if self._rest is None:
                # The index names the cold frames, so whoever asks for some has read it, or asks for it.
                for request in list(self._queue):
                    if request.section is None:
                        self._queue.remove(request)
                        self._queue.appendleft(request)
            elif first >= 0:
                self._queue.extendleft(reversed(self._plan(self._rest, self._store.missing(range(first, stop)))))
            self._changed.notify_all()

    # -- before the stream

    def _take_lock(self) -> None:
        waited = time.monotonic()
        pause = 0.001
        while not self._store.try_lock():
            if self._stopped or time.monotonic() - waited > LOCK_SECONDS or self._left() <= 0:
                raise LazydepsError(
                    f"another process has held {self._store.path}/lock for {time.monotonic() - waited:.0f} seconds "
                    "while landing the same pack. End that process, or set LAZYDEPS_DIR to another folder."
                )
            time.sleep(pause)
            pause = min(pause * 1.5, 0.02)

    def _obtain_root(self) -> tuple[Connection | None, Head | None]:
        """Read the root from the store, or from the source. Return what is left of the first request."""
        store, limits = self._store, self._config.limits
        root = store.read_root(limits)
        connection = head = None
        if root is None:
            connection = self._connect()
            head = self._retrying(lambda: self._fetch_head(connection))
            root = Root(head.content, limits=limits)
            check_host(root)
            root.boot.validate(limits)
        else:
            check_host(root)
        self._root = root
        store.open_landed(root)
        check_space(store, self._needed(root))
        if head is not None:
            store.write_root(head.content)
        return connection, head

    def _fetch_head(self, connection: Connection) -> Head:
        try:
            head = self._once_more(ROOT, fetch_head, connection, self._ref.root, self._config.limits)
        except BaseException:
            connection.close()
            raise
        self._etag = head.body.etag
        self._count(head.body)
        self._count_bytes(SKIPPABLE_HEADER + len(head.content))
        return head

    def _needed(self, root: Root) -> int:
        sets = ("boot", "data", "cold") if self._complete else ("boot", "data")
        if self._only is not None:
            return 0
        rest = self._store.read_index(root)
        needed = 0
        for section in (root.boot, rest):
            if section is not None:
                stop = min(section.first + len(section), root.frames if self._complete else root.data_stop)
                for number in self._store.missing(range(section.first, stop)):
                    needed += section.frame(number).unpacked
        return needed if rest is not None else needed + sum(root.unpacked(name) for name in sets[1:])

    # -- the stream

    def _stream(self, connection: Connection | None, head: Head | None) -> None:
        boot = self._root.boot
        rest = self._store.read_index(self._root)
        with self._phase("frames"):
            first: Request | None = None
            missing = self._store.missing(range(len(boot))) if self._only is None else []
            if head is not None:
                # What the first request still holds are the first boot frames, as far as they came whole.
                covered = deque(n for n in range(len(boot)) if boot.starts[n + 1] <= head.stop)
                if covered and missing[: len(covered)] == list(covered):
                    missing = missing[len(covered) :]
                    first = Request(boot, covered)
                else:
                    head.body.close()
            with self._changed:
                self._queue.extend(self._plan(boot, missing))
                if rest is None:
                    self._queue.append(Request(None, deque((INDEX,))))
                else:
                    rest.validate(self._config.limits)
                    self._take_index(rest)
                if first is not None:
                    self._active += 1
                    self._flying.update(first.frames)
            from threading import Thread

            helpers = min(self._config.connections, len(self._queue) + 4) - 1
            if self._only is not None:
                helpers = 0
            threads = [Thread(target=self._connection_loop, daemon=True) for _ in range(helpers)]
            for thread in threads:
                thread.start()
            self._connection_loop(connection, first, head.body if first is not None and head is not None else None)
            for thread in threads:
                thread.join()
        if self._error is not None:
            raise self._error
        if self._stopped:
            raise LazydepsError("the load was stopped before it had finished.")

    def _plan(self, section: Section, frames: Sequence[int]) -> list[Request]:
        """Group missing frames into requests: neighbours together, small requests first where imports wait."""
        requests: list[Request] = []
        sizes = [size for count, size in GROWTH for _ in range(count)] if section is self._root.boot else []
        room = 0
        for number in frames:
            packed = section.packed[number - section.first]
            if requests and requests[-1].frames[-1] == number - 1 and packed <= room:
                requests[-1].frames.append(number)
                room -= packed
            else:
                requests.append(Request(section, deque((number,))))
                room = (sizes[len(requests) - 1] if len(requests) <= len(sizes) else LARGEST) - packed
        return requests

    def _take_index(self, rest: Section) -> None:
        """Queue what the index makes known. Called with the condition held."""
        self._rest = rest
        if self._only is not None:
            wanted: Iterable[int] = self._only
        else:
            wanted = range(len(self._root.boot), self._root.frames if self._complete else self._root.data_stop)
        self._queue.extend(self._plan(rest, self._store.missing(wanted)))
        self._changed.notify_all()

    def _connection_loop(
        self, connection: Connection | None = None, request: Request | None = None, body: Body | None = None
    ) -> None:
        with WorkerThread():
            try:
                if connection is None:
                    connection = self._connect()
                decompress = new_decompressor()
                while True:
                    if request is None:
                        request = self._next()
                        if request is None:
                            break
                    self._serve(connection, request, decompress, body)
                    request = body = None
                    with self._changed:
                        self._active -= 1
                        self._changed.notify_all()
            except BaseException as error:
                with self._changed:
                    self._error = self._error or error
                    self._changed.notify_all()
            finally:
                if connection is not None:
                    connection.close()

    def _next(self) -> Request | None:
        """Return the next request, or None when there will be no more."""
        with self._changed:
            while not (self._error or self._stopped):
                while self._queue:
                    request = self._queue.popleft()
                    if request.section is not None:
                        self._trim(request)
                    if request.frames:
                        self._active += 1
                        return request
                if not self._active:
                    break
                self._changed.wait()
            self._changed.notify_all()
            return None

    def _trim(self, request: Request) -> None:
        """Leave in a request the first run of neighbours that nobody has brought or is bringing; queue what follows.

        A demand may have taken frames out of its middle, and one GET brings neighbours only.
        """
        frames = [number for number in self._store.missing(request.frames) if number not in self._flying]
        run = next((at for at, number in enumerate(frames) if number != frames[0] + at), len(frames))
        if run < len(frames):
            self._queue.appendleft(Request(request.section, deque(frames[run:])))
        request.frames = deque(frames[:run])
        self._flying.update(request.frames)

    def _serve(
        self,
        connection: Connection,
        request: Request,
        decompress: Decompress,
        body: Body | None,
    ) -> None:
        """Bring everything a request names, again where the source fails in a way that may pass."""

        def attempt() -> None:
            nonlocal body
            opened, body = body, None
            try:
                if request.section is None:
                    self._serve_index(connection, decompress)
                else:
                    self._serve_frames(connection, request, request.section, decompress, opened)
            except BaseException:
                connection.close()
                raise

        self._retrying(attempt)

    def _serve_frames(
        self,
        connection: Connection,
        request: Request,
        section: Section,
        decompress: Decompress,
        body: Body | None,
    ) -> None:
        requested = time.monotonic()
        frames = [section.frame(number) for number in request.frames]
        if body is None:
            body = connection.get(frames[0].start, frames[-1].start + frames[-1].packed, etag=self._etag)
            self._count(body)
        buffer = memoryview(bytearray(max(frame.packed for frame in frames)))
        for frame in frames:
            packed = buffer[: frame.packed]
            read_exactly(body, packed, self._patience())
            self._count_bytes(frame.packed)
            received = time.monotonic()
            self._once_more(frame.number, frame.check, packed)
            self._landing.land(section, frame.number, memoryview(unpack(decompress, packed, frame)))
            self._flying.discard(request.frames.popleft())
            self.stats.frames.append((frame.number, requested, received, time.monotonic()))
            self._wake()
        body.close()

    def _serve_index(self, connection: Connection, decompress: Decompress) -> None:
        start, stop = self._root.index_span
        body = connection.get(start, stop, etag=self._etag)
        self._count(body)
        packed = memoryview(bytearray(stop - start))
        read_exactly(body, packed, self._patience())
        body.close()
        self._count_bytes(stop - start)
        self._once_more(INDEX, self._root.check_index, packed)
        text = unpack_index(self._root, packed, decompress)
        rest = self._root.read_index(text)
        rest.validate(self._config.limits)
        self._store.write_index(text)
        with self._changed:
            self._take_index(rest)
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

    def _patience(self) -> Callable[[], None]:
        """Return what a read of one frame calls before each wait for bytes, to end when there is no point in it."""
        end = time.monotonic() + FRAME_SECONDS

        def check() -> None:
            if self._stopped or self._error:
                raise FetchError("the load was stopped.", url=self._source.url)
            if time.monotonic() > end or self._left() <= 0:
                raise FetchError(
                    f"{self._source.url} sends too slowly: a frame did not come whole within the time that was left "
                    f"or {FRAME_SECONDS:g} seconds. Look for a throttled link, or give the function more memory.",
                    url=self._source.url,
                    retryable=True,
                )

        return check

    # -- shared

    def _count(self, body: Body) -> None:
        with self._changed:
            if self._etag is None:
                self._etag = body.etag
            self.stats.requests += 1
            self.stats.first_byte.append(body.first_byte)

    def _count_bytes(self, count: int) -> None:
        with self._changed:
            self.stats.bytes += count

    def _left(self) -> float:
        return float("inf") if self._deadline is None else self._deadline - time.monotonic()

    def _retrying(self, attempt: Callable[[], Result]) -> Result:
        """Call ``attempt`` until it succeeds, fails for good, or has used up its tries or its time."""
        tries = 0
        while True:
            try:
                return attempt()
            except FetchError as error:
                tries += 1
                # Full jitter, so that a thousand sandboxes that failed together do not come back together.
                pause = max(min(error.retry_after or 0.0, PAUSE), min(PAUSE, 0.05 * 2**tries) * _random())
                if (
                    not error.retryable
                    or tries >= self._attempts
                    or pause > self._left()
                    or self._stopped
                    or self._error
                ):
                    raise
                self.stats.retries += 1
                time.sleep(pause)

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


def _random() -> float:
    # `random` would import hashlib and more; two bytes of the kernel's randomness are jitter enough.
    return int.from_bytes(os.urandom(2), "big") / 65536
