"""Starts killed at random instants and at every point, and started again in the same store."""

from __future__ import annotations

import os
import random
import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest
from support_packs import check_store
from support_starts import (
    HOSTS,
    Expected,
    Start,
    each,
    landed_in,
    names_in,
    program,
    wait_for,
    write_few,
    write_many,
)
from support_tally import survived

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.chaos

VICTIMS = ("parent", "child", "child first", "parent first", "group")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Expected]:
    """The larger pack, at a rate at which a start takes a second while others do the same."""
    with Expected.served(write_many, tmp_path_factory.mktemp("many"), 40e6) as expected:
        yield expected


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Expected]:
    """The small pack, as fast as it comes."""
    with Expected.served(write_few, tmp_path_factory.mktemp("few")) as expected:
        yield expected


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("victims", VICTIMS)
def test_killed_at_random_instants(
    many: Expected, tmp_path: Path, victims: str, host: str, chaos_rounds: float
) -> None:
    """Killed anywhere between ``load()`` and the end, whoever dies: what has landed is whole and is not fetched again.

    Where the child alone is killed, the start itself succeeds too.
    """
    if host == "threads" and victims in VICTIMS[1:4]:
        pytest.skip("a worker in threads has no child to kill")

    def kill(number: int) -> None:
        store = tmp_path / str(number)
        instants = random.Random(f"{host} {victims} {number}")
        stage = ""
        with Start(program(many.ref, before=HOSTS[host]), store) as start:
            wait_for(lambda: start.begun() or start.ended(), "the program does not begin")
            time.sleep(instants.uniform(0, 0.8))
            if start.ended():
                stage = "after the end"
            children = start.children()
            order = {
                "parent": [start.pid],
                "child": children,
                "child first": [*children, start.pid],
                "parent first": [start.pid, *children],
                "group": [],
            }[victims]
            if victims == "group":
                start.kill_group()
            for victim in order:
                try:
                    os.kill(victim, 9)
                except ProcessLookupError:
                    break
            if victims == "child":
                many.check(start.outcome())
            start.gone()
        found = many.check_next_start(store, before=HOSTS[host])
        if not stage:
            survived(f"kills at random instants, {'child alone: taken over' if victims == 'child' else found}")
        shutil.rmtree(store)

    each(range(int(45 * chaos_rounds)), kill)


def points(expected: Expected, host: str, folder: Path) -> dict[str, int]:
    """Return how many points the parent and the child of a start pass."""
    trace = folder / f"trace-{host}"
    with Start(program(expected.ref, before=HOSTS[host]), folder / f"traced-{host}", FAULT_TRACE=str(trace)) as start:
        expected.check(start.outcome())
        start.gone()
    roles = [line.split()[0] for line in trace.read_text().splitlines()]
    return {role: roles.count(role) for role in ("parent", "child")}


SWEEPS: list[tuple[str, str, str]] = [
    ("fork", "child", "kill"),
    ("fork", "child", "group"),
    ("fork", "parent", "kill"),
    ("fork", "parent", "group"),
    ("threads", "parent", "kill"),
]


def killed_at(expected: Expected, store: Path, host: str, fault: dict[str, Any]) -> str:
    """Kill a start at a point; check it, where only its child dies, and the next one. Return how far it came."""
    before = HOSTS[host]
    with Start(program(expected.ref, before=before), store, fault=fault) as start:
        start.process.wait(timeout=60)
        alone = fault["role"] == "child" and fault["do"] == "kill"
        if alone or start.process.returncode == 0:  # fewer points than in the run that was counted
            expected.check(start.outcome())
        else:
            assert start.process.returncode == -9, start.errors()
        start.gone()
    if not store.exists():
        return "no root"
    stage = expected.check_next_start(store, before=before)
    shutil.rmtree(store)
    return stage


@pytest.mark.parametrize(("host", "role", "do"), SWEEPS)
def test_killed_at_every_point(few: Expected, tmp_path: Path, host: str, role: str, do: str) -> None:
    """Killed before, after and in the middle of every call that a small start makes of the system, each in its turn."""

    def kill(at: int) -> None:
        stage = killed_at(few, tmp_path / str(at), host, {"role": role, "at": at, "do": do})
        survived(f"kills at chosen points, {stage}")

    each(range(points(few, host, tmp_path)[role]), kill)


@pytest.mark.parametrize(("host", "role", "do"), SWEEPS)
def test_killed_at_points_of_a_large_start(
    many: Expected, tmp_path: Path, host: str, role: str, do: str, chaos_rounds: float
) -> None:
    """The same with files that come in several requests, by several threads: at a sample of the points."""
    count = points(many, host, tmp_path)[role]
    sample = random.Random(host + role + do).sample(range(count), min(count, int(40 * chaos_rounds)))

    def kill(at: int) -> None:
        stage = killed_at(many, tmp_path / str(at), host, {"role": role, "at": at, "do": do})
        survived(f"kills at chosen points, {stage}")

    each(sample, kill)


@pytest.mark.parametrize("number", range(3))
def test_killed_again_and_again(many: Expected, tmp_path: Path, number: int) -> None:
    """Killed over and over in one store, as by init timeouts in a row: each start adds to what is there."""
    instants = random.Random(number)
    store = tmp_path / "store"
    landed: set[int] = set()
    for _ in range(12):
        with Start(program(many.ref), store) as start:
            wait_for(lambda: start.begun() or start.ended(), "the program does not begin")
            time.sleep(instants.uniform(0.1, 0.5))
            start.kill_group()
            start.gone()
        now = landed_in(store)
        assert landed <= now
        landed = now
    many.check_next_start(store)
    survived("kills at random instants, a dozen in a row", 12)


@pytest.mark.parametrize("damage", ["code", "landed", "tree", "root"])
def test_killed_while_a_damaged_store_heals(few: Expected, tmp_path: Path, damage: str) -> None:
    """A part of a full store is gone, and the start that mends it is killed at every point: the next one mends it."""

    def kill(at: int) -> None:
        store = tmp_path / str(at)
        shutil.copytree(few.store, store)
        part = next(store.glob(f"*/{damage}"))
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink()
        with Start(program(few.ref), store, fault={"role": "child", "at": at, "do": "group"}) as start:
            killed = start.process.wait(timeout=60) == -9
            start.gone()
        with Start(program(few.ref), store) as start:
            few.check(start.outcome())
            start.gone()
        check_store(store, few.pack)
        assert not few.names - names_in(store)
        if killed:
            survived("kills at chosen points, a damaged store")
        shutil.rmtree(store)

    each(range(points(few, "fork", tmp_path)["child"]), kill)


def test_nothing_grows(few: Expected, tmp_path: Path) -> None:
    """Killed where leftovers arise, many times in one store: what they left is gone after a start that succeeds."""
    store = tmp_path / "store"
    for number in [*range(6), *range(6)]:
        fault = {"role": "child", "call": "replace", "number": number, "when": "before", "do": "group"}
        with Start(program(few.ref), store, fault=fault) as start:
            start.process.wait(timeout=60)
            start.gone()
        for name in ("root", "index"):  # written again each time
            for path in store.glob(f"*/{name}"):
                path.unlink()
    few.check_next_start(store)
    assert names_in(store) == few.names
