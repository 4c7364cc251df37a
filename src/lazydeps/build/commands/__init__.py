"""The subcommands of `lazydeps`, one a file, and the options that they share.

Each file's ``command`` is the click command of the file's name. `build/cli.py` imports a file when its command is run.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from lazydeps.build.console import Console
from lazydeps.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

PATH = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
LOCK = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


class NewFile(click.Path):
    """A file to write, in a folder that is there: found out now, and not when minutes of work are done."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, if its folder is there."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not path.absolute().parent.is_dir():
            self.fail(f"there is no folder {path.absolute().parent} to write {path.name} into.", param, ctx)
        return path


def parsed(parse: Callable[[str], Any]) -> Callable[..., Any]:
    """Return an option's callback that takes what a function makes of its text, and its ConfigError for wrong usage."""

    def convert(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
        try:
            return None if value is None else parse(value)
        except ConfigError as error:
            raise click.BadParameter(str(error), ctx, param) from error

    return convert


def parse_age(text: str) -> float:
    """Return the seconds of an age such as ``30d``."""
    from lazydeps.build import stores

    return stores.parse_age(text)


def record_options(*, default: str = "") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the options that say which program shows what is imported; ``default`` tells what is done without them."""
    otherwise = f"  [default: {default}]" if default else ""
    options = (
        click.option(
            "--trace",
            "trace_statements",
            multiple=True,
            metavar="CODE",
            help=f"Statements to record, such as 'import numpy, pandas'.{otherwise}",
        ),
        click.option("--trace-script", "trace_scripts", type=FILE, multiple=True, help="A program to record."),
        click.option(
            "--trace-handler",
            "trace_handlers",
            multiple=True,
            metavar="MODULE.FUNCTION",
            help="A Lambda handler to record.",
        ),
        click.option(
            "--event", "events", type=FILE, multiple=True, help="A JSON event to call the recorded handlers with."
        ),
        click.option(
            "--trace-env",
            multiple=True,
            metavar="NAME[=VALUE]",
            help="An environment variable for the recorded program, which gets no others; without a value, the one set "
            "here.",
        ),
    )

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def lock_option(words: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add ``--lock``: by default the configured project's lock file, outside of one ``lazydeps.lock`` here."""
    return click.option(
        "--lock", type=LOCK, callback=_project_lock, help=f"{words}  [default: the project's, lazydeps.lock]"
    )


def _project_lock(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path:
    del ctx, param
    if value is not None:
        return value
    from lazydeps import _lockfile
    from lazydeps.build.project import find_project

    project = find_project(Path.cwd())
    return Path(_lockfile.NAME) if project is None else shown(project.lock)


def default_destination() -> str | None:
    """Return where the configured project pushes to; None outside one."""
    from lazydeps.build.project import find_project

    project = find_project(Path.cwd())
    return None if project is None else project.destination


def shown(path: Path) -> Path:
    """Return a path as somebody in this folder would call it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def complete_files(ctx: click.Context, param: click.Parameter | None, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete files where a word may be a path, and need not be."""
    del ctx, param
    return [CompletionItem(incomplete, type="file")]


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--json`` and ``--quiet``, and hand the command a `Console` made of them."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
    @click.option("-q", "--quiet", is_flag=True, help="No progress.")
    @functools.wraps(command)
    def wrapped(*args: Any, as_json: bool, quiet: bool, **options: Any) -> Any:
        console = Console(as_json=as_json, quiet=quiet or as_json)
        click.get_current_context().meta["console"] = console
        return command(console, *args, **options)

    return wrapped
