"""Fuzz one target in this process, for a time: ``python -m tests.fuzz.work TARGET FOLDER SECONDS ENGINE SEED``.

Started by ``python -m tests.fuzz``, which watches it: memory is bounded, an input that takes too long is a finding, and
what runs just now stands in ``FOLDER/current``, so that even an interpreter that dies tells what killed it.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from mmap import mmap
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from .mutate import mutate

if __name__ == "__main__" and sys.argv[4:5] == ["atheris"]:
    import atheris

    with atheris.instrument_imports(include=["lazydeps"]):
        import lazydeps.build.trace  # noqa: F401  # its target imports it late

        from .targets import TARGETS, Target, name_of
else:
    from .targets import TARGETS, Target, name_of

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMORY = 1 << 30
"""Address space, bytes. A parser that asks for more has been talked into it."""
PATIENCE = 5.0
"""Seconds that one input may take."""
LARGEST = 1 << 16
"""Bytes of the largest input."""
SAME = 3
"""Crashes kept of each place in the code."""
CORPUS = Path(__file__).parent / "corpus"


class Hang(BaseException):
    """An input took too long. Not an `Exception`, so that nobody under test takes it for one of his."""


class Bench:
    """Runs inputs one by one, keeps count of them and files of the ones that matter."""

    def __init__(self, target: Target, folder: Path) -> None:
        self.target = target
        self.folder = folder
        self.runs = 0
        self.findings: dict[str, int] = {}
        for name in ("corpus", "crashes"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        with open(folder / "current", "w+b") as file:
            file.truncate(LARGEST + 8)
            self._current = mmap(file.fileno(), LARGEST + 8)
        signal.signal(signal.SIGALRM, self._late)

    @staticmethod
    def _late(*_: object) -> None:
        raise Hang(f"longer than {PATIENCE:g} seconds")

    def run(self, data: bytes) -> None:
        """Run one input; a finding is written down, not raised."""
        data = data[:LARGEST]
        self._current[: 8 + len(data)] = len(data).to_bytes(8, "little") + data
        self.runs += 1
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        try:
            self.target.run(data)
        except (Exception, Hang) as error:  # noqa: BLE001 - the target says which are right
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._note(data, error)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _note(self, data: bytes, error: BaseException) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{type(error).__name__} at {Path(frames[-1].filename).name}:{frames[-1].lineno}"
        if isinstance(error, AssertionError):
            place = f"{type(error).__name__}: {error}"[:120]
        self.findings[place] = self.findings.get(place, 0) + 1
        if self.findings[place] <= SAME:
            path = self.folder / "crashes" / name_of(data)
            path.write_bytes(data)
            words = "".join(traceback.format_exception(error))[-4000:]
            path.with_suffix(".txt").write_text(
                f"{words}\nreplay: {replay(self.target.name, path)}\n", "utf-8", "replace"
            )

    def keep(self, data: bytes) -> None:
        """Keep an input that reached something new."""
        (self.folder / "corpus" / name_of(data)).write_bytes(data)

    def inputs(self) -> list[bytes]:
        """Return what there is to start from: seeds, the kept corpus, what earlier runs found."""
        found = list(self.target.seeds())
        for folder in (CORPUS / self.target.name, self.folder / "corpus", self.folder / "crashes"):
            if folder.is_dir():
                found += [path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix != ".txt"]
        return list(dict.fromkeys(found))


def replay(target: str, path: Path) -> str:
    """Return the command that runs one input again, without nets."""
    return f"python -m tests.fuzz --target {target} --replay {path}"


@contextlib.contextmanager
def coverage() -> Iterator[list[int]]:
    """Count the lines of lazydeps that run for the first time, in a list of one number. Each line costs once only."""
    count = [0]
    monitoring: Any = getattr(sys, "monitoring", None)
    if monitoring is None:  # Python 3.11
        yield count
        return

    def first_time(code: Any, _line: int) -> Any:
        if "lazydeps" in code.co_filename:
            count[0] += 1
        return monitoring.DISABLE

    tool = monitoring.COVERAGE_ID
    monitoring.use_tool_id(tool, "fuzz")
    monitoring.register_callback(tool, monitoring.events.LINE, first_time)
    monitoring.set_events(tool, monitoring.events.LINE)
    try:
        yield count
    finally:
        monitoring.set_events(tool, 0)
        monitoring.free_tool_id(tool)


def by_mutation(bench: Bench, seconds: float, seed: int) -> dict[str, Any]:
    """Mutate inputs until the time is up, and go on from those that reach lines not seen before."""
    random = Random(seed)
    end = time.monotonic() + seconds
    kept = bench.inputs()
    with coverage() as lines:
        for data in kept:
            bench.run(data)
        before = lines[0]
        while time.monotonic() < end:
            data = mutate(random.choice(kept), random, tag=bench.target.tag, other=random.choice(kept), most=LARGEST)
            seen = lines[0]
            bench.run(data)
            if lines[0] > seen:
                kept.append(data)
                bench.keep(data)
        return {"lines": before, "new_lines": lines[0] - before}


def by_atheris(bench: Bench, seconds: float, seed: int) -> dict[str, Any]:
    """Let libFuzzer choose, guided by branches and comparisons; half of the mutations are ours, which know JSON."""
    start = bench.folder / "start"
    start.mkdir(exist_ok=True)
    for data in bench.inputs():
        (start / name_of(data)).write_bytes(data)
    kept = bench.inputs()

    def mutator(data: bytes, most: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < 0.5:
            return atheris.Mutate(data, most)
        return mutate(data, random, tag=bench.target.tag, other=random.choice(kept), most=most)

    # libFuzzer ends the process with `_exit`, so the report is written when an input comes after the time.
    end = time.monotonic() + seconds

    def one(data: bytes) -> None:
        bench.run(data)
        if time.monotonic() > end:
            report(bench, {"peak_mb": peak()})
            os._exit(0)

    options = [
        f"-seed={seed or 1}",
        f"-max_total_time={int(seconds) + 60}",
        f"-max_len={LARGEST}",
        "-timeout=0",
        "-handle_alrm=0",
        "-rss_limit_mb=0",
        f"-artifact_prefix={bench.folder}/crashes/",
    ]
    arguments = [sys.argv[0], *options, str(bench.folder / "corpus"), str(start)]
    atheris.Setup(arguments, one, custom_mutator=mutator)
    atheris.Fuzz()
    return {}


def report(bench: Bench, facts: dict[str, Any]) -> None:
    """Write what this run did, for the one who started it."""
    facts = {"target": bench.target.name, "runs": bench.runs, "findings": bench.findings, **facts}
    (bench.folder / "report.json").write_text(json.dumps(facts))


def peak() -> int:
    """Return the most memory that this process had in use, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main(arguments: list[str]) -> None:
    """Fuzz one target."""
    name, folder, seconds, engine, seed = arguments
    bench = Bench(TARGETS[name], Path(folder))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    run = by_atheris if engine == "atheris" else by_mutation
    facts = run(bench, float(seconds), int(seed))
    report(bench, {"peak_mb": peak(), **facts})


if __name__ == "__main__":
    main(sys.argv[1:])
