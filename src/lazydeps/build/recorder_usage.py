"""Watch what a program uses of what it imports, or time its imports. A script: `usage.py` runs it, nobody imports it.

Like `recorder.py`, whose way of running a program it shares: standard library only, in the target's interpreter. It
writes JSON: seconds of each module by itself, who imported whom, and with "watch" which packages of the tree were used
and which names the program's own code read.
"""

from __future__ import annotations

import _thread
import builtins
import importlib
import marshal
import os
import sys
import time
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType, MethodType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from types import CodeType, FrameType, ModuleType
    from typing import Any

_LIBRARY = os.path.dirname(os.__file__) + os.sep
_IMPORTLIB = ("importlib.", "_frozen_importlib")
_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class Places:
    """Whose code a file is."""

    def __init__(self, tree: str, others: Sequence[str]) -> None:
        self._prefix = tree + os.sep
        self._others = (_LIBRARY, _HERE, *others)

    def package(self, file: str) -> str:
        """Return the top-level name of a file in the tree, "" for any other."""
        if not file.startswith(self._prefix):
            return ""
        return file[len(self._prefix) :].partition(os.sep)[0].partition(".")[0]

    def is_program(self, file: str) -> bool:
        """Tell whether a file is the program's own."""
        if file.startswith("<"):
            return file == "<trace>"
        return not file.startswith((self._prefix, *self._others))


