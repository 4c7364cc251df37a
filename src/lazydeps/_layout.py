"""Where the members of an archive belong in site-packages, and whether this interpreter can run them.

Decides by names alone, but for a wheel's ``WHEEL`` file. It writes nothing.
"""

from __future__ import annotations

import os
import posixpath
import re
import sys
from importlib.machinery import EXTENSION_SUFFIXES

from ._archive import Names, unsafe
from .errors import PackFormatError, PackMismatchError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ._archive import Archive, Member
    from ._config import Limits

HOPS = 8
"""Symbolic links that may point to one another before they count as a circle."""
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
TAG = EXTENSION_SUFFIXES[0].strip(".").partition(".")[0]
"""This interpreter's platform, for example ``cpython-312-x86_64-linux-gnu``."""
NEVER = sys.stdlib_module_names | {"lazydeps"}
"""Top-level names that are left out: nothing may stand before the standard library, nor replace what loads it."""
BLOCK = 4096
"""Bytes in which a file system counts."""
WHEEL = 64 * 1024
"""Bytes that a wheel's description of itself may have."""
APPLE = "__MACOSX/"
"""What macOS adds to the zips that it makes: for each file another, with what its own file system knows of it."""
_MODULE = re.compile(r"([^.]+)(\.py|\.pyc|\.pyd|(\.[^.]+)?\.so)")
_EXTENSION = re.compile(r"(.+?)\.((?:cpython-|pypy|graalpy|cp)\d[\w-]*)\.(?:so|pyd)")


class Layout:
    """What to write where."""

    __slots__ = ("names", "needed", "paths", "unpacked")

    def __init__(self) -> None:
        self.paths: dict[str, list[str]] = {}
        """For each member that is wanted, by name: its path, and those of the links to it."""
        self.unpacked = 0
        """Bytes of all files, links counted as copies."""
        self.needed = 0
        """Bytes of disk they take at most, bytecode included."""
        self.names = 0
        """Files and folders that they make at most, bytecode included."""


