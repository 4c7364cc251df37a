"""Processes that die, race and freeze: the part that is quick. `chaos/` repeats it hundreds of times."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from runtime_api import Function
from support_packs import pack_tree, write_tree
from support_starts import (
    BOUND,
    HOSTS,
    Expected,
    Frozen,
    Observer,
    Shaped,
    Start,
    environ_for,
    free_port,
    landed_in,
    program,
    state_of,
    wait_for,
    write_few,
    write_many,
)
from support_tally import survived

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import RunPython

RATE = 14e6
"""Bytes a second: a start takes about 0.7 s."""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Expected]:
    """The larger pack, slowly."""
    with Expected.served(write_many, tmp_path_factory.mktemp("many"), RATE) as expected:
        yield expected


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Expected]:
    """The small pack, as fast as it comes."""
    with Expected.served(write_few, tmp_path_factory.mktemp("few")) as expected:
        yield expected


def midway(start: Start, store: Path, frames: int = 2) -> None:
    """Wait until some frames have landed."""
    wait_for(lambda: len(landed_in(store)) >= frames or start.ended(), f"nothing lands\n{start.errors()}")


# -- killed

POINTS = [
    ("parent", "fork", 0, "after", "kill"),
    ("child", "replace", 0, "before", "group"),
    ("child", "replace", 0, "after", "group"),
    ("child", "ftruncate", 1, "after", "group"),
    ("child", "pwrite", 2, "half", "group"),
    ("child", "record", 1, "before", "kill"),
    ("child", "record", 3, "after", "kill"),
    ("child", "_exit", 0, "before", "kill"),
]


@pytest.mark.parametrize(("role", "call", "number", "when", "do"), POINTS, ids=str)
def test_killed_at_chosen_points(
    few: Expected, tmp_path: Path, role: str, call: str, number: int, when: str, do: str
) -> None:
    """Killed right where something is half done: what is there is whole, and the next start fetches only what is not.

    Where the child alone dies, its owner takes over and the start itself succeeds.
    """
    store = tmp_path / "store"
    fault = {"role": role, "call": call, "number": number, "when": when, "do": do}
    with Start(program(few.ref), store, fault=fault) as start:
        if (role, do) == ("child", "kill"):
            outcome = start.outcome()
            few.check(outcome)
            assert outcome.report["takeovers"] == (call != "_exit")
        else:
            assert start.process.wait(timeout=BOUND) == -signal.SIGKILL
        start.gone()
    few.check_next_start(store)
    survived("kills at chosen points")


def test_killed_while_it_tells_its_result(few: Expected, tmp_path: Path) -> None:
    """A child that dies with half of its result written has died like any other: it is taken over from."""
    trace = tmp_path / "trace"
    with Start(program(few.ref), tmp_path / "traced", FAULT_TRACE=str(trace)) as start:
        few.check(start.outcome())
    # The result is the last thing that a child writes.
    writes = sum(re.fullmatch(r"child \d+ pwrite half", line) is not None for line in trace.read_text().splitlines())
    fault = {"role": "child", "call": "pwrite", "number": writes - 1, "when": "half", "do": "kill"}
    with Start(program(few.ref), tmp_path / "store", fault=fault) as start:
        outcome = start.outcome()
    few.check(outcome)
    assert outcome.report["takeovers"] == 1


HANDLER = """
import lazydeps
with lazydeps.load():
    import many
from many import m0, m39
def handler(event, context):
    return [m0.N + m39.N, sorted(frame.index for frame in lazydeps.report().packs[0].frames)]
