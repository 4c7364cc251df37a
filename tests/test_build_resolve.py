"""Installing with uv, adopting a folder, and making either reproducible. Real wheels from the index."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import sys
from pathlib import Path

import pytest

from lazydeps.build import resolve, uv
from lazydeps.build.interpreters import Interpreter, require_interpreter
from lazydeps.build.trace import target_suffixes
from lazydeps.errors import ConfigError, LazydepsError, UnsafeArchiveError

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
SUFFIXES = target_suffixes(MINOR, "x86_64")
SMALL = ["six", "idna", "packaging", "markupsafe"]


@pytest.fixture(scope="module")
def interpreter() -> Interpreter:
    return require_interpreter(MINOR)


def install(into: Path, interpreter: Interpreter, *requirements: str, **more: object) -> resolve.Installed:
    options = {"arch": "x86_64", "glibc": "2.34", **more}
    return resolve.install(requirements, into=into, interpreter=interpreter, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, interpreter: Interpreter) -> Path:
    into = tmp_path_factory.mktemp("installed") / "tree"
    install(into, interpreter, *SMALL)
    resolve.normalise(into, drop_scripts=True)
    return into


def contents(tree: Path) -> dict[str, bytes]:
    return {path: (tree / path).read_bytes() for path in resolve.list_files(tree)}


def distribution(tree: Path, name: str, *files: str, requires: tuple[str, ...] = ()) -> None:
    """Put a made-up distribution into a tree."""
    info = tree / f"{name}-1.dist-info"
    info.mkdir(parents=True)
    lines = [f"Name: {name}", "Version: 1", *(f"Requires-Dist: {line}" for line in requires)]
    (info / "METADATA").write_text("\n".join(lines) + "\n\n")
    for file in files:
        (tree / file).parent.mkdir(parents=True, exist_ok=True)
        (tree / file).write_bytes(b"")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def test_the_same_requirements_give_the_same_files(tree: Path, tmp_path: Path, interpreter: Interpreter) -> None:
    """A second installation in another folder differs in no byte, and nothing names this machine."""
    again = tmp_path / "a longer name" / "tree"
    install(again, interpreter, *reversed(SMALL))
    resolve.normalise(again, drop_scripts=True)
    assert contents(again) == contents(tree)
    assert not [path for path in contents(tree) if path.endswith(("/INSTALLER", "/REQUESTED", ".lock"))]
    assert not (tree / "bin").exists()


def test_record_lists_what_is_there(tree: Path) -> None:
    """Each RECORD is sorted, names only files that exist, and keeps their digests and sizes."""
    for info in tree.glob("*.dist-info"):
        with (info / "RECORD").open(newline="") as stream:
            rows = list(csv.reader(stream))
        names = [row[0] for row in rows]
        assert names == sorted(set(names))
        assert f"{info.name}/RECORD" in names
        assert f"{info.name}/METADATA" in names
        for name, digest, size in rows:
            data = (tree / name).read_bytes()
            if name != f"{info.name}/RECORD":
                expected = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
                assert (digest, size) == (f"sha256={expected}", str(len(data)))


def test_distributions_have_normalised_names(tree: Path, tmp_path: Path) -> None:
    """Names are as PEP 503 spells them, sorted."""
    assert list(resolve.list_distributions(tree)) == sorted(SMALL)
    distribution(tmp_path, "Some.Odd_Name")
    assert resolve.list_distributions(tmp_path) == {"some-odd-name": "1"}


def test_requested_modules_are_the_public_ones(tree: Path, tmp_path: Path) -> None:
    """Modules, packages and portions of namespaces count; tests, private helpers and submodules do not."""
    assert resolve.requested_modules(tree, SMALL, suffixes=SUFFIXES) == ["idna", "markupsafe", "packaging", "six"]
    distribution(tmp_path, "many", "pkg/__init__.py", "pkg/sub.py", "_help.py", "tests/test_x.py", "pkg.libs/l.so")
    distribution(tmp_path, "private", f"_only{SUFFIXES[0]}", "docs/conf.py")
    distribution(tmp_path, "portion", "space/cloud/store/__init__.py", "space/cloud/store/inner/__init__.py")
    assert resolve.requested_modules(tmp_path, ["many", "private", "portion"], suffixes=SUFFIXES) == [
        "pkg",
        "space.cloud.store",
        "_only",
    ]


def test_requested_names_come_from_every_way_to_ask(tmp_path: Path) -> None:
    """Names are read from strings, wheel files and requirement files with includes, extras, markers and options."""
    tree = tmp_path / "tree"
    for name in ("one", "two", "three", "four", "not-asked", "local"):
        distribution(tree, name)
    (tree / "local-1.dist-info" / "direct_url.json").write_text('{"url": "file:///projects/local"}')
    (tmp_path / "inner.txt").write_text("three>=1 \\\n  --hash=sha256:00\n")
    (tmp_path / "outer.txt").write_text("# a comment\n--index-url https://example.org\n-r inner.txt\nTwo[x]>0 # why\n")
    asked = resolve.requested_names(
        ["one==1; python_version > '3'", "./four-1-py3-none-any.whl", "./local", "absent"],
        requirement_files=[tmp_path / "outer.txt"],
        tree=tree,
    )
    assert asked == {"one", "two", "three", "four", "local"}


def test_of_a_folder_the_roots_are_requested(tmp_path: Path) -> None:
    """Distributions that another one requires are not; a marker that excludes Linux or an extra requires nothing."""
    distribution(tmp_path, "app", requires=("lib>=1", "win; sys_platform == 'win32'", "opt; extra == 'more'"))
    for name in ("lib", "win", "opt"):
        distribution(tmp_path, name)
    assert resolve.root_distributions(tmp_path, python=MINOR) == ["app", "opt", "win"]


def test_distributions_that_require_each_other_are_all_roots(tmp_path: Path) -> None:
    """A circle has no root, and still has to be imported from somewhere."""
    distribution(tmp_path, "a", requires=("b",))
    distribution(tmp_path, "b", requires=("a",))
    assert resolve.root_distributions(tmp_path, python=MINOR) == ["a", "b"]


def test_an_old_floor_takes_older_wheels_instead_of_building(tmp_path: Path, interpreter: Interpreter) -> None:
    """Python 3.11 on Lambda has glibc 2.26: numpy comes as a wheel for 2.17, though newer versions have none."""
    floor = resolve.glibc_floor("3.11")
    assert (floor, resolve.glibc_floor("3.13")) == ("2.17", "2.34")
    installed = install(tmp_path, interpreter._replace(version="3.11.9"), "numpy", glibc=floor)
    assert installed.warnings == ()
    (wheel,) = tmp_path.glob("numpy-*.dist-info/WHEEL")
    assert "manylinux2014_x86_64" in wheel.read_text() or "manylinux_2_17_x86_64" in wheel.read_text()


def test_a_project_without_wheels_is_built(tmp_path: Path, interpreter: Interpreter) -> None:
    """For docopt the index has no wheel: it is built, said to be, and everything else stays a wheel."""
    installed = install(tmp_path, interpreter, "docopt", "markupsafe", arch="arm64")
    assert installed.warnings == ("built from source, because there is no wheel: docopt.",)
    assert {"docopt", "markupsafe"} == resolve.list_distributions(tmp_path).keys()
    assert list(tmp_path.glob("markupsafe/*aarch64*.so"))


def test_uvs_reason_reaches_the_user(tmp_path: Path, interpreter: Interpreter) -> None:
    """A resolution that fails says what uv says, for which target."""
    with pytest.raises(LazydepsError, match=rf"(?s)Python {MINOR} on arm64 with glibc 2\.34:.*six==99"):
        install(tmp_path, interpreter, "six==99", arch="arm64")


def test_a_missing_wheel_says_what_to_do() -> None:
    """Where wheels are the trouble, the message says how to get round it."""
    said = "error: nothing\n  cause: Because torch==2 has no wheels with a matching platform tag\n"
    message = uv.explain(said, "Python 3.11 on arm64 with glibc 2.17")
    assert "torch==2" in message
    assert "--glibc" in message


def test_uv_is_found_or_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the package, uv on PATH does; without either, the message names the extra."""
    monkeypatch.setitem(sys.modules, "uv", None)
    binary = tmp_path / "uv"
    binary.write_text("")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert uv.uv_binary() == binary
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match=r"pip install 'lazydeps\[build\]'"):
        uv.uv_binary()


