"""`lazydeps plan`: its options and words; `build/plan.py` and `build/proposal.py` do the work."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from lazydeps.build.commands import FILE, FOLDER, output_options, record_options
from lazydeps.build.compress import DEFAULT_LEVEL
from lazydeps.build.console import Console, Phases, mega
from lazydeps.build.limits import UPLOAD_LIMIT
from lazydeps.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from lazydeps.build.plan import Plan

SHOWN = 12
"""Distributions that are listed for people; --json has all."""


@click.command(
    "plan",
    short_help="Propose what goes into the zip file and what into a pack.",
    epilog="""\b
Examples:
  lazydeps plan --python 3.13 --arch arm64
  lazydeps plan -r requirements.txt --trace "import pandas, scipy.stats"
  lazydeps plan . --to s3://my-bucket/packs/ --write""",
)
@click.argument("project", type=FOLDER, default=".")
@click.option("--with", "requirements", multiple=True, metavar="REQUIREMENT", help="What the function imports.")
@click.option("-r", "--requirement", "requirement_files", type=FILE, multiple=True, help="A requirements file.")
@click.option("-c", "--constraint", "constraint_files", type=FILE, multiple=True, help="A file of versions to keep to.")
@click.option("--group", "groups", multiple=True, metavar="NAME", help="A dependency group of the project.")
@click.option("--extra", "extras", multiple=True, metavar="NAME", help="Optional dependencies of the project.")
@click.option("--locked", is_flag=True, help="Take the versions of the project's uv.lock.")
@click.option("--python", help="Minor version of the target, 3.11 or later.  [default: the project's, or the running]")
@click.option("--arch", help="x86_64 or arm64.  [default: the project's, or this machine's]")
@click.option("--handler", metavar="MODULE.FUNCTION", help="What Lambda calls.  [default: the usual one that is there]")
@record_options()
@click.option("--trace-file", "trace_files", type=FILE, multiple=True, help="A trace that was saved before.")
@click.option(
    "--level",
    type=click.IntRange(1, 22),
    default=DEFAULT_LEVEL,
    show_default=True,
    help="zstd level that sizes are measured with; 3 is quicker.",
)
@click.option("--to", "destination", metavar="s3://BUCKET/PREFIX/", help="Where packs go.  [default: the project's]")
@click.option("--no-cache", is_flag=True, help="Make everything anew and keep nothing for `lazydeps pack`.")
@click.option("--write", is_flag=True, help="Write the configuration to a new lazydeps.toml in the project.")
@output_options
def command(
    console: Console,
    project: Path,
    handler: str | None,
    destination: str | None,
    no_cache: bool,
    write: bool,
    **options: Any,
) -> None:
    """Propose what stays in the function's zip file and what goes into a pack, and whether all of it fits.

    Resolves and packs everything in a scratch folder, measures the imports, and estimates a start by memory size.
    Writes nothing, unless --write is given.
    """
    from lazydeps.build import proposal
    from lazydeps.build.cache import default_folder
    from lazydeps.build.options import check_options
    from lazydeps.build.plan import make_plan
    from lazydeps.build.project import FILE as CONFIGURATION
    from lazydeps.build.project import find_project

    try:
        wanted = proposal.project_options(project, cache=None if no_cache else default_folder(), **options)
        check_options(wanted)
    except ConfigError as error:
        raise click.UsageError(str(error), click.get_current_context()) from error
    known = find_project(project)
    if known is not None:
        destination, handler = destination or known.destination, handler or known.handler
        if write and known.folder == project.absolute():
            raise click.UsageError(f"--write: {known.file} configures lazydeps already; it is left as it is.")
    with Phases(console) as observer:
        plan = make_plan(wanted, folder=project, handler=handler, observer=observer)
    for warning in plan.warnings:
        console.warn(warning)
    values = proposal.terraform_values(plan, destination=destination)
    text = proposal.configuration(plan, wanted, folder=project, destination=destination, table=not write)
    written = proposal.write_configuration(text, project) if write else None
    facts = {**asdict(plan), "terraform": values, "configuration": text, "written": written}
    if facts["replayed"]:
        del facts["replayed"]["by_module"]
    if console.result(facts):
        return
    _show(console, plan)
    console.line("\nTerraform:\n")
    console.line(_indented(proposal.terraform_text(values)))
    if plan.names("pack"):
        console.line("  (`lazydeps push` prints the reference.)")
    if written is not None:
        console.line(f"\nWritten: {written}")
    elif known is not None:
        console.line(f"\n{known.file.name} configures lazydeps already. What this plan would say, to compare:\n")
        console.line(_indented(text.rstrip()))
    else:
        console.line(f"\nTo paste into pyproject.toml (--write makes a {CONFIGURATION} of it):\n")
        console.line(_indented(text.rstrip()))
    if plan.verdict in ("needed", "optional"):
        paste = "" if written is not None or known is not None else "paste that or give --write, then "
        console.line(f"\nNext: {paste}lazydeps pack, the push that it prints,")
        console.line(f"      then lazydeps package --python {plan.python} --arch {plan.arch}")


