"""What runs in a fresh interpreter: imports the project, from a pack or from site-packages, and runs a suite on it.

Called with one JSON file of settings (`suites.Run` writes it). Needs pytest, and nothing of ours but the runtime.
Writes one JSON line a test, as it happens, so that a crash shows where it was.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.metadata
import json
import os
import re
import sys
import sysconfig
from fnmatch import fnmatchcase
from typing import Any

ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")
"""An object's address, which some suites have in the names of their parametrized tests."""
LONGEST = 4000
"""Characters of a failure that are kept."""


class Recorder:
    """A pytest plugin that writes each test's name and outcome, and leaves out what it is told to."""

    def __init__(self, path: str, bases: list[str], only: list[str] | None, leave_out: list[str]) -> None:
        self._file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - as long as the process lives
        # The longest first: one may lie in another.
        self._bases = sorted({form + "/" for base in bases for form in (base, os.path.realpath(base))}, key=len)[::-1]
        self._only = None if only is None else set(only)
        self._leave_out = leave_out
        self._open: dict[str, tuple[str, str]] = {}
        self._seen: dict[str, int] = {}

    def write(self, **facts: Any) -> None:
        """Write one line."""
        self._file.write(json.dumps(facts) + "\n")

    def name(self, nodeid: str) -> str:
        """Return a test's name as both ways have it: no folder of this run, no addresses."""
        for base in self._bases:
            nodeid = nodeid.replace(base, "")
        return ADDRESS.sub("0x…", nodeid)

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        """Keep the tests asked for."""
        kept, dropped = [], []
        for item in items:
            name = self.name(item.nodeid)
            wanted = self._only is None or name in self._only
            if wanted and not any(name == pattern or fnmatchcase(name, pattern) for pattern in self._leave_out):
                kept.append(item)
            else:
                dropped.append(item)
        items[:] = kept
        if dropped:
            config.hook.pytest_deselected(items=dropped)

    def pytest_collectreport(self, report: Any) -> None:
        """Take a file that could not be collected, or is skipped as a whole, for a test."""
        if report.outcome != "passed":
            outcome = "error" if report.failed else "skipped"
            self.write(test=f"{self.name(report.nodeid)} (collecting)", outcome=outcome, text=_text(report))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Note what is about to run."""
        self.write(begun=self.name(nodeid))

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Fold the reports of set-up, call and tear-down into one outcome."""
        outcome, text = self._open.get(report.nodeid, ("passed", ""))
        if report.failed:
            worse = "failed" if report.when == "call" else "error"
            outcome, text = worse, (text + "\n" + _text(report)).strip()
        elif outcome == "passed" and report.skipped:
            outcome = "xfailed" if hasattr(report, "wasxfail") else "skipped"
            text = _text(report)
        elif outcome == "passed" and report.when == "call" and hasattr(report, "wasxfail"):
            outcome = "xpassed"
        self._open[report.nodeid] = outcome, text
        if report.when == "teardown":
            del self._open[report.nodeid]
            name = self.name(report.nodeid)
            self._seen[name] = self._seen.get(name, 0) + 1
            if self._seen[name] > 1:
                name += f" (no. {self._seen[name]})"
            self.write(test=name, outcome=outcome, text=text)


def _text(report: Any) -> str:
    text: str = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longreprtext)
    return text[-LONGEST:]


def import_plainly(settings: dict[str, Any]) -> str:
    """Run the import statements from site-packages, and return that folder."""
    base = sysconfig.get_path("purelib")
    exec(settings["imports"], {})
    return base


def import_packed(settings: dict[str, Any]) -> str:
    """Run the import statements while the pack streams, and return the folder that stands for site-packages."""
    for name in settings["modules"]:
        top = name.partition(".")[0]
        found = importlib.machinery.PathFinder.find_spec(top)
        # A namespace's other portions may lie among the suite's tools; the module itself may not.
        assert found is None or found.loader is None, (
            f"{top} is installed here, so the pack's would prove nothing: {found}"
        )
    sys.path.append(settings["runtime"])
    lazydeps = importlib.import_module("lazydeps")
    with lazydeps.load(settings["ref"]):
        exec(settings["imports"], {})
    if settings["complete"]:
        lazydeps.wait(complete=True)
    (pack,) = lazydeps.report().as_dict()["packs"]
    return os.path.join(pack["store"], "tree")


def strays(base: str) -> list[str]:
    """Return the modules below ``base`` that Python's own loaders have brought, as if they were installed there.

    Others may: pytest loads test modules itself, to rewrite their assertions, and setuptools its own `distutils`.
    """
    found = []
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and path.startswith(base + "/"):
            spec = getattr(module, "__spec__", None)
            loader = type(getattr(spec, "loader", None)).__name__
            if loader in ("SourceFileLoader", "SourcelessFileLoader", "ExtensionFileLoader"):
                found.append(f"{name} ({loader})")
    return sorted(found)


def main(path: str) -> int:
    """Run the suite that the settings describe, and return pytest's exit code."""
    with open(path, encoding="utf-8") as file:
        settings = json.load(file)

    base = (import_packed if settings["ref"] else import_plainly)(settings)
    for name in settings["modules"]:
        origin = importlib.import_module(name).__file__
        assert origin is not None, name
        assert os.path.realpath(origin).startswith(os.path.realpath(base) + "/"), (
            f"{name} came from {origin}, not {base}"
        )
    root = settings["root"] or base
    recorder = Recorder(settings["results"], [base, root], settings["only"], settings["leave_out"])
    import pytest

    arguments = [
        *("-p", "no:cacheprovider", "-c", settings["ini"], f"--rootdir={root}", f"--confcutdir={root}"),
        *(f"--import-mode={settings['import_mode']}", "-q", "--tb=short", "--color=no", "--no-header"),
        "--continue-on-collection-errors",
        *(argument.replace("{root}", root) for argument in settings["arguments"]),
    ]
    code = int(pytest.main(arguments, plugins=[recorder]))
    # The distributions' own metadata, read the ordinary way: the same wheels have to stand behind both ways.
    wheels = {
        name: [line for line in (importlib.metadata.distribution(name).read_text("WHEEL") or "").splitlines() if line]
        for name in settings["distributions"]
    }
    packed = bool(settings["ref"])
    modules = sum(str(getattr(module, "__file__", None)).startswith(base + "/") for module in [*sys.modules.values()])
    recorder.write(code=code, wheels=wheels, modules=modules, strays=strays(base) if packed else [])
    return code


if __name__ == "__main__":
    # The suite's process may be spawned again by `multiprocessing`, which imports this file.
    sys.exit(main(sys.argv[1]))
