"""`lazydeps verify`: its options and words; `build/read.py` does the work."""

from __future__ import annotations

import click

from lazydeps.build import read
from lazydeps.build.commands import complete_files, output_options
from lazydeps.build.console import Console, mega


@click.command(
    "verify",
    short_help="Check every frame of PACK against its root.",
    epilog="""\b
Examples:
  lazydeps verify data.tar.zst
  lazydeps verify "s3://my-bucket/packs/0f…e2.tar.zst#root=sha256:0f…e2\"""",
)
@click.argument("pack", metavar="PACK", shell_complete=complete_files)
@output_options
def command(console: Console, pack: str) -> None:
    """Check every frame of PACK, a path or a reference, against its root.

    Without a pin this finds damage, not a pack that somebody replaced whole.
    """
    ref = read.as_ref(pack)
    with console.step(f"Verifying {ref.shown}", unit="bytes") as advance, read.open_pack(ref) as opened:
        frames = read.verify(opened, on_progress=advance)
        size = opened.size
        facts = {"ref": opened.ref.shown, "pinned": ref.root is not None, "frames": frames, "size": size}
    if console.result(facts):
        return
    console.line(f"All {frames} frames are what the root promises ({mega(size)}).")
    if ref.root is None:
        console.line(f"The reference was not pinned. The root that stands there: {facts['ref']}")