def lay_out(archive: Archive, suffix: str, limits: Limits, *, python: str = PYTHON) -> Layout:
    """Decide where each member goes.

    A wheel's ``*.data/purelib`` and ``platlib`` are folded in; of a Lambda layer what lies below ``python`` and
    ``python/lib/python3.X/site-packages`` is taken; of any other archive everything, without the one folder that holds
    it all where that cannot be a package.

    Args:
        archive: checked by `open_archive`.
        suffix: one of `lazydeps._ref.ARCHIVES`.
        limits: bounds on names, sizes and counts.
        python: whose site-packages, by minor version.

    Raises:
        UnsafeArchiveError: a link leaves the archive, or two members want one place.
        PackMismatchError: the archive is for another Python or platform.
    """
    members = {member.name: member for member in archive.members}
    place = _placement(members, python, wheel=suffix == ".whl")
    names = Names(limits)
    layout = Layout()
    folders: set[str] = set()
    for member in archive.members:
        target = _follow(member, members)
        path = place(member.name)
        if path is None or _shadows(path):
            continue
        names.add(path, size=target.size)
        layout.paths.setdefault(target.name, []).append(path)
        layout.unpacked += target.size
        # Bytecode takes about as much as its source.
        layout.needed += (-(-target.size // BLOCK) + 1) * BLOCK * (2 if path.endswith(".py") else 1)
        layout.names += 2 if path.endswith(".py") else 1
        folder = posixpath.dirname(path)
        while folder and folder not in folders:
            folders.add(folder)
            folder = posixpath.dirname(folder)
    layout.names += 2 * (len(folders) + 1)  # each may get one for its bytecode
    return layout


def check_archive(archive: Archive, layout: Layout, suffix: str) -> None:
    """Make sure that this interpreter, on this machine, can run what the archive holds.

    Raises:
        PackMismatchError: it is for another Python, system or architecture.
    """
    if suffix == ".whl":
        _check_tags(_wheel_tags(archive))
    _check_extensions(path for paths in layout.paths.values() for path in paths)
    if not layout.paths:
        found = sorted({m[0] for member in archive.members if (m := re.match(r"python/lib/python[\d.]+", member.name))})
        raise _mismatch(f"site-packages for Python {PYTHON}", ", ".join(found) or "nothing that can be imported")


def _follow(member: Member, members: dict[str, Member]) -> Member:
    """Return the file that a link stands for in the end."""
    found = member
    for _hop in range(HOPS):
        if found.link is None:
            return found
        target = posixpath.normpath(posixpath.join(posixpath.dirname(found.name), found.link))
        if found.link.startswith("/") or target.startswith("../") or "\\" in found.link:
            raise unsafe(member.raw, f"is a link that leaves the archive, to {found.link!r}")
        if target not in members:
            raise unsafe(member.raw, f"is a link to {found.link!r}, which is no file of the archive")
        found = members[target]
    raise unsafe(member.raw, "is a link that leads to itself")


def _placement(members: dict[str, Member], python: str, *, wheel: bool) -> Callable[[str], str | None]:
    if wheel:
        return _place_wheel
    below = any(name.startswith("python/") for name in members)
    if below and not any(name.startswith("python/__init__.") for name in members):
        return lambda name: _place_layer(name, python)
    folder = _wrapping_folder([name for name in members if not name.startswith(APPLE)])
    return lambda name: name.removeprefix(folder) if not name.startswith(APPLE) else None


def _wrapping_folder(names: list[str]) -> str:
    """Return the folder, with its slash, that was archived instead of what is in it; "" where there is none such.

    No package has a distribution's metadata directly in it, nor a name that cannot be imported.
    """
    top, slash, _ = names[0].partition("/") if names else ("", "", "")
    folder = top + slash
    if not slash or top.endswith("-info") or not all(name.startswith(folder) for name in names):
        return ""
    metadata = re.compile(re.escape(folder) + r"[^/]+\.(dist|egg)-info(/|$)")
    return "" if top.isidentifier() and not any(map(metadata.match, names)) else folder


def _place_wheel(name: str) -> str | None:
    # https://packaging.python.org/en/latest/specifications/binary-distribution-format/#the-data-directory
    top, _, rest = name.partition("/")
    if not top.endswith(".data") or top.count("-") != 1:
        return name
    scheme, _, path = rest.partition("/")
    return path if scheme in ("purelib", "platlib") and path else None


def _place_layer(name: str, python: str) -> str | None:
    # https://docs.aws.amazon.com/lambda/latest/dg/packaging-layers.html
    path = name.removeprefix("python/")
    if path == name:
        return None
    found = re.match(r"lib/python([\d.]+)/site-packages/", path)
    if found is None:
        return path
    return path[found.end() :] if found[1] == python else None


def _shadows(path: str) -> bool:
    top, slash, _ = path.partition("/")
    if slash:
        return top in NEVER
    module = _MODULE.fullmatch(top)
    return module is not None and module[1] in NEVER


# -- the interpreter


def _check_extensions(paths: Iterable[str]) -> None:
    """Each extension module has to be there for this interpreter, whatever others it is there for, too."""
    good: set[str] = set()
    others: dict[str, str] = {}
    for path in paths:
        tagged = _EXTENSION.fullmatch(path)
        if tagged is not None and tagged[2] != TAG:
            others[tagged[1]] = path
        for suffix in EXTENSION_SUFFIXES:
            if path.endswith(suffix) and (tagged is None or suffix != ".so"):
                good.add(path.removesuffix(suffix))
                break
    for stem, path in others.items():
        if stem not in good:
            raise _mismatch(TAG, path)


def _wheel_tags(archive: Archive) -> list[str]:
    for member, chunks in archive.contents():
        if re.fullmatch(r"[^/]+\.dist-info/WHEEL", member.name) and member.size <= WHEEL:
            lines = b"".join(chunks).decode(errors="replace").splitlines()
            return [line[4:].strip() for line in lines if line.startswith("Tag:")]
    raise PackFormatError("the archive is no wheel: it has no *.dist-info/WHEEL. Name it .zip if that is what it is.")


def _check_tags(tags: list[str]) -> None:
    """Compare a wheel's tags with this interpreter (PEP 425; without asking which C library is recent enough)."""
    if not any(_fits(tag) for tag in tags):
        machine = os.uname().machine
        raise _mismatch(f"cp{PYTHON.replace('.', '')} on {sys.platform} {machine}", ", ".join(tags) or "no tag")


def _fits(tag: str) -> bool:
    pythons, _, rest = tag.partition("-")
    abis, _, platforms = rest.partition("-")
    cpython = "cp" + "".join(TAG.split("-")[1:2])  # cp313t where threads are free
    return any(
        _fits_python(python, abi, cpython) and _fits_platform(platform)
        for python in pythons.split(".")
        for abi in abis.split(".")
        for platform in platforms.split(".")
    )


def _fits_python(python: str, abi: str, cpython: str) -> bool:
    kind, major, minor = python[:2], python[2:3], python[3:]
    if major != str(sys.version_info[0]) or not (minor or "0").isdigit():
        return False
    if abi == "none":
        return int(minor or 0) == sys.version_info[1] if kind == "cp" else int(minor or 0) <= sys.version_info[1]
    if abi == "abi3":
        return kind == "cp" and int(minor or 0) <= sys.version_info[1] and not cpython.endswith("t")
    return abi == cpython


def _fits_platform(platform: str) -> bool:
    machine = os.uname().machine
    if platform == "any":
        return True
    if sys.platform == "darwin":
        return platform.startswith("macosx_") and platform.endswith((f"_{machine}", "_universal2"))
    system = ("musllinux", "linux_") if TAG.endswith("musl") else ("manylinux", "linux_")
    return sys.platform == "linux" and platform.startswith(system) and platform.endswith(f"_{machine}")


def _mismatch(expected: str, actual: str) -> PackMismatchError:
    return PackMismatchError(
        f"this archive is for another interpreter: it holds {actual}, and this process needs {expected}. "
        "Use the archive for this Python and architecture.",
        expected=expected,
        actual=actual,
    )
