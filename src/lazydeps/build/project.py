"""What a project says of its packs, read and checked: ``[tool.lazydeps]`` in pyproject.toml, or ``lazydeps.toml``.

It knows the keys and their types, and makes `PackOptions` of them; what a value means is checked where it is used.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from lazydeps import _lockfile
from lazydeps.errors import ConfigError

from .compress import DEFAULT_LEVEL
from .options import PackOptions, Sources

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

FILE = "lazydeps.toml"
"""Beside a ``pyproject.toml`` with ``[tool.lazydeps]``, this is the one that is read."""
INPUTS = ("requirements", "requirement_files", "groups", "extras", "locked", "wheels", "from_dir", "from_archive")
"""Fields that say what goes into a pack; one that has none of them gets the project's own dependencies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackSpec:
    """One configured pack: ``[tool.lazydeps.packs.NAME]``. Paths are absolute; fields are those of `PackOptions`."""

    name: str
    python: tuple[str, ...] = ()
    """Minor versions to build it for; the running one if empty."""
    arch: tuple[str, ...] = ()
    """Architectures to build it for; this machine's if empty."""
    destination: str | None = None
    """Where it is pushed, ``s3://BUCKET/PREFIX/``."""

    requirements: tuple[str, ...] = ()
    requirement_files: tuple[Path, ...] = ()
    constraint_files: tuple[Path, ...] = ()
    project: Path | None = None
    """The project's folder, where its dependencies, groups, extras or its lock are asked for."""
    groups: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    locked: bool = False
    wheels: Path | None = None
    from_dir: Path | None = None
    from_archive: Path | None = None

    glibc: str | None = None
    prune: bool = True
    exclude: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    strip: bool = False
    sources: Sources = "cold"
    optimize: int = 0
    level: int = DEFAULT_LEVEL

    trace_statements: tuple[str, ...] = ()
    """The key is ``trace``."""
    trace_scripts: tuple[Path, ...] = ()
    trace_handlers: tuple[str, ...] = ()
    """With events and no handler named, the project's own."""
    events: tuple[Path, ...] = ()
    trace_files: tuple[Path, ...] = ()
    trace_env: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageSpec:
    """The function's own zip: ``[tool.lazydeps.package]``."""

    include: tuple[str, ...] = ()
    """Patterns of files, relative to the project's folder."""
    exclude: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()
    requirement_files: tuple[Path, ...] = ()
    groups: tuple[str, ...] = ()
    handler: str | None = None
    """``MODULE.FUNCTION``; the project's own by default."""
    runtime: bool = True
    """Whether lazydeps itself goes into the zip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A configured project."""

    folder: Path
    """Where its file lies; relative paths in it begin here."""
    file: Path
    destination: str | None
    """Where packs are pushed by default, ``s3://BUCKET/PREFIX/``."""
    lock: Path
    """Its ``lazydeps.lock``, which need not exist."""
    handler: str | None
    packs: Mapping[str, PackSpec]
    """By name, in the file's order."""
    package: PackageSpec
    """With the defaults where the file has no such table."""

    def pack(self, name: str) -> PackSpec:
        """Return a configured pack.

        Raises:
            ConfigError: there is none of that name.
        """
        if name not in self.packs:
            known = f"It has {', '.join(self.packs)}." if self.packs else "It has none."
            raise ConfigError(f"{self.file} configures no pack {name!r}.{_nearest(name, self.packs)} {known}")
        return self.packs[name]


def find_project(start: Path) -> Project | None:
    """Return the project that a folder belongs to: the nearest configured one, upwards.

    Raises:
        ConfigError: its file cannot be read, or says what it cannot say.
    """
    start = start.absolute()
    for folder in (start, *start.parents):
        if (folder / FILE).is_file():
            return read_project(folder / FILE)
        file = folder / "pyproject.toml"
        if file.is_file() and "lazydeps" in _table(_parse(file), "tool", file):
            return read_project(file)
    return None


