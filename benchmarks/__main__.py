"""`make bench`, or `python -m benchmarks`: cold starts with lazydeps beside the limit and beside its rivals.

Makes what the starts need, runs them in turns, and writes ``report.json`` (every sample), ``report.md`` and charts.
Every figure holds for one machine and one run; what is compared is compared within one round.

Exit codes: 0; 1 nothing could be measured; 2 usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from benchmarks import cost, report, trials
from benchmarks.conditions import CONDITIONS, LINKS, describe
from benchmarks.contenders import known
from benchmarks.contenders.lazy import Lazydeps
from benchmarks.environments import ROOT, Workshop, make_pack
from benchmarks.starts import Scratch
from benchmarks.works import DEFAULT_WORKS, WORKS
from lazydeps.build.interpreters import find_interpreter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.model import Contender

OUT = ROOT / "build" / "bench"
WORK_FOLDER = ROOT / "build" / "bench-work"
PYTHONS = ("3.13", "3.12", "3.11", "3.14")
ROUNDS = 10
QUICK_ROUNDS = 3

EXAMPLES = f"""examples:
  python -m benchmarks                                   everything, in less than 20 minutes
  python -m benchmarks --quick                           {QUICK_ROUNDS} rounds, fewer conditions
  python -m benchmarks --works science --contenders warm lazydeps --links "3 Gbit/s" --cores 2 1
  python -m benchmarks --works science --pack level19=big.tar.zst --pack small=small.tar.zst
  python -m benchmarks --works science --lazydeps before=../other-checkout/src
  python -m benchmarks --works torch --python 3.11       the CPU build, where pip is configured to find it
