"""http(s) sources: ranges, pins, connections that are kept or lost, redirects, TLS."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_http import CONTENT, ETAG, Answer, Request, ScriptedServer, answer, certificate, ranged

from lazydeps._sources import Body, Connection, open_source
from lazydeps._sources import https as module
from lazydeps._sources.https import DRAIN, Target, without_secrets
from lazydeps.errors import ConfigError, FetchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from conftest import RunPython

NEVER = 0.2
"""A timeout, in seconds, for servers that do not answer."""


def read(body: Body, *, step: int = 100_000) -> bytes:
    """Read a body to its end, and see that its end stays its end."""
    chunks = []
    buffer = memoryview(bytearray(step))
    while count := body.readinto(buffer):
        chunks.append(bytes(buffer[:count]))
    assert body.readinto(buffer) == 0
    body.close()
    return b"".join(chunks)


class Connect(Protocol):
    """The type of the `connect` fixture."""

    def __call__(self, url: str, environ: Mapping[str, str] = ..., *, timeout: float = ...) -> Connection:
        """Open a source and connect to it."""
        ...


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Connections that are closed when the test ends; a socket that nobody closes fails a test."""
    with ExitStack() as stack:

        def opened(url: str, environ: Mapping[str, str] = {}, *, timeout: float = 5.0) -> Connection:
            connection = open_source(url, environ).connect(timeout=timeout)
            stack.callback(connection.close)
            return connection

        yield opened


def failure(url: str, *, start: int = 0, stop: int = 100, etag: str | None = None, timeout: float = 5.0) -> FetchError:
    """Get a range, read all of it, and return the error that this must end with."""
    with pytest.raises(FetchError) as caught:
        read(open_source(url, {}).connect(timeout=timeout).get(start, stop, etag=etag))
    assert url.partition("?")[0] in str(caught.value)
    assert caught.value.url == url.partition("?")[0]
    return caught.value


def test_opening_imports_no_http_and_no_tls(run_python: RunPython) -> None:
    """Until the first `get`, no source costs an import that a start would notice."""
    code = """
import sys
before = set(sys.modules)
from lazydeps._sources import open_source
for url in ("s3://bucket/key", "https://host/key?query", "file:///tmp/key"):
    open_source(url, {}).connect(timeout=1).close()
loaded = set(sys.modules) - before
heavy = {"http", "ssl", "_ssl", "socket", "_socket", "hashlib", "_hashlib", "hmac", "json", "urllib", "re", "typing"}
assert not loaded & heavy, loaded & heavy
"""
    run_python(None, "-S", "-c", code)


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, len(CONTENT)), (1000, 300_000), (len(CONTENT) - 1, 1 << 40)])
def test_range(connect: Connect, start: int, stop: int) -> None:
    """A body is exactly the range, cut at the object's end, and says how long both are."""
    with ScriptedServer(ranged) as server:
        body = connect(server.url).get(start, stop)
        assert body.size == min(stop, len(CONTENT)) - start
        assert (body.total, body.etag) == (len(CONTENT), ETAG)
        assert body.first_byte >= 0
        assert read(body) == CONTENT[start:stop]
        assert server.requests[0].headers["range"] == f"bytes={start}-{stop - 1}"
        assert "if-match" not in server.requests[0].headers
        assert server.requests[0].headers["host"] == f"127.0.0.1:{server.port}"
        assert server.requests[0].headers["accept-encoding"] == "identity"


def test_query_is_sent_but_never_told() -> None:
    """A presigned URL's query reaches the server; no message and no attribute repeats it."""
    with ScriptedServer(lambda request: answer(403)) as server:
        url = f"{server.url}?X-Amz-Signature=SECRET&a=%2F b"
        error = failure(url)
        assert server.requests[0].path == "/pack.tar.zst?X-Amz-Signature=SECRET&a=%2F%20b"
    assert "SECRET" not in str(error) + repr(error.facts())
    assert error.status == 403
    assert not error.retryable


