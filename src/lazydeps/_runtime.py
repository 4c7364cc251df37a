"""`load`, `wait`, `report`, `lazy` and `uninstall`: the public verbs, over all the packs of this process."""

from __future__ import annotations

import gc
import os
import sys
from _thread import RLock

from . import _deadline
from ._config import Config
from ._ref import Ref
from .events import Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import ModuleType, TracebackType

    from ._finder import PackFinder
    from ._recording import Recording
    from ._session import Session

FROZEN = 1000
"""Frozen objects from which on somebody has frozen them: 3.12 has about 400 of its own, every program has thousands."""
_sessions: dict[Ref, Session] = {}
_finder: PackFinder | None = None
_recording: Recording | None = None
"""Where ``LAZYDEPS_TRACE`` is set."""
_loading = RLock()
"""Held while packs are added or taken away, so that threads that load one pack share its session, and one finder."""
_resting: Loading | None = None
"""Whose block has switched the garbage collector off."""


class Loading:
    """What `load` returns: packs on their way. Use it with ``with``, or call `wait`, or neither.

    On leaving the block normally, the boot and data sets are in place and no child process or thread is left over.
    On leaving it by an exception, the workers are ended; what has landed stays and is found by the next start.
    Inside the block the garbage collector rests: imports make hundreds of thousands of objects and hardly any garbage.
    """

    def __init__(self, sessions: tuple[Session, ...]) -> None:
        self._sessions = sessions
        self._depth = 0

    def __enter__(self) -> Loading:
        global _resting
        self._depth += 1
        if _recording is not None:
            _recording.begin()
        # Without packs the block is the user's own business.
        if self._sessions and gc.isenabled():
            _resting = self
            gc.disable()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.wait()
                return
        except BaseException:
            kind = BaseException
            raise
        finally:
            if kind is not None:
                for session in self._sessions:
                    session.stop()
            self._depth -= 1
            if _recording is not None:
                _recording.end()
            if self._depth == 0 and _resting is self:
                _collect_again()

    def wait(self, *, complete: bool = False) -> None:
        """Wait for these packs; see `lazydeps.wait`."""
        for session in self._sessions:
            session.wait(complete=complete)

    @property
    def refs(self) -> tuple[str, ...]:
        """The references of these packs, pinned."""
        return tuple(str(session.ref) for session in self._sessions)


def load(
    *refs: str,
    directory: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
    environ: Mapping[str, str] | None = None,
) -> Loading:
    """Start bringing packs, and make their modules importable at once.

    Returns without waiting for the network. Each import of a packed module then waits for its own bytes. With no
    pack named here, in ``LAZYDEPS_PACK`` or in a ``lazydeps.lock`` it does nothing, so that the same handler runs where
    the dependencies are installed.

    Args:
        refs: references, ``URL#root=sha256:HEX``, or ``URL#sha256=HEX`` for an archive that is not a pack (a zip, a
            Lambda layer, a tar, a wheel), which is extracted whole before the first import from it; and names of packs
            in ``lazydeps.lock``. None: those in ``LAZYDEPS_PACK``, separated by white space; without that, all packs of
            the lock that this interpreter can use, by name.
            The lock is the file that ``LAZYDEPS_LOCK`` names (``0``: none), else ``lazydeps.lock`` in the folder of
            the file that calls (or that it is a link to), else in ``LAMBDA_TASK_ROOT``.
            The first pack that has a module wins. A pack that is loaded already is not loaded again.
        directory: where the stores are. None: ``LAZYDEPS_DIR``, else ``/tmp/lazydeps``.
        timeout: seconds that all of it may take. None: ``LAZYDEPS_TIMEOUT``, else no limit but those of each request.
        environ: stands in for `os.environ`. Child processes inherit that one and not this, so with a mapping of your
            own these packs are not passed on to them.

    Returns:
        A context manager. Leaving it waits for the boot and data sets.

    Raises:
        ConfigError: a reference is malformed or not pinned, the store cannot be used, or the lock is none, or has not
            what is asked for. Where ``LAMBDA_TASK_ROOT`` is not set, a lock without packs for this interpreter that
            ``LAZYDEPS_LOCK`` does not name is passed over: there the dependencies are installed.
        PackMismatchError: a pack in the store is for another Python. For one that has yet to be fetched, the first
            import raises it; likewise FetchError, IntegrityError, PackFormatError and InsufficientSpaceError.
    """
    environ = os.environ if environ is None else environ
    config = Config.from_environ(environ)
    if directory is not None:
        config = config.replace(directory=os.path.abspath(directory))  # here, before anybody changes the folder
    if timeout is not None:
        config = config.replace(timeout=min(timeout, _deadline.LONGEST))
    words = refs or config.pack
    if words and all("://" in word for word in words):
        parsed = [Ref.parse(word) for word in words]
    else:
        from . import _lockfile

        parsed = _lockfile.chosen(words, environ)
    if not parsed:
        return Loading(())
    global _finder
    with _loading:
        # All of them are made before any is started: a reference that is refused leaves no worker behind.
        known = {ref: _sessions.get(ref) or _new_session(ref, environ, config) for ref in parsed}
        for ref, session in known.items():
            if ref not in _sessions:
                session.start()
                _sessions[ref] = session
        if _finder is None:
            from ._finder import PackFinder  # by now the first request is on its way

            _finder = PackFinder()
            os.register_at_fork(after_in_child=_after_fork)
        _finder.sessions = tuple(_sessions.values())
        _finder.install(_place())
        if config.trace is not None:
            _record(config.trace, environ, known.values())
        if config.children and environ is os.environ:
            from . import _children

            _children.tell([(str(session.ref), session.store.directory) for session in known.values()])
    return Loading(tuple(known.values()))


