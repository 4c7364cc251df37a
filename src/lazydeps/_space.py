"""Making room: removes stores that no process uses, the one that was not used for longest first.

Imported only where space is short, and by `lazydeps gc`. It decides nothing about the store that is being filled.

A store is removed in three steps, so that processes may start it, and others collect, at any time: take both of its
locks for ourselves, and see that its path still names what is locked; rename it to ``gone-NAME-…`` and let the locks
go, so that whoever waited for them finds that the store has gone and makes a new one; remove the tree. Whoever
collects next removes what a kill left under such a name.
"""

from __future__ import annotations

import os
import stat

from ._pack import is_bytecode
from ._store import LAYOUT, NAME_BYTES, NO_FOLLOW, identity, in_use
from .errors import InsufficientSpaceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from ._pack import Root, Section
    from ._store import Store

GONE = "gone-"
"""Begins the name of a store that is being removed."""
_MARKS = str.maketrans("", "", "-_")
"""What stands in a platform's name beside letters and digits."""


def make_room(
    store: Store, root: Root, rest: Section | None, needed: int, *, complete: bool = False, first: int = 0
) -> None:
    """Remove other stores until what has still to land will fit.

    Args:
        store: the store that it will land in.
        root: the pack's root.
        rest: the section of the data and cold frames, if it is known.
        needed: the bytes that have still to land.
        complete: the cold set too.
        first: the frame from which on to count files.

    Raises:
        InsufficientSpaceError: it does not fit.
    """
    make_room_for(store, "pack", needed, _names_to_come(store, root, rest, complete=complete, first=first))


def make_room_for(store: Store, what: str, needed: int, names: int) -> None:
    """Remove other stores until so much will fit.

    Args:
        store: the store that it will land in.
        what: ``pack`` or ``archive``, for the message.
        needed: the bytes that have still to land.
        names: the files and folders that have.

    Raises:
        InsufficientSpaceError: it does not fit.
    """

    def enough() -> bool:
        free, inodes = store.room()
        return needed <= free and (inodes is None or names <= inodes)

    _, held = collect(store.directory, keep=(store.name,), enough=enough)
    if enough():
        return
    free, inodes = store.room()
    if needed > free:
        words = (
            f"the {what} needs {needed} more bytes in {store.directory} and {free} are free.{in_use(held)} Raise the "
            f"function's ephemeral_storage by at least {-(-(needed - free) // 2**20)} MB (Lambda allows 512 to 10,240 "
            "MB), or set LAZYDEPS_DIR to a larger disk."
        )
    else:
        words = (
            f"the {what} needs {names} more files and folders in {store.directory}, and its file system has inodes for "
            f"{inodes}.{in_use(held)} Remove files from that disk, or raise the function's ephemeral_storage, which "
            "brings more inodes with it, or set LAZYDEPS_DIR to another disk."
        )
    raise InsufficientSpaceError(words, needed=needed, available=free)


def _names_to_come(store: Store, root: Root, rest: Section | None, *, complete: bool, first: int) -> int:
    """Return how many files and folders the frames that have not landed will make."""
    files = 0
    folders = set()
    stop = root.frames if complete else root.data_stop
    for section in (root.boot, rest):
        if section is None:
            continue
        missing = store.missing(range(max(first, section.first), min(stop, section.first + len(section))))
        for file in {file for number in missing for file in section.files_of(number)}:
            path = section.paths[file]
            if section is root.boot and is_bytecode(path) and not complete:
                continue
            files += 1
            folder = path.rpartition("/")[0]
            while folder and folder not in folders:
                folders.add(folder)
                folder = folder.rpartition("/")[0]
    return files + sum(not os.path.lexists(f"{store.tree}/{folder}") for folder in folders)


def collect(
    directory: str,
    *,
    keep: Collection[str] = (),
    enough: Callable[[], bool] = lambda: False,
    most: int | None = None,
) -> tuple[list[str], list[str]]:
    """Remove stores that nobody uses, first what earlier removals left, then the least recently used.

    A store that cannot be removed, or is not ours, is passed over.

    Args:
        directory: the folder that holds all stores.
        keep: names of stores to leave alone.
        enough: tells whether to stop.
        most: how many to remove at most.

    Returns:
        The names of what was removed, and of the stores that somebody uses.
    """
    removed = [name for name in leftovers(directory) if remove_tree(f"{directory}/{name}")]
    held = []
    for _, name in stores(directory):
        if enough() or (most is not None and len(removed) >= most):
            break
        if name in keep:
            continue
        try:
            remove(directory, name)
            removed.append(name)
        except BlockingIOError:
            held.append(name)
        except OSError:
            pass
    return removed, held


