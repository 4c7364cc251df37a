"""Patterns that name files of a tree: ``--exclude``, ``--keep``, ``--explain``, the rules of ``prune.toml``.

``*`` and ``?`` stand for characters of one name, ``**`` as a whole part for any number of folders. A pattern with a
``/`` starts at site-packages; one without it names files and folders wherever they are. A folder means all in it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_PARTS = {"*": "[^/]*", "?": "[^/]"}


def matches(pattern: str, path: str) -> bool:
    """Tell whether a pattern names a file.

    Args:
        pattern: for example ``numpy/_core/include``, ``*.pyi``, ``*/**/tests/**``.
        path: posix path relative to site-packages.
    """
    return expression([pattern]).match(path) is not None


def expression(patterns: Iterable[str]) -> re.Pattern[str]:
    """Return a regular expression that matches, from the beginning, the paths that any of some patterns names."""
    return re.compile("|".join(map(_translate, patterns)) or r"(?!)", re.DOTALL)


def _translate(pattern: str) -> str:
    anchored = "/" in pattern.rstrip("/")
    parts = pattern.strip("/").split("/")
    text = "" if anchored else "(?:[^/]+/)*"
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if part == "**":
            text += ".+" if last else "(?:[^/]+/)*"
        else:
            text += "".join(_PARTS.get(char) or re.escape(char) for char in part) + ("(?:/.*)?" if last else "/")
    return rf"(?:{text})\Z"
