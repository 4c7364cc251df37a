"""Write a zip file that is the same, byte for byte, on every machine: for layers and for functions' packages.

Members in the given order, fixed times and modes; the file appears under its name when it is whole.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
import zipfile
from typing import TYPE_CHECKING

from .epoch import EPOCH, source_date

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Moment = tuple[int, int, int, int, int, int]
"""Year, month, day, hour, minute, second; UTC."""
_LAST_TIME = 4354819198
"""2107-12-31 23:59:58, the last modification time that a zip file can hold."""


def moment() -> Moment:
    """Return the modification time of every file, from ``SOURCE_DATE_EPOCH``, within what a zip file can hold.

    Raises:
        ConfigError: the variable is no such time.
    """
    return time.gmtime(max(source_date(_LAST_TIME) or EPOCH, EPOCH))[:6]


def write_zip(out: Path, tree: Path, files: Sequence[str], *, moment: Moment, prefix: str = "") -> tuple[int, bytes]:
    """Write files of a tree.

    Args:
        out: the zip file, absolute; replaced if it exists.
        tree: the folder.
        files: posix paths relative to it, in the order of the zip file.
        moment: every file's modification time.
        prefix: what stands before each path, ``""`` or ``FOLDER/``.

    Returns:
        The zip file's size, bytes, and its SHA-256, raw.
    """
    part = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        with zipfile.ZipFile(part, "w") as archive:
            for path in files:
                mode = 0o755 if (tree / path).stat().st_mode & 0o100 else 0o644
                member = zipfile.ZipInfo(prefix + path, moment)
                member.create_system = 3  # Unix, whose modes Lambda heeds, on whatever system this runs
                member.external_attr = (stat.S_IFREG | mode) << 16
                archive.writestr(member, (tree / path).read_bytes(), zipfile.ZIP_DEFLATED, 9)
        content = part.read_bytes()
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)
    return len(content), hashlib.sha256(content).digest()
