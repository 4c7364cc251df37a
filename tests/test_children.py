"""Child processes of a process that has packs loaded: what they find, what they are spared, what is taken back."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import SRC
from support_http import Answer, Request, ScriptedServer, ranged
from support_packs import pack_tree, write_tree

from lazydeps._fetch import HEAD
from lazydeps.build.interpreters import _candidates

if TYPE_CHECKING:
    from conftest import RunPython

    from lazydeps.build.write import Written

SITECUSTOMIZE = SRC / "lazydeps/_child/sitecustomize.py"
FOLDER = str(SITECUSTOMIZE.parent)
STARTS = ["fork", "spawn", "forkserver"]


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Packages with work for child processes, one of them with a real extension module."""
    folder = tmp_path_factory.mktemp("children")
    speedups = importlib.util.find_spec("markupsafe._speedups")
    assert speedups is not None
    assert speedups.origin is not None
    extension = Path(speedups.origin)
    files: dict[str, str | bytes] = {
        "jobs/__init__.py": "",
        "jobs/work.py": """
import os
from speedy._speedups import _escape_inner

class Job:
    def __init__(self, text):
        self.text = text

def escape(text):
    return _escape_inner(text)

def run(job):
    return os.getpid(), escape(job.text), Job(job.text.upper())

def read(name):
    with open(os.path.join(os.path.dirname(__file__), name)) as file:
        return file.read()

if __name__ == "__main__":
    print("work as a program", escape("<"))
""",
        "jobs/__main__.py": "import sys\nfrom .work import escape\nprint('jobs as a program', escape(sys.argv[1]))\n",
        "jobs/never.txt": "nobody traced this",
        "jobs/cold.py": "COLD = 1\n",
        "jobs-2.5.dist-info/METADATA": "Metadata-Version: 2.1\nName: jobs\nVersion: 2.5\n",
        "speedy/__init__.py": "",
        f"speedy/{extension.name}": extension.read_bytes(),
        "twice.py": "WHO = 'first'\n",
        "mine.py": "WHO = 'pack'\n",
    }
    write_tree(folder / "tree", files)
    boot = ["jobs/__init__.py", "jobs/work.py", "speedy/__init__.py", f"speedy/{extension.name}", "jobs/__main__.py"]
    return pack_tree(
        folder / "p.tar.zst", folder / "tree", boot=[*boot, "twice.py", "mine.py"], distributions={"jobs": "2.5"}
    )


def ref_of(pack: Written) -> str:
    """Return the pinned reference of a pack on this disk."""
    return f"{pack.path.as_uri()}#root={pack.root}"


PARENT = """
import json, os, subprocess, sys
import lazydeps
def child(code, *flags, **options):
    command = [sys.executable, *flags, "-c", code] if code else [sys.executable, *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, **options)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]
"""


def run(run_python: RunPython, pack: Written, code: str, **options: Any) -> Any:
    """Run code after a block with the pack, with ``child()`` at hand; it prints one JSON value last."""
    loaded = f"ref = {ref_of(pack)!r}\nwith lazydeps.load(ref):\n    pass\n"
    return json.loads(run_python(PARENT + loaded + code, **options).stdout.splitlines()[-1])


# -- who finds the packs


@pytest.mark.parametrize("start", STARTS)
def test_pools_of_processes(run_python: RunPython, pack: Written, tmp_path: Path, start: str) -> None:
    """Functions and classes of a packed module work in `multiprocessing` and `concurrent.futures`, however started.

    The target is packed, its arguments and results are pickled instances of a packed class, an extension takes part.
    """
    program = tmp_path / "program.py"
    program.write_text(f"""
import concurrent.futures, json, multiprocessing, os, sys
import lazydeps
if __name__ == "__main__":
    with lazydeps.load({ref_of(pack)!r}):
        from jobs import work
    context = multiprocessing.get_context({start!r})
    jobs = [work.Job("<a>"), work.Job("&")]
    with context.Pool(1) as pool:
        results = pool.map(work.run, jobs)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        results += executor.map(work.run, jobs)
    queue = context.Queue()
    process = context.Process(target=queue.put, args=(work.Job,))
    process.start()
    same = queue.get(timeout=60) is work.Job
    process.join(60)
    print(json.dumps([[text, job.text, type(job) is work.Job, pid != os.getpid()] for pid, text, job in results]
                     + [same, process.exitcode]))
""")
    done = run_python(None, "-W", "ignore::DeprecationWarning", str(program))
    once = [["&lt;a&gt;", "<A>", True, True], ["&amp;", "&", True, True]]
    assert json.loads(done.stdout) == [*once, *once, True, 0]