"""


def test_init_timeout(many: Expected, tmp_path: Path) -> None:
    """Under the real runtime client: killed amid init, as Lambda does after ten seconds, then started again."""
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "app.py").write_text(HANDLER)
    store = tmp_path / "store"
    environ = environ_for(store, LAZYDEPS_PACK=many.ref)
    with Function(sys.executable, "app.handler", task_root=tmp_path / "task", environ=environ) as function:
        wait_for(lambda: len(landed_in(store)) >= 2, f"nothing lands\n{function.log()}")
        function.kill()
        assert function.ready is None
    with Function(sys.executable, "app.handler", task_root=tmp_path / "task", environ=environ) as function:
        result, frames = function.invoke({}).response
    assert result == 39
    assert 0 < len(frames) < len(many.frames)
    assert landed_in(store) == many.frames
    survived("init timeouts")


# -- at once


def test_four_at_once(many: Expected, tmp_path: Path) -> None:
    """Four starts over one store: one fetches, nobody fetches anything twice, nobody ever sees half a file."""
    store = tmp_path / "store"
    with Observer(store, many.pack) as observer:
        starts = [Start(program(many.ref, before=HOSTS[host]), store) for host in ("fork", "threads") * 2]
        try:
            outcomes = [start.outcome() for start in starts]
        finally:
            for start in starts:
                start.__exit__()
        assert observer.result() > 40
    for outcome in outcomes:
        many.check(outcome)
    assert sorted(frame for outcome in outcomes for frame in outcome.frames) == sorted(many.frames)
    assert sorted(outcome.report["requests"] > 0 for outcome in outcomes) == [False, False, False, True]


# -- forks and threads


def run(run_python: RunPython, ref: str, code: str, **options: Any) -> Any:
    """Run code that prints one JSON value last."""
    body = f"import json, os, sys, threading, time, warnings, lazydeps\nref = {ref!r}\n" + code
    return json.loads(run_python(body, timeout=BOUND, **options).stdout.splitlines()[-1])


FORKED = """
warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads is this test's subject
def forked(work):
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, json.dumps(work()).encode())
        except BaseException as error:
            os.write(writing, json.dumps(repr(error)).encode())
        os._exit(0)
    os.close(writing)
    def result():
        with open(reading) as file:
            text = file.read()
        os.waitpid(pid, 0)
        return json.loads(text)
    return result
def values():
    import many
    from many import cold2
    return [many.m0.N, many.m39.N, cold2.N]
def load_and_values():
    with lazydeps.load(ref):
        return values()
"""
FORKS = {
    "before load": "result = forked(load_and_values)\nwith lazydeps.load(ref):\n    import many",
    "inside the block": "with lazydeps.load(ref):\n    result = forked(values)\n    import many",
    "twice inside": "with lazydeps.load(ref):\n    result = forked(lambda: forked(values)())\n    import many",
    "after the block": "with lazydeps.load(ref):\n    import many\nresult = forked(values)",
    "after, without waiting": "lazydeps.load(ref)\nresult = forked(values)",
    "the parent leaves first": "lazydeps.load(ref)\nresult = forked(values)\nlazydeps.uninstall()\nlazydeps.load(ref)",
}


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("when", FORKS)
def test_forks(run_python: RunPython, many: Expected, when: str, host: str) -> None:
    """A process forked at any time imports what its parent can, landed or not; also out of a process with threads."""
    code = FORKED + HOSTS[host] + FORKS[when] + "\nprint(json.dumps([result(), values()]))"
    assert run(run_python, many.ref, code) == [[0, 39, 2]] * 2


@pytest.mark.parametrize("host", HOSTS)
def test_multiprocessing_inside_the_block(run_python: RunPython, many: Expected, host: str) -> None:
    """Workers that `multiprocessing` forks inside the block import modules that have not landed yet."""
    code = (
        HOSTS[host]
        + """
import multiprocessing
warnings.simplefilter("ignore", DeprecationWarning)
def work(number):
    import importlib
    return importlib.import_module(f"many.m{number}").N
with lazydeps.load(ref):
    with multiprocessing.get_context("fork").Pool(3) as pool:
        found = pool.map(work, [39, 20, 1, 0])
    import many