def _show(console: Console, plan: Plan) -> None:
    console.line(f"For Python {plan.python} on {plan.arch}{f', handler {plan.handler}' if plan.handler else ''}\n")
    for line in _verdict(plan):
        console.line(line)
    console.line(f"\n{'':24} {'goes to':7} {'unpacked':>9} {'packed':>9} {'start':>9} {'import':>8}")
    for part in plan.parts[:SHOWN]:
        seconds = "" if part.import_seconds is None else f"{part.import_seconds:.3f} s"
        console.line(
            f"{f'{part.name} {part.version}'[:24]:24} {part.where:7} {mega(part.unpacked):>9} {mega(part.packed):>9} "
            f"{mega(part.start):>9} {seconds:>8}"
        )
        console.line(f"  {part.why}")
    if len(plan.parts) > SHOWN:
        console.line(f"… and {len(plan.parts) - SHOWN} smaller ones; --json has all.")
    console.line(f"Sizes are of frames at zstd level {plan.level}; start is what a start fetches of them.\n")
    for limit in plan.limits:
        digits = 1 if limit.unit == "s" else 0
        console.line(
            f"{limit.name:24} {limit.takes:>9,.{digits}f} of {limit.limit:,.0f} {limit.unit:3} "
            f"{'fits' if limit.fits else 'DOES NOT FIT'}"
        )
    console.line(f"{'ephemeral_storage to set':24} {plan.ephemeral_storage:>9,} MB")
    if plan.estimates:
        console.line("\nExpected start, seconds: an estimate, on a core as fast as this machine's")
        ways = f" {'zip+pyc':>9} {'plain zip':>10}" if plan.verdict in ("optional", "not needed") else ""
        console.line(f"{'memory':>8} {'lazydeps':>9} {'range':>13} {'no loan':>9}{ways}")
        for entry in plan.estimates:
            both = f" {entry.zip_bytecode:>9.2f} {entry.zip_plain:>10.2f}"
            mark = " ←" if entry.memory == plan.memory_size else ""
            console.line(
                f"{entry.memory:>5} MB {entry.expected:>9.2f} {f'{entry.low:.2f} - {entry.high:.2f}':>13} "
                f"{entry.unlent:>9.2f}{both if ways else ''}{mark}"
            )
        console.line("Range: from 3 Gbit/s, the burst, to 75 MiB/s. Lambda is taken to lend an init")
        console.line('one vCPU at least; "no loan" is without. Its start of the sandbox is not in it.')


def _verdict(plan: Plan) -> list[str]:
    everything = (
        f"All in the zip file: {plan.everything_unpacked / 2**20:,.0f} of 250 MB unzipped, "
        f"about {plan.everything_zipped / 2**20:,.0f} MB zipped."
    )
    if plan.verdict == "not needed":
        return [everything, "Nothing in it is heavy: you do not need lazydeps."]
    if plan.verdict == "impossible":
        return [everything, "It does not fit, not even with a pack: see the limits below."]
    lines = [everything]
    if plan.verdict == "optional":
        how = "" if plan.everything_zipped <= UPLOAD_LIMIT else ", uploaded through S3"
        lines.append(f"It fits{how}: you may not need lazydeps. `lazydeps package` adds bytecode.")
        chosen = next((entry for entry in plan.estimates if entry.memory == plan.memory_size), None)
        if chosen is not None:
            lines.append(
                f"Expected with {chosen.memory} MB: {chosen.zip_plain:.2f} s as a plain zip, "
                f"{chosen.zip_bytecode:.2f} s with bytecode,"
            )
            lines.append(f"{chosen.expected:.2f} s with lazydeps; Lambda's own fetching of the zip is not counted.")
    else:
        lines.append("That is too much: the heavy part goes into a pack.")
    lines.append(f"Proposed: a zip file of {mega(plan.zip_unpacked)} unzipped, and a pack of {mega(plan.pack_size)},")
    lines.append(f"of which a start fetches {mega(plan.pack_start)}.")
    return lines


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" if line else "" for line in text.splitlines())
