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


def test_a_deadline_is_not_the_loads(run_python: RunPython, pack: Written) -> None:
    """A deadline ends the imports of the thread that set it. Others wait on, and so does the next invocation."""
    content = pack.path.read_bytes()
    go = threading.Event()

    def script(request: Request) -> Answer:
        go.wait(30)
        return ranged(request, content)

    code = """
from lazydeps._config import Config
Config.__init__.__kwdefaults__['socket_timeout'] = 600.0
failed, seen = threading.Event(), []
def patient():
    with lazydeps.deadline(35):
        import later  # not the same module: Python itself makes imports of one wait for each other
        seen.append(later.N)
def hasty():
    try:
        with lazydeps.deadline(0.4):
            lazydeps.load(ref)
            waiting.start()
            import first
    except lazydeps.FetchError as error:
        seen.append("deadline left" in str(error))
waiting = threading.Thread(target=patient)
thread = threading.Thread(target=hasty)
thread.start()
thread.join()
import urllib.request
urllib.request.urlopen(GO).read()
waiting.join()
import first
print(json.dumps([seen, first.N]))
"""

    def signal(request: Request) -> Answer:
        go.set()
        return Answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with ScriptedServer(script) as server, ScriptedServer(signal) as gate:
        assert run(run_python, server, pack, code.replace("GO)", f"{gate.url!r})")) == [[True, 2], 1]


def test_threads_that_set_the_first_deadline_at_once(run_python: RunPython) -> None:
    """The variable that holds deadlines is made once, however many threads need it first."""
    code = """
import sys, threading, time
sys.setswitchinterval(1e-6)
import builtins
real = builtins.__import__
def slow(name, *rest, **options):
    if name == "contextvars":
        time.sleep(0.05)
    return real(name, *rest, **options)
builtins.__import__ = slow
import lazydeps
from lazydeps import _deadline
wrong = []
def work():
    try:
        with lazydeps.deadline(5):
            if _deadline.end() is None:
                wrong.append("none")
            time.sleep(0.05)
    except ValueError as error:
        wrong.append(str(error))
threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
with lazydeps.deadline(float("inf")):
    assert _deadline.seconds_left(None) < 1e9
print(wrong)
"""
    assert run_python(code).stdout == "[]\n"


def test_a_deadline_stays_behind_in_a_fork(run_python: RunPython) -> None:
    """A process forked inside a block may never leave it: it starts without."""
    code = """
import os, lazydeps
from lazydeps import _deadline
lazydeps.load("file:///nowhere/p#root=sha256:" + "ab" * 32)
with lazydeps.deadline(5):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if _deadline.end() is None else 1)
    print(os.waitpid(pid, 0)[1], _deadline.end() is not None)
"""
    assert run_python(code).stdout == "0 True\n"


def test_a_tail_that_trickles_is_left(run_python: RunPython, pack: Written) -> None:
    """What nobody wants of an answer is read to save a connection, but never waited for."""
    content = pack.path.read_bytes()

    def script(request: Request) -> Answer:
        reply = ranged(request, content)
        return Answer(reply.data[:-1], "hang") if request.span(content)[0] == 0 else reply

    code = """
from lazydeps._config import Config
Config.__init__.__kwdefaults__['socket_timeout'] = 600.0
with lazydeps.load(ref):
    import first
print(json.dumps(first.N))
"""
    with ScriptedServer(script) as server:
        assert run(run_python, server, pack, code) == 1


