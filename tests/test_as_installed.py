"""What the standard tools make of packed modules: each question is put to a pack and to a plain installation.

`same` runs the same program both ways and compares the answers. Where they differ on purpose, the test says so, and
``docs/reference/import-behaviour.md`` lists it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import SRC
from support_http import Answer, Request, ScriptedServer, ranged
from support_packs import pack_tree, write_tree

from lazydeps._fetch import HEAD

if TYPE_CHECKING:
    from conftest import RunPython

    from lazydeps.build.write import Written

CORE = '''"""The module that everybody asks about."""

import warnings


class Thing:
    """A thing.

    >>> Thing(2).double()
    4
    """

    def __init__(self, value):
        self.value = value

    def double(self):
        return self.value * 2

    class Inner:
        pass


def fail():
    raise ValueError("on purpose")  # the line


def complain():
    warnings.warn("careful", UserWarning, stacklevel=1)  # the warned line


def branch(flag):
    if flag:
        return "yes"
    return "no"


if __name__ == "__main__":
    import sys

    print("core as a program", sys.argv[1:], __spec__.name, __package__)
'''

FILES: dict[str, str | bytes] = {
    "pkg/__init__.py": """
import os
from . import core
with open(os.path.join(os.path.dirname(__file__), "data/inside.txt")) as file:
    INSIDE = file.read()
""",
    "pkg/core.py": CORE,
    "pkg/data/inside.txt": "read by the import",
    "pkg/later.txt": "data of the pack",
    "pkg/tool.pyi": "# a stub that no import reads\n",
    "pkg/__main__.py": "import sys\nfrom . import INSIDE\nprint('pkg as a program', sys.argv[1:], __name__, INSIDE)\n",
    "pkg/sub/__init__.py": "",
    "pkg/sub/deep.py": "import pkg.sub.deeper\nDEEP = pkg.sub.deeper.DEEPER\n",
    "pkg/sub/deeper.py": "DEEPER = 7\n",
    "untraced.py": "import pkg.sub.deep\nWHO = pkg.sub.deep.DEEP\n",
    "shared.py": "WHO = 'first pack'\n",
    "space/one/__init__.py": "SIDE = 'one'\n",
    "space/one/part.txt": "beside a module",
    "space/bare/notes.txt": "in a folder without a module",
    "checks/__init__.py": "",
    "checks/test_sums.py": """
import unittest
class Sums(unittest.TestCase):
    def test_one(self):
        self.assertEqual(1 + 1, 2)
    def test_two(self):
        self.assertEqual(2 + 2, 4)
