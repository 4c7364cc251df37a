"""What a plan says as text: ``[tool.lazydeps]`` to paste, Terraform's values; and what a project wants planned."""

from __future__ import annotations

import ast
import json
import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from lazydeps.errors import ConfigError

from .options import PackOptions
from .project import FILE, find_project

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .plan import Plan

PACK_NAME = "heavy"
"""What the proposed pack is called."""


def project_options(folder: Path, **given: Any) -> PackOptions:
    """Return everything that a project imports, as for one pack.

    Args:
        folder: the project's folder: what it configures for lazydeps, else its dependencies, else its
            ``requirements.txt``.
        given: fields of `PackOptions`; where none of them says what goes in, the project does.

    Raises:
        ConfigError: nobody says what goes in, or the project's packs cannot be planned together.
    """
    options = PackOptions(out=Path("plan.tar.zst"), **{name: value for name, value in given.items() if value})
    if options.requirements or options.requirement_files:
        return options
    if options.groups or options.extras or options.locked:
        return _replaced(options, project=folder)
    project = find_project(folder)
    if project is not None and project.packs:
        specs = list(project.packs.values())
        if any(spec.from_dir or spec.from_archive or spec.wheels for spec in specs):
            raise ConfigError(
                f"{project.file} has packs of folders, archives or wheels, and a plan resolves requirements. "
                "Give them: lazydeps plan --with numpy --with pandas."
            )
        sources = [*specs, project.package]
        found: dict[str, Any] = {
            name: tuple(dict.fromkeys(value for source in sources for value in getattr(source, name, ())))
            for name in ("requirements", "requirement_files", "constraint_files", "groups", "extras")
        }
        for name in ("trace_statements", "trace_scripts", "trace_handlers", "events", "trace_env", "trace_files"):
            found[name] = given.get(name) or tuple(
                dict.fromkeys(value for spec in specs for value in getattr(spec, name))
            )
        found["locked"] = any(spec.locked for spec in specs)
        found["project"] = next((spec.project for spec in specs if spec.project is not None), None)
        if found["groups"] and found["project"] is None:
            found["project"] = project.folder
        for name in ("python", "arch"):
            values = [value for spec in specs for value in getattr(spec, name)]
            found[name] = getattr(options, name) or next(iter(values), None)
        return _replaced(options, **found)
    if (folder / "pyproject.toml").is_file():
        return _replaced(options, project=folder)
    if (folder / "requirements.txt").is_file():
        return _replaced(options, requirement_files=(folder / "requirements.txt",))
    raise ConfigError(
        f"nothing to plan: {folder} has neither pyproject.toml nor requirements.txt. Say what the function imports: "
        "lazydeps plan --with numpy --with pandas, or -r FILE."
    )


def _replaced(options: PackOptions, **changes: Any) -> PackOptions:
    from dataclasses import replace

    return replace(options, **changes)


def terraform_values(plan: Plan, *, destination: str | None) -> dict[str, Any]:
    """Return the values of a function's resource, and the reference as far as it is known before a push."""
    place = (destination or "s3://BUCKET/packs/").rstrip("/") + "/"
    values: dict[str, Any] = {
        "runtime": f"python{plan.python}",
        "architectures": [plan.arch],
        "memory_size": plan.memory_size,
        "timeout": plan.timeout,
        "ephemeral_storage": plan.ephemeral_storage,
    }
    if plan.handler:
        values = {"handler": plan.handler, **values}
    if plan.names("pack"):
        values["lazydeps_pack"] = f"{place}ROOT.tar.zst#root=sha256:ROOT"
    return values


def terraform_text(values: Mapping[str, Any]) -> str:
    """Return values as HCL, aligned as `terraform fmt` does."""
    width = max(map(len, values))
    lines = [f"{name:{width}} = {json.dumps(value)}" for name, value in values.items()]
    return re.sub(r"([$%])\{", r"\1\1{", "\n".join(lines))  # which would begin a template


