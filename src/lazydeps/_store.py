"""The store: the folder of one root, where frames land and from where modules are read.

Knows the folder, the lock, the free space and what has landed. It neither fetches nor imports. What it keeps:

    root      the root's content, as checked            lock     flock of whoever lands frames
    index     the second index, decompressed            landed   one byte a frame: 1 when all of it is in place
    code      bytecode of the boot set, at its offsets in the tar stream (sparse, read through one map)
    parts/    files that are being written              tree/    site-packages

Two rules make a kill at any instant harmless: a file carries its name in ``tree/`` only when it is whole and
checked, and a frame's byte in ``landed`` is set only after everything in the frame is in place.
"""

from __future__ import annotations

import errno
import os
import stat

from ._digest import sha256_digest
from ._pack import Root, Section, is_bytecode, runs
from .errors import ConfigError, InsufficientSpaceError, LazydepsError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Iterable
    from mmap import mmap

    from ._config import Limits

NAME_BYTES = 16
"""Bytes of the root's digest in the folder's name. The whole digest is checked against the root's content."""
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


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
        self.path = f"{self.directory}/{root[:NAME_BYTES].hex()}"
        self.tree = f"{self.path}/tree"
        self._digest = root
        self._lock: int | None = None
        self._landed: mmap | None = None
        self._code: mmap | None = None
        self._writable = False

    # -- the folder

    def prepare(self) -> None:
        """Create the folder with mode 0700, or make sure that the one that is there is ours.

        Raises:
            ConfigError: it cannot be created, is a link, or somebody else can write to it.
        """
        try:
            os.makedirs(os.path.dirname(self.directory), exist_ok=True)
            for path in self._folders():
                try:
                    os.mkdir(path, 0o700)
                    if path == self.tree:
                        # A new tree holds nothing, whatever an older record says of what had landed.
                        self._remove("landed")
                except FileExistsError:
                    pass
                _check_owner(path)
        except OSError as error:
            raise explain(error, self.directory) from error

    def _folders(self) -> tuple[str, ...]:
        return self.directory, self.path, self.tree, f"{self.path}/parts"

    def check_owner(self) -> None:
        """Raise ConfigError unless the store is a real folder that only we can write to."""
        _check_owner(self.directory)
        _check_owner(self.path)

    def exists(self) -> bool:
        """Whether an earlier start got as far as storing the root."""
        return os.path.exists(f"{self.path}/root") and os.path.isdir(self.tree)

    def free(self) -> int:
        """Return the bytes that the store's file system has free for us."""
        facts = os.statvfs(self.path)
        return facts.f_bavail * facts.f_frsize

    # -- the lock

    def try_lock(self) -> bool:
        """Take the lock that landing needs. Return False while another process or thread holds it."""
        import fcntl

        try:
            if self._lock is None:
                self._lock = os.open(f"{self.path}/lock", os.O_RDWR | os.O_CREAT | _NO_FOLLOW, 0o600)
                _locks.add(self._lock)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise explain(error, self.directory) from error
        return True

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

    # -- root and index

    def read_root(self, limits: Limits) -> Root | None:
        """Return the stored root, or None where there is none or it is not, whole, the one we want."""
        content = self._read("root")
        if content is None or sha256_digest(content) != self._digest:
            return None
        return Root(content, limits=limits)

    def write_root(self, content: bytes) -> None:
        """Keep the root's content; the caller has checked it."""
        self._write_whole(f"{self.path}/root", content, 0o600)

    def read_index(self, root: Root) -> Section | None:
        """Return the section of the data and cold frames, or None where the index has not landed whole."""
        content = self._read("index")
        if content is None or sha256_digest(content[32:]) != content[:32]:
            return None
        return root.read_index(content[32:])

    def write_index(self, text: bytes) -> None:
        """Keep the decompressed index, its own digest before it; the caller has checked it."""
        self._write_whole(f"{self.path}/index", sha256_digest(text) + text, 0o600)

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
        whole = True
        for name, size in sizes:  # landed last: whoever finds it finds the code image too
            try:
                handle = os.open(f"{self.path}/{name}", mode | _NO_FOLLOW, 0o600)
            except FileNotFoundError:
                return False
            try:
                if os.fstat(handle).st_size != size or not whole:
                    if not create:
                        return False
                    # A new code image holds nothing, whatever an older record says of what had landed.
                    whole = False
                    os.ftruncate(handle, 0)
                    os.ftruncate(handle, size)
                maps.append(mmap(handle, size, access=access))
            finally:
                os.close(handle)
        self._code, self._landed = maps
        self._writable = create
        return True

    def reopen(self, root: Root) -> bool:
        """Map what lies at the store's place now; somebody may have removed and remade it."""
        self._landed = self._code = None
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
            handle = os.open(f"{self.path}/{name}", os.O_RDONLY | _NO_FOLLOW)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise explain(error, self.path) from error
        with open(handle, "rb") as file:
            return file.read()

    def _remove(self, name: str) -> None:
        try:
            os.unlink(f"{self.path}/{name}")
        except FileNotFoundError:
            pass

    def _write_whole(self, path: str, data: bytes | memoryview, mode: int) -> None:
        part = f"{self.path}/parts/{os.getpid()}-{os.path.basename(path)}"
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
        try:
            store.open_landed(root, create=True)
            self._code = os.open(f"{store.path}/code", os.O_WRONLY | _NO_FOLLOW)
        except OSError as error:
            raise explain(error, store.directory) from error

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
            InsufficientSpaceError: the disk is full.
            ConfigError: the store cannot be written.
        """
        try:
            self._land(section, number, data)
        except OSError as error:
            raise explain(error, self._store.directory) from error

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
                handle = os.open(part, os.O_WRONLY | os.O_CREAT | _NO_FOLLOW, mode)
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
        boot = self._root.boot
        for file, path in enumerate(boot.paths):
            target = f"{self._store.tree}/{path}"
            if is_bytecode(path) and not os.path.exists(target):
                begin = boot.offsets[file]
                part = f"{self._store.path}/parts/plain-{file}"
                try:
                    _write_file(part, self._store.bytecode(begin, begin + boot.sizes[file]), 0o600)
                    self._place(part, target)
                except OSError as error:
                    raise explain(error, self._store.directory) from error


def _check_owner(path: str) -> None:
    facts = os.lstat(path)
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o022:
        raise ConfigError(
            f"the store {path} is not a folder that this user alone can write to (owner {facts.st_uid}, mode "
            f"{stat.filemode(facts.st_mode)}; we are user {os.geteuid()}). Nothing was read from it. "
            "Remove it, or set LAZYDEPS_DIR to a folder of your own."
        )


def explain(error: OSError, directory: str) -> LazydepsError:
    """Turn a failed write to the store into the error that says what to do about it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        try:
            facts = os.statvfs(directory)
            available = facts.f_bavail * facts.f_frsize
        except OSError:
            available = 0
        return InsufficientSpaceError(
            f"the disk is full: {directory} has {available} bytes left ({error.strerror}). Nothing half-written is "
            "used; set a larger ephemeral_storage for the function, or point LAZYDEPS_DIR to a larger disk.",
            needed=0,
            available=available,
        )
    return ConfigError(
        f"the store {directory} cannot be used: {error.strerror or error}. "
        "Set LAZYDEPS_DIR to a folder that this user can write to; on Lambda that is below /tmp."
    )


def check_space(store: Store, needed: int) -> None:
    """Raise InsufficientSpaceError unless ``needed`` more bytes fit on the store's file system."""
    available = store.free()
    if needed > available:
        total = -(-(needed - available) // 2**20)
        raise InsufficientSpaceError(
            f"the pack needs {needed} more bytes in {store.directory} and {available} are free. Raise the function's "
            f"ephemeral_storage by at least {total} MB (Lambda allows 512 to 10,240 MB), or set LAZYDEPS_DIR to a "
            "larger disk.",
            needed=needed,
            available=available,
        )


def _write_file(path: str, data: bytes | memoryview, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _NO_FOLLOW, mode)
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
