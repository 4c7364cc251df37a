"""Time that is left: `lazydeps.deadline`, `timeout=`, and how a load ends when neither is met."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support_http import Answer, Request, ScriptedServer, ranged, s3_error
from support_packs import THREADS, pack_tree, write_tree

from lazydeps import FetchError, _deadline, _retry
from lazydeps._pack import SKIPPABLE_MAGIC
from lazydeps._worker import Stats

if TYPE_CHECKING:
    from conftest import RunPython

    from lazydeps.build.write import Written


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A pack with a boot module and a cold one."""
    folder = tmp_path_factory.mktemp("deadline")
    write_tree(folder / "tree", {"first.py": "N = 1\n", "later.py": "N = 2\n"})
    return pack_tree(folder / "p.tar.zst", folder / "tree", boot=["first.py"])


def run(run_python: RunPython, server: ScriptedServer, pack: Written, code: str) -> Any:
    """Run code that prints one JSON value last."""
    body = f"import json, os, threading, time, lazydeps\nref = '{server.url}#root={pack.root}'\n{code}"
    return json.loads(run_python(body, timeout=40).stdout.splitlines()[-1])


class Context:
    """What Lambda passes to a handler, as far as it matters here."""

    def __init__(self, left: int) -> None:
        self.left = left

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds that are left."""
        return self.left


def test_the_time_that_is_left() -> None:
    """Inside a block the earliest end counts, outside none; of a handler's context a margin is kept back."""
    assert _deadline.seconds_left(None) is None
    assert _deadline.seconds_left(3.0) == 3.0
    with _deadline.deadline(Context(10_500)) as same:
        left = _deadline.seconds_left(None)
        assert left is not None
        assert 9 < left <= 10
        assert _deadline.seconds_left(3.0) == 3.0
        with _deadline.deadline(100), same:
            assert 9 < (_deadline.seconds_left(None) or 0) <= 10
        with _deadline.deadline(0):
            assert _deadline.seconds_left(3.0) == 0
        assert 9 < (_deadline.seconds_left(None) or 0) <= 10
    assert _deadline.seconds_left(None) is None


def test_a_deadline_is_its_threads_own() -> None:
    """Handlers that run side by side in one process do not end one another's imports."""
    seen: list[float | None] = []
    with _deadline.deadline(1):
        thread = threading.Thread(target=lambda: seen.append(_deadline.end()))
        thread.start()
        thread.join()
    assert seen == [None]


@pytest.mark.parametrize("host", ["fork", "threads"])
def test_a_deadline_ends_the_start(run_python: RunPython, pack: Written, host: str) -> None:
    """A source that never answers: the import fails in time, names the deadline, and leaves nobody behind."""
    code = (
        (THREADS if host == "threads" else "")
        + """
before = threading.active_count()
try:
    with lazydeps.deadline(0.7), lazydeps.load(ref):
        import first
except lazydeps.FetchError as error:
    print(json.dumps([str(error), threading.active_count() - before]))
"""
    )
    with ScriptedServer(lambda request: Answer(b"", "hang")) as server:
        message, threads = run(run_python, server, pack, code)
    assert "within the time that lazydeps.deadline left; " in message or "did not answer within" in message
    assert threads == 0


def test_a_deadline_ends_an_import_while_an_earlier_load_still_runs(run_python: RunPython, pack: Written) -> None:
    """The load has all the time there is, the import has not: it gives up alone, and the load goes on."""
    content = pack.path.read_bytes()
    go = threading.Event()

    def script(request: Request) -> Answer:
        go.wait(30)
        return ranged(request, content)

    code = """
from lazydeps._config import Config
Config.__init__.__kwdefaults__['socket_timeout'] = 600.0
import sys, urllib.request
loading = lazydeps.load(ref)
try:
    with lazydeps.deadline(0.5):
        import first
except lazydeps.FetchError as error:
    print(str(error), flush=True)
sys.stdin.readline()
import first
loading.wait()
print(first.N, lazydeps.report().packs[0].takeovers)
"""
    with ScriptedServer(script) as server:
        body = f"import lazydeps\nref = '{server.url}#root={pack.root}'\n{code}"
        source = str(Path(__file__).parents[1] / "src")
        with tempfile.TemporaryDirectory() as store:
            environ = {"PYTHONPATH": source, "LAZYDEPS_DIR": store, "PATH": os.environ["PATH"]}
            start = subprocess.Popen(
                [sys.executable, "-c", body],
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert start.stdout is not None
            message = start.stdout.readline()
            go.set()
            rest, _ = start.communicate("\n", timeout=40)
    assert "within the time that lazydeps.deadline left; (root) was waiting" in message
    assert rest == "1 0\n"


def test_a_deadline_ends_an_import_on_demand_and_the_next_one_succeeds(run_python: RunPython, pack: Written) -> None:
    """A cold module that does not come in time is one error; the next invocation imports it."""
    content = pack.path.read_bytes()
    late = 0

    def script(request: Request) -> Answer:
        nonlocal late
        if 0 < request.span(content)[0] < len(content) and late < 2:  # the request and its hedge
            late += 1
            return Answer(b"", "hang")
        return ranged(request, content)

    code = """
with lazydeps.load(ref):
    import first
class Context:
    def get_remaining_time_in_millis(self):
        return 1200
try:
    with lazydeps.deadline(Context()):
        import later
except lazydeps.FetchError as error:
    message = str(error)
with lazydeps.deadline(30):
    import later
print(json.dumps([message, first.N, later.N]))
"""
    with ScriptedServer(script) as server:
        message, *numbers = run(run_python, server, pack, code)
    assert late == 2
    assert "did not answer within" in message
    assert numbers == [1, 2]


@pytest.mark.parametrize("host", ["fork", "threads"])
def test_a_connect_that_hangs_ends_with_the_load(run_python: RunPython, pack: Written, host: str) -> None:
    """A host that takes no connection is left at once when the load has used up its time, in a thread too."""
    import socket

    code = (
        (THREADS if host == "threads" else "")
        + """
before = threading.active_count()
from lazydeps._config import Config
Config.__init__.__kwdefaults__['socket_timeout'] = 600.0
try:
    with lazydeps.load(ref) as loading:
        raise KeyError("mine")
except KeyError:
    pass
print(json.dumps(threading.active_count() - before))
"""
    )
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        queued = [socket.socket() for _ in range(4)]
        for sock in queued:
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}/p"
        body = f"import json, threading, lazydeps\nref = '{url}#root={pack.root}'\n"
        assert json.loads(run_python(body + code, timeout=40).stdout) == 0
        for sock in queued:
            sock.close()


