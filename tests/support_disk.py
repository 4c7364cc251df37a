"""Real disks for tests: small file systems in memory, and other users of this machine.

Both take root. Without it a test is skipped and says so, unless CI is set and we are root: there they must work.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support_packs import THREADS, pack_tree, write_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lazydeps.build.write import Written

SRC = Path(__file__).parents[1] / "src"
NOBODY = 65534
HOSTS = {"fork": "", "threads": THREADS}


def unavailable(what: str) -> None:
    """Skip the test, or fail it on a CI that is root."""
    if os.environ.get("CI") and os.geteuid() == 0:
        pytest.fail(f"CI is set, we are root, and {what}")
    pytest.skip(what)


@contextmanager
def disk(folder: Path, *options: str) -> Iterator[Path]:
    """Mount a tmpfs with options such as ``size=4m`` on a new folder."""
    folder.mkdir()
    words = ",".join(("mode=0755", *options))
    if os.geteuid() or shutil.which("mount") is None:
        unavailable("mounting a small disk needs root and the mount command")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", words, "lazydeps-test", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        unavailable(f"this machine does not let us mount a tmpfs: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, how: str) -> None:
    """Mount a disk again as ``ro`` or ``rw``."""
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take every byte that a disk has left, and return the file that does."""
    filler = folder / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
    return filler


@contextmanager
def common_folder() -> Iterator[Path]:
    """Make a folder that every user can write to and nobody can take another's files from, as ``/tmp`` is."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o1777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def as_nobody(*, reads_all: bool = False) -> list[str]:
    """Return the words that run a command as a user without rights.

    Args:
        reads_all: it may look into every folder, as it must where the interpreter lies in somebody's home; it still
            can write only where it is allowed to.
    """
    if os.geteuid() or shutil.which("setpriv") is None:
        unavailable("running as another user needs root and the setpriv command")
    rights = "+dac_read_search" if reads_all else "-all"
    return [
        "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", f"--inh-caps={rights}",
        *([f"--ambient-caps={rights}"] if reads_all else ["--bounding-set=-all"]),
    ]  # fmt: skip


class Pack:
    """A pack of one package: about 2.5 MB, in a few frames, with something cold and many small files."""

    def __init__(self, folder: Path, name: str, *, files: int = 40) -> None:
        self.name = name
        self.tree = folder / name
        cold = f"TEXT = {os.urandom(150_000).hex()!r}\nWHO = 'cold {name}'\n"
        content: dict[str, str | bytes] = {
            f"{name}/__init__.py": f"from {name} import part\nWHO = '{name}'\n",
            f"{name}/part.py": f"TEXT = {os.urandom(200_000).hex()!r}\n",
            f"{name}/library.so.1": os.urandom(900_000),
            f"{name}/cold.py": cold,
            f"{name}/data.bin": os.urandom(900_000),
            f"{name}/empty.txt": b"",
        }
        for number in range(files):
            content[f"{name}/many{number % 5}/{number}.txt"] = f"file {number}"
        write_tree(self.tree, content)
        boot = [f"{name}/{part}" for part in ("__init__.py", "part.py", "library.so.1")]
        self.written: Written = pack_tree(
            folder / f"{name}.tar.zst", self.tree, boot=boot, distributions={name: "1.0", f"{name}-more": "2"}
        )
        self.content = self.written.path.read_bytes()

    @property
    def ref(self) -> str:
        """The reference that names the file."""
        return f"{self.written.path.as_uri()}#root={self.written.root}"

    @property
    def folder(self) -> str:
        """The name of its store."""
        return f"{self.written.root.removeprefix('sha256:')[:32]}-1"

    def at(self, url: str) -> str:
        """The reference of the same pack at another address."""
        return f"{url}#root={self.written.root}"

    def check(self, store: Path) -> int:
        """Compare all that has a name in the store's tree with what was packed; return how many files there are."""
        count = 0
        for path in (store / self.folder / "tree").rglob("*"):
            if path.is_file():
                assert path.read_bytes() == (self.tree / path.relative_to(store / self.folder / "tree")).read_bytes()
                count += 1
        return count


def program(ref: str, name: str, *, host: str = "fork", then: str = "", before: str = "") -> str:
    """Return a program that loads a pack, imports its package and prints what it found, or the error, as JSON."""
    return f"""
{HOSTS[host]}
import json, os, sys, lazydeps
{before}
try:
    with lazydeps.load({ref!r}, timeout=60):
        import {name}
    found = [{name}.WHO, len(open({name}.__path__[0] + "/data.bin", "rb").read())]
except lazydeps.LazydepsError as error:
    found = {{"type": type(error).__name__, "message": str(error), **error.facts()}}
{then}
print(json.dumps(found))
"""


def environ_of(store: Path, connections: int = 6) -> dict[str, str]:
    """Return the environment of a start in a store. One connection asks for nothing before it has seen the root."""
    return {
        "LAZYDEPS_CONNECTIONS": str(connections),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(SRC),
        "PYTHONDONTWRITEBYTECODE": "1",
        "NO_PROXY": "127.0.0.1",
        "LAZYDEPS_DIR": str(store),
    }


def start(code: str, store: Path, *, prefix: tuple[str, ...] | list[str] = (), connections: int = 6) -> Any:
    """Run a program in a fresh interpreter and return the JSON that it printed last."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", code],
        env=environ_of(store, connections),
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stdout[-2000:], done.stderr[-4000:])
    return json.loads(done.stdout.splitlines()[-1])


def run_pack(
    pack: Pack,
    store: Path,
    *,
    ref: str = "",
    prefix: tuple[str, ...] | list[str] = (),
    connections: int = 6,
    **words: str,
) -> Any:
    """Start a `program` that imports a pack, and return what it found or the facts of its error."""
    code = program(ref or pack.ref, pack.name, **words)
    return start(code, store, prefix=prefix, connections=connections)


@contextmanager
def holder(pack: Pack, store: Path, *, then: str = "") -> Iterator[subprocess.Popen[str]]:
    """Run a program that has a pack loaded, for the length of the block. It goes on when a line is written to it."""
    code = (
        f"import os, sys, lazydeps\nwith lazydeps.load({pack.ref!r}):\n    import {pack.name}\n"
        f"print('loaded', flush=True)\n{then}\nsys.stdin.readline()\nfrom {pack.name} import cold\nprint(cold.WHO)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environ_of(store), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "loaded\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=30)
