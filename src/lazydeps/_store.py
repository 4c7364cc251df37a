"""The store: the folder of one root, where frames land and from where modules are read.

Knows the folder, its locks, the free space and what has landed. It neither fetches nor imports; `_space` removes
stores. What it keeps:

    root      the root's content, as checked            lock     flock of whoever lands frames
    index     the second index, decompressed            users    shared flock of whoever has the pack loaded
    code      bytecode of the boot set, at its offsets in the tar stream (sparse, read through one map)
    landed    one byte a frame: 1 when all of it is in place
    parts/    files that are being written              tree/    site-packages

Two rules make a kill at any instant harmless: a file carries its name in ``tree/`` only when it is whole and
checked, and a frame's byte in ``landed`` is set only after everything in the frame is in place.

A store is removed only by who has both locks for itself, and it is renamed first. So whoever has got a lock looks
whether the path still names what is locked; if not, the store has gone meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat
from _thread import allocate_lock

from ._digest import sha256_digest
from ._pack import Root, Section, is_bytecode, runs
from .errors import ConfigError, InsufficientSpaceError, LazydepsError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable, Iterable
    from mmap import mmap
    from typing import TypeVar

    from ._config import Limits

    Result = TypeVar("Result")

NAME_BYTES = 16
"""Bytes of the root's digest in the folder's name. The whole digest is checked against the root's content."""
LAYOUT = 1
"""Version of what is in the folder; stands in its name, so that no version reads what it does not understand. From 1 on
a store is held by its ``users`` file."""
FULL = (errno.ENOSPC, errno.EDQUOT)
"""What a write fails with where there is no room left: bytes, inodes or a quota."""
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_ATTEMPTS = 3
"""How often a folder is made again that somebody removes while it is being made."""

_locks: set[int] = set()
"""Descriptors of the locks that this process holds."""


def forget_locks() -> None:
    """In a forked process: close what was inherited, so that the parent's death frees its locks at once."""
    for handle in tuple(_locks):
        try:
            os.close(handle)
        except OSError:
            pass
    _locks.clear()


