"""``LAZYDEPS_TRACE``: what a live process says that it imported, wherever it has to say it, and what is made of it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import socket
import sys
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from runtime_api import Function
from support_packs import THREADS, bytecode_of, host_target, pack_tree, write_tree
from support_starts import wait_for

from lazydeps.build.collect import read_traces
from lazydeps.build.elf import ElfTree
from lazydeps.build.merge import merge
from lazydeps.build.resolve import list_files
from lazydeps.build.sets import arrange
from lazydeps.build.trace import Trace, fit, target_suffixes
from lazydeps.build.write import Written, write_pack

if TYPE_CHECKING:
    from conftest import Bucket, RunPython

HOSTS = {"fork": "", "threads": THREADS}
MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
FILES: dict[str, str | bytes] = {
    "pkg/__init__.py": """
from . import reader, inner
try:
    from . import missing
except ImportError:
    pass
reader.read("pkg.txt")
import colorsys
import other
""",
    "pkg/reader.py": """
import os
def read(name):
    with open(os.path.join(os.path.dirname(__file__), name)) as stream:
        return stream.read()
""",
    "pkg/inner.py": "from .reader import read\nread('../pkg/inner.txt')\nX = 1\n",
    "pkg/late.py": "from .reader import read\nread('late.txt')\n",
    "pkg/plugins/__init__.py": "import os\nNAMES = sorted(os.listdir(os.path.dirname(__file__)))\n",
    "pkg/plugins/one.py": "",
    "pkg/never.py": "",
    "pkg/fails.py": "def boom():\n    raise ValueError\n",
    "pkg/pkg.txt": "",
    "pkg/inner.txt": "",
    "pkg/late.txt": "",
    "pkg/never.txt": "",
    "other.py": "import importlib.metadata\nimportlib.metadata.version('pkg')\n",
    "seed.py": "",
    "pkg-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: pkg\nVersion: 1\n\n",
}
BLOCK = ("pkg/pkg.txt", "pkg/__init__.py", "pkg/reader.py", "pkg/inner.txt", "pkg/inner.py", "other.py")
"""What ``import pkg`` needs, in the order in which a pack should have it."""


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A pack that was built from the wrong trace: next to everything that is imported is cold."""
    folder = tmp_path_factory.mktemp("pack")
    write_tree(folder / "tree", FILES)
    return pack_tree(folder / "p.tar.zst", folder / "tree", boot=["seed.py"], distributions={"pkg": "1"})


def ref_of(pack: Written) -> str:
    return f"{pack.path.as_uri()}#root={pack.root}"


def repack(pack: Written, traces: list[Trace]) -> Written:
    """Build the pack again from traces, as `lazydeps pack --trace-file` does."""
    tree = pack.path.parent / "tree"
    files = list_files(tree)
    suffixes = target_suffixes(MINOR, "x86_64")
    fitted = fit(merge(traces), files, suffixes=suffixes)
    elf = ElfTree(tree, files)
    tag = str(sys.implementation.cache_tag)
    members = arrange(tree, files, trace=fitted.trace, elf=elf, suffixes=suffixes, cache_tag=tag)
    out = pack.path.with_name("again.tar.zst")
    return write_pack(
        out, members, target=host_target(), distributions={"pkg": "1"}, absent=fitted.trace.absent, level=1
    )


REPORT = """
import json
pack, = lazydeps.report().packs
print(json.dumps([pack.host, pack.cold_frames_fetched]))
"""


