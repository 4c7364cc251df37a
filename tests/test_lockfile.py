"""`lazydeps.lock` as a start reads it: where it is looked for, what a name means, and what it says when it cannot."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import SRC
from runtime_api import Function
from support_packs import ARCH, pack_tree, write_tree

if TYPE_CHECKING:
    from conftest import RunPython

PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"
HERE = f"{PYTHON}-{ARCH}"
ELSEWHERE = f"python3.9-{ARCH}"
LOAD = "import lazydeps\nwith lazydeps.load({}) as loading:\n    pass\nprint(*loading.refs)\n"


@pytest.fixture(scope="module")
def refs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two packs, `first` and `second`, each with a module of its name; and one more of each, of a later build."""
    found = {}
    for name in ("first", "second", "later"):
        folder = tmp_path_factory.mktemp(name)
        write_tree(folder / "tree", {f"{name}.py": f"NAME = {name!r}\n"})
        written = pack_tree(folder / "p.tar.zst", folder / "tree", boot=[f"{name}.py"])
        found[name] = f"{written.path.as_uri()}#root={written.root}"
    return found


def write_lock(folder: Path, packs: dict[str, dict[str, Any]]) -> Path:
    """Write a lock as `lazydeps push` does; an entry may be given as its reference alone."""
    folder.mkdir(parents=True, exist_ok=True)
    full = {
        name: {target: {"ref": entry} if isinstance(entry, str) else entry for target, entry in targets.items()}
        for name, targets in packs.items()
    }
    path = folder / "lazydeps.lock"
    path.write_text(json.dumps({"lazydeps_lock": 1, "packs": full}, indent=1, sort_keys=True) + "\n")
    return path


def script(folder: Path, code: str = LOAD.format("")) -> str:
    """Write a program into a folder and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "program.py").write_text(code)
    return str(folder / "program.py")


def failure(run_python: RunPython, *arguments: str, **options: Any) -> str:
    """Run a program that must end with a ConfigError, and return its words."""
    done = run_python(None, *arguments, check=False, **options)
    assert done.returncode == 1, done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("lazydeps.errors.ConfigError: "), done.stderr
    return last


def test_a_lock_beside_the_program(run_python: RunPython, refs: dict[str, str], tmp_path: Path) -> None:
    """`load()` without a reference loads every pack of the lock beside the calling file that is for this Python."""
    packs = {
        "b": {HERE: refs["second"], ELSEWHERE: "s3://b/k#root=sha256:" + "0" * 64},
        "a": {HERE: refs["first"]},
        "c": {ELSEWHERE: "s3://b/k#root=sha256:" + "0" * 64},
    }
    write_lock(tmp_path / "app", packs)
    assert run_python(None, script(tmp_path / "app")).stdout.split() == [refs["first"], refs["second"]]


def test_names(run_python: RunPython, refs: dict[str, str], tmp_path: Path) -> None:
    """A word without :// is a name, in a call and in LAZYDEPS_PACK, alone or between references."""
    write_lock(tmp_path / "app", {"a": {HERE: refs["first"]}, "b": {HERE: refs["second"]}})
    assert run_python(None, script(tmp_path / "app", LOAD.format("'b'"))).stdout.split() == [refs["second"]]
    both = script(tmp_path / "app", LOAD.format(f"{refs['later']!r}, 'a'"))
    assert run_python(None, both).stdout.split() == [refs["later"], refs["first"]]
    program = script(tmp_path / "app")
    for words, expected in {
        "b": "second",
        "b a": "second first",
        f"{refs['later']} a\nb": "later first second",
    }.items():
        said = run_python(None, program, environ={"LAZYDEPS_PACK": words}).stdout.split()
        assert said == [refs[name] for name in expected.split()], words


def test_packs_without_machine_code_and_archives(run_python: RunPython, refs: dict[str, str], tmp_path: Path) -> None:
    """An entry for this Python and architecture wins over one for any architecture, and that one over an archive."""
    entries = {"any": refs["second"], f"{PYTHON}-any": refs["later"], HERE: refs["first"]}
    for best in ("first", "later", "second"):
        write_lock(tmp_path / "app", {"a": dict(entries)})
        assert run_python(None, script(tmp_path / "app")).stdout.split() == [refs[best]]
        entries.popitem()


