"""The ways to bring packages into a fresh process, each in a module of its own with its `CONTENDERS`."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.model import Contender

MODULES = (
    "local",
    "lazy",
    "plain_zip",
    "zappa",
    "serverless_requirements",
    "snaploader",
    "shiv",
    "uv_sync",
)
"""In the order of the tables."""


def known() -> dict[str, Contender]:
    """Return every contender by its name."""
    names = [f"{__name__}.{name}" for name in MODULES]
    modules = [importlib.import_module(name) for name in names if importlib.util.find_spec(name) is not None]
    return {contender.name: contender for module in modules for contender in module.CONTENDERS}
