"""Finder and loaders: answer an import from a pack's index, and let it run once its bytes have landed.

Stands in `sys.meta_path` before the path finder and defers to the standard library and the function's own code.
Where packed modules differ from installed ones is listed in ``docs/reference/import-behaviour.md``.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    ExtensionFileLoader,
    ModuleSpec,
    NamespaceLoader,
    PathFinder,
    SourceFileLoader,
)

from ._worker import is_worker_thread
from .errors import LazydepsError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence
    from importlib.metadata import Distribution, DistributionFinder
    from importlib.readers import FileReader
    from types import CodeType, ModuleType

    from ._pack import Root, Section
    from ._path_entry import PackEntry
    from ._session import Session

NEVER = sys.stdlib_module_names | {"lazydeps"}
"""Names that no pack may provide."""
SOURCE_SECONDS = 3.0
"""How long a source may take to come, once, before a traceback does without it."""
TAG = f".{sys.implementation.cache_tag}.pyc"


class PackFinder:
    """The meta path entry for all loaded packs, in the order in which they were loaded."""

    def __init__(self) -> None:
        self.sessions: tuple[Session, ...] = ()

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,  # noqa: ARG002 - part of the protocol
    ) -> ModuleSpec | None:
        """Find a module as PEP 451 asks: a spec, or None for what is not ours.

        Raises:
            LazydepsError: the pack could not be opened, so nobody knows whether the module is in it.
        """
        if fullname in NEVER or is_worker_thread():
            return None  # a worker that waited for its own work would wait for ever
        spec = self._find_spec(fullname, path)
        if spec is not None and spec.loader is None and spec.submodule_search_locations is not None:
            # The path of a namespace package: what `sys.path` gains later joins it, and `importlib.resources` reads it.
            portions = NamespaceLoader(fullname, spec.submodule_search_locations, self._find_again)
            spec.submodule_search_locations = portions._path  # type: ignore[attr-defined]
        return spec

    def _find_again(self, fullname: str, path: Sequence[str] | None) -> ModuleSpec | None:
        # A namespace's path is found anew from its parent's, and that of a top-level name is `sys.path`.
        return self._find_spec(fullname, path if "." in fullname else None)

    def _find_spec(self, fullname: str, path: Sequence[str] | None) -> ModuleSpec | None:
        if path is None:
            return self._find_top_level(fullname)
        tail = fullname.rpartition(".")[2]
        portions: list[str] = []
        foreign: list[str] = []
        for entry in path:
            if not isinstance(entry, str):
                continue  # CPython passes over such entries too
            for session in self.sessions:
                if entry.startswith(session.tree + "/"):
                    found = find(session, fullname, f"{entry[len(session.tree) + 1 :]}/{tail}")
                    if isinstance(found, ModuleSpec):
                        return found
                    portions += found
                    break
            else:
                foreign.append(entry)
        return self._with_foreign_portions(fullname, foreign, portions) if portions else None

    def _find_top_level(self, name: str) -> ModuleSpec | None:
        portions: list[str] = []
        for session in self.sessions:
            if session.failed():
                # The pack never opened. What others provide may go on; the rest must not look merely missing.
                other = PathFinder.find_spec(name)
                if other is not None and other.loader is not None:  # a folder of that name is no module
                    return other
            if session.plain and not session.is_open:
                own = PathFinder.find_spec(name, own_path())
                if own is not None and own.loader is not None:
                    return own  # an archive comes whole or not at all, and nobody else's import shall wait for that
            if name not in _top_level(session):
                continue
            own = PathFinder.find_spec(name, own_path())
            if own is not None and own.loader is not None:
                return own
            found = find(session, name, name)
            if isinstance(found, ModuleSpec):
                return found
            portions += found
        return self._with_foreign_portions(name, None, portions) if portions else None

    @staticmethod
    def _with_foreign_portions(name: str, path: Sequence[str] | None, portions: list[str]) -> ModuleSpec | None:
        """Join our portions of a namespace package with those that lie elsewhere on the path (PEP 420)."""
        other = PathFinder.find_spec(name, path)
        if other is not None and other.loader is not None:
            return other  # a regular package elsewhere wins over portions, wherever they stand
        if other is not None and other.submodule_search_locations:
            portions += [entry for entry in other.submodule_search_locations if entry not in portions]
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = portions
        return spec

    def find_distributions(self, context: DistributionFinder.Context | None = None) -> Iterable[Distribution]:
        """Find distributions for `importlib.metadata`, whose files land when they are read."""
        from ._metadata import find_distributions

        # With a path of its own the caller asks about folders, not about what can be imported.
        if context is None or "path" not in vars(context):
            for session in self.sessions:
                try:
                    yield from find_distributions(session, None if context is None else context.name)
                except LazydepsError:
                    if not session.failed():
                        raise  # else it holds nothing that could be imported either

    def entry_finder(self, path: str) -> PackEntry:
        """Return what stands in `sys.path_importer_cache` for a folder of a pack; `sys.path_hooks` has this method.

        Raises:
            ImportError: the folder is none of a pack's.
        """
        for session in self.sessions:
            # The tree of an archive is a folder like any other.
            if not session.plain and f"{path}/".startswith(session.tree + "/"):
                from ._path_entry import PackEntry

                return PackEntry(session, path)
        raise ImportError

    def install(self, place: int) -> None:
        """Take part in imports.

        Args:
            place: where in `sys.meta_path`.
        """
        if self not in sys.meta_path:
            sys.meta_path.insert(place, self)
            sys.path_hooks.insert(0, self.entry_finder)
        self._forget_folders()  # somebody may have looked there before the pack was loaded

    def uninstall(self) -> None:
        """Leave the import system as it was."""
        for places in (sys.meta_path, sys.path_hooks):
            for place in (self, self.entry_finder):
                if place in places:
                    places.remove(place)  # type: ignore[arg-type]
        self._forget_folders()
        self.sessions = ()

    def _forget_folders(self) -> None:
        trees = tuple(session.tree for session in self.sessions)
        for path in tuple(sys.path_importer_cache):
            if path.startswith(trees):
                del sys.path_importer_cache[path]

    def invalidate_caches(self) -> None:
        """Do nothing: a pack's index never changes. `importlib.invalidate_caches` calls it."""


