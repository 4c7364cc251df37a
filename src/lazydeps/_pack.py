"""The pack format, version 1, as the runtime reads it: root, index, frames.

Parses and checks blocks of bytes that somebody else fetched; it opens no file and no socket, and it writes
nothing. The writer is `lazydeps.build.write`. Byte by byte: ``docs/reference/pack-format.md``.
"""

from __future__ import annotations

from _bisect import bisect_left, bisect_right
from itertools import accumulate

from ._digest import format_digest, sha256_digest
from .errors import IntegrityError, PackFormatError, UnsafeArchiveError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from ._config import Limits

    Buffer = bytes | bytearray | memoryview

FORMAT_VERSION = 1
SKIPPABLE_MAGIC = (0x184D2A5D).to_bytes(4, "little")
"""Begins both skippable frames. RFC 8878, section 3.1.2 keeps 0x184D2A50 to 0x184D2A5F for such frames."""
SKIPPABLE_HEADER = 8
"""Bytes of a skippable frame before its content: the magic and the content's size."""
ROOT_TAG = b"lazydeps"
ROOT_PREFIX = 12
"""Bytes of the root's content before its JSON: `ROOT_TAG` and the format version."""
SETS = ("boot", "data", "cold")
_NO_NAMES = ("", ".", "..")
_LONGEST = 255
"""Bytes of a file's name that Linux takes, ``NAME_MAX``."""
_COLUMNS = ("paths", "offsets", "sizes", "executable", "packed", "unpacked")
_FACTS = ("python", "pyc_magic", "os", "arch", "libc", "libc_version")
_METADATA = (".dist-info", ".egg-info")
_NOT_AHEAD = ("__main__", "antigravity", "this")
"""Last parts of modules whose import does something: ends the process, opens a browser, prints."""


class Frame:
    """One zstd frame: where it lies in the file and in the tar stream, and what it must hash to."""

    __slots__ = ("base", "digest", "number", "packed", "start", "unpacked")

    def __init__(self, number: int, start: int, packed: int, base: int, unpacked: int, digest: bytes) -> None:
        self.number = number
        """Position among all frames of the pack, boot frames first."""
        self.start = start
        """Offset of its first byte in the pack."""
        self.packed = packed
        """Its length in the pack, bytes."""
        self.base = base
        """Offset of its first unpacked byte in the tar stream."""
        self.unpacked = unpacked
        """Its length in the tar stream, bytes."""
        self.digest = digest
        """SHA-256 of its packed bytes, 32 raw bytes."""

    def check(self, data: Buffer) -> None:
        """Raise IntegrityError unless ``data`` hashes to the pinned digest."""
        actual = sha256_digest(data)
        if actual != self.digest:
            raise IntegrityError(
                f"frame {self.number} of the pack (bytes {self.start} to {self.start + self.packed - 1}) is not what "
                f"its root promises: expected {format_digest(self.digest)}, found {format_digest(actual)}. "
                "The object was changed or damaged after it was built; push the pack again.",
                expected=format_digest(self.digest),
                actual=format_digest(actual),
            )