def test_refusals_and_broken_answers_in_turn(run_python: RunPython, pack: Written) -> None:
    """A source that refuses and fails in turn is not asked for ever, though each for itself might pass."""
    content = pack.path.read_bytes()
    cold = 0

    def script(request: Request) -> Answer:
        nonlocal cold
        if not 0 < request.span(content)[0] < len(content):
            return ranged(request, content)
        cold += 1
        if cold % 2:
            return s3_error(503, "SlowDown")
        return Answer(ranged(request, content).data[:-1], "reset")

    code = """
import lazydeps._retry as retry
retry.PAUSE = 0.02
with lazydeps.load(ref):
    import first
try:
    import later
except lazydeps.FetchError as error:
    print(json.dumps(str(error)))
"""
    with ScriptedServer(script) as server:
        assert "failed" in run(run_python, server, pack, code)
    assert cold == 2 * _retry.ATTEMPTS


TRICKLED = b"HTTP/1.1 206 OK\r\nContent-Length: 9000\r\nContent-Range: bytes 0-8999/9000\r\n\r\n"


@pytest.mark.parametrize(
    "start", [b"", TRICKLED + SKIPPABLE_MAGIC + (8000).to_bytes(4, "little")], ids=["head", "body"]
)
def test_a_root_that_trickles(run_python: RunPython, pack: Written, start: bytes) -> None:
    """The root has to come within the time of a frame, and what brings it byte by byte is as good as none."""
    from test_sources_late import trickling

    code = """
import lazydeps._retry as retry
retry.FRAME_SECONDS = 0.3
retry.ATTEMPTS = 2
from lazydeps._config import Config
Config.__init__.__kwdefaults__['socket_timeout'] = 0.3
try:
    with lazydeps.load(ref):
        import first
except lazydeps.FetchError as error:
    print(json.dumps(str(error)))
"""
    with trickling(start, b"x") as url:
        body = f"import json, lazydeps\nref = '{url}#root={pack.root}'\n{code}"
        message = json.loads(run_python(body, timeout=40).stdout)
    assert ("sends too slowly" if start else "did not answer within") in message


def test_an_hour_in_the_freezer_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals are forgiven for a minute of pauses, not for a minute by the clock."""
    now = [100.0]
    monkeypatch.setattr(_retry.time, "monotonic", lambda: now[0])
    retry = _retry.Retry(url="file:///p", counters=Stats(), changed=threading.Condition())
    refusal = FetchError("503", status=503, retryable=True)
    assert retry.may_wait(refusal)
    now[0] += 3600
    assert retry.may_wait(refusal)
    assert retry.not_before > now[0] - 1


def test_hedges_are_few(run_python: RunPython, pack: Written) -> None:
    """A worker asks for two late answers a second time, says so in the report, and waits for the others."""
    counters = Stats()
    retry = _retry.Retry(url="file:///p", counters=counters, changed=threading.Condition())
    assert [retry.may_hedge() for _ in range(4)] == [True, True, False, False]
    assert counters.hedges == _retry.HEDGES
    content = pack.path.read_bytes()

    def script(request: Request) -> Answer:
        return Answer(b"", "hang") if request.number == 0 else ranged(request, content)

    code = """
os.environ["LAZYDEPS_CONNECTIONS"] = "1"
with lazydeps.load(ref):
    import first
p = lazydeps.report().packs[0]
print(json.dumps([first.N, p.hedges, p.retries]))
"""
    with ScriptedServer(script) as server:
        assert run(run_python, server, pack, code) == [1, 1, 0]


def test_a_source_that_refuses_is_not_hedged() -> None:
    """Twice the requests would make it worse."""
    retry = _retry.Retry(url="file:///p", counters=Stats(), changed=threading.Condition())
    retry.note_refusal(FetchError("503", status=503, retryable=True))
    assert not retry.may_hedge()
    retry.answered()
    assert retry.may_hedge()
