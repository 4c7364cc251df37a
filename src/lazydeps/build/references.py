"""Which files that are about to be left out does kept code name: in imports, entry points, stubs that it attaches.

Reads sources and executes nothing. It errs on the side of finding too much: what is found is kept.
"""

from __future__ import annotations

import ast
import re
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+(?=:|\Z)")
"""A module's full name in a string, perhaps with ``:ATTRIBUTE`` behind it, as `importlib.import_module` and tables of
plug-ins have them."""
_ENTRY_POINT = re.compile(r"^[^#\[=\n]+=\s*([\w.]+)", re.MULTILINE)


class References:
    """Finds what kept code names among groups of files that may be left out together.

    Args:
        tree: the installed tree.
        groups: each file that may be left out, with the group that is kept or left out as one.
    """

    def __init__(self, tree: Path, groups: Mapping[str, str]) -> None:
        self._tree = tree
        self._modules: dict[str, str] = {}
        """Dotted names of modules and packages, to their group."""
        words: set[str] = set()
        for path, group in groups.items():
            name = _module_name(path)
            depth = group.count("/") + 1
            if name is None:
                continue
            parts = name.split(".")
            for end in range(min(depth, len(parts)), len(parts) + 1):
                self._modules.setdefault(".".join(parts[:end]), group)
            words.add(parts[min(depth, len(parts)) - 1])
        # Parsing takes long and few sources need it: `.tests`, or `tests` in what might be an import statement.
        word = b"(?:%s)" % b"|".join(re.escape(word.encode()) for word in sorted(words))
        self._words = re.compile(
            rb"\.\s*%b\b|\bimport\b(?:[^\n\\]|\\\n)*\b%b\b|\bimport\s*\([^)]*\b%b\b" % (word, word, word)
        )
        self._plain = tuple(word.encode() for word in words)

    def of_source(self, path: str) -> set[str]:
        """Return the groups that a source names."""
        source = (self._tree / path).read_bytes()
        if not (any(word in source for word in self._plain) and self._words.search(source)):
            return set()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what an invalid escape is worth saying, its author was told
                module = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            # Of a later Python than this one, or none at all: whatever of its own package it might mean.
            head = path.partition("/")[0] + "/"
            return {group for group in self._modules.values() if group.startswith(head)}
        return set(filter(None, map(self._find, _names(module, path))))

    def of_entry_points(self, text: str) -> set[str]:
        """Return the groups that an ``entry_points.txt`` names."""
        return set(filter(None, map(self._find, _ENTRY_POINT.findall(text))))

    def _find(self, name: str) -> str | None:
        parts = name.split(".")
        for end in range(len(parts), 1, -1):
            group = self._modules.get(".".join(parts[:end]))
            if group is not None:
                return group
        return None


def files_on_disk(tree: Path, sources: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield modules with a file that has to lie on the disk when they are imported, whether a trace saw that or not.

    That is the stub that ``attach_stub`` of lazy_loader, or a copy of it, reads; and the source itself of a module with
    functions that numba is to cache: it asks for the file, and fails without.
    """
    for path in sources:
        source = (tree / path).read_bytes()
        if b"attach_stub" in source:
            yield path, path + "i"
        if b"cache=True" in source and (b"jit" in source or b"vectorize" in source):
            yield path, path


def _module_name(path: str) -> str | None:
    folder, _, name = path.rpartition("/")
    stem = name.partition(".")[0]
    if not name.endswith((".py", ".so")):
        return None
    parts = [*folder.split("/"), *([] if stem == "__init__" else [stem])] if folder else [stem]
    return ".".join(parts) if all(part.isidentifier() for part in parts) else None


def _names(module: ast.Module, path: str) -> Iterator[str]:
    """Yield the full names of modules, and of what might be modules, that a source mentions."""
    package = path.removesuffix(".py").split("/")[:-1]  # of a package's __init__ it is the package itself
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{start}.{alias.name}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = _DOTTED.match(node.value)
            if found:
                yield found.group()
            elif node.value.startswith("."):  # importlib.import_module(".tests", __name__)
                yield ".".join(package) + node.value
