"""Runs at the start of child processes (`lazydeps._children` has put its folder first): they find packed modules too.

Any Python may come by here, from 2.7 on and of any kind, so nothing is newer than that before it is known to be the
parent's own. The folder leaves the path again, and the sitecustomize that stands behind it runs as if this one did not
exist: its errors, and that there is none, are what `site` makes of them.
"""

import os
import sys

QUIET = ("sitecustomize", "usercustomize", "org", "java")
"""Names beside `sys.stdlib_module_names` that `site` and the standard library (for Jython) try by themselves."""


class Inherited(object):
    """Stands before the path finder until somebody imports what may be in a pack, then loads the parent's packs.

    It stays where it is and passes questions on: a finder that is taken out while another thread goes through
    `sys.meta_path` makes that thread skip the next one.
    """

    __name__ = "lazydeps.Inherited"

    def __init__(self, folder, packs):
        from _thread import RLock

        self._folder = folder
        self._packs = packs
        self._lock = RLock()
        self._loader = None
        self._finder = None
        self._off = False
        os.register_at_fork(after_in_child=self._after_fork)

    def find_spec(self, name, path=None, target=None):
        if path is not None or self._off or name in sys.stdlib_module_names or name in QUIET:
            return None
        if name.startswith("_sysconfigdata"):
            return None
        if name == "lazydeps":
            self._append_folder()
            return None
        if self._finder is None:
            if self._is_loading(name):
                return None
            own = self._find(name, self._own_path())
            if own is not None and own.loader is not None:
                return own
            if not self._load(name):
                return None
        return self._finder.find_spec(name, path, target)

    def find_distributions(self, context=None):
        if context is not None and "path" in vars(context):
            return ()  # about folders, not about what can be imported
        if self._finder is None and not self._off and self._load(""):
            return self._finder.find_distributions(context)
        return ()  # the packs' finder has been asked: it stands before this one

    def uninstall(self):
        self._off = True

    def _is_loading(self, name):
        """Whether loading itself asks, in this thread or a worker's: that is not ours to answer.

        Nor may it wait for a thread that imports what it needs, and that would wait here.
        """
        from _thread import get_ident

        working = getattr(sys.modules.get("lazydeps._worker"), "is_worker_thread", bool)
        loader = self._loader
        return working() or (loader is not None and (loader == get_ident() or name in ("compression", "zstandard")))

    def _load(self, name):
        """Load the packs; return whether the finder is there now.

        The global import lock is given up meanwhile: a worker in a thread or a forked child imports modules too.
        """
        from _imp import acquire_lock, release_lock

        held = 0
        try:
            while True:
                release_lock()
                held += 1
        except RuntimeError:
            pass  # it is not ours any more
        try:
            return self._load_once(name)
        finally:
            for _once in range(held):
                acquire_lock()

    def _load_once(self, name):
        with self._lock:
            if self._finder is not None or self._off:
                return not self._off
            from _thread import get_ident

            self._loader = get_ident()
            self._append_folder()
            try:
                try:
                    from lazydeps import _runtime
                    from lazydeps.errors import LazydepsError
                except ImportError:
                    self._off = True  # it is not there any more, or this process may not read it
                    return False
                try:
                    loadings = [_runtime.load(ref, directory=directory) for directory, ref in self._packs]
                except LazydepsError:
                    # What others provide may go on; the rest must not look merely missing.
                    found = self._find(name, None) if name else None
                    if name and (found is None or found.loader is None):
                        raise
                    return False
            finally:
                self._loader = None
            self._finder = _runtime._finder
        # There is no block here at whose end the data files are in place, so they are before the first import.
        for loading in loadings:
            try:
                loading.wait()
            except LazydepsError:
                pass  # an import that needs what did not come raises it again
        return True

    def _append_folder(self):
        if self._folder not in sys.path:
            sys.path.append(self._folder)

    def _after_fork(self):
        from _thread import get_ident

        self._lock = type(self._lock)()
        if self._loader != get_ident():  # else this is the worker that loading has just forked
            self._loader = None

    @staticmethod
    def _find(name, path):
        from _frozen_importlib_external import PathFinder

        return PathFinder.find_spec(name, path)

    @staticmethod
    def _own_path():
        """Return what `lazydeps._finder.own_path` returns, and the zip of the standard library, without loading it."""
        library = os.path.dirname(os.__file__)
        runtime = os.environ.get("LAMBDA_RUNTIME_DIR", "/var/runtime").rstrip("/")
        own = []
        for entry in sys.path:
            if entry == library:
                break
            if isinstance(entry, str) and entry.rstrip("/") != runtime:
                own.append(entry)
        return own


def install():
    """Place the finder, where this is the interpreter that the packs are loaded in."""
    lines = os.environ.get("LAZYDEPS_CHILD", "").split("\n")
    if len(lines) < 5 or not hasattr(sys, "implementation"):
        return
    kind = "%s%s" % (sys.implementation.cache_tag, getattr(sys, "abiflags", ""))
    if lines[:2] != [kind, sys.prefix]:
        return
    for place, finder in enumerate(sys.meta_path):
        if getattr(finder, "__name__", "") == "PathFinder":
            sys.meta_path.insert(place, Inherited(lines[2], list(zip(lines[3::2], lines[4::2]))))
            return


def step_aside():
    """Take our folder off the path again, and import the sitecustomize that it hides."""
    folder = os.path.dirname(__file__)
    sys.path[:] = [entry for entry in sys.path if entry != folder]
    sys.path_importer_cache.pop(folder, None)
    if __name__ == "sitecustomize":
        ours = sys.modules.pop(__name__)  # held: Python 2 empties a module that nobody holds
        import sitecustomize

        return ours, sitecustomize
    return None


try:
    # First: what it hides may look for modules that are not there, which is no reason to load packs.
    held = step_aside()
finally:
    install()
