"""What a live process imports and opens from its packs, in order, for the next build: ``LAZYDEPS_TRACE``.

Imported only where that is set. It listens to audit events (PEP 578) and stands in the meta path; it changes nothing
there and raises nothing. `lazydeps.build.recorder` does the same for a build, and the documents are alike. Where they
go is `_recording_out`'s business.

What it cannot know: a file that C code opens by itself, and modules of the standard library that were imported before
`load` or while nobody but the session asked for them.
"""

from __future__ import annotations

import os
import sys
import time
from _imp import extension_suffixes
from _thread import RLock, get_ident, start_new_thread

from ._recording_out import open_outlet
from ._worker import is_worker_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import CodeType, FrameType
    from typing import Any

    from ._session import Session

EVENTS = frozenset(("exec", "open", "import", "ctypes.dlopen", "os.listdir", "os.scandir"))
QUIET = 1.0
"""Seconds without anything new after which what came late is written. Time in which Lambda has frozen the process does
not matter: the timer goes on when the process does."""
LONGEST = 10
"""Such seconds after which it is written although there is always something new."""
MOST = 100_000
"""Entries of a pack, and misses, after which nothing more is noted: names may come from whoever calls the function."""
_IMPORTLIB = ("_frozen_importlib_external", "importlib._bootstrap_external")
_LISTERS = ("_frozen_importlib", "importlib._bootstrap", "pkgutil", *_IMPORTLIB)
_NO_READERS = ("traceback", "logging")
"""Who reads sources only to show them."""
_EXTENSIONS = tuple(extension_suffixes())
_TAG = f".{sys.implementation.cache_tag}.pyc"


class Recording:
    """The meta path entry and audit hook of this process, for all its packs."""

    def __init__(self, where: str, environ: Mapping[str, str]) -> None:
        self._outlet = open_outlet(where, environ)
        function = environ.get("AWS_LAMBDA_FUNCTION_NAME")
        self._how = f"function {function}" if function else "a live process"
        self._packs: list[_Pack] = []
        self._stdlib: dict[str, None] = {}
        self._blocks = 0
        self._count = 0
        self._written = 0
        self._watched = False
        self._off = False
        self._lock = RLock()
        self._writing = RLock()
        self._muted: set[int] = set()
        """Threads that write a document: what they import is ours and not the program's."""

    # -- life

    def start(self) -> None:
        """Begin to listen. An audit hook stays for good; `stop` makes it deaf."""
        import atexit

        sys.meta_path.insert(0, self)
        sys.addaudithook(self._audit)
        os.register_at_fork(after_in_child=self._after_fork)
        atexit.register(self._finish)

    def stop(self) -> None:
        """Write what is left, and listen no more."""
        self._finish()
        if not self._off:
            self._outlet.close()
        self._off = True
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def add(self, sessions: Iterable[Session]) -> None:
        """Listen for these packs too."""
        known = [pack.session for pack in self._packs]
        self._packs += [_Pack(session) for session in sessions if session not in known]

    def begin(self) -> None:
        """Take note of a block of imports: nothing is written before it is left."""
        self._blocks += 1

    def end(self) -> None:
        """Write what the block has imported."""
        if self._off:
            return  # in a forked child, where a thread that is not here may hold the lock
        self._blocks = max(0, self._blocks - 1)  # the block may be older than we are
        if self._blocks == 0:
            if self._outlet.is_slow:
                self._watch(0.0)
            else:
                self._write()

    def _after_fork(self) -> None:
        # What a forked child imports is its parent's business or its own program's; two must not write one document.
        self._off = True

    def _finish(self) -> None:
        if not self._off and self._writing.acquire(timeout=5.0):
            try:
                self._outlet.hurry()
                self._write()
            finally:
                self._writing.release()

    # -- what Python tells us

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: object = None) -> None:
        """Note what is looked for, and leave finding it to those who can."""
        del target
        if self._off or get_ident() in self._muted:
            return
        if fullname.partition(".")[0] in sys.stdlib_module_names:
            self._stdlib[fullname] = None
        elif path is not None:
            try:
                for entry in list(path):
                    for pack in self._packs:
                        folder = pack.inside(entry)
                        if folder is not None and len(pack.misses) < MOST:
                            pack.misses[f"{folder}/{fullname.rpartition('.')[2]}"] = None
            except Exception:
                pass

    def invalidate_caches(self) -> None:
        """Do nothing. `importlib.invalidate_caches` calls it on every finder."""

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in EVENTS or self._off:
            return
        try:
            if get_ident() in self._muted or is_worker_thread():
                return
            before = self._count
            self._take(event, args, sys._getframe(1))
            if self._count != before and not self._blocks:
                self._watch(QUIET)
        except Exception:
            pass  # raised here, it would stop what the program is doing

    def _take(self, event: str, args: tuple[Any, ...], frame: FrameType) -> None:
        path: object = args[0]
        if event == "exec":
            code: CodeType = args[0]
            if getattr(code, "co_name", "") != "<module>":
                return
            path = code.co_filename
        elif event == "import":
            path = args[1]
        elif event == "open" and (args[2] or 0) & os.O_ACCMODE != os.O_RDONLY:
            return  # what a program writes into the tree is none of the pack's
        for pack in self._packs:
            inside = pack.inside(path)
            if inside is None:
                continue
            with self._lock:
                if event == "exec":
                    self._count += pack.ran(inside)
                elif event == "import":
                    self._count += pack.append("extension", inside)
                elif event in ("os.listdir", "os.scandir"):
                    if frame.f_globals.get("__name__") not in _LISTERS:
                        self._count += pack.before_module("list", inside, frame)
                elif not inside.endswith(".pyc") and not (inside.endswith(".py") and _is_not_read(frame)):
                    self._count += pack.before_module("file", inside, frame)
            return

    # -- writing

    def _watch(self, seconds: float) -> None:
        """Write from a thread, after a while in which nothing is added."""
        with self._lock:
            if self._watched:
                return
            self._watched = True
        try:
            start_new_thread(self._write_later, (seconds,))
        except RuntimeError:
            self._watched = False  # the interpreter ends: `_finish` writes

    def _write_later(self, seconds: float) -> None:
        for _ in range(LONGEST if seconds else 0):
            seen = self._count
            time.sleep(seconds)
            if self._count == seen:
                break
        self._watched = False  # before: what is added meanwhile gets a thread of its own
        if not self._off:
            self._write()

    def _write(self) -> None:
        with self._writing:
            self._muted.add(get_ident())
            try:
                with self._lock:
                    if self._count == self._written:
                        return
                    self._written = self._count
                    stdlib = [name for name in list(self._stdlib) if name in sys.modules]
                    documents = [
                        (pack.session.store.name[:16], pack.document(self._how, stdlib))
                        for pack in self._packs
                        if pack.entries
                    ]
                self._outlet.write(documents)
            except Exception as error:
                self._outlet.warn(error)
            finally:
                self._muted.discard(get_ident())


