"""Many processes over one store: at once, with those that work killed, and held up at every point."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from typing import TYPE_CHECKING

import pytest
from support_starts import (
    HOSTS,
    Expected,
    Observer,
    Outcome,
    Start,
    each,
    holder_of,
    landed_in,
    living,
    names_in,
    program,
    state_of,
    wait_for,
    write_few,
    write_many,
)
from support_tally import survived

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

pytestmark = pytest.mark.chaos


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Expected]:
    """The larger pack, slowly."""
    with Expected.served(write_many, tmp_path_factory.mktemp("many"), 3e6) as expected:
        yield expected


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Expected]:
    """The small pack, as fast as it comes."""
    with Expected.served(write_few, tmp_path_factory.mktemp("few")) as expected:
        yield expected


def check_together(expected: Expected, outcomes: Sequence[Outcome], landed: set[int], store: Path) -> None:
    """All of them got the right modules, and together they fetched each frame that had not landed once."""
    for outcome in outcomes:
        expected.check(outcome)
    fetched = [frame for outcome in outcomes for frame in outcome.frames]
    assert sorted(fetched) == sorted(expected.frames - landed)
    assert names_in(store) >= expected.names


def holder_after(store: Path, landed: int) -> int:
    """Wait until more frames than these have landed, and return who holds the lock then."""
    wait_for(lambda: len(landed_in(store)) > landed, "nothing more lands")
    wait_for(lambda: holder_of(store), "nobody holds the lock")
    holder = holder_of(store)
    assert holder is not None
    return holder


@pytest.mark.parametrize("count", [4, 16])
def test_at_once(many: Expected, tmp_path: Path, count: int, chaos_rounds: float) -> None:
    """All succeed, exactly one fetches, with as many requests as one start alone; nobody ever sees half a file."""
    for number in range(max(1, int(4 * chaos_rounds))):
        store = tmp_path / str(number)
        with contextlib.ExitStack() as stack:
            observer = stack.enter_context(Observer(store, many.pack))
            hosts = [tuple(HOSTS.values())[at % 2] for at in range(count)]
            starts = [stack.enter_context(Start(program(many.ref, before=host), store)) for host in hosts]
            outcomes = [start.outcome() for start in starts]
            assert observer.result() > 40
        check_together(many, outcomes, set(), store)
        assert sum(outcome.report["requests"] > 0 for outcome in outcomes) == 1
        survived("processes at once over one store", count)
        shutil.rmtree(store)


def test_the_holder_is_killed_three_times(many: Expected, tmp_path: Path, chaos_rounds: float) -> None:
    """Of sixteen starts the one that works is killed, then who has taken over, then the next: the others succeed."""
    for number in range(max(1, int(4 * chaos_rounds))):
        store = tmp_path / str(number)
        with contextlib.ExitStack() as stack:
            observer = stack.enter_context(Observer(store, many.pack))
            starts = [stack.enter_context(Start(program(many.ref), store)) for _ in range(16)]
            killed: set[int] = set()
            landed: set[int] = set()
            for _ in range(3):
                before = len(landed)
                holder = holder_after(store, before)
                (start,) = [start for start in starts if holder in living(start.pid)]
                start.kill_group()
                start.gone()
                killed.add(start.pid)
                landed = landed_in(store)
                assert len(landed) < len(many.frames)
            outcomes = [start.outcome() for start in starts if start.pid not in killed]
            assert len(outcomes) == 13
            assert observer.result() > 40
        for outcome in outcomes:
            many.check(outcome)
        fetched = [frame for outcome in outcomes for frame in outcome.frames]
        assert sorted(fetched) == sorted(many.frames - landed)
        survived("holders of the lock killed while others waited", 3)
        shutil.rmtree(store)


def test_workers_are_killed_and_their_owners_go_on(many: Expected, tmp_path: Path) -> None:
    """Of eight starts the working child alone is killed, three times: its owner takes over in its turn, all succeed."""
    store = tmp_path / "store"
    with contextlib.ExitStack() as stack:
        starts = [stack.enter_context(Start(program(many.ref), store)) for _ in range(8)]
        for _ in range(3):
            before = len(landed_in(store))
            holder = holder_after(store, before)
            if holder not in [start.pid for start in starts]:  # else its threads have taken over already
                os.kill(holder, signal.SIGKILL)
                wait_for(lambda holder=holder: state_of(holder) in ("", "Z"), "it does not die")
        outcomes = [start.outcome() for start in starts]
    for outcome in outcomes:
        many.check(outcome)
    assert sum(outcome.report["takeovers"] for outcome in outcomes) >= 1
    fetched = [frame for outcome in outcomes for frame in outcome.frames]
    assert len(fetched) == len(set(fetched))
    survived("working children killed among eight starts", 3)


@pytest.mark.parametrize("role", ["parent", "child"])
def test_held_up_at_every_point(few: Expected, tmp_path: Path, role: str) -> None:
    """A start is stopped at one of its points while another runs over the same store, then goes on: both succeed.

    That is every order that two processes can get into with one of them late, and no frame is fetched twice in any.
    """
    trace = tmp_path / "trace"
    with Start(program(few.ref), tmp_path / "traced", FAULT_TRACE=str(trace)) as start:
        start.outcome()
        start.gone()
    count = sum(line.startswith(role) for line in trace.read_text().splitlines())

    def race(at: int) -> None:
        store = tmp_path / str(at)
        with Start(program(few.ref), store, fault={"role": role, "at": at, "do": "stop"}) as late:
            wait_for(lambda: late.ended() or "T" in map(state_of, living(late.pid)), "it neither stops nor ends")
            with Start(program(few.ref), store) as other:
                # Where the late one holds the lock the other one waits for it, so it cannot be waited for.
                end = time.monotonic() + 0.3
                while not other.ended() and time.monotonic() < end:
                    time.sleep(0.005)
                if not late.ended():
                    late.signal_group(signal.SIGCONT)
                outcomes = [late.outcome(), other.outcome()]
                late.gone()
                other.gone()
        check_together(few, outcomes, set(), store)
        assert names_in(store) == few.names
        survived("orders of two processes, one held up")
        shutil.rmtree(store)

    each(range(count), race)


@pytest.mark.parametrize("number", range(4))
def test_stopped_children(many: Expected, tmp_path: Path, number: int, chaos_rounds: float) -> None:
    """A worker stopped at random instants, again and again, and continued: it is waited for; nothing comes twice."""
    instants = random.Random(number)
    store = tmp_path / "store"
    with Start(program(many.ref), store) as start:
        wait_for(start.children, "no child")
        (child,) = start.children()
        while not start.ended():
            time.sleep(instants.uniform(0, 0.2))
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGSTOP)
                time.sleep(instants.uniform(0, 0.1))
                os.kill(child, signal.SIGCONT)
                survived("stopped children")
            if state_of(child) in ("", "Z"):
                break
        outcome = start.outcome()
    many.check(outcome)
    assert outcome.report["takeovers"] == 0
    assert set(outcome.frames) == many.frames
