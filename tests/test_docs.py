"""What the documentation names is there: tests, and the pages that pages link to."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1]
PAGES = sorted(
    path
    for path in [*HERE.glob("*.md"), *HERE.glob("docs/**/*.md"), *HERE.glob("tests/**/*.md"), *HERE.glob("src/**/*.md")]
    if path.is_file()
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(HERE)))
def test_named_tests_exist(page: Path) -> None:
    """A promise that names its test names one that there is."""
    for file, _, name in re.findall(r"`(tests/[\w/]+\.py)(::(\w+))?`", page.read_text()):
        path = HERE / file
        assert path.is_file(), f"{page.name} names {file}"
        if name:
            functions = {
                node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)
            }
            assert name in functions, f"{page.name} names {file}::{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(HERE)))
def test_links_inside_the_repository_lead_somewhere(page: Path) -> None:
    """A relative link names a file or folder that there is."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" not in target and not target.startswith(("#", "mailto:")):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name} links to {target}"


def test_the_guarantees_name_tests() -> None:
    """The page of promises is not an empty one."""
    text = (HERE / "docs/explanation/guarantees.md").read_text()
    assert len(re.findall(r"`tests/[\w/]+\.py::\w+`", text)) > 40


@pytest.mark.parametrize("folder", ["how-to", "tutorials"])
def test_the_index_of_how_to_pages_lists_them_all(folder: str) -> None:
    """A page that somebody writes can be found: docs/how-to/README.md has a row for each, and for each tutorial."""
    index = (HERE / "docs/how-to/README.md").read_text()
    links = {target.rpartition("/")[2] for target in re.findall(r"\]\(([^)\s#]+)", index)}
    pages = {path.name for path in (HERE / "docs" / folder).glob("*.md")} - {"README.md"}
    assert pages
    assert pages - links == set(), "docs/how-to/README.md does not list these pages: add a row for each"


def test_the_readme_lists_every_command() -> None:
    """The table of commands has a row for each that there is, and for nothing else."""
    rows = re.findall(r"^\| `lazydeps (\w+)` \|", (HERE / "README.md").read_text(), re.MULTILINE)
    files = {path.stem for path in (HERE / "src/lazydeps/build/commands").glob("*.py")} - {"__init__"}
    assert sorted(rows) == sorted(files)


@pytest.mark.parametrize("folder", ["src/lazydeps", "src/lazydeps/build"])
def test_the_map_names_every_file(folder: str) -> None:
    """A newcomer finds each module in ARCHITECTURE.md, and the map names none that is gone."""
    text = (HERE / "ARCHITECTURE.md").read_text()
    runtime, build = text.partition("### The build half")[::2]
    named = set(
        re.findall(r"`(?:build/)?(\w+\.py)`", build.partition("## The import")[0] if "build" in folder else runtime)
    )
    files = {path.name for path in (HERE / folder).glob("*.py")} - {"__init__.py", "__main__.py"}
    assert files - named == set(), "ARCHITECTURE.md does not name these"
    if "build" in folder:
        assert named - files == set(), "ARCHITECTURE.md names these, and they are gone"
