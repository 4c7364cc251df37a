"""`lazydeps run`: start any Python program in a fresh interpreter with packs loaded, and clean up behind it.

This is the parent's half; `run_program` is what the fresh interpreter runs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Kind = Literal["script", "module", "code"]


def run(
    kind: Kind,
    program: str,
    args: Sequence[str],
    *,
    refs: Sequence[str],
    directory: Path | None,
    timeout: float | None = None,
    environ: Mapping[str, str] = os.environ,
) -> tuple[int, dict[str, Any] | None]:
    """Run a program with packs loaded.

    Args:
        kind: whether ``program`` is a script's path, a module's name or code.
        program: what to run.
        args: its arguments.
        refs: references of the packs.
        directory: the store. None: a new, empty one that is removed afterwards.
        timeout: seconds that loading may take.
        environ: the program's environment.

    Returns:
        The exit code (128 + the signal's number where one ended it) and the start's report, if it got that far.
    """
    scratch = Path(tempfile.mkdtemp(prefix="lazydeps-run-"))
    try:
        report = scratch / "report.json"
        environ = {
            **environ,
            "LAZYDEPS_PACK": " ".join(refs),
            "LAZYDEPS_DIR": str((directory or scratch / "store").absolute()),
            "LAZYDEPS_ALLOW_UNPINNED": environ.get("LAZYDEPS_ALLOW_UNPINNED", ""),
        }
        if timeout is not None:
            environ["LAZYDEPS_TIMEOUT"] = str(timeout)
        command = [sys.executable, "-m", "lazydeps.build.run_program", str(report), kind, program, *args]
        child = subprocess.Popen(command, env=environ)
        with _passed_on(child, signal.SIGTERM, signal.SIGHUP):
            while True:
                try:
                    code = child.wait()
                    break
                except KeyboardInterrupt:
                    continue  # the program got it too, and decides when to end
        return (128 - code if code < 0 else code), json.loads(report.read_text()) if report.exists() else None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _passed_on(child: subprocess.Popen[bytes], *signals: signal.Signals) -> Iterator[None]:
    """Pass signals that would end this process on to the program: its end is ours, and the store is removed."""
    before = {number: signal.signal(number, lambda got, _: child.send_signal(got)) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
