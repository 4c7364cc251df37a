"""Compare the runs of a suite test by test, and match what differs with what is known. Runs nothing, reads nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .projects import Difference
    from .runs import Outcome, Ran

MISSING = "not run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Differs:
    """A test whose outcomes differ."""

    test: str
    plain: tuple[str, ...]
    """Its outcome in each plain run, the first one first."""
    packed: tuple[str, ...]
    plain_text: str = ""
    packed_text: str = ""
    why: str = ""
    """The known reason; empty where there is none."""

    @property
    def unsteady(self) -> bool:
        """Whether the plain runs alone do not agree with each other: then the pack is not what makes the difference."""
        return len(set(self.plain)) > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What comparing a suite's runs gave."""

    equal: Mapping[str, int]
    """How many tests had the same outcome in both ways, by outcome."""
    failed_alike: tuple[str, ...]
    """Tests that failed in both ways."""
    differences: tuple[Differs, ...] = ()
    problems: tuple[str, ...] = field(default=())
    """What is wrong beside tests: a run that broke off, other wheels, modules that did not come from the pack."""
    stale: tuple[str, ...] = ()
    """Known differences that did not show."""

    @property
    def unexplained(self) -> tuple[Differs, ...]:
        """The differences that nobody has explained and that are the pack's."""
        return tuple(one for one in self.differences if not one.why and not one.unsteady)

    @property
    def good(self) -> bool:
        """Whether every test ended alike, or differs for a known reason."""
        return not self.unexplained and not self.problems and not self.stale

    @property
    def compared(self) -> int:
        """How many tests were compared."""
        return sum(self.equal.values()) + len(self.differences)


def differing(plain: Ran, packed: Ran) -> list[str]:
    """Return the tests whose outcomes differ, in order; one that ran in one way only differs too."""
    names = dict.fromkeys([*plain.outcomes, *packed.outcomes])
    return [name for name in names if _outcome(plain, name) != _outcome(packed, name)]


def judge(plain: Sequence[Ran], packed: Sequence[Ran], known: Sequence[Difference]) -> Verdict:
    """Compare runs.

    Args:
        plain: the whole suite first, then repetitions of the tests that differed.
        packed: the same from the pack.
        known: the differences that are explained.
    """
    first, other = plain[0], packed[0]
    names = differing(first, other)
    alike = [name for name in dict.fromkeys([*first.outcomes, *other.outcomes]) if name not in set(names)]
    used: set[Difference] = set()
    differences = []
    for name in names:
        found = Differs(
            test=name,
            plain=tuple(_outcome(run, name) for run in plain),
            packed=tuple(_outcome(run, name) for run in packed),
            plain_text=_text(plain, name),
            packed_text=_text(packed, name),
        )
        reasons = [one for one in known if _matches(one, found)]
        used.update(reasons)
        why = reasons[0].why if reasons else ""
        differences.append(
            Differs(**{slot: getattr(found, slot) for slot in Differs.__slots__ if slot != "why"}, why=why)
        )
    return Verdict(
        equal=dict(Counter(first.outcomes[name].outcome for name in alike)),
        failed_alike=tuple(name for name in alike if first.outcomes[name].outcome in ("failed", "error")),
        differences=tuple(differences),
        problems=tuple(_problems(first, other)),
        stale=tuple(one.test for one in known if one not in used),
    )


def _matches(known: Difference, found: Differs) -> bool:
    named = found.test == known.test or fnmatchcase(found.test, known.test)
    return named and set(found.plain) == {known.plain} and set(found.packed) == {known.packed}


def _problems(plain: Ran, packed: Ran) -> list[str]:
    problems = [f"{way}: {run.broken}" for way, run in (("plain", plain), ("packed", packed)) if run.broken]
    if problems:
        return problems
    if plain.wheels != packed.wheels:
        names = [name for name in plain.wheels if plain.wheels[name] != packed.wheels.get(name)]
        problems.append(f"not the same wheels in both ways: {', '.join(names)}")
    if packed.strays:
        problems.append(f"modules of the pack that its loaders did not bring: {', '.join(packed.strays[:5])}")
    return problems


def _outcome(run: Ran, name: str) -> str:
    outcome: Outcome | None = run.outcomes.get(name)
    return MISSING if outcome is None else outcome.outcome


def _text(runs: Sequence[Ran], name: str) -> str:
    return next((run.outcomes[name].text for run in runs if name in run.outcomes and run.outcomes[name].text), "")