def test_passwords_in_addresses_are_refused() -> None:
    """An address with a password is refused, and the message does not repeat it."""
    with pytest.raises(ConfigError, match="presigned URL") as caught:
        open_source("https://user:hunter2@host/key", {}).connect(timeout=1).get(0, 1)
    assert "hunter2" not in str(caught.value)
    assert without_secrets("https://user:hunter2@host:1/a/b?q#f") == "https://host:1/a/b"


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "authority"),
    [
        ("https://Host.example", "host.example", None, "/", "host.example"),
        ("https://host:443/a//b/../c", "host", 443, "/a//b/../c", "host"),
        ("http://host:8080/a?b=c#d", "host", 8080, "/a?b=c", "host:8080"),
        ("https://host?b", "host", None, "/?b", "host"),
        ("https://[::1]:9000/ä%20 b", "::1", 9000, "/%C3%A4%20%20b", "[::1]:9000"),
    ],
)
def test_addresses_are_taken_apart(url: str, host: str, port: int | None, path: str, authority: str) -> None:
    """Hosts, ports and paths come out as they are sent."""
    target = Target.parse(url)
    assert (target.host, target.port, target.path, target.authority) == (host, port, path, authority)


@pytest.mark.parametrize(
    "url", ["https:///a", "https://a b/c", "https://a\r\nb/c", "https://h:x/", "https://h:0/", "ftp://h/a"]
)
def test_addresses_that_are_none(url: str) -> None:
    """What cannot be connected to, or would smuggle a header, is refused before anything is sent."""
    with pytest.raises(ConfigError, match="expected"):
        Target.parse(url)


def test_pin_is_sent_and_kept() -> None:
    """The pinned ETag goes out as If-Match; 412 says that the object changed and is not retried."""
    with ScriptedServer(lambda request: answer(412)) as server:
        error = failure(server.url, etag='"old"')
        assert server.requests[0].headers["if-match"] == '"old"'
    assert "changed while it was read" in str(error)
    assert (error.status, error.retryable) == (412, False)


def test_pin_is_checked_where_the_server_does_not() -> None:
    """A server that ignores If-Match and answers with another ETag is caught all the same."""
    with ScriptedServer(ranged) as server:
        error = failure(server.url, etag='"old"')
    assert "changed while it was read" in str(error)
    assert (error.status, error.retryable) == (412, False)


def test_weak_etags_do_not_pin(connect: Connect) -> None:
    """A weak ETag does not identify bytes (RFC 9110, 8.8.1), so it is not handed on as one that does."""
    with ScriptedServer(lambda request: ranged(request, etag='W/"1"')) as server:
        assert connect(server.url).get(0, 1).etag is None


def test_server_without_ranges_gives_the_whole_object_from_its_start(connect: Connect) -> None:
    """200 in place of 206 is the whole object: fine where the range begins at 0."""
    with ScriptedServer(lambda request: answer(200, CONTENT, ETag=ETAG)) as server:
        body = connect(server.url).get(0, 10)
        assert (body.size, body.total, body.etag) == (len(CONTENT), len(CONTENT), ETAG)
        assert read(body) == CONTENT


def test_server_without_ranges_cannot_serve_the_middle() -> None:
    """200 in place of 206 is refused elsewhere: these would be the wrong bytes."""
    with ScriptedServer(lambda request: answer(200, CONTENT)) as server:
        error = failure(server.url, start=10)
    assert "ignores ranges" in str(error)
    assert (error.status, error.retryable) == (200, False)


@pytest.mark.parametrize(
    ("content_range", "message", "retryable"),
    [
        ("bytes 0-9/1000", "another range", False),
        ("bytes 10-300/1000", "another range", False),
        ("bytes 10-99/*", "another range", False),
        ("items 10-99/1000", "another range", False),
        ("", "another range", False),
        ("bytes 10-19/1000", "less than it was asked for", True),
    ],
)
def test_other_ranges_are_refused(content_range: str, message: str, retryable: bool) -> None:
    """A 206 for anything but the range asked for never reaches the caller as if it were."""
    with ScriptedServer(lambda request: answer(206, b"x" * 10, Content_Range=content_range)) as server:
        error = failure(server.url, start=10, stop=100)
    assert message in str(error)
    assert error.retryable is retryable


def test_length_that_contradicts_the_range() -> None:
    """A Content-Length other than the range's is refused before a byte is taken for another."""
    with ScriptedServer(lambda request: answer(206, b"x" * 5, Content_Range="bytes 0-99/1000")) as server:
        error = failure(server.url)
    assert "less than it was asked for" in str(error)
    assert error.retryable


def test_whole_object_without_a_length() -> None:
    """200 without a Content-Length would leave a cut-off object unnoticed."""
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    with ScriptedServer(lambda request: Answer(data)) as server:
        assert "Content-Length" in str(failure(server.url))


