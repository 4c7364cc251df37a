"""An S3-like HTTP server that is as fast, and as slow, as S3 is to one function; and the handle that runs it.

Run as a program it serves files by key: whole, and by ranges with an ETag, after a delay before the first byte, under
a cap a connection and a cap over all. It checks no signatures. `sendfile` and a thread a connection keep its own share
of the processor small, because it shares the cores with what is measured; what it takes is counted and reported apart.
Only the standard library, and nothing of this package, so that the file starts by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import mmap
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CONNECTION_RATE = 90e6
"""Bytes a second that S3 sends over one connection."""
FIRST_BYTE = 0.027
"""Seconds before the first byte of an answer: S3's median."""
CHUNK = 256 << 10
SLACK = 0.002
"""Seconds by which a sender may be early before it sleeps: shorter sleeps are not to be had."""
COUNTERS = "/-/counters"
"""Where the server tells what it has done; answered at once and not counted."""
LONGEST_HEAD = 64 << 10


class Link:
    """A rate that several senders share."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free = 0.0
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """Wait until ``count`` more bytes fit."""
        if not self._rate:
            return
        with self._lock:
            self._free = max(time.monotonic(), self._free) + count / self._rate
            early = self._free - time.monotonic()
        if early > SLACK:
            time.sleep(early)


@dataclass(frozen=True, slots=True)
class Object:
    """A file that is served."""

    path: Path
    size: int
    etag: str
    modified: str
    """As HTTP spells it."""
    content_type: str

    @classmethod
    def of(cls, key: str, path: Path) -> Object:
        """Describe the file behind a key. A key that ends with a slash is a page of a package index."""
        facts = path.stat()
        digest = hashlib.sha256(f"{path}\0{facts.st_size}\0{facts.st_mtime_ns}".encode()).hexdigest()[:32]
        return cls(
            path=path,
            size=facts.st_size,
            etag=f'"{digest}"',
            modified=formatdate(facts.st_mtime, usegmt=True),
            content_type="text/html" if key.endswith("/") else "application/octet-stream",
        )


@dataclass(slots=True)
class Counters:
    """What has been asked for and sent."""

    requests: int = 0
    sent: int = 0
    """Bytes of bodies, those of errors not included."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, *, requests: int = 0, sent: int = 0) -> None:
        """Count; from any thread."""
        with self.lock:
            self.requests += requests
            self.sent += sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What every connection needs to answer."""

    objects: Mapping[str, Object]
    """By the decoded path of the request."""
    link: Link
    connection_rate: float
    delay: float
    tls: ssl.SSLContext | None
    counters: Counters = field(default_factory=Counters)

    def serve(self, raw: socket.socket) -> None:
        """Answer one connection's requests until the client closes it."""
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A client that goes away in the middle, or is killed there, is none of the server's trouble.
        with contextlib.suppress(OSError), self.accept(raw) as connection:
            own = Link(self.connection_rate)
            buffer = b""
            while True:
                while b"\r\n\r\n" not in buffer:
                    data = connection.recv(LONGEST_HEAD)
                    if not data or len(buffer) > LONGEST_HEAD:
                        return
                    buffer += data
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                self.answer(connection, head.decode("latin-1"), own)

    def accept(self, raw: socket.socket) -> socket.socket:
        """Return the connection to talk over; the handshake happens at its first read."""
        if self.tls is None:
            return raw
        return self.tls.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)

    def answer(self, connection: socket.socket, head: str, own: Link) -> None:
        """Answer one request."""
        request, *lines = head.split("\r\n")
        method, target, _ = request.split(" ", 2)
        path = unquote(target.partition("?")[0])
        if path == COUNTERS:
            body = {
                "requests": self.counters.requests,
                "sent": self.counters.sent,
                "cpu_seconds": time.process_time(),
            }
            connection.sendall(_head(200, {"Content-Length": str(len(json.dumps(body)))}) + json.dumps(body).encode())
            return
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.counters.add(requests=1)
        time.sleep(self.delay)
        found = self.objects.get(path)
        if method not in ("GET", "HEAD"):
            _refuse(connection, method, 405, "MethodNotAllowed")
        elif found is None:
            _refuse(connection, method, 404, "NoSuchKey")
        elif headers.get("if-match", found.etag) not in (found.etag, "*"):
            _refuse(connection, method, 412, "PreconditionFailed")
        else:
            self._send(connection, method, found, headers.get("range"), own)

    def _send(self, connection: socket.socket, method: str, found: Object, wanted: str | None, own: Link) -> None:
        """Send an object, or the range of it that was asked for (RFC 9110, section 14)."""
        start, stop = 0, found.size
        headers = {
            "ETag": found.etag,
            "Last-Modified": found.modified,
            "Accept-Ranges": "bytes",
            "Content-Type": found.content_type,
        }
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted or "")
        ranged = asked is not None and asked[0] != "bytes=-"
        if asked is not None and ranged:
            if asked[1]:
                start = int(asked[1])
                stop = min(int(asked[2]) + 1, stop) if asked[2] else stop
            else:
                start = max(0, stop - int(asked[2]))
            if start >= stop:
                _refuse(connection, method, 416, "InvalidRange", {"Content-Range": f"bytes */{found.size}"})
                return
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{found.size}"
        headers["Content-Length"] = str(stop - start)
        connection.sendall(_head(206 if ranged else 200, headers))
        if method == "HEAD":
            return
        send = _send_encrypted if isinstance(connection, ssl.SSLSocket) else _send_file
        with found.path.open("rb") as file:
            while start < stop:
                count = min(CHUNK, stop - start)
                self.link.take(count)
                sent = send(connection, file.fileno(), start, count)
                start += sent
                self.counters.add(sent=sent)
                own.take(sent)


