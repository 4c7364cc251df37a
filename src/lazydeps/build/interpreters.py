"""Find working Python interpreters on this machine, by minor version.

Each candidate is run before it is believed: version managers leave shims that exist and do not work. It installs
nothing. Only the standard library is imported, so the noxfile loads this file by itself.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PROBE_TIMEOUT = 20.0
"""Seconds that a candidate may take to say what it is. A shim that waits for something is no interpreter."""

_PROBE = """
import importlib.machinery, importlib.util, json, os, platform, sys
try:
    libc = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
except (AttributeError, OSError, ValueError):
    libc = []
print(json.dumps({
    "executable": sys.executable,
    "version": platform.python_version(),
    "implementation": sys.implementation.name,
    "level": sys.version_info.releaselevel,
    "abiflags": getattr(sys, "abiflags", ""),
    "machine": platform.machine().lower(),
    "platform": sys.platform,
    "magic": importlib.util.MAGIC_NUMBER.hex(),
    "tag": sys.implementation.cache_tag,
    "suffixes": importlib.machinery.EXTENSION_SUFFIXES,
    "glibc": libc[1] if len(libc) == 2 and libc[0] == "glibc" else "",
}))
"""


class Interpreter(NamedTuple):
    """A CPython that was run and answered."""

    path: Path
    """The executable, as it calls itself: what stands behind a shim, so that starting it is cheap."""
    version: str
    """Full version, for example ``3.13.1``."""
    arch: str
    """``x86_64`` or ``arm64`` (or whatever else the machine calls itself)."""
    platform: str
    """`sys.platform` of the interpreter: ``linux``, ``darwin``."""
    magic: str
    """`importlib.util.MAGIC_NUMBER` as 8 hex digits."""
    cache_tag: str
    """What its bytecode files are named after, for example ``cpython-313``."""
    extension_suffixes: tuple[str, ...]
    """`importlib.machinery.EXTENSION_SUFFIXES`."""
    glibc: str
    """Version of the C library it runs on, for example ``2.36``; empty where that is not glibc."""

    @property
    def minor(self) -> str:
        """The minor version, for example ``3.13``."""
        return ".".join(self.version.split(".")[:2])


def canonical_arch(machine: str) -> str:
    """Return AWS's spelling of a machine name: ``x86_64`` or ``arm64``; other names come back in lower case."""
    machine = machine.lower()
    return {"amd64": "x86_64", "aarch64": "arm64"}.get(machine, machine)


def probe(path: str | Path) -> Interpreter | None:
    """Run an interpreter and return what it says it is, or None where it is no usable CPython.

    Other implementations, free-threaded builds (another ABI) and alphas and betas (another bytecode) are not usable.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "__PYVENV"))}
    try:
        answer = subprocess.run(
            [os.fspath(path), "-I", "-c", _PROBE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_TIMEOUT,
            check=True,
            env=environ,
        )
        # The last line: some wrappers greet their user first.
        facts = json.loads(answer.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    if not isinstance(facts, dict) or facts.get("implementation") != "cpython" or "t" in facts["abiflags"]:
        return None
    if facts["level"] not in ("candidate", "final"):
        return None
    return Interpreter(
        path=Path(facts["executable"] or path),
        version=facts["version"],
        arch=canonical_arch(facts["machine"]),
        platform=facts["platform"],
        magic=facts["magic"],
        cache_tag=facts["tag"],
        extension_suffixes=tuple(facts["suffixes"]),
        glibc=facts["glibc"],
    )


def find_interpreter(minor: str, *, environ: Mapping[str, str] | None = None) -> Interpreter | None:
    """Return the first working CPython of a minor version, or None.

    Args:
        minor: for example ``3.13``.
        environ: what to read PATH, HOME and the version managers' variables from; the process's own by default.
    """
    answers = (probe(path) for path in _candidates(minor, environ))
    return next((found for found in answers if found is not None and found.minor == minor), None)


def require_interpreter(minor: str, *, environ: Mapping[str, str] | None = None) -> Interpreter:
    """Return the first working CPython of a minor version.

    Raises:
        ConfigError: there is none; the message says how to get one.
    """
    found = find_interpreter(minor, environ=environ)
    if found is None:
        from lazydeps.errors import ConfigError

        tried = [str(path) for path in _candidates(minor, environ)]
        raise ConfigError(
            f"no working Python {minor} was found, and the pack's bytecode has to be compiled by one. "
            + (f"Tried, and none ran as CPython {minor}: {', '.join(tried)}. " if tried else "")
            + f"Get one with `uv python install {minor}`, `pyenv install {minor}`, or your system's packages "
            f"(`apt install python{minor}`; on Ubuntu from the deadsnakes archive)."
        )
    return found


def find_all(*, environ: Mapping[str, str] | None = None) -> dict[str, Interpreter]:
    """Return a working CPython for each minor version found on this machine, from 3.11 on."""
    found = {minor: find_interpreter(minor, environ=environ) for minor in (f"3.{number}" for number in range(11, 16))}
    return {minor: interpreter for minor, interpreter in found.items() if interpreter is not None}


def _candidates(minor: str, environ: Mapping[str, str] | None) -> Iterator[Path]:
    """Yield existing files that may be such an interpreter, the likeliest first, each real file once."""
    seen: set[str] = set()
    for path in _places(minor, os.environ if environ is None else environ):
        real = os.path.realpath(path)
        # Shims are all links to, or copies of, one script that goes by its name: told apart by their own folder.
        key = real if re.search(r"python[\d.]*t?$", real) else str(path)
        if key not in seen and os.access(path, os.X_OK) and path.is_file():
            seen.add(key)
            yield path


def _places(minor: str, environ: Mapping[str, str]) -> Iterator[Path]:
    if sys.version_info[:2] == tuple(int(part) for part in minor.split(".")) and sys.executable:
        yield Path(sys.executable)
    name = f"python{minor}"
    for folder in environ.get("PATH", os.defpath).split(os.pathsep):
        if folder:
            yield Path(folder, name)
    home = Path(environ.get("HOME") or Path.home())
    data = Path(environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    managed = Path(environ.get("UV_PYTHON_INSTALL_DIR") or data / "uv" / "python")
    for root, pattern in (
        (Path(environ.get("PYENV_ROOT") or home / ".pyenv") / "versions", f"{minor}*"),
        (managed, f"cpython-{minor}[.-]*"),
        (Path(environ.get("ASDF_DATA_DIR") or home / ".asdf") / "installs" / "python", f"{minor}*"),
        (Path(environ.get("MISE_DATA_DIR") or data / "mise") / "installs" / "python", f"{minor}*"),
    ):
        for installed in sorted(root.glob(pattern), key=_newest_first):
            yield installed / "bin" / name
    for folder in ("/usr/local/bin", "/usr/bin", "/opt/homebrew/bin"):
        yield Path(folder, name)
    yield Path(f"/Library/Frameworks/Python.framework/Versions/{minor}/bin/{name}")


def _newest_first(path: Path) -> tuple[int, ...]:
    return tuple(-int(number) for number in re.findall(r"\d+", path.name)[:3])
