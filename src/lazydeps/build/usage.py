"""Which imports of a program bring what the program never uses, and what `lazydeps.lazy` would save there.

The program is run once under watch and a few times with a clock. "Used" is what can be seen: a function of the package
that ran outside of imports, or a name of it that code of the program's own which ran reads. In doubt it is used.
"""

from __future__ import annotations

import ast
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lazydeps.errors import LazydepsError

from .trace import TIMEOUT, prepare, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from .elf import ElfTree
    from .handler import Handler
    from .interpreters import Interpreter

RUNS = 3
"""Runs with a clock; the median counts, module by module."""
_WATCHER = Path(__file__).with_name("recorder_usage.py")
_RECORDER = Path(__file__).with_name("recorder.py")


@dataclass(frozen=True, slots=True)
class UnusedImport:
    """A statement at the top of a file whose package the run did without."""

    package: str
    """Its top-level name."""
    module: str
    """What the statement imports."""
    file: str
    line: int
    text: str
    """The statement, its first line."""
    seconds: float
    """What an import of this package alone costs: of modules that nothing else in the run needs."""
    bytes: int
    """The size of those modules' files, and of the libraries that only they need."""
    modules: int
    """How many modules that are."""
    suggestion: str
    """The line to write instead."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run showed."""

    what: tuple[str, ...]
    """What was run."""
    unused: tuple[UnusedImport, ...]
    """The most seconds first."""
    used: dict[str, str]
    """Packages that the program imports and uses, with how that was seen."""
    seconds: float
    """What all unused imports together cost: more than their sum where two of them share something."""
    bytes: int
    total_seconds: float
    """What all imports of the run took."""
    raised: dict[str, str]
    """Events with which the handler raised."""


def find_unused(
    tree: Path,
    *,
    interpreter: Interpreter,
    elf: ElfTree,
    sizes: Mapping[str, int],
    statements: Sequence[str] = (),
    script: Path | None = None,
    handler: Handler | None = None,
    environ: Mapping[str, str] | None = None,
    runs: int = RUNS,
    timeout: float = TIMEOUT,
) -> Usage:
    """Run a program against a tree, and say which of its imports it did without.

    Args:
        tree: the installed tree, with its bytecode.
        interpreter: a CPython that can import it.
        elf: the tree's ELF files.
        sizes: bytes of the tree's files, packed or not; posix paths relative to it. Bytecode counts under its
            source's name.
        statements: Python code, each run as a ``__main__``.
        script: a program to run.
        handler: a Lambda handler, called with its events.
        environ: more variables for the process.
        runs: how often to time the imports.
        timeout: seconds that each run may take.

    Raises:
        LazydepsError: the program failed, crashed or took too long.
    """
    settings, own, what = prepare(tree, statements=statements, script=script, handler=handler, environ=environ)
    settings["recorder"] = str(_RECORDER)
    raws: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="lazydeps-usage-") as scratch:
        for watch in [*([False] * runs), True]:
            raw = run(_WATCHER, Path(scratch), interpreter, {**settings, "watch": watch}, own, timeout)
            if "crashed" in raw or raw["fatal"]:
                how = f"failed:\n{raw['fatal']}" if raw.get("fatal") else f"{raw['crashed']}."
                raise LazydepsError(f"the program `{'; '.join(what)}` {how}")
            raws.append(raw)
    *timed, seen = raws
    names = {name for raw in timed for name in raw["seconds"]}
    seconds = {name: statistics.median(raw["seconds"].get(name, 0.0) for raw in timed) for name in names}
    prefix = str(tree.resolve()) + "/"
    files = {name: file[len(prefix) :] for name, file in seen["files"].items() if file.startswith(prefix)}
    packages = {file.partition("/")[0].partition(".")[0] for file in files.values()}
    imported = [
        entry for entry in _statements(statements, script, seen["own"]) if entry.module.partition(".")[0] in packages
    ]
    used = _used(seen, imported, packages)
    graph = _Graph(
        [(importer, name) for importer, name in seen["edges"]], {"__main__", "", *seen["own"]}, seen["files"]
    )

    def weigh(lazy: Iterable[str]) -> tuple[float, int, int]:
        gone = graph.only_by(frozenset(lazy))
        return (
            sum(seconds.get(name, 0.0) for name in gone),
            _size({files[name] for name in gone if name in files}, set(files.values()), elf, sizes),
            len(gone),
        )

    unused: list[UnusedImport] = []
    for entry in imported:
        package = entry.module.partition(".")[0]
        if package not in used and not any((entry.file, entry.line) == (one.file, one.line) for one in unused):
            cost, size, count = weigh([package])
            unused.append(
                UnusedImport(
                    package, entry.module, entry.file, entry.line, entry.text, cost, size, count, entry.suggestion
                )
            )
    together = weigh({entry.package for entry in unused})
    return Usage(
        what=tuple(what),
        unused=tuple(sorted(unused, key=lambda entry: (-entry.seconds, entry.file, entry.line))),
        used={
            name: used[name] for name in sorted({entry.module.partition(".")[0] for entry in imported} & used.keys())
        },
        seconds=together[0],
        bytes=together[1],
        total_seconds=sum(seconds.values()),
        raised=seen["events"],
    )