def test_a_link_to_the_program(run_python: RunPython, refs: dict[str, str], tmp_path: Path) -> None:
    """A program that is started by a link has the lock beside it, unless there is one beside the link."""
    write_lock(tmp_path / "app", {"a": {HERE: refs["first"]}})
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/program").symlink_to(script(tmp_path / "app"))
    assert run_python(None, str(tmp_path / "bin/program")).stdout.split() == [refs["first"]]
    write_lock(tmp_path / "bin", {"a": {HERE: refs["second"]}})
    assert run_python(None, str(tmp_path / "bin/program")).stdout.split() == [refs["second"]]


def test_a_name_that_is_a_reference_is_not_loaded(run_python: RunPython, refs: dict[str, str], tmp_path: Path) -> None:
    """Whatever is allowed: what runs are pinned entries of the lock, and never their names."""
    write_lock(tmp_path / "app", {refs["first"].partition("#")[0]: {HERE: refs["second"]}})
    said = failure(run_python, script(tmp_path / "app"), environ={"LAZYDEPS_ALLOW_UNPINNED": "1"})
    assert "is no name of a pack" in said


def test_the_one_liner_and_imports(run_python: RunPython, refs: dict[str, str], tmp_path: Path) -> None:
    """The caller is who imports `lazydeps.auto`, however it does, and not the import system between them."""
    write_lock(tmp_path / "app", {"a": {HERE: refs["first"]}})
    code = "import importlib\nimportlib.import_module('lazydeps.auto')\nimport first\nprint(first.NAME)\n"
    assert run_python(None, script(tmp_path / "app", code)).stdout == "first\n"
    script(tmp_path / "app", "import lazydeps.auto\nimport first\nprint(first.NAME)\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'app')!r}); import program"
    assert run_python(code).stdout == "first\n"


def test_the_task_root(run_python: RunPython, refs: dict[str, str], tmp_path: Path) -> None:
    """Without a lock beside the caller the one in LAMBDA_TASK_ROOT counts; beside the caller wins."""
    write_lock(tmp_path / "task", {"a": {HERE: refs["first"]}})
    program = script(tmp_path / "task/source")
    environ = {"LAMBDA_TASK_ROOT": str(tmp_path / "task")}
    assert run_python(None, program, environ=environ).stdout.split() == [refs["first"]]
    write_lock(tmp_path / "task/source", {"a": {HERE: refs["second"]}})
    assert run_python(None, program, environ=environ).stdout.split() == [refs["second"]]


def test_the_variable(run_python: RunPython, refs: dict[str, str], tmp_path: Path) -> None:
    """LAZYDEPS_LOCK names the file before every other place, and 0 says not to look."""
    program = script(tmp_path / "app")
    write_lock(tmp_path / "app", {"a": {HERE: refs["first"]}})
    other = write_lock(tmp_path / "other", {"a": {HERE: refs["second"]}}).rename(tmp_path / "other/named.json")
    assert run_python(None, program, environ={"LAZYDEPS_LOCK": str(other)}).stdout.split() == [refs["second"]]
    assert run_python(None, program, environ={"LAZYDEPS_LOCK": "0"}).stdout.split() == []
    said = failure(run_python, program, environ={"LAZYDEPS_LOCK": "0", "LAZYDEPS_PACK": "a"})
    assert "'a' has no :// and so names a pack of lazydeps.lock, and LAZYDEPS_LOCK=0 says not to look for one" in said
    said = failure(run_python, program, environ={"LAZYDEPS_LOCK": str(tmp_path / "none.lock")})
    assert f"the lock file {tmp_path}/none.lock cannot be read: No such file or directory." in said
    assert "`lazydeps push PACK s3://BUCKET/PREFIX/ --name NAME` writes it" in said


def test_the_current_folder_is_not_searched(run_python: RunPython, refs: dict[str, str], tmp_path: Path) -> None:
    """A lock where the process happens to stand is nobody's code: it is not read, not even by code without a file."""
    write_lock(tmp_path / "shared", {"a": {HERE: refs["first"]}})
    (tmp_path / "shared").chmod(0o777)
    assert run_python(None, script(tmp_path / "app"), cwd=tmp_path / "shared").stdout.split() == []
    assert run_python(LOAD.format(""), cwd=tmp_path / "shared").stdout.split() == []
    code = f"exec(compile({LOAD.format('')!r}, 'x.py', 'exec'), {{'__name__': 'x', '__file__': 'x.py'}})"
    assert run_python(code, cwd=tmp_path / "shared").stdout.split() == []


def test_a_reference_in_the_environment_wins(run_python: RunPython, refs: dict[str, str], tmp_path: Path) -> None:
    """LAZYDEPS_PACK with references: the lock is not opened, and the module that reads it is not imported."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app/lazydeps.lock").write_text("damaged")
    code = "import lazydeps, sys\nwith lazydeps.load() as loading:\n    pass\nprint(*loading.refs)\n"
    program = script(tmp_path / "app", code + "assert 'lazydeps._lockfile' not in sys.modules\n")
    assert run_python(None, program, environ={"LAZYDEPS_PACK": refs["later"]}).stdout.split() == [refs["later"]]
    assert "is no lock file" in failure(run_python, program)


def test_nothing_for_this_python(run_python: RunPython, refs: dict[str, str], tmp_path: Path) -> None:
    """On Lambda, or with a lock that was named: an error with the targets that there are. On a laptop: nothing."""
    lock = write_lock(tmp_path / "app", {"a": {ELSEWHERE: refs["first"]}, "b": {"python3.8-any": refs["second"]}})
    program, named = script(tmp_path / "app"), {"LAZYDEPS_PACK": "a"}
    assert run_python(None, program).stdout.split() == []
    assert run_python(None, program, environ=named).stdout.split() == []
    for environ in ({"LAMBDA_TASK_ROOT": "/nowhere"}, {"LAZYDEPS_LOCK": str(lock)}):
        said = failure(run_python, program, environ=environ)
        assert (
            f"{lock} has no pack for {HERE}, which is what runs here. It has a: {ELSEWHERE}; b: python3.8-any." in said
        )
        assert "`lazydeps push --name a`" in said
        assert f"It has a: {ELSEWHERE}. " in failure(run_python, program, environ={**environ, **named})


def test_a_name_that_is_not_there(run_python: RunPython, refs: dict[str, str], tmp_path: Path) -> None:
    """The names that there are, or the places where no lock was; what cannot be a name is a bad reference."""
    program, environ = script(tmp_path / "app"), {"LAZYDEPS_PACK": "science", "LAMBDA_TASK_ROOT": str(tmp_path)}
    said = failure(run_python, program, environ=environ)
    assert f"and there is none in {tmp_path}/app or {tmp_path}. Put the file beside the handler" in said
    assert "or give a reference, s3://BUCKET/KEY#root=sha256:HEX" in said
    lock = write_lock(tmp_path / "app", {"a": {HERE: refs["first"]}})
    said = failure(run_python, program, environ=environ)
    assert f"{lock} has no pack named 'science': it has a. Correct the name, or add it: `lazydeps push" in said
    for word in ("./a", "packs/a.tar.zst", "s3:/b/a"):
        assert f"{word!r} is not a reference" in failure(run_python, program, environ={"LAZYDEPS_PACK": word})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "it is not JSON"),
        ("\ud800".encode("utf-8", "surrogatepass"), "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("[]", "it has no lazydeps_lock: 1 with packs"),
        ('{"packs": {}}', "it has no lazydeps_lock: 1 with packs"),
        ('{"lazydeps_lock": true, "packs": {}}', "it has no lazydeps_lock: 1 with packs"),
        ('{"lazydeps_lock": 2, "packs": {}}', "has format 2 and this lazydeps reads format 1. Update the lazydeps"),
        ('{"lazydeps_lock": 1, "packs": []}', "it has no lazydeps_lock: 1 with packs"),
        ('{"lazydeps_lock": 1, "packs": {"a": []}}', "is damaged: 'a' does not map targets to packs"),
        ('{"lazydeps_lock": 1, "packs": {"a": {"any": "s3://b/k"}}}', "is damaged: 'a' does not map targets to packs"),
        ('{"lazydeps_lock": 1, "packs": {"a": {"any": {}}}}', "the ref of 'a' for any is none"),
        ('{"lazydeps_lock": 1, "packs": {"a": {"any": {"ref": 7}}}}', "the ref of 'a' for any is none"),
        ('{"lazydeps_lock": 1, "packs": {"a": {"any": {"ref": "s3://b/k"}}}}', "s3://b/k is not pinned"),
        ('{"lazydeps_lock": 1, "packs": {"a": {"any": {"ref": "s3://b/k#root=sha256:1"}}}}', "the pin of"),
        ('{"lazydeps_lock": 1, "packs": {"s3://b/k.zip": {}}}', "is damaged: 's3://b/k.zip' is no name of a pack"),
        ('{"lazydeps_lock": 1, "packs": {"": {}}}', "is damaged: '' is no name of a pack"),
        (" " * ((4 << 20) + 1), "has 4,194,305 bytes and 4,194,304 are the most"),
        ('<<<<<<< HEAD\n{"lazydeps_lock": 1}\n=======\n', "git's conflict markers in it"),
    ],
    ids=range(18),
)
def test_damage(run_python: RunPython, tmp_path: Path, content: str | bytes, words: str) -> None:
    """What is no lock is a ConfigError that names the file, what was found and the command that writes it."""
    program = script(tmp_path / "app")
    path = tmp_path / "app/lazydeps.lock"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    said = failure(run_python, program)
    assert str(path) in said
    assert words in said
    assert "lazydeps push" in said or "git checkout --theirs" in said


def test_what_is_no_file(run_python: RunPython, tmp_path: Path) -> None:
    """A folder, and a pipe that nobody writes to, are refused at once; so is a link to nowhere that was named."""
    program = script(tmp_path / "app")
    path = tmp_path / "app/lazydeps.lock"
    os.mkfifo(path)
    assert f"the lock file {path} is no regular file" in failure(run_python, program)
    path.unlink()
    path.mkdir()
    assert f"the lock file {path} is no regular file" in failure(run_python, program)


def test_an_empty_lock(run_python: RunPython, tmp_path: Path) -> None:
    """A lock without packs is like none."""
    write_lock(tmp_path / "app", {})
    assert run_python(None, script(tmp_path / "app"), environ={"LAMBDA_TASK_ROOT": "/nowhere"}).stdout == "\n"


def test_children_find_the_packs_of_a_lock(run_python: RunPython, refs: dict[str, str], tmp_path: Path) -> None:
    """A child process imports from what its parent's lock named, wherever it stands."""
    write_lock(tmp_path / "app", {"a": {HERE: refs["first"]}})
    code = (
        "import lazydeps, subprocess, sys\nwith lazydeps.load():\n    pass\n"
        "print(subprocess.check_output([sys.executable, '-c', 'import first; print(first.NAME)'], text=True))\n"
    )
    assert run_python(None, script(tmp_path / "app", code)).stdout.split() == ["first"]


def test_under_lambdas_runtime_client(refs: dict[str, str], tmp_path: Path) -> None:
    """A handler in a folder below the task root starts from the lock at the task root; nothing else is configured."""
    task = tmp_path / "task"
    write_lock(task, {"science": {HERE: refs["first"]}})
    (task / "app").mkdir()
    (task / "app/handler.py").write_text(
        "import lazydeps\nwith lazydeps.load():\n    import first\ndef handle(event, context):\n    return first.NAME\n"
    )
    environ = {"PYTHONPATH": str(SRC), "LAZYDEPS_DIR": str(tmp_path / "lazydeps"), "HOME": str(tmp_path)}
    with Function(sys.executable, "app.handler.handle", task_root=task, environ=environ) as function:
        assert function.invoke({}).response == "first"
