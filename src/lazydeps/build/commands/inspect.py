"""`lazydeps inspect`: its options and words; `build/read.py` does the work."""

from __future__ import annotations

import click

from lazydeps.build import read
from lazydeps.build.commands import complete_files, output_options
from lazydeps.build.console import Console, mega


@click.command(
    "inspect",
    short_help="Say what is in PACK, without fetching its frames.",
    epilog="""\b
Examples:
  lazydeps inspect data.tar.zst
  lazydeps inspect s3://my-bucket/packs/0f…e2.tar.zst --files""",
)
@click.argument("pack", metavar="PACK", shell_complete=complete_files)
@click.option("--files", is_flag=True, help="List every file with its set.")
@output_options
def command(console: Console, pack: str, files: bool) -> None:
    """Say what is in PACK, a path or a reference, without fetching its frames."""
    with read.open_pack(read.as_ref(pack)) as opened:
        facts = read.describe(opened, files=files)
    if console.result(facts):
        return
    libc = f", {facts['libc']} {facts['libc_version']} or newer" if facts["libc_version"] else ""
    console.line(f"Python {facts['python']} on {facts['os']} {facts['arch']}{libc}; format {facts['format']}")
    console.line(f"{mega(facts['size'])}, {mega(facts['unpacked_size'])} unpacked, boot set {mega(facts['boot_size'])}")
    console.sets(facts["sets"])
    console.line("\n" + "\n".join(f"{name} {version}" for name, version in facts["distributions"].items()))
    for entry in facts.get("contents", ()):
        console.line(f"{entry['set']:4} {entry['size']:>11,} {entry['path']}")
    console.line("\n" + facts["ref"])
