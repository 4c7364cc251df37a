"""Which packs one run of `lazydeps pack` builds, for which targets, and where each is written.

All of it is decided and checked before the first is built.
"""

from __future__ import annotations

import platform
import re
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lazydeps.errors import ConfigError

from .interpreters import canonical_arch
from .options import PackOptions, check_options
from .project import options_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from .project import Project

DIST = "dist"
"""The folder of a project that its packs are written to."""
SUFFIX = ".tar.zst"
UNNAMED = "pack"
"""What a pack is called that is built for several targets and has no name of its own."""


@dataclass(frozen=True, slots=True)
class Build:
    """One pack for one target."""

    name: str | None
    """What the project calls it; None if it was described on the command line."""
    options: PackOptions
    destination: str | None = None
    """Where the project says that it is pushed."""

    @property
    def shown(self) -> str:
        """What messages call it."""
        target = f"Python {self.options.python} on {self.options.arch}"
        return f"{self.name} for {target}" if self.name else target


def split_list(values: Iterable[str]) -> tuple[str, ...]:
    """Return the parts of values that may be comma-separated, each once, in order."""
    parts = (part.strip() for value in values for part in value.split(","))
    return tuple(dict.fromkeys(part for part in parts if part))


def plan_requirements(
    fields: Mapping[str, Any], *, python: Sequence[str], arch: Sequence[str], out: Path
) -> list[Build]:
    """Return the builds of one pack that the command line describes.

    Args:
        fields: of `PackOptions`, but for the target and the file.
        python: minor versions; the running one if empty.
        arch: architectures; this machine's if empty.
        out: the file to write; for several targets a folder, or a path with ``{python}`` and ``{arch}`` in it.

    Raises:
        ConfigError: nothing of the kind can be built, or two would be one file.
    """
    targets = _targets(python, arch)
    if len(targets) == 1 or "{" in out.name:
        if not out.absolute().parent.is_dir():
            raise ConfigError(f"there is no folder {out.absolute().parent} to write {out.name} into.")
        paths = [_expanded(out, *target) for target in targets]
        for path in paths:
            _check_file(path)
    else:
        _check_folder(out, len(targets))
        paths = [out / _file_name(UNNAMED, *target) for target in targets]
    builds = [
        Build(None, PackOptions(**{**fields, "python": version, "arch": machine, "out": path}))
        for (version, machine), path in zip(targets, paths, strict=True)
    ]
    return _checked(builds)


def plan_project(
    project: Project,
    flags: Mapping[str, Any],
    *,
    names: Sequence[str] = (),
    python: Sequence[str] = (),
    arch: Sequence[str] = (),
    out: Path | None = None,
) -> list[Build]:
    """Return the builds of a project's packs, each for all of its targets.

    Args:
        project: the configured project.
        flags: fields of `PackOptions` from the command line; they win over the file.
        names: which packs; all of them if empty.
        python: minor versions, instead of the file's.
        arch: architectures, instead of the file's.
        out: the folder to write to, by default ``dist`` in the project's; a path with ``{name}``, ``{python}`` and
            ``{arch}`` in it; or, where there is one pack for one target to build, its file ``NAME.tar.zst``.

    Raises:
        ConfigError: the project has no such pack, or one of them cannot be built.
    """
    specs = [project.pack(name) for name in names] if names else list(project.packs.values())
    if not specs:
        raise ConfigError(
            f"nothing to pack: {project.file} configures no packs. Give it a table [packs.NAME] "
            "([tool.lazydeps.packs.NAME] in a pyproject.toml), or give requirements (numpy pandas)."
        )
    folder = out or project.folder / DIST
    wanted = [
        (spec, *target)
        for spec in dict.fromkeys(specs)
        for target in _targets(python or spec.python, arch or spec.arch)
    ]
    is_file = "{" in folder.name or (len(wanted) == 1 and folder.name.endswith(SUFFIX))
    if not is_file:
        _check_folder(folder, len(wanted))
    builds = []
    for spec, version, machine in wanted:
        if is_file:
            path = _expanded(folder, version, machine, name=spec.name)
            _check_file(path)
        else:
            path = folder / _file_name(spec.name, version, machine)
        # Only what comes from the project has versions in its lock.
        ours = {key: value for key, value in flags.items() if key != "locked" or spec.project is not None}
        options = options_for(spec, python=version, arch=machine, out=path, flags=ours)
        builds.append(Build(spec.name, options, spec.destination))
    return _checked(builds)


def _targets(python: Sequence[str], arch: Sequence[str]) -> list[tuple[str, str]]:
    versions = python or (f"{sys.version_info[0]}.{sys.version_info[1]}",)
    machines = dict.fromkeys(map(canonical_arch, arch or (platform.machine(),)))
    return [(version, machine) for version in dict.fromkeys(versions) for machine in machines]


def _file_name(name: str, python: str, arch: str) -> str:
    return f"{name}-py{python.replace('.', '')}-{arch}{SUFFIX}"


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise ConfigError(f"--out wants a file to write, such as {path / UNNAMED}{SUFFIX}; {path} is a directory.")


def _check_folder(folder: Path, count: int) -> None:
    if folder.name.endswith((".zst", ".tar")):
        stem = folder.name.split(".", maxsplit=1)[0]
        if count == 1:
            raise ConfigError(
                f"--out is a folder to write to, or a file NAME{SUFFIX}, such as {stem}{SUFFIX}: not {folder}."
            )
        raise ConfigError(
            f"{count} packs cannot all be {folder}: give --out a folder, or a name for each, such as "
            f"{stem}-{{python}}-{{arch}}{SUFFIX}."
        )
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out has to be a folder, or hold {{python}} and {{arch}}, and {folder} is a file.")


def _expanded(path: Path, python: str, arch: str, *, name: str | None = None) -> Path:
    """Fill in the placeholders of a file's name."""
    if "{" not in path.name:
        return path
    known = {"python": python, "arch": arch, **({"name": name} if name else {})}
    for found in re.findall(r"\{([^{}]*)\}", path.name):
        if found not in known:
            raise ConfigError(
                f"--out knows {', '.join(f'{{{key}}}' for key in known)} in a file's name; found {{{found}}} in {path}."
            )
    return path.with_name(re.sub(r"\{([^{}]*)\}", lambda match: known[match[1]], path.name))


def _checked(builds: list[Build]) -> list[Build]:
    """Return builds with their defaults filled in, if all of them can be built and none writes another's files."""
    several = len(builds) > 1
    checked: list[Build] = []
    written: dict[Path, Build] = {}
    for build in builds:
        options = build.options
        if several and options.save_trace is not None:
            trace = options.save_trace
            if "{" not in trace.name:
                raise ConfigError(
                    f"{len(builds)} packs have as many traces, and --save-trace names one file: give it a name for "
                    "each, such as trace-{python}-{arch}.json."
                )
            assert options.python is not None
            assert options.arch is not None
            trace = _expanded(trace, options.python, options.arch, name=build.name)
            options = replace(options, save_trace=trace)
        try:
            options = check_options(options)
        except ConfigError as error:
            raise ConfigError(f"{build.shown}: {error}" if build.name else str(error)) from error
        for path in filter(None, (options.out, options.save_trace)):
            if path in written:
                raise ConfigError(
                    f"{build.shown} and {written[path].shown} would both be {path}: give --out a folder, or a name "
                    "for each with {python} and {arch}" + (" and {name}." if build.name else ".")
                )
            written[path] = build
        checked.append(replace(build, options=options))
    return checked
