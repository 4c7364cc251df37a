"""What one pack is made of and for which target: every option of `lazydeps pack`, checked and with its default."""

from __future__ import annotations

import platform
import re
import sys
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lazydeps.errors import ConfigError

from . import resolve
from .compress import DEFAULT_LEVEL
from .dependencies import read_dependencies
from .epoch import source_date
from .handler import find_handler, parse_environ
from .interpreters import canonical_arch

ARCHITECTURES = ("x86_64", "arm64")
Sources = Literal["cold", "drop"]
"""What becomes of the ``.py`` files: kept in the cold set, for tracebacks and `inspect`, or left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackOptions:
    """What to pack, for which target, and how to find out what an import touches."""

    out: Path
    """The pack to write, conventionally ``NAME.tar.zst``."""

    # What goes in. Requirements of every kind may be given together; a folder or an archive stands alone.
    requirements: tuple[str, ...] = ()
    requirement_files: tuple[Path, ...] = ()
    """``requirements.txt`` files, with their options; also ``pylock.toml``."""
    constraint_files: tuple[Path, ...] = ()
    project: Path | None = None
    """A folder with a ``pyproject.toml``: whose groups and extras, and whose ``uv.lock``."""
    groups: tuple[str, ...] = ()
    """Dependency groups (PEP 735) of the project."""
    extras: tuple[str, ...] = ()
    """Optional dependencies of the project."""
    locked: bool = False
    """Whether the project's ``uv.lock`` decides the versions."""
    wheels: Path | None = None
    """A folder of wheels: every distribution in it goes in, and no index is asked."""
    from_dir: Path | None = None
    """An installed site-packages folder, instead of requirements."""
    from_archive: Path | None = None
    """A zip, layer zip or tar of installed packages, instead of requirements."""

    # For whom.
    python: str | None = None
    """The target's minor version, for example ``3.13``; the running one by default."""
    arch: str | None = None
    """``x86_64`` or ``arm64`` (``aarch64`` and ``amd64`` are understood); this machine's by default."""
    glibc: str | None = None
    """The oldest C library the pack has to run on; by default Lambda's for that Python (`resolve.glibc_floor`)."""

    # What is left out, and how the rest is kept.
    prune: bool = True
    """Whether the rules of ``prune.toml`` apply."""
    exclude: tuple[str, ...] = ()
    """Patterns of files to leave out besides (`patterns.py`), or ``rule:NAME`` to switch a rule on."""
    keep: tuple[str, ...] = ()
    """Patterns of files that neither a rule nor ``exclude`` leaves out, or ``rule:NAME`` to switch a rule off."""
    strip: bool = False
    """Whether to take debug information out of ELF files."""
    sources: Sources = "cold"
    optimize: int = 0
    """Python's ``-O`` level for the bytecode: 0, 1 (no asserts) or 2 (no docstrings either)."""
    level: int = DEFAULT_LEVEL

    # What an import touches. Several ways are merged in this order; with none, the requested modules are imported.
    trace_files: tuple[Path, ...] = ()
    """Traces that were recorded before."""
    trace_statements: tuple[str, ...] = ()
    """Python statements to record, for example ``import numpy, pandas``."""
    trace_scripts: tuple[Path, ...] = ()
    """Programs to record."""
    trace_handlers: tuple[str, ...] = ()
    """Lambda handlers to record, ``MODULE.FUNCTION`` as Lambda spells them, found from the current folder."""
    events: tuple[Path, ...] = ()
    """JSON files, the events that each recorded handler is called with."""
    trace_env: tuple[str, ...] = ()
    """Variables that what is recorded gets, ``NAME=VALUE``, or ``NAME`` for this process's own; it gets no others."""
    save_trace: Path | None = None
    """Where to write the trace that was used."""

    # How.
    jobs: int | None = None
    """Processes and threads at a time; the machine's cores by default."""
    cache: Path | None = None
    """Where compiled and compressed pieces are kept for the next build; None for nowhere."""


def check_options(options: PackOptions) -> PackOptions:
    """Return options with the defaults filled in.

    Raises:
        ConfigError: they contradict each other or name something that does not exist.
    """
    options = _check_inputs(options)
    python = options.python or f"{sys.version_info[0]}.{sys.version_info[1]}"
    parts = python.split(".")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts) or parts[0] != "3" or int(parts[1]) < 11:
        raise ConfigError(f"--python wants a minor version from 3.11 on, such as 3.13; found {python!r}.")
    arch = canonical_arch(options.arch or platform.machine())
    if arch not in ARCHITECTURES:
        raise ConfigError(f"--arch wants x86_64 or arm64, the two that AWS Lambda has; found {arch!r}.")
    glibc = options.glibc or resolve.glibc_floor(python)
    if not all(part.isdecimal() for part in glibc.split(".")) or glibc.count(".") != 1:
        raise ConfigError(f"--glibc wants a version such as {resolve.GLIBC_FLOOR}; found {glibc!r}.")
    for name, path in (("-r", file) for file in options.requirement_files):
        _must_exist(name, path)
    for name, paths in (
        ("-c", options.constraint_files),
        ("--from-archive", (options.from_archive,) if options.from_archive else ()),
        ("--trace-script", options.trace_scripts),
        ("--trace-file", options.trace_files),
        ("--event", options.events),
    ):
        for path in paths:
            _must_exist(name, path)
    parse_environ(options.trace_env)
    source_date()  # what is wrong with it is said now, and not when the pack is written
    if options.events and not options.trace_handlers:
        raise ConfigError("--event is what a handler is called with: name one, --trace-handler app.handler.")
    for handler in options.trace_handlers:
        find_handler(handler, handler_folders(options), options.events)
    return replace(options, python=python, arch=arch, glibc=glibc)


