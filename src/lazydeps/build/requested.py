"""What a plan's configuration asks for: every distribution that was installed, from where it was installed.

An index has nothing of the name of a folder or a repository, or something else: those keep their address.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from . import resolve

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from .options import PackOptions


def requested(
    options: PackOptions, tree: Path, *, requires: Mapping[str, Collection[str]], warnings: list[str]
) -> dict[str, str]:
    """Return what to ask for, by normalised name: the requirement as it was given, else pinned as installed.

    Args:
        options: what was planned.
        tree: what was installed for it.
        requires: what each distribution needs, directly or not, without extras.
        warnings: gets what the configuration cannot say.
    """
    versions = resolve.list_distributions(tree)
    files = [file for file in options.requirement_files if file.suffix != ".toml"]
    lines = [*options.requirements, *resolve.requirement_lines(files)]
    if options.requirements or files:
        names = set(resolve.requested_names(options.requirements, requirement_files=files, tree=tree))
    else:
        names = set(resolve.root_distributions(tree, python=options.python))
    given: dict[str, str] = {}
    for line in options.requirements:
        name = _name(line)
        if name is not None:  # one with an address comes below
            given[name] = line
    for name, address in _recorded(tree).items():
        given.setdefault(name, f"{name} @ {address}")
    unnamed = []
    for line in lines:
        name, address = _address(line, [Path(), *(file.parent for file in files)])
        bare = _without_password(address)
        if bare != address:
            warnings.append(
                f"{bare} is fetched with a password or a token. It was left out: let git or .netrc know it."
            )
            address = bare
        if name is not None and address:
            given[name] = f"{name} @ {address}"
            names.add(name)
        elif address and not any(line.endswith(address) for line in given.values()):
            unnamed.append(address)
    names |= given.keys()
    # What only an extra needs, or a line without a name, would be missing in the pack and in the zip file.
    left = versions.keys() - names - {other for name in names for other in requires.get(name, ())}
    while left:
        needed = {other for name in left for other in requires.get(name, ()) if name != other}
        first = (left - needed) or {min(left)}
        names |= first
        if unnamed:
            warnings.append(
                f"{', '.join(sorted(first))}: maybe from {' or '.join(unnamed)}, whose name could not be read. Put its "
                "address into the configuration, NAME @ file:///…, for an index may have another one of that name."
            )
        left = left - first - {other for name in first for other in requires.get(name, ())}
    elsewhere = sorted(set(resolve.index_options(files)))
    if elsewhere:
        warnings.append(
            f"a requirements file looks for packages elsewhere ({', '.join(elsewhere)}), and the configuration does "
            "not: set UV_DEFAULT_INDEX, UV_INDEX or UV_FIND_LINKS for `lazydeps pack` and `lazydeps package`."
        )
    return {name: given.get(name, f"{name}=={versions[name]}") for name in sorted(names & versions.keys())}


def _name(line: str) -> str | None:
    try:
        return canonicalize_name(Requirement(line).name)
    except InvalidRequirement:
        return None


def _address(line: str, folders: Iterable[Path]) -> tuple[str | None, str]:
    """Return the name and the address of a requirement that has one; None where the name cannot be read."""
    try:
        parsed = Requirement(line)
        return canonicalize_name(parsed.name), parsed.url or ""
    except InvalidRequirement:
        pass
    plain = re.sub(r"(\[[^\]]*\])?\s*(;.*)?$", "", line)
    if "://" in plain and not plain.startswith("file://"):
        egg = re.search(r"#(?:.*&)?egg=([\w.-]+)", plain)
        return (canonicalize_name(egg[1]) if egg else resolve.requirement_name(plain)), plain.partition("#egg=")[0]
    for folder in folders:
        path = Path(os.path.abspath(folder / plain.removeprefix("file://")))
        if path.exists():
            return _project_name(path), path.as_uri()
    return None, ""


def _recorded(tree: Path) -> dict[str, str]:
    """Return the addresses that distributions were installed from, other than folders, by name (PEP 610)."""
    found: dict[str, str] = {}
    for file in tree.glob("*.dist-info/direct_url.json"):
        try:
            facts = json.loads(file.read_text(encoding="utf-8"))
            url, vcs = str(facts["url"]), facts.get("vcs_info")
            address = f"{vcs['vcs']}+{url}@{vcs['commit_id']}" if vcs else url
            folder = facts.get("subdirectory")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        name = canonicalize_name(file.parent.name.partition("-")[0])
        found[name] = _without_password(address) + (f"#subdirectory={folder}" if folder else "")
    return found


def _without_password(address: str) -> str:
    return re.sub(r"(https?://)[^/@]*@", r"\1", address)


def _project_name(path: Path) -> str | None:
    if path.is_file():
        sdist = re.match(r"(.+)-\d[^-]*\.(?:tar\.gz|zip)$", path.name)
        return canonicalize_name(sdist[1]) if sdist else resolve.requirement_name(path.name)
    try:
        name = tomllib.loads((path / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return canonicalize_name(name) if isinstance(name, str) else None