STATUS_LINES = ["HTTP/1.1 200 OK", "HTTP/1.1 206 Partial Content", "HTTP/1.0 200 OK", "HTTP/1.1 206", "nonsense"]
FIELDS = [
    *("Content-Length: 5", "content-length:5 ", "Content-Length: 6", "Content-Length: -5"),
    *("Connection: close", "Connection: keep-alive", "Transfer-Encoding: chunked", 'ETag: "x"', "ETag:\ty "),
    *("X-A: \xe9", " folded", "no colon", "sp ace: 1", "Content-Range: bytes 0-4/9", ""),
]


@given(st.sampled_from(STATUS_LINES), st.lists(st.sampled_from(FIELDS), max_size=6))
def test_plain_answers_are_read_as_http_client_reads_them(first: str, lines: list[str]) -> None:
    """The short parser says what the long one says, or nothing."""
    head = "\r\n".join([first, *lines]).encode("latin-1").partition(b"\r\n\r\n")[0]
    sender, receiver = socket.socketpair()
    with sender, receiver:
        short = module.Answer.parse(receiver, head, b"12345")
        if short is None:
            return
        sender.sendall(head + b"\r\n\r\n12345")
        long = http.client.HTTPResponse(receiver)
        long.begin()
        assert (short.status, short.length, short.chunked) == (long.status, long.length, long.chunked)
        assert short.will_close == long.will_close
        for name in ("ETag", "Content-Range", "X-A"):
            # RFC 9110, 5.5: white space around a value is no part of it; `http.client` leaves what stands behind.
            assert short.getheader(name) == ((long.getheader(name) or "").strip(" \t") or None)
        view = bytearray(9)
        assert view[: short.readinto1(memoryview(view))] == b"12345"
        long.close()


@pytest.mark.parametrize("cut", [1, 17, 83, 90])
def test_headers_that_come_in_pieces(cut: int) -> None:
    """One receive need not bring all headers, and may bring a part of the body."""
    data = b'HTTP/1.1 206 OK\r\nContent-Range: bytes 0-4/9\r\nContent-Length: 5\r\nETag: "x"\r\n\r\nabcde'
    sender, receiver = socket.socketpair()
    with sender, receiver:
        sender.sendall(data[:cut])
        later = threading.Timer(0.05, sender.sendall, [data[cut:]])
        later.start()
        found = module._read_headers(receiver, receiver.recv(8192), time.monotonic() + 30)
        later.join()
        assert isinstance(found, module.Answer)
        body, view = b"", memoryview(bytearray(3))
        while len(body) < 5:
            body += view[: found.readinto1(view)]
        assert (found.getheader("etag"), body) == ('"x"', b"abcde")


def test_headers_without_end() -> None:
    """A server that goes on and on with headers is not read for ever."""
    with ScriptedServer(lambda request: Answer(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, "close")) as server:
        assert "longer than 65536 bytes" in str(failure(server.url))


def test_chunked_range(connect: Connect) -> None:
    """A chunked 206 is read by its range; its connection is not kept, for its trailer was not read."""
    data = b"HTTP/1.1 206 OK\r\nTransfer-Encoding: chunked\r\nContent-Range: bytes 0-4/9\r\n\r\n"
    data += b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    with ScriptedServer(lambda request: Answer(data)) as server:
        connection = connect(server.url)
        assert [read(connection.get(0, 5)) for _ in range(2)] == [b"abcde", b"abcde"]
        assert server.connections == 2


def test_broken_chunks() -> None:
    """Nonsense between chunks is the server's failure, not an exception of `http.client`."""
    data = b"HTTP/1.1 206 OK\r\nTransfer-Encoding: chunked\r\nContent-Range: bytes 0-4/9\r\n\r\n3\r\nabc\r\nzz\r\n"
    with ScriptedServer(lambda request: Answer(data, "close")) as server:
        assert failure(server.url, stop=5).retryable


@pytest.mark.parametrize(
    ("status", "retryable", "message"),
    [
        (401, False, "access denied"),
        (404, False, "nothing at this address"),
        (410, False, "nothing at this address"),
        (418, False, "instead of the bytes"),
        (429, True, "overloaded"),
        (500, True, "passes"),
        (502, True, "passes"),
        (503, True, "passes"),
        (504, True, "passes"),
    ],
)
def test_refusals(status: int, retryable: bool, message: str) -> None:
    """Each status says whether to try again, and what to do."""
    with ScriptedServer(lambda request: answer(status, b"<html>", x_amz_request_id="ID\x01-1")) as server:
        error = failure(server.url)
    assert (error.status, error.retryable, error.request_id, error.retry_after) == (status, retryable, "ID-1", None)
    assert message in str(error)
    assert "Request id: ID-1." in str(error)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0), ("soon", None), ("-1", None), ("inf", None)],
)
def test_retry_after(header: str, seconds: float | None) -> None:
    """Retry-After is read as seconds or as a date; nonsense counts as none."""
    with ScriptedServer(lambda request: answer(503, Retry_After=header)) as server:
        assert failure(server.url).retry_after == seconds