@pytest.mark.parametrize("host", ["fork", "threads"])
def test_a_final_error_waits_for_nobody(run_python: RunPython, tmp_path: Path, host: str) -> None:
    """A refusal ends the load, though another connection waits for bytes that do not come."""
    tree = {f"block{n}.bin": os.urandom(400_000) for n in range(9)}
    write_tree(tmp_path / "tree", {**tree, "last.py": "N = 1\n"})
    long = pack_tree(tmp_path / "p.tar.zst", tmp_path / "tree", boot=[*sorted(tree), "last.py"])
    content = long.path.read_bytes()
    hanging = threading.Event()

    def script(request: Request) -> Answer:
        start, _ = request.span(content)
        if start == 0:
            hanging.set()
            return Answer(ranged(request, content).data[:450_000], "hang")
        if "if-match" not in request.headers:
            return s3_error(503, "SlowDown")  # an early request, to be asked for again
        hanging.wait(20)
        return s3_error(403, "AccessDenied")

    code = (
        (THREADS if host == "threads" else "")
        + """
from lazydeps._config import Config
Config.__init__.__kwdefaults__['socket_timeout'] = 600.0
try:
    with lazydeps.load(ref):
        import last
except lazydeps.FetchError as error:
    print(json.dumps(error.status))
"""
    )
    with ScriptedServer(script) as server:
        assert run(run_python, server, long, code) == 403


def test_waiting_for_the_lock_of_another_process_ends_with_the_deadline(
    run_python: RunPython, pack: Written, tmp_path: Path
) -> None:
    """It says so, may be tried again, and leaves no descriptor behind, however often it happens."""
    content = pack.path.read_bytes()
    code = """
import fcntl
with lazydeps.load(ref):
    import first
store = lazydeps.report().packs[0].store
lock = os.open(store + "/lock", os.O_RDWR)
fcntl.flock(lock, fcntl.LOCK_EX)
before = len(os.listdir("/proc/self/fd"))
said = []
for _ in range(3):
    try:
        with lazydeps.deadline(0.2):
            import later
    except lazydeps.FetchError as error:
        said.append([error.retryable, "the time that was left is over" in str(error)])
print(json.dumps([said, len(os.listdir("/proc/self/fd")) - before]))
"""
    with ScriptedServer(lambda request: ranged(request, content)) as server:
        assert run(run_python, server, pack, code) == [[[True, True]] * 3, 0]


@pytest.mark.parametrize("part", ["headers", "body"])
def test_no_wait_is_longer_than_what_is_left(run_python: RunPython, pack: Written, part: str) -> None:
    """An answer that begins in time and then stops is not waited for as long as one that never began."""
    content = pack.path.read_bytes()

    def script(request: Request) -> Answer:
        reply = ranged(request, content)
        if not 0 < request.span(content)[0] < len(content):
            return reply
        return Answer(reply.data[: 40 if part == "headers" else -1], "hang")

    code = """
from lazydeps._config import Config
Config.__init__.__kwdefaults__['socket_timeout'] = 600.0
with lazydeps.load(ref):
    import first
try:
    with lazydeps.deadline(0.6):
        import later
except lazydeps.FetchError as error:
    print(json.dumps(str(error)))
"""
    with ScriptedServer(script) as server:
        assert "the time that was left" in run(run_python, server, pack, code)


def test_a_deadline_bounds_an_unpinned_load(run_python: RunPython) -> None:
    """Without a pin `load` itself asks for the root, and the deadline bounds that too."""
    code = """
import lazydeps
from lazydeps._config import Config
Config.__init__.__kwdefaults__['socket_timeout'] = 600.0
try:
    with lazydeps.deadline(0.5):
        lazydeps.load(URL)
except lazydeps.FetchError as error:
    print(error)
"""
    with ScriptedServer(lambda request: Answer(b"", "hang")) as server:
        code = code.replace("URL", repr(server.url))
        done = run_python(code, environ={"LAZYDEPS_ALLOW_UNPINNED": "1"}, timeout=40)
    assert "did not answer within the time that was left" in done.stdout


def test_a_wave_of_refusals_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that are refused together pause as long as one that is refused: they did not try again in between."""
    monkeypatch.setattr(_retry, "_random", lambda: 1.0)
    now = [100.0]
    monkeypatch.setattr(_retry.time, "monotonic", lambda: now[0])
    retry = _retry.Retry(url="file:///p", counters=Stats(), changed=threading.Condition())
    refusal = FetchError("503", status=503, retryable=True)
    assert [retry.note_refusal(refusal) for _ in range(6)] == pytest.approx([2 * _retry.FIRST_PAUSE] * 6)
    now[0] = retry.not_before
    assert retry.note_refusal(refusal) == pytest.approx(4 * _retry.FIRST_PAUSE)
