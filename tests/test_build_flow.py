"""`docs/how-to/pack-in-ci.md` from beginning to end: a project with uv.lock becomes a function that starts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from support_command import lazydeps, lazydeps_json
from support_packs import ARCH

from lazydeps.build.uv import uv_binary

if TYPE_CHECKING:
    from conftest import Bucket, RunPython

PAGE = Path(__file__).parents[1] / "docs/how-to/pack-in-ci.md"
MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
HANDLER = """
import lazydeps

with lazydeps.load():
    import markupsafe

import dateutil


def handler(event, context):
    return [str(markupsafe.escape(event)), "/tree/" in markupsafe.__file__, "/tree/" in dateutil.__file__]
"""
PROJECT = """
[project]
name = "flow"
version = "1"
requires-python = ">=3.11"
dependencies = ["python-dateutil"]
[dependency-groups]
heavy = ["markupsafe"]
[tool.lazydeps]
arch = ["x86_64", "arm64"]
destination = "s3://my-bucket/packs/"
handler = "app.handler"
[tool.lazydeps.packs.science]
groups = ["heavy"]
level = 1
[tool.lazydeps.packs.other]
requirements = ["six"]
arch = ["x86_64"]
[tool.lazydeps.package]
include = ["app.py"]
requirements = ["python-dateutil"]
"""


def commands(bucket: Bucket) -> list[list[str]]:
    """Return the page's commands, for a bucket of the test's own."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    lines = [line.partition("#")[0] for block in blocks for line in block.splitlines()]
    return [line.replace("s3://my-bucket/", bucket.url("")).replace("arm64", ARCH).split()[1:] for line in lines]


def test_a_project_becomes_a_function(bucket: Bucket, tmp_path: Path, run_python: RunPython) -> None:
    """Every command of the page, in its order, in a project; what comes out starts, with the heavy half from S3."""
    (tmp_path / "app.py").write_text(HANDLER)
    (tmp_path / "pyproject.toml").write_text(PROJECT.replace("s3://my-bucket/", bucket.url("")))
    subprocess.run([uv_binary(), "lock", "-q"], cwd=tmp_path, check=True, timeout=120)
    environ = {**bucket.environ, "LAZYDEPS_CACHE": str(tmp_path / "cache")}
    asked = commands(bucket)
    assert [words[0] for words in asked] == ["doctor", "pack", "push", "package", "prune"]
    for words in asked:
        lazydeps(*words, cwd=tmp_path, environ=environ)
    again = lazydeps_json("pack", "--locked", cwd=tmp_path, environ=environ)
    assert [pack["cache"]["misses"] for pack in again["packs"]] == [0, 0, 0]
    lock = json.loads((tmp_path / "lazydeps.lock").read_text())["packs"]["science"]
    assert {target: entry["ref"].rpartition("#root=")[2] for target, entry in lock.items()} == {
        f"python{MINOR}-{pack['arch']}": pack["root"] for pack in again["packs"][:2]
    }
    with zipfile.ZipFile(tmp_path / "function.zip") as archive:
        archive.extractall(tmp_path / "task")
    assert not (tmp_path / "task/markupsafe").exists()
    assert (
        lazydeps_json("inspect", tmp_path / f"dist/science-py{MINOR.replace('.', '')}-{ARCH}.tar.zst")["arch"] == ARCH
    )
    done = run_python(
        "import app, json; print(json.dumps(app.handler('<a>', None)))",
        environ={**bucket.environ, "PYTHONPATH": str(tmp_path / "task"), "LAMBDA_TASK_ROOT": str(tmp_path / "task")},
    )
    assert json.loads(done.stdout) == ["&lt;a&gt;", True, False]
