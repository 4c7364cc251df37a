"""Propose how to split a project: what stays in the function's zip file, what goes into a pack, and what fits where.

Builds the pack of everything in a scratch folder, so that sizes are those of real frames, and measures the imports of
its trace where this machine can run them. What the proposal says as text is `proposal.py`'s.
"""

from __future__ import annotations

import tempfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from lazydeps import _pack
from lazydeps.errors import LazydepsError

from . import model, read, resolve
from .bytecode import compile_tree
from .elf import is_shared_object
from .handler_code import Handler, choose, early_imports, find_handler
from .inputs import fill_like
from .interpreters import require_interpreter
from .limits import (
    FREE_STORAGE,
    INIT_LIMIT,
    MOST_STORAGE,
    STORE_OVERHEAD,
    UNZIPPED_LIMIT,
    UPLOAD_LIMIT,
    memory_for,
    storage_for,
)
from .options import PackOptions, check_options
from .pack import build_pack
from .replay import Replayed, module_names, replay
from .requested import requested
from .trace import fit, target_suffixes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from .pack import PackObserver, PackResult

MEMORY_SIZES = (512, 1024, 1769, 3008)
"""MB."""
LIGHT = 3_000_000
"""Bytes, unpacked and with bytecode, up to which a distribution without machine code is light."""
LIGHT_CODE = 1_000_000
"""The same for one with machine code."""
RUNTIME_UNPACKED, RUNTIME_ZIPPED = 1_500_000, 650_000
"""Bytes of lazydeps and zstandard in a zip file (docs/how-to/lambda-layer.md)."""
TIMEOUT = 30
"""Seconds: an init that was stopped runs again in the first invocation, under this timeout."""
SAMPLE = 32 << 20
"""Bytes that are deflated to estimate a zip file; of more, evenly spread blocks."""
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """One distribution, and where it is to go."""

    name: str
    version: str
    where: str
    """``zip``, ``pack``, or ``both``: in the zip file because it is imported before the pack is loaded."""
    why: str
    unpacked: int
    """Bytes with bytecode."""
    packed: int
    """Its share of the frames, bytes."""
    start: int
    """Bytes of that which a start fetches: its share of the boot and data sets."""
    machine_code: bool
    import_seconds: float | None
    """Of its own modules, without what they import; None where it was not measured."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One of Lambda's limits, and what the proposal takes of it."""

    name: str
    takes: float
    limit: float
    unit: str
    fits: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """A proposal."""

    python: str
    arch: str
    handler: str | None
    verdict: str
    """``needed``, ``optional`` (everything fits into the zip file), ``not needed`` (nothing is heavy) or
    ``impossible``."""
    parts: tuple[Part, ...]
    """Heaviest first."""
    limits: tuple[Limit, ...]
    everything_unpacked: int
    """Bytes of the function with all dependencies in the zip file, unzipped."""
    everything_zipped: int
    """The same zipped, an estimate."""
    zip_unpacked: int
    zip_size: int
    """Bytes of the proposed zip file; the latter an estimate."""
    pack_size: int
    pack_start: int
    """Bytes of the proposed pack, and of its boot and data sets."""
    pack_unpacked: int
    level: int
    """The zstd level that the sizes are of."""
    replayed: Replayed | None
    """None where this machine cannot run the imports."""
    estimates: tuple[model.Estimate, ...]
    """By memory size; none where nothing was measured."""
    memory_size: int
    ephemeral_storage: int
    """MB."""
    timeout: int
    requested: dict[str, str]
    """Normalised names of what was asked for, and how."""
    modules: dict[str, str]
    """Top-level modules that only one distribution has: name to distribution."""
    warnings: tuple[str, ...]

    def names(self, where: str) -> list[str]:
        """Return the distributions that go somewhere (``both`` counts as either), sorted."""
        return sorted(part.name for part in self.parts if part.where in (where, "both"))


@dataclass(frozen=True, slots=True)
class _Sizes:
    unpacked: int = 0
    packed: float = 0.0
    start: float = 0.0
    boot: int = 0
    """Unpacked bytes of the boot set."""
    landed: int = 0
    """Unpacked bytes of the boot and data sets."""


