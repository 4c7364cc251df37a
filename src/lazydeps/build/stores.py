"""The stores that lie in a folder, for `lazydeps gc`: what each holds, who uses it, and which of them to remove.

What a removal is stands in `lazydeps._space`.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from lazydeps import _space
from lazydeps._config import Limits
from lazydeps._digest import parse_digest
from lazydeps._pack import Root
from lazydeps._store import NO_FOLLOW, check_folder
from lazydeps.errors import ConfigError, LazydepsError

if TYPE_CHECKING:
    from collections.abc import Iterator

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
"""Seconds of each unit that an age may be given in."""
Fate = Literal["removed", "kept", "held", "failed"]


@dataclass(frozen=True, slots=True)
class StoredPack:
    """One store."""

    name: str
    """The folder's name."""
    root: str
    """What it was pinned by, ``sha256:HEX``: the pack's root, or the digest of an archive that is no pack. Where the
    store does not tell it whole, as much of it as the name does."""
    interpreter: str | None
    """Which interpreter an archive was extracted for; None for a pack."""
    distributions: int | None
    """How many distributions are in it; None where the store does not tell."""
    size: int
    """Bytes that it takes on the disk."""
    last_used: float
    """When a process last opened it, seconds since 1970."""
    held: bool
    """Whether a process uses it now."""


@dataclass(frozen=True, slots=True)
class Removal:
    """What became of one store."""

    store: StoredPack
    fate: Fate
    """``removed`` (or would be), ``kept`` because the options say so, ``held`` by a process, or ``failed``."""
    reason: str = ""
    """Why it could not be removed."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as one flat JSON object."""
        return {**asdict(self.store), "fate": self.fate, "reason": self.reason}


def parse_age(text: str) -> float:
    """Read an age such as ``7d``, ``12h`` or ``1.5h``, and return it in seconds.

    Raises:
        ConfigError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if found is None:
        raise ConfigError(f"{text!r} is no age: give a number and a unit, such as 7d (units: {', '.join(UNITS)}).")
    return float(found[1]) * UNITS[found[2]]


def survey(directory: str) -> list[StoredPack]:
    """Return the stores in a folder, the most recently used first. Nothing is changed.

    Raises:
        ConfigError: somebody else can write to the folder.
    """
    try:
        check_folder(directory)
    except FileNotFoundError:
        return []
    return [_describe(directory, name, used / 1e9) for used, name in reversed(_space.stores(directory))]


def collect(directory: str, *, keep: int = 0, older_than: float = 0.0, dry_run: bool = False) -> Iterator[Removal]:
    """Remove the stores in a folder that no process uses; yields what became of each, when it has.

    Args:
        directory: the folder that holds all stores.
        keep: how many of the most recently used to leave alone.
        older_than: seconds for which a store must not have been used.
        dry_run: remove nothing.

    Raises:
        ConfigError: somebody else can write to the folder.
    """
    now = time.time()
    for at, store in enumerate(survey(directory)):
        if at < keep or 0 < older_than > now - store.last_used:
            yield Removal(store, "kept")
        elif store.held:
            yield Removal(store, "held")
        elif dry_run:
            yield Removal(store, "removed")
        else:
            yield _remove(directory, store)


def _remove(directory: str, store: StoredPack) -> Removal:
    try:
        # Looked at again: while others were removed, somebody may have used this one, and it is not old any more.
        if not _space.remove(directory, store.name, used=store.last_used):
            return Removal(store, "kept")
    except BlockingIOError:
        return Removal(store, "held")
    except FileNotFoundError:
        return Removal(store, "removed")  # by somebody who was faster
    except OSError as error:
        return Removal(store, "failed", str(error))
    return Removal(store, "removed")


def finish_removals(directory: str) -> int:
    """Finish the removals that were killed half-way; return how many there were."""
    return sum(_space.remove_tree(f"{directory}/{name}") for name in _space.leftovers(directory))


def _describe(directory: str, name: str, used: float) -> StoredPack:
    path = f"{directory}/{name}"
    digest, _, rest = name.partition("-")
    interpreter = rest.partition("-")[2] or None
    whole, distributions = _read_root(path) if interpreter is None else _read_archive(path)
    if not whole.startswith(digest):
        whole, distributions = digest, None
    held = False
    try:
        _space.Locks(path, create=False).release()
    except BlockingIOError:
        held = True
    except OSError:
        pass
    return StoredPack(
        name=name,
        root="sha256:" + whole,
        interpreter=interpreter,
        distributions=distributions,
        size=_size_of(path),
        last_used=used,
        held=held,
    )


def _read_root(path: str) -> tuple[str, int | None]:
    """Return the digest of a stored pack's root, and how many distributions it names."""
    try:
        with open(os.open(f"{path}/root", os.O_RDONLY | NO_FOLLOW), "rb") as file:
            root = Root(file.read(), limits=Limits())
    except (OSError, LazydepsError):
        return "", None
    return root.digest.hex(), len(root.distributions)


def _read_archive(path: str) -> tuple[str, int | None]:
    """Return the digest of an archive that has been extracted, and how many distributions its tree holds."""
    try:
        with open(os.open(f"{path}/whole", os.O_RDONLY | NO_FOLLOW), "rb") as file:
            digest = parse_digest(file.read(100).decode("ascii", "replace"))
        count = sum(name.endswith((".dist-info", ".egg-info")) for name in os.listdir(f"{path}/tree"))
    except OSError:
        return "", None
    return ("", None) if digest is None else (digest.hex(), count)


def _size_of(path: str) -> int:
    """Return the bytes that a folder takes on the disk, holes not counted."""
    size = 0
    for _, folders, files, handle in os.fwalk(path, follow_symlinks=False):
        for name in (*folders, *files):
            try:
                size += os.stat(name, dir_fd=handle, follow_symlinks=False).st_blocks * 512
            except OSError:
                pass  # gone meanwhile
    return size
