"""The trace: which files an import touches, in which order. Record one, keep it, fit it to another tree.

A trace is a small JSON document that can be checked in. Its entries are posix paths relative to site-packages:

- ``numpy/__init__.py``: the module, whose bytecode was read at that point (never the source itself);
- ``numpy/_core/_multiarray_umath.cpython-313-x86_64-linux-gnu.so``, ``matplotlib/mpl-data/matplotlibrc``: extension
  modules, libraries and data files under their own names;
- ``file:pkg/version.py``: a Python source that was opened as a file, not imported.

The libraries that ELF files need are not recorded: `sets.py` computes them from the tree that is packed.
"""

from __future__ import annotations

import json
import marshal
import os
import re
import signal
import subprocess
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lazydeps.errors import ConfigError, LazydepsError

from . import processes
from .bytecode import clean_environ
from .elf import is_shared_object
from .handler import BUNDLED, beside

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from .elf import ElfTree
    from .handler import Handler
    from .interpreters import Interpreter

VERSION = 1
"""The version of the document that this module writes, and the only one it reads."""
FILE_PREFIX = "file:"
"""Marks a ``.py`` that was opened as a file. Other entries need no mark: only sources can be taken for modules."""
TIMEOUT = 1800.0
"""Seconds that a traced program may run."""

_SOABI = re.compile(r"\.cpython-\d+[a-z]*-[A-Za-z0-9_-]+\.so$")
_RECORDER = Path(__file__).with_name("recorder.py")


@dataclass(frozen=True, slots=True)
class Trace:
    """What was recorded, ready to be written to a file."""

    python: str
    """Minor version of the interpreter that recorded, for example ``3.13``."""
    arch: str
    """Architecture of the tree that was imported: ``x86_64`` or ``arm64``."""
    how: tuple[str, ...]
    """What was run: statements, ``import NAME``, ``script NAME``, ``handler NAME with EVENT`` or ``function NAME``."""
    order: tuple[str, ...]
    """The files, in the order in which they have to be there."""
    absent: tuple[str, ...]
    """What was looked for in vain: posix paths, of modules without a suffix, sorted."""
    stdlib: tuple[str, ...] = ()
    """Modules of the standard library that were imported, in order; empty in traces of before they were recorded."""

    def to_json(self) -> str:
        """Return the document as text, with sorted keys and one entry a line."""
        document = {
            "lazydeps_trace": VERSION,
            "python": self.python,
            "arch": self.arch,
            "how": list(self.how),
            "order": list(self.order),
            "absent": list(self.absent),
            "stdlib": list(self.stdlib),
        }
        return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    def save(self, path: Path) -> None:
        """Write the document to a file.

        Raises:
            ConfigError: the file cannot be written.
        """
        try:
            path.write_text(self.to_json(), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"the trace could not be saved as {path}: {error.strerror or error}.") from error

    @classmethod
    def load(cls, path: Path) -> Trace:
        """Read a document that `save` wrote, or that somebody wrote by hand.

        Raises:
            ConfigError: the file is missing, no trace, or a trace of another version.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"the trace {path} could not be read: {error.strerror or error}.") from error
        except ValueError as error:
            raise ConfigError(f"{path} is not a trace: it is no JSON ({error}).") from error
        return cls.parse(text, path)

    @classmethod
    def parse(cls, text: str, path: Path) -> Trace:
        """Read a document's text; ``path`` is where it comes from, for messages.

        Raises:
            ConfigError: it is no trace, or a trace of another version.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path} is not a trace: it is no JSON ({error}).") from error
        if not isinstance(document, dict) or "lazydeps_trace" not in document:
            raise ConfigError(
                f"{path} is not a trace: key 'lazydeps_trace' is missing. `lazydeps pack --save-trace` writes one."
            )
        if document["lazydeps_trace"] != VERSION:
            raise ConfigError(
                f"{path} is a trace of version {document['lazydeps_trace']!r}, and this lazydeps reads version "
                f"{VERSION}. Record it again with --save-trace, or update lazydeps."
            )
        return cls(
            python=_string(document, "python", path),
            arch=_string(document, "arch", path),
            how=_strings(document, "how", path),
            order=_paths(document, "order", path),
            absent=_paths(document, "absent", path),
            stdlib=_strings({"stdlib": [], **document}, "stdlib", path),
        )


