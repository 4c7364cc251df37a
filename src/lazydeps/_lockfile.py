"""``lazydeps.lock``: which packs a name or a plain ``load()`` means, by target. Found beside the code that asks.

Imported only where ``LAZYDEPS_PACK`` and the call name no reference. `build/lockfile.py` writes the file.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

from ._ref import Ref
from .errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    Packs = dict[str, dict[str, dict[str, Any]]]
    """Name, then target, then the entry."""

NAME = "lazydeps.lock"
VARIABLE = "LAZYDEPS_LOCK"
VERSION = 1
LARGEST = 4 << 20
"""Bytes. A name with 4 targets of 100 distributions and ten packs that went before has about 150 kB."""
MAKE = "`lazydeps push PACK s3://BUCKET/PREFIX/ --name NAME` writes it"
_ABSENT = (errno.ENOENT, errno.ENOTDIR)


def is_name(word: str) -> bool:
    """Whether a word in ``LAZYDEPS_PACK`` or of a call names a pack of the lock: a reference has ``://``."""
    return word.isascii() and 0 < len(word) <= 100 and all(letter.isalnum() or letter in "-_." for letter in word)


def chosen(words: Sequence[str], environ: Mapping[str, str]) -> list[Ref]:
    """Return the packs that words mean to this interpreter: references, and names of the lock.

    Args:
        words: none at all means every pack of the lock that this interpreter can use, by name; and nothing where
            there is no lock.
        environ: where ``LAZYDEPS_LOCK`` and ``LAMBDA_TASK_ROOT`` are looked up.

    Raises:
        ConfigError: there is no lock, or it is none, or what is asked for is not in it.
    """
    path, told = _find(environ)
    if path is None:
        if not words:
            return []
        missing = next(word for word in words if "://" not in word)
        if not is_name(missing):
            Ref.parse(missing)  # which says what a reference looks like
        raise ConfigError(
            f"{missing!r} has no :// and so names a pack of {NAME}, and {told}. Put the file beside the handler "
            f"({MAKE}), set {VARIABLE} to its path, or give a reference, s3://BUCKET/KEY#root=sha256:HEX."
        )
    packs = read(path)
    # On a laptop the dependencies are installed. There a lock that nobody has pointed to breaks nothing.
    lenient = not environ.get(VARIABLE) and not environ.get("LAMBDA_TASK_ROOT")
    wanted = targets()
    refs = []
    for word in words or sorted(packs):
        if words and ("://" in word or not is_name(word)):
            refs.append(Ref.parse(word))
            continue
        if word not in packs:
            raise ConfigError(
                f"{path} has no pack named {word!r}: it has {', '.join(sorted(packs)) or 'none'}. Correct the name, "
                f"or add it: `lazydeps push PACK s3://BUCKET/PREFIX/ --name {word}`."
            )
        target = next((target for target in wanted if target in packs[word]), None)
        if target is not None and not (lenient and sys.platform != "linux"):
            refs.append(_ref(path, word, target, packs[word][target]))
        elif words and not lenient:
            raise _nothing_for_us(path, {word: packs[word]})
    if packs and not refs and not lenient:
        raise _nothing_for_us(path, packs)
    return refs


def targets() -> tuple[str, ...]:
    """Return the keys of the entries that this interpreter can use, the best first."""
    if sys.platform != "linux":
        return ("any",)  # packs are for Linux, and their keys do not say so
    machine = os.uname().machine.lower()
    arch = {"aarch64": "arm64", "amd64": "x86_64"}.get(machine, machine)
    python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return f"{python}-{arch}", f"{python}-any", "any"


def read(path: str) -> Packs:
    """Read the packs of a lock file: `document`, and no more of it."""
    packs: Packs = document(path)["packs"]
    return packs


