"""What the starts need, made once and found again: environments, plain folders, the wheel, the packs.

Everything is kept in one untracked folder under names that follow from the content that went in. What is not
finished is never found: files and folders get their name when they are complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.model import NotRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from benchmarks.model import Kit, Work
    from lazydeps.build.interpreters import Interpreter

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
BOTO3 = ("boto3==1.44.5", "botocore==1.44.5", "jmespath==1.1.0", "s3transfer==0.19.3", "urllib3==2.8.0")
"""What Lambda bundles, as far as a contender may use it."""
PIP = "pip==26.3"
BY_PIP = frozenset({"torch"})
"""Works that pip installs: their build is on no index that uv would look at, but where pip's configuration says."""
COPIES = 4
"""How often the cold files are added to make the pack with five times of them."""
TAIL = 12
"""Lines of a failed command's words that are repeated."""


class Workshop:
    """A `model.Kit` over one folder and one interpreter."""

    def __init__(self, root: Path, interpreter: Interpreter) -> None:
        self.root = root
        self.interpreter = interpreter
        self.python = interpreter.path
        self.minor = interpreter.minor

    def folder(self, *key: str) -> Path:
        """Return a folder of its own for this key; see `model.Kit.folder`. Its name also follows from the Python."""
        digest = hashlib.sha256(json.dumps([self.interpreter, key], default=str).encode()).hexdigest()[:12]
        name = re.sub(r"[^a-zA-Z0-9.]+", "-", "-".join(key))[:40].strip("-")
        folder = self.root / f"{name}-{digest}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def environment(self, name: str, *requirements: str) -> Path:
        """Return the interpreter of a virtual environment; see `model.Kit.environment`.

        Raises:
            NotRun: it cannot be installed.
        """
        folder = self.folder("environment", name, *requirements)
        python, mark = folder / "bin" / "python", folder / "complete"
        # Not `finished`: the scripts of an environment name its folder, which therefore cannot be renamed.
        with locked(folder):
            if not mark.exists():  # it stands in the folder, which `--clear` empties
                run_uv("venv", "--quiet", "--clear", "--python", str(self.python), str(folder))
                if requirements:
                    run_uv("pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), *requirements)
                mark.touch()
        return python

    def site_packages(self, work: Work) -> Path:
        """Return the work's packages as a plain folder; see `model.Kit.site_packages`.

        Raises:
            NotRun: they cannot be installed.
        """
        return finished(
            self.folder("packages", work.name, *work.requirements) / "site-packages",
            lambda partial: self._install(work, partial),
        )

    def _install(self, work: Work, target: Path) -> None:
        if work.name in BY_PIP:
            python = self.environment("pip", PIP)
            pip = [str(python), "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
            run([*pip, "--target", str(target), *work.requirements])
            # It ends with 1 where a file does not compile, which some packages have among their tests.
            run([str(python), "-m", "compileall", "-qq", "-j", "0", str(target)], accepted=(0, 1))
            return
        options = ("--target", str(target), "--compile-bytecode", "--link-mode", "copy", "--python", str(self.python))
        run_uv("pip", "install", "--quiet", *options, *work.requirements)


def finished(path: Path, make: Callable[[Path], object]) -> Path:
    """Return ``path``, made by ``make(partial)`` and renamed when that is done, unless an earlier run did so."""
    with locked(path):
        if not path.exists():
            partial = path.with_name(path.name + ".partial")
            if partial.is_dir():
                shutil.rmtree(partial)
            partial.unlink(missing_ok=True)
            make(partial)
            partial.rename(path)
    return path


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one run at a time make what gets this path."""
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(command: Sequence[str], *, environ: Mapping[str, str] | None = None, accepted: Sequence[int] = (0,)) -> str:
    """Run a command that makes something, and return what it printed.

    Args:
        command: what to run.
        environ: its environment; None: ours.
        accepted: exit codes that count as success.

    Raises:
        NotRun: it failed; the message ends with its last lines.
    """
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=environ
        )
    except OSError as error:
        raise NotRun(f"{command[0]} did not start: {error.strerror}") from error
    if done.returncode not in accepted:
        words = last_lines(done.stderr or done.stdout)
        raise NotRun(f"`{' '.join([Path(command[0]).name, *command[1:4]])} ...` ended with {done.returncode}: {words}")
    return done.stdout


def last_lines(text: str) -> str:
    """Return the end of what a failed process said."""
    return "\n".join(text.strip().splitlines()[-TAIL:])


def run_uv(*arguments: str) -> None:
    """Run uv, without the virtual environment that the benchmark itself may run in."""
    import uv

    run([uv.find_uv_bin(), *arguments], environ={k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"})


def digest_files(folder: Path, files: Iterable[Path]) -> str:
    """Return a digest of the names and contents of some files of a folder."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def make_function(kit: Kit) -> Path:
    """Return the interpreter of the function's environment: lazydeps as built from this checkout, and boto3.

    Raises:
        NotRun: it cannot be built.
    """

    def digest_sources() -> str:
        return digest_files(ROOT, [*SOURCE.rglob("*.py"), ROOT / "pyproject.toml", ROOT / "README.md"])

    sources = digest_sources()

    def make(partial: Path) -> None:
        run_uv("build", "--quiet", "--wheel", "--out-dir", str(partial), str(ROOT))
        if digest_sources() != sources:
            raise NotRun("lazydeps' sources were edited while it was built: run this again")

    wheel = next(finished(kit.folder("wheel", sources) / "dist", make).glob("*.whl"))
    return kit.environment("function", str(wheel), *BOTO3)


def make_pack(kit: Kit, work: Work, source: Path = SOURCE, options: Sequence[str] = ()) -> dict[str, Any]:
    """Return what `lazydeps pack --json` says of the work's pack. It is recorded from the work's statements alone.

    Args:
        kit: where it is kept.
        work: what it is for.
        source: the folder of the `lazydeps` package that builds it: what it writes is for itself to read.
        options: more options of `lazydeps pack`.

    Raises:
        NotRun: it cannot be packed.
    """
    wanted = ["--from-dir", str(kit.site_packages(work))] if work.name in BY_PIP else work.requirements
    return _pack(kit, (work.name, *work.requirements, *options), work.statements, [*wanted, *options], source)


def make_large_pack(kit: Kit, work: Work) -> dict[str, Any]:
    """Return the same of a pack with the same boot and data sets, and `COPIES` more copies of every cold file.

    Raises:
        NotRun: it cannot be packed.
    """
    packed = make_pack(kit, work)
    tree = finished(
        kit.folder("cold-copies", packed["root"]) / "site-packages",
        lambda partial: _copy_cold(kit, work, packed, partial),
    )
    return _pack(kit, ("cold-copies", work.name, packed["root"]), work.statements, ["--from-dir", str(tree)])


def _copy_cold(kit: Kit, work: Work, packed: Mapping[str, Any], tree: Path) -> None:
    """Make the work's folder anew, of links to its files, and add copies of the cold ones under other names."""
    plain = kit.site_packages(work)
    shutil.copytree(plain, tree, copy_function=os.link, ignore=shutil.ignore_patterns("__pycache__"))
    for entry in inspect_pack(Path(packed["path"]), "--files")["contents"]:
        source = plain / entry["path"]
        if entry["set"] == "cold" and source.suffix == ".py" and source.exists():
            for number in range(COPIES):
                copy = tree / f"cold_copies_{number}" / entry["path"]
                copy.parent.mkdir(parents=True, exist_ok=True)
                os.link(source, copy)


def _pack(
    kit: Kit, key: Sequence[str], statements: str, arguments: Sequence[str], source: Path = SOURCE
) -> dict[str, Any]:
    """Run `lazydeps pack`, or find what it made of the same input with the same code."""
    package = source.resolve() / "lazydeps"
    code = [
        *(package / "build").glob("*.py"),
        *(package / "build").glob("*.toml"),
        *(package / name for name in ("_pack.py", "_digest.py", "_config.py")),
    ]
    folder = kit.folder("pack", *key, statements, digest_files(package, code))

    def make(partial: Path) -> None:
        out = folder / f"{key[0]}.tar.zst"
        command = [sys.executable, "-m", "lazydeps", "pack", *arguments, "--python", kit.minor, "-o", str(out)]
        environ = {**os.environ, "PYTHONPATH": str(package.parent)}
        partial.write_text(run([*command, "--trace", statements, "--json"], environ=environ))

    packed: dict[str, Any] = json.loads(finished(folder / "pack.json", make).read_text())
    return packed


def inspect_pack(path: Path, *options: str) -> dict[str, Any]:
    """Return what `lazydeps inspect --json` says of a pack.

    Raises:
        NotRun: it is none.
    """
    facts: dict[str, Any] = json.loads(
        run([sys.executable, "-m", "lazydeps", "inspect", str(path.resolve()), *options, "--json"])
    )
    return {**facts, "path": str(path.resolve())}
