"""Faults of a start, with real processes: kills, slow and dead sources, full disks, damaged stores, odd programs."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support_http import Answer, Request, ScriptedServer, ranged, s3_error
from support_packs import THREADS, check_store, pack_tree, write_tree
from support_starts import Shaped, environ_for, write_many

from lazydeps import FetchError
from lazydeps._fetch import HEAD, read_exactly
from lazydeps._sources import open_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import RunPython

    from lazydeps.build.write import Written


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A pack of 40 boot modules, data that fills several requests, and a few cold modules."""
    return write_many(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def slow(pack: Written) -> Iterator[Shaped]:
    """The pack at 4 MB a second: a start takes about two."""
    with Shaped(pack, 4e6) as server:
        yield server


@pytest.mark.parametrize("host", ["fork", "threads"])
def test_killed_at_random_instants(pack: Written, slow: Shaped, tmp_path: Path, host: str) -> None:
    """Killed anywhere, parent or child or both: what is there is whole, and the next start succeeds in that store."""
    code = (THREADS if host == "threads" else "") + (
        f"import lazydeps\nwith lazydeps.load({slow.ref!r}):\n    import many\n"
        "assert many.m39.N == 39; print(lazydeps.report().bytes_received)"
    )
    moments = random.Random(host)
    for round_number in range(6):
        store = tmp_path / f"store-{round_number}"
        start = subprocess.Popen(
            [sys.executable, "-c", code], env=environ_for(store), stdout=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(moments.uniform(0.1, 1.5))
        children = Path(f"/proc/{start.pid}/task/{start.pid}/children").read_text().split()
        victims = moments.choice([[start.pid], [*map(int, children), start.pid], list(map(int, children))])
        for victim in victims or [start.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, 9)
        start.wait(timeout=30)
        time.sleep(0.1)  # an orphan notices at once
        check_store(store, pack)
        again = subprocess.run(
            [sys.executable, "-c", code], env=environ_for(store), capture_output=True, text=True, timeout=30
        )
        assert again.returncode == 0, again.stderr
        assert check_store(store, pack) >= 25


def test_the_holder_is_killed_while_others_wait(slow: Shaped, tmp_path: Path) -> None:
    """Of four starts over one store the one that works is killed; another takes over and all three others succeed."""
    code = f"import lazydeps\nwith lazydeps.load({slow.ref!r}):\n    import many\nprint(many.m39.N)"
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environ_for(tmp_path / "s"), stdout=subprocess.PIPE, text=True
        )
    ]
    time.sleep(0.7)
    starts += [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environ_for(tmp_path / "s"), stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    time.sleep(0.3)
    starts[0].kill()
    outputs = [start.communicate(timeout=30)[0].strip() for start in starts]
    assert outputs[1:] == ["39"] * 3


def run(run_python: RunPython, ref: str, code: str, **options: Any) -> Any:
    """Run code that prints one JSON value last."""
    body = f"import json, os, sys, time, lazydeps\nref = {ref!r}\n" + code
    return json.loads(run_python(body, timeout=30, **options).stdout.splitlines()[-1])


@pytest.mark.parametrize("connections", ["1", "6"])
def test_demands_while_the_stream_runs(run_python: RunPython, slow: Shaped, connections: str) -> None:
    """Asking for frames that are on their way, or in a queued request, neither fails nor fetches anything twice."""
    code = """
import importlib.metadata, pkgutil
with lazydeps.load(ref) as loading:
    import many.m0
    # From the middle of what one request would bring: it is left with a hole.
    assert len(pkgutil.get_data("many", "data12.bin")) == 100_000
    if os.environ["LAZYDEPS_CONNECTIONS"] == "1":
        loading.wait()
    versions = [importlib.metadata.version(f"dist{n}") for n in reversed(range(24))]
    from many import cold3, cold0
p = lazydeps.report().packs[0]
numbers = [frame.index for frame in p.frames]
print(json.dumps([versions[0], versions[-1], cold0.N, p.retries, len(numbers) - len(set(numbers))]))
"""
    found = run(run_python, slow.ref, code, environ={"LAZYDEPS_CONNECTIONS": connections})
    assert found == ["1.23", "1.0", 0, 0, 0]


def test_a_traceback_needs_no_network(run_python: RunPython, slow: Shaped) -> None:
    """With the source gone, the error that matters is shown, without its source line and without a second error."""
    code = f"""
import traceback, logging
with lazydeps.load(ref):
    from many import fails
os.kill({slow.pid}, 9)
time.sleep(0.1)
try:
    fails.boom()
except ValueError:
    text = traceback.format_exc()
print(json.dumps(text))
"""
    text = run(run_python, slow.ref, code)
    assert text.strip().endswith("ValueError: the real error")
    assert "FetchError" not in text


def test_resuming_needs_only_what_is_missing(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """A store that lacks one frame needs the space of one frame, not of the whole pack."""
    ref = f"{pack.path.as_uri()}#root={pack.root}"
    code = """
from lazydeps import _store
with lazydeps.load(ref):
    import many
store = lazydeps.report().packs[0].store
print(json.dumps([store, lazydeps.report().packs[0].frames_total]))
"""
    store, total = run(run_python, ref, code)
    landed = Path(store, "landed")
    content = bytearray(landed.read_bytes())
    content[total["boot"] + 1] = 0
    landed.write_bytes(content)
    again = """
from lazydeps import _store
_store.Store.room = lambda self: (1_200_000, None)
with lazydeps.load(ref):
    import many
print(json.dumps(lazydeps.report().requests))
"""
    assert run(run_python, ref, again) == 1


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *((name, damage) for name in ("root", "index", "code", "landed") for damage in ("removed", "garbage")),
        ("tree", "removed"),
        ("parts", "removed"),
    ],
)
def test_a_damaged_store_heals(run_python: RunPython, pack: Written, tmp_path: Path, name: str, damage: str) -> None:
    """Whatever part of a store was removed or overwritten, the next start ends with the right modules."""
    ref = f"{pack.path.as_uri()}#root={pack.root}"
    code = """
with lazydeps.load(ref):
    import many
from many import cold1
print(json.dumps([many.m39.N, cold1.N, lazydeps.report().packs[0].store]))
"""
    store = Path(run(run_python, ref, code)[2])
    part = store / name
    if part.is_dir():
        shutil.rmtree(part)
    elif damage == "removed":
        part.unlink()
    else:
        part.write_bytes(b"garbage!" * 5)
    assert run(run_python, ref, code)[:2] == [39, 1]


