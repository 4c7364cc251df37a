"""Archives that are not packs, loaded: downloaded whole, checked whole, extracted, compiled, imported as files.

Which archives are good is decided in `_archive`, where their members go in `_layout`. This knows the order of the
steps, and makes a kill between any two of them harmless: see `ArchiveStore`.
"""

from __future__ import annotations

import errno
import os
import time
from functools import partial

from . import _deadline
from ._archive import open_archive
from ._config import MIB
from ._digest import format_digest, new_sha256, sha256_digest
from ._fetch import new_decompressor, read_exactly
from ._layout import TAG, check_archive, lay_out
from ._ref import ARCHIVES, Ref
from ._retry import Tries
from ._session import COMMON, Session
from ._store import NO_FOLLOW, Store, check_folder, explain
from ._worker import Worker, WorkerThread
from .errors import ConfigError, FetchError, IntegrityError, LazydepsError, PackFormatError
from .events import Phase

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable
    from typing import Any, BinaryIO

    from ._archive import Archive
    from ._layout import Layout
    from ._sources import Body, Connection

PIECE = 4 * MIB
"""Bytes of one request."""
CHUNK = 256 * 1024
"""Bytes after which what has come is put into the file."""
CUT = 416
"""What a source answers when it is asked for what lies behind its end."""
_NEEDED = ("importlib.util", "linecache", "py_compile", "shutil", "struct", "threading", "unicodedata", "zlib")
"""Modules of the standard library that a worker imports whatever the archive."""
_NO_PLACE = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
"""Bytecode has no place where the archive has something of that name, or where the name would be too long."""
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW
_READ = os.O_RDWR | os.O_CREAT | NO_FOLLOW
ZONES = 26 * 3600
"""Seconds that two clocks differ at most, in whole `QUARTER`s."""
QUARTER = 900
UNCOMPILED = "tests"
"""A folder of this name gets no bytecode: hardly a start imports from it, and large distributions have thousands of
such files. What is imported from it is compiled then."""


class ArchiveStore(Store):
    """The folder of one archive, extracted for one kind of interpreter.

        parts/archive   the archive so far: always its first bytes, so that a restart goes on where this one ended
        work/           what is being extracted and compiled
        extracted       names the digest once ``work`` holds every file; only bytecode is missing
        tree/           site-packages; ``work`` becomes it in one step
        whole           names the digest once ``tree`` is there; nothing is imported before

    The two locks are those of `Store`: one keeps all but one process from changing any of it, by the other it is held,
    by those that wait for the tree too.
    """

    def __init__(self, directory: str, digest: bytes) -> None:
        super().__init__(directory, digest)
        self.name += f"-{TAG}"
        self.path = f"{self.directory}/{self.name}"
        self.tree = f"{self.path}/tree"
        self.work = f"{self.path}/work"
        self.archive = f"{self.path}/parts/archive"
        self._name = format_digest(digest).encode()

    def _furnish_tree(self) -> None:
        """Make none: it comes whole."""

    def check_owner(self) -> None:
        """Raise ConfigError unless the store is a real folder that only we can write to, and so is its tree."""
        check_folder(self.directory)
        check_folder(self.path)
        if os.path.lexists(self.tree):
            check_folder(self.tree)

    def ensure(self, needed: int, names: int) -> None:
        """Make sure that so many bytes, files and folders will fit, at the cost of other stores if need be.

        Raises:
            InsufficientSpaceError: they do not.
        """
        free, inodes = self.room()
        if needed > free or (inodes is not None and names > inodes):
            from ._space import make_room_for

            make_room_for(self, "archive", needed, names)

    def is_whole(self) -> bool:
        """Whether the tree can be imported from."""
        return self.is_marked("whole") and os.path.isdir(self.tree)

    def is_marked(self, step: str) -> bool:
        """Whether a step has been finished for this very archive."""
        try:
            return self._read(step) == self._name
        except ConfigError:
            return False

    def mark(self, step: str) -> None:
        """Record that a step is finished."""
        self.with_room(lambda: self._write_whole(f"{self.path}/{step}", self._name, 0o600))

    def unmark(self, step: str) -> None:
        """Take the record of a step back."""
        self._remove(step)

    def open_archive_file(self) -> BinaryIO:
        """Open what has come of the archive, for reading and writing."""
        return open(self.with_room(lambda: os.open(self.archive, _READ, 0o600)), "r+b", buffering=0)


