"""What the benchmark reckons and draws: money, storms, charts. Nothing is measured here and nothing is slow."""

from __future__ import annotations

import json
import math
import random
import re
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from dataclasses import asdict, replace
from datetime import date
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support_packs import pack_tree, write_tree

from benchmarks import cost, storm
from lazydeps import _retry, _worker
from lazydeps._config import Config
from lazydeps._ref import Ref
from lazydeps._sources import open_source
from lazydeps._store import Store
from lazydeps.errors import FetchError

ROOT = Path(__file__).parents[1]
MAIN, SLOW, TLS = "3 Gbit/s, 2 cores", "75 MiB/s, 2 cores", "3 Gbit/s, 2 cores, TLS"
QUOTA = "3 Gbit/s, 2 cores, quota of 512 MB"
LABELS = {
    "warm": "warm local import, valid bytecode",
    "no-bytecode": "local import without bytecode",
    "lazydeps": "lazydeps 0.1.0",
    "plain-zip": "a plain zip, whose name is a good deal longer than the room that one line has",
    "zappa": "Zappa 0.63.0, slim_handler",
    "shiv": "shiv 1.0.8",
}


def summary(contender: str, work: str, condition: str, median: float) -> dict[str, Any]:
    return {
        "contender": contender,
        "work": work,
        "condition": condition,
        "starts": 10,
        "median": median,
        "low": median * 0.97,
        "high": median * 1.06,
        "ratio": median,
        "ratio_low": median * 0.96,
        "ratio_high": median * 1.07,
        "cpu_seconds": median,
    }


def observation(contender: str, work: str, **changes: Any) -> dict[str, Any]:
    seen = {"peak_memory": 200 << 20, "peak_store": 221 << 20, "landed": 220 << 20, "requests": 17}
    return {"contender": contender, "work": work, "condition": MAIN, **seen, "bytes_received": 67_000_000, **changes}


def make_waterfall(frames: int = 120, *, together: int = 10) -> dict[str, Any]:
    """Make the report of one start: six connections, ``together`` frames a request, imports that wait for some."""
    clock = [0.05 + 0.003 * connection for connection in range(6)]
    entries: list[dict[str, Any]] = []
    for at in range(frames):
        connection, within = at // together % 6, at % together
        requested = entries[-1]["requested"] if within else clock[connection]
        received = clock[connection] + (0.002 if within else 0.03)
        clock[connection] = landed = received + 0.0015
        entries.append({"index": at, "requested": requested, "received": received, "landed": landed, "set": "boot"})
    ready = max(clock) + 0.7
    modules = ("numpy", "pandas", "scipy.stats", "matplotlib.pyplot", "openpyxl")
    edges = [0.0, *(ready * share for share in (0.3, 0.5, 0.75, 0.97)), ready]
    waits = [("(root)", 0, entries[0]["landed"]), *((f"numpy.part{at}", at, 0.001 * at) for at in (13, 27, 41, 69, 83))]
    stalls = [
        {"module": module, "at": entries[at]["landed"] - seconds, "seconds": seconds, "frame": at}
        for module, at, seconds in waits
    ]
    pack = {
        "frames": entries,
        "stalls": stalls,
        "phases": [{"name": "root", "start": 0.002, "end": 0.05}],
        "requests": 17,
        "bytes_received": 67_000_000,
    }
    return {
        "condition": MAIN,
        "work": "science",
        "report": {"packs": [pack]},
        "imports": [
            {"module": module, "start": begin, "end": end}
            for module, begin, end in zip(modules, edges, edges[1:], strict=False)
        ],
        "ready": ready,
    }