def test_a_program_that_dies_of_sigpipe(run_python: RunPython, pack: Written) -> None:
    """A demand to a worker that has just ended does not kill a program that lets SIGPIPE kill it."""
    code = """
import signal
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
lazydeps.load(ref)
import many
time.sleep(0.5)
from many import cold2
print(json.dumps(cold2.N))
"""
    assert run(run_python, f"{pack.path.as_uri()}#root={pack.root}", code) == 2


def test_a_signal_handler_that_imports(run_python: RunPython, slow: Shaped) -> None:
    """An import in a signal handler, in the middle of a wait of the same thread, waits in its turn."""
    code = """
import signal
seen = []
def handler(*_):
    from many import cold3
    seen.append(cold3.N)
signal.signal(signal.SIGALRM, handler)
with lazydeps.load(ref) as loading:
    signal.setitimer(signal.ITIMER_REAL, 0.6)
    loading.wait()
print(json.dumps(seen))
"""
    assert run(run_python, slow.ref, code) == [3]


def test_odd_entries_in_the_path(run_python: RunPython, pack: Written) -> None:
    """Python passes over entries of `sys.path` that are no strings, and so do we."""
    code = """
from pathlib import Path
sys.path.insert(0, Path("/nowhere"))
sys.path.insert(0, None)
with lazydeps.load(ref):
    import many
print(json.dumps(many.m39.N))
"""
    assert run(run_python, f"{pack.path.as_uri()}#root={pack.root}", code) == 39


