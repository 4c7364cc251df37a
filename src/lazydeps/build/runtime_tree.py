"""Put lazydeps' own runtime, and what that needs, into a folder: for a layer, and for a function's package.

The runtime is the one that is running, without its build half. zstandard keeps only what CPython imports.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

import lazydeps
from lazydeps.errors import ConfigError, LazydepsError

from . import resolve
from .elf import is_shared_object
from .interpreters import require_interpreter
from .strip import strip_elf
from .trace import target_suffixes

if TYPE_CHECKING:
    from .interpreters import Interpreter

_NOT_RUNTIME = frozenset(["build", "__main__.py", "__pycache__"])
"""What the package holds besides the runtime: the build half, and the command, which is the door to it."""


def install_runtime(
    tree: Path,
    installed: importlib.metadata.Distribution,
    *,
    python: str,
    arch: str,
    interpreter: Interpreter | None,
) -> tuple[str, ...]:
    """Install the runtime into an empty folder, without bytecode; return what there is to warn of.

    Args:
        tree: the folder, which is there.
        installed: what `installed_lazydeps` returned.
        python: the target's minor version.
        arch: ``x86_64`` or ``arm64``.
        interpreter: of the target's minor version; the running one takes its place if None.

    Raises:
        ConfigError: there is no uv.
        LazydepsError: what the runtime needs could not be installed for the target, or not be stripped.
    """
    warnings: tuple[str, ...] = ()
    requirements = _requirements(installed, python, arch)
    if requirements:
        warnings = resolve.install(
            requirements,
            into=tree,
            interpreter=interpreter or standing_in_for(python),
            arch=arch,
            glibc=resolve.glibc_floor(python),
        ).warnings
    _copy_runtime(installed, tree)
    resolve.normalise(tree, drop_scripts=True)
    _prune_zstandard(tree, python, arch)
    for path in resolve.list_files(tree):
        if is_shared_object(path):
            _strip(tree / path)
    return warnings


def installed_lazydeps() -> importlib.metadata.Distribution:
    """Return the running lazydeps as an installed distribution.

    Raises:
        ConfigError: it is not installed, or another version is.
    """
    try:
        found = importlib.metadata.distribution("lazydeps")
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigError(
            "the runtime carries lazydeps' metadata, and the running lazydeps is not installed, only found on the "
            "path. Install it with `pip install 'lazydeps[build]'`."
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


def standing_in_for(python: str) -> Interpreter:
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


def write_record(tree: Path, info: Path) -> None:
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