class Section:
    """A run of files and the frames that hold them: the boot section, or the data and cold section."""

    __slots__ = (
        "_before",
        "bases",
        "digests",
        "executable",
        "first",
        "number_of",
        "offsets",
        "packed",
        "paths",
        "sizes",
        "starts",
    )

    def __init__(
        self, table: dict[str, Any], *, first: int, start: int, base: int, before: Section | None = None
    ) -> None:
        """Read a section's table.

        Args:
            table: the JSON object of the section.
            first: number of its first frame among all frames of the pack.
            start: offset in the pack of its first frame.
            base: offset in the tar stream of its first frame.
            before: the section whose files lie in the same folders.

        Raises:
            KeyError, TypeError: it is no such table.
        """
        for name in _COLUMNS:
            if type(table[name]) is not list:
                raise TypeError(f"{name} is no list")
        for name in ("packed", "unpacked"):
            if not set(map(type, table[name])) <= {int}:
                raise TypeError(f"{name} holds other things than whole numbers")
        self._before = before
        self.first = first
        self.paths: list[str] = table["paths"]
        self.offsets: list[int] = table["offsets"]
        """Where each file's content begins in the tar stream. Ascending."""
        self.sizes: list[int] = table["sizes"]
        """Each file's length, bytes."""
        self.executable: frozenset[int] = frozenset(table["executable"])
        self.packed: list[int] = table["packed"]
        self.starts: list[int] = list(accumulate(self.packed, initial=start))
        """Where each frame begins in the pack; one more entry says where the last one ends."""
        self.bases: list[int] = list(accumulate(table["unpacked"], initial=base))
        """Where each frame begins in the tar stream; one more entry says where the last one ends."""
        self.digests: str = table["digests"]
        if not isinstance(self.digests, str):
            raise TypeError("digests")
        self.number_of: dict[str, int] = {path: number for number, path in enumerate(self.paths)}

    def __len__(self) -> int:
        return len(self.packed)

    def frame(self, number: int) -> Frame:
        """Return the frame with this number among all frames of the pack."""
        at = number - self.first
        return Frame(
            number,
            self.starts[at],
            self.packed[at],
            self.bases[at],
            self.bases[at + 1] - self.bases[at],
            bytes.fromhex(self.digests[64 * at : 64 * at + 64]),
        )

    def frames_of(self, file: int) -> range:
        """Return the numbers of the frames that hold any part of this file."""
        # A tar header is never split from the first byte behind it, so an empty file belongs where its header ends.
        begin = self.offsets[file] if self.sizes[file] else self.offsets[file] - 1
        end = max(self.offsets[file] + self.sizes[file], begin + 1)
        first = bisect_right(self.bases, begin) - 1
        last = bisect_left(self.bases, end) - 1
        return range(self.first + first, self.first + last + 1)

    def files_of(self, number: int) -> range:
        """Return the files of which this frame holds any part, in stream order."""
        low, high = self.bases[number - self.first], self.bases[number - self.first + 1]
        begin = bisect_right(self.offsets, low)
        # The file before may reach into this frame; an empty one whose header ended the frame before does not.
        if begin and self.offsets[begin - 1] + self.sizes[begin - 1] > low:
            begin -= 1
        end = bisect_right(self.offsets, high)
        while end > begin and self.offsets[end - 1] == high and self.sizes[end - 1]:
            end -= 1
        return range(begin, end)

    def validate(self, limits: Limits) -> None:
        """Check everything a hostile table could lie about, before any of it reaches the disk.

        Raises:
            PackFormatError: counts, offsets or sizes that contradict one another or pass the limits.
            UnsafeArchiveError: a path that would leave its folder, or stands there twice.
        """
        files, frames = len(self.paths), len(self.packed)
        if not len(self.offsets) == len(self.sizes) == files or len(self.digests) != 64 * frames:
            raise PackFormatError("the pack's index is damaged: its columns differ in length.")
        if len(self.bases) != frames + 1:
            raise PackFormatError("the pack's index is damaged: frames without an unpacked size.")
        if not all(type(file) is int and 0 <= file < files for file in self.executable):
            raise PackFormatError("the pack's index is damaged: it calls files executable that it does not list.")
        if files > limits.files:
            raise PackFormatError(f"the pack's index lists {files} files; the limit is {limits.files}.")
        if not _is_hex(self.digests, 32 * frames):
            raise PackFormatError("the pack's index is damaged: its digests are no hex digits.")
        for at in range(frames):
            packed, unpacked = self.packed[at], self.bases[at + 1] - self.bases[at]
            if not (0 < packed <= limits.frame and 0 < unpacked <= limits.frame):
                sizes = f"{packed} and {unpacked}"
                raise PackFormatError(
                    f"frame {self.first + at} has sizes {sizes:.80}; the limit is {limits.frame} bytes."
                )
        if self.bases[-1] > limits.unpacked:
            raise PackFormatError(
                f"the pack's tar stream is {self.bases[-1]} bytes long; the limit is {limits.unpacked}."
            )
        folders = _check_paths(self.paths, limits)
        if not set(map(type, self.offsets)) | set(map(type, self.sizes)) <= {int}:
            raise PackFormatError("the pack's index is damaged: it has sizes or offsets that are no whole numbers.")
        end = self.bases[0]
        for at, (offset, size) in enumerate(zip(self.offsets, self.sizes, strict=True)):
            if not (size >= 0 and offset >= end + 512):
                raise PackFormatError(f"the pack's index is damaged: {self.paths[at]!r} overlaps the file before it.")
            end = offset + size
        if end > self.bases[-1]:
            raise PackFormatError(
                f"the pack's index is damaged: its files reach beyond byte {self.bases[-1]}, the end of the tar stream."
            )
        if len(self.number_of) != files:
            raise _clash(_first_repeated(self.paths), "lists the same path twice")
        self._check_clashes(folders)

    def _check_clashes(self, folders: set[str]) -> None:
        """Raise UnsafeArchiveError where one file would land on another's path, or on another's folder."""
        own, before = self.number_of.keys(), self._before
        clashes: list[tuple[set[str], str]] = []
        if not folders.isdisjoint(own):
            clashes.append((own & folders, "has a file where it has a folder"))
        if before is not None:
            theirs = before.number_of.keys()
            if not theirs.isdisjoint(own):
                clashes.append((own & theirs, "lists the same path twice"))
            for files, others in ((theirs, folders), (own, _folders(before.paths))):
                if not others.isdisjoint(files):
                    clashes.append((files & others, "has a file where it has a folder"))
        for paths, what in clashes:
            raise _clash(min(paths), what)