@pytest.fixture
def report() -> dict[str, Any]:
    """A made-up report of two works: science with rivals on the slow link, and small."""
    links = {MAIN: 375e6, SLOW: 75.0 * 2**20, TLS: 375e6, QUOTA: 375e6}
    made: dict[str, Any] = {
        "version": 1,
        "date": "2026-11-21T12:00:00+00:00",
        "machine": {"cpu": "A Processor @ 2.60GHz", "cores": 2, "kernel": "6.1.0", "memory": 8 << 30},
        "python": "3.13.0",
        "lazydeps": "0.1.0",
        "works": {
            "science": {"requirements": [], "statements": "", "pack": {"size": 104_000_000}},
            "small": {"requirements": [], "statements": "", "pack": {"size": 3_000_000}},
        },
        "contenders": {name: {"label": label, "note": ""} for name, label in LABELS.items()},
        "conditions": {
            label: {"link": link, "cores": 2, "tls": label == TLS, "quota": 512 / 1769 if label == QUOTA else None}
            for label, link in links.items()
        },
        "summary": [
            *(summary(name, "science", MAIN, 1 + at) for at, name in enumerate(("warm", "lazydeps", "no-bytecode"))),
            *(
                summary(name, "science", SLOW, seconds)
                for name, seconds in {"warm": 1.0, "lazydeps": 1.3, "plain-zip": 9.8, "zappa": 12.0, "shiv": 4}.items()
            ),
            *(summary(name, "science", QUOTA, seconds) for name, seconds in {"warm": 3.4, "lazydeps": 5.0}.items()),
            *(summary(name, "small", MAIN, seconds) for name, seconds in {"warm": 0.2, "lazydeps": 0.26}.items()),
            summary("lazydeps", "science", TLS, 1.2),
        ],
        "observations": [
            observation("lazydeps", "science"),
            observation("plain-zip", "science", peak_store=700 << 20, requests=1),
            observation("zappa", "science", peak_memory=600 << 20),
            observation("shiv", "science", peak_memory=None),
        ],
        "waterfall": make_waterfall(),
        "storm": [],
        "targets": [],
    }
    made["cost"] = cost.estimate(made)
    return made