def own_path() -> list[str]:
    """Return the entries of `sys.path` that hold the function's own code.

    Those are the ones before the standard library, less the folder with the modules that Lambda's runtime bundles.
    """
    library = os.path.dirname(os.__file__)
    runtime = os.environ.get("LAMBDA_RUNTIME_DIR", "/var/runtime")
    entries: list[str] = []
    for entry in sys.path:
        if not isinstance(entry, str):
            continue
        if entry == library:
            break
        # The standard library's zip comes first of all under `python -P`; what a package then inserts stands behind it.
        zipped = entry.endswith(f"python{sys.version_info[0]}{sys.version_info[1]}.zip")
        if not zipped and entry.rstrip("/") != runtime.rstrip("/"):
            entries.append(entry)
    return entries


def root_of(session: Session) -> Root:
    if session.is_open:
        return session.root()
    with _ImportLockReleased():
        return session.root()


def _top_level(session: Session) -> Container[str]:
    if session.is_open:
        return session.top_level()
    with _ImportLockReleased():
        return session.top_level()


class _ImportLockReleased:
    """Gives up the global import lock for a while.

    Python holds it while it asks the finders (not while it loads a module). A worker in a thread of this process
    imports modules too; waiting for it with the lock held would be waiting for ever.
    """

    def __enter__(self) -> None:
        from _imp import release_lock  # type: ignore[import-not-found,unused-ignore]

        self._held = 0
        try:
            while True:
                release_lock()
                self._held += 1
        except RuntimeError:
            pass  # it was not ours, or is not any more

    def __exit__(self, *_: object) -> None:
        from _imp import acquire_lock  # type: ignore[import-not-found,unused-ignore]

        for _once in range(self._held):
            acquire_lock()


def find(session: Session, fullname: str, base: str) -> ModuleSpec | list[str]:
    """Return the spec of the module at ``base`` in a pack, or the portions of a namespace package (perhaps none)."""
    if session.plain:
        plain = PathFinder.find_spec(fullname, [os.path.dirname(f"{session.tree}/{base}")])
        if plain is not None and plain.loader is None:
            return list(plain.submodule_search_locations or ())
        return plain or []
    root = root_of(session)
    spec = _find_in(session, root.boot, fullname, base)
    if spec is not None:
        return spec
    if base in root.namespaces:
        return [_folder(session, base)]
    if base in root.absent:
        return []
    with _ImportLockReleased():
        rest = session.rest()
    spec = _find_in(session, rest, fullname, base)
    if spec is not None:
        return spec
    folder = base + "/"
    if any(path.startswith(folder) for section in (root.boot, rest) for path in section.paths):
        return [_folder(session, base)]  # any folder is a namespace package to Python
    return []


def _folder(session: Session, base: str) -> str:
    """Return a folder of the tree, which is there if nothing of it has landed yet: resource readers insist on that."""
    folder = f"{session.tree}/{base}"
    if os.path.isdir(session.tree):  # else somebody has removed it, and a worker has to notice
        try:
            os.makedirs(folder, 0o700, exist_ok=True)
        except OSError:
            pass
    return folder


