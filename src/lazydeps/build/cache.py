"""A folder of what builds have made before, by the digest of what it was made from.

Knows nothing of packs: who compresses, compiles or records says what the result depends on (`key`) and keeps bytes.
The folder is ours alone, an entry appears whole or not at all, and each is checked when it is read. Whatever goes
wrong with it costs time, never a build.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lazydeps.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Kind = Literal["frames", "bytecode", "traces"]
KINDS: tuple[Kind, ...] = ("frames", "bytecode", "traces")
DEFAULT_SIZE = 2_000_000_000
"""Bytes that entries may take together, by default."""
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
FORGOTTEN = 3600.0
"""Seconds after which a half-written file belongs to nobody any more: writing one takes less than one."""

_MAGIC = b"lazycach"
_HEAD = len(_MAGIC) + hashlib.sha256().digest_size
_VERSION = "v1"
"""The folder in the folder, so that a later form of entries can stand beside this one."""


@dataclass(frozen=True, slots=True)
class Used:
    """What a cache did for one build."""

    hits: int
    misses: int
    saved_bytes: int
    """Bytes of results that were found instead of being made again."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One kept result."""

    kind: Kind
    path: Path
    size: int
    """Bytes."""
    used: float
    """When it was last used, seconds since 1970."""


def default_folder(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return where builds keep things: ``LAZYDEPS_CACHE``, else the user's cache folder by the XDG rules.

    ``LAZYDEPS_CACHE=0`` means nowhere: None.
    """
    if chosen := environ.get("LAZYDEPS_CACHE"):
        return None if chosen == "0" else Path(chosen)
    base = environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification: a relative path is to be ignored.
    return Path(base if base.startswith("/") else Path(environ.get("HOME") or Path.home(), ".cache"), "lazydeps")


def size_limit(environ: Mapping[str, str] = os.environ) -> int:
    """Return how many bytes a cache may hold: ``LAZYDEPS_CACHE_SIZE``, else `DEFAULT_SIZE`.

    Raises:
        ConfigError: the variable holds no size.
    """
    chosen = environ.get("LAZYDEPS_CACHE_SIZE", "")
    try:
        return parse_size(chosen) if chosen else DEFAULT_SIZE
    except ConfigError as error:
        raise ConfigError(f"LAZYDEPS_CACHE_SIZE: {error}") from error


def parse_size(text: str) -> int:
    """Read a size such as ``500MB`` or ``1.5 GB`` (10^6 and 10^9, as AWS counts), and return it in bytes.

    Raises:
        ConfigError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Z]*)", text.strip().upper())
    if found is None or found[2] not in UNITS:
        raise ConfigError(f"{text!r} is no size: give a number and a unit, such as 500MB or 2GB.")
    return int(float(found[1]) * UNITS[found[2]])


