"""The programs in which rivals are measured, without the rivals: fakes stand for their interfaces, no index is asked.

`test_build_bench.py` starts the real ones.
"""

from __future__ import annotations

import json
import os
import sys
import zipapp
import zipfile
from pathlib import Path

import pytest

from benchmarks.conditions import arranged, describe
from benchmarks.contenders import serverless_requirements, uv_sync
from benchmarks.contenders.uv_sync import UvSync
from benchmarks.model import Built, NotRun, Work
from benchmarks.starts import StartFailed, start

PROGRAMS = Path(uv_sync.__file__).parents[1] / "programs"
CONDITION = describe("unshaped", 1)
MINE = Work(name="mine", requirements=("mine==1.0",), statements="import mine")


@pytest.fixture
def tmp(tmp_path):
    """An empty folder that stands for a function's /tmp."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    return folder


@pytest.fixture
def begin(tmp_path, tmp):
    """Start a program of the benchmark, in this Python, and return its facts."""

    def begin(program, fakes, *, objects=None, statements="import mine", **environ):
        for name, text in fakes.items():
            path = tmp_path / "fakes" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        built = Built(
            argv=(sys.executable, str(PROGRAMS / program)),
            environ={"PYTHONPATH": str(tmp_path / "fakes"), **environ},
        )
        work = Work(name="mine", requirements=(), statements=statements)
        with arranged(CONDITION, objects or {}, tmp_path) as place:
            return start(built, work, place, tmp).facts

    return begin


# Where the imports came from.


def import_work(run_python, folder, statements, setup="", check=True):
    """Call `work_imports.import_work` in a fresh interpreter; what it says is printed."""
    code = f"""if 1:
        import os, sys
        sys.path.insert(0, {str(PROGRAMS)!r})
        from work_imports import import_work, say_ready
        {setup}
        say_ready(import_work(os.listdir({str(folder)!r}), {str(folder)!r}))
    """
    return run_python(code, environ={"BENCH_IMPORTS": statements, "BENCH_READY": "1"}, check=check)


def test_facts_tell_what_was_brought_and_what_was_there(run_python, tmp_path):
    folder = tmp_path / "packages"
    (folder / "namespace").mkdir(parents=True)
    (folder / "mine-1.0.dist-info").mkdir()
    for name in ("mine.py", "early.py", "unused.py", "namespace/part.py"):
        (folder / name).touch()
    setup = f"sys.path.insert(0, {str(folder)!r}); import early"
    done = import_work(run_python, folder, "import mine, early, json\nimport namespace.part", setup)
    assert json.loads(done.stdout) == {
        "from": [str(folder)],
        "modules": ["mine", "namespace"],
        "there_before": ["early"],
    }


def test_a_module_from_elsewhere_is_no_start(run_python, tmp_path):
    folder, elsewhere = tmp_path / "packages", tmp_path / "packages-of-another"
    for place in (folder, elsewhere):
        place.mkdir()
        (place / "mine.py").touch()
    done = import_work(run_python, folder, "import mine", f"sys.path[:0] = [{str(elsewhere)!r}]", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"ImportError: not imported from {folder}: mine" in done.stderr


def test_nothing_brought_is_no_start(run_python, tmp_path):
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / "mine.py").touch()
    done = import_work(run_python, folder, "import json", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "not imported from" in done.stderr


# Zappa, serverless-python-requirements, shiv.


def test_zappa_lands_in_the_folder_that_stands_for_tmp(begin, tmp):
    fake = """if 1:
        import os, sys
        class LambdaHandler:
            def __init__(self):
                raise AssertionError("wants a deployed project's settings")
            def load_remote_project_archive(self, url):
                folder = f"/tmp/{self.settings.PROJECT_NAME}"
                os.mkdir(folder)
                with open(folder + "/mine.py", "w") as file:
                    file.write(f"URL = {url!r}")
                sys.path.insert(0, folder)
    """
    statements = "import mine; assert mine.URL == 's3://bench/zappa/mine.tar.gz', mine.URL"
    fakes = {"zappa/__init__.py": "", "zappa/handler.py": fake}
    facts = begin("zappa_handler.py", fakes, statements=statements, BENCH_KEY="zappa/mine.tar.gz")
    assert facts["modules"] == ["mine"]
    assert os.listdir(tmp) == ["project"]


UNZIP = """
import os, sys, zipfile
pkgdir = '/tmp/unzipped'
archive = os.environ['LAMBDA_TASK_ROOT'] + '/.requirements.zip'
if not os.path.exists('/tmp/never'):
    zipfile.ZipFile(archive).extractall(pkgdir)
