"""What a start did, as records that people and programs can read.

Plain data: nothing here fetches, waits or logs. Every time is in seconds since `load` was called.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

REPORT_VERSION = 1
"""Rises when a key of `Report.as_dict` changes its meaning or goes away."""


class _Record:
    """Named values that do not change; equal when all of them are."""

    __slots__: tuple[str, ...] = ()

    def __init__(self, *values: Any) -> None:
        for name, value in zip(self.__slots__, values, strict=True):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is read-only")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Record) and type(self) is type(other) and self.as_dict() == other.as_dict()

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.as_dict().items())})"

    def as_dict(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {name: _plain(getattr(self, name)) for name in self.__slots__}


class Phase(_Record):
    """A named part of a start."""

    __slots__ = ("end", "name", "start")
    name: str
    start: float
    end: float

    def __init__(self, name: str, start: float, end: float) -> None:
        super().__init__(end, name, start)


class FrameTimes(_Record):
    """One frame's way into the store."""

    __slots__ = ("index", "landed", "packed", "received", "requested", "set", "unpacked")
    index: int
    """The frame's number in the pack."""
    set: str
    """``boot``, ``data`` or ``cold``."""
    packed: int
    unpacked: int
    """Bytes."""
    requested: float
    received: float
    landed: float

    def __init__(
        self, index: int, name: str, packed: int, unpacked: int, requested: float, received: float, landed: float
    ) -> None:
        super().__init__(index, landed, packed, received, requested, name, unpacked)


class Stall(_Record):
    """An import that had to wait for bytes."""

    __slots__ = ("at", "frame", "module", "seconds")
    module: str
    """The module, or ``(index)`` and the like where it was no module that waited."""
    at: float
    seconds: float
    """Without what was imported of the standard library meanwhile."""
    frame: int | None
    """The last frame it waited for."""

    def __init__(self, module: str, at: float, seconds: float, frame: int | None) -> None:
        super().__init__(at, frame, module, seconds)


class PackReport(_Record):
    """What one pack's start did in this process."""

    __slots__ = (
        "boot_bytes",
        "bytes_received",
        "cold_frames_fetched",
        "error",
        "frames",
        "frames_total",
        "hedges",
        "host",
        "landed",
        "phases",
        "ref",
        "requests",
        "retries",
        "stalls",
        "store",
        "store_reused",
        "takeovers",
    )
    ref: str
    """The reference, as pinned."""
    store: str
    """The store's folder."""
    host: str
    """Where the worker ran: ``fork``, ``threads``, or ``none`` where everything had landed before."""
    store_reused: bool
    """Whether this start found frames that an earlier one, or another process, had landed."""
    requests: int
    retries: int
    hedges: int
    """Requests sent a second time because the first byte was late."""
    bytes_received: int
    boot_bytes: int
    """Packed size of the boot set, with the root before it."""
    cold_frames_fetched: int
    """Cold frames that this process fetched because something was imported or read that no trace foresaw."""
    frames_total: dict[str, int]
    """Number of frames of each set in the pack."""
    landed: dict[str, int]
    """Number of frames of each set that stand in the store now."""
    takeovers: int
    """Workers that died and were replaced."""
    error: str | None
    """What the last worker failed with."""
    phases: tuple[Phase, ...]
    frames: tuple[FrameTimes, ...]
    stalls: tuple[Stall, ...]

    def __init__(self, **values: Any) -> None:
        super().__init__(*(values[name] for name in self.__slots__))


class Report(_Record):
    """What the start of this process did, over all its packs."""

    __slots__ = ("packs",)
    packs: tuple[PackReport, ...]

    def __init__(self, packs: Iterable[PackReport]) -> None:
        super().__init__(tuple(packs))

    @property
    def requests(self) -> int:
        """Requests sent, over all packs."""
        return sum(pack.requests for pack in self.packs)

    @property
    def bytes_received(self) -> int:
        """Bytes received, over all packs."""
        return sum(pack.bytes_received for pack in self.packs)

    @property
    def stalled(self) -> float:
        """Seconds that imports spent waiting, over all packs."""
        return sum(stall.seconds for pack in self.packs for stall in pack.stalls)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values, its version and totals included."""
        return {
            "report": REPORT_VERSION,
            "requests": self.requests,
            "bytes_received": self.bytes_received,
            "stalled": self.stalled,
            "packs": [pack.as_dict() for pack in self.packs],
        }


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    return value.as_dict() if isinstance(value, _Record) else value
