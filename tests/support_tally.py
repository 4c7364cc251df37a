"""Counts of the faults that tests have survived, for the line that closes a run."""

from __future__ import annotations

import threading
from collections import Counter

_counts: Counter[str] = Counter()
_lock = threading.Lock()


def survived(what: str, count: int = 1) -> None:
    """Count a fault after which everything was as promised. From any thread."""
    with _lock:
        _counts[what] += count


def lines() -> list[str]:
    """Return one line for each kind of fault, and how often."""
    return [f"{count:6} {what}" for what, count in sorted(_counts.items())]
