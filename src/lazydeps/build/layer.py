"""Write an AWS Lambda layer that holds lazydeps' runtime and what that needs, and nothing else.

The runtime is the one that is running, without its build half. Publishing the layer is the user's own step: nothing
here talks to AWS.
"""

from __future__ import annotations

import base64
import platform
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lazydeps.errors import ConfigError

from . import resolve, runtime_tree, zip_file
from .bytecode import compile_tree
from .interpreters import canonical_arch, find_interpreter
from .options import ARCHITECTURES

SIZE_GOAL = 1_500_000
"""Bytes that a layer should stay below; a larger one works and gets a warning."""
FOLDER = "python"
"""Where a layer has its packages: Lambda puts ``/opt/python`` on `sys.path` (AWS, "Packaging your layer content")."""


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
    moment = zip_file.moment()
    installed = runtime_tree.installed_lazydeps()
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
        warnings += runtime_tree.install_runtime(tree, installed, python=python, arch=arch, interpreter=interpreter)
        if interpreter is not None and bytecode:
            compile_tree(tree, resolve.list_files(tree), interpreter=interpreter)
        for info in sorted(tree.glob("*.dist-info")):
            runtime_tree.write_record(tree, info)
        distributions = resolve.list_distributions(tree)
        files = resolve.list_files(tree)
        unpacked_size = sum((tree / path).stat().st_size for path in files)
        size, digest = zip_file.write_zip(out.absolute(), tree, files, moment=moment, prefix=f"{FOLDER}/")
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
