"""The trace: what the recorder sees and in which order, the document, and fitting it to another tree."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

import pytest

from lazydeps.build import resolve
from lazydeps.build.bytecode import compile_tree
from lazydeps.build.elf import Dynamic, ElfTree
from lazydeps.build.interpreters import Interpreter, require_interpreter
from lazydeps.build.trace import Recording, Trace, fit, record, target_suffixes
from lazydeps.errors import ConfigError, LazydepsError

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture(scope="module")
def interpreter() -> Interpreter:
    return require_interpreter(MINOR)


@pytest.fixture(scope="module")
def markupsafe(tmp_path_factory: pytest.TempPathFactory, interpreter: Interpreter) -> Path:
    """A real wheel with an extension module."""
    into = tmp_path_factory.mktemp("wheel") / "tree"
    resolve.install(["markupsafe"], into=into, interpreter=interpreter, arch="x86_64", glibc="2.34")
    resolve.normalise(into, drop_scripts=True)
    return into


def write(tree: Path, **files: str) -> Path:
    """Write files; ``pkg__mod_py`` would be unreadable, so names are given in a mapping."""
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(textwrap.dedent(text))
    return tree


def trace_of(
    tree: Path,
    interpreter: Interpreter,
    *statements: str,
    script: Path | None = None,
    modules: tuple[str, ...] = (),
    skip: tuple[str, ...] = (),
) -> Recording:
    files = resolve.list_files(tree)
    compile_tree(tree, [file for file in files if file not in skip], interpreter=interpreter)
    elf = ElfTree(tree, resolve.list_files(tree))
    return record(
        tree,
        interpreter=interpreter,
        elf=elf,
        arch="x86_64",
        statements=statements,
        script=script,
        modules=modules,
    )


def test_modules_stand_in_the_order_of_their_bytecode(tmp_path: Path, interpreter: Interpreter) -> None:
    """A package comes before what its body imports, under the name of its source, with bytecode or without."""
    write(
        tmp_path,
        **{
            "pkg/__init__.py": "from . import b\nfrom . import a\n",
            "pkg/a.py": "",
            "pkg/b.py": "import other\n",
            "pkg/unused.py": "",
            "other.py": "",
        },
    )
    trace = trace_of(tmp_path, interpreter, "import pkg", skip=("other.py",)).trace
    assert trace.order == ("pkg/__init__.py", "pkg/b.py", "other.py", "pkg/a.py")
    assert (trace.python, trace.arch, trace.how) == (MINOR, "x86_64", ("import pkg",))


def test_what_a_body_opens_stands_before_its_module(tmp_path: Path, interpreter: Interpreter) -> None:
    """The runtime runs a module once everything before it is there: so its data precede it, also through helpers."""
    write(
        tmp_path,
        **{
            "pkg/__init__.py": "from . import first\nfrom . import reader\nreader.read('late.txt')\n",
            "pkg/first.py": "from .reader import read\nread('first.txt')\nimport pkg.inner\n",
            "pkg/reader.py": """
                import os
                def read(name):
                    with open(os.path.join(os.path.dirname(__file__), name), "rb") as stream:
                        return stream.read()
            """,
            "pkg/inner.py": "from .reader import read\nread('inner.txt')\n",
            "pkg/first.txt": "",
            "pkg/inner.txt": "",
            "pkg/late.txt": "",
            "pkg/never.txt": "",
        },
    )
    assert trace_of(tmp_path, interpreter, "import pkg").trace.order == (
        "pkg/late.txt",
        "pkg/__init__.py",
        "pkg/first.txt",
        "pkg/first.py",
        "pkg/reader.py",
        "pkg/inner.txt",
        "pkg/inner.py",
    )


def test_a_file_moves_up_to_the_earliest_module_that_opens_it(tmp_path: Path, interpreter: Interpreter) -> None:
    """What a submodule has read and then its package reads too has to be there before the package."""
    read = "open(__file__.rpartition('/')[0] + '/data.txt').close()\n"
    write(
        tmp_path,
        **{"pkg/__init__.py": "import pkg.sub\n" + read, "pkg/sub.py": read, "pkg/data.txt": ""},
    )
    assert trace_of(tmp_path, interpreter, "import pkg").trace.order == (
        "pkg/data.txt",
        "pkg/__init__.py",
        "pkg/sub.py",
    )


def test_the_standard_library_is_recorded_too(tmp_path: Path, interpreter: Interpreter) -> None:
    """Its modules in the order in which the program imported them, not the recorder, and nobody else's modules."""
    write(
        tmp_path,
        **{
            "pkg/__init__.py": """
                import json.decoder, colorsys
                from . import sub
                try:
                    import wave.nothing
                except ImportError:
                    pass
            """,
            "pkg/sub.py": "import wave\n",
        },
    )
    stdlib = trace_of(tmp_path, interpreter, "import pkg").trace.stdlib
    assert [name for name in stdlib if name in ("json", "colorsys", "wave", "pkg", "traceback", "wave.nothing")] == [
        "json",
        "colorsys",
        "wave",
    ]
    assert "json.decoder" in stdlib
    assert trace_of(tmp_path, interpreter, "import sys").trace.stdlib == ()


