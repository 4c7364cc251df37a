"""What the command line says: progress and tables for people, JSON for programs.

Progress and errors go to standard error, results to standard output. Colours and bars appear only on a terminal.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from types import TracebackType

Unit = Literal["", "bytes"]
ROOM_FOR_BAR = 70
"""Columns of a terminal from which a step shows a bar."""
ROOM_FOR_ITEM = 100
"""Columns from which it also says what it is working on."""


class Advance(Protocol):
    """Takes (done, total) of the running step, and what it works on; a total of 0 is one that nobody knows."""

    def __call__(self, done: int, total: int, item: str = "") -> None:
        """Move the bar."""


class Console:
    """One command's output."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        """Say how.

        Args:
            as_json: one JSON object on standard output and nothing else there.
            quiet: no progress.
        """
        self.as_json = as_json
        self._quiet = quiet
        self._out = RichConsole(highlight=False, soft_wrap=True)
        self._err = RichConsole(stderr=True, highlight=False, soft_wrap=True)
        # Not rich's `is_terminal`: FORCE_COLOR makes it true in a pipe, where colours are wanted and nothing may move.
        self._moves = sys.stderr.isatty() and not self._err.is_dumb_terminal

    @contextmanager
    def step(self, words: str, *, unit: Unit = "") -> Iterator[Advance]:
        """Show a step that takes time; yields a function that moves its bar.

        On a terminal one line moves and is replaced by a tick and the seconds; elsewhere there is a line at the
        beginning and one at the end.

        Args:
            words: what is being done.
            unit: what done and total count; bytes are shown with their rate.
        """
        if self._quiet:
            yield _ignore
            return
        began = time.monotonic()
        if not self._moves:
            self._err.print(f"{words} …", markup=False)
            yield _ignore
            self._err.print(f"{words}: done in {_seconds(began)}", markup=False)
            return
        width = self._err.width
        columns: list[ProgressColumn] = [
            SpinnerColumn("dots" if self._err.encoding.startswith("utf") else "line"),
            TextColumn("{task.description}", markup=False, table_column=_cut(min(len(words), max(8, width // 3)))),
        ]
        if width >= ROOM_FOR_BAR:
            columns.append(BarColumn(bar_width=width // 6))
        columns += [_Figures(unit), TimeElapsedColumn()]
        if width >= ROOM_FOR_ITEM:
            columns.append(TextColumn("{task.fields[item]}", markup=False, style="dim", table_column=_cut(width // 4)))
        with Progress(*columns, console=self._err, transient=True) as progress:
            task = progress.add_task(words, total=None, item="")

            def advance(done: int, total: int, item: str = "") -> None:
                progress.update(task, completed=done, total=total or None, item=item)

            yield advance
        done = Text.assemble(("✓ ", "green"), words, (f"  {_seconds(began)}", "dim"))
        self._err.print(done, no_wrap=True, overflow="ellipsis", crop=True, soft_wrap=False)

    def note(self, words: str) -> None:
        """Say something that is worth knowing, on standard error."""
        if not self._quiet:
            self._err.print(words, markup=False)

    def warn(self, words: str) -> None:
        """Warn, on standard error, even when quiet."""
        self._err.print(f"lazydeps: warning: {words}", markup=False, style="yellow")

    def fail(self, kind: str, words: str, facts: Mapping[str, Any] | None = None) -> None:
        """Report the error that ends the command."""
        if self.as_json:
            json.dump({"error": {"type": kind, "message": words, **(facts or {})}}, sys.stdout, indent=2, default=str)
            sys.stdout.write("\n")
        self._err.print(f"lazydeps: {kind}: {words}", markup=False, style="red")

    def result(self, facts: Mapping[str, Any]) -> bool:
        """Print the result as JSON if that was asked for; returns whether it was."""
        if self.as_json:
            json.dump(facts, sys.stdout, indent=2, default=str)
            sys.stdout.write("\n")
        return self.as_json

    def line(self, words: str = "") -> None:
        """Print a line of the result."""
        self._out.print(words, markup=False)

    def sets(self, sets: Mapping[str, Mapping[str, int]]) -> None:
        """Print the table of a pack's sets."""
        table = Table(box=None, pad_edge=False)
        table.add_column("")
        for name in ("files", "packed", "unpacked"):
            table.add_column(name, justify="right")
        for name, entry in sets.items():
            table.add_row(name, f"{entry['files']:,}", mega(entry["packed"]), mega(entry["unpacked"]))
        total = {key: sum(entry[key] for entry in sets.values()) for key in ("files", "packed", "unpacked")}
        table.add_row("total", f"{total['files']:,}", mega(total["packed"]), mega(total["unpacked"]), style="bold")
        self._out.print(table)

    def saved(self, distributions: Mapping[str, Mapping[str, int]], rules: Mapping[str, Mapping[str, int]]) -> None:
        """Print what was left out: by distribution, the most first, and by rule."""
        table = Table(box=None, pad_edge=False)
        table.add_column("left out")
        for name in ("files", "bytes"):
            table.add_column(name, justify="right")
        for name, entry in distributions.items():
            table.add_row(name, f"{entry['files']:,}", mega(entry["bytes"]))
        total = {key: sum(entry[key] for entry in distributions.values()) for key in ("files", "bytes")}
        table.add_row("total", f"{total['files']:,}", mega(total["bytes"]), style="bold")
        self._out.print(table)
        self.line("by rule: " + ", ".join(f"{name} {mega(entry['bytes'])}" for name, entry in rules.items()))


class Phases:
    """Shows the phases of a build (`pack.PackObserver`) as the console's steps, while it is entered."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._step: AbstractContextManager[Advance] | None = None
        self._advance: Advance = _ignore

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        step, self._step = self._step, None
        if step is not None:
            step.__exit__(kind, error, trace)

    def phase(self, name: str, detail: str) -> None:
        """End the step that is shown, and show the next."""
        self.__exit__(None, None, None)
        step = self._console.step(f"{_PHASES.get(name, name)} {detail}", unit="bytes" if name == "write" else "")
        self._advance = step.__enter__()
        self._step = step

    def progress(self, done: int, total: int, item: str = "") -> None:
        """Move the step's bar."""
        self._advance(done, total, item)


_PHASES = {
    "install": "Installing",
    "compile": "Compiling",
    "trace": "Recording",
    "write": "Compressing",
    "clean": "Removing",
}


class _Figures(ProgressColumn):
    """How much of a step is done: ``12.3/46.0 MB  3.1 MB/s``, or ``1,200/4,900``."""

    def __init__(self, unit: Unit) -> None:
        super().__init__(_cut(None))
        self._unit = unit

    def render(self, task: Task) -> Text:
        if not task.total:
            return Text()
        if self._unit != "bytes":
            return Text(f"{int(task.completed):,}/{int(task.total):,}")
        text = f"{task.completed / 1e6:,.1f}/{mega(int(task.total))}"
        return Text(text + (f"  {mega(int(task.speed))}/s" if task.speed else ""))


def _cut(width: int | None) -> Column:
    """Return a column of one line, that loses its end where the terminal is too narrow."""
    return Column(no_wrap=True, overflow="ellipsis", max_width=width)


def _seconds(began: float) -> str:
    return f"{time.monotonic() - began:.1f} s"


def _ignore(done: int, total: int, item: str = "") -> None:
    """Take progress that nobody watches."""


def mega(count: int) -> str:
    """Spell a number of bytes in MB (10^6), as AWS counts downloads."""
    return f"{count / 1e6:,.1f} MB"
