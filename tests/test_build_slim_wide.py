"""What popular distributions import, with everything slimmed that can be: nothing may fail that works without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import support_tally
from support_command import lazydeps, lazydeps_json

from lazydeps.build import resolve
from lazydeps.build.bytecode import compile_tree
from lazydeps.build.interpreters import canonical_arch, require_interpreter

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
DISTRIBUTIONS = (
    *("numpy", "scipy", "pandas", "pyarrow", "matplotlib", "scikit-learn", "scikit-image", "statsmodels", "xarray"),
    *("sympy", "networkx", "numba", "h5py", "tables", "bottleneck", "astropy", "librosa", "geopandas", "polars"),
    *("pillow", "lxml", "cryptography", "cffi", "numexpr", "nltk", "spacy", "jedi", "cython", "openpyxl"),
    *(
        "requests",
        "aiohttp",
        "flask",
        "django",
        "fastapi",
        "sqlalchemy",
        "boto3",
        "jinja2",
        "grpcio",
        "psycopg2-binary",
    ),
)
"""Several of them import from their own tests, attach stubs, or read stubs and headers: bottleneck, h5py, networkx,
tables, numba, xarray; librosa, scikit-image; jedi, cython, cffi."""
PROGRAM = """
import importlib, json, os, sys, warnings
warnings.simplefilter("ignore")
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for name in json.loads(sys.stdin.read()):
    error = None
    try:
        importlib.import_module(name)
    except BaseException as caught:
        error = type(caught).__name__
    print(json.dumps([name, error]), file=out, flush=True)
os._exit(0)
"""


def modules_of(tree: Path) -> dict[str, list[str]]:
    """Return the public modules of a tree, below their top-level names; test suites are not public."""
    found: dict[str, set[str]] = {}
    for path in resolve.list_files(tree):
        if path.endswith((".py", ".so")):
            parts = path.split("/")
            parts[-1] = parts[-1].partition(".")[0]
            if parts[-1] == "__init__":
                parts.pop()
            public = all(part.isidentifier() and not part.startswith("_") for part in parts)
            if parts and public and not {"tests", "test", "conftest"} & set(parts):
                found.setdefault(parts[0], set()).add(".".join(parts))
    return {name: sorted(modules) for name, modules in found.items()}


def imported(tree: Path, modules: list[str], home: Path) -> dict[str, str | None]:
    """Import modules one after the other in one plain Python; say for each which exception it ended with, if any."""
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tree), "HOME": str(home), "LANG": "C.UTF-8"}
    environ |= {"MPLBACKEND": "agg", "DJANGO_SETTINGS_MODULE": "django.conf.global_settings"}
    try:
        done = subprocess.run(
            [sys.executable, "-S", "-s", "-B", "-c", PROGRAM],
            input=json.dumps(modules).encode(),
            capture_output=True,
            check=False,
            env=environ,
            cwd=home,
            timeout=600,
        )
        text = done.stdout
    except subprocess.TimeoutExpired as error:
        text = error.stdout or b""
    said = dict(json.loads(line) for line in text.splitlines() if line.endswith(b"]"))
    return {name: said.get(name, "not reached") for name in modules}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them, installed."""
    folder = tmp_path_factory.mktemp("wide") / "site-packages"
    interpreter, arch = require_interpreter(MINOR), canonical_arch(os.uname().machine)
    resolve.install(DISTRIBUTIONS, into=folder, interpreter=interpreter, arch=arch, glibc="2.34")
    resolve.normalise(folder, drop_scripts=True)
    compile_tree(folder, resolve.list_files(folder), interpreter=interpreter)  # else each process does it again
    return folder


@pytest.fixture(scope="module")
def installed(site: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """How the import of each public module ends where nothing was left out."""
    return all_imported(site, modules_of(site), tmp_path_factory.mktemp("home"))


def all_imported(tree: Path, modules: dict[str, list[str]], home: Path) -> dict[str, str | None]:
    """Import everything, one process a top-level name."""
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        ends = executor.map(lambda names: imported(tree, names, home), modules.values())
        return {name: error for end in ends for name, error in end.items()}


@pytest.mark.chaos
@pytest.mark.parametrize("words", [("--strip",), ("--strip", "--sources", "drop")], ids=["rules", "sources"])
def test_every_import_that_works_installed_works_slimmed(
    words: tuple[str, ...], site: Path, installed: dict[str, str | None], tmp_path: Path
) -> None:
    """No public module of 40 distributions fails to import because of a rule, a stripped library or a dropped source.

    The trace names none of them, so that nothing is kept for its sake.
    """
    home, tree, out = tmp_path / "home", tmp_path / "tree", tmp_path / "p.tar.zst"
    home.mkdir()
    given = ["--from-dir", site, "-o", out, "--level", "1", "--trace", "import six"]
    facts = lazydeps_json("pack", *given, *words, timeout=1800)
    lazydeps("extract", out, "-o", tree, "-q", timeout=600)
    slimmed = all_imported(tree, modules_of(site), home)
    assert {name: error for name, error in slimmed.items() if error and installed[name] is None} == {}
    works = sum(error is None for error in slimmed.values())
    assert works > 4000
    assert facts["slimmed"]["rules"].keys() >= {"tests", "stubs", "headers", "native-sources", "strip"}
    support_tally.survived("modules imported from a slimmed tree", works)
