"""How long a cold start takes, by a small model: an estimate with a range, and no measurement.

Its constants come from the run in ``docs/benchmarks.md``; `tests/test_build_plan.py` holds the model against that
page's table. What Lambda itself takes to start a sandbox and the runtime is in none of its figures.
"""

from __future__ import annotations

from dataclasses import dataclass

MB_A_CORE = 1769
"""Memory that stands for one vCPU (AWS, "Configure Lambda function memory")."""
MOST_CORES = 2.0
"""More do not help: one thread imports and one worker unpacks."""
INIT_CORES = 1.0
"""vCPUs that an init is taken to get at least, whatever the memory size; Lambda lends one to two. An assumption."""
SUSTAINED = 75 * 2.0**20
"""Bytes a second that a function receives in the long run."""
BURST = 375e6
"""Bytes a second, 3 Gbit/s, while the burst lasts; a cautious figure for what is published as up to 1.2 GiB/s."""
BURST_BYTES = 300 * 2.0**20
"""Bytes that come at the burst's rate."""
INTERPRETER = 0.02
"""Seconds from the start of a process to its first import, CPython 3.13."""
FIXED = 0.03
"""Seconds that lazydeps adds to a start with hardly a byte to fetch (``small``: 0.127 to 0.098)."""
UNPACK = 4.4e-9
"""CPU seconds for each packed byte to receive, check, decompress and land (``science`` 0.26 s for 60.6 MB, ``frames``
0.29 s for 64.5 MB)."""
OVERLAP = 0.3
"""What part of the shorter of the two, importing and receiving, is not hidden behind the longer one (``science`` at
75 MiB/s: 1.257 s where the longer takes 0.97 and the shorter 0.77)."""
NO_BYTECODE = 3.4
"""By how much the same import takes longer without bytecode (``science``; 2.2 for ``small`` and 4.3 for ``frames``)."""
SPREAD = 0.15
"""By how much, relatively, the model misses the benchmark's medians at most; the estimates' range adds it."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a start has to do. Seconds are those of a warm import from a local disk, on one core of some machine."""

    wall: float
    """Seconds of the imports, interpreter not counted."""
    cpu: float
    """CPU seconds of the same, child processes and threads included."""
    received: float
    """Packed bytes of the boot and data sets."""
    compiling: float | None = None
    """Seconds of the same imports without bytecode; None: `NO_BYTECODE` times `wall`."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A start with one memory size. Seconds."""

    memory: int
    """MB."""
    low: float
    """In the burst, the spread taken off."""
    expected: float
    """In the burst."""
    high: float
    """At the sustained rate, the spread put on."""
    unlent: float
    """At the sustained rate, where Lambda lends the init no processor beyond the memory size's share."""
    zip_bytecode: float
    """The packages in the function's zip file with bytecode, as `lazydeps package` puts it there."""
    zip_plain: float
    """The packages in the zip file as pip installs them there: each start compiles, as the disk is read-only."""


def cores_of(memory: int) -> float:
    """Return the vCPUs that a memory size, MB, stands for, up to what a start can use."""
    return min(MOST_CORES, memory / MB_A_CORE)


def local_start(work: Work, *, cores: float) -> float:
    """Return the seconds of a start whose packages, with bytecode, lie on a local disk."""
    return max((work.wall + INTERPRETER) / min(1.0, cores), (work.cpu + INTERPRETER) / cores)


def plain_start(work: Work, *, cores: float) -> float:
    """Return the seconds of a start whose packages lie on a local disk without bytecode."""
    compiling = work.compiling if work.compiling is not None else NO_BYTECODE * work.wall
    return (compiling + INTERPRETER) / min(1.0, cores)


def packed_start(work: Work, *, cores: float, link: float) -> float:
    """Return the seconds of a start with lazydeps, from an empty ``/tmp``.

    The longer of importing and receiving, a part of the shorter, and what is fixed. Unpacking takes its share of the
    cores: of a single one all of it, of two hardly any.

    Args:
        work: what there is to do.
        cores: vCPUs, or parts of one.
        link: bytes a second.
    """
    unpack = UNPACK * work.received
    importing = max(local_start(work, cores=cores), (work.cpu + INTERPRETER + unpack) / cores)
    receiving = max(work.received / link, unpack)
    return FIXED / min(1.0, cores) + max(importing, receiving) + OVERLAP * min(importing, work.received / link)


def burst_link(received: float) -> float:
    """Return the mean rate, bytes a second, at which so many bytes come when the burst is unspent."""
    if received <= BURST_BYTES:
        return BURST
    return received / (BURST_BYTES / BURST + (received - BURST_BYTES) / SUSTAINED)


def estimate(work: Work, memory: int) -> Estimate:
    """Return what a start is expected to take with a memory size, MB."""
    lent = min(MOST_CORES, max(INIT_CORES, cores_of(memory)))
    expected = packed_start(work, cores=lent, link=burst_link(work.received))
    slow = packed_start(work, cores=lent, link=SUSTAINED)
    return Estimate(
        memory=memory,
        low=expected * (1 - SPREAD),
        expected=expected,
        high=slow * (1 + SPREAD),
        unlent=packed_start(work, cores=cores_of(memory), link=SUSTAINED),
        zip_bytecode=local_start(work, cores=lent),
        zip_plain=plain_start(work, cores=lent),
    )