def test_what_the_program_itself_opens_comes_last(tmp_path: Path, interpreter: Interpreter) -> None:
    """No module's body is running when a handler calls a function that reads data."""
    tree = write(
        tmp_path / "tree",
        **{"mod.py": "def read():\n    return open(__file__[:-6] + 'data.txt').read()\n", "data.txt": "x"},
    )
    write(tmp_path, **{"app.py": "import mod\nimport beside\nassert mod.read() == 'x'\n", "beside.py": ""})
    trace = trace_of(tree, interpreter, script=tmp_path / "app.py").trace
    assert trace.order == ("mod.py", "data.txt")
    assert trace.how == ("script app.py",)
    assert not (tmp_path / "__pycache__").exists()  # the user's own folder stays as it was


def test_listing_a_folder_opens_what_shows_in_it(tmp_path: Path, interpreter: Interpreter) -> None:
    """A listing shows data files, sources and deeper folders: every file but extensions, and one of each folder."""
    write(
        tmp_path,
        **{
            "pkg/__init__.py": "import os, pkg.sub\nos.listdir(os.path.dirname(__file__) + '/data')\n",
            "pkg/sub.py": "import os\nlist(os.scandir(os.path.dirname(__file__) + '/more'))\n",
            "pkg/beside.txt": "",
            "pkg/data/b.txt": "",
            "pkg/data/a.txt": "",
            "pkg/data/mod.py": "",
            "pkg/data/ext.abi3.so": "",
            "pkg/data/deep/c.txt": "not empty",
            "pkg/data/deep/smaller.txt": "",
            "pkg/data/package/__init__.py": "not empty",
            "pkg/data/package/other.py": "",
            "pkg/data/empty/deeper/e.txt": "",
            "pkg/more/d.txt": "",
        },
    )
    assert trace_of(tmp_path, interpreter, "import pkg").trace.order == (
        "pkg/data/a.txt",
        "pkg/data/b.txt",
        "file:pkg/data/mod.py",
        "pkg/data/deep/smaller.txt",
        "file:pkg/data/package/__init__.py",
        "pkg/__init__.py",
        "pkg/more/d.txt",
        "pkg/sub.py",
    )


def test_questions_are_recorded(tmp_path: Path, interpreter: Interpreter) -> None:
    """What a body asks about has to be there for the same answer; a folder is there if a file in it is."""
    write(
        tmp_path,
        **{
            "pkg/__init__.py": """
                import inspect, os, pathlib
                from . import seen
                here = pathlib.Path(__file__).resolve().parent
                class Keeps:
                    stat = os.stat  # a function of C is no method, and so this must not become one
                assert Keeps().stat(here / "stat.txt").st_size == 0
                assert os.path.exists(here / "exists.txt") and (here / "is_file.txt").is_file()
                assert os.access(here / "access.txt", os.R_OK) and os.path.isfile(here / "asked.py")
                assert os.path.getsize(os.fsencode(here / "bytes.txt")) == 0
                assert os.path.isdir(here / "folder") and not os.path.exists(here / "nothing.txt")
                assert os.path.exists(here / "libbig.so") and inspect.getsourcefile(seen)
                assert os.stat in os.supports_follow_symlinks and os.stat.__name__ == "stat"
                try:
                    os.stat()
                except TypeError:
                    pass
            """,
            "pkg/seen.py": "",
            **dict.fromkeys(
                (f"pkg/{name}.txt" for name in ("stat", "exists", "is_file", "access", "bytes", "other")), ""
            ),
            "pkg/asked.py": "",
            "pkg/libbig.so": "",
            "pkg/folder/small.txt": "",
            "pkg/folder/big.txt": "big",
        },
    )
    trace = trace_of(tmp_path, interpreter, "import pkg").trace
    names = ["stat.txt", "exists.txt", "is_file.txt", "access.txt", "asked.py", "bytes.txt", "folder/small.txt"]
    asked = [f"file:pkg/{name}" if name.endswith(".py") else f"pkg/{name}" for name in names]
    assert trace.order == (*asked, "pkg/__init__.py", "pkg/seen.py")
    assert trace.absent == ()