def is_pylock(file: Path) -> bool:
    """Tell whether a requirements file is a ``pylock.toml`` or ``pylock.NAME.toml`` (PEP 751)."""
    return re.fullmatch(r"pylock(\.[^.]+)?\.toml", file.name) is not None


def _check_inputs(options: PackOptions) -> PackOptions:
    """Return options with the project filled in, if what goes in can be combined."""
    given = {
        "requirements": options.requirements,
        "-r": options.requirement_files,
        "-c": options.constraint_files,
        "--project": options.project,
        "--group": options.groups,
        "--extra": options.extras,
        "--locked": options.locked,
        "--wheels": options.wheels,
        "--from-dir": options.from_dir,
        "--from-archive": options.from_archive,
    }
    named = [name for name, value in given.items() if value]
    if not set(named) - {"-c"}:
        raise ConfigError(
            "nothing to pack: give requirements (numpy pandas), -r requirements.txt, --project DIR, --wheels DIR, "
            "--from-dir DIR or --from-archive FILE; or configure packs in [tool.lazydeps] of a pyproject.toml."
        )
    for alone, why in (
        ("--from-dir", "a folder of installed packages stands alone: install the rest into it"),
        ("--from-archive", "an archive of installed packages stands alone: extract it, install the rest, --from-dir"),
    ):
        others = [name for name in named if name != alone]
        if options.trace_handlers and not (options.groups or options.extras or options.locked):
            others = [name for name in others if name != "--project"]  # it says where the handler is
        if alone in named and others:
            raise ConfigError(f"{alone} cannot be combined with {', '.join(others)}; {why}.")
    if any(map(is_pylock, options.requirement_files)) and (len(named) > 1 or len(options.requirement_files) > 1):
        others = [name for name in named if name != "-r"] or ["another -r"]
        raise ConfigError(
            f"a pylock.toml says all there is to install, and cannot be combined with {', '.join(others)}. Add what is "
            "missing to the project and lock it again, or make two packs."
        )
    for requirement in options.requirements:
        _check_requirement(requirement)
    if options.locked and options.wheels:
        raise ConfigError("--locked takes packages from their indexes, and --wheels from no index. Leave one out.")
    if options.project is None and (options.groups or options.extras or options.locked):
        here = Path()
        if not (here / "pyproject.toml").is_file():
            raise ConfigError(
                f"{', '.join(name for name in named if name in ('--group', '--extra', '--locked'))} is about a "
                "project, and there is no pyproject.toml in this folder. Say where it is with --project DIR."
            )
        options = replace(options, project=here)
    if options.wheels is not None and not options.wheels.is_dir():
        raise ConfigError(f"--wheels wants a folder of wheels, and {options.wheels} is none.")
    if options.project is not None and options.from_dir is None and options.from_archive is None:
        read_dependencies(options.project, groups=options.groups, extras=options.extras)
    return options


def _check_requirement(requirement: str) -> None:
    """Raise ConfigError for a file or a folder that is no requirement, and say by which option it is given."""
    path = Path(requirement)
    option = None
    if path.is_file() and (path.suffix in (".txt", ".in") or is_pylock(path)):
        option = "-r"
    elif path.is_file() and path.suffix == ".zip" and not _has_project(path):
        option = "--from-archive"
    elif path.is_dir() and next(path.glob("*.dist-info"), None) is not None:
        option = "--from-dir"
    elif path.is_dir() and next(path.glob("*.whl"), None) is not None:
        option = "--wheels"
    if option is not None:
        raise ConfigError(f"{requirement} is no requirement. Give it with its option: {option} {requirement}.")


def _has_project(archive: Path) -> bool:
    """Tell whether a zip file is a project's sources, which uv can build."""
    try:
        with zipfile.ZipFile(archive) as file:
            return any(re.fullmatch(r"([^/]+/)?(pyproject\.toml|setup\.py)", name) for name in file.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def handler_folders(options: PackOptions) -> tuple[Path, ...]:
    """Return where a handler's module is looked for: the current folder, then the project's."""
    return (Path.cwd(), *(() if options.project is None else (options.project,)))


def _must_exist(option: str, path: Path) -> None:
    if not path.is_file():
        raise ConfigError(f"{option} wants a file, and {path} is none.")
