"""What a project's ``pyproject.toml`` and ``uv.lock`` ask for: its dependencies, extras and dependency groups.

Reading them is uv's business; here are the arguments that make uv do so, and the names that were asked for directly.
"""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from lazydeps.errors import ConfigError, LazydepsError

from .uv import uv_binary

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from .interpreters import Interpreter

LOCK = "uv.lock"


@dataclass(frozen=True, slots=True)
class ProjectDependencies:
    """What is taken of one project: some groups alone, or its dependencies, with extras and with groups."""

    folder: Path
    groups: tuple[str, ...]
    extras: tuple[str, ...]
    names: frozenset[str]
    """Normalised names of what is asked for directly."""

    @property
    def with_project(self) -> bool:
        """Whether the project's own dependencies are among it: not where only groups are asked for."""
        return bool(self.extras) or not self.groups

    def uv_arguments(self) -> tuple[str, ...]:
        """Return uv's arguments, to install without a lock."""
        file = os.fspath(self.folder / "pyproject.toml")
        project = ["-r", file] if self.with_project else []
        extras = [part for name in self.extras for part in ("--extra", name)]
        groups = [part for name in self.groups for part in ("--group", f"{file}:{name}")]
        return ("--project", os.fspath(self.folder), *project, *extras, *groups)


def read_dependencies(folder: Path, *, groups: Sequence[str], extras: Sequence[str]) -> ProjectDependencies:
    """Read what a project asks for.

    Raises:
        ConfigError: there is no pyproject.toml, it cannot be read, or it has no such group or extra.
    """
    file = folder.absolute() / "pyproject.toml"
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"--project wants a folder with a pyproject.toml, and {folder} has none.") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {str(error).removesuffix('.')}.") from error
    project = _table(document.get("project"))
    known_groups: dict[str, Any] = {
        canonicalize_name(name): value for name, value in _table(document.get("dependency-groups")).items()
    }
    optional = _table(project.get("optional-dependencies"))
    known_extras = {canonicalize_name(name): value for name, value in optional.items()}
    for kind, wanted, known in (("dependency group", groups, known_groups), ("extra", extras, known_extras)):
        for name in wanted:
            # What a build backend works out is not written down here; uv asks the backend.
            if canonicalize_name(name) not in known and not (kind == "extra" and project.get("dynamic")):
                raise ConfigError(f"{file} has no {kind} {name!r}.{_nearest(name, known)}")
    found = ProjectDependencies(folder.absolute(), tuple(groups), tuple(extras), frozenset())
    if found.with_project and not project:
        raise ConfigError(
            f"{file} has no [project], and so no dependencies to pack. Name a dependency group with --group."
        )
    names = set(_names(project.get("dependencies") if found.with_project else ()))
    for name in extras:
        names |= set(_names(known_extras.get(canonicalize_name(name))))
    for name in groups:
        names |= set(_group_names(canonicalize_name(name), known_groups, frozenset()))
    own = canonicalize_name(str(project.get("name", "")))
    if own in names:  # an extra of extras: `app[fast]` in `all`
        names = (names - {own}) | {name for value in known_extras.values() for name in _names(value)} - {own}
    return ProjectDependencies(found.folder, found.groups, found.extras, frozenset(names))


def export_lock(asked: ProjectDependencies, *, interpreter: Interpreter, into: Path) -> Path:
    """Write what the project's ``uv.lock`` has for what is asked, as a requirements file with hashes; return it.

    Raises:
        ConfigError: there is no lock, or the project has changed since it was made.
        LazydepsError: uv failed otherwise.
    """
    if not any((folder / LOCK).is_file() for folder in (asked.folder, *asked.folder.parents)):  # of a workspace
        raise ConfigError(f"--locked wants a {LOCK}, and {asked.folder} has none. Make it: uv lock, in that folder.")
    groups = [part for name in asked.groups for part in ("--group" if asked.with_project else "--only-group", name)]
    extras = [part for name in asked.extras for part in ("--extra", name)]
    done = subprocess.run(
        [
            *(os.fspath(uv_binary()), "export", "--locked", "--project", os.fspath(asked.folder)),
            *("--format", "requirements.txt", "--no-emit-project", "--no-editable", "--no-header", "--no-annotate"),
            *("--no-default-groups", *groups, *extras, "--python", os.fspath(interpreter.path)),
            *("--no-progress", "--color", "never"),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = done.stderr.strip()
        if "needs to be updated" in said or "Unable to find lockfile" in said:
            if "No `requires-python`" in said:
                raise ConfigError(
                    f"the {LOCK} of {asked.folder} was made for another range of Pythons than {interpreter.minor} and "
                    "newer: without a requires-python in pyproject.toml, uv takes that of the Python which it finds. "
                    f'Write requires-python = ">={interpreter.minor}" into [project], then: uv lock, in that folder.'
                )
            raise ConfigError(
                f"the {LOCK} of {asked.folder} does not agree with its pyproject.toml any more. Bring it up to date: "
                "uv lock, in that folder."
            )
        start = max(said.find("error:"), 0)
        raise LazydepsError(f"uv could not read the {LOCK} of {asked.folder}:\n{said[start:][-2000:]}")
    lines = [_absolute(line, asked.folder) for line in done.stdout.splitlines()]
    into.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return into


def _absolute(line: str, folder: Path) -> str:
    """Return a line of an export with a local folder's path made absolute."""
    path, mark, marker = line.removeprefix("-e ").partition(" ; ")
    if not re.match(r"\.{1,2}(/|$)", path):
        return line
    return (folder / path).resolve().as_uri() + mark + marker


def _group_names(name: str, groups: Mapping[str, Any], above: frozenset[str]) -> Iterator[str]:
    for item in groups.get(name) or ():
        if isinstance(item, str):
            yield from _names([item])
        elif isinstance(item, dict) and name not in above:
            yield from _group_names(canonicalize_name(str(item.get("include-group"))), groups, above | {name})


def _names(lines: object) -> Iterator[str]:
    for line in lines if isinstance(lines, list) else ():
        try:
            yield canonicalize_name(Requirement(str(line)).name)
        except InvalidRequirement:
            continue  # uv says what is wrong with it


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _nearest(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{hint} It has {', '.join(known)}." if known else " It has none."