def test_a_folder_is_adopted_without_being_touched(tmp_path: Path) -> None:
    """Links inside become files, bytecode stays behind, .pth files are named, the user's folder is as it was."""
    folder = tmp_path / "site"
    distribution(folder, "pkg", "pkg/__init__.py", "pkg/data.bin")
    (folder / "pkg" / "data.bin").write_bytes(os.urandom(resolve._HARDLINK_SIZE))
    (folder / "pkg" / "__pycache__").mkdir()
    (folder / "pkg" / "__pycache__" / "__init__.cpython-313.pyc").write_bytes(b"stale")
    (folder / "alias").symlink_to("pkg")
    (folder / "pkg" / "again.bin").symlink_to("data.bin")
    (folder / "old.pth").write_text("import old\n")
    before = contents(folder)
    times = {path: (folder / path).stat().st_mtime_ns for path in before}
    into = tmp_path / "scratch"
    done = resolve.adopt(folder, into=into)
    assert done.warnings == (
        "old.pth is packed but not honoured: .pth files work only in folders that the site module reads.",
    )
    resolve.normalise(into, drop_scripts=False)
    copied = contents(into)
    assert copied["alias/again.bin"] == before["pkg/data.bin"]
    assert not any(path.is_symlink() for path in into.rglob("*"))
    assert not [path for path in copied if "__pycache__" in path]
    assert contents(folder) == before
    assert {path: (folder / path).stat().st_mtime_ns for path in before} == times


