"""Build a pack: install, compile, trace, arrange, write, in a scratch folder that is removed afterwards.

Knows the order of the steps and what each needs from the others; it prints nothing and uploads nothing.
"""

from __future__ import annotations

import platform
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lazydeps.errors import ConfigError, LazydepsError

from . import resolve
from .bytecode import compile_tree
from .elf import ElfTree
from .interpreters import Interpreter, canonical_arch, require_interpreter
from .sets import arrange
from .trace import Recording, Trace, fit, record, target_suffixes
from .write import Target, write_pack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .write import Written

ARCHITECTURES = ("x86_64", "arm64")
DEFAULT_LEVEL = 12
"""zstd level; 19 packs a few per cent smaller at a fifth of the speed."""
PATCH_STDLIB = frozenset({"eventlet", "gevent"})
"""Distributions that replace parts of the standard library and want to do so before others import it."""
PHASES = ("install", "compile", "trace", "write")
"""The phases that an observer is told about, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackOptions:
    """What to pack, for which target, and how to find out what an import touches."""

    out: Path
    """The pack to write, conventionally ``NAME.tar.zst``."""
    requirements: tuple[str, ...] = ()
    requirement_files: tuple[Path, ...] = ()
    from_dir: Path | None = None
    """An installed site-packages folder, instead of requirements."""
    python: str | None = None
    """The target's minor version, for example ``3.13``; the running one by default."""
    arch: str | None = None
    """``x86_64`` or ``arm64`` (``aarch64`` and ``amd64`` are understood); this machine's by default."""
    glibc: str | None = None
    """The oldest C library the pack has to run on; by default Lambda's for that Python (`resolve.glibc_floor`)."""
    level: int = DEFAULT_LEVEL
    trace_statements: tuple[str, ...] = ()
    """Python statements to record, for example ``import numpy, pandas``."""
    trace_script: Path | None = None
    """A program to record."""
    trace_file: Path | None = None
    """A trace that was recorded before."""
    save_trace: Path | None = None
    """Where to write the trace that was used."""
    jobs: int | None = None
    """Processes and threads at a time; the machine's cores by default."""


class PackObserver(Protocol):
    """Is told how far a build has come, from the building thread only."""

    def phase(self, name: str, detail: str) -> None:
        """Take the start of a phase (one of `PHASES`) and what it works on, in words."""

    def progress(self, done: int, total: int) -> None:
        """Take how much of the current phase is done, in units of the phase's own."""


class SilentObserver:
    """An observer that does nothing."""

    def phase(self, name: str, detail: str) -> None:
        """Do nothing."""

    def progress(self, done: int, total: int) -> None:
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
    seconds: dict[str, float]
    """Wall-clock seconds by phase."""
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
    assert options.glibc is not None
    given = None if options.trace_file is None else Trace.load(options.trace_file)
    interpreter = require_interpreter(options.python)
    suffixes = target_suffixes(options.python, options.arch)
    clock = _Clock(observer or SilentObserver())
    with tempfile.TemporaryDirectory(prefix="lazydeps-pack-", ignore_cleanup_errors=True) as scratch:
        tree = Path(scratch, "tree").resolve()
        clock.phase("install", _what(options))
        warnings, requested = _fill(options, tree, interpreter)
        distributions = resolve.list_distributions(tree)
        files = resolve.list_files(tree)
        resolve.check_abi(
            files, python=options.python, arch=options.arch, what=str(options.from_dir or "what uv installed")
        )

        clock.phase("compile", f"bytecode for Python {options.python}")
        compiled = compile_tree(
            tree, files, interpreter=interpreter, jobs=options.jobs, on_progress=clock.observer.progress
        )
        files = sorted({*files, *compiled.pycs})
        elf = ElfTree(tree, files)

        clock.phase("trace", _how(options))
        if given is not None:
            recording = Recording(given, {})
        elif _can_import(interpreter, options):
            recording = _record(options, tree, requested, suffixes, elf, interpreter)
        else:
            recording = _record_here(options, Path(scratch), requested, distributions, interpreter)
        fitted = fit(recording.trace, files, suffixes=suffixes)
        trace = replace(fitted.trace, python=options.python, arch=options.arch)
        if options.save_trace is not None:
            trace.save(options.save_trace)
        warnings += _trace_warnings(recording, fitted.dropped, len(trace.order))

        members = arrange(tree, files, trace=trace, elf=elf, suffixes=suffixes, cache_tag=interpreter.cache_tag)
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
            on_progress=clock.observer.progress,
        )
        clock.stop()
    return PackResult(
        written=written,
        target=target,
        distributions=distributions,
        trace=trace,
        trace_dropped=fitted.dropped,
        failed_imports=dict(recording.failed),
        without_bytecode=compiled.failed,
        seconds=clock.seconds,
        warnings=tuple(warnings),
    )


