"""Distributions in a pack, as `importlib.metadata` asks for them. Imported only when somebody asks.

Their names come from the root; ``METADATA`` and its neighbours land when they are read.
"""

from __future__ import annotations

import csv
import re
from importlib.metadata import (
    Distribution,
    DistributionFinder,
    FileHash,
    MetadataPathFinder,
    PackagePath,
    PathDistribution,
)
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    from ._session import Session


class PackedPath(PackagePath):
    """A file of a distribution, which lands when it is read."""

    dist: PackDistribution

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return the file's text."""
        self.dist.bring(self)
        return super().read_text(encoding)

    def read_binary(self) -> bytes:
        """Return the file's bytes."""
        self.dist.bring(self)
        return super().read_binary()


class PackDistribution(PathDistribution):
    """A distribution whose metadata files are in a pack."""

    def __init__(self, session: Session, folder: str) -> None:
        super().__init__(Path(session.tree, folder))
        self._session = session
        self._folder = folder

    def read_text(self, filename: str | PathLike[str]) -> str | None:
        """Return the text of a file of the dist-info folder, or None where there is none."""
        self._session.need_path(f"{self._folder}/{filename}")
        return super().read_text(filename)

    @property
    def files(self) -> list[PackagePath] | None:
        """Every file that RECORD names, landed or not; None without a RECORD."""
        record = self.read_text("RECORD")
        if record is None:
            return None
        return [self._path_of(*row) for row in csv.reader(record.splitlines())]

    def _path_of(self, name: str, digest: str = "", size: str = "") -> PackedPath:
        path = PackedPath(name)
        path.hash = FileHash(digest) if digest else None
        path.size = int(size) if size else None
        path.dist = self
        return path

    def bring(self, path: PackagePath) -> None:
        """Wait until a file is in place."""
        self._session.need_path(str(path))


def find_distributions(session: Session, name: str | None) -> Iterator[Distribution]:
    """Yield the distributions of a pack: all, or those with this name (in any spelling)."""
    if session.plain:
        session.top_level()  # waits for the tree to be there
        facts = {"path": [session.tree]} if name is None else {"path": [session.tree], "name": name}
        yield from MetadataPathFinder.find_distributions(DistributionFinder.Context(**facts))
        return
    wanted = None if name is None else _normalise(name)
    for folder in session.root().metadata:
        project = folder.rpartition(".")[0].partition("-")[0]
        if wanted is None or _normalise(project) == wanted:
            yield PackDistribution(session, folder)


def _normalise(name: str) -> str:
    # https://packaging.python.org/en/latest/specifications/name-normalization/
    return re.sub(r"[-_.]+", "-", name).lower()
