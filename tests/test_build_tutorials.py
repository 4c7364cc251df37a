"""The tutorials, done as they say: every block of theirs is run, against a real S3 server and AWS's runtime client."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from runtime_api import Function, FunctionError
from support_packs import ARCH
from support_pages import PageRun

from benchmarks.environments import Workshop, finished, locked, run_uv
from lazydeps.build.interpreters import require_interpreter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from local_s3 import LocalS3

HERE = Path(__file__).parents[1]
MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
HERE_AND_NOW = {"3.13": MINOR, "x86_64": ARCH}
"""What the pages say for a Python and an architecture, and which they are here."""
CLIENT = ("awslambdaric>=3.0", "boto3>=1.36", "zstandard>=0.23; python_version < '3.14'")
"""What a function has, besides lazydeps: Lambda's runtime client and SDK, and what lazydeps depends on."""


@pytest.fixture(scope="module")
def shop() -> Workshop:
    """Where environments and archives are made once and found again."""
    folder = HERE / "build" / "pages"
    folder.mkdir(parents=True, exist_ok=True)
    return Workshop(folder, require_interpreter(MINOR))


@pytest.fixture(scope="module")
def client(shop: Workshop) -> Path:
    """The interpreter of an environment like Lambda's."""
    return shop.environment("function", *CLIENT)


@contextmanager
def bucket_of(s3: LocalS3, client: Any, name: str) -> Iterator[None]:
    """Make a bucket that a page names, and remove it with all that is in it."""
    client.create_bucket(Bucket=name)
    try:
        yield
    finally:
        for entry in client.list_objects_v2(Bucket=name).get("Contents", ()):
            client.delete_object(Bucket=name, Key=entry["Key"])
        client.delete_bucket(Bucket=name)


class Sandbox:
    """One execution environment of a function: its own ``/tmp``, and starts of it."""

    def __init__(self, python: Path, handler: str, task: Path, tmp: Path, s3: LocalS3, **environ: str) -> None:
        self.tmp = tmp
        self._start = python, handler, task
        self._environ = {
            **s3.environ,
            "HOME": str(tmp),
            "TMPDIR": str(tmp),
            "LAZYDEPS_DIR": str(tmp / "lazydeps"),
            "PYTHONPATH": str(HERE / "src"),
            **environ,
        }
        tmp.mkdir(parents=True)

    @contextmanager
    def start(self) -> Iterator[Function]:
        """Start the function, as Lambda does for a cold start or after an init that failed."""
        python, handler, task = self._start
        with Function(python, handler, task_root=task, environ=self._environ) as function:
            yield function


# -- from-a-zip-by-hand.md


@pytest.fixture(scope="module")
def libraries(shop: Workshop) -> Path:
    """The zip that people make: numpy and pandas with the bytecode that pip leaves, which goes stale when unzipped."""

    def make(partial: Path) -> None:
        tree = partial.with_name("tree")
        options = ("--target", str(tree), "--compile-bytecode", "--python", str(shop.python))
        run_uv("pip", "install", "--quiet", *options, "numpy", "pandas")
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as out:
            for file in sorted(tree.rglob("*")):
                if file.is_file() and "tests" not in file.relative_to(tree).parts:
                    out.write(file, file.relative_to(tree))

    return finished(shop.folder("data-science-libs") / "data-science-libs.zip", make)


def ask(function: Function) -> dict[str, Any]:
    """Send the webhook's event, and return the report."""
    answer = function.invoke({"body": json.dumps({"ticker": "ACME"})}).response
    assert answer["statusCode"] == 200
    report: dict[str, Any] = json.loads(answer["body"])
    return report


def test_from_a_zip_by_hand(libraries: Path, client: Path, s3: LocalS3, s3_client: Any, tmp_path: Path) -> None:
    """The bot answers the same before and after its one line is changed, logs what it did, and refuses another zip."""
    task = tmp_path / "task"
    task.mkdir()
    (task / "data-science-libs.zip").symlink_to(libraries)
    digest = hashlib.sha256(libraries.read_bytes()).hexdigest()
    page = PageRun(
        "docs/tutorials/from-a-zip-by-hand.md",
        task,
        environ=s3.environ,
        instead={"@DIGEST@": digest, "numpy, pandas, matplotlib.pyplot": "numpy, pandas", **HERE_AND_NOW},
    )
    key = "python-libs/data-science-libs.zip"
    with bucket_of(s3, s3_client, "ticker-bot"):
        s3_client.upload_file(str(libraries), "ticker-bot", key)

        page.follow(until="load_libraries()")
        old = Sandbox(client, "handler.handler", task, tmp_path / "old", s3, LIBS_DIR=str(tmp_path / "old/libs"))
        with old.start() as function:
            report = ask(function)
            assert "libraries: downloading (cold start)" in function.log()
        with old.start() as function:
            assert ask(function) == report
            assert "libraries: already loaded (warm)" in function.log()

        page.follow(until="-load_libraries()")
        new = Sandbox(client, "handler.handler", task, tmp_path / "new", s3, LIBS_DIR=str(tmp_path / "new/libs"))
        with new.start() as function:
            assert ask(function) == report
        assert not (tmp_path / "new/libs").exists()
        (tree,) = (tmp_path / "new/lazydeps").glob("*/tree")
        assert (tree / "pandas/__init__.py").is_file()

        page.follow(until='print("libraries:"')
        with new.start() as function:
            assert ask(function) == report
            assert "libraries: already there" in function.log()

        fresh = Sandbox(client, "handler.handler", task, tmp_path / "fresh", s3)
        s3_client.put_object(Bucket="ticker-bot", Key=key, Body=libraries.read_bytes()[:-1] + b"x")
        with fresh.start() as function, pytest.raises(FunctionError, match="IntegrityError"):
            ask(function)
        assert not list((tmp_path / "fresh/lazydeps").glob("*/tree"))

        page.follow(until="lazydeps push")
        (page.instead["@PACK@"],) = re.findall(r"^s3://ticker-bot/packs/\S+#root=\S+$", page.output, re.MULTILINE)
        page.follow()
        packed = Sandbox(client, "handler.handler", task, tmp_path / "packed", s3)
        with packed.start() as function:
            assert ask(function) == report
            assert "libraries: downloaded (cold start)" in function.log()
        s3_client.delete_object(Bucket="ticker-bot", Key=key)  # nobody reads it any more
        with packed.start() as function:
            assert ask(function) == report