def test_new_interpreters(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """`subprocess` with `sys.executable` finds packed modules: ``-c``, a script, ``-m``, metadata, cold ones."""
    (tmp_path / "script.py").write_text("from jobs.work import escape\nprint(escape('>'))\n")
    code = f"""
print(json.dumps([
    child("import jobs.work; print(jobs.work.escape('<'))"),
    child(None, {str(tmp_path / "script.py")!r}),
    child(None, "-m", "jobs", "<"),
    child(None, "-m", "jobs.work"),
    child("import importlib.metadata; print(importlib.metadata.version('jobs'))"),
    child("import importlib.metadata as m; print([d.name for d in m.distributions()].count('jobs'))"),
    child("import jobs.cold; print(jobs.cold.COLD)"),
    child("from jobs.work import read; print(read('never.txt'))"),
    child("import nowhere_at_all"),
]))
"""
    assert run(run_python, pack, code) == [
        "&lt;",
        "&gt;",
        "jobs as a program &lt;",
        "work as a program &lt;",
        "2.5",
        "1",
        "1",
        "nobody traced this",
        "ModuleNotFoundError: No module named 'nowhere_at_all'",
    ]


def test_children_of_children(run_python: RunPython, pack: Written) -> None:
    """What a child inherits it passes on, whether it imported anything packed itself or not."""
    inner = (
        "import subprocess, sys; print(subprocess.check_output([sys.executable, '-c', {code!r}], text=True).strip())"
    )
    last = "import jobs.work; print(jobs.work.escape('<'))"
    code = f"""
print(json.dumps([child({inner.format(code=last)!r}), child({"import jobs; " + inner.format(code=last)!r})]))
"""
    assert run(run_python, pack, code) == ["&lt;", "&lt;"]


def test_inside_the_block(run_python: RunPython, tmp_path: Path) -> None:
    """A child started while its parent still loads waits for the parent's worker, and fetches nothing itself.

    Data files that no import opened are in place before its first packed import.
    """
    write_tree(
        tmp_path / "tree",
        {"beta/__init__.py": "B = 1\n", "beta/more.bin": os.urandom(2 * HEAD), "beta/z.txt": "there"},
    )
    pack = pack_tree(tmp_path / "p.tar.zst", tmp_path / "tree", boot=["beta/__init__.py"])
    content = pack.path.read_bytes()

    def script(request: Request) -> Answer:
        time.sleep(1.0 if request.span()[0] else 0)
        return ranged(request, content)

    child = """
import beta, lazydeps, os
p = lazydeps.report().packs[0]
print(beta.B, open(os.path.join(os.path.dirname(beta.__file__), "z.txt")).read(), len(p.frames))
"""
    with ScriptedServer(script) as server:
        code = f"with lazydeps.load('{server.url}#root={pack.root}'):\n    import beta\n    print(child({child!r}))"
        assert run_python(PARENT + code).stdout == "1 there 0\n"


def test_a_child_whose_store_is_gone_fetches_again(run_python: RunPython, pack: Written) -> None:
    """With nothing in the store, the child loads the packs itself, from inside its import, alone and among threads."""
    code = """
import shutil
thread = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start(); "
answers = []
for before in ("", thread):
    shutil.rmtree(os.environ["LAZYDEPS_DIR"])
    answers.append(child(before + "import jobs.work, lazydeps; print(jobs.__name__, lazydeps.report().packs[0].host)"))
print(json.dumps(answers))
"""
    assert run(run_python, pack, code) == ["jobs fork", "jobs threads"]


def test_threads_of_a_child_import_at_once(run_python: RunPython, pack: Written) -> None:
    """The first packed import of a child may happen in several threads; each gets its module."""
    inner = """
import threading
errors, barrier = [], threading.Barrier(6)
def work(name):
    barrier.wait()
    try:
        __import__(name)
    except BaseException as error:
        errors.append(repr(error))
names = ["jobs", "twice", "speedy", "mine", "jobs", "zstandard"]
threads = [threading.Thread(target=work, args=(name,)) for name in names]
[t.start() for t in threads]
[t.join(50) for t in threads]
print(errors, any(t.is_alive() for t in threads))
"""
    code = f"print(json.dumps([child({inner!r}) for _ in range(3)]))"
    assert run(run_python, pack, code) == ["[] False"] * 3


def test_lazydeps_need_not_be_on_the_childs_path(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """As in Lambda: the folder that holds lazydeps is on the parent's path alone, and comes last on the child's."""
    layer = tmp_path / "opt/python"
    shutil.copytree(SRC / "lazydeps", layer / "lazydeps", ignore=shutil.ignore_patterns("build", "__pycache__"))
    if sys.version_info < (3, 14):
        (zstandard,) = importlib.util.find_spec("zstandard").submodule_search_locations  # type: ignore[union-attr]
        shutil.copytree(zstandard, layer / "zstandard")
    bare = Path(os.path.realpath(sys.executable))
    code = (
        f"import sys; sys.path.insert(0, {str(layer)!r})\n" + PARENT + f"with lazydeps.load({ref_of(pack)!r}): pass\n"
    )
    code += """
print(json.dumps([child("import sys; print(len(sys.path))"),
                  child("import sys, jobs; print(sys.path[-1], 'lazydeps' in sys.modules)"),
                  child("import lazydeps; print(len(lazydeps.load(timeout=9).refs))")]))
"""
    path, jobs, explicit = json.loads(run_python(code, python=bare, environ={"PYTHONPATH": ""}).stdout)
    assert jobs == f"{layer} True"
    assert explicit == "0"  # no LAZYDEPS_PACK there
    without = subprocess.run(
        [bare, "-c", "import sys; print(len(sys.path))"], env={}, capture_output=True, text=True, check=True
    )
    assert path == without.stdout.strip()


def test_a_child_that_loads_explicitly(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """The same reference is one session, not two; another pack comes before what is inherited, which is still found."""
    write_tree(tmp_path / "tree", {"twice.py": "WHO = 'explicit'\n"})
    other = pack_tree(tmp_path / "q.tar.zst", tmp_path / "tree", boot=["twice.py"])
    again = "import lazydeps, sys\nwith lazydeps.load({ref!r}):\n    import jobs\nprint(len(lazydeps.report().packs))"
    both = f"""
import lazydeps
with lazydeps.load({ref_of(other)!r}):
    import twice
import os
told = os.environ["LAZYDEPS_CHILD"].splitlines()[4::2]
first = len(lazydeps.report().packs)
import jobs
print(twice.WHO, first, len(lazydeps.report().packs), *["q.tar" in line for line in told])
"""
    code = f"print(json.dumps([child({again!r}.format(ref=ref)), child({both!r})]))"
    assert run(run_python, pack, code) == ["1", "explicit 1 2 True False"]


def test_two_packs_keep_their_order(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """A child asks the packs in the order in which its parent loaded them, each in its own store."""
    write_tree(tmp_path / "tree", {"twice.py": "WHO = 'second'\n", "beta.py": "B = 1\n"})
    other = pack_tree(tmp_path / "q.tar.zst", tmp_path / "tree", boot=["beta.py", "twice.py"])
    code = f"""
lazydeps.load({ref_of(other)!r}, directory={str(tmp_path / "elsewhere")!r}).wait()
print(json.dumps(child("import twice, beta; print(twice.WHO, beta.__file__)")))
"""
    who, file = run(run_python, pack, code).split()
    assert who == "first"
    assert file.startswith(str(tmp_path / "elsewhere"))


# -- what a child is spared


def test_a_child_that_needs_no_pack_pays_nothing(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """The standard library and a program's own modules load neither lazydeps nor a pack; the path is as it would be."""
    (tmp_path / "own.py").write_text("import sysconfig, json, asyncio\nsysconfig.get_config_vars()\n")
    (tmp_path / "mine.py").write_text("WHO = 'own'\n")
    inner = """
import json, sys, own, mine, xml.etree.ElementTree, importlib.metadata
list(importlib.metadata.distributions(path=["."]))  # asks about a folder, not about what can be imported
try:
    import usercustomize
except ImportError:
    pass
print(json.dumps([mine.WHO, [name for name in sys.modules if name.partition(".")[0] in ("lazydeps", "sitecustomize")],
                  sys.path, sorted(sys.path_importer_cache)]))
"""
    code = f"""
ours = json.loads(child({inner!r}))
lazydeps.uninstall()
print(json.dumps([ours, json.loads(child({inner!r}))]))
"""
    ours, plain = run(run_python, pack, code, cwd=tmp_path)
    assert ours == plain
    assert ours[:2] == ["own", []]


def test_a_folder_that_cannot_stand_on_a_path(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """Installed below a folder with a colon in its name, lazydeps loads packs and leaves children alone."""
    shutil.copytree(SRC / "lazydeps", tmp_path / "a:b/lazydeps", ignore=shutil.ignore_patterns("__pycache__"))
    code = f"""
import json, os, sys
sys.path.insert(0, {str(tmp_path / "a:b")!r})
import lazydeps
before = dict(os.environ)
with lazydeps.load({ref_of(pack)!r}):
    import jobs
print(json.dumps([lazydeps.__file__, dict(os.environ) == before]))
"""
    file, same = json.loads(run_python(code).stdout)
    assert "a:b" in file
    assert same


@pytest.mark.parametrize("flag", ["-I", "-E", "-S"])
def test_children_that_ask_for_nothing_get_nothing(run_python: RunPython, pack: Written, flag: str) -> None:
    """``-I``, ``-E`` and ``-S`` leave the environment or `site` out: no packs, and no harm."""
    code = f"""
print(json.dumps([child("import json; print('fine')", {flag!r}), child("import jobs", {flag!r}),
                  child("import jobs", env={{"PATH": os.environ["PATH"]}})]))
"""
    missing = "ModuleNotFoundError: No module named 'jobs'"
    assert run(run_python, pack, code) == ["fine", missing, missing]


BEHIND = {
    "runs": "import sys; sys.sitecustomized = __name__, __file__\n",
    "fails": "raise ValueError('what site makes of it')\n",
    "misses": "import no_such_module\n",
    "asks": "try:\n    import no_such_module\nexcept ImportError:\n    pass\n",
    "exits": "import os\nraise SystemExit('over')\n",
    "is not there": None,
}


@pytest.mark.parametrize("kind", BEHIND)
def test_the_sitecustomize_behind_ours(run_python: RunPython, pack: Written, tmp_path: Path, kind: str) -> None:
    """What our sitecustomize hides runs as if ours did not exist, its errors included; packs are found all the same."""
    content = BEHIND[kind]
    if content is not None:
        (tmp_path / "sitecustomize.py").write_text(content)
    inner = (
        "import sys; print(getattr(sys, 'sitecustomized', None), sys.modules.get('sitecustomize'), "
        "'lazydeps._runtime' in sys.modules)"  # nor is anything loaded for what it looks for
    )
    code = f"""
def both(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    return [done.returncode, done.stdout, done.stderr.splitlines()[-2:]]
ours = both({inner!r})
packed = both("import jobs; print('found')")
lazydeps.uninstall()
print(json.dumps([ours, packed, both({inner!r})]))
"""
    path = os.pathsep.join([str(SRC), str(tmp_path)])
    # The parent has the same sitecustomize before it; one that exits is for its children only.
    script = f"import os; os.environ['PYTHONPATH'] = {path!r}\n" + PARENT
    done = run_python(script + f"with lazydeps.load({ref_of(pack)!r}): pass\n" + code)
    ours, packed, plain = json.loads(done.stdout)
    assert ours == plain
    if kind == "exits":
        assert (packed[0], packed[2][-1]) == (1, "SystemExit: over")
    else:
        assert (packed[0], packed[1]) == (0, "found\n")
    if kind == "fails":
        assert ours[2][-1] == "ValueError: what site makes of it"
    assert (tmp_path / "sitecustomize.py").name in ours[1] or kind != "runs"


def test_other_interpreters_are_left_alone(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """Other Pythons of this machine, back to 2.7, start as they would: same path, same finders, same output."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.sitecustomized = 1\n")
    code = "print(json.dumps({name: os.environ[name] for name in ('PYTHONPATH', 'LAZYDEPS_CHILD')}))"
    told = run(run_python, pack, code)
    probe = (
        "import sys, json\n"
        "sys.stdout.write(repr((sys.sitecustomized, sys.path, len(sys.meta_path), sorted(sys.modules))))"
    )
    seen = []
    for minor in ("2.7", "3.6", "3.9", "3.11", "3.12", "3.13", "3.14"):
        if minor == f"3.{sys.version_info[1]}":
            continue
        for python in _candidates(minor, None):
            plain = {"PATH": os.defpath, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
            with_ours = {**plain, **told, "PYTHONPATH": f"{FOLDER}:{tmp_path}"}
            results = [
                subprocess.run([python, "-c", probe], env=environ, capture_output=True, text=True, timeout=60)
                for environ in (plain, with_ours)
            ]
            if results[0].returncode == 0:  # else a version manager's shim with nothing behind it
                assert results[0].stdout == results[1].stdout
                assert results[0].stderr == results[1].stderr == ""
                seen.append(minor)
                break
    if not seen:
        pytest.skip("there is no other Python here")


def test_another_environment_of_the_same_python_is_left_alone(run_python: RunPython, pack: Written) -> None:
    """A tool with an environment of its own does not get the packs: they are not installed there."""
    bare = os.path.realpath(sys.executable)
    if sys.prefix == sys.base_prefix:
        pytest.skip("the tests run outside any environment")
    code = f"""
done = subprocess.run([{bare!r}, "-c", "import jobs"], capture_output=True, text=True)
print(json.dumps(done.stderr.splitlines()[-1]))
"""
    assert run(run_python, pack, code) == "ModuleNotFoundError: No module named 'jobs'"


@pytest.mark.parametrize("value", ["", "x", "{kind}\n{prefix}", "{kind}\n{prefix}\n/nowhere\n/tmp\nnonsense", "\n" * 9])
def test_a_variable_that_makes_no_sense(run_python: RunPython, value: str) -> None:
    """Whatever LAZYDEPS_CHILD holds, the standard library and site-packages import."""
    value = value.format(kind=sys.implementation.cache_tag + sys.abiflags, prefix=sys.prefix)
    environ = {"PYTHONPATH": f"{FOLDER}:{SRC}", "LAZYDEPS_CHILD": value}
    done = run_python("import json, markupsafe; print(markupsafe.__name__)", environ=environ)
    assert (done.stdout, done.stderr) == ("markupsafe\n", "")


@pytest.mark.parametrize("other", ["cpython-27", "{kind}t", "pypy311"])
def test_another_python_in_the_same_place(run_python: RunPython, pack: Written, other: str) -> None:
    """Where several Pythons share a prefix, as in ``/usr``, only the parent's own kind gets a finder."""
    kind = sys.implementation.cache_tag + sys.abiflags
    seen = []
    for word in (kind, other.format(kind=kind)):
        lines = [word, sys.prefix, str(SRC), "/nowhere", ref_of(pack)]
        environ = {"PYTHONPATH": FOLDER, "LAZYDEPS_CHILD": "\n".join(lines)}
        code = "import sys; print([f for f in sys.meta_path if 'Inherited' in repr(f)] != [])"
        seen.append(run_python(code, environ=environ).stdout)
    assert seen == ["True\n", "False\n"]


def test_a_child_whose_packs_cannot_be_had(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """The error is the one that the parent would get, and modules that others provide still import."""
    copy = tmp_path / "q.tar.zst"
    shutil.copy(pack.path, copy)
    inner = (
        "import markupsafe, json\ntry:\n    import jobs\nexcept Exception as error:\n    print(type(error).__name__)"
    )
    code = f"""
import shutil
with lazydeps.load("{copy.as_uri()}#root={pack.root}"): pass
os.chmod(os.environ["LAZYDEPS_DIR"], 0o777)
refused = [child({inner!r}), child("import jobs")]
shutil.rmtree(os.environ["LAZYDEPS_DIR"])
os.unlink({str(copy)!r})
print(json.dumps([refused, [child({inner!r}), child("import jobs")]]))
"""
    refused, gone = json.loads(run_python(PARENT + code).stdout)
    assert refused[0] == "ConfigError"
    assert refused[1].startswith("lazydeps.errors.ConfigError: ")
    assert "alone can write" in refused[1]
    assert gone[0] == "FetchError"
    assert "lazydeps.errors.FetchError: " in gone[1]


# -- what is set, and taken back


@pytest.mark.parametrize("before", [None, "", "/a", "/a:/b:", ":/a"])
def test_everything_is_taken_back(run_python: RunPython, pack: Written, before: str | None) -> None:
    """`uninstall` leaves the environment exactly as `load` found it."""
    change = "os.environ.pop('PYTHONPATH')" if before is None else f"os.environ['PYTHONPATH'] = {before!r}"
    code = f"""
lazydeps.uninstall()
{change}
was = dict(os.environ)
lazydeps.load(ref)
lazydeps.load(ref).wait()
during = os.environ["PYTHONPATH"]
lazydeps.uninstall()
print(json.dumps([during, was == dict(os.environ)]))
"""
    during, same = run(run_python, pack, code)
    assert during == (f"{FOLDER}:{before}" if before else FOLDER)
    assert same


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ("= '/mine:' + os.environ['PYTHONPATH']", "/mine:/was"),
        ("= os.environ['PYTHONPATH'] + ':/mine'", "/was:/mine"),
        ("= '/mine'", "/mine"),
        ("= ''", ""),
        ("= os.environ['PYTHONPATH'].removesuffix(':/was')", None),
    ],
)
def test_changes_of_others_stay(run_python: RunPython, pack: Written, change: str, left: str | None) -> None:
    """What a program makes of PYTHONPATH after `load` is kept; only our own entry goes."""
    code = f"""
lazydeps.uninstall()
os.environ["PYTHONPATH"] = "/was"
lazydeps.load(ref).wait()
os.environ["PYTHONPATH"] {change}
lazydeps.uninstall()
print(json.dumps([os.environ.get("PYTHONPATH"), "LAZYDEPS_CHILD" in os.environ]))
"""
    assert run(run_python, pack, code) == [left, False]


def test_after_uninstall_children_find_nothing(run_python: RunPython, pack: Written) -> None:
    """Neither those of the process that said so, nor, where a child says so, that child and its own."""
    inner = "import lazydeps; lazydeps.uninstall(); import jobs"
    code = f"""
said = child({inner!r})
lazydeps.uninstall()
print(json.dumps([said, child("import jobs")]))
"""
    assert run(run_python, pack, code) == ["ModuleNotFoundError: No module named 'jobs'"] * 2


@pytest.mark.parametrize("why", ["switched off", "environ", "no pack"])
def test_when_children_are_not_told(run_python: RunPython, pack: Written, why: str) -> None:
    """LAZYDEPS_CHILDREN=0, an ``environ`` that children do not inherit, or no pack: the environment is not touched."""
    call = {"switched off": "ref", "environ": "ref, environ=dict(os.environ)", "no pack": ""}[why]
    code = f"""
ref = {ref_of(pack)!r}
before = dict(os.environ)
with lazydeps.load({call}):
    pass
print(json.dumps([before == dict(os.environ), child("import jobs")]))
"""
    environ = {"LAZYDEPS_CHILDREN": "0"} if why == "switched off" else {}
    done = run_python(PARENT + code, environ=environ)
    assert json.loads(done.stdout) == [True, "ModuleNotFoundError: No module named 'jobs'"]


def test_from_a_zip_file(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """Where lazydeps itself comes from a zip file, packs load as ever and children are left alone."""
    with zipfile.ZipFile(tmp_path / "runtime.zip", "w") as archive:
        for path in (SRC / "lazydeps").rglob("*.py"):
            archive.write(path, path.relative_to(SRC))
    code = f"""
import json, os, sys
import lazydeps
before = dict(os.environ)
with lazydeps.load({ref_of(pack)!r}):
    import jobs.work
print(json.dumps([".zip" in lazydeps.__file__, before == dict(os.environ), jobs.work.escape("<")]))
"""
    done = run_python(code, environ={"PYTHONPATH": str(tmp_path / "runtime.zip")})
    assert json.loads(done.stdout) == [True, True, "&lt;"]


# -- the file itself


def test_any_python_can_read_it() -> None:
    """The sitecustomize is ASCII, parses as an old grammar, and imports `os` and `sys` alone at its top."""
    text = SITECUSTOMIZE.read_bytes().decode("ascii")
    tree = ast.parse(text, feature_version=(3, 4))
    assert not [node for node in ast.walk(tree) if isinstance(node, (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr))]
    tops = [name.name for node in tree.body if isinstance(node, ast.Import) for name in node.names]
    assert tops == ["os", "sys"]
    assert not [node for node in tree.body if isinstance(node, ast.ImportFrom)]


def test_its_folder_holds_nothing_else() -> None:
    """The folder stands on the path of every child for a moment: it must offer no other module."""
    assert [path.name for path in SITECUSTOMIZE.parent.iterdir() if path.name != "__pycache__"] == ["sitecustomize.py"]
    assert importlib.metadata.version("lazydeps")
