"""Layers, built with the real runtime and real wheels, and used by fresh interpreters that see nothing else."""

from __future__ import annotations

import base64
import csv
import errno
import functools
import hashlib
import importlib.metadata
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from elftools.elf.elffile import ELFFile
from support_command import COMMAND, command_environ, lazydeps, lazydeps_error, lazydeps_json
from support_http import ScriptedServer, ranged
from support_packs import ARCH

import lazydeps as package
from lazydeps.build import layer as module
from lazydeps.build import resolve
from lazydeps.build.elf import ElfTree
from lazydeps.build.interpreters import Interpreter, find_interpreter
from lazydeps.build.layer import Layer, build_layer
from lazydeps.errors import ConfigError, LazydepsError

if TYPE_CHECKING:
    from conftest import RunPython

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
SOURCE = Path(package.__file__).parent
LayerFor = Callable[[str, str], Layer]


@functools.cache
def found(python: str) -> Interpreter | None:
    """Return an interpreter of this machine; each is looked for once."""
    return find_interpreter(python)


@pytest.fixture(scope="module")
def layer_for(tmp_path_factory: pytest.TempPathFactory) -> LayerFor:
    """Return the layer for a Python and an architecture; without bytecode where no such Python is here."""
    folder = tmp_path_factory.mktemp("layers")

    @functools.cache
    def build(python: str, arch: str) -> Layer:
        out = folder / f"{python}-{arch}.zip"
        return build_layer(out, python=python, arch=arch, bytecode=found(python) is not None)

    return build


