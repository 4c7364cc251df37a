"""A pack that was built here for arm64 starts there: Debian's Python for arm64, under qemu's user emulation.

The interpreter is unpacked into a folder of its own below ``build/``, once; nothing is installed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import SRC
from support_command import lazydeps_json

from lazydeps.build import resolve
from lazydeps.build.interpreters import find_interpreter

if TYPE_CHECKING:
    from conftest import Bucket

CACHE = Path(__file__).parent.parent / "build" / "arm64"
MINOR = "3.11"
RELEASE = "12"
"""The Debian release whose Python and libraries these are; they have other names in others."""
LIBRARIES = ("libc6", "zlib1g", "libexpat1", "libssl3", "libffi8", "libbz2-1.0", "liblzma5", "libuuid1", "libgcc-s1")
START = """
import json, platform, sys
import lazydeps
with lazydeps.load():
    import markupsafe._speedups
    import numpy
product = numpy.arange(6.0).reshape(2, 3) @ numpy.ones((3, 2))
print(json.dumps({
    "machine": platform.machine(),
    "version": list(sys.version_info[:2]),
    "product": product.tolist(),
    "speedups": markupsafe._speedups.__file__,
    "core": numpy._core._multiarray_umath.__file__,
}))
"""


@dataclass(frozen=True)
class Emulated:
    """An arm64 Python that runs here."""

    command: tuple[str, ...]
    minor: str


def cannot(reason: str) -> None:
    """Skip; but on CI, where `.ci/run` brings what Debian has, fail: a skip would be a green run that tested less."""
    if os.environ.get("CI"):
        pytest.fail(f"CI is set, and {reason}")
    pytest.skip(reason)


def run(*words: str | Path, cwd: Path) -> str:
    """Run a tool of Debian's and return what it prints."""
    done = subprocess.run(list(map(str, words)), cwd=cwd, capture_output=True, text=True, timeout=240)
    if done.returncode != 0:
        cannot(f"{words[0]} failed: {done.stderr.strip()[-300:]}")
    return done.stdout


def fetch(folder: Path, *, with_qemu: bool) -> None:
    """Unpack an arm64 Python into ``root/`` and qemu into ``qemu/``; what apt writes is in the folder, too."""
    (folder / "lists/partial").mkdir(parents=True)
    (folder / "archives/partial").mkdir(parents=True)
    (folder / "status").touch()
    here = run("dpkg", "--print-architecture", cwd=folder).strip()
    (folder / "apt.conf").write_text(
        f'APT::Architecture "{here}"; APT::Architectures {{ "{here}"; "arm64"; }};\n'
        f'Dir::State::Lists "{folder}/lists"; Dir::State::status "{folder}/status"; Dir::Cache "{folder}";\n'
        'APT::Sandbox::User "root"; Debug::NoLocking "true";\n'
    )
    # Of the system's own configuration only which archives there are counts.
    apt = ("env", f"APT_CONFIG={folder}/apt.conf", "apt-get", "-q")
    run(*apt, "update", cwd=folder)
    python = (f"python{MINOR}-minimal", f"libpython{MINOR}-minimal", f"libpython{MINOR}-stdlib")
    packages = [f"{name}:arm64" for name in (*python, *LIBRARIES)]
    run(*apt, "download", *packages, *(["qemu-user-static"] if with_qemu else []), cwd=folder)
    for package in folder.glob("*_arm64.deb"):
        run("dpkg-deb", "-x", package, folder / "root", cwd=folder)
    for package in folder.glob("qemu-user-static_*.deb"):
        run("dpkg-deb", "-x", package, folder / "emulators", cwd=folder)
        (folder / "emulators/usr/bin/qemu-aarch64-static").rename(folder / "qemu")  # 1 of 60


@pytest.fixture(scope="module")
def emulated() -> Emulated:
    """The arm64 Python, from the cache or from Debian's archive."""
    missing = [tool for tool in ("apt-get", "dpkg", "dpkg-deb") if shutil.which(tool) is None]
    if missing or not sys.platform.startswith("linux"):
        pytest.skip(f"an arm64 Python comes out of Debian's packages, and {', '.join(missing)} are not here")
    facts = dict(re.findall(r"^(ID|VERSION_ID)=\"?([^\"\n]*)", Path("/etc/os-release").read_text(), re.MULTILINE))
    if (facts.get("ID"), facts.get("VERSION_ID")) != ("debian", RELEASE):
        pytest.skip(f"an arm64 Python {MINOR} comes out of Debian {RELEASE}'s packages, and this is another system")
    if find_interpreter(MINOR) is None:
        cannot(f"there is no Python {MINOR} here to compile for Debian's")
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    contents = hashlib.sha256(" ".join(LIBRARIES).encode()).hexdigest()[:8]
    cache = CACHE / f"python{MINOR}-{contents}"
    if not cache.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            fetch(Path(scratch), with_qemu=qemu is None)
            whole = Path(scratch, "whole")
            whole.mkdir()
            for path in (Path(scratch, "root"), Path(scratch, "qemu")):
                if path.exists():
                    path.rename(whole / path.name)
            if not cache.is_dir():
                whole.rename(cache)
    qemu = qemu or str(cache / "qemu")
    if not Path(qemu).is_file():
        cannot(f"qemu is gone since {cache} was made: remove that folder")
    return Emulated((qemu, "-L", str(cache / "root"), str(cache / f"root/usr/bin/python{MINOR}")), MINOR)


def test_a_pack_for_arm64_starts_on_arm64(emulated: Emulated, bucket: Bucket, tmp_path: Path) -> None:
    """Built for arm64 on any machine, read from S3 by an arm64 Python: its extensions load, and numpy computes."""
    out = tmp_path / "arm.tar.zst"
    facts = lazydeps_json(
        *("pack", "numpy", "markupsafe", "--arch", "arm64", "--python", emulated.minor, "--glibc", "2.17"),
        *("--level", "1", "-o", out),
    )
    assert (facts["arch"], facts["python"], facts["warnings"]) == ("arm64", emulated.minor, [])
    interpreter = find_interpreter(emulated.minor)
    assert interpreter is not None
    path = tmp_path / "path"
    resolve.install(["zstandard"], into=path, interpreter=interpreter, arch="arm64", glibc="2.17")
    (path / "lazydeps").symlink_to(SRC / "lazydeps")
    environ = {
        **bucket.environ,
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "LAZYDEPS_PACK": f"{bucket.put('arm.tar.zst', out)}#root={facts['root']}",
        "LAZYDEPS_DIR": str(tmp_path / "store"),
    }
    done = subprocess.run([*emulated.command, "-c", START], env=environ, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["machine"] == "aarch64"
    assert said["version"] == [int(part) for part in emulated.minor.split(".")]
    assert said["product"] == [[3.0, 3.0], [12.0, 12.0]]
    suffix = f".cpython-{emulated.minor.replace('.', '')}-aarch64-linux-gnu.so"
    for name in ("speedups", "core"):
        assert said[name].endswith(suffix)
        assert said[name].startswith(str(tmp_path / "store"))
        assert Path(said[name]).read_bytes()[18:20] == b"\xb7\x00"  # EM_AARCH64, in the ELF header
