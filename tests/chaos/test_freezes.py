"""Starts frozen for an hour at random instants, with all connections cut, and thawed."""

from __future__ import annotations

import random
import shutil
import signal
import time
from typing import TYPE_CHECKING

import pytest
from support_starts import (
    HOSTS,
    Expected,
    Frozen,
    Shaped,
    Start,
    each,
    free_port,
    landed_in,
    living,
    program,
    state_of,
    wait_for,
    write_many,
)
from support_tally import survived

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.chaos


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Expected]:
    """The larger pack."""
    with Expected.served(write_many, tmp_path_factory.mktemp("many")) as expected:
        yield expected


@pytest.mark.parametrize("host", HOSTS)
def test_frozen_at_random_instants(many: Expected, tmp_path: Path, host: str, chaos_rounds: float) -> None:
    """Frozen at one to three instants of one start, wherever it is then: it succeeds, and fetches no frame twice."""

    def freeze(number: int) -> None:
        instants = random.Random(f"{host} {number}")
        store, clock = tmp_path / str(number), tmp_path / f"clock-{number}"
        freezes = 0
        with Shaped(many.pack, 12e6, port=free_port()) as server:
            code = program(server.ref, before=HOSTS[host], after="from many import cold1")
            with Start(code, store, CLOCK=str(clock)) as start:
                wait_for(lambda: start.begun() or start.ended(), "the program does not begin")
                for _ in range(instants.randint(1, 3)):
                    time.sleep(instants.uniform(0, 0.7))
                    if start.ended():
                        break
                    with Frozen(server, clock, start):
                        freezes += 1
                outcome = start.outcome()
                start.gone()
        many.check(outcome)
        assert "many.cold1" in outcome.seen
        assert len(outcome.frames) == len(set(outcome.frames))
        assert landed_in(store) >= many.frames
        survived("freezes at random instants", freezes)
        shutil.rmtree(store)

    each(range(int(30 * chaos_rounds)), freeze)


def test_frozen_and_killed(many: Expected, tmp_path: Path, chaos_rounds: float) -> None:
    """Killed while frozen, as a sandbox that is not thawed: nothing half done has a name, the next start succeeds."""

    def freeze(number: int) -> None:
        store = tmp_path / str(number)
        with Shaped(many.pack, 12e6) as server, Start(program(server.ref), store) as start:
            wait_for(lambda: start.begun() or start.ended(), "the program does not begin")
            time.sleep(random.Random(number).uniform(0, 0.7))
            if not start.ended():
                start.signal_group(signal.SIGSTOP)
                wait_for(lambda: all(state_of(pid) == "T" for pid in living(start.pid)), "they do not stop")
                start.kill_group()
                survived("kills of what was frozen")
            start.gone()
        many.check_next_start(store)
        shutil.rmtree(store)

    each(range(int(12 * chaos_rounds)), freeze)