@dataclass(frozen=True, slots=True)
class Recording:
    """A trace, and what went wrong on the way without ending it."""

    trace: Trace
    failed: Mapping[str, str]
    """Modules of the default list that could not be imported, with the last lines of their traceback."""
    raised: Mapping[str, str] = field(default_factory=dict)
    """Events with which a handler raised, with the last lines of the traceback. What it had imported is recorded."""
    foreign: bool = False
    """Whether the program opened files that are neither of the tree nor of the interpreter or the system."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trace that names only what one tree holds."""

    trace: Trace
    dropped: tuple[str, ...]
    """Entries of the original that the tree does not have."""


def record(
    tree: Path,
    *,
    interpreter: Interpreter,
    elf: ElfTree,
    arch: str,
    statements: Sequence[str] = (),
    script: Path | None = None,
    handler: Handler | None = None,
    modules: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
) -> Recording:
    """Run a program against a tree in a clean process, and return what it touched.

    The process gets none of the user's environment but PATH, a home and a working folder of its own that are thrown
    away (a handler works in its own folder, as on Lambda), and hash seed 0, so that the same tree gives the same trace.
    It can import lazydeps, whose `load` has nothing to load there.

    Args:
        tree: the installed tree, with its bytecode.
        interpreter: a CPython that can import it.
        elf: the tree's ELF files; what they need is left out of the trace.
        arch: the tree's architecture, for the document.
        statements: Python code, each run as a ``__main__``; an exception is fatal.
        script: a program to run; an exception is fatal.
        handler: a Lambda handler: an exception while its module is imported is fatal, one with an event is reported.
        modules: modules to import; one that fails is reported, not fatal.
        environ: more variables for the process.
        timeout: seconds that the program may run.

    Raises:
        LazydepsError: the program failed, crashed or took too long, or no module at all could be imported.
    """
    left = list(modules)
    failed: dict[str, str] = {}
    settings, own, what = prepare(tree, statements=statements, script=script, handler=handler, environ=environ)
    with tempfile.TemporaryDirectory(prefix="lazydeps-trace-") as scratch:
        while True:
            raw = run(_RECORDER, Path(scratch), interpreter, {**settings, "modules": list(left)}, own, timeout)
            if "crashed" not in raw:
                break
            name = str(raw["module"])
            if name not in left:
                raise LazydepsError(f"the traced program `{'; '.join(what)}` {raw['crashed']}.")
            # One module that takes the process down must not cost the trace of all others.
            left.remove(name)
            failed[name] = str(raw["crashed"])
    if raw["fatal"]:
        raise LazydepsError(f"the traced program `{'; '.join(what)}` failed:\n{raw['fatal']}")
    failed.update(raw["failed"])
    if modules and len(failed) == len(modules):
        first, message = next(iter(failed.items()))
        raise LazydepsError(
            f"none of the packed modules could be imported ({', '.join(failed)}). `import {first}` ended with:\n"
            f"{message}\nSay what to import with --trace, or give a recorded --trace-file."
        )
    trace = Trace(
        python=interpreter.minor,
        arch=arch,
        how=(*(f"import {name}" for name in modules if name not in failed), *what),
        order=_order(raw["entries"], elf),
        absent=tuple(path.replace(os.sep, "/") for path in raw["absent"]),
        stdlib=tuple(raw["stdlib"]),
    )
    return Recording(trace, failed, raw["events"], raw["foreign"])


