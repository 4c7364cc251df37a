"""Fixtures that everything shares: a clean environment, a real S3 server, fresh interpreters.

Tests about importing run in a fresh process (`run_python`): what one test imported must not help the next.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import support_tally
from local_s3 import LocalS3

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SRC = Path(__file__).parent.parent / "src"

# Before any test module is imported: nothing of a developer's own account, region, proxy or pack reaches a test.
for _name in [name for name in os.environ if name.startswith(("AWS_", "LAZYDEPS_"))]:
    del os.environ[_name]
for _name in ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"):
    os.environ.pop(_name, None)
os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
os.environ["LAZYDEPS_CACHE"] = "0"  # each build of a test is made anew, unless the test is about the cache
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `make chaos` say how much of it, and whoever changes a help text write it down."""
    parser.addoption("--chaos-rounds", type=float, default=1.0, help="factor for the rounds of tests marked chaos")
    parser.addoption("--golden-update", action="store_true", help="write tests/golden anew instead of comparing")


@pytest.fixture(scope="session")
def chaos_rounds(pytestconfig: pytest.Config) -> float:
    """By how much to multiply the rounds of a test that repeats a fault."""
    rounds: float = pytestconfig.getoption("--chaos-rounds")
    return rounds


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Close a run with how many faults of each kind it has survived."""
    lines = support_tally.lines()
    if lines:
        terminalreporter.section("survived")
        for line in lines:
            terminalreporter.write_line(line)


def pytest_sessionstart() -> None:
    """On CI, a tool that a test needs must be there: a skip would be a green run that tested less."""
    missing = [tool for tool in ("tar", "zstd") if shutil.which(tool) is None]
    if missing and os.environ.get("CI"):
        pytest.exit(f"CI is set and {', '.join(missing)} missing: .ci/run installs them", returncode=1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the build pipeline by where they are."""
    for item in items:
        if "build" in item.path.relative_to(Path(__file__).parent).parts[:-1] or item.path.name.startswith(
            "test_build"
        ):
            item.add_marker(pytest.mark.build)


class Bucket:
    """A bucket of one test's own."""

    def __init__(self, server: LocalS3, client: Any, name: str) -> None:
        self.server = server
        self.client = client
        """A boto3 S3 client for the server."""
        self.name = name
        self.environ = server.environ
        """``AWS_*`` variables that point an SDK, or lazydeps, at the server."""

    @property
    def endpoint(self) -> str:
        """The server's URL, without a trailing slash."""
        return self.server.endpoint

    def url(self, key: str) -> str:
        """Return ``s3://BUCKET/KEY``."""
        return f"s3://{self.name}/{key}"

    def put(self, key: str, content: bytes | Path) -> str:
        """Store an object and return its ``s3://`` URL."""
        body = content.read_bytes() if isinstance(content, Path) else content
        self.client.put_object(Bucket=self.name, Key=key, Body=body)
        return self.url(key)


@pytest.fixture(scope="session")
def s3() -> Iterator[LocalS3]:
    """Run moto's server in a process of its own: ``.endpoint``, ``.environ``, ``.client()``."""
    with LocalS3() as server:
        yield server


@pytest.fixture(scope="session")
def s3_client(s3: LocalS3) -> Any:
    """A boto3 S3 client for the server; making one takes long enough to share it."""
    return s3.client()


@pytest.fixture
def bucket(s3: LocalS3, s3_client: Any) -> Iterator[Bucket]:
    """An empty bucket of the test's own, emptied at the end: the server keeps objects in memory."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    s3_client.create_bucket(Bucket=name)
    yield Bucket(s3, s3_client, name)
    for page in s3_client.get_paginator("list_objects_v2").paginate(Bucket=name):
        for entry in page.get("Contents", ()):
            s3_client.delete_object(Bucket=name, Key=entry["Key"])
    s3_client.delete_bucket(Bucket=name)


class RunPython(Protocol):
    """The type of the `run_python` fixture."""

    def __call__(
        self,
        code: str | None = None,
        *arguments: str,
        environ: Mapping[str, str] | None = None,
        check: bool = True,
        python: str | Path = sys.executable,
        cwd: Path | None = None,
        timeout: float = 120.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``python -c CODE ARGUMENTS``, or ``python ARGUMENTS`` without code, and return what it printed."""
        ...


@pytest.fixture
def run_python(tmp_path: Path) -> RunPython:
    """Run code in a fresh interpreter with lazydeps importable, an empty home and nothing else of this environment.

    ``environ`` adds variables. A failing process fails the test with its output, unless ``check`` is false.
    Stores go to a folder of the test's own (``tmp_path / "lazydeps"``).
    """

    def run(
        code: str | None = None,
        *arguments: str,
        environ: Mapping[str, str] | None = None,
        check: bool = True,
        python: str | Path = sys.executable,
        cwd: Path | None = None,
        timeout: float = 120.0,
    ) -> subprocess.CompletedProcess[str]:
        __tracebackhide__ = True
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        command = [str(python), *(() if code is None else ("-c", code)), *arguments]
        clean = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "TMPDIR": tempfile.gettempdir(),
            "PYTHONPATH": str(SRC),
            "NO_PROXY": "127.0.0.1,localhost",
            "AWS_EC2_METADATA_DISABLED": "true",
            "LAZYDEPS_DIR": str(tmp_path / "lazydeps"),
            **(environ or {}),
        }
        try:
            done = subprocess.run(
                command,
                env=clean,
                cwd=cwd or home,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as error:
            pytest.fail(
                f"{shlex.join(command)}\nstill ran after {timeout:.0f} s\n{_text(error.stdout)}\n{_text(error.stderr)}"
            )
        if check and done.returncode != 0:
            pytest.fail(
                f"{shlex.join(command)}\nended with {done.returncode}\n"
                f"-- standard output\n{done.stdout}\n-- standard error\n{done.stderr}"
            )
        return done

    return run


def _text(output: str | bytes | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""
