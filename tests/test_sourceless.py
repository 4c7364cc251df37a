"""Packs without sources: bytecode in the place of modules, in this interpreter and in an extracted tree."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support_packs import CACHE_TAG, bytecode_of, pack_tree, write_tree

from lazydeps._pack import is_bytecode
from lazydeps._ref import Ref

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import RunPython

FILES = {
    "one/__init__.py": "from .sub import work\n",
    "one/sub.py": "\ndef work():\n    raise KeyError('why')\n",
    "one/rare.py": "RARE = __name__\n",
    "one/deep/inner.py": "INNER = __name__\n",
    "two.py": "TWO = 2\n",
    "kept.py": "KEPT = 3\n",
}
SOURCELESS = ["one/__init__.py", "one/sub.py", "one/rare.py", "one/deep/inner.py", "two.py"]
QUESTIONS = """
import importlib, inspect, json, linecache, pkgutil, sys, traceback
import one, two, kept, one.rare, one.deep.inner
said = {}
said["files"] = [module.__file__[len(TREE) + 1 :] for module in (one, one.sub, one.rare, two, kept)]
said["cached"] = [module.__spec__.cached[len(TREE) + 1 :] for module in (one.rare, two)]
said["sources"] = [importlib.util.find_spec(name).loader.get_source(name) for name in ("one.sub", "kept")]
for function in (inspect.getsource, inspect.getsourcelines):
    try:
        said[function.__name__] = function(one.sub.work)
    except OSError as error:
        said[function.__name__] = str(error)
try:
    one.work()
except KeyError as error:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    said["frame"] = [frame.filename[-10:], frame.lineno, frame.name, frame.line]
said["listed"] = [sorted(name for _, name, _ in pkgutil.walk_packages(one.__path__, "one."))]
said["names"] = sorted(name for _, name, _ in pkgutil.iter_modules([TREE]))
said["reloaded"] = importlib.reload(two).TWO
said["code"] = one.rare.__loader__.get_code("one.rare") is not None
said["package"] = [one.__spec__.submodule_search_locations[0][len(TREE) + 1 :], one.rare.__spec__.parent]
print(json.dumps(said))
"""


def sourceless(folder: Path) -> Path:
    """Write a tree in which bytecode stands in the place of most sources."""
    tree = folder / "tree"
    write_tree(tree, dict(FILES))
    for name in SOURCELESS:
        (tree / bytecode_of(name)).rename(tree / f"{name}c")
        (tree / name).unlink()
    return tree


def test_a_pack_answers_as_python_does(tmp_path: Path, run_python: RunPython) -> None:
    """Every question about a module without source has the same answer from a pack and from Python's own importer."""
    tree = sourceless(tmp_path)
    boot = ["one/__init__.pyc", "one/sub.pyc", "two.pyc"]
    pack = pack_tree(tmp_path / "p.tar.zst", tree, boot=boot)
    ref = Ref(pack.path.as_uri(), bytes.fromhex(pack.root.removeprefix("sha256:")))
    head = "import sys, lazydeps\nwith lazydeps.load(sys.argv[1]):\n    import one\nTREE = one.__path__[0][:-4]\n"
    ours = json.loads(run_python(head + QUESTIONS, str(ref)).stdout)
    plain = subprocess.run(
        [sys.executable, "-S", "-B", "-c", f"TREE = {str(tree)!r}\n{QUESTIONS}"],
        env={"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert plain.returncode == 0, plain.stderr
    assert ours == json.loads(plain.stdout)
    assert ours["files"] == ["one/__init__.pyc", "one/sub.pyc", "one/rare.pyc", "two.pyc", "kept.py"]
    assert ours["sources"] == [None, FILES["kept.py"]]
    assert ours["getsource"] == "could not get source code"
    assert ours["frame"] == ["one/sub.py", 3, "work", ""]
    assert ours["listed"] == [["one.rare", "one.sub"]]


def test_bytecode_in_a_modules_place_lands_as_bytecode(tmp_path: Path, run_python: RunPython) -> None:
    """At a start it lies in the one mapped file; `wait(complete=True)` makes it a file, which Python then imports."""
    tree = sourceless(tmp_path)
    pack = pack_tree(tmp_path / "p.tar.zst", tree, boot=["one/__init__.pyc", "one/sub.pyc"])
    ref = Ref(pack.path.as_uri(), bytes.fromhex(pack.root.removeprefix("sha256:")))
    code = (
        "import os, sys, lazydeps\n"
        "with lazydeps.load(sys.argv[1]): import one\n"
        "lazydeps.wait()\n"
        "print(os.path.exists(one.__file__))\n"
        "lazydeps.wait(complete=True)\n"
        "print(os.path.exists(one.__file__), one.__path__[0][:-4])\n"
    )
    before, after, folder = run_python(code, str(ref)).stdout.split()
    assert (before, after) == ("False", "True")
    done = run_python("import one.rare, two; print(one.rare.RARE, two.TWO)", environ={"PYTHONPATH": folder})
    assert done.stdout.split() == ["one.rare", "2"]


def test_a_source_comes_before_bytecode_in_its_place(tmp_path: Path, run_python: RunPython) -> None:
    """Where a pack has both, the source's own bytecode is what runs, as in Python."""
    tree = tmp_path / "tree"
    write_tree(tree, {"both.py": "WHICH = 'source'\n", "other.py": "WHICH = 'bytecode'\n"})
    (tree / bytecode_of("other.py")).rename(tree / "both.pyc")
    (tree / "other.py").unlink()
    pack = pack_tree(tmp_path / "p.tar.zst", tree, boot=["both.py"])
    ref = Ref(pack.path.as_uri(), bytes.fromhex(pack.root.removeprefix("sha256:")))
    code = "import sys, lazydeps\nwith lazydeps.load(sys.argv[1]): import both\nprint(both.WHICH, both.__file__[-7:])"
    assert run_python(code, str(ref)).stdout.split() == ["source", "both.py"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [(f"a/__pycache__/b{CACHE_TAG}", True), ("a/b.pyc", True), ("a/b.py", False), ("a/pyc", False)],
)
def test_what_counts_as_bytecode(path: str, expected: bool) -> None:
    """By its name alone, wherever it stands."""
    assert is_bytecode(path) is expected
