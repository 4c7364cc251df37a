"""Heavy dependencies for functions that are too small to carry them.

    import lazydeps

    with lazydeps.load():  # LAZYDEPS_PACK names the pack
        import pandas as pd

Importing this package has no side effects: no network, no threads, no files.
"""

from __future__ import annotations

from ._deadline import deadline
from ._runtime import Loading, lazy, load, report, uninstall, wait
from .errors import (
    ConfigError,
    FetchError,
    InsufficientSpaceError,
    IntegrityError,
    LazydepsError,
    PackedModuleNotFoundError,
    PackFormatError,
    PackMismatchError,
    UnsafeArchiveError,
)
from .events import Report

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "FetchError",
    "InsufficientSpaceError",
    "IntegrityError",
    "LazydepsError",
    "Loading",
    "PackFormatError",
    "PackMismatchError",
    "PackedModuleNotFoundError",
    "Report",
    "UnsafeArchiveError",
    "__version__",
    "deadline",
    "lazy",
    "load",
    "report",
    "uninstall",
    "wait",
]


def __dir__() -> list[str]:
    return __all__