class Root:
    """The block at the head of a pack. Its SHA-256 is the pack's identity."""

    __slots__ = ("_facts", "_head", "absent", "boot", "digest", "metadata", "namespaces", "stdlib", "top_level")

    def __init__(self, content: Buffer, *, limits: Limits) -> None:
        """Parse a root whose digest has been checked.

        Args:
            content: the content of the pack's first skippable frame.
            limits: bounds on what it may claim.

        Raises:
            PackFormatError: this is no root, or one of another format version.
        """
        content = bytes(content)
        self.digest = sha256_digest(content)
        if content[:8] != ROOT_TAG or len(content) < ROOT_PREFIX:
            raise PackFormatError("this is not a lazydeps pack: its first block is not a root.")
        version = int.from_bytes(content[8:12], "little")
        if version != FORMAT_VERSION:
            raise PackFormatError(
                f"this pack has format version {version} and this lazydeps reads version {FORMAT_VERSION}. "
                "Install a lazydeps of the same age on both sides, or build the pack again with this one."
            )
        facts = _load_json(content[ROOT_PREFIX:], "root")
        self._facts = facts
        self._head = SKIPPABLE_HEADER + len(content)
        try:
            self.top_level: frozenset[str] = frozenset(_names(facts, "top_level"))
            """Every name that `import NAME` can find in the pack."""
            self.namespaces: frozenset[str] = frozenset(_names(facts, "namespaces", shown=False))
            """Folders with modules but without ``__init__``: packages of PEP 420."""
            self.absent: frozenset[str] = frozenset(_names(facts, "absent", shown=False))
            """Files, and module paths without suffix, that the recorded import looked for and did not find."""
            self.metadata: list[str] = _names(facts, "metadata")
            """Folders that describe distributions: ``NAME-VERSION.dist-info``."""
            self.stdlib: list[str] = [name for name in _names(facts, "stdlib") if not name.endswith(_NOT_AHEAD)]
            """Modules of the standard library that the recorded import imported, in order."""
            for folder in self.metadata:
                check_path(folder, limits)
                if "/" in folder or not folder.endswith(_METADATA):
                    raise ValueError("metadata names other things than the folders of distributions")
            self.boot = Section(facts["boot"], first=0, start=self._head, base=0)
            for name in _FACTS:
                fact = facts[name]
                # They stand in messages and decide what runs: nothing that a terminal or a parser of numbers minds.
                if not (type(fact) is str and len(fact) <= 64 and fact.isascii() and fact.isprintable()):
                    raise TypeError(name)
            for name in SETS:
                if self.unpacked(name) > limits.unpacked:
                    raise PackFormatError(f"the pack's {name} set claims more than {limits.unpacked} bytes.")
            sizes = [facts["index"][name] for name in ("packed", "unpacked", "frames", "data_frames")]
            if not all(type(size) is int and 0 <= size <= limits.index for size in sizes):
                claimed = ", ".join([str(size) if type(size) is int else type(size).__name__ for size in sizes])
                raise PackFormatError(
                    f"the pack's index claims sizes {claimed:.200}; the limit is {limits.index} bytes."
                )
            if not sizes[0]:
                raise PackFormatError("the pack's root claims an index of no bytes.")
            if facts["index"]["data_frames"] > facts["index"]["frames"]:
                raise PackFormatError("the pack's index claims more data frames than frames.")
            if not _is_hex(facts["index"]["digest"], 32):
                raise ValueError("the index's digest")
            versions = facts["distributions"]
            if type(versions) is not dict or not set(map(type, versions.values())) <= {str}:
                raise TypeError("distributions")
            if not ("".join(versions) + "".join(versions.values())).isprintable():
                raise ValueError("distributions")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PackFormatError(f"the pack's root is damaged: {error!r}. Build the pack again.") from error

    def __getattr__(self, name: str) -> str:
        # python, pyc_magic, os, arch, libc, libc_version: plain strings, checked when the root was read
        if name in _FACTS:
            return self._facts[name]  # type: ignore[no-any-return]
        raise AttributeError(name)

    @property
    def distributions(self) -> dict[str, str]:
        """Names and versions of the distributions in the pack."""
        return self._facts["distributions"]  # type: ignore[no-any-return]

    @property
    def frames(self) -> int:
        """Number of all frames of the pack: boot, data and cold."""
        return len(self.boot) + int(self._facts["index"]["frames"])

    @property
    def data_stop(self) -> int:
        """Number of the first cold frame: the frames below it are the boot and the data set."""
        return len(self.boot) + int(self._facts["index"]["data_frames"])

    def unpacked(self, name: str) -> int:
        """Return the bytes that the files of the set ``boot``, ``data`` or ``cold`` take when landed."""
        size = self._facts["sizes"][name]
        if type(size) is not int or size < 0:
            raise TypeError(name)
        return size

    @property
    def index_span(self) -> tuple[int, int]:
        """First byte, and the byte behind the last, of the index's content in the pack."""
        start = self.boot.starts[-1] + SKIPPABLE_HEADER
        return start, start + int(self._facts["index"]["packed"])

    @property
    def index_unpacked(self) -> int:
        """Length of the index when decompressed, bytes."""
        return int(self._facts["index"]["unpacked"])

    def check_index(self, packed: Buffer) -> None:
        """Raise IntegrityError unless ``packed`` is the index that this root promises."""
        expected, actual = self._facts["index"]["digest"], sha256_digest(packed).hex()
        if actual != expected:
            raise IntegrityError(
                f"the pack's index is not what its root promises: expected sha256:{expected}, found sha256:{actual}. "
                "The object was changed or damaged after it was built; push the pack again.",
                expected=f"sha256:{expected}",
                actual=f"sha256:{actual}",
            )

    def read_index(self, text: Buffer) -> Section:
        """Parse the decompressed index: the section of the data and cold frames.

        Raises:
            PackFormatError: it is damaged.
        """
        try:
            table = _load_json(text, "index")
            start, base = self.index_span[1], self.boot.bases[-1]
            section = Section(table, first=len(self.boot), start=start, base=base, before=self.boot)
            if len(section) != self.frames - len(self.boot):
                raise ValueError("number of frames")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PackFormatError(f"the pack's index is damaged: {error!r}. Build the pack again.") from error
        return section