def start(run_python: RunPython, ref: str, store: Path, body: str, **environ: str) -> tuple[list[Any], str]:
    """Run a program in a fresh process over a store; return what it reports, and what it wrote to standard error."""
    variables = {"LAZYDEPS_PACK": ref, "LAZYDEPS_DIR": str(store), **environ}
    done = run_python("import lazydeps\n" + body + REPORT, environ=variables)
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.parametrize("host", HOSTS)
def test_the_next_pack_has_exactly_what_this_start_needed(
    run_python: RunPython, pack: Written, tmp_path: Path, host: str
) -> None:
    """The trace of a live start is that of a build: data before their module, misses absent; the next start is warm."""
    body = HOSTS[host] + "with lazydeps.load():\n    import pkg\n"
    where = f"file://{tmp_path}/traces/"
    first, errors = start(run_python, ref_of(pack), tmp_path / "a", body, LAZYDEPS_TRACE=where)
    assert first[0] == host
    assert first[1] > 0
    assert errors == ""
    (path,) = (tmp_path / "traces").iterdir()
    assert path.name.startswith(pack.root.removeprefix("sha256:")[:16] + "-")
    trace = Trace.load(path)
    assert [entry for entry in trace.order if "dist-info" not in entry] == list(BLOCK)
    assert (trace.python, trace.arch, trace.how) == (MINOR, host_target().arch, ("a live process",))
    assert trace.absent == ("pkg/missing",)
    assert "colorsys" in trace.stdlib
    again = repack(pack, [trace])
    assert start(run_python, ref_of(again), tmp_path / "b", body)[0] == [host, 0]


