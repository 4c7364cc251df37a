"""A pack from beginning to end: real wheels in, one reproducible archive out."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from lazydeps.build import pack as pack_module
from lazydeps.build import resolve
from lazydeps.build.interpreters import require_interpreter
from lazydeps.build.pack import PHASES, PackOptions, SilentObserver, build_pack, check_options
from lazydeps.build.trace import Trace
from lazydeps.errors import ConfigError, LazydepsError

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
SMALL = ("six", "markupsafe", "packaging")


class Listener(SilentObserver):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.last: dict[str, tuple[int, int]] = {}

    def phase(self, name: str, detail: str) -> None:
        assert detail
        self.phases.append(name)

    def progress(self, done: int, total: int, item: str = "") -> None:
        self.last[self.phases[-1]] = (done, total)


def options(out: Path, **more: object) -> PackOptions:
    return replace(PackOptions(out=out, arch="x86_64", level=1), **more)  # type: ignore[arg-type]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made during a test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_the_same_inputs_give_the_same_pack(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two builds in other folders, with other orders and numbers of jobs, are one pack; its phases are told."""
    listener = Listener()
    first = build_pack(options(tmp_path / "a.tar.zst", requirements=SMALL, jobs=1), observer=listener)
    other = tmp_path / "another and longer"
    other.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(other))
    second = build_pack(options(tmp_path / "b.tar.zst", requirements=SMALL[::-1], jobs=3))
    assert digest(first.written.path) == digest(second.written.path)
    assert first.written.root == second.written.root
    assert listener.phases == list(PHASES) == list(first.seconds)
    assert all(done == total for done, total in listener.last.values())
    assert {"compile", "write"} <= listener.last.keys()
    assert list(first.distributions) == sorted(SMALL)
    assert first.trace.how == ("import markupsafe", "import packaging", "import six")
    assert (first.warnings, first.failed_imports, first.trace_dropped) == ((), {}, ())
    assert not any(scratch.iterdir())
    assert not any(other.iterdir())