class _Pack:
    """What was imported and opened from one pack."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.entries: list[tuple[str, str]] = []
        """Kind (module, extension, file, list, mapped) and path inside the tree."""
        self.misses: dict[str, None] = {}
        """Where submodules were looked for."""
        self._tree = session.tree
        self._prefix = session.tree + "/"
        self._seen: set[tuple[str, str]] = set()
        self._mapped: set[str] = set()
        self._size = b""
        """Of this process, in pages, at the last look."""
        self._interval = 0

    def inside(self, path: object) -> str | None:
        """Return a path relative to the tree, "" for the tree itself, None for anything else."""
        if not isinstance(path, (str, bytes, os.PathLike)):
            return None
        text = os.path.abspath(os.fsdecode(path))
        if text == self._tree:
            return ""
        if not text.startswith(self._prefix):
            return None
        inside = text[len(self._prefix) :]
        inside.encode()  # bytes that are no UTF-8 cannot be written: `_audit` passes over the error
        return inside

    def ran(self, path: str) -> bool:
        """Note a module whose body begins to run; between two packages, look what was mapped into memory."""
        if "/" not in path or (path.endswith("/__init__.py") and path.count("/") == 1):
            self._look_at_memory()
            self._interval = len(self.entries)
        return self.append("module", path)

    def append(self, kind: str, path: str) -> bool:
        if (kind, path) in self._seen or len(self.entries) >= MOST:
            return False
        self._seen.add((kind, path))
        self.entries.append((kind, path))
        return True

    def before_module(self, kind: str, path: str, frame: FrameType | None) -> bool:
        """Note a file ahead of the module whose body is running: it has to be there when that module is imported."""
        module = None
        while frame is not None:
            code = frame.f_code
            if code.co_name == "<module>":
                module = self.inside(code.co_filename)
                if module is not None and ("module", module) in self._seen:
                    break
            frame = frame.f_back
        else:
            module = None
        return self._insert(kind, path, None if module is None else self.entries.index(("module", module)))

    def _insert(self, kind: str, path: str, before: int | None) -> bool:
        entry = (kind, path)
        if before is None:
            return self.append(kind, path)
        if entry in self._seen:
            if self.entries.index(entry) < before:
                return False
            self.entries.remove(entry)
        elif len(self.entries) >= MOST:
            return False
        self._seen.add(entry)
        self.entries.insert(before, entry)
        return True

    def _look_at_memory(self) -> None:
        """Note libraries of the tree that were mapped since the last look, ahead of what ran since then."""
        try:
            with open(
                "/proc/self/statm", "rb"
            ) as stream:  # twenty times as quick as the other, and it tells if to look
                size = stream.read().partition(b" ")[0]
            if size == self._size:
                return
            self._size = size
            with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as stream:
                lines = stream.readlines()
        except OSError:
            return  # not Linux, or a sandbox without it
        for line in lines:
            start = line.find(self._prefix)
            path = line[start + len(self._prefix) :].rstrip("\n") if start >= 0 else ""
            if path and path not in self._mapped:
                self._mapped.add(path)
                if ("file", path) not in self._seen and ("extension", path) not in self._seen:
                    self._insert("mapped", path, self._interval)

    def document(self, how: str, stdlib: list[str]) -> dict[str, Any]:
        """Return the trace, as `lazydeps.build.trace.Trace` reads it."""
        self._look_at_memory()
        files, complete = self._files()
        folders: set[str] = set()
        for path in files:
            folder = path.rpartition("/")[0]
            while folder and folder not in folders:
                folders.add(folder)
                folder = folder.rpartition("/")[0]
        order: dict[str, None] = {}
        absent: set[str] = set()
        for kind, path in self.entries:
            if kind == "list":
                for name in _listed(path, files, folders):
                    order.setdefault(f"file:{name}" if name.endswith(".py") else name)
            elif kind == "module" or path in files:
                order.setdefault(f"file:{path}" if kind == "file" and path.endswith(".py") else path)
            elif complete and path not in folders:
                absent.add(path)
        if complete:
            for base in list(self.misses):  # another thread may be importing
                folder, _, name = base.rpartition("/")
                forms = (
                    *(base + suffix for suffix in (".py", ".pyc", *_EXTENSIONS)),
                    f"{folder}/__pycache__/{name}{_TAG}",
                )
                if base not in folders and not any(form in files for form in forms):
                    absent.add(base)
        machine = os.uname().machine
        return {
            "lazydeps_trace": 1,
            "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
            "arch": {"aarch64": "arm64"}.get(machine, machine),
            "how": [how],
            "order": list(order),
            "absent": sorted(path.removeprefix("/") for path in absent),
            "stdlib": stdlib,
        }

    def _files(self) -> tuple[set[str], bool]:
        """Return the pack's files, and whether these are all of them: the index may still be on its way."""
        if self.session.plain:
            found: set[str] = set()
            for folder, _, names in os.walk(self._tree):
                found.update(os.path.join(folder, name)[len(self._prefix) :] for name in names)
            return found, True
        found = set(self.session.root().boot.paths)
        rest = self.session.rest_if_there()
        if rest is not None:
            found.update(rest.paths)
        return found, rest is not None