def document(path: str) -> dict[str, Any]:
    """Read a lock file, with what it has beside the packs.

    Raises:
        ConfigError: it is not there, cannot be read, or is no lock that this version understands.
    """
    try:
        # Not blocking: a pipe of that name would wait for a writer.
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            facts = os.fstat(file)
            regular, size = stat.S_ISREG(facts.st_mode), facts.st_size
            content = b""
            while regular and size <= LARGEST and len(content) <= LARGEST:
                block = os.read(file, LARGEST + 1 - len(content))
                if not block:
                    break
                content += block
        finally:
            os.close(file)
    except OSError as error:
        raise ConfigError(
            f"the lock file {path} cannot be read: {error.strerror}. {MAKE}; {VARIABLE}=0 does without."
        ) from error
    if not regular:
        raise ConfigError(f"the lock file {path} is no regular file. {MAKE}.")
    if max(size, len(content)) > LARGEST:
        raise ConfigError(
            f"the lock file {path} has {size:,} bytes and {LARGEST:,} are the most. It is none, or it names too many "
            "packs: give each project its own, with `lazydeps push --name NAME --lock FILE`."
        )
    import json

    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        if b"<<<<<<<" in content:
            raise ConfigError(
                f"{path} has git's conflict markers in it, of a merge or rebase left half done. Take one side, `git "
                f"checkout --theirs {path}` or --ours, and push again what the other side had pinned."
            ) from error
        raise ConfigError(
            f"{path} is no lock file: it is not JSON ({error}). Take it from version control, or remove it: {MAKE} "
            "anew."
        ) from error
    version = found.get("lazydeps_lock") if isinstance(found, dict) else None
    if type(version) is int and version > VERSION:
        raise ConfigError(
            f"{path} has format {version} and this lazydeps reads format {VERSION}. Update the lazydeps that the "
            "function has, or write the file with that version's `lazydeps push --name NAME`."
        )
    packs = found.get("packs") if isinstance(found, dict) else None
    if type(version) is not int or version != VERSION or not isinstance(packs, dict):
        raise ConfigError(f"{path} is no lock file: it has no lazydeps_lock: {VERSION} with packs. {MAKE}.")
    for name, entries in packs.items():
        if not is_name(name):
            raise ConfigError(
                f"{path} is damaged: {name!r} is no name of a pack. Names have letters, digits and . _ - only. {MAKE}."
            )
        if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
            raise ConfigError(f"{path} is damaged: {name!r} does not map targets to packs. {MAKE}.")
    return found  # type: ignore[no-any-return]


def _find(environ: Mapping[str, str]) -> tuple[str | None, str]:
    """Return where the lock is, or None and where it was looked for. The current folder is not: others may write to it.

    It lies beside the code and is trusted as the code is.
    """
    told = environ.get(VARIABLE)
    if told == "0":
        return None, f"{VARIABLE}=0 says not to look for one"
    if told:
        return os.path.abspath(told), ""
    looked: list[str] = []
    for folder in _folders(environ):
        if folder not in looked:
            try:
                os.stat(f"{folder}/{NAME}")
            except OSError as error:
                looked.append(folder)
                if error.errno in _ABSENT:
                    continue
            return f"{folder}/{NAME}", ""
    return None, "there is none in " + (" or ".join(looked) or "the folder of the calling file, because it has no file")


def _folders(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield where a lock may lie: beside the calling file, beside what that is a link to, at the task root."""
    file = _callers_file()
    if file is not None:
        yield os.path.dirname(file)
        yield os.path.dirname(os.path.realpath(file))
    root = environ.get("LAMBDA_TASK_ROOT")
    if root:
        yield root


def _callers_file() -> str | None:
    """Return the file whose code has called us, or has imported `lazydeps.auto`."""
    frame = sys._getframe(1)
    while frame is not None:
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package not in ("lazydeps", "importlib", "_frozen_importlib", "_frozen_importlib_external"):
            file = frame.f_globals.get("__file__")
            # A relative one would be looked for in the current folder.
            return file if isinstance(file, str) and os.path.isabs(file) else None
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _ref(path: str, name: str, target: str, entry: Mapping[str, Any]) -> Ref:
    text = entry.get("ref")
    try:
        ref = Ref.parse(text if isinstance(text, str) else "")
        if ref.root is None and ref.sha256 is None:
            raise ConfigError(f"{ref.shown} is not pinned.")
    except ConfigError as error:
        raise ConfigError(
            f"{path} is damaged: the ref of {name!r} for {target} is none: {error} Pin it again with "
            f"`lazydeps push PACK s3://BUCKET/PREFIX/ --name {name}`."
        ) from error
    return ref


def _nothing_for_us(path: str, packs: Packs) -> ConfigError:
    there = "; ".join(f"{name}: {', '.join(sorted(entries)) or 'none'}" for name, entries in sorted(packs.items()))
    return ConfigError(
        f"{path} has no pack for {targets()[0]}, which is what runs here. It has {there}. Build one with `lazydeps "
        f"pack --python {sys.version_info[0]}.{sys.version_info[1]} --arch ARCH` and add it with `lazydeps push --name "
        f"{next(iter(sorted(packs)))}`, or run the function on one of these."
    )
