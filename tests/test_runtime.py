"""The runtime on small real packs: what loads, what waits, what is refused. Every test imports in a fresh process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support_http import Answer, Request, ScriptedServer, ranged
from support_packs import bytecode_of, pack_tree, write_tree

from lazydeps._fetch import HEAD

if TYPE_CHECKING:
    from conftest import RunPython

    from lazydeps.build.write import Written

FILES: dict[str, str | bytes] = {
    "alpha/__init__.py": """
import os
from . import one
with open(os.path.join(os.path.dirname(__file__), "read.txt")) as file:
    READ = file.read()
try:
    from . import nowhere
except ImportError as error:
    MISSING = type(error).__name__
""",
    "alpha/one.py": "X = 1\n\ndef boom():\n    raise ValueError('x')  # the line\n",
    "alpha/cold.py": "Y = 2\n",
    "alpha/read.txt": "read during import",
    "alpha/later.txt": "read after import",
    "alpha/big.bin": bytes(range(256)) * 12_000,
    "alpha/__main__.py": "import sys\nprint('alpha as a program', sys.argv[1:])\n",
    "alpha_project-1.5.dist-info/METADATA": "Metadata-Version: 2.1\nName: Alpha.Project\nVersion: 1.5\n\n",
    "alpha_project-1.5.dist-info/entry_points.txt": "[things]\none = alpha.one:boom\n",
    "space/left/__init__.py": "SIDE = 'left'\n",
    "coldtop/__init__.py": "from . import part\n",
    "coldtop/part.py": "Z = 3\n",
    "single.py": "NAME = __name__\n",
}
BOOT = ["alpha/read.txt", "alpha/__init__.py", "alpha/one.py", "single.py", "space/left/__init__.py"]


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A pack of a few small packages, `BOOT` in its boot set."""
    folder = tmp_path_factory.mktemp("pack")
    write_tree(folder / "tree", FILES)
    return pack_tree(
        folder / "p.tar.zst",
        folder / "tree",
        boot=BOOT,
        absent=("alpha/nowhere",),
        distributions={"Alpha.Project": "1.5"},
    )


def ref_of(pack: Written) -> str:
    """Return the pinned reference of a pack on this disk."""
    return f"{pack.path.as_uri()}#root={pack.root}"


def run(run_python: RunPython, pack: Written, code: str, **options: Any) -> Any:
    """Run code with a pack loaded in a ``with`` block; ``code`` prints one JSON value last."""
    body = f"import json, lazydeps\nlazydeps_ref = {ref_of(pack)!r}\n" + code
    done = run_python(body, **options)
    return json.loads(done.stdout.splitlines()[-1])


IN_BLOCK = "with lazydeps.load(lazydeps_ref):\n    import alpha\n"


