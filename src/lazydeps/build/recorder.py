"""Record what a program imports and opens from one folder, in order. A script: `trace.py` runs it, nobody imports it.

Standard library only, because it runs in the target's interpreter, where nothing of ours is installed. It records
what Python sees: a file that C code opens by itself is not in the recording, except for the shared objects that
`/proc/self/maps` shows.

Runs as ``python -S -s -P recorder.py CONFIG``, a marshalled table, and writes a raw recording as JSON to the file that
the table names. Entries are ``[kind, path]``: "module" (a source path, noted as its bytecode is read), "extension",
"file" (data or library) and "mapped" (a shared object that appeared in memory without Python having been asked).
"""

from __future__ import annotations

# Nothing else here: what this file imports, it cannot see the program import. The builtins cost nothing to anybody.
import _thread
import marshal
import os
import sys
from _imp import extension_suffixes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, FrameType
    from typing import Any

_FROZEN = ("_frozen_importlib", "_frozen_importlib_external")
_IMPORTLIB = (*_FROZEN, "importlib._bootstrap", "importlib._bootstrap_external")
"""The import system's names, before and after `importlib` itself has been imported."""
_LISTERS = (*_IMPORTLIB, "pkgutil")
"""Who lists a package's folder to know which modules are in it: the runtime answers them from its index."""
_ANSWERED = (*_LISTERS, "inspect", "linecache")
"""Whose questions about files the runtime's finder and loaders answer. What they open all the same is recorded."""
_ASKING = ("genericpath", "posixpath", "pathlib", "pathlib._local", "pathlib._abc")
"""Whose questions are their caller's."""
_MODULE_SUFFIXES = (".py", ".pyc")
_stat = os.stat
_EXTENSION_SUFFIXES = tuple(extension_suffixes())
_MACHINE = ("/dev", "/etc", "/proc", "/sys", "/usr/lib", "/usr/lib64", "/usr/share", "/lib", "/lib64")
"""What belongs to the machine, besides the interpreter."""
_CACHE = f"{os.sep}__pycache__{os.sep}"


class _Question:
    """Stands for a function of `os`, and tells what it is asked. No function: a class would make that a method."""

    def __init__(self, function: Any, tell: Any) -> None:
        self._function, self._tell = function, tell
        self.__name__, self.__doc__ = function.__name__, function.__doc__

    def __call__(self, *args: Any, **words: Any) -> Any:
        if words.get("dir_fd") is None:
            self._tell(args[0] if args else words.get("path"), sys._getframe(1))
        return self._function(*args, **words)