def _record(where: str, environ: Mapping[str, str], sessions: Iterable[Session]) -> None:
    global _recording
    if _recording is None:
        from ._recording import Recording

        recording = Recording(where, environ)
        recording.start()
        _recording = recording
    _recording.add(sessions)


def _new_session(ref: Ref, environ: Mapping[str, str], config: Config) -> Session:
    from ._session import Session
    from ._sources import open_source

    kind = Session
    if ref.is_archive:
        from ._legacy import ArchiveSession

        kind = ArchiveSession
    return kind(ref, open_source(ref.url, environ), config)


def wait(*, complete: bool = False) -> None:
    """Wait until the boot and data sets of every loaded pack are in place and its worker has ended.

    Args:
        complete: wait for every file, and leave plain trees that an interpreter without lazydeps can import from.

    Raises:
        LazydepsError: what kept a pack from arriving.
    """
    for session in tuple(_sessions.values()):
        session.wait(complete=complete)


def report() -> Report:
    """Return what the start of this process did: phases, requests, bytes, frames and stalls of every pack."""
    return Report(session.report() for session in _sessions.values())


def uninstall() -> None:
    """Take the finder away and end the workers. Modules that are imported stay; the stores stay on the disk."""
    global _recording
    with _loading:
        if _recording is not None:
            _recording.stop()
            _recording = None
        if _finder is not None:
            _finder.uninstall()
        for session in tuple(_sessions.values()):
            session.close()
        _sessions.clear()
        from . import _children

        _children.forget()


def lazy(name: str) -> ModuleType:
    """Return a stand-in for a module that imports it when an attribute is first used.

    The import happens where it is used, with its errors; `importlib.util.LazyLoader` would look for the module now.

    Args:
        name: the module, dots included, as in `importlib.import_module`.

    Raises:
        PackedModuleNotFoundError: on first use, where no pack and no folder of the path holds it.
    """
    from ._lazy import LazyModule

    return LazyModule(name)


def _collect_again() -> None:
    """Switch the collector on, and spare it the walk over everything that was imported meanwhile.

    The young objects would all be visited at the next allocation. Frozen and thawed at once, they stand among the old
    ones, where the next full collection finds them, without one of them having been looked at.
    """
    global _resting
    _resting = None
    if gc.get_freeze_count() < FROZEN:  # else thawing would undo what somebody froze on purpose
        gc.freeze()
        gc.unfreeze()
    gc.enable()


def _place() -> int:
    """Return where in `sys.meta_path` the finder belongs: before the path finder."""
    for place, finder in enumerate(sys.meta_path):
        # In a child, what it inherits comes after what it loads itself.
        if getattr(finder, "__name__", "") in ("PathFinder", "lazydeps.Inherited"):
            return place
    return len(sys.meta_path)


def _after_fork() -> None:
    from ._session import forget_parent

    global _loading
    _loading = RLock()
    forget_parent()
    _deadline.forget()
    for session in _sessions.values():
        session.after_fork()
    if _resting is not None:
        _collect_again()  # this process may never leave the block that it was forked in


def loaded_refs() -> tuple[str, ...]:
    """Return the references of the packs loaded in this process, as messages may show them."""
    return tuple(ref.shown for ref in _sessions)
