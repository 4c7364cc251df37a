"""What a run found, as figures, tables and targets. Runs nothing."""

from __future__ import annotations

import os
import platform
import statistics
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.conditions import MAIN, SLOW, describe
from benchmarks.trials import LIMIT, OURS
from lazydeps import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from benchmarks.model import Condition, Contender, Sample, Work
    from benchmarks.trials import Results

REPORT_VERSION = 1
INTRODUCTION = (
    "Each start is a fresh process with an empty folder for its files. The clock runs from the start of the process "
    "until the handler could answer, interpreter included. Figures are medians with quartiles; ratios are those of the "
    "same round. The server gives 90 MB/s a connection, after 27 ms, and shares the cores with what it serves."
)
MB = 1_000_000
MIB = 1 << 20
FEW_STALLS = 12
"""Modules that the table of stalls names."""


def assemble(
    results: Results,
    *,
    python: str,
    works: Iterable[Work],
    packs: Mapping[str, Mapping[str, Any]],
    contenders: Mapping[str, Contender],
    conditions: Iterable[Condition],
) -> dict[str, Any]:
    """Return the whole report as JSON values, but for what is reckoned from it: cost and storm.

    Args:
        results: what was measured.
        python: the full version that was measured.
        works: those that were measured.
        packs: what `lazydeps pack --json` says of each work's pack.
        contenders: by name.
        conditions: those that were measured.
    """
    summary = summarize(Times(results.samples))
    drawn = results.waterfall or {"work": "", "condition": ""}
    where = (OURS, drawn["work"], drawn["condition"])
    watched = [sample for sample in results.samples if (sample.contender, sample.work, sample.condition) == where]
    return {
        "version": REPORT_VERSION,
        "date": datetime.now(tz=UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "python": python,
        "lazydeps": __version__,
        "works": {
            work.name: {
                "requirements": list(work.requirements),
                "statements": work.statements,
                "pack": {key: packs[work.name][key] for key in ("root", "size", "boot_size", "unpacked_size", "files")}
                if work.name in packs
                else None,
            }
            for work in works
        },
        "contenders": {
            name: {"label": contender.label, "note": results.notes.get(name, "")}
            for name, contender in contenders.items()
        },
        "not_run": results.not_run,
        "conditions": {
            condition.label: {
                **{key: value for key, value in asdict(condition).items() if key != "label"},
                "shaped_by": results.shaped_by.get(condition.label, ""),
            }
            for condition in conditions
        },
        "samples": [asdict(sample) for sample in results.samples],
        "summary": summary,
        "observations": results.observations,
        "bare": {
            name: dict(zip(("median", "low", "high"), quartiles(seconds), strict=True))
            for name, seconds in results.bare.items()
        },
        "stalls": find_stalls(watched),
        "phases": find_phases(watched),
        "waterfall": results.waterfall,
        "targets": judge(results, packs),
    }


def describe_machine() -> dict[str, Any]:
    """Return what a reader must know of this machine."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    for line in info.read_text(encoding="utf-8").splitlines() if info.exists() else []:
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median and the quartiles around it."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return median, low, high


class Times:
    """Seconds by contender, work, condition and round."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self.groups: dict[tuple[str, str, str], dict[int, Sample]] = {}
        for sample in samples:
            key = (sample.contender, sample.work, sample.condition)
            self.groups.setdefault(key, {})[sample.round] = sample

    def pairs(self, one: str, other: str, work: str, condition: str) -> list[tuple[float, float]]:
        """Return the seconds of both contenders in each round that both ended."""
        ones, others = self.groups.get((one, work, condition), {}), self.groups.get((other, work, condition), {})
        return [(ones[number].seconds, others[number].seconds) for number in ones if number in others]

    def ratios(self, one: str, other: str, work: str, condition: str) -> list[float]:
        """Return how many times as long as ``other`` the contender ``one`` took, by rounds."""
        return [mine / theirs for mine, theirs in self.pairs(one, other, work, condition)]


def summarize(times: Times) -> list[dict[str, Any]]:
    """Return a line of figures for each contender, work and condition, in the order in which they were measured."""
    lines = []
    for (contender, work, condition), taken in times.groups.items():
        samples = taken.values()
        median, low, high = quartiles([sample.seconds for sample in samples])
        ratios = times.ratios(contender, LIMIT, work, condition)
        ratio, ratio_low, ratio_high = quartiles(ratios) if ratios else (None, None, None)
        lines.append(
            {
                "contender": contender,
                "work": work,
                "condition": condition,
                "starts": len(taken),
                "median": median,
                "low": low,
                "high": high,
                "ratio": ratio,
                "ratio_low": ratio_low,
                "ratio_high": ratio_high,
                "cpu_seconds": statistics.median(sample.cpu_seconds for sample in samples),
                "server_cpu_seconds": statistics.median(sample.facts["server"]["cpu_seconds"] for sample in samples),
            }
        )
    return lines


def find_stalls(samples: Iterable[Sample]) -> list[dict[str, Any]]:
    """Return how long each module waited for bytes: medians over lazydeps' starts, largest first, without zeros."""
    starts: list[dict[str, float]] = []
    for sample in samples:
        waited: dict[str, float] = {}
        for stall in sample.facts["stalls"]:
            waited[stall["module"]] = waited.get(stall["module"], 0.0) + stall["seconds"]
        starts.append(waited)
    modules = {module for waited in starts for module in waited}
    medians = {module: statistics.median(waited.get(module, 0.0) for waited in starts) for module in modules}
    return [
        {"module": module, "seconds": seconds}
        for module, seconds in sorted(medians.items(), key=lambda entry: -entry[1])
        if seconds > 0
    ]


def find_phases(samples: Iterable[Sample]) -> list[dict[str, Any]]:
    """Return the phases of lazydeps' starts in their order: medians of their beginnings and ends."""
    spans: dict[str, list[tuple[float, float]]] = {}
    for sample in samples:
        for phase in sample.facts["phases"]:
            spans.setdefault(phase["name"], []).append((phase["start"], phase["end"]))
    phases = []
    for name, seen in spans.items():
        begins, ends = zip(*seen, strict=True)
        phases.append({"name": name, "start": statistics.median(begins), "end": statistics.median(ends)})
    return sorted(phases, key=lambda phase: (phase["start"], phase["end"]))


@dataclass(frozen=True, slots=True)
class Target:
    """What was to be reached, and what was."""

    what: str
    bound: float
    values: Sequence[float]
    """By rounds, or one; empty: not measured."""
    unit: str = ""
    least: bool = False
    """Whether the bound is a lower one."""
    words: str = ""
    """What else the reader must know."""

    def as_dict(self) -> dict[str, Any]:
        """Return the line of the table; ``met`` is None for what was not measured."""
        line: dict[str, Any] = {"what": self.what, "target": f"{'≥' if self.least else '≤'} {self.bound:g}{self.unit}"}
        if not self.values:
            return {**line, "reached": "not measured", "met": None}
        middle, low, high = quartiles(self.values)
        digits = 3 if self.bound < 2 else 2
        spread = f" ({low:.{digits}f} - {high:.{digits}f})" if len(self.values) > 1 else ""
        return {
            **line,
            "reached": f"{middle:.{digits}f}{self.unit}{spread}{self.words and f' ({self.words})'}",
            "met": middle >= self.bound if self.least else middle <= self.bound,
        }


def judge(results: Results, packs: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the targets with what this run reached."""
    times = Times(results.samples)
    science, main, slow = "science", MAIN.label, SLOW.label
    seen = {(entry["contender"], entry["work"]): entry for entry in results.observations}
    ours, limit = seen.get((OURS, science)), seen.get((LIMIT, science))
    one_core, tls = describe("3 Gbit/s", 1).label, describe("3 Gbit/s", 2, tls=True).label

    def over(condition: str, work: str = science) -> list[float]:
        return times.ratios(OURS, LIMIT, work, condition)

    memory = [(ours["peak_memory"] - limit["peak_memory"]) / MIB] if ours and limit and ours["peak_memory"] else []
    requests, boot = (ours["requests"], packs[science]["boot_size"] / MB) if ours and science in packs else (0, 1.0)
    rivals = {
        contender: times.ratios(contender, OURS, science, slow)
        for contender, work, condition in times.groups
        if (work, condition) == (science, slow) and contender not in (LIMIT, "no-bytecode", "plain-zip")
        if not contender.startswith(OURS)
    }
    nearest = min(rivals, key=lambda name: statistics.median(rivals[name]), default="")
    targets = [
        Target("cold lazydeps / warm local, 2 cores, 3 Gbit/s", 1.10, over(main)),
        Target("same, 75 MiB/s", 1.30, over(slow)),
        Target("same, one core, 3 Gbit/s", 1.35, over(one_core)),
        Target("same, TLS on, 2 cores, 3 Gbit/s", 1.15, over(tls)),
        Target(
            "faster than local import without bytecode",
            2.5,
            times.ratios("no-bytecode", OURS, science, main),
            " ×",
            least=True,
        ),
        Target(
            "faster than the plain zip loader, 75 MiB/s",
            8,
            times.ratios("plain-zip", OURS, science, slow),
            " ×",
            least=True,
        ),
        Target("faster than each other rival, 75 MiB/s", 3, rivals.get(nearest, []), " ×", least=True, words=nearest),
        Target(
            "`small`: cold lazydeps - warm local",
            60,
            [1000 * (mine - theirs) for mine, theirs in times.pairs(OURS, LIMIT, "small", main)],
            " ms",
        ),
        Target(
            "`import lazydeps` in a bare interpreter",
            8,
            [1000 * seconds for seconds in results.bare.get("import lazydeps", [])],
            " ms",
        ),
        Target("resident memory over the warm import, parent + child at peak", 40, memory, " MiB"),
        Target("store at peak / bytes of files landed", 1.02, [ours["peak_store"] / ours["landed"]] if ours else []),
        Target(
            "same imports from a pack with 5 × the cold files",
            1.05,
            times.ratios("lazydeps-5x", OURS, science, main),
            " ×",
        ),
        Target(
            "GETs for a 45 MB boot set",
            16,
            [requests * 45 / boot] if requests else [],
            words=f"{requests} requests of a start whose boot set is {boot:.1f} MB, scaled",
        ),
        Target(
            "second start on a filled store / warm local",
            1.05,
            times.ratios("lazydeps-refill", LIMIT, science, main),
        ),
        Target("`torch`: cold / warm local, 2 cores, 3 Gbit/s", 1.8, over(main, "torch")),
    ]
    return [target.as_dict() for target in targets]


def write_tables(report: Mapping[str, Any], charts: Sequence[Path]) -> str:
    """Return the report for people, in Markdown.

    Args:
        report: see `assemble`, with ``cost`` and ``storm``.
        charts: files beside the report.
    """
    machine = report["machine"]
    lines = [
        "# Cold starts",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory'] / 2**30:.0f} GiB, Linux {machine['kernel']}.",
        f"CPython {report['python']}, lazydeps {report['lazydeps']}, {report['date']}.",
        "",
        f"{INTRODUCTION} {spell_shaping(report['conditions'].values())}".strip(),
    ]
    if report["targets"]:
        lines += ["", "## Targets", "", "| | target | reached | |", "|---|---|---|---|"]
        words = {True: "met", False: "**missed**", None: ""}
        lines += [
            f"| {entry['what']} | {entry['target']} | {entry['reached']} | {words[entry['met']]} |"
            for entry in report["targets"]
        ]
    for work, facts in report["works"].items():
        pack = facts["pack"]
        lines += ["", f"## {work}", "", f"`{facts['statements']}`"]
        if pack:
            lines[-1] += (
                f"; pack {pack['size'] / MB:.1f} MB, boot set {pack['boot_size'] / MB:.1f} MB, {pack['files']:,} files "
                f"of {pack['unpacked_size'] / MB:.0f} MB."
            )
        lines += ["", *summary_table([line for line in report["summary"] if line["work"] == work])]
        observed = [entry for entry in report["observations"] if entry["work"] == work]
        if observed:
            lines += ["", *observation_table(observed)]
    lines += other_tables(report)
    lines += cost_tables(report["cost"])
    if report["storm"]:
        from benchmarks import storm

        lines += [
            "",
            "## Many sandboxes at once, simulated against S3's documented limits",
            "",
            *storm.table(report["storm"]),
        ]
    if charts:
        lines += [
            "",
            "## Charts",
            "",
            *(f"![{chart.stem}]({chart.name})" for chart in charts if chart.suffix == ".svg"),
        ]
    return "\n".join(lines) + "\n"


def spell_shaping(conditions: Iterable[Mapping[str, Any]]) -> str:
    """Say what shaped the links."""
    words = {
        "kernel": "a token bucket of the kernel, in a network namespace",
        "server": "the server itself",
    }
    found = sorted({condition["shaped_by"] for condition in conditions} & words.keys())
    return f"The link is shaped by {' and by '.join(words[name] for name in found)}." if found else ""


def summary_table(summary: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a table of times."""
    lines = [
        "| condition | contender | starts | seconds | over the limit | CPU s | server's CPU s |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for line in summary:
        ratio = (
            "" if line["ratio"] is None else f"{line['ratio']:.2f} ({line['ratio_low']:.2f} - {line['ratio_high']:.2f})"
        )
        lines.append(
            f"| {line['condition']} | {line['contender']} | {line['starts']} "
            f"| {line['median']:.3f} ({line['low']:.3f} - {line['high']:.3f}) | {ratio} "
            f"| {line['cpu_seconds']:.2f} | {line['server_cpu_seconds']:.2f} |"
        )
    return lines


def observation_table(observations: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a table of what starts take besides time."""
    lines = [
        "| contender | peak memory, MiB | peak folder, MB | landed, MB | requests | received, MB | system calls |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for entry in observations:
        memory = "" if entry["peak_memory"] is None else f"{entry['peak_memory'] / MIB:.0f}"
        calls = "" if entry["system_calls"] is None else f"{entry['system_calls']:,}"
        lines.append(
            f"| {entry['contender']} | {memory} | {entry['peak_store'] / MB:.1f} | {entry['landed'] / MB:.1f} "
            f"| {entry['requests']} | {entry['bytes_received'] / MB:.1f} | {calls} |"
        )
    return lines


def cost_tables(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a table for each work and condition: what a million cold starts cost, by memory size."""
    tables: dict[tuple[str, str], dict[str, dict[int, Mapping[str, Any]]]] = {}
    for record in records:
        if record["architecture"] == "x86_64":
            table = tables.setdefault((record["work"], record["reference"]), {})
            table.setdefault(record["contender"], {})[record["memory_mb"]] = record
    lines: list[str] = []
    for (work, reference), table in tables.items():
        sizes = sorted({size for row in table.values() for size in row})
        some = next(iter(next(iter(table.values())).values()))
        title = f"## Estimate: a million cold starts of {work}, {some['currency']}, x86_64, {some['region']}"
        lines += ["", title, "", f"With the seconds measured at {reference}.", ""]
        lines += [
            f"| contender | {' | '.join(f'{size} MB' for size in sizes)} |",
            "|---|" + "--:|" * len(sizes),
            *(
                f"| {name} | {' | '.join(_spell_cost(row.get(size)) for size in sizes)} |"
                for name, row in table.items()
            ),
        ]
    return lines


def _spell_cost(record: Mapping[str, Any] | None) -> str:
    if record is None:
        return ""
    return f"{record['reference_total']:,.2f}" + (" (does not fit)" if record["fits"] is False else "")


def other_tables(report: Mapping[str, Any]) -> list[str]:
    """Return the bare figures, the stalls, the contenders and what did not run."""
    lines = []
    if report["bare"]:
        lines += ["", "## The interpreter alone", "", "| | ms |", "|---|--:|"]
        lines += [
            f"| {name} | {1000 * entry['median']:.1f} ({1000 * entry['low']:.1f} - {1000 * entry['high']:.1f}) |"
            for name, entry in report["bare"].items()
        ]
    if report["stalls"]:
        where = report["waterfall"]
        total = sum(entry["seconds"] for entry in report["stalls"])
        lines += ["", f"## Phases of lazydeps, {where['work']}, {where['condition']}", "", "| phase | ms from load() |"]
        lines += ["|---|--:|"]
        lines += [
            f"| {phase['name']} | {1000 * phase['start']:.0f} - {1000 * phase['end']:.0f} |"
            for phase in report["phases"]
        ]
        lines += [
            "",
            f"## Waiting for bytes, {where['work']}, {where['condition']}",
            "",
            "| module | ms |",
            "|---|--:|",
        ]
        lines += [f"| {entry['module']} | {1000 * entry['seconds']:.1f} |" for entry in report["stalls"][:FEW_STALLS]]
        lines += [f"| all {len(report['stalls'])} | {1000 * total:.1f} |"]
    lines += ["", "## Contenders", "", "| | | |", "|---|---|---|"]
    lines += [f"| {name} | {entry['label']} | {entry['note']} |" for name, entry in report["contenders"].items()]
    if report["not_run"]:
        lines += ["", "## Not run", "", "| contender | work | reason |", "|---|---|---|"]
        lines += [
            f"| {entry['contender']} | {entry['work']} | {' '.join(entry['reason'].split())} |"
            for entry in report["not_run"]
        ]
    return lines
