"""The benchmark's nouns: works, contenders, builds, conditions, samples. Records only; nothing here runs anything."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class NotRun(Exception):
    """A contender cannot run here. The message is the reason, and stands in the report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a handler imports."""

    name: str
    requirements: tuple[str, ...]
    """Pinned, so that two runs compare the same thing."""
    statements: str
    """Python statements: the imports that must be done before the handler can answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What the starts of one contender need for one work. Made once, before the first start."""

    argv: tuple[str, ...]
    """The process to start. Its program reads the variables that `Start` describes."""
    environ: Mapping[str, str] = field(default_factory=dict)
    """Added to the variables that every start gets."""
    objects: Mapping[str, Path] = field(default_factory=dict)
    """What the object server serves for it: key to file."""
    note: str = ""
    """What a reader must know to judge the figure fairly; stands under the table."""


class Contender(Protocol):
    """A way to bring a work's packages into a fresh process.

    A start is a fresh process with these variables beside `Built.environ`:

    - ``AWS_ENDPOINT_URL``, ``AWS_REGION``, ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``: the object server;
    - ``BENCH_BUCKET``: the bucket; the objects are at ``{AWS_ENDPOINT_URL}/{BENCH_BUCKET}/{key}``;
    - ``BENCH_TMP``: an empty folder that stands for ``/tmp``; also ``TMPDIR`` and ``HOME``;
    - ``BENCH_IMPORTS``: `Work.statements`;
    - ``BENCH_READY``: a file descriptor. When the imports are done and the handler could answer, the program writes
      one JSON object to it (``{}`` or facts worth reporting). The clock, the parent's, runs from the start of the
      process to that write.
    """

    name: str
    """Short, for tables and the command line: ``lazydeps``, ``plain-zip``."""
    label: str
    """For people: what it is, with its version."""

    def build(self, work: Work, kit: Kit) -> Built:
        """Make what the starts need, or find it where an earlier run made it.

        Raises:
            NotRun: it cannot run here.
        """


class Kit(Protocol):
    """What `Contender.build` may use. Everything made is kept under one untracked folder and found again."""

    python: Path
    """A working interpreter of the version measured."""
    minor: str
    """Its minor version, ``3.13``."""

    def folder(self, *key: str) -> Path:
        """Return a folder of its own for this key, created, and the same one in later runs."""

    def environment(self, name: str, *requirements: str) -> Path:
        """Return the interpreter of a virtual environment with these pinned requirements and bytecode compiled."""

    def site_packages(self, work: Work) -> Path:
        """Return the work's packages as a plain folder with valid bytecode, as `pip install --target` leaves it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What a start has at its disposal."""

    link: float
    """Bytes a second over all connections; 0: not shaped."""
    cores: int
    tls: bool = False
    quota: float | None = None
    """CPU seconds a second that a cgroup allows; None: no quota."""
    label: str = ""
    """For people: ``3 Gbit/s, 2 cores``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One start."""

    contender: str
    work: str
    condition: str
    round: int
    seconds: float
    """From the start of the process until it was ready."""
    cpu_seconds: float
    """User and system time of the process and its children, server not included, until its end."""
    facts: Mapping[str, Any]
    """What the program wrote when it was ready."""
