"""The errors that lazydeps raises, and what each one tells its reader.

Imports nothing of ours. Every message says what was wanted, what was found and what to do next.
None of them is an ``ImportError``, because AWS Lambda's runtime client turns any ``ImportError`` of a
handler module into a bare ``Runtime.ImportModuleError`` and drops the traceback. The one exception is
`PackedModuleNotFoundError`: that really is a missing module, and callers catch it as such.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "FetchError",
    "InsufficientSpaceError",
    "IntegrityError",
    "LazydepsError",
    "PackFormatError",
    "PackMismatchError",
    "PackedModuleNotFoundError",
    "UnsafeArchiveError",
]


class LazydepsError(Exception):
    """Base of everything that lazydeps raises on purpose."""

    fields: tuple[str, ...] = ()
    """Names of the attributes that carry the facts; they survive the trip out of a worker process."""

    def facts(self) -> dict[str, object]:
        """Return the attributes named in `fields`, for reports and for the worker's parent."""
        return {name: getattr(self, name) for name in self.fields}


class ConfigError(LazydepsError):
    """A reference, an environment variable or an argument that cannot be used as it stands."""


class PackFormatError(LazydepsError):
    """Bytes that are not a pack, or not a pack this version can read."""


class PackMismatchError(LazydepsError):
    """A sound pack for another Python, another architecture or another libc."""

    fields = ("expected", "actual")

    def __init__(self, message: str, *, expected: str = "", actual: str = "") -> None:
        super().__init__(message)
        self.expected = expected
        """What this interpreter needs, for example ``cpython-313 x86_64``."""
        self.actual = actual
        """What the pack was built for."""


class FetchError(LazydepsError):
    """A source that could not deliver the bytes asked for."""

    fields = ("url", "status", "request_id", "retryable", "retry_after")

    def __init__(
        self,
        message: str,
        *,
        url: str = "",
        status: int | None = None,
        request_id: str | None = None,
        retryable: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.url = url
        """The address without query or credentials."""
        self.status = status
        """The HTTP status, or None where no answer came."""
        self.request_id = request_id
        """The server's request id, for AWS Support; None where it gave none."""
        self.retryable = retryable
        """Whether the same request may succeed if it is sent again."""
        self.retry_after = retry_after
        """Seconds the server asked us to wait, or None."""


class IntegrityError(LazydepsError):
    """Bytes whose digest is not the pinned one. They were neither written nor run."""

    fields = ("expected", "actual")

    def __init__(self, message: str, *, expected: str = "", actual: str = "") -> None:
        super().__init__(message)
        self.expected = expected
        """The pinned digest, ``sha256:HEX``."""
        self.actual = actual
        """The digest of what came, ``sha256:HEX``."""


class UnsafeArchiveError(LazydepsError):
    """An archive member that would land outside its folder, or is no plain file."""

    fields = ("member",)

    def __init__(self, message: str, *, member: str = "") -> None:
        super().__init__(message)
        self.member = member
        """The member's name as the archive gives it."""


class InsufficientSpaceError(LazydepsError):
    """The store's file system cannot hold what has to land."""

    fields = ("needed", "available")

    def __init__(self, message: str, *, needed: int = 0, available: int = 0) -> None:
        super().__init__(message)
        self.needed = needed
        """Bytes that have still to be written."""
        self.available = available
        """Bytes that the file system has free for us."""


class PackedModuleNotFoundError(LazydepsError, ModuleNotFoundError):
    """A module of a packed package that the pack does not hold."""
