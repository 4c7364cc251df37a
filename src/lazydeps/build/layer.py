"""Write an AWS Lambda layer that holds lazydeps' runtime and what that needs, and nothing else.

The runtime is the one that is running, without its build half. Publishing the layer is the user's own step: nothing
here talks to AWS.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import io
import os
import platform
import stat
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

import lazydeps
from lazydeps.errors import ConfigError, LazydepsError

from . import resolve
from .bytecode import compile_tree
from .elf import is_shared_object
from .interpreters import canonical_arch, find_interpreter, require_interpreter
from .options import ARCHITECTURES
from .strip import strip_elf
from .trace import target_suffixes
from .write import EPOCH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .interpreters import Interpreter

SIZE_GOAL = 1_500_000
"""Bytes that a layer should stay below; a larger one works and gets a warning."""
FOLDER = "python"
"""Where a layer has its packages: Lambda puts ``/opt/python`` on `sys.path` (AWS, "Packaging your layer content")."""
_LAST_TIME = 4354819198
"""2107-12-31 23:59:58, the last modification time that a zip file can hold."""
_NOT_RUNTIME = frozenset(["build", "__main__.py", "__pycache__"])
"""What the package holds besides the runtime: the build half, and the command, which is the door to it."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that has been written."""

    path: Path
    size: int
    """Bytes of the zip file."""
    unpacked_size: int
    """Bytes of the files in it, which is what counts against Lambda's 250 MB."""
    files: int
    digest: str
    """Of the zip file, ``sha256:HEX``."""
    code_sha256: str
    """The same in base64, as Lambda shows it (``CodeSha256``)."""
    python: str
    arch: str
    distributions: dict[str, str]
    """Normalised name to version."""
    bytecode: bool
    """Whether the modules come with bytecode."""
    warnings: tuple[str, ...]


def build_layer(out: Path, *, python: str | None = None, arch: str | None = None, bytecode: bool = True) -> Layer:
    """Write a layer.

    The same lazydeps, the same resolved versions and the same zlib give the same bytes, whatever the folder or the
    time; files date from ``SOURCE_DATE_EPOCH``, else from 1980. The layer appears under its name only when it is
    whole, and nothing else is left behind, Ctrl-C included.

    Args:
        out: the zip file to write; replaced if it exists.
        python: the target's minor version, for example ``3.13``; the running one by default.
        arch: ``x86_64`` or ``arm64`` (``aarch64`` and ``amd64`` are understood); this machine's by default.
        bytecode: whether to compile, which takes an interpreter of the target's minor version. Without bytecode each
            cold start compiles the modules again, because Lambda mounts layers read-only.

    Raises:
        ConfigError: an argument is out of range, there is no interpreter for the target or no uv, or the running
            lazydeps is not an installed one.
        LazydepsError: what the runtime needs could not be installed for the target, or not be stripped.
    """
    python, arch = check_target(python, arch)
    moment = _moment()
    installed = _installed_lazydeps()
    interpreter = find_interpreter(python)
    if interpreter is None and bytecode:
        raise ConfigError(
            f"no working Python {python} was found, and the layer's bytecode has to be compiled by one. Get one with "
            f"`uv python install {python}`, `pyenv install {python}` or your system's packages; or leave the bytecode "
            "out with --no-bytecode, which makes every cold start compile the runtime again."
        )
    warnings: list[str] = []
    with tempfile.TemporaryDirectory(prefix="lazydeps-layer-", ignore_cleanup_errors=True) as scratch:
        tree = Path(scratch, FOLDER).resolve()
        tree.mkdir()
        requirements = _requirements(installed, python, arch)
        if requirements:
            done = resolve.install(
                requirements,
                into=tree,
                interpreter=interpreter or _standing_in_for(python),
                arch=arch,
                glibc=resolve.glibc_floor(python),
            )
            warnings += done.warnings
        _copy_runtime(installed, tree)
        resolve.normalise(tree, drop_scripts=True)
        _prune_zstandard(tree, python, arch)
        for path in resolve.list_files(tree):
            if is_shared_object(path):
                _strip(tree / path)
        if interpreter is not None and bytecode:
            compile_tree(tree, resolve.list_files(tree), interpreter=interpreter)
        for info in sorted(tree.glob("*.dist-info")):
            _write_record(tree, info)
        distributions = resolve.list_distributions(tree)
        files = resolve.list_files(tree)
        unpacked_size = sum((tree / path).stat().st_size for path in files)
        size, digest = _write_zip(out.absolute(), tree, files, moment)
    if not bytecode:
        warnings.append("the layer has no bytecode: every cold start compiles the runtime again.")
    if size > SIZE_GOAL:
        warnings.append(f"the layer has {size:,} bytes, more than the {SIZE_GOAL:,} it should stay below.")
    return Layer(
        path=out,
        size=size,
        unpacked_size=unpacked_size,
        files=len(files),
        digest=f"sha256:{digest.hex()}",
        code_sha256=base64.b64encode(digest).decode(),
        python=python,
        arch=arch,
        distributions=distributions,
        bytecode=bytecode,
        warnings=tuple(warnings),
    )


def check_target(python: str | None, arch: str | None) -> tuple[str, str]:
    """Return Python's minor version and the architecture as AWS spells it, with this machine's in place of None.

    Raises:
        ConfigError: lazydeps does not run there.
    """
    python = python or f"{sys.version_info[0]}.{sys.version_info[1]}"
    major, _, minor = python.partition(".")
    if major != "3" or not minor.isdecimal() or int(minor) < 11:
        raise ConfigError(f"--python wants a minor version from 3.11 on, such as 3.13; found {python!r}.")
    arch = canonical_arch(arch or platform.machine())
    if arch not in ARCHITECTURES:
        raise ConfigError(f"--arch wants x86_64 or arm64, the two that AWS Lambda has; found {arch!r}.")
    return python, arch


