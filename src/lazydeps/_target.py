"""Whether this interpreter, on this machine, can run what a pack holds."""

from __future__ import annotations

import os
import sys

from .errors import PackMismatchError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._pack import Root


def check_host(root: Root) -> None:
    """Raise PackMismatchError unless this interpreter can run what the pack holds."""
    machine = os.uname().machine
    arch = {"aarch64": "arm64", "amd64": "x86_64"}.get(machine.lower(), machine)
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    actual = f"Python {root.python} on {root.os} {root.arch}"
    expected = f"Python {python} on {sys.platform} {arch}"
    remedy = f"Build one with `lazydeps pack --python {python} --arch {arch}` and pin that."
    if root.python != python or root.os != sys.platform or root.arch not in (arch, "any"):
        raise PackMismatchError(
            f"this pack was built for {actual} and this process is {expected}. {remedy}",
            expected=expected,
            actual=actual,
        )
    from _frozen_importlib_external import MAGIC_NUMBER  # type: ignore[import-not-found,unused-ignore]

    if root.pyc_magic != MAGIC_NUMBER.hex() or sys.implementation.name != "cpython":
        raise PackMismatchError(
            f"this pack's bytecode has magic number {root.pyc_magic} and this {sys.implementation.name} {python} runs "
            f"{MAGIC_NUMBER.hex()}. Build the pack with a released interpreter of the same version.",
            expected=MAGIC_NUMBER.hex(),
            actual=root.pyc_magic,
        )
    if root.libc not in ("glibc", ""):
        raise PackMismatchError(
            f"this pack's libraries need {root.libc}, which this lazydeps cannot tell from others. {remedy}",
            expected=expected,
            actual=root.libc,
        )
    if root.libc == "glibc" and root.libc_version:
        try:
            name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "other 0").split()
        except (ValueError, OSError):
            name, version = "other libc", "0"
        if name != "glibc" or _numbers(version) < _numbers(root.libc_version):
            raise PackMismatchError(
                f"this pack's libraries need glibc {root.libc_version} and this system has {name} {version}. "
                f"Use a newer runtime (python3.12 and later run on Amazon Linux 2023), or pack with --glibc {version}.",
                expected=f"glibc {root.libc_version}",
                actual=f"{name} {version}",
            )


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]
