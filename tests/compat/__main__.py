"""`make compat`, or `python -m tests.compat`: other projects' test suites, from a pack and installed, test by test.

Makes packs and environments below ``build/compat``, runs every suite both ways, runs what differed twice more, and
writes ``report.json`` and ``report.md``. Differences that ``projects.toml`` does not explain fail the run.

Exit codes: 0; 1 something differs or could not be run; 2 usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import signal
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
    parser.add_argument("--suite", default="", help="only suites whose description contains this")
    parser.add_argument("--judge-only", action="store_true", help="run nothing: judge what the last runs left")
    parser.add_argument("--out", type=Path, default=OUT, help="where everything goes (default: build/compat)")
    parser.add_argument("--write-docs", action="store_true", help=f"also the table in {DOCUMENT.relative_to(ROOT)}")
    options = parser.parse_args(arguments)
    if unknown := set(options.projects) - set(known):
        parser.error(f"no such project: {', '.join(sorted(unknown))}")
    options.out = options.out.resolve()
    if options.write_docs and (options.projects or options.suite):
        parser.error("--write-docs wants the whole, not some projects")
    try:
        chosen = [known[name] for name in options.projects or known]
        lines = run_all(chosen, tools, options.out, options.suite, judge_only=options.judge_only)
    except KeyboardInterrupt:
        return 130
    if not lines:
        parser.error("no suite fits")
    print(table.totals(lines))
    how = f"Python {sys.version_info[0]}.{sys.version_info[1]} on {platform.machine()}."
    (options.out / "report.json").write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")
    (options.out / "report.md").write_text(table.report(lines, how), encoding="utf-8")
    if options.write_docs:
        DOCUMENT.write_text(table.into_docs(DOCUMENT.read_text(encoding="utf-8"), lines, how), encoding="utf-8")
    return 0 if all(one["good"] for one in lines) else 1


def run_all(
    chosen: Sequence[projects.Project], tools: Sequence[str], out: Path, wanted: str = "", *, judge_only: bool = False
) -> list[dict[str, Any]]:
    """Run the suites of some projects, or read what their last runs left, and return a line for each."""
    interpreter = probe(sys.executable)
    if interpreter is None:
        raise SystemExit(f"{sys.executable} cannot be what packs are made for")
    (out / "made").mkdir(parents=True, exist_ok=True)
    kit = Workshop(out / "made", interpreter)
    lines = []
    for project in chosen:
        for number, suite in enumerate(project.suites):
            if wanted not in suite.what:
                continue
            folder = out / "runs" / f"{project.name}-{number}"
            try:
                if not judge_only:
                    run_suite(kit, project, suite, tools, folder)
                one = judge(kit, project, suite, tools, folder)
            except NotRun as error:
                one = table.not_run(project, suite, str(error))
            lines.append(one)
            tell(one)
    return lines


def run_suite(
    kit: Workshop, project: projects.Project, suite: projects.Suite, tools: Sequence[str], folder: Path
) -> None:
    """Run one suite both ways, and what differed twice more; everything that `judge` needs is left in the folder.

    Raises:
        NotRun: the pack, an environment or the tests cannot be had.
    """
    shutil.rmtree(folder, ignore_errors=True)
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
    only: list[str] | None = None
    for number in range(1 + REPEATS):
        with ThreadPoolExecutor(2) as executor:
            ways = [
                executor.submit(runs.run, ready, folder / f"{way}-{number}", packed=way == "packed", only=only)
                for way in ("plain", "packed")
            ]
            try:
                plain, streamed = [way.result() for way in ways]
            except BaseException:
                runs.end_all()
                raise
        if number == 0:
            only = compare.differing(plain, streamed)
        if not only or plain.broken or streamed.broken:
            break
    (folder / "what.json").write_text(json.dumps(_what_ran(kit, project, suite, tools)), encoding="utf-8")


def judge(
    kit: Workshop, project: projects.Project, suite: projects.Suite, tools: Sequence[str], folder: Path
) -> dict[str, Any]:
    """Compare the runs that a suite's folder holds, and return the line that tells about it.

    Raises:
        NotRun: the folder holds none, or those of other tests.
    """
    try:
        ran = json.loads((folder / "what.json").read_text(encoding="utf-8"))
    except OSError:
        raise NotRun("it has not been run") from None
    if ran != _what_ran(kit, project, suite, tools):
        raise NotRun("projects.toml has changed what is run since the last run")
    plain, packed = ([runs.read(one) for one in sorted(folder.glob(f"{way}-*"))] for way in ("plain", "packed"))
    return table.line(project, suite, compare.judge(plain, packed, suite.differences), plain[0], packed[0])


def _what_ran(kit: Workshop, project: projects.Project, suite: projects.Suite, tools: Sequence[str]) -> list[Any]:
    """Return what a run's results depend on: all but the explanations and the words for it."""
    facts = [kit.interpreter.version, project.requirements, project.imports, project.modules, [*tools, *project.tools]]
    facts += [suite.where, suite.select, suite.sdist, suite.folders, suite.options, suite.ini, suite.import_mode]
    facts += [[one.test for one in suite.left_out]]
    plain: list[Any] = json.loads(json.dumps(facts, default=dict))
    return plain


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
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does, and leaves nothing running
    sys.exit(main())
