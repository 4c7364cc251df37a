"""Drive uv: install wheels that fit a target, build what has none, and name everything that can be neither.

uv's own resolver decides; this decides what it may build, and turns what it says into what to do about it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from lazydeps.errors import ConfigError, LazydepsError

from . import processes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

_NO_WHEEL = re.compile(
    r"(?:Wheels are required for|attempted to build|Package(?=\s+`[^`]+` can't be installed because it is marked as))"
    r"\s+`([^`@ ]+)"
)
_NO_FITTING = re.compile(r"([\w.-]+)==(\S+)\s+has\s+no\s+wheels\s+with\s+a\s+matching")
_DISABLED = "Building source distributions is disabled"
_WHEELS = ("--only-binary", ":all:")


@dataclass(frozen=True, slots=True)
class Demand:
    """What is wanted, and for whom."""

    wanted: tuple[str, ...]
    """uv's arguments that name requirements, their files and constraints."""
    here: tuple[str, ...]
    """uv's arguments for this machine's interpreter."""
    platform: tuple[str, ...]
    """uv's arguments for the target's platform; none for this machine's."""
    options: tuple[str, ...]
    """uv's arguments that say where single packages are looked for, as the requirements files do."""
    foreign: bool
    """Whether the target is another kind of machine, for which nothing can be compiled here."""
    target: str
    """What messages call it."""


@dataclass(frozen=True, slots=True)
class Built:
    """Normalised names of what was built here."""

    for_want: frozenset[str] = frozenset()
    """They have no wheel."""
    from_place: frozenset[str] = frozenset()
    """They were given by their place: a folder, a repository, a source archive."""


def uv_binary() -> Path:
    """Return the path of uv.

    Raises:
        ConfigError: neither the `uv` package nor an executable on PATH is there.
    """
    try:
        from uv import find_uv_bin

        return Path(find_uv_bin())
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv")
    if found is None:
        raise ConfigError(
            "packing needs uv to resolve and install, and it was found neither as a Python package nor on PATH. "
            "Install it with `pip install 'lazydeps[build]'`."
        )
    return Path(found)


def install(demand: Demand, into: Path, *, on_line: Callable[[str], None] | None = None) -> Built:
    """Install what is wanted into a folder: wheels, and builds of what has no wheel.

    Args:
        demand: what, and for whom.
        into: the folder.
        on_line: called with each line that uv says, as it says it.

    Raises:
        ConfigError: uv is missing.
        LazydepsError: uv failed, and the message holds its reason; or packages can neither be had nor built for the
            target: all of them are named.
    """
    with tempfile.TemporaryDirectory(prefix="lazydeps-uv-") as scratch:
        return _Search(demand, into, Path(scratch), on_line).run()