def configuration(plan: Plan, options: PackOptions, *, folder: Path, destination: str | None, table: bool) -> str:
    """Return the configuration that makes the proposed pack and zip file, as TOML.

    Args:
        plan: the proposal.
        options: what was planned.
        folder: that of the file, to which paths are relative.
        destination: where packs are pushed, if known.
        table: whether for a ``pyproject.toml``, below ``[tool.lazydeps]``; else for a ``lazydeps.toml``.
    """
    top = "tool.lazydeps." if table else ""
    lines = ["[tool.lazydeps]"] if table else []
    lines += [f"python = {_toml([plan.python])}", f"arch = {_toml([plan.arch])}"]
    if plan.handler:
        lines.append(f"handler = {_toml(plan.handler)}")
    if destination:
        lines.append(f"destination = {_toml(destination)}")
    given = requirement_lines(options, folder)
    packed = [line for name, line in plan.requested.items() if name in plan.names("pack")]
    light = [
        line
        for name, line in plan.requested.items()
        if name in plan.names("zip") and canonicalize_name(name) != "lazydeps"
    ]
    statements = [line for line in (_without(line, plan) for line in options.trace_statements) if line]
    if packed:
        lines += ["", f"[{top}packs.{PACK_NAME}]", f"requirements = {_toml([_best(line, given) for line in packed])}"]
        lines += [
            f"{key} = {_toml(values)}"
            for key, values in (
                ("trace", statements),
                ("trace-scripts", _relative(options.trace_scripts, folder)),
                ("trace-handlers", list(options.trace_handlers)),
                ("events", _relative(options.events, folder)),
                ("trace-files", _relative(options.trace_files, folder)),
            )
            if values
        ]
    lines += ["", f"[{top}package]", f"requirements = {_toml([_best(line, given) for line in light])}"]
    return "\n".join(lines) + "\n"


def requirement_lines(options: PackOptions, folder: Path) -> dict[str, str]:
    """Return the requirements of a project's pyproject.toml as they stand there: normalised name to line."""
    file = (options.project or folder) / "pyproject.toml"
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    lines = document.get("project", {}).get("dependencies", [])
    found: dict[str, str] = {}
    for line in lines if isinstance(lines, list) else []:
        try:
            found[canonicalize_name(Requirement(line).name)] = line
        except (InvalidRequirement, TypeError):
            continue
    return found


def write_configuration(text: str, folder: Path) -> Path:
    """Write ``lazydeps.toml``, which must not be there, nor ``[tool.lazydeps]``.

    Raises:
        ConfigError: the project is configured already.
    """
    there = find_project(folder)
    path = folder / FILE
    if there is not None and there.folder == folder.absolute():
        raise ConfigError(f"{there.file} configures lazydeps already and was left as it is. Paste what you want of it.")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{path} is there already and was left as it is.") from None
    return path


def _without(statement: str, plan: Plan) -> str:
    """Return a statement to record without its imports of what stays in the zip file: the pack has none of that."""
    stays = {name for name, owner in plan.modules.items() if owner not in plan.names("pack")}
    try:
        body = ast.parse(statement).body
    except SyntaxError:
        return statement
    kept: list[ast.stmt] = []
    for node in body:
        if isinstance(node, ast.Import):
            node.names = [alias for alias in node.names if alias.name.partition(".")[0] not in stays]
            if not node.names:
                continue
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in stays:
            continue
        kept.append(node)
    return "\n".join(ast.unparse(node) for node in kept)


def _best(line: str, given: Mapping[str, str]) -> str:
    """Return a requirement as the project has it, where the plan knows only the version that was installed."""
    try:
        return given.get(canonicalize_name(Requirement(line).name), line)
    except InvalidRequirement:
        return line


def _relative(paths: Sequence[Path], folder: Path) -> list[str]:
    return [Path(os.path.relpath(path, folder)).as_posix() for path in paths]


def _toml(value: str | list[str]) -> str:
    # What JSON escapes in a string, TOML's basic strings escape alike.
    return json.dumps(value, ensure_ascii=False)
