"""Bytecode: the same bytes in every folder, on any number of cores, whatever the user's environment says."""

from __future__ import annotations

import marshal
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lazydeps.build import bytecode, resolve
from lazydeps.build.bytecode import CHUNK_FILES, clean_environ, compile_tree, pyc_path
from lazydeps.build.interpreters import Interpreter, require_interpreter
from lazydeps.errors import LazydepsError

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture(scope="module")
def interpreter() -> Interpreter:
    return require_interpreter(MINOR)


@pytest.fixture(scope="module")
def numpy_tree(tmp_path_factory: pytest.TempPathFactory, interpreter: Interpreter) -> Path:
    into = tmp_path_factory.mktemp("numpy") / "tree"
    resolve.install(["numpy"], into=into, interpreter=interpreter, arch="x86_64", glibc="2.34")
    resolve.normalise(into, drop_scripts=True)
    return into


def test_the_same_source_gives_the_same_bytes(numpy_tree: Path, tmp_path: Path, interpreter: Interpreter) -> None:
    """What numpy compiles to in two folders, with one process and with three, is the same to the byte."""
    trees = [tmp_path / "a", tmp_path / "quite another" / "b"]
    for tree, jobs in zip(trees, (1, 3), strict=True):
        shutil.copytree(numpy_tree, tree)
        done = compile_tree(tree, resolve.list_files(tree), interpreter=interpreter, jobs=jobs)
        assert len(done.pycs) > 3 * CHUNK_FILES  # several chunks, or the test shows nothing
        assert done.failed == ()
    for path in done.pycs:
        data = (trees[0] / path).read_bytes()
        assert data == (trees[1] / path).read_bytes(), path
        assert str(tmp_path).encode() not in data


def test_chunks_do_not_depend_on_the_cores(
    tmp_path: Path, interpreter: Interpreter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """About one file in 2,000 compiles to other bytes behind other files: so who goes with whom is fixed."""
    chunks: list[list[str]] = []
    monkeypatch.setattr(
        bytecode, "_compile", lambda tree, chunk, interpreter, optimize: chunks.append(list(chunk)) or []
    )
    names = [f"m{number:04}.py" for number in range(3 * CHUNK_FILES - 1)]
    seen = []
    for jobs, files in ((1, names), (7, names[::-1])):
        chunks.clear()
        compile_tree(tmp_path, files, interpreter=interpreter, jobs=jobs)
        seen.append(sorted(chunks))
    assert seen[0] == seen[1]
    assert [name for chunk in seen[0] for name in chunk] == names


def test_bytecode_is_unchecked_and_names_no_folder(tmp_path: Path, interpreter: Interpreter) -> None:
    """The flags say hash-based and unchecked (PEP 552), and the code's file name is relative to the tree."""
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "mod.py").write_text("x = 1\n")
    done = compile_tree(tmp_path, ["pkg/mod.py"], interpreter=interpreter)
    assert done.pycs == (pyc_path("pkg/mod.py", interpreter.cache_tag),)
    data = (tmp_path / done.pycs[0]).read_bytes()
    assert data[:4].hex() == interpreter.magic
    assert data[4:8] == b"\x01\0\0\0"
    assert marshal.loads(data[16:]).co_filename == "pkg/mod.py"
    (tmp_path / "pkg" / "mod.py").write_text("x = 2\n")
    ran = subprocess.run(
        [interpreter.path, "-S", "-c", "import sys; sys.path.append('.'); import pkg.mod as m; print(m.x, m.__file__)"],
        cwd=tmp_path,
        env=clean_environ(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.split()[0] == "1"  # the bytecode, though the source has changed
    assert "pkg/mod.py" in ran.stdout


def test_what_is_no_python_is_left_and_named(tmp_path: Path, interpreter: Interpreter) -> None:
    """Templates, Python 2, undecodable files and null bytes are reported; their neighbours compile."""
    sources = {
        "good.py": b"x = 1\n",
        "latin.py": b"# -*- coding: latin-1 -*-\nx = '\xe9'\n",
        "python2.py": b"print 'hello'\n",
        "template.py": b"class {{ name }}:\n",
        "bytes.py": b"x = '\xff'\n",
        "null.py": b"x = '\0'\n",
        "warns.py": b"assert (1, 'always true')\nx = '\\d'\n",
    }
    for name, source in sources.items():
        (tmp_path / name).write_bytes(source)
    (tmp_path / "data.txt").write_text("x")
    done = compile_tree(tmp_path, [*sources, "data.txt"], interpreter=interpreter)
    assert done.failed == ("bytes.py", "null.py", "python2.py", "template.py")
    assert [path.split(".")[0] for path in done.pycs] == ["__pycache__/good", "__pycache__/latin", "__pycache__/warns"]
    assert all((tmp_path / path).is_file() for path in done.pycs)


def test_the_users_environment_does_not_leak_in(
    tmp_path: Path, interpreter: Interpreter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither switched-off bytecode, nor another cache folder, nor optimisation changes what is written."""
    for name, value in {
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPYCACHEPREFIX": str(tmp_path / "elsewhere"),
        "PYTHONOPTIMIZE": "2",
        "PYTHONWARNINGS": "error",
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "mod.py").write_text('"""Doc."""\nassert True\n')
    (path,) = compile_tree(tmp_path, ["mod.py"], interpreter=interpreter).pycs
    assert b"Doc." in (tmp_path / path).read_bytes()
    assert not (tmp_path / "elsewhere").exists()


def test_progress_counts_files(tmp_path: Path, interpreter: Interpreter) -> None:
    """The observer hears of every chunk, and last of all files."""
    names = [f"m{number}.py" for number in range(CHUNK_FILES + 1)]
    for name in names:
        (tmp_path / name).write_text("")
    heard: list[tuple[int, int]] = []
    compile_tree(tmp_path, names, interpreter=interpreter, on_progress=lambda *progress: heard.append(progress))
    assert heard == [(CHUNK_FILES, CHUNK_FILES + 1), (CHUNK_FILES + 1, CHUNK_FILES + 1)]


def test_a_broken_interpreter_is_named(tmp_path: Path, interpreter: Interpreter) -> None:
    """If the compiler process fails, the message says which interpreter and what it said."""
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho out of order >&2\nexit 3\n")
    broken.chmod(0o755)
    (tmp_path / "mod.py").write_text("")
    with pytest.raises(LazydepsError, match=r"python could not compile mod\.py.*exit code 3.*out of order"):
        compile_tree(tmp_path, ["mod.py"], interpreter=interpreter._replace(path=broken))