@pytest.fixture(scope="module")
def pack_for(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Return the reference of a pack of real wheels, one with an extension, for a Python on this architecture."""
    folder = tmp_path_factory.mktemp("packs")

    @functools.cache
    def build(python: str) -> str:
        words = ["markupsafe", "six", "--python", python, "--level", "3", "-o", folder / f"{python}.tar.zst"]
        ref = lazydeps_json("pack", *words)["ref"]
        assert isinstance(ref, str)
        return ref

    return build


def unzip(layer: Layer, into: Path) -> Path:
    """Unzip a layer, as Lambda does to ``/opt``, and return the folder that is on `sys.path` there."""
    with zipfile.ZipFile(layer.path) as archive:
        archive.extractall(into)
    return into / "python"


def names_of(layer: Layer) -> list[str]:
    """Return the names in a layer, in order, without ``python/``."""
    with zipfile.ZipFile(layer.path) as archive:
        names = archive.namelist()
    assert all(name.startswith("python/") for name in names)
    return [name.removeprefix("python/") for name in names]


def left_in(folder: Path) -> list[str]:
    """Return what stands in a folder."""
    return sorted(path.name for path in folder.iterdir())


# -- what is inside


@pytest.mark.parametrize("arch", ["x86_64", "arm64"])
@pytest.mark.parametrize("python", PYTHONS)
def test_every_target(layer_for: LayerFor, tmp_path: Path, python: str, arch: str) -> None:
    """A layer is below 1.5 MB and holds the runtime, and the one extension of exactly its target."""
    layer = layer_for(python, arch)
    assert layer.path.stat().st_size == layer.size < 1_500_000
    names = names_of(layer)
    tree = unzip(layer, tmp_path)
    tops = {"lazydeps", f"lazydeps-{package.__version__}.dist-info"}
    extensions = []
    if python != "3.14":
        machine = {"arm64": "aarch64"}.get(arch, arch)
        tops |= {"zstandard", f"zstandard-{layer.distributions['zstandard']}.dist-info"}
        extensions = [f"zstandard/backend_c.cpython-{python.replace('.', '')}-{machine}-linux-gnu.so"]
    assert {name.partition("/")[0] for name in names} == tops
    assert [name for name in names if ".so" in name] == extensions
    assert not [name for name in names if name.endswith(".pyi") or "cffi" in name]
    for name in extensions:
        with (tree / name).open("rb") as stream:
            assert ELFFile(stream)["e_machine"] == {"x86_64": "EM_X86_64", "arm64": "EM_AARCH64"}[arch]
        assert (tree / name).stat().st_size < 1_000_000
    floor, needed = (
        [int(part) for part in text.split(".") if part]
        for text in (resolve.glibc_floor(python), ElfTree(tree, names).required_glibc())
    )
    assert needed <= floor
    assert bool(needed) == bool(extensions)


def test_the_runtime_is_whole(layer_for: LayerFor, tmp_path: Path) -> None:
    """Every file of the package but the build half and its door is in the layer as it is, and nothing else."""
    tree = unzip(layer_for(MINOR, ARCH), tmp_path)
    expected = {
        path.relative_to(SOURCE).as_posix(): path.read_bytes()
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and (SOURCE / "build") not in path.parents
    }
    del expected["__main__.py"]
    assert {"py.typed", "_sources/s3.py", "auto.py"} < set(expected)
    inside = {
        path.relative_to(tree / "lazydeps").as_posix(): path.read_bytes()
        for path in (tree / "lazydeps").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert inside == expected


@pytest.mark.parametrize("python", PYTHONS)
def test_the_bytecode_is_the_targets(layer_for: LayerFor, tmp_path: Path, python: str) -> None:
    """Each module has unchecked bytecode (PEP 552, flag 1) with the magic number and the name of its Python."""
    interpreter = found(python)
    if interpreter is None:
        pytest.skip(f"no Python {python} here")
    tree = unzip(layer_for(python, "arm64"), tmp_path)
    sources = sorted(tree.rglob("*.py"))
    assert len(sources) > 20
    for source in sources:
        bytecode = source.parent / "__pycache__" / f"{source.stem}.cpython-{python.replace('.', '')}.pyc"
        assert bytecode.read_bytes()[:8] == bytes.fromhex(interpreter.magic) + b"\1\0\0\0"
    assert len(list(tree.rglob("*.pyc"))) == len(sources)


@pytest.mark.parametrize("python", ["3.11", "3.14"])
def test_the_records_are_true(layer_for: LayerFor, tmp_path: Path, python: str) -> None:
    """The RECORD files together name each file of the layer once, with its digest and size; licences are kept."""
    layer = layer_for(python, "arm64")
    tree = unzip(layer, tmp_path)
    rows = [
        row
        for record in sorted(tree.glob("*.dist-info/RECORD"))
        for row in csv.reader(io.StringIO(record.read_text(encoding="utf-8")))
    ]
    assert sorted(row[0] for row in rows) == sorted(names_of(layer))
    for name, digest, size in rows:
        if name.endswith(".dist-info/RECORD"):
            assert (digest, size) == ("", "")
            continue
        content = (tree / name).read_bytes()
        expected = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        assert (digest, size) == (f"sha256={expected}", str(len(content)))
    distributions = {found.name: found for found in importlib.metadata.distributions(path=[str(tree)])}
    assert {name: found.version for name, found in distributions.items()} == layer.distributions
    assert layer.distributions["lazydeps"] == package.__version__
    for name, distribution in distributions.items():
        licences = distribution.metadata.get_all("License-File") or []
        assert licences, name
        assert all(distribution.read_text(f"licenses/{licence}") for licence in licences)
        # No trace of how they came here, and no command that the layer does not have.
        left = {path.name for path in (tree / f"{name}-{distribution.version}.dist-info").iterdir()}
        assert left <= {"METADATA", "RECORD", "WHEEL", "licenses", "top_level.txt"}


def test_names_times_and_modes(layer_for: LayerFor) -> None:
    """Names are sorted, files date from 1980 and may be read by whoever Lambda runs a function as."""
    with zipfile.ZipFile(layer_for("3.13", "x86_64").path) as archive:
        members = archive.infolist()
        assert archive.testzip() is None
    assert [member.filename for member in members] == sorted(member.filename for member in members)
    for member in members:
        assert member.date_time == (1980, 1, 1, 0, 0, 0)
        mode = member.external_attr >> 16
        assert stat.S_ISREG(mode)
        assert stat.S_IMODE(mode) == (0o755 if member.filename.endswith(".so") else 0o644)
        assert (member.create_system, member.compress_type) == (3, zipfile.ZIP_DEFLATED)


# -- what it is for

HANDLER = """
import json, os, sys
folder, ref, log = sys.argv[1:]
sys.path.insert(0, folder)
before = set(sys.modules)

def watch(event, arguments):  # the worker, a forked child, has this hook as well
    if event == "compile" and str(arguments[1]).startswith(folder):
        with open(log, "a") as file:
            file.write(f"{arguments[1]}\\n")

sys.addaudithook(watch)
import lazydeps
with lazydeps.load(ref):
    import markupsafe
    import markupsafe._speedups
    import six
import importlib.metadata
(pack,) = lazydeps.report().packs
print(json.dumps({
    "escaped": str(markupsafe.escape("<a>")),
    "files": [markupsafe._speedups.__file__, six.__file__],
    "runtime": lazydeps.__file__,
    "received": pack.bytes_received,
    "version": importlib.metadata.version("lazydeps"),
    "others": sorted(path for path in sys.path if "site-packages" in path),
}))
"""


@pytest.mark.parametrize("scheme", ["file", "http"])
@pytest.mark.parametrize("python", PYTHONS)
def test_a_fresh_interpreter_imports_from_a_pack(
    layer_for: LayerFor,
    pack_for: Callable[[str], str],
    run_python: RunPython,
    tmp_path: Path,
    python: str,
    scheme: str,
) -> None:
    """An interpreter with the unzipped layer alone on its path streams a pack of real wheels, and compiles nothing."""
    interpreter = found(python)
    if interpreter is None or interpreter.arch != ARCH:
        pytest.skip(f"no Python {python} for {ARCH} here")
    folder = unzip(layer_for(python, ARCH), tmp_path / "opt")
    ref = pack_for(python)
    url, _, pin = ref.partition("#")
    content = Path(url.removeprefix("file://")).read_bytes()
    log = tmp_path / "compiled"
    with ScriptedServer(lambda request: ranged(request, content)) as server:
        if scheme == "http":
            ref = f"{server.url}#{pin}"
        words = ["-I", "-S", "-B", "-c", HANDLER, str(folder), ref, str(log)]
        said = run_python(None, *words, python=interpreter.path)
        assert bool(server.requests) == (scheme == "http")
    facts = json.loads(said.stdout)
    assert facts["escaped"] == "&lt;a&gt;"
    assert all(file.startswith(str(tmp_path / "lazydeps")) for file in facts["files"])
    assert facts["runtime"] == str(folder / "lazydeps/__init__.py")
    assert (facts["version"], facts["others"]) == (package.__version__, [])
    assert facts["received"] > 0
    assert not log.exists(), log.read_text()


@pytest.mark.parametrize("python", [python for python in PYTHONS if python != "3.14"])
def test_the_stripped_extension_works(layer_for: LayerFor, run_python: RunPython, tmp_path: Path, python: str) -> None:
    """The C extension imports from the layer and brings back what it compressed: whole, in streams, with threads."""
    interpreter = found(python)
    if interpreter is None or interpreter.arch != ARCH:
        pytest.skip(f"no Python {python} for {ARCH} here")
    folder = unzip(layer_for(python, ARCH), tmp_path / "opt")
    code = """
import io, os, sys
sys.path.insert(0, sys.argv[1])
import zstandard
data = os.urandom(300_000) + bytes(3_000_000) + os.urandom(50_000) * 20
for level in (1, 12, 22):
    packed = zstandard.ZstdCompressor(level=level, threads=2).compress(data)
    assert len(packed) < len(data) / 2
    assert zstandard.ZstdDecompressor().decompress(packed) == data
out = io.BytesIO()
with zstandard.ZstdCompressor().stream_writer(out, closefd=False) as writer:
    writer.write(data)
assert zstandard.ZstdDecompressor().stream_reader(io.BytesIO(out.getvalue())).read() == data
try:
    zstandard.ZstdDecompressor().decompress(b"not zstd")
except zstandard.ZstdError:
    print(zstandard.backend, zstandard.backend_c.__file__)
"""
    said = run_python(None, "-I", "-S", "-B", "-c", code, str(folder), python=interpreter.path).stdout.split()
    (extension,) = (folder / "zstandard").glob("*.so")
    assert said == ["cext", str(extension)]


def test_the_command_is_not_in_it(layer_for: LayerFor, run_python: RunPython, tmp_path: Path) -> None:
    """`python -m lazydeps` says that there is no such thing, instead of breaking down in a missing build half."""
    folder = unzip(layer_for(MINOR, ARCH), tmp_path / "opt")
    said = run_python(None, "-S", "-m", "lazydeps", environ={"PYTHONPATH": str(folder)}, check=False)
    assert said.returncode == 1
    assert "No module named lazydeps.__main__" in said.stderr


# -- the same bytes


def test_the_same_layer_again(layer_for: LayerFor, tmp_path: Path) -> None:
    """Another process in another folder, time zone and umask, under another hash seed, writes the same bytes."""
    first = layer_for(MINOR, "arm64")
    environ = {"TMPDIR": str(tmp_path), "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    command = [*COMMAND, "layer", "-o", "again.zip", "--python", MINOR, "--arch", "aarch64", "-q"]
    subprocess.run(command, cwd=tmp_path, env=command_environ(environ), umask=0o077, check=True, capture_output=True)
    assert (tmp_path / "again.zip").read_bytes() == first.path.read_bytes()
    assert left_in(tmp_path) == ["again.zip"]


def test_an_ordinary_installation_gives_the_same_layer(layer_for: LayerFor, tmp_path: Path) -> None:
    """A lazydeps in a site-packages folder, with what pip and systems leave there, gives the layer of a checkout."""
    site = tmp_path / "site-packages"
    shutil.copytree(SOURCE, site / "lazydeps", ignore=shutil.ignore_patterns("__pycache__"))
    (site / "lazydeps/_runtime.py~").write_text("an editor's copy")
    (site / "lazydeps/.DS_Store").write_text("a system's")
    installed = importlib.metadata.distribution("lazydeps")
    info = site / f"lazydeps-{installed.version}.dist-info"
    (info / "licenses").mkdir(parents=True)
    for name in ("METADATA", "WHEEL", "entry_points.txt", "licenses/LICENSE"):
        (info / name).write_text(installed.read_text(name) or "", encoding="utf-8")
    (info / "INSTALLER").write_text("pip\n")
    out = tmp_path / "layer.zip"
    code = "import lazydeps, sys; from lazydeps.__main__ import main; print(lazydeps.__file__); sys.exit(main())"
    words = [sys.executable, "-P", "-c", code, "layer", "-q", "--python", MINOR, "--arch", "arm64", "-o", str(out)]
    done = subprocess.run(words, env=command_environ({"PYTHONPATH": str(site)}), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(site / "lazydeps/__init__.py")
    assert out.read_bytes() == layer_for(MINOR, "arm64").path.read_bytes()


@pytest.mark.parametrize(
    ("epoch", "moment"),
    [("1700000000", (2023, 11, 14, 22, 13, 20)), ("0", (1980, 1, 1, 0, 0, 0)), ("", (1980, 1, 1, 0, 0, 0))],
)
def test_the_time_is_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: str, moment: tuple[int, ...]
) -> None:
    """Files date from SOURCE_DATE_EPOCH, in UTC, but not from before what a zip file can hold."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    layer = build_layer(tmp_path / "layer.zip", python="3.14", bytecode=False)
    with zipfile.ZipFile(layer.path) as archive:
        assert {member.date_time for member in archive.infolist()} == {moment}


@pytest.mark.parametrize("epoch", ["yesterday", "-1", "1e9", "4354819200"])
def test_a_time_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: str) -> None:
    """What is no number of seconds, or beyond what a zip file can hold, is refused before anything is done."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    with pytest.raises(ConfigError, match="SOURCE_DATE_EPOCH is "):
        build_layer(tmp_path / "layer.zip")
    assert left_in(tmp_path) == []


# -- whole or not at all


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_what_stops_the_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Stopped in the middle of the zip file, it leaves the older layer as it was and nothing beside it."""
    out, temporary = tmp_path / "out", tmp_path / "temporary"
    out.mkdir()
    temporary.mkdir()
    (out / "layer.zip").write_text("the older one")
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    write = zipfile.ZipFile.writestr
    seen: list[list[str]] = []

    def stop(archive: zipfile.ZipFile, member: zipfile.ZipInfo, *words: object) -> None:
        if member.filename.endswith("auto.py"):
            seen.extend([left_in(out), left_in(temporary)])
            raise error
        write(archive, member, *words)

    monkeypatch.setattr(zipfile.ZipFile, "writestr", stop)
    with pytest.raises(type(error)):
        build_layer(out / "layer.zip", python="3.14", bytecode=False)
    assert [len(names) for names in seen] == [2, 1], "stopped too early, or too late, to show anything"
    assert (left_in(out), left_in(temporary)) == (["layer.zip"], [])
    assert (out / "layer.zip").read_text() == "the older one"