@pytest.mark.parametrize("how", ["import pkgutil; list(pkgutil.iter_modules(__path__))", "import os; os.listdir(top)"])
def test_listings_that_the_index_answers_are_not_recorded(tmp_path: Path, interpreter: Interpreter, how: str) -> None:
    """`pkgutil` asks the runtime's finder for a package's modules, and at the top only data files count."""
    head = "import os; top = os.path.dirname(os.path.dirname(__file__))\n"
    write(tmp_path, **{"pkg/__init__.py": head + how + "\n", "pkg/mod.py": "", "pkg/sub/__init__.py": "", "top.py": ""})
    assert trace_of(tmp_path, interpreter, "import pkg").trace.order == ("pkg/__init__.py",)


def test_files_that_the_program_writes_are_not_recorded(tmp_path: Path, interpreter: Interpreter) -> None:
    """A cache that an import writes into its package is no part of the pack, though it is read again."""
    write(
        tmp_path,
        **{
            "pkg.py": """
                path = __file__ + ".cache"
                open(path, "w").close()
                open(path).close()
                open("in_the_working_folder", "w").close()
            """
        },
    )
    assert trace_of(tmp_path, interpreter, "import pkg").trace.order == ("pkg.py",)


def test_sources_opened_as_files_are_marked(tmp_path: Path, interpreter: Interpreter) -> None:
    """A source that is read as text is needed as a source: by exec(), by inspect, by a warning that shows its line."""
    write(
        tmp_path,
        **{
            "pkg/__init__.py": """
                import inspect, warnings
                from . import seen
                exec(open(__file__.replace("__init__", "version")).read())
                inspect.getsource(seen)
                warnings.warn("shows its line")
            """,
            "pkg/version.py": "version = '1'\n",
            "pkg/seen.py": "x = 1\n",
        },
    )
    order = trace_of(tmp_path, interpreter, "import pkg; assert pkg.version == '1'").trace.order
    assert [entry for entry in order if not entry.startswith("file:")] == ["pkg/__init__.py", "pkg/seen.py"]
    read = ["file:pkg/version.py", "file:pkg/seen.py", "file:pkg/__init__.py"]
    assert list(order[:3]) == read, "they go before the module whose body reads them"


def test_extensions_and_resources_are_recorded(markupsafe: Path, interpreter: Interpreter) -> None:
    """A real wheel: the extension behind its package, metadata and resources that were read, and nothing else."""
    program = (
        "import markupsafe, importlib.metadata, importlib.resources\n"
        "importlib.metadata.version('markupsafe')\n"
        "importlib.resources.files('markupsafe').joinpath('py.typed').read_text()\n"
    )
    order = trace_of(markupsafe, interpreter, program).trace.order
    assert order[0] == "markupsafe/__init__.py"
    assert order[1].startswith("markupsafe/_speedups.cpython-")
    version = resolve.list_distributions(markupsafe)["markupsafe"]
    assert order[2:] == (f"markupsafe-{version}.dist-info/METADATA", "markupsafe/py.typed")


def test_libraries_loaded_by_hand_are_recorded(markupsafe: Path, tmp_path: Path, interpreter: Interpreter) -> None:
    """A library that a body opens with ctypes stands before the module, like any data that it opens."""
    (library,) = markupsafe.glob("markupsafe/_speedups.cpython-*.so")
    write(
        tmp_path,
        **{"pkg/__init__.py": "import ctypes, os\nctypes.PyDLL(os.path.dirname(__file__) + '/libs/libx.so')\n"},
    )
    (tmp_path / "pkg" / "libs").mkdir()
    (tmp_path / "pkg" / "libs" / "libx.so").write_bytes(library.read_bytes())
    assert trace_of(tmp_path, interpreter, "import pkg").trace.order == ("pkg/libs/libx.so", "pkg/__init__.py")


def test_libraries_loaded_behind_pythons_back_are_recorded(
    markupsafe: Path, tmp_path: Path, interpreter: Interpreter
) -> None:
    """A dlopen() from C, as cffi's, raises no audit event: the memory map shows it, before the package that did it."""
    (library,) = markupsafe.glob("markupsafe/_speedups.cpython-*.so")
    write(
        tmp_path,
        **{
            "early.py": "",
            "pkg/__init__.py": "import pkg.sub\n",
            "pkg/sub.py": """
                import ctypes
                dlopen = ctypes.CDLL(None).dlopen
                dlopen.restype = ctypes.c_void_p
                assert dlopen((__file__.rpartition("/")[0] + "/libx.so").encode(), 2)
            """,
            "late.py": "",
        },
    )
    (tmp_path / "pkg" / "libx.so").write_bytes(library.read_bytes())
    order = trace_of(tmp_path, interpreter, "import early, pkg, late").trace.order
    assert order == ("early.py", "pkg/libx.so", "pkg/__init__.py", "pkg/sub.py", "late.py")