def make_plan(
    options: PackOptions, *, folder: Path, handler: str | None = None, observer: PackObserver | None = None
) -> Plan:
    """Propose a split.

    Args:
        options: everything that the function imports, as for one pack; ``out`` is not written.
        folder: the project's folder, for the handler and the code beside it.
        handler: ``MODULE.FUNCTION``; None for the usual one that is there, if any.
        observer: is told the phases of the build.

    Raises:
        ConfigError, LazydepsError: as `build_pack`; or the handler is not there.
    """
    options = check_options(options)
    assert options.python is not None
    assert options.arch is not None
    known = Handler.parse(handler) if handler else find_handler(folder)
    code = {} if known is None else dict(choose(folder, handler=known).files)
    with tempfile.TemporaryDirectory(prefix="lazydeps-plan-", ignore_cleanup_errors=True) as scratch:
        out, tree = Path(scratch, "all.tar.zst"), Path(scratch, "tree").resolve()
        result = build_pack(replace(options, out=out), observer=observer)
        with read.open_pack(read.as_ref(str(out))) as opened:
            read.extract(opened, tree)
            owners = _owners(tree)
            sizes = _sizes(opened, owners)
        requires = _closures(tree, options.python)
        if observer is not None:
            observer.phase("Measuring", "the imports")
        warnings = list(result.warnings)
        wanted = requested(options, tree, requires=requires, warnings=warnings)
        replayed, seconds = _measure(options, result, tree, Path(scratch), warnings)
        suffixes = target_suffixes(options.python, options.arch)
        modules = _module_owners(tree, suffixes)
        early, loads = _early(code, modules)
        compiled = {owner for path, owner in owners.items() if is_shared_object(path.rpartition("/")[2])}
        heavy = {
            name: f"{size.unpacked / 1e6:.1f} MB{' with machine code' if name in compiled else ''}"
            for name, size in sizes.items()
            if name and size.unpacked > (LIGHT_CODE if name in compiled else LIGHT)
        }
        large = frozenset(heavy)
        for name in _recorded_with(options, result, modules, suffixes):
            heavy.setdefault(name, "the recorded program imports it")
        parts = _split(result.distributions, sizes, compiled, requires, heavy, large, early, seconds, warnings)
        ratio = _deflated(tree, resolve.list_files(tree))
    code_size = sum(path.stat().st_size for path in code.values())
    everything = sum(size.unpacked for size in sizes.values()) + code_size + RUNTIME_UNPACKED
    zipped = int(ratio * (everything - RUNTIME_UNPACKED)) + RUNTIME_ZIPPED
    in_zip = sum(part.unpacked for part in parts if part.where != "pack") + code_size
    packed = [part for part in parts if part.where != "zip"]
    if packed and code and not loads:
        warnings.append(
            "nothing in the code calls lazydeps.load() yet: put the imports of what goes into the pack into "
            "`with lazydeps.load():`."
        )
    chosen = [sizes[part.name] for part in packed]
    landed = sum(size.landed for size in chosen)
    unpacked = sum(size.unpacked for size in chosen)
    start = sum(part.start for part in packed)
    estimates = () if replayed is None else _estimates(replayed, start)
    storage = _storage(landed, unpacked)
    memory = _memory(estimates, sum(size.boot for size in chosen))
    zip_size = int(ratio * in_zip) + RUNTIME_ZIPPED
    limits = _limits(in_zip + RUNTIME_UNPACKED, zip_size, landed, unpacked, estimates, memory)
    fits = everything < UNZIPPED_LIMIT
    verdict = "not needed" if not packed else "optional" if fits else "needed"
    if not all(limit.fits for limit in limits if limit.unit != "s"):
        verdict = "impossible"
    return Plan(
        python=options.python,
        arch=options.arch,
        handler=None if known is None else str(known),
        verdict=verdict,
        parts=tuple(sorted(parts, key=lambda part: (-part.unpacked, part.name))),
        limits=limits,
        everything_unpacked=everything,
        everything_zipped=zipped,
        zip_unpacked=in_zip + RUNTIME_UNPACKED,
        zip_size=zip_size,
        pack_size=sum(part.packed for part in packed),
        pack_start=start,
        pack_unpacked=unpacked,
        level=options.level,
        replayed=replayed,
        estimates=estimates,
        memory_size=memory,
        ephemeral_storage=storage,
        timeout=TIMEOUT,
        requested=wanted,
        modules={top: next(iter(names)) for top, names in sorted(_tops(modules).items()) if len(names) == 1},
        warnings=tuple(warnings),
    )


# -- sizes


def _owners(tree: Path) -> dict[str, str]:
    """Return which distribution each file belongs to; bytecode belongs to its source's."""
    owners: dict[str, str] = {}
    for name, files in resolve.distribution_files(tree).items():
        owners.update(dict.fromkeys(files, name))
    for path in resolve.list_files(tree):
        if path.endswith(".pyc"):
            folder, _, file = path.rpartition("/")
            source = f"{folder.removesuffix('__pycache__')}{file.partition('.')[0]}.py"
            owners.setdefault(path, owners.get(source, ""))
    return owners


