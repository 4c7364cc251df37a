"""Which wheels of a folder fit a target: of each distribution one, the newest. Reads names only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from lazydeps.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from packaging.version import Version

OLDEST = {"x86_64": 5, "aarch64": 17}
"""The first minor version of glibc 2 that has a manylinux platform, by machine (PEP 600; aarch64 since 2014)."""
LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
"""Names that platforms had before PEP 600, by glibc's minor version."""


def choose_wheels(folder: Path, *, python: str, arch: str, glibc: str) -> list[Path]:
    """Return one wheel for each distribution of a folder: the newest version that fits, and its most particular wheel.

    Args:
        folder: with ``*.whl`` files.
        python: the target's minor version.
        arch: ``x86_64`` or ``arm64``.
        glibc: the oldest C library that the pack has to run on.

    Raises:
        ConfigError: the folder has no wheels, one has no wheel's name, or a distribution has none that fits.
    """
    rank = {tag: position for position, tag in enumerate(_tags(python, arch, glibc))}
    best: dict[str, tuple[Version, int, tuple[int | str, ...], Path]] = {}
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.whl")):
        try:
            name, version, build, tags = parse_wheel_filename(path.name)
        except InvalidWheelFilename as error:
            raise ConfigError(f"{path} has no wheel's name, NAME-VERSION-PYTHON-ABI-PLATFORM.whl: {error}.") from error
        found.setdefault(name, []).append(path.name)
        fitting = [rank[tag] for tag in tags if tag in rank]
        if fitting:
            candidate = (version, -min(fitting), build, path)
            best[name] = max(best.get(name, candidate), candidate)
    if not found:
        raise ConfigError(f"--wheels wants a folder of wheels, and {folder} has none. `pip wheel` makes one.")
    lacking = [name for name in sorted(found) if name not in best]
    if lacking:
        raise ConfigError(
            f"no wheel in {folder} fits Python {python} on {arch} with glibc {glibc} for:\n"
            + "".join(f"  {name}: found {', '.join(found[name])}\n" for name in lacking)
            + "Put wheels for the target there, move these elsewhere, or choose another --python, --arch or --glibc."
        )
    return [best[name][-1].absolute() for name in sorted(best)]


def fits(tags: Collection[Tag], *, python: str, arch: str, glibc: str) -> bool:
    """Tell whether a wheel with these tags can be installed on the target."""
    return any(tag in tags for tag in _tags(python, arch, glibc))


def _tags(python: str, arch: str, glibc: str) -> Iterator[Tag]:
    """Yield the tags that an installer on the target accepts (PEP 425), the most particular first."""
    version = [int(part) for part in python.split(".")]
    platforms = list(_platforms(arch, int(glibc.split(".")[1])))
    yield from cpython_tags(version, platforms=platforms)
    yield from compatible_tags(version, interpreter="cp" + python.replace(".", ""), platforms=platforms)


def _platforms(arch: str, minor: int) -> Iterator[str]:
    machine = {"arm64": "aarch64"}.get(arch, arch)
    for older in range(minor, OLDEST[machine] - 1, -1):
        yield f"manylinux_2_{older}_{machine}"
        if older in LEGACY:
            yield f"{LEGACY[older]}_{machine}"
    yield f"linux_{machine}"