def test_places_without_a_module_are_noted(tmp_path: Path, interpreter: Interpreter) -> None:
    """Submodules that were looked for in vain are; those that exist in any form, and top-level names, are not."""
    write(
        tmp_path,
        **{
            "pkg/__init__.py": """
                for name in ("missing", "there", "folder", "sub.gone"):
                    try:
                        __import__("pkg." + name)
                    except ImportError:
                        pass
                try:
                    import nothing_of_that_name
                except ImportError:
                    pass
            """,
            "pkg/there.py": "raise ImportError\n",
            "pkg/folder/data.txt": "",
            "pkg/sub/__init__.py": "",
        },
    )
    assert trace_of(tmp_path, interpreter, "import pkg").trace.absent == ("pkg/missing", "pkg/sub/gone")


def test_the_process_is_clean(tmp_path: Path, interpreter: Interpreter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's environment, site-packages, home or folder reaches the traced program."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "mine"))
    monkeypatch.setenv("MPLBACKEND", "Qt5Agg")
    monkeypatch.setenv("HOME", "/home/me")
    write(tmp_path / "tree", **{"mod.py": "", "json.py": "raise SystemError('the standard library comes first')\n"})
    trace_of(
        tmp_path / "tree",
        interpreter,
        "import os, sys, mod, json\n"
        "assert 'MPLBACKEND' not in os.environ and os.environ['HOME'] != '/home/me'\n"
        "assert not any('site-packages' in p or p.endswith('/mine') for p in sys.path), sys.path\n"
        "assert __name__ == '__main__' and sys.modules['__main__'].__dict__ is globals()\n"
        f"assert os.getcwd() != {str(Path.cwd())!r} and os.listdir() == []\n"
        "known = sys.stdlib_module_names | {'__main__', 'mod'}\n"
        "assert not [name for name in sys.modules if name.partition('.')[0] not in known]\n",
    )


def test_a_module_that_fails_is_reported(tmp_path: Path, interpreter: Interpreter) -> None:
    """Of the default list one may fail, exit or crash: the others are recorded, and it is said what happened."""
    write(
        tmp_path,
        **{
            "good.py": "",
            "bad.py": "import not_installed\n",
            "exits.py": "raise SystemExit(3)\n",
            "crashes.py": "import os\nos.abort()\n",
        },
    )
    recording = trace_of(tmp_path, interpreter, modules=("bad", "crashes", "exits", "good"))
    assert recording.trace.how == ("import good",)
    assert "good.py" in recording.trace.order
    assert recording.failed.keys() == {"bad", "crashes", "exits"}
    assert "No module named 'not_installed'" in recording.failed["bad"]
    assert "SIGABRT" in recording.failed["crashes"]
    assert recording.failed["exits"] == "SystemExit: 3"


def test_if_nothing_can_be_imported_there_is_no_trace(tmp_path: Path, interpreter: Interpreter) -> None:
    """An empty boot set is never what was meant."""
    write(tmp_path, **{"bad.py": "import not_installed\n"})
    with pytest.raises(LazydepsError, match=r"(?s)none of the packed modules.*not_installed.*--trace"):
        trace_of(tmp_path, interpreter, modules=("bad",))


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import not_installed", "No module named 'not_installed'"),
        ("raise SystemExit(2)", "SystemExit: 2"),
        ("import os; os.abort()", "killed by SIGABRT"),
        ("import os; os._exit(5)", "exit code 5"),
    ],
)
def test_a_program_that_was_asked_for_must_succeed(
    tmp_path: Path, interpreter: Interpreter, program: str, reason: str
) -> None:
    """With --trace a failure is an error that shows the program's own last lines, not the recorder's."""
    write(tmp_path, **{"mod.py": ""})
    with pytest.raises(LazydepsError, match=r"(?s)^the traced program `.*" + reason) as caught:
        trace_of(tmp_path, interpreter, program)
    assert "recorder.py" not in str(caught.value)


def test_a_program_that_does_not_end_is_stopped(tmp_path: Path, interpreter: Interpreter) -> None:
    """A server that is traced by mistake ends in an error."""
    write(tmp_path, **{"mod.py": ""})
    with pytest.raises(LazydepsError, match="did not end within 1 s"):
        record(
            tmp_path,
            interpreter=interpreter,
            elf=ElfTree(tmp_path, []),
            arch="x86_64",
            statements=["import time; time.sleep(60)"],
            timeout=1,
        )


