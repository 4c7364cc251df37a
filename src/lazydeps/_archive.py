"""Archives that are not packs, read with suspicion: what all kinds have in common, and the rules for names.

Every member's name, kind and sizes are checked before a byte of any is handed out; what is handed out is bounded by
what was declared. `_archive_zip` and `_archive_tar` read the two families. Nothing here writes, and an archive inside
an archive is a file like any other.
"""

from __future__ import annotations

from .errors import LazydepsError, PackFormatError, UnsafeArchiveError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from ._config import Limits

    Chunks = Iterator[bytes]

CHUNK = 256 * 1024
"""Bytes of content handed out at a time, about."""


class Member:
    """A file of an archive, or a symbolic link."""

    __slots__ = ("executable", "link", "modified", "name", "raw", "size")

    def __init__(self, name: str, raw: str, size: int, executable: bool, link: str | None, modified: int) -> None:
        self.name = name
        """The checked path, relative, without ``./``."""
        self.raw = raw
        """The name as the archive gives it, for messages."""
        self.size = size
        """Bytes of content, as declared. Reading delivers so many or raises."""
        self.executable = executable
        self.link = link
        """What a symbolic link points to; None for a file."""
        self.modified = modified if 0 <= modified < 1 << 32 else 0
        """Seconds since 1970; in a zip file even ones, and by a clock that nobody knows."""


class Archive:
    """An archive whose members have passed every check that needs no content."""

    members: list[Member]
    """Files and links in the archive's order. Folders are left out: files make the folders they need."""

    def contents(self) -> Iterator[tuple[Member, Chunks]]:
        """Yield every file with its content, in the archive's order. The content is valid until the next one.

        Raises:
            UnsafeArchiveError: a content is longer or shorter than declared.
            PackFormatError: it is damaged.
        """
        raise TypeError(f"{type(self).__name__} lacks what every archive has")


def open_archive(file: BinaryIO, suffix: str, limits: Limits) -> Archive:
    """Read and check an archive's directory.

    Args:
        file: the archive, seekable.
        suffix: one of `lazydeps._ref.ARCHIVES`; it decides what the bytes have to be.
        limits: bounds on names, sizes and counts.

    Raises:
        PackFormatError: it is cut off, damaged, encrypted, or no such archive.
        UnsafeArchiveError: a member would land outside, is no plain file, or claims what is not so.
    """
    try:
        if suffix in (".zip", ".whl"):
            from ._archive_zip import ZipArchive

            return ZipArchive(file, limits)
        from ._archive_tar import TarArchive

        return TarArchive(file, suffix, limits)
    except (LazydepsError, OSError):
        raise
    except Exception as error:  # what zipfile, tarfile, struct and the decompressors raise has no common base
        raise PackFormatError(f"the archive cannot be read: {str(error) or type(error).__name__}. {_AGAIN}") from error


_AGAIN = "Nothing of it is used. Make it again, and pin what `lazydeps lock` prints."


def unsafe(raw: str, problem: str) -> UnsafeArchiveError:
    """Return the error that names a member and says what is wrong with it."""
    return UnsafeArchiveError(f"the archive's member {raw!r} {problem}. Nothing of the archive is used.", member=raw)


def damaged(problem: str, raw: str | None = None) -> PackFormatError:
    """Return the error for an archive, or a member, that cannot be read."""
    where = "the archive" if raw is None else f"the archive's member {raw!r}"
    return PackFormatError(f"{where} {problem}. {_AGAIN}")


class Names:
    """All names of an archive so far: each may stand there once, and together they keep the limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._seen: dict[str, str] = {}
        self._folders: set[str] = set()
        self._count = self._total = 0
        from unicodedata import normalize

        self._normalize = normalize

    def add(self, raw: str, *, size: int, folder: bool = False) -> str:
        """Check a member's name against the rules and the members before it, and return its path (folders: or "").

        Raises:
            UnsafeArchiveError: it breaks a rule.
        """
        limits = self._limits
        self._count += 1
        self._total += size
        if self._count > limits.files:
            raise unsafe(raw, f"is one more than the {limits.files} that an archive may hold")
        if size < 0 or self._total > limits.unpacked:
            raise unsafe(raw, f"claims {size} bytes, and all together may have {limits.unpacked}")
        path = check_name(raw, limits, folder=folder)
        parts = path.split("/") if path else []
        above = parts if folder else parts[:-1]
        for depth in range(len(above), 0, -1):
            key = self._key("/".join(above[:depth]))
            if key in self._seen:
                raise unsafe(raw, f"needs a folder where {self._seen[key]!r} is a file")
            if key in self._folders:
                break  # and so are those above it
            self._folders.add(key)
        if not folder:
            key = self._key(path)
            if key in self._seen:
                same = self._seen[key] == path
                raise unsafe(raw, "stands there twice" if same else f"differs from {self._seen[key]!r} only by case")
            if key in self._folders:
                raise unsafe(raw, "is a file and a folder at once")
            self._seen[key] = path
        return path

    def charge(self, raw: str, size: int) -> None:
        """Count bytes that are read and belong to no member.

        Raises:
            UnsafeArchiveError: there are more than an archive may have.
        """
        self._total += size
        if self._total > self._limits.unpacked:
            raise unsafe(raw, f"is among extended headers of more than {self._limits.unpacked} bytes together")

    def _key(self, path: str) -> str:
        return path if path.isascii() and path.islower() else self._normalize("NFC", path).casefold()


def check_name(raw: str, limits: Limits, *, folder: bool = False) -> str:
    """Return a member's name as a path below its folder.

    Raises:
        UnsafeArchiveError: it is absolute, climbs out, cannot be a name everywhere, or is too long.
    """
    try:
        size = len(raw.encode())
    except UnicodeEncodeError:
        raise unsafe(raw.encode(errors="backslashreplace").decode(), "has a name that is not UTF-8") from None
    if any(letter < " " or "\x7f" <= letter <= "\x9f" for letter in raw):
        raise unsafe(raw, "has control characters in its name")
    if raw.startswith("/") or raw[1:2] == ":":
        raise unsafe(raw, "has an absolute path")
    if "\\" in raw:
        raise unsafe(raw, "has a backslash in its name")
    path = raw.rstrip("/") if folder else raw
    while path.startswith("./"):
        path = path[2:]
    if folder and path in ("", "."):
        return ""
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise unsafe(raw, "has a path with '..', '.' or nothing between slashes")
    if size > limits.path or max(len(part.encode()) for part in parts) > 255:
        raise unsafe(raw, f"has a name longer than {limits.path} bytes, or a part of it longer than 255")
    return path