class ArchiveWorker(Worker):
    """Brings an archive and makes a tree of it. Connections, retries and patience are those of `Worker`."""

    _store: ArchiveStore

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.alone = False
        """Whether this process is the worker's own, where nobody else misses a warning."""
        self._suffix = self._ref.suffix or ""
        self._next_piece = 0
        """Where the next request begins."""
        self._at = 0
        """How much of the archive is in the file, and in `_hash`."""
        self._total: int | None = None

    def _run(self) -> None:
        store = self._store
        store.prepare()
        try:
            with self._phase("lock"):
                self._take_lock(store)
            if not store.is_whole():
                self._make_tree()
        except OSError as error:
            raise explain(error, store.directory) from error
        finally:
            store.unlock()

    def _make_tree(self) -> None:
        store = self._store
        from shutil import rmtree

        extracted = store.is_marked("extracted")
        if extracted and os.path.isdir(store.tree) and not os.path.isdir(store.work):
            store.mark("whole")  # an earlier start was killed before it could
            store.unmark("extracted")
            return
        store.unmark("whole")
        if not (extracted and os.path.isdir(store.work)):
            with self._phase("download"):
                self.fetch()
            store.unmark("extracted")
            rmtree(store.work, ignore_errors=True)
            try:
                with self._phase("extract"), open(store.archive, "rb") as file:
                    self._extract(file)
            except BaseException:
                rmtree(store.work, ignore_errors=True)
                raise
            store.mark("extracted")
            os.unlink(store.archive)
        with self._phase("compile"):
            self._compile()
        rmtree(store.tree, ignore_errors=True)
        os.rename(store.work, store.tree)
        store.mark("whole")
        store.unmark("extracted")
        self._wake()

    # -- download

    def fetch(self) -> bytes:
        """Bring the archive into the store's file, going on where an earlier start ended; return its digest.

        Raises:
            FetchError: the source did not deliver.
            IntegrityError: it is not what the reference promises, for the second time.
        """
        pinned = self._ref.sha256
        for last in (False, True):
            with self._store.open_archive_file() as file:
                digest = self._download(file)
                if pinned in (None, digest):
                    return digest
                file.truncate(0)
            if not last:
                self.stats.retries += 1
        assert pinned is not None
        raise IntegrityError(
            f"{self._source.url} is not the archive that the reference pins: its SHA-256 is {digest.hex()}, not "
            f"{pinned.hex()}. Nothing was extracted. Find out who changed it, or pin what `lazydeps lock` prints.",
            expected=format_digest(pinned),
            actual=format_digest(digest),
        )

    def fetch_unpinned(self) -> bytes:
        """Bring what the source holds now to where a worker for its digest finds it; return the digest."""
        store = self._store
        store.prepare()
        self._take_lock(store)
        try:
            digest = self.fetch()
            target = ArchiveStore(store.directory, digest)
            target.prepare()
            self._take_lock(target)
            try:
                if target.is_whole() or target.is_marked("extracted"):
                    os.unlink(store.archive)
                else:
                    os.replace(store.archive, target.archive)
            finally:
                target.unlock()
        finally:
            store.unlock()
        return digest

    def _download(self, file: BinaryIO) -> bytes:
        self._hash, self._at, self._total, self._etag, self._threads = new_sha256(), 0, None, None, []
        if self._ref.sha256 is None:
            file.truncate(0)  # without a pin nothing says that the old bytes belong to the new ones
        while data := file.read(MIB):
            self._hash.update(data)
            self._at += len(data)
        if self._at and self._hash.digest() == self._ref.sha256:
            return self._ref.sha256
        self._file, self._next_piece = file, self._at
        self._piece_loop()
        for thread in self._threads:
            thread.join()
        if isinstance(self._error, FetchError) and self._error.status == CUT and self._at:
            file.seek(0)
            file.truncate()  # what an earlier start brought is longer than what is there now
            self._error = None
            return self._download(file)
        if self._error is not None:
            raise self._error
        if self._stopped:
            raise LazydepsError("the load was stopped before it had finished.")
        return self._hash.digest()

    def _piece_loop(self) -> None:
        with WorkerThread():
            connection = self._connect()
            try:
                while (start := self._take_piece()) is not None:
                    self._bring(connection, start)
            except BaseException as error:
                self._fail(error)
                self._interrupt()
            finally:
                connection.close()

    def _take_piece(self) -> int | None:
        with self._changed:
            if self._over() or (self._total is not None and self._next_piece >= self._total):
                return None
            start, self._next_piece = self._next_piece, self._next_piece + PIECE
            return start

    def _bring(self, connection: Connection, start: int) -> None:
        """Bring one piece. Whoever brings the piece that the file needs next writes while it comes; the rest wait."""
        piece = memoryview(bytearray(PIECE))
        got = 0
        tries = Tries()

        def attempt() -> None:
            nonlocal got
            try:
                body = self._get(connection, start + got, start + PIECE, etag=self._etag)
                stop = min(PIECE, self._learn(body) - start)
                while got < stop:
                    chunk = piece[got : min(got + CHUNK, stop)]
                    begun = time.monotonic()
                    read_exactly(body, chunk, self._retry.watch())
                    self._count_bytes(len(chunk), time.monotonic() - begun)
                    got += len(chunk)
                    tries.tries = 0
                    with self._changed:
                        self._retry.progressed()
                    self._append(start, piece[:got])
                body.close()
            except BaseException:
                connection.close()
                raise

        self._retry.run(attempt, tries, patient=True)
        with self._changed:
            while self._at < start and not self._over():
                self._changed.wait()
        self._append(start, piece[:got])
        with self._changed:
            self._changed.notify_all()

    def _append(self, start: int, piece: memoryview) -> None:
        if self._at < start or self._over():
            return  # the pieces before it are not all there
        data = piece[self._at - start :]
        self._hash.update(data)
        while data:
            written = self._store.with_room(partial(os.pwrite, self._file.fileno(), data, self._at))
            data = data[written:]
            self._at += written

    def _learn(self, body: Body) -> int:
        """Take the archive's size from the first answer, and start the other connections."""
        with self._changed:
            first, self._total = self._total is None, body.total
        if first:
            needed = body.total - self._at
            if body.total > self._config.limits.unpacked:
                raise PackFormatError(f"{self._source.url} has {body.total} bytes, more than any archive may have.")
            self._store.ensure(needed, 1)
            from threading import Thread

            for _ in range(min(self._config.connections, -(-needed // PIECE)) - 1):
                thread = Thread(target=self._piece_loop, daemon=True)
                thread.start()
                self._threads.append(thread)
        return body.total

    # -- extraction

    def check(self, file: BinaryIO) -> tuple[Archive, Layout]:
        """Check a downloaded archive, and decide where its members go.

        Raises:
            UnsafeArchiveError, PackFormatError: it cannot be used.
        """
        limits = self._config.limits
        archive = open_archive(file, self._suffix, limits)
        return archive, lay_out(archive, self._suffix, limits)

    def _extract(self, file: BinaryIO) -> None:
        archive, layout = self.check(file)
        check_archive(archive, layout, self._suffix)
        self._store.ensure(layout.needed, layout.names)
        work, with_room = self._store.work, self._store.with_room
        with_room(partial(os.mkdir, work, 0o700))
        folders = {work}
        for member, chunks in archive.contents():
            paths = [f"{work}/{path}" for path in layout.paths.get(member.name, ())]
            for path in paths:
                folder = os.path.dirname(path)
                if folder not in folders:
                    with_room(partial(os.makedirs, folder, 0o700, exist_ok=True))
                    folders.add(folder)
            if paths:
                self._write(paths[0], chunks, 0o700 if member.executable else 0o600)
                if paths[0].endswith((".py", ".pyc")):
                    os.utime(paths[0], (member.modified, member.modified))  # `_is_of` asks for it
            for path in paths[1:]:
                with_room(partial(_link, paths[0], path))

    def _write(self, path: str, chunks: Iterable[bytes], mode: int) -> None:
        with_room = self._store.with_room
        handle = with_room(lambda: os.open(path, _WRITE, mode))
        try:
            for chunk in chunks:
                self._check_time()
                data = memoryview(chunk)
                while data:
                    data = data[with_room(partial(os.write, handle, data)) :]
        finally:
            os.close(handle)

    def _check_time(self) -> None:
        if self._over():
            raise LazydepsError("the load was stopped before it had finished.")
        if self._retry.left() <= 0:
            raise FetchError(f"{self._source.url} was not extracted in the time it was given.", url=self._source.url)

    def _compile(self) -> None:
        """Write unchecked-hash bytecode (PEP 552) for every source that has none; the others are left as they are.

        Bytecode that names its source by time and size, and names this one, becomes such bytecode as it is.
        """
        from importlib.util import MAGIC_NUMBER, cache_from_source

        if self.alone:
            from warnings import simplefilter

            simplefilter("ignore")
        store, zoned = self._store, self._suffix in (".zip", ".whl")
        for folder, below, names in os.walk(store.work):
            below[:] = [name for name in below if name != UNCOMPILED]
            for name in names:
                if not name.endswith(".py"):
                    continue
                self._check_time()
                source = f"{folder}/{name}"
                cache = f"{folder}/__pycache__/{os.path.basename(cache_from_source(name))}"
                head = _head(cache)
                if head[:8] == MAGIC_NUMBER + b"\1\0\0\0":
                    continue
                if head[:8] == MAGIC_NUMBER + b"\0\0\0\0" and _is_of(head, source, cache, zoned):
                    _take_over(cache, source)
                    continue
                final = store.tree + source.removeprefix(store.work)
                store.with_room(partial(_compile_one, source, cache, final))


def _is_of(head: bytes, source: str, cache: str, zoned: bool) -> bool:
    """Tell whether bytecode names this source, as Python would: by size and time (PEP 3147).

    Where the time is ``zoned`` the archive's may be that of another clock, and be even. Then a source that was changed
    by the size of a zone would look right; but the archive has it as newer than the bytecode, by the same clock.
    """
    facts, compiled = os.stat(source), os.stat(cache)
    ahead = int.from_bytes(head[8:12], "little") - int(facts.st_mtime)
    if int.from_bytes(head[12:16], "little") != facts.st_size & 0xFFFFFFFF:
        return False
    if compiled.st_nlink > 1:
        return False  # it would be taken over for the other source too
    if not zoned:
        return not ahead
    return abs(ahead) <= ZONES and (ahead + 2) % QUARTER <= 4 and facts.st_mtime <= compiled.st_mtime + 2


def _take_over(cache: str, source: str) -> None:
    """Make bytecode valid for good. One small write: whoever is killed leaves it as it was, or done."""
    from importlib.util import MAGIC_NUMBER, source_hash

    with open(source, "rb") as file:
        digest = source_hash(file.read())
    with open(cache, "r+b", buffering=0) as file:
        file.write(MAGIC_NUMBER + b"\1\0\0\0" + digest)


def _compile_one(source: str, cache: str, name: str) -> None:
    from py_compile import PycInvalidationMode, PyCompileError
    from py_compile import compile as compile_source

    try:
        compile_source(source, cache, name, doraise=True, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
    except (PyCompileError, RecursionError, MemoryError):
        pass  # templates and the like; whoever imports one is told
    except OSError as error:
        if error.errno not in _NO_PLACE:
            raise


def _link(path: str, name: str) -> None:
    """Give a file a second name, so that a library behind both is loaded once; or copy it, where that cannot be."""
    try:
        os.link(path, name)
    except OSError:
        from shutil import copy

        copy(path, name)


def _head(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(16)
    except OSError:
        return b""


def prepare(suffix: str) -> None:
    """Import what a worker for an archive of this kind would import, so that one in a thread need not."""
    from importlib import import_module

    zipped = suffix in (".zip", ".whl")
    reader = ("encodings.cp437", "zipfile", "_archive_zip") if zipped else ("tarfile", "_archive_tar")
    for name in (*_NEEDED, *reader):
        import_module(f"{__package__}.{name}" if name[0] == "_" else name)
    if suffix == ".tar.zst":
        new_decompressor()


class ArchiveSession(Session):
    """An archive being loaded, or loaded. The first import that needs it waits for all of it."""

    plain = True
    worker_class = ArchiveWorker
    store: ArchiveStore
    _names: frozenset[str] | None = None

    def start(self) -> None:
        """Start a worker, unless an earlier start has left the tree."""
        try:
            self._reused = self._try_open()
            if not self._reused:
                self._start_host()
        except BaseException:
            self.store.release()  # nobody will ever close a session that has not begun
            raise

    @property
    def is_open(self) -> bool:
        """Whether the tree is there."""
        return self._names is not None

    def top_level(self) -> Container[str]:
        """Return the names that can be imported from the tree, once it is there."""
        if self._names is None:
            # Needed to hold the store and to read the worker's result, and importing them costs nothing while we wait.
            import fcntl  # noqa: F401
            from json import loads  # noqa: F401

            self._ahead.extend(COMMON)
            self._await(self._try_open, "(archive)", None, idle=self._import_ahead)
            assert self._names is not None
        return self._names

    def wait(self, *, complete: bool = False) -> None:  # noqa: ARG002 - it always is
        """Return when the tree is there and no child or thread is left over; see `Session.wait`."""
        begin = time.monotonic()
        self.top_level()
        self._await(lambda: self._host is None, "(end of the worker)", None)
        self._phases.append(Phase("wait", begin - self.began, time.monotonic() - self.began))

    def _try_open(self) -> bool:
        store = self.store
        if self._names is None and store.hold() and store.is_whole():
            store.check_owner()
            self._names = frozenset(name.partition(".")[0] for name in os.listdir(store.tree))
        return self._names is not None

    def _prepare_worker(self) -> None:
        prepare(self.ref.suffix or "")

    def _new_worker(self, wake: Callable[[], None], seconds: float | None) -> Worker:
        worker = super()._new_worker(wake, seconds)
        assert isinstance(worker, ArchiveWorker)
        worker.alone = os.getpid() != self._process
        return worker

    def _start_host(self, *, threads: bool = False) -> None:
        self._process = os.getpid()
        super()._start_host(threads=threads)

    def _new_store(self) -> ArchiveStore:
        assert self.ref.sha256 is not None
        return ArchiveStore(self._config.directory, self.ref.sha256)

    def _pinned(self, ref: Ref) -> Ref:
        """Return the reference with the digest of what the source holds now, if that is allowed."""
        if ref.suffix is None:
            raise ConfigError(
                f"{self._source.url} does not say what it is: its name has to end with {', '.join(ARCHIVES)}."
            )
        if ref.sha256 is not None:
            return ref
        config = self._config
        if not config.allow_unpinned:
            url = self._source.url
            raise ConfigError(
                f"{url} is not pinned, so whoever can write there could run code here. Use the reference that "
                f"`lazydeps lock {url}` prints (URL#sha256=HEX), or set LAZYDEPS_ALLOW_UNPINNED=1."
            )
        store = ArchiveStore(config.directory, sha256_digest(ref.url.encode()))
        seconds = _deadline.seconds_left(config.timeout)
        worker = ArchiveWorker(ref=ref, source=self._source, store=store, config=config, seconds=seconds)
        try:
            digest = worker.fetch_unpinned()
        except OSError as error:
            raise explain(error, config.directory) from error
        return Ref(ref.url, sha256=digest)
