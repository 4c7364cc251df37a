"""The results as JSON, as a Markdown report, and as the table in the documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .compare import Verdict
    from .projects import Project, Suite
    from .runs import Ran

BEGIN = "<!-- begin: written by `make compat` -->"
END = "<!-- end: written by `make compat` -->"
ORDER = ("passed", "skipped", "xfailed", "xpassed", "failed", "error")


def line(project: Project, suite: Suite, verdict: Verdict, plain: Ran, packed: Ran) -> dict[str, Any]:
    """Return all that is known of a suite's comparison, as JSON values."""
    return {
        "project": project.name,
        "version": project.version,
        "suite": suite.what,
        "where": suite.where,
        "good": verdict.good,
        "compared": verdict.compared,
        "equal": {name: verdict.equal[name] for name in ORDER if name in verdict.equal},
        "failed_alike": list(verdict.failed_alike),
        "differences": [
            {
                "test": one.test,
                "plain": list(one.plain),
                "packed": list(one.packed),
                "unsteady": one.unsteady,
                "why": one.why,
                "plain_text": one.plain_text,
                "packed_text": one.packed_text,
            }
            for one in verdict.differences
        ],
        "left_out": [{"test": one.test, "why": one.why} for one in suite.left_out],
        "problems": list(verdict.problems),
        "stale": list(verdict.stale),
        "modules": packed.modules,
        "seconds": {"plain": round(plain.seconds, 1), "packed": round(packed.seconds, 1)},
    }


def not_run(project: Project, suite: Suite, reason: str) -> dict[str, Any]:
    """Return the line of a suite that could not be run."""
    return {
        "project": project.name,
        "version": project.version,
        "suite": suite.what,
        "where": suite.where,
        "good": False,
        "compared": 0,
        "equal": {},
        "failed_alike": [],
        "differences": [],
        "left_out": [],
        "problems": [reason],
        "stale": [],
        "modules": 0,
        "seconds": {"plain": 0.0, "packed": 0.0},
    }


def totals(lines: Sequence[dict[str, Any]]) -> str:
    """Return the closing words."""
    compared = sum(one["compared"] for one in lines)
    differences = [difference for one in lines for difference in one["differences"]]
    unsteady = sum(difference["unsteady"] for difference in differences)
    explained = sum(bool(difference["why"]) and not difference["unsteady"] for difference in differences)
    open_ones = len(differences) - unsteady - explained
    projects = len({one["project"] for one in lines})
    return (
        f"{len(lines)} suites of {projects} projects; {compared:,} tests compared: "
        f"{compared - len(differences):,} ended alike, {explained} differ for a known reason, {open_ones} unexplained, "
        f"{unsteady} do not end alike twice even when installed."
    )


def rows(lines: Sequence[dict[str, Any]]) -> list[str]:
    """Return the table: a line a suite."""
    text = [
        "| project | what ran | compared | ended alike | differ |",
        "|---|---|---:|---|---|",
    ]
    for one in lines:
        alike = ", ".join(f"{count:,} {name}" for name, count in one["equal"].items())
        text.append(
            f"| {one['project']} {one['version']} | {_cell(one['suite'])} | {one['compared']:,} | {alike} "
            f"| {_differences(one)} |"
        )
    return text


def _differences(one: dict[str, Any]) -> str:
    reasons: dict[str, int] = {}
    for difference in one["differences"]:
        why = difference["why"] or (
            "does not end alike twice even when installed" if difference["unsteady"] else "**unexplained**"
        )
        reasons[why] = reasons.get(why, 0) + 1
    words = [f"{count}: {_cell(why)}" for why, count in reasons.items()]
    if one["problems"]:
        words.append(f"**{_cell(one['problems'][0].splitlines()[0])}**")
    return "; ".join(words) or "none"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def report(lines: Sequence[dict[str, Any]], how: str) -> str:
    """Return the Markdown report: the table, and every difference with both outcomes."""
    text = ["# Other projects' test suites, installed and packed", "", how, "", totals(lines), "", *rows(lines), ""]
    for one in lines:
        found = [*one["problems"], *(f"known difference that did not show: {name}" for name in one["stale"])]
        if not (one["differences"] or found or one["failed_alike"]):
            continue
        text += [f"## {one['project']}: {one['suite']}", ""]
        text += [f"- **problem**: {_cell(problem)}" for problem in found]
        for difference in one["differences"]:
            ways = f"plain {', '.join(difference['plain'])}; packed {', '.join(difference['packed'])}"
            unsteady = " (unsteady)" if difference["unsteady"] else ""
            text.append(f"- `{difference['test']}`{unsteady}: {ways}. {_cell(difference['why'])}".rstrip())
        text += [f"- failed in both ways: `{name}`" for name in one["failed_alike"]]
        text.append("")
    return "\n".join(text)


def into_docs(document: str, lines: Sequence[dict[str, Any]], how: str) -> str:
    """Return a document with the text between the two markers replaced.

    Raises:
        ValueError: the document has no such markers.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document needs the lines {BEGIN} and {END}")
    return "\n".join([before + begin, "", how, "", totals(lines), "", *rows(lines), "", end + after])
