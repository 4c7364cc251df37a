"""Charts of a report, as SVG and PNG: one start, the rivals, the money, the ratios. Measures and reckons nothing.

The colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which colour-blind people can tell apart.
Bars begin at zero on linear axes; where figures span decades there are points on a logarithmic axis, which says so.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from typing import TYPE_CHECKING, Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from benchmarks.cost import reference_conditions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

OURS, LIMIT, NO_BYTECODE = "lazydeps", "warm", "no-bytecode"
BLUE, GREEN, ORANGE, VERMILLION, SKY = "#0072B2", "#009E73", "#E69F00", "#D55E00", "#56B4E9"
DARK, GREY, LIGHT = "#4D4D4D", "#BFBFBF", "#E3E3E3"
MAIN_WORK = "science"
WORK_MARKERS = "oDs^vP"
MEMORY_MARKERS = "os^vD"
STYLE: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titlepad": 10,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "grid.color": "#DDDDDD",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.fonttype": "none",  # text stays text: small files that can be searched
    "svg.hashsalt": "lazydeps",  # the same report gives the same bytes
}
WIDTH = 10.0
"""Inches."""
POINTS_A_LETTER = 0.6
"""Of the font's size, on average: what decides whether a label has room."""
LONGEST_LABEL = 36
"""Letters of a contender's label in one line."""
LABELLED_STALLS = 4
SIZED_MEMORY = 1769
"""MB: a whole processor, by which works compare."""
MARGIN = 1.05
"""How much longer a time axis is than what it shows."""
THINNEST = 0.0008
"""Of the axis: bars that are nearer to each other than this are drawn as one."""
MOST_BARS = 400
"""Of landed frames; where there are more, neighbours are drawn as one that are farther from each other than that."""