class Imports:
    """Times modules from a place in the meta path, and notes who imports whom."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._stacks: dict[int, list[list[Any]]] = {}
        self._finding: set[int] = set()
        self.busy: dict[int, int] = {}
        """By thread: how many imports of other modules than the program's own are going on, since its last own one."""
        self.seconds: dict[str, float] = {}
        """By module: finding it, loading it and running its body, without what it imports."""
        self.files: dict[str, str] = {}
        self.own: dict[str, str] = {}
        """The program's modules."""
        self.edges: dict[tuple[str, str], None] = {}

    # --- the import system's protocol ---

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Ask the other finders, and put a clock around the loader that they give."""
        thread = _thread.get_ident()
        if thread in self._finding:
            return None
        self._finding.add(thread)
        self.busy[thread] = self.busy.get(thread, 0) + 1
        began = time.perf_counter()
        spec: ModuleSpec | None = None
        try:
            for finder in list(sys.meta_path):
                find = getattr(finder, "find_spec", None)
                if finder is not self and find is not None:
                    spec = find(name, path, target)
                    if spec is not None:
                        break
        finally:
            self._finding.discard(thread)
            self.busy[thread] -= 1
        if spec is not None:
            self._add(name, time.perf_counter() - began, self._stacks.setdefault(thread, []))
            self._clock(name, spec)
        return spec

    def invalidate_caches(self) -> None:
        """Do nothing: the other finders are asked each time."""

    def _add(self, name: str, seconds: float, stack: list[list[Any]]) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        if stack:
            stack[-1][1] += seconds
            self.edges[stack[-1][0], name] = None

    def _clock(self, name: str, spec: ModuleSpec) -> None:
        loader = spec.loader
        file = spec.origin or ""
        self.files[name] = file
        if file.endswith(".py") and self._places.is_program(file):
            self.own[name] = file
        if loader is None or isinstance(loader, type):
            return  # a namespace, or a module of the interpreter itself
        try:
            for method in ("create_module", "exec_module"):
                setattr(loader, method, self._timed(name, getattr(loader, method)))
        except AttributeError:
            pass  # a loader of a kind that nobody can change: its time counts as its importer's

    def _timed(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(argument: Any) -> Any:
            thread = _thread.get_ident()
            stack = self._stacks.setdefault(thread, [])
            busy = self.busy.get(thread, 0)
            # The body of the program's own module is the program, and what it calls there is used.
            self.busy[thread] = 0 if name in self.own else busy + 1
            entry: list[Any] = [name, 0.0]
            stack.append(entry)
            began = time.perf_counter()
            try:
                return method(argument)
            finally:
                total = time.perf_counter() - began
                stack.pop()
                self.busy[thread] = busy
                self.seconds[name] += total - entry[1]
                if stack:
                    stack[-1][1] += total

        return timed

    # --- import statements, also of what is there already ---

    def wrap(self) -> None:
        """Put ourselves around the two ways in which code asks for a module."""
        statement, function = builtins.__import__, importlib.import_module

        def imported(
            name: str,
            globals: Mapping[str, object] | None = None,  # noqa: A002 - the protocol's name
            locals: Mapping[str, object] | None = None,  # noqa: A002
            fromlist: Sequence[str] | None = (),
            level: int = 0,
        ) -> ModuleType:
            thread = _thread.get_ident()
            self.busy[thread] = self.busy.get(thread, 0) + 1
            try:
                return statement(name, globals, locals, fromlist or (), level)
            finally:
                self.busy[thread] -= 1
                self._note(globals or {}, name, fromlist or (), level)

        def import_module(name: str, package: str | None = None) -> ModuleType:
            thread = _thread.get_ident()
            self.busy[thread] = self.busy.get(thread, 0) + 1
            try:
                module = function(name, package)
            finally:
                self.busy[thread] -= 1
            self.edges[str(sys._getframe(1).f_globals.get("__name__", "")), module.__name__] = None
            return module

        builtins.__import__ = imported
        importlib.import_module = import_module

    def _note(self, names: Mapping[str, object], name: str, fromlist: Sequence[str], level: int) -> None:
        importer = str(names.get("__name__", ""))
        stack = self._stacks.get(_thread.get_ident())
        if stack and (not importer or importer.startswith(_IMPORTLIB)):
            importer = stack[-1][0]  # C code, which has no names of its own
        if level:
            package = str(
                names.get("__package__") or (importer if "__path__" in names else importer.rpartition(".")[0])
            )
            for _ in range(level - 1):
                package = package.rpartition(".")[0]
            name = f"{package}.{name}" if name else package
        self.edges[importer, name] = None
        for item in fromlist:
            if f"{name}.{item}" in sys.modules:
                self.edges[importer, f"{name}.{item}"] = None


class Watch:
    """Notes which packages of the tree are used outside of imports, and which code of the program runs."""

    def __init__(self, places: Places, imports: Imports) -> None:
        self._places = places
        self._busy = imports.busy
        self.used: dict[str, str] = {}
        """Package to why we say so."""
        self._on = False
        self.executed: dict[CodeType, dict[str, Any]] = {}
        """The program's code that ran, with its globals."""

    def start(self) -> None:
        """Begin to watch, by `sys.monitoring` (PEP 669) where there is such a thing."""
        self._on = True
        monitoring = getattr(sys, "monitoring", None)
        if monitoring is None:
            import threading

            threading.setprofile(self._profile)
            sys.setprofile(self._profile)
            return
        tool = monitoring.PROFILER_ID
        monitoring.use_tool_id(tool, "lazydeps")
        events = monitoring.events

        def started(code: CodeType, offset: int) -> object:
            del offset
            if self._busy.get(_thread.get_ident(), 0):
                return None
            self._started(code, sys._getframe(1))
            return monitoring.DISABLE

        def called(code: CodeType, offset: int, function: object, first: object) -> None:
            del code, offset, first
            if not self._busy.get(_thread.get_ident(), 0):
                self._called(function)

        monitoring.register_callback(tool, events.PY_START, started)
        monitoring.register_callback(tool, events.CALL, called)
        monitoring.set_events(tool, events.PY_START | events.CALL)

    def stop(self) -> None:
        """Watch no more."""
        if not self._on:
            return
        monitoring = getattr(sys, "monitoring", None)
        if monitoring is None:
            sys.setprofile(None)
        else:
            monitoring.set_events(monitoring.PROFILER_ID, 0)

    def _profile(self, frame: FrameType, event: str, argument: object) -> None:
        if self._busy.get(_thread.get_ident(), 0):
            return
        if event == "call":
            self._started(frame.f_code, frame)
        elif event == "c_call":
            self._called(argument)

    def _started(self, code: CodeType, frame: FrameType) -> None:
        package = self._places.package(code.co_filename)
        if package:
            if package not in self.used and not _is_from_import(code, frame):
                self.used[package] = f"{code.co_qualname} was called"
        elif code not in self.executed and self._places.is_program(code.co_filename):
            self.executed[code] = frame.f_globals

    def _called(self, function: object) -> None:
        kind = type(function)
        if kind is FunctionType or kind is MethodType:
            return  # its own code says so
        module = None
        if kind is BuiltinFunctionType:
            module = function.__module__ or type(getattr(function, "__self__", None)).__module__
        elif kind is MethodDescriptorType:
            module = function.__objclass__.__module__  # type: ignore[attr-defined]
        elif isinstance(function, type):
            module = type.__getattribute__(function, "__module__")
        else:
            module = kind.__module__
        if isinstance(module, str):
            package = module.partition(".")[0]
            if package not in self.used and package not in sys.stdlib_module_names:
                self.used[package] = f"{getattr(function, '__name__', kind.__name__)} was called"

    def names(self) -> list[tuple[str, str, int, str]]:
        """Return what the program's code reads: file, name, line, and the package that the name's value is from.

        Of an import inside a function the name is the module with a dot in front.
        """
        import dis

        found: dict[tuple[str, str, int, str], None] = {}
        for code, names in list(self.executed.items()):
            line = code.co_firstlineno
            for instruction in dis.get_instructions(code):
                at = getattr(instruction.positions, "lineno", None)
                line = at or line
                name = str(instruction.argval)
                if instruction.opname in ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"):
                    found[code.co_filename, name, line, _package_of(names.get(name))] = None
                elif instruction.opname == "IMPORT_NAME" and code.co_name != "<module>":
                    found[code.co_filename, "." + name, line, name.partition(".")[0]] = None
        return list(found)