def _sizes(opened: read.OpenPack, owners: Mapping[str, str]) -> dict[str, _Sizes]:
    """Return what each distribution takes, each frame shared out by the bytes in it; ``""`` owns the rest."""
    found: dict[str, _Sizes] = {}
    for section in opened.sections:
        shares = [0.0] * len(section.paths)
        for number in range(section.first, section.first + len(section)):
            parts = list(_pack.runs(section, number))
            length = sum(end - begin for _, begin, end in parts) or 1
            packed = section.packed[number - section.first]
            for file, begin, end in parts:
                shares[file] += packed * (end - begin) / length
        for file, path in enumerate(section.paths):
            kind, size = opened.set_of(section.frames_of(file)[0]), section.sizes[file]
            name = owners.get(path, "")
            old = found.get(name, _Sizes())
            found[name] = _Sizes(
                unpacked=old.unpacked + size,
                packed=old.packed + shares[file],
                start=old.start + (shares[file] if kind != "cold" else 0.0),
                boot=old.boot + (size if kind == "boot" else 0),
                landed=old.landed + (size if kind != "cold" else 0),
            )
    return found


def _deflated(tree: Path, files: Sequence[str]) -> float:
    """Return the bytes that zlib makes of one byte of a tree, from all of it or from evenly spread blocks."""
    blocks = [(path, offset) for path in files for offset in range(0, max(1, (tree / path).stat().st_size), _BLOCK)]
    every = (
        max(1, len(blocks) * _BLOCK // SAMPLE) if sum((tree / path).stat().st_size for path in files) > SAMPLE else 1
    )
    taken = made = 0
    for path, offset in blocks[::every]:
        with (tree / path).open("rb") as file:
            file.seek(offset)
            content = file.read(_BLOCK)
        taken += len(content)
        made += len(zlib.compress(content, 6)) if content else 0
    return made / taken if taken else 1.0


# -- what needs what


def _closures(tree: Path, python: str) -> dict[str, frozenset[str]]:
    """Return what each distribution needs, directly or not, among those that are there."""
    environment = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "extra": ""}
    environment |= {"python_version": python, "python_full_version": f"{python}.0"}
    direct: dict[str, set[str]] = {}
    everything = resolve.distribution_requires(tree)
    for name, lines in everything.items():
        direct[name] = set()
        for line in lines:
            try:
                requirement = Requirement(line)
            except InvalidRequirement:
                continue
            if requirement.marker is None or requirement.marker.evaluate(environment):
                direct[name].add(canonicalize_name(requirement.name))
    closures = {}
    for name in everything:
        seen: set[str] = set()
        left = [name]
        while left:
            new = direct.get(left.pop(), set()) & everything.keys() - seen - {name}
            seen |= new
            left += new
        closures[name] = frozenset(seen)
    return closures


def _module_owners(tree: Path, suffixes: Sequence[str]) -> dict[str, str]:
    return {
        module: name
        for name, files in resolve.distribution_files(tree).items()
        for module in module_names(files, suffixes)
    }


def _tops(modules: Mapping[str, str]) -> dict[str, set[str]]:
    """Return which distributions have modules below a top-level name."""
    tops: dict[str, set[str]] = {}
    for module, name in modules.items():
        tops.setdefault(module.partition(".")[0], set()).add(name)
    return tops


def _recorded_with(
    options: PackOptions, result: PackResult, modules: Mapping[str, str], suffixes: Sequence[str]
) -> set[str]:
    """Return the distributions that a recorded program imports: it can be recorded from a pack that has all of them.

    Of statements, those that import from the zip file are left out of the configuration instead.
    """
    if not (options.trace_scripts or options.trace_handlers):
        return set()
    return {modules[name] for name in module_names(result.trace.order, suffixes) if name in modules}


def _early(code: Mapping[str, Path], modules: Mapping[str, str]) -> tuple[dict[str, str], bool]:
    """Return the distributions that the code imports before it calls `lazydeps.load`, each with the file.

    Also whether it calls it at all.
    """
    tops = _tops(modules)
    found: dict[str, str] = {}
    loads = False
    for name, path in code.items():
        if not name.endswith(".py"):
            continue
        try:
            early, calls = early_imports(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError):
            continue
        loads |= calls
        if calls:
            found.update((dist, name) for top in early for dist in tops.get(top, ()) if len(tops[top]) == 1)
    return found, loads


