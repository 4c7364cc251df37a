"""`lazydeps pack`: its options and words; `build/pack.py` does the work."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lazydeps._ref import Ref
from lazydeps.build.commands import FILE, FOLDER, PATH, NewFile, complete_files, output_options, record_options, shown
from lazydeps.build.compress import DEFAULT_LEVEL
from lazydeps.build.console import Console, Phases, mega
from lazydeps.errors import ConfigError, LazydepsError

if TYPE_CHECKING:
    from lazydeps.build.options import PackOptions
    from lazydeps.build.pack import PackResult
    from lazydeps.build.targets import Build


BUCKET = "s3://BUCKET/PREFIX/"
"""Where a pack is pushed, as far as nobody has said."""


@click.command(
    "pack",
    epilog="""\b
Examples:
  lazydeps pack numpy pandas -o data.tar.zst --python 3.13 --arch arm64
  lazydeps pack -r requirements-heavy.txt -o heavy.tar.zst --trace "import pandas, scipy.stats"
  lazydeps pack --from-dir build/python -o heavy.tar.zst --trace-script handler.py --save-trace trace.json
  lazydeps pack numpy --python 3.12,3.13 --arch x86_64,arm64 -o "numpy-{python}-{arch}.tar.zst"
  lazydeps pack                       # what [tool.lazydeps] in pyproject.toml says, into dist/""",
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
@click.option(
    "--name", "names", multiple=True, metavar="NAME", help="A pack that the project configures.  [default: all]"
)
@click.option(
    "-o",
    "--out",
    type=PATH,
    help="The pack to write, NAME.tar.zst; for several, a folder or a name with {python} and {arch}.",
)
@click.option(
    "--python",
    multiple=True,
    help="Minor version of the target, 3.11 or later; several build several packs.  [default: the running one]",
)
@click.option("--arch", multiple=True, help="x86_64 or arm64, or both.  [default: this machine's]")
@click.option("--glibc", help="Oldest C library to support.  [default: that of Lambda's image for the Python version]")
@click.option("--prune/--no-prune", default=True, help="Leave out what no running program reads.  [default: prune]")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="More files to leave out; rule:NAME applies a rule.")
@click.option(
    "--keep",
    multiple=True,
    metavar="PATTERN",
    help="Files to keep whatever a rule says; rule:NAME switches a rule off.",
)
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
    "optimize",
    count=True,
    type=click.IntRange(0, 2),
    help="Compile as python -O would, without asserts; -OO as python -OO, without docstrings either.",
)
@click.option(
    "--level",
    type=click.IntRange(1, 22),
    default=DEFAULT_LEVEL,
    show_default=True,
    help="zstd level: 19 packs smaller and takes much longer.",
)
@record_options(default="imports what is asked")
@click.option(
    "--trace-file", "trace_files", type=FILE, multiple=True, help="A trace that was saved or collected before."
)
@click.option("--save-trace", type=NewFile(), help="Where to write the trace that was used.")
@click.option(
    "--explain",
    "explained",
    multiple=True,
    metavar="FILE",
    help="Say where a file of site-packages went, and why; patterns work too.",
)
@click.option("-j", "--jobs", type=click.IntRange(min=1), help="Processes and threads at a time.  [default: all cores]")
@click.option(
    "--cache-dir", type=PATH, help="Where compiled and compressed pieces are kept.  [default: LAZYDEPS_CACHE]"
)
@click.option("--no-cache", is_flag=True, help="Make everything anew and keep nothing.")
@click.option(
    "--dry-run", is_flag=True, help="Install into a scratch folder and stop: say what would be packed, and where."
)
@output_options
def command(
    console: Console,
    out: Path | None,
    names: tuple[str, ...],
    python: tuple[str, ...],
    arch: tuple[str, ...],
    explained: tuple[str, ...],
    cache_dir: Path | None,
    no_cache: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Build a pack from REQUIREMENTS, ready to push.

    Installs with uv for the target, compiles bytecode, records in which order an import touches the files, and
    writes them in that order. Prints the reference that pins the pack.

    Without anything to pack, builds the packs that the project configures in [tool.lazydeps] of its pyproject.toml,
    or in lazydeps.toml, for all their targets. What is given here wins over the file.
    """
    from lazydeps.build.cache import default_folder
    from lazydeps.build.targets import split_list

    if no_cache and cache_dir is not None:
        raise click.UsageError("choose --cache-dir or --no-cache.", click.get_current_context())
    options["cache"] = None if no_cache else cache_dir or default_folder()
    try:
        builds = _plan(out, names, split_list(python), split_list(arch), options)
    except ConfigError as error:
        raise click.UsageError(str(error), click.get_current_context()) from error
    if dry_run:
        _preview_all(console, builds)
        return
    if len(builds) > 1:
        _run_all(console, builds, explained)
        return
    _make_folders(builds)
    facts = _run(console, builds[0].options, explained)
    if console.result(facts):
        return
    _show(console, facts)
    console.line("\n" + _next([(builds[0], facts)]))


_INPUTS = ("requirements", "requirement_files", "project", "groups", "extras", "locked", "wheels", "from_dir")


def _plan(
    out: Path | None, names: tuple[str, ...], python: tuple[str, ...], arch: tuple[str, ...], options: dict[str, Any]
) -> list[Build]:
    from lazydeps.build.project import find_project
    from lazydeps.build.targets import plan_project, plan_requirements

    given = [name for name in (*_INPUTS, "from_archive") if options[name]]
    if given == ["locked"] and find_project(Path.cwd()) is not None:
        given = []  # it says how the project's packs are to be resolved
    if given and names:
        raise ConfigError("--name chooses packs that the project configures; leave it out to pack something else.")
    project = None if given else find_project(Path.cwd())
    if project is not None:
        context = click.get_current_context()
        flags = {
            name: value
            for name, value in options.items()
            if context.get_parameter_source(name) not in (None, click.core.ParameterSource.DEFAULT)
        }
        flags["cache"] = options["cache"]
        return plan_project(project, flags, names=names, python=python, arch=arch, out=out)
    if names:
        raise ConfigError(
            "--name chooses packs that a project configures, and neither this folder nor one above it has a "
            "pyproject.toml with [tool.lazydeps] or a lazydeps.toml."
        )
    if out is None and given:
        raise ConfigError("Missing option '-o' / '--out': the pack to write, for example NAME.tar.zst.")
    return plan_requirements(options, python=python, arch=arch, out=out or Path("pack.tar.zst"))


def _run_all(console: Console, builds: list[Build], explained: tuple[str, ...]) -> None:
    """Build several packs one after another; those that fail do not stop the others."""
    built: list[tuple[Build, dict[str, Any]]] = []
    failed: list[dict[str, Any]] = []
    for number, build in enumerate(builds, 1):
        console.note(f"[{number}/{len(builds)}] {build.shown}")
        try:
            _make_folders([build])
            built.append((build, _run(console, build.options, explained)))
        except (LazydepsError, OSError) as error:
            failed.append(_failure(console, build, error))
    packs = [{"name": build.name, **facts} for build, facts in built]
    if not console.result({"packs": packs, "failed": failed}):
        for facts in packs:
            console.line(f"{_summary(facts)}\n  {facts['ref']}")
            _show_explained(console, facts)
        _show_failed(console, failed)
        if built:
            console.line("\n" + _next(built))
    if failed:
        raise click.exceptions.Exit(1)


def _preview_all(console: Console, builds: list[Build]) -> None:
    """Say what would be packed, for whom and into which files. Nothing is written."""
    from lazydeps.build import tracing
    from lazydeps.build.pack import preview_pack

    packs: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for build in builds:
        try:
            with Phases(console) as observer:
                preview = preview_pack(build.options, observer=observer)
        except (LazydepsError, OSError) as error:
            failed.append(_failure(console, build, error))
            continue
        for warning in preview.warnings:
            console.warn(warning)
        facts: dict[str, Any] = {"name": build.name, "path": str(build.options.out.absolute())}
        facts |= {name: getattr(build.options, name) for name in ("python", "arch", "glibc")}
        packs.append({**facts, **asdict(preview), "trace": tracing.describe(build.options)})
    if not console.result({"dry_run": True, "packs": packs, "failed": failed}):
        for facts in packs:
            console.line(
                f"{shown(Path(facts['path']))}: {len(facts['distributions'])} distributions, {facts['files']:,} files, "
                f"{mega(facts['unpacked_size'])} unpacked, for Python {facts['python']} on {facts['arch']}; "
                f"recorded would be {facts['trace']}"
            )
            console.line("  " + ", ".join(f"{name} {version}" for name, version in facts["distributions"].items()))
        _show_failed(console, failed)
    if failed:
        raise click.exceptions.Exit(1)


def _failure(console: Console, build: Build, error: LazydepsError | OSError) -> dict[str, Any]:
    """Say that one of several builds failed, and return the facts of it."""
    if isinstance(error, LazydepsError):
        told = {"type": type(error).__name__, "message": str(error), **error.facts()}
    else:
        told = {"type": "OSError", "message": f"{error}."}  # as for one pack alone
    console.warn(f"{build.shown} failed: {error}")
    return {"name": build.name, "python": build.options.python, "arch": build.options.arch, "error": told}


def _show_failed(console: Console, failed: list[dict[str, Any]]) -> None:
    for entry, words in ((entry, entry["error"]["message"].splitlines()[0]) for entry in failed):
        name = f"{entry['name']}, " if entry["name"] else ""
        console.line(f"FAILED: {name}Python {entry['python']} on {entry['arch']}: {words}")


def _make_folders(builds: list[Build]) -> None:
    for build in builds:
        build.options.out.parent.mkdir(parents=True, exist_ok=True)


def _run(console: Console, options: PackOptions, explained: tuple[str, ...]) -> dict[str, Any]:
    """Build one pack, show how far it is, and return the facts of it."""
    from lazydeps.build.explain import explain
    from lazydeps.build.pack import build_pack

    with Phases(console) as observer:
        result = build_pack(options, observer=observer)
    for warning in result.warnings:
        console.warn(warning)
    facts = _pack_facts(result)
    if explained:
        facts["explained"] = [
            answer.as_dict() for pattern in explained for answer in explain(result.inventory, pattern)
        ]
    return facts


def _next(built: list[tuple[Build, dict[str, Any]]]) -> str:
    """Return the commands that push what was built: the targets of a name together, so that the lock file has all.

    Where everything is where a project has it, `lazydeps push` finds it by itself.
    """
    pushes: dict[tuple[str | None, str | None], list[str]] = {}
    for build, facts in built:
        pushes.setdefault((build.name, build.destination), []).append(shlex.quote(str(shown(Path(facts["path"])))))
    lines = []
    if click.get_current_context().params["out"] is None and all(name and place for name, place in pushes):
        return "Next: lazydeps push"
    for (name, destination), paths in pushes.items():
        pin = f" --name {name or 'NAME'}" if name or len(paths) > 1 else ""
        lines.append(f"lazydeps push {' '.join(paths)} {destination or BUCKET}{pin}")
    return "Next: " + "\n      ".join(lines)


def _summary(facts: dict[str, Any]) -> str:
    return (
        f"{shown(Path(facts['path']))}: {mega(facts['size'])}, boot set {mega(facts['boot_size'])}, "
        f"for Python {facts['python']} on {facts['arch']}"
    )


def _show(console: Console, facts: dict[str, Any]) -> None:
    console.line(_summary(facts))
    console.sets(facts["sets"])
    if facts["slimmed"]["rules"]:
        console.line()
        console.saved(facts["slimmed"]["distributions"], facts["slimmed"]["rules"])
    _show_explained(console, facts)
    console.line("\n" + facts["ref"])


def _show_explained(console: Console, facts: dict[str, Any]) -> None:
    for answer in facts.get("explained", ()):
        place = f"{answer['distribution']}, {answer['set'] or 'not packed'}: " if answer["distribution"] else ""
        console.line(f"\n{answer['path']}\n  {place}{answer['why']}")


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
        "slimmed": {
            "rules": {name: asdict(entry) for name, entry in result.slimmed.by_rule().items()},
            "distributions": {name: asdict(entry) for name, entry in result.slimmed.by_distribution().items()},
        },
        "failed_imports": result.failed_imports,
        "without_bytecode": list(result.without_bytecode),
        "seconds": result.seconds,
        "cache": None if result.cache is None else asdict(result.cache),
        "warnings": list(result.warnings),
    }