def test_range_behind_the_end() -> None:
    """416 says how long the object is."""
    with ScriptedServer(lambda request: answer(416, Content_Range="bytes */17")) as server:
        error = failure(server.url, start=50)
    assert (error.status, error.retryable) == (416, False)
    assert "byte 50" in str(error)
    assert "17 bytes" in str(error)


@pytest.mark.parametrize("then", ["close", "reset"])
def test_short_body(then: str) -> None:
    """A body that breaks off is an error that may pass, never a short success."""
    reply = answer(206, b"x" * 60, length=100, Content_Range="bytes 0-99/100")

    def script(request: Request) -> Answer:
        return Answer(reply.data, then)  # type: ignore[arg-type]

    with ScriptedServer(script) as server:
        error = failure(server.url)
    assert error.retryable
    assert error.status is None


def test_body_that_stops_coming() -> None:
    """A server that falls silent within a body runs into the timeout."""
    reply = answer(206, b"x" * 60, length=100, Content_Range="bytes 0-99/100", then="hang")
    with ScriptedServer(lambda request: reply) as server:
        error = failure(server.url, timeout=NEVER)
    assert f"did not answer within {NEVER}" in str(error)
    assert error.retryable


def test_server_that_never_answers() -> None:
    """A request without an answer runs into the timeout; it is not sent a second time behind the caller's back."""
    with ScriptedServer(lambda request: Answer(b"", "hang")) as server:
        error = failure(server.url, timeout=NEVER)
        assert len(server.requests) == 1
    assert (error.retryable, error.status) == (True, None)


def test_kept_connection_that_never_answers(connect: Connect) -> None:
    """Silence on a kept connection is the caller's to judge: waiting once more would double the timeout."""
    with ScriptedServer(lambda request: ranged(request) if request.number == 0 else Answer(b"", "hang")) as server:
        connection = connect(server.url, timeout=NEVER)
        assert read(connection.get(0, 10)) == CONTENT[:10]
        with pytest.raises(FetchError, match="did not answer"):
            connection.get(10, 20)
        assert len(server.requests) == 2


def test_connection_after_a_failure(connect: Connect) -> None:
    """The connection that failed serves the next range, on another socket."""
    with ScriptedServer(lambda request: answer(500) if request.number == 0 else ranged(request)) as server:
        connection = connect(server.url)
        with pytest.raises(FetchError, match="500"):
            connection.get(0, 10)
        assert read(connection.get(0, 10)) == CONTENT[:10]


def test_connection_after_close(connect: Connect) -> None:
    """A closed connection opens again; a body that it had open is at an end."""
    with ScriptedServer(ranged) as server:
        connection = connect(server.url)
        body = connection.get(0, len(CONTENT))
        connection.close()
        connection.close()
        with pytest.raises(FetchError) as caught:
            while body.readinto(memoryview(bytearray(100))):
                pass
        assert caught.value.retryable
        assert read(connection.get(5, 10)) == CONTENT[5:10]


def test_stale_body_leaves_the_next_one_alone(connect: Connect) -> None:
    """Closing a body after another one was asked for does not end that one."""
    with ScriptedServer(ranged) as server:
        connection = connect(server.url)
        first = connection.get(0, len(CONTENT))
        connection.get(0, 10)
        connection.close()
        second = connection.get(10, 20)
        first.close()
        assert read(second) == CONTENT[10:20]
        broken = connection.get(0, len(CONTENT))
        connection.close()
        second = connection.get(10, 20)
        with pytest.raises(FetchError):
            read(broken)
        broken.close()
        assert read(second) == CONTENT[10:20]
        assert server.connections == 4


def test_connections_are_kept(connect: Connect) -> None:
    """Drained bodies, and those of which little is left, leave the connection for the next range."""
    with ScriptedServer(ranged) as server:
        connection = connect(server.url)
        assert read(connection.get(0, 10)) == CONTENT[:10]
        connection.get(0, DRAIN).close()
        assert read(connection.get(10, 20)) == CONTENT[10:20]
        assert server.connections == 1