class Store:
    """One root's folder. Any number of processes may read it; `lock` decides which of them lands frames."""

    def __init__(self, directory: str, root: bytes) -> None:
        """Name the folder; `prepare` creates it.

        Args:
            directory: the folder that holds all stores, ``LAZYDEPS_DIR``.
            root: SHA-256 of the pack's root, 32 raw bytes.
        """
        self.directory = os.path.abspath(directory)
        self.name = f"{root[:NAME_BYTES].hex()}-{LAYOUT}"
        self.path = f"{self.directory}/{self.name}"
        self.tree = f"{self.path}/tree"
        self._digest = root
        self._lock: int | None = None
        self._users: int | None = None
        self._users_identity = (0, 0)
        self._removing = allocate_lock()
        self._removals = 0
        """How many other stores had to make room for this one."""
        self._held: list[str] = []
        """Those that could not, because they are in use."""
        self._landed: mmap | None = None
        self._code: mmap | None = None
        self._writable = False

    # -- the folder

    def prepare(self) -> None:
        """Create the folder with mode 0700, or make sure that the one that is there is ours.

        Raises:
            ConfigError: it cannot be created, is a link, or somebody else can write to it.
            InsufficientSpaceError: the disk is too full for a folder.
        """
        self.with_room(self._prepare)

    def _prepare(self) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                os.makedirs(os.path.dirname(self.directory), exist_ok=True)
                _make_folder(self.directory)
                _make_folder(self.path)
                return
            except FileNotFoundError:  # somebody has just removed the store
                if attempt == _ATTEMPTS - 1:
                    raise

    def _furnish(self) -> None:
        """Make what the folder holds from the beginning. Needs the lock."""
        self._furnish_tree()
        _make_folder(f"{self.path}/parts")
        os.close(os.open(f"{self.path}/users", os.O_RDWR | os.O_CREAT | NO_FOLLOW, 0o600))

    def _furnish_tree(self) -> None:
        if not os.path.lexists(self.tree):
            # A new tree holds nothing, whatever an older record says of what had landed. First the record goes: a
            # process that finds a tree believes the record beside it.
            self._remove("landed")
        _make_folder(self.tree)

    def check_owner(self) -> None:
        """Raise ConfigError unless the store is a real folder that only we can write to."""
        check_folder(self.directory)
        check_folder(self.path)
        check_folder(self.tree)

    def exists(self) -> bool:
        """Whether an earlier start got as far as storing the root."""
        return os.path.lexists(f"{self.path}/root")

    # -- room

    def room(self) -> tuple[int, int | None]:
        """Return the bytes and the inodes that are free for us; None where inodes are not counted."""
        facts = os.statvfs(self.path)
        return facts.f_bavail * facts.f_frsize, facts.f_favail if facts.f_files else None

    def ensure_room(self, root: Root, rest: Section | None, *, complete: bool = False, first: int = 0) -> None:
        """Make sure that what has still to land will fit, at the cost of other stores if need be.

        Args:
            root: the pack's root.
            rest: the section of the data and cold frames, if it is known.
            complete: the cold set too.
            first: the frame from which on to look.

        Raises:
            InsufficientSpaceError: it does not fit.
        """
        needed = names = 0
        stop = root.frames if complete else root.data_stop
        for section in (root.boot, rest):
            if section is not None:
                missing = self.missing(range(max(first, section.first), min(stop, section.first + len(section))))
                needed += sum(section.frame(number).unpacked for number in missing)
                names += len(section.paths) if missing else 0
        if rest is None:
            needed += sum(root.unpacked(name) for name in (("data", "cold") if complete else ("data",)))
        free, inodes = self.room()
        # With its folders, a pack hardly ever has more names than that. To count them takes longer than to ask.
        if needed > free or (inodes is not None and 2 * names > inodes):
            from ._space import make_room

            make_room(self, root, rest, needed, complete=complete, first=first)

    def with_room(self, step: Callable[[], Result]) -> Result:
        """Run a step that writes. Where the disk is full: again, as long as there is another store to remove.

        Raises:
            InsufficientSpaceError: the disk is full.
            ConfigError: the store cannot be written.
        """
        while True:
            before = self._removals
            try:
                return step()
            except OSError as error:
                if error.errno not in FULL or not self._remove_another(before):
                    raise explain(error, self.directory, self._held) from error

    def _remove_another(self, before: int) -> bool:
        """Remove the store that was not used for longest, unless another thread has just done so."""
        with self._removing:
            if self._removals == before:
                from ._space import collect

                removed, self._held = collect(self.directory, keep=(self.name,), most=1)
                self._removals += bool(removed)
            return self._removals > before

    # -- locks

    def try_lock(self) -> bool:
        """Take the lock that landing needs. Return False while another process or thread holds it.

        Raises:
            ConfigError: the store cannot be written.
            InsufficientSpaceError: the disk is too full for an empty store.
        """
        return self.with_room(self._try_lock)

    def _try_lock(self) -> bool:
        import fcntl

        try:
            if self._lock is None:
                self._lock = os.open(f"{self.path}/lock", os.O_RDWR | os.O_CREAT | NO_FOLLOW, 0o600)
                _locks.add(self._lock)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if identity(self._lock) == identity(f"{self.path}/lock"):
                self._furnish()
                return True
        except BlockingIOError:
            return False
        except FileNotFoundError:
            pass
        except BaseException:
            self.unlock()
            raise
        self.unlock()
        self._prepare()  # somebody has removed the store
        return False

    def unlock(self) -> None:
        """Give the lock back."""
        import fcntl

        if self._lock is not None:
            # Unlocked by name, not only closed: a process forked meanwhile holds the same open file.
            try:
                fcntl.flock(self._lock, fcntl.LOCK_UN)
                os.close(self._lock)
            except OSError:
                pass  # somebody closed it under us, which unlocks it as well
            _locks.discard(self._lock)
            self._lock = None

    def hold(self) -> bool:
        """Keep the store from being removed while this process lives, or one that is forked from it.

        Returns:
            False where there is no store, or somebody is removing it.

        Raises:
            ConfigError: it is not a store that only we can write to.
        """
        if self._users is not None:
            return True
        import fcntl

        path = f"{self.path}/users"
        try:
            self.check_owner()
            # For reading only: a store on a disk that we cannot write to can be held as well.
            handle = os.open(path, os.O_RDONLY | NO_FOLLOW)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise explain(error, self.directory) from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError:
                pass  # no locks on this file system: then nobody can take the one that removal needs
            mark = identity(handle)
            if mark == identity(path):
                try:
                    os.utime(handle)  # the store that was not used for longest is removed first
                except OSError:
                    pass  # a disk that we cannot write to
                if self._users is None:  # else another thread was faster
                    self._users_identity = mark
                    self._users, handle = handle, -1
                return True
        except FileNotFoundError:
            pass
        finally:
            if handle >= 0:
                os.close(handle)
        return False

    def release(self) -> None:
        """Let go of what `hold` holds."""
        handle, self._users = self._users, None
        try:
            # Some programs close what is not theirs, and the number may be somebody else's by now.
            if handle is not None and identity(handle) == self._users_identity:
                os.close(handle)
        except OSError:
            pass

    # -- root and index

    def read_root(self, limits: Limits) -> Root | None:
        """Return the stored root, or None where there is none or it is not, whole, the one we want."""
        content = self._read("root")
        if content is None or sha256_digest(content) != self._digest:
            return None
        return Root(content, limits=limits)

    def write_root(self, content: bytes) -> None:
        """Keep the root's content; the caller has checked it."""
        self.with_room(lambda: self._write_whole(f"{self.path}/root", content, 0o600))

    def read_index(self, root: Root) -> Section | None:
        """Return the section of the data and cold frames, or None where the index has not landed whole."""
        content = self._read("index")
        if content is None or sha256_digest(content[32:]) != content[:32]:
            return None
        return root.read_index(content[32:])

    def write_index(self, text: bytes) -> None:
        """Keep the decompressed index, its own digest before it; the caller has checked it."""
        self.with_room(lambda: self._write_whole(f"{self.path}/index", sha256_digest(text) + text, 0o600))

    # -- what has landed

    def open_landed(self, root: Root, *, create: bool = False) -> bool:
        """Map the record of landed frames, and the code image. Return False where they do not exist yet."""
        if self._landed is not None and (self._writable or not create):
            return True
        from mmap import ACCESS_READ, ACCESS_WRITE, mmap

        mode = os.O_RDWR | os.O_CREAT if create else os.O_RDONLY
        access = ACCESS_WRITE if create else ACCESS_READ
        sizes = (("code", max(1, root.boot.bases[-1])), ("landed", max(1, root.frames)))
        maps = []
        if create and not self._has_size(*sizes[0]):
            # A new code image holds nothing, whatever an older record says of what had landed. First the record goes:
            # a kill may come in between.
            self._remove("landed")
        for name, size in sizes:  # landed last: whoever finds it finds the code image too
            try:
                handle = os.open(f"{self.path}/{name}", mode | NO_FOLLOW, 0o600)
            except FileNotFoundError:
                return False
            except OSError as error:
                if create:
                    raise
                raise explain(error, self.directory) from error
            try:
                if os.fstat(handle).st_size != size:
                    if not create:
                        return False
                    os.ftruncate(handle, 0)
                    if name == "landed":
                        # Written out, not only made that long: to touch a hole through the map would take a block of
                        # the disk then and there, and the answer of a full one is a SIGBUS.
                        _write_at(handle, bytes(size), 0)
                    else:
                        os.ftruncate(handle, size)
                maps.append(mmap(handle, size, access=access))
            finally:
                os.close(handle)
        self._code, self._landed = maps
        self._writable = create
        return True

    def close(self) -> None:
        """Close the maps now, and not whenever they are collected: each has a descriptor of its own."""
        for each in (self._code, self._landed):
            try:
                if each is not None:
                    each.close()
            except BufferError:
                pass  # somebody still reads what `bytecode` returned
        self._code = self._landed = None

    def reopen(self, root: Root) -> bool:
        """Map what lies at the store's place now; somebody may have removed and remade it."""
        self._landed = self._code = None
        self.release()  # what we held may be what was removed
        self.hold()
        return self.open_landed(root)

    def has_landed(self, frame: int) -> bool:
        """Whether everything in this frame is in place."""
        return self._landed is not None and self._landed[frame] == 1

    def prefix(self, start: int, stop: int) -> int:
        """Return the first frame from ``start`` on, up to ``stop``, that has not landed."""
        landed = self._landed
        while start < stop and landed is not None and landed[start] == 1:
            start += 1
        return start

    def missing(self, frames: Iterable[int]) -> list[int]:
        """Return those frames that have not landed, in the order given."""
        return [frame for frame in frames if not self.has_landed(frame)]

    def bytecode(self, begin: int, end: int) -> memoryview:
        """Return the boot set's bytecode between two offsets of the tar stream."""
        assert self._code is not None
        return memoryview(self._code)[begin:end]

    # -- helpers

    def _read(self, name: str) -> bytes | None:
        try:
            handle = os.open(f"{self.path}/{name}", os.O_RDONLY | NO_FOLLOW)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise explain(error, self.path) from error
        with open(handle, "rb") as file:
            return file.read()

    def _has_size(self, name: str, size: int) -> bool:
        try:
            return os.lstat(f"{self.path}/{name}").st_size == size
        except FileNotFoundError:
            return False

    def _remove(self, name: str) -> None:
        try:
            os.unlink(f"{self.path}/{name}")
        except FileNotFoundError:
            pass

    def _write_whole(self, path: str, data: bytes | memoryview, mode: int) -> None:
        # Always the same name: the lock keeps others away, and what a killed writer left is written over.
        part = f"{self.path}/parts/{os.path.basename(path)}"
        _write_file(part, data, mode)
        os.replace(part, path)