""",
    "startup.pth": "import sys; sys.pth_ran = True\n",
    "pkg_project-1.5.dist-info/METADATA": (
        "Metadata-Version: 2.1\nName: Pkg.Project\nVersion: 1.5\nRequires-Dist: other>=2\n"
        "Requires-Dist: more; extra == 'x'\nProvides-Extra: x\n"
    ),
    "pkg_project-1.5.dist-info/entry_points.txt": (
        "[things]\none = pkg.core:Thing\n\n[console_scripts]\nrun = pkg.core:fail\n"
    ),
    "pkg_project-1.5.dist-info/top_level.txt": "pkg\nuntraced\n",
    "pkg_project-1.5.dist-info/INSTALLER": "uv\n",
}
RECORD = "pkg_project-1.5.dist-info/RECORD"
FILES[RECORD] = "".join(f"{name},,\n" for name in [*FILES, RECORD] if name.startswith(("pkg", "untraced")))
BOOT = ["pkg/__init__.py", "pkg/core.py", "pkg/data/inside.txt", "shared.py", "space/one/__init__.py"]


def make_pack(folder: Path) -> Written:
    """Write the tree, an extension among it, and the pack of it."""
    speedups = importlib.util.find_spec("markupsafe._speedups")
    assert speedups is not None
    assert speedups.origin is not None
    extension = Path(speedups.origin)
    files = {**FILES, "speedy/__init__.py": "", f"speedy/{extension.name}": extension.read_bytes()}
    write_tree(folder / "tree", files)
    boot = [*BOOT, "speedy/__init__.py", f"speedy/{extension.name}"]
    return pack_tree(
        folder / "p.tar.zst",
        folder / "tree",
        boot=boot,
        cold=("pkg/tool.pyi",),
        distributions={"Pkg.Project": "1.5"},
    )


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A pack with a bit of everything."""
    return make_pack(tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Another pack, which shares a namespace and a module with the first."""
    folder = tmp_path_factory.mktemp("second")
    write_tree(
        folder / "tree",
        {"shared.py": "WHO = 'second pack'\n", "space/two/__init__.py": "SIDE = 'two'\n", "other.py": ""},
    )
    return pack_tree(folder / "q.tar.zst", folder / "tree", boot=["shared.py", "space/two/__init__.py", "other.py"])


def ref_of(pack: Written) -> str:
    """Return the pinned reference of a pack on this disk."""
    return f"{pack.path.as_uri()}#root={pack.root}"


BLOCK = "import json, os, sys\nimport lazydeps\nwith lazydeps.load():\n    import pkg\n"
COMPLETE = BLOCK + "lazydeps.wait(complete=True)\n"


def same(run_python: RunPython, pack: Written, tmp_path: Path, code: str, **options: Any) -> Any:
    """Run a program with a pack, and with the same tree installed: both print the same. Return the JSON value."""
    tree = pack.path.parent / "tree"
    plain = run_python(code, environ={"PYTHONPATH": f"{SRC}:{tree}"}, **options)
    ours = run_python(code, environ={"LAZYDEPS_PACK": ref_of(pack)}, **options)
    results = []
    for done, folders in ((plain, [tree]), (ours, list((tmp_path / "lazydeps").glob("*/tree")))):
        text = done.stdout
        for folder in folders:
            text = text.replace(str(folder), "TREE")
        results.append(text)
    assert results[0] == results[1]
    return json.loads(results[1].splitlines()[-1])


# -- modules


def test_specs_and_loaders(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """Specs, origins, paths and packages are an installation's: packages, modules, extensions, cold ones."""
    code = (
        BLOCK
        + """
import importlib.util, pkgutil
import speedy._speedups, space.one
def facts(spec):
    return [spec.name, spec.origin, spec.parent, spec.has_location,
            list(spec.submodule_search_locations) if spec.submodule_search_locations is not None else None]
names = ["pkg", "pkg.core", "speedy._speedups", "space", "space.one", "pkg.sub.deep", "untraced", "pkg.data"]
found = [facts(importlib.util.find_spec(name)) for name in names]
made = importlib.util.module_from_spec(importlib.util.find_spec("pkg.core"))
made.__spec__.loader.exec_module(made)
again = importlib.util.find_spec("pkg.core").loader
print(json.dumps([
    found, made.branch(1), made is not pkg.core, made.__file__, made.__package__, made.__name__, pkg.__file__,
    pkg.core.__doc__, pkg.core.__builtins__ is not None, again.is_package("pkg.core"), again.get_filename("pkg.core"),
    again.get_source("pkg.core") == made.__loader__.get_source("pkg.core"), again.name,
    again.get_code("pkg.core").co_filename, again.get_data(pkg.core.__file__)[:10].decode(),
    [importlib.util.find_spec(name) for name in ("pkg.nowhere", "nowhere")],
    speedy._speedups.__loader__.get_source("speedy._speedups"), speedy._speedups.__loader__.is_package("x"),
]))
"""
    )
    assert same(run_python, pack, tmp_path, code)[1:3] == ["yes", True]


def test_python_m(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """`runpy` in the process: a package with ``__main__``, a module of it, a cold module."""
    code = (
        BLOCK
        + """
import runpy
for name in ("pkg", "pkg.core", "pkg.sub.deeper"):
    sys.argv = [name, "word"]
    sys.modules.pop(name if name != "pkg" else "pkg.__main__", None)
    left = runpy.run_module(name, run_name="__main__", alter_sys=True)
    print(left["__file__"], left["__spec__"].name, left.get("DEEPER"))
print(json.dumps(1))
"""
    )
    same(run_python, pack, tmp_path, code)


def test_reload_and_invalidate_caches(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """`importlib.reload` runs a module anew in its namespace; `invalidate_caches` changes nothing of a pack."""
    code = (
        BLOCK
        + """
import importlib
pkg.core.extra, thing = 1, pkg.core.Thing
same = importlib.reload(pkg.core) is pkg.core
importlib.invalidate_caches()
import pkg.sub.deep
sys.modules.pop("pkg.sub.deep")
print(json.dumps([same, pkg.core.extra, pkg.core.Thing is not thing, importlib.import_module("pkg.sub.deep").DEEP,
                  importlib.reload(pkg).INSIDE]))
"""
    )
    assert same(run_python, pack, tmp_path, code) == [True, 1, True, 7, "read by the import"]


def test_lazy_loader(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """`importlib.util.LazyLoader` around a packed spec puts the module's run off until an attribute is used."""
    code = (
        BLOCK
        + """
import importlib.util
spec = importlib.util.find_spec("untraced")
spec.loader = importlib.util.LazyLoader(spec.loader)
module = importlib.util.module_from_spec(spec)
sys.modules["untraced"] = module
spec.loader.exec_module(module)
before = "pkg.sub.deep" in sys.modules
print(json.dumps([before, module.WHO, "pkg.sub.deep" in sys.modules, type(module).__name__]))
"""
    )
    assert same(run_python, pack, tmp_path, code) == [False, 7, True, "module"]


def test_pickling_by_reference(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """Classes, nested ones, functions and instances of packed modules pickle by name, and load in another process."""
    code = (
        BLOCK
        + """
import copy, pickle, subprocess
things = [pkg.core.Thing, pkg.core.Thing.Inner, pkg.core.branch]
data = [pickle.dumps(things, protocol) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)]
same = [pickle.loads(text) == things for text in data]
text = pickle.dumps(pkg.core.Thing(3)).hex()
child = f"import pickle; print(pickle.loads(bytes.fromhex('{text}')).double())"
out = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True)
print(json.dumps([same, copy.deepcopy(pkg.core.Thing(2)).double(), out.stdout, b"pkg.core" in data[0]]))
"""
    )
    assert same(run_python, pack, tmp_path, code)[1:] == [4, "6\n", True]


def test_imports_from_an_executor(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """An event loop's executor imports packed modules, several at once, cold ones too."""
    code = (
        BLOCK
        + """
import asyncio, importlib
async def main():
    loop = asyncio.get_running_loop()
    names = ["untraced", "pkg.sub.deep", "shared", "space.one", "checks.test_sums"]
    found = await asyncio.gather(*[loop.run_in_executor(None, importlib.import_module, name) for name in names])
    return [module.__name__ for module in found]
print(json.dumps(asyncio.run(main())))
"""
    )
    assert len(same(run_python, pack, tmp_path, code)) == 5


def test_zip_files_on_the_path(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """`zipimport` does what it did: a zip file of the function wins, one behind the standard library gives way."""
    code = (
        """
import sys, zipfile
for name, who in (("front.zip", "front"), ("back.zip", "back")):
    with zipfile.ZipFile(name, "w") as archive:
        archive.writestr("shared.py" if who == "back" else "own.py", f"WHO = {who!r}")
sys.path.insert(0, "front.zip")
sys.path.append("back.zip")
"""
        + BLOCK
        + """
import own, shared
print(json.dumps([own.WHO, shared.WHO, type(own.__loader__).__name__, own.__file__]))
"""
    )
    assert same(run_python, pack, tmp_path, code)[:3] == ["front", "first pack", "zipimporter"]


# -- sources, lines, tools


def test_inspect(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """`inspect` finds sources, files, modules, comments, signatures and lines; `linecache` the lines."""
    code = (
        BLOCK
        + """
import inspect, linecache
core = pkg.core
print(json.dumps([
    inspect.getsource(core.Thing), inspect.getsource(core.Thing.double), inspect.getsource(core),
    inspect.getfile(core.Thing), inspect.getsourcefile(core.fail), inspect.getmodule(core.fail).__name__,
    inspect.getsourcelines(core.complain), inspect.getdoc(core.Thing), str(inspect.signature(core.branch)),
    inspect.getmodule(None, core.__file__).__name__, inspect.getcomments(core.fail),
    linecache.getline(core.__file__, 24), inspect.getabsfile(core.Thing.Inner), inspect.isabstract(core.Thing),
    inspect.findsource(core.Thing.Inner)[1], inspect.getsource(pkg), inspect.getmodulename(core.__file__),
]))
"""
    )
    assert "def double" in same(run_python, pack, tmp_path, code)[0]


def test_tracebacks_and_warnings_show_lines(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """Tracebacks, `traceback`, `logging` and warnings show files, line numbers and source lines."""
    code = (
        BLOCK
        + """
import io, logging, traceback, warnings
log = io.StringIO()
logging.basicConfig(stream=log, format="%(message)s")
try:
    pkg.core.fail()
except ValueError as error:
    text = traceback.format_exc()
    frames = [[f.filename, f.lineno, f.name, f.line] for f in traceback.extract_tb(error.__traceback__)][1:]
    logging.exception("caught")
sys.stderr = io.StringIO()
warnings.simplefilter("always")
pkg.core.complain()
with warnings.catch_warnings(record=True) as caught:
    pkg.core.complain()
(w,) = caught
print(json.dumps([text, frames, log.getvalue() == "caught\\n" + text, sys.stderr.getvalue(),
                  warnings.formatwarning(w.message, w.category, w.filename, w.lineno)]))
"""
    )
    text, _, logged, warned, formatted = same(run_python, pack, tmp_path, code)
    assert 'raise ValueError("on purpose")  # the line' in text
    assert logged
    assert "# the warned line" in warned
    assert warned == formatted


def test_an_uncaught_error_shows_its_lines(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """What the interpreter itself prints at the end of a program has the source lines of packed modules.

    Before 3.13 it reads files and asks no loader: a program must have asked for the source, or for everything.
    """
    ways = ["lazydeps.wait(complete=True)", "import inspect; inspect.getsource(pkg.core)"]
    if sys.version_info >= (3, 13):
        ways.append("")
    for before in ways:
        done = run_python(BLOCK + before + "\npkg.core.fail()", environ={"LAZYDEPS_PACK": ref_of(pack)}, check=False)
        assert 'raise ValueError("on purpose")  # the line' in done.stderr
        assert "core.py" in done.stderr


@pytest.mark.parametrize("way", ["stepping in", "breakpoint"])
def test_pdb(run_python: RunPython, pack: Written, tmp_path: Path, way: str) -> None:
    """The debugger lists the source, steps and shows where it is; breakpoints need the source on the disk."""
    if way == "stepping in":
        body, commands = BLOCK + "pkg.core.branch(True)\n", ["b 5", "c", "s", "s", "list", "n", "w", "ll", "q"]
    else:
        body, commands = COMPLETE + "pkg.core.branch(True)\n", ["b 6", "c", "b pkg.core.branch", "c", "list", "w", "q"]
    script = tmp_path / "program.py"
    script.write_text(body)
    tree = pack.path.parent / "tree"
    outputs = []
    for environ in ({"PYTHONPATH": f"{SRC}:{tree}"}, {"PYTHONPATH": str(SRC), "LAZYDEPS_PACK": ref_of(pack)}):
        done = subprocess.run(
            [sys.executable, "-m", "pdb", str(script)],
            env={"PATH": os.defpath, "LAZYDEPS_DIR": str(tmp_path / "lazydeps"), "HOME": str(tmp_path), **environ},
            input="\n".join([*commands, ""]),
            capture_output=True,
            text=True,
            timeout=60,
        )
        text = done.stdout
        for folder in (tree, *(tmp_path / "lazydeps").glob("*/tree")):
            text = text.replace(str(folder), "TREE")
        outputs.append(text)
    assert outputs[0] == outputs[1]
    assert "TREE/pkg/core.py(32)branch()" in outputs[1]
    assert '    return "no"' in outputs[1]


def test_tracers(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """`sys.settrace`, `sys.setprofile` and `trace` see the real file names and line numbers of packed modules."""
    code = (
        BLOCK
        + """
import trace
seen = []
def tracer(frame, event, argument):
    if "pkg" in frame.f_code.co_filename:
        seen.append([frame.f_code.co_filename, frame.f_lineno, event])
        return tracer
sys.settrace(tracer)
pkg.core.branch(False)
import pkg.sub.deeper
sys.settrace(None)
counted = trace.Trace(count=1, trace=0)
counted.runfunc(pkg.core.branch, True)
lines = [[*key, count] for key, count in sorted(counted.results().counts.items()) if "pkg" in key[0]]
print(json.dumps([seen, lines, [list(line) for line in pkg.core.branch.__code__.co_lines()]]))
"""
    )
    seen = same(run_python, pack, tmp_path, code)[0]
    assert ["TREE/pkg/core.py", 34, "return"] in seen


def test_doctest(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """`doctest` finds and runs the examples of a packed module, with their line numbers."""
    code = (
        BLOCK
        + """
import doctest
results = doctest.testmod(pkg.core)
tests = [[t.name, t.filename, t.lineno, len(t.examples)] for t in doctest.DocTestFinder().find(pkg.core)]
print(json.dumps([list(results), tests]))
"""
    )
    assert same(run_python, pack, tmp_path, code)[0][:2] == [0, 1]


def test_unittest_discovery(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """`unittest` loads tests by name at once, and discovers them in a package that is complete."""
    code = (
        COMPLETE
        + """
import io, unittest
loader = unittest.TestLoader()
found = [loader.loadTestsFromName("checks.test_sums"), loader.discover("checks")]
results = [unittest.TextTestRunner(stream=io.StringIO()).run(suite) for suite in found]
print(json.dumps([[result.testsRun, len(result.errors)] for result in results]))
"""
    )
    assert same(run_python, pack, tmp_path, code) == [[2, 0], [2, 0]]


# -- folders


@pytest.mark.parametrize("when", ["before", "after"])
def test_listing_modules(run_python: RunPython, pack: Written, tmp_path: Path, when: str) -> None:
    """`pkgutil` lists the modules of packed packages, namespaces too, and walks down: at once as when complete."""
    code = (
        (BLOCK if when == "before" else COMPLETE)
        + """
import pkgutil, space, speedy
def names(found):
    return sorted([name, ispkg] for _, name, ispkg in found)
print(json.dumps([
    names(pkgutil.iter_modules(pkg.__path__)), names(pkgutil.iter_modules(pkg.__path__, "pkg.")),
    names(pkgutil.walk_packages(pkg.__path__, "pkg.")), names(pkgutil.iter_modules(space.__path__)),
    names(pkgutil.iter_modules(speedy.__path__)),
    names(m.module_finder.find_spec(m.name) and m for m in pkgutil.iter_modules(pkg.__path__)),
]))
"""
    )
    found = same(run_python, pack, tmp_path, code)
    assert found[0] == [["__main__", False], ["core", False], ["sub", True]]
    assert ["pkg.sub.deeper", False] in found[2]


def test_modules_written_into_a_package(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """A module that a program writes beside packed ones, as parser generators do, is found there, and listed."""
    code = (
        BLOCK
        + """
import importlib, pkgutil
path = os.path.join(os.path.dirname(pkg.__file__), "written.py")
with open(path, "w") as file:
    file.write("W = 1\\n")
importlib.invalidate_caches()
import pkg.written
names = [m.name for m in pkgutil.iter_modules(pkg.__path__)]
os.unlink(path)
print(json.dumps([pkg.written.W, "written" in names]))
"""
    )
    assert same(run_python, pack, tmp_path, code) == [1, True]


def test_resources(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """`importlib.resources`: files, traversal, ``as_file``, ``contents``, of packages and of namespace packages."""
    code = (
        BLOCK
        + """
import importlib.resources as resources, pkgutil
def walk(folder, depth=0):
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        if item.name.endswith((".py", ".pyi", ".so")) or item.name == "__pycache__":
            continue
        below = list(walk(item, depth + 1)) if item.is_dir() else []
        if below or item.is_file():  # a folder of modules is not listed before one of them has landed
            yield "  " * depth + item.name + ("/" if below else " " + item.read_text())
        yield from below
files = resources.files
with resources.as_file(files("pkg") / "later.txt") as path:
    one = [str(path), path.read_bytes().decode()]
with resources.as_file(files("pkg").joinpath("data")) as folder:
    two = sorted(os.listdir(folder))
print(json.dumps([
    list(walk(files("pkg"))), one, two, list(walk(files("space"))), list(walk(files("space.one"))),
    files("space.one").joinpath("part.txt").read_text(), (files("space") / "bare" / "notes.txt").read_text(),
    files("space.bare").joinpath("notes.txt").read_text(),
    files(pkg.core if sys.version_info >= (3, 12) else pkg).joinpath("later.txt").read_text(),
    files("pkg").joinpath("nothing.txt").is_file(), pkgutil.get_data("pkg", "data/inside.txt").decode(),
    pkg.__spec__.loader.get_resource_reader("pkg").is_resource("later.txt"),
    files("speedy").name, files("pkg.data").joinpath("inside.txt").read_text(),
    [item.name for item in files("checks").iterdir() if "." not in item.name and item.name != "__pycache__"],
]))
"""
    )
    found = same(run_python, pack, tmp_path, code)
    assert found[0] == ["data/", "  inside.txt read by the import", "later.txt data of the pack"]
    assert found[5:8] == ["beside a module", "in a folder without a module", "in a folder without a module"]


def test_data_files_inside_and_after_the_block(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """What nobody traced: data files are in place after the block, for Python and for C; cold ones are not.

    Through the loader, cold ones come too: `pkgutil.get_data` asks it.
    """
    code = """
import ctypes, json, os, pkgutil
import lazydeps
libc = ctypes.CDLL(None)
libc.fopen.restype, libc.fopen.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_char_p]
libc.fread.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p]
libc.fclose.argtypes = [ctypes.c_void_p]
def by_c(name):
    file = libc.fopen(os.path.join(base, name).encode(), b"rb")
    if not file:
        return None
    buffer = ctypes.create_string_buffer(100)
    count = libc.fread(buffer, 1, 100, file)
    libc.fclose(file)
    return buffer.raw[:count].decode()
def by_python(name):
    try:
        with open(os.path.join(base, name)) as file:
            return file.read()
    except FileNotFoundError:
        return None
with lazydeps.load():
    import pkg
    base = os.path.dirname(pkg.__file__)
    inside = [by_c("data/inside.txt"), by_python("data/inside.txt"), pkgutil.get_data("pkg", "later.txt").decode(),
              by_c("later.txt"), by_python("later.txt")]
after = [by_c("later.txt"), by_python("later.txt")]
cold = [by_c("tool.pyi"), by_python("tool.pyi"), by_python("core.py")]
asked = pkgutil.get_data("pkg", "tool.pyi").decode()
print(json.dumps([inside, after, cold, [asked, by_c("tool.pyi")]]))
"""
    done = run_python(code, environ={"LAZYDEPS_PACK": ref_of(pack)})
    inside, after, cold, asked = json.loads(done.stdout)
    assert inside == ["read by the import"] * 2 + ["data of the pack"] * 3
    assert after == ["data of the pack"] * 2
    assert cold == [None, None, None]  # a documented deviation
    assert asked == ["# a stub that no import reads\n"] * 2


def test_data_that_is_still_on_its_way(run_python: RunPython, tmp_path: Path) -> None:
    """Inside the block a data file may not have landed: `open` fails, the loader waits for it. After it, both work."""
    write_tree(
        tmp_path / "tree",
        {
            "pkg/__init__.py": "",
            "pkg/more.bin": os.urandom(2 * HEAD),
            "pkg/z.txt": "last",
            "pkg/untraced.py": "U = 1\n",
        },
    )
    pack = pack_tree(tmp_path / "p.tar.zst", tmp_path / "tree", boot=["pkg/__init__.py"])
    content = pack.path.read_bytes()

    def script(request: Request) -> Answer:
        time.sleep(0.6 if request.span()[0] else 0)
        return ranged(request, content)

    with ScriptedServer(script) as server:
        code = f"""
import json, os, pkgutil
import lazydeps
with lazydeps.load("{server.url}#root={pack.root}"):
    import pkg
    path = os.path.join(os.path.dirname(pkg.__file__), "z.txt")
    there = os.path.exists(path)
    asked = pkgutil.get_data("pkg", "z.txt").decode()
    import pkg.untraced
print(json.dumps([there, asked, open(path).read(), pkg.untraced.U]))
"""
        assert json.loads(run_python(code).stdout) == [False, "last", "last", 1]


# -- names: namespaces, overrides, who wins


def test_namespaces_over_everything(run_python: RunPython, pack: Written, second: Written, tmp_path: Path) -> None:
    """Two packs and the path share a namespace; a module that both packs hold comes from the first."""
    site = tmp_path / "site"
    write_tree(site, {"space/three.py": "SIDE = 'three'\n", "space/four/part.py": "SIDE = 'four'\n"})
    code = f"""
import json, sys
import lazydeps
sys.path.append({str(site)!r})
with lazydeps.load():
    import space.one, space.two, space.three, space.four.part, shared
import importlib.resources
print(json.dumps([space.one.SIDE, space.two.SIDE, space.three.SIDE, space.four.part.SIDE, shared.WHO,
                  len(space.__path__), space.__file__, type(space.__path__).__name__,
                  (importlib.resources.files("space") / "bare" / "notes.txt").read_text(),
                  (importlib.resources.files("space") / "three.py").read_text()]))
"""
    environ = {"LAZYDEPS_PACK": f"{ref_of(pack)} {ref_of(second)}"}
    found = json.loads(run_python(code, environ=environ).stdout)
    assert found[:5] == ["one", "two", "three", "four", "first pack"]
    assert found[5:8] == [3, None, "_NamespacePath"]
    assert found[8:] == ["in a folder without a module", "SIDE = 'three'\n"]
    environ = {"LAZYDEPS_PACK": f"{ref_of(second)} {ref_of(pack)}"}
    assert json.loads(run_python(code, environ=environ).stdout)[4] == "second pack"


def test_a_namespace_grows_with_the_path(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """A folder that joins `sys.path` later adds its portion to a namespace package that is imported (PEP 420)."""
    write_tree(tmp_path / "late", {"space/five.py": "SIDE = 'five'\n"})
    code = (
        BLOCK
        + f"""
import space.one
sys.path.append({str(tmp_path / "late")!r})
import space.five
print(json.dumps([space.five.SIDE, space.one.SIDE, len(space.__path__), list(space.__path__)[0]]))
"""
    )
    assert same(run_python, pack, tmp_path, code)[:3] == ["five", "one", 2]


def test_the_functions_own_files_win(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """A module or package beside the program overrides a packed one as a whole: nothing of both is mixed."""
    write_tree(tmp_path / "own", {"shared.py": "WHO = 'function'\n", "pkg/__init__.py": "OWN = 1\n"})
    code = """
import json
import lazydeps
with lazydeps.load():
    import shared, pkg
try:
    import pkg.core
    mixed = True
except ModuleNotFoundError:
    mixed = False
print(json.dumps([shared.WHO, pkg.OWN, mixed]))
"""
    done = run_python(code, cwd=tmp_path / "own", environ={"LAZYDEPS_PACK": ref_of(pack)})
    assert json.loads(done.stdout) == ["function", 1, False]


def test_the_import_systems_own_records(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """`sys.path` is untouched, `pkgutil.get_importer` answers for packed folders, and `uninstall` leaves nothing."""
    code = """
import importlib.util, json, os, pkgutil, sys
import lazydeps
before, hooks = list(sys.path), list(sys.path_hooks)
with lazydeps.load():
    import pkg
import pkg.sub.deep
same = sys.path == before
importer = pkgutil.get_importer(pkg.__path__[0])
print(json.dumps([
    same, sys.path_importer_cache.get(pkg.__path__[0]) is importer, importer.find_spec("core").origin,
    importer.find_spec("nowhere"), pkgutil.resolve_name("pkg.core:Thing.double").__qualname__,
    sys.modules["pkg.core"].__spec__.loader.name, getattr(sys, "pth_ran", None),
    lazydeps.uninstall(), sys.path_hooks == hooks,
    [path for path, found in sys.path_importer_cache.items() if type(found).__module__.startswith("lazydeps")],
]))
"""
    found = same(run_python, pack, tmp_path, code)
    assert found[2] == "TREE/pkg/core.py"
    assert found[6] is None  # `.pth` files are executed neither from a pack nor from an ordinary path entry
    assert found[8:] == [True, []]


# -- metadata


def test_metadata(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """`importlib.metadata` says of a packed distribution what it says of an installed one."""
    code = (
        BLOCK
        + """
import importlib.metadata as m
d = m.distribution("pkg-project")
print(json.dumps([
    m.version("pkg.project"), m.requires("Pkg_Project"), sorted(m.metadata("pkg-project").keys()), d.name,
    [[e.name, e.group, e.value, e.load().__name__, e.dist.name] for e in m.entry_points(group="things")],
    [e.value for e in m.entry_points(group="console_scripts", name="run")],
    sorted(name for name, dists in m.packages_distributions().items() if "Pkg.Project" in dists),
    d.read_text("INSTALLER"), d.read_text("nothing"), [e.name for e in d.entry_points],
    sum(found.name == "Pkg.Project" for found in m.distributions()),
    [found.version for found in m.distributions(name="pkg_project")], str(d.locate_file("pkg/later.txt")),
    d.metadata.json["provides_extra"],
]))
"""
    )
    assert same(run_python, pack, tmp_path, code)[0] == "1.5"


@pytest.mark.parametrize("when", ["before", "after"])
def test_files_of_a_distribution(run_python: RunPython, pack: Written, tmp_path: Path, when: str) -> None:
    """`importlib.metadata.files` names every file, landed or not, and each can be located and read."""
    code = (
        (BLOCK if when == "before" else COMPLETE)
        + """
import importlib.metadata as m
files = m.files("pkg-project")
print(json.dumps([sorted(map(str, files)), [f.read_text() for f in files if f.name in ("METADATA", "tool.pyi")],
                  [f.read_binary().decode() for f in files if f.name == "deep.py"], str(files[0].locate()),
                  files[0].hash, files[0].size]))
"""
    )
    assert "pkg/sub/deep.py" in same(run_python, pack, tmp_path, code)[0]


@pytest.mark.build
def test_pkg_resources(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """The pkg_resources of setuptools finds the resources of packed packages through their loaders."""
    target = tmp_path / "site"
    uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--target", str(target), "setuptools<80"]
    subprocess.run(uv, check=True, timeout=120, capture_output=True)
    code = (
        f"import sys, warnings; sys.path.append({str(target)!r}); warnings.simplefilter('ignore')\n"
        + BLOCK
        + """
import pkg_resources as r
print(json.dumps([
    r.resource_string("pkg", "later.txt").decode(), r.resource_filename("pkg", "data/inside.txt"),
    r.resource_exists("pkg", "nothing"), r.resource_isdir("pkg", "data"), r.resource_listdir("pkg", "data"),
]))
"""
    )
    assert same(run_python, pack, tmp_path, code)[0] == "data of the pack"


# -- odd moments


def test_a_signal_handler_imports(run_python: RunPython, tmp_path: Path) -> None:
    """A handler that runs while an import waits for bytes may import packed modules itself."""
    write_tree(
        tmp_path / "tree",
        {"first.py": "F = 1\n", "slow.bin": os.urandom(2 * HEAD), "second.py": "S = 2\n", "cold.py": "C = 3\n"},
    )
    pack = pack_tree(tmp_path / "p.tar.zst", tmp_path / "tree", boot=["first.py", "slow.bin", "second.py"])
    content = pack.path.read_bytes()

    def script(request: Request) -> Answer:
        time.sleep(0.8 if request.span()[0] else 0)
        return ranged(request, content)

    with ScriptedServer(script) as server:
        code = f"""
import json, signal, sys
import lazydeps
order = []
def handler(number, frame):
    waiting = sys._getframe(1).f_globals["__name__"].startswith(("lazydeps", "importlib", "select"))
    import first, cold
    order.append([first.F, cold.C, hasattr(sys.modules.get("second"), "S"), waiting])
signal.signal(signal.SIGALRM, handler)
with lazydeps.load("{server.url}#root={pack.root}"):
    import first
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    import second
    order.append(second.S)
print(json.dumps(order))
"""
        assert json.loads(run_python(code, timeout=60).stdout) == [[1, 3, False, True], 2]


def test_a_process_forked_inside_the_block_collects_garbage(run_python: RunPython, pack: Written) -> None:
    """The collector rests for the parent's block alone: in a forked process it is on, and stays as that sets it."""
    code = """
import gc, json, os
import lazydeps
def forked(work):
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, json.dumps(work()).encode())
        os._exit(0)
    os.close(write)
    os.wait()
    return json.loads(os.read(read, 1000))
def imports():
    import untraced
    return [gc.isenabled(), untraced.WHO]
def leaves():
    gc.disable()
    loading.__exit__(None, None, None)
    return gc.isenabled()
with lazydeps.load() as loading:
    import pkg
    inside = [gc.isenabled(), forked(imports), forked(leaves), gc.isenabled()]
after = gc.isenabled()
gc.disable()
with lazydeps.load() as loading:
    off = forked(imports)
print(json.dumps([inside, after, off]))
"""
    found = json.loads(run_python(code, environ={"LAZYDEPS_PACK": ref_of(pack)}).stdout)
    assert found == [[False, [True, 7], False, False], True, [False, 7]]


def test_nested_blocks_of_one_load(run_python: RunPython, pack: Written) -> None:
    """The collector comes back at the end of the outermost block, whichever object the inner ones use."""
    code = """
import gc, json
import lazydeps
loading = lazydeps.load()
seen = []
with loading:
    with loading:
        import pkg
    seen.append(gc.isenabled())
    with lazydeps.load():
        pass
    seen.append(gc.isenabled())
seen.append(gc.isenabled())
with loading:
    seen.append(gc.isenabled())
print(json.dumps([*seen, gc.isenabled()]))
"""
    found = json.loads(run_python(code, environ={"LAZYDEPS_PACK": ref_of(pack)}).stdout)
    assert found == [False, False, True, False, True]


def test_forked_children_let_go(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """A forked process holds neither its parent's pipes nor its locks, and leaves the worker alone when it ends."""
    content = pack.path.read_bytes()

    def script(request: Request) -> Answer:
        time.sleep(0.5)
        return ranged(request, content)

    with ScriptedServer(script) as server:
        code = f"""
import json, os
import lazydeps
def special():
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink("/proc/self/fd/" + name))
        except OSError:
            pass
    ours = [link for link in links if link.startswith(("pipe", "/memfd")) or link.endswith("/lock")]
    return sorted(link.partition(":")[0] for link in ours)
plain = special()
with lazydeps.load("{server.url}#root={pack.root}"):
    loaded = len(special()) - len(plain)
    pid = os.fork()
    if pid == 0:
        same = special() == plain
        import pkg
        os._exit(0 if same and pkg.INSIDE else 3)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    import pkg
print(json.dumps([loaded > 0, code, pkg.INSIDE, lazydeps.report().packs[0].takeovers]))
"""
        assert json.loads(run_python(code).stdout) == [True, 0, "read by the import", 0]


@pytest.mark.parametrize("host", ["fork", "threads"])
def test_somebody_closes_every_descriptor(run_python: RunPython, tmp_path: Path, host: str) -> None:
    """As daemons do, inside the block and after it: imports go on, cold ones too, and nobody's new file is closed.

    Where the worker is threads of this process, what is closed inside the block is the worker's own: after it only.
    """
    write_tree(
        tmp_path / "tree",
        {"first.py": "F = 1\n", "slow.bin": os.urandom(2 * HEAD), "second.py": "S = 2\n", "cold.py": "C = 3\n",
         "colder.py": "C = 4\n"},
    )  # fmt: skip
    pack = pack_tree(tmp_path / "p.tar.zst", tmp_path / "tree", boot=["first.py", "slow.bin", "second.py"])
    thread = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    code = (
        (thread if host == "threads" else "")
        + f"""
import json, os, sys
import lazydeps
def close_all():
    os.closerange(3, 256)
    return [os.open({str(tmp_path)!r}, os.O_RDONLY) for _ in range(12)]  # their numbers are used again
try:
    with lazydeps.load({ref_of(pack)!r}):
        import first
        if {host == "fork"}:
            close_all()
        import second, cold
    mine = close_all()
    import colder
    import gc; gc.collect()
    open_still = [os.fstat(handle).st_size >= 0 for handle in mine]
    print(json.dumps([second.S, cold.C, colder.C, all(open_still)]))
except lazydeps.LazydepsError as error:
    print(json.dumps(str(error)))
"""
    )
    done = run_python(code, timeout=60)
    assert json.loads(done.stdout) == [2, 3, 4, True]