def root_size(head: Buffer, *, limits: Limits) -> int:
    """Return the length of the root's content, from the first `SKIPPABLE_HEADER` bytes of a pack.

    Raises:
        PackFormatError: these bytes do not begin a pack, or promise a root larger than the limit.
    """
    if bytes(head[:4]) != SKIPPABLE_MAGIC or len(head) < SKIPPABLE_HEADER:
        raise PackFormatError(
            f"this is not a lazydeps pack: it begins with {bytes(head[:4]).hex() or 'nothing'}. "
            "Build one with `lazydeps pack`; the reference must name the .tar.zst that it wrote."
        )
    size = int.from_bytes(head[4:8], "little")
    if not ROOT_PREFIX <= size <= limits.root:
        raise PackFormatError(f"the pack promises a root of {size} bytes; the limit is {limits.root}.")
    return size


def check_root(content: Buffer, expected: bytes | None) -> None:
    """Raise IntegrityError unless the root's content hashes to the pinned digest (None: not pinned)."""
    if expected is None:
        return
    actual = sha256_digest(content)
    if actual != expected:
        raise IntegrityError(
            f"the pack at this address is not the pinned one: expected root {format_digest(expected)}, found "
            f"{format_digest(actual)}. Somebody replaced the object, or the reference is older than the push: "
            "pin the reference that `lazydeps push` printed.",
            expected=format_digest(expected),
            actual=format_digest(actual),
        )