class Landing:
    """The writing half of a store: puts checked, decompressed frames in place. Needs the store's lock.

    Threads may land different frames at once.
    """

    def __init__(self, store: Store, root: Root, lock: LockType) -> None:
        """Open the store for writing.

        Args:
            store: the store, locked by us.
            root: the pack's root, validated.
            lock: guards the last step of files that several frames share.
        """
        self._store = store
        self._root = root
        self._guard = lock
        self._folders: set[str] = set()
        store.with_room(lambda: store.open_landed(root, create=True))
        self._code = store.with_room(lambda: os.open(f"{store.path}/code", os.O_WRONLY | NO_FOLLOW))

    def close(self) -> None:
        """Close what `__init__` opened."""
        os.close(self._code)

    def land(self, section: Section, number: int, data: memoryview) -> None:
        """Put every part of a frame in place, then record that it has landed.

        Args:
            section: the section that the frame belongs to, validated.
            number: the frame.
            data: its decompressed bytes.

        Raises:
            InsufficientSpaceError: the disk is full, and no other store could make room.
            ConfigError: the store cannot be written.
        """
        self._store.with_room(lambda: self._land(section, number, data))

    def _land(self, section: Section, number: int, data: memoryview) -> None:
        landed = self._store._landed
        assert landed is not None
        base = section.bases[number - section.first]
        image = section is self._root.boot
        shared: list[tuple[int, str]] = []
        run_begin = run_end = -1
        for file, begin, end in runs(section, number):
            path = section.paths[file]
            if image and is_bytecode(path):
                # Neighbours go out in one write, tar headers between them included.
                run_begin = begin if run_begin < 0 else run_begin
                run_end = end
                continue
            if run_begin >= 0:
                _write_at(self._code, data[run_begin - base : run_end - base], run_begin)
                run_begin = -1
            offset, size = section.offsets[file], section.sizes[file]
            mode = 0o700 if file in section.executable else 0o600
            if end - begin == size:
                target = f"{self._store.tree}/{path}"
                part = f"{self._store.path}/parts/{number}-{file}"
                _write_file(part, data[begin - base : end - base], mode)
                self._place(part, target)
                continue
            part = f"{self._store.path}/parts/{section.first}-{file}"
            shared.append((file, part))
            # A kill between the rename and the record below leaves the file whole in the tree and the frame
            # unrecorded. Writing this part alone and renaming again would replace the whole file by a torso.
            if not os.path.exists(f"{self._store.tree}/{path}"):
                others = [frame for frame in section.frames_of(file) if frame != number and landed[frame] == 1]
                handle = os.open(part, os.O_WRONLY | os.O_CREAT | NO_FOLLOW, mode)
                try:
                    if others and not os.fstat(handle).st_size:
                        # Their parts were here and somebody removed them: they have to come again.
                        for frame in others:
                            landed[frame] = 0
                    _write_at(handle, data[begin - base : end - base], begin - offset)
                finally:
                    os.close(handle)
        if run_begin >= 0:
            _write_at(self._code, data[run_begin - base : run_end - base], run_begin)
        with self._guard:
            for file, part in shared:
                others = [frame for frame in section.frames_of(file) if frame != number]
                target = f"{self._store.tree}/{section.paths[file]}"
                if all(landed[frame] == 1 for frame in others) and not os.path.exists(target):
                    self._place(part, target)
            landed[number] = 1

    def _place(self, part: str, target: str) -> None:
        folder = os.path.dirname(target)
        if folder not in self._folders:
            os.makedirs(folder, 0o700, exist_ok=True)
            self._folders.add(folder)
        os.replace(part, target)

    def write_plain_bytecode(self) -> None:
        """Write the boot set's bytecode as files too, so that the tree serves an interpreter without lazydeps."""
        from functools import partial

        boot = self._root.boot
        for file, path in enumerate(boot.paths):
            target = f"{self._store.tree}/{path}"
            if is_bytecode(path) and not os.path.exists(target):
                begin = boot.offsets[file]
                content = self._store.bytecode(begin, begin + boot.sizes[file])
                self._store.with_room(partial(self._place_whole, f"plain-{file}", target, content))

    def _place_whole(self, part: str, target: str, content: memoryview) -> None:
        path = f"{self._store.path}/parts/{part}"
        _write_file(path, content, 0o600)
        self._place(path, target)


