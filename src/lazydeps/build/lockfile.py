"""``lazydeps.lock``, written: which pack a name means for each target, and which ones it meant before.

What a start reads of it stands in `lazydeps._lockfile`.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lazydeps import _lockfile
from lazydeps._lockfile import VERSION
from lazydeps._ref import Ref
from lazydeps.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

KEPT = 10
"""How many packs that went before are remembered for each name and target."""
ARCHIVE = "any"
"""The target of an archive that is not a pack."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One published pack, or another archive."""

    ref: str
    """Pinned."""
    size: int
    """Bytes of the pack."""
    boot_size: int
    """Bytes that a start fetches at least; 0 for an archive that is not a pack."""
    unpacked_size: int
    distributions: dict[str, str]
    """Name to version."""
    published: str
    """When, ``2026-11-21T18:00:00Z``."""
    previous: tuple[Entry, ...] = ()
    """What was pinned before, the newest first, without histories of their own."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What a later lazydeps, or somebody's tool, has written beside these: it is kept as it is."""

    @property
    def digest(self) -> str:
        """The hex digits that pin it."""
        ref = Ref.parse(self.ref)
        return (ref.root or ref.sha256 or b"").hex()


@dataclass(frozen=True, slots=True)
class Lock:
    """What a lock file says. Nothing changes one: `pin` and `roll_back` return another."""

    packs: dict[str, dict[str, Entry]] = field(default_factory=dict)
    """Name, then target (`target_key`), then the entry."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What else the file has at its top, kept as it is."""

    def entry(self, name: str, target: str) -> Entry:
        """Return an entry.

        Raises:
            ConfigError: there is none.
        """
        entries = self.packs.get(name)
        if entries is None:
            known = ", ".join(sorted(self.packs)) or "none"
            raise ConfigError(f"the lock has no pack named {name!r}: it has {known}.")
        if target not in entries:
            raise ConfigError(f"the lock has {name!r} for {', '.join(sorted(entries))}, and not for {target}.")
        return entries[target]

    def refs(self) -> frozenset[str]:
        """Return every reference that is pinned, or was: what `lazydeps rollback` may need."""
        entries = [entry for targets in self.packs.values() for entry in targets.values()]
        return frozenset(one.ref for entry in entries for one in (entry, *entry.previous))


def check_name(name: str) -> None:
    """Raise ConfigError unless a pack can have this name."""
    if not _lockfile.is_name(name):
        raise ConfigError(
            f"{name!r} is no name for a pack: expected ASCII letters, digits, dots, - and _, 100 at most."
        )


def target_key(python: str, arch: str) -> str:
    """Return the key of a pack's target: ``python3.13-arm64``, or ``python3.13-any`` without machine code."""
    return f"python{python}-{arch}"


def read(path: Path, *, missing: bool = False) -> Lock:
    """Read a lock file.

    Args:
        path: the file.
        missing: whether a file that is not there is an empty lock.

    Raises:
        ConfigError: it cannot be read, or is no lock.
    """
    if missing and not os.path.lexists(path):
        return Lock()
    document = _lockfile.document(str(path))
    return Lock(
        {
            name: {target: _entry(entry, f"{name}.{target} of {path}") for target, entry in targets.items()}
            for name, targets in document.pop("packs").items()
        },
        extra={key: value for key, value in document.items() if key != "lazydeps_lock"},
    )


def pin(lock: Lock, name: str, target: str, entry: Entry) -> Lock:
    """Return a lock in which a name means another pack; the one before is the first of its `Entry.previous`.

    The pack that it means already changes nothing. One that it meant before comes to the front and is not listed twice.

    Raises:
        ConfigError: the name cannot be one.
    """
    check_name(name)
    now = lock.packs.get(name, {}).get(target)
    if now is not None and now.ref == entry.ref:
        return lock
    before = () if now is None else (replace(now, previous=()), *now.previous)
    before = tuple(one for one in before if one.ref != entry.ref)[:KEPT]
    return _with(lock, name, target, replace(entry, previous=before))


def roll_back(lock: Lock, name: str, target: str, *, to: str | None = None) -> Lock:
    """Return a lock in which a name means again what it meant before.

    What it means until now is forgotten, so that a second time goes back one more; pushing that pack pins it again.

    Args:
        lock: the lock.
        name: whose.
        target: for which.
        to: the first hex digits of the pack to go back to. None: the one before.

    Raises:
        ConfigError: there is no such entry, or it has nothing before it.
    """
    now = lock.entry(name, target)
    digits = None if to is None else to.lower().removeprefix("sha256:")
    known = ", ".join(f"{one.digest[:12]} ({one.published})" for one in now.previous)
    found = [
        number
        for number, one in enumerate(now.previous)
        if digits is None or (digits and one.digest.startswith(digits))
    ]
    if not now.previous:
        raise ConfigError(
            f"{name} for {target} has nothing to go back to: the lock knows only {now.digest[:12]} "
            f"({now.published}). Push the pack to use with `lazydeps push PACK s3://… --name {name}`."
        )
    if not found:
        raise ConfigError(
            f"{name} for {target} was never pinned to a pack that begins with {to!r}. The lock knows {known}."
        )
    if digits is not None and len({now.previous[number].digest for number in found}) > 1:
        raise ConfigError(
            f"{to!r} may be {len(found)} packs of {name} for {target}: give more digits. It knows {known}."
        )
    at = found[0]
    return _with(lock, name, target, replace(now.previous[at], previous=now.previous[at + 1 :]))