def read_project(file: Path) -> Project:
    """Read a ``lazydeps.toml``, or the ``[tool.lazydeps]`` of a ``pyproject.toml``.

    Raises:
        ConfigError: it cannot be read, has an unknown key or a value of the wrong type.
    """
    file = file.absolute()
    document = _parse(file)
    if file.name == "pyproject.toml":
        tool = _table(document, "tool", file)
        reader = _Reader(file, "tool.lazydeps", _table(tool, "lazydeps", file, within="tool."))
    else:
        reader = _Reader(file, "", document)
    python, arch = reader.words("python"), reader.words("arch")
    destination, handler = reader.word("destination"), reader.word("handler")
    lock = reader.path("lock") or file.parent / _lockfile.NAME
    packs = reader.table("packs")
    package = reader.table("package")
    reader.close()
    specs = {name: _pack(packs.table(name), name, python, arch, destination, handler) for name in packs.names()}
    return Project(
        folder=file.parent,
        file=file,
        destination=destination,
        lock=lock,
        handler=handler,
        packs=specs,
        package=_package(package, handler),
    )


def options_for(
    spec: PackSpec, *, python: str | None, arch: str | None, out: Path, flags: Mapping[str, Any]
) -> PackOptions:
    """Return what to build of a configured pack for one target.

    Args:
        spec: the configured pack.
        python: the target's minor version; None for the running one.
        arch: its architecture; None for this machine's.
        out: the pack to write.
        flags: fields of `PackOptions` that were given on the command line; they win over the file.
    """
    common = {field.name for field in fields(PackSpec)} & {field.name for field in fields(PackOptions)}
    values = {name: getattr(spec, name) for name in common}
    return PackOptions(**{**values, **flags, "python": python, "arch": arch, "out": out})


def _pack(
    reader: _Reader,
    name: str,
    python: tuple[str, ...],
    arch: tuple[str, ...],
    destination: str | None,
    handler: str | None,
) -> PackSpec:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise reader.error(None, f"is no name for a pack: {name!r}. Letters, digits, '.', '_' and '-' make one")
    events = reader.paths("events")
    spec: dict[str, Any] = {
        "name": name,
        "python": reader.words("python") or python,
        "arch": reader.words("arch") or arch,
        "destination": reader.word("destination") or destination,
        "requirements": reader.words("requirements"),
        "requirement_files": reader.paths("requirement-files"),
        "constraint_files": reader.paths("constraint-files"),
        "groups": reader.words("groups"),
        "extras": reader.words("extras"),
        "locked": reader.flag("locked", default=False),
        "wheels": reader.path("wheels"),
        "from_dir": reader.path("from-dir"),
        "from_archive": reader.path("from-archive"),
        "glibc": reader.word("glibc"),
        "prune": reader.flag("prune", default=True),
        "exclude": reader.words("exclude"),
        "keep": reader.words("keep"),
        "strip": reader.flag("strip", default=False),
        "sources": reader.choice("sources", ("cold", "drop")),
        "optimize": reader.number("optimize", 0, 0, 2),
        "level": reader.number("level", DEFAULT_LEVEL, 1, 22),
        "trace_statements": reader.words("trace"),
        "trace_scripts": reader.paths("trace-scripts"),
        "trace_handlers": reader.words("trace-handlers") or ((handler,) if events and handler else ()),
        "events": events,
        "trace_files": reader.paths("trace-files"),
        "trace_env": reader.words("trace-env"),
    }
    reader.close()
    of_project = any(spec[name] for name in ("groups", "extras", "locked"))
    if of_project or not any(spec[name] for name in INPUTS):
        spec["project"] = reader.file.parent
        if not (reader.file.parent / "pyproject.toml").is_file():
            raise reader.error(
                None,
                f"asks for the dependencies of a project, and there is no pyproject.toml in {reader.file.parent}. "
                "Give it requirements, requirement-files, wheels, from-dir or from-archive",
            )
    return PackSpec(**spec)


def _package(reader: _Reader, handler: str | None) -> PackageSpec:
    spec = PackageSpec(
        include=reader.words("include"),
        exclude=reader.words("exclude"),
        requirements=reader.words("requirements"),
        requirement_files=reader.paths("requirement-files"),
        groups=reader.words("groups"),
        handler=reader.word("handler") or handler,
        runtime=reader.flag("runtime", default=True),
    )
    reader.close()
    return spec


