"""Installed packages out of an archive that people have already: a layer zip, a zip or tar of site-packages, a wheel.

The runtime's readers check every name, size and link before a byte is written; this writes.
"""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from lazydeps._archive import open_archive
from lazydeps._config import Limits
from lazydeps._layout import lay_out
from lazydeps._ref import ARCHIVES
from lazydeps.errors import ConfigError, PackFormatError, UnsafeArchiveError

from .wheels import fits

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from lazydeps._archive import Archive
    from lazydeps._layout import Layout


def unpack(file: Path, *, into: Path, python: str, arch: str, glibc: str) -> list[str]:
    """Extract what an archive has for site-packages into a folder, which is made; return warnings.

    Raises:
        ConfigError: its name does not say what it is, or it has nothing for the target.
        UnsafeArchiveError: a member would land outside, is no plain file, or claims what is not so.
        PackFormatError: it is damaged.
    """
    suffix = next((suffix for suffix in ARCHIVES if file.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise ConfigError(
            f"--from-archive knows an archive by its name, which ends with {', '.join(ARCHIVES)}: {file}."
        )
    if suffix == ".whl":
        _check_wheel(file, python=python, arch=arch, glibc=glibc)
    limits = Limits()
    try:
        with file.open("rb") as stream:
            archive = open_archive(stream, suffix, limits)
            layout = lay_out(archive, suffix, limits, python=python)
            if not layout.paths:
                raise ConfigError(_nothing(file, archive, python))
            _write(archive, layout, into)
    except UnsafeArchiveError as error:
        raise UnsafeArchiveError(f"{file}: {error}", member=error.member) from error
    except PackFormatError as error:
        raise PackFormatError(f"{file}: {error}") from error
    return _warnings(file, archive, layout)


def _check_wheel(file: Path, *, python: str, arch: str, glibc: str) -> None:
    try:
        tags = parse_wheel_filename(file.name)[3]
    except InvalidWheelFilename as error:
        raise ConfigError(f"{file} has no wheel's name, NAME-VERSION-PYTHON-ABI-PLATFORM.whl: {error}.") from error
    if not fits(tags, python=python, arch=arch, glibc=glibc):
        raise ConfigError(
            f"{file.name} does not fit Python {python} on {arch} with glibc {glibc}. Get the wheel for the target, or "
            "choose another --python, --arch or --glibc."
        )


def _nothing(file: Path, archive: Archive, python: str) -> str:
    matches = (re.match(r"python/lib/python([\d.]+)/", member.name) for member in archive.members)
    found = sorted({match[1] for match in matches if match})
    if found:
        return f"{file} is a layer for Python {', '.join(found)}, and the pack is for {python}. Give that --python."
    return f"{file} holds nothing that can be imported: no file in it is one of site-packages."


def _write(archive: Archive, layout: Layout, into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    for member, chunks in archive.contents():
        paths = [into / path for path in layout.paths.get(member.name, ())]
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        if paths:
            _write_file(paths[0], chunks, 0o755 if member.executable else 0o644)
        for path in paths[1:]:
            shutil.copy(paths[0], path)


def _write_file(path: Path, chunks: Iterable[bytes], mode: int) -> None:
    with path.open("xb") as stream:
        stream.writelines(chunks)
    path.chmod(mode)


def _warnings(file: Path, archive: Archive, layout: Layout) -> list[str]:
    left = [member.name for member in archive.members if member.link is None and member.name not in layout.paths]
    if not left:
        return []
    some = ", ".join(left[:3]) + (", …" if len(left) > 3 else "")
    return [f"{len(left)} of the files in {file.name} do not belong in site-packages and were left out ({some})."]