def test_a_store_that_is_complete_is_recorded_too(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """Nothing is fetched any more, and the trace is the same."""
    body = "with lazydeps.load():\n    import pkg\n"
    for name in ("first", "second"):
        where = f"file://{tmp_path}/{name}"
        facts, _ = start(run_python, ref_of(pack), tmp_path / "store", body, LAZYDEPS_TRACE=where)
    assert facts == ["none", 0]
    first, second = (Trace.load(next((tmp_path / name).iterdir())) for name in ("first", "second"))
    assert first.order == second.order
    assert first.absent == second.absent


def test_late_imports_are_written_too(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """A second after the last of them, into the same document, with the process still running; a listing counts."""
    body = f"""
import glob, time
with lazydeps.load():
    import pkg
folder = {str(tmp_path / "traces")!r}
first, = glob.glob(folder + "/*")
before = open(first).read()
import pkg.late, pkg.plugins
end = time.monotonic() + 60
while open(first).read() == before:
    assert time.monotonic() < end, "nothing was written"
    time.sleep(0.02)
assert glob.glob(folder + "/*") == [first]
"""
    start(run_python, ref_of(pack), tmp_path / "store", body, LAZYDEPS_TRACE=f"file://{tmp_path}/traces")
    (path,) = (tmp_path / "traces").iterdir()
    order = [entry for entry in Trace.load(path).order if "dist-info" not in entry]
    assert order[: len(BLOCK)] == list(BLOCK)
    assert order[len(BLOCK) :] == [
        "pkg/late.txt",
        "pkg/late.py",
        "file:pkg/plugins/__init__.py",
        "file:pkg/plugins/one.py",
        "pkg/plugins/__init__.py",
    ]


def test_without_a_block_it_is_written_too(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """A process that ends at once writes what it has imported; sources that a traceback shows are not among it."""
    body = """
lazydeps.load()
import pkg.fails, traceback
try:
    pkg.fails.boom()
except ValueError:
    assert "raise ValueError" in traceback.format_exc()
"""
    start(run_python, ref_of(pack), tmp_path / "store", body, LAZYDEPS_TRACE=f"file://{tmp_path}/traces")
    (path,) = (tmp_path / "traces").iterdir()
    assert [entry for entry in Trace.load(path).order if "fails" in entry] == ["pkg/fails.py"]


def test_lines_in_the_log(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """`log` writes lines that `read_traces` finds among others, in several parts where they are long, the last wins."""
    body = """
import lazydeps._recording_out as out
out.LINE = 100
with lazydeps.load():
    import pkg
import pkg.never
"""
    _, errors = start(run_python, ref_of(pack), tmp_path / "store", body, LAZYDEPS_TRACE="log")
    lines = errors.splitlines()
    assert len(lines) > 4
    assert all(line.startswith('lazydeps-trace: {"lazydeps_trace":1,"id":"') for line in lines)
    log = tmp_path / "log"
    log.write_text("\n".join(f"START\n2026-01-01T00:00:00Z {line}\r" for line in lines))
    (trace,) = read_traces(log)
    assert trace.order[-1] == "pkg/never.py"
    exported = tmp_path / "exported.json"
    exported.write_text(json.dumps({"events": [{"message": f"{line}\n"} for line in lines]}))
    assert read_traces(exported) == [trace]
    log.write_text("\n".join(lines[:-1]))  # the second document is torn; the first one is whole
    (torn,) = read_traces(log)
    assert "pkg/never.py" not in torn.order
    assert "other.py" in torn.order


def test_lines_of_children(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """A child writes lines where its parent does, and none into what a program reads from it."""
    body = """
import subprocess, sys
with lazydeps.load():
    import pkg
command = [sys.executable, "-c", "import pkg.never"]
said = subprocess.run(command, stderr=subprocess.PIPE, check=True).stderr
assert said == b"", said
subprocess.run(command, check=True)
lazydeps.uninstall()
import os
assert "LAZYDEPS_TRACE_LOG" not in os.environ
lazydeps.load()
"""
    _, errors = start(run_python, ref_of(pack), tmp_path / "store", body, LAZYDEPS_TRACE="log")
    log = tmp_path / "log"
    log.write_text(errors)
    assert sorted("pkg/never.py" in trace.order for trace in read_traces(log)) == [False, True]


HANDLER = """
import lazydeps
with lazydeps.load():
    import pkg
def handler(event, context):
    if event:
        import pkg.late
    report, = lazydeps.report().packs
    return report.cold_frames_fetched
"""


def test_a_function_records_to_s3(bucket: Bucket, pack: Written, tmp_path: Path) -> None:
    """Under the real runtime client, from S3 to S3: its objects make the pack whose next start fetches nothing cold."""
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "app.py").write_text(HANDLER)
    src = str(Path(__file__).parents[1] / "src")

    def environ(store: str, written: Written, **more: str) -> dict[str, str]:
        ref = f"{bucket.put(f'{store}.tar.zst', written.path)}#root={written.root}"
        own = {"LAZYDEPS_PACK": ref, "LAZYDEPS_DIR": str(tmp_path / store), "PYTHONPATH": src}
        return {**bucket.environ, **own, **more}

    def objects() -> list[Any]:
        found = bucket.client.list_objects_v2(Bucket=bucket.name, Prefix="traces/here/").get("Contents", ())
        return [bucket.client.get_object(Bucket=bucket.name, Key=entry["Key"])["Body"].read() for entry in found]

    task = tmp_path / "task"
    traced = environ("a", pack, LAZYDEPS_TRACE=bucket.url("traces/here"))
    with Function(sys.executable, "app.handler", task_root=task, environ=traced) as function:
        assert function.invoke({}).response > 0
        wait_for(objects, f"no trace\n{function.log()}", 60)
        function.invoke({"late": True})
        wait_for(lambda: b"late.py" in b"".join(objects()), f"no second trace\n{function.log()}", 60)
    (content,) = objects()
    (tmp_path / "trace.json").write_bytes(content)
    trace = Trace.load(tmp_path / "trace.json")
    assert trace.how == ("function local",)
    assert not [name for name in trace.stdlib if name.startswith(("botocore", "xml"))]
    again = environ("b", repack(pack, [trace]))
    with Function(sys.executable, "app.handler", task_root=task, environ=again) as function:
        assert [function.invoke(event).response for event in ({}, {"late": True})] == [0, 0]


def test_a_trace_that_cannot_be_written_costs_a_warning(bucket: Bucket, pack: Written, tmp_path: Path) -> None:
    """No such bucket: the function answers, and its log says once what to do."""
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "app.py").write_text(HANDLER)
    environ = {
        **bucket.environ,
        "LAZYDEPS_PACK": ref_of(pack),
        "LAZYDEPS_DIR": str(tmp_path / "store"),
        "LAZYDEPS_TRACE": "s3://no-such-bucket-here/traces/",
        "PYTHONPATH": str(Path(__file__).parents[1] / "src"),
    }
    with Function(sys.executable, "app.handler", task_root=tmp_path / "task", environ=environ) as function:
        function.invoke({})
        said = "LAZYDEPS_TRACE=s3://no-such-bucket-here/traces/: the trace could not be written"
        wait_for(lambda: said in function.log(), "no warning", 60)
        assert "allow its role s3:PutObject" in function.log()


def test_the_warning_is_given_once(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """However often it is tried: when the block is left, and again at the end of the process."""
    (tmp_path / "file").write_text("")
    body = "with lazydeps.load():\n    import pkg\nimport pkg.never\n"
    where = f"file://{tmp_path}/file/traces"
    _, errors = start(run_python, ref_of(pack), tmp_path / "store", body, LAZYDEPS_TRACE=where)
    assert errors.count("the trace could not be written (NotADirectoryError") == 1
    assert len(errors.splitlines()) == 1


def test_an_archive_is_recorded_like_a_pack(run_python: RunPython, tmp_path: Path) -> None:
    """So that who moves from a zip to a pack starts with a good one."""
    archive = tmp_path / "deps.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for name, content in FILES.items():
            zipped.writestr(name, content)
    ref = f"{archive.as_uri()}#sha256={sha256(archive.read_bytes()).hexdigest()}"
    body = "with lazydeps.load():\n    import pkg\n"
    start(run_python, ref, tmp_path / "store", body, LAZYDEPS_TRACE=f"file://{tmp_path}/traces")
    (path,) = (tmp_path / "traces").iterdir()
    trace = Trace.load(path)
    assert [entry for entry in trace.order if "dist-info" not in entry] == list(BLOCK)
    assert trace.absent == ("pkg/missing",)


def test_forked_children_and_uninstall_end_it(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """A child that was forked writes nothing of its own; after `uninstall` nothing is recorded any more."""
    body = """
import os, sys
with lazydeps.load():
    import pkg
if os.fork() == 0:
    import pkg.never
    sys.exit()
assert os.wait()[1] == 0
lazydeps.uninstall()
assert not [finder for finder in sys.meta_path if "_recording" in type(finder).__module__]
lazydeps.load()
import pkg.fails
"""
    start(run_python, ref_of(pack), tmp_path / "store", body, LAZYDEPS_TRACE=f"file://{tmp_path}/traces")
    orders = [Trace.load(path).order for path in (tmp_path / "traces").iterdir()]
    assert sorted("pkg/fails.py" in order for order in orders) == [False, True]
    assert not any("pkg/never.py" in order for order in orders)


def test_a_child_forked_while_a_trace_is_written(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """It enters and leaves blocks of its own, waits for nobody's lock, and leaves its parent's document alone."""
    body = """
import os, signal, threading
from lazydeps import _runtime
with lazydeps.load():
    import pkg
    inside = os.fork()
    if inside == 0:
        import pkg.never
if inside == 0:
    os._exit(0)
assert os.waitpid(inside, 0)[1] == 0
outlet = _runtime._recording._outlet
real, began, ready = outlet.write, threading.Event(), threading.Event()
outlet.write = lambda documents: (began.set(), ready.wait(), real(documents))
import pkg.late
assert began.wait(60)
child = os.fork()
if child == 0:
    signal.alarm(30)  # else it would wait for ever
    with lazydeps.load():
        import pkg.never
    os._exit(0)
status = os.waitpid(child, 0)[1]
ready.set()
assert status == 0, status
"""
    start(run_python, ref_of(pack), tmp_path / "store", body, LAZYDEPS_TRACE=f"file://{tmp_path}/traces")
    (path,) = (tmp_path / "traces").iterdir()
    assert "pkg/never.py" not in Trace.load(path).order
    assert "pkg/late.py" in Trace.load(path).order


def test_a_programs_log_handler_that_fails(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """The warning may be lost; the block ends well, with the collector as it was."""
    (tmp_path / "file").write_text("")
    body = """
import gc, logging
class Broken(logging.Handler):
    def emit(self, record):
        raise RuntimeError("asked for trouble")
logging.getLogger().addHandler(Broken())
with lazydeps.load():
    import pkg
assert gc.isenabled()
"""
    where = f"file://{tmp_path}/file/traces"
    _, errors = start(run_python, ref_of(pack), tmp_path / "store", body, LAZYDEPS_TRACE=where)
    assert errors == ""


def test_names_that_come_from_outside(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """Names that no JSON can hold are passed over, and of countless others so many are kept and no more."""
    body = """
import os
from lazydeps import _recording
_recording.MOST = 200
with lazydeps.load():
    import pkg
lazydeps.wait(complete=True)
folder = os.path.dirname(pkg.__file__)
for name in (b"\\xff.txt", *(b"%d.html" % number for number in range(500))):
    try:
        open(os.path.join(os.fsencode(folder), name))
    except FileNotFoundError:
        pass
    try:
        __import__("pkg.x" + os.fsdecode(name[:-5]))
    except ImportError:
        pass
"""
    where = f"file://{tmp_path}/traces"
    _, errors = start(run_python, ref_of(pack), tmp_path / "store", body, LAZYDEPS_TRACE=where)
    assert errors == ""
    (path,) = (tmp_path / "traces").iterdir()
    absent = Trace.load(path).absent
    assert "pkg/0.html" in absent
    assert "pkg/x0" in absent
    assert 300 < len(absent) < 400


def test_what_c_code_maps(run_python: RunPython, tmp_path: Path) -> None:
    """A library that is loaded behind Python's back stands ahead of the package that did it."""
    found = importlib.util.find_spec("_ctypes")
    assert found is not None
    assert found.origin is not None
    write_tree(
        tmp_path / "tree",
        {
            "lib.libs/libx.so": Path(found.origin).read_bytes(),
            "lib/__init__.py": (
                "import ctypes, os\n"
                "path = os.path.join(os.path.dirname(__file__), '../lib.libs/libx.so')\n"
                "load = ctypes.CDLL(None).dlopen\nload.restype = ctypes.c_void_p\n"
                "assert load(os.path.realpath(path).encode(), 2)\n"
            ),
            "after.py": "",
            "seed.py": "",
        },
    )
    pack = pack_tree(tmp_path / "p.tar.zst", tmp_path / "tree", boot=["lib.libs/libx.so", "seed.py"])
    body = "with lazydeps.load():\n    import seed, lib, after\n"
    start(run_python, ref_of(pack), tmp_path / "store", body, LAZYDEPS_TRACE=f"file://{tmp_path}/traces")
    (path,) = (tmp_path / "traces").iterdir()
    assert Trace.load(path).order == ("seed.py", "lib.libs/libx.so", "lib/__init__.py", "after.py")


def test_a_folder_that_is_full(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """The document that was there stays as it was, and nothing lies beside it."""
    body = """
import resource
with lazydeps.load():
    import pkg
lazydeps.wait(complete=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
import pkg.never
"""
    where = f"file://{tmp_path}/traces"
    _, errors = start(run_python, ref_of(pack), tmp_path / "store", body, LAZYDEPS_TRACE=where)
    assert "the trace could not be written (OSError: [Errno 27]" in errors
    (path,) = (tmp_path / "traces").iterdir()
    assert "other.py" in Trace.load(path).order


def test_without_proc(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """Where nobody can see what is mapped, the modules are recorded all the same."""
    body = """
import sys
def refuse(event, arguments):
    if event == "open" and arguments[0] == "/proc/self/maps":
        raise PermissionError(13, "Permission denied")
sys.addaudithook(refuse)
with lazydeps.load():
    import pkg
"""
    start(run_python, ref_of(pack), tmp_path / "store", body, LAZYDEPS_TRACE=f"file://{tmp_path}/traces")
    (path,) = (tmp_path / "traces").iterdir()
    assert [entry for entry in Trace.load(path).order if "dist-info" not in entry] == list(BLOCK)


def test_written_while_threads_import(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """Whatever other threads look for meanwhile, the document is written."""
    body = """
import sys, threading, time
sys.setswitchinterval(1e-6)
with lazydeps.load():
    import pkg
lazydeps.wait(complete=True)
from lazydeps import _runtime
recording, end = _runtime._recording, threading.Event()
def storm(which):
    number = 0
    while not end.is_set():
        number += 1
        try:
            __import__(f"pkg.x{which}_{number}")
        except ImportError:
            pass
threads = [threading.Thread(target=storm, args=(which,)) for which in range(3)]
for thread in threads:
    thread.start()
while len(recording._packs[0].misses) < 1000:
    time.sleep(0.01)
for _ in range(8):
    recording._count += 1
    recording._write()
end.set()
for thread in threads:
    thread.join()
"""
    where = f"file://{tmp_path}/traces"
    _, errors = start(run_python, ref_of(pack), tmp_path / "store", body, LAZYDEPS_TRACE=where)
    assert errors == ""


def test_a_bucket_that_does_not_answer_holds_up_no_exit(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """A process that ends asks once, and not again and again."""
    with socket.create_server(("127.0.0.1", 0), backlog=20) as server:
        environ = {
            "LAZYDEPS_TRACE": "s3://bucket/traces/",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_REGION": "eu-west-1",
        }
        _, errors = start(run_python, ref_of(pack), tmp_path / "store", "lazydeps.load()\nimport pkg\n", **environ)
        assert errors.count("the trace could not be written (ReadTimeoutError") == 1
        server.settimeout(0)
        asked = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                server.accept()[0].close()
                asked += 1
    assert asked == 1


def test_nothing_of_it_is_there_when_unset(run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """Neither its modules nor a finder nor an audit hook's shadow."""
    body = """
import sys
with lazydeps.load():
    import pkg
assert not [name for name in sys.modules if "recording" in name]
assert len([finder for finder in sys.meta_path if "lazydeps" in type(finder).__module__]) == 1
"""
    start(run_python, ref_of(pack), tmp_path / "store", body)


@pytest.mark.parametrize("value", ["yes", "s3://", "s3:///x", "file://relative/x", "s3://b/x#root=1"])
def test_places_that_cannot_be(run_python: RunPython, pack: Written, tmp_path: Path, value: str) -> None:
    """A typing error is told at once, with what would be right."""
    environ = {"LAZYDEPS_PACK": ref_of(pack), "LAZYDEPS_TRACE": value}
    done = run_python("import lazydeps; lazydeps.load()", environ=environ, check=False)
    assert done.returncode == 1
    assert f"LAZYDEPS_TRACE is {value!r}: expected log, s3://BUCKET/PREFIX/ or file:///FOLDER/" in done.stderr


def test_a_place_with_a_secret(run_python: RunPython, pack: Written) -> None:
    """An address that somebody has signed is not repeated with its signature."""
    environ = {"LAZYDEPS_PACK": ref_of(pack), "LAZYDEPS_TRACE": "https://me:secret@b/x?X-Amz-Signature=secret"}
    done = run_python("import lazydeps; lazydeps.load()", environ=environ, check=False)
    assert "LAZYDEPS_TRACE is 'https://…': expected log" in done.stderr
    assert "secret" not in done.stderr


def test_a_pack_without_sources_is_recorded(run_python: RunPython, tmp_path: Path) -> None:
    """Its modules are named as their sources, which the next pack is built from, and are not said to be absent."""
    tree = tmp_path / "tree"
    write_tree(tree, {name: FILES[name] for name in ("pkg/inner.py", "pkg/reader.py", "seed.py", "pkg/inner.txt")})
    for name in ("pkg/inner.py", "pkg/reader.py"):
        (tree / bytecode_of(name)).rename(tree / f"{name}c")
        (tree / name).unlink()
    sourceless = pack_tree(tmp_path / "p.tar.zst", tree, boot=["seed.py", "pkg/reader.pyc"])
    body = "with lazydeps.load():\n    import pkg.inner\nlazydeps.wait(complete=True)\n"
    where = f"file://{tmp_path}/traces"
    start(run_python, ref_of(sourceless), tmp_path / "store", body, LAZYDEPS_TRACE=where)
    (path,) = (tmp_path / "traces").iterdir()
    trace = Trace.load(path)
    assert trace.order == ("pkg/inner.txt", "pkg/inner.py", "pkg/reader.py")
    assert trace.absent == ()
