"""What Vercel's Python runtime does with functions that are too large: `uv sync` when they start. A re-enactment.

The command is that of `vercel-runtime` 0.24.1, the bytecode tree that of Vercel's builder, as of 2026-11.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.environments import finished, run
from benchmarks.model import Built, Contender
from benchmarks.server import ObjectServer
from benchmarks.starts import BUCKET

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.model import Kit, Work

VERSION = "0.13.9"
PROGRAM = Path(__file__).parents[1] / "programs" / "uv_sync.py"
PLACEHOLDER = "https://objects.invalid"
"""Stands in the lock for the server's address and the bucket, which every run has anew."""
COMPILE = """
import compileall, os, py_compile, re, sys
unused = re.compile("/(test|tests|idlelib|lib2to3|ensurepip|site-packages)/")
for folder, skipped in ((sys.argv[1], None), (os.path.dirname(os.__file__), unused)):
    compileall.compile_dir(
        folder,
        quiet=2,
        force=True,
        rx=skipped,
        workers=0,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
"""
"""Files that do not compile, which some packages have among their tests, are left out."""


class UvSync:
    """`uv sync` from a lock into an empty environment, the wheels from the object server."""

    def __init__(self, name: str, label: str, *, bytecode: bool) -> None:
        """Take what differs.

        Args:
            name: how it is asked for.
            label: for people.
            bytecode: whether a tree of bytecode stands ready, as in the read-only package of a function.
        """
        self.name = name
        self.label = label
        self._bytecode = bytecode

    def build(self, work: Work, kit: Kit) -> Built:
        """See `model.Contender.build`."""
        python = kit.environment("uv", f"uv=={VERSION}", "pip==26.3")
        folder = kit.folder("uv-sync", VERSION, work.name, *work.requirements)
        wheels = finished(folder / "wheels", lambda partial: _collect(python, work, partial))
        prefix = f"uv-sync/{work.name}"
        objects = {f"{prefix}/wheels/{wheel.name}": wheel for wheel in wheels.iterdir()}
        uv = str(python.with_name("uv"))

        def lock(partial: Path) -> None:
            index = _write_index(prefix, wheels, partial / "index")
            _lock([uv, "lock", "--python", str(kit.python)], work, kit.minor, partial, {**objects, **index}, prefix)

        environ = {
            "BENCH_PLACEHOLDER": PLACEHOLDER,
            "BENCH_PROJECT": str(finished(folder / "project", lock)),
            "BENCH_PYTHON": str(kit.python),
            "BENCH_UV": uv,
            "PYTHONDONTWRITEBYTECODE": "1",  # as Vercel sets it
        }
        if self._bytecode:
            packages = kit.site_packages(work)
            tree = finished(folder / "bytecode", lambda partial: _compile(python, packages, partial))
            environ |= {"BENCH_BYTECODE": str(tree), "BENCH_COMPILED": str(packages)}
        return Built(
            argv=(str(python), str(PROGRAM)),
            environ=environ,
            objects=objects,
            note="A re-enactment of what Vercel's runtime does, with its options and settings. Everything is installed "
            "at start; Vercel packs up to 245 MB of it into the function and installs the rest. The addresses in the "
            "lock are those of this run's server, written in at start, in less than a millisecond."
            + (" The bytecode tree has the standard library's as well." if self._bytecode else ""),
        )


def _collect(python: Path, work: Work, wheels: Path) -> None:
    """Download the work's wheels, and build those that are only to be had as source.

    Raises:
        NotRun: pip cannot.
    """
    run([str(python), "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(wheels), *work.requirements])


def _write_index(prefix: str, wheels: Path, folder: Path) -> dict[str, Path]:
    """Write the pages of a package index (PEP 503), and return them by key."""
    folder.mkdir(parents=True)
    links: dict[str, list[str]] = {}
    for wheel in sorted(wheels.iterdir()):
        project = re.sub(r"[-_.]+", "-", wheel.name.partition("-")[0]).lower()
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        link = f'<a href="../../wheels/{wheel.name}#sha256={digest}">{wheel.name}</a>'
        links.setdefault(project, []).append(link)
    pages = {}
    for project, found in links.items():
        page = pages[f"{prefix}/simple/{project}/"] = folder / f"{project}.html"
        page.write_text(f"<!DOCTYPE html><title>{project}</title>{''.join(found)}")
    return pages


def _lock(command: list[str], work: Work, minor: str, project: Path, objects: Mapping[str, Path], prefix: str) -> None:
    """Write a project's `pyproject.toml` and let uv lock it against the index.

    Raises:
        NotRun: uv cannot.
    """
    wanted = "".join(f'    "{requirement}",\n' for requirement in work.requirements)
    (project / "pyproject.toml").write_text(
        f'[project]\nname = "function"\nversion = "0"\nrequires-python = "=={minor}.*"\ndependencies = [\n{wanted}]\n'
    )
    environ = {**os.environ, "UV_NO_CONFIG": "1", "UV_PYTHON_DOWNLOADS": "never", "NO_PROXY": "127.0.0.1"}
    with ObjectServer(objects, BUCKET) as server:
        address = f"{server.endpoint}/{BUCKET}"
        options = ("--quiet", "--no-cache", "--project", str(project), "--default-index", f"{address}/{prefix}/simple")
        run([*command, *options], environ=environ)
    path = project / "uv.lock"
    path.write_text(path.read_text().replace(address, PLACEHOLDER))


def _compile(python: Path, packages: Path, tree: Path) -> None:
    """Compile the packages into a tree as `sys.pycache_prefix` wants it, never checked against the source (PEP 552).

    The standard library is compiled into it as well: whoever sets the prefix hides the bytecode that Python came with.

    Args:
        python: the interpreter of the starts, so that both look for the library under the same name.
        packages: what to compile.
        tree: the prefix.

    Raises:
        NotRun: the interpreter failed.
    """
    # A variable and not `-X pycache_prefix`: the processes that compile inherit it.
    run([str(python), "-c", COMPILE, str(packages)], environ={**os.environ, "PYTHONPYCACHEPREFIX": str(tree)})


CONTENDERS: tuple[Contender, ...] = (
    UvSync("uv-sync", f"uv sync {VERSION}, as Vercel does", bytecode=False),
    UvSync("uv-sync-bytecode", f"uv sync {VERSION}, as Vercel does, bytecode prebuilt", bytecode=True),
)