def test_long_rests_are_not_read(connect: Connect) -> None:
    """A body of which much is left costs its connection rather than the time to read it."""
    with ScriptedServer(ranged) as server:
        connection = connect(server.url)
        connection.get(0, DRAIN + 1).close()
        assert read(connection.get(10, 20)) == CONTENT[10:20]
        assert server.connections == 2


@pytest.mark.parametrize("then", ["close", "reset"])
def test_kept_connection_that_the_server_closed(connect: Connect, then: str) -> None:
    """A kept socket that is dead by the next request is replaced once, silently."""

    def script(request: Request) -> Answer:
        good = ranged(request)
        return Answer(good.data, then) if request.connection == 0 else good  # type: ignore[arg-type]

    with ScriptedServer(script) as server:
        connection = connect(server.url)
        assert read(connection.get(0, 10)) == CONTENT[:10]
        assert read(connection.get(10, 20)) == CONTENT[10:20]
        assert server.connections == 2


def test_fresh_connection_that_closes_is_an_error() -> None:
    """Only a kept connection gets a second chance; otherwise the caller decides about retries."""
    with ScriptedServer(lambda request: Answer(b"", "close")) as server:
        assert failure(server.url).retryable
        assert len(server.requests) == 1


def test_answer_that_is_not_http() -> None:
    """Another protocol's greeting becomes an error of ours."""
    with ScriptedServer(lambda request: Answer(b"220 ftp.example ready\r\n", "close")) as server:
        error = failure(server.url)
    assert "not HTTP/1.1" in str(error)