def _split(
    versions: Mapping[str, str],
    sizes: Mapping[str, _Sizes],
    compiled: Collection[str],
    requires: Mapping[str, Collection[str]],
    heavy: Mapping[str, str],
    large: Collection[str],
    early: Mapping[str, str],
    seconds: Mapping[str, float] | None,
    warnings: list[str],
) -> list[Part]:
    why = {name: reason for name, reason in heavy.items() if name in versions}
    for name in versions:
        needs = sorted(heavy.keys() & set(requires.get(name, ())))
        if needs and name not in why:
            why[name] = f"needs {needs[0]}"
    for name in list(why):
        for other in requires.get(name, ()):
            why.setdefault(other, f"{name} needs it")
    first = {name: f"{file} imports it before load()" for name, file in early.items()}
    for name in early:
        if name in heavy and name in large:
            warnings.append(
                f"{early[name]} imports {name} before it calls lazydeps.load(). Move that import into the block: "
                "it is heavy."
            )
            del first[name]
            continue
        for other in requires.get(name, ()):
            first.setdefault(other, f"{name} needs it before load()")
    parts = []
    for name, version in versions.items():
        where = "both" if name in first and name in why else "pack" if name in why else "zip"
        size = sizes.get(name, _Sizes())
        parts.append(
            Part(
                name=name,
                version=version,
                where=where,
                why=first.get(name) or why.get(name) or "light",
                unpacked=size.unpacked,
                packed=round(size.packed),
                start=round(size.start),
                machine_code=name in compiled,
                import_seconds=None if seconds is None else seconds.get(name, 0.0),
            )
        )
    return parts


# -- time


def _measure(
    options: PackOptions, result: PackResult, tree: Path, scratch: Path, warnings: list[str]
) -> tuple[Replayed | None, dict[str, float] | None]:
    """Import what the trace names on this machine; for a foreign target the same versions, installed for this one."""
    assert options.python is not None
    interpreter = require_interpreter(options.python)
    suffixes = target_suffixes(options.python, interpreter.arch)
    try:
        if interpreter.platform != "linux":
            raise LazydepsError("this machine does not run Linux.")
        trace = result.trace
        if interpreter.arch != options.arch and result.target.arch != "any":
            tree = (scratch / "host").resolve()
            fill_like(options, tree, interpreter, distributions=result.distributions, pins=scratch / "host-pins.txt")
            files = resolve.list_files(tree)
            compiled = compile_tree(tree, files, interpreter=interpreter)
            trace = fit(trace, {*files, *compiled.pycs}, suffixes=suffixes).trace
        names = module_names(trace.order, suffixes)
        done = replay(tree, names, interpreter=interpreter)
    except LazydepsError as error:
        warnings.append(f"the imports could not be measured here, so no start is estimated. {error}")
        return None, None
    if done.failed:
        warnings.append(
            f"{done.failed} of the trace's {done.modules} modules could not be imported by themselves, "
            "and are not in the seconds."
        )
    modules = _module_owners(tree, suffixes)
    seconds: dict[str, float] = {}
    for module, took in done.by_module.items():
        owner = modules.get(module)
        if owner is not None:
            seconds[owner] = seconds.get(owner, 0.0) + took
    return done, seconds


def _estimates(replayed: Replayed, received: int) -> tuple[model.Estimate, ...]:
    work = model.Work(wall=replayed.wall, cpu=replayed.cpu, received=received, compiling=replayed.compiling)
    return tuple(model.estimate(work, memory) for memory in MEMORY_SIZES)


# -- limits


def _storage(landed: int, unpacked: int) -> int:
    """Return the MB of ``/tmp`` to set: room for every file, or for a start where that is more than there can be."""
    every, start = storage_for(unpacked), storage_for(landed)
    return max(FREE_STORAGE, start if every > MOST_STORAGE else every)


def _memory(estimates: Sequence[model.Estimate], boot: int) -> int:
    needed = memory_for(boot)
    for estimate in estimates:
        if estimate.memory >= needed and estimate.unlent <= INIT_LIMIT:
            return estimate.memory
    return next((size for size in (1769, 3008) if size >= needed), -(-needed // 64) * 64)


def _limits(
    unzipped: int, zipped: int, landed: int, unpacked: int, estimates: Iterable[model.Estimate], memory: int
) -> tuple[Limit, ...]:
    mb = 1 << 20
    start = landed * STORE_OVERHEAD / mb
    limits = [
        Limit("zip file, unzipped", unzipped / mb, UNZIPPED_LIMIT / mb, "MB", unzipped < UNZIPPED_LIMIT),
        Limit("zip file, direct upload", zipped / mb, UPLOAD_LIMIT / mb, "MB", zipped < UPLOAD_LIMIT),
        Limit("storage at start", start, MOST_STORAGE, "MB", start <= MOST_STORAGE),
    ]
    if unpacked * STORE_OVERHEAD / mb <= MOST_STORAGE:
        limits.append(Limit("storage with every file", unpacked * STORE_OVERHEAD / mb, MOST_STORAGE, "MB", True))
    for estimate in estimates:
        if estimate.memory == memory:
            high = max(estimate.high, estimate.unlent)
            limits.append(Limit(f"init with {memory} MB", high, INIT_LIMIT, "s", high <= INIT_LIMIT))
    return tuple(limits)
