"""Where packs come from: ranges in, bytes out. One small interface over S3, http(s) and local files.

Importing this and calling `open_source` imports no HTTP or TLS and touches no network; `Connection.get` does.
Knows nothing of packs, retries nothing but a kept connection that the server has closed.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Source:
    """An object that can be read by ranges. Safe to share between threads and across a fork: it holds no sockets."""

    url: str
    """The address, for messages: no query, no credentials."""

    def prepare(self) -> None:
        """Import now, in the calling thread, what connections and requests would import later in theirs.

        For workers in threads: a thread that imports while another holds the lock of a module of that name would wait.
        """

    def connect(self, *, timeout: float) -> Connection:
        """Return a connection, not opened yet, for one thread at a time.

        Args:
            timeout: its `Connection.timeout`, seconds.
        """
        raise TypeError(f"{type(self).__name__} lacks what every source, connection and body has")


def _never() -> bool:
    return False


def _always() -> bool:
    return True


def _forever() -> float:
    return float("inf")


class Connection:
    """A way to the source that is kept open from one range to the next."""

    timeout: float
    """Seconds for connecting, for an answer, and for each wait for bytes."""
    left: Callable[[], float] = staticmethod(_forever)
    """Asked before each wait: the seconds that are left for everything. No wait is longer."""
    may_hedge: Callable[[], bool] = staticmethod(_never)
    """Asked when an answer is late: whether to send the request a second time, by another connection."""
    is_wanted: Callable[[], bool] = staticmethod(_always)
    """Asked on the way: whether anybody still waits for the answer. Whoever changes what it says calls `interrupt`."""

    def get(self, start: int, stop: int, *, etag: str | None = None) -> Body:
        """Ask for bytes ``[start, stop)``. The body before ends with this, drained or not.

        Args:
            start: offset of the first byte.
            stop: offset behind the last one; behind the end of the object the body is shorter.
            etag: the ETag that the object must still have.

        Raises:
            FetchError: the source did not deliver. With status 412 the object is another one by now.
            ConfigError: there are no credentials, or a setting is unusable.
        """
        raise TypeError(f"{type(self).__name__} lacks what every source, connection and body has")

    def close(self) -> None:
        """Let go of the socket or file. A later `get` opens it again."""
        raise TypeError(f"{type(self).__name__} lacks what every source, connection and body has")

    def interrupt(self) -> None:
        """Make a wait for bytes in another thread end with an error. Safe to call from any thread."""


class Body:
    """The answer to one `Connection.get`, to be read once."""

    size: int
    """Bytes of this body. It begins at ``start``; a server without ranges may send more than was asked for."""
    total: int
    """Bytes of the whole object."""
    etag: str | None
    """The object's ETag as sent; None where the source gives none that identifies the bytes."""
    first_byte: float
    """Seconds from sending the request to the answer's headers."""

    def readinto(self, view: memoryview) -> int:
        """Put the next bytes into ``view`` and return how many; 0 only at the end of the body.

        Raises:
            FetchError: the source stopped before the end of the body; ``retryable`` is true.
        """
        raise TypeError(f"{type(self).__name__} lacks what every source, connection and body has")

    def close(self) -> None:
        """End the body. The connection stays open if no more than a little of the body was left."""
        raise TypeError(f"{type(self).__name__} lacks what every source, connection and body has")


def open_source(url: str, environ: Mapping[str, str]) -> Source:
    """Return the source behind an ``s3://``, ``http(s)://`` or ``file://`` address.

    Args:
        url: an address with one of the schemes of `lazydeps._ref.SCHEMES`, without a fragment.
        environ: AWS settings; credentials are read from it again at every request.

    Raises:
        ConfigError: the address cannot be one.
    """
    scheme = url.partition("://")[0]
    if scheme == "s3":
        from .s3 import S3Source

        return S3Source(url, environ)
    if scheme == "file":
        from .file import FileSource

        return FileSource(url)
    from .https import HttpSource

    return HttpSource(url, environ)