def check_path(path: str, limits: Limits) -> None:
    """Raise UnsafeArchiveError unless ``path`` is a plain relative path that stays in its folder."""
    unsafe = (
        type(path) is not str  # JSON has other things than strings
        or not path
        or path[0] == "/"
        or "\\" in path
        or not path.isprintable()
        or len(path) > limits.path
        or len(path.encode("utf-8", "surrogatepass")) > limits.path
    )
    if not unsafe:
        for part in path.split("/"):
            if part in _NO_NAMES or len(part.encode("utf-8", "surrogatepass")) > _LONGEST:
                unsafe = True
    if unsafe:
        shown = f"{path!r:.200}" if type(path) is str else f"of type {type(path).__name__}"
        raise UnsafeArchiveError(
            f"the pack names a file {shown}, which is not a plain path inside it. Nothing of it was written.",
            member=path if type(path) is str else "",
        )


def _check_paths(paths: list[str], limits: Limits) -> set[str]:
    """Check every path, and return the folders that they are in.

    A table has ten thousand paths, and this runs in a start. What is true of all of them at once is asked once, and the
    folder part with the first file in it.
    """
    try:
        text = "".join(paths)
    except TypeError:
        text = "\n"
    if not (text.isascii() and text.isprintable()) or "\\" in text:
        for path in paths:
            check_path(path, limits)
        return _folders(paths)
    folders: set[str] = set()
    longest = min(_LONGEST, limits.path)
    for path in paths:
        folder, _, name = path.rpartition("/")
        # `/name` looks as if it had no folder: those that have none are few, so all of them are looked at.
        if not folder or name in _NO_NAMES or len(path) > longest:
            check_path(path, limits)
        while folder and folder not in folders:
            folders.add(folder)
            folder, slash, name = folder.rpartition("/")
            if name in _NO_NAMES or (slash and not folder):
                check_path(path, limits)
    return folders


def _folders(paths: list[str]) -> set[str]:
    """Return all folders that checked paths are in, at whatever depth."""
    folders: set[str] = set()
    for path in paths:
        folder = path.rpartition("/")[0]
        while folder and folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    return folders


def is_bytecode(path: str) -> bool:
    """Whether a path names bytecode: where PEP 3147 places it, or in the place of a source that was left out."""
    return path.endswith(".pyc")


def runs(section: Section, number: int) -> Iterator[tuple[int, int, int]]:
    """Yield ``(file, begin, end)`` for each part of a file in a frame, as offsets in the tar stream."""
    low, high = section.bases[number - section.first], section.bases[number - section.first + 1]
    for file in section.files_of(number):
        begin = section.offsets[file]
        yield file, max(begin, low), min(begin + section.sizes[file], high)


def _clash(path: str, what: str) -> UnsafeArchiveError:
    return UnsafeArchiveError(f"the pack {what}: {path!r:.200}. Nothing of it was written.", member=path)


def _first_repeated(paths: Sequence[str]) -> str:
    seen: set[str] = set()
    for path in paths:
        if path in seen:
            return path
        seen.add(path)
    return ""


def _names(facts: dict[str, Any], key: str, *, shown: bool = True) -> list[str]:
    """Return a list of names; those that people are shown must be fit for a terminal."""
    names: list[str] = facts[key]
    if type(names) is not list or not set(map(type, names)) <= {str}:
        raise TypeError(f"{key} is no list of names")
    if shown and not "".join(names).isprintable():
        raise ValueError(f"{key} holds what cannot be printed")
    return names


def _is_hex(text: str, size: int) -> bool:
    """Whether a text is the hex digits of this many bytes, and nothing else."""
    try:
        return len(text) == 2 * size and len(bytes.fromhex(text)) == size  # `fromhex` passes over white space
    except ValueError:
        return False


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _load_json(text: Buffer, what: str) -> dict[str, Any]:
    from json import loads  # the worker and the finder meet here only while they wait for the network anyway

    try:
        # Decoded here: given bytes, `loads` takes UTF-16 and lone surrogates as well.
        table = loads(str(text, "utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise PackFormatError(f"the pack's {what} is damaged: {error}. Build the pack again.") from error
    if not isinstance(table, dict):
        raise PackFormatError(f"the pack's {what} is damaged: no table. Build the pack again.")
    return table
