"""Folders of a pack on a path: the path entry finder (PEP 302) that `sys.path_hooks` gives out for them.

`PackFinder` answers imports of packed modules by itself. Here come the others: packages that put a folder of theirs on
`sys.path` (OpenCV to find its own extension, setuptools for what it vendors), `pkgutil`, which lists modules by path
entry finders, and modules that programs write into packages. Imported when somebody first asks for such a folder.
"""

from __future__ import annotations

from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
    SourcelessFileLoader,
)

from ._finder import NEVER, TAG, find, root_of
from ._worker import is_worker_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from ._session import Session


class PackEntry:
    """The path entry finder of a folder in a pack: what is packed comes from the index, all else from the disk."""

    def __init__(self, session: Session, folder: str) -> None:
        """Answer for a folder.

        Args:
            session: the pack.
            folder: its tree, or a folder below.
        """
        self._session = session
        self._inside = folder[len(session.tree) + 1 :].rstrip("/")
        self._files = FileFinder(
            folder,
            (ExtensionFileLoader, EXTENSION_SUFFIXES),
            (SourceFileLoader, SOURCE_SUFFIXES),
            (SourcelessFileLoader, BYTECODE_SUFFIXES),
        )
        self.invalidate_caches = self._files.invalidate_caches

    def find_spec(self, fullname: str, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find a module in this folder; see `PackFinder.find_spec`."""
        if fullname in NEVER or is_worker_thread():
            return None
        name = fullname.rpartition(".")[2]
        # The root knows what lies at the top; below it, the answer may have to wait for the index.
        if self._inside or name in root_of(self._session).top_level:
            found = find(self._session, fullname, f"{self._inside}/{name}" if self._inside else name)
            if isinstance(found, ModuleSpec):
                return found
            if found:  # a portion of a namespace package, which `PathFinder` joins with others
                spec = ModuleSpec(fullname, None, is_package=True)
                spec.submodule_search_locations = found
                return spec
        return self._files.find_spec(fullname, target)

    def iter_modules(self, prefix: str = "") -> Iterator[tuple[str, bool]]:
        """Yield the names of the modules here and whether each is a package, as `pkgutil.iter_modules` wants them."""
        from inspect import getmodulename
        from pkgutil import iter_importer_modules  # type: ignore[attr-defined]  # it has no stub

        found = dict(iter_importer_modules(self._files))
        start = f"{self._inside}/" if self._inside else ""
        for section in (root_of(self._session).boot, self._session.rest()):
            for path in section.paths:
                if not path.startswith(start):
                    continue
                parts = path[len(start) :].replace("__pycache__/", "", 1).removesuffix(TAG).split("/")
                name = parts[0] if len(parts) > 1 or path.endswith(TAG) else getmodulename(parts[0])
                if len(parts) == 2 and (parts[1] == "__init__" or getmodulename(parts[1]) == "__init__"):
                    found[parts[0]] = True
                elif len(parts) == 1 and name and name != "__init__":
                    found.setdefault(name, False)
        for name in sorted(found):
            if "." not in name:
                yield prefix + name, found[name]
