"""Settings: what the ``LAZYDEPS_*`` variables say, and the limits on what a pack may claim.

Reads the environment it is given and nothing else; AWS's own variables belong to `_sources`.
"""

from __future__ import annotations

from .errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

DIRECTORY = "/tmp/lazydeps"  # noqa: S108 - the store checks that the folder is ours, 0700 and no link
CONNECTIONS = 6
MOST_CONNECTIONS = 64
SOCKET_TIMEOUT = 5.0
MIB = 1 << 20


class Limits:
    """Bounds on what a pack may claim, checked before anything is allocated or written. Sizes are in bytes."""

    __slots__ = ("files", "frame", "index", "path", "root", "unpacked")

    def __init__(self) -> None:
        self.root = 16 * MIB
        """The root, the block at the head of a pack."""
        self.index = 64 * MIB
        """The index of the data and cold files, decompressed."""
        self.frame = 64 * MIB
        """One frame, packed or decompressed."""
        self.files = 1_000_000
        """How many files a pack may list."""
        self.unpacked = 20 * 1024 * MIB
        """All files of a pack together."""
        self.path = 1024
        """A file's path, in UTF-8."""


class Config:
    """The settings of one `lazydeps.load`. Nothing changes one; `replace` makes another."""

    __slots__ = (
        "allow_unpinned",
        "children",
        "connections",
        "directory",
        "limits",
        "pack",
        "socket_timeout",
        "timeout",
        "trace",
    )

    def __init__(
        self,
        *,
        pack: tuple[str, ...] = (),
        directory: str = DIRECTORY,
        allow_unpinned: bool = False,
        timeout: float | None = None,
        connections: int = CONNECTIONS,
        children: bool = True,
        socket_timeout: float = SOCKET_TIMEOUT,
        limits: Limits | None = None,
        trace: str | None = None,
    ) -> None:
        self.pack = pack
        """The references to load, as text, and names that a lock file has."""
        self.directory = directory
        """The folder that holds the stores; absolute."""
        self.allow_unpinned = allow_unpinned
        """Whether a reference without a root may be loaded."""
        self.timeout = timeout
        """Seconds that a load may take as a whole, or None."""
        self.connections = connections
        """How many connections a worker keeps open."""
        self.children = children
        """Whether child processes are to find the packs too."""
        self.socket_timeout = socket_timeout if timeout is None else min(socket_timeout, timeout)
        """Seconds for a connect, and for each wait for bytes; never longer than `timeout`."""
        self.limits = Limits() if limits is None else limits
        """Bounds on what a pack may claim."""
        self.trace = trace
        """Where to write what is imported: ``log``, an ``s3://`` or ``file://`` folder. None: it is not recorded."""

    def replace(self, **changes: Any) -> Config:
        """Return a copy with other values; the arguments are those of the class."""
        settings = {name: getattr(self, name) for name in self.__slots__}
        return Config(**{**settings, **changes})

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Config:
        """Read ``LAZYDEPS_PACK``, ``_DIR``, ``_ALLOW_UNPINNED``, ``_TIMEOUT``, ``_CONNECTIONS`` and so on.

        A variable that is set to nothing counts as not set.

        Raises:
            ConfigError: a variable has a value that it cannot have.
        """
        directory = environ.get("LAZYDEPS_DIR") or DIRECTORY
        if not directory.startswith("/"):
            raise _wrong("LAZYDEPS_DIR", directory, f"an absolute path, such as {DIRECTORY}")
        unpinned = environ.get("LAZYDEPS_ALLOW_UNPINNED") or "0"
        if unpinned not in ("0", "1"):
            raise _wrong("LAZYDEPS_ALLOW_UNPINNED", unpinned, "1 to allow references without a root, or 0")
        children = environ.get("LAZYDEPS_CHILDREN") or "1"
        if children not in ("0", "1"):
            raise _wrong("LAZYDEPS_CHILDREN", children, "0 to leave child processes alone, or 1")
        timeout = connections = None
        if text := environ.get("LAZYDEPS_TIMEOUT"):
            try:
                timeout = float(text)
            except ValueError:
                timeout = 0.0
            if not 0 < timeout < float("inf"):
                raise _wrong("LAZYDEPS_TIMEOUT", text, "a number of seconds above 0")
        if text := environ.get("LAZYDEPS_CONNECTIONS"):
            connections = int(text) if text.isdecimal() and len(text) < 4 else 0
            if not 1 <= connections <= MOST_CONNECTIONS:
                raise _wrong("LAZYDEPS_CONNECTIONS", text, f"a whole number from 1 to {MOST_CONNECTIONS}")
        trace = environ.get("LAZYDEPS_TRACE") or None
        if trace not in (None, "log") and not trace.startswith("file:///"):
            bucket = trace.removeprefix("s3://").partition("/")[0]
            if not (trace.startswith("s3://") and bucket) or "#" in trace:
                # Somebody may have signed an address.
                shown = f"{trace.partition('://')[0]}://…" if trace.startswith("http") else trace
                raise _wrong("LAZYDEPS_TRACE", shown, "log, s3://BUCKET/PREFIX/ or file:///FOLDER/")
        return cls(
            pack=_split_refs(environ.get("LAZYDEPS_PACK", "")),
            directory=directory,
            allow_unpinned=unpinned == "1",
            timeout=timeout,
            connections=CONNECTIONS if connections is None else connections,
            children=children == "1",
            trace=trace,
        )


def _split_refs(text: str) -> tuple[str, ...]:
    """Split at the white space that stands between references and names; an S3 key may hold spaces too.

    A pin ends a reference, and a name has no spaces.
    """
    refs: list[str] = []
    for word in "".join(" " if letter.isspace() else letter for letter in text).split(" "):
        if "://" in word or not refs or "#" in refs[-1] or "://" not in refs[-1]:
            refs.append(word)
        else:
            refs[-1] += " " + word
    return tuple(ref.strip() for ref in refs if ref.strip())


def _wrong(name: str, found: str, expected: str) -> ConfigError:
    return ConfigError(f"{name} is {found!r}: expected {expected}. Correct it or leave it out.")
