"""Put what the options name into a scratch tree: install it for the target, or adopt what is installed already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import resolve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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
        ConfigError: uv is missing, or a folder is not what it should be.
        UnsafeArchiveError: a folder or an archive holds what nobody may pack.
        LazydepsError: uv failed; the message holds its reason.
    """
    assert options.arch is not None
    if options.from_dir is not None:
        done = resolve.adopt(options.from_dir, into=tree)
        requested = frozenset(resolve.root_distributions(tree, python=options.python))
        resolve.normalise(tree, drop_scripts=False)
        return Filled(requested, done.warnings)
    done = resolve.install(
        options.requirements,
        requirement_files=options.requirement_files,
        constraints=options.constraint_files,
        into=tree,
        interpreter=interpreter,
        arch=options.arch,
        glibc=options.glibc,
        on_line=on_line,
    )
    requested = resolve.requested_names(options.requirements, requirement_files=options.requirement_files, tree=tree)
    resolve.normalise(tree, drop_scripts=True)
    return Filled(requested, done.warnings)


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
    adopted = options.from_dir is not None
    resolve.install(
        () if adopted else options.requirements,
        requirement_files=(pins,) if adopted else options.requirement_files,
        constraints=() if adopted else (*options.constraint_files, pins),
        into=tree,
        interpreter=interpreter,
        arch=interpreter.arch,
        glibc=None,
    )
    resolve.normalise(tree, drop_scripts=True)
