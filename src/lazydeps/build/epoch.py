"""The time that builds are dated with: ``SOURCE_DATE_EPOCH``, read in one way everywhere."""

from __future__ import annotations

import os
import time

from lazydeps.errors import ConfigError

EPOCH = 315532800
"""1980-01-01, the first time that a zip file can hold: what is dated with no time of its own."""
LAST = 0o77777777777
"""2242-03-16, the last second that the header of a tar member can hold."""


def source_date(last: int = LAST) -> int | None:
    """Return ``SOURCE_DATE_EPOCH``, seconds since 1970; None where it is unset or empty.

    Args:
        last: the last moment that what is written can hold.

    Raises:
        ConfigError: it is no such time.
    """
    wanted = os.environ.get("SOURCE_DATE_EPOCH")
    if not wanted:
        return None
    if not (wanted.isascii() and wanted.isdecimal()) or len(wanted) > len(str(last)) or int(wanted) > last:
        raise ConfigError(
            f"SOURCE_DATE_EPOCH is {wanted!r}: expected whole seconds since 1970 up to {last}, or nothing."
        )
    return int(wanted)


def spelled(moment: float) -> str:
    """Return a time as the lock file and the metadata of packs have it, ``2026-11-21T18:00:00Z``."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