def identity(file: int | str) -> tuple[int, int]:
    """Return what tells a file, by descriptor or by path, from every other that is there."""
    facts = os.fstat(file) if isinstance(file, int) else os.lstat(file)
    return facts.st_dev, facts.st_ino


def _make_folder(path: str) -> bool:
    """Create a folder with mode 0700, or check the one that is there; return whether it is new."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        check_folder(path)
        return False
    check_folder(path)
    return True


def check_folder(path: str) -> None:
    facts = os.lstat(path)
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o022:
        raise ConfigError(
            f"the store {path} is not a folder that this user alone can write to (owner {facts.st_uid}, mode "
            f"{stat.filemode(facts.st_mode)}; we are user {os.geteuid()}). Nothing was read from it. "
            "Remove it, or set LAZYDEPS_DIR to a folder of your own."
        )


def explain(error: OSError, directory: str, held: Iterable[str] = ()) -> LazydepsError:
    """Turn a failed write to the store into the error that says what to do about it.

    Args:
        error: what the system said.
        directory: the folder that holds all stores.
        held: names of other stores that are there and in use.
    """
    if error.errno in FULL:
        place = directory
        while not os.path.exists(place):  # it was to be made
            place = os.path.dirname(place)
        facts = os.statvfs(place)
        available = facts.f_bavail * facts.f_frsize
        left = f"{available} bytes left"
        if facts.f_files and not facts.f_favail:
            left += ", but no inodes: every file and folder needs one"
        return InsufficientSpaceError(
            f"the disk is full: {directory} has {left} ({error.strerror}). Nothing half-written is "
            f"used.{in_use(held)} Set a larger ephemeral_storage for the function, or point LAZYDEPS_DIR to a larger "
            "disk.",
            needed=0,
            available=available,
        )
    if error.errno == errno.ELOOP:
        return ConfigError(
            f"the store {directory} cannot be used: {error.filename or 'something in it'} is a symbolic link, which "
            "lazydeps never makes and does not follow. Remove that store, or set LAZYDEPS_DIR to a folder of your own."
        )
    return ConfigError(
        f"the store {directory} cannot be used: {error.strerror or error}. "
        "Set LAZYDEPS_DIR to a folder that this user can write to; on Lambda that is below /tmp."
    )


def in_use(held: Iterable[str]) -> str:
    """Return the sentence that says which other stores take space and cannot be removed; nothing if there are none."""
    names = sorted(held)
    if not names:
        return ""
    which = "Another store there is" if len(names) == 1 else f"{len(names)} other stores there are"
    return f" {which} held by running processes ({', '.join(names)}): end those, or wait."


def _write_file(path: str, data: bytes | memoryview, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | NO_FOLLOW, mode)
    try:
        _write_at(handle, data, 0)
    finally:
        os.close(handle)


def _write_at(handle: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, offset)
        view = view[written:]
        offset += written