class _Search:
    """One installation: tried with wheels alone, then with more and more that may be built.

    When something turns out to be missing, nothing is built or installed any more: it is overridden away, and the
    search goes on for what else is missing.
    """

    def __init__(self, demand: Demand, into: Path, scratch: Path, on_line: Callable[[str], None] | None) -> None:
        self._demand = demand
        self._scratch = scratch
        self._on_line = on_line
        self._common = (*demand.here, *demand.platform, "--target", os.fspath(into))
        self._built: set[str] = set()
        self._missing: dict[str, str] = {}
        self._planned: dict[str, str] = {}
        """What a resolution that may build everything would install."""

    def run(self) -> Built:
        """Install, and say what was built."""
        wheels_only: Sequence[str] = _WHEELS
        while (done := self._install(wheels_only)).returncode != 0:
            said = done.stderr
            if self._note_unfit(said):
                continue
            blocked = self._without_wheels(said) - self._built
            if not blocked and _DISABLED not in said:
                raise self._failure(said)
            if not self._planned:
                free = _pip(*self._common, "--dry-run", *self._again(), *self._demand.wanted)
                if free.returncode != 0:
                    if self._note_unfit(free.stderr):
                        continue
                    raise self._failure(free.stderr)
                self._planned = planned(free.stderr)
            blocked |= self._placed() - self._built
            if not blocked:
                raise self._failure(said)
            if self._demand.foreign:
                self._note_unbuildable(blocked)
            self._built |= blocked
            # Everything stays wheels-only, except what has been shown to have none.
            names = sorted(self._planned.keys() - self._built)
            wheels_only = [part for name in names for part in ("--only-binary", name)]
        if self._missing:
            self._planned = planned(done.stderr)
            if self._demand.foreign:
                self._note_unbuildable(self._placed() - self._built)  # a dry run may know them without building them
            raise self._failure("")
        placed = self._placed() & self._built
        return Built(frozenset(self._built - placed), frozenset(placed))

    def _install(self, wheels_only: Sequence[str]) -> subprocess.CompletedProcess[str]:
        wanted = (*self._common, *wheels_only, *self._again(), *self._demand.wanted)
        return _pip(*wanted, on_line=self._on_line)

    def _again(self) -> tuple[str, ...]:
        if not self._missing:
            return ()
        overrides = self._scratch / "overrides.txt"
        names = (re.split(r"==| @ ", what)[0] for what in self._missing)
        overrides.write_text("".join(f"{name} ; python_version < '0'\n" for name in names), encoding="utf-8")
        return ("--dry-run", "--override", os.fspath(overrides))

    def _placed(self) -> set[str]:
        return {name for name, what in self._planned.items() if " @ " in what and not what.endswith(".whl")}

    def _note_unfit(self, said: str) -> bool:
        """Note versions that have wheels, and none for the target, nor sources; tell whether there are new ones."""
        found = {canonicalize_name(name): version for name, version in _NO_FITTING.findall(said)}
        new = {
            name: f"{name}=={version}" for name, version in found.items() if f"{name}=={version}" not in self._missing
        }
        # With several names at once it is not certain that each is to blame: those are for uv to explain.
        if len(found) != 1 or not new:
            return False
        self._missing |= {what: self._others(name) for name, what in new.items()}
        return True

    def _note_unbuildable(self, blocked: Collection[str]) -> None:
        """Note which packages without a wheel cannot be built for another machine here either.

        A version that has a wheel for this machine and none for the other is compiled, or that wheel would do. The
        rest is built on trial.
        """
        for name in sorted(blocked & self._planned.keys()):
            what = self._planned[name]
            placed = " @ " in what
            compiled = not placed and self._alone("--dry-run", *_WHEELS, "--", what, platform=()).returncode == 0
            if compiled or self._alone("--", what).returncode != 0:
                self._missing[what] = "its build makes a wheel for this machine" if placed else self._others(name)

    def _others(self, name: str) -> str:
        done = self._alone("--dry-run", *_WHEELS, "--", name)
        fitting = planned(done.stderr).get(name) if done.returncode == 0 else None
        return f"{fitting} has one" if fitting else "no other version has one"

    def _alone(self, *words: str, platform: tuple[str, ...] | None = None) -> subprocess.CompletedProcess[str]:
        """Run uv for one package by itself."""
        demand = self._demand
        platform = demand.platform if platform is None else platform
        target = tempfile.mkdtemp(dir=self._scratch)
        return _pip(*demand.here, *platform, *demand.options, "--target", target, "--no-deps", *words, checked=False)

    def _without_wheels(self, said: str) -> set[str]:
        """Return the projects that uv's complaint names for want of wheels.

        uv also names those of which only some old versions have none; they are left out, or they would be built from
        source in their newest version although an older one has a wheel that fits.
        """
        named: set[str] = {canonicalize_name(name) for name in _NO_WHEEL.findall(said)}
        if len(named) < 2:
            return named
        tried = (name for name in sorted(named) if self._alone("--dry-run", *_WHEELS, "--", name).returncode != 0)
        return set(tried) or named

    def _failure(self, said: str) -> LazydepsError:
        if self._missing:
            return LazydepsError(explain_missing(self._missing, self._demand.target))
        return LazydepsError(explain(said, self._demand.target))


def planned(said: str) -> dict[str, str]:
    """Return what a dry run would install: normalised name to ``NAME==VERSION`` or ``NAME @ ADDRESS``."""
    lines = re.findall(r"^ \+ ([\w.-]+)(==\S+| @ \S+)(?: \(from (.+)\))?", said, re.MULTILINE)
    return {canonicalize_name(name): f"{name} @ {place}" if place else name + what for name, what, place in lines}


def explain(said: str, target: str) -> str:
    """Turn uv's complaint into ours: what it said, and what to do about missing wheels."""
    lines = [line.rstrip() for line in said.strip().splitlines() if line.strip()]
    start = next((index for index, line in enumerate(lines) if line.startswith("error:")), 0)
    words = "\n".join(lines[start:][-12:]) or "uv gave no reason"
    message = f"uv could not install the requirements for {target}:\n{words}"
    if _NO_WHEEL.search(said) or re.search("no usable wheels|no wheels with a matching|is not compatible", said):
        message += (
            "\nA pack is built from wheels that fit its target. Choose a version that has one, or another --python, "
            "--arch or --glibc; or build that wheel on the target's platform and name its file as a requirement."
        )
    return message


def explain_missing(missing: dict[str, str], target: str) -> str:
    """Name every package that can neither be had nor built, and say what to do."""
    some = next(iter(missing)).partition(" @ ")[0]
    return (
        f"{len(missing)} package{'s have' if len(missing) > 1 else ' has'} no wheel for {target}, and cannot be built "
        "for it on this machine:\n"
        + "".join(f"  {what}: {words}\n" for what, words in missing.items())
        + "Choose a version that has one, or another --python, --arch or --glibc; or build the wheel on the target "
        f"(`pip wheel {some}`), and name its file as a requirement or give a folder of all wheels with --wheels."
    )


def _pip(
    *arguments: str, checked: bool = True, on_line: Callable[[str], None] | None = None
) -> subprocess.CompletedProcess[str]:
    # The user's other UV_* variables and configuration (indexes, credentials, proxies) reach uv untouched, and no
    # message of ours repeats them. Only a trial of one name does without hashes: it has none, and nothing of it is
    # kept. What a requirements file, a project or a lock calls editable is copied: a pack of a link holds no code.
    own = {"UV_NO_EDITABLE": "1"} if checked else {"UV_NO_EDITABLE": "1", "UV_REQUIRE_HASHES": "0"}
    done = processes.run(
        [os.fspath(uv_binary()), "pip", "install", *arguments],
        env={**os.environ, **own},
        on_line=on_line or (lambda _: None),
    )
    return subprocess.CompletedProcess(done.args, done.returncode, "", done.stderr.decode(errors="replace"))
