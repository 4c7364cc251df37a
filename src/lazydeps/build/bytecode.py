"""Compile a tree's modules to unchecked-hash bytecode (PEP 552), the same bytes in every folder and on every machine.

Uses an interpreter of the target's minor version, which need not be the running one. It imports nothing of the tree.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lazydeps.errors import LazydepsError

from . import processes
from .cache import key
from .compress import compress, decompress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from .cache import Cache
    from .interpreters import Interpreter

CHUNK_FILES = 100
"""Files that one process compiles, at most. `marshal` marks an object for sharing when something else holds a reference
to it, so a file's bytes can depend on what its process compiled before (measured with CPython 3.12 and 3.13: one file
in 2,000). Fixed chunks in fresh processes make that the same each time, whatever the number of cores. A chunk never
reaches beyond a top-level folder: so one more distribution changes nothing for the others."""
CACHE_LEVEL = 3
"""zstd level of bytecode in the cache: a third of the size, in no time."""

_COMPILER = """
import importlib.util, marshal, os, sys, warnings
warnings.simplefilter("ignore")
head = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little")
tag = "." + sys.implementation.cache_tag + ".pyc"
level = int(sys.argv[1])
for path in sys.stdin.buffer.read().decode("utf-8", "surrogateescape").split("\\0"):
    with open(path, "rb") as stream:
        source = stream.read()
    try:
        code = compile(source, path, "exec", dont_inherit=True, optimize=level)
        data = marshal.dumps(code)
    except (SyntaxError, ValueError, RecursionError, OverflowError, MemoryError):
        sys.stdout.buffer.write(path.encode("utf-8", "surrogateescape") + b"\\0")
        continue
    folder, name = os.path.split(path)
    folder = os.path.join(folder, "__pycache__")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name[:-3] + tag), "wb") as stream:
        stream.write(head + importlib.util.source_hash(source) + data)
"""


@dataclass(frozen=True, slots=True)
class Compiled:
    """What compiling a tree gave."""

    pycs: tuple[str, ...]
    """The bytecode files written, posix paths relative to the tree, sorted."""
    failed: tuple[str, ...]
    """Sources that are no Python of this version (templates, test data, Python 2): left without bytecode, sorted."""


def pyc_path(source: str, cache_tag: str) -> str:
    """Return where the bytecode of a source file lies: ``a/b.py`` → ``a/__pycache__/b.cpython-313.pyc``."""
    folder, name = posixpath.split(source)
    return posixpath.join(folder, "__pycache__", f"{name.removesuffix('.py')}.{cache_tag}.pyc")


def compile_tree(
    tree: Path,
    files: Sequence[str],
    *,
    interpreter: Interpreter,
    optimize: int = 0,
    jobs: int | None = None,
    cache: Cache | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Compiled:
    """Compile every ``.py`` of a tree into its ``__pycache__`` folders.

    The code's file names are relative to the tree, so no path of this machine gets into a pack; importlib replaces
    them by the real path when it loads a module.

    Args:
        tree: the folder; bytecode is written into it.
        files: its files, posix paths relative to ``tree``.
        interpreter: a CPython of the target's minor version.
        optimize: what Python's ``-O`` would have done: 0, 1 or 2. The bytecode's name is the ordinary one all the same
            (not ``.opt-1.pyc``), so that a Python started without ``-O`` runs it, as Lambda's is.
        jobs: processes at a time; the machine's cores by default.
        cache: where bytecode is looked for and kept, a chunk an entry.
        on_progress: called with (files done, files in all, the top-level folder whose files were compiled last).

    Raises:
        LazydepsError: the interpreter broke down.
    """
    sources = sorted(path for path in files if path.endswith(".py"))
    chunks = list(_chunks(sources))
    failed: list[str] = []
    done = 0
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as executor:
        try:
            results = executor.map(lambda chunk: _compile_or_recall(tree, chunk, interpreter, optimize, cache), chunks)
            for chunk, bad in zip(chunks, results, strict=True):
                failed += bad
                done += len(chunk)
                if on_progress is not None:
                    on_progress(done, len(sources), chunk[-1].partition("/")[0])
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            processes.stop_all()
            raise
    wrong = frozenset(failed)
    pycs = sorted(pyc_path(path, interpreter.cache_tag) for path in sources if path not in wrong)
    return Compiled(tuple(pycs), tuple(sorted(failed)))


def clean_environ(**extra: str) -> dict[str, str]:
    """Return an environment in which a Python does the same on every machine.

    Nothing of the user's gets in but PATH: not PYTHONDONTWRITEBYTECODE, not PYTHONPYCACHEPREFIX, not a locale.
    """
    return {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", **extra}


def _chunks(sources: Sequence[str]) -> Iterator[list[str]]:
    """Yield sources in pieces that one process each compiles. Modules at the top share theirs."""
    groups: dict[str, list[str]] = {}
    for path in sources:
        groups.setdefault(path.partition("/")[0] if "/" in path else "", []).append(path)
    for group in groups.values():
        for start in range(0, len(group), CHUNK_FILES):
            yield group[start : start + CHUNK_FILES]


def _compile_or_recall(
    tree: Path, chunk: Sequence[str], interpreter: Interpreter, optimize: int, cache: Cache | None
) -> list[str]:
    """Write a chunk's bytecode, compiled now or found in the cache; return the sources that are no Python."""
    if cache is None:
        return _compile(tree, chunk, interpreter, optimize)
    digests = [hashlib.sha256((tree / path).read_bytes()).digest() for path in chunk]
    facts = (interpreter.version, interpreter.magic, interpreter.cache_tag, *_command(interpreter, optimize)[1:])
    name = key("bytecode 1", *facts, *chunk, *digests)
    kept = cache.get("bytecode", name)
    if kept is not None:
        return _unpack(tree, chunk, interpreter, decompress(kept))
    failed = _compile(tree, chunk, interpreter, optimize)
    cache.put("bytecode", name, compress(_gather(tree, chunk, failed, interpreter), CACHE_LEVEL))
    return failed


