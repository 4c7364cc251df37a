"""Strip the ELF files of a tree, each checked afterwards: what other files see of it has to be what it was."""

from __future__ import annotations

import os
import posixpath
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lazydeps.errors import LazydepsError

from .elf import interface, is_shared_object
from .strip import strip_elf, worth_stripping

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Stripped:
    """What stripping a tree saved."""

    saved: dict[str, int]
    """Files that became smaller, posix paths relative to the tree, with the bytes saved."""
    warnings: tuple[str, ...]


def strip_tree(tree: Path, files: Iterable[str]) -> Stripped:
    """Strip shared objects and executables in place.

    A file that cannot be stripped, or would not be the same to a loader, is left as it was, with a warning.

    Args:
        tree: the folder; its files are replaced, never written to, because they may be hard links to the user's own.
        files: posix paths relative to ``tree``.
    """
    saved: dict[str, int] = {}
    warnings: list[str] = []
    for name in sorted(files):
        path = tree / name
        is_program = path.suffix not in {".py", ".pyc"} and os.access(path, os.X_OK)
        if not (is_shared_object(posixpath.basename(name)) or is_program) or not worth_stripping(path):
            continue
        try:
            count = _strip(path)
        except LazydepsError as error:
            warnings.append(f"{name} was left as it is: {error}")
            continue
        if count:
            saved[name] = count
    return Stripped(saved, tuple(warnings))


def _strip(path: Path) -> int:
    content = path.read_bytes()
    stripped = strip_elf(content)
    if len(stripped) == len(content):
        return 0
    part = path.with_name(path.name + ".stripped")
    try:
        part.write_bytes(stripped)
        if interface(part) != interface(path):
            raise LazydepsError("stripped, it would need or export other symbols than before.")
        shutil.copymode(path, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return len(content) - len(stripped)
