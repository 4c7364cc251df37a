"""The projects and their suites, as ``projects.toml`` describes them. Records only; nothing here runs anything."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE = Path(__file__).with_name("projects.toml")
WAYS = ("wheel", "sdist", "uses")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A difference that is known, with its reason."""

    test: str
    """The test's name, or a pattern of `fnmatch`."""
    plain: str
    packed: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A test that is run in neither way."""

    test: str
    """The test's name, or a pattern of `fnmatch`."""
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Tests that are run in both ways."""

    what: str
    """What they are, in a few words."""
    where: str
    """``wheel``: they lie in the pack, which is then waited for as a whole. ``sdist``: they are taken out of the
    project's source distribution; ``uses``: they are ours, in ``uses/``. Both lie outside of the pack, which only
    streams."""
    select: tuple[str, ...]
    """Modules for pytest's ``--pyargs`` (wheel), or files."""
    sdist: str = ""
    """The pinned project whose source distribution has the tests."""
    folders: Mapping[str, str] = field(default_factory=dict)
    """What is taken out of it: folder in the source distribution → name here."""
    options: tuple[str, ...] = ()
    """Further arguments of pytest."""
    ini: tuple[str, ...] = ()
    """Lines of pytest's configuration that the suite relies on."""
    import_mode: str = "append"
    """``append``: nothing but the pack's finder answers first. ``prepend``: for a suite in a folder named ``test``."""
    timeout: float = 600.0
    """Seconds for one way."""
    left_out: tuple[LeftOut, ...] = ()
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A pack and its suites."""

    name: str
    requirements: tuple[str, ...]
    """What is packed: pinned; what they bring along is resolved once, for both ways."""
    imports: str
    """Statements: what is recorded for the pack, and what runs while it streams."""
    modules: tuple[str, ...]
    """Modules that must come from the pack."""
    tools: tuple[str, ...] = ()
    """What the suites need beside pytest, installed in both ways and in no pack."""
    suites: tuple[Suite, ...]

    @property
    def version(self) -> str:
        """The version that is tested: that of the first requirement."""
        return self.requirements[0].partition("==")[2]


def load(path: Path = FILE) -> tuple[tuple[str, ...], dict[str, Project]]:
    """Read the projects; return the tools of every run, and the projects by name.

    Raises:
        ValueError: the file says something that nobody reads, or leaves out what is needed.
    """
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    projects = {}
    for table in document["project"]:
        suites = tuple(_suite(suite) for suite in table.pop("suite"))
        projects[table["name"]] = _record(Project, {**table, "suites": suites})
    return tuple(document["tools"]), projects


def _suite(table: dict[str, Any]) -> Suite:
    made = {
        "differences": tuple(one for group in table.pop("difference", ()) for one in _differences(group)),
        "left_out": tuple(_record(LeftOut, one) for one in table.pop("left_out", ())),
    }
    suite: Suite = _record(Suite, {**table, **made})
    if suite.where not in WAYS:
        raise ValueError(f"{suite.what}: `where` is one of {', '.join(WAYS)}; found {suite.where!r}")
    if (suite.where == "sdist") != bool(suite.sdist and suite.folders):
        raise ValueError(
            f"{suite.what}: `sdist` and `folders` belong to suites from a source distribution, and to no others"
        )
    return suite


def _differences(table: dict[str, Any]) -> list[Difference]:
    """Return the differences of one table: ``test`` may be a list of tests that differ for one reason."""
    named = table["test"]
    return [_record(Difference, {**table, "test": test}) for test in ([named] if isinstance(named, str) else named)]


def _record(kind: Any, table: Mapping[str, Any]) -> Any:
    known = {one.name for one in fields(kind)}
    if unknown := set(table) - known:
        raise ValueError(
            f"{table}: unknown {', '.join(sorted(unknown))}; a {kind.__name__} has {', '.join(sorted(known))}"
        )
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in table.items()})
