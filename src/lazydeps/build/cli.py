"""The `lazydeps` command: options and words. The work is done by the modules beside it.

Exit codes: 0, 1 failure, 2 usage, 130 interrupted; `lazydeps run` passes the program's own on.
"""

from __future__ import annotations

import functools
import json
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import lazydeps
from lazydeps._ref import Ref
from lazydeps.build import read
from lazydeps.build.console import Advance, Console, mega
from lazydeps.build.pack import DEFAULT_LEVEL, PackOptions, PackResult, build_pack, check_options
from lazydeps.errors import ConfigError, LazydepsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lazydeps.build.stores import Removal

PATH = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


class _NewFile(click.Path):
    """A file to write, in a folder that is there: found out now, and not when minutes of work are done."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not path.absolute().parent.is_dir():
            self.fail(f"there is no folder {path.absolute().parent} to write {path.name} into.", param, ctx)
        return path


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


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start here: lazydeps pack numpy pandas -o data.tar.zst && lazydeps push data.tar.zst s3://BUCKET/packs/",
)
@click.version_option(lazydeps.__version__, prog_name="lazydeps")
def cli() -> None:
    """Heavy Python dependencies for small AWS Lambda functions.

    Pack them once, push the pack to S3, and import from it while it downloads.
    """


@cli.command(
    epilog="""\b
Examples:
  lazydeps pack numpy pandas -o data.tar.zst --python 3.13 --arch arm64
  lazydeps pack -r requirements-heavy.txt -o heavy.tar.zst --trace "import pandas, scipy.stats"
  lazydeps pack --from-dir build/python -o heavy.tar.zst --trace-script handler.py --save-trace trace.json"""
)
@click.argument("requirements", nargs=-1)
@click.option(
    "-r",
    "--requirement",
    "requirement_files",
    type=FILE,
    multiple=True,
    help="A requirements file. May be given again.",
)
@click.option("--from-dir", type=FOLDER, help="Pack an installed site-packages folder instead of requirements.")
@click.option("-o", "--out", type=_NewFile(), required=True, help="The pack to write, NAME.tar.zst.")
@click.option("--python", help="Minor version of the target, 3.11 or later.  [default: the running one]")
@click.option("--arch", help="x86_64 or arm64.  [default: this machine's]")
@click.option("--glibc", help="Oldest C library to support.  [default: that of Lambda's image for the Python version]")
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
    help="Statements to record, such as 'import numpy, pandas'. May be given again.  [default: imports what is asked]",
)
@click.option("--trace-script", type=FILE, help="A program to record.")
@click.option("--trace-file", type=FILE, help="A trace that was saved before; nothing is run.")
@click.option("--save-trace", type=_NewFile(), help="Where to write the trace that was used.")
@click.option("-j", "--jobs", type=click.IntRange(min=1), help="Processes and threads at a time.  [default: all cores]")
@output_options
def pack(console: Console, out: Path, **options: Any) -> None:
    """Build a pack from REQUIREMENTS, ready to push.

    Installs with uv for the target, compiles bytecode, records in which order an import touches the files, and
    writes them in that order. Prints the reference that pins the pack.
    """
    from contextlib import ExitStack

    options["requirement_files"] = tuple(options["requirement_files"])
    asked = PackOptions(out=out, **options)
    try:
        check_options(asked)
    except ConfigError as error:
        raise click.UsageError(str(error), click.get_current_context()) from error
    observer = _Steps(console)
    with ExitStack() as stack:
        stack.callback(observer.close)
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


_WORDS = {"install": "Installing", "compile": "Compiling", "trace": "Recording", "write": "Compressing"}


class _Steps:
    """Shows a build's phases as the console's steps."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._step: Any = None
        self._advance: Advance

    def phase(self, name: str, detail: str) -> None:
        self.close()
        self._step = self._console.step(f"{_WORDS.get(name, name)} {detail}")
        self._advance = self._step.__enter__()

    def progress(self, done: int, total: int) -> None:
        self._advance(done, total)

    def close(self) -> None:
        step, self._step = self._step, None
        if step is not None:
            step.__exit__(None, None, None)


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
        "warnings": list(result.warnings),
    }


@cli.command(
    epilog="""\b
Examples:
  lazydeps push data.tar.zst s3://my-bucket/packs/
  lazydeps push data.tar.zst s3://my-bucket/packs/ --json | jq -r .ref"""
)
@click.argument("pack", type=FILE)
@click.argument("destination", metavar="s3://BUCKET/PREFIX/")
@output_options
def push(console: Console, pack: Path, destination: str) -> None:
    """Upload PACK under a name that follows from its content.

    An object that is there is never replaced, and an equal one is not sent again. Prints the pinned reference.
    """
    from lazydeps.build.push import push as upload

    with console.step(f"Pushing {pack.name} to {destination}") as advance:
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


