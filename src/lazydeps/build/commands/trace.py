"""`lazydeps trace`: merge, show and compare traces, and find imports that bring what is never used."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lazydeps.build.commands import FILE, FOLDER, PATH, NewFile, output_options, record_options
from lazydeps.build.console import Console, mega

if TYPE_CHECKING:
    from lazydeps.build.options import PackOptions
    from lazydeps.build.trace_report import Group
    from lazydeps.build.usage import Usage


@click.group(
    "trace",
    epilog="""\b
Examples:
  lazydeps trace merge traces/*.json -o trace.json
  lazydeps trace show trace.json --pack data.tar.zst
  lazydeps trace unused data.tar.zst --trace-handler app.handler --event event.json""",
)
def command() -> None:
    """Work with traces: which files an import touches, in which order.

    A file may be a trace (`pack --save-trace`, or one that LAZYDEPS_TRACE has written to a bucket), or a log with the
    lines that LAZYDEPS_TRACE=log writes.
    """


@command.command(
    epilog="""\b
Examples:
  aws s3 cp --recursive s3://my-bucket/traces/ traces/ && lazydeps trace merge traces/*.json -o trace.json
  aws logs filter-log-events --log-group-name /aws/lambda/app --filter-pattern '"lazydeps-trace"' > log.json
  lazydeps trace merge log.json -o trace.json
  lazydeps pack -r requirements.txt -o data.tar.zst --trace-file trace.json""",
)
@click.argument("files", nargs=-1, required=True, type=FILE)
@click.option("-o", "--out", type=NewFile(), required=True, help="The trace to write.")
@click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
@output_options
def merge(console: Console, files: tuple[Path, ...], out: Path, dry_run: bool) -> None:
    """Make one trace of FILES, the first one's order first.

    The order stays right for each program: what a module opens stands before it.
    """
    from lazydeps.build.collect import read_traces
    from lazydeps.build.merge import merge as merge_traces
    from lazydeps.build.trace_report import kinds

    traces = [trace for file in files for trace in read_traces(file)]
    merged = merge_traces(traces)
    if not dry_run:
        merged.save(out)
    facts = {
        "path": str(out),
        "written": not dry_run,
        "traces": len(traces),
        "python": merged.python,
        "arch": merged.arch,
        "how": list(merged.how),
        "entries": len(merged.order),
        **kinds(merged),
        "absent": len(merged.absent),
        "stdlib": len(merged.stdlib),
        "added": [len(set(merged.order) - set(trace.order)) for trace in traces],
    }
    if console.result(facts):
        return
    console.line(
        f"{'Would write' if dry_run else 'Wrote'} {out}: {facts['entries']:,} entries of {len(traces)} "
        f"trace{'s' * (len(traces) != 1)} ({facts['modules']:,} modules, {facts['extensions']:,} extension modules, "
        f"{facts['files']:,} files)"
    )
    if not dry_run:
        console.line(f"\nNext: lazydeps pack … --trace-file {out}")


@command.command(
    epilog="""\b
Examples:
  lazydeps trace show trace.json
  lazydeps trace show trace.json --pack data.tar.zst --by distribution""",
)
@click.argument("file", type=FILE)
@click.option(
    "--pack", "packed", metavar="PACK", help="A pack (file or reference) with these files: gives their sizes."
)
@click.option(
    "--by",
    type=click.Choice(["package", "distribution"]),
    default="package",
    show_default=True,
    help="What to group by; distributions need --pack.",
)
@click.option(
    "--first",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="How many entries to list from its beginning.",
)
@output_options
def show(console: Console, file: Path, packed: str | None, by: str, first: int) -> None:
    """Show what the trace FILE holds, by package, and how it begins."""
    from lazydeps.build import trace_report
    from lazydeps.build.read import as_ref, open_pack

    if by == "distribution" and packed is None:
        raise click.UsageError("--by distribution needs --pack: a trace alone does not say who owns a file.")
    trace = trace_report.read_merged(file)
    sizes: dict[str, trace_report.Size] = {}
    owners: dict[str, str] = {}
    if packed is not None:
        with open_pack(as_ref(packed)) as pack:
            sizes = trace_report.sizes_in(pack)
            owners = trace_report.owners_of(pack) if by == "distribution" else {}
    if by == "distribution":
        groups, inner = trace_report.by_distribution(trace, sizes, owners), []
    else:
        groups, inner = (trace_report.by_package(trace, sizes, depth=depth) for depth in (1, 2))
    facts: dict[str, Any] = {
        "python": trace.python,
        "arch": trace.arch,
        "how": list(trace.how),
        "entries": len(trace.order),
        **trace_report.kinds(trace),
        "absent": len(trace.absent),
        "stdlib": len(trace.stdlib),
        "packed": sum(sizes[entry].packed for entry in trace.order if entry in sizes) if packed else None,
        "unpacked": sum(sizes[entry].unpacked for entry in trace.order if entry in sizes) if packed else None,
        "not_in_pack": [entry for entry in trace.order if entry not in sizes] if packed else None,
        "by": by,
        "groups": [_group_facts(group, sized=bool(packed)) for group in groups],
        "inner": [_group_facts(group, sized=bool(packed)) for group in inner if "/" in group.name],
        "first": list(trace.order[:first]),
    }
    if console.result(facts):
        return
    console.line(f"{file}: Python {trace.python} on {trace.arch}; {'; '.join(trace.how)}")
    console.line(
        f"{facts['entries']:,} entries: {facts['modules']:,} modules, {facts['extensions']:,} extension modules, "
        f"{facts['files']:,} files; {facts['absent']:,} looked for in vain; {facts['stdlib']:,} of the standard library"
    )
    if packed is not None:
        console.line(f"{mega(facts['packed'])} packed, {mega(facts['unpacked'])} unpacked, of what the trace names")
        if facts["not_in_pack"]:
            console.warn(f"{len(facts['not_in_pack'])} entries are not in {packed}: {facts['not_in_pack'][0]}, …")
    console.line()
    for group in groups:
        console.line(_group_line(group, sized=bool(packed)))
        for one in [one for one in inner if one.name.startswith(f"{group.name}/")]:
            console.line("  " + _group_line(one, sized=bool(packed)))
    if first:
        console.line("\nFirst:")
        for entry in trace.order[:first]:
            console.line(f"  {entry}")


def _group_facts(group: Group, *, sized: bool) -> dict[str, Any]:
    facts = asdict(group)
    return facts if sized else {**facts, "packed": None, "unpacked": None}


def _group_line(group: Group, *, sized: bool) -> str:
    size = f"  {mega(group.packed):>10}  {mega(group.unpacked):>10}" if sized else ""
    return f"{group.entries:>6,}{size}  {group.name}"


@command.command(
    short_help="Show what differs from one trace to another.",
    epilog="""\b
Examples:
  lazydeps trace diff trace.json production.json
  lazydeps trace diff trace.json production.json --json | jq -r '.only_second[]'""",
)
@click.argument("first", type=FILE)
@click.argument("second", type=FILE)
@output_options
def diff(console: Console, first: Path, second: Path) -> None:
    """Show what only FIRST has, what only SECOND has, and what stands elsewhere in its order."""
    from lazydeps.build.trace_report import compare, read_merged

    found = compare(read_merged(first), read_merged(second))
    facts = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(found).items()}
    if console.result(facts):
        return
    for sign, entries in (("-", found.only_first), ("+", found.only_second), ("~", found.moved)):
        for entry in entries:
            console.line(f"{sign} {entry}")
    console.line(
        f"{len(found.only_first):,} only in {first}, {len(found.only_second):,} only in {second}, "
        f"{len(found.moved):,} moved, {found.same:,} the same"
    )


@command.command(
    short_help="Name imports that bring what a run never uses.",
    epilog="""\b
Examples:
  lazydeps trace unused data.tar.zst --trace-handler app.handler --event event.json
  lazydeps trace unused numpy pandas --trace-script report.py
  lazydeps trace unused --from-dir build/python --trace-handler app.handler --project src""",
)
@click.argument("packed", nargs=-1, metavar="[PACK | REQUIREMENTS...]")
@click.option("--from-dir", type=FOLDER, help="An installed site-packages folder instead.")
@click.option("--python", help="Minor version, for requirements and folders.  [default: the running one]")
@click.option("--project", type=PATH, help="Where the handler's module is.  [default: the current folder]")
@record_options()
@click.option(
    "--runs",
    type=click.IntRange(1, 50),
    default=3,
    show_default=True,
    help="How many times to run and time the imports.",
)
@output_options
def unused(
    console: Console, packed: tuple[str, ...], from_dir: Path | None, python: str | None, runs: int, **options: Any
) -> None:
    """Name imports that bring what a run never uses, and what lazydeps.lazy() would save.

    Runs one program over a PACK (file or reference), REQUIREMENTS or a folder. An import counts as used when a
    function of its package ran outside of imports, or code of the program that ran reads one of its names. Constants
    and base classes that other packages take from it cannot be seen, so look at the code before you change it.
    """
    from lazydeps.build.options import PackOptions
    from lazydeps.build.usage import find_unused
    from lazydeps.build.usage_tree import usage_tree
    from lazydeps.errors import ConfigError

    programs = [options["trace_statements"], options["trace_scripts"], options["trace_handlers"]]
    if sum(map(bool, programs)) != 1 or any(len(one) > 1 for one in programs[1:]):
        raise click.UsageError(
            "one program, please: --trace statements, or one --trace-script, or one --trace-handler with its events."
        )
    if bool(packed) == (from_dir is not None):
        raise click.UsageError("name a pack or requirements, or a folder with --from-dir.")
    asked = PackOptions(out=Path(), requirements=packed, from_dir=from_dir, python=python, **options)
    try:
        program = _program(asked)
    except ConfigError as error:
        raise click.UsageError(str(error), click.get_current_context()) from error
    with ExitStack() as stack:
        with console.step("Preparing " + (str(from_dir) if from_dir else " ".join(packed))):
            prepared = stack.enter_context(usage_tree(asked))
        with console.step(f"Running it {runs + 1} times"):
            usage = find_unused(
                prepared.tree,
                interpreter=prepared.interpreter,
                elf=prepared.elf,
                sizes=prepared.sizes,
                runs=runs,
                **program,
            )
    _show_usage(console, usage, kind="packed" if prepared.is_pack else "unpacked")


def _program(options: PackOptions) -> dict[str, Any]:
    from lazydeps.build.handler import find_handler, parse_environ
    from lazydeps.build.options import handler_folders

    folders = handler_folders(options)
    return {
        "statements": options.trace_statements,
        "script": next(iter(options.trace_scripts), None),
        "handler": next((find_handler(name, folders, options.events) for name in options.trace_handlers), None),
        "environ": parse_environ(options.trace_env),
    }


NOTE = (
    "Seen: functions that ran, and names that the program's own code reads. Not seen: constants and base classes that "
    "other packages take. Look at the code before you change it, and measure again."
)


def _show_usage(console: Console, usage: Usage, *, kind: str) -> None:
    for event, message in usage.raised.items():
        console.warn(f"the handler raised with {event}: {message.splitlines()[-1]} What comes after that was not seen.")
    facts = {**asdict(usage), "what": list(usage.what), "unused": [asdict(one) for one in usage.unused], "kind": kind}
    if console.result({**facts, "note": NOTE}):
        return
    if not usage.unused:
        console.line(
            f"Everything that is imported at the top of the program is used: {', '.join(usage.used) or 'none'}."
        )
        return
    for one in usage.unused:
        where = one.file if one.file.startswith("<") else Path(one.file).name
        brings = f"{one.modules:,} module{'s' * (one.modules != 1)} that nothing else needs"
        console.line(
            f"{one.seconds:7.3f} s  {mega(one.bytes):>9} {kind}  {one.package}: "
            + (brings if one.modules else "all that it brings, other imports need too")
        )
        console.line(f"           {where}:{one.line}: {one.text}")
        console.line(f"           write: {one.suggestion}")
    console.line(
        f"\nTogether: {usage.seconds:.3f} s of {usage.total_seconds:.3f} s of imports, {mega(usage.bytes)} {kind}."
    )
    console.note(NOTE)
