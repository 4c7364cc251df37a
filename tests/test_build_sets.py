"""Boot, data and cold: what goes where, and in which order."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lazydeps.build import resolve
from lazydeps.build.elf import Dynamic, ElfTree
from lazydeps.build.interpreters import require_interpreter
from lazydeps.build.sets import arrange, is_extension
from lazydeps.build.trace import Trace, target_suffixes

SUFFIXES = target_suffixes("3.13", "x86_64")
TAG = "cpython-313"


def arranged(
    tmp_path: Path, files: dict[str, Dynamic | None], *order: str, exports: tuple[str, ...] = ()
) -> dict[str, list[str]]:
    elf = ElfTree(tmp_path, files)
    elf._dynamic = {path: facts or Dynamic() for path, facts in files.items()}
    elf.exports = lambda path, symbol: path in exports  # type: ignore[method-assign]
    trace = Trace("3.13", "x86_64", (), order, ())
    members = arrange(tmp_path, list(files), trace=trace, elf=elf, suffixes=SUFFIXES, cache_tag=TAG)
    assert sorted(member.path for member in members) == sorted(files)  # each file once
    assert all(member.source == tmp_path / member.path for member in members)
    sets: dict[str, list[str]] = {"boot": [], "data": [], "cold": []}
    for member in members:
        sets[member.set].append(member.path)
    assert [member.path for member in members] == [*sets["boot"], *sets["data"], *sets["cold"]]
    return sets


def test_each_file_has_its_place(tmp_path: Path) -> None:
    """Traced modules boot as bytecode; other modules are cold, sources last; everything else is data."""
    names = ["b.py", "a.py", "c.py", "template.py", "z.txt", "m.txt", "d-1.dist-info/METADATA", "libq.so.1", "v.py"]
    files: dict[str, Dynamic | None] = dict.fromkeys(names)
    files |= dict.fromkeys(f"__pycache__/{name}.{TAG}.pyc" for name in ("a", "b", "c"))
    files |= dict.fromkeys(["x.cpython-313-x86_64-linux-gnu.so", "old.pyc"])
    sets = arranged(tmp_path, files, "b.py", "m.txt", "file:v.py", "template.py", "a.py", "b.py")
    assert sets["boot"] == [
        f"__pycache__/b.{TAG}.pyc",
        "m.txt",
        "v.py",
        "template.py",  # it has no bytecode, so the source itself is what importing reads
        f"__pycache__/a.{TAG}.pyc",
    ]
    assert sets["data"] == ["d-1.dist-info/METADATA", "libq.so.1", "z.txt"]
    assert sets["cold"] == [
        f"__pycache__/c.{TAG}.pyc",
        "old.pyc",
        "x.cpython-313-x86_64-linux-gnu.so",
        "a.py",
        "b.py",
        "c.py",
    ]


def test_what_only_tools_read_is_cold(tmp_path: Path) -> None:
    """Stubs, headers, sources of extensions and the data of test suites; unless the traced program opened them."""
    tools = ["p/a.pyi", "p/include/a.h", "p/lib.a", "p/src.cpp", "p/tests/data/x.csv"]
    others = ["p/data.csv", "p/py.typed", "p/table.json", "tests/x.csv"]  # a top-level package may be called anything
    files = dict.fromkeys([*tools, *others, "p/opened.h", "p/b.py"])
    sets = arranged(tmp_path, files, "p/opened.h")
    assert sets == {"boot": ["p/opened.h"], "data": others, "cold": [*tools, "p/b.py"]}


def test_libraries_stand_right_before_who_needs_them_first(tmp_path: Path) -> None:
    """Closures precede extensions and libraries opened by hand; a library shared by two is listed once."""
    one, two = "p/one.abi3.so", "p/two.abi3.so"
    files: dict[str, Dynamic | None] = {
        "p/__init__.py": None,
        one: Dynamic(needed=("libblas.so",)),
        two: Dynamic(needed=("libfft.so", "libblas.so")),
        "p.libs/libblas.so": Dynamic(needed=("libgfortran.so.5",)),
        "p.libs/libgfortran.so.5": Dynamic(),
        "p.libs/libfft.so": Dynamic(),
        "p/plugin.so": Dynamic(needed=("libplug.so",)),
        "p.libs/libplug.so": Dynamic(),
        "p.libs/libnobody.so": Dynamic(),
    }
    sets = arranged(tmp_path, files, "p/__init__.py", one, two, "p/plugin.so")
    assert sets["boot"] == [
        "p/__init__.py",
        "p.libs/libgfortran.so.5",
        "p.libs/libblas.so",
        one,
        "p.libs/libfft.so",
        two,
        "p.libs/libplug.so",
        "p/plugin.so",
    ]
    assert sets["data"] == ["p.libs/libnobody.so"]


def test_a_plain_so_is_a_module_only_if_it_exports_one(tmp_path: Path) -> None:
    """Most files called NAME.so are libraries; extensions for another Python are data, which nothing imports."""
    files: dict[str, Dynamic | None] = dict.fromkeys(
        ["p/mod.so", "p/lib.so", "p/lib-x.so", "p/y.cpython-312-x86_64-linux-gnu.so", "p/a-b.abi3.so"]
    )
    sets = arranged(tmp_path, files, exports=("p/mod.so", "p/lib-x.so"))
    assert sets["cold"] == ["p/mod.so"]
    assert sets["data"] == ["p/a-b.abi3.so", "p/lib-x.so", "p/lib.so", "p/y.cpython-312-x86_64-linux-gnu.so"]


def test_a_real_extension_under_a_plain_name(tmp_path: Path) -> None:
    """The dynamic symbols of a real module decide, not its tag."""
    interpreter = require_interpreter(f"{sys.version_info[0]}.{sys.version_info[1]}")
    resolve.install(["markupsafe"], into=tmp_path, interpreter=interpreter, arch="x86_64", glibc="2.34")
    (extension,) = (tmp_path / "markupsafe").glob("_speedups.cpython-*.so")
    for name in ("_speedups.so", "other.so"):
        (tmp_path / "markupsafe" / name).write_bytes(extension.read_bytes())
    elf = ElfTree(tmp_path, resolve.list_files(tmp_path))
    assert is_extension("markupsafe/_speedups.so", elf, SUFFIXES)
    assert not is_extension("markupsafe/other.so", elf, SUFFIXES)


@pytest.mark.parametrize("entry", ["gone.txt", "gone.abi3.so", "file:gone.py"])
def test_entries_that_are_not_there_are_passed_over(tmp_path: Path, entry: str) -> None:
    """`fit` drops them before; `arrange` invents no members."""
    assert arranged(tmp_path, {"a.txt": None}, entry) == {"boot": [], "data": ["a.txt"], "cold": []}