def _gather(tree: Path, chunk: Sequence[str], failed: Sequence[str], interpreter: Interpreter) -> bytes:
    """Return a chunk's bytecode in one piece: a line of JSON with each file's size, or null, and the files."""
    wrong = frozenset(failed)
    files = [None if path in wrong else (tree / pyc_path(path, interpreter.cache_tag)).read_bytes() for path in chunk]
    head = json.dumps([None if file is None else len(file) for file in files])
    return b"\n".join([head.encode(), b"".join(file for file in files if file is not None)])


def _unpack(tree: Path, chunk: Sequence[str], interpreter: Interpreter, kept: bytes) -> list[str]:
    head, _, content = kept.partition(b"\n")
    failed, at = [], 0
    for path, size in zip(chunk, json.loads(head), strict=True):
        if size is None:
            failed.append(path)
            continue
        file = tree / pyc_path(path, interpreter.cache_tag)
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content[at : at + size])
        at += size
    return failed


def _command(interpreter: Interpreter, optimize: int) -> list[str]:
    """Return the compiler's command line. All of it but the interpreter's place decides what comes out."""
    # Not -I: it would ignore PYTHONHASHSEED. The environment is ours, so -S -s -P isolates as well.
    return [os.fspath(interpreter.path), "-S", "-s", "-P", "-X", "utf8", "-c", _COMPILER, str(optimize)]


def _compile(tree: Path, chunk: Sequence[str], interpreter: Interpreter, optimize: int) -> list[str]:
    done = processes.run(
        _command(interpreter, optimize),
        input="\0".join(chunk).encode("utf-8", "surrogateescape"),
        cwd=tree,
        env=clean_environ(),
    )
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-3:]
        raise LazydepsError(
            f"{interpreter.path} could not compile {chunk[0]} … {chunk[-1]} (exit code {done.returncode}): "
            + (" | ".join(said) or "it said nothing")
        )
    return [path for path in done.stdout.decode("utf-8", "surrogateescape").split("\0") if path]
