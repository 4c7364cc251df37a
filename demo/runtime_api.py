"""A small local Lambda: the Runtime API over HTTP, and a function process that runs the real `awslambdaric`.

For the demo and for the tests. It speaks what a managed Python runtime needs (next, response, error, init error)
and stamps each step with the monotonic clock. It does not imitate Lambda's limits, freezing, or network.

Protocol: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

import http.server
import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

API = "/2018-06-01/runtime/"


class FunctionError(Exception):
    """The function answered with an error, failed in its init, or went away; the text says which, with its log."""


class Invocation:
    """One event on its way through a function. Times are `time.monotonic` seconds; None until they happen."""

    def __init__(self, event: object, *, deadline_seconds: float) -> None:
        self.request_id = str(uuid.uuid4())
        self.payload = json.dumps(event).encode()
        self.deadline_seconds = deadline_seconds
        self.taken: float | None = None
        """When the function fetched the event: the end of its init, or of the invocation before."""
        self.answered: float | None = None
        """When its response or error had arrived."""
        self.response: Any = None
        """The parsed JSON response."""
        self.error: dict[str, Any] | None = None
        """The parsed error document (``errorType``, ``errorMessage``, ``stackTrace``), if it failed."""
        self.done = threading.Event()


class RuntimeApi:
    """The Runtime API of one function, on a free port of 127.0.0.1, until the ``with`` block ends."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[Invocation | None] = queue.Queue()
        self._running: dict[str, Invocation] = {}
        self.init_error: dict[str, Any] | None = None
        """What the function posted to ``init/error``, if it did."""
        self.ready: float | None = None
        """When the function first asked for an event: the end of its init."""
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.api = self
        self._thread = threading.Thread(target=self._server.serve_forever, name="runtime-api", daemon=True)

    @property
    def address(self) -> str:
        """``HOST:PORT``, the value of ``AWS_LAMBDA_RUNTIME_API``."""
        return f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._waiting.put(None)  # lets a handler thread that waits in `next` go
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def submit(self, event: object, *, deadline_seconds: float = 60.0) -> Invocation:
        """Queue ``event`` for the function and return at once; wait on the result's ``done``."""
        invocation = Invocation(event, deadline_seconds=deadline_seconds)
        self._waiting.put(invocation)
        return invocation

    def _next(self) -> Invocation | None:
        if self.ready is None:
            self.ready = time.monotonic()
        invocation = self._waiting.get()
        if invocation is not None:
            invocation.taken = time.monotonic()
            self._running[invocation.request_id] = invocation
        return invocation

    def _finish(self, request_id: str, *, response: bytes | None = None, error: bytes | None = None) -> bool:
        arrived = time.monotonic()
        invocation = self._running.pop(request_id, None)
        if invocation is None:
            return False
        invocation.answered = arrived
        if error is not None:
            invocation.error = json.loads(error)
        else:
            invocation.response = json.loads(response or b"null")
        invocation.done.set()
        return True


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a killed function leaves a thread waiting in `next`; it holds nothing
    api: RuntimeApi

    def handle_error(self, request: object, client_address: object) -> None:
        # A function that is stopped while it waits for its next event closes the connection: nothing to report.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path != API + "invocation/next":
            self._answer(404, {"errorType": "NotFound", "errorMessage": self.path})
            return
        invocation = self.server.api._next()
        if invocation is None:
            self.close_connection = True
            return
        deadline = int((time.time() + invocation.deadline_seconds) * 1000)
        headers = {
            "Lambda-Runtime-Aws-Request-Id": invocation.request_id,
            "Lambda-Runtime-Deadline-Ms": str(deadline),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:us-east-1:123456789012:function:local",
            "Lambda-Runtime-Trace-Id": f"Root=1-{int(time.time()):08x}-{uuid.uuid4().hex[:24]};Parent=0;Sampled=0",
        }
        self._send(200, invocation.payload, headers)

    def do_POST(self) -> None:
        body = self._read_body()
        api = self.server.api
        if self.path == API + "init/error":
            api.init_error = json.loads(body)
            self._answer(202, {"status": "OK"})
            return
        request_id, _, what = self.path.removeprefix(API + "invocation/").partition("/")
        if what == "response":
            known = api._finish(request_id, response=body)
        elif what == "error":
            known = api._finish(request_id, error=body)
        else:
            known = False
        if known:
            self._answer(202, {"status": "OK"})
        else:
            self._answer(404, {"errorType": "InvalidRequestID", "errorMessage": self.path})

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = bytearray()
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        return bytes(body)

    def _answer(self, status: int, document: object) -> None:
        self._send(status, json.dumps(document).encode(), {})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Stay silent: the function's log is what a reader wants to see."""