class _Reader:
    """One table of the file; remembers which keys were asked for, so that `close` finds those that nobody knows."""

    def __init__(self, file: Path, path: str, values: Mapping[str, Any]) -> None:
        self.file = file
        self._path = path
        self._values = values
        self._known: dict[str, None] = {}

    def error(self, key: str | None, words: str) -> ConfigError:
        """Return an error that names the file, the table and the key."""
        table = f"[{self._path}]" if self._path else ""
        return ConfigError(f"{self.file}: {' '.join(filter(None, [table, key]))} {words}.")

    def close(self) -> None:
        """Raise ConfigError for the first key that was never asked for."""
        for key in self._values:
            if key not in self._known:
                known = f" It may have {', '.join(self._known)}."
                hint = _nearest(key.replace("_", "-"), self._known) or known
                raise self.error(key, f"is no key that lazydeps knows.{hint}".removesuffix("."))

    def names(self) -> list[str]:
        """Return the names of a table whose keys are the user's."""
        return list(self._values)

    def table(self, key: str) -> _Reader:
        """Return a table within this one, empty if it is not there."""
        value = self._take(key)
        path = f"{self._path}.{key}" if self._path else key
        if value is not None and not isinstance(value, dict):
            raise self.error(key, f"wants a table, [{path}]; found {_shown(value)}")
        return _Reader(self.file, path, value or {})

    def word(self, key: str) -> str | None:
        """Return a string, None if it is not there."""
        value = self._take(key)
        if value is not None and (not isinstance(value, str) or not value):
            raise self.error(key, f"wants a string, {_quoted(value)}; found {_shown(value)}")
        return value

    def words(self, key: str) -> tuple[str, ...]:
        """Return a list of strings, empty if it is not there."""
        value = self._take(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self.error(key, f"wants a list of strings, [{_quoted(value)}]; found {_shown(value)}")
        for item in value:
            if not isinstance(item, str) or not item:
                raise self.error(key, f"wants a list of strings, [{_quoted(item)}]; found {_shown(item)} in it")
        return tuple(value)

    def path(self, key: str) -> Path | None:
        """Return a path, absolute; None if it is not there."""
        value = self.word(key)
        return None if value is None else self.file.parent / value

    def paths(self, key: str) -> tuple[Path, ...]:
        """Return a list of paths, absolute."""
        return tuple(self.file.parent / value for value in self.words(key))

    def flag(self, key: str, *, default: bool) -> bool:
        """Return true or false."""
        value = self._take(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, f"wants true or false; found {_shown(value)}")
        return value

    def number(self, key: str, default: int, least: int, most: int) -> int:
        """Return a whole number between two others."""
        value = self._take(key)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.error(key, f"wants a whole number from {least} to {most}; found {_shown(value)}")
        return value

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        """Return one of some strings, the first by default."""
        value = self._take(key)
        if value is None:
            return choices[0]
        if value not in choices:
            raise self.error(key, f"wants {' or '.join(map(_quoted, choices))}; found {_shown(value)}")
        return str(value)

    def _take(self, key: str) -> Any:
        self._known[key] = None
        return self._values.get(key)


def _parse(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} could not be read: {error.strerror or error}.") from error
    except ValueError as error:  # neither UTF-8 nor TOML
        raise ConfigError(f"{file} is no TOML file: {str(error).removesuffix('.')}.") from error


def _table(values: Mapping[str, Any], key: str, file: Path, *, within: str = "") -> Mapping[str, Any]:
    found = values.get(key, {})
    if not isinstance(found, dict):
        raise ConfigError(f"{file}: {within}{key} wants a table, [{within}{key}]; found {_shown(found)}.")
    return found


def _nearest(name: str, known: Collection[str]) -> str:
    found = difflib.get_close_matches(name, known, 1)
    return f" Did you mean {found[0]}?" if found else ""


def _quoted(value: object) -> str:
    return (
        f'"{value}"' if isinstance(value, str | int | float) and not isinstance(value, bool) and value != "" else '"…"'
    )


def _shown(value: object) -> str:
    """Spell a value as TOML does, as far as a reader needs it to find it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return "a table" if isinstance(value, dict) else str(value)
