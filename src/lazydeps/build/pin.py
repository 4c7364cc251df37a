"""The digest that pins an archive that is not a pack, after the checks that a start makes. Nothing is extracted."""

from __future__ import annotations

import os
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lazydeps._config import Config
from lazydeps._layout import check_archive
from lazydeps._legacy import ArchiveStore, ArchiveWorker
from lazydeps._pack import ROOT_TAG, SKIPPABLE_HEADER, SKIPPABLE_MAGIC
from lazydeps._ref import ARCHIVES, Ref
from lazydeps._sources import open_source
from lazydeps.build import lockfile
from lazydeps.build.epoch import source_date, spelled
from lazydeps.errors import ConfigError, PackMismatchError

if TYPE_CHECKING:
    from lazydeps._archive import Archive
    from lazydeps._layout import Layout


_IS_A_PACK = (
    "it is a pack, and as an archive all of it is fetched and extracted before the first import. `lazydeps inspect` "
    "prints the reference that streams it, and `lazydeps push --name` pins that."
)


@dataclass(frozen=True, slots=True)
class Pinned:
    """An archive that may be loaded."""

    ref: str
    """``URL#sha256=HEX``; of a presigned address what it is signed with is left out."""
    size: int
    """Bytes of the archive."""
    files: int
    """Files that a start would write, for an interpreter like this one."""
    unpacked_size: int
    """Bytes of those files."""
    warnings: tuple[str, ...] = ()
    """Why an import may not find what is in it, here or anywhere."""


def pin_in_lock(path: Path, name: str, pinned: Pinned) -> None:
    """Let a name of a lock file mean an archive, on every target that has no pack of that name.

    Raises:
        ConfigError: the file is no lock, or the name cannot be one.
    """
    with lockfile.changing(path):
        lock = lockfile.read(path, missing=True)
        moment = source_date()
        entry = lockfile.Entry(
            ref=pinned.ref,
            size=pinned.size,
            boot_size=0,
            unpacked_size=pinned.unpacked_size,
            distributions={},
            published=spelled(time.time() if moment is None else moment),
        )
        lockfile.write(path, lockfile.pin(lock, name, lockfile.ARCHIVE, entry))


def pin(ref: Ref) -> Pinned:
    """Download and check an archive.

    Args:
        ref: where it is; a pin that it has already is checked.

    Raises:
        ConfigError: its name does not say what kind of archive it is.
        FetchError: it cannot be read.
        IntegrityError: it is pinned, and another one by now.
        UnsafeArchiveError, PackFormatError: no start would accept it.
    """
    if ref.root is not None or ref.suffix is None:
        raise ConfigError(
            f"{ref.shown} is no archive to lock: its name has to end with {', '.join(ARCHIVES)}. "
            "For a pack, `lazydeps inspect` prints the reference."
        )
    with tempfile.TemporaryDirectory(prefix="lazydeps-lock-") as folder:
        store = ArchiveStore(folder, bytes(32))
        config = Config.from_environ(os.environ).replace(directory=folder)
        source = open_source(ref.url, os.environ)
        worker = ArchiveWorker(ref=ref, source=source, store=store, config=config, seconds=config.timeout)
        store.prepare()
        store.try_lock()  # which makes what is in it
        try:
            digest = worker.fetch()
        finally:
            store.unlock()
        with Path(store.archive).open("rb") as file:
            head = file.read(SKIPPABLE_HEADER + len(ROOT_TAG))
            file.seek(0)
            archive, layout = worker.check(file)
            for _, chunks in archive.contents():
                for _chunk in chunks:
                    pass
            size = file.seek(0, os.SEEK_END)
            warnings = _warnings(archive, layout, ref.suffix)
        if head.startswith(SKIPPABLE_MAGIC) and head.endswith(ROOT_TAG):
            warnings = (_IS_A_PACK, *warnings)
    return Pinned(
        ref=Ref(ref.url, sha256=digest).shown,
        size=size,
        files=sum(map(len, layout.paths.values())),
        unpacked_size=layout.unpacked,
        warnings=warnings,
    )


def _warnings(archive: Archive, layout: Layout, suffix: str) -> tuple[str, ...]:
    """Say what no start could import, and what only this machine cannot run: it may be meant for another."""
    warnings = []
    try:
        check_archive(archive, layout, suffix)
    except PackMismatchError as error:
        warnings.append(f"here it would not load: {error}")
    paths = [path for placed in layout.paths.values() for path in placed]
    found = {match[1] for path in paths if (match := re.match(r"(?:(.+)/)?[^/]+\.(?:dist|egg)-info/", path))}
    tops = {path.partition("/")[0] for path in paths}
    if len(found) == 1 and None not in found:
        (folder,) = found
        warnings.append(
            f"its packages lie in {folder}/, where no import finds them. Archive what is in that folder: "
            f"(cd {folder} && zip -qr ../libs.zip .)"
        )
    elif not found and len(tops) == 1 and all(path.count("/") > 1 for path in paths):
        (folder,) = tops
        warnings.append(
            f"everything lies in {folder}/, so its modules are imported as {folder}.NAME. If that is not meant, "
            f"archive what is in that folder: (cd {folder} && zip -qr ../libs.zip .)"
        )
    return tuple(warnings)