class Recorder:
    """Collects entries from audit events (PEP 578) and from a place in the meta path."""

    def __init__(self, tree: str, own: str) -> None:
        self.tree = tree
        self._prefix = tree + os.sep
        self._lock = _thread.RLock()
        self.entries: list[tuple[str, str]] = []
        self._seen: set[tuple[str, str]] = set()
        self.misses: dict[str, None] = {}
        """Where modules were looked for."""
        self.missing: dict[str, None] = {}
        """Files that were opened in vain."""
        self.foreign = False
        """Whether a file was read that is neither the tree's nor the machine's: its content decides as well."""
        self._machine = (tree, own, sys.prefix, sys.base_prefix, sys.exec_prefix, *_MACHINE)
        self.written: set[str] = set()
        """Files that the program made in the tree: they are neither the pack's nor missing in it."""
        self._mapped: set[str] = set()
        self._interval = 0
        """Index of the entry at which the current interval between two looks at the memory map began."""
        # Before anything runs: a file that the program itself writes into the tree is none of the pack's.
        self.folders: dict[str, list[str]] = {}
        self.files: set[str] = set()
        self._deeper: dict[str, list[str]] = {}
        for folder, deeper, names in os.walk(tree):
            relative = "" if folder == tree else folder[len(self._prefix) :]
            self.folders[relative] = sorted(names)
            self._deeper[relative] = sorted(deeper)
            self.files.update(os.path.join(relative, name) for name in names)

    # --- what Python tells us ---

    def audit(self, event: str, args: tuple[Any, ...]) -> None:
        """Take an audit event. It must not raise: that would change what the program does."""
        if event == "open":
            path = self._inside(args[0])
            if path is not None and args[2] & os.O_CREAT and path not in self.files:
                self.written.add(path)
            elif path is not None:
                self._opened(path, sys._getframe(1))
            elif not self.foreign and args[2] & os.O_ACCMODE != os.O_WRONLY:
                self.foreign = self._is_foreign(args[0])
        elif event == "import":
            if args[1] is not None:
                path = self._inside(args[1])
                if path in self.files:
                    self._append("extension", path)
        elif event == "ctypes.dlopen":
            path = self._inside(args[0])
            if path in self.files:
                self._before_module("file", path, sys._getframe(1))
        elif event in ("os.listdir", "os.scandir"):
            path = self._inside(args[0])
            if path in self.folders:
                frame = sys._getframe(1)
                if frame.f_globals.get("__name__") not in _LISTERS:
                    for file in self._listed(path):
                        self._before_module("file", file, frame)

    def watch_questions(self) -> None:
        """Hear of `os.path.exists` and its like too, for which there is no audit event.

        The import system asks by another way, and `os.path.realpath` by `os.lstat`: neither needs an answer from us.
        """
        for name in ("stat", "access"):
            original = getattr(os, name)
            question = _Question(original, self.asked)
            setattr(os, name, question)
            for known in (os.supports_fd, os.supports_dir_fd, os.supports_effective_ids, os.supports_follow_symlinks):
                if original in known:
                    known.add(question)

    def asked(self, path: object, frame: FrameType | None) -> None:
        """Take that the program asks about a path, by `os.stat` or `os.access`."""
        inside = self._inside(path)
        if not inside or ".so" in os.path.basename(inside):
            return  # libraries are too big to be there for a question alone
        while frame is not None and frame.f_globals.get("__name__") in _ASKING:
            frame = frame.f_back
        if frame is None or frame.f_globals.get("__name__") in _ANSWERED:
            return
        if inside in self.files:
            self._before_module("file", inside, frame)
        elif inside in self.folders:
            # Which exists if something in it does.
            names = [name for name in self.folders[inside] if not name.endswith((".pyc", *_EXTENSION_SUFFIXES))]
            if names:
                file = min((os.path.join(inside, name) for name in names), key=self._size)
                self._before_module("file", file, frame)

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: object = None) -> None:
        """Note where a submodule is looked for, and leave finding it to those who can."""
        del target
        if path is None:
            return
        tail = fullname.rpartition(".")[2]
        for entry in list(path):
            folder = self._inside(entry)
            if folder is not None:
                self.misses[os.path.join(folder, tail)] = None

    def invalidate_caches(self) -> None:
        """Do nothing. `importlib.invalidate_caches` calls it on every finder."""

    # --- what we make of it ---

    def _opened(self, path: str, frame: FrameType) -> None:
        if path not in self.files:
            if path not in self.folders:
                self.missing[path] = None
            return
        if not path.endswith(_MODULE_SUFFIXES):
            self._before_module("file", path, frame)
            return
        caller = frame.f_globals.get("__name__")
        if caller in _IMPORTLIB and frame.f_code.co_name == "get_data":
            asked = frame.f_back.f_code.co_name if frame.f_back is not None else ""
            if asked == "get_code":
                self._append("module", self._source(path))
                return
        # A module's file that somebody reads as text: some packages look at their own sources while they are imported.
        self._before_module("file", path, frame)

    def _listed(self, folder: str) -> list[str]:
        """Return the files that have to be there for a listing to show what it shows here.

        In a package that is every source, and a file of each deeper folder: OpenCV, for one, imports what it sees in
        its own folder, and without complaint nothing where it sees nothing. At the top, where `importlib.metadata`
        looks around, data files do. Extension modules are too big to be there for a name alone.
        """
        kept = [name for name in self.folders[folder] if not name.endswith((".pyc", *_EXTENSION_SUFFIXES))]
        if not folder:
            return [name for name in kept if not name.endswith(".py")]
        found = [os.path.join(folder, name) for name in kept]
        for name in self._deeper[folder]:
            deeper = os.path.join(folder, name)
            files = [os.path.join(deeper, file) for file in self.folders[deeper] if name != "__pycache__"]
            init = os.path.join(deeper, "__init__.py")
            if files:
                found.append(init if init in files else min(files, key=self._size))
        return found

    def _size(self, file: str) -> int:
        try:
            return _stat(self._prefix + file).st_size
        except OSError:
            return 0  # the program has removed it

    def _source(self, path: str) -> str:
        if path.endswith(".pyc") and _CACHE in os.sep + path:
            folder, name = os.path.split(path)
            source = os.path.join(os.path.dirname(folder), name.split(".")[0] + ".py")
            if source in self.files:
                return source
        return path

    def _append(self, kind: str, path: str) -> None:
        with self._lock:
            if kind == "module" and (os.sep not in path or (path.endswith("__init__.py") and path.count(os.sep) == 1)):
                self.look_at_memory()  # between two top-level packages: often enough, and it reads a long file
                self._interval = len(self.entries)
            if (kind, path) not in self._seen:
                self._seen.add((kind, path))
                self.entries.append((kind, path))

    def _before_module(self, kind: str, path: str, frame: FrameType | None) -> None:
        """Note a file ahead of the module whose body is running.

        The runtime lets a module run once everything recorded before it has landed. What its body opens has to be
        among that, so it goes before the module, not behind it.
        """
        while frame is not None:
            code: CodeType = frame.f_code
            if code.co_name == "<module>":
                module = self._inside(code.co_filename)
                if module is not None and ("module", module) in self._seen:
                    break
            frame = frame.f_back
        else:
            module = None
        with self._lock:
            self._insert(kind, path, None if module is None else self.entries.index(("module", module)))

    def _insert(self, kind: str, path: str, before: int | None) -> None:
        entry = (kind, path)
        if entry in self._seen:
            if before is None or self.entries.index(entry) < before:
                return
            self.entries.remove(entry)
        self._seen.add(entry)
        if before is None:
            self.entries.append(entry)
        else:
            self.entries.insert(before, entry)

    def look_at_memory(self) -> None:
        """Note the tree's shared objects that were mapped since the last look, ahead of what ran since then."""
        try:
            with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as stream:
                lines = stream.readlines()
        except OSError:
            return
        with self._lock:
            for line in lines:
                start = line.find(self._prefix)
                if start < 0:
                    continue
                path = line[start + len(self._prefix) :].rstrip("\n")
                if path in self.files and path not in self._mapped:
                    self._mapped.add(path)
                    if ("file", path) not in self._seen and ("extension", path) not in self._seen:
                        self._insert("mapped", path, self._interval)

    def _inside(self, path: object) -> str | None:
        """Return a path relative to the tree, "" for the tree itself, None for anything else."""
        if not isinstance(path, (str, bytes, os.PathLike)):
            return None  # a file descriptor
        try:
            text = os.path.abspath(os.fsdecode(path))
        except (TypeError, ValueError, OSError):
            return None
        if text == self.tree:
            return ""
        return text[len(self._prefix) :] if text.startswith(self._prefix) else None

    def _is_foreign(self, path: object) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return False
        try:
            text = os.path.abspath(os.fsdecode(path))
        except (TypeError, ValueError, OSError):
            return False
        return not any(text == place or text.startswith(place + os.sep) for place in self._machine)

    def absent(self) -> list[str]:
        """Return the places that were looked at and hold no module in any form, and files that were opened in vain."""
        suffixes = (*_MODULE_SUFFIXES, *_EXTENSION_SUFFIXES)
        modules = [
            base
            for base in self.misses
            if base not in self.folders and not any(base + suffix in self.files for suffix in suffixes)
        ]
        return sorted({*modules, *self.missing.keys() - self.written})