"""


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, dict[str, Contender]]:
    """Read the command line; return the options and every contender that can be chosen."""
    contenders = known()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure cold starts against a warm local import and against other loaders.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--works", nargs="+", choices=WORKS, metavar="WORK", help=f"of {', '.join(WORKS)}")
    parser.add_argument("--contenders", nargs="+", metavar="NAME", help="see --list; packs and checkouts included")
    parser.add_argument("--links", nargs="+", choices=LINKS, metavar="LINK", help=f"of {', '.join(LINKS)}")
    parser.add_argument("--cores", nargs="+", type=int, choices=(1, 2), help="cores that a start may use")
    parser.add_argument("--tls", action="store_true", help="the server speaks TLS")
    parser.add_argument("--memory", nargs="+", type=int, metavar="MB", help="quotas of processor time, by memory size")
    parser.add_argument(
        "--shaping", choices=("kernel", "server"), default="kernel", help="what shapes the link, where it can (kernel)"
    )
    parser.add_argument("--rounds", type=int, help=f"starts of each contender (default: {ROUNDS})")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds, fewer conditions")
    parser.add_argument("--times-only", action="store_true", help="no observations of memory, files and system calls")
    parser.add_argument("--python", choices=PYTHONS, help="the version measured (default: the first found)")
    parser.add_argument(
        "--pack", action="append", default=[], metavar="NAME=FILE", help="a pack as a contender lazydeps:NAME"
    )
    parser.add_argument(
        "--lazydeps", action="append", default=[], metavar="NAME=SRC", help="a checkout as a contender lazydeps@NAME"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the report (default: build/bench)")
    parser.add_argument("--list", action="store_true", help="list works, contenders and conditions, and end")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON on standard output")
    options = parser.parse_args(arguments)
    for text in options.pack:
        name, _, path = text.rpartition("=")
        contenders[f"lazydeps:{name or Path(path).name}"] = Lazydeps(
            f"lazydeps:{name or Path(path).name}", f"pack {name or path}", pack=existing(parser, path, Path.is_file)
        )
    for text in options.lazydeps:
        name, _, path = text.rpartition("=")
        contenders[f"lazydeps@{name or path}"] = Lazydeps(
            f"lazydeps@{name or path}", f"checkout {name or path}", source=existing(parser, path, Path.is_dir)
        )
    unknown = [name for name in options.contenders or () if name not in contenders]
    if unknown:
        parser.error(f"no such contender: {', '.join(unknown)}; there are {', '.join(contenders)}")
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options, contenders


def existing(parser: argparse.ArgumentParser, path: str, test: Callable[[Path], bool]) -> Path:
    """Return the path, if it is there."""
    if not test(Path(path)):
        parser.error(f"there is no {path}")
    return Path(path)


def asked(options: argparse.Namespace) -> bool:
    """Whether something else than the plan was asked for."""
    return any(getattr(options, name) for name in ("contenders", "links", "cores", "tls", "memory", "pack", "lazydeps"))


def choose(options: argparse.Namespace, contenders: Mapping[str, Contender]) -> list[trials.Trial]:
    """Return what to run: the plan, or what was asked for in its place."""
    works = [WORKS[name] for name in options.works or DEFAULT_WORKS]
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    variants = [name for name in contenders if name.startswith(("lazydeps:", "lazydeps@"))]
    if not asked(options):
        return trials.plan(works, list(contenders), rounds=rounds, quick=options.quick)
    chosen = tuple(dict.fromkeys([*(options.contenders or (trials.LIMIT, trials.OURS)), *variants]))
    conditions = [
        describe(link, cores, tls=options.tls, memory=memory)
        for link in options.links or ["3 Gbit/s"]
        for cores in options.cores or [2]
        for memory in options.memory or [None]
    ]
    return [
        trials.Trial(condition=condition, work=work, contenders=chosen, rounds=rounds)
        for work in works
        for condition in conditions
    ]


def show_list(contenders: Mapping[str, Contender]) -> None:
    """Print what can be asked for."""
    for title, entries in (
        ("works", {name: f"{work.statements}  ({' '.join(work.requirements)})" for name, work in WORKS.items()}),
        ("contenders", {name: contender.label for name, contender in contenders.items()}),
        ("conditions", {condition.label: "" for condition in CONDITIONS}),
    ):
        print(f"{title}:")
        for name, text in entries.items():
            print(f"  {name:20} {text}".rstrip())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    options, contenders = parse(arguments)
    if options.list:
        show_list(contenders)
        return 0
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    minors = (options.python,) if options.python else PYTHONS
    found = next(filter(None, map(find_interpreter, minors)), None)
    if found is None:
        console.print(f"the benchmark needs a working Python {' or '.join(minors)}, and found none")
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a kill ends our processes as Ctrl-C does
    try:
        return run(options, contenders, Workshop(WORK_FOLDER, found), console)
    except KeyboardInterrupt:
        console.print("\nstopped")
        return 130


def run(options: argparse.Namespace, contenders: Mapping[str, Contender], kit: Workshop, console: Console) -> int:
    """Make, measure and report; return the exit code."""
    began = time.monotonic()

    def tell(text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - began), 60)
        console.print(f"{minutes:02}:{seconds:02} {text}")

    results = trials.Results(tell=tell)
    chosen = choose(options, contenders)
    tell(f"Python {kit.interpreter.version}; making what the starts need, or finding it in {WORK_FOLDER.name}")
    built = trials.build(chosen, contenders, kit, results)
    measured = {trial.work.name: trial.work for trial in chosen}
    packs = {name: make_pack(kit, work) for name, work in measured.items() if (trials.OURS, name) in built}
    with Scratch() as scratch, tempfile.TemporaryDirectory(prefix="lazydeps-bench-") as folder:
        trials.measure(
            chosen,
            built,
            scratch,
            Path(folder),
            results,
            observing=not options.times_only,
            namespaces=options.shaping == "kernel",
        )
    if not results.samples:
        console.print("nothing could be measured")
        return 1
    whole = report.assemble(
        results,
        python=kit.interpreter.version,
        works=measured.values(),
        packs=packs,
        contenders={name: contenders[name] for trial in chosen for name in trial.contenders},
        conditions=dict.fromkeys(trial.condition for trial in chosen),
    )
    whole["cost"] = cost.estimate(whole)
    whole["storm"] = []
    write(whole, options.out, tell)
    if not asked(options) and not options.quick:
        # Minutes that say nothing about two contenders side by side; what has been measured is written already.
        whole["storm"] = simulate_storms(packs, tell)
        write(whole, options.out, tell)
    if options.json:
        json.dump(whole["summary"], sys.stdout, indent=1)
        print()
    else:
        print("\n".join(report.summary_table(whole["summary"])))
    return 0


def simulate_storms(packs: Mapping[str, Mapping[str, Any]], tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Return what storms of starts come to, with the requests that a start with the first pack makes."""
    from benchmarks import storm  # late: it runs the client's own code, whose state must not decide whether we start

    if not packs:
        return []
    name, packed = next(iter(packs.items()))
    tell(f"simulating storms of starts with {name}")
    return [{"work": name, **outcome} for outcome in storm.storms(storm.read_start(str(packed["path"])))]


def write(whole: Mapping[str, Any], folder: Path, tell: Callable[[str], None]) -> None:
    """Write the report with its charts, which need matplotlib."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    drawn: list[Path] = []
    if importlib.util.find_spec("matplotlib") is None:
        tell("no charts: matplotlib is not installed (the extra `bench` brings it)")
    else:
        from benchmarks import charts

        drawn = charts.draw(whole, folder)
    (folder / "report.md").write_text(report.write_tables(whole, drawn), encoding="utf-8")
    tell(f"written: {folder}/report.md and report.json")


if __name__ == "__main__":
    sys.exit(main())
