"""What the command line says: progress and tables for people, JSON for programs.

Progress and errors go to standard error, results to standard output. Colours and bars appear only on a terminal.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Advance(Protocol):
    """Takes (done, total) of the running step."""

    def __call__(self, done: int, total: int) -> None:
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

    @contextmanager
    def step(self, words: str, *, of_bytes: bool = False) -> Iterator[Advance]:
        """Show a step that takes time; yields a function that moves its bar.

        Args:
            words: what is done.
            of_bytes: whether (done, total) are bytes that travel, shown as such and with their rate.
        """
        if self._quiet:
            yield _ignore
            return
        if not self._err.is_terminal:
            self._err.print(f"{words} …", markup=False)
            yield _ignore
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            *((DownloadColumn(), TransferSpeedColumn()) if of_bytes else ()),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._err, transient=True) as progress:
            task = progress.add_task(words, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)
        self._err.print(f"[green]✓[/green] {words}")

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


def _ignore(done: int, total: int) -> None:
    """Take progress that nobody watches."""


def mega(count: int) -> str:
    """Spell a number of bytes in MB (10^6), as AWS counts downloads."""
    return f"{count / 1e6:,.1f} MB"