def record(records: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    """Return the one record that has these values."""
    (found,) = [entry for entry in records if all(entry[key] == value for key, value in wanted.items())]
    return found


# -- money


def test_every_price_can_be_checked() -> None:
    prices = cost.Prices.read()
    assert set(prices.compute) == {"x86_64", "arm64"}
    assert all(price > 0 for price in (*prices.compute.values(), prices.storage, prices.get))
    assert prices.transfer == 0
    assert prices.compute["arm64"] < prices.compute["x86_64"]
    assert (prices.region, prices.currency) == ("us-east-1", "USD")
    assert prices.init_billed_since == date(2025, 8, 1)
    assert date(2026, 1, 1) <= prices.published <= date.today()  # noqa: DTZ011 - a price list of tomorrow is a mistake
    assert (prices.free_storage, prices.most_storage) == (512, 10240)


@pytest.mark.parametrize("key", ["price", "per", "published", "source"])
@pytest.mark.parametrize("table", ["[compute.arm64]", "[storage]", "[get]", "[transfer]"])
def test_a_price_without_its_facts_is_refused(tmp_path: Path, table: str, key: str) -> None:
    head, _, tail = cost.PRICES.read_text().partition(table)
    line = next(line for line in tail.splitlines() if line.startswith(f"{key} ="))
    (tmp_path / "prices.toml").write_text(head + table + tail.replace(line + "\n", "", 1))
    with pytest.raises(KeyError, match=key):
        cost.Prices.read(tmp_path / "prices.toml")


def test_money_is_what_a_hand_reckons() -> None:
    prices = replace(cost.Prices.read(), compute={"x86_64": 1e-5, "arm64": 8e-6}, storage=3e-8, get=4e-7, transfer=0.01)
    usage = cost.Usage(seconds=1.2341, memory=2048, storage=1536, requests=10, received=2 * 2**30)
    money = cost.price(usage, prices, architecture="x86_64")
    # 1.2341 s are billed as 1.235; times 2 GB, a million times, at 0.00001
    assert money.init == pytest.approx(24.7)
    assert money.requests == pytest.approx(4.0)
    assert money.storage == pytest.approx(0.03705)  # 1 GB above what is free
    assert money.transfer == pytest.approx(20_000)
    assert money.total == pytest.approx(24.7 + 4 + 0.03705 + 20_000)
    assert cost.price(usage, prices, architecture="arm64").init == pytest.approx(19.76)
    assert cost.price(usage, prices, architecture="x86_64", starts=1).init == pytest.approx(24.7e-6)


@pytest.mark.parametrize(("seconds", "billed"), [(1.0, 1.0), (0.0001, 0.001), (1.0701, 1.071), (1.07, 1.07)])
def test_a_started_millisecond_is_billed(seconds: float, billed: float) -> None:
    usage = cost.Usage(seconds=seconds, memory=512, storage=512, requests=0, received=0)
    assert usage.billed == pytest.approx(billed, abs=1e-9)


def test_contenders_compare_where_most_were_measured_and_works_where_they_all_were(report: dict[str, Any]) -> None:
    assert cost.reference_conditions(report) == {"science": [SLOW, MAIN], "small": [MAIN]}
    priced = {(entry["contender"], entry["work"], entry["reference"]) for entry in report["cost"]}
    assert {name for name, work, label in priced if (work, label) == ("science", SLOW)} == {
        "warm",
        "lazydeps",
        "plain-zip",
        "zappa",
        "shiv",
    }
    assert ("no-bytecode", "science", MAIN) in priced
    assert ("lazydeps", "small", MAIN) in priced
    assert not any(label in (TLS, QUOTA) for _, _, label in priced)
    assert len(report["cost"]) == len(priced) * len(cost.MEMORY_SIZES) * 2


def test_a_quota_stands_for_its_memory_size_on_its_own_link_only(report: dict[str, Any]) -> None:
    lazy = {"contender": "lazydeps", "work": "science", "architecture": "x86_64"}
    slow = record(report["cost"], **lazy, reference=SLOW, memory_mb=512)
    large = record(report["cost"], **lazy, reference=MAIN, memory_mb=3008)
    quota = record(report["cost"], **lazy, reference=MAIN, memory_mb=512)
    assert (quota["condition"], quota["init_seconds"]) == (QUOTA, 5.0)
    assert (slow["condition"], slow["init_seconds"]) == (SLOW, 1.3)
    assert (large["condition"], large["init_seconds"]) == (MAIN, 2)
    assert quota["total"] > quota["reference_total"]
    assert slow["total"] == slow["reference_total"]
    assert any("under a CPU quota of 0.289, the share of 512 MB" in sentence for sentence in quota["assumed"])
    assert any("no CPU quota, not at 3008 MB" in sentence for sentence in large["assumed"])


def test_a_record_says_what_it_is_made_of(report: dict[str, Any]) -> None:
    prices = cost.Prices.read()
    found = record(
        report["cost"], contender="plain-zip", work="science", reference=SLOW, memory_mb=1769, architecture="x86_64"
    )
    gb_seconds = 9.8e6 * 1769 / 1024
    assert found["gb_seconds"] == pytest.approx(gb_seconds)
    assert found["init"] == pytest.approx(gb_seconds * prices.compute["x86_64"])
    assert found["requests"] == pytest.approx(1e6 * prices.get)
    assert found["storage_mb"] == 700
    assert found["storage"] == pytest.approx(9.8e6 * 188 / 1024 * prices.storage)
    assert found["transfer"] == 0
    assert found["total"] == pytest.approx(sum(found[key] for key in ("init", "requests", "storage", "transfer")))
    assert any("us-east-1" in sentence and str(prices.published) in sentence for sentence in found["assumed"])


def test_what_does_not_fit_or_was_not_seen_is_said(report: dict[str, Any]) -> None:
    def fits(contender: str, memory: int) -> bool | None:
        wanted = {"contender": contender, "work": "science", "reference": SLOW, "architecture": "arm64"}
        return record(report["cost"], **wanted, memory_mb=memory)["fits"]  # type: ignore[no-any-return]

    assert (fits("zappa", 512), fits("zappa", 1769)) == (False, True)
    assert fits("shiv", 512) is None  # its memory could not be observed
    assert fits("warm", 512) is None  # nothing was
    warm = record(report["cost"], contender="warm", work="science", reference=SLOW, memory_mb=512, architecture="arm64")
    assert any("not observed" in sentence for sentence in warm["assumed"])
    zappa = record(
        report["cost"], contender="zappa", work="science", reference=SLOW, memory_mb=512, architecture="arm64"
    )
    assert any("longer than the 10 seconds" in sentence for sentence in zappa["assumed"])
    assert not any("longer than the 10 seconds" in sentence for sentence in warm["assumed"])


def test_without_a_plain_condition_nothing_is_priced(report: dict[str, Any]) -> None:
    report["summary"] = [line for line in report["summary"] if line["condition"] in (TLS, QUOTA)]
    assert cost.estimate(report) == []


# -- storms: what is sent


CALM = storm.Service(first_byte=0.03, first_byte_95=0.03, outliers=0.0)
"""Every first byte takes 30 ms."""


def make_start(**changes: Any) -> storm.Start:
    start = storm.Start(
        root=90_000,
        head=180_000,
        early=(),
        queue=(900_000, 1_800_000),
        index=2,
        data=(450_000,),
        connections=1,
    )
    return replace(start, **changes)


BUSY = make_start(early=(900_000,) * 3, queue=(1_800_000,) * 6, index=9, data=(900_000, 900_000), connections=4)


def test_the_plan_is_what_a_real_client_sends(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    content = random.Random(0)
    files: dict[str, str | bytes] = {f"pkg/lib{at}.so": content.randbytes(700_000) for at in range(24)}
    write_tree(tree, {**files, "pkg/__init__.py": "x = 1\n", "pkg/table.dat": content.randbytes(900_000)})
    written = pack_tree(tmp_path / "p.tar.zst", tree, boot=["pkg/__init__.py", *files])
    start = storm.read_start(str(tmp_path / "p.tar.zst"))
    ref = Ref((tmp_path / "p.tar.zst").as_uri(), bytes.fromhex(written.root.removeprefix("sha256:")))
    worker = _worker.Worker(
        ref=ref,
        source=open_source(ref.url, {}),
        store=Store(str(tmp_path / "store"), ref.root or b""),
        config=Config(directory=str(tmp_path / "store")),
    )
    worker.run()
    assert start.requests == worker.stats.requests
    assert start.size == worker.stats.bytes


def test_the_backoff_is_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    pauses: list[float] = []

    def pause(self: _retry.Retry, seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(_retry, "_random", lambda: 0.75)
    monkeypatch.setattr(_retry, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(_retry.Retry, "pause", pause)
    retry = _retry.Retry(url="file:///p", counters=_worker.Stats(), changed=threading.Condition())

    def refused() -> None:
        raise FetchError("503", status=503, retryable=True)

    with pytest.raises(FetchError):
        retry.run(refused, _retry.Tries(), patient=True)
    assert pauses == pytest.approx([storm.CLIENT.backoff(tries, None, 0.75) for tries in range(1, len(pauses) + 1)])
    assert sum(pauses) <= storm.CLIENT.budget < sum(pauses) + storm.CLIENT.backoff(len(pauses) + 1, None, 0.75)
    assert storm.CLIENT.backoff(1, 100.0, 0.0) == _retry.PAUSE


def test_an_invented_start_brings_everything_once() -> None:
    start = storm.invent_start(45_000_000, 10_000_000)
    assert start.index == len(start.early) + len(start.queue)
    assert 55_000_000 + start.root < start.size < 56_500_000  # the frame that an early request cuts comes twice
    small = storm.invent_start(1_100_000, 300_000)
    assert (small.queue, small.data, small.index) == ((), (), 1)
    assert sum(small.early) + small.root + small.head == pytest.approx(1_400_000 + (128 << 11), abs=100)


def test_a_cut_start_has_the_same_bytes() -> None:
    start = storm.invent_start(45_000_000, 10_000_000)
    for requests in (2, 5, 40):
        cut = start.cut(requests)
        assert (cut.requests, cut.size) == (requests, start.size)
    with pytest.raises(ValueError, match="at least 2 requests"):
        start.cut(1)


def test_a_root_that_the_first_request_does_not_bring_is_refused() -> None:
    rest = storm._section([100], first=1, start=800_000)
    boot = storm._section([100], first=0, start=600_000)
    with pytest.raises(ValueError, match="600000 bytes"):
        storm.plan_start(type("Root", (), {"boot": boot})(), rest)


# -- storms: how it goes


def test_one_sandbox_takes_what_a_hand_reckons() -> None:
    start = make_start()
    # One connection: it is opened once, and each of four requests has a first byte and its bytes.
    expected = CALM.connect + 4 * 0.03 + (90_000 + 180_000 + 900_000 + 1_800_000 + 450_000) / CALM.connection_rate
    outcome = storm.simulate(start, sandboxes=1, service=CALM)
    assert outcome.median == pytest.approx(expected, abs=1e-9)
    assert (outcome.sent, outcome.served, outcome.refused, outcome.failed) == (4, 4, 0, 0)
    assert (outcome.requests, outcome.size) == (4, 3_420_000)


def test_connections_work_beside_one_another() -> None:
    # The first connection has its bytes before the early one has, and takes the queue; the index comes with that, and
    # then the data, while the other connection has nothing left to do.
    start = make_start(early=(900_000,), queue=(1_800_000,), index=2, data=(900_000,), connections=2)
    rate = CALM.connection_rate
    early = CALM.connect + 0.03 + 900_000 / rate
    first = CALM.connect + 0.03 + 270_000 / rate
    assert first < early  # so that the first connection takes the queue
    expected = first + 0.03 + 1_800_000 / rate + 0.03 + 900_000 / rate
    assert storm.simulate(start, sandboxes=1, service=CALM).median == pytest.approx(expected, abs=1e-9)


def test_the_network_bursts_and_then_trickles() -> None:
    service = replace(CALM, burst=100e6, burst_rate=50e6, steady_rate=10e6)
    start = make_start(root=100_000, head=0, queue=(144_900_000,), index=1, data=())
    # The bucket fills at 10 MB/s while it drains at 50: its 100 MB are gone after 2.5 s, in which 125 MB have come;
    # the other 20 MB take 2 s.
    expected = CALM.connect + 2 * 0.03 + 4.5
    assert storm.simulate(start, sandboxes=1, service=service).median == pytest.approx(expected, abs=0.01)
    shared = replace(start, queue=(72_450_000, 72_450_000), index=2, connections=2)
    expected = 2 * CALM.connect + 2 * 0.03 + 4.5  # two connections get no more than one does
    assert storm.simulate(shared, sandboxes=1, service=service).median == pytest.approx(expected, abs=0.02)


def test_the_same_seed_gives_the_same_storm() -> None:
    def run(seed: int) -> dict[str, Any]:
        return asdict(storm.simulate(BUSY, sandboxes=300, policy=storm.CLIENT, seed=seed))

    assert run(7) == run(7)
    assert run(7)["median"] != run(8)["median"]


@pytest.mark.parametrize("policy", storm.POLICIES.values(), ids=lambda policy: policy.name)
@pytest.mark.parametrize("outliers", [0.0, 0.05])
def test_everything_that_is_sent_and_everybody_who_starts_is_accounted_for(
    policy: storm.Policy, outliers: float
) -> None:
    service = storm.Service(rate=800, outliers=outliers)
    for seed in range(3):
        outcome = storm.simulate(BUSY, sandboxes=200, spread=0.5, policy=policy, service=service, seed=seed)
        assert outcome.sent == outcome.served + outcome.refused + outcome.timed_out
        sim = storm._Storm(BUSY, policy, service, sandboxes=200, spread=0.5, prefixes=1, seed=seed)
        sim.run()
        assert len(sim.seconds) + sim.failed == 200
        assert outcome.failed == sim.failed
        if not outcome.failed and policy.merge == 0:
            assert outcome.served == 200 * BUSY.requests
        if not outcome.failed:
            assert outcome.served <= 200 * BUSY.requests
        assert outcome.retries <= outcome.refused + outcome.timed_out


def test_a_prefix_serves_no_more_than_its_rate_and_no_less() -> None:
    prefix = storm._Prefix(storm.Service(rate=1000, window=0.1))
    admitted = [at / 20_000 for at in range(60_000) if prefix.admits(at / 20_000)]
    for begin in (0.0, 0.7, 1.5):
        within = sum(begin <= at < begin + 1 for at in admitted)
        assert within <= 1000 + 100 + 1
    assert len(admitted) == pytest.approx(3 * 1000 + 100, abs=2)


@pytest.mark.parametrize("prefixes", [1, 3])
def test_a_storm_is_served_at_the_documented_rate(prefixes: int) -> None:
    service = storm.Service(rate=1000)
    outcome = storm.simulate(BUSY, sandboxes=600, prefixes=prefixes, policy=storm.PATIENT, service=service)
    admitted = outcome.served + outcome.timed_out
    assert admitted <= prefixes * (service.rate * outcome.over + service.rate * service.window + 1)
    assert outcome.slowest is not None
    assert admitted / prefixes > 0.8 * service.rate * outcome.slowest * (1 if prefixes == 1 else 0.5)
    assert outcome.sustained == pytest.approx(prefixes * 1000 / BUSY.requests)


@pytest.mark.parametrize("policy", [storm.PATIENT, storm.CLIENT], ids=lambda policy: policy.name)
def test_more_prefixes_are_not_slower(policy: storm.Policy) -> None:
    service = storm.Service(rate=600, outliers=0.0)
    medians = [
        storm.simulate(BUSY, sandboxes=240, prefixes=prefixes, policy=policy, service=service).median or math.inf
        for prefixes in (1, 2, 4, 10)
    ]
    assert all(after <= before * 1.05 for before, after in pairwise(medians))
    assert medians[-1] < medians[0]


def test_a_prefix_that_is_split_serves_twice_as_much() -> None:
    slow = storm.simulate(BUSY, sandboxes=400, policy=storm.PATIENT, service=storm.Service(rate=500))
    split = storm.simulate(BUSY, sandboxes=400, policy=storm.PATIENT, service=storm.Service(rate=500, split_after=1))
    assert split.over < 0.75 * slow.over
    prefix = storm._Prefix(storm.Service(rate=10, window=0.1, split_after=1))
    assert sum(prefix.admits(at / 1000) for at in range(1000)) == pytest.approx(10, abs=1)
    assert sum(prefix.admits(1.2 + at / 1000) for at in range(1000)) == pytest.approx(20, abs=2)


def test_a_client_that_gives_up_sends_nothing_more() -> None:
    service = storm.Service(rate=1, window=1, outliers=0.0)  # one request, and then none for long
    hasty = storm.Policy(name="hasty", attempts=1)
    outcome = storm.simulate(make_start(), sandboxes=5, policy=hasty, service=service)
    assert (outcome.failed, outcome.median, outcome.retries) == (5, None, 0)
    assert outcome.sent == 5 + 1  # the first one asked once more, for what its root had named
    brief = storm.Policy(name="brief", attempts=None, budget=0.5, backoff=storm.full_jitter(0.05, 0.1))
    outcome = storm.simulate(make_start(), sandboxes=5, policy=brief, service=service)
    assert outcome.failed == 5
    assert 0.4 < outcome.over < 1.5


def test_an_answer_that_is_too_late_is_a_failure() -> None:
    service = replace(CALM, outliers=1.0, late=(60.0, 60.0))
    outcome = storm.simulate(make_start(), sandboxes=1, policy=storm.Policy(name="two", attempts=2), service=service)
    assert (outcome.sent, outcome.timed_out, outcome.failed) == (2, 2, 1)
    assert outcome.over == pytest.approx(2 * storm.SOCKET_TIMEOUT + 2 * CALM.connect, abs=0.2)


def test_an_early_request_is_sent_once_and_what_it_was_to_bring_is_queued() -> None:
    start = make_start(early=(900_000, 900_000), queue=(900_000,), index=3, data=(), connections=3)
    service = replace(CALM, rate=1000, window=0.001)  # one of three that come at once
    patient = replace(storm.PATIENT, backoff=lambda *_: 0.1)
    outcome = storm.simulate(start, sandboxes=1, policy=patient, service=service)
    assert outcome.served == start.requests
    assert outcome.refused >= 2
    assert outcome.sent == outcome.served + outcome.refused
    # Two were refused for good as early ones; what was refused later was retried by whoever had it.
    assert outcome.retries == outcome.refused - 2


def test_gathering_saves_the_starts_that_a_counting_client_loses() -> None:
    service = storm.Service(rate=1000)
    gathered, lost, patient = (
        storm.simulate(BUSY, sandboxes=300, policy=policy, service=service) for policy in storm.POLICIES.values()
    )
    assert lost.failed > 0
    assert patient.failed == gathered.failed == 0
    assert gathered.sent < 0.5 * patient.sent
    assert gathered.median is not None
    assert patient.median is not None
    assert gathered.median < patient.median


def test_one_connection_alone_is_refused_less_often() -> None:
    service = storm.Service(rate=1000)
    alone = replace(storm.PATIENT, narrow=1)
    all_of_them, one = (
        storm.simulate(BUSY, sandboxes=300, policy=policy, service=service) for policy in (storm.PATIENT, alone)
    )
    assert one.failed == 0
    assert one.served == all_of_them.served == 300 * BUSY.requests
    assert one.refused < 0.8 * all_of_them.refused


def test_of_connections_that_are_refused_together_one_goes_on() -> None:
    # A token each tenth of a second: the first request gets one, then four connections are refused at once.
    service = replace(CALM, rate=10, window=0.1)
    start = make_start(queue=(900_000,) * 8, index=8, data=(), connections=4)
    policy = replace(storm.PATIENT, backoff=lambda *_: 0.1)
    all_of_them, one = (
        storm.simulate(start, sandboxes=1, policy=replace(policy, narrow=narrow), service=service)
        for narrow in (None, 1)
    )
    assert one.refused == one.retries + 3  # three left theirs to the fourth
    assert all_of_them.refused == all_of_them.retries > 2 * one.refused


def test_gathering_changes_nothing_where_nothing_is_refused() -> None:
    calm = storm.Service(rate=1e9)
    plain, gathered = (
        asdict(storm.simulate(BUSY, sandboxes=50, policy=policy, service=calm))
        for policy in (storm.COUNTING, storm.CLIENT)
    )
    assert plain | {"policy": ""} == gathered | {"policy": ""}


def test_the_report_has_every_storm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storm, "STORMS", ((20, 0.0), (20, 1.0)))
    outcomes = storm.storms(make_start())
    client = [(entry["spread"], entry["prefixes"]) for entry in outcomes if entry["policy"] == "client"]
    assert client == [(spread, prefixes) for spread in (0.0, 1.0) for prefixes in storm.PREFIXES]
    assert [entry["policy"] for entry in outcomes[len(client) :]] == ["patient", "counting", "counting"]
    json.dumps(outcomes)


def test_the_command_prints_json_and_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--boot-size", "9", "--data-size", "2", "--sandboxes", "30", "--prefixes", "1", "2"]
    assert storm.main([*arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [entry["prefixes"] for entry in printed["outcomes"]] == [1, 2]
    assert printed["start"]["connections"] == 6
    assert storm.main([*arguments, "--requests", "5", "--narrow", "1", "--merge", "8", "--budget", "9"]) == 0
    table = capsys.readouterr().out
    assert "A start: 5 requests" in table
    assert "goes on with 1 of its connections; asks for up to 8 MiB at once" in table
    assert "gives the start up 9 s after" in table
    assert table.count("| client, changed | 30 | at once |") == 2


def test_the_command_is_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.storm", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "--sandboxes" in done.stdout


# -- charts


@pytest.fixture
def charts() -> Any:
    """The module that draws, where matplotlib is installed."""
    pytest.importorskip("matplotlib", reason="charts need matplotlib, of the bench extra")
    from benchmarks import charts as module

    return module


def words_of(svg: Path) -> str:
    """Return all text of an SVG, its lines joined by spaces."""
    root = ET.fromstring(svg.read_text())
    return " ".join(text for entry in root.iter("{http://www.w3.org/2000/svg}text") for text in entry.itertext())


def test_charts_name_what_they_show(charts: Any, report: dict[str, Any], tmp_path: Path) -> None:
    files = charts.draw(report, tmp_path / "new")
    names = ["waterfall", "rivals", "cost", "ratios"]
    assert files == [tmp_path / "new" / f"{name}.{suffix}" for name in names for suffix in ("svg", "png")]
    words = {}
    for svg, png in zip(files[::2], files[1::2], strict=True):
        assert png.read_bytes().startswith(b"\x89PNG")
        assert svg.stat().st_size < 150_000
        assert "<image" not in svg.read_text()  # nothing is rasterised
        words[svg.stem] = words_of(svg)
        assert "A Processor @ 2.60GHz, 2 cores, Linux 6.1.0; CPython 3.13.0" in words[svg.stem]
    for name in ("warm", "lazydeps", "plain-zip", "zappa", "shiv"):
        assert LABELS[name] in words["rivals"]
        assert LABELS[name] in words["cost"]
    assert "9.80 s   9.8 ×" in words["rivals"]
    assert "Cold starts of science, 75 MiB/s, 2 cores" in words["rivals"]
    assert "US dollars for a million starts" in words["cost"]
    assert re.search(r"\$\d+\* ", words["cost"])
    assert "* takes more memory or storage than a function of this size has" in words["cost"]
    assert all(f"{size} MB" in words["cost"] for size in cost.MEMORY_SIZES)
    for name in ("numpy", "matplotlib.pyplot", "6 connections", "check, decompress, land"):
        assert name in words["waterfall"]
    assert all(f"science, {label}" in words["ratios"] for label in (MAIN, SLOW, TLS, QUOTA))
    assert "small, 3 Gbit/s, 2 cores" in words["ratios"]


@pytest.mark.parametrize("name", ["waterfall", "rivals", "cost", "ratios"])
def test_no_text_is_cut_off_or_covers_another(charts: Any, report: dict[str, Any], name: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    with charts.rc_context(charts.STYLE):
        figure = getattr(charts, f"draw_{name}")(report)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        off = {
            label
            for axes in figure.axes
            for axis in (axes.xaxis, axes.yaxis)
            for tick in axis.get_major_ticks()
            for label in (tick.label1, tick.label2)
            if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
        }
        texts = [
            (text.get_text(), text.get_window_extent(canvas.get_renderer()))
            for text in figure.findobj(Text)
            if text.get_visible() and text.get_text().strip() and text not in off
        ]
    assert len(texts) > 10
    whole = figure.bbox
    for text, box in texts:
        assert box.x0 >= whole.x0 - 1, text
        assert box.x1 <= whole.x1 + 1, text
        assert box.y0 >= whole.y0 - 1, text
        assert box.y1 <= whole.y1 + 1, text
    overlaps = [
        (one, other)
        for at, (one, box) in enumerate(texts)
        for other, beside in texts[at + 1 :]
        if min(box.x1, beside.x1) - max(box.x0, beside.x0) > 1 and min(box.y1, beside.y1) - max(box.y0, beside.y0) > 1
    ]
    assert overlaps == []


def test_a_start_of_thousands_of_frames_is_still_a_small_file(
    charts: Any, report: dict[str, Any], tmp_path: Path
) -> None:
    report["waterfall"] = make_waterfall(2400, together=60)
    with charts.rc_context(charts.STYLE):
        charts.draw_waterfall(report).savefig(tmp_path / "waterfall.svg")
    assert (tmp_path / "waterfall.svg").stat().st_size < 150_000


def test_each_wait_is_joined_to_its_frame(charts: Any, report: dict[str, Any]) -> None:
    pack = report["waterfall"]["report"]["packs"][0]
    with charts.rc_context(charts.STYLE):
        (axes,) = charts.draw_waterfall(report).axes
    joined = {tuple(line.get_xdata()) for line in axes.lines if line.get_color() == charts.VERMILLION}
    expected = {
        (stall["at"] + stall["seconds"], pack["frames"][stall["frame"]]["landed"])
        for stall in pack["stalls"]
        if stall["module"] != "(root)"
    }
    assert joined == expected
    assert len(expected) >= 3


def test_a_chart_without_figures_is_not_drawn(charts: Any, report: dict[str, Any], tmp_path: Path) -> None:
    report |= {"waterfall": None, "cost": []}
    assert {file.stem for file in charts.draw(report, tmp_path)} == {"rivals", "ratios"}
    report["summary"] = [line | {"ratio": None} for line in report["summary"] if line["contender"] == "lazydeps"]
    assert charts.draw(report, tmp_path) == []


def test_one_work_and_no_limit_are_enough(charts: Any, report: dict[str, Any], tmp_path: Path) -> None:
    report["summary"] = [
        line | {"ratio": None}
        for line in report["summary"]
        if line["contender"] in ("lazydeps", "shiv") and line["condition"] == SLOW
    ]
    report["cost"] = cost.estimate(report)
    assert {file.stem for file in charts.draw(report, tmp_path)} == {"waterfall", "rivals", "cost"}
    assert "By size of pack" not in words_of(tmp_path / "cost.svg")


def test_the_same_report_gives_the_same_file(charts: Any, report: dict[str, Any], tmp_path: Path) -> None:
    report |= {"cost": [], "summary": []}
    first, second = (charts.draw(report, tmp_path / name) for name in ("one", "two"))
    assert [file.name for file in first] == ["waterfall.svg", "waterfall.png"]
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