def choose(lock: Lock, name: str, *, python: str | None = None, arch: str | None = None) -> tuple[str, ...]:
    """Return the targets of a name that a Python version and an architecture select.

    Raises:
        ConfigError: there are none.
    """
    entries = lock.packs.get(name)
    if not entries:
        raise ConfigError(f"the lock has no pack named {name!r}: it has {', '.join(sorted(lock.packs)) or 'none'}.")
    arch = {"aarch64": "arm64", "amd64": "x86_64"}.get(arch or "", arch)
    found = []
    for target in sorted(entries):
        version, _, machine = target.rpartition("-")
        if python in (None, version.removeprefix("python")) and arch in (None, machine):
            found.append(target)
    if not found:
        wanted = " and ".join(word for word in (python and f"Python {python}", arch) if word)
        raise ConfigError(f"the lock has {name!r} for {', '.join(sorted(entries))}, and not for {wanted}.")
    return tuple(found)


def roll_back_all(lock: Lock, name: str, targets: Iterable[str], *, to: str | None = None) -> Lock:
    """Roll back several targets, all or none. With ``to``, those that ever were pinned to such a pack.

    Raises:
        ConfigError: one of them has nothing before it; with ``to``, none has such a pack.
    """
    chosen = tuple(targets)
    if to is not None:
        digits = to.lower().removeprefix("sha256:")
        having = [
            target
            for target in chosen
            if any(one.digest.startswith(digits) for one in lock.entry(name, target).previous)
        ]
        chosen = tuple(having) or chosen[:1]  # which then says what it knows
    stuck = [target for target in chosen if not lock.entry(name, target).previous]
    if 0 < len(stuck) < len(chosen):
        raise ConfigError(
            f"{name} for {', '.join(stuck)} has nothing to go back to, and the targets of a name go back together. "
            f"Choose the others, {', '.join(sorted({*chosen} - {*stuck}))}, with --arch or --python."
        )
    for target in chosen:
        lock = roll_back(lock, name, target, to=to)
    return lock


def write(path: Path, lock: Lock) -> None:
    """Write a lock file: the same lock, the same bytes; and whole or not at all.

    Raises:
        ConfigError: it would be too large to be read, or cannot be written.
    """
    packs = {
        name: {target: _document(entry) for target, entry in targets.items()} for name, targets in lock.packs.items()
    }
    document = {**lock.extra, "lazydeps_lock": VERSION, "packs": packs}
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    content = text.encode()
    if len(content) > _lockfile.LARGEST:
        raise ConfigError(
            f"{path} would have {len(content):,} bytes and a start reads at most {_lockfile.LARGEST:,}. Put some of "
            f"its {len(packs)} packs into another file, with --lock FILE."
        )
    path = Path(os.path.realpath(path))  # a link stays one
    try:
        _replace(path, content)
    except OSError as error:
        raise _no_place(path, error) from error


def _replace(path: Path, content: bytes) -> None:
    handle, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            # A deployed function's user has to read it; `mkstemp` keeps files to ourselves.
            os.fchmod(file.fileno(), path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
            os.fsync(file.fileno())
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


@contextmanager
def changing(*paths: Path) -> Iterator[None]:
    """Keep others out while lock files are read, changed and written: two pushes at once lose nothing.

    Raises:
        ConfigError: a lock file's folder is not there.
    """
    with ExitStack() as stack:
        # Always in the same order, and each folder once: two that want the same ones do not wait for each other.
        for folder in sorted({Path(os.path.realpath(path)).parent for path in paths}):
            try:
                opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                raise _no_place(folder / _lockfile.NAME, error) from error
            stack.callback(os.close, opened)
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def check_writable(path: Path) -> None:
    """Find out, before anything is uploaded, whether a lock file can be written.

    Raises:
        ConfigError: its folder is not there, or takes no new file.
    """
    folder = Path(os.path.realpath(path)).parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _no_place(path, error) from error


def _no_place(path: Path, error: OSError) -> ConfigError:
    folder = Path(os.path.realpath(path)).parent
    return ConfigError(
        f"the lock file {path} cannot be written: {error.strerror} (its folder is {folder}). "
        "Make that folder, or free room or rights in it; or name another file with --lock FILE."
    )


def _umask() -> int:
    mask = os.umask(0o22)
    os.umask(mask)
    return mask


def _with(lock: Lock, name: str, target: str, entry: Entry) -> Lock:
    return replace(lock, packs={**lock.packs, name: {**lock.packs.get(name, {}), target: entry}})


def _document(entry: Entry) -> dict[str, Any]:
    document = {key: value for key, value in asdict(entry).items() if key not in ("extra", "previous")}
    previous = [_document(one) for one in entry.previous]
    for one in previous:
        del one["previous"]
    return {**entry.extra, **document, "previous": previous}


_TYPES = {"ref": str, "size": int, "boot_size": int, "unpacked_size": int, "distributions": dict, "published": str}


def _entry(document: dict[str, Any], where: str) -> Entry:
    for name, kind in _TYPES.items():
        if type(document.get(name)) is not kind:
            raise ConfigError(
                f"the lock is damaged: {name} of {where} is {document.get(name)!r}. Take the file from version "
                "control, or remove the entry and push again."
            )
    previous = document.get("previous", [])
    if not isinstance(previous, list) or not all(isinstance(one, dict) for one in previous):
        raise ConfigError(f"the lock is damaged: previous of {where} is no list of packs.")
    Ref.parse(document["ref"])
    return Entry(
        **{key: document[key] for key in _TYPES},
        extra={key: value for key, value in document.items() if key not in _TYPES and key != "previous"},
        previous=tuple(_entry({**one, "previous": []}, f"a previous pack of {where}") for one in previous),
    )
