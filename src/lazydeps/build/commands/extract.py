"""`lazydeps extract`: its options and words; `build/read.py` does the work."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from lazydeps.build import read
from lazydeps.build.commands import PATH, complete_files, output_options
from lazydeps.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from lazydeps.build.console import Console


@click.command(
    "extract",
    short_help="Write every file of PACK into a folder.",
    epilog="""\b
Examples:
  lazydeps extract data.tar.zst -o site-packages
  PYTHONPATH=site-packages python3.13 -c 'import pandas'""",
)
@click.argument("pack", metavar="PACK", shell_complete=complete_files)
@click.option("-o", "--out", type=PATH, required=True, help="A new or empty folder.")
@output_options
def command(console: Console, pack: str, out: Path) -> None:
    """Write every file of PACK, a path or a reference, into a folder that plain Python imports from."""
    ref = read.as_ref(pack)
    if ref.root is None and not ref.url.startswith("file:") and os.environ.get("LAZYDEPS_ALLOW_UNPINNED") != "1":
        raise ConfigError(
            f"{ref.shown} is not pinned. Use the reference that `lazydeps inspect` prints, "
            "or set LAZYDEPS_ALLOW_UNPINNED=1."
        )
    with console.step(f"Extracting {ref.shown}", unit="bytes") as advance, read.open_pack(ref) as opened:
        files = read.extract(opened, out, on_progress=advance)
        facts = {"ref": opened.ref.shown, "path": str(out.absolute()), "files": files}
    if not console.result(facts):
        console.line(f"{files:,} files in {out}")
