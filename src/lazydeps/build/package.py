"""Build the zip file of a function: its own code, light dependencies, lazydeps' runtime, ``lazydeps.lock``.

The same inputs give the same bytes on every machine. It prints nothing, and talks to no AWS service.
"""

from __future__ import annotations

import base64
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from lazydeps._lockfile import NAME
from lazydeps.errors import ConfigError, LazydepsError

from . import lockfile, resolve, runtime_tree, slim, zip_file
from .bytecode import compile_tree
from .handler import BUNDLED
from .handler_code import Handler, check_handler, choose, early_imports, find_handler
from .inputs import fill
from .interpreters import require_interpreter
from .layer import check_target
from .limits import UNZIPPED_LIMIT, UPLOAD_LIMIT
from .options import PackOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .interpreters import Interpreter

SMALL = 5_000_000
"""Bytes above which a zip file gets a warning: Lambda fetches and unzips it in every cold start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageOptions:
    """What goes into a function's zip file, and for which target."""

    out: Path
    folder: Path
    """The project's folder."""
    handler: str | None = None
    """``MODULE.FUNCTION``; None for the only usual one that the folder has."""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()
    requirement_files: tuple[Path, ...] = ()
    groups: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    """Distributions that go in although a pack of the lock holds them."""
    python: str | None = None
    arch: str | None = None
    runtime: bool = True
    """Whether lazydeps' runtime goes in; False where a layer has it."""
    lock: Path | None = None
    """The lock file; None for ``lazydeps.lock`` in the folder, if it is there."""
    max_size: int | None = None
    """Bytes that the zip file may have; None: a warning above `SMALL`."""


@dataclass(frozen=True, slots=True)
class Package:
    """A function's zip file."""

    path: Path
    written: bool
    """False after a dry run."""
    handler: str
    python: str
    arch: str
    size: int
    """Bytes of the zip file."""
    unpacked_size: int
    files: int
    digest: str
    """Of the zip file, ``sha256:HEX``."""
    code_sha256: str
    """The same in base64, as Lambda shows it (``CodeSha256``)."""
    contents: dict[str, int]
    """Posix path to bytes, sorted."""
    distributions: dict[str, str]
    """Normalised name to version, of what is in it."""
    left_out: dict[str, str]
    """Normalised name to the pack that holds the distribution."""
    runtime: bool
    lock: bool
    """Whether it holds a lock file."""
    warnings: tuple[str, ...] = field(default=())