sys.path.insert(1, pkgdir)
"""


def test_serverless_unzips_what_was_fetched(begin, tmp, tmp_path):
    (tmp_path / "unzip_requirements.py").write_text(UNZIP)
    serverless_requirements._redirect(tmp_path, tmp_path / "task")
    with zipfile.ZipFile(tmp_path / "requirements.zip", "w") as out:
        out.writestr("mine.py", "")
    facts = begin(
        "serverless_requirements.py",
        {"unzip_requirements.py": (tmp_path / "task" / "unzip_requirements.py").read_text()},
        objects={"key.zip": tmp_path / "requirements.zip"},
        BENCH_KEY="key.zip",
    )
    assert (facts["from"], facts["modules"]) == ([str(tmp / "unzipped")], ["mine"])
    assert sorted(os.listdir(tmp)) == [".requirements.zip", "unzipped"]


@pytest.mark.parametrize("text", [UNZIP.replace("'/tmp/never'", '"/tmp/never"'), UNZIP + "# /tmp", ""])
def test_serverless_that_names_tmp_otherwise_is_not_run(tmp_path, text):
    (tmp_path / "unzip_requirements.py").write_text(text)
    with pytest.raises(NotRun, match="does not name /tmp where it did"):
        serverless_requirements._redirect(tmp_path, tmp_path / "task")
    assert not (tmp_path / "task").exists()


def test_shiv_runs_the_zipapp_that_was_fetched(begin, tmp, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "__main__.py").write_text(
        """if 1:
        import os, sys, zipfile
        folder = os.environ["SHIV_ROOT"] + "/app_digest/site-packages"
        zipfile.ZipFile(sys.argv[0]).extract("mine.py", folder)
        sys.path.insert(0, folder)
        import shiv_entry
        sys.exit(shiv_entry.main())
    """
    )
    (source / "mine.py").touch()
    zipapp.create_archive(source, tmp_path / "app.pyz")
    facts = begin("shiv.py", {}, objects={"key.pyz": tmp_path / "app.pyz"}, BENCH_KEY="key.pyz")
    assert (facts["from"], facts["modules"]) == ([str(tmp / "shiv" / "app_digest" / "site-packages")], ["mine"])


# lambda-snaploader.

SNAPLOADER = {
    "lambda_snaploader/__init__.py": """if 1:
        import importlib.util, os, pathlib, sys
        from .loader import Finder
        def load_libraries_from_s3(*, bucket, key, target_dir):
            assert (bucket, target_dir) == ("bench", os.environ["BENCH_TMP"] + "/libraries")
            pathlib.Path("/tmp/snaploader_path_mapping.txt").touch()
            sys.meta_path.insert(0, Finder)
            return key == "good"
    """,
    "lambda_snaploader/loader.py": """if 1:
        import importlib.machinery, logging
        def get_memory_filesystem():
            return {"mine/__init__.py": b"", "bad.py": b""}
        class Finder:
            def find_spec(name, path=None, target=None):
                if name in ("mine", "bad"):
                    return importlib.machinery.ModuleSpec(name, Finder)
            def create_module(spec):
                return None
            def exec_module(module):
                module.__file__ = f"/var/task/{module.__name__}.py"
                if module.__name__ == "bad":
                    logging.getLogger(__name__).error("Error executing module bad: no data")
    """,
}


def test_snaploader_finds_data_where_its_modules_say_they_are(begin, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "settings").touch()
    if os.geteuid():
        pytest.skip("only root may always make a mount namespace")
    statements = "import mine, os; assert os.listdir(os.path.dirname(mine.__file__)) == ['settings'] == os.listdir()"
    facts = begin("snaploader.py", SNAPLOADER, statements=statements, BENCH_KEY="good", BENCH_DATA=str(data))
    assert facts["modules"] == ["mine"]
    assert not os.path.exists("/tmp/snaploader_path_mapping.txt")


@pytest.mark.parametrize(
    ("key", "statements", "reason"),
    [
        ("good", "import mine, bad", "its loader hid 1 errors, the first: Error executing module bad: no data"),
        ("lost", "import mine", "load_libraries_from_s3 returned False"),
    ],
)
def test_snaploader_that_hides_an_error_is_no_start(begin, tmp_path, key, statements, reason):
    with pytest.raises(StartFailed, match=reason):
        begin("snaploader.py", SNAPLOADER, statements=statements, BENCH_KEY=key, BENCH_DATA=str(tmp_path))


# uv sync.


def write_wheel(folder):
    """Write a wheel with one module, and return the folder."""
    folder.mkdir()
    metadata = {
        "METADATA": "Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "mine.py,,\nmine-1.0.dist-info/METADATA,,\nmine-1.0.dist-info/WHEEL,,\nmine-1.0.dist-info/RECORD,,\n",
    }
    with zipfile.ZipFile(folder / "mine-1.0-py3-none-any.whl", "w") as out:
        out.writestr("mine.py", "RAN = 'the source'")
        for name, text in metadata.items():
            out.writestr(f"mine-1.0.dist-info/{name}", text)
    return folder


class Kit:
    """What `UvSync.build` needs, with the wheels there already: nothing is downloaded."""

    python = Path(sys.executable)
    minor = f"{sys.version_info[0]}.{sys.version_info[1]}"

    def __init__(self, root):
        self.root = root

    def folder(self, *key):
        return self.root

    def environment(self, name, *requirements):
        return self.python

    def site_packages(self, work):
        folder = self.root / "site-packages"
        folder.mkdir(exist_ok=True)
        (folder / "mine.py").write_text("RAN = 'the bytecode'")
        return folder


@pytest.mark.parametrize("bytecode", [False, True])
def test_uv_installs_from_the_server_of_the_run(tmp_path, tmp, bytecode):
    """With prebuilt bytecode, nothing that is imported has to be compiled: neither packages nor the library."""
    write_wheel(tmp_path / "wheels")
    built = UvSync("uv", "uv", bytecode=bytecode).build(MINE, Kit(tmp_path))
    assert list(built.objects) == ["uv-sync/mine/wheels/mine-1.0-py3-none-any.whl"]
    statements = f"import mine, wave, os; assert mine.RAN == 'the {'bytecode' if bytecode else 'source'}'"
    if bytecode:
        statements += "; assert os.path.exists(wave.__cached__) and wave.__cached__.startswith(os.environ['BENCH_TMP'])"
    work = Work(name="mine", requirements=MINE.requirements, statements=statements)
    with arranged(CONDITION, built.objects, tmp_path) as place:
        facts = start(built, work, place, tmp).facts
        assert place.server.counters()["requests"] == 1
    assert facts["modules"] == ["mine"]
    assert facts["from"] == [str(tmp / "environment" / "lib" / f"python{Kit.minor}" / "site-packages")]


def test_index_pages_name_projects_as_the_rule_says(tmp_path):
    """PEP 503: lower case, and every run of `-`, `_` and `.` a hyphen; each link with a digest."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name in ("Foo_.Bar-1-py3-none-any.whl", "Foo_.Bar-2-py3-none-any.whl"):
        (wheels / name).touch()
    pages = uv_sync._write_index("prefix", wheels, tmp_path / "pages")
    assert list(pages) == ["prefix/simple/foo-bar/"]
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert [part.partition('"')[0] for part in pages["prefix/simple/foo-bar/"].read_text().split('href="')[1:]] == [
        f"../../wheels/Foo_.Bar-{version}-py3-none-any.whl#sha256={empty}" for version in (1, 2)
    ]
