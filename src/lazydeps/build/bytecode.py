"""Compile a tree's modules to unchecked-hash bytecode (PEP 552), the same bytes in every folder and on every machine.

Uses an interpreter of the target's minor version, which need not be the running one. It imports nothing of the tree.
"""

from __future__ import annotations

import os
import posixpath
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lazydeps.errors import LazydepsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from .interpreters import Interpreter

CHUNK_FILES = 100
"""Files that one process compiles. `marshal` marks an object for sharing when something else holds a reference to
it, so a file's bytes can depend on what its process compiled before (measured with CPython 3.12 and 3.13: one file in
2,000). Fixed chunks in fresh processes make that the same each time, whatever the number of cores."""

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
    on_progress: Callable[[int, int], None] | None = None,
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
        on_progress: called with (files done, files in all).

    Raises:
        LazydepsError: the interpreter broke down.
    """
    sources = sorted(path for path in files if path.endswith(".py"))
    chunks = [sources[start : start + CHUNK_FILES] for start in range(0, len(sources), CHUNK_FILES)]
    failed: list[str] = []
    done = 0
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as executor:
        try:
            for chunk, bad in zip(
                chunks, executor.map(lambda c: _compile(tree, c, interpreter, optimize), chunks), strict=True
            ):
                failed += bad
                done += len(chunk)
                if on_progress is not None:
                    on_progress(done, len(sources))
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise
    wrong = frozenset(failed)
    pycs = sorted(pyc_path(path, interpreter.cache_tag) for path in sources if path not in wrong)
    return Compiled(tuple(pycs), tuple(sorted(failed)))


def clean_environ(**extra: str) -> dict[str, str]:
    """Return an environment in which a Python does the same on every machine.

    Nothing of the user's gets in but PATH: not PYTHONDONTWRITEBYTECODE, not PYTHONPYCACHEPREFIX, not a locale.
    """
    return {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", **extra}


def _compile(tree: Path, chunk: Sequence[str], interpreter: Interpreter, optimize: int) -> list[str]:
    # Not -I: it would ignore PYTHONHASHSEED. The environment is ours, so -S -s -P isolates as well.
    done = subprocess.run(
        [os.fspath(interpreter.path), "-S", "-s", "-P", "-X", "utf8", "-c", _COMPILER, str(optimize)],
        input="\0".join(chunk).encode("utf-8", "surrogateescape"),
        capture_output=True,
        check=False,
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
