"""`lazydeps pack`: its options and words; `build/pack.py` does the work."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from lazydeps._ref import Ref
from lazydeps.build.cache import default_folder
from lazydeps.build.commands import FILE, FOLDER, PATH, NewFile, complete_files, output_options
from lazydeps.build.console import Advance, Console, mega
from lazydeps.build.options import DEFAULT_LEVEL, PackOptions, check_options
from lazydeps.build.pack import PackResult, build_pack
from lazydeps.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


@click.command(
    "pack",
    epilog="""\b
Examples:
  lazydeps pack numpy pandas -o data.tar.zst --python 3.13 --arch arm64
  lazydeps pack -r requirements-heavy.txt -o heavy.tar.zst --trace "import pandas, scipy.stats"
  lazydeps pack --from-dir build/python -o heavy.tar.zst --trace-script handler.py --save-trace trace.json""",
)
@click.argument("requirements", nargs=-1, shell_complete=complete_files)
@click.option(
    "-r", "--requirement", "requirement_files", type=FILE, multiple=True, help="A requirements file, or a pylock.toml."
)
@click.option("-c", "--constraint", "constraint_files", type=FILE, multiple=True, help="A file of versions to keep to.")
@click.option("--project", type=FOLDER, help="A folder with a pyproject.toml.")
@click.option("--group", "groups", multiple=True, metavar="NAME", help="A dependency group of the project.")
@click.option("--extra", "extras", multiple=True, metavar="NAME", help="Optional dependencies of the project.")
@click.option("--locked", is_flag=True, help="Take the versions of the project's uv.lock.")
@click.option("--wheels", type=FOLDER, help="A folder of wheels; all distributions in it, and no index.")
@click.option("--from-dir", type=FOLDER, help="Pack an installed site-packages folder instead of requirements.")
@click.option("--from-archive", type=FILE, help="Pack what a zip, a Lambda layer or a tar holds.")
@click.option("-o", "--out", type=NewFile(), required=True, help="The pack to write, NAME.tar.zst.")
@click.option("--python", help="Minor version of the target, 3.11 or later.  [default: the running one]")
@click.option("--arch", help="x86_64 or arm64.  [default: this machine's]")
@click.option("--glibc", help="Oldest C library to support.  [default: that of Lambda's image for the Python version]")
@click.option("--prune/--no-prune", default=True, help="Leave out what no running program reads.  [default: prune]")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Files to leave out besides.")
@click.option("--keep", multiple=True, metavar="PATTERN", help="Files that no rule leaves out.")
@click.option("--strip", is_flag=True, help="Take debug information out of libraries.")
@click.option(
    "--sources",
    type=click.Choice(["cold", "drop"]),
    default="cold",
    show_default=True,
    help="Keep the .py files for tracebacks, fetched when asked for, or drop them.",
)
@click.option(
    "-O",
    "--optimize",
    type=click.IntRange(0, 2),
    default=0,
    show_default=True,
    help="Compile as python -O (1) or -OO (2) would.",
)
@click.option(
    "--level",
    type=click.IntRange(1, 22),
    default=DEFAULT_LEVEL,
    show_default=True,
    help="zstd level: 19 packs smaller and takes much longer.",
)
@click.option(
    "--trace",
    "trace_statements",
    multiple=True,
    metavar="CODE",
    help="Statements to record, such as 'import numpy, pandas'.  [default: imports what is asked]",
)
@click.option("--trace-script", "trace_scripts", type=FILE, multiple=True, help="A program to record.")
@click.option(
    "--trace-handler", "trace_handlers", multiple=True, metavar="MODULE.FUNCTION", help="A Lambda handler to record."
)
@click.option("--event", "events", type=FILE, multiple=True, help="A JSON event to call the recorded handlers with.")
@click.option(
    "--trace-file", "trace_files", type=FILE, multiple=True, help="A trace that was saved before; nothing is run."
)
@click.option("--save-trace", type=NewFile(), help="Where to write the trace that was used.")
@click.option("-j", "--jobs", type=click.IntRange(min=1), help="Processes and threads at a time.  [default: all cores]")
@click.option(
    "--cache-dir", type=PATH, help="Where compiled and compressed pieces are kept.  [default: LAZYDEPS_CACHE]"
)
@click.option("--no-cache", is_flag=True, help="Make everything anew and keep nothing.")
@output_options
def command(console: Console, out: Path, cache_dir: Path | None, no_cache: bool, **options: Any) -> None:
    """Build a pack from REQUIREMENTS, ready to push.

    Installs with uv for the target, compiles bytecode, records in which order an import touches the files, and
    writes them in that order. Prints the reference that pins the pack.
    """
    from contextlib import ExitStack

    if no_cache and cache_dir is not None:
        raise click.UsageError("choose --cache-dir or --no-cache.", click.get_current_context())
    asked = PackOptions(out=out, cache=None if no_cache else cache_dir or default_folder(), **options)
    try:
        check_options(asked)
    except ConfigError as error:
        raise click.UsageError(str(error), click.get_current_context()) from error
    observer = _Steps(console)
    with ExitStack() as stack:
        stack.push(observer.close)
        result = build_pack(asked, observer=observer)
    for warning in result.warnings:
        console.warn(warning)
    facts = _pack_facts(result)
    if console.result(facts):
        return
    console.line(
        f"{out}: {mega(facts['size'])}, boot set {mega(facts['boot_size'])}, "
        f"for Python {facts['python']} on {facts['arch']}"
    )
    console.sets(facts["sets"])
    console.line("\n" + facts["ref"])
    console.line(f"\nNext: lazydeps push {out} s3://BUCKET/PREFIX/")


_WORDS = {
    "install": "Installing",
    "compile": "Compiling",
    "trace": "Recording",
    "write": "Compressing",
    "clean": "Removing",
}


class _Steps:
    """Shows a build's phases as the console's steps."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._step: Any = None
        self._advance: Advance

    def phase(self, name: str, detail: str) -> None:
        self.close()
        self._step = self._console.step(f"{_WORDS.get(name, name)} {detail}", unit="bytes" if name == "write" else "")
        self._advance = self._step.__enter__()

    def progress(self, done: int, total: int, item: str = "") -> None:
        self._advance(done, total, item)

    def close(self, *error: Any) -> None:
        step, self._step = self._step, None
        if step is not None:
            step.__exit__(*(error or (None, None, None)))


def _pack_facts(result: PackResult) -> dict[str, Any]:
    written, target = result.written, result.target
    root = bytes.fromhex(written.root.removeprefix("sha256:"))
    return {
        "path": str(written.path),
        "root": written.root,
        "ref": str(Ref(written.path.resolve().as_uri(), root)),
        "size": written.size,
        "boot_size": written.boot_size,
        "unpacked_size": written.unpacked_size,
        "files": written.files,
        "python": target.python,
        "arch": target.arch,
        "libc_version": target.libc_version,
        "distributions": result.distributions,
        "sets": {name: asdict(entry) for name, entry in written.sets.items()},
        "trace_entries": len(result.trace.order),
        "failed_imports": result.failed_imports,
        "without_bytecode": list(result.without_bytecode),
        "seconds": result.seconds,
        "cache": None if result.cache is None else asdict(result.cache),
        "warnings": list(result.warnings),
    }
