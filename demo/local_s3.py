"""A local S3: moto's server as a process of its own, on a free port, ended with the ``with`` block.

For the demo and for the tests. It is a Python test server that holds objects in memory: right about the
protocol, slow, and without authorisation. No figure taken against it says anything about S3's speed.
"""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any, Self

REGION = "us-east-1"


class LocalS3:
    """moto's server, running; a context manager."""

    def __init__(self) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process that writes it
        self._port = _free_port()

    @property
    def endpoint(self) -> str:
        """The server's URL, without a trailing slash."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def environ(self) -> dict[str, str]:
        """The ``AWS_*`` variables that point any SDK at this server, with made-up keys."""
        return {
            "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def client(self) -> Any:
        """Return a boto3 S3 client for this server."""
        import boto3
        from botocore.config import Config

        environ = self.environ
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=environ["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environ["AWS_SECRET_ACCESS_KEY"],
            config=Config(s3={"addressing_style": "path"}, proxies={}),
        )

    def __enter__(self) -> Self:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MOTO_"))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)],
            env={**environ, **self.environ},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        try:
            self._wait_until_it_answers(60.0)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _wait_until_it_answers(self, timeout: float) -> None:
        give_up = time.monotonic() + timeout
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
            try:
                connection.request("GET", "/moto-api/")
                connection.getresponse().read()
            except OSError:
                ended = self._process.poll() is not None
                if ended or time.monotonic() > give_up:
                    self._log.seek(0)
                    log = self._log.read().decode(errors="replace")
                    what = "ended at once" if ended else f"did not answer within {timeout:.0f} s"
                    raise RuntimeError(f"moto's server {what} on port {self._port}:\n{log}") from None
                time.sleep(0.05)
            else:
                return
            finally:
                connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