def _find_in(session: Session, section: Section, fullname: str, base: str) -> ModuleSpec | None:
    """Look in the order of CPython's FileFinder: package before module, extension before source."""
    files = section.number_of
    folder, _, name = base.rpartition("/")
    for package, stem, cache in (
        (True, f"{base}/__init__", f"{base}/__pycache__/__init__"),
        (False, base, f"{folder}/__pycache__/{name}" if folder else f"__pycache__/{name}"),
    ):
        for suffix in EXTENSION_SUFFIXES:
            file = files.get(stem + suffix)
            if file is not None:
                location = f"{session.tree}/{stem}{suffix}"
                return _spec(fullname, PackExtensionLoader(fullname, location, session, section, file), package)
        location = f"{session.tree}/{stem}.py"
        file = files.get(cache + TAG)
        if file is not None:
            return _spec(fullname, PackLoader(fullname, location, session, section, file), package)
        file = files.get(f"{stem}.py")
        if file is not None:  # a source that did not compile when the pack was built
            return _spec(fullname, PackLoader(fullname, location, session, section, None), package)
        file = files.get(f"{stem}.pyc")
        if file is not None:  # the pack was built without sources
            location += "c"
            return _spec(fullname, PackSourcelessLoader(fullname, location, session, section, file), package)
    return None


def _spec(fullname: str, loader: PackLoader | PackExtensionLoader, package: bool) -> ModuleSpec:
    spec = ModuleSpec(fullname, loader, origin=loader.path, is_package=package)
    spec.has_location = True
    if package:
        spec.submodule_search_locations = [os.path.dirname(loader.path)]
    return spec


def _need(session: Session, section: Section, file: int, module: str) -> None:
    if section is session.root().boot:
        session.need_boot(file, module)
    else:
        # Nothing recorded which data files and libraries an untraced module needs, so it waits for all of them.
        session.need_data(module)
        session.need_rest(file, module)


class PackLoader(SourceFileLoader):
    """Loads a module from its packed bytecode; its source comes when somebody asks for it."""

    def __init__(self, fullname: str, path: str, session: Session, section: Section, bytecode: int | None) -> None:
        super().__init__(fullname, path)
        self._session = session
        self._section = section
        self._bytecode = bytecode
        self._source = path
        """What tracebacks name."""

    def get_code(self, fullname: str) -> CodeType:
        """Return the module's code, waiting for its frame."""
        if self._bytecode is None:
            return self.source_to_code(self.get_data(self.path), self.path)
        from _imp import _fix_co_filename  # type: ignore[attr-defined]  # importlib's own, for the same job
        from marshal import loads

        _need(self._session, self._section, self._bytecode, fullname)
        if self._section is self._session.root().boot:
            data = self._session.bytecode(self._bytecode)
        else:
            with open(f"{self._session.tree}/{self._section.paths[self._bytecode]}", "rb") as file:
                data = memoryview(file.read())
        # PEP 552: magic, flags and hash come first; the pack's root vouches for all of it.
        code: CodeType = loads(data[16:])  # noqa: S302 - no byte comes here before its frame's digest has matched
        _fix_co_filename(code, self._source)
        return code

    def get_data(self, path: str) -> bytes:
        """Return the content of a file beside the module, fetching it if it has not landed."""
        _need_path(self._session, path)
        return super().get_data(path)

    def get_resource_reader(self, name: str | None = None) -> FileReader:
        """Return the reader behind `importlib.resources`, once the data files it shows are there."""
        self._session.need_data(name or self.name)
        _folder(self._session, os.path.dirname(self.path)[len(self._session.tree) + 1 :])
        return super().get_resource_reader(name)


class PackSourcelessLoader(PackLoader):
    """Loads a module that was packed without its source; to Python, as to `SourcelessFileLoader`, it has none."""

    def __init__(self, fullname: str, path: str, session: Session, section: Section, bytecode: int) -> None:
        super().__init__(fullname, path, session, section, bytecode)
        self._source = path[:-1]

    def get_source(self, fullname: str) -> None:  # noqa: ARG002 - part of the protocol
        """Return None, by which PEP 302 says that there is no source."""
        return


class PackExtensionLoader(ExtensionFileLoader):
    """Loads an extension module, once it and the libraries it needs are files on the disk."""

    def __init__(self, fullname: str, path: str, session: Session, section: Section, file: int) -> None:
        super().__init__(fullname, path)
        self._session = session
        self._section = section
        self._file = file

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Open the library, waiting for its frames."""
        _need(self._session, self._section, self._file, spec.name)
        return super().create_module(spec)

    def get_data(self, path: str) -> bytes:
        """Return the content of a file beside the module, fetching it if it has not landed."""
        _need_path(self._session, path)
        return super().get_data(path)

    def get_resource_reader(self, name: str | None = None) -> FileReader:
        """Return the reader behind `importlib.resources`, once the data files it shows are there."""
        from importlib.readers import FileReader

        self._session.need_data(name or self.name)
        return FileReader(self)


def _need_path(session: Session, path: str) -> None:
    """Bring a file of the tree that somebody names by its path. What is not in the pack is left to the caller.

    Raises:
        OSError: it could not be brought. That is what `linecache`, `inspect` and `pkgutil` expect of ``get_data``:
            a traceback must not end in another one because its source lines cannot be fetched, nor wait for long.
    """
    prefix = session.tree + "/"
    if path.startswith(prefix):
        try:
            session.need_path(path[len(prefix) :], within=SOURCE_SECONDS if path.endswith(".py") else None)
        except LazydepsError as error:
            raise OSError(str(error)) from error