def stores(directory: str) -> list[tuple[int, str]]:
    """Return when each store of ours was last used, in nanoseconds since 1970, and its name; the oldest use first."""
    found = []
    for name in _listed(directory):
        if layout_of(name) is not None:
            try:
                if _is_ours(os.lstat(f"{directory}/{name}")):
                    found.append((last_used(f"{directory}/{name}"), name))
            except OSError:
                pass  # gone meanwhile
    return sorted(found)


def last_used(path: str) -> int:
    """Return when a store was last used, in nanoseconds since 1970."""
    try:
        return os.lstat(f"{path}/users").st_mtime_ns
    except OSError:
        return os.lstat(path).st_mtime_ns  # older than that file


def leftovers(directory: str) -> list[str]:
    """Return the names of stores whose removal has begun."""
    found = []
    for name in _listed(directory):
        store, _, mark = name.removeprefix(GONE).rpartition("-")
        if name.startswith(GONE) and layout_of(store) is not None and _is_hex(mark, 8):
            found.append(name)
    return found


def layout_of(name: str) -> int | None:
    """Return the layout that a store's name tells, 0 before names told it; None if this is no name of a store.

    The name of an archive's store goes on with the interpreter that it was extracted for. A store of a later layout is
    none: who uses it may hold it in a way that we know nothing of.
    """
    digest, dash, rest = name.partition("-")
    if not _is_hex(digest, 2 * NAME_BYTES):
        return None
    if not dash:
        return 0
    layout, dash, kind = rest.partition("-")
    if dash and not kind.translate(_MARKS).isalnum():
        return None
    return next((number for number in range(1, LAYOUT + 1) if layout == str(number)), None)


def remove(directory: str, name: str, *, used: float = float("inf")) -> bool:
    """Remove a store; return False, and leave it, if it was used later than the caller knows.

    Args:
        directory: the folder that holds all stores.
        name: the store's name.
        used: when it was last used, as far as the caller knows, in seconds since 1970.

    Raises:
        BlockingIOError: a process uses it.
        OSError: it is not ours, or cannot be removed.
    """
    path = f"{directory}/{name}"
    gone = f"{directory}/{GONE}{name}-{os.urandom(4).hex()}"
    if last_used(path) / 1e9 > used:  # before the locks, whose files may have to be made
        return False
    locks = Locks(path)
    try:
        os.rename(path, gone)
    finally:
        locks.release()
    if not remove_tree(gone):
        raise OSError(f"not all of {gone} can be removed")
    return True


class Locks:
    """Both locks of a store, ours alone until `release`."""

    def __init__(self, path: str, *, create: bool = True) -> None:
        """Take them.

        Args:
            path: the store.
            create: make the files where they are missing, so that nobody else can between now and the removal.

        Raises:
            BlockingIOError: somebody has one of them.
            OSError: this is no store of ours, or it has just been removed.
        """
        import fcntl

        self._handles: list[int] = []
        if not _is_ours(os.lstat(path)):
            raise PermissionError(f"{path} is not a folder of ours")
        names = ("lock", "users") if layout_of(os.path.basename(path)) else ("lock",)
        try:
            for name in names:
                flags = os.O_RDWR | NO_FOLLOW | (os.O_CREAT if create else 0)
                try:
                    self._handles.append(os.open(f"{path}/{name}", flags, 0o600))
                except FileNotFoundError:
                    if create:
                        raise
                    continue
                fcntl.flock(self._handles[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            if create:
                for name, handle in zip(names, self._handles, strict=True):
                    if identity(handle) != identity(f"{path}/{name}"):
                        raise FileNotFoundError(f"{path} was removed by somebody else")
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let go of them."""
        import fcntl

        for handle in self._handles:
            # By name too: a process forked meanwhile has the same open file.
            fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)
        self._handles.clear()


def remove_tree(path: str) -> bool:
    """Remove a folder of ours and everything in it, following no link. Return whether it is gone."""
    try:
        if not _is_ours(os.lstat(path)):
            return False
        for _, folders, files, handle in os.fwalk(path, topdown=False, follow_symlinks=False):
            for name in files:
                _quietly(os.unlink, name, handle)
            for name in folders:  # a link to a folder counts as one
                if not _quietly(os.rmdir, name, handle):
                    _quietly(os.unlink, name, handle)
        os.rmdir(path)
    except FileNotFoundError:
        pass  # somebody else was at it too
    except OSError:
        return False
    return True


def _quietly(step: Callable[..., None], name: str, folder: int) -> bool:
    try:
        step(name, dir_fd=folder)
    except OSError:
        return False
    return True


def _listed(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _is_ours(facts: os.stat_result) -> bool:
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid()


def _is_hex(text: str, length: int) -> bool:
    return len(text) == length and not text.strip("0123456789abcdef")
