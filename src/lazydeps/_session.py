"""One pack in this process: its store, the worker that fills it, and waiting for what an import needs.

Decides when to wait and what to do when a worker is gone. It does not know Python's import system; the finder asks
it for files.
"""

from __future__ import annotations

import sys
import time
from _thread import RLock

from . import _deadline
from ._digest import new_sha256, sha256_digest
from ._fetch import fetch_head, new_decompressor
from ._host import ForkHost, Host, ThreadHost, fork_is_safe
from ._plan import INDEX
from ._ref import Ref
from ._retry import Retry, Tries
from ._store import Store, forget_locks
from ._target import check_host
from ._worker import Stats, Worker, WorkerThread, forget_threads
from .errors import ConfigError, FetchError, LazydepsError
from .events import FrameTimes, PackReport, Phase, Stall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Container
    from typing import Any

    from ._config import Config
    from ._pack import Root, Section
    from ._sources import Source
else:
    from _collections import deque  # what `collections` is made of costs a millisecond less

POLL = 0.005
"""Seconds between looks at the store. Our own worker wakes us sooner; another process's cannot."""
STALL = 0.0005
"""Seconds from which a wait is worth a line in the report."""
COOL_DOWN = 2.0
"""Seconds for which an error that may pass is raised again at once. A program that catches it and imports something
else should not wait for the network a second time; one that thaws an hour later should."""
SPARE = 30.0
"""Seconds after a failure in which nothing is fetched for those who can do without: source lines of tracebacks."""
IN_VAIN = 2
"""Workers that may end well without what we wait for having landed."""
TAKEOVERS = 3
"""Workers that may die under one process before it gives up."""
COMMON = (
    "re", "typing", "datetime", "inspect", "pathlib", "logging", "json", "urllib.parse", "decimal", "tempfile",
    "importlib.resources",
)  # fmt: skip
"""Modules of the standard library that nearly every large distribution imports (six of seven stacks that were traced),
for the time in which the root, with the pack's own list, is still on its way."""


