"""Ranged GETs over HTTP/1.1, for ``http(s)://`` sources and as the ground that `s3` stands on.

The request is written by hand. So is the parser of the one answer that a start expects; every other one is left to
`http.client`, whose import costs more than a connect. No proxies, no cookies, no compression.
"""

from __future__ import annotations

import os
import time

from lazydeps._ref import without_secrets
from lazydeps.errors import ConfigError, FetchError

from . import Body, Connection, Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from http.client import HTTPResponse
    from socket import socket
    from ssl import SSLContext
    from typing import Any

REDIRECTS = 5
RETRYABLE = (408, 429, 500, 502, 503, 504)
SHORTEST = 0.01
"""Seconds that a wait gets when there is hardly any time left."""
HEDGE_SECONDS = 0.4
"""How late a first byte must be for the request to be sent a second time. S3's median is 27 ms and its 95th percentile
75 ms, with rare outliers of seconds (https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html
advises to retry the slow ones)."""
GLANCE_SECONDS = 0.02
"""How long a socket that has become readable may take to give data. One with TLS may only have had a session ticket."""
ADDRESS_SECONDS = 1.0
"""How long one of a host's several addresses gets to accept a connection, before the next one is tried."""
DRAIN = 256 * 1024
"""Bytes of a body that are rather read to their end than paid for with a new connection."""
DRAIN_SECONDS = 0.1
"""How long that may take: more than a new connection costs is never worth it."""
LONGEST_HEADERS = 64 * 1024
"""Bytes of an answer's headers that are taken."""
RECEIVE = 8 * 1024
"""Bytes asked for at once until the headers are there."""
ERROR_BODY = 16 * 1024
"""Bytes of an error's body that are read at most."""
URL_SAFE = b"!#$%&'()*+,-./:;=?@[]_~"
"""Punctuation of RFC 3986 that passes through unchanged, ``%`` included."""


class Target:
    """An address, taken apart: where to connect and what to ask for."""

    __slots__ = ("host", "path", "port", "region", "scheme")

    def __init__(self, scheme: str, host: str, port: int | None, path: str, region: str = "") -> None:
        self.scheme = scheme
        self.host = host
        """A name or an IP address, without brackets."""
        self.port = port
        """None for the scheme's own."""
        self.path = path
        """Percent-encoded, with the query; begins with a slash."""
        self.region = region
        """What S3 requests are signed for; other connections may have learnt of another one since."""

    @classmethod
    def parse(cls, url: str) -> Target:
        """Take an ``http(s)://`` address apart.

        Raises:
            ConfigError: it is none, or it carries a user name. The message repeats neither that nor the query.
        """
        scheme, _, rest = url.partition("#")[0].partition("://")
        cut = min((at for at in map(rest.find, "/?") if at >= 0), default=len(rest))
        authority, path = rest[:cut], rest[cut:]
        if "@" in authority:
            raise ConfigError("an address with a user name or a password in it is not supported: use a presigned URL.")
        if authority.startswith("["):
            host, _, port = authority[1:].partition("]")
            port = port.removeprefix(":")
        else:
            host, _, port = authority.partition(":")
        name = host.translate(dict.fromkeys(map(ord, ".-_:")))
        if scheme not in ("http", "https") or not (name.isascii() and name.isalnum()):
            raise ConfigError(f"{without_secrets(url)!r} is no address: expected https://HOST/PATH, HOST in ASCII.")
        if port and not (port.isdecimal() and len(port) < 6 and 0 < int(port) < 65536):
            raise ConfigError(f"{without_secrets(url)!r} has no usable port: expected a number from 1 to 65535.")
        return cls(scheme, host.lower(), int(port) if port else None, quote("/"[: path[:1] != "/"] + path, URL_SAFE))

    @property
    def authority(self) -> str:
        """The ``Host`` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return host if self.port in (None, default) else f"{host}:{self.port}"


class Refusal:
    """An answer that is not the bytes asked for."""

    __slots__ = ("code", "date", "location", "region", "request_id", "retry_after", "status", "total")

    def __init__(self, response: HTTPResponse) -> None:
        text = _error_text(response)
        self.status = response.status
        self.code = _element(text, "Code")
        """S3's name for the error, or nothing. Its message is never used: it may hold what was signed."""
        self.region = response.getheader("x-amz-bucket-region") or _element(text, "Region")
        self.location = response.getheader("Location")
        self.date = _printable(response.getheader("Date"))
        self.request_id = _printable(response.getheader("x-amz-request-id") or response.getheader("x-request-id"))
        self.retry_after = _seconds(response.getheader("Retry-After"))
        self.total = (response.getheader("Content-Range") or "").rpartition("/")[2]