def _send_file(connection: socket.socket, file: int, start: int, count: int) -> int:
    return os.sendfile(connection.fileno(), file, start, count)


def _send_encrypted(connection: socket.socket, file: int, start: int, count: int) -> int:
    """Send through TLS, which `sendfile` bypasses: from a map of the file, in one big write.

    Kernel TLS would spare a copy, but Python offers no `SSL_sendfile`, and whether a socket has it cannot be asked for.
    """
    page = start - start % mmap.ALLOCATIONGRANULARITY
    with mmap.mmap(file, start - page + count, prot=mmap.PROT_READ, offset=page) as mapped:
        view = memoryview(mapped)
        with view[start - page :] as part:
            connection.sendall(part)
        view.release()
    return count


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {text}" for name, text in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _refuse(
    connection: socket.socket, method: str, status: int, code: str, more: Mapping[str, str] | None = None
) -> None:
    """Send an error as S3 does."""
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{code}</Message></Error>'
    headers = {"Content-Type": "application/xml", "Content-Length": str(len(text)), **(more or {})}
    connection.sendall(_head(status, headers) + (b"" if method == "HEAD" else text.encode()))


@dataclass(frozen=True, slots=True)
class Certificates:
    """An authority that signed the server's certificate; paths of PEM files."""

    authority: Path
    certificate: Path
    key: Path


class ObjectServer:
    """The server, run as a process of its own. A context manager."""

    def __init__(
        self,
        objects: Mapping[str, Path],
        bucket: str,
        *,
        rate: float = 0,
        delay: float = FIRST_BYTE,
        certificates: Certificates | None = None,
        address: str = "127.0.0.1",
        port: int = 0,
        prefix: Sequence[str] = (),
    ) -> None:
        """Take what to serve.

        Args:
            objects: key to file.
            bucket: the first part of every path.
            rate: bytes a second over all connections; 0: no cap.
            delay: seconds before the first byte of an answer.
            certificates: for TLS; None: plain HTTP.
            address: where to listen.
            port: where to listen; 0: anywhere.
            prefix: a command that runs the server elsewhere: in a network namespace.
        """
        self._paths = {f"/{bucket}/{key}": str(path) for key, path in objects.items()}
        self._command = [*prefix, sys.executable, "-P", __file__, "--address", address, "--port", str(port)]
        self._command += ["--rate", str(rate), "--delay", str(delay)]
        if certificates is not None:
            self._command += ["--certificate", str(certificates.certificate), "--key", str(certificates.key)]
        self._address = address
        self._context = None if certificates is None else ssl.create_default_context(cafile=str(certificates.authority))
        self._process: subprocess.Popen[str] | None = None
        self._port = 0

    def __enter__(self) -> ObjectServer:
        # A session of its own: Ctrl-C reaches the benchmark, which then ends the server when nothing uses it.
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(self._paths) + "\n")
            self._process.stdin.flush()
            self._port = int(self._process.stdout.readline())
        except (OSError, ValueError):
            self.__exit__()
            raise RuntimeError("the object server did not start; its own words are above") from None
        return self

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with process:
                pass

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def endpoint(self) -> str:
        """The server's URL, without a trailing slash."""
        return f"{'http' if self._context is None else 'https'}://{self._address}:{self._port}"

    def counters(self) -> dict[str, Any]:
        """Return ``requests``, ``sent`` (bytes of bodies) and ``cpu_seconds``, all since the server's start."""
        connection = socket.create_connection((self._address, self._port), timeout=30)
        if self._context is not None:
            connection = self._context.wrap_socket(connection, server_hostname=self._address)
        with connection:
            connection.sendall(f"GET {COUNTERS} HTTP/1.1\r\nHost: {self._address}\r\n\r\n".encode())
            head, _, text = connection.recv(LONGEST_HEAD).partition(b"\r\n\r\n")
            length = int(re.findall(rb"Content-Length: (\d+)", head)[0])
            while len(text) < length:
                text += connection.recv(LONGEST_HEAD)
        counters: dict[str, Any] = json.loads(text)
        return counters


def main() -> None:
    """Read the objects from standard input, listen, print the port, and serve until standard input ends."""
    parser = argparse.ArgumentParser(description="Serve files as S3 serves objects.")
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--rate", type=float, default=0, help="bytes a second over all connections; 0: no cap")
    parser.add_argument("--connection-rate", type=float, default=CONNECTION_RATE, help="bytes a second of one of them")
    parser.add_argument("--delay", type=float, default=FIRST_BYTE, help="seconds before the first byte of an answer")
    parser.add_argument("--certificate", type=Path, help="PEM; TLS if given")
    parser.add_argument("--key", type=Path)
    options = parser.parse_args()
    tls = None
    if options.certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(options.certificate, options.key)
    paths = json.loads(sys.stdin.readline())
    service = Service(
        objects={key: Object.of(key, Path(path)) for key, path in paths.items()},
        link=Link(options.rate),
        connection_rate=options.connection_rate,
        delay=options.delay,
        tls=tls,
    )
    with socket.create_server((options.address, options.port), backlog=256) as server:
        print(server.getsockname()[1], flush=True)

        def accept() -> None:
            while True:
                connection, _ = server.accept()
                threading.Thread(target=service.serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        sys.stdin.read()  # ends with whoever started the server, however that ended
        os._exit(0)


if __name__ == "__main__":
    main()