def build_package(options: PackageOptions, *, dry_run: bool = False) -> Package:
    """Build a function's zip file.

    Args:
        options: what goes in.
        dry_run: do all of it but write no zip file.

    Raises:
        ConfigError: the handler is not there or cannot be called, a pattern matches nothing, no interpreter or uv.
        LazydepsError: the dependencies cannot be installed, or the result is larger than Lambda takes.
    """
    python, arch = check_target(options.python, options.arch)
    moment = zip_file.moment()
    handler = Handler.parse(options.handler) if options.handler else find_handler(options.folder)
    if handler is None:
        raise ConfigError(
            f"which function is the handler? {options.folder} has none of the usual ones (app.handler, "
            "lambda_function.lambda_handler, main.handler). Name it: --handler MODULE.FUNCTION."
        )
    code = choose(options.folder, handler=handler, include=options.include, exclude=options.exclude)
    old = options.out.resolve()  # what `--include "**"` finds of the last time; each zip file would hold the one before
    code = replace(code, files={name: path for name, path in code.files.items() if path != old})
    unclear = check_handler(handler, code.files)
    warnings = [f"{unclear}: whether it can be called was not checked."] if unclear else []
    warnings += [
        f"{name} was left out, because files of that name often hold secrets. If it belongs into the zip file, give it "
        "an --include of its own, without a wildcard."
        for name in code.secrets
    ]
    interpreter = require_interpreter(python)
    lock = _lock_file(options)
    packed = {} if lock is None else packed_distributions(lock, python, arch)
    with tempfile.TemporaryDirectory(prefix="lazydeps-package-", ignore_cleanup_errors=True) as scratch:
        tree = Path(scratch, "task").resolve()
        tree.mkdir()
        if options.runtime:
            runtime = runtime_tree.installed_lazydeps()
            warnings += runtime_tree.install_runtime(tree, runtime, python=python, arch=arch, interpreter=interpreter)
        held = resolve.list_distributions(tree)
        light = Path(scratch, "light").resolve()
        left_out: dict[str, str] = {}
        if options.requirements or options.requirement_files or options.groups:
            warnings += _install_light(options, light, interpreter, python, arch, packed, Path(scratch))
            left_out, said = _leave_out(light, packed=packed, held=held, also=options.also)
            warnings += said
            _merge(light, tree)
        warnings += _early_warnings(code.files, left_out)
        if lock is None:  # with packs, whose modules it does not name, nobody can tell
            warnings += _missing_warnings(code.files, tree)
        distributions = resolve.list_distributions(tree)
        for name, source in code.files.items():
            target = tree / name
            if target.exists():
                warnings.append(f"{name} is in the function's code and in a dependency: the code's is taken.")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
        if lock is not None:
            shutil.copyfile(lock, tree / NAME)
        compiled = compile_tree(tree, resolve.list_files(tree), interpreter=interpreter)
        warnings += [
            f"{name} is no Python {python}: it has no bytecode." for name in compiled.failed if name in code.files
        ]
        for info in sorted(tree.glob("*.dist-info")):
            runtime_tree.write_record(tree, info)
        contents = {name: (tree / name).stat().st_size for name in resolve.list_files(tree)}
        unpacked = sum(contents.values())
        if unpacked >= UNZIPPED_LIMIT:
            raise LazydepsError(
                f"the function would have {unpacked:,} bytes unzipped, and Lambda takes less than {UNZIPPED_LIMIT:,} "
                f"with all layers. Heaviest: {_heaviest(contents)}. Move what is heavy into a pack: `lazydeps plan` "
                "says what."
            )
        part = Path(scratch, "function.zip")
        size, digest = zip_file.write_zip(part, tree, list(contents), moment=moment)
        if options.max_size is not None and size > options.max_size:
            raise LazydepsError(
                f"the zip file would have {size:,} bytes, and --max-size allows {options.max_size:,}. Heaviest: "
                f"{_heaviest(contents)}. Nothing was written."
            )
        if not dry_run:
            _move(part, options.out.absolute())
    if size >= UPLOAD_LIMIT:
        warnings.append(
            f"the zip file has {size:,} bytes, and update-function-code takes less than {UPLOAD_LIMIT:,} directly: "
            "upload it to S3 and name it with --s3-bucket and --s3-key."
        )
    elif size > SMALL and options.max_size is None:
        warnings.append(
            f"the zip file has {size:,} bytes. Lambda fetches and unzips it before each cold start: move what is heavy "
            f"into a pack. Heaviest: {_heaviest(contents)}."
        )
    return Package(
        path=options.out,
        written=not dry_run,
        handler=str(handler),
        python=python,
        arch=arch,
        size=size,
        unpacked_size=unpacked,
        files=len(contents),
        digest=f"sha256:{digest.hex()}",
        code_sha256=base64.b64encode(digest).decode(),
        contents=contents,
        distributions=distributions,
        left_out=left_out,
        runtime=options.runtime,
        lock=lock is not None,
        warnings=tuple(warnings),
    )


def packed_distributions(lock: Path, python: str, arch: str) -> dict[str, tuple[str, str]]:
    """Return what the packs of a lock file hold for a target: normalised name to (pack, version).

    Raises:
        ConfigError: the file is no lock file.
    """
    found: dict[str, tuple[str, str]] = {}
    for name, targets in lockfile.read(lock).packs.items():
        for key in (lockfile.target_key(python, arch), lockfile.target_key(python, "any"), lockfile.ARCHIVE):
            if key in targets:
                distributions = targets[key].distributions
                found.update({canonicalize_name(each): (name, version) for each, version in distributions.items()})
                break
    return found


def _lock_file(options: PackageOptions) -> Path | None:
    if options.lock is not None:
        if not options.lock.is_file():
            raise ConfigError(f"there is no lock file {options.lock}. `lazydeps push --name NAME` writes one.")
        return options.lock
    usual = options.folder / NAME
    return usual if usual.is_file() else None


def _install_light(
    options: PackageOptions,
    tree: Path,
    interpreter: Interpreter,
    python: str,
    arch: str,
    packed: Mapping[str, tuple[str, str]],
    scratch: Path,
) -> tuple[str, ...]:
    """Install the light dependencies in versions that go with what the packs hold."""
    pins = scratch / "packed.txt"
    # A local version, such as torch's +cpu, is in no index that uv would ask without being told.
    pins.write_text("".join(f"{name}=={version}\n" for name, (_, version) in packed.items() if "+" not in version))
    wanted = PackOptions(
        out=options.out,
        requirements=tuple(line for line in options.requirements if not (options.runtime and _is_lazydeps(line))),
        requirement_files=options.requirement_files,
        constraint_files=(pins,) if packed else (),
        project=options.folder if options.groups else None,
        groups=options.groups,
        python=python,
        arch=arch,
        glibc=resolve.glibc_floor(python),
    )
    if not (wanted.requirements or wanted.requirement_files or wanted.groups):
        tree.mkdir()
        return ()
    warnings = fill(wanted, tree, interpreter).warnings
    files = resolve.list_files(tree)
    slim.slim(tree, files, slim.plan(tree, files, wanted), needed=(), options=wanted, cache_tag=interpreter.cache_tag)
    resolve.check_abi(resolve.list_files(tree), python=python, arch=arch, what="the light dependencies")
    return warnings


