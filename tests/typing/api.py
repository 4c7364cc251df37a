"""The public API as its users' type checkers see it. Not run: `make lint` checks it."""

from __future__ import annotations

from types import ModuleType
from typing import assert_type

import lazydeps
from lazydeps.events import FrameTimes, PackReport, Phase, Stall

with lazydeps.load() as loading:
    assert_type(loading, lazydeps.Loading)
    assert_type(loading.refs, tuple[str, ...])
    loading.wait(complete=True)

lazydeps.load("s3://bucket/key#root=sha256:00", "file:///pack", directory="/tmp/x", timeout=3.5, environ={"A": "b"})


class Context:
    """As much of a handler's context as matters."""

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds that are left."""
        return 1


with lazydeps.deadline(Context()), lazydeps.deadline(2.5):
    pass
lazydeps.wait()
lazydeps.wait(complete=True)
lazydeps.uninstall()
assert_type(lazydeps.lazy("pandas"), ModuleType)
assert_type(lazydeps.__version__, str)

report = lazydeps.report()
assert_type(report, lazydeps.Report)
assert_type(report.packs, tuple[PackReport, ...])
assert_type(report.stalled, float)
assert_type(report.packs[0].hedges, int)
assert_type(report.packs[0].phases, tuple[Phase, ...])
assert_type(report.packs[0].frames, tuple[FrameTimes, ...])
assert_type(report.packs[0].stalls, tuple[Stall, ...])

try:
    pass
except lazydeps.PackMismatchError as mismatch:
    assert_type(mismatch.expected, str)
except lazydeps.InsufficientSpaceError as full:
    assert_type(full.needed, int)
except lazydeps.FetchError as refused:
    assert_type(refused.status, int | None)
except lazydeps.LazydepsError as error:
    assert_type(error.facts(), dict[str, object])
