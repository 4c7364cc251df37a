"""The fast part of `make compat`: whole small suites for real, and that what differs cannot pass unseen."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING

import pytest

from benchmarks.environments import Workshop
from lazydeps.build.interpreters import probe

from . import __main__ as command
from . import compare, materials, projects, table
from .compare import judge
from .projects import Difference, LeftOut, Project, Suite
from .runs import Outcome, Ran

if TYPE_CHECKING:
    from pathlib import Path

TOOLS, PROJECTS = projects.load()


@pytest.fixture(scope="session")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for everything that is made; packs and environments in it are shared."""
    return tmp_path_factory.mktemp("compat")


def test_whole_suites_end_as_installed(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """jinja2's and certifi's suites: every test ends alike, from a pack and installed, and the report says so."""
    assert command.main(["jinja2", "certifi", "--out", str(out)]) == 0, capsys.readouterr().out
    lines = json.loads((out / "report.json").read_text())
    assert {one["project"] for one in lines} == {"jinja2", "certifi"}
    for one in lines:
        assert one["good"], one
        assert one["differences"] == []
        assert one["modules"] > 0
        assert set(one["equal"]) <= {"passed", "skipped", "xfailed"}
    assert sum(one["equal"]["passed"] for one in lines) > 900
    assert "0 unexplained" in (out / "report.md").read_text()

    # What ran can be judged again, after somebody has explained what differs; what did not run cannot.
    assert command.main(["jinja2", "certifi", "--judge-only", "--out", str(out)]) == 0
    assert json.loads((out / "report.json").read_text()) == lines
    assert command.main(["tzdata", "--judge-only", "--out", str(out)]) == 1
    assert "it has not been run" in capsys.readouterr().out


SUITE = """
import importlib.util, os, signal, sys
import certifi, pytest

PACKED = "store" in certifi.__file__.split(os.sep)

def test_alike():
    assert certifi.where()

def test_differs():
    assert not PACKED, "from the pack"

def test_fails_alike():
    assert False, "in both ways"

@pytest.mark.parametrize("thing", [object()], ids=repr)
def test_named_by_an_address(thing):
    pass

def test_left_out():
    assert not PACKED

def test_error_after_passing(request):
    def end():
        assert not PACKED, "at the end"
    request.addfinalizer(end)
"""
CRASH = """
import os, signal
import certifi

def test_before():
    pass

def test_crashes():
    if "store" in certifi.__file__.split(os.sep):
        os.kill(os.getpid(), signal.SIGKILL)
"""
STRAY = """
import importlib.util, sys
import certifi

def test_loads_around_the_finder():
    spec = importlib.util.spec_from_file_location("around", certifi.__file__)
    sys.modules["around"] = importlib.util.module_from_spec(spec)
    assert "cacert" in certifi.where()
"""


def run_one(out: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, **suite: object) -> dict[str, object]:
    """Run a suite of one file on certifi's pack, both ways."""
    (folder / "uses").mkdir()
    (folder / "uses" / "uses_it.py").write_text(text)
    monkeypatch.setattr(materials, "USES", folder / "uses")
    interpreter = probe(sys.executable)
    assert interpreter is not None
    (out / "made").mkdir(exist_ok=True)
    certifi = PROJECTS["certifi"]
    one = Suite(what="made up", where="uses", select=("uses_it.py",), timeout=120, **suite)  # type: ignore[arg-type]
    asked = (Workshop(out / "made", interpreter), certifi, one, TOOLS, folder / "runs")
    command.run_suite(*asked)
    return command.judge(*asked)


def test_a_difference_is_found_and_has_to_be_explained(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test that ends differently is run three times in both ways, and fails the run unless its reason is known."""
    known = Difference(test="uses_it.py::test_error*", plain="passed", packed="error", why="known")
    line = run_one(
        out, tmp_path, monkeypatch, SUITE, differences=(known,), left_out=(LeftOut(test="*test_left_out", why="so"),)
    )
    assert line["good"] is False
    assert line["equal"] == {"passed": 2, "failed": 1}
    assert line["failed_alike"] == ["uses_it.py::test_fails_alike"]
    assert line["problems"] == []
    differs, explained = line["differences"]  # type: ignore[misc]
    assert (differs["test"], differs["why"]) == ("uses_it.py::test_differs", "")
    assert (differs["plain"], differs["packed"]) == (["passed"] * 3, ["failed"] * 3)
    assert "from the pack" in differs["packed_text"]
    assert (explained["test"], explained["why"]) == ("uses_it.py::test_error_after_passing", "known")
    assert explained["packed"] == ["error"] * 3


def test_a_crash_is_told_with_the_test_that_ran(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies fails the run, and the test in which it died is named."""
    line = run_one(out, tmp_path, monkeypatch, CRASH)
    assert line["good"] is False
    (problem,) = line["problems"]  # type: ignore[misc]
    assert problem.startswith("packed: the run ended with SIGKILL in uses_it.py::test_crashes")


def test_a_module_that_the_pack_did_not_bring_is_told(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module of the store that Python's own loader brought proves nothing about lazydeps: the run fails."""
    line = run_one(out, tmp_path, monkeypatch, STRAY)
    assert line["problems"] == ["modules of the pack that its loaders did not bring: around (SourceFileLoader)"]
    assert line["good"] is False


# Judging, on made-up runs.


def ran(*, broken: str = "", wheels: str = "py3", **outcomes: str) -> Ran:
    """Return a run with these outcomes."""
    found = {name: Outcome(outcome=outcome) for name, outcome in outcomes.items()}
    return Ran(outcomes=found, wheels={"x": [wheels]}, modules=1, strays=(), broken=broken, seconds=1)


def test_what_is_unsteady_when_installed_is_nobodys_fault() -> None:
    """A test whose plain runs disagree is listed as unsteady; one whose packed runs disagree has to be explained."""
    verdict = judge(
        [ran(a="passed", b="passed"), ran(a="failed", b="passed")], [ran(a="failed", b="failed"), ran()], []
    )
    assert [(one.test, one.unsteady) for one in verdict.differences] == [("a", True), ("b", False)]
    assert [one.test for one in verdict.unexplained] == ["b"]
    assert verdict.differences[1].packed == ("failed", compare.MISSING)


def test_a_test_that_ran_in_one_way_only_differs() -> None:
    """Tests that are missing from one of the two runs are differences, from whichever it is."""
    verdict = judge([ran(a="passed")], [ran(b="passed")], [])
    assert [(one.test, one.plain, one.packed) for one in verdict.differences] == [
        ("a", ("passed",), ("not run",)),
        ("b", ("not run",), ("passed",)),
    ]
    assert not verdict.good


def test_an_explanation_holds_for_its_outcomes_only() -> None:
    """A known difference that turns into another one, or does not show any more, fails the run."""
    known = Difference(test="a", plain="passed", packed="failed", why="known")
    assert judge([ran(a="passed")], [ran(a="failed")], [known]).good
    other = judge([ran(a="passed")], [ran(a="skipped")], [known])
    assert [one.test for one in other.unexplained] == ["a"]
    assert other.stale == ("a",)
    gone = judge([ran(a="passed")], [ran(a="passed")], [known])
    assert (gone.good, gone.stale) == (False, ("a",))


def test_other_wheels_and_broken_runs_fail() -> None:
    """The two ways must stand on the same wheels, and both must end."""
    verdict = judge([ran(a="passed")], [ran(a="passed", wheels="cp313")], [])
    assert verdict.problems == ("not the same wheels in both ways: x",)
    assert judge([ran(a="passed")], [ran(a="passed", broken="died")], []).problems == ("packed: died",)


# The data, and the table in the documentation.


def test_every_version_is_pinned_and_every_reason_given() -> None:
    """Two runs of `make compat` compare the same tests, and no entry goes without a reason."""
    for project in PROJECTS.values():
        assert project.suites
        for requirement in (*project.requirements, *project.tools, *TOOLS):
            assert re.fullmatch(r"[\w.-]+(\[\w+\])?==[\w.]+", requirement), requirement
        for suite in project.suites:
            assert all(len(entry.why) > 15 for entry in (*suite.differences, *suite.left_out)), suite.what


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    """A misspelt entry of ``projects.toml`` is no silent default."""
    text = (
        'tools = []\n[[project]]\nname = "x"\nrequirements = ["x==1"]\nimports = ""\nmodules = []\n[[project.suite]]\n'
    )
    (tmp_path / "p.toml").write_text(text + 'what = "y"\nwhere = "uses"\nselect = []\nlef_out = []\n')
    with pytest.raises(ValueError, match=r"unknown lef_out; a Suite has .*left_out"):
        projects.load(tmp_path / "p.toml")
    (tmp_path / "p.toml").write_text(text + 'what = "y"\nwhere = "moon"\nselect = []\n')
    with pytest.raises(ValueError, match="`where` is one of wheel, sdist, uses; found 'moon'"):
        projects.load(tmp_path / "p.toml")


def test_the_documentation_has_the_projects_of_now() -> None:
    """The table was written by a run with these projects, versions and suites; nothing in it is unexplained."""
    text = command.DOCUMENT.read_text(encoding="utf-8").partition(table.BEGIN)[2].partition(table.END)[0]
    found = re.findall(r"^\| (\S+ \S+) \| (.+?) \| [\d,]+ \|", text, re.MULTILINE)
    assert found == [
        (f"{project.name} {project.version}", suite.what) for project in PROJECTS.values() for suite in project.suites
    ]
    assert ", 0 unexplained," in text


def test_the_table_replaces_what_stood_between_the_markers() -> None:
    """`--write-docs` changes what is between its two comments and nothing else, and says where they are missing."""
    project = Project(name="x", requirements=("x==1",), imports="", modules=(), suites=())
    suite = Suite(what="all | of it", where="uses", select=())
    line = table.line(project, suite, judge([ran(a="passed")], [ran(a="passed")], []), ran(), ran())
    text = table.into_docs(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n", [line], "How.")
    assert text.startswith(f"before\n{table.BEGIN}\n\nHow.\n")
    assert "| x 1 | all \\| of it | 1 | 1 passed | none |" in text
    assert "old" not in text
    assert text.endswith(f"{table.END}\nafter\n")
    with pytest.raises(ValueError, match="the document needs the lines"):
        table.into_docs("nothing", [line], "How.")
