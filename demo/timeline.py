"""Draws what a start did, from `lazydeps.report()` and the times a local Lambda took, in plain ASCII.

Only draws: it starts nothing and measures nothing. All times are seconds from the start of the process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

WIDTH = 64
LABEL = 22

Span = tuple[float, float]


def bars(rows: Sequence[tuple[str, Sequence[tuple[str, float]]]], *, width: int = WIDTH) -> str:
    """Draw one bar a row, all on the same scale.

    Args:
        rows: label and parts; a part is the character that draws it and how many seconds it lasts.
        width: characters of the longest bar.
    """
    longest = max(sum(seconds for _, seconds in parts) for _, parts in rows) or 1.0
    lines = []
    for label, parts in rows:
        bar, end = "", 0.0
        for character, seconds in parts:
            end += seconds
            bar += character * (round(end / longest * width) - len(bar))
        lines.append(f"  {label:<{LABEL}}|{bar or '|'} {end:.2f} s")
    return "\n".join(lines)


def start(report: Mapping[str, Any], *, ready: float, answered: float, width: int = WIDTH) -> str:
    """Draw a start: what was downloaded when, and which imports waited.

    Args:
        report: `lazydeps.Report.as_dict`, of a start with one pack.
        ready: when init ended.
        answered: when the first response was there.
        width: characters between 0 and ``answered``.
    """
    pack = report["packs"][0]
    # The report counts from `load`; leaving its block is the last thing that the handler's module does in init.
    offset = ready - max((phase["end"] for phase in pack["phases"] if phase["name"] == "wait"), default=ready)
    scale = width / answered

    def row(label: str, *layers: tuple[str, Iterable[Span]]) -> str:
        cells = [" "] * width
        for character, spans in layers:
            for begin, end in spans:
                first = min(int(begin * scale), width - 1)
                for cell in range(first, max(first + 1, min(round(end * scale), width))):
                    cells[cell] = character
        return f"  {label:<{LABEL}}|{''.join(cells)}|"

    def frames(begin: str, end: str, *sets: str) -> list[Span]:
        return [(frame[begin] + offset, frame[end] + offset) for frame in pack["frames"] if frame["set"] in sets]

    waits = [(stall["at"] + offset, stall["at"] + stall["seconds"] + offset) for stall in pack["stalls"]]
    lines = [
        _axis(answered, width),
        row("Python, runtime client", ("=", [(0.0, offset)])),
        row("download", ("d", frames("requested", "received", "data")), ("#", frames("requested", "received", "boot"))),
        row(
            "check, unpack, write",
            ("d", frames("received", "landed", "data")),
            ("#", frames("received", "landed", "boot")),
        ),
        row("imports", ("=", [(offset, ready)]), (".", [span for span in waits if span[0] < ready])),
        row("first invocation", ("=", [(ready, answered)]), (".", [span for span in waits if span[0] >= ready])),
    ]
    if any(frame["set"] == "cold" for frame in pack["frames"]):
        lines.insert(-1, row("fetched on demand", ("c", frames("requested", "landed", "cold"))))
    lines.append(f"  {'':<{LABEL}} # boot set   d data set   c cold file, asked for   = running   . waiting for bytes")
    return "\n".join(lines)


def stalls(report: Mapping[str, Any], *, most: int = 5) -> str:
    """List the imports that waited longest."""
    waits = sorted(report["packs"][0]["stalls"], key=lambda stall: -stall["seconds"])
    lines = [f"  {stall['seconds'] * 1000:6.0f} ms  {stall['module']}" for stall in waits[:most]]
    rest = waits[most:]
    if rest:
        lines.append(f"  {sum(stall['seconds'] for stall in rest) * 1000:6.0f} ms  in {len(rest)} shorter waits")
    return "\n".join(lines) or "  none"


def _axis(end: float, width: int) -> str:
    step = next(step for step in (0.1, 0.2, 0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 1000) if end / step <= width / 8)
    line = [" "] * (width + 8)
    for number in range(int(end / step) + 1):
        text = f"{number * step:g} s"
        place = round(number * step / end * width)
        line[place : place + len(text)] = text
    return f"  {'':<{LABEL}} {''.join(line).rstrip()}"
