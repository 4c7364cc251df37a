"""Get the trace of one build: recorded from the packed tree, from the same versions for this machine, or given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lazydeps.errors import LazydepsError

from . import resolve
from .bytecode import compile_tree
from .elf import ElfTree
from .inputs import fill_like
from .recall import recall
from .trace import Recording, Trace, record

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    if options.trace_files:
        return Recording(Trace.load(options.trace_files[0]), {})
    if _can_import(interpreter, options):
        return _record(options, tree, requested, suffixes, elf, interpreter, cache)
    return _record_here(options, scratch, requested, resolve.list_distributions(tree), interpreter, cache)


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
) -> Recording:
    assert options.arch is not None
    explicit = bool(options.trace_statements) or bool(options.trace_scripts)
    modules = [] if explicit else resolve.requested_modules(tree, requested, suffixes=suffixes)

    def record_now() -> Recording:
        return record(
            tree,
            interpreter=interpreter,
            elf=elf,
            arch=interpreter.arch,
            statements=options.trace_statements,
            script=options.trace_scripts[0] if options.trace_scripts else None,
            modules=modules,
        )

    free = bool(options.trace_scripts) or bool(options.trace_handlers)
    return recall(
        None if free else cache,
        record_now,
        tree=tree,
        files=resolve.list_files(tree),
        interpreter=interpreter,
        modules=modules,
        statements=options.trace_statements,
        jobs=options.jobs,
    )


def _record_here(
    options: PackOptions,
    scratch: Path,
    requested: frozenset[str],
    distributions: dict[str, str],
    interpreter: Interpreter,
    cache: Cache | None,
) -> Recording:
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
    """Return what a user should know of a trace: imports that failed, entries that the tree does not have."""
    warnings = [
        f"`import {name}` failed while it was recorded; its modules are cold. {message.splitlines()[-1]}"
        for name, message in recording.failed.items()
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