def test_an_import_inside_the_block(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """A packed module runs, reads the data file recorded with it, and lies in the store."""
    facts = run(run_python, pack, IN_BLOCK + "print(json.dumps([alpha.READ, alpha.MISSING, alpha.__file__]))")
    assert facts[:2] == ["read during import", "ImportError"]
    assert facts[2].startswith(str(tmp_path / "lazydeps"))


def test_nothing_is_left_over_after_the_block(run_python: RunPython, pack: Written) -> None:
    """No thread, no child and no open pipe survives the block; the data set is in place."""
    code = """
import os
def channels():
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return sorted(os.readlink(link) for link in links if os.path.exists(link) or os.path.islink(link))
before = [link for link in channels() if ":" in link]
with lazydeps.load(lazydeps_ref):
    import alpha
try:
    os.waitpid(-1, os.WNOHANG)
    children = True
except ChildProcessError:
    children = False
base = os.path.dirname(alpha.__file__)
after = [link for link in channels() if ":" in link]  # pipe:[…], socket:[…], /memfd:…
print(json.dumps([children, len(os.listdir("/proc/self/task")), len(after) - len(before),
                  open(base + "/later.txt").read(), os.path.getsize(base + "/big.bin")]))
"""
    assert run(run_python, pack, code) == [False, 1, 0, "read after import", 256 * 12_000]


def test_cold_frames_are_not_fetched(run_python: RunPython, pack: Written) -> None:
    """What no import touches stays in the pack, and the store holds no copy of the archive."""
    code = (
        IN_BLOCK
        + "p = lazydeps.report().packs[0]\n"
        + "print(json.dumps([p.cold_frames_fetched, p.landed, p.frames_total, p.store]))"
    )
    fetched, landed, total, store = run(run_python, pack, code)
    assert fetched == 0
    assert landed["boot"] == total["boot"] > 0
    assert landed["data"] == total["data"] > 0
    assert landed["cold"] == 0 < total["cold"]
    names = {path.name for path in Path(store).rglob("*")}
    assert "cold.py" not in names
    assert not any(name.endswith((".zst", ".tar")) for name in names)


def test_a_cold_module_is_fetched_when_imported(run_python: RunPython, pack: Written) -> None:
    """Inside the block and after it, a module that nobody traced is one import away."""
    code = """
with lazydeps.load(lazydeps_ref):
    import coldtop
import alpha.cold
print(json.dumps([coldtop.part.Z, alpha.cold.Y, lazydeps.report().packs[0].cold_frames_fetched]))
"""
    z, y, fetched = run(run_python, pack, code)
    assert (z, y) == (3, 2)
    assert fetched >= 1


def test_a_wait_is_used_for_the_standard_library(run_python: RunPython, tmp_path: Path) -> None:
    """While an import waits for bytes, what the trace foresaw of the standard library is imported, and nothing else."""
    write_tree(
        tmp_path / "tree",
        {
            "slow.bin": os.urandom(2 * HEAD),
            "beta.py": "import sys\nSEEN = [name in sys.modules for name in ('colorsys', 'wave', 'bystander')]\n",
        },
    )
    stdlib = ("colorsys", "sched.nothing", "bystander", "wave")
    pack = pack_tree(tmp_path / "p.tar.zst", tmp_path / "tree", boot=["slow.bin", "beta.py"], stdlib=stdlib)
    content = pack.path.read_bytes()
    (tmp_path / "bystander.py").write_text("raise SystemExit('nobody asked for me')")

    def script(request: Request) -> Answer:
        time.sleep(0.5 if request.span()[0] else 0)
        return ranged(request, content)

    with ScriptedServer(script) as server:
        code = (
            f"import json, sys, lazydeps\nsys.path.insert(0, {str(tmp_path)!r})\n"
            f"with lazydeps.load('{server.url}#root={pack.root}'):\n    import beta\n"
            "print(json.dumps([beta.SEEN, [stall.module for stall in lazydeps.report().packs[0].stalls]]))"
        )
        seen, stalled = json.loads(run_python(code).stdout)
    assert "beta" in stalled
    assert seen == [True, True, False]


@pytest.mark.parametrize("before", ["gc.enable()", "gc.disable()", "gc.freeze()"])
@pytest.mark.parametrize("ending", ["pass", "raise KeyError"])
def test_the_collector_rests_and_comes_back(run_python: RunPython, pack: Written, before: str, ending: str) -> None:
    """Inside the block it is off. Afterwards it is as it was, and what is young does not wait to be walked through."""
    code = f"""
import contextlib, gc
{before}
frozen, was = gc.get_freeze_count(), gc.isenabled()
with contextlib.suppress(KeyError), lazydeps.load(lazydeps_ref):
    import alpha
    inside = gc.isenabled()
    young = [[] for _ in range(50_000)]
    {ending}
print(json.dumps([inside, gc.isenabled() == was, (gc.get_freeze_count() > 1000) == (frozen > 1000), gc.get_count()[0]]))
"""
    inside, same, kept, young = run(run_python, pack, code)
    assert (inside, same, kept) == (False, True, True)
    if before == "gc.enable()":
        assert young < 10_000


def test_without_a_pack_the_collector_is_left_alone(run_python: RunPython) -> None:
    """Where dependencies are installed, the block is an ordinary one."""
    code = "import gc, lazydeps\nwith lazydeps.load():\n    print(gc.isenabled())"
    assert run_python(code).stdout == "True\n"


def test_a_second_process_finds_the_store(run_python: RunPython, pack: Written) -> None:
    """The second start sends no request and starts no worker."""
    code = (
        IN_BLOCK + "p = lazydeps.report().packs[0]; print(json.dumps([alpha.READ, p.host, p.requests, p.store_reused]))"
    )
    host, requests, reused = run(run_python, pack, code)[1:]
    assert (host, reused) == ("fork", False)
    assert 1 <= requests <= 6  # this pack comes by the first one; early ones may have been sent beside it
    assert run(run_python, pack, code) == ["read during import", "none", 0, True]


def test_threads_where_fork_is_unsafe(run_python: RunPython, pack: Written) -> None:
    """With a second thread running the worker is no fork, and does the same work."""
    code = """
import threading
stop = threading.Event()
threading.Thread(target=stop.wait, daemon=True).start()
with lazydeps.load(lazydeps_ref):
    import alpha
import coldtop
p = lazydeps.report().packs[0]
stop.set()
print(json.dumps([alpha.READ, p.host, coldtop.part.Z, len([t for t in threading.enumerate() if t.name == "lazydeps"])]))
"""
    assert run(run_python, pack, code) == ["read during import", "threads", 3, 0]


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_workers_in_threads_import_nothing(run_python: RunPython, pack: Written, scheme: str) -> None:
    """A process forked while a thread imports a module can never import that module: so no worker's thread does."""
    code = """
import builtins, threading
main, real, seen = threading.get_ident(), builtins.__import__, []
def watched(name, *rest, **options):
    before = set(sys.modules)
    module = real(name, *rest, **options)
    if threading.get_ident() != main:
        seen.extend(set(sys.modules) - before)
    return module
builtins.__import__ = watched
threading.Thread(target=threading.Event().wait, daemon=True).start()
with lazydeps.load(lazydeps_ref):
    time.sleep(0.3)  # or this thread would import the most of it
    import alpha
print(json.dumps([seen, "encodings.idna" in sys.modules, lazydeps.report().packs[0].host]))
"""
    content = pack.path.read_bytes()
    with ScriptedServer(lambda request: ranged(request, content)) as server:
        url = server.url.replace("127.0.0.1", "localhost") if scheme == "http" else pack.path.as_uri()
        body = f"import sys, time\nlazydeps_ref = '{url}#root={pack.root}'\nimport lazydeps\n" + code
        body = body.replace("print(json", "import json\nprint(json")
        assert json.loads(run_python(body).stdout) == [[], False, "threads"]


def test_a_host_that_has_ended_takes_late_calls(run_python: RunPython, pack: Written) -> None:
    """A thread that still holds a host when its worker has ended may ask it and wait for it: nothing happens."""
    code = """
from lazydeps import _runtime
lazydeps.load(lazydeps_ref)
(session,) = _runtime._sessions.values()
host = session._host
lazydeps.wait()
host.demand(0, 1)
host.wait(0.01)
host.abandon()
print(json.dumps(host.ended))
"""
    assert run(run_python, pack, code) is True


def test_a_forked_child_closes_nothing_of_the_programs(run_python: RunPython, pack: Written) -> None:
    """Numbers of descriptors that an ended worker left free belong to the program, after a fork too."""
    code = """
import os, threading, time
from lazydeps import _runtime
threading.Thread(target=threading.Event().wait, daemon=True).start()
lazydeps.load(lazydeps_ref)
(session,) = _runtime._sessions.values()
session._host._thread.join()
files = [open(os.devnull) for _ in range(12)]
pid = os.fork()
if pid == 0:
    for file in files:
        try:
            os.fstat(file.fileno())
        except OSError:
            os._exit(1)
    os._exit(0)
print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
"""
    environ = {"PYTHONWARNINGS": "ignore"}  # about the fork beside a thread
    assert run(run_python, pack, code, environ=environ) == 0


def test_uninstall_waits_for_a_load_of_another_thread(run_python: RunPython, pack: Written) -> None:
    """It takes everything away that is loaded, or nothing of what comes after; never half."""
    code = """
import threading, time
from lazydeps import _finder, _runtime
real = _finder.PackFinder.install
installing = threading.Event()
def install(self, place):
    installing.set()
    time.sleep(0.3)
    real(self, place)
_finder.PackFinder.install = install
thread = threading.Thread(target=lazydeps.load, args=(lazydeps_ref,))
thread.start()
installing.wait()
lazydeps.uninstall()
thread.join()
print(json.dumps([len(_runtime._sessions), _runtime._finder in sys.meta_path]))
"""
    assert run(run_python, pack, "import sys\n" + code) == [0, False]


def test_a_worker_that_dies_is_replaced(run_python: RunPython, pack: Written) -> None:
    """The owner notices at once that its child was killed, and does the work itself."""
    code = """
import os, signal
from lazydeps import _host, _worker
real = _worker.Worker.run
owner = os.getpid()
def run(self):
    if os.getpid() != owner:
        os.kill(os.getpid(), signal.SIGKILL)
    real(self)
_worker.Worker.run = run
with lazydeps.load(lazydeps_ref):
    import alpha
p = lazydeps.report().packs[0]
print(json.dumps([alpha.READ, p.takeovers]))
"""
    assert run(run_python, pack, code) == ["read during import", 1]


def test_an_error_inside_the_block_ends_the_worker(run_python: RunPython, pack: Written) -> None:
    """The program's own error comes through, no child stays, and the next start goes on from there."""
    code = """
import os
try:
    with lazydeps.load(lazydeps_ref):
        raise KeyError("mine")
except KeyError as error:
    caught = str(error)
try:
    os.waitpid(-1, os.WNOHANG); children = True
except ChildProcessError:
    children = False
import alpha
print(json.dumps([caught, children, alpha.READ]))
"""
    assert run(run_python, pack, code) == ["'mine'", False, "read during import"]


def test_metadata_resources_and_sources(run_python: RunPython, pack: Written) -> None:
    """The standard tools find what they find in an installation."""
    code = """
with lazydeps.load(lazydeps_ref):
    import alpha
    import importlib.metadata
    inside = importlib.metadata.version("alpha-project")
import importlib.resources, inspect, pkgutil, traceback
from importlib.metadata import version, entry_points, distribution, PackageNotFoundError, distributions
try:
    version("nothing-of-that-name")
except PackageNotFoundError:
    missing = True
try:
    alpha.one.boom()
except ValueError:
    lines = traceback.format_exc()
print(json.dumps([
    inside, version("ALPHA.project"), missing,
    [e.value for e in entry_points(group="things")],
    [d.metadata["Name"] for d in distributions() if d.metadata["Name"] == "Alpha.Project"],
    importlib.resources.files("alpha").joinpath("later.txt").read_text(),
    pkgutil.get_data("alpha", "later.txt").decode(),
    inspect.getsource(alpha.one.boom), "# the line" in lines,
]))
"""
    assert run(run_python, pack, code) == [
        "1.5",
        "1.5",
        True,
        ["alpha.one:boom"],
        ["Alpha.Project"],
        "read after import",
        "read after import",
        "def boom():\n    raise ValueError('x')  # the line\n",
        True,
    ]


def test_find_spec_fetches_nothing(run_python: RunPython, pack: Written) -> None:
    """Asking where a module is needs the index alone; names that are not there are None, and reload works."""
    code = """
import importlib, importlib.util
with lazydeps.load(lazydeps_ref):
    import single
p = lazydeps.report().packs[0]
find = importlib.util.find_spec
found = find("coldtop")
before = lazydeps.report().packs[0].cold_frames_fetched
print(json.dumps([found.origin.endswith("coldtop/__init__.py"), before, find("alpha.nowhere") is None,
                  importlib.util.find_spec("nothing_here") is None, importlib.reload(single).NAME,
                  [finder.find_spec("single", ["/nowhere"]) for finder in sys.meta_path]]))
"""
    *found, elsewhere = run(run_python, pack, "import sys\n" + code)
    assert found == [True, 0, True, True, "single"]
    assert not any(elsewhere)  # who asks about a folder is told about that folder


def test_own_code_wins_and_the_standard_library_is_safe(run_python: RunPython, tmp_path: Path) -> None:
    """A pack can override neither the function's own modules nor the standard library nor lazydeps."""
    write_tree(
        tmp_path / "tree",
        {
            "mine.py": "WHO = 'pack'\n",
            "colorsys.py": "WHO = 'pack'\n",
            "lazydeps/evil.py": "WHO = 'pack'\n",
            "ours.py": "W = 1\n",
        },
    )
    pack = pack_tree(tmp_path / "p.tar.zst", tmp_path / "tree", boot=["mine.py", "colorsys.py", "ours.py"])
    (tmp_path / "function").mkdir()
    (tmp_path / "function/mine.py").write_text("WHO = 'function'\n")
    code = """
with lazydeps.load(lazydeps_ref):
    import mine, colorsys, ours
try:
    import lazydeps.evil
    evil = True
except ModuleNotFoundError:
    evil = False
print(json.dumps([mine.WHO, hasattr(colorsys, "WHO"), evil, ours.W]))
"""
    assert run(run_python, pack, code, cwd=tmp_path / "function") == ["function", False, False, 1]


def test_a_pack_wins_over_bundled_modules(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """What stands on the path behind the standard library, or in Lambda's runtime folder, gives way to the pack."""
    bundled = tmp_path / "bundled"
    bundled.mkdir()
    (bundled / "single.py").write_text("NAME = 'bundled'\n")
    behind = f"import sys; sys.path.append({str(bundled)!r})\n"
    code = "with lazydeps.load(lazydeps_ref):\n    import single\nprint(json.dumps(single.NAME))"
    assert run(run_python, pack, behind + code) == "single"
    before = f"import sys, os; sys.path.insert(0, {str(bundled)!r})\n"
    assert run(run_python, pack, before + code) == "bundled"
    assert run(run_python, pack, before + code, environ={"LAMBDA_RUNTIME_DIR": str(bundled)}) == "single"


def test_namespace_packages_join(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """A PEP 420 package may have one portion in the pack and another on the path."""
    (tmp_path / "site/space/right").mkdir(parents=True)
    (tmp_path / "site/space/right/__init__.py").write_text("SIDE = 'right'\n")
    code = f"""
import sys; sys.path.append({str(tmp_path / "site")!r})
with lazydeps.load(lazydeps_ref):
    import space.left, space.right
print(json.dumps([space.left.SIDE, space.right.SIDE, len(space.__path__)]))
"""
    assert run(run_python, pack, code) == ["left", "right", 2]


def test_two_packs(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """Several references load side by side; the first that has a module wins, and namespaces join."""
    write_tree(
        tmp_path / "tree", {"single.py": "NAME = 'second'\n", "beta.py": "B = 1\n", "space/up.py": "SIDE = 'up'\n"}
    )
    second = pack_tree(tmp_path / "q.tar.zst", tmp_path / "tree", boot=["beta.py", "single.py", "space/up.py"])
    code = """
with lazydeps.load() as loading:
    import single, beta, space.left, space.up
print(json.dumps([single.NAME, beta.B, space.up.SIDE, len(loading.refs), len(lazydeps.report().packs)]))
"""
    both = {"LAZYDEPS_PACK": f"{ref_of(pack)}\n{ref_of(second)}"}
    assert run(run_python, pack, code, environ=both) == ["single", 1, "up", 2, 2]


def test_without_a_pack_load_does_nothing(run_python: RunPython, tmp_path: Path) -> None:
    """On a laptop, where LAZYDEPS_PACK is not set, nothing is touched."""
    code = """
import sys, json, lazydeps
before = list(sys.meta_path)
with lazydeps.load():
    pass
import lazydeps.auto
lazydeps.wait()
print(json.dumps([sys.meta_path == before, lazydeps.report().as_dict()["packs"]]))
"""
    assert json.loads(run_python(code).stdout) == [True, []]
    assert not (tmp_path / "lazydeps").exists()


def test_auto_is_the_one_liner(run_python: RunPython, pack: Written) -> None:
    """``import lazydeps.auto`` loads what LAZYDEPS_PACK names."""
    code = "import lazydeps.auto, alpha\nlazydeps.wait()\nprint(json.dumps(alpha.READ))"
    assert run(run_python, pack, code, environ={"LAZYDEPS_PACK": ref_of(pack)}) == "read during import"


def test_lazy(run_python: RunPython, pack: Written) -> None:
    """The stand-in imports on first use, and says what is missing."""
    code = """
import sys
single = lazydeps.lazy("single")
gone = lazydeps.lazy("gone")
with lazydeps.load(lazydeps_ref):
    before = "single" in sys.modules
    name = single.NAME
single.NAME = "changed"
try:
    gone.x
except lazydeps.PackedModuleNotFoundError as error:
    words = str(error)
print(json.dumps([before, name, sys.modules["single"].NAME, "Add its distribution" in words,
                  issubclass(lazydeps.PackedModuleNotFoundError, ImportError)]))
"""
    assert run(run_python, pack, code) == [False, "single", "changed", True, True]


def test_uninstall(run_python: RunPython, pack: Written) -> None:
    """After `uninstall` no packed module can be imported any more; those that are imported stay."""
    code = """
import sys
before = list(sys.meta_path)
with lazydeps.load(lazydeps_ref):
    import alpha
lazydeps.uninstall()
try:
    import single
    found = True
except ModuleNotFoundError:
    found = False
print(json.dumps([sys.meta_path == before, found, alpha.READ]))
"""
    assert run(run_python, pack, code) == [True, False, "read during import"]


def test_wait_complete_leaves_a_plain_tree(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """With everything there, an interpreter without lazydeps imports from the tree, bytecode included."""
    code = """
with lazydeps.load(lazydeps_ref):
    import alpha
lazydeps.wait(complete=True)
import os
print(json.dumps(os.path.dirname(os.path.dirname(alpha.__file__))))
"""
    tree = Path(run(run_python, pack, code))
    for name, content in FILES.items():
        assert (tree / name).read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert (tree / bytecode_of("alpha/one.py")).is_file()
    plain = [sys.executable, "-S", "-c", "import alpha, coldtop; print(alpha.READ, alpha.one.__cached__)"]
    done = subprocess.run(plain, env={"PYTHONPATH": str(tree)}, capture_output=True, text=True, check=True)
    assert "read during import" in done.stdout


def test_python_m_inside_the_process(run_python: RunPython, pack: Written) -> None:
    """`runpy` runs a packed package as a program."""
    code = """
import runpy, sys
lazydeps.load(lazydeps_ref).wait()
sys.argv = ["alpha", "word"]
runpy.run_module("alpha", run_name="__main__", alter_sys=True)
print(json.dumps(1))
"""
    done = run_python(f"import json, lazydeps\nlazydeps_ref = {ref_of(pack)!r}\n" + code)
    assert "alpha as a program ['word']" in done.stdout


def test_a_forked_process_goes_on(run_python: RunPython, pack: Written) -> None:
    """A process forked in the middle of a load imports what its parent could have imported."""
    code = """
import os
loading = lazydeps.load(lazydeps_ref)
pid = os.fork()
if pid == 0:
    try:
        import alpha, coldtop
        os._exit(0 if alpha.READ and coldtop.part.Z == 3 else 3)
    except BaseException as error:
        print(repr(error), flush=True)
        os._exit(4)
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
loading.wait()
import alpha
print(json.dumps([code, alpha.READ]))
"""
    assert run(run_python, pack, code) == [0, "read during import"]


def test_threads_import_at_once(run_python: RunPython, pack: Written) -> None:
    """Threads that import while the load still runs all get the same modules."""
    code = """
import threading
loading = lazydeps.load(lazydeps_ref)
seen, errors = [], []
def work():
    try:
        import alpha, single, coldtop.part
        seen.append(id(alpha))
    except BaseException as error:
        errors.append(repr(error))
threads = [threading.Thread(target=work) for _ in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
loading.wait()
print(json.dumps([errors, len(seen), len(set(seen))]))
"""
    assert run(run_python, pack, code) == [[], 8, 1]


def test_processes_at_once_over_one_store(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """Of four starts at once one does the work; all succeed."""
    code = (
        f"import json, lazydeps\nlazydeps_ref = {ref_of(pack)!r}\n"
        + IN_BLOCK
        + "p = lazydeps.report().packs[0]; print(json.dumps([alpha.READ, len(p.frames)]))"
    )
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).parents[1] / "src"),
        "LAZYDEPS_DIR": str(tmp_path / "store"),
    }
    starts = [
        subprocess.Popen([sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    results = [json.loads(start.communicate(timeout=60)[0]) for start in starts]
    assert [read for read, _ in results] == ["read during import"] * 4
    fetched = sorted(frames for _, frames in results)
    assert fetched[:3] == [0, 0, 0]
    assert fetched[3] > 0


def test_the_standard_librarys_zstd(run_python: RunPython, pack: Written) -> None:
    """From Python 3.14 on the standard library decompresses, and `zstandard` is not needed."""
    stand_in = """
import sys, types
if sys.version_info < (3, 14):
    import backports.zstd  # the same module, for older Pythons
    sys.modules["compression"] = types.ModuleType("compression")
    sys.modules["compression.zstd"] = backports.zstd
sys.modules["zstandard"] = None  # importing it fails
"""
    code = stand_in + IN_BLOCK + "import coldtop\nprint(json.dumps([alpha.READ, coldtop.part.Z]))"
    assert run(run_python, pack, code) == ["read during import", 3]


# -- refusals


def failure(run_python: RunPython, ref: str, *, code: str = "import alpha", **options: Any) -> dict[str, Any]:
    """Return the error that a load of ``ref`` ends with, and whether a module was left behind."""
    body = f"""
import json, sys, lazydeps
try:
    with lazydeps.load({ref!r}):
        {code}
    print(json.dumps(None))
except lazydeps.LazydepsError as error:
    print(json.dumps({{"type": type(error).__name__, "message": str(error), "facts": error.facts(),
                      "modules": [m for m in sys.modules if m.startswith("alpha")],
                      "import": isinstance(error, ImportError)}}))
"""
    result = json.loads(run_python(body, **options).stdout.splitlines()[-1])
    assert result is not None, "nothing was raised"
    assert result["modules"] == [], "a module was left half-imported"
    assert not result["import"], "Lambda's runtime would drop the words of an ImportError"
    return dict(result)


def test_unpinned_references_are_refused(run_python: RunPython, pack: Written) -> None:
    """Without a pin nothing is fetched, unless the environment says that it may be."""
    error = failure(run_python, pack.path.as_uri())
    assert error["type"] == "ConfigError"
    assert "not pinned" in error["message"]
    code = f"""
import lazydeps
with lazydeps.load({pack.path.as_uri()!r}) as loading:
    import alpha
print(loading.refs[0])
"""
    done = run_python(code, environ={"LAZYDEPS_ALLOW_UNPINNED": "1"})
    assert done.stdout.strip() == ref_of(pack)


def test_other_archives_are_refused_by_name(run_python: RunPython, pack: Written) -> None:
    """A pinned archive whose name does not say what it is, is refused with the names that do."""
    error = failure(run_python, f"file:///deps/libs.rar#sha256={'0' * 64}")
    assert error["type"] == "ConfigError"
    assert ".whl" in error["message"]


def test_another_pack_at_the_address_is_refused(run_python: RunPython, pack: Written) -> None:
    """A root that is not the pinned one is refused before anything is written."""
    other = f"{pack.path.as_uri()}#root=sha256:{'ab' * 32}"
    error = failure(run_python, other)
    assert error["type"] == "IntegrityError"
    assert "not the pinned one" in error["message"]


def test_a_missing_object(run_python: RunPython, pack: Written) -> None:
    """An object that is not there is named."""
    error = failure(run_python, ref_of(pack).replace("p.tar.zst", "q.tar.zst"))
    assert error["type"] == "FetchError"
    assert error["facts"]["status"] == 404


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"python": "3.9"}, "built for Python 3.9"),
        ({"arch": "arm64" if os.uname().machine == "x86_64" else "x86_64"}, "--arch"),
        ({"os": "darwin"}, "darwin"),
        ({"pyc_magic": "00000000"}, "magic number"),
        ({"libc_version": "99.1"}, "glibc 99.1"),
    ],
)
def test_a_pack_for_others_is_refused(
    run_python: RunPython, tmp_path: Path, changes: dict[str, str], words: str
) -> None:
    """Wrong Python, architecture, system, bytecode or C library: named, before a frame is fetched."""
    write_tree(tmp_path / "tree", {"alpha.py": "A = 1\n"})
    pack = pack_tree(tmp_path / "p.tar.zst", tmp_path / "tree", boot=["alpha.py"], **changes)
    error = failure(run_python, ref_of(pack))
    assert error["type"] == "PackMismatchError"
    assert words in error["message"]
    assert not list((tmp_path / "lazydeps").rglob("alpha*"))


def test_damage_in_a_frame(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """A flipped byte in a boot frame is an IntegrityError of the import that needs it; nothing of it is written."""
    damaged = tmp_path / "p.tar.zst"
    content = bytearray(pack.path.read_bytes())
    content[pack.boot_size - 1] ^= 1
    damaged.write_bytes(content)
    error = failure(run_python, f"{damaged.as_uri()}#root={pack.root}")
    assert error["type"] == "IntegrityError"
    assert "frame" in error["message"]
    assert not list((tmp_path / "lazydeps").rglob("read.txt"))


def test_damage_in_a_cold_frame(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """Damage in a frame that a start does not need is found when it is needed."""
    damaged = tmp_path / "p.tar.zst"
    content = bytearray(pack.path.read_bytes())
    content[-40] ^= 1
    damaged.write_bytes(content)
    ref = f"{damaged.as_uri()}#root={pack.root}"
    code = f"""
import json, lazydeps, inspect
with lazydeps.load({ref!r}):
    import alpha
try:
    lazydeps.wait(complete=True)
except lazydeps.IntegrityError as error:
    print(json.dumps([alpha.READ, type(error).__name__]))
"""
    assert json.loads(run_python(code).stdout) == ["read during import", "IntegrityError"]


def test_a_pack_that_is_cut_off(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """A pack that ends early, at whatever place, says so."""
    content = pack.path.read_bytes()
    for size in (4, 100, pack.boot_size - 5):
        cut = tmp_path / f"{size}.tar.zst"
        cut.write_bytes(content[:size])
        error = failure(run_python, f"{cut.as_uri()}#root={pack.root}")
        assert error["type"] in ("PackFormatError", "FetchError"), error
        shutil.rmtree(tmp_path / "lazydeps", ignore_errors=True)


def test_a_store_that_is_not_ours(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """A store that others can write to, or that is a link, is refused."""
    (tmp_path / "lazydeps").mkdir(mode=0o777)
    (tmp_path / "lazydeps").chmod(0o777)
    assert "alone can write" in failure(run_python, ref_of(pack))["message"]
    (tmp_path / "lazydeps").rmdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "lazydeps").symlink_to(tmp_path / "elsewhere")
    assert "alone can write" in failure(run_python, ref_of(pack))["message"]


def test_a_store_that_cannot_be_made(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """A folder that is a file, or below one, is a ConfigError with the remedy."""
    (tmp_path / "file").write_text("")
    error = failure(run_python, ref_of(pack), environ={"LAZYDEPS_DIR": str(tmp_path / "file/store")})
    assert error["type"] == "ConfigError"
    assert "LAZYDEPS_DIR" in error["message"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_too_little_space(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """A disk that cannot hold the pack is refused before the first frame, with the sizes and the remedy."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]).returncode:
        pytest.skip("this machine does not let us mount a tmpfs")
    try:
        error = failure(run_python, ref_of(pack), environ={"LAZYDEPS_DIR": str(small / "store")})
        assert error["type"] == "InsufficientSpaceError"
        assert error["facts"]["needed"] > error["facts"]["available"] > 0
        assert "ephemeral_storage" in error["message"]
        assert not list(small.rglob("tree/*"))
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_an_error_that_may_pass_is_raised_at_once_and_tried_again(run_python: RunPython, pack: Written) -> None:
    """After a network failure other modules import without another wait; later the next import tries anew."""
    code = f"""
import json, os, shutil, socket, subprocess, sys, time, lazydeps
from lazydeps import _session
with socket.create_server(("127.0.0.1", 0)) as server:
    port = server.getsockname()[1]  # nothing listens there any more once the block is left
ref = f"http://127.0.0.1:{{port}}/{pack.path.name}#root={pack.root}"
counted = []
real = _session.Session._start_host
_session.Session._start_host = lambda self, **options: (counted.append(1), real(self, **options))
try:
    with lazydeps.load(ref):
        import alpha
except lazydeps.FetchError as error:
    retryable = error.retryable
import colorsys
try:
    import alpha
except lazydeps.FetchError:
    again = len(counted)
_session.time = type("clock", (), {{"monotonic": staticmethod(lambda: time.monotonic() + 3600)}})
command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "-d", {str(pack.path.parent)!r}, str(port)]
server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
try:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            time.sleep(0.05)
    try:
        import alpha
        read = alpha.READ
    except lazydeps.FetchError as error:
        read = str(error)
finally:
    server.kill()
print(json.dumps([retryable, again, len(counted), read]))
"""
    retryable, again, counted, read = json.loads(run_python(code).stdout)
    assert (retryable, again) == (True, 1)
    assert counted >= 2
    assert read == "read during import" or "ranges" in read  # that server knows no ranges; it was asked again


def test_a_root_that_cannot_be_fetched_hides_no_other_module(
    run_python: RunPython, pack: Written, tmp_path: Path
) -> None:
    """After a failed load, what others provide still imports, and what only the pack has names the cause."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/other.py").write_text("O = 1\n")
    (tmp_path / "site/alpha").mkdir()  # a folder of that name is no module
    (tmp_path / "site/other-1.0.dist-info").mkdir()
    (tmp_path / "site/other-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    code = f"""
import json, sys, lazydeps
sys.path.append({str(tmp_path / "site")!r})
try:
    with lazydeps.load({ref_of(pack).replace("p.tar.zst", "q.tar.zst")!r}):
        import alpha
except lazydeps.FetchError:
    pass
import importlib.metadata
import other
try:
    import alpha
except lazydeps.FetchError as error:
    print(json.dumps([other.O, error.status, importlib.metadata.version("other")]))
"""
    assert json.loads(run_python(code).stdout) == [1, 404, "1.0"]


def test_a_pack_without_a_boot_set(run_python: RunPython, tmp_path: Path) -> None:
    """Nothing was recorded when it was built, so everything is cold, and comes when it is imported."""
    write_tree(tmp_path / "tree", FILES)
    written = pack_tree(tmp_path / "p.tar.zst", tmp_path / "tree", boot=[])
    code = """
with lazydeps.load(lazydeps_ref):
    import single, alpha.one, coldtop
print(json.dumps([single.NAME, coldtop.part.Z]))
"""
    assert run(run_python, written, code) == ["single", 3]
