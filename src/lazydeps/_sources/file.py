"""Packs on a local disk or a mounted file system (EFS): `os.pread`, nothing else."""

from __future__ import annotations

import os
import time

from lazydeps.errors import ConfigError, FetchError

from . import Body, Connection, Source


class FileSource(Source):
    """A file named by ``file:///PATH``, percent-encoded as RFC 8089 has it."""

    def __init__(self, url: str) -> None:
        self.url = url
        path = url.removeprefix("file://").removeprefix("localhost")
        if "%" in path:
            from urllib.parse import unquote_to_bytes

            path = os.fsdecode(unquote_to_bytes(path))
        if "\0" in path:
            raise ConfigError(f"{url} names no file: a path cannot hold a NUL byte (%00).")
        self.path = path

    def connect(self, *, timeout: float) -> FileConnection:  # noqa: ARG002 - the kernel knows no timeout for files
        """Return a connection; ``timeout`` has no meaning here."""
        return FileConnection(self)

    def error(self, error: OSError) -> FetchError:
        """Say what the operating system's error means for the reader."""
        reason = error.strerror or type(error).__name__
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            status, remedy = 404, "Check the path, and that the file system is mounted where this process runs."
        elif isinstance(error, PermissionError):
            status, remedy = 403, f"Let user {os.geteuid()} read the file and enter the folders above it."
        else:
            status, remedy = None, "Check the file system it is on."
        return FetchError(
            f"cannot read {self.path}: {reason}. {remedy}", url=self.url, status=status, retryable=status is None
        )


class FileConnection(Connection):
    """An open file. It stays the file that was opened even if another takes its name."""

    def __init__(self, source: FileSource) -> None:
        self.source = source
        self.handle = -1

    def get(self, start: int, stop: int, *, etag: str | None = None) -> FileBody:
        """Return bytes ``[start, stop)``; see `Connection.get`."""
        source = self.source
        began = time.monotonic()
        try:
            if self.handle < 0:
                # Not blocking: the name could be a FIFO's, whose open would wait for a writer.
                self.handle = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            facts = os.fstat(self.handle)
        except OSError as error:
            raise source.error(error) from error
        if facts.st_mode & 0o170000 != 0o100000:  # S_ISREG
            raise FetchError(
                f"{source.path} is no file. The reference must name the .tar.zst itself.", url=source.url, status=404
            )
        found = f'"{facts.st_mtime_ns:x}-{facts.st_size:x}-{facts.st_ino:x}"'
        if etag not in (None, found):
            raise FetchError(
                f"{source.path} changed while it was read. Write a pack beside the old one and rename it, "
                "or give each pack a name of its own; then start again.",
                url=source.url,
                status=412,
            )
        if start >= facts.st_size:
            raise FetchError(
                f"{source.path} has {facts.st_size} bytes and byte {start} was wanted: it is cut off. Copy it again.",
                url=source.url,
                status=416,
            )
        body = FileBody(self, start, min(stop, facts.st_size))
        body.total, body.etag, body.first_byte = facts.st_size, found, time.monotonic() - began
        return body

    def close(self) -> None:
        """Close the file."""
        handle, self.handle = self.handle, -1
        if handle >= 0:
            os.close(handle)


class FileBody(Body):
    """A range of an open file."""

    def __init__(self, connection: FileConnection, start: int, stop: int) -> None:
        self._connection = connection
        self._at, self._stop = start, stop
        self.size = stop - start

    def readinto(self, view: memoryview) -> int:
        """Read on; see `Body.readinto`."""
        view = view[: self._stop - self._at]
        if not view:
            return 0
        source = self._connection.source
        try:
            count = os.preadv(self._connection.handle, [view], self._at)
        except OSError as error:
            raise source.error(error) from error
        if not count:
            raise FetchError(
                f"{source.path} became shorter while it was read: byte {self._at} is gone. Copy it again.",
                url=source.url,
                retryable=True,
            )
        self._at += count
        return count

    def close(self) -> None:
        """Nothing to do: the file stays open until the connection is closed."""