def test_ctrl_c(tmp_path: Path) -> None:
    """Ctrl-C in a shell, while the modules are being compiled: exit code 130, no layer, no scratch folder."""
    tools, out, temporary = (tmp_path / name for name in ("tools", "out", "temporary"))
    for folder in (tools, out, temporary):
        folder.mkdir()
    facts = {
        "executable": str(tools / "python3.98"),
        "version": "3.98.0",
        "implementation": "cpython",
        "level": "final",
        "abiflags": "",
        "machine": ARCH,
        "platform": "linux",
        "magic": "00000d0a",
        "tag": "cpython-398",
        "suffixes": [".so"],
        "glibc": "2.34",
    }
    # An interpreter that says what it is when it is asked, and never finishes compiling.
    script = f"#!/bin/sh\nif [ \"$1\" = -I ]; then echo '{json.dumps(facts)}'; else touch begun; exec sleep 60; fi\n"
    (tools / "python3.98").write_text(script.replace("touch begun", f"touch {tmp_path / 'begun'}"))
    (tools / "python3.98").chmod(0o755)
    process = subprocess.Popen(
        [*COMMAND, "layer", "--python", "3.98", "-o", str(out / "layer.zip")],
        env=command_environ({"TMPDIR": str(temporary), "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a process group of its own, as a shell makes one
    )
    try:
        give_up = time.monotonic() + 60
        while not (tmp_path / "begun").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < give_up
            time.sleep(0.01)
        assert len(left_in(temporary)) == 1
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 130, said
    assert "Interrupted" in said
    assert "Traceback" not in said
    assert (left_in(out), left_in(temporary)) == ([], [])


# -- what it says


def test_the_facts_are_those_of_the_layer(layer_for: LayerFor, tmp_path: Path) -> None:
    """Every figure of `--json` is what the file has; `CodeSha256` is spelled as Lambda spells it."""
    facts = lazydeps_json("layer", "-o", "layer.zip", "--python", MINOR, "--arch", ARCH, cwd=tmp_path)
    content = (tmp_path / "layer.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "layer.zip") as archive:
        members = archive.infolist()
    assert facts == {
        "path": "layer.zip",
        "size": len(content),
        "unpacked_size": sum(member.file_size for member in members),
        "files": len(members),
        "digest": f"sha256:{hashlib.sha256(content).hexdigest()}",
        "code_sha256": base64.b64encode(hashlib.sha256(content).digest()).decode(),
        "python": MINOR,
        "arch": ARCH,
        "distributions": layer_for(MINOR, ARCH).distributions,
        "bytecode": True,
        "warnings": [],
    }


def test_what_it_says_to_a_person(tmp_path: Path) -> None:
    """The digests and the AWS command of the next step, ready to be copied, with a name that a shell must not split."""
    done = lazydeps("layer", "-o", "my layer.zip", "--arch", "arm64", cwd=tmp_path)
    digest = hashlib.sha256((tmp_path / "my layer.zip").read_bytes()).digest()
    lines = done.stdout.splitlines()
    assert lines[0].startswith("my layer.zip: 0.")
    assert lines[0].endswith(f"for Python {MINOR} on arm64")
    assert f"sha256:{digest.hex()}" in lines
    assert f"CodeSha256 {base64.b64encode(digest).decode()}" in lines
    assert "aws lambda publish-layer-version --layer-name lazydeps --zip-file 'fileb://my layer.zip' \\" in lines[-2]
    assert lines[-1].strip() == f"--compatible-runtimes python{MINOR} --compatible-architectures arm64"
    assert f"Building the layer for Python {MINOR} on arm64" in done.stderr


def test_help_has_examples() -> None:
    """The command's help ends with what is typed to build a layer and to publish it."""
    text = lazydeps("layer", "--help").stdout
    assert text.startswith("Usage: lazydeps layer ")
    examples = text.partition("Examples:\n")[2]
    assert "  lazydeps layer --python 3.13 --arch arm64 -o layer.zip\n" in examples
    assert "  aws lambda publish-layer-version " in examples
    assert "  layer " in lazydeps("--help").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Missing option '-o' / '--out'"),
        (["-o", "nowhere/layer.zip"], "there is no folder"),
        (["-o", "layer.zip", "--python", "3.10"], "3.11 on, such as 3.13; found '3.10'"),
        (["-o", "layer.zip", "--python", "3.13.1"], "found '3.13.1'"),
        (["-o", "layer.zip", "--python", "four"], "found 'four'"),
        (["-o", "layer.zip", "--python", "2.12"], "found '2.12'"),
        (["-o", "layer.zip", "--arch", "riscv64"], "x86_64 or arm64"),
    ],
)
def test_usage_errors(tmp_path: Path, words: list[str], said: str) -> None:
    """What cannot be meant ends with exit code 2 and names what was wrong, and nothing is written."""
    done = lazydeps("layer", *words, code=2, cwd=tmp_path)
    assert said in done.stderr.replace("\n", " ")
    assert left_in(tmp_path) == []


def test_no_interpreter_of_the_version(tmp_path: Path) -> None:
    """Bytecode takes a Python of the target's version: the error says how to get one, and how to do without."""
    error = lazydeps_error("layer", "-o", tmp_path / "layer.zip", "--python", "3.99")
    assert error["type"] == "ConfigError"
    assert "no working Python 3.99 was found" in error["message"]
    assert "uv python install 3.99" in error["message"]
    assert "--no-bytecode" in error["message"]
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("python", ["3.99", MINOR], ids=["not here", "here"])
def test_without_bytecode(tmp_path: Path, python: str) -> None:
    """On request the layer has sources only, says what that costs, and needs no Python of the version."""
    done = lazydeps("layer", "-o", tmp_path / "layer.zip", "--python", python, "--no-bytecode", "--json")
    facts = json.loads(done.stdout)
    assert facts["bytecode"] is False
    (warning,) = facts["warnings"]
    assert "every cold start compiles" in warning
    assert f"lazydeps: warning: {warning}" in done.stderr
    with zipfile.ZipFile(tmp_path / "layer.zip") as archive:
        assert not [name for name in archive.namelist() if name.endswith(".pyc")]


def test_extensions_for_a_python_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without bytecode, uv finds the extension of the asked-for version although only another one can be run."""
    python = "3.12" if MINOR != "3.12" else "3.13"
    monkeypatch.setattr(module, "find_interpreter", lambda minor: None)
    layer = build_layer(tmp_path / "layer.zip", python=python, arch="arm64", bytecode=False)
    (extension,) = [name for name in names_of(layer) if name.endswith(".so")]
    assert extension == f"zstandard/backend_c.cpython-{python.replace('.', '')}-aarch64-linux-gnu.so"


def test_a_layer_that_has_grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the goal is a warning with both figures, and no failure."""
    monkeypatch.setattr(module, "SIZE_GOAL", 1000)
    layer = build_layer(tmp_path / "layer.zip", python="3.14", bytecode=False)
    assert layer.path.is_file()
    assert f"the layer has {layer.size:,} bytes, more than the 1,000 it should stay below." in layer.warnings


def test_a_wheel_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zstandard without a C extension for the target is not taken: it would fail in the first cold start."""

    def install(requirements: object, *, into: Path, **options: object) -> resolve.Installed:
        (into / "zstandard").mkdir()
        (into / "zstandard/backend_c.cpython-313-x86_64-linux-gnu.so").write_bytes(b"\x7fELF")
        return resolve.Installed()

    monkeypatch.setattr(resolve, "install", install)
    with pytest.raises(LazydepsError, match=r"no C extension for Python 3\.13 on arm64"):
        build_layer(tmp_path / "layer.zip", python="3.13", arch="arm64", bytecode=False)
    with pytest.raises(LazydepsError, match=r"backend_c\.cpython-313-x86_64-linux-gnu\.so: an ELF file that cannot be"):
        build_layer(tmp_path / "layer.zip", python="3.13", arch="x86_64", bytecode=False)
    assert left_in(tmp_path) == []


def test_what_is_asked_of_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the runtime requires on the target, without the extras of lazydeps, for the C library of Lambda's image."""
    asked = []

    def install(requirements: list[str], *, glibc: str, arch: str, **options: object) -> resolve.Installed:
        asked.append((requirements, glibc, arch))
        return resolve.Installed()

    lines = [
        "always>=1",
        "older<2; python_version < '3.12'",
        "newest; python_full_version >= '3.13'",
        "windows; sys_platform == 'win32' or platform_machine == 'x86_64'",
        "command; extra == 'build'",
    ]
    monkeypatch.setattr(resolve, "install", install)
    monkeypatch.setattr(importlib.metadata.Distribution, "requires", property(lambda distribution: lines))
    for python in ("3.11", "3.12", "3.13"):
        build_layer(tmp_path / "layer.zip", python=python, arch="aarch64", bytecode=False)
    assert asked == [
        (["always>=1", "older<2"], "2.17", "arm64"),
        (["always>=1"], "2.34", "arm64"),
        (["always>=1", "newest"], "2.34", "arm64"),
    ]


def test_what_building_says_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zstandard that had to be built from source here, against this machine's C library, does not go unnoticed."""
    install = resolve.install
    monkeypatch.setattr(
        resolve, "install", lambda *words, **options: resolve.Installed((*install(*words, **options).warnings, "built"))
    )
    layer = build_layer(tmp_path / "layer.zip", python=MINOR if MINOR != "3.14" else "3.13", bytecode=False)
    assert layer.warnings[0] == "built"


def test_a_lazydeps_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its metadata, or with that of another version, there is no true layer to write."""
    version = package.__version__
    monkeypatch.setattr(package, "__version__", "9.9")
    with pytest.raises(ConfigError, match=f"the running lazydeps is 9.9, and what is installed says {version}"):
        build_layer(tmp_path / "layer.zip")

    def missing(name: str) -> importlib.metadata.Distribution:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(ConfigError, match="is not installed, only found on the path"):
        build_layer(tmp_path / "layer.zip")
    assert left_in(tmp_path) == []