def _listed(folder: str, files: set[str], folders: set[str]) -> list[str]:
    """Return the files that have to be there for a listing of a folder to show what it does: see the build's recorder.

    In a package every source and data file, and one file of each folder in it; at the top, data files only.
    """
    prefix = f"{folder}/" if folder else ""
    here = [path for path in files if path.startswith(prefix)]
    kept = sorted(path for path in here if "/" not in path[len(prefix) :] and not path.endswith((".pyc", *_EXTENSIONS)))
    if not folder:
        return [path for path in kept if not path.endswith(".py")]
    for deeper in sorted(one for one in folders if one.startswith(prefix) and "/" not in one[len(prefix) :]):
        inner = [path for path in here if path.rpartition("/")[0] == deeper]
        if inner and not deeper.endswith("__pycache__"):
            init = f"{deeper}/__init__.py"
            kept.append(init if init in inner else min(inner))
    return kept


def _is_not_read(frame: FrameType | None) -> bool:
    """Tell whether a source is opened by an import, which notes it as a module, or only to be shown to somebody."""
    if frame is not None and frame.f_code.co_name == "get_data" and frame.f_globals.get("__name__") in _IMPORTLIB:
        asked = frame.f_back
        while asked is not None and asked.f_code.co_name == "get_data":  # ours calls importlib's
            asked = asked.f_back
        if asked is not None and asked.f_code.co_name == "get_code":
            return True
    while frame is not None:
        if frame.f_globals.get("__name__") in _NO_READERS:
            return True
        frame = frame.f_back
    return False