# -- from-zappa.md


ZAPPA = ("zappa==0.63.0", "flask==3.1.3", "pip==26.3")


@pytest.fixture(scope="module")
def zappa(shop: Workshop) -> Path:
    """A project's virtual environment, with Zappa."""
    return shop.environment("zappa", *ZAPPA).parents[1]


REMEMBERED = """#!{python}
import hashlib, pathlib, shutil, subprocess, sys
here = pathlib.Path.cwd()
files = sorted(path for path in here.rglob("*") if path.is_file())
told = [(str(path.relative_to(here)), path.read_bytes()) for path in files]
key = hashlib.sha256(repr([sys.argv[1:], told]).encode())
kept = pathlib.Path({kept!r}, key.hexdigest()[:12])
if not kept.is_dir():
    said = subprocess.run([{zappa!r}, *sys.argv[1:]], check=True, stdout=subprocess.PIPE).stdout
    partial = pathlib.Path(f"{{kept}}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for path in set(here.iterdir()) - set(files):
        if path.is_file():
            shutil.copy(path, partial)
    (partial / "said").write_bytes(said)
    partial.rename(kept)
for path in kept.iterdir():
    if path.name == "said":
        print(path.read_text(), end="")
    else:
        shutil.copy(path, here)
"""
"""Zappa's command, which makes the same of the same files only once: it asks the index about every package it packs,
and that takes half a minute."""


def remembered(zappa: Path, shop: Workshop, folder: Path) -> Path:
    """Return a folder with that command."""
    script = folder / "bin/zappa"
    script.parent.mkdir()
    kept = shop.folder("zappa", *ZAPPA)
    script.write_text(REMEMBERED.format(python=sys.executable, kept=str(kept), zappa=str(zappa / "bin/zappa")))
    script.chmod(0o755)
    return script.parent


def call(function: Function) -> str:
    """Send what API Gateway sends for a GET, and return the body of the answer."""
    event = {
        "httpMethod": "GET",
        "path": "/quote/ACME",
        "headers": {"Host": "example.com"},
        "requestContext": {"stage": "production"},
    }
    answer = function.invoke(event).response
    assert answer["statusCode"] == 200, answer
    body: str = answer["body"]
    return body


def unzip(archive: Path, folder: Path) -> Path:
    """Unzip what Lambda would unzip."""
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    return folder


def test_from_zappa(zappa: Path, shop: Workshop, client: Path, s3: LocalS3, s3_client: Any, tmp_path: Path) -> None:
    """What Zappa packs answers the same by its own loader and by lazydeps, which takes no other archive."""
    project = tmp_path / "project"
    project.mkdir()
    environ = {
        **s3.environ,
        "VIRTUAL_ENV": str(zappa),
        "PATH": f"{remembered(zappa, shop, tmp_path)}:{zappa}/bin:/usr/bin:/bin",
    }
    # Zappa extracts into /tmp/NAME, whatever TMPDIR says: a name of this checkout's own.
    name = f"quotes-{hashlib.sha256(str(HERE).encode()).hexdigest()[:8]}"
    page = PageRun("docs/tutorials/from-zappa.md", project, environ=environ, instead={"quotes": name, **HERE_AND_NOW})
    bucket, key = f"zappa-{name}", f"production_{name}_current_project.tar.gz"
    extracted = Path("/tmp", name)

    def deploy(version: str) -> Path:
        (archive,) = project.glob(f"{name}-production-*.tar.gz")
        s3_client.upload_file(str(archive), bucket, key)
        return unzip(next(project.glob("handler_*.zip")), tmp_path / version)

    with locked(shop.root / name), bucket_of(s3, s3_client, bucket):
        page.follow(until="zappa_settings.py\n")
        before = deploy("before")
        old = Sandbox(client, "handler.lambda_handler", before, tmp_path / "old", s3)
        try:
            with old.start() as function:
                body = call(function)
            assert (extracted / "app.py").is_file()
        finally:
            shutil.rmtree(extracted, ignore_errors=True)
        assert body.startswith("ACME ")

        page.follow()
        after = deploy("after")
        layer = str(unzip(project / "lazydeps-layer.zip", tmp_path / "opt") / "python")
        new = Sandbox(client, "handler.lambda_handler", after, tmp_path / "new", s3, PYTHONPATH=layer)
        with new.start() as function:
            assert call(function) == body
        (tree,) = (tmp_path / "new/lazydeps").glob("*/tree")
        assert (tree / "app.py").is_file()
        fresh = Sandbox(client, "handler.lambda_handler", after, tmp_path / "fresh", s3, PYTHONPATH=layer)
        s3_client.upload_file(str(project / "zappa_settings.json"), bucket, key)
        with fresh.start() as function, pytest.raises(FunctionError, match="IntegrityError"):
            call(function)