print(json.dumps([found, many.m39.N]))
"""
    )
    assert run(run_python, many.ref, code) == [[39, 20, 1, 0], 39]


AT_ONCE = """
errors, seen = [], []
go = threading.Event()
def work():
    go.wait()
    try:
        import many.m39
        seen.append([id(many), many.m39.N, len(many.m39.TEXT)])
    except BaseException as error:
        errors.append(repr(error))
threads = [threading.Thread(target=work) for _ in range(COUNT)]
"""


@pytest.mark.parametrize("count", [2, 8])
@pytest.mark.parametrize("begun", ["before", "inside"])
def test_threads_import_the_same_module(run_python: RunPython, many: Expected, count: int, begun: str) -> None:
    """Threads, started before ``load()`` or inside the block, that import one module at once get one and the same."""
    start = "[thread.start() for thread in threads]\n"
    code = AT_ONCE.replace("COUNT", str(count)) + (start if begun == "before" else "")
    code += "with lazydeps.load(ref):\n" + (f"    {start}" if begun == "inside" else "")
    code += "    go.set()\n    [thread.join() for thread in threads]\n"
    code += "print(json.dumps([errors, len(seen), len(set(map(tuple, seen))), seen[0][1:]]))"
    assert run(run_python, many.ref, code) == [[], count, 1, [39, 40_000]]


def test_an_import_while_load_runs(run_python: RunPython, many: Expected) -> None:
    """A thread that imports while another calls ``load()`` finds no such module, or the right one; nothing else."""
    code = """
found = []
def work():
    while not found:
        try:
            import many
            found.append(many.m3.N)
        except ModuleNotFoundError as error:
            assert error.name == "many", error
        except BaseException as error:
            found.append(repr(error))
thread = threading.Thread(target=work)
thread.start()
with lazydeps.load(ref):
    import many
    thread.join()
print(json.dumps([found, many.m39.N]))
"""
    assert run(run_python, many.ref, code) == [[3], 39]


@pytest.mark.parametrize("count", [2, 8])
def test_threads_call_load(run_python: RunPython, many: Expected, count: int) -> None:
    """Threads that load one pack at once all leave their block with everything in place, and one finder stands."""
    code = """
class SlowDisk:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "lazydeps._finder":
            time.sleep(0.2)
sys.meta_path.insert(0, SlowDisk)
errors, seen = [], []
def work():
    go.wait()
    try:
        with lazydeps.load(ref):
            import many.m39
        seen.append(many.m39.N)
    except BaseException as error:
        errors.append(repr(error))