class HttpSource(Source):
    """An object behind an ``http(s)://`` address, a presigned one too."""

    keeps_redirects = True
    """Whether a connection goes on asking where it was last sent."""

    def __init__(self, url: str, environ: Mapping[str, str]) -> None:
        self.url = without_secrets(url)
        self.environ = environ
        self._address = url
        self._tls: tuple[SSLContext, bool] | None = None

    def prepare(self) -> None:
        """Import sockets and, where it will be needed, TLS; see `Source.prepare`."""
        import socket  # noqa: F401

        if self.target().scheme == "https":
            self.tls_context()

    def connect(self, *, timeout: float) -> HttpConnection:
        """Return a connection, not opened yet; see `Source.connect`."""
        return HttpConnection(self, timeout)

    def target(self) -> Target:
        """Return where the first request goes."""
        return Target.parse(self._address)

    def headers(self, target: Target, wanted: dict[str, str]) -> dict[str, str]:  # noqa: ARG002 - S3 signs both
        """Return the headers of one request."""
        return wanted

    def follow(self, target: Target, refusal: Refusal) -> Target | None:
        """Return where to ask instead, or None if the refusal is the answer.

        Raises:
            FetchError: the server sends us where we will not go.
        """
        if refusal.status not in (301, 302, 303, 307, 308) or not refusal.location:
            return None
        from urllib.parse import urljoin

        base = f"{target.scheme}://{target.authority}{target.path}"
        try:
            following = Target.parse(urljoin(base, refusal.location))
        except (ConfigError, ValueError):
            following = None
        if following is None or (target.scheme, following.scheme) == ("https", "http"):
            raise self.error(f"{self.url} redirects to an address that is not https.", refusal)
        return following

    def describe(self, refusal: Refusal, start: int) -> str:
        """Say what a refusal means and what to do about it."""
        status = refusal.status
        if status == 412:
            return changed(self.url)
        if status == 416:
            size = f"the object has {refusal.total} bytes" if refusal.total.isdecimal() else "it ends before that"
            return f"byte {start} of {self.url} was wanted and {size}: it is empty or cut off. Push the pack again."
        if status in RETRYABLE:
            why = refusal.code or "the server is overloaded or failing"
            return f"{self.url} answered {status} ({why}). This passes; if it does not, start fewer sandboxes at once."
        if status in (401, 403) and not refusal.code:
            return f"{self.url} answered {status}: access denied. Check the address; a presigned URL may have expired."
        if status in (404, 410):
            return f"{self.url} answered {status}: there is nothing at this address. Check it, or push the pack again."
        why = f" ({refusal.code})" if refusal.code else ""
        return f"{self.url} answered {status}{why} instead of the bytes asked for. Check the address."

    def error(self, message: str, refusal: Refusal) -> FetchError:
        """Return the error for a refusal, with the facts that came along."""
        if refusal.request_id:
            message = f"{message} Request id: {refusal.request_id}."
        return FetchError(
            message,
            url=self.url,
            status=refusal.status,
            request_id=refusal.request_id or None,
            retryable=refusal.status in RETRYABLE,
            retry_after=refusal.retry_after,
        )

    def tls_context(self) -> SSLContext:
        """Return the TLS context that connections share. A race of two threads makes two: harmless, and no lock."""
        if self._tls is None:
            self._tls = _new_tls_context(self.environ.get("AWS_CA_BUNDLE"), whole=False)
        return self._tls[0]

    def widen_trust(self, context: SSLContext) -> bool:
        """After a failed verification: return whether another context than this one is worth a try."""
        if self._tls is not None and self._tls[0] is context:
            if self._tls[1]:
                return False
            self._tls = _new_tls_context(None, whole=True)
        return True


