"""Measure the imports of a trace from a warm local disk: wall and CPU seconds, with and without bytecode.

Runs the target's interpreter on a tree for this machine; nothing of it is imported here.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lazydeps.errors import LazydepsError

from .bytecode import clean_environ
from .trace import FILE_PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .interpreters import Interpreter

RUNS = 3
"""Timed runs after the first, which warms the page cache; the shortest counts."""
TIMEOUT = 600.0

_PROGRAM = """
import importlib, json, os, resource, sys, time
tree, names, out = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
sys.path.insert(0, tree)
failed = 0
def used():
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in both)
cpu, wall = used(), time.perf_counter()
for name in names:
    try:
        importlib.import_module(name)
    except Exception:
        failed += 1
wall, cpu = time.perf_counter() - wall, used() - cpu
with open(out, "w") as file:
    json.dump({"wall": wall, "cpu": cpu, "failed": failed}, file)
os._exit(0)
"""
_IMPORT_TIME = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)$")


@dataclass(frozen=True, slots=True)
class Replayed:
    """What the imports of a trace took on this machine. Seconds."""

    wall: float
    cpu: float
    compiling: float
    """Wall seconds without bytecode."""
    by_module: Mapping[str, float]
    """Dotted name to seconds of the module itself, without what it imports."""
    modules: int
    failed: int
    """Modules that could not be imported by themselves."""


def module_names(order: Sequence[str], suffixes: Sequence[str]) -> tuple[str, ...]:
    """Return the modules that a trace's entries are, in its order; files that are no modules are left out."""
    names: dict[str, None] = {}
    for entry in order:
        if entry.startswith(FILE_PREFIX):
            continue
        folder, _, file = entry.rpartition("/")
        suffix = next((suffix for suffix in (".py", *suffixes) if file.endswith(suffix)), None)
        if suffix is None:
            continue
        stem = file.removesuffix(suffix)
        parts = [part for part in folder.split("/") if part] + ([] if stem == "__init__" else [stem])
        if parts and all(part.isidentifier() for part in parts) and parts[-1] != "__main__":
            names[".".join(parts)] = None
    return tuple(names)


def replay(tree: Path, names: Sequence[str], *, interpreter: Interpreter) -> Replayed:
    """Import modules in order, several times in fresh processes.

    Args:
        tree: the installed tree for this machine, with its bytecode.
        names: dotted names.
        interpreter: a CPython of the target's minor version.

    Raises:
        LazydepsError: the process crashed, or took longer than `TIMEOUT` seconds.
    """
    with tempfile.TemporaryDirectory(prefix="lazydeps-replay-", ignore_cleanup_errors=True) as scratch:
        said = _run(tree, names, interpreter, Path(scratch), "-X", "importtime")[1]
        runs = [_run(tree, names, interpreter, Path(scratch))[0] for _ in range(RUNS)]
        prefix = Path(scratch, "none")
        plain = _run(tree, names, interpreter, Path(scratch), "-X", f"pycache_prefix={prefix}")[0]
    matches = (_IMPORT_TIME.match(line) for line in said.splitlines())
    by_module = {match.group(2): int(match.group(1)) / 1e6 for match in matches if match}
    best = min(runs, key=lambda run: float(run["wall"]))
    return Replayed(best["wall"], best["cpu"], plain["wall"], by_module, len(names), best["failed"])


def _run(
    tree: Path, names: Sequence[str], interpreter: Interpreter, scratch: Path, *flags: str
) -> tuple[dict[str, Any], str]:
    home = scratch / "home"
    home.mkdir(exist_ok=True)
    out = scratch / "out.json"
    out.unlink(missing_ok=True)
    own = dict.fromkeys(("HOME", "TMPDIR", "MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"), str(home))
    try:
        done = subprocess.run(
            [os.fspath(interpreter.path), "-S", "-s", "-P", "-B", *flags, "-c", _PROGRAM, tree, json.dumps(names), out],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            cwd=home,
            env=clean_environ(**own),
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired as error:
        raise LazydepsError(f"the imports of the trace did not end within {TIMEOUT:.0f} s.") from error
    said = done.stderr.decode(errors="replace")
    if not out.exists():
        raise LazydepsError(
            f"the imports of the trace ended the process with exit code {done.returncode}: "
            + " | ".join(said.strip().splitlines()[-2:])
        )
    facts: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return facts, said
