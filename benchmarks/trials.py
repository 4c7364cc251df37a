"""What is run in which order: trials, their rounds, and what came of them. Knows no command line, writes no report."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.conditions import CONDITIONS, MAIN, SLOW, arranged
from benchmarks.contenders.lazy import drawn
from benchmarks.model import NotRun, Sample
from benchmarks.starts import StartFailed, count_system_calls, measure_bare, observe, start

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.conditions import Place
    from benchmarks.model import Built, Condition, Contender, Kit, Work
    from benchmarks.starts import Scratch

LIMIT = "warm"
OURS = "lazydeps"
BESIDE = ("no-bytecode", "lazydeps-refill", "lazydeps-5x")
"""What science is also measured with under the main condition; none of it downloads more than lazydeps does."""
DRAWN = 5
BARE_ROUNDS = 20
SECOND_STARTS = ("lazydeps-refill",)
"""What differs from its own first start, and is observed when that is over."""
TRACED = 2.0
"""Seconds that a contender's fastest start may take to have its system calls counted: strace makes the extraction of
thousands of files take half a minute."""
WORTH_TELLING = 1.0
"""Seconds of work that are told about."""
GUESS = 1.5
"""Seconds of one of lazydeps' starts, for the time that is left before any has been measured."""
RIVAL = 5.0
"""Times as long as that: what extracts everything first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Contenders that take turns with one work under one condition."""

    condition: Condition
    work: Work
    contenders: tuple[str, ...]
    rounds: int


def plan(works: Sequence[Work], contenders: Sequence[str], *, rounds: int, quick: bool) -> list[Trial]:
    """Return what a run measures when nobody asks for anything else: as much as 20 minutes allow.

    Every condition with lazydeps and the limit for science; the rivals, whose starts take seconds, for science on the
    slow link; the other works under the main condition.
    """

    def trial(condition: Condition, work: Work, names: Sequence[str]) -> Trial:
        chosen = tuple(name for name in contenders if name in names)
        return Trial(condition=condition, work=work, contenders=chosen, rounds=rounds)

    both = (LIMIT, OURS)
    rivals = [name for name in contenders if not name.startswith(OURS) and name not in (*both, "no-bytecode")]
    trials = []
    for work in works:
        if work.name != "science":
            trials.append(trial(MAIN, work, (*both, "no-bytecode")))
            continue
        trials.append(trial(MAIN, work, (*both, *BESIDE)))
        trials.append(trial(SLOW, work, (*both, *rivals)))
        if not quick:
            trials += [trial(condition, work, both) for condition in CONDITIONS if condition not in (MAIN, SLOW)]
    return trials


@dataclass(slots=True)
class Results:
    """What has been measured so far."""

    tell: Callable[[str], None]
    """Shows a line to whoever waits."""
    samples: list[Sample] = field(default_factory=list)
    observations: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    not_run: list[dict[str, str]] = field(default_factory=list)
    bare: dict[str, list[float]] = field(default_factory=dict)
    """See `starts.measure_bare`."""
    shaped_by: dict[str, str] = field(default_factory=dict)
    """What shaped the link, by the condition's label; see `conditions.Place`."""
    waterfall: dict[str, Any] | None = None
    """Its ``condition``, ``work``, ``report``, ``imports`` and ``ready``; see `programs/waterfall.py`."""

    def skip(self, contender: str, work: str, reason: str) -> None:
        """Say what does not run, and why; once."""
        entry = {"contender": contender, "work": work, "reason": reason}
        if entry not in self.not_run:
            self.not_run.append(entry)
            self.tell(f"  not run: {contender}, {work}: {reason}")

    def observed(self, contender: str, work: str) -> dict[str, Any] | None:
        """Return the observation of a contender, if there is one already."""
        found = (entry for entry in self.observations if (entry["contender"], entry["work"]) == (contender, work))
        return next(found, None)


def build(
    trials: Sequence[Trial], contenders: Mapping[str, Contender], kit: Kit, results: Results
) -> dict[tuple[str, str], Built]:
    """Make what the starts need, by contender and work. What cannot be made is not run.

    Two at a time: most of them are single processes that compress.
    """
    wanted = {(name, trial.work.name): trial.work for trial in trials for name in trial.contenders}

    def make(name: str, work: Work) -> Built:
        began = time.monotonic()
        made = contenders[name].build(work, kit)
        if time.monotonic() - began > WORTH_TELLING:
            results.tell(f"  made {name} for {work.name} in {time.monotonic() - began:.0f} s")
        return made

    built: dict[tuple[str, str], Built] = {}
    with ThreadPoolExecutor(max_workers=2) as pool:
        futures = {key: pool.submit(make, key[0], work) for key, work in wanted.items()}
        try:
            for key, future in futures.items():
                try:
                    built[key] = future.result()
                except NotRun as error:
                    results.skip(*key, str(error))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # what runs is waited for, what has not begun is not
            raise
    results.notes = {name: one.note for (name, _), one in built.items() if one.note}
    return built