go = threading.Barrier(COUNT)
threads = [threading.Thread(target=work) for _ in range(COUNT)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
p = lazydeps.report().packs[0]
finders = sum(type(finder).__name__ == "PackFinder" for finder in sys.meta_path)
print(json.dumps([errors, seen, finders, p.landed == p.frames_total | {"cold": 0}]))
""".replace("COUNT", str(count))
    assert run(run_python, many.ref, code) == [[], [39] * count, 1, True]


RINGS = 6


@pytest.fixture(scope="module")
def rings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shaped]:
    """Packages of two modules that import each other, slowly."""
    folder = tmp_path_factory.mktemp("rings")
    files: dict[str, str | bytes] = {}
    for number in range(RINGS):
        files[f"ring{number}/__init__.py"] = ""
        for own, other in ("ab", "ba"):
            text = os.urandom(60_000).hex()
            files[f"ring{number}/{own}.py"] = (
                f"import ring{number}.{other} as other\nTEXT = {text!r}\nNAME = {own!r}\n"
                "def of_other(): return other.NAME\n"
            )
    write_tree(folder / "tree", files)
    pack = pack_tree(folder / "p.tar.zst", folder / "tree", boot=list(files))
    with Shaped(pack, 2e6) as server:
        yield server


@pytest.mark.parametrize("host", HOSTS)
def test_circular_imports(run_python: RunPython, rings: Shaped, host: str) -> None:
    """Modules that import each other do so while they stream: from one thread, and from two that begin at both ends."""
    code = (
        HOSTS[host]
        + f"""
import importlib
errors, seen = [], []
def work(name):
    go.wait()
    try:
        importlib.import_module(name)
    except BaseException as error:
        errors.append(repr(error))
with lazydeps.load(ref):
    for number in range({RINGS}):
        importlib.import_module(f"ring{{number}}")
        if number:
            go = threading.Barrier(2)
            threads = [threading.Thread(target=work, args=(f"ring{{number}}.{{part}}",)) for part in "ab"]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
        a, b = (importlib.import_module(f"ring{{number}}.{{part}}") for part in "ab")
        seen.append(a.of_other() + b.of_other())
print(json.dumps([errors, seen]))
"""
    )
    assert run(run_python, rings.ref, code) == [[], ["ba"] * RINGS]


# -- a child that dies, or stops


def test_a_dead_child_is_noticed(many: Expected, tmp_path: Path) -> None:
    """The worker is killed while an import waits: threads take over, at once, and fetch only what had not landed."""
    store = tmp_path / "store"
    with Start(program(many.ref), store) as start:
        midway(start, store)
        (child,) = start.children()
        os.kill(child, signal.SIGKILL)
        wait_for(lambda: not state_of(child), "nobody asks what became of the child")
        landed = landed_in(store)
        outcome = start.outcome()
    many.check(outcome)
    assert outcome.report["takeovers"] == 1
    assert set(outcome.frames) <= many.frames
    assert len(outcome.frames) < len(many.frames), "figures of a dead worker are lost, and what it landed is not"
    assert landed, "the kill came too early to show anything"
    survived("dead children, taken over")


def test_a_stopped_child_goes_on(many: Expected, tmp_path: Path) -> None:
    """A worker that is stopped alone, and continued, is waited for; it is not taken for dead."""
    store = tmp_path / "store"
    with Start(program(many.ref), store) as start:
        midway(start, store)
        (child,) = start.children()
        os.kill(child, signal.SIGSTOP)
        wait_for(lambda: state_of(child) == "T", "the child does not stop")
        landed = landed_in(store)
        time.sleep(0.5)
        assert not start.ended()
        assert landed_in(store) == landed != many.frames
        os.kill(child, signal.SIGCONT)
        outcome = start.outcome()
    many.check(outcome)
    assert outcome.report["takeovers"] == 0
    assert set(outcome.frames) == many.frames
    survived("stopped children")


# -- frozen and thawed


@pytest.mark.parametrize("host", HOSTS)
def test_frozen_in_the_block(many: Expected, tmp_path: Path, host: str) -> None:
    """Frozen for an hour while it streams, all connections cut: the load goes on where it was and succeeds."""
    store, clock = tmp_path / "store", tmp_path / "clock"
    with (
        Shaped(many.pack, RATE, port=free_port()) as server,
        Start(program(server.ref, before=HOSTS[host]), store, CLOCK=str(clock)) as start,
    ):
        midway(start, store)
        with Frozen(server, clock, start):
            landed = landed_in(store)
            assert 0 < len(landed) < len(many.frames)
        outcome = start.outcome()
    many.check(outcome)
    assert set(outcome.frames) == many.frames == landed_in(store)
    assert len(outcome.frames) == len(many.frames)
    survived("freezes in the block")


AWAIT = """
open(os.environ["LAZYDEPS_DIR"] + ".over", "w").close()
while not os.path.exists(os.environ["LAZYDEPS_DIR"] + ".go"):
    time.sleep(0.005)
from many import cold0, cold3
"""


@pytest.mark.parametrize("host", HOSTS)
def test_frozen_after_the_block(many: Expected, tmp_path: Path, host: str) -> None:
    """Frozen for an hour after the block, twice: what is imported on demand then reconnects and succeeds."""
    store, clock = tmp_path / "store", tmp_path / "clock"
    with Shaped(many.pack, port=free_port()) as server:
        code = program(server.ref, before=HOSTS[host], after=AWAIT)
        with Start(code, store, CLOCK=str(clock)) as start:
            wait_for((tmp_path / "store.over").exists, "the block does not end")
            for _ in range(2):
                with Frozen(server, clock, start):
                    pass
            (tmp_path / "store.go").touch()
            outcome = start.outcome()
    assert {"many.cold0", "many.cold3"} <= set(outcome.seen)
    survived("freezes after the block", 2)


UNTIL_IT_SUCCEEDS = """
errors = []
end = time.perf_counter() + 15
while time.perf_counter() < end:
    try:
        import many
        break
    except lazydeps.LazydepsError as error:
        errors.append(str(error))
        time.sleep(0.2)
print(json.dumps([many.m39.N, sorted(set(errors))]))
"""


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("block", [True, False])
def test_frozen_past_its_timeout(many: Expected, tmp_path: Path, block: bool, host: str) -> None:
    """A load whose ``timeout=`` went by while it was frozen may end in one clear error; later imports succeed."""
    store, clock = tmp_path / "store", tmp_path / "clock"
    with Shaped(many.pack, RATE, port=free_port()) as server:
        loading = f"lazydeps.load({server.ref!r}, timeout=20)"
        code = f"import json, os, time, lazydeps\n{HOSTS[host]}"
        if block:
            code += f"try:\n    with {loading}:\n        import many\n"
            code += "except lazydeps.FetchError as error:\n    print(error)\n"
        else:
            code += f"{loading}\n"
        with Start(code + UNTIL_IT_SUCCEEDS, store, CLOCK=str(clock)) as start:
            midway(start, store)
            with Frozen(server, clock, start):
                pass
            assert start.process.wait(timeout=BOUND) == 0, start.errors()
            lines = start.output().splitlines()
    number, errors = json.loads(lines.pop())
    assert number == 39
    for error in [*lines, *errors]:
        assert re.search(r"within the 20(\.0)? seconds|did not (answer|come whole) within the time", error), error
    survived("freezes past a timeout")


@pytest.mark.parametrize("host", HOSTS)
def test_frozen_while_it_waits_for_the_lock(many: Expected, tmp_path: Path, host: str) -> None:
    """Two starts over one store, frozen for an hour: the one that waits does not take the other for stuck."""
    store, clock = tmp_path / "store", tmp_path / "clock"
    with Shaped(many.pack, RATE / 3, port=free_port()) as server:
        code = program(server.ref, before=HOSTS[host])
        with Start(code, store, CLOCK=str(clock)) as holder:
            midway(holder, store)
            with Start(code, store, CLOCK=str(clock)) as waiter:
                wait_for(waiter.begun, "the second start does not begin")
                time.sleep(0.3)
                with Frozen(server, clock, holder, waiter):
                    assert len(landed_in(store)) < len(many.frames)
                many.check(waiter.outcome())
                many.check(holder.outcome())
    survived("freezes while waiting for the lock")


@pytest.mark.parametrize("host", HOSTS)
def test_a_holder_that_is_stuck(many: Expected, tmp_path: Path, host: str) -> None:
    """Who waits for the lock in vain gets an error that says so, and once the holder is gone later imports succeed."""
    store = tmp_path / "store"
    code = (
        f"import json, os, time, lazydeps\n{HOSTS[host]}lazydeps.load({many.ref!r}, timeout=0.7)\n" + UNTIL_IT_SUCCEEDS
    )
    with Start(program(many.ref), store) as holder:
        midway(holder, store)
        holder.signal_group(signal.SIGSTOP)
        with Start(code.replace("errors.append", "print(error, flush=True), errors.append"), store) as waiter:
            wait_for(lambda: waiter.output().count("lock") or waiter.ended(), "no word of the lock")
            holder.kill_group()
            assert waiter.process.wait(timeout=BOUND) == 0, waiter.errors()
            lines = waiter.output().splitlines()
    number, errors = json.loads(lines[-1])
    assert number == 39
    for error in errors:
        assert re.search(r"another process, which has .*/lock, is landing|within the 0.7 seconds", error), error
    survived("stuck holders of the lock, killed")
