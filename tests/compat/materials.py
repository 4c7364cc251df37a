"""What the runs need, made once and found again below ``build/compat``: packs, environments, unpacked test suites."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tarfile
import tempfile
import tomllib
import urllib.request
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from benchmarks.environments import ROOT, NotRun, Workshop, finished, locked, make_pack, run_uv
from benchmarks.model import Work
from lazydeps.build.resolve import glibc_floor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .projects import Project, Suite

FOLDER = ROOT / "build" / "compat"
USES = Path(__file__).with_name("uses")


def pack(kit: Workshop, project: Project) -> dict[str, Any]:
    """Return what `lazydeps pack --json` says of the project's pack.

    Raises:
        NotRun: it cannot be packed.
    """
    work = Work(name=project.name, requirements=project.requirements, statements=project.imports)
    return make_pack(kit, work, options=["--no-prune"])  # many of the suites lie in the wheels


def environment(kit: Workshop, *, tools: Sequence[str], wheels: Sequence[str] = ()) -> Path:
    """Return the interpreter of an environment with tools, and with the wheels that a pack was made of.

    Raises:
        NotRun: it cannot be installed.
    """
    runtime = ["zstandard>=0.23; python_version < '3.14'"]
    folder = kit.folder("plain" if wheels else "packed", *wheels, *tools)
    python, mark = folder / "bin" / "python", folder / "complete"
    with locked(folder):
        if not mark.exists():
            run_uv("venv", "--quiet", "--clear", "--python", str(kit.python), str(folder))
            install = ("pip", "install", "--quiet", "--compile-bytecode", "--python", str(python))
            if wheels:
                # As `lazydeps pack` asks: wheels, and those that its target can load.
                platform = f"{_machine(kit)}-manylinux_{glibc_floor(kit.minor).replace('.', '_')}"
                run_uv(*install, "--no-deps", "--python-platform", platform, "--only-binary", ":all:", *wheels)
            run_uv(*install, *tools, *runtime)
            mark.touch()
    return python


def _machine(kit: Workshop) -> str:
    return {"arm64": "aarch64"}.get(kit.interpreter.arch, kit.interpreter.arch)


def tests(kit: Workshop, suite: Suite) -> Path | None:
    """Return the folder that holds a suite's tests; None where they are in the wheel.

    Raises:
        NotRun: the source distribution cannot be had.
    """
    if suite.where == "wheel":
        return None
    if suite.where == "uses":
        return USES
    parts = [f"{source}={name}" for source, name in suite.folders.items()]
    return finished(kit.folder("tests", suite.sdist, *parts) / "tests", lambda partial: _unpack(kit, suite, partial))


def _unpack(kit: Workshop, suite: Suite, folder: Path) -> None:
    """Take some folders out of a source distribution: never the package itself, which the pack has to provide."""
    folder.mkdir()
    with tempfile.TemporaryFile() as file:
        _download(kit, suite.sdist, file)
        with tarfile.open(fileobj=file, mode="r:gz") as archive:
            for member in archive:
                path = PurePosixPath(*PurePosixPath(member.name).parts[1:])
                for source, name in suite.folders.items():
                    if path.is_relative_to(source) and member.isfile():
                        member.name = str(PurePosixPath(name, path.relative_to(source)))
                        archive.extract(member, folder, filter="data")
                        break
    missing = [name for name in suite.folders.values() if not (folder / name).exists()]
    if missing:
        raise NotRun(f"the source distribution of {suite.sdist} does not hold what becomes {', '.join(missing)}")


def _download(kit: Workshop, requirement: str, file: Any) -> None:
    """Fetch a source distribution. uv says where it is, by the user's own configuration, and which digest it has."""
    import uv

    asked = [uv.find_uv_bin(), "pip", "compile", "--quiet", "--no-deps", "--format", "pylock.toml"]
    done = subprocess.run(
        [*asked, "--python-version", kit.minor, "-"], input=requirement, capture_output=True, text=True, check=False
    )
    try:
        (package,) = tomllib.loads(done.stdout)["packages"]
        url, wanted = package["sdist"]["url"], package["sdist"]["hashes"]["sha256"]
    except (ValueError, KeyError):
        raise NotRun(f"{requirement} has no source distribution here: {done.stderr.strip()[-300:]}") from None
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            shutil.copyfileobj(answer, file)
    except OSError as error:
        raise NotRun(f"the source distribution of {requirement} could not be fetched: {error}") from error
    file.seek(0)
    found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wanted:
        raise NotRun(f"the source distribution of {requirement} has the digest {found}, not {wanted}")
    file.seek(0)


def normalised(name: str) -> str:
    """Return a distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
