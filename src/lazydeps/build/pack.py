"""Build a pack: install, compile, trace, arrange, write, in a scratch folder that is removed afterwards.

Knows the order of the steps and what each needs from the others; it prints nothing and uploads nothing.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from . import interrupts, resolve, slim, tracing
from .bytecode import compile_tree
from .cache import Cache, size_limit
from .collect import read_traces
from .elf import ElfTree
from .explain import Inventory
from .inputs import describe, fill
from .interpreters import require_interpreter
from .options import PackOptions, check_options
from .recall import looks
from .sets import arrange, boot_files
from .strip_tree import Stripped, strip_tree
from .trace import FILE_PREFIX, Trace, accompany, fit, target_suffixes
from .write import Target, write_pack

if TYPE_CHECKING:
    from .cache import Used
    from .inputs import Filled
    from .interpreters import Interpreter
    from .slim import Slimmed
    from .write import Written

PATCH_STDLIB = frozenset({"eventlet", "gevent"})
"""Distributions that replace parts of the standard library and want to do so before others import it."""
PHASES = ("install", "compile", "trace", "write", "clean")
"""The phases that an observer is told about, in order."""


class PackObserver(Protocol):
    """Is told how far a build has come, from the building thread only."""

    def phase(self, name: str, detail: str) -> None:
        """Take the start of a phase (one of `PHASES`) and what it works on, in words."""

    def progress(self, done: int, total: int, item: str = "") -> None:
        """Take how much of the current phase is done, in files or, when it writes, bytes; total is 0 if nobody knows.

        Args:
            done: how much is done.
            total: how much there is.
            item: what is being worked on: a folder, a file, or what uv says.
        """


class SilentObserver:
    """An observer that does nothing."""

    def phase(self, name: str, detail: str) -> None:
        """Do nothing."""

    def progress(self, done: int, total: int, item: str = "") -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class PackResult:
    """A pack that was written, and what there is to say about it."""

    written: Written
    target: Target
    distributions: dict[str, str]
    """Normalised name to version, sorted."""
    trace: Trace
    """The trace as it was used, in terms of the packed tree."""
    trace_dropped: tuple[str, ...]
    """Entries of the trace that the packed tree does not have."""
    failed_imports: dict[str, str]
    """Modules of the default list that could not be imported, with the last lines of their traceback."""
    without_bytecode: tuple[str, ...]
    """Sources that are no Python of the target's version."""
    slimmed: Slimmed
    """What was left out, and what became smaller."""
    inventory: Inventory
    """Where each file is and why, for `explain.explain`."""
    seconds: dict[str, float]
    """Wall-clock seconds by phase."""
    warnings: tuple[str, ...]
    cache: Used | None
    """What the cache did; None without one."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What a build would pack."""

    distributions: dict[str, str]
    """Normalised name to version, sorted."""
    files: int
    """Installed files that would be packed, bytecode apart."""
    unpacked_size: int
    """Bytes of them."""
    left_out: int
    """Installed files that would be left out, unless the trace names them."""
    warnings: tuple[str, ...]


@dataclass(slots=True)
class _Clock:
    observer: PackObserver
    seconds: dict[str, float] = field(default_factory=dict)
    _current: str = ""
    _started: float = 0.0

    def phase(self, name: str, detail: str) -> None:
        self.stop()
        self._current, self._started = name, time.perf_counter()
        self.observer.phase(name, detail)

    def stop(self) -> None:
        if self._current:
            self.seconds[self._current] = time.perf_counter() - self._started
            self._current = ""