def _is_from_import(code: CodeType, frame: FrameType) -> bool:
    """Tell whether a module's ``__getattr__`` is asked by a ``from … import`` statement: that is no use yet."""
    if code.co_name != "__getattr__" or frame.f_back is None:
        return False
    import opcode

    caller = frame.f_back
    return caller.f_code.co_code[caller.f_lasti] == opcode.opmap["IMPORT_FROM"]


def _package_of(value: object) -> str:
    """Return the top-level package of a module, class, function or object; "" where it does not say."""
    if isinstance(value, type(sys)):
        return str(value.__dict__.get("__name__", "")).partition(".")[0]
    if isinstance(value, (type, FunctionType, BuiltinFunctionType)):
        module = getattr(value, "__module__", "")
    else:
        module = type(value).__module__
    return module.partition(".")[0] if isinstance(module, str) else ""


def main() -> None:
    """Run what the configuration says and write what was seen."""
    with open(sys.argv[1], "rb") as settings:
        config = marshal.load(settings)  # noqa: S302 - written by our parent
    recorder: dict[str, Any] = {"__name__": "lazydeps recorder", "__file__": config["recorder"]}
    with open(config["recorder"], "rb") as stream:
        exec(compile(stream.read(), config["recorder"], "exec"), recorder)  # noqa: S102 - our own file
    companion = recorder["_script_beside"]("recorder_handler.py")
    sys.path[:] = [entry for entry in sys.path if entry] + [config["tree"]]
    sys.argv[:] = [config["script"] or "-c"]
    sys.meta_path.insert(0, companion["Beside"](config["first"]))
    sys.meta_path.append(companion["Beside"](config["last"]))
    beside = [os.path.dirname(place[0]) + os.sep if place[1:] else place[0] for place in config["last"].values()]
    places = Places(config["tree"], beside)
    imports = Imports(places)
    watch = Watch(places, imports)
    sys.meta_path.insert(0, imports)
    imports.wrap()
    fatal, raised = "", {}
    if config["watch"]:
        watch.start()
    try:
        raised = recorder["run_program"](config, companion)
    except SystemExit as error:
        if error.code not in (None, 0):
            fatal = f"SystemExit: {error.code}"
    except BaseException as error:  # reported to the parent, which raises its own
        watch.stop()
        fatal = recorder["_last_lines"](error)
    watch.stop()
    import json

    with open(config["out"], "w", encoding="utf-8") as stream:
        json.dump(
            {
                "seconds": imports.seconds,
                "files": imports.files,
                "own": imports.own,
                "edges": list(imports.edges),
                "used": watch.used,
                "names": watch.names(),
                "fatal": fatal,
                "events": {name: recorder["_last_lines"](error) for name, error in raised.items()},
            },
            stream,
        )
    os._exit(0)


if __name__ == "__main__":
    main()
