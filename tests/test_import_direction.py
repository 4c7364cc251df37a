"""The house rules that code can hold: who may import whom, and what ``import lazydeps`` costs."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import RunPython

SOURCE = Path(__file__).parents[1] / "src"
LAYERS = [
    {"errors", "_digest", "_children"},
    {"_ref", "_config", "_retry", "_deadline", "events", "_recording_out"},
    {"_pack", "_sources", "_lockfile"},
    {"_store", "_fetch", "_target", "_archive"},
    {"_archive_zip", "_archive_tar", "_layout"},
    {"_plan", "_space"},
    {"_worker"},
    {"_host", "_finder", "_metadata", "_recording"},
    {"_session", "_lazy", "_path_entry"},
    {"_legacy"},
    {"_runtime"},
    {"__init__"},
    {"auto", "__main__"},
]
"""From the bottom up. A module imports only from layers below its own. Imports inside functions and for type checking
count as little as they cost."""

ALLOWED = {
    "__future__", "_bisect", "_collections", "_thread", "errno", "gc", "itertools", "lazydeps", "os", "stat", "sys",
    "time", "types",
}  # fmt: skip
"""What ``import lazydeps`` may add to a bare interpreter, and nothing else."""


def layer_of(module: str) -> int:
    """Return the layer of a module of ours."""
    return next(number for number, names in enumerate(LAYERS) if module in names)


def imports_of(path: Path) -> list[str]:
    """Return our modules that a file imports when it is imported itself."""
    found = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found += [node.module.partition(".")[0]] if node.module else [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lazydeps"):
            found.append((node.module or "").partition(".")[2] or "__init__")
    return found


@pytest.mark.parametrize("path", sorted((SOURCE / "lazydeps").glob("*.py")), ids=lambda path: path.stem)
def test_imports_point_down(path: Path) -> None:
    """A module of the runtime imports only modules of lower layers."""
    for name in imports_of(path):
        assert layer_of(name) < layer_of(path.stem), f"{path.stem} imports {name}"


def test_the_runtime_never_imports_the_build_half() -> None:
    """Neither at its top nor inside a function; the command's entry point is the one door."""
    for path in [*(SOURCE / "lazydeps").glob("*.py"), *(SOURCE / "lazydeps/_sources").glob("*.py")]:
        if path.stem != "__main__":
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, (ast.Import, ast.ImportFrom)):
                    names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                    assert not any("build" in name.split(".") for name in names), f"{path}: {names}"


def test_import_costs_an_allow_list(run_python: RunPython) -> None:
    """``import lazydeps`` in a bare interpreter loads a handful of stdlib modules."""
    code = """
import os, sys  # what every interpreter has at start, with or without `site`
before = set(sys.modules)
import lazydeps
after = set(sys.modules) - before
import json
print(json.dumps(sorted(after)))
"""
    loaded = json.loads(run_python(None, "-S", "-c", code).stdout)
    assert "lazydeps._runtime" in loaded
    assert not [name for name in loaded if name.partition(".")[0] not in ALLOWED]


def test_import_has_no_side_effects(run_python: RunPython) -> None:
    """Importing lazydeps starts no thread and no child, opens no file and changes no import machinery."""
    code = """
import os, sys
state = lambda: [sys.path[:], [str(finder) for finder in sys.meta_path], os.listdir("/proc/self/fd"),
                 os.listdir("/proc/self/task"), sorted(os.environ)]
before = state()
import lazydeps
assert before == state(), (before, state())
"""
    run_python(code)


def test_the_public_names_are_listed(run_python: RunPython) -> None:
    """``dir(lazydeps)`` shows the public API and nothing else."""
    code = (
        "import lazydeps; assert dir(lazydeps) == sorted(lazydeps.__all__), dir(lazydeps); print(lazydeps.__version__)"
    )
    assert run_python(code).stdout.strip()
