"""Answers that are late, that trickle or that never come: hedges, bounds and interrupts of a connection."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from support_http import CONTENT, Answer, Request, ScriptedServer, certificate, ranged, s3_error

from lazydeps._sources import Connection, open_source
from lazydeps._sources import https as module
from lazydeps.errors import FetchError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from pathlib import Path

HANG = Answer(b"", "hang")


@pytest.fixture(autouse=True)
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first byte is late sooner than it would be, so that tests need not wait for it."""
    monkeypatch.setattr(module, "HEDGE_SECONDS", 0.05)


def connect(
    url: str, *, timeout: float = 30.0, environ: dict[str, str] | None = None, hedge: bool = True
) -> Connection:
    """Return a connection that may hedge."""
    connection = open_source(url, environ or {}).connect(timeout=timeout)
    connection.may_hedge = lambda: hedge
    return connection


def read(connection: Connection, start: int = 0, stop: int = 1000) -> bytes:
    """Get a range and read it whole."""
    body = connection.get(start, stop)
    view = memoryview(bytearray(body.size))
    filled = 0
    while filled < body.size:
        filled += body.readinto(view[filled:])
    body.close()
    return bytes(view)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """A server context for ``localhost``, and the bundle that vouches for it."""
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_late_answer_is_asked_for_again(encrypted: bool, tls: tuple[ssl.SSLContext, Path]) -> None:
    """A first byte that does not come in time is asked for by a second connection, which is then the one that is kept.

    With TLS 1.3 the late connection becomes readable all the same: a session ticket is no answer.
    """
    context, bundle = tls

    def script(request: Request) -> Answer:
        return HANG if request.connection == 0 else ranged(request)

    with ScriptedServer(script, tls=context if encrypted else None) as server:
        connection = connect(server.url, environ={"AWS_CA_BUNDLE": str(bundle)})
        assert read(connection) == CONTENT[:1000]
        assert read(connection, 1000, 2000) == CONTENT[1000:2000]
        assert [request.connection for request in server.requests] == [0, 1, 1]
        connection.close()


def test_the_late_answer_may_still_win() -> None:
    """Where the first connection answers after all, and the second does not, the first is used."""
    both = threading.Event()

    def script(request: Request) -> Answer:
        if request.number:
            both.set()
            return HANG
        both.wait(20)
        return ranged(request)

    with ScriptedServer(script) as server:
        connection = connect(server.url)
        assert read(connection) == CONTENT[:1000]
        assert len(server.requests) == 2
        connection.close()


@pytest.mark.parametrize("end", ["close", "reset"])
def test_one_of_two_that_breaks_leaves_the_other(end: str) -> None:
    """A hedge that breaks, or a late connection that breaks beside its hedge, is no failure."""
    both = threading.Event()

    def script(request: Request) -> Answer:
        if request.number == 0:
            both.wait(20)
            return Answer(b"", "close" if end == "close" else "reset")
        both.set()
        time.sleep(0.2)  # the first one's end is seen first
        return ranged(request)

    with ScriptedServer(script) as server:
        connection = connect(server.url)
        assert read(connection) == CONTENT[:1000]
        connection.close()


def test_nothing_is_asked_for_twice_without_leave() -> None:
    """Whoever counts the hedges may say no. Then the first connection is waited for."""
    answered = threading.Event()

    def script(request: Request) -> Answer:
        answered.wait(0.3)
        return ranged(request)

    with ScriptedServer(script) as server:
        connection = connect(server.url, hedge=False)
        assert read(connection) == CONTENT[:1000]
        assert len(server.requests) == 1
        connection.close()


def test_both_never_answer() -> None:
    """Two connections that never answer are one time-out, not two."""
    with ScriptedServer(lambda request: HANG) as server:
        connection = connect(server.url, timeout=0.5)
        with pytest.raises(FetchError, match=r"did not answer within 0\.5 seconds") as caught:
            read(connection)
        assert caught.value.retryable
        assert len(server.requests) == 2


@contextmanager
def trickling(head: bytes, drop: bytes, every: float = 0.02) -> Iterator[str]:
    """Serve ``head``, then ``drop`` again and again, without end; yield the URL."""
    over = threading.Event()

    def serve() -> None:
        with suppress(OSError):
            while True:
                sock, _ = listener.accept()
                with sock, suppress(OSError):
                    sock.recv(8192)
                    sock.sendall(head)
                    while not over.wait(every):
                        sock.sendall(drop)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/key"
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(30)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"HTTP/1.1 206 OK\r\n",
        b"HTTP/1.1 206 OK\r\nX: y\r\n z: folded lines are http.client's business\r\n\r\n"[:-2],
    ],
)
def test_headers_that_trickle(head: bytes) -> None:
    """Headers have the connection's time-out as a whole, not anew with every byte."""
    with trickling(head, b"X: y\r\n") as url, pytest.raises(FetchError, match=r"did not answer within 0\.5 seconds"):
        read(connect(url, timeout=0.5, hedge=False))


