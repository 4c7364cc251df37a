"""`lazydeps completion`: the script with which a shell completes the command's words."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(
    "completion",
    epilog="""\b
Examples:
  lazydeps completion bash > ~/.local/share/bash-completion/completions/lazydeps
  lazydeps completion zsh > ~/.zfunc/_lazydeps      # with fpath+=~/.zfunc before compinit in ~/.zshrc
  lazydeps completion fish > ~/.config/fish/completions/lazydeps.fish
  source <(lazydeps completion bash)                # this shell only""",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script that completes `lazydeps` in a shell.

    Write it where the shell looks for such scripts, and open a new shell. Commands, options, their values and files are
    completed; it asks the installed lazydeps each time, so it stays right after an update.
    """
    from lazydeps.build.cli import COMPLETE, cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "lazydeps", COMPLETE).source())
