"""Recordings that need not be made again: the same modules or statements, of the same tree, on the same interpreter.

Scripts and handlers are recorded each time: they read what they like.
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cache import key
from .trace import Recording, Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .cache import Cache
    from .interpreters import Interpreter

_PARTS = ("recorder.py", "trace.py", "elf.py")
"""Our own files that decide what a recording says."""


def recall(
    cache: Cache | None,
    record: Callable[[], Recording],
    *,
    tree: Path,
    files: Sequence[str],
    interpreter: Interpreter,
    modules: Sequence[str],
    statements: Sequence[str],
    jobs: int | None = None,
) -> Recording:
    """Return what was recorded before, or record now and keep it.

    Kept is only what a second run would give again: no failures, which another library on this machine may mend, and
    nothing of a program that changed the tree, or that opened files of which the key knows nothing.

    Args:
        cache: where to look; None for nowhere.
        record: records the modules and the statements.
        tree: what is imported.
        files: its files, posix paths relative to it.
        interpreter: imports it.
        modules: what ``record`` imports.
        statements: what it runs then.
        jobs: threads that read the tree; the machine's cores by default.
    """
    if cache is None:
        return record()
    before = looks(tree, files)
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as executor:
        digests = list(executor.map(lambda path: _digest(tree / path), files))
    name = key(
        "trace 1",
        *(str(fact) for fact in interpreter),
        *(_digest(Path(__file__).with_name(part)) for part in _PARTS),
        *(str(len(modules)), *modules, str(len(statements)), *statements),
        *files,
        *digests,
    )
    kept = cache.get("traces", name)
    if kept is not None:
        document: dict[str, Any] = json.loads(kept)
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in document.items()
        }
        return Recording(Trace(**fields), {})
    recording = record()
    if not (recording.failed or recording.foreign) and looks(tree, files) == before:
        cache.put("traces", name, json.dumps(asdict(recording.trace)).encode())
    return recording


def _digest(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def looks(tree: Path, files: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Return what tells a file that was written to from one that was not, without reading it; of those that exist."""
    found = {}
    for path in files:
        try:
            facts = (tree / path).lstat()
        except OSError:
            continue
        found[path] = facts.st_ino, facts.st_size, facts.st_mtime_ns
    return found