class Session:
    """A pack being loaded, or loaded."""

    worker_class = Worker
    """What brings it."""

    plain = False
    """Whether its tree is imported from as it lies there, and only once it is whole (an archive that is no pack)."""

    def __init__(self, ref: Ref, source: Source, config: Config) -> None:
        """Pin the pack and name its store; `start` begins the work.

        Args:
            ref: the reference. Where it has no pin, the root is fetched here and now, if the configuration allows.
            source: where the pack is.
            config: directory, limits, timeouts.

        Raises:
            ConfigError: the reference is not pinned and unpinned references are not allowed.
        """
        self.began = time.monotonic()
        self._source = source
        self._config = config
        self.ref = self._pinned(ref)
        self.store = self._new_store()
        self.tree = self.store.tree
        """The site-packages folder."""
        self._root: Root | None = None
        self._rest: Section | None = None
        self._watermark = 0
        self._host: Host | None = None
        self._error: LazydepsError | None = None
        self._error_until = float("inf")
        self._spare_until = 0.0
        self._pipe = RLock()
        self._inline = RLock()
        self._deadline: float | None = None
        self._hosts: list[str] = []
        self._takeovers = 0
        self._reused = False
        self._results: list[dict[str, Any]] = []
        self._stalls: list[Stall] = []
        self._phases: list[Phase] = []
        self._ahead: deque[str] = deque()
        """Modules of the standard library to import while there is nothing better to do."""

    # -- life

    def start(self) -> None:
        """Start a worker, unless everything has landed already."""
        try:
            if self._try_root():
                self._reused = True
                assert self._root is not None
                check_host(self._root)
                if self._advance(self._root.data_stop) >= self._root.data_stop:
                    return
            self._start_host()
        except BaseException:
            self.store.release()  # nobody will ever close a session that has not begun
            raise

    def stop(self) -> None:
        """End the worker now. What has landed stays; what has not can still be fetched on demand."""
        host, self._host = self._host, None
        if host is not None:
            host.stop()

    def close(self) -> None:
        """End the worker, and let the store be removed."""
        self.stop()
        self.store.release()

    def wait(self, *, complete: bool = False) -> None:
        """Return when the boot and data sets are in place and no child or thread is left over.

        Args:
            complete: every file of the pack, as a plain tree that needs no finder.

        Raises:
            LazydepsError: what kept the worker from it.
        """
        begin = time.monotonic()
        root = self.root()
        self._await(lambda: self._advance(root.data_stop) >= root.data_stop, "(data set)", root.data_stop - 1)
        self._await(lambda: self._host is None, "(end of the worker)", None)
        if complete:
            self._run_inline(complete=True)
        self._phases.append(Phase("wait", begin - self.began, time.monotonic() - self.began))

    # -- what the finder asks

    def root(self) -> Root:
        """Return the pack's root, as soon as it is known."""
        if self._root is None:
            # Needed to hold the store and to parse the root, and importing them costs nothing while we wait.
            import fcntl  # noqa: F401
            from json import loads  # noqa: F401

            self._ahead.extend(COMMON)
            self._await(self._try_root, "(root)", 0, idle=self._import_ahead)
            assert self._root is not None
            self._ahead = deque(self._root.stdlib)
        return self._root

    @property
    def is_open(self) -> bool:
        """Whether the pack's root is known."""
        return self._root is not None

    def failed(self) -> bool:
        """Whether the pack could not even be opened."""
        return not self.is_open and self._error is not None

    def top_level(self) -> Container[str]:
        """Return the names that can be imported from it, as soon as they are known."""
        return self.root().top_level

    def rest(self, *, within: float | None = None) -> Section:
        """Return the section of the data and cold frames, as soon as it is known."""
        if self._rest is None and not self._try_rest():
            host = self._host
            if host is not None:
                host.demand(INDEX, INDEX)
                self._await(lambda: self._try_rest() or self._host is None, "(index)", None, within=within)
            if not self._try_rest():
                self._run_inline(only=(), within=within)
                self._try_rest()
        if self._rest is None:
            raise self._lost()
        return self._rest

    def rest_if_there(self) -> Section | None:
        """Return that section if it is known; nobody waits and nothing is fetched."""
        return self._rest if self._try_rest() else None

    def need_boot(self, file: int, module: str) -> None:
        """Wait until a file of the boot set, and everything recorded before it, is in place."""
        root = self.root()
        last = root.boot.frames_of(file)[-1]
        if last >= self._watermark and self._advance(len(root.boot)) <= last:
            self._await(lambda: self._advance(len(root.boot)) > last, module, last, idle=self._import_ahead)

    def need_data(self, module: str) -> None:
        """Wait until the boot and data sets are in place."""
        stop = self.root().data_stop
        if self._watermark < stop and self._advance(stop) < stop:
            self._await(lambda: self._advance(stop) >= stop, module, stop - 1, idle=self._import_ahead)

    def need_rest(self, file: int, module: str, *, within: float | None = None) -> None:
        """Wait until a file of the data or cold set is in place, fetching it where nobody else will.

        Args:
            file: its position in the section.
            module: who waits, for the report.
            within: seconds after which a single try is given up. None: as long, and as often, as a load may take.
        """
        frames = self.rest(within=within).frames_of(file)
        store = self.store
        if not store.missing(frames):
            return
        begin = time.monotonic()
        host = self._host
        if host is not None:
            host.demand(frames.start, frames.stop)
            self._await(lambda: not store.missing(frames) or self._host is None, "", None, within=within)
        missing = store.missing(frames)
        if missing:
            self._run_inline(only=missing, within=within)
        self._note_stall(module, begin, frames.stop - 1)

    def need_path(self, name: str, *, within: float | None = None) -> None:
        """Wait until a file is in place, whatever its set; a name that is not in the pack is nobody's business."""
        if within is not None and time.monotonic() < self._spare_until:
            raise FetchError(f"{name} was not asked for: its source failed a moment ago.", url=self._source.url)
        try:
            root = self.root()
            if name in root.boot.number_of:
                self.need_boot(root.boot.number_of[name], name)
                return
            if name in root.absent:
                return
            rest = self.rest(within=within)
            if name in rest.number_of:
                self.need_rest(rest.number_of[name], name, within=within)
        except LazydepsError:
            self._spare_until = time.monotonic() + SPARE
            raise

    def bytecode(self, file: int) -> memoryview:
        """Return the content of a bytecode file of the boot set, once `need_boot` has returned for it."""
        boot = self.root().boot
        begin = boot.offsets[file]
        return self.store.bytecode(begin, begin + boot.sizes[file])

    # -- waiting

    def _try_root(self) -> bool:
        store = self.store
        if self._root is None and store.exists() and store.hold():
            root = store.read_root(self._config.limits)
            if root is not None and store.open_landed(root):
                self._root = root
        return self._root is not None

    def _try_rest(self) -> bool:
        if self._rest is None:
            self._rest = self.store.read_index(self.root())
        return self._rest is not None

    def _advance(self, stop: int) -> int:
        """Move the watermark up to what has landed, and return it."""
        self._watermark = self.store.prefix(self._watermark, stop)
        return self._watermark

    def _import_ahead(self) -> bool:
        """Import a module of the standard library that the pack's modules are going to import; return whether one was.

        That costs nothing while an import waits for its bytes, and later nothing at all.
        """
        while True:
            try:
                name = self._ahead.popleft()
            except IndexError:  # not a question asked before: other threads wait, and take from it, too
                return False
            if name not in sys.modules and name.partition(".")[0] in sys.stdlib_module_names:
                try:
                    __import__(name)
                except Exception:
                    pass  # whoever really wants it gets the error
                return True

    def _await(
        self,
        ready: Callable[[], bool],
        module: str,
        frame: int | None,
        *,
        within: float | None = None,
        idle: Callable[[], bool] = bool,
    ) -> None:
        """Return when something is ready.

        Args:
            ready: tells whether it is.
            module: what waits, for the report; nothing if the caller reports.
            frame: the last frame it waits for.
            within: seconds after which to give up. None: as long as a load may take.
            idle: does a little useful work and says whether there was any.

        Raises:
            LazydepsError: it will not come.
        """
        if ready():
            return
        begin = time.monotonic()
        worked = 0.0
        in_vain = 0
        while not ready():
            started = time.monotonic()
            if self._host is not None and idle():
                worked += time.monotonic() - started
                continue
            with self._pipe:  # one thread reads the pipe; the others look again when it has
                if not ready():
                    in_vain += self._step() and not ready()
            if in_vain:
                # A worker has ended well and what we wait for is not there: somebody changed the store under us.
                if self._root is not None:
                    self.store.reopen(self._root)
                if in_vain > IN_VAIN:
                    raise self._lost()
            if within is not None and time.monotonic() - begin > within:
                raise FetchError(f"{module} did not come within {within:g} seconds.", url=self._source.url)
            if not ready():
                self._check_time(module)
        if module:
            self._note_stall(module, begin, frame, worked)

    def _check_time(self, module: str) -> None:
        now = time.monotonic()
        own = self._deadline is not None and now > self._deadline
        limit = _deadline.end()
        if own or (limit is not None and now > limit):
            self._spare_until = now + SPARE
            raise FetchError(
                "the pack did not arrive within "
                + (
                    f"the {self._config.timeout} seconds that LAZYDEPS_TIMEOUT or load(timeout=…) gave it"
                    if own and self._config.timeout is not None
                    else "the time that lazydeps.deadline left"
                )
                + f"; {module or 'an import'} was waiting. What has landed is kept for the next try.",
                url=self._source.url,
            )

    def _step(self) -> bool:
        """Wait a little for the worker, or see to one. Return whether one has ended and said that all is well."""
        host = self._host
        if host is None:
            if self._error is not None and time.monotonic() < self._error_until:
                raise self._error
            self._start_host()
            return False
        host.wait(POLL)
        if not host.ended or self._host is not host:  # a signal handler may have got here first
            return False
        self._host = None
        error, stats = host.result()
        if stats is not None:
            self._results.append(stats)
        if error is not None:
            self._error = error
            self._spare_until = time.monotonic() + SPARE
            # The plain class is for what has to do with other processes: a lock that was held, a worker that failed.
            if type(error) is LazydepsError or (isinstance(error, FetchError) and error.retryable):
                self._error_until = time.monotonic() + COOL_DOWN
            raise error
        if stats is None:
            self._takeovers += 1
            if self._takeovers > TAKEOVERS:
                raise LazydepsError(
                    f"{self._takeovers} workers died while loading {self._source.url}. Out of memory is the usual "
                    "cause: raise the function's memory size."
                )
            self._start_host(threads=True)
            return False
        return True

    def _lost(self) -> LazydepsError:
        return LazydepsError(
            f"the store {self.store.path} does not hold what was landed there: something else removes or changes its "
            "files. Remove that folder, and keep others from it or set LAZYDEPS_DIR to another place."
        )

    def _start_host(self, *, threads: bool = False) -> None:
        seconds = self._config.timeout  # the load's own; a deadline bounds those who wait, see _check_time
        self._error, self._error_until = None, float("inf")
        self._deadline = None if seconds is None else time.monotonic() + seconds
        host_for = ThreadHost if threads or not fork_is_safe() else ForkHost
        if host_for is ThreadHost:
            # Imported here, not in a worker's thread: this one may hold the lock of a packed module of that name. And
            # where somebody forks while another thread imports a module, nobody can import that one in the child.
            with WorkerThread():
                import fcntl  # noqa: F401

                new_sha256()
                self._source.prepare()
                self._prepare_worker()
        self._host = host_for(lambda wake: self._new_worker(wake, seconds))
        self._hosts.append(self._host.kind)

    def _run_inline(
        self, *, only: list[int] | tuple[()] | None = None, complete: bool = False, within: float | None = None
    ) -> None:
        """Run a worker in this thread."""
        seconds = _deadline.seconds_left(self._config.timeout if within is None else within)
        if not self._inline.acquire(timeout=-1 if seconds is None else seconds):
            raise FetchError(
                f"another thread is fetching from the same pack, for longer than the {seconds:g} seconds that this one "
                "has. Try again.",
                url=self._source.url,
                retryable=True,
            )
        try:
            if only is not None:
                only = self.store.missing(only) or ()
            worker = Worker(
                ref=self.ref,
                source=self._source,
                store=self._new_store(),
                config=self._config,
                only=only,
                complete=complete,
                seconds=seconds,
                once=within is not None,
            )
            try:
                worker.run()
            finally:
                self._results.append(worker.stats.as_dict())
        finally:
            self._inline.release()

    def _pinned(self, ref: Ref) -> Ref:
        return _pin(ref, self._source, self._config) if ref.root is None else ref

    def _prepare_worker(self) -> None:
        """Import what a worker in a thread would import there."""
        import json  # noqa: F401
        import mmap  # noqa: F401

        new_decompressor()

    def _new_worker(self, wake: Callable[[], None], seconds: float | None) -> Worker:
        return self.worker_class(
            ref=self.ref,
            source=self._source,
            store=self._new_store(),
            config=self._config,
            wake=wake,
            seconds=seconds,
        )

    def _new_store(self) -> Store:
        # A worker holds the store's lock and writes: it gets a store object of its own, which nobody shares.
        assert self.ref.root is not None
        return Store(self._config.directory, self.ref.root)

    def after_fork(self) -> None:
        """Forget what belongs to the process that we were forked from: its worker, and locks somebody may hold."""
        host, self._host = self._host, None
        if host is not None:
            host.abandon()
        self._pipe = RLock()
        self._inline = RLock()

    def _note_stall(self, module: str, begin: float, frame: int | None, worked: float = 0.0) -> None:
        seconds = time.monotonic() - begin - worked
        if seconds >= STALL:
            self._stalls.append(Stall(module, begin - self.began, seconds, frame))

    # -- the report

    def report(self) -> PackReport:
        """Return what has happened so far. A worker that still runs has not told its part yet."""
        root, began = self._root, self.began
        boot = len(root.boot) if root else 0
        stops = {"boot": boot, "data": root.data_stop if root else 0, "cold": root.frames if root else 0}
        rest = self._rest or (self.store.read_index(root) if root else None)
        frames = []
        for result in self._results:
            for number, requested, received, landed in result["frames"]:
                section = root.boot if root and number < boot else rest
                facts = section.frame(number) if section else None
                name = next(name for name, stop in stops.items() if number < stop)
                frames.append(
                    FrameTimes(
                        number,
                        name,
                        facts.packed if facts else 0,
                        facts.unpacked if facts else 0,
                        requested - began,
                        received - began,
                        landed - began,
                    )
                )
        frames.sort(key=lambda frame: frame.landed)
        phases = [
            Phase(name, begin - began, end - began) for result in self._results for name, begin, end in result["phases"]
        ]
        total, standing, low = {}, {}, 0
        for name, stop in stops.items():
            total[name] = stop - low
            standing[name] = stop - low - len(self.store.missing(range(low, stop)))
            low = stop
        fetched = sum(total.values()) and sum(standing.values())
        return PackReport(
            ref=self.ref.shown,
            store=self.store.path,
            host=self._hosts[0] if self._hosts else "none",
            store_reused=self._reused or bool(root and self._host is None and fetched > len(frames)),
            requests=sum(result["requests"] for result in self._results),
            retries=sum(result["retries"] for result in self._results),
            hedges=sum(result["hedges"] for result in self._results),
            bytes_received=sum(result["bytes"] for result in self._results),
            boot_bytes=root.boot.starts[-1] if root else 0,
            cold_frames_fetched=sum(frame.set == "cold" for frame in frames),
            frames_total=total,
            landed=standing,
            takeovers=self._takeovers,
            error=str(self._error) if self._error else None,
            phases=tuple(sorted(phases + self._phases, key=lambda phase: phase.start)),
            frames=tuple(frames),
            stalls=tuple(self._stalls),
        )


def forget_parent() -> None:
    """In a forked process, before anything else: what the parent's threads were doing is not done here."""
    forget_threads()
    forget_locks()


def _pin(ref: Ref, source: Source, config: Config) -> Ref:
    """Return the reference with the root that the source holds now, if that is allowed."""
    if not config.allow_unpinned:
        raise ConfigError(
            f"{source.url} is not pinned, so whoever can write there could run code here. Use the reference that "
            "`lazydeps push` or `lazydeps inspect` prints (URL#root=sha256:HEX), or set LAZYDEPS_ALLOW_UNPINNED=1."
        )
    from threading import Condition

    connection = source.connect(timeout=config.socket_timeout)
    retry = Retry(
        url=source.url,
        counters=Stats(),
        changed=Condition(),
        seconds=_deadline.seconds_left(config.timeout),
    )
    connection.left = retry.left_for_bytes
    try:
        head = retry.run(lambda: fetch_head(connection, None, config.limits, retry.watch()), Tries(), patient=True)
        head.body.close()
    finally:
        connection.close()
    return Ref(ref.url, sha256_digest(head.content))
