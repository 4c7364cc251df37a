"""The `lazydeps` command: finds the subcommand, and turns every error into words and an exit code.

Exit codes: 0, 1 failure, 2 usage, 130 interrupted (by SIGHUP 129, by SIGTERM 143); `lazydeps run` passes the
program's own on.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING

import click

import lazydeps
from lazydeps.build.console import Console
from lazydeps.build.interrupts import Interrupted, ignore, raised_once
from lazydeps.errors import LazydepsError

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "plan": "Propose what goes into a pack, and whether it all fits.",
    "pack": "Build packs from requirements, a project or an archive.",
    "trace": "Merge, show and compare what imports touch.",
    "push": "Upload packs to S3, and pin them by name.",
    "package": "Build the function's zip file.",
    "doctor": "Find problems before they cost anything.",
    "list": "Show the packs in a bucket.",
    "diff": "Show what differs between two packs.",
    "rollback": "Pin again what a name meant before.",
    "prune": "Remove old packs from a bucket.",
    "inspect": "Say what is in a pack, and its reference.",
    "verify": "Check every frame of a pack.",
    "extract": "Write a pack as a plain folder.",
    "run": "Run any Python program with packs loaded.",
    "lock": "Pin an archive that is not a pack.",
    "layer": "Write a Lambda layer with the runtime.",
    "cache": "Look at what builds keep, and remove it.",
    "gc": "Remove stores on this machine that nobody uses.",
    "completion": "Print the script that completes this in a shell.",
}
"""In the order in which the help lists them, with its words. Each is a file of `build/commands`."""


COMPLETE = "_LAZYDEPS_COMPLETE"
"""The variable with which the script of `lazydeps completion` asks how a line goes on."""


class _Commands(click.Group):
    """Imports a subcommand's file when it is asked for: some need boto3, which takes longer than the rest together."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"lazydeps.build.commands.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start here: lazydeps pack numpy pandas -o data.tar.zst && lazydeps push data.tar.zst s3://BUCKET/packs/",
)
@click.version_option(lazydeps.__version__, prog_name="lazydeps")
def cli() -> None:
    """Heavy Python dependencies for small AWS Lambda functions.

    Pack them once, push the pack to S3, and import from it while it downloads.
    """


def run_cli(args: Sequence[str]) -> int:
    """Run the command line and return its exit code."""
    if asked := os.environ.get(COMPLETE):
        from click.shell_completion import shell_complete

        return shell_complete(cli, {}, "lazydeps", COMPLETE, asked)
    context: click.Context | None = None
    console = Console(as_json="--json" in args and args[0] != "run")
    try:
        # `run` passes signals on to the program.
        signals = nullcontext() if args[:1] == ["run"] else raised_once()
        with signals, cli.make_context("lazydeps", list(args)) as context:
            result = cli.invoke(context)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except LazydepsError as error:
        console.fail(type(error).__name__, str(error), error.facts())
        return 1
    except (KeyboardInterrupt, click.Abort) as error:
        ignore()
        with suppress(OSError):  # SIGHUP: the terminal is gone
            console.fail("Interrupted", "nothing half-done was left behind.")
        return error.exit_code if isinstance(error, Interrupted) else 128 + signal.SIGINT
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        console.fail("OSError", f"{error}.")
        return 1