def _is_lazydeps(line: str) -> bool:
    try:
        return canonicalize_name(Requirement(line).name) == "lazydeps"
    except InvalidRequirement:
        return False


def _leave_out(
    tree: Path, *, packed: Mapping[str, tuple[str, str]], held: Mapping[str, str], also: tuple[str, ...]
) -> tuple[dict[str, str], list[str]]:
    """Remove the distributions that the packs hold, and those of the runtime; return the former, and warnings."""
    kept = {canonicalize_name(name) for name in also}
    left_out: dict[str, str] = {}
    warnings = []
    gone: set[str] = set()
    stays: set[str] = set()
    versions = resolve.list_distributions(tree)
    for name, files in resolve.distribution_files(tree).items():
        if name in held:
            gone.update(files)
            if held[name] != versions[name] and name != "lazydeps":
                warnings.append(
                    f"{name} {held[name]} comes with lazydeps' runtime; the requirements give {versions[name]}, which "
                    "was left out."
                )
        elif name in packed and name not in kept:
            left_out[name], version = packed[name]
            gone.update(files)
            if version != versions[name]:
                warnings.append(
                    f"{name}: the requirements give {versions[name]}, and the pack {left_out[name]} has {version}."
                )
        else:
            stays.update(files)
    for name in gone - stays:
        path = tree / name
        if path.resolve().is_relative_to(tree):
            path.unlink(missing_ok=True)
    for folder, _, _ in os.walk(tree, topdown=False):
        if Path(folder) != tree and not os.listdir(folder):
            Path(folder).rmdir()
    return left_out, warnings


def _early_warnings(files: Mapping[str, Path], left_out: Mapping[str, str]) -> list[str]:
    """Warn of modules at the top that import what only a pack holds before `lazydeps.load` runs."""
    warnings = []
    for name, path in files.items():
        if not name.endswith(".py") or not left_out:
            continue
        try:
            early, loads = early_imports(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError):
            continue
        missing = sorted(early & {dist.replace("-", "_") for dist in left_out})
        if loads and missing:
            warnings.append(
                f"{name} imports {', '.join(missing)} before it calls lazydeps.load(), and only the pack "
                f"{left_out[missing[0].replace('_', '-')]} has it. Move the import into the block, or put it into the "
                f"zip file too: --also {missing[0]}."
            )
    return warnings


def _missing_warnings(files: Mapping[str, Path], tree: Path) -> list[str]:
    """Warn of modules that the code imports without a pack, and that nothing installs."""
    has = {name.partition("/")[0].partition(".")[0] for name in (*resolve.list_files(tree), *files)}
    has |= {*sys.stdlib_module_names, *BUNDLED, "awslambdaric", "lazydeps"}
    early: dict[str, tuple[set[str], bool]] = {}
    for name, path in files.items():
        if name.endswith(".py"):
            with suppress(SyntaxError, ValueError):
                early[name] = early_imports(path.read_text(encoding="utf-8"))
    packs = any(loads for _, loads in early.values())
    missing: dict[str, str] = {}
    for name, (imports, loads) in early.items():
        if loads or not packs:  # what another module imports may come from a pack
            beside = {path.stem if path.is_file() else path.name for path in files[name].parent.iterdir()}
            missing.update((top, name) for top in sorted(imports - has - beside))
    if not missing:
        return []
    said = ", ".join(f"{file} imports {top}" for top, file in missing.items())
    how = f"-r requirements.txt, or --with {next(iter(missing))}"
    return [f"{said}: not in the zip file, not in a lock's pack, not in Lambda. Name what installs it: {how}."]


def _merge(source: Path, target: Path) -> None:
    for name in resolve.list_files(source):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(source / name, target / name)


def _move(part: Path, out: Path) -> None:
    """Put a file of the scratch folder, which may be on another disk, in its place, whole or not at all."""
    near = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        shutil.copyfile(part, near)
        os.replace(near, out)
    finally:
        near.unlink(missing_ok=True)


def _heaviest(contents: Mapping[str, int]) -> str:
    sizes: dict[str, int] = {}
    for name, size in contents.items():
        top = name.partition("/")[0]
        sizes[top] = sizes.get(top, 0) + size
    most = sorted(sizes, key=lambda top: -sizes[top])[:3]
    return ", ".join(f"{top} {sizes[top] / 1e6:.1f} MB" for top in most)