def check_options(options: PackOptions) -> PackOptions:
    """Return options with the defaults filled in.

    Raises:
        ConfigError: they contradict each other or name something that does not exist.
    """
    if options.from_dir is not None and (options.requirements or options.requirement_files):
        raise ConfigError("a pack is made of requirements or of --from-dir, not both. Install them into that folder.")
    if options.from_dir is None and not options.requirements and not options.requirement_files:
        raise ConfigError("nothing to pack: give requirements (numpy pandas), -r requirements.txt or --from-dir DIR.")
    ways = (bool(options.trace_statements), options.trace_script is not None, options.trace_file is not None)
    if sum(ways) > 1:
        raise ConfigError("--trace, --trace-script and --trace-file exclude each other: give one.")
    python = options.python or f"{sys.version_info[0]}.{sys.version_info[1]}"
    parts = python.split(".")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts) or parts[0] != "3" or int(parts[1]) < 11:
        raise ConfigError(f"--python wants a minor version from 3.11 on, such as 3.13; found {python!r}.")
    arch = canonical_arch(options.arch or platform.machine())
    if arch not in ARCHITECTURES:
        raise ConfigError(f"--arch wants x86_64 or arm64, the two that AWS Lambda has; found {arch!r}.")
    glibc = options.glibc or resolve.glibc_floor(python)
    if not all(part.isdecimal() for part in glibc.split(".")) or glibc.count(".") != 1:
        raise ConfigError(f"--glibc wants a version such as {resolve.GLIBC_FLOOR}; found {glibc!r}.")
    for name, path in (("-r", file) for file in options.requirement_files):
        _must_exist(name, path)
    if options.trace_script is not None:
        _must_exist("--trace-script", options.trace_script)
    return replace(options, python=python, arch=arch, glibc=glibc)


def _must_exist(option: str, path: Path) -> None:
    if not path.is_file():
        raise ConfigError(f"{option} wants a file, and {path} is none.")


def _fill(options: PackOptions, tree: Path, interpreter: Interpreter) -> tuple[list[str], frozenset[str]]:
    """Put the target's packages into ``tree``; return warnings and the names of the requested distributions."""
    assert options.arch is not None
    if options.from_dir is not None:
        done = resolve.adopt(options.from_dir, into=tree)
        requested = frozenset(resolve.root_distributions(tree, python=options.python))
        resolve.normalise(tree, drop_scripts=False)
        return list(done.warnings), requested
    done = resolve.install(
        options.requirements,
        requirement_files=options.requirement_files,
        into=tree,
        interpreter=interpreter,
        arch=options.arch,
        glibc=options.glibc,
    )
    requested = resolve.requested_names(options.requirements, requirement_files=options.requirement_files, tree=tree)
    resolve.normalise(tree, drop_scripts=True)
    return list(done.warnings), requested


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
) -> Recording:
    assert options.arch is not None
    explicit = bool(options.trace_statements) or options.trace_script is not None
    modules = [] if explicit else resolve.requested_modules(tree, requested, suffixes=suffixes)
    return record(
        tree,
        interpreter=interpreter,
        elf=elf,
        arch=interpreter.arch,
        statements=options.trace_statements,
        script=options.trace_script,
        modules=modules,
    )


def _record_here(
    options: PackOptions,
    scratch: Path,
    requested: frozenset[str],
    distributions: Mapping[str, str],
    interpreter: Interpreter,
) -> Recording:
    """Install the same versions for this machine, and record there: imports touch the same files, by other names."""
    tree = Path(scratch, "host").resolve()
    pins = Path(scratch, "pins.txt")
    pins.write_text("".join(f"{name}=={version}\n" for name, version in distributions.items()), encoding="utf-8")
    adopted = options.from_dir is not None
    try:
        resolve.install(
            () if adopted else options.requirements,
            requirement_files=(pins,) if adopted else options.requirement_files,
            constraints=() if adopted else (pins,),
            into=tree,
            interpreter=interpreter,
            arch=interpreter.arch,
            glibc=None,
        )
    except LazydepsError as error:
        raise LazydepsError(
            f"the pack is for {options.arch}, this machine is {interpreter.arch} ({interpreter.platform}), and what an "
            f"import touches could not be recorded here either. Record it on the target with --save-trace and give the "
            f"file here with --trace-file. {error}"
        ) from error
    resolve.normalise(tree, drop_scripts=True)
    files = resolve.list_files(tree)
    compiled = compile_tree(tree, files, interpreter=interpreter, jobs=options.jobs)
    elf = ElfTree(tree, {*files, *compiled.pycs})
    return _record(options, tree, requested, interpreter.extension_suffixes, elf, interpreter)


def _trace_warnings(recording: Recording, dropped: Sequence[str], kept: int) -> list[str]:
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


def _what(options: PackOptions) -> str:
    if options.from_dir is not None:
        return str(options.from_dir)
    return " ".join([*options.requirements, *(f"-r {file}" for file in options.requirement_files)])


def _how(options: PackOptions) -> str:
    if options.trace_file is not None:
        return str(options.trace_file)
    if options.trace_script is not None:
        return str(options.trace_script)
    return "; ".join(options.trace_statements) or "the top-level modules"