@cli.command(
    epilog="""\b
Examples:
  lazydeps layer --python 3.13 --arch arm64 -o layer.zip
  aws lambda publish-layer-version --layer-name lazydeps --zip-file fileb://layer.zip \\
    --compatible-runtimes python3.13 --compatible-architectures arm64"""
)
@click.option("-o", "--out", type=_NewFile(), required=True, help="The layer to write, NAME.zip.")
@click.option("--python", help="Minor version of the target, 3.11 or later.  [default: the running one]")
@click.option("--arch", help="x86_64 or arm64.  [default: this machine's]")
@click.option(
    "--bytecode/--no-bytecode",
    default=True,
    help="Compile the modules, which takes a Python of that version here. Without bytecode each cold start compiles "
    "them.  [default: compile]",
)
@output_options
def layer(console: Console, out: Path, python: str | None, arch: str | None, bytecode: bool) -> None:
    """Write an AWS Lambda layer with lazydeps' runtime, and only that.

    Functions that use the layer need no lazydeps in their own package. The layer holds no pack.
    """
    from lazydeps.build.layer import build_layer, check_target

    try:
        python, arch = check_target(python, arch)
    except ConfigError as error:
        raise click.UsageError(str(error), click.get_current_context()) from error
    with console.step(f"Building the layer for Python {python} on {arch}"):
        done = build_layer(out, python=python, arch=arch, bytecode=bytecode)
    for warning in done.warnings:
        console.warn(warning)
    if console.result(asdict(done)):
        return
    console.line(f"{out}: {mega(done.size)}, {mega(done.unpacked_size)} unzipped, for Python {python} on {arch}")
    console.line(", ".join(f"{name} {version}" for name, version in done.distributions.items()))
    console.line(f"\n{done.digest}")
    console.line(f"CodeSha256 {done.code_sha256}")
    file = shlex.quote(f"fileb://{out}")
    console.line(f"\nNext: aws lambda publish-layer-version --layer-name lazydeps --zip-file {file} \\")
    console.line(f"        --compatible-runtimes python{python} --compatible-architectures {arch}")


@cli.command(
    epilog="""\b
Examples:
  lazydeps inspect data.tar.zst
  lazydeps inspect s3://my-bucket/packs/0f…e2.tar.zst --files"""
)
@click.argument("pack", metavar="PACK")
@click.option("--files", is_flag=True, help="List every file with its set.")
@output_options
def inspect(console: Console, pack: str, files: bool) -> None:
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


@cli.command(
    epilog="""\b
Examples:
  lazydeps verify data.tar.zst
  lazydeps verify "s3://my-bucket/packs/0f…e2.tar.zst#root=sha256:0f…e2\""""
)
@click.argument("pack", metavar="PACK")
@output_options
def verify(console: Console, pack: str) -> None:
    """Check every frame of PACK, a path or a reference, against its root.

    Without a pin this finds damage, not a pack that somebody replaced whole.
    """
    ref = read.as_ref(pack)
    with console.step(f"Verifying {ref.shown}") as advance, read.open_pack(ref) as opened:
        frames = read.verify(opened, on_progress=advance)
        size = opened.size
        facts = {"ref": opened.ref.shown, "pinned": ref.root is not None, "frames": frames, "size": size}
    if console.result(facts):
        return
    console.line(f"All {frames} frames are what the root promises ({mega(size)}).")
    if ref.root is None:
        console.line(f"The reference was not pinned. The root that stands there: {facts['ref']}")


@cli.command(
    epilog="""\b
Examples:
  lazydeps extract data.tar.zst -o site-packages
  PYTHONPATH=site-packages python3.13 -c 'import pandas'"""
)
@click.argument("pack", metavar="PACK")
@click.option("-o", "--out", type=PATH, required=True, help="A new or empty folder.")
@output_options
def extract(console: Console, pack: str, out: Path) -> None:
    """Write every file of PACK, a path or a reference, into a folder that plain Python imports from."""
    ref = read.as_ref(pack)
    if ref.root is None and not ref.url.startswith("file:") and os.environ.get("LAZYDEPS_ALLOW_UNPINNED") != "1":
        raise ConfigError(
            f"{ref.shown} is not pinned. Use the reference that `lazydeps inspect` prints, "
            "or set LAZYDEPS_ALLOW_UNPINNED=1."
        )
    with console.step(f"Extracting {ref.shown}") as advance, read.open_pack(ref) as opened:
        files = read.extract(opened, out, on_progress=advance)
        facts = {"ref": opened.ref.shown, "path": str(out.absolute()), "files": files}
    if not console.result(facts):
        console.line(f"{files:,} files in {out}")