def prepare(
    tree: Path,
    *,
    statements: Sequence[str],
    script: Path | None,
    handler: Handler | None,
    environ: Mapping[str, str] | None,
) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """Return what `recorder.py` has to know of a program, the variables of its process, and the program in words."""
    what = [*statements]
    if script is not None:
        what.append(f"script {script.name}")
    if handler is not None:
        what.append(handler.how)
    settings = {
        "tree": str(tree.resolve()),
        "statements": list(statements),
        "script": None if script is None else str(script.resolve()),
        "handler": None if handler is None else (handler.name, str(handler.folder), list(handler.events)),
        "first": beside(("lazydeps",)),
        # Only for programs of the user's: what a package makes of boto3 being there must not depend on this machine.
        "last": {} if handler is None and script is None else beside(BUNDLED),
    }
    own = {**(handler.environ if handler is not None else {}), "LAZYDEPS_LOCK": "0", **(environ or {})}
    return settings, own, what


def fit(trace: Trace, files: Collection[str], *, suffixes: Sequence[str]) -> Fitted:
    """Return a trace in terms of a tree: names of extension modules mapped, what the tree does not have dropped.

    Args:
        trace: recorded from this tree, from the same requirements on another architecture, or some time ago.
        files: the tree's files, posix paths relative to it.
        suffixes: the target's suffixes of extension modules, the most specific first.
    """
    known = files if isinstance(files, (set, frozenset)) else frozenset(files)
    order: dict[str, None] = {}
    dropped: list[str] = []
    for entry in trace.order:
        found = _fit_entry(entry, known, suffixes)
        if found is None:
            dropped.append(entry)
        else:
            order[found] = None
    folders = {path[:end] for path in known for end in _slashes(path)}
    forms = (".py", ".pyc", *suffixes)
    absent = [
        base
        for base in trace.absent
        if base not in folders and base not in known and not any(base + form in known for form in forms)
    ]
    return Fitted(replace(trace, order=tuple(order), absent=tuple(sorted(absent))), tuple(dropped))


def accompany(trace: Trace, beside: Iterable[tuple[str, str]], files: Collection[str]) -> Trace:
    """Return a trace in which modules have those files before them without which they cannot be imported.

    Args:
        trace: fitted to a tree.
        beside: modules, each with such a file (`references.files_on_disk`).
        files: the tree's.
    """
    needed: dict[str, list[str]] = {}
    for module, file in beside:
        if file in files:
            needed.setdefault(module, []).append(FILE_PREFIX + file if file.endswith(".py") else file)
    order: dict[str, None] = {}
    for entry in trace.order:
        order.update(dict.fromkeys((*needed.get(entry, ()), entry)))
    return replace(trace, order=tuple(order))


def target_suffixes(python: str, arch: str) -> tuple[str, ...]:
    """Return the suffixes of extension modules that CPython on Linux loads, as `importlib.machinery` has them."""
    machine = {"arm64": "aarch64"}.get(arch, arch)
    return (f".cpython-{python.replace('.', '')}-{machine}-linux-gnu.so", ".abi3.so", ".so")


def entry_key(entry: str) -> tuple[str, bool]:
    """Return what an entry is called on every target: an extension module without what says for which it was built."""
    match = _SOABI.search(entry)
    stem = entry[: match.start()] if match else entry.removesuffix(".abi3.so")
    return stem, stem != entry


def is_module(entry: str) -> bool:
    """Tell whether an entry is a module, whose body may need what stands before it, and not a file."""
    return (entry.endswith(".py") and not entry.startswith(FILE_PREFIX)) or entry_key(entry)[1]


def _fit_entry(entry: str, files: Collection[str], suffixes: Sequence[str]) -> str | None:
    if entry.removeprefix(FILE_PREFIX) in files:
        return entry
    stem, is_extension = entry_key(entry)
    if is_extension:
        # Also .abi3: a distribution may ship a stable-ABI module for one architecture and a plain one for another.
        return next((stem + suffix for suffix in suffixes if stem + suffix in files), None)
    return None


