"""file:// sources: ranges of a real file, and what the file system can do meanwhile."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from lazydeps._sources import Body, Connection, open_source
from lazydeps.errors import ConfigError, FetchError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file whose name needs percent-encoding."""
    path = tmp_path / "päck #1 100%.tar.zst"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def connection(path: Path) -> Iterator[Connection]:
    """A connection to it."""
    connection = open_source(path.as_uri(), {}).connect(timeout=1)
    yield connection
    connection.close()


def read(body: Body, step: int = 1000) -> bytes:
    """Read a body to its end."""
    chunks = []
    buffer = memoryview(bytearray(step))
    while count := body.readinto(buffer):
        chunks.append(bytes(buffer[:count]))
    body.close()
    return b"".join(chunks)


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, len(CONTENT)), (3, 5000), (len(CONTENT) - 1, 1 << 40)])
def test_range(connection: Connection, start: int, stop: int) -> None:
    """A body is exactly the range, cut at the file's end; a second range comes from the same open file."""
    body = connection.get(start, stop)
    assert (body.size, body.total) == (min(stop, len(CONTENT)) - start, len(CONTENT))
    assert read(body) == CONTENT[start:stop]
    assert read(connection.get(start, stop, etag=body.etag)) == CONTENT[start:stop]


def test_localhost(path: Path) -> None:
    """RFC 8089 allows ``file://localhost/PATH``."""
    connection = open_source(path.as_uri().replace("file://", "file://localhost"), {}).connect(timeout=1)
    assert read(connection.get(0, 10)) == CONTENT[:10]
    connection.close()


def test_name_that_is_not_utf8(tmp_path: Path) -> None:
    """Any byte a file system allows in a name can be written in an address."""
    name = os.fsdecode(bytes(tmp_path) + b"/\xff.zst")
    with open(name, "wb") as file:
        file.write(CONTENT)
    connection = open_source(f"file://{tmp_path}/%FF.zst", {}).connect(timeout=1)
    assert read(connection.get(0, 10)) == CONTENT[:10]
    connection.close()


def test_pin_and_a_file_written_in_place(connection: Connection, path: Path) -> None:
    """A file that is overwritten no longer has the pinned ETag, even at the same size."""
    etag = connection.get(0, 10).etag
    os.utime(path, ns=(1, 1))
    with pytest.raises(FetchError, match="changed while it was read") as caught:
        connection.get(0, 10, etag=etag)
    assert (caught.value.status, caught.value.retryable) == (412, False)


def test_pin_and_a_file_renamed_over(connection: Connection, path: Path) -> None:
    """An open connection goes on reading the file it opened; a new one sees that the name has another."""
    etag = connection.get(0, 10).etag
    other = path.with_name("other")
    other.write_bytes(bytes(len(CONTENT)))
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.rename(path)
    assert read(connection.get(0, 10, etag=etag)) == CONTENT[:10]
    connection.close()
    with pytest.raises(FetchError, match="changed"):
        connection.get(0, 10, etag=etag)


def test_file_cut_off_while_it_is_read(connection: Connection, path: Path) -> None:
    """A file that becomes shorter is an error, never a short success."""
    body = connection.get(0, len(CONTENT))
    os.truncate(path, 100)
    with pytest.raises(FetchError, match="byte 100 is gone") as caught:
        read(body)
    assert caught.value.retryable


@pytest.mark.parametrize("size", [0, 17])
def test_range_behind_the_end(tmp_path: Path, size: int) -> None:
    """As over HTTP: 416, with the file's size."""
    path = tmp_path / "short"
    path.write_bytes(bytes(size))
    connection = open_source(path.as_uri(), {}).connect(timeout=1)
    with pytest.raises(FetchError, match=f"has {size} bytes and byte {size} was wanted") as caught:
        connection.get(size, size + 10)
    connection.close()
    assert (caught.value.status, caught.value.retryable) == (416, False)


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [("missing", 404, "No such file"), ("file/below", 404, "Not a directory"), ("folder", 404, "no file"),
     ("fifo", 404, "no file"), ("loop", None, "symbolic links")],
)  # fmt: skip
def test_what_is_no_file(tmp_path: Path, name: str, status: int | None, message: str) -> None:
    """Whatever stands at the path instead of a file is named, and nothing waits for a FIFO's writer."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    url = f"file://{tmp_path}/{name}"
    connection = open_source(url, {}).connect(timeout=1)
    with pytest.raises(FetchError, match=message) as caught:
        connection.get(0, 1)
    connection.close()
    assert (caught.value.status, caught.value.url) == (status, url)


def test_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """403, and whose permission is missing. The refusal is staged, because root may read everything."""

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(FetchError, match=f"Let user {os.geteuid()} read") as caught:
        open_source(f"file://{tmp_path}/x", {}).connect(timeout=1).get(0, 1)
    assert (caught.value.status, caught.value.retryable) == (403, False)


def test_nul() -> None:
    """A NUL byte is refused when the source is opened, not by a ValueError later."""
    with pytest.raises(ConfigError, match="NUL"):
        open_source("file:///tmp/a%00b", {})