def _script_beside(name: str) -> dict[str, Any]:
    """Run another script of ours and return its names. It has no name to be imported by: the path is the program's."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name)
    names = {"__name__": "lazydeps recorder", "__file__": path}
    with open(path, "rb") as stream:
        exec(compile(stream.read(), path, "exec"), names)  # noqa: S102 - our own file
    return names


def _run_main(source: str | bytes, filename: str) -> None:
    """Run code as ``__main__``, in a module of its own."""
    main = type(sys)("__main__")
    main.__dict__.update(__file__=filename, __builtins__=__builtins__)
    sys.modules["__main__"] = main
    exec(compile(source, filename, "exec"), main.__dict__)  # noqa: S102 (running the user's program is the task)


def run_program(config: dict[str, Any], companion: dict[str, Any]) -> dict[str, BaseException]:
    """Run the statements, the script and the handler of a configuration; return what events made the handler raise."""
    for statement in config["statements"]:
        _run_main(statement, "<trace>")
    if config["script"]:
        sys.path.insert(0, os.path.dirname(os.path.abspath(config["script"])))
        with open(config["script"], "rb") as script:
            _run_main(script.read(), config["script"])
    raised: dict[str, BaseException] = companion["run"](*config["handler"]) if config["handler"] else {}
    return raised


def _stdlib_imported(before: frozenset[str]) -> list[str]:
    """Return the standard library's modules that the program has imported, in the order in which it began to."""
    return [
        name
        for name, module in list(sys.modules.items())
        if name not in before
        and name.partition(".")[0] in sys.stdlib_module_names
        and getattr(module, "__spec__", None) is not None
    ]