@pytest.mark.parametrize("host", ["fork", "threads"])
def test_a_source_that_trickles(run_python: RunPython, pack: Written, host: str) -> None:
    """A load ends with its timeout, however slowly bytes still come; nothing hangs behind it."""
    code = (
        (THREADS if host == "threads" else "")
        + """
try:
    with lazydeps.load(ref, timeout=1.5):
        import many
except lazydeps.FetchError as error:
    print(json.dumps(str(error)))
"""
    )
    with Shaped(pack, 100_000) as server:
        assert "within the 1.5 seconds" in run(run_python, server.ref, code)


def test_a_read_asks_whether_there_is_a_point_in_it(pack: Written) -> None:
    """Reading a frame can be ended from outside before each wait for bytes, not only when all of it has come."""
    connection = open_source(pack.path.as_uri(), {}).connect(timeout=1)
    view = memoryview(bytearray(1000))

    def give_up() -> None:
        raise FetchError("too slow")

    with pytest.raises(FetchError, match="too slow"):
        read_exactly(connection.get(0, 1000), view, give_up)
    assert bytes(view) == bytes(1000)
    read_exactly(connection.get(0, 1000), view)
    assert bytes(view) == pack.path.read_bytes()[:1000]
    connection.close()


def test_a_relative_directory(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """A store given by a relative path stays where it was when the program changes its folder."""
    code = """
loading = lazydeps.load(ref, directory="here")
os.chdir("/")
loading.wait()
from many import cold0
print(json.dumps([cold0.N, os.path.isabs(lazydeps.report().packs[0].store)]))
"""
    assert run(run_python, f"{pack.path.as_uri()}#root={pack.root}", code, cwd=tmp_path) == [0, True]


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A pack whose boot set is longer than the first request: the others are early ones."""
    folder = tmp_path_factory.mktemp("long")
    files: dict[str, str | bytes] = {f"block{n}.bin": os.urandom(400_000) for n in range(9)}
    files["last.py"] = "N = sum(len(open(f'{__file__[:-7]}block{n}.bin', 'rb').read()) for n in range(9))\n"
    write_tree(folder / "tree", files)
    return pack_tree(folder / "p.tar.zst", folder / "tree", boot=sorted(files))


EARLY_TROUBLE: dict[str, Callable[[Request, bytes], Answer]] = {
    "refused": lambda request, content: s3_error(403, "AccessDenied"),
    "overloaded": lambda request, content: s3_error(503, "SlowDown"),
    "reset": lambda request, content: Answer(ranged(request, content).data[:300_000], "reset"),
    "cut off": lambda request, content: Answer(ranged(request, content).data[:-1000], "close"),
    "another object": lambda request, content: ranged(request, content, etag='"another"'),
    "damaged": lambda request, content: Answer(ranged(request, content).data[:-9] + b"damaged!!"),
    "empty": lambda request, content: Answer(b"", "close"),
}


@pytest.mark.parametrize("trouble", EARLY_TROUBLE)
def test_an_early_request_that_fails(run_python: RunPython, long: Written, trouble: str) -> None:
    """What early requests were to bring and do not is asked for like the rest, once the root says what it is."""
    content = long.path.read_bytes()
    early: set[int] = set()

    def script(request: Request) -> Answer:
        start, _ = request.span(content)
        if start >= HEAD and "if-match" not in request.headers:
            early.add(start)
            return EARLY_TROUBLE[trouble](request, content)
        return ranged(request, content)

    with ScriptedServer(script) as server:
        code = "with lazydeps.load(ref, timeout=25):\n    import last\nprint(json.dumps(last.N))"
        assert run(run_python, f"{server.url}#root={long.root}", code) == 9 * 400_000
    assert min(early) == HEAD


def test_an_early_request_that_nobody_needs_is_not_waited_for(run_python: RunPython, tmp_path: Path) -> None:
    """What lies beyond the end of a small pack was asked for before anybody knew. Its answer may never come."""
    write_tree(tmp_path / "tree", {"short.py": "N = 39\n"})
    pack = pack_tree(tmp_path / "p.tar.zst", tmp_path / "tree", boot=["short.py"])
    content = pack.path.read_bytes()

    def script(request: Request) -> Answer:
        return ranged(request, content) if request.span(content)[0] == 0 else Answer(b"", "hang")

    with ScriptedServer(script) as server:
        code = (
            "from lazydeps._config import Config\nConfig.__init__.__kwdefaults__['socket_timeout'] = 600.0\n"
            "with lazydeps.load(ref):\n    import short\nprint(json.dumps(short.N))"
        )
        assert run(run_python, f"{server.url}#root={pack.root}", code) == 39


def test_an_early_request_that_is_still_connecting(run_python: RunPython, tmp_path: Path) -> None:
    """The same where its connection is not even open when the first answer says that nobody needs it."""
    write_tree(tmp_path / "tree", {"short.py": "N = 39\n"})
    pack = pack_tree(tmp_path / "p.tar.zst", tmp_path / "tree", boot=["short.py"])
    content = pack.path.read_bytes()

    def script(request: Request) -> Answer:
        return ranged(request, content) if request.span(content)[0] == 0 else Answer(b"", "hang")

    with ScriptedServer(script) as server:
        code = """
import socket, threading
from lazydeps._config import Config
Config.__init__.__kwdefaults__["socket_timeout"] = 600.0
connect = socket.create_connection
def slow_connect(*args, **options):
    if threading.current_thread() is not threading.main_thread():
        time.sleep(0.7)
    return connect(*args, **options)
socket.create_connection = slow_connect
with lazydeps.load(ref):
    import short
print(json.dumps(short.N))
"""
        assert run(run_python, f"{server.url}#root={pack.root}", code) == 39


@pytest.mark.parametrize("host", ["fork", "threads"])
def test_refusals_are_waited_out(run_python: RunPython, long: Written, host: str) -> None:
    """A source that is asked too much may refuse more often than it may fail. Then it gets few, large requests."""
    content = long.path.read_bytes()
    served: list[int] = []
    refused = 0

    def script(request: Request) -> Answer:
        nonlocal refused
        start, stop = request.span(content)
        if refused < 9 or (start and refused < 30):
            refused += 1
            return s3_error(503, "SlowDown")
        served.append(stop - start)
        return ranged(request, content)

    with ScriptedServer(script) as server:
        code = (THREADS if host == "threads" else "") + (
            "import lazydeps._retry as retry\nretry.PAUSE = 0.02\n"
            "with lazydeps.load(ref):\n    import last\n"
            "print(json.dumps([last.N, lazydeps.report().packs[0].retries]))"
        )
        assert run(run_python, f"{server.url}#root={long.root}", code) == [9 * 400_000, 30]
    assert len(served) <= 3  # the head; what is left of the boot set; perhaps the index apart


def test_refusals_without_end(run_python: RunPython, pack: Written) -> None:
    """One clear error, when the time for patience is over."""
    with ScriptedServer(lambda request: s3_error(503, "SlowDown")) as server:
        code = """
import lazydeps._retry as retry
retry.PAUSE, retry.REFUSAL_SECONDS = 0.02, 0.5
try:
    with lazydeps.load(ref):
        import many
except lazydeps.FetchError as error:
    print(json.dumps([error.status, str(error)]))
"""
        status, message = run(run_python, f"{server.url}#root={pack.root}", code)
    assert status == 503
    assert "SlowDown" in message
