"""The science stack that the demo shows and the benchmark measures: its environment, its pack, its rivals' forms.

Everything is made once, in a work folder, and found again by later runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uv

from lazydeps import __version__
from lazydeps._pack import FORMAT_VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lazydeps.build.interpreters import Interpreter

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
WORK = ROOT / "build" / "demo"
REQUIREMENTS = ("numpy", "pandas", "scipy", "matplotlib", "openpyxl")
TRACE = ROOT / "demo" / "trace_handler.py"


def make_function_environment(found: Interpreter) -> Path:
    """Return the interpreter of an environment with lazydeps, as built from this checkout, awslambdaric and boto3."""
    folder = WORK / f"function-{found.minor}"
    python = folder / "bin" / "python"
    sources = [*sorted((ROOT / "src").rglob("*.py")), ROOT / "pyproject.toml"]
    digest = hashlib.sha256(str(found).encode())
    for source in sources:
        digest.update(str(source.relative_to(ROOT)).encode() + b"\0" + source.read_bytes())
    mark = folder / "lazydeps-demo.sha256"
    if mark.exists() and mark.read_text() == digest.hexdigest():
        return python
    uv_path = uv.find_uv_bin()
    if not python.exists():
        subprocess.run([uv_path, "venv", "--quiet", "--clear", "--python", str(found.path), str(folder)], check=True)
    mark.unlink(missing_ok=True)
    wanted = [f"lazydeps[examples] @ {ROOT.as_uri()}"]
    command = [uv_path, "pip", "install", "--quiet", "--python", str(python), "--compile-bytecode"]
    environ = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    subprocess.run([*command, "--reinstall-package", "lazydeps", *wanted], check=True, env=environ)
    mark.write_text(digest.hexdigest())
    return python


def make_pack(found: Interpreter) -> tuple[dict[str, Any], bool]:
    """Return what `lazydeps pack --json` says of the pack, and whether an earlier run had made it."""
    traced = TRACE.read_text() + (EXAMPLES / "lambda_handler.py").read_text()
    key = json.dumps([REQUIREMENTS, traced, found.minor, found.arch, FORMAT_VERSION, __version__])
    folder = WORK / f"pack-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    answer = folder / "pack.json"
    if answer.exists():
        packed: dict[str, Any] = json.loads(answer.read_text())
        if Path(packed["path"]).is_file():
            return packed, True
    folder.mkdir(exist_ok=True)
    out = str(folder / "science.tar.zst")
    packed = lazydeps_json("pack", *REQUIREMENTS, "--python", found.minor, "--trace-script", str(TRACE), "-o", out)
    answer.write_text(json.dumps(packed))
    return packed, False


def make_rivals(pack: Path) -> tuple[Path, Path]:
    """Return the pack's site-packages as a folder, and as a zip without bytecode, as packagers make it."""
    tree, archive = pack.parent / "site-packages", pack.parent / "plain.zip"
    if not tree.exists():
        partial = pack.parent / "site-packages.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        subprocess.run(["tar", "--zstd", "-xf", str(pack), "-C", str(partial)], check=True)
        partial.rename(tree)
    if not archive.exists():
        partial = archive.with_suffix(".partial")
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as out:
            for file in sorted(tree.rglob("*")):
                if file.is_file() and file.suffix != ".pyc":
                    out.write(file, file.relative_to(tree))
        partial.rename(archive)
    return tree, archive


def lazydeps_json(*arguments: str, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run the ``lazydeps`` command of this environment and return its ``--json`` object."""
    command = [str(Path(sys.executable).parent / "lazydeps"), *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env={**os.environ, **(environ or {})})
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