def _slashes(path: str) -> list[int]:
    return [index for index, char in enumerate(path) if char == "/"]


def _order(entries: Sequence[Sequence[str]], elf: ElfTree) -> tuple[str, ...]:
    """Turn the recorder's entries into a trace's order."""
    paths = [(kind, path.replace(os.sep, "/")) for kind, path in entries]
    needed: set[str] = set()
    for kind, path in paths:
        if kind != "mapped" and is_shared_object(path.rpartition("/")[2]):
            needed.update((path, *elf.needed_closure(path)))
    order: dict[str, None] = {}
    for kind, path in paths:
        if kind == "mapped" and path in needed:
            continue  # the loader mapped it because another file needs it: `sets.py` computes that
        order[FILE_PREFIX + path if kind == "file" and path.endswith(".py") else path] = None
    return tuple(order)


def run(
    recorder: Path,
    scratch: Path,
    interpreter: Interpreter,
    config: Mapping[str, Any],
    environ: Mapping[str, str],
    timeout: float,
) -> dict[str, Any]:
    """Run a recorder once. A crash comes back as ``{"crashed": how, "module": which}``."""
    out, current, settings, home, work = (scratch / name for name in ("out", "current", "settings", "home", "work"))
    for folder in (home, work):
        folder.mkdir(exist_ok=True)
    for file in (out, current):
        file.unlink(missing_ok=True)
    # A version that every target reads.
    settings.write_bytes(marshal.dumps({**config, "out": str(out), "current": str(current)}, 2))
    own = dict.fromkeys(("HOME", "TMPDIR", "MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"), str(home))
    try:
        done = processes.run(
            # Not -I: it would ignore PYTHONHASHSEED. The environment is ours, so -S -s -P isolates as well.
            [os.fspath(interpreter.path), "-S", "-s", "-P", "-B", os.fspath(recorder), os.fspath(settings)],
            cwd=work,
            env=clean_environ(**{**own, **environ}),
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as error:
        raise LazydepsError(
            f"the traced program did not end within {timeout:.0f} s. A trace covers a start, not the work: "
            "let it return after its imports."
        ) from error
    if out.exists():
        try:
            raw = json.loads(out.read_text(encoding="utf-8"))
        except ValueError:
            pass  # it died while it wrote
        else:
            return dict(raw)
    code = done.returncode
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended the process with exit code {code}"
    said = done.stderr.decode(errors="replace").strip().splitlines()[-3:]
    module = current.read_text(encoding="utf-8") if current.exists() else ""
    return {"crashed": how + (f", saying: {' | '.join(said)}" if said else ""), "module": module}


def _string(document: Mapping[str, Any], key: str, path: Path) -> str:
    value = document.get(key)
    if not (isinstance(value, str) and value.isprintable()):
        raise ConfigError(f"{path} is not a sound trace: '{key}' must be a string, found {value!r}.")
    return value


def _strings(document: Mapping[str, Any], key: str, path: Path) -> tuple[str, ...]:
    value = document.get(key)
    if not isinstance(value, list):
        raise ConfigError(f"{path} is not a sound trace: '{key}' must be a list of strings, found {value!r:.80}.")
    for index, item in enumerate(value):
        if not (isinstance(item, str) and "".join(item.split()).isprintable()):
            raise ConfigError(f"{path} is not a sound trace: '{key}[{index}]' must be a string, found {item!r:.80}.")
    return tuple(value)


def _paths(document: Mapping[str, Any], key: str, path: Path) -> tuple[str, ...]:
    values = _strings(document, key, path)
    for index, value in enumerate(values):
        parts = value.removeprefix(FILE_PREFIX).split("/")
        if "" in parts or ".." in parts or "." in parts:
            raise ConfigError(
                f"{path} is not a sound trace: '{key}[{index}]' must be a path relative to site-packages, "
                f"found {value!r}."
            )
    return values
