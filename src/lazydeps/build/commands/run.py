"""`lazydeps run`: its options and words, and the report for people; `build/run.py` does the work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lazydeps._ref import Ref
from lazydeps.build import read
from lazydeps.build.commands import PATH, NewFile, complete_files
from lazydeps.build.console import Console, mega

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class _ProgramCommand(click.Command):
    """A command whose own options end where the program's words begin, as `python`'s do."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own, at = [], 0
        takes_value = {name for option in self.params for name in option.opts if not getattr(option, "is_flag", False)}
        while at < len(args) and args[at].startswith("-") and args[at] not in ("-c", "-m", "-"):
            width = 2 if args[at] in takes_value else 1
            if args[at] == "--":
                at += 1
                break
            own += args[at : at + width]
            at += width
        ctx.meta["program"] = args[at:]
        return super().parse_args(ctx, own)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        own = [] if ctx.meta.get("program") else super().shell_complete(ctx, incomplete)
        return own or complete_files(ctx, None, incomplete)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "(SCRIPT | -m MODULE | -c CODE) [ARGS]..."]


@click.command(
    "run",
    cls=_ProgramCommand,
    epilog="""\b
Examples:
  lazydeps run --pack data.tar.zst -c 'import pandas; print(pandas.__version__)'
  lazydeps run --pack "$LAZYDEPS_PACK" --report handler_smoke_test.py --verbose
  lazydeps run --pack data.tar.zst --dir /tmp/store -m pytest tests""",
)
@click.option(
    "--pack",
    "packs",
    multiple=True,
    required=True,
    metavar="REF",
    shell_complete=complete_files,
    help="A pack: a reference, or a path. May be given again.",
)
@click.option("--dir", "directory", type=PATH, help="The store.  [default: a new one, removed afterwards]")
@click.option("--timeout", type=float, metavar="SECONDS", help="How long loading may take.")
@click.option("--report", is_flag=True, help="Print what the start did, on standard error.")
@click.option("--report-json", type=NewFile(), metavar="FILE", help="Write what the start did to a file.")
def command(
    packs: tuple[str, ...], directory: Path | None, timeout: float | None, report: bool, report_json: Path | None
) -> int:
    """Run any Python program with packs loaded, from an empty store.

    The program runs in a fresh interpreter of this version once the boot and data sets are in place. Its exit code
    is this command's.
    """
    from lazydeps.build.run import Kind
    from lazydeps.build.run import run as run_program

    context = click.get_current_context()
    words: list[str] = context.meta["program"]
    kind: Kind = "script"
    if words and words[0] in ("-c", "-m"):
        kind = "code" if words[0] == "-c" else "module"
        words = words[1:]
    if not words:
        raise click.UsageError("nothing to run: give a SCRIPT, -m MODULE or -c CODE.", context)
    if kind == "script" and not Path(words[0]).exists():
        raise click.UsageError(f"there is no program {words[0]} to run.", context)
    refs = [str(_pinned(read.as_ref(text))) for text in packs]
    code, facts = run_program(kind, words[0], words[1:], refs=refs, directory=directory, timeout=timeout)
    if facts is not None and report:
        _print_report(facts)
    if facts is not None and report_json is not None:
        report_json.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return code


def _pinned(ref: Ref) -> Ref:
    """Pin a file on this disk, which the caller has just named, to what it holds now."""
    if ref.is_archive and ref.sha256 is None and ref.url.startswith("file:"):
        from lazydeps.build.pin import pin

        return Ref(ref.url, sha256=Ref.parse(pin(ref).ref).sha256)
    if ref.is_archive:
        return ref
    if ref.root is None and ref.url.startswith("file:"):
        with read.open_pack(ref) as opened:
            return opened.ref
    return ref


def _print_report(facts: dict[str, Any]) -> None:
    console = Console()
    for pack in facts["packs"]:
        landed, total = pack["landed"], pack["frames_total"]
        console.note(f"pack     {pack['ref']}")
        console.note(
            f"worker   {pack['host']}, {pack['requests']} requests, {mega(pack['bytes_received'])}, "
            f"{pack['retries']} retries" + (", found frames in the store" if pack["store_reused"] else "")
        )
        console.note("frames   " + ", ".join(f"{name} {landed[name]} of {total[name]}" for name in landed))
        console.note(f"         cold frames fetched on demand: {pack['cold_frames_fetched']}")
        for phase in pack["phases"]:
            console.note(f"phase    {phase['start']:7.3f} s  {phase['end'] - phase['start']:7.3f} s  {phase['name']}")
        for stall in pack["stalls"]:
            console.note(f"stall    {stall['at']:7.3f} s  {stall['seconds']:7.3f} s  {stall['module']}")
