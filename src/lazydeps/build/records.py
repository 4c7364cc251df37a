"""Whether installed files are still those that their distributions installed: the digests of RECORD, compared."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
from typing import TYPE_CHECKING

from lazydeps.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

ALGORITHMS = ("sha256", "sha384", "sha512")
"""What RECORD may use: SHA-256 or better (binary distribution format, "Signed wheel files")."""
SHOWN = 5
"""Files of one distribution that a warning names."""


def read_rows(record: Path) -> list[list[str]]:
    """Return the rows of a RECORD file; none where there is no such file.

    Raises:
        ConfigError: it is damaged.
    """
    try:
        return [row for row in csv.reader(io.StringIO(record.read_text(encoding="utf-8"))) if row]
    except FileNotFoundError:
        return []
    except (csv.Error, ValueError) as error:
        raise ConfigError(
            f"{record.parent.name}/RECORD is damaged: {error}. Install that distribution again, or remove the file."
        ) from error


def find_edited(tree: Path) -> dict[str, list[str]]:
    """Return the files of a tree that are not what RECORD says, by the dist-info folder that says it.

    Files that are gone are no concern here: people leave out tests and caches. Rows without a digest
    are passed by, and those that name files outside of the tree.

    Raises:
        ConfigError: a RECORD is damaged.
    """
    edited: dict[str, list[str]] = {}
    for record in sorted(tree.glob("*.dist-info/RECORD")):
        for row in read_rows(record):
            algorithm, equals, expected = row[1].partition("=") if len(row) > 1 else ("", "", "")
            path = tree / row[0]
            if not equals or algorithm not in ALGORITHMS or ".." in path.parts or os.path.isabs(row[0]):
                continue
            if path.is_file() and path.suffix != ".pyc" and _digest(path, algorithm) != expected.rstrip("="):
                edited.setdefault(record.parent.name, []).append(row[0])
    return edited


def shared_warnings(tree: Path) -> list[str]:
    """Return a warning for each pair of distributions that install different files under one name.

    Which of them is there, the installer has decided, perhaps by which came last; so another build may differ.
    """
    first: dict[str, tuple[str, str]] = {}
    pairs: dict[tuple[str, str], list[str]] = {}
    for record in sorted(tree.glob("*.dist-info/RECORD")):
        info = record.parent.name
        for path, digest, *_ in (row for row in read_rows(record) if len(row) > 1 and row[1]):
            known = first.setdefault(path, (digest, info))
            if known[0] != digest and known[1] != info:
                pairs.setdefault((known[1], info), []).append(path)
    return [
        f"{one.removesuffix('.dist-info')} and {other.removesuffix('.dist-info')} both install "
        f"{', '.join(paths[:SHOWN])}{', …' if len(paths) > SHOWN else ''}, and differ; what uv wrote last is packed. "
        "Ask for one of them only."
        for (one, other), paths in pairs.items()
    ]


def edited_warnings(tree: Path) -> list[str]:
    """Return a warning for each distribution with files that somebody has edited."""
    return [
        f"{info.removesuffix('.dist-info')}: {', '.join(files[:SHOWN])}{', …' if len(files) > SHOWN else ''} "
        f"{'are' if len(files) > 1 else 'is'} not what was installed (RECORD has another digest); packed as found."
        for info, files in find_edited(tree).items()
    ]


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, algorithm).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