def build_pack(options: PackOptions, *, observer: PackObserver | None = None) -> PackResult:
    """Build one pack.

    Everything but the pack (and the trace, if it is saved) lies in a temporary folder, which is gone when this
    returns or raises, Ctrl-C included.

    Args:
        options: what to build.
        observer: is told the phases and their progress.

    Raises:
        ConfigError: options that contradict each other, no interpreter for the target, no uv, a bad trace file.
        UnsafeArchiveError: `PackOptions.from_dir` holds links out of it or special files.
        LazydepsError: installing, compiling or tracing failed.
    """
    options = check_options(options)
    assert options.python is not None
    assert options.arch is not None
    for file in options.trace_files:
        read_traces(file)  # a bad one is found out now, and not when everything is installed
    interpreter = require_interpreter(options.python)
    suffixes = target_suffixes(options.python, options.arch)
    clock = _Clock(observer or SilentObserver())
    cache = None if options.cache is None else Cache(options.cache)
    limit = size_limit()
    with ExitStack() as stack:
        scratch = _scratch(stack)
        tree = Path(scratch, "tree").resolve()
        clock.phase("install", describe(options))
        filled, files, planned = _install(options, tree, interpreter, clock)
        warnings = [*filled.warnings, *planned.warnings]
        distributions = resolve.list_distributions(tree)

        clock.phase("compile", f"bytecode for Python {options.python}")
        stays = [path for path in files if path not in planned.removable]
        compiled = compile_tree(
            tree,
            stays,
            interpreter=interpreter,
            optimize=options.optimize,
            jobs=options.jobs,
            cache=cache,
            on_progress=clock.observer.progress,
        )
        stripped = strip_tree(tree, stays) if options.strip else Stripped({}, ())
        warnings += stripped.warnings
        files = sorted({*files, *compiled.pycs})
        elf = ElfTree(tree, files)

        clock.phase("trace", tracing.describe(options))
        before = looks(tree, files)
        recording = tracing.obtain(
            options,
            tree,
            requested=filled.requested,
            suffixes=suffixes,
            elf=elf,
            interpreter=interpreter,
            scratch=Path(scratch),
            cache=cache,
        )
        warnings += tracing.tidy(tree, before)
        fitted = fit(recording.trace, files, suffixes=suffixes)
        trace = replace(fitted.trace, python=options.python, arch=options.arch)
        trace = accompany(trace, planned.beside, frozenset(files))
        if options.save_trace is not None:
            trace.save(options.save_trace)
        warnings += tracing.warnings_of(recording, fitted.dropped, len(trace.order))

        needed = slim.needed_files(trace.order, planned, files, elf=elf, cache_tag=interpreter.cache_tag)
        late = [path for path in planned.removable if path in needed]
        mended = compile_tree(tree, late, interpreter=interpreter, optimize=options.optimize, jobs=options.jobs)
        slimmed = slim.slim(
            tree,
            resolve.list_files(tree),
            planned,
            needed=needed,
            options=options,
            opened=[entry.removeprefix(FILE_PREFIX) for entry in trace.order if entry.startswith(FILE_PREFIX)],
            stripped=stripped.saved,
            cache_tag=interpreter.cache_tag,
        )
        warnings += slimmed.warnings
        files = resolve.list_files(tree)
        elf = ElfTree(tree, files)

        members = arrange(
            tree,
            files,
            trace=trace,
            elf=elf,
            suffixes=suffixes,
            cache_tag=interpreter.cache_tag,
            opened=planned.opened,
        )
        target = Target(
            python=options.python,
            arch=options.arch if elf.has_machine_code() else "any",
            libc="glibc",
            libc_version=elf.required_glibc(),
            pyc_magic=interpreter.magic,
        )
        clock.phase("write", f"{len(members)} files")
        written = write_pack(
            options.out,
            members,
            target=target,
            distributions=distributions,
            absent=trace.absent,
            stdlib=() if PATCH_STDLIB & distributions.keys() else trace.stdlib,
            level=options.level,
            jobs=options.jobs,
            cache=cache,
            on_progress=clock.observer.progress,
        )
        inventory = Inventory(
            owners=planned.owners,
            sets={member.path: member.set for member in members},
            slimmed=slimmed,
            trace=trace,
            boot=boot_files(trace.order, frozenset(files), elf, interpreter.cache_tag),
            cache_tag=interpreter.cache_tag,
        )
        clock.phase("clean", "temporary files")
    clock.stop()
    if cache is not None:
        cache.trim(limit)
        warnings += cache.warnings
    return PackResult(
        written=written,
        target=target,
        distributions=distributions,
        trace=trace,
        trace_dropped=fitted.dropped,
        failed_imports=dict(recording.failed),
        without_bytecode=tuple(sorted({*compiled.failed, *mended.failed})),
        slimmed=slimmed,
        inventory=inventory,
        seconds=clock.seconds,
        warnings=tuple(warnings),
        cache=None if cache is None else cache.used,
    )


def preview_pack(options: PackOptions, *, observer: PackObserver | None = None) -> Preview:
    """Say what a build would pack: its first step, in a temporary folder. Nothing is written.

    Raises:
        ConfigError, UnsafeArchiveError, LazydepsError: as `build_pack`, as far as that step goes.
    """
    options = check_options(options)
    assert options.python is not None
    for file in options.trace_files:
        read_traces(file)
    interpreter = require_interpreter(options.python)
    clock = _Clock(observer or SilentObserver())
    with ExitStack() as stack:
        scratch = _scratch(stack)
        tree = Path(scratch, "tree").resolve()
        clock.phase("install", describe(options))
        filled, files, planned = _install(options, tree, interpreter, clock)
        clock.stop()
        stays = [path for path in files if path not in planned.removable]
        return Preview(
            distributions=resolve.list_distributions(tree),
            files=len(stays),
            unpacked_size=sum((tree / path).stat().st_size for path in stays),
            left_out=len(planned.removable),
            warnings=(*filled.warnings, *planned.warnings),
        )


def _scratch(stack: ExitStack) -> str:
    """Return a new folder that is removed with the stack; no signal comes between its making and that."""
    with interrupts.held():
        folder = tempfile.TemporaryDirectory(prefix="lazydeps-pack-", ignore_cleanup_errors=True)
        return stack.enter_context(folder)


def _install(
    options: PackOptions, tree: Path, interpreter: Interpreter, clock: _Clock
) -> tuple[Filled, list[str], slim.Plan]:
    """Fill the tree; return what there is to say of it, its files, and which of them may be left out."""
    assert options.python is not None
    assert options.arch is not None
    filled = fill(options, tree, interpreter, on_line=lambda line: clock.observer.progress(0, 0, line))
    files = resolve.list_files(tree)
    resolve.check_abi(
        files,
        python=options.python,
        arch=options.arch,
        what=str(options.from_dir or options.from_archive or "what uv installed"),
    )
    return filled, files, slim.plan(tree, files, options)
