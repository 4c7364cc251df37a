"""What ELF files need: numpy's real wheel, and small made-up trees for the rules."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lazydeps.build import resolve
from lazydeps.build.elf import Dynamic, ElfTree
from lazydeps.build.interpreters import require_interpreter

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture(scope="module")
def numpy_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("numpy") / "tree"
    # numpy 2.1's wheels carry a chain of three libraries, and exist for every Python this runs on
    resolve.install(
        ["numpy==2.1.3", "markupsafe"],
        into=into,
        interpreter=require_interpreter(MINOR),
        arch="x86_64",
        glibc="2.34",
    )
    return into


def made_up(files: dict[str, Dynamic]) -> ElfTree:
    tree = ElfTree(Path("/nowhere"), files)
    tree._dynamic = dict(files)
    return tree


def test_numpys_libraries_come_in_the_loaders_order(numpy_tree: Path) -> None:
    """The BLAS that auditwheel vendored is found through RPATH, after the Fortran runtime that it needs itself."""
    files = resolve.list_files(numpy_tree)
    elf = ElfTree(numpy_tree, files)
    (extension,) = [path for path in files if "/_multiarray_umath.cpython" in path]
    closure = elf.needed_closure(extension)
    names = [path.removeprefix("numpy.libs/lib").split("-")[0] for path in closure]
    assert names == ["quadmath", "gfortran", "scipy_openblas64_"]
    assert all((numpy_tree / path).is_file() for path in closure)


def test_only_the_trees_own_libraries_count(numpy_tree: Path) -> None:
    """The C library is needed as well, and is the system's."""
    files = resolve.list_files(numpy_tree)
    elf = ElfTree(numpy_tree, files)
    (extension,) = [path for path in files if "/_speedups.cpython" in path]
    assert elf.dynamic(extension).needed
    assert elf.needed_closure(extension) == []


def test_an_extension_is_known_by_what_it_exports(numpy_tree: Path) -> None:
    """`PyInit_NAME` is looked up in the dynamic symbols; a text file that is called .so has none."""
    files = resolve.list_files(numpy_tree)
    elf = ElfTree(numpy_tree, files)
    (extension,) = [path for path in files if "/_speedups.cpython" in path]
    assert elf.exports(extension, "PyInit__speedups")
    assert not elf.exports(extension, "PyInit_other")
    assert not elf.exports("markupsafe/__init__.py", "PyInit_markupsafe")
    assert elf.dynamic("markupsafe/__init__.py") == Dynamic()


def test_origin_decides_among_libraries_of_one_name() -> None:
    """Two packages vendor the same file name: each gets its own through $ORIGIN, in either spelling."""
    elf = made_up(
        {
            "a/x.so": Dynamic(needed=("libz.so",), search=("$ORIGIN/lib",)),
            "b/y.so": Dynamic(needed=("libz.so",), search=("/opt/build", "${ORIGIN}/../b.libs")),
            "c/w.so": Dynamic(needed=("libz.so",)),
            "a/lib/libz.so": Dynamic(),
            "b.libs/libz.so": Dynamic(),
        }
    )
    assert elf.needed_closure("a/x.so") == ["a/lib/libz.so"]
    assert elf.needed_closure("b/y.so") == ["b.libs/libz.so"]
    assert elf.needed_closure("c/w.so") == []  # the name is not unique: a guess could be the wrong library


def test_a_unique_soname_is_found_anywhere() -> None:
    """A library that another package has loaded answers for its SONAME, whatever its file is called."""
    elf = made_up(
        {
            "a/x.so": Dynamic(needed=("libcore.so.2", "libplain.so", "libc.so.6")),
            "other/lib/core-deadbeef.so": Dynamic(soname="libcore.so.2"),
            "other/libplain.so": Dynamic(),
        }
    )
    assert elf.needed_closure("a/x.so") == ["other/lib/core-deadbeef.so", "other/libplain.so"]


def test_a_way_out_of_the_tree_is_not_taken() -> None:
    """A RUNPATH that climbs above the tree finds nothing there."""
    elf = made_up({"a/x.so": Dynamic(needed=("libz.so",), search=("$ORIGIN/../../lib",))})
    assert elf.needed_closure("a/x.so") == []


def test_libraries_that_need_each_other_end() -> None:
    """ELF allows circles; each file is listed once, and never the one that was asked about."""
    elf = made_up(
        {
            "x.so": Dynamic(needed=("liba.so",)),
            "liba.so": Dynamic(needed=("libb.so", "x.so")),
            "libb.so": Dynamic(needed=("liba.so",)),
        }
    )
    assert elf.needed_closure("x.so") == ["libb.so", "liba.so"]
