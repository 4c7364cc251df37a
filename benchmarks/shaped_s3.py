"""An S3-like HTTP server that is as fast, and as slow, as S3 is to one function. A program; see `main`.

Serves one file at every address: ranged GETs with an ETag, a delay before the first byte, a cap a connection and a cap
over all. It checks no signatures. `sendfile` and a thread a connection keep its own share of the processor small.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import threading
import time
from pathlib import Path

CHUNK = 256 << 10
SLACK = 0.002
"""Seconds by which a sender may be early before it sleeps: shorter sleeps are not to be had."""


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


def serve(connection: socket.socket, path: Path, links: tuple[Link, float], delay: float) -> None:
    """Answer one connection's requests until the client closes it."""
    total, per_connection = links
    buffer = b""
    size = path.stat().st_size
    with connection, path.open("rb") as file:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            while b"\r\n\r\n" not in buffer:
                data = connection.recv(65536)
                if not data:
                    return
                buffer += data
            head, _, buffer = buffer.partition(b"\r\n\r\n")
            wanted = re.search(rb"(?i)range: bytes=(\d+)-(\d+)", head)
            start, stop = (int(wanted[1]), min(int(wanted[2]) + 1, size)) if wanted else (0, size)
            time.sleep(delay)
            lines = (
                "HTTP/1.1 206 Partial Content",
                f"Content-Length: {stop - start}",
                f"Content-Range: bytes {start}-{stop - 1}/{size}",
                'ETag: "the-pack"',
                "\r\n",
            )
            connection.sendall("\r\n".join(lines).encode())
            own = Link(per_connection)
            while start < stop:
                count = min(CHUNK, stop - start)
                total.take(count)
                sent = os.sendfile(connection.fileno(), file.fileno(), start, count)
                start += sent
                own.take(sent)


def main() -> None:
    """Listen on a free port of the loopback, print it, and serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rate", type=float, default=0, help="bytes a second over all connections; 0: no cap")
    parser.add_argument("--connection-rate", type=float, default=90e6, help="bytes a second of one connection")
    parser.add_argument("--delay", type=float, default=0.027, help="seconds before the first byte of an answer")
    options = parser.parse_args()
    total = Link(options.rate)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            connection, _ = server.accept()
            arguments = (connection, options.file, (total, options.connection_rate), options.delay)
            threading.Thread(target=serve, args=arguments, daemon=True).start()


if __name__ == "__main__":
    main()
