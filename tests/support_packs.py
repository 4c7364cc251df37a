"""Small real packs for tests: a tree of files on disk, compiled by this interpreter, written by the real writer."""

from __future__ import annotations

import importlib.util
import os
import py_compile
import sys
from pathlib import Path

from lazydeps.build.write import Member, SetName, Target, Written, write_pack

ARCH = {"aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
CACHE_TAG = f".{sys.implementation.cache_tag}.pyc"
THREADS = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
"""Code that gives a process a second thread: its worker runs in threads, because forking is not safe any more."""


def host_target(**changes: str) -> Target:
    """Return the target that this interpreter is."""
    facts = {
        "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "arch": ARCH,
        "pyc_magic": importlib.util.MAGIC_NUMBER.hex(),
        "os": sys.platform,
        "libc_version": "",
    }
    return Target(**{**facts, **changes})


def write_tree(folder: Path, files: dict[str, str | bytes]) -> None:
    """Write files, and unchecked-hash bytecode beside every ``.py``."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        if name.endswith(".py"):
            cache = path.parent / "__pycache__" / (path.stem + CACHE_TAG)
            py_compile.compile(
                str(path),
                str(cache),
                dfile=name,
                doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )


def bytecode_of(name: str) -> str:
    """Return the path of a source's bytecode."""
    path = Path(name)
    return str(path.parent / "__pycache__" / (path.stem + CACHE_TAG))


def pack_tree(
    out: Path,
    tree: Path,
    *,
    boot: list[str],
    cold: tuple[str, ...] = (),
    absent: tuple[str, ...] = (),
    stdlib: tuple[str, ...] = (),
    distributions: dict[str, str] | None = None,
    level: int = 3,
    **changes: str,
) -> Written:
    """Pack a tree. ``boot`` lists sources and other files in import order; what is left is data or cold.

    Sources and their bytecode are cold; ``cold`` names other files that are.
    """
    first = [bytecode_of(name) if name.endswith(".py") else name for name in boot]
    every = sorted(str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file())
    sets: dict[str, SetName] = dict.fromkeys(first, "boot")
    for name in every:
        if name not in sets and name not in cold and not name.endswith((".py", ".pyc")):
            sets[name] = "data"
    for name in sorted(every, key=lambda name: (name.endswith(".py"), name)):
        sets.setdefault(name, "cold")
    members = [
        Member(name, tree / name, kind) for kind in ("boot", "data", "cold") for name in sets if sets[name] == kind
    ]
    return write_pack(
        out,
        members,
        target=host_target(**changes),
        distributions=distributions or {},
        absent=absent,
        stdlib=stdlib,
        level=level,
    )


def check_store(store: Path, pack: Written) -> int:
    """Compare everything that carries a name in a store with the pack's tree; return how many files there are."""
    tree, count = pack.path.parent / "tree", 0
    for folder in store.glob("*/tree"):
        for path in folder.rglob("*"):
            if path.is_file():
                assert path.read_bytes() == (tree / path.relative_to(folder)).read_bytes(), path
                count += 1
    return count
