"""What a million cold starts cost: init GB-seconds by memory size, GET requests, ephemeral storage.

An estimate from a report's figures and the prices in ``prices.toml``; it measures nothing and reads nothing else. What
every contender pays alike stays out: the invocation itself, its request charge, Lambda's own start of the runtime.
"""

from __future__ import annotations

import math
import tomllib
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import date

PRICES = Path(__file__).with_name("prices.toml")
STARTS = 1_000_000
MEMORY_SIZES = (512, 1769, 3008)
"""MB. The second one is a whole vCPU; see https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html."""
MB_A_CORE = 1769
INIT_LIMIT = 10.0
"""Seconds; see https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html."""
REFERENCE_LINK = 375e6
"""Bytes a second, 3 Gbit/s."""
QUOTA_TOLERANCE = 0.05
"""By how much, relatively, a quota may miss a memory size's share of the processor and still stand for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """``prices.toml``, read. Money is in `currency`."""

    region: str
    currency: str
    init_billed_since: date
    compute: Mapping[str, float]
    """A GB-second by architecture, ``x86_64`` and ``arm64``. A GB is 1024 MB."""
    storage: float
    """A GB-second of ephemeral storage above `free_storage`."""
    free_storage: int
    """MB."""
    most_storage: int
    """MB that a function can have at most."""
    get: float
    """One GET."""
    transfer: float
    """A GB from S3 to a function in the bucket's region."""
    published: date
    """The day of the oldest price list among them."""

    @classmethod
    def read(cls, path: Path = PRICES) -> Prices:
        """Read the price table.

        Raises:
            KeyError: a price is missing, or one has no unit, day or source.
        """
        table = tomllib.loads(path.read_text())
        priced = [*table["compute"].values(), table["storage"], table["get"], table["transfer"]]
        for entry in priced:
            for key in ("price", "per", "published", "source"):
                entry[key]  # a price that nobody can check is none
        return cls(
            region=table["region"],
            currency=table["currency"],
            init_billed_since=table["init"]["billed_since"],
            compute={name: entry["price"] for name, entry in table["compute"].items()},
            storage=table["storage"]["price"],
            free_storage=table["storage"]["free_mb"],
            most_storage=table["storage"]["most_mb"],
            get=table["get"]["price"],
            transfer=table["transfer"]["price"],
            published=min(entry["published"] for entry in priced),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one start uses."""

    seconds: float
    """Init, wall clock."""
    memory: int
    """MB that the function is configured with."""
    storage: int
    """MB of ephemeral storage that it is configured with."""
    requests: float
    received: float
    """Bytes."""

    @property
    def billed(self) -> float:
        """Seconds as Lambda bills them: rounded up to whole milliseconds."""
        return math.ceil(round(self.seconds * 1000, 6)) / 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """What starts cost, in the currency of the prices."""

    init: float
    requests: float
    storage: float
    transfer: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.init + self.requests + self.storage + self.transfer


def price(usage: Usage, prices: Prices, *, architecture: str, starts: int = STARTS) -> Money:
    """Return what ``starts`` starts cost."""
    extra = max(0, usage.storage - prices.free_storage)
    return Money(
        init=starts * usage.billed * usage.memory / 1024 * prices.compute[architecture],
        requests=starts * usage.requests * prices.get,
        storage=starts * usage.billed * extra / 1024 * prices.storage,
        transfer=starts * usage.received / 1024**3 * prices.transfer,
    )


def estimate(report: Mapping[str, Any], prices: Prices | None = None) -> list[dict[str, Any]]:
    """Price a million cold starts of every contender that has a summary at a reference condition of its work.

    Lambda lends an init about two processors whatever the memory size, so that a reference, which has no CPU quota, is
    what an init costs at best. Where the report has the same link with the quota that stands for the memory size, its
    seconds are taken: what a start costs without that loan.

    Args:
        report: the benchmark's report: ``conditions``, ``summary`` and, where it has them, ``observations``.
        prices: the price table. None: the one beside this module.

    Returns:
        One record for each contender, work, `reference_conditions` entry (``reference``), memory size (``memory_mb``)
        and ``architecture``: ``init_seconds`` and the ``condition`` they were measured under, ``gb_seconds`` of all
        ``starts``, ``init``, ``requests``, ``storage``, ``transfer`` and ``total`` in ``currency``; the
        ``reference_total``, with the reference's own seconds, by which contenders compare; ``storage_mb``; ``fits``,
        whether the peaks that were seen fit into this memory and storage (None where none were seen); and
        ``assumed``, sentences without which the figures say too much.
    """
    prices = prices or Prices.read()
    conditions: Mapping[str, Any] = report["conditions"]
    medians = {(row["contender"], row["work"], row["condition"]): row["median"] for row in report["summary"]}
    references = reference_conditions(report)
    records = []
    for (contender, work, reference), seconds in medians.items():
        if reference not in references[work]:
            continue
        seen = _observed(report.get("observations", ()), contender, work, reference)
        for memory in MEMORY_SIZES:
            measured = next(
                (label for label in _with_quota(conditions, reference, memory) if (contender, work, label) in medians),
                reference,
            )
            at_best = _usage(prices, seen, seconds=seconds, memory=memory)
            usage = replace(at_best, seconds=medians[contender, work, measured])
            records += [
                {
                    "contender": contender,
                    "work": work,
                    "reference": reference,
                    "memory_mb": memory,
                    "architecture": architecture,
                    "condition": measured,
                    **_priced(prices, usage, architecture),
                    "reference_total": price(at_best, prices, architecture=architecture).total,
                    "fits": _fits(prices, seen, usage),
                    "assumed": _assumptions(prices, conditions[measured], usage, observed=seen is not None),
                }
                for architecture in sorted(prices.compute, reverse=True)
            ]
    return records


def reference_conditions(report: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return, for each work, the labels of the conditions that are priced; they have neither TLS nor a CPU quota.

    The first is the one that most contenders were measured under, so that they can be compared. The second, where it
    is another, is the one that most works were measured under, so that those can be. Between equals the link nearest
    to 3 Gbit/s decides, then the number of cores. A work without any such condition has none.
    """
    conditions = report["conditions"]
    plain = [label for label, facts in conditions.items() if facts["quota"] is None and not facts["tls"]]
    measured: dict[str, Counter[str]] = {}
    for row in report["summary"]:
        measured.setdefault(row["work"], Counter())[row["condition"]] += 1

    def best(labels: Iterable[str], counts: Mapping[str, int]) -> str | None:
        return min(labels, key=lambda label: (-counts[label], *_distance(conditions[label])), default=None)

    works = Counter(label for counts in measured.values() for label in counts)
    common = best((label for label in plain if label in works), works)
    references = {}
    for work, counts in measured.items():
        first = best((label for label in plain if label in counts), counts)
        second = common if common in counts else None
        references[work] = [label for label in dict.fromkeys((first, second)) if label is not None]
    return references


def _distance(facts: Mapping[str, Any]) -> tuple[float, int]:
    # A link of 0 is not shaped at all, which is farther from 3 Gbit/s than any shaped one.
    link = abs(math.log(facts["link"] / REFERENCE_LINK)) if facts["link"] else math.inf
    return link, -facts["cores"]


def _with_quota(conditions: Mapping[str, Any], reference: str, memory: int) -> list[str]:
    """Return the labels of the conditions with the reference's link and the CPU quota of this memory size."""
    share = memory / MB_A_CORE
    return [
        label
        for label, facts in conditions.items()
        if facts["quota"] is not None
        and abs(facts["quota"] - share) <= QUOTA_TOLERANCE * share
        and (facts["link"], facts["tls"]) == (conditions[reference]["link"], False)
    ]


def _observed(
    observations: Iterable[Mapping[str, Any]], contender: str, work: str, condition: str
) -> Mapping[str, Any] | None:
    found = [seen for seen in observations if (seen["contender"], seen["work"]) == (contender, work)]
    return next((seen for seen in found if seen["condition"] == condition), found[0] if found else None)


def _usage(prices: Prices, seen: Mapping[str, Any] | None, *, seconds: float, memory: int) -> Usage:
    return Usage(
        seconds=seconds,
        memory=memory,
        storage=max(prices.free_storage, math.ceil(seen["peak_store"] / 2**20) if seen else 0),
        requests=seen["requests"] if seen else 0,
        received=seen["bytes_received"] if seen else 0,
    )


def _fits(prices: Prices, seen: Mapping[str, Any] | None, usage: Usage) -> bool | None:
    if seen is None or seen["peak_memory"] is None:
        return None
    return bool(seen["peak_memory"] <= usage.memory * 2**20 and usage.storage <= prices.most_storage)


def _priced(prices: Prices, usage: Usage, architecture: str) -> dict[str, Any]:
    money = price(usage, prices, architecture=architecture)
    return {
        "starts": STARTS,
        "init_seconds": usage.seconds,
        "gb_seconds": STARTS * usage.billed * usage.memory / 1024,
        "storage_mb": usage.storage,
        **asdict(money),
        "total": money.total,
        "currency": prices.currency,
        "region": prices.region,
    }


def _assumptions(prices: Prices, condition: Mapping[str, Any], usage: Usage, *, observed: bool) -> list[str]:
    """Say what the figures take for granted."""
    quota = condition["quota"]
    if quota is not None:
        speed = (
            f"The seconds were measured under a CPU quota of {quota:.3g}, the share of {usage.memory} MB. Lambda lends "
            "an init more than that, so that a real one is shorter."
        )
    else:
        speed = (
            f"The seconds were measured with {condition['cores']} cores and no CPU quota, not at {usage.memory} MB: "
            "it is taken for granted that Lambda lends an init that much, whatever its memory."
        )
    sentences = [
        f"List prices of {prices.region} as of {prices.published}, first tier, no free tier, no savings plan.",
        f"All of the start is init, billed since {prices.init_billed_since}, in whole milliseconds.",
        speed,
        "The processor is the one measured on, whatever the architecture: arm64 is taken to be as fast.",
        "Bucket and function are in one region: no data transfer is billed.",
    ]
    if observed:
        sentences.append(
            "Ephemeral storage is set to the peak that was seen, without any to spare, and at least to what is free."
        )
    else:
        sentences.append("Requests and storage were not observed for this contender: none are counted.")
    if usage.seconds > INIT_LIMIT:
        sentences.append(
            f"This start takes longer than the {INIT_LIMIT:g} seconds that an init has: Lambda would stop it and begin "
            "again in the first invocation. It is counted once."
        )
    return sentences
