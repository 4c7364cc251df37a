"""Put what the options name into a scratch tree: install it for the target, or adopt what is installed already."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import resolve
from .dependencies import ProjectDependencies, export_lock, read_dependencies
from .options import is_pylock
from .records import edited_warnings, shared_warnings
from .unpack import unpack
from .wheels import choose_wheels

if TYPE_CHECKING:
    from collections.abc import Callable

    from .interpreters import Interpreter
    from .options import PackOptions


@dataclass(frozen=True, slots=True)
class Filled:
    """A tree with the target's packages."""

    requested: frozenset[str]
    """Normalised names of the distributions that were asked for, not only needed by others."""
    warnings: tuple[str, ...] = ()


def fill(
    options: PackOptions, tree: Path, interpreter: Interpreter, *, on_line: Callable[[str], None] | None = None
) -> Filled:
    """Put the target's packages into ``tree``, which is made. ``on_line`` is called with each line that uv says.

    Raises:
        ConfigError: uv is missing, or a folder, an archive, a project or its lock is not what it should be.
        UnsafeArchiveError: a folder or an archive holds what nobody may pack.
        PackFormatError: an archive is damaged.
        LazydepsError: uv failed; the message holds its reason.
    """
    assert options.python is not None
    assert options.arch is not None
    assert options.glibc is not None
    if is_adopted(options):
        return _adopt(options, tree)
    with tempfile.TemporaryDirectory(prefix="lazydeps-inputs-") as scratch:
        wanted = _wanted(options, interpreter, Path(scratch))
        done = resolve.install(
            wanted.requirements,
            requirement_files=wanted.files,
            constraints=options.constraint_files,
            more=wanted.more,
            into=tree,
            interpreter=interpreter,
            arch=options.arch,
            glibc=options.glibc,
            on_line=on_line,
        )
    requested = _requested(options, wanted, tree)
    resolve.refuse_editable(tree)
    warnings = (*done.warnings, *shared_warnings(tree))
    resolve.normalise(tree, drop_scripts=True)
    return Filled(requested, warnings)


def fill_like(
    options: PackOptions, tree: Path, interpreter: Interpreter, *, distributions: dict[str, str], pins: Path
) -> None:
    """Put the same versions for this machine into ``tree``, to record a foreign target's imports with.

    Args:
        options: those of the foreign pack.
        tree: the folder to fill.
        interpreter: this machine's, of the target's minor version.
        distributions: normalised name to version, as `fill` installed them.
        pins: a file to write the versions to.

    Raises:
        LazydepsError: there is no such set of distributions for this machine.
    """
    pins.write_text("".join(f"{name}=={version}\n" for name, version in distributions.items()), encoding="utf-8")
    adopted = is_adopted(options) or options.wheels is not None  # and so there may be none of them for this machine
    locked = options.locked or any(map(is_pylock, options.requirement_files))
    with tempfile.TemporaryDirectory(prefix="lazydeps-inputs-") as scratch:
        if adopted:
            near = () if options.wheels is None else ("--find-links", os.fspath(options.wheels.absolute()))
            wanted = _Wanted((), (pins,), near, frozenset())
        else:
            wanted = _wanted(options, interpreter, Path(scratch))
        resolve.install(
            wanted.requirements,
            requirement_files=wanted.files,
            constraints=() if adopted or locked else (*options.constraint_files, pins),
            more=wanted.more,
            into=tree,
            interpreter=interpreter,
            arch=interpreter.arch,
            glibc=None,
        )
    resolve.normalise(tree, drop_scripts=True)


def describe(options: PackOptions) -> str:
    """Return in words what is installed, as on the command line."""
    if is_adopted(options):
        return str(options.from_dir or options.from_archive)
    words = [*options.requirements, *(f"-r {file}" for file in options.requirement_files)]
    words += [f"--group {name}" for name in options.groups] + [f"--extra {name}" for name in options.extras]
    if options.project is not None and (options.extras or not options.groups):
        words.append("the project's dependencies")
    if options.wheels is not None:
        words.append(f"--wheels {options.wheels}")
    return " ".join(words) + (" as uv.lock has them" if options.locked else "")


def is_adopted(options: PackOptions) -> bool:
    """Tell whether the packages are installed already: in a folder, or in an archive."""
    return options.from_dir is not None or options.from_archive is not None


def _adopt(options: PackOptions, tree: Path) -> Filled:
    assert options.python is not None
    assert options.arch is not None
    assert options.glibc is not None
    if options.from_dir is not None:
        warnings = list(resolve.adopt(options.from_dir, into=tree).warnings)
    else:
        assert options.from_archive is not None
        warnings = unpack(
            options.from_archive, into=tree, python=options.python, arch=options.arch, glibc=options.glibc
        )
        warnings += resolve.path_warnings(tree)
    warnings += edited_warnings(tree)
    requested = frozenset(resolve.root_distributions(tree, python=options.python))
    resolve.normalise(tree, drop_scripts=False)
    return Filled(requested, tuple(warnings))


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What uv is asked for."""

    requirements: tuple[str, ...]
    files: tuple[Path, ...]
    more: tuple[str, ...]
    names: frozenset[str]
    """Normalised names that a project asks for."""


def _wanted(options: PackOptions, interpreter: Interpreter, scratch: Path) -> _Wanted:
    assert options.python is not None
    assert options.arch is not None
    assert options.glibc is not None
    requirements, files = list(options.requirements), list(options.requirement_files)
    more: list[str] = []
    names: frozenset[str] = frozenset()
    if options.project is not None:
        asked = _of_project(options)
        names = asked.names
        if options.locked:
            files.append(export_lock(asked, interpreter=interpreter, into=scratch / "locked.txt"))
            more += ["--project", os.fspath(asked.folder)]  # whose indexes its packages come from
        else:
            more += asked.uv_arguments()
    if options.wheels is not None:
        chosen = choose_wheels(options.wheels, python=options.python, arch=options.arch, glibc=options.glibc)
        requirements += map(os.fspath, chosen)
        more += ["--no-index", "--find-links", os.fspath(options.wheels.absolute())]
    return _Wanted(tuple(requirements), tuple(files), tuple(more), names)


def _requested(options: PackOptions, wanted: _Wanted, tree: Path) -> frozenset[str]:
    """Return which of the installed distributions were asked for. Of what says only what there is, the roots were."""
    files = [file for file in options.requirement_files if not is_pylock(file)]
    requested = frozenset(wanted.names & resolve.list_distributions(tree).keys())
    if options.requirements or files:
        requested |= resolve.requested_names(options.requirements, requirement_files=files, tree=tree)
    if options.wheels is not None or not requested:
        requested |= frozenset(resolve.root_distributions(tree, python=options.python))
    return requested


def _of_project(options: PackOptions) -> ProjectDependencies:
    assert options.project is not None
    return read_dependencies(options.project, groups=options.groups, extras=options.extras)