def draw(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw every chart that the report has figures for.

    Args:
        report: the benchmark's report.
        folder: where the files go; created if need be.

    Returns:
        The files: for each chart ``NAME.svg`` and ``NAME.png``, of ``waterfall``, ``rivals``, ``cost`` and ``ratios``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    charts: dict[str, Callable[[Mapping[str, Any]], Figure | None]] = {
        "waterfall": draw_waterfall,
        "rivals": draw_rivals,
        "cost": draw_cost,
        "ratios": draw_ratios,
    }
    files = []
    with rc_context(STYLE):
        for name, chart in charts.items():
            figure = chart(report)
            if figure is None:
                continue
            for suffix, options in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": 150})):
                files.append(folder / f"{name}.{suffix}")
                figure.savefig(files[-1], format=suffix, **options)
    return files


# -- one start


def draw_waterfall(report: Mapping[str, Any]) -> Figure | None:
    """Draw one start over time: imports above, requests and landing below, each wait joined to the frame it was for."""
    drawn = report.get("waterfall")
    if not drawn or not drawn["report"]["packs"]:
        return None
    pack = drawn["report"]["packs"][0]
    requests = _requests(pack)
    rows = _rows([(began, max(frame["landed"] for frame in frames)) for began, frames in requests])
    count = max(rows, default=0) + 1
    end = max([drawn["ready"], *(frame["landed"] for frame in pack["frames"])])
    figure = _figure(3.9 + 0.36 * count)
    axes = figure.add_subplot()
    axes.set_xlim(0, end * MARGIN)
    axes.set_ylim(-0.7, count + 4.6)
    imports, waits_from = count + 2.9, count + 0.1
    gap = end * THINNEST
    while sum(len(_thinned(_landings(frames), gap)) for _, frames in requests) > max(MOST_BARS, len(requests)):
        gap *= 2
    landing: dict[int, tuple[float, float]] = {}
    for (began, frames), row in zip(requests, rows, strict=True):
        y = count - 1 - row
        first, last = frames[0]["received"], frames[-1]["received"]
        axes.broken_barh([(began, first - began)], (y + 0.45, 0.4), color=GREY)
        axes.broken_barh([(first, max(last - first, end * THINNEST))], (y + 0.45, 0.4), color=SKY)
        axes.broken_barh(_thinned(_landings(frames), gap), (y + 0.05, 0.4), color=GREEN)
        landing |= {frame["index"]: (frame["landed"], y + 0.25) for frame in frames}
    axes.broken_barh(
        [(entry["start"], entry["end"] - entry["start"]) for entry in drawn["imports"]],
        (imports, 0.9),
        color=LIGHT,
        edgecolor="white",
    )
    _name_imports(axes, drawn["imports"], imports + 0.9, end)
    stalls = pack["stalls"]
    waits = [(stall["at"], stall["seconds"]) for stall in stalls]
    axes.broken_barh(waits, (imports, 0.9), facecolor=VERMILLION, edgecolor="white", linewidth=0.4)
    for stall in stalls:
        # What is in parentheses is no module: the root and the index are in no frame.
        if stall["frame"] in landing and not stall["module"].startswith("("):
            joined = zip((stall["at"] + stall["seconds"], imports), landing[stall["frame"]], strict=True)
            axes.plot(*joined, color=VERMILLION, linewidth=0.7, zorder=3)
    longest = sorted(stalls, key=lambda stall: -stall["seconds"])[:LABELLED_STALLS]
    for level, stall in enumerate(sorted(longest, key=lambda stall: -stall["at"])):
        axes.text(
            stall["at"] + stall["seconds"] + end * 0.006,
            waits_from + 0.62 * level + 0.35,
            f"{stall['module']}  {stall['seconds'] * 1000:.0f} ms",
            color=VERMILLION,
            fontsize=7.5,
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
            zorder=4,
        )
    ready = [drawn["ready"]] * 2
    axes.plot(ready, [-0.7, imports + 0.9], color=DARK, linewidth=1, linestyle=(0, (4, 2)))
    axes.text(
        drawn["ready"] - end * 0.006, -0.45, f"ready: {drawn['ready']:.2f} s", ha="right", va="center", color=DARK
    )
    axes.set_yticks([imports + 0.45, count / 2], labels=["imports", f"{count} connections"])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("seconds since load() was called")
    waited = sum(stall["seconds"] for stall in stalls)
    axes.set_title(
        f"One cold start of {drawn.get('work', MAIN_WORK)} with lazydeps, {drawn['condition']}: "
        f"imports wait {waited:.2f} s of {drawn['ready']:.2f} s",
        pad=28,
    )
    axes.legend(
        handles=[
            Patch(color=LIGHT, label="import runs"),
            Patch(color=VERMILLION, label="import waits, joined to its frame"),
            Patch(color=GREY, label="request, until a frame has come"),
            Patch(color=SKY, label="receive"),
            Patch(color=GREEN, label="check, decompress, land"),
        ],
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=5,
        handlelength=1.2,
        columnspacing=1.4,
    )
    received = pack["bytes_received"] / 1e6
    _sign(
        figure, report, f"one start, {pack['requests']} requests, {received:.1f} MB; its imports are timed one by one"
    )
    return figure


def _requests(pack: Mapping[str, Any]) -> list[tuple[float, list[Mapping[str, Any]]]]:
    """Return each request as its begin and the frames it brought, in the order they came; the first request first.

    Frames that were asked for at one instant came by one request. The request that brings frame 0 brings the root
    before it, and began with the phase of that name.
    """
    by_begin: dict[float, list[Mapping[str, Any]]] = {}
    for frame in sorted(pack["frames"], key=lambda frame: frame["received"]):
        by_begin.setdefault(frame["requested"], []).append(frame)
    root = next((phase["start"] for phase in pack["phases"] if phase["name"] == "root"), None)
    requests = [
        (began if root is None or not any(frame["index"] == 0 for frame in frames) else root, frames)
        for began, frames in by_begin.items()
    ]
    return sorted(requests, key=lambda request: request[0])


def _rows(spans: Sequence[tuple[float, float]]) -> list[int]:
    """Return a row for each span, in order of their begin, so that no two in one row overlap."""
    ends: list[float] = []
    rows = []
    for begin, end in spans:
        # A connection sends its next request when the last frame has landed, within a few clock ticks.
        row = next((row for row, taken in enumerate(ends) if taken <= begin + 1e-4), len(ends))
        ends[row:] = [end, *ends[row + 1 :]]
        rows.append(row)
    return rows


def _landings(frames: Iterable[Mapping[str, Any]]) -> list[tuple[float, float]]:
    return sorted((frame["received"], frame["landed"]) for frame in frames)


def _thinned(spans: Iterable[tuple[float, float]], gap: float) -> list[tuple[float, float]]:
    """Return ascending spans as begin and length, those with less than ``gap`` seconds between them as one."""
    thinned: list[tuple[float, float]] = []
    for begin, stop in spans:
        if thinned and begin - sum(thinned[-1]) < gap:
            thinned[-1] = (thinned[-1][0], max(stop - thinned[-1][0], thinned[-1][1]))
        else:
            thinned.append((begin, stop - begin))
    return thinned


def _name_imports(axes: Any, imports: Sequence[Mapping[str, Any]], y: float, end: float) -> None:
    """Write the imports' names above their bars, one step higher where there is no room beside the name before."""
    size = 8
    letter = size * POINTS_A_LETTER / 72 * end * MARGIN / (0.86 * WIDTH)
    free = [0.0, 0.0, 0.0]
    for entry in imports:
        width = letter * (len(entry["module"]) + 1)
        begin = min(entry["start"], end * MARGIN - width)
        level = next((level for level, taken in enumerate(free) if taken <= begin), len(free) - 1)
        free[level] = begin + width
        axes.text(begin, y + 0.12 + 0.42 * level, entry["module"], fontsize=size, va="bottom", color=DARK)


# -- beside others


def draw_rivals(report: Mapping[str, Any]) -> Figure | None:
    """Draw the wall seconds of every contender under the condition that most of them were measured under."""
    lines = _most_contenders(report)
    if len(lines) < 2:
        return None
    lines = sorted(lines, key=lambda line: line["median"])
    figure = _figure(1.8 + 0.46 * len(lines))
    axes = figure.add_subplot()
    most = max(line["high"] for line in lines)
    for y, line in enumerate(lines):
        axes.barh(y, line["median"], height=0.62, color=_colour(line["contender"]))
        axes.plot([line["low"], line["high"]], [y, y], color="black", linewidth=1)
        ratio = "" if line["ratio"] is None else f"   {line['ratio']:.{1 if line['ratio'] >= 2 else 2}f} ×"
        axes.text(
            max(line["high"], line["median"]) + most * 0.01,
            y,
            f"{line['median']:.2f} s{ratio}",
            va="center",
            fontsize=9,
        )
    limit = next((line["median"] for line in lines if line["contender"] == LIMIT), None)
    if limit is not None:
        axes.axvline(limit, color=DARK, linewidth=1, linestyle=(0, (4, 2)), zorder=0)
    axes.set_xlim(0, most * 1.17)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_yticks(range(len(lines)), labels=[_label(report, line["contender"]) for line in lines])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("seconds from the start of the process until the handler could answer; × is the ratio to the limit")
    axes.set_title(f"Cold starts of {lines[0]['work']}, {lines[0]['condition']}: median and quartiles")
    axes.legend(handles=_categories(lines), loc="upper right")  # the shortest bars are there
    _sign(figure, report, _starts(lines))
    return figure


def draw_ratios(report: Mapping[str, Any]) -> Figure | None:
    """Draw the ratios of cold starts with lazydeps to the warm import of the same round, by condition and work."""
    lines = [line for line in report["summary"] if line["contender"] == OURS and line["ratio"] is not None]
    if not lines:
        return None
    works = list(dict.fromkeys(line["work"] for line in lines))
    keys = list(dict.fromkeys((line["condition"], line["work"]) for line in lines))
    keys.sort(key=lambda key: (works.index(key[1]), list(report["conditions"]).index(key[0])))
    by_key = {(line["condition"], line["work"]): line for line in lines}
    figure = _figure(1.9 + 0.36 * len(keys))
    axes = figure.add_subplot()
    most = max(line["ratio_high"] for line in lines)
    for y, key in enumerate(keys):
        line = by_key[key]
        marker = WORK_MARKERS[works.index(key[1]) % len(WORK_MARKERS)]
        axes.plot([line["ratio_low"], line["ratio_high"]], [y, y], color=BLUE, linewidth=2.2, solid_capstyle="butt")
        axes.plot(line["ratio"], y, marker, color=BLUE, markersize=7, markeredgecolor="white")
        axes.text(line["ratio_high"] + (most - 1) * 0.02, y, f"{line['ratio']:.2f}", va="center")
    axes.axvline(1, color=DARK, linewidth=1, linestyle=(0, (4, 2)))
    least = min(1.0, *(line["ratio_low"] for line in lines))
    axes.set_xlim(least - (most - least) * 0.04, most + (most - least) * 0.12)
    axes.set_ylim(len(keys) - 0.4, -0.6)
    axes.set_yticks(range(len(keys)), labels=[f"{work}, {condition}" for condition, work in keys])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(
        "cold start with lazydeps / warm local import of the same round (1: the limit; the axis begins near it)"
    )
    axes.set_title("Cold starts with lazydeps over warm imports: median of the rounds' ratios, and quartiles")
    _sign(figure, report, _starts(lines))
    return figure


# -- money


def draw_cost(report: Mapping[str, Any]) -> Figure | None:
    """Draw what a million starts cost: by contender and memory size, and against the size of the pack."""
    records = [record for record in report.get("cost", ()) if record["architecture"] == "x86_64"]
    lines = _most_contenders(report)
    if not records or not lines:
        return None
    work, reference = lines[0]["work"], lines[0]["condition"]
    shown = [record for record in records if (record["work"], record["reference"]) == (work, reference)]
    if not shown:
        return None
    by_size = _by_pack_size(report, records)
    contenders = sorted({record["contender"] for record in shown}, key=lambda name: _total(shown, name))
    figure = _figure(2.1 + 0.46 * len(contenders) + (3.0 if by_size else 0))
    panels = figure.subplots(
        2 if by_size else 1, squeeze=False, height_ratios=(len(contenders), 6.5) if by_size else (1,)
    )
    _draw_cost_by_memory(panels[0][0], report, shown, contenders)
    panels[0][0].set_title(f"A million cold starts of {work}, {reference}, x86_64")
    if by_size:
        _draw_cost_by_size(panels[1][0], report, by_size)
    origin = f"{_starts(lines)}; list prices of {shown[0]['region']}; seconds measured with the cores named above, "
    notes = [origin + "which Lambda lends an init at any memory size"]
    if any(record["condition"] != record["reference"] for record in shown):
        notes.append("hollow: measured under the CPU quota of that memory size, as if Lambda lent nothing")
    if any(record["fits"] is False for record in shown):
        notes.append("* takes more memory or storage than a function of this size has")
    _sign(figure, report, *notes)
    return figure


def _draw_cost_by_memory(
    axes: Any, report: Mapping[str, Any], records: Sequence[Mapping[str, Any]], contenders: Sequence[str]
) -> None:
    sizes = sorted({record["memory_mb"] for record in records})
    for record in records:
        y = contenders.index(record["contender"])
        marker = MEMORY_MARKERS[sizes.index(record["memory_mb"]) % len(MEMORY_MARKERS)]
        colour = _colour(record["contender"])
        axes.plot(record["reference_total"], y, marker, color=colour, markersize=8, markeredgecolor="white")
        if record["condition"] != record["reference"]:
            axes.plot(record["total"], y, marker, color=colour, markersize=8, markerfacecolor="none")
        amount = _dollars(record["reference_total"]) + ("*" if record["fits"] is False else "")
        axes.text(record["reference_total"], y - 0.33, amount, ha="center", fontsize=7.5)
    axes.set_xscale("log")
    _dollar_axis(axes, [record[key] for record in records for key in ("reference_total", "total")])
    axes.set_ylim(len(contenders) - 0.4, -0.8)
    axes.set_yticks(range(len(contenders)), labels=[_label(report, name) for name in contenders])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("US dollars for a million starts: init, GET requests, ephemeral storage (logarithmic)")
    axes.legend(
        handles=[
            Line2D(
                [], [], color=DARK, marker=MEMORY_MARKERS[at % len(MEMORY_MARKERS)], linestyle="", label=f"{size} MB"
            )
            for at, size in enumerate(sizes)
        ],
        loc="lower left",
        bbox_to_anchor=(0, -0.02),
    )


def _draw_cost_by_size(axes: Any, report: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> None:
    for name in dict.fromkeys(record["contender"] for record in points):
        mine = [record for record in points if record["contender"] == name]
        axes.plot(
            [_pack_size(report, record["work"]) for record in mine],
            [record["reference_total"] for record in mine],
            "o",
            color=_colour(name),
            markersize=7,
            markeredgecolor="white",
            label=_label(report, name, width=60),
        )
    for work in dict.fromkeys(record["work"] for record in points):
        most = max(record["reference_total"] for record in points if record["work"] == work)
        size = _pack_size(report, work)
        axes.plot([size, size], [0, most], color=LIGHT, linewidth=1, zorder=0)
        axes.annotate(work, (size, most), xytext=(0, 7), textcoords="offset points", ha="center", color=DARK)
    largest = max(_pack_size(report, record["work"]) for record in points)
    axes.set_xlim(-0.04 * largest, 1.08 * largest)
    axes.set_ylim(0, 1.2 * max(record["reference_total"] for record in points))
    axes.grid(visible=True, axis="y")
    axes.grid(visible=False, axis="x")
    axes.yaxis.set_major_formatter(lambda amount, _: f"${amount:g}")
    axes.set_xlabel("size of the work's pack, MB, with what no start fetches")
    axes.set_title(f"By size of pack: {points[0]['memory_mb']} MB of memory, {points[0]['reference']}, x86_64")
    axes.legend(loc="upper left", bbox_to_anchor=(0, 1))


def _pack_size(report: Mapping[str, Any], work: str) -> float:
    return float(report["works"][work]["pack"]["size"]) / 1e6


def _by_pack_size(report: Mapping[str, Any], records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the records by which works compare: one memory size, one condition, contenders with several works.

    The condition is the one that most works were priced under; nothing where that is a single work.
    """
    sized = [
        record
        for record in records
        if record["memory_mb"] == SIZED_MEMORY and report["works"][record["work"]]["pack"] is not None
    ]
    works: dict[str, set[str]] = {}
    for record in sized:
        works.setdefault(record["reference"], set()).add(record["work"])
    reference = max(works, key=lambda label: len(works[label]), default="")
    common = [record for record in sized if record["reference"] == reference]
    counts = Counter(record["contender"] for record in common)
    return [record for record in common if counts[record["contender"]] > 1]


# -- shared


def _figure(height: float) -> Figure:
    return Figure(figsize=(WIDTH, height), layout="constrained")


def _sign(figure: Figure, report: Mapping[str, Any], *facts: str) -> None:
    """Write under a chart where its figures come from."""
    machine = report["machine"]
    source = (
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}; CPython {report['python']}, "
        f"lazydeps {report['lazydeps']}; {report['date'][:10]}"
    )
    figure.supxlabel("\n".join([*facts, source]), x=0.01, ha="left", fontsize=7.5, color=DARK)


def _most_contenders(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the summary of the main work under the condition that most contenders were measured under."""
    references = {work: labels for work, labels in reference_conditions(report).items() if labels}
    if not references:
        return []
    work = MAIN_WORK if MAIN_WORK in references else next(iter(references))
    return [line for line in report["summary"] if (line["work"], line["condition"]) == (work, references[work][0])]


def _colour(contender: str) -> str:
    if contender.startswith(OURS):
        return BLUE
    return {LIMIT: DARK, NO_BYTECODE: GREY}.get(contender, ORANGE)


def _categories(lines: Iterable[Mapping[str, Any]]) -> list[Patch]:
    """Return the legend of the colours that are there."""
    names = {BLUE: "lazydeps", DARK: "the limit", GREY: "local import", ORANGE: "others"}
    there = {_colour(line["contender"]) for line in lines}
    return [Patch(color=colour, label=name) for colour, name in names.items() if colour in there]


def _label(report: Mapping[str, Any], contender: str, *, width: int = LONGEST_LABEL) -> str:
    facts = report["contenders"].get(contender)
    return textwrap.fill(facts["label"] if facts else contender, width, break_on_hyphens=False)


def _starts(lines: Iterable[Mapping[str, Any]]) -> str:
    counts = sorted({line["starts"] for line in lines})
    return f"{counts[0]} to {counts[-1]} starts each" if len(counts) > 1 else f"{counts[0]} starts each"


def _dollars(amount: float) -> str:
    return f"${amount:.0f}" if amount >= 10 else f"${amount:.2g}"


def _dollar_axis(axes: Any, amounts: Iterable[float]) -> None:
    """Mark a logarithmic axis at 1, 2 and 5 times the powers of ten that the amounts span."""
    amounts = [amount for amount in amounts if amount > 0]
    low, high = min(amounts) / 1.5, max(amounts) * 1.5
    marks = [mark for power in range(-6, 9) for mark in (10.0**power, 2 * 10.0**power, 5 * 10.0**power)]
    axes.set_xlim(low, high)
    axes.set_xticks([mark for mark in marks if low <= mark <= high])
    axes.xaxis.set_major_formatter(lambda amount, _: f"${amount:g}")
    axes.xaxis.set_minor_formatter(lambda *_: "")
    axes.minorticks_off()


def _total(records: Iterable[Mapping[str, Any]], contender: str) -> float:
    return max(float(record["reference_total"]) for record in records if record["contender"] == contender)
