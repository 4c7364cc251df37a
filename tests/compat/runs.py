"""One suite, one way, once: a fresh interpreter, a fresh store, a real server; and what each test's outcome was."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.environments import SOURCE
from benchmarks.server import ObjectServer

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from .projects import Project, Suite

INSIDE = Path(__file__).with_name("inside.py")
BUCKET = "packs"
INI = "[pytest]\n"
LAST_LINES = 15
_running: set[subprocess.Popen[bytes]] = set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A suite with everything that its runs need."""

    project: Project
    suite: Suite
    pack: Mapping[str, Any]
    """What `lazydeps pack --json` said."""
    plain_python: Path
    """An interpreter with the packed wheels installed."""
    packed_python: Path
    """An interpreter without them."""
    tests: Path | None
    """The folder with the tests; None where they are in the wheel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a test ended."""

    outcome: str
    """``passed``, ``failed``, ``error``, ``skipped``, ``xfailed`` or ``xpassed``."""
    text: str = ""
    """The traceback or the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What one run gave."""

    outcomes: Mapping[str, Outcome]
    wheels: Mapping[str, Sequence[str]]
    """The lines of each distribution's ``WHEEL`` file, as `importlib.metadata` has them."""
    modules: int
    """Modules that stood in site-packages, or in its place in the store, when the suite had run."""
    strays: tuple[str, ...]
    """Modules of the pack that something else than its loaders brought."""
    broken: str
    """Why the run did not end as a run of pytest ends; empty if it did."""
    seconds: float


def run(ready: Ready, folder: Path, *, packed: bool, only: Collection[str] | None = None) -> Ran:
    """Run a suite in a fresh interpreter.

    Args:
        ready: what to run.
        folder: a folder of the run's own, made anew. Its results and the suite's words stay, the rest is removed.
        packed: from a pack, in a store that is empty when the run begins; else from site-packages.
        only: the tests to run; None: all that the suite selects.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("home", "tmp"):
        (folder / name).mkdir(parents=True)
    scratch = [folder / name for name in ("home", "tmp", "store", "tests")]
    root = None if ready.tests is None else scratch[3]
    if root is not None:
        assert ready.tests is not None
        # A copy: suites write beside their files, and both ways run at the same time.
        shutil.copytree(ready.tests, root, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "pytest.ini").write_text(INI + "".join(f"{line}\n" for line in ready.suite.ini), encoding="utf-8")
    select = ready.suite.select if root is None else [str(root / name) for name in ready.suite.select]
    key = f"{ready.project.name}.tar.zst"
    settings = {
        "ref": f"s3://{BUCKET}/{key}#root={ready.pack['root']}" if packed else "",
        "runtime": str(SOURCE),
        "imports": ready.project.imports,
        "modules": ready.project.modules,
        "complete": root is None,
        "root": None if root is None else str(root),
        "ini": str(folder / "pytest.ini"),
        "import_mode": ready.suite.import_mode,
        "arguments": [*ready.suite.options, *(["--pyargs"] if root is None else []), *select],
        "results": str(folder / "results.jsonl"),
        "only": None if only is None else sorted(only),
        "leave_out": [one.test for one in ready.suite.left_out],
        "distributions": sorted(ready.pack["distributions"]),
    }
    (folder / "settings.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
    python = ready.packed_python if packed else ready.plain_python
    with ObjectServer({key: Path(ready.pack["path"])}, BUCKET) as server, (folder / "words.txt").open("wb") as words:
        began = time.monotonic()
        # -P: nothing of the working folder is importable; the rest is as a function's interpreter has it.
        process = subprocess.Popen(
            [str(python), "-P", str(INSIDE), str(folder / "settings.json")],
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=subprocess.STDOUT,
            cwd=root or folder / "tmp",  # suites from a source distribution name files from their root
            env=environ(folder, server.endpoint, python.parent),
            start_new_session=True,
        )
        _running.add(process)
        try:
            code: int | None = process.wait(ready.suite.timeout)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _running.discard(process)
            _end(process)
        seconds = time.monotonic() - began
    for path in scratch:
        shutil.rmtree(path, ignore_errors=True)
    (folder / "end.json").write_text(json.dumps({"code": code, "seconds": seconds}), encoding="utf-8")
    return read(folder)


def environ(folder: Path, endpoint: str, scripts: Path) -> dict[str, str]:
    """Return the environment of a run: nothing of the user's but PATH, behind the scripts that are installed."""
    return {
        "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
        "NO_PROXY": "127.0.0.1,localhost",
        "LAZYDEPS_DIR": str(folder / "store"),
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def read(folder: Path) -> Ran:
    """Read what a run left in its folder."""
    facts = json.loads((folder / "end.json").read_text(encoding="utf-8"))
    code, seconds = facts["code"], facts["seconds"]  # no code: it was ended
    outcomes: dict[str, Outcome] = {}
    begun, end = "", None
    path = folder / "results.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            facts = json.loads(line)
        except ValueError:
            continue  # it died while it wrote
        if "test" in facts:
            outcomes[facts["test"]] = Outcome(outcome=facts["outcome"], text=facts["text"])
        elif "begun" in facts:
            begun = facts["begun"]
        else:
            end = facts
    broken = ""
    if end is None:
        how = "did not end in time" if code is None else f"ended with {_exit(code)}"
        broken = f"the run {how}" + (f" in {begun}" if begun else "") + f":\n{_last_words(folder)}"
    elif end["code"] not in (0, 1):
        broken = f"pytest ended with {end['code']}:\n{_last_words(folder)}"
    elif not outcomes:
        broken = f"no test ran:\n{_last_words(folder)}"
    return Ran(
        outcomes=outcomes,
        wheels={} if end is None else end["wheels"],
        modules=0 if end is None else end["modules"],
        strays=() if end is None else tuple(end["strays"]),
        broken=broken,
        seconds=seconds,
    )


def _last_words(folder: Path) -> str:
    text = (folder / "words.txt").read_text(encoding="utf-8", errors="replace")
    return "\n".join(text.strip().splitlines()[-LAST_LINES:])


def _exit(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def end_all() -> None:
    """End the runs that go on in other threads: sessions of their own, they hear no Ctrl-C."""
    for process in tuple(_running):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the run's whole group: a suite may leave processes of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
