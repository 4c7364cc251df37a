"""A web server that does what it is told, the wrong thing included: one answer for each request, byte by byte.

The real S3 server of `conftest` behaves; this one is for everything that S3 and the network do on a bad day.
"""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONTENT = bytes(range(256)) * 4096
"""What `whole` and `ranged` serve: 1 MiB."""
Then = Literal["keep", "close", "reset", "hang"]
"""What becomes of the connection after an answer."""
ETAG = '"0123456789abcdef"'


class Request:
    """One request, as it came."""

    def __init__(self, connection: int, number: int, text: str) -> None:
        self.connection = connection
        """Which connection it came by, from 0."""
        self.number = number
        """How many came before it, on any connection."""
        line, *lines = text.split("\r\n")
        self.method, self.path, _ = line.split(" ")
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}

    def span(self, content: bytes = CONTENT) -> tuple[int, int]:
        """Return start and stop of the range asked for."""
        first, _, last = self.headers["range"].removeprefix("bytes=").partition("-")
        return int(first), min(int(last) + 1, len(content))


class Answer:
    """What to send back, and what to do with the connection then."""

    def __init__(self, data: bytes, then: Then = "keep", *, pause: float = 0.0, at_once: int = 0) -> None:
        self.data = data
        self.then = then
        self.pause = pause
        """Seconds before each single byte; 0: everything at once."""
        self.at_once = at_once if pause else len(data)
        """How many bytes come without a pause, in front."""


def answer(
    status: int,
    body: bytes = b"",
    *,
    then: Then = "keep",
    length: int | None = None,
    **headers: str,
) -> Answer:
    """Return a whole answer. Underscores in header names become hyphens; ``length`` overrides Content-Length."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body) if length is None else length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return Answer("\r\n".join([*lines, "", ""]).encode() + body, then)


def ranged(request: Request, content: bytes = CONTENT, etag: str = ETAG) -> Answer:
    """Return what a good server answers."""
    start, stop = request.span(content)
    span = f"bytes {start}-{stop - 1}/{len(content)}"
    return answer(206, content[start:stop], Content_Range=span, ETag=etag)


def s3_error(status: int, code: str, *, then: Then = "keep", **headers: str) -> Answer:
    """Return an error as S3 words it, with a message that must never be repeated."""
    text = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>WORDS-OF-S3</Message></Error>'
    return answer(status, text.encode(), then=then, length=None, x_amz_request_id="REQUEST-1", **headers)


class ScriptedServer:
    """The server; a context manager. ``script`` is called with each request, in the server's threads."""

    def __init__(self, script: Callable[[Request], Answer], *, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self._script = script
        self._tls = tls
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()

    @property
    def port(self) -> int:
        """The port it listens on."""
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """The URL of its only object."""
        return f"{self.endpoint}/pack.tar.zst"

    @property
    def endpoint(self) -> str:
        """The server's URL, without a trailing slash."""
        return f"https://localhost:{self.port}" if self._tls else f"http://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many connections brought a request."""
        return len({request.connection for request in self.requests})

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`, which closing alone does not
        self._listener.close()
        for connection in self._sockets:
            with suppress(OSError):  # it may have ended by itself
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive(), "a server thread does not end"

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(connection)
            self._start(self._serve, connection, len(self._sockets) - 1)

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            if self._tls is not None:
                connection = self._sockets[number] = self._tls.wrap_socket(connection, server_side=True)
            with connection, connection.makefile("rb") as lines:
                while True:
                    text = b""
                    while (line := lines.readline()) not in (b"\r\n", b""):
                        text += line
                    if not text:
                        return
                    request = Request(number, len(self.requests), text.decode())
                    self.requests.append(request)
                    reply = self._script(request)
                    connection.sendall(reply.data[: reply.at_once])
                    for at in range(reply.at_once, len(reply.data)):
                        if self._ended.wait(reply.pause):
                            return
                        connection.sendall(reply.data[at : at + 1])
                    if reply.then == "hang":
                        self._ended.wait()
                    if reply.then == "reset":  # closing with a linger time of 0 sends RST instead of FIN
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    if reply.then != "keep":
                        return
        except OSError:
            pass  # the client went away, or did not like the certificate
        finally:
            connection.close()


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Return a server context for ``localhost`` and the PEM file of the authority that vouches for it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign", "encipher_only",
         "decipher_only"), False,
    )  # fmt: skip
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, key_cert_sign=True, **usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    bundle, private = folder / "authority.pem", folder / "key.pem"
    bundle.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(bundle, private)
    return context, bundle