def test_tar_extracts_what_plain_python_imports(tmp_path: Path) -> None:
    """Any tool can open a pack, and the folder works with nothing of lazydeps in it."""
    built = build_pack(options(tmp_path / "p.tar.zst", requirements=SMALL))
    tree = tmp_path / "tree"
    tree.mkdir()
    subprocess.run(["tar", "--zstd", "-xf", built.written.path, "-C", tree], check=True)
    program = (
        "import six, markupsafe._speedups, packaging, importlib.metadata as m; print(m.version('six'), six.__file__)"
    )
    ran = subprocess.run(
        [require_interpreter(MINOR).path, "-S", "-c", program],
        env={"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.split() == [built.distributions["six"], str(tree / "six.py")]


def test_a_saved_trace_gives_the_same_pack(tmp_path: Path) -> None:
    """--save-trace and --trace-file are two halves of one thing, in a real build."""
    saved = tmp_path / "trace.json"
    first = build_pack(
        options(
            tmp_path / "a.tar.zst", requirements=SMALL, trace_statements=("import six, packaging",), save_trace=saved
        )
    )
    assert [path for path in Trace.load(saved).order if path.endswith(".py")] == [
        "six.py",
        "packaging/__init__.py",
    ]
    second = build_pack(options(tmp_path / "b.tar.zst", requirements=SMALL, trace_files=(saved,)))
    assert second.written.root == first.written.root


def test_an_existing_folder_gives_the_pack_that_uv_would(tmp_path: Path) -> None:
    """--from-dir on a folder that uv filled is the same pack, bytecode lying about or not; the folder is untouched."""
    folder = tmp_path / "site"
    interpreter = require_interpreter(MINOR)
    resolve.install(SMALL, into=folder, interpreter=interpreter, arch="x86_64", glibc="2.34")
    shutil.rmtree(folder / "bin", ignore_errors=True)
    (folder / "__pycache__").mkdir(exist_ok=True)
    (folder / "__pycache__" / "six.cpython-39.pyc").write_bytes(b"stale")
    before = {path: digest(folder / path) for path in resolve.list_files(folder)}
    installed = build_pack(options(tmp_path / "a.tar.zst", requirements=SMALL))
    adopted = build_pack(options(tmp_path / "b.tar.zst", from_dir=folder))
    assert adopted.written.root == installed.written.root
    assert {path: digest(folder / path) for path in resolve.list_files(folder)} == before


def test_another_architecture_is_traced_here(tmp_path: Path) -> None:
    """An arm64 pack built on x86-64 (or the reverse) has a trace in terms of its own files."""
    here = require_interpreter(MINOR).arch
    foreign = {"x86_64": "arm64", "arm64": "x86_64"}[here]
    built = build_pack(options(tmp_path / "p.tar.zst", requirements=("markupsafe",), arch=foreign))
    machine = {"arm64": "aarch64"}.get(foreign, foreign)
    tag = MINOR.replace(".", "")
    assert f"markupsafe/_speedups.cpython-{tag}-{machine}-linux-gnu.so" in built.trace.order
    assert (built.target.arch, built.trace.arch, built.trace_dropped) == (foreign, foreign, ())


def test_trouble_on_the_way_is_told(tmp_path: Path) -> None:
    """Modules that cannot be imported, entries that have gone and sources that do not compile are in the result."""
    folder = tmp_path / "site"
    for name, text in {"good": "", "bad": "import not_installed\n", "broken": "def f(:\n"}.items():
        info = folder / f"{name}-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Name: {name}\nVersion: 1\n\n")
        (info / "RECORD").write_text(f"{name}.py,,\n")
        (folder / f"{name}.py").write_text(text)
    (folder / "x.pth").write_text("")
    built = build_pack(options(tmp_path / "p.tar.zst", from_dir=folder))
    assert built.without_bytecode == ("broken.py",)
    assert built.failed_imports.keys() == {"bad", "broken"}
    assert [warning.split(" ")[0] for warning in built.warnings] == ["x.pth", "`import", "`import"]
    assert built.trace.how == ("import good",)
    trace = replace(built.trace, order=("good.py", "gone.py"))
    trace.save(tmp_path / "t.json")
    again = build_pack(options(tmp_path / "p.tar.zst", from_dir=folder, trace_files=(tmp_path / "t.json",)))
    assert again.trace_dropped == ("gone.py",)
    assert any("1 of the trace's 2 entries" in warning for warning in again.warnings)


@pytest.mark.parametrize("error", [KeyboardInterrupt, LazydepsError], ids=lambda error: str(error.__name__))
def test_nothing_is_left_behind(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """Whether the user interrupts or a step fails, the scratch folder and a half-written pack are gone."""

    def stop(*_: object, **__: object) -> None:
        assert any(scratch.iterdir())  # or the test shows nothing
        raise error

    monkeypatch.setattr(pack_module, "write_pack", stop)
    with pytest.raises(error):
        build_pack(options(tmp_path / "p.tar.zst", requirements=("six",)))
    assert not any(scratch.iterdir())
    assert not (tmp_path / "p.tar.zst").exists()


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({}, "nothing to pack"),
        ({"requirements": ("six",), "from_dir": Path()}, "cannot be combined with"),
        ({"requirements": ("six",), "python": "3.13.1"}, r"minor version.*'3\.13\.1'"),
        ({"requirements": ("six",), "python": "3.10"}, r"from 3\.11 on"),
        ({"requirements": ("six",), "arch": "riscv64"}, "x86_64 or arm64.*'riscv64'"),
        ({"requirements": ("six",), "glibc": "new"}, "--glibc wants a version"),
        ({"requirement_files": (Path("/nowhere.txt"),)}, r"-r wants a file, and /nowhere\.txt"),
        ({"requirements": ("six",), "trace_scripts": (Path("/nowhere.py"),)}, "--trace-script wants a file"),
        ({"requirements": ("six",), "trace_files": (Path("/nowhere.json"),)}, "--trace-file wants a file"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, more: dict[str, object], reason: str) -> None:
    """Before anything is resolved or installed."""
    listener = Listener()
    with pytest.raises(ConfigError, match=reason):
        build_pack(options(tmp_path / "p.tar.zst", **more), observer=listener)
    assert listener.phases == []


def test_defaults_are_this_machines_and_lambdas() -> None:
    """The running Python, this architecture, and the C library of Lambda's runtime; other spellings are understood."""
    filled = check_options(PackOptions(out=Path("p"), requirements=("six",)))
    assert (filled.python, filled.arch) == (MINOR, require_interpreter(MINOR).arch)
    assert filled.glibc == resolve.glibc_floor(MINOR)
    assert check_options(replace(filled, arch="AARCH64")).arch == "arm64"
