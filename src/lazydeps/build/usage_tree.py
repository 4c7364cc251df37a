"""A tree to run a program over: a pack's files, requirements, or an installed folder, compiled, with sizes of files."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lazydeps.errors import ConfigError

from . import resolve
from .bytecode import compile_tree, pyc_path
from .elf import ElfTree
from .interpreters import Interpreter, require_interpreter
from .read import as_ref, extract, open_pack
from .trace_report import sizes_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .options import PackOptions


@dataclass(frozen=True, slots=True)
class UsageTree:
    """What `usage.find_unused` needs to know of what it runs over."""

    tree: Path
    interpreter: Interpreter
    elf: ElfTree
    sizes: Mapping[str, int]
    """Bytes of files, a module's of its bytecode: packed ones for a pack, unpacked ones otherwise."""
    is_pack: bool


@contextmanager
def usage_tree(options: PackOptions) -> Iterator[UsageTree]:
    """Prepare a tree in a scratch folder, which is removed afterwards.

    Args:
        options: ``requirements``, of which a single one may be a pack's file or reference, or ``from_dir``.

    Raises:
        ConfigError: there is no interpreter for it, or the pack is for another architecture.
        LazydepsError: uv failed, or the pack could not be read.
    """
    with tempfile.TemporaryDirectory(prefix="lazydeps-usage-", ignore_cleanup_errors=True) as scratch:
        tree = Path(scratch, "tree").resolve()
        if len(options.requirements) == 1 and _is_pack(options.requirements[0]):
            yield _of_pack(options.requirements[0], tree)
        else:
            yield _installed(options, tree)


def _is_pack(word: str) -> bool:
    return "://" in word or Path(word.partition("#")[0]).is_file()


def _of_pack(word: str, tree: Path) -> UsageTree:
    with open_pack(as_ref(word)) as pack:
        interpreter = require_interpreter(pack.root.python)
        if pack.root.arch not in ("any", interpreter.arch):
            raise ConfigError(
                f"{word} is for {pack.root.arch} and this machine is {interpreter.arch}, so nothing can be run over it "
                "here. Name its requirements instead, or run the command on such a machine."
            )
        extract(pack, tree)
        sizes = {entry: size.packed for entry, size in sizes_in(pack).items()}
    return UsageTree(tree, interpreter, ElfTree(tree, resolve.list_files(tree)), sizes, is_pack=True)


def _installed(options: PackOptions, tree: Path) -> UsageTree:
    from .options import check_options

    # The project says where the handler is found (`handler_folders`), and nothing of what to install.
    options = check_options(replace(options, events=(), trace_handlers=(), project=None))
    assert options.python is not None
    interpreter = require_interpreter(options.python)
    if options.from_dir is not None:
        resolve.adopt(options.from_dir, into=tree)
    else:
        resolve.install(options.requirements, into=tree, interpreter=interpreter, arch=interpreter.arch, glibc=None)
    resolve.normalise(tree, drop_scripts=options.from_dir is None)
    files = resolve.list_files(tree)
    compiled = compile_tree(tree, files, interpreter=interpreter, jobs=options.jobs)
    files = sorted({*files, *compiled.pycs})
    sizes = {path: (tree / path).stat().st_size for path in files}
    for path in files:
        if path.endswith(".py"):
            sizes[path] = sizes.get(pyc_path(path, interpreter.cache_tag), sizes[path])
    return UsageTree(tree, interpreter, ElfTree(tree, files), sizes, is_pack=False)