def _last_lines(error: BaseException) -> str:
    import traceback

    where = error.__traceback__
    while where is not None and where.tb_frame.f_code.co_filename == __file__:
        where = where.tb_next  # our own frames say nothing to whoever wrote what comes after them
    return "".join(traceback.format_exception(type(error), error, where)[-4:]).strip()


def main() -> None:
    """Run what the configuration says and write the recording."""
    with open(sys.argv[1], "rb") as settings:
        config = marshal.load(settings)  # noqa: S302 - written by our parent
    sys.path[:] = [entry for entry in sys.path if entry] + [config["tree"]]
    sys.argv[:] = [config["script"] or "-c"]
    companion = _script_beside("recorder_handler.py")
    recorder = Recorder(config["tree"], os.path.dirname(config["out"]))
    before = frozenset(sys.modules)
    sys.meta_path.insert(0, recorder)
    sys.addaudithook(recorder.audit)
    recorder.watch_questions()
    # lazydeps first, as a pack never provides it; what Lambda bundles last, behind the tree.
    sys.meta_path.insert(0, companion["Beside"](config["first"]))
    sys.meta_path.append(companion["Beside"](config["last"]))
    failed: dict[str, str] = {}
    raised: dict[str, BaseException] = {}
    crashes: dict[str, BaseException] = {}
    """By module; the program itself under no name. Put into words at the end: `traceback` imports half a library."""
    try:
        for name in config["modules"]:
            with open(config["current"], "w", encoding="utf-8") as stream:
                stream.write(name)  # if the process dies, this says what killed it
            try:
                __import__(name)
            except Exception as error:  # a module may raise anything; it is reported
                crashes[name] = error
            except SystemExit as error:
                failed[name] = f"SystemExit: {error.code}"
        raised = run_program(config, companion)
    except SystemExit as error:
        if error.code not in (None, 0):
            failed[""] = f"SystemExit: {error.code}"
    except BaseException as error:  # reported to the parent, which raises its own
        crashes[""] = error
    recorder.look_at_memory()
    stdlib = _stdlib_imported(before)
    failed.update((name, _last_lines(error)) for name, error in crashes.items())
    events = {name: _last_lines(error) for name, error in raised.items()}
    import json

    with open(config["out"], "w", encoding="utf-8") as stream:
        json.dump(
            {
                "entries": recorder.entries,
                "absent": recorder.absent(),
                "stdlib": stdlib,
                "fatal": failed.pop("", ""),
                "failed": failed,
                "events": events,
                "foreign": recorder.foreign,
            },
            stream,
        )
    # Not a normal exit: threads and exit handlers of what was imported have nothing to say any more, and may hang.
    os._exit(0)


if __name__ == "__main__":
    main()
