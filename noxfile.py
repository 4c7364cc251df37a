"""What `make` runs: lint, tests on every Python that works here, and the demo.

Sessions use uv, which makes their environments in seconds. Which index, proxy and certificates it uses is the
user's own configuration; nothing here names any.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import nox

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
FULL_SUITE = ("3.13", "3.12", "3.11", "3.14")
"""Where the whole suite runs: the first of these that is found. The others run all but the `build` tests."""

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"
nox.options.download_python = "never"
nox.options.stop_on_first_error = False
nox.options.sessions = ["lint"]


@functools.cache
def interpreters() -> dict[str, str]:
    """Return the working interpreters by minor version.

    Uses what `lazydeps pack` uses to find one, loaded from its file: nox's environment has no lazydeps. It runs
    what it finds, because a ``python3.13`` on PATH can be a version manager's shim with nothing behind it.
    """
    path = HERE / "src" / "lazydeps" / "build" / "interpreters.py"
    spec = importlib.util.spec_from_file_location("_lazydeps_interpreters", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up while it runs
    spec.loader.exec_module(module)
    found = {}
    for minor in VERSIONS:
        interpreter = module.find_interpreter(minor)
        if interpreter is not None:
            found[minor] = str(getattr(interpreter, "path", interpreter))
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if running in VERSIONS:
        found.setdefault(running, sys.executable)
    return found


FULL = next((minor for minor in FULL_SUITE if minor in interpreters()), None)
FULL_PYTHON = interpreters().get(FULL or "")


def session_environ() -> dict[str, str | None]:
    """Return what every session changes in the user's environment: None takes a variable out."""
    changes: dict[str, str | None] = dict.fromkeys(
        name
        for name in os.environ
        if name.startswith(("AWS_", "LAZYDEPS_")) or name in ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")
    )
    # A user may have bytecode switched off; with it off each fresh interpreter of a test compiles everything again.
    changes["PYTHONDONTWRITEBYTECODE"] = None
    return changes


def install(session: nox.Session, *requirements: str) -> None:
    """Install lazydeps itself, editable, with its extras and ``requirements``."""
    session.install("--quiet", *requirements, env=session_environ())


def add_tests(minor: str, python: str) -> None:
    """Define the session ``tests-MINOR``."""

    def tests(session: nox.Session) -> None:
        others = ", ".join(f"{name} ({path})" for name, path in interpreters().items())
        missing = ", ".join(name for name in VERSIONS if name not in interpreters())
        session.log(f"working interpreters: {others}" + (f"; skipped, none found: {missing}" if missing else ""))
        install(session, "-e", ".[dev]")
        selection = [] if minor == FULL else ["-m", "not build and not chaos"]
        # A file's tests stay together, with their fixtures. What is asked for by name runs one after the other.
        together = ["-n", str((os.cpu_count() or 1) + 1), "--dist", "loadfile"] if not session.posargs else []
        session.run("pytest", *selection, *together, *session.posargs, env=session_environ())

    tests.__doc__ = "Run the whole suite." if minor == FULL else "Run the tests of the runtime."
    define: Callable[[Callable[[nox.Session], None]], object] = nox.session(
        name=f"tests-{minor}", python=python, tags=["tests"]
    )
    define(tests)


# The full suite goes last, so that its closing lines are the last thing on the screen.
for _minor in sorted(interpreters(), key=lambda minor: (minor == FULL, VERSIONS.index(minor))):
    add_tests(_minor, interpreters()[_minor])


@nox.session(python=FULL_PYTHON)
def chaos(session: nox.Session) -> None:
    """Kill, race and freeze starts, hundreds of times; ``-- --chaos-rounds 5`` does five times as much."""
    install(session, "-e", ".[dev]")
    session.run("pytest", "-m", "chaos", *session.posargs, env=session_environ())


@nox.session(python=FULL_PYTHON)
def lint(session: nox.Session) -> None:
    """Check style, layout, types and workflows, and audit what users install; change nothing."""
    install(session, "-e", ".[dev]", "pip-audit>=2.7", "zizmor>=1.5")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy", env=session_environ())
    session.run("zizmor", "--offline", "--no-progress", "--persona", "pedantic", ".github")
    audit(session)


def audit(session: nox.Session) -> None:
    """Look the runtime's and the command's dependencies up among known vulnerabilities.

    Fails where one is known. Where the advisories cannot be reached, it says what was not looked up.
    """
    pinned = Path(session.create_tmp()) / "requirements.txt"
    session.run(
        "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "pyproject.toml", "--extra", "build",
        "--output-file", str(pinned),
    )  # fmt: skip
    out = session.run(
        "pip-audit", "--requirement", str(pinned), "--no-deps", "--disable-pip", "--progress-spinner", "off",
        "--format", "json", silent=True, stderr=None, success_codes=[0, 1], env=session_environ(),
    )  # fmt: skip
    try:
        found = json.loads(str(out)[str(out).index("{") :])["dependencies"]
    except (ValueError, KeyError):
        session.warn("pip-audit: skipped, its advisories cannot be reached from here")
        return
    known = [
        f"{entry['name']} {entry['version']}: {', '.join(v['id'] for v in entry['vulns'])}"
        for entry in found
        if entry.get("vulns")
    ]
    if known:
        session.error("known vulnerabilities in " + "; ".join(known))
    skipped = [entry["name"] for entry in found if "skip_reason" in entry]
    if len(found) > len(skipped):
        session.log(f"pip-audit: {len(found) - len(skipped)} dependencies looked up, no known vulnerability")
    if skipped:
        session.warn(f"pip-audit: {len(skipped)} not looked up, no advisories for them here: {', '.join(skipped)}")


@nox.session(python=FULL_PYTHON)
def format(session: nox.Session) -> None:  # noqa: A001 - a session's name is its function's
    """Lay out the code and apply ruff's safe fixes."""
    install(session, "ruff>=0.17,<0.18")
    session.run("ruff", "check", "--fix", ".")
    session.run("ruff", "format", ".")


@nox.session(python=FULL_PYTHON)
def bench(session: nox.Session) -> None:
    """Measure cold starts beside a warm local import and beside other loaders; see benchmarks/__main__.py."""
    install(session, "-e", ".[bench]")
    session.run("python", "-m", "benchmarks", *session.posargs, env=session_environ())


@nox.session(python=FULL_PYTHON)
def fuzz(session: nox.Session) -> None:
    """Fuzz the parsers for ten minutes, or ``-- --seconds N`` for each target; see tests/fuzz/__main__.py."""
    install(session, "-e", ".[dev]")
    # Guided by coverage where there is a wheel for this Python and machine; without it by mutation, which is slower.
    session.install("--quiet", "--only-binary", "atheris", "atheris>=2.3", success_codes=[0, 1, 2], silent=True)
    session.run("python", "-m", "tests.fuzz", *session.posargs, env=session_environ())


@nox.session(python=FULL_PYTHON)
def compat(session: nox.Session) -> None:
    """Run other projects' test suites from packs and from installations; see tests/compat/__main__.py."""
    install(session, "-e", ".[build]")
    session.run("python", "-m", "tests.compat", *session.posargs, env=session_environ())


@nox.session(python=FULL_PYTHON)
def demo(session: nox.Session) -> None:
    """Pack, push and start a science stack against a local S3 server; see demo/run.py."""
    install(session, "-e", ".[build]", "moto[server]>=5.1")
    session.run("python", "demo/run.py", *session.posargs, env=session_environ())