@pytest.mark.parametrize(
    ("target", "reason"),
    [("../outside", "leads out of the folder"), ("nowhere", "leads nowhere"), (".", "folder that holds it")],
)
def test_links_that_cannot_be_packed_are_refused(tmp_path: Path, target: str, reason: str) -> None:
    """A link out of the folder, a broken one and a circle are named, not followed."""
    (tmp_path / "outside").mkdir()
    folder = tmp_path / "site"
    (folder / "pkg").mkdir(parents=True)
    (folder / "pkg" / "link").symlink_to(Path("..", target) if target.startswith("..") else target)
    with pytest.raises(UnsafeArchiveError, match=f"^pkg/link is a link.*{reason}") as caught:
        resolve.adopt(folder, into=tmp_path / "scratch")
    assert caught.value.member == "pkg/link"


def test_special_files_are_refused(tmp_path: Path) -> None:
    """A pipe in the folder is an error, and is not opened."""
    folder = tmp_path / "site"
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    with pytest.raises(UnsafeArchiveError, match="pipe is neither a file nor a folder"):
        resolve.adopt(folder, into=tmp_path / "scratch")


def test_an_empty_or_missing_folder_is_refused(tmp_path: Path) -> None:
    """Both say what --from-dir wants."""
    (tmp_path / "empty").mkdir()
    for folder, reason in ((tmp_path / "empty", "is empty"), (tmp_path / "none", "is none")):
        with pytest.raises(ConfigError, match=reason):
            resolve.adopt(folder, into=tmp_path / "scratch")


def test_local_addresses_do_not_get_into_a_pack(tmp_path: Path) -> None:
    """A direct_url.json with a path of this machine goes; one that names a public archive stays."""
    distribution(tmp_path, "near", "near.py")
    distribution(tmp_path, "far", "far.py")
    for name, url in (("near", "file:///projects/near"), ("far", "https://example.org/far.zip")):
        (tmp_path / f"{name}-1.dist-info" / "direct_url.json").write_text(json.dumps({"url": url}))
    resolve.normalise(tmp_path, drop_scripts=True)
    assert not (tmp_path / "near-1.dist-info" / "direct_url.json").exists()
    assert (tmp_path / "far-1.dist-info" / "direct_url.json").exists()


def test_modules_for_another_target_are_refused() -> None:
    """Extension modules of another Python or architecture, and none for the target, cannot be what was meant."""
    files = ["pkg/_x.cpython-313-x86_64-linux-gnu.so", "pkg/_y.abi3.so"]
    resolve.check_abi(files, python="3.13", arch="x86_64", what="DIR")
    for python, arch in (("3.12", "x86_64"), ("3.13", "arm64")):
        with pytest.raises(ConfigError, match=r"cpython-313-x86_64-linux-gnu\.so.*--python and --arch"):
            resolve.check_abi(files, python=python, arch=arch, what="DIR")