@pytest.mark.parametrize("length", [b"Content-Length: 9000\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_an_error_that_trickles(length: bytes) -> None:
    """The text of a refusal has to come within the connection's time-out too; the status says enough without it."""
    head = b"HTTP/1.1 403 Forbidden\r\n" + length + b"\r\n"
    with trickling(head, b"1\r\nx\r\n") as url, pytest.raises(FetchError, match="access denied") as caught:
        read(connect(url, timeout=0.5, hedge=False))
    assert caught.value.status == 403


def test_a_chunked_body_comes_piece_by_piece() -> None:
    """A chunked body that trickles is handed on as it comes, so that whoever reads can give up in between."""
    head = b"HTTP/1.1 206 OK\r\nTransfer-Encoding: chunked\r\nContent-Range: bytes 0-999/9000\r\n\r\n"
    with trickling(head, b"1\r\nx\r\n") as url:
        connection = connect(url, hedge=False)
        body = connection.get(0, 1000)
        view = memoryview(bytearray(1000))
        assert 0 < body.readinto(view) < 1000
        connection.close()


def test_an_error_of_any_length_is_read() -> None:
    """The code of a refusal is found whether its text is chunked, has a length or ends with the connection."""
    text = b"<Error><Code>SlowDown</Code></Error>"
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(text), text)
    for rest in (chunked, b"Content-Length: %d\r\n\r\n%s" % (len(text), text), b"\r\n" + text):
        reply = Answer(b"HTTP/1.1 503 Slow\r\n" + rest, "close")
        with ScriptedServer(lambda request, reply=reply: reply) as server, pytest.raises(FetchError, match="SlowDown"):
            read(connect(server.url))


def test_a_black_hole_among_the_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with several addresses is reached by the one that accepts, and the others take their share of the time."""
    with socket.socket() as full, ScriptedServer(ranged) as server:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        queued = [socket.socket() for _ in range(4)]
        for sock in queued:  # a queue that is full takes no more: a connect hangs
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        real = socket.getaddrinfo
        monkeypatch.setattr(module, "ADDRESS_SECONDS", 0.2)
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda *args: [
                (*real(*args)[0][:4], ("127.0.0.1", 1)),  # refuses
                (*real(*args)[0][:4], full.getsockname()),
                *real(*args),
            ],
        )
        connection = connect(server.url)
        assert read(connection) == CONTENT[:1000]
        connection.close()
        for sock in queued:
            sock.close()


@pytest.mark.parametrize("stage", ["connect", "handshake", "answer", "hedge"])
def test_an_interrupt_ends_every_wait(stage: str, tls: tuple[ssl.SSLContext, Path]) -> None:
    """Whatever a connection waits for, an interrupt from another thread ends it with an error."""
    _, bundle = tls
    waiting = threading.Event()

    def script(request: Request) -> Answer:
        if stage == "answer" or request.number:
            waiting.set()
        return HANG

    with ScriptedServer(script) as server, socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0 if stage == "connect" else 5)
        queued = [socket.socket() for _ in range(4 if stage == "connect" else 0)]
        for sock in queued:
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        if stage in ("connect", "handshake"):
            waiting.set()
        port = full.getsockname()[1]
        url = {"connect": f"http://127.0.0.1:{port}/key", "handshake": f"https://localhost:{port}/key"}.get(
            stage, server.url
        )
        connection = connect(url, timeout=600, environ={"AWS_CA_BUNDLE": str(bundle)}, hedge=stage == "hedge")
        caught: list[FetchError] = []

        def get() -> None:
            try:
                connection.get(0, 10)
            except FetchError as error:
                caught.append(error)

        thread = threading.Thread(target=get, daemon=True)
        thread.start()
        assert waiting.wait(30)
        for _ in range(600):  # once may be too early: `Worker` asks again and again, too
            connection.interrupt()
            thread.join(0.05)
            if not thread.is_alive():
                break
        assert len(caught) == 1
        for sock in queued:
            sock.close()


def test_a_refusal_is_an_answer_too() -> None:
    """A hedge that is refused first is the answer: the server is asked too much already."""

    def script(request: Request) -> Answer:
        return s3_error(503, "SlowDown") if request.number else HANG

    with ScriptedServer(script) as server, pytest.raises(FetchError, match="SlowDown") as caught:
        read(connect(server.url))
    assert caught.value.status == 503