def test_refused() -> None:
    """No listener: retryable, and the message says what to look at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    error = failure(f"http://127.0.0.1:{port}/key")
    assert "refuses connections" in str(error)
    assert error.retryable


def test_unknown_host() -> None:
    """A name that does not resolve (RFC 6761 keeps .invalid from ever resolving)."""
    error = failure("http://lazydeps.invalid/key")
    assert "lazydeps.invalid cannot be resolved" in str(error)
    assert error.retryable


def test_redirects_are_followed_and_remembered(connect: Connect) -> None:
    """The next range goes where the first was sent, without asking again."""

    def script(request: Request) -> Answer:
        return answer(302, Location="/elsewhere?token=1") if request.path == "/pack.tar.zst" else ranged(request)

    with ScriptedServer(script) as server:
        connection = connect(server.url)
        assert read(connection.get(0, 10)) == CONTENT[:10]
        assert read(connection.get(10, 20)) == CONTENT[10:20]
        assert [request.path for request in server.requests] == ["/pack.tar.zst", *["/elsewhere?token=1"] * 2]


def test_redirect_that_expired(connect: Connect) -> None:
    """Where a remembered address is refused by now, the first one is asked for another."""

    def script(request: Request) -> Answer:
        if request.path == "/pack.tar.zst":
            return answer(302, Location=f"/signed/{request.number}")
        return answer(403) if request.path == "/signed/0" and request.number > 1 else ranged(request)

    with ScriptedServer(script) as server:
        connection = connect(server.url)
        assert read(connection.get(0, 10)) == CONTENT[:10]
        assert read(connection.get(10, 20)) == CONTENT[10:20]
        assert server.requests[-1].path == "/signed/3"


def test_redirect_whose_target_is_gone(connect: Connect) -> None:
    """Where the host behind a redirect stops answering, the next try asks where the redirect was given."""
    locations: list[str] = []
    with ScriptedServer(lambda request: answer(302, Location=locations[request.number])) as server:
        with ScriptedServer(ranged) as one:
            locations.append(one.url)
            connection = connect(server.url)
            assert read(connection.get(0, 10)) == CONTENT[:10]
        with pytest.raises(FetchError):
            connection.get(0, 10)
        with ScriptedServer(ranged) as other:
            locations.append(other.url)
            assert read(connection.get(10, 20)) == CONTENT[10:20]


def test_redirect_to_another_host_sends_no_query_in_messages() -> None:
    """The error of a redirected request names the address that was asked for, not the signed one behind it."""
    with ScriptedServer(lambda request: answer(403)) as behind:
        location = f"{behind.url}?signature=SECRET"
        with ScriptedServer(lambda request: answer(307, Location=location)) as server:
            error = failure(server.url)
            assert behind.requests[0].headers["host"] == f"127.0.0.1:{behind.port}"
    assert "SECRET" not in str(error)
    assert error.status == 403


def test_redirects_without_end() -> None:
    """Five redirects are followed and no more."""
    with ScriptedServer(lambda request: answer(301, Location="/pack.tar.zst")) as server:
        error = failure(server.url)
        assert len(server.requests) == 6
    assert "redirects more than 5 times" in str(error)


@pytest.mark.parametrize("location", ["ftp://host/key", "http://user:SECRET@host/key", "http://[/", "http://h:99999/"])
def test_redirects_we_do_not_follow(location: str) -> None:
    """A redirect to no usable address is an error, and does not repeat the address."""
    with ScriptedServer(lambda request: answer(302, Location=location)) as server:
        error = failure(server.url)
    assert error.status == 302
    assert "SECRET" not in str(error)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """A certificate for localhost: the server's context and the authority's PEM file."""
    return certificate(tmp_path_factory.mktemp("tls"))


def test_tls_with_an_authority_of_ones_own(connect: Connect, tls: tuple[ssl.SSLContext, Path]) -> None:
    """AWS_CA_BUNDLE is trusted."""
    with ScriptedServer(ranged, tls=tls[0]) as server:
        connection = connect(server.url, {"AWS_CA_BUNDLE": str(tls[1])})
        assert read(connection.get(0, len(CONTENT))) == CONTENT
        assert read(connection.get(5, 10)) == CONTENT[5:10]
        assert server.connections == 1


def test_tls_distrust(tls: tuple[ssl.SSLContext, Path]) -> None:
    """A certificate nobody vouches for: nothing is sent, trying again is pointless, and the remedy is named."""
    with ScriptedServer(ranged, tls=tls[0]) as server:
        error = failure(server.url)
        assert not server.requests
    assert "AWS_CA_BUNDLE" in str(error)
    assert not error.retryable


def test_tls_falls_back_from_the_hashed_folder_to_the_bundle(
    tls: tuple[ssl.SSLContext, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An authority that only the system's bundle knows is found there, though the quicker folder is asked first."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    (tmp_path / "00000000.0").write_text("no certificate")
    paths = ssl.get_default_verify_paths()._replace(capath=str(tmp_path))
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    quick = module._new_tls_context(None, whole=False)
    assert quick[1] is False
    real = ssl.create_default_context

    def with_bundle(*, capath: str | None = None) -> ssl.SSLContext:
        return real(capath=capath) if capath else real(cafile=tls[1])

    monkeypatch.setattr(ssl, "create_default_context", with_bundle)
    with ScriptedServer(ranged, tls=tls[0]) as server:
        source = open_source(server.url, {})
        for _ in range(2):
            connection = source.connect(timeout=5)
            assert read(connection.get(0, 10)) == CONTENT[:10]
            connection.close()


def test_tls_checks_the_host_name(tls: tuple[ssl.SSLContext, Path]) -> None:
    """A trusted certificate of another host is not enough."""
    with ScriptedServer(ranged, tls=tls[0]) as server:
        source = open_source(f"https://127.0.0.1:{server.port}/key", {"AWS_CA_BUNDLE": str(tls[1])})
        with pytest.raises(FetchError, match="not trusted") as caught:
            source.connect(timeout=5).get(0, 10)
    assert not caught.value.retryable


def test_tls_spoken_to_a_server_without() -> None:
    """A failed handshake that is no question of trust may pass."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 400 This is a plain server\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        error = failure(f"https://127.0.0.1:{listener.getsockname()[1]}/key")
        thread.join()
    assert "the connection to 127.0.0.1" in str(error)
    assert error.retryable


def test_tls_never_downgrades(connect: Connect, tls: tuple[ssl.SSLContext, Path]) -> None:
    """A redirect from https to http is refused."""
    with (
        ScriptedServer(ranged) as plain,
        ScriptedServer(lambda _: answer(302, Location=plain.url), tls=tls[0]) as server,
    ):
        connection = connect(server.url, {"AWS_CA_BUNDLE": str(tls[1])})
        with pytest.raises(FetchError, match="not https"):
            connection.get(0, 10)
        assert not plain.requests


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_tls_bundle_that_is_none(tmp_path: Path, content: bytes | None) -> None:
    """An unusable AWS_CA_BUNDLE is the configuration's fault and named."""
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_bytes(content)
    with ScriptedServer(ranged) as server:
        source = open_source(f"https://127.0.0.1:{server.port}/key", {"AWS_CA_BUNDLE": str(bundle)})
        with pytest.raises(ConfigError, match=r"AWS_CA_BUNDLE.*bundle\.pem"):
            source.connect(timeout=5).get(0, 10)
