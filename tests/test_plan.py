"""The bookkeeping of what is still to be fetched: nothing is forgotten, whatever comes in which order or not at all."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazydeps import _plan
from lazydeps._pack import Section
from lazydeps._plan import INDEX, Early, Plan, early_ranges


def section(packed: list[int], first: int, start: int) -> Section:
    """Return a section of frames of these packed sizes, without files."""
    table = {
        "paths": [], "offsets": [], "sizes": [], "executable": [],
        "packed": packed, "unpacked": [1] * len(packed), "digests": "00" * 32 * len(packed),
    }  # fmt: skip
    return Section(table, first=first, start=start, base=0)


def root_of(boot: list[int], rest: list[int], data: int, *, head: int = 100, index: int = 30) -> tuple[Any, Section]:
    """Return what the plan reads of a root, and the section behind its index."""
    table = section(boot, 0, head)
    start = table.starts[-1] + 8
    root = SimpleNamespace(
        boot=table, index_span=(start, start + index), frames=len(boot) + len(rest), data_stop=len(boot) + data
    )
    return root, section(rest, len(boot), start + index)


def all_of(frames: Any) -> list[int]:
    """Nothing has landed yet."""
    return list(frames)


def test_a_request_with_holes_is_cut() -> None:
    """One GET brings neighbours: a request from which others took frames keeps its first run and queues the rest."""
    root, rest = root_of([10], [10] * 8, 0)
    have: set[int] = {0}
    plan = Plan(root, rest, missing=lambda frames: [n for n in frames if n not in have], only=[2, 3, 4, 5, 6, 8])
    plan.demand(4, 5)
    taken = [plan.take() for _ in range(4)]
    assert [list(request.frames) for request in taken if request] == [[4], [2, 3], [5, 6], [8]]
    assert plan.take() is None


def test_a_demand_before_the_index_brings_the_index() -> None:
    """Who asks for a cold frame has to know of it first."""
    root, _ = root_of([10, 10], [10], 1)
    plan = Plan(root, None, missing=all_of)
    plan.demand(INDEX, INDEX)
    first, second = plan.take(), plan.take()
    assert first is not None
    assert second is not None
    assert (list(first.frames), first.index) == ([], True)
    assert (list(second.frames), second.index) == ([0, 1], False)


def test_the_index_comes_with_the_last_boot_frames() -> None:
    """One GET less: the index lies right behind them."""
    root, _ = root_of([10, 10], [10], 1)
    request = Plan(root, None, missing=all_of).take()
    assert request is not None
    assert (list(request.frames), request.index) == ([0, 1], True)


def test_requests_have_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boot requests are small, because imports wait for them in order; others are large."""
    monkeypatch.setattr(_plan, "BOOT", 20)
    monkeypatch.setattr(_plan, "LARGEST", 40)
    root, rest = root_of([10] * 5, [10] * 5, 5)
    plan = Plan(root, rest, missing=all_of)
    sizes = []
    while request := plan.take():
        sizes.append(len(request.frames))
    assert sizes == [2, 2, 1, 4, 1]


