"""`lazydeps plan`."""

from __future__ import annotations

import click


@click.command("plan")
def command() -> None:
    """Plan."""