class HttpConnection(Connection):
    """One socket at a time. Every failure drops it; the next `get` opens another."""

    def __init__(self, source: HttpSource, timeout: float) -> None:
        self.timeout = timeout
        self._source = source
        self._socket: socket | None = None
        self._opening: list[socket] = []
        """Sockets that connect, or wait beside another one for an answer."""
        self._peer: tuple[str, str] | None = None
        self._response: Answer | HTTPResponse | None = None
        self._body: HttpBody | None = None
        self._moved: Target | None = None

    def get(self, start: int, stop: int, *, etag: str | None = None) -> HttpBody:
        """Ask for bytes ``[start, stop)``; see `Connection.get`."""
        if self._body is not None:
            self._body.close()
            self._body = None
        wanted = {"Range": f"bytes={start}-{stop - 1}"}
        if etag is not None:
            wanted["If-Match"] = etag
        try:
            return self._get(wanted, start, stop, etag)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Drop the socket."""
        response, self._response = self._response, None
        sock, self._socket = self._socket, None
        self._body = None
        if response is not None:
            response.close()
        if sock is not None:
            sock.close()

    def abandon(self, body: HttpBody | None) -> None:
        """A body ends early: drop the socket, unless it serves another one by now."""
        if self._body is body:
            self.close()

    def interrupt(self) -> None:
        """Shut the socket down under whoever waits for it, or for it to connect."""
        sock = self._socket
        for each in (*self._opening, *(() if sock is None else (sock,))):
            from socket import SHUT_RDWR, socket

            try:
                # Not `SSLSocket.shutdown`: that one takes the encryption away under a thread that may be sending.
                socket.shutdown(each, SHUT_RDWR)
            except OSError:
                pass  # not connected yet, or not any more

    def _check_wanted(self) -> None:
        # Called once a socket can be found by `interrupt`: whoever came too early for that has said so before.
        if not self.is_wanted():
            raise ConnectionAbortedError("nobody waits for the answer any more")

    def hurry(self, end: float) -> bool:
        """Bound the next wait for bytes; return whether there is time for one."""
        left = end - time.monotonic()
        if left > 0 and self._socket is not None:
            self._socket.settimeout(left)
        return left > 0

    def patience(self) -> float:
        """Return how long one wait may be now."""
        return max(SHORTEST, min(self.timeout, self.left()))

    def drained(self, body: HttpBody) -> None:
        """A body has ended: keep the socket for the next one, if the server does."""
        if self._body is body:
            self._body = None
            if self._response is not None and (self._response.will_close or self._response.chunked):
                self.close()

    def fail(self, error: OSError, body: HttpBody | None = None) -> FetchError:
        """Drop the socket, unless it serves another body by now, and return what its failure means."""
        self.abandon(body)
        self._moved = None
        seconds = f"{self.timeout:g} seconds" if self.left() > SHORTEST else "the time that was left"
        return _unreachable(self._source.url, self._peer[1] if self._peer else "", error, seconds)

    def _get(self, wanted: dict[str, str], start: int, stop: int, etag: str | None) -> HttpBody:
        source = self._source
        target = self._moved or source.target()
        hops = 0
        while True:
            response, first_byte = self._exchange(target, source.headers(target, wanted))
            if response.status in (200, 206):
                return self._accept(response, start, stop, etag, first_byte)
            assert not isinstance(response, Answer)
            refusal = Refusal(response)
            self.close()
            following = source.follow(target, refusal)
            if following is not None:
                hops += 1
                if hops > REDIRECTS:
                    raise source.error(
                        f"{source.url} redirects more than {REDIRECTS} times. Check the address.", refusal
                    )
                target = following
                self._moved = target if source.keeps_redirects else None
            elif self._moved is not None and not hops and refusal.status in (401, 403, 404, 410):
                # A redirect that was remembered has expired, as signed ones do: ask where it was given.
                self._moved, target = None, source.target()
            else:
                raise source.error(source.describe(refusal, start), refusal)

    def _exchange(self, target: Target, headers: dict[str, str]) -> tuple[Answer | HTTPResponse, float]:
        """Send the request and read the answer's headers, on a fresh socket if the kept one turns out to be dead."""
        lines = [f"GET {target.path} HTTP/1.1", f"Host: {target.authority}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += ["Accept-Encoding: identity", "User-Agent: lazydeps", "", ""]
        if not "".join(lines).isprintable():
            raise ConfigError(f"the request for {self._source.url} has a line break in a header: check AWS_*'s values.")
        request = "\r\n".join(lines).encode()
        while True:
            peer = target.scheme, target.authority
            if self._peer != peer:
                self.close()
            reused = self._socket is not None
            self._peer = peer
            timeout = self.patience()
            try:
                sock = self._socket = self._socket or self._dial(target, timeout)
                self._check_wanted()
                sent = time.monotonic()
                timeout = self.patience()
                sock.settimeout(timeout)
                sock.sendall(request)
                end = sent + timeout
                first = self._first_data(sock, target, request, end)
                self._response = response = _read_headers(self._socket, first, end)
                self._socket.settimeout(self.timeout)
                return response, time.monotonic() - sent
            except OSError as error:
                failure = self.fail(error)
                if not reused or isinstance(error, TimeoutError):
                    raise failure from error

    def _first_data(self, sock: socket, target: Target, request: bytes, end: float) -> bytes:
        """Return what comes first in answer to a request, nothing if the connection ends.

        If it is late, the request is sent by another connection too. The one that answers first becomes ours, and the
        other is closed: a server that takes seconds for one request in a thousand answers the second at once.
        """
        sock.settimeout(min(HEDGE_SECONDS, _left(end)))
        try:
            return sock.recv(RECEIVE)
        except TimeoutError:
            _left(end)  # raises where this was all the time there is
        other = None
        if self.may_hedge():
            try:
                other = self._dial(target, min(HEDGE_SECONDS, _left(end)))
                other.sendall(request)
            except OSError:
                if other is not None:
                    other.close()
                other = None
        if other is None:
            sock.settimeout(_left(end))
            return sock.recv(RECEIVE)
        self._opening.append(other)
        try:
            self._check_wanted()
            self._socket, data = _race(sock, other, end)
        finally:
            self._opening.remove(other)
            for loser in (sock, other):
                if loser is not self._socket:
                    loser.close()
        return data

    def _dial(self, target: Target, seconds: float) -> socket:
        """Return a new connection. It takes no longer than this, TLS included, the name's resolution not."""
        addresses = _resolve(target)
        end = time.monotonic() + seconds
        while True:
            context = self._source.tls_context() if target.scheme == "https" else None
            sock = self._reach(addresses, end)
            if context is None:
                return sock
            try:
                return self._encrypt(sock, context, target.host, end)
            except BaseException as error:
                if not _is_distrust(error) or not self._source.widen_trust(context):
                    raise

    def _reach(self, addresses: list[Any], end: float) -> socket:
        """Connect to the first of these addresses that accepts."""
        from socket import IPPROTO_TCP, TCP_NODELAY, socket

        for place, (family, kind, protocol, _, address) in enumerate(addresses, 1):
            last = place == len(addresses)
            sock = None
            try:
                sock = socket(family, kind, protocol)
                self._opening.append(sock)
                self._check_wanted()
                sock.settimeout(_left(end) if last else min(_left(end), ADDRESS_SECONDS))
                sock.connect(address)
                sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
                return sock
            except BaseException as error:
                if sock is not None:
                    sock.close()
                if last or not isinstance(error, OSError):
                    raise
            finally:
                if sock is not None:
                    self._opening.remove(sock)
        raise OSError("the name has no address")

    def _encrypt(self, sock: socket, context: SSLContext, host: str, end: float) -> socket:
        tls = None
        try:
            # The handshake apart, so that `interrupt` finds the socket that it runs on.
            tls = context.wrap_socket(sock, server_hostname=host.encode(), do_handshake_on_connect=False)
            self._opening.append(tls)
            self._check_wanted()
            tls.settimeout(_left(end))
            tls.do_handshake()
            return tls
        except BaseException:
            (tls or sock).close()
            raise
        finally:
            if tls is not None:
                self._opening.remove(tls)

    def _accept(
        self, response: Answer | HTTPResponse, start: int, stop: int, etag: str | None, first_byte: float
    ) -> HttpBody:
        url = self._source.url
        found = response.getheader("ETag")
        if found is not None and (found.startswith("W/") or not found.isascii()):
            found = None
        problem, status, retryable = "", response.status, False
        size = total = response.length
        if etag and found and etag != found:
            problem, status = changed(url), 412
        elif response.status == 206:
            span = _content_range(response.getheader("Content-Range"))
            if span is None or span[0] != start or span[1] > stop:
                problem = f"{url} answered with another range than was asked for. Serve it by S3 or a plain web server."
            else:
                size, total = span[1] - start, span[2]
                coding = _printable(response.getheader("Content-Encoding"))
                if response.length is not None and (response.length > size or (coding and response.length < size)):
                    how = f" ({coding})" if coding else ""
                    problem = (
                        f"{url} announced {response.length} bytes{how} for a range of {size}: it has another length "
                        "than its range. Let nothing between compress or change what S3 sends."
                    )
                    retryable = True
                elif span[1] != min(stop, total) or response.length not in (None, size):
                    problem, retryable = f"{url} sent less than it was asked for. Try again.", True
        elif start:
            problem = (
                f"the server of {url} ignores ranges: byte {start} was asked for and the whole object came. "
                "Serve it by S3, or by a web server that answers range requests."
            )
        if not problem and (size is None or total is None):
            problem = f"the server of {url} does not say how long the object is. Serve it with a Content-Length."
        if problem or size is None or total is None:
            request_id = _printable(response.getheader("x-amz-request-id"))
            raise FetchError(problem, url=url, status=status, request_id=request_id or None, retryable=retryable)
        body = self._body = HttpBody(self, response, size)
        body.total, body.etag, body.first_byte = total, found, first_byte
        return body


class HttpBody(Body):
    """The bytes behind an answer's headers, received straight into the caller's memory."""

    def __init__(self, connection: HttpConnection, response: Answer | HTTPResponse, size: int) -> None:
        self._connection = connection
        self._response = response
        self._left = size
        self.size = size

    def readinto(self, view: memoryview) -> int:
        """Read on; see `Body.readinto`."""
        view = view[: self._left]
        if not view:
            return 0
        try:
            if self._connection.left() < self._connection.timeout:
                self._connection.hurry(time.monotonic() + self._connection.patience())
            count = _receive(self._response, view)
            if not count:
                raise ConnectionResetError(f"the connection ended {self._left} bytes before the body did")
        except OSError as error:
            raise self._connection.fail(error, self) from error
        self._left -= count
        if not self._left:
            self._connection.drained(self)
        return count

    def close(self) -> None:
        """End the body; see `Body.close`."""
        if self._left > DRAIN:
            self._left = 0
            self._connection.abandon(self)
        elif self._left:
            rest = memoryview(bytearray(self._left))
            end = time.monotonic() + DRAIN_SECONDS
            try:
                while self._left and self._connection.hurry(end):
                    self.readinto(rest)
            except FetchError:
                pass  # nobody wanted these bytes
            if self._left:
                self._left = 0
                self._connection.abandon(self)


def changed(url: str) -> str:
    """Say that an object was overwritten while it was read."""
    return f"{url} changed while it was read. Give each pack a name of its own, as `lazydeps push` does; start again."


def quote(text: str, safe: bytes) -> str:
    """Percent-encode the UTF-8 of ``text`` but for ASCII letters, digits and ``safe``; `urllib.parse` costs 4 ms."""
    plain = frozenset(safe + b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    return "".join([chr(byte) if byte in plain else f"%{byte:02X}" for byte in text.encode("utf-8", "surrogateescape")])


class Answer:
    """The plain answer: 200 or 206, a length, no transfer coding. Has what we use of `http.client.HTTPResponse`."""

    __slots__ = ("_ahead", "_fields", "_socket", "chunked", "length", "status", "will_close")

    def __init__(self, sock: socket, status: int, fields: dict[str, str], length: int, ahead: bytes) -> None:
        self._socket = sock
        self._fields = fields
        self._ahead = memoryview(ahead)
        """The beginning of the body, which came with the headers."""
        self.status = status
        self.length: int | None = length
        self.chunked = False
        self.will_close = "close" in fields.get("connection", "").lower() or len(ahead) > length

    @classmethod
    def parse(cls, sock: socket, head: bytes, ahead: bytes) -> Answer | None:
        """Read a status line and header fields (RFC 9112, 4 and 5); None if they are anything but plain."""
        first, *lines = head.split(b"\r\n")
        fields: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.decode("latin-1").partition(":")
            name = name.lower()
            if not colon or not name.replace("-", "").isalnum() or name in fields:
                return None
            fields[name] = value.strip(" \t")
        length = fields.get("content-length", "")
        if not first.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 206 ")) or not _is_count(length):
            return None
        if "transfer-encoding" in fields:
            return None
        return cls(sock, int(first[9:12]), fields, int(length), ahead)

    def getheader(self, name: str) -> str | None:
        """Return a field's value."""
        return self._fields.get(name.lower())

    def readinto1(self, view: memoryview) -> int:
        """Put into ``view`` what one receive brings."""
        if self._ahead:
            count = min(len(view), len(self._ahead))
            view[:count] = self._ahead[:count]
            self._ahead = self._ahead[count:]
            return count
        return self._socket.recv_into(view)

    def close(self) -> None:
        """Do nothing: the socket is the connection's."""


def _resolve(target: Target) -> list[Any]:
    from socket import SOCK_STREAM, getaddrinfo

    # Bytes, here and for TLS: a string would be encoded by `encodings.idna`, whose import costs a millisecond, and is a
    # trap for whoever forks meanwhile. `Target.parse` takes ASCII only.
    port = target.port or (443 if target.scheme == "https" else 80)
    return getaddrinfo(target.host.encode(), port, 0, SOCK_STREAM)


def _left(end: float) -> float:
    """Return the seconds until then."""
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def _race(first: socket, second: socket, end: float) -> tuple[socket, bytes]:
    """Return whichever of two connections answers first, and what it says first."""
    from select import POLLIN, poll

    running = {sock.fileno(): sock for sock in (first, second)}
    failure: OSError | None = None
    while running:
        watch = poll()
        for handle in running:
            watch.register(handle, POLLIN)
        for handle, _ in watch.poll(_left(end) * 1000):
            sock = running[handle]
            sock.settimeout(GLANCE_SECONDS)
            try:
                data = sock.recv(RECEIVE)
                if data:
                    return sock, data
                failure = _closed()
            except TimeoutError:
                continue
            except OSError as error:
                failure = error
            del running[handle]
    raise failure or _closed()


def _closed() -> ConnectionResetError:
    return ConnectionResetError("the connection was closed instead of an answer")


def _read_headers(sock: socket, head: bytes, until: float) -> Answer | HTTPResponse:
    """Read on, after the first bytes of an answer, until all of its headers are there."""
    data = head
    while True:
        if not head:
            raise _closed()
        end = head.find(b"\r\n\r\n")
        if end >= 0 or not data:
            answer = Answer.parse(sock, head[:end], head[end + 4 :]) if end >= 0 else None
            return answer or _parse_at_length(sock, head, until)
        if len(head) >= LONGEST_HEADERS:
            raise ConnectionError(f"the answer's headers are longer than {LONGEST_HEADERS} bytes")
        sock.settimeout(_left(until))
        data = sock.recv(RECEIVE)
        head += data


def _parse_at_length(sock: socket, head: bytes, until: float) -> HTTPResponse:
    """Parse an answer of which a part has been read, and which is not the plain one."""
    from http.client import HTTPException, HTTPResponse
    from io import BufferedReader, RawIOBase

    class Rest(RawIOBase):
        """What has been read, then the socket: what `HTTPResponse` takes for one."""

        until: float | None = None
        """When to give up. None: each wait for bytes is the socket's own business."""

        def makefile(self, _mode: str) -> BufferedReader:
            return BufferedReader(self)

        def readable(self) -> bool:
            return True

        def readinto(self, view: Any) -> int:
            nonlocal head
            count = min(len(view), len(head))
            if not count:
                if self.until is not None:
                    sock.settimeout(_left(self.until))
                return sock.recv_into(view)
            view[:count], head = head[:count], head[count:]
            return count

    rest = Rest()
    rest.until = until
    response = HTTPResponse(rest, method="GET")  # type: ignore[arg-type]
    try:
        response.begin()
    except HTTPException as error:
        response.close()
        if isinstance(error, OSError):
            raise
        raise ConnectionError(f"the answer is not HTTP/1.1 ({type(error).__name__})") from error
    except BaseException:
        response.close()
        raise
    if response.status in (200, 206):
        rest.until = None  # else what follows says what is wrong, and shall come in the same time
    return response


def _receive(response: Answer | HTTPResponse, view: memoryview) -> int:
    """Put into ``view`` what one receive brings: who reads can say in between that it takes too long."""
    if isinstance(response, Answer):
        return response.readinto1(view)
    from http.client import HTTPException

    try:
        if response.chunked:
            data = response.read1(len(view))
            view[: len(data)] = data
            return len(data)
        return response.fp.readinto1(view)  # the caller knows where the body ends
    except (HTTPException, ValueError, AttributeError) as error:  # a broken chunk; a response closed meanwhile
        raise ConnectionError(f"the answer broke off ({type(error).__name__})") from error


def _error_text(response: HTTPResponse) -> str:
    from http.client import HTTPException

    text = b""
    try:
        while len(text) < ERROR_BODY and (data := response.read1(ERROR_BODY - len(text))):
            text += data
    except (OSError, HTTPException, ValueError):
        pass  # the status says enough
    return text.decode("latin-1")


def _element(text: str, name: str) -> str:
    """Return the first XML element of this name if it holds one plain word."""
    word = text.partition(f"<{name}>")[2].partition(f"</{name}>")[0]
    return word if word.isascii() and word.replace("-", "").isalnum() and len(word) <= 64 else ""


def _printable(text: str | None) -> str:
    return "".join(letter for letter in (text or "")[:128] if letter.isascii() and letter.isprintable())


def _seconds(retry_after: str | None) -> float | None:
    """Read a ``Retry-After`` (RFC 9110, 10.2.3): seconds or a date."""
    if retry_after is None:
        return None
    if retry_after.isdecimal():
        return float(retry_after)
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _content_range(text: str | None) -> tuple[int, int, int] | None:
    """Return start, stop and total of ``bytes FIRST-LAST/TOTAL`` (RFC 9110, 14.4)."""
    unit, _, rest = (text or "").partition(" ")
    span, _, total = rest.partition("/")
    first, _, last = span.partition("-")
    if unit != "bytes" or not all(_is_count(part) for part in (first, last, total)):
        return None
    if not int(first) <= int(last) < int(total):
        return None
    return int(first), int(last) + 1, int(total)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20


def _is_distrust(error: BaseException) -> bool:
    return type(error).__name__ == "SSLCertVerificationError"


def _new_tls_context(bundle: str | None, *, whole: bool) -> tuple[SSLContext, bool]:
    """Return a verifying context, and whether it knows every authority there is to know.

    OpenSSL parses a system's bundle of 140 certificates in about 30 ms, and looks one up in a folder of hashed
    names in none. So the folder is tried first, where there is one, and the bundle if the folder was not enough.
    """
    import ssl

    if bundle:
        folder, file = (bundle, None) if os.path.isdir(bundle) else (None, bundle)
        try:
            return ssl.create_default_context(capath=folder, cafile=file), True
        except OSError as error:
            raise ConfigError(
                f"AWS_CA_BUNDLE names {bundle!r}, which cannot be used: {error.strerror or 'no certificate in it'}. "
                "It must be a PEM file, or a folder that `openssl rehash` has prepared."
            ) from error
    paths = ssl.get_default_verify_paths()
    # OpenSSL reads its own variables from the process, whatever environment we were given.
    if not whole and paths.capath and not any(name in os.environ for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")):
        try:
            if any(name.endswith(".0") for name in os.listdir(paths.capath)):
                return ssl.create_default_context(capath=paths.capath), False
        except OSError:
            pass  # unreadable: the bundle then
    return ssl.create_default_context(), True


def _unreachable(url: str, host: str, error: OSError, seconds: str) -> FetchError:
    """Say what a failed socket operation means and what to do about it."""
    kind = type(error).__name__
    retryable = True
    if _is_distrust(error):
        retryable = False
        message = (
            f"the certificate of {host} is not trusted ({getattr(error, 'verify_message', kind)}). With an authority "
            "of your own, or behind a proxy, set AWS_CA_BUNDLE to its PEM file; otherwise check this machine's clock."
        )
    elif kind == "gaierror":
        message = (
            f"the name {host} cannot be resolved. Check bucket, region and endpoint, and in a VPC its DNS settings."
        )
    elif isinstance(error, TimeoutError):
        message = (
            f"{host} did not answer within {seconds}. In a VPC, S3 needs a gateway endpoint or a NAT gateway and a "
            "security group that lets port 443 out."
        )
    elif isinstance(error, ConnectionRefusedError):
        message = f"{host} refuses connections. Check AWS_ENDPOINT_URL or the address, and that the server runs."
    else:
        reason = error.strerror or str(error) or kind
        message = (
            f"the connection to {host} failed: {reason}. This passes as a rule; if not, check what stands between."
        )
    return FetchError(f"{url}: {message}", url=url, retryable=retryable)
