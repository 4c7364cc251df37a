"""Leave the sources out of a tree: bytecode alone, where Python finds it without them.

Python imports ``a/b.pyc`` where there is no ``a/b.py``, but not ``a/__pycache__/b.cpython-313.pyc`` alone. So a dropped
source's bytecode takes its place, and the pack, extracted by whatever tool, imports in plain Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .bytecode import pyc_path

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path


def drop_sources(tree: Path, files: Sequence[str], *, stay: Collection[str], cache_tag: str) -> dict[str, int]:
    """Replace sources by their bytecode.

    What stays, with its bytecode where it is: sources without bytecode, those that were asked to, and those that no
    import statement can name, because a program reads such a file as text or runs it.

    Args:
        tree: the tree, compiled; changed in place.
        files: its files, bytecode included, posix paths relative to ``tree``.
        stay: sources to keep.
        cache_tag: what the bytecode files are named after.

    Returns:
        The sources that were dropped, with the bytes that they had.
    """
    known = frozenset(files)
    dropped: dict[str, int] = {}
    for path in files:
        if not path.endswith(".py") or path in stay or path + "c" in known:
            continue
        if not all(part.isidentifier() for part in path.removesuffix(".py").split("/")):
            continue
        bytecode = pyc_path(path, cache_tag)
        if bytecode in known:
            dropped[path] = (tree / path).stat().st_size
            (tree / bytecode).rename(tree / f"{path}c")
            (tree / path).unlink()
    return dropped