def test_a_refused_request_joins_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that asks for fewer requests gets fewer, each up to a limit, and nothing is forgotten."""
    monkeypatch.setattr(_plan, "BOOT", 20)
    monkeypatch.setattr(_plan, "GATHERED", 50)
    root, _ = root_of([10] * 12, [], 0)
    have: set[int] = set()
    plan = Plan(root, None, missing=lambda frames: [n for n in frames if n not in have])
    first, second = plan.take(), plan.take()
    assert first is not None
    assert second is not None
    have.add(second.frames.popleft())
    plan.landed(2)
    plan.gather(second)
    taken = [(list(request.frames), request.index) for request in iter(plan.take, None)]
    assert taken == [([3, 4, 5, 6, 7], False), ([8, 9, 10, 11], True)]
    assert list(first.frames) == [0, 1]  # that one is under way all the same


def test_early_ranges_lie_side_by_side() -> None:
    """They begin where the first request ends, without gaps, one a further connection."""
    ranges = early_ranges(4)
    assert [early.start for early in ranges] == [_plan.HEAD, *(early.stop for early in ranges[:-1])]
    assert len(ranges) == 3
    assert early_ranges(1) == []


def test_two_halves_make_one() -> None:
    """A frame across two early ranges is asked for once, whichever half comes first and ends first."""
    root, _ = root_of([10, 10], [], 0)
    first, second = Early(100, 115), Early(115, 158)
    plan = Plan(root, None, missing=all_of, early=[first, second])
    assert plan.take() is None
    assert plan.join(1, 10, 5, memoryview(b"world")) is None
    second.start = 120
    plan.close(second)
    assert plan.expects(1)
    plan.received(0)
    plan.landed(0)
    first.start = 110
    assert plan.join(1, 10, 0, memoryview(b"hello")) == b"helloworld"
    plan.received(1)
    plan.close(first)
    plan.landed(1)
    request = plan.take()
    assert request is not None
    assert (list(request.frames), request.index) == ([], True)  # the second one failed before it came to the index


@st.composite
def works(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a pack, early ranges over it, and what becomes of them."""
    boot = draw(st.lists(st.integers(1, 40), min_size=1, max_size=8))
    rest = draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    ranges = draw(st.lists(st.integers(1, 60), max_size=5))
    return {
        "boot": boot,
        "rest": rest,
        "data": draw(st.integers(0, len(rest))),
        "complete": draw(st.booleans()),
        "index": draw(st.integers(1, 50)),
        "ranges": ranges,
        # How many of its pieces each early request brings before it fails; a large number: all.
        "pieces": draw(st.lists(st.sampled_from([0, 1, 2, 99]), min_size=len(ranges), max_size=len(ranges))),
        "closed": draw(st.lists(st.booleans(), min_size=len(ranges), max_size=len(ranges))),
        "damaged": draw(st.sets(st.integers(-1, len(boot) + len(rest)), max_size=2)),
        "turns": draw(st.lists(st.integers(0, 7), max_size=40)),
    }


@given(works())
def test_everything_wanted_comes_once(work: dict[str, Any]) -> None:
    """Whatever early requests bring, whole or in halves, or fail to: all wanted frames land, and none twice."""
    root, rest = root_of(work["boot"], work["rest"], work["data"], index=work["index"])
    end = rest.starts[-1]
    landed: list[int] = []
    early, at = [], 100
    for size, closed in zip(work["ranges"], work["closed"]):
        early.append(Early(at, at + size))
        early[-1].open = not closed and at < end
        at += size
    plan = Plan(
        root,
        None,
        missing=lambda frames: [n for n in frames if n not in landed],
        complete=work["complete"],
        early=early,
    )

    def land(number: int) -> None:
        assert number not in landed
        if number == INDEX:
            assert plan.rest is None
            plan.add_index(rest)
        else:
            landed.append(number)
            plan.landed(number)

    def receive(one: Early, pieces: int) -> Any:
        contents = plan.contents(one, lambda: None)
        for count in range(pieces + 1):
            while plan.rest is None and one.start >= root.index_span[1]:
                yield  # nobody can say what comes next
            found = next(contents, None)
            if found is None or count == pieces:
                break
            number, begin, stop = found
            low, high = max(begin, one.start), min(stop, one.stop)
            assert one.start <= low < high
            one.start = high
            if plan.expects(number):
                part = memoryview(bytes(high - low))
                if high - low == stop - begin or plan.join(number, stop - begin, low - begin, part) is not None:
                    plan.received(number)
                    yield  # others may do something before it has landed
                    if number in work["damaged"]:
                        plan.give_back(number)
                    else:
                        land(number)
            yield
        plan.close(one)

    running = [receive(one, pieces) for one, pieces in zip(early, work["pieces"]) if one.open]
    for turn in [*work["turns"], *[0, 1, 2, 3, 4, 6] * 60]:
        if turn < len(running):
            try:
                next(running[turn])
            except StopIteration:
                running.pop(turn)
        elif turn == 5:
            plan.gather()
        elif request := plan.take():
            if turn == 4:
                plan.gather(request)
                continue
            assert list(request.frames) == sorted(request.frames)
            for number in request.frames:
                land(number)
            if request.index:
                land(INDEX)
    assert not running
    assert plan.take() is None
    assert plan.rest is rest
    assert sorted(landed) == list(range(root.frames if work["complete"] else root.data_stop))
