"""Divide a tree's files among the boot, data and cold sets, and put each set in its order.

Decides; it reads ELF files through `elf.py` and writes nothing.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from .bytecode import pyc_path
from .elf import is_shared_object
from .trace import FILE_PREFIX
from .write import Member

TOOL_SUFFIXES = frozenset(
    {
        *(".pyi", ".pyx", ".pxd", ".pxi", ".h", ".hh", ".hpp", ".hxx", ".c", ".cc", ".cpp", ".cxx", ".f", ".f90"),
        *(".a", ".la", ".o", ".cmake"),
    }
)
"""Files that type checkers, compilers and linkers read, and no running program."""

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

    from .elf import ElfTree
    from .trace import Trace


def arrange(
    tree: Path,
    files: Sequence[str],
    *,
    trace: Trace,
    elf: ElfTree,
    suffixes: Sequence[str],
    cache_tag: str,
    opened: Collection[str] = (),
) -> list[Member]:
    """Return every file of a tree once, in the order in which a pack holds them.

    - boot: what the trace names, in its order. A module stands there as its bytecode, or as its source where it has
      none. The libraries that an extension or a library needs stand right before it.
    - data: every other file that a running program may open, sorted.
    - cold: other bytecode and extension modules, sorted; then what only tools and test suites read, sorted; then all
      sources, sorted, which only tracebacks, `inspect` and the like ask for.

    Args:
        tree: the folder.
        files: its files, bytecode included, posix paths relative to ``tree``.
        trace: fitted to this tree (`trace.fit`).
        elf: the tree's ELF files.
        suffixes: the target's suffixes of extension modules, the most specific first.
        cache_tag: what the target's bytecode files are named after, for example ``cpython-313``.
        opened: files that belong to the data set although they look like sources, or like what only tools read.
    """
    known = frozenset(files)
    boot = boot_files(trace.order, known, elf, cache_tag)
    data: list[str] = []
    modules: list[str] = []
    spare: list[str] = []
    sources: list[str] = []
    for path in sorted(known - boot.keys()):
        if path.endswith(".py"):
            (data if path in opened else sources).append(path)
        elif path.endswith(".pyc") or is_extension(path, elf, suffixes):
            modules.append(path)
        elif is_for_tools(path) and path not in opened:
            spare.append(path)
        else:
            data.append(path)
    return [
        *(Member(path=path, source=tree / path, set="boot") for path in boot),
        *(Member(path=path, source=tree / path, set="data") for path in data),
        *(Member(path=path, source=tree / path, set="cold") for path in (*modules, *spare, *sources)),
    ]


def is_for_tools(path: str) -> bool:
    """Tell whether a data file is one that only compilers, type checkers or a package's own test suite read.

    Where the traced program opened it all the same, it is in the boot set and nobody asks.
    """
    folders, _, name = path.rpartition("/")
    return posixpath.splitext(name)[1] in TOOL_SUFFIXES or "tests" in folders.split("/")[1:]


def is_extension(path: str, elf: ElfTree, suffixes: Sequence[str]) -> bool:
    """Tell whether a file is an extension module that the target's importlib would load.

    A plain ``NAME.so`` is one only if it exports ``PyInit_NAME``: most are libraries, which somebody opens by path.
    """
    base = posixpath.basename(path)
    if not base.endswith(".so"):
        return False
    for suffix in suffixes:
        if suffix != ".so" and base.endswith(suffix):
            return base.removesuffix(suffix).isidentifier()
    stem = base.removesuffix(".so")
    return stem.isidentifier() and elf.exports(path, f"PyInit_{stem}")


def boot_files(order: Iterable[str], known: frozenset[str], elf: ElfTree, cache_tag: str) -> dict[str, str]:
    """Return the files of the boot set in their order, each with the entry of the trace that it is there for.

    Args:
        order: the trace's entries.
        known: the tree's files, bytecode included.
        elf: the tree's ELF files.
        cache_tag: what the target's bytecode files are named after.
    """
    boot: dict[str, str] = {}
    for entry in order:
        path = entry.removeprefix(FILE_PREFIX)
        if path == entry and path.endswith(".py"):
            # A dropped source's bytecode stands in its place (`sourceless.py`).
            forms = (pyc_path(path, cache_tag), path, path + "c")
            boot.setdefault(next((form for form in forms if form in known), path), entry)
        elif path in known:
            if is_shared_object(posixpath.basename(path)):
                for library in elf.needed_closure(path):
                    boot.setdefault(library, entry)
            boot.setdefault(path, entry)
    return boot