# --- the document ---

TRACE = Trace(
    python="3.13",
    arch="x86_64",
    how=("import pkg",),
    order=("pkg/ü.py", "pkg/_x.cpython-313-x86_64-linux-gnu.so", "file:pkg/v.py", "pkg/_y.abi3.so", "pkg/d.txt"),
    absent=("pkg/gone", "pkg/here"),
)


def test_a_trace_survives_its_file(tmp_path: Path) -> None:
    """What was saved is what is loaded, and the document is the documented one, with sorted keys."""
    TRACE.save(tmp_path / "t.json")
    assert Trace.load(tmp_path / "t.json") == TRACE
    document = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    assert (
        list(document) == sorted(document) == ["absent", "arch", "how", "lazydeps_trace", "order", "python", "stdlib"]
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"lazydeps_trace": 2}, r"version 2, and this lazydeps reads version 1"),
        ({"lazydeps_trace": None}, r"version None"),
        ({"python": 3}, r"'python' must be a string, found 3"),
        ({"order": "pkg"}, r"'order' must be a list"),
        ({"order": ["a", 1]}, r"'order\[1\]' must be a string"),
        ({"order": ["../a.py"]}, r"'order\[0\]' must be a path relative"),
        ({"order": ["file:/etc/passwd"]}, r"'order\[0\]' must be a path relative"),
        ({"absent": ["a//b"]}, r"'absent\[0\]' must be a path relative"),
    ],
)
def test_a_bad_trace_says_where(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    """Errors name the file, the key and the position."""
    path = tmp_path / "t.json"
    path.write_text(json.dumps({**json.loads(TRACE.to_json()), **change}))
    with pytest.raises(ConfigError, match=reason) as caught:
        Trace.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json"])
def test_other_files_are_no_traces(tmp_path: Path, text: str) -> None:
    """A file of another kind, or none at all, is said to be that."""
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"t\.json is not a trace"):
        Trace.load(path)
    with pytest.raises(ConfigError, match=r"none\.json could not be read"):
        Trace.load(tmp_path / "none.json")


def test_a_trace_fits_another_architecture() -> None:
    """The platform in an extension's name is mapped; what the tree lacks is dropped and listed."""
    files = {"pkg/ü.py", "pkg/_x.cpython-313-aarch64-linux-gnu.so", "pkg/_y.abi3.so", "pkg/v.py", "pkg/here.py"}
    fitted = fit(TRACE, files, suffixes=target_suffixes("3.13", "arm64"))
    assert fitted.trace.order == (
        "pkg/ü.py",
        "pkg/_x.cpython-313-aarch64-linux-gnu.so",
        "file:pkg/v.py",
        "pkg/_y.abi3.so",
    )
    assert fitted.dropped == ("pkg/d.txt",)
    assert fitted.trace.absent == ("pkg/gone",)  # pkg/here exists in this tree


def test_a_trace_fits_another_kind_of_extension() -> None:
    """A wheel may have a stable-ABI module on one platform and a version-specific one on another."""
    trace = Trace("3.12", "arm64", (), ("a/x.abi3.so", "a/y.cpython-312-aarch64-linux-gnu.so", "a/libz.so"), ("a/x",))
    files = {"a/x.cpython-313-x86_64-linux-gnu.so", "a/y.abi3.so", "a/libz.so"}
    fitted = fit(trace, files, suffixes=target_suffixes("3.13", "x86_64"))
    assert fitted.trace.order == ("a/x.cpython-313-x86_64-linux-gnu.so", "a/y.abi3.so", "a/libz.so")
    assert fitted.dropped == ()
    assert fitted.trace.absent == ()


def test_suffixes_are_importlibs(interpreter: Interpreter) -> None:
    """For the machine that runs the tests the computed suffixes are those of its own importlib."""
    assert target_suffixes(interpreter.minor, interpreter.arch) == interpreter.extension_suffixes


def test_libraries_that_elf_explains_are_not_recorded() -> None:
    """Those mapped because an extension needs them are left to `arrange`, which knows the packed tree."""
    from lazydeps.build.trace import _order

    files = {"p/x.so": Dynamic(needed=("liba.so",)), "liba.so": Dynamic(), "libb.so": Dynamic()}
    elf = ElfTree(Path("/nowhere"), files)
    elf._dynamic = dict(files)
    entries = [("mapped", "liba.so"), ("mapped", "libb.so"), ("extension", "p/x.so")]
    assert _order(entries, elf) == ("libb.so", "p/x.so")