@cli.command(
    epilog="""\b
Examples:
  lazydeps lock s3://my-bucket/libs/data-science.zip
  lazydeps lock build/layer.zip --json | jq -r .ref"""
)
@click.argument("archive", metavar="ARCHIVE")
@output_options
def lock(console: Console, archive: str) -> None:
    """Pin ARCHIVE, a path or a URL, that is not a pack: a zip, a Lambda layer, a tar, a wheel.

    Downloads it and checks every member as a start would, then prints the reference.
    """
    from lazydeps.build.lock import lock as lock_archive

    ref = read.as_ref(archive)
    with console.step(f"Checking {ref.shown}"):
        facts = lock_archive(ref)
    if console.result(asdict(facts)):
        return
    console.line(f"{facts.files:,} files, {mega(facts.size)}, {mega(facts.unpacked_size)} unpacked")
    console.line("\n" + facts.ref)


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

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "(SCRIPT | -m MODULE | -c CODE) [ARGS]..."]


@cli.command(
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
    help="A pack: a reference, or a path. May be given again.",
)
@click.option("--dir", "directory", type=PATH, help="The store.  [default: a new one, removed afterwards]")
@click.option("--timeout", type=float, metavar="SECONDS", help="How long loading may take.")
@click.option("--report", is_flag=True, help="Print what the start did, on standard error.")
@click.option("--report-json", type=_NewFile(), metavar="FILE", help="Write what the start did to a file.")
def run(
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
        from lazydeps.build.lock import lock as lock_archive

        return Ref(ref.url, sha256=Ref.parse(lock_archive(ref).ref).sha256)
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


def _seconds(ctx: click.Context, param: click.Parameter, value: str) -> float:
    from lazydeps.build.stores import parse_age

    try:
        return parse_age(value)
    except ConfigError as error:
        raise click.BadParameter(str(error), ctx, param) from error


@cli.command(
    epilog="""\b
Examples:
  lazydeps gc --dry-run
  lazydeps gc --keep 2 --older-than 7d
  lazydeps gc --dir /mnt/packs --json"""
)
@click.option(
    "--dir", "directory", type=PATH, help="The folder that holds the stores.  [default: LAZYDEPS_DIR, or /tmp/lazydeps]"
)
@click.option(
    "--keep", type=click.IntRange(min=0), default=0, metavar="N", help="Keep the N that were used most recently."
)
@click.option(
    "--older-than",
    callback=_seconds,
    default="0s",
    metavar="AGE",
    help="Remove only what was not used for so long: 7d, 12h.",
)
@click.option("--dry-run", is_flag=True, help="Remove nothing; say what would be removed.")
@output_options
def gc(console: Console, directory: Path | None, keep: int, older_than: float, dry_run: bool) -> int:
    """Remove the stores that no running process uses.

    A store is where a pack or another archive lands, one folder for each. What is removed is fetched again by the next
    start that needs it. A start that runs short of space does the same by itself.

    Exit code 1: something that should have been removed could not be.
    """
    from lazydeps._config import Config
    from lazydeps.build import stores

    place = os.path.abspath(Config.from_environ(os.environ).directory if directory is None else directory)
    done = []
    try:
        for removal in stores.collect(place, keep=keep, older_than=older_than, dry_run=dry_run):
            done.append(removal)
            if not console.as_json:
                console.line(_store_line(removal, dry_run=dry_run))
        finished = 0 if dry_run else stores.finish_removals(place)
    except KeyboardInterrupt:
        console.fail("Interrupted", "a store that was being removed is out of use; the next removal does the rest.")
        return 130
    freed = sum(removal.store.size for removal in done if removal.fate == "removed")
    failed = [removal for removal in done if removal.fate == "failed"]
    facts = {
        "directory": place,
        "dry_run": dry_run,
        "stores": [removal.as_dict() for removal in done],
        "freed": freed,
        "finished": finished,
    }
    for removal in failed:
        console.warn(f"{removal.store.name} could not be removed: {removal.reason}.")
    if not console.result(facts):
        words = "would be freed" if dry_run else "freed"
        earlier = f"; {finished} earlier removal{'s' * (finished > 1)} finished" if finished else ""
        console.line(f"{place}: {len(done)} store{'s' * (len(done) != 1)}, {mega(freed)} {words}{earlier}")
    return 1 if failed else 0


def _store_line(removal: Removal, *, dry_run: bool) -> str:
    from datetime import datetime

    store = removal.store
    fate = "would be removed" if dry_run and removal.fate == "removed" else removal.fate
    count = "unknown" if store.distributions is None else str(store.distributions)
    kind = "" if store.interpreter is None else f"an archive for {store.interpreter}, "
    used = datetime.fromtimestamp(store.last_used).astimezone().isoformat(" ", "minutes")
    return f"{fate:7} {store.root}  {kind}{count} distributions, {mega(store.size)}, last used {used}"


def run_cli(args: Sequence[str]) -> int:
    """Run the command line and return its exit code."""
    context: click.Context | None = None
    console = Console(as_json="--json" in args and args[0] != "run")
    try:
        with cli.make_context("lazydeps", list(args)) as context:
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
    except (KeyboardInterrupt, click.Abort):
        console.fail("Interrupted", "nothing was left behind.")
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        console.fail("OSError", f"{error}.")
        return 1