class Function:
    """A fresh process that runs a handler under ``python -m awslambdaric``; a context manager.

    Args:
        python: the interpreter, with `awslambdaric` installed.
        handler: ``MODULE.FUNCTION``, as in a function's configuration.
        task_root: the folder of the function's own code (``LAMBDA_TASK_ROOT``).
        environ: the process's environment beyond what Lambda itself sets; nothing is inherited.
        memory_mb: the memory size the function is told, MiB.
    """

    def __init__(
        self,
        python: Path | str,
        handler: str,
        *,
        task_root: Path,
        environ: Mapping[str, str],
        memory_mb: int = 1769,
    ) -> None:
        self._command = [str(python), "-m", "awslambdaric", handler]
        self._task_root = task_root
        self._environ = environ
        self._memory_mb = memory_mb
        self._api = RuntimeApi()
        # A file, not a pipe: a chatty function must not block on us.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process that writes it
        self.started = 0.0
        """When the process was started, `time.monotonic` seconds."""

    @property
    def ready(self) -> float | None:
        """When its init had ended, `time.monotonic` seconds; None while it lasts."""
        return self._api.ready

    @property
    def init_error(self) -> dict[str, Any] | None:
        """What it reported of a failed init."""
        return self._api.init_error

    def __enter__(self) -> Self:
        self._api.__enter__()
        environ = {
            # https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html
            "AWS_LAMBDA_FUNCTION_NAME": "local",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(self._memory_mb),
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/local",
            "AWS_LAMBDA_LOG_STREAM_NAME": "local",
            "AWS_LAMBDA_RUNTIME_API": self._api.address,
            "LAMBDA_TASK_ROOT": str(self._task_root),
            "_HANDLER": self._command[-1],
            "LANG": "C.UTF-8",
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "TZ": ":UTC",
            **self._environ,
        }
        # Lambda puts the task root on the path; `awslambdaric` by itself does not.
        environ["PYTHONPATH"] = ":".join(filter(None, (str(self._task_root), self._environ.get("PYTHONPATH"))))
        self.started = time.monotonic()
        try:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._task_root,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
            )
        except BaseException:
            self._api.__exit__()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()
        self._api.__exit__()
        self._log.close()

    def invoke(self, event: object, *, timeout: float = 60.0) -> Invocation:
        """Send ``event`` and wait for its response.

        Raises:
            FunctionError: the function raised, its init failed, it ended, or ``timeout`` seconds passed.
        """
        invocation = self.submit(event, timeout=timeout)
        if invocation.error is not None:
            raise FunctionError(f"the handler failed: {_describe(invocation.error)}\n{self.log()}")
        return invocation

    def submit(self, event: object, *, timeout: float = 60.0) -> Invocation:
        """Like `invoke`, but leave a handler's error to the caller, in the result's ``error``."""
        invocation = self._api.submit(event, deadline_seconds=timeout)
        give_up = time.monotonic() + timeout
        while not invocation.done.wait(0.02):
            code = self._process.poll()
            if code is not None and not invocation.done.wait(0.1):
                what = f"init failed: {_describe(self.init_error)}" if self.init_error else "it ended"
                raise FunctionError(f"no response, {what} (exit code {code})\n{self.log()}")
            if time.monotonic() > give_up:
                raise FunctionError(f"no response in {timeout:.0f} s\n{self.log()}")
        return invocation

    def log(self) -> str:
        """Return what the process has written so far to its standard output and error."""
        self._log.flush()
        size = self._log.seek(0, 2)
        self._log.seek(0)
        text = self._log.read(size).decode(errors="replace")
        return text.replace("\r", "\n").replace("\N{NO-BREAK SPACE}", " ")  # Lambda's line ends inside one record

    def kill(self) -> None:
        """End the process at once, as Lambda does with an init that takes longer than ten seconds."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End the process: SIGTERM first, as Lambda's shutdown does, SIGKILL half a second later."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(0.5)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()


def _describe(error: Mapping[str, Any]) -> str:
    return f"{error.get('errorType')}: {error.get('errorMessage')}"  # the log holds the traceback