def measure(
    trials: Sequence[Trial],
    built: Mapping[tuple[str, str], Built],
    scratch: Scratch,
    folder: Path,
    results: Results,
    *,
    observing: bool,
    namespaces: bool = True,
) -> None:
    """Run every trial.

    Args:
        trials: what to run.
        built: what their starts need.
        scratch: folders for the starts.
        folder: of this run, for certificates.
        results: where everything goes.
        observing: whether also to observe memory, files and system calls, once for each contender and work.
        namespaces: see `conditions.arranged`.
    """
    clock = _Clock(trials)
    for trial in trials:
        mine = {name: built[name, trial.work.name] for name in trial.contenders if (name, trial.work.name) in built}
        if not mine:
            clock.done()
            continue
        objects = {key: path for one in mine.values() for key, path in one.objects.items()}
        results.tell(f"{trial.work.name}, {trial.condition.label}: {', '.join(mine)}  ({clock.left()})")
        try:
            with arranged(trial.condition, objects, folder, namespaces=namespaces) as place:
                results.shaped_by[trial.condition.label] = place.shaped_by
                run_rounds(trial, mine, place, scratch, results, observing=observing)
                if observing:
                    _finish_observations(trial, mine, place, scratch, results)
                    if OURS in mine and results.waterfall is None:
                        _draw(trial, mine[OURS], place, scratch, results)
        except NotRun as error:
            for name in mine:
                results.skip(name, trial.work.name, f"{trial.condition.label}: {error}")
        clock.done()


def run_rounds(
    trial: Trial, built: Mapping[str, Built], place: Place, scratch: Scratch, results: Results, *, observing: bool
) -> None:
    """Let the contenders take turns.

    The first round, which warms the page cache, is not timed, so that what slows a start can be observed in it. Each
    round begins with another contender: nobody always comes after the same neighbour.
    """
    names = list(built)
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    for number in range(trial.rounds + 1):
        turn = number % len(names) if names else 0
        for name in names[turn:] + names[:turn]:
            try:
                if number:
                    samples[name].append(_time(trial, name, built[name], place, scratch, number))
                elif observing and name not in SECOND_STARTS and not results.observed(name, trial.work.name):
                    _observe(trial, name, built[name], place, scratch, results)
                else:
                    start(built[name], trial.work, place, scratch.new())
            except StartFailed as error:
                results.skip(name, trial.work.name, f"{trial.condition.label}: {error}")
                names.remove(name)
        scratch.end_round()
    for name in names:
        results.samples += samples[name]
        seconds = sorted(sample.seconds for sample in samples[name])
        results.tell(f"  {name:16} {seconds[len(seconds) // 2]:6.3f} s  [{seconds[0]:.3f} - {seconds[-1]:.3f}]")


def _time(trial: Trial, name: str, built: Built, place: Place, scratch: Scratch, number: int) -> Sample:
    before = place.server.counters()
    outcome = start(built, trial.work, place, scratch.new())
    after = place.server.counters()
    return Sample(
        contender=name,
        work=trial.work.name,
        condition=trial.condition.label,
        round=number,
        seconds=outcome.seconds,
        cpu_seconds=outcome.cpu_seconds,
        facts={**outcome.facts, "server": {key: after[key] - before[key] for key in after}},
    )


def _observe(trial: Trial, name: str, built: Built, place: Place, scratch: Scratch, results: Results) -> None:
    results.observations.append(
        {
            "contender": name,
            "work": trial.work.name,
            "condition": trial.condition.label,
            **asdict(observe(built, trial.work, place, scratch)),
            "system_calls": None,
            "system_calls_by_name": {},
        }
    )


def _finish_observations(
    trial: Trial, built: Mapping[str, Built], place: Place, scratch: Scratch, results: Results
) -> None:
    """Observe what can only be observed after the rounds, and count the system calls of those who are quick."""
    fastest: dict[str, float] = {}
    for sample in results.samples:
        if (sample.work, sample.condition) == (trial.work.name, trial.condition.label):
            fastest[sample.contender] = min(sample.seconds, fastest.get(sample.contender, sample.seconds))
    for name, seconds in fastest.items():
        with contextlib.suppress(StartFailed):  # a start that went well before: strace may not look, say
            if not results.observed(name, trial.work.name):
                _observe(trial, name, built[name], place, scratch, results)
            seen = results.observed(name, trial.work.name)
            if seen is not None and seen["system_calls"] is None and seconds < TRACED:
                calls = count_system_calls(built[name], trial.work, place, scratch)
                seen["system_calls_by_name"] = calls
                seen["system_calls"] = sum(calls.values()) or None
        scratch.end_round()


def _draw(trial: Trial, built: Built, place: Place, scratch: Scratch, results: Results) -> None:
    """Take what is drawn of one start, the median one of a few; and the bare figures, which need no work."""
    with contextlib.suppress(StartFailed):
        facts = [start(drawn(built), trial.work, place, scratch.new()).facts for _ in range(DRAWN)]
        middle = sorted(facts, key=lambda entry: float(entry["ready"]))[DRAWN // 2]
        results.waterfall = {"condition": trial.condition.label, "work": trial.work.name, **middle}
        results.bare = measure_bare(Path(built.argv[0]), place, scratch, BARE_ROUNDS)
    scratch.end_round()


class _Clock:
    """Guesses how long the rest takes, from what the trials that are done took."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._left = [self._weigh(trial) for trial in trials]
        self._began = time.monotonic()
        self._done = 0.0

    @staticmethod
    def _weigh(trial: Trial) -> float:
        """Return about how many of lazydeps' starts a trial is worth."""
        slowness = 1.0 if trial.condition.quota is None else max(1.0, 1 / trial.condition.quota)
        light = (LIMIT, *BESIDE)
        starts = sum(1.0 if name in light or name.startswith(OURS) else RIVAL for name in trial.contenders)
        return starts * slowness * (trial.rounds + 1)

    def done(self) -> None:
        """Count the next trial as done."""
        self._done += self._left.pop(0)

    def left(self) -> str:
        """Spell the time that is left."""
        each = (time.monotonic() - self._began) / self._done if self._done else GUESS
        return f"about {sum(self._left) * each / 60:.0f} min left"