@dataclass(frozen=True, slots=True)
class _Statement:
    """An import at the top of a file of the program's own."""

    module: str
    name: str
    """What it binds."""
    file: str
    line: int
    text: str
    suggestion: str


def _statements(statements: Sequence[str], script: Path | None, own: Mapping[str, str]) -> list[_Statement]:
    """Return the imports that run when the program's files are imported, in the order of the files."""
    texts = [("<trace>", text) for text in statements]
    paths = [*([script] if script is not None else []), *map(Path, dict.fromkeys(own.values()))]
    texts += [(str(path), path.read_text(encoding="utf-8", errors="replace")) for path in paths]
    found: list[_Statement] = []
    for file, text in texts:
        lines = text.splitlines()
        for node in _top_level(ast.parse(text)):
            line = lines[node.lineno - 1].strip()
            if isinstance(node, ast.Import):
                for alias in node.names:
                    tail = alias.asname or alias.name.rpartition(".")[2]
                    bound = alias.asname or alias.name.partition(".")[0]
                    instead = f'{tail} = lazydeps.lazy("{alias.name}")'
                    found.append(_Statement(alias.name, bound, file, node.lineno, line, instead))
            elif node.module and not node.level:
                tail = node.module.rpartition(".")[2]
                instead = f'{tail} = lazydeps.lazy("{node.module}")'
                first, *_ = node.names
                others = ", ".join(f"{tail}.{alias.name}" for alias in node.names if alias.name != "*")
                instead += f"  # and {others} where {first.asname or first.name} stands" if others else ""
                found += [
                    _Statement(node.module, alias.asname or alias.name, file, node.lineno, line, instead)
                    for alias in node.names
                ]
    return found


def _top_level(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from _top_level(child)


def _used(seen: Mapping[str, Any], imported: Sequence[_Statement], packages: set[str]) -> dict[str, str]:
    used = {name: why for name, why in seen["used"].items() if name in packages}
    bound: dict[tuple[str, str], set[str]] = {}
    for entry in imported:
        bound.setdefault((_real(entry.file), entry.name), set()).add(entry.module.partition(".")[0])
    for file, name, line, package in seen["names"]:
        where = f"{Path(file).name}:{line}"
        for one in {package, *bound.get((_real(file), name), ())} & packages:
            used.setdefault(one, f"imported at {where}" if name.startswith(".") else f"`{name}` is read at {where}")
    return used


def _real(file: str) -> str:
    return file if file.startswith("<") else str(Path(file).resolve())


class _Graph:
    """Who imports whom, from the program's own modules on."""

    def __init__(self, edges: Sequence[tuple[str, str]], roots: set[str], modules: Iterable[str]) -> None:
        self._roots = roots
        self._next: dict[str, set[str]] = {}
        for importer, name in [*edges, *((name, name.rpartition(".")[0]) for name in modules if "." in name)]:
            self._next.setdefault(importer, set()).add(name)
        for name in {name for names in self._next.values() for name in names if "." in name}:
            self._next.setdefault(name, set()).add(name.rpartition(".")[0])
        self._all = self._reach(frozenset())

    def only_by(self, packages: frozenset[str]) -> set[str]:
        """Return the modules that would not be imported if the program itself did not import these packages."""
        return self._all - self._reach(packages)

    def _reach(self, without: frozenset[str]) -> set[str]:
        found: set[str] = set()
        left = list(self._roots)
        while left:
            name = left.pop()
            if name not in found:
                found.add(name)
                skip = without if name in self._roots else frozenset()
                left += [other for other in self._next.get(name, ()) if other.partition(".")[0] not in skip]
        return found


def _size(gone: set[str], every: set[str], elf: ElfTree, sizes: Mapping[str, int]) -> int:
    """Return the bytes of files, and of the libraries that nothing but these files needs."""
    libraries = {library for path in gone if path.endswith(".so") for library in elf.needed_closure(path)}
    kept = {library for path in every - gone if path.endswith(".so") for library in elf.needed_closure(path)}
    return sum(sizes.get(path, 0) for path in gone | (libraries - kept))