def key(*parts: str | bytes) -> str:
    """Return the name of a result: a digest of everything that it depends on, in this order."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))  # or ("ab", "c") would be ("a", "bc")
        digest.update(data)
    return digest.hexdigest()


class Cache:
    """A cache in a folder, which is made when something is kept. Safe in threads and beside other builds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._readable = self._writable = True
        self._hits = self._misses = self._saved = 0
        self._warning: str | None = None
        try:
            _check_owner(folder)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._readable = self._writable = False
            self._warn(str(error.strerror or error))

    @property
    def used(self) -> Used:
        """What it has done so far."""
        return Used(self._hits, self._misses, self._saved)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why it could not do more; one sentence at most."""
        return () if self._warning is None else (self._warning,)

    def get(self, kind: Kind, name: str) -> bytes | None:
        """Return what was kept under a key, or None. A damaged entry is none."""
        content = self._read(kind, name) if self._readable else None
        with self._lock:
            if content is None:
                self._misses += 1
            else:
                self._hits += 1
                self._saved += len(content)
        return content

    def put(self, kind: Kind, name: str, content: bytes) -> None:
        """Keep a result. If that fails, it is not kept, and nothing further is."""
        if not self._writable:
            return
        path = self._path(kind, name)
        half = self.folder / _VERSION / "half" / secrets.token_hex(16)
        try:
            try:
                descriptor = self._create(half)
                with open(descriptor, "wb") as stream:
                    stream.write(_MAGIC + _digest(kind, name, content))
                    stream.write(content)
                try:
                    half.rename(path)
                except FileNotFoundError:
                    for made in (path.parent.parent, path.parent):
                        made.mkdir(mode=0o700, exist_ok=True)
                    half.rename(path)
            finally:
                half.unlink(missing_ok=True)
        except OSError as error:
            self._writable = False
            self._warn(error.strerror or str(error))

    def trim(self, limit: int) -> None:
        """Remove what was not used for longest, until what is left takes no more than ``limit`` bytes."""
        if not self._writable:
            return
        try:
            for _ in prune(self.folder, size=limit):
                pass
        except (OSError, ConfigError) as error:
            self._warn(getattr(error, "strerror", None) or str(error))

    def _path(self, kind: Kind, name: str) -> Path:
        return self.folder / _VERSION / kind / name[:2] / name[2:]

    def _create(self, half: Path) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(half, flags, 0o600)
        except FileNotFoundError:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
            _check_owner(self.folder)
            half.parent.parent.mkdir(mode=0o700, exist_ok=True)
            half.parent.mkdir(mode=0o700, exist_ok=True)
            return os.open(half, flags, 0o600)

    def _read(self, kind: Kind, name: str) -> bytes | None:
        path = self._path(kind, name)
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as stream:
                head, content = stream.read(_HEAD), stream.read()
        except OSError:
            return None
        if head != _MAGIC + _digest(kind, name, content):
            return None  # the next `put` replaces it
        try:
            os.utime(path)
        except OSError:
            pass  # a read-only disk, or another build has just removed it
        return content

    def _warn(self, why: str) -> None:
        with self._lock:
            if self._warning is None:
                self._warning = (
                    f"the cache {self.folder} is not used further ({why}); the pack is the same, the next build takes "
                    "longer. Choose another folder with --cache-dir, or none with --no-cache."
                )


def entries(folder: Path) -> list[Entry]:
    """Return what a cache holds, the least recently used first.

    Raises:
        ConfigError: the folder is not ours alone.
    """
    try:
        _check_owner(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"the cache {folder} cannot be used: {error.strerror or error}.") from error
    found = []
    for kind in KINDS:
        for path in (folder / _VERSION / kind).glob("??/*"):
            try:
                facts = path.lstat()
            except OSError:
                continue  # another build has just removed it
            if stat.S_ISREG(facts.st_mode):
                found.append(Entry(kind, path, facts.st_size, facts.st_mtime))
    return sorted(found, key=lambda entry: (entry.used, entry.path))


def prune(
    folder: Path, *, size: int | None = None, older_than: float | None = None, dry_run: bool = False
) -> Iterator[Entry]:
    """Remove entries, the least recently used first, and yield each. A build that reads one meanwhile goes on.

    Args:
        folder: the cache.
        size: bytes that may stay; None for any number.
        older_than: remove what was not used for so many seconds; None for none.
        dry_run: remove nothing.

    Raises:
        ConfigError: the folder is not ours alone.
        OSError: an entry cannot be removed.
    """
    now = time.time()
    there = entries(folder)
    total = sum(entry.size for entry in there)
    for entry in there:
        old = older_than is not None and now - entry.used >= older_than
        if not old and (size is None or total <= size):
            continue
        total -= entry.size
        if not dry_run:
            entry.path.unlink(missing_ok=True)
        yield entry
    if not dry_run:
        _remove_halves(folder, now)


def clear(folder: Path, *, kinds: tuple[Kind, ...] = KINDS, dry_run: bool = False) -> Iterator[Entry]:
    """Remove all entries of some kinds, and yield each.

    Raises:
        ConfigError: the folder is not ours alone.
        OSError: an entry cannot be removed.
    """
    for entry in entries(folder):
        if entry.kind in kinds:
            if not dry_run:
                entry.path.unlink(missing_ok=True)
            yield entry
    if not dry_run:
        _remove_halves(folder, time.time())


def _remove_halves(folder: Path, now: float) -> None:
    for path in (folder / _VERSION / "half").glob("*"):
        try:
            if now - path.lstat().st_mtime > FORGOTTEN:
                path.unlink()
        except OSError:
            pass  # its writer has finished


def _check_owner(folder: Path) -> None:
    """Whoever can write into the cache decides what is in a pack: that must be nobody but us."""
    facts = folder.stat()
    if not stat.S_ISDIR(facts.st_mode):
        raise NotADirectoryError(0, "it is no folder")
    if facts.st_uid != os.geteuid() or facts.st_mode & 0o022:
        raise PermissionError(
            0,
            f"it belongs to user {facts.st_uid} with mode {stat.filemode(facts.st_mode)}, and must be one that only "
            f"user {os.geteuid()} can write to",
        )


def _digest(kind: Kind, name: str, content: bytes) -> bytes:
    digest = hashlib.sha256(f"{kind}/{name}\0".encode())
    digest.update(content)
    return digest.digest()
