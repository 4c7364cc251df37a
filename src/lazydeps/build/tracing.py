"""Get the trace of one build: recorded from the packed tree or from the same versions for this machine, given, or both.

Several ways are merged in the order of `PackOptions`: files, statements, scripts, handlers.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from lazydeps.errors import LazydepsError

from . import resolve
from .bytecode import compile_tree
from .collect import read_traces
from .elf import ElfTree
from .handler import find_handler, parse_environ
from .inputs import fill_like
from .merge import merge
from .options import handler_folders
from .recall import looks, recall
from .trace import Recording, record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .cache import Cache
    from .interpreters import Interpreter
    from .options import PackOptions


def obtain(
    options: PackOptions,
    tree: Path,
    *,
    requested: frozenset[str],
    suffixes: Sequence[str],
    elf: ElfTree,
    interpreter: Interpreter,
    scratch: Path,
    cache: Cache | None = None,
) -> Recording:
    """Return the trace that the options ask for, not yet fitted to the tree.

    Args:
        options: what to record, and for which target.
        tree: the packed tree, with its bytecode.
        requested: normalised names of the distributions that were asked for.
        suffixes: the target's suffixes of extension modules.
        elf: the tree's ELF files.
        interpreter: of the target's minor version, for this machine.
        scratch: a folder for what is needed meanwhile.
        cache: where recordings and bytecode are looked for and kept.

    Raises:
        ConfigError: a trace file is none.
        LazydepsError: what was to be recorded failed, or the target cannot be recorded on this machine.
    """
    recordings = [Recording(trace, {}) for file in options.trace_files for trace in read_traces(file)]
    if not options.trace_files or _asked(options):
        if _can_import(interpreter, options):
            recordings += _record(options, tree, requested, suffixes, elf, interpreter, cache)
        else:
            distributions = resolve.list_distributions(tree)
            recordings += _record_here(options, scratch, requested, distributions, interpreter, cache)
    return Recording(
        merge([recording.trace for recording in recordings]),
        {name: said for recording in recordings for name, said in recording.failed.items()},
        {name: said for recording in recordings for name, said in recording.raised.items()},
    )


def tidy(tree: Path, before: Mapping[str, tuple[int, int, int]]) -> list[str]:
    """Remove what a recorded program wrote into a tree, which would make a pack of what one machine did; say the rest.

    Args:
        tree: what was imported.
        before: what `looks` said of all its files.

    Returns:
        Warnings of files that are not what was installed any more.

    Raises:
        LazydepsError: it has removed some.
    """
    files = resolve.list_files(tree)
    for path in files:
        if path not in before:
            (tree / path).unlink()
    after = looks(tree, files)
    if gone := [path for path in before if path not in after]:
        raise LazydepsError(
            f"the traced program removed files of the packages that it imports ({_some(gone)}), which are to be "
            "packed. Trace one that leaves them alone."
        )
    changed = [path for path, facts in before.items() if after[path] != facts]
    if not changed:
        return []
    return [f"the traced program wrote into {_some(changed)}; the pack has what it left there."]


def _some(paths: Sequence[str]) -> str:
    return ", ".join(paths[:3]) + (", …" if len(paths) > 3 else "")


def _asked(options: PackOptions) -> bool:
    """Tell whether the options name anything to run."""
    return bool(options.trace_statements or options.trace_scripts or options.trace_handlers)


def _can_import(interpreter: Interpreter, options: PackOptions) -> bool:
    """Tell whether this machine can load what was installed for the target."""
    assert options.glibc is not None
    if interpreter.platform != "linux" or interpreter.arch != options.arch or not interpreter.glibc:
        return False
    return _version(interpreter.glibc) >= _version(options.glibc)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdecimal())


def _record(
    options: PackOptions,
    tree: Path,
    requested: frozenset[str],
    suffixes: Sequence[str],
    elf: ElfTree,
    interpreter: Interpreter,
    cache: Cache | None,
) -> list[Recording]:
    """Record every way that was asked for in a process of its own: each is a start, and shows the order of one."""
    environ = parse_environ(options.trace_env)
    run = functools.partial(record, tree, interpreter=interpreter, elf=elf, arch=interpreter.arch, environ=environ)
    # What a program is told by variables, it may read from anywhere.
    known = functools.partial(
        recall,
        None if environ else cache,
        tree=tree,
        files=resolve.list_files(tree),
        interpreter=interpreter,
        jobs=options.jobs,
    )
    recordings: list[Recording] = []
    if options.trace_statements:
        statements = options.trace_statements
        recordings.append(known(lambda: run(statements=statements), modules=(), statements=statements))
    recordings += [run(script=script) for script in options.trace_scripts]
    recordings += [
        run(handler=find_handler(handler, handler_folders(options), options.events))
        for handler in options.trace_handlers
    ]
    if recordings:
        return recordings
    modules = resolve.requested_modules(tree, requested, suffixes=suffixes)
    return [known(lambda: run(modules=modules), modules=modules, statements=())]


def _record_here(
    options: PackOptions,
    scratch: Path,
    requested: frozenset[str],
    distributions: dict[str, str],
    interpreter: Interpreter,
    cache: Cache | None,
) -> list[Recording]:
    """Install the same versions for this machine, and record there: imports touch the same files, by other names."""
    tree = Path(scratch, "host").resolve()
    try:
        fill_like(options, tree, interpreter, distributions=distributions, pins=scratch / "pins.txt")
    except LazydepsError as error:
        raise LazydepsError(
            f"the pack is for {options.arch}, this machine is {interpreter.arch} ({interpreter.platform}), and what an "
            f"import touches could not be recorded here either. Record it on the target with --save-trace and give the "
            f"file here with --trace-file. {error}"
        ) from error
    files = resolve.list_files(tree)
    compiled = compile_tree(tree, files, interpreter=interpreter, jobs=options.jobs, cache=cache)
    elf = ElfTree(tree, {*files, *compiled.pycs})
    return _record(options, tree, requested, interpreter.extension_suffixes, elf, interpreter, cache)


def warnings_of(recording: Recording, dropped: Sequence[str], kept: int) -> list[str]:
    """Return what a user should know of a trace: what failed while it was recorded, entries that the tree lacks."""
    warnings = [
        f"`import {name}` failed while it was recorded; its modules are cold. {message.splitlines()[-1]}"
        for name, message in recording.failed.items()
    ]
    warnings += [
        f"the handler raised with {event}; what it imports after that point is cold. {message.splitlines()[-1]} "
        "If it lacks something that --trace-env can give it, do."
        for event, message in recording.raised.items()
    ]
    if dropped:
        some = ", ".join(dropped[:3]) + (", …" if len(dropped) > 3 else "")
        warnings.append(
            f"{len(dropped)} of the trace's {len(dropped) + kept} entries are not in the packed tree and were left out "
            f"({some}). Record the trace again if it has grown old."
        )
    return warnings


def describe(options: PackOptions) -> str:
    """Return in words what is recorded or read."""
    ways = [*map(str, options.trace_files), *options.trace_statements, *map(str, options.trace_scripts)]
    return "; ".join([*ways, *options.trace_handlers]) or "the top-level modules"
