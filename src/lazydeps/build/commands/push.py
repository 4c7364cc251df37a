"""`lazydeps push`: its options and words; `build/push.py` does the work."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from lazydeps.build.commands import FILE, output_options
from lazydeps.build.console import Console, mega

if TYPE_CHECKING:
    from pathlib import Path


@click.command(
    "push",
    epilog="""\b
Examples:
  lazydeps push data.tar.zst s3://my-bucket/packs/
  lazydeps push data.tar.zst s3://my-bucket/packs/ --json | jq -r .ref""",
)
@click.argument("pack", type=FILE)
@click.argument("destination", metavar="s3://BUCKET/PREFIX/")
@output_options
def command(console: Console, pack: Path, destination: str) -> None:
    """Upload PACK under a name that follows from its content.

    An object that is there is never replaced, and an equal one is not sent again. Prints the pinned reference.
    """
    from lazydeps.build.push import push as upload

    with console.step(f"Pushing {pack.name} to {destination}", unit="bytes") as advance:
        done = upload(pack, destination, on_progress=advance)
    if console.result(asdict(done)):
        return
    console.line(
        f"{'Sent' if done.sent else 'Already there'}: s3://{done.bucket}/{done.key} "
        f"({mega(done.size)}, SHA-256 verified)"
    )
    console.line("\n" + done.ref)
    console.line(
        "\nNext: set LAZYDEPS_PACK to this reference in the function's environment, and allow its role s3:GetObject on"
    )
    console.line(f"arn:aws:s3:::{done.bucket}/{done.key}")