def _moment() -> tuple[int, int, int, int, int, int]:
    """Return the modification time of every file, UTC, within what a zip file can hold."""
    wanted = os.environ.get("SOURCE_DATE_EPOCH") or str(EPOCH)
    if not wanted.isdecimal() or int(wanted) > _LAST_TIME:
        raise ConfigError(
            f"SOURCE_DATE_EPOCH is {wanted!r}: expected whole seconds since 1970 up to {_LAST_TIME}, or nothing."
        )
    return time.gmtime(max(int(wanted), EPOCH))[:6]


def _installed_lazydeps() -> importlib.metadata.Distribution:
    try:
        found = importlib.metadata.distribution("lazydeps")
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigError(
            "a layer carries lazydeps' metadata, and the running lazydeps is not installed, only found on the path. "
            "Install it with `pip install 'lazydeps[build]'`."
        ) from error
    if found.version != lazydeps.__version__:
        raise ConfigError(
            f"the running lazydeps is {lazydeps.__version__}, and what is installed says {found.version}. Install it "
            "again; an editable installation does not follow a new version by itself."
        )
    return found


def _requirements(installed: importlib.metadata.Distribution, python: str, arch: str) -> list[str]:
    """Return what the runtime requires on the target: the installation's requirements without those of its extras."""
    environment = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "extra": ""}
    environment |= {"python_version": python, "python_full_version": f"{python}.0"}
    environment["platform_machine"] = {"arm64": "aarch64"}.get(arch, arch)
    requirements = [Requirement(line) for line in installed.requires or ()]
    return [
        f"{requirement.name}{requirement.specifier}"
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate(environment)
    ]


def _standing_in_for(python: str) -> Interpreter:
    """Return the running interpreter under the target's version: uv installs wheels without running the target's."""
    running = require_interpreter(f"{sys.version_info[0]}.{sys.version_info[1]}")
    return running._replace(version=f"{python}.0")


def _copy_runtime(installed: importlib.metadata.Distribution, tree: Path) -> None:
    """Copy the running package, wherever it is (in a checkout, for an editable installation), and its metadata."""
    package = Path(lazydeps.__file__).parent
    names = ["METADATA", "WHEEL", *(f"licenses/{name}" for name in installed.metadata.get_all("License-File") or ())]
    info = f"{package.name}-{installed.version}.dist-info"
    contents = {f"{info}/{name}": (installed.read_text(name) or "").encode() for name in names}
    for folder, folders, files in os.walk(package):
        folders[:] = [name for name in folders if name not in _NOT_RUNTIME]
        for path in (Path(folder, name) for name in files if name not in _NOT_RUNTIME):
            if path.suffix == ".py" or path.name == "py.typed":  # and not what an editor or a system leaves there
                contents[path.relative_to(package.parent).as_posix()] = path.read_bytes()
    # `_write_record` completes the rows.
    contents[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*contents, f"{info}/RECORD"]).encode()
    for name, content in contents.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)


def _prune_zstandard(tree: Path, python: str, arch: str) -> None:
    """Leave of zstandard what CPython imports: not the CFFI backend (12 MB), nor the stubs that type checkers read."""
    package = tree / "zstandard"
    if not package.is_dir():
        return  # not required: the standard library has zstd from 3.14 on (PEP 784)
    backends = {f"backend_c{suffix}" for suffix in target_suffixes(python, arch)}
    if not any((package / name).is_file() for name in backends):
        raise LazydepsError(f"the zstandard that uv installed has no C extension for Python {python} on {arch}.")
    for path in sorted(package.iterdir()):
        if (is_shared_object(path.name) and path.name not in backends) or path.suffix == ".pyi":
            path.unlink()
    for name in ("backend_cffi.py", "py.typed"):
        (package / name).unlink(missing_ok=True)


def _strip(path: Path) -> None:
    try:
        path.write_bytes(strip_elf(path.read_bytes()))
    except LazydepsError as error:
        raise LazydepsError(f"{path.name}: {error}") from error


def _write_record(tree: Path, info: Path) -> None:
    """Write a distribution's RECORD anew: what is there of its files, and their bytecode, with digests and sizes."""
    record = info / "RECORD"
    paths = {row[0] for row in csv.reader(io.StringIO(record.read_text(encoding="utf-8"))) if row}
    folders = {Path(path).parent / "__pycache__" for path in paths if path.endswith(".py")}
    paths |= {path.relative_to(tree).as_posix() for folder in folders for path in (tree / folder).glob("*.pyc")}
    rows = []
    for path in sorted(paths):
        file = tree / path
        if file == record:
            rows.append([path, "", ""])
        elif file.is_file():
            content = file.read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            rows.append([path, f"sha256={digest}", str(len(content))])
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    record.write_text(text.getvalue(), encoding="utf-8", newline="")


def _write_zip(
    out: Path, tree: Path, files: Sequence[str], moment: tuple[int, int, int, int, int, int]
) -> tuple[int, bytes]:
    """Write the files below `FOLDER`; return the zip file's size and SHA-256."""
    part = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        with zipfile.ZipFile(part, "w") as archive:
            for path in files:
                mode = 0o755 if (tree / path).stat().st_mode & 0o100 else 0o644
                member = zipfile.ZipInfo(f"{FOLDER}/{path}", moment)
                member.create_system = 3  # Unix, whose modes Lambda heeds, on whatever system this runs
                member.external_attr = (stat.S_IFREG | mode) << 16
                archive.writestr(member, (tree / path).read_bytes(), zipfile.ZIP_DEFLATED, 9)
        content = part.read_bytes()
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)
    return len(content), hashlib.sha256(content).digest()
