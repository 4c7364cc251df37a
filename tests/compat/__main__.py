"""`make compat`, or `python -m tests.compat`: other projects' test suites, from a pack and installed, test by test.

Makes packs and environments below ``build/compat``, runs every suite both ways, runs what differed twice more, and
writes ``report.json`` and ``report.md``. Differences that ``projects.toml`` does not explain fail the run.

Exit codes: 0; 1 something differs or could not be run; 2 usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.environments import ROOT, NotRun, Workshop
from lazydeps.build.interpreters import probe

from . import compare, materials, projects, runs, table

if TYPE_CHECKING:
    from collections.abc import Sequence

OUT = ROOT / "build" / "compat"
DOCUMENT = ROOT / "docs" / "reference" / "import-behaviour.md"
REPEATS = 2
"""How often what differed is run again, in both ways."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    tools, known = projects.load()
    parser = argparse.ArgumentParser(prog="python -m tests.compat", description=__doc__.partition("\n")[0])
    parser.add_argument("projects", nargs="*", metavar="PROJECT", help=f"of {', '.join(known)} (default: all)")
    parser.add_argument("--suite", help="only suites whose description contains this")
    parser.add_argument("--out", type=Path, default=OUT, help="where everything goes (default: build/compat)")
    parser.add_argument("--write-docs", action="store_true", help=f"also the table in {DOCUMENT.relative_to(ROOT)}")
    options = parser.parse_args(arguments)
    if unknown := set(options.projects) - set(known):
        parser.error(f"no such project: {', '.join(sorted(unknown))}")
    if options.write_docs and (options.projects or options.suite):
        parser.error("--write-docs wants the whole, not some projects")
    try:
        lines = run_all([known[name] for name in options.projects or known], tools, options.out, options.suite)
    except KeyboardInterrupt:
        return 130
    if not lines:
        parser.error("no suite fits")
    print(table.totals(lines))
    how = f"Python {sys.version_info[0]}.{sys.version_info[1]}."
    (options.out / "report.json").write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")
    (options.out / "report.md").write_text(table.report(lines, how), encoding="utf-8")
    if options.write_docs:
        DOCUMENT.write_text(table.into_docs(DOCUMENT.read_text(encoding="utf-8"), lines, how), encoding="utf-8")
    return 0 if all(one["good"] for one in lines) else 1


def run_all(
    chosen: Sequence[projects.Project], tools: Sequence[str], out: Path, wanted: str | None = None
) -> list[dict[str, Any]]:
    """Run the suites of some projects, and return a line for each."""
    interpreter = probe(sys.executable)
    if interpreter is None:
        raise SystemExit(f"{sys.executable} cannot be what packs are made for")
    (out / "made").mkdir(parents=True, exist_ok=True)
    kit = Workshop(out / "made", interpreter)
    lines = []
    for project in chosen:
        for number, suite in enumerate(project.suites):
            if wanted is not None and wanted not in suite.what:
                continue
            folder = out / "runs" / f"{project.name}-{number}"
            try:
                one = run_suite(kit, project, suite, tools, folder)
            except NotRun as error:
                one = table.not_run(project, suite, str(error))
            lines.append(one)
            tell(one)
    return lines


def run_suite(
    kit: Workshop, project: projects.Project, suite: projects.Suite, tools: Sequence[str], folder: Path
) -> dict[str, Any]:
    """Run one suite both ways, what differed twice more, and return the line that tells about it.

    Raises:
        NotRun: the pack, an environment or the tests cannot be had.
    """
    pack = materials.pack(kit, project)
    wheels = [f"{name}=={version}" for name, version in pack["distributions"].items()]
    packed = set(pack["distributions"])
    needed = [tool for tool in (*tools, *project.tools) if materials.normalised(tool.partition("==")[0]) not in packed]
    ready = runs.Ready(
        project=project,
        suite=suite,
        pack=pack,
        plain_python=materials.environment(kit, tools=needed, wheels=wheels),
        packed_python=materials.environment(kit, tools=needed),
        tests=materials.tests(kit, suite),
    )
    shutil.rmtree(folder, ignore_errors=True)
    plain_runs, packed_runs = [], []
    only: list[str] | None = None
    for number in range(1 + REPEATS):
        with ThreadPoolExecutor(2) as executor:
            plain = executor.submit(runs.run, ready, folder / f"plain-{number}", packed=False, only=only)
            streamed = executor.submit(runs.run, ready, folder / f"packed-{number}", packed=True, only=only)
            plain_runs.append(plain.result())
            packed_runs.append(streamed.result())
        only = compare.differing(plain_runs[0], packed_runs[0])
        if not only or plain_runs[0].broken or packed_runs[0].broken:
            break
    verdict = compare.judge(plain_runs, packed_runs, suite.differences)
    return table.line(project, suite, verdict, plain_runs[0], packed_runs[0])


def tell(one: dict[str, Any]) -> None:
    """Print a suite's line, and what is wrong with it."""
    mark = "as installed" if one["good"] else "DIFFERS"
    seconds = one["seconds"]
    alike = ", ".join(f"{count} {name}" for name, count in one["equal"].items())
    print(
        f"{time.strftime('%H:%M:%S')} {one['project']} {one['version']}, {one['suite']}: "
        f"{one['compared']} tests ({alike}), "
        f"{len(one['differences'])} differ; plain {seconds['plain']} s, packed {seconds['packed']} s: {mark}",
        flush=True,
    )
    for problem in one["problems"]:
        print(f"  {problem}", flush=True)
    for name in one["stale"]:
        print(f"  explained, and did not show: {name}", flush=True)
    for difference in one["differences"]:
        if not difference["why"]:
            print(f"  {difference['test']}: plain {difference['plain']}, packed {difference['packed']}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
