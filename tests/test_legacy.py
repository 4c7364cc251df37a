"""Archives that are not packs: brought, extracted once, and imported like anything else that is installed."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib.util
import io
import json
import os
import py_compile
import random
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from support_archives import DEFLATED, Entry, tar_member, tar_of, zip_of
from support_command import lazydeps, lazydeps_error, lazydeps_json
from support_disk import Pack, disk, holder, run_pack
from support_http import CONTENT, Answer, Request, ScriptedServer, answer, ranged, s3_error
from support_packs import CACHE_TAG, pack_tree, write_tree

from benchmarks.server import ObjectServer
from lazydeps import _space
from lazydeps._archive import open_archive
from lazydeps._config import Limits
from lazydeps._layout import TAG, _fits, lay_out
from lazydeps._legacy import PIECE
from lazydeps._ref import Ref
from lazydeps._store import LAYOUT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from conftest import Bucket, RunPython

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
NODOT = MINOR.replace(".", "")
THREADS = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
NOISE = random.Random(3).randbytes(9_000_000)
FILES = {
    "alpha/__init__.py": b"from alpha import beta\nWHO = __file__\n",
    "alpha/beta.py": b"N = 39\n",
    "alpha/data.txt": b"the data",
    "alpha/broken.py": b"this is { no Python\n",
    "alpha-1.5.dist-info/METADATA": b"Metadata-Version: 2.1\nName: Alpha\nVersion: 1.5\n",
    "alpha-1.5.dist-info/entry_points.txt": b"[group]\nname = alpha:WHO\n",
    "space/one.py": b"N = 1\n",
}


def as_zip(files: Mapping[str, bytes], prefix: str = "") -> bytes:
    """Return a zip of files."""
    return zip_of(*(Entry(prefix + name, data, method=DEFLATED) for name, data in files.items()))


def as_tar(files: Mapping[str, bytes]) -> bytes:
    """Return a tar of files, named as `tar -C folder .` names them."""
    folders = tar_member("./", kind=b"5") + tar_member("./alpha/", kind=b"5")
    return tar_of(folders, *(tar_member("./" + name, data) for name, data in files.items()))


KINDS = {
    ".zip": as_zip(FILES),
    ".tar": as_tar(FILES),
    ".tar.gz": gzip.compress(as_tar(FILES)),
    ".tgz": gzip.compress(as_tar(FILES)),
    ".tar.zst": zstandard.compress(as_tar(FILES)),
    "-layer.zip": as_zip(FILES, "python/"),
    "-site.zip": as_zip(FILES, f"python/lib/python{MINOR}/site-packages/"),
}
BIG = as_zip({**FILES, "alpha/noise.bin": NOISE, **{f"alpha/m{n}.py": b"X = 1\n" * 500 for n in range(60)}})


def ref_of(url: str, content: bytes) -> str:
    """Return the pinned reference."""
    return f"{url}#sha256={hashlib.sha256(content).hexdigest()}"


def file_ref(folder: Path, name: str, content: bytes) -> str:
    """Write an archive and return its reference."""
    path = folder / name
    path.write_bytes(content)
    return ref_of(path.as_uri(), content)


def run(run_python: RunPython, code: str, *refs: str, **options: Any) -> Any:
    """Run code that sees the references as ``refs`` and leaves what it found in ``found``."""
    head = f"import importlib, json, os, sys, time, lazydeps\nrefs = {list(refs)!r}\n"
    done = run_python(head + code + "\nprint(json.dumps(found))", timeout=60, **options)
    return json.loads(done.stdout.splitlines()[-1])


def error_of(run_python: RunPython, *refs: str, code: str = "import alpha", **options: Any) -> dict[str, Any]:
    """Return class and words of the error that an import ends with."""
    body = f"""
try:
    with lazydeps.load(*refs):
        {code}
    found = None
except lazydeps.LazydepsError as error:
    found = {{"type": type(error).__name__, "message": str(error), **error.facts()}}
"""
    found = run(run_python, body, *refs, **options)
    assert isinstance(found, dict), "no error"
    return found


USE = """
with lazydeps.load(*refs):
    import alpha
    import space.one
import importlib.metadata as metadata, importlib.resources, pkgutil, inspect
report = lazydeps.report()
pack = report.packs[0]
found = {
    "n": alpha.beta.N, "where": alpha.WHO.removeprefix(pack.store), "version": metadata.version("alpha"),
    "data": importlib.resources.files("alpha").joinpath("data.txt").read_text(),
    "source": inspect.getsource(alpha.beta), "modules": sorted(m.name for m in pkgutil.iter_modules(alpha.__path__)),
    "entry": [point.load() == alpha.WHO for point in metadata.entry_points(group="group")],
    "ours": [d.metadata["Name"] for d in metadata.distributions() if str(d._path).startswith(pack.store)],
    "bytecode": open(alpha.beta.__cached__, "rb").read(8)[4:].hex(), "requests": report.requests,
    "reused": pack.store_reused, "host": pack.host, "children": os.listdir("/proc/self/task"),
    "phases": [phase.name for phase in pack.phases], "ref": pack.ref, "store": pack.store,
}
try:
    import alpha.broken
except SyntaxError as error:
    found["broken"] = error.filename.removeprefix(pack.store)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(run_python: RunPython, tmp_path: Path, kind: str) -> None:
    """Each kind of archive works as if installed: modules, data, metadata, sources, bytecode that is never checked."""
    ref = file_ref(tmp_path, "archive" + kind, KINDS[kind])
    found = run(run_python, USE, ref)
    store = Path(found.pop("store"))
    assert store.name == f"{hashlib.sha256(KINDS[kind]).hexdigest()[:32]}-{LAYOUT}-{TAG}"
    assert sorted(path.name for path in store.iterdir()) == ["lock", "parts", "tree", "users", "whole"]
    assert found.pop("phases") == ["lock", "download", "extract", "compile", "wait"]
    assert len(found.pop("children")) == 1
    assert found == {
        "n": 39, "where": "/tree/alpha/__init__.py", "version": "1.5", "data": "the data", "source": "N = 39\n",
        "modules": ["beta", "broken"], "entry": [True], "ours": ["Alpha"], "bytecode": "01000000", "requests": 1,
        "reused": False, "host": "fork", "ref": ref, "broken": "/tree/alpha/broken.py",
    }  # fmt: skip


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two real wheels from the index, one with an extension module."""
    folder = tmp_path_factory.mktemp("wheels")
    python = ["--python-version", MINOR] if sys.version_info < (3, 14) else []
    command = ["uv", "tool", "run", "-q", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", *python]
    subprocess.run(
        [*command, "-d", str(folder), "idna==3.10", "markupsafe==3.0.3"], check=True, timeout=120,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    return sorted(folder.iterdir(), key=lambda path: path.name.lower())


@pytest.mark.build
@pytest.mark.parametrize("host", ["fork", "threads"])
def test_real_wheels_from_s3(run_python: RunPython, wheels: list[Path], bucket: Bucket, host: str) -> None:
    """Wheels from the index load from S3 as they are; a second start finds them in the store and asks for nothing."""
    refs = [ref_of(bucket.put(f"w/{path.name}", path), path.read_bytes()) for path in wheels]
    code = (THREADS if host == "threads" else "") + (
        "with lazydeps.load(*refs):\n    import markupsafe._speedups, idna\n"
        "import importlib.metadata\n"
        "found = [idna.encode('bücher.example').decode(), importlib.metadata.version('MarkupSafe'),\n"
        "         [pack.host for pack in lazydeps.report().packs], lazydeps.report().requests]"
    )
    first = run(run_python, code, *refs, environ=bucket.environ)
    assert first == ["xn--bcher-kva.example", "3.0.3", [host] * 2, 2]
    assert run(run_python, code, *refs, environ=bucket.environ) == [*first[:2], ["none"] * 2, 0]


def test_a_wheel_is_folded_in(run_python: RunPython, tmp_path: Path) -> None:
    """Of a wheel's data folder purelib and platlib are taken, scripts and headers left."""
    info = {"alpha-1.5.dist-info/WHEEL": b"Wheel-Version: 1.0\nTag: py2-none-any\nTag: py3-none-any\n"}
    data = {
        "alpha-1.5.data/purelib/pure.py": b"N = 1\n", "alpha-1.5.data/platlib/sub/plat.py": b"N = 2\n",
        "alpha-1.5.data/scripts/run": b"#!python\n", "alpha-1.5.data/headers/x.h": b"",
    }  # fmt: skip
    ref = file_ref(tmp_path, "alpha-1.5-py3-none-any.whl", as_zip({**FILES, **info, **data}))
    code = """
with lazydeps.load(*refs):
    import alpha, pure, sub.plat
found = [pure.N, sub.plat.N, sorted(os.listdir(lazydeps.report().packs[0].store + "/tree"))]
"""
    names = ["__pycache__", "alpha", "alpha-1.5.dist-info", "pure.py", "space", "sub"]
    assert run(run_python, code, ref) == [1, 2, names]


def test_of_a_layer_only_python_is_taken(run_python: RunPython, tmp_path: Path) -> None:
    """A layer's own folder and this Python's site-packages are joined; programs, libraries, other Pythons stay out."""
    files = {
        "python/alpha/__init__.py": b"N = 1\n", f"python/lib/python{MINOR}/site-packages/alpha/beta.py": b"N = 2\n",
        "python/lib/python3.2/site-packages/alpha/beta.py": b"N = 3\n", "lib/libx.so": b"", "bin/run": b"", "x.py": b"",
    }  # fmt: skip
    code = """
with lazydeps.load(*refs):
    import alpha.beta
found = [alpha.N, alpha.beta.N, os.listdir(lazydeps.report().packs[0].store + "/tree")]
"""
    assert run(run_python, code, file_ref(tmp_path, "layer.zip", as_zip(files))) == [1, 2, ["alpha"]]


def stale(files: Mapping[str, bytes], tmp_path: Path) -> dict[str, bytes]:
    """Return the files with bytecode beside them as pip leaves it: by time, of a source that says something else."""
    written = dict(files)
    for name in files:
        if name.endswith(".py") and "broken" not in name:
            source, cache = tmp_path / "source.py", tmp_path / "cache.pyc"
            source.write_text("N = 'of another source'\nWHO = N\n")
            py_compile.compile(str(source), str(cache), invalidation_mode=py_compile.PycInvalidationMode.TIMESTAMP)
            folder, _, stem = name.rpartition("/")
            written[importlib.util.cache_from_source(f"{folder}/{stem}")] = cache.read_bytes()
    return written


FINDER = {f"__MACOSX/libs/._{name.rpartition('/')[2]}": b"\0\5\26\7" for name in FILES} | {"libs/.DS_Store": b"x"}
WRAPPED = {
    "a folder": as_zip(FILES, "libs/"),
    "a folder, with macOS's": as_zip({**{f"libs/{name}": data for name, data in FILES.items()}, **FINDER}),
    "a folder that is no name": as_zip({k: v for k, v in FILES.items() if "-info" not in k}, "data-science-libs/"),
}


@pytest.mark.parametrize("how", WRAPPED)
def test_the_folder_instead_of_what_is_in_it(run_python: RunPython, tmp_path: Path, how: str) -> None:
    """Of an archive of one folder, with packages in it, what is in it is taken; nothing that macOS adds."""
    code = """
with lazydeps.load(*refs):
    import alpha, space.one
found = [alpha.beta.N, sorted(os.listdir(lazydeps.report().packs[0].store + "/tree"))]
"""
    number, names = run(run_python, code, file_ref(tmp_path, "a.zip", WRAPPED[how]))
    assert number == 39
    assert set(names) - {".DS_Store", "alpha-1.5.dist-info"} == {"alpha", "space"}


@pytest.mark.parametrize(
    "files",
    [
        {"alpha/__init__.py": b"N = 39\n"},
        {"alpha/sub/more.py": b"", "alpha/sub/x-1.dist-info/METADATA": b"", "alpha/N.py": b""},
        {"libs-1.dist-info/METADATA": b""},
        {"a-b.py": b""},
    ],
    ids=["a package", "a vendoring package", "metadata alone", "a script"],
)
def test_a_folder_that_may_be_a_package_stays(files: dict[str, bytes]) -> None:
    """What may be meant as it is, is taken as it is."""
    archive = open_archive(io.BytesIO(as_zip(files)), ".zip", Limits())
    assert {path for paths in lay_out(archive, ".zip", Limits()).paths.values() for path in paths} == set(files)


def test_stale_bytecode_is_never_used(run_python: RunPython, tmp_path: Path) -> None:
    """Bytecode that says by a time what it was compiled from is made anew from the source that stands there."""
    ref = file_ref(tmp_path, "a.zip", as_zip(stale(FILES, tmp_path)))
    found = run(run_python, USE, ref)
    assert (found["n"], found["where"], found["bytecode"]) == (39, "/tree/alpha/__init__.py", "01000000")


MADE = 1_700_000_001  # odd: a zip cannot say it


def installed(folder: Path) -> Path:
    """Write files as pip does, with bytecode beside them that names each source by its time and size."""
    for name, data in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (MADE, MADE))
        if name.endswith(".py") and "broken" not in name:
            mode = py_compile.PycInvalidationMode.TIMESTAMP
            py_compile.compile(str(path), dfile=name, doraise=True, invalidation_mode=mode)
    return folder


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "America/New_York"])
@pytest.mark.parametrize("tool", ["make_archive", "tarfile pax"])
def test_right_bytecode_is_taken_over(run_python: RunPython, tmp_path: Path, tool: str, zone: str) -> None:
    """Bytecode that names the time and size of its source is not compiled again, wherever the archive was made."""
    code = f"""
import shutil, sys, tarfile
if {tool == "make_archive"}:
    shutil.make_archive("made", "zip", sys.argv[1])
else:
    with tarfile.open("made.tar", "w") as made:
        made.add(sys.argv[1], ".")
"""
    tree = installed(tmp_path / "site")
    run_python(code, str(tree), environ={"TZ": zone}, cwd=tmp_path)
    (made,) = tmp_path.glob("made.*")
    ref = ref_of(made.as_uri(), made.read_bytes())
    seen = "from lazydeps import _legacy\ncompiled = []\nreal = _legacy._compile_one\n"
    seen += "_legacy._compile_one = lambda *args: (open(os.environ['SEEN'], 'a').write(args[0] + '\\n'), real(*args))\n"
    environ = {"SEEN": str(tmp_path / "seen"), "LAZYDEPS_DIR": str(tmp_path / zone / tool[:3])}
    (tmp_path / "seen").touch()
    found = run(run_python, seen + USE + "found['twice'] = [alpha.beta.N, alpha.__file__]", ref, environ=environ)
    assert (found["n"], found["bytecode"], found["where"]) == (39, "01000000", "/tree/alpha/__init__.py")
    assert [line.rpartition("/")[2] for line in (tmp_path / "seen").read_text().split()] == ["broken.py"]


@pytest.mark.parametrize("change", ["size", "time"])
@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_bytecode_of_another_source_is_not(run_python: RunPython, tmp_path: Path, suffix: str, change: str) -> None:
    """A source of another size, or of another time, is compiled, whatever bytecode lies beside it."""
    tree = installed(tmp_path / "site")
    path = tree / "alpha/beta.py"
    path.write_bytes(b"N = 40\n" if change == "time" else b"N = 40  # more\n")
    os.utime(path, (MADE + (60 if change == "time" else 0),) * 2)
    made = shutil.make_archive(str(tmp_path / "made"), {".zip": "zip", ".tar": "tar"}[suffix], tree)
    found = run(run_python, USE, ref_of(Path(made).as_uri(), Path(made).read_bytes()))
    assert (found["n"], found["bytecode"]) == (40, "01000000")


def by_time(name: str, data: bytes, folder: Path) -> bytes:
    """Return bytecode that names a source of this content, made at `MADE`."""
    (folder / name).write_bytes(data)
    os.utime(folder / name, (MADE, MADE))
    mode = py_compile.PycInvalidationMode.TIMESTAMP
    cache = py_compile.compile(str(folder / name), doraise=True, invalidation_mode=mode)
    assert cache is not None
    return Path(cache).read_bytes()


@pytest.mark.parametrize("later", [900, 3600, 86400])
def test_a_source_that_was_changed_by_whole_hours(run_python: RunPython, tmp_path: Path, later: int) -> None:
    """It is compiled, although its time may look like that of another time zone: its bytecode is older."""
    files = [("beta.py", b"N = 40\n", MADE + later), (f"__pycache__/beta{CACHE_TAG}", b"", MADE + 1)]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        for name, data, when in files:
            content = data or by_time("beta.py", b"N = 39\n", tmp_path)
            made.writestr(zipfile.ZipInfo(name, time.gmtime(when)[:6]), content)
    ref = ref_of((tmp_path / "a.zip").as_uri(), (tmp_path / "a.zip").read_bytes())
    assert run(run_python, "with lazydeps.load(*refs):\n    import beta\nfound = beta.N", ref) == 40


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a"), ("y", "zz"), ("zz", "y")])
def test_bytecode_that_two_sources_share(run_python: RunPython, tmp_path: Path, names: tuple[str, str]) -> None:
    """A link gives one source the bytecode of another: each runs as it is written."""
    one, two = names
    cache = f"__pycache__/m{CACHE_TAG}"
    with tarfile.open(tmp_path / "a.tar", "w") as made:
        for name, data, when in (
            (f"{one}/m.py", b"N = 'one'\n", MADE),
            (f"{two}/m.py", b"N = 'two'\n", MADE + 7),
            (f"{one}/{cache}", by_time("m.py", b"N = 'one'\n", tmp_path), MADE),
        ):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), when
            made.addfile(info, io.BytesIO(data))
        info = tarfile.TarInfo(f"{two}/{cache}")
        info.type, info.linkname = tarfile.SYMTYPE, f"../../{one}/{cache}"
        made.addfile(info)
    ref = ref_of((tmp_path / "a.tar").as_uri(), (tmp_path / "a.tar").read_bytes())
    code = f"with lazydeps.load(*refs):\n    import {one}.m, {two}.m\nfound = [{one}.m.N, {two}.m.N]"
    assert run(run_python, code, ref) == ["one", "two"]


NOWHERE = {
    "a virtual environment": (
        {f"env/lib/python{MINOR}/site-packages/{name}": data for name, data in FILES.items()} | {"env/bin/x": b""},
        rf"its packages lie in env/lib/python{MINOR}/site-packages/, .*\(cd env/lib/.* && zip",
    ),
    "a folder without metadata": (
        {f"libs/{name}": data for name, data in FILES.items() if "-info" not in name},
        r"everything lies in libs/, so its modules are imported as libs\.NAME",
    ),
    "another Python's layer": (
        {f"python/lib/python3.2/site-packages/{name}": data for name, data in FILES.items()},
        r"here it would not load: .*python3\.2",
    ),
}


@pytest.mark.build
@pytest.mark.parametrize("what", NOWHERE)
def test_lock_warns_of_what_no_import_finds(tmp_path: Path, what: str) -> None:
    """An archive that is sound and of no use, or of none here, is pinned with a warning that says what to do."""
    files, words = NOWHERE[what]
    path = tmp_path / "a.zip"
    path.write_bytes(as_zip(files))
    done = lazydeps("lock", path)
    assert re.search(f"lazydeps: warning: {words}", done.stderr)
    assert done.stdout.splitlines()[-1] == ref_of(path.as_uri(), path.read_bytes())
    assert [re.match(words, warning) is not None for warning in lazydeps_json("lock", path)["warnings"]] == [True]


def test_a_pack_is_an_archive_too(run_python: RunPython, tmp_path: Path) -> None:
    """Pinned by the digest of the whole, a pack is a ``.tar.zst`` like any other. Bytecode in it is kept."""
    write_tree(tmp_path / "tree", {"alpha/__init__.py": "N = 39\n"})
    pack = pack_tree(tmp_path / "p.tar.zst", tmp_path / "tree", boot=["alpha/__init__.py"])
    cache = next((tmp_path / "tree").rglob("*.pyc")).read_bytes()
    code = """
with lazydeps.load(*refs):
    import alpha
found = [alpha.N, open(alpha.__cached__, "rb").read().hex()]
"""
    assert run(run_python, code, ref_of(pack.path.as_uri(), pack.path.read_bytes())) == [39, cache.hex()]


class Unseekable(io.BytesIO):
    """A pipe, to a writer."""

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        raise OSError

    def seek(self, *_: int) -> int:
        raise OSError


FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def written_by(tool: str, folder: Path) -> tuple[str, bytes]:
    """Return what a usual tool makes of a folder, and the suffix that goes with it."""
    if tool.startswith("zipfile"):
        target = Unseekable() if "pipe" in tool else io.BytesIO()
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as opened:
            for path in sorted(folder.rglob("*")):
                if "zip64" in tool and path.is_file():
                    with opened.open(path.relative_to(folder).as_posix(), "w", force_zip64=True) as file:
                        file.write(path.read_bytes())
                else:
                    opened.write(path, path.relative_to(folder))
        return ".zip", target.getvalue()
    if tool.startswith("tarfile"):
        target = io.BytesIO()
        with tarfile.open(fileobj=target, mode="w:gz", format=FORMATS[tool.split()[1]]) as opened:
            opened.add(folder, ".")
        return ".tar.gz", target.getvalue()
    kind = {"tar": "gztar", "make_archive": "zip"}[tool]
    if tool == "tar":
        done = subprocess.run(["tar", "-czf", "-", "-C", folder, "."], check=True, capture_output=True, timeout=30)
        return ".tgz", done.stdout
    return ".zip", Path(shutil.make_archive(str(folder) + "-made", kind, folder)).read_bytes()


@pytest.mark.parametrize(
    "tool",
    ["zipfile", "zipfile to a pipe", "zipfile zip64", "make_archive", *(f"tarfile {n}" for n in FORMATS), "tar"],
)  # fmt: skip
def test_what_usual_tools_write(tmp_path: Path, tool: str) -> None:
    """Archives of usual tools are read: long names, names that are not ASCII, empty files, folders, zip64, streams."""
    folder = tmp_path / "folder"
    files = {
        "a.py": b"N = 1\n",
        "empty.txt": b"",
        "größe/日本.txt": b"x" * 70_000,
        f"{'d' * 90}/{'n' * 90}.py": b"N = 2\n",
    }
    if tool != "tarfile ustar":
        files[f"{'d' * 120}/{'n' * 150}.py"] = b"N = 3\n"
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "no files").mkdir()
    suffix, content = written_by(tool, folder)
    archive = open_archive(io.BytesIO(content), suffix, Limits())
    assert {member.name: b"".join(chunks) for member, chunks in archive.contents()} == files


# -- faults


def start(ref: str, store: Path) -> subprocess.Popen[str]:
    """Start a process that loads an archive and prints what it received."""
    program = (
        f"import lazydeps\nwith lazydeps.load({ref!r}):\n    import alpha.m59\n"
        "assert alpha.beta.N == 39\nprint(lazydeps.report().bytes_received)"
    )
    source = str(Path(__file__).parents[1] / "src")
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": source, "LAZYDEPS_DIR": str(store)}
    return subprocess.Popen(
        [sys.executable, "-c", program], env=environ, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zip of 9 MB: three requests."""
    path = tmp_path_factory.mktemp("big") / "big.zip"
    path.write_bytes(BIG)
    return path


def part_of(store: Path) -> int:
    """Return how much of an archive a store holds."""
    return max((path.stat().st_size for path in store.glob("*/parts/archive")), default=0)


def test_killed_in_the_middle_of_the_download(big: Path, tmp_path: Path) -> None:
    """What has come is not fetched again: the next start asks for the rest."""
    store = tmp_path / "store"
    with ObjectServer({"big.zip": big}, "b", rate=6e6, delay=0.001) as server:
        ref = ref_of(f"{server.endpoint}/b/big.zip", BIG)
        first = start(ref, store)
        deadline = time.monotonic() + 30
        while part_of(store) < 300_000 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(first.pid, 9)
        first.communicate(timeout=30)
        came = part_of(store)
        assert 300_000 <= came < PIECE  # not even a request has to have been answered whole
        assert not list(store.glob("*/tree"))
        again = start(ref, store)
        assert int(again.communicate(timeout=60)[0]) == len(BIG) - came


def test_killed_at_random_instants(big: Path, tmp_path: Path) -> None:
    """Killed anywhere, while it downloads, extracts, compiles or renames, the next start succeeds in that store."""
    moments = random.Random(11)
    ref = ref_of(big.as_uri(), BIG)
    for round_number in range(4):
        store = tmp_path / f"store-{round_number}"
        first = start(ref, store)
        time.sleep(moments.uniform(0.1, 0.6))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(first.pid, 9)
        first.communicate(timeout=30)
        again = start(ref, store)
        again.communicate(timeout=60)
        assert again.returncode == 0
        (tree,) = store.glob("*/tree")
        assert (tree / "alpha/noise.bin").read_bytes() == NOISE
        assert len(list((tree / "alpha/__pycache__").glob("*.pyc"))) == 62


STEPS = [
    ("ArchiveWorker.fetch", 1), ("ArchiveWorker._extract", 1), ("ArchiveStore.mark", 1), ("os.unlink", 1),
    ("ArchiveWorker._compile", 1), ("os.rename", 1), ("ArchiveStore.mark", 2),
]  # fmt: skip


@pytest.mark.parametrize(("step", "call"), STEPS)
def test_killed_after_each_step(run_python: RunPython, tmp_path: Path, step: str, call: int) -> None:
    """Killed right after a step, whether the store remembers it or not, the next start ends with the same tree."""
    ref = file_ref(tmp_path, "a.zip", KINDS[".zip"])
    code = f"""
from lazydeps import _legacy, _session
real, calls = _legacy.{step}, []
def killed(*args):
    result = real(*args)
    calls.append(1)
    if len(calls) == {call}:
        os.kill(os.getpid(), 9)
    return result
_legacy.{step} = killed
_session.TAKEOVERS = 0
try:
    with lazydeps.load(*refs):
        import alpha
    found = "loaded"
except lazydeps.LazydepsError as error:
    found = str(error)
"""
    found = run(run_python, code, ref)
    # After the last step the tree is there, and its importer does not need the worker any more.
    assert "workers died" in found or (found, step, call) == ("loaded", "ArchiveStore.mark", 2)
    again = run(run_python, USE, ref)
    assert (again["n"], again["requests"]) == (39, 0)  # what had come was kept
    (store,) = (tmp_path / "lazydeps").iterdir()
    assert {path.name for path in store.iterdir()} - {"extracted"} == {"lock", "parts", "tree", "users", "whole"}


def test_two_processes_at_once(big: Path, tmp_path: Path) -> None:
    """Of four starts over one store one brings the archive; the others wait for it and ask for nothing."""
    with ObjectServer({"big.zip": big}, "b", rate=20e6, delay=0.001) as server:
        ref = ref_of(f"{server.endpoint}/b/big.zip", BIG)
        starts = [start(ref, tmp_path / "store") for _ in range(4)]
        received = sorted(int(process.communicate(timeout=60)[0]) for process in starts)
    assert received == [0, 0, 0, len(BIG)]


@pytest.mark.parametrize("name", ["tree", "whole", "parts", "garbage in whole", "no tree and no whole"])
def test_a_damaged_store_heals(run_python: RunPython, tmp_path: Path, name: str) -> None:
    """Whatever part of a store was removed, the next start ends with the right modules."""
    ref = file_ref(tmp_path, "a.zip", KINDS[".zip"])
    store = Path(run(run_python, USE, ref)["store"])
    if name == "garbage in whole":
        (store / "whole").write_text("sha256:" + "0" * 64)
        (store / "tree/alpha/beta.py").write_text("N = 'of another tree'\n")
        shutil.rmtree(store / "tree/alpha/__pycache__")
    for part in ("tree", "parts"):
        if part in name:
            shutil.rmtree(store / part)
    if name.endswith("whole") and "garbage" not in name:
        (store / "whole").unlink()
    assert run(run_python, USE, ref)["n"] == 39


def serve(script: list[Any], content: bytes) -> ScriptedServer:
    """Return a server that answers with each entry in turn, and well from then on."""

    def answer_next(request: Request) -> Answer:
        return script.pop(0)(request) if script else ranged(request, content)

    return ScriptedServer(answer_next)


def flipped(request: Request, content: bytes) -> Answer:
    """Return a good answer with its last byte changed."""
    reply = ranged(request, content)
    return Answer(reply.data[:-1] + bytes([reply.data[-1] ^ 1]))


@pytest.mark.parametrize("host", ["fork", "threads"])
def test_a_source_on_a_bad_day(run_python: RunPython, host: str) -> None:
    """Refusals, resets, short answers and a flipped bit: everything is asked for again, and only what is missing."""
    content = KINDS[".zip"]
    script = [
        lambda request: s3_error(503, "SlowDown"),
        lambda request: Answer(b"", "reset"),
        lambda request: Answer(ranged(request, content).data[:-200], "reset"),
        lambda request: flipped(request, content),
    ]
    with serve(script, content) as server:
        url = f"{server.endpoint}/a.zip"
        code = (THREADS if host == "threads" else "") + USE
        assert run(run_python, code, ref_of(url, content))["n"] == 39
    assert len(server.requests) == 5


def test_another_object_in_its_place(run_python: RunPython, tmp_path: Path) -> None:
    """What is not the pinned archive is fetched twice, never accepted, and never extracted."""
    with ScriptedServer(lambda request: ranged(request, KINDS[".tar"])) as server:
        error = error_of(run_python, ref_of(f"{server.endpoint}/a.zip", KINDS[".zip"]))
    assert error["type"] == "IntegrityError"
    assert error["expected"] == "sha256:" + hashlib.sha256(KINDS[".zip"]).hexdigest()
    assert error["actual"] == "sha256:" + hashlib.sha256(KINDS[".tar"]).hexdigest()
    assert len(server.requests) == 2
    assert not [path for path in tmp_path.rglob("*") if path.name in ("tree", "work", "whole")]


@pytest.mark.parametrize("old", [b"x", KINDS[".tar"], CONTENT], ids=["shorter", "longer", "much longer"])
def test_the_rest_of_another_object(run_python: RunPython, tmp_path: Path, old: bytes) -> None:
    """What an earlier start left of something else is found out and thrown away."""
    ref = file_ref(tmp_path, "a.zip", KINDS[".zip"])
    store = tmp_path / "lazydeps" / f"{hashlib.sha256(KINDS['.zip']).hexdigest()[:32]}-{LAYOUT}-{TAG}"
    (store / "parts").mkdir(parents=True, mode=0o700)
    for folder in (store.parent, store, store / "parts"):
        folder.chmod(0o700)
    (store / "parts/archive").write_bytes(old)
    assert run(run_python, USE, ref)["n"] == 39


def test_replaced_while_it_is_read(run_python: RunPython) -> None:
    """Every request but the first is for the very object that the first one met."""

    def script(request: Request) -> Answer:
        if request.span(BIG)[0]:
            return answer(412) if "if-match" in request.headers else answer(500)
        return ranged(request, BIG)

    with ScriptedServer(script) as server:
        error = error_of(run_python, ref_of(f"{server.endpoint}/a.zip", BIG))
    assert (error["type"], error["status"]) == ("FetchError", 412)


def test_a_full_disk_is_known_before(run_python: RunPython, tmp_path: Path, big: Path) -> None:
    """Space is checked before the download, and again for what the archive says that it holds."""
    patch = "from lazydeps import _store\n_store.Store.room = lambda self: ({}, None)\n"
    body = """{}
try:
    with lazydeps.load(*refs):
        import alpha
except lazydeps.InsufficientSpaceError as error:
    found = error.needed
"""
    ref = ref_of(big.as_uri(), BIG)
    assert run(run_python, body.format(patch.format(5_000_000)), ref) == len(BIG)
    assert part_of(tmp_path / "lazydeps") == 0
    needed = run(run_python, body.format(patch.format(len(BIG))), ref)
    assert len(NOISE) < needed < len(NOISE) + 2_000_000
    assert part_of(tmp_path / "lazydeps") == len(BIG)
    assert not list((tmp_path / "lazydeps").glob("*/work"))


def test_leaving_by_an_exception_ends_the_worker(run_python: RunPython, big: Path) -> None:
    """No child is left over; what has come stays, and a later import starts a worker again."""
    with ObjectServer({"big.zip": big}, "b", rate=6e6, delay=0.001) as server:
        code = """
try:
    with lazydeps.load(*refs):
        time.sleep(0.4)
        raise KeyError
except KeyError:
    pass
children = open(f"/proc/self/task/{os.getpid()}/children").read()
import alpha
found = [children, alpha.beta.N, lazydeps.report().bytes_received < 9_000_000]
"""
        found = run(run_python, code, ref_of(f"{server.endpoint}/b/big.zip", BIG))
    assert found == ["", 39, True]


def test_a_load_that_takes_too_long(run_python: RunPython, big: Path) -> None:
    """The timeout holds for archives too, and names what to raise."""
    with ObjectServer({"big.zip": big}, "b", rate=1e6, delay=0.001) as server:
        environ = {"LAZYDEPS_TIMEOUT": "1"}
        error = error_of(run_python, ref_of(f"{server.endpoint}/b/big.zip", BIG), environ=environ)
    assert error["type"] == "FetchError"


DEADLINES = {
    "deadline": ("lazydeps.deadline(0.7), lazydeps.load(*refs)", "the time that lazydeps.deadline left"),
    "deadline inside": ("lazydeps.load(*refs), lazydeps.deadline(0.7)", "the time that lazydeps.deadline left"),
    "timeout": (
        "lazydeps.load(*refs, timeout=0.7)",
        "the 0.7 seconds that LAZYDEPS_TIMEOUT or load(timeout=…) gave it",
    ),
}


@pytest.mark.parametrize("host", ["fork", "threads"])
@pytest.mark.parametrize("way", DEADLINES)
def test_a_deadline_bounds_the_wait(run_python: RunPython, way: str, host: str) -> None:
    """A source that never answers: the import fails in time, names what bounded it, and leaves nobody behind."""
    block, words = DEADLINES[way]
    code = (
        (THREADS if host == "threads" else "import threading\n")
        + f"""
before = threading.active_count()
try:
    with {block}:
        import alpha
except lazydeps.FetchError as error:
    lazydeps.uninstall()
    children = open(f"/proc/self/task/{{os.getpid()}}/children").read()
    found = [str(error), threading.active_count() - before, children]
"""
    )
    with ScriptedServer(lambda request: Answer(b"", "hang")) as server:
        said, *left_over = run(run_python, code, ref_of(f"{server.endpoint}/a.zip", b"x"))
    # The worker has the same time and may be first to find it used up; then it says what it waited for.
    assert words in said or "a.zip" in said
    assert left_over == [0, ""]


@pytest.mark.parametrize("host", ["fork", "threads"])
def test_a_worker_knows_the_time_that_is_left(run_python: RunPython, host: str) -> None:
    """A source that asks for a longer pause than there is time is not asked again: its refusal is the error."""
    code = (THREADS if host == "threads" else "") + (
        "try:\n    lazydeps.load(*refs, timeout=1)\n    import alpha\n"
        "except lazydeps.FetchError as error:\n    found = error.status"
    )
    with ScriptedServer(lambda request: answer(503, **{"Retry-After": "5"})) as server:
        assert run(run_python, code, ref_of(f"{server.endpoint}/a.zip", b"x")) == 503
        assert len(server.requests) == 1


def test_a_deadline_bounds_the_pinning(run_python: RunPython) -> None:
    """Without a pin the archive is fetched by ``load`` itself, which the deadline bounds as well."""
    code = """
try:
    with lazydeps.deadline(1):
        lazydeps.load(*refs)
except lazydeps.FetchError as error:
    found = error.status
"""
    with ScriptedServer(lambda request: answer(503, **{"Retry-After": "5"})) as server:
        url = f"{server.endpoint}/a.zip"
        assert run(run_python, code, url, environ={"LAZYDEPS_ALLOW_UNPINNED": "1"}) == 503
        assert len(server.requests) == 1


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tar.zst"])
def test_workers_in_threads_import_nothing(run_python: RunPython, tmp_path: Path, suffix: str) -> None:
    """A process forked while a thread imports a module can never import that module: so no worker's thread does."""
    code = f"""
import builtins
{THREADS}
main, real, seen = threading.get_ident(), builtins.__import__, []
def watched(name, *rest, **options):
    before = set(sys.modules)
    module = real(name, *rest, **options)
    if threading.get_ident() != main:
        seen.extend(set(sys.modules) - before)
    return module
builtins.__import__ = watched
with lazydeps.load(*refs):
    time.sleep(0.5)  # or this thread would import the most of it
    import alpha
found = [seen, lazydeps.report().packs[0].host]
"""
    assert run(run_python, code, file_ref(tmp_path, "a" + suffix, KINDS[suffix])) == [[], "threads"]


# -- beside other stores


class Archived(Pack):
    """The tree of a `Pack`, in a zip; ``sources`` are modules of 60 kB that are next to nothing in the zip."""

    def __init__(self, folder: Path, name: str, *, sources: int = 0) -> None:
        super().__init__(folder, name)
        self.path = folder / f"{name}.zip"
        self.files = {
            path.relative_to(self.tree).as_posix(): path.read_bytes()
            for path in self.tree.rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }
        self.files |= {f"many/m{n}.py": b"T = '" + b"x" * 60_000 + b"'\n" for n in range(sources)}
        self.path.write_bytes(as_zip(self.files))
        self.digest = hashlib.sha256(self.path.read_bytes()).hexdigest()

    @property
    def ref(self) -> str:
        """The reference that names the zip."""
        return f"{self.path.as_uri()}#sha256={self.digest}"

    @property
    def folder(self) -> str:
        """The name of its store."""
        return f"{self.digest[:32]}-{LAYOUT}-{TAG}"


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Archived:
    """An archive of about 2.5 MB."""
    return Archived(tmp_path_factory.mktemp("archived"), "zipped")


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> list[Pack]:
    """Two packs of about 2.5 MB."""
    folder = tmp_path_factory.mktemp("packs")
    return [Pack(folder, name) for name in ("one", "two")]


def names(directory: Path) -> set[str]:
    """Return what lies in the folder of stores."""
    return {path.name for path in directory.iterdir()}


def test_what_is_held_stays(archived: Archived, tmp_path: Path) -> None:
    """The store of an archive is nobody's to remove while a process has it loaded, and anybody's afterwards."""
    with holder(archived, tmp_path / "s") as process:
        assert _space.collect(str(tmp_path / "s")) == ([], [archived.folder])
        assert process.communicate("go\n", timeout=30)[0] == "cold zipped\n"
    assert _space.collect(str(tmp_path / "s")) == ([archived.folder], [])
    assert names(tmp_path / "s") == set()


def test_uninstall_lets_go(run_python: RunPython, archived: Archived, tmp_path: Path) -> None:
    """Loaded from what an earlier start left it is held too, and `uninstall` gives it up."""
    run_pack(archived, tmp_path / "lazydeps")
    code = """
from lazydeps import _space
place = os.environ["LAZYDEPS_DIR"]
with lazydeps.load(*refs):
    import zipped
found = [lazydeps.report().packs[0].store_reused, _space.collect(place)]
lazydeps.uninstall()
found.append(_space.collect(place))
"""
    environ = {"LAZYDEPS_DIR": str(tmp_path / "lazydeps")}
    found = run(run_python, code, archived.ref, environ=environ)
    assert found == [True, [[], [archived.folder]], [[archived.folder], []]]


def test_who_waits_holds(run_python: RunPython, big: Path) -> None:
    """A store that is on its way is held by the process that waits for it, not only by its worker."""
    code = """
from lazydeps import _runtime, _space
place = os.environ["LAZYDEPS_DIR"]
lazydeps.load(*refs)
(session,) = _runtime._sessions.values()
while not session._try_open() and session.store._users is None:
    time.sleep(0.01)
session.stop()
found = [session.is_open, len(_space.collect(place)[1])]
"""
    with ObjectServer({"big.zip": big}, "b", rate=3e6, delay=0.001) as server:
        assert run(run_python, code, ref_of(f"{server.endpoint}/b/big.zip", BIG)) == [False, 1]


def test_other_stores_make_room(archived: Archived, packs: list[Pack], tmp_path: Path) -> None:
    """Packs make room for an archive, and an archive for packs: what was not used for longest goes first."""
    one, two = packs
    with disk(tmp_path / "disk", "size=7m") as place:
        assert run_pack(one, place / "s") == ["one", 900_000]
        assert run_pack(archived, place / "s") == ["zipped", 900_000]
        assert names(place / "s") == {archived.folder}
        assert run_pack(one, place / "s") == ["one", 900_000]
        assert run_pack(two, place / "s") == ["two", 900_000]
        assert names(place / "s") == {one.folder, two.folder}
        with holder(one, place / "s"):
            error = run_pack(archived, place / "s")
        assert error["type"] == "InsufficientSpaceError"
        assert f"the archive needs {error['needed']} more bytes" in error["message"]
        assert f"held by running processes ({one.folder})" in error["message"]


def test_a_pack_does_not_remove_an_archive_in_use(archived: Archived, packs: list[Pack], tmp_path: Path) -> None:
    """Who finds no room because of an archive that somebody has loaded is told of its store."""
    with disk(tmp_path / "disk", "size=7m") as place, holder(archived, place / "s") as process:
        (place / "filler").write_bytes(bytes(2 << 20))
        error = run_pack(packs[0], place / "s")
        assert error["type"] == "InsufficientSpaceError"
        assert f"held by running processes ({archived.folder})" in error["message"]
        assert process.communicate("go\n", timeout=30)[0] == "cold zipped\n"


@pytest.mark.parametrize("host", ["fork", "threads"])
@pytest.mark.parametrize(
    ("step", "sources", "free", "removed"), [("download", 0, 1.0, 2), ("extract", 0, 3.6, 1), ("compile", 60, 9.2, 1)]
)
def test_full_in_the_middle(
    packs: list[Pack], tmp_path: Path, step: str, sources: int, free: float, removed: int, host: str
) -> None:
    """A disk that is full in spite of the check, in whatever step: another store goes, and the step goes on."""
    archived = Archived(tmp_path, step, sources=sources)
    with disk(tmp_path / "disk", "size=20m") as place:
        for pack in packs:
            run_pack(pack, place / "s")
        facts = os.statvfs(place)
        (place / "filler").write_bytes(bytes(facts.f_bavail * facts.f_frsize - int(free * 1e6)))
        before = "from lazydeps import _store\n_store.Store.room = lambda self: (1 << 40, None)"
        assert run_pack(archived, place / "s", before=before, host=host) == [step, 900_000]
        assert names(place / "s") == {archived.folder, *(pack.folder for pack in packs[removed:])}
        tree = place / "s" / archived.folder / "tree"
        for name, content in archived.files.items():
            assert (tree / name).read_bytes() == content
        assert len(list(tree.rglob("*.pyc"))) == 3 + sources


@pytest.mark.build
def test_gc_knows_archives(archived: Archived, tmp_path: Path) -> None:
    """`lazydeps gc` names an archive's digest and interpreter, leaves it while it is in use, and removes it then."""
    place = tmp_path / "s"
    with holder(archived, place):
        (store,) = lazydeps_json("gc", "--dir", place)["stores"]
        assert (store["fate"], store["name"], store["root"]) == ("held", archived.folder, f"sha256:{archived.digest}")
        assert (store["interpreter"], store["distributions"]) == (TAG, 0)
        assert store["size"] > 2_000_000
    line = lazydeps("gc", "--dir", place).stdout.splitlines()[0]
    assert line.startswith(f"removed sha256:{archived.digest}  an archive for {TAG}, 0 distributions, ")
    assert names(place) == set()


@pytest.mark.parametrize("start", ["subprocess", "spawn", "fork"])
def test_child_processes(run_python: RunPython, tmp_path: Path, start: str) -> None:
    """Children find an archive's modules where their parent has them from, and ask the source for nothing."""
    code = {
        "subprocess": """
import subprocess
program = "import alpha, space.one, lazydeps; print(alpha.WHO, lazydeps.report().requests)"
found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.split()
""",
        "spawn": """
import multiprocessing, importlib
with multiprocessing.get_context("spawn").Pool(1) as pool:
    found = [pool.apply(importlib.import_module("alpha.job").who), "0"]
""",
        "fork": """
import multiprocessing, importlib
with multiprocessing.get_context("fork").Pool(1) as pool:
    found = [pool.apply(importlib.import_module("alpha.job").who), "0"]
""",
    }[start]
    content = as_zip(
        {**FILES, "alpha/job.py": b"def who():\n    from space import one\n    import alpha\n    return alpha.WHO\n"}
    )
    body = f"""
if __name__ == "__main__":
    with lazydeps.load(*refs):
        import alpha
    {code.strip().replace(chr(10), chr(10) + "    ")}
    found.append(alpha.WHO)
else:
    found = None
"""
    with ScriptedServer(lambda request: ranged(request, content)) as server:
        child, requests, parent = run(run_python, body, ref_of(f"{server.endpoint}/a.zip", content))
        assert (child, requests) == (parent, "0")
        assert len(server.requests) == 1


def test_folders_of_tests_are_not_compiled(run_python: RunPython, tmp_path: Path) -> None:
    """What lies in a folder called ``tests`` is there, without bytecode, and is imported like anything else."""
    files = {
        "tests/top.py": b"N = 1\n", "alpha/tests/__init__.py": b"N = 2\n", "alpha/tests/deep/inner.py": b"N = 3\n",
        "alpha/testsuite/it.py": b"N = 4\n", "alpha/tests.py/it.py": b"N = 5\n",
    }  # fmt: skip
    code = """
with lazydeps.load(*refs):
    import pathlib
    import alpha
tree = pathlib.Path(lazydeps.report().packs[0].store, "tree")
cached = sorted(path.name.partition(".")[0] for path in tree.rglob("*.pyc"))
sys.dont_write_bytecode = True
import tests.top, alpha.tests.deep.inner
found = [cached, tests.top.N, alpha.tests.N, alpha.tests.deep.inner.N]
"""
    ref = file_ref(tmp_path, "a.zip", as_zip({**FILES, **files}))
    assert run(run_python, code, ref) == [["__init__", "beta", "it", "it", "one"], 1, 2, 3]


# -- where it stands


def test_the_search_order(run_python: RunPython, tmp_path: Path) -> None:
    """The function's own code comes first and does not wait; then the archive; then what the runtime bundles."""
    write_tree(tmp_path / "own", {"mine.py": "N = 'own'\n", "shared.py": "N = 'own'\n"})
    write_tree(tmp_path / "late", {"alpha.py": "N = 'late'\n", "late.py": "N = 'late'\n"})
    ref = file_ref(tmp_path, "a.zip", as_zip({**FILES, "shared.py": b"N = 'archive'\n"}))
    code = f"""
sys.path.insert(0, {str(tmp_path / "own")!r})
sys.path.append({str(tmp_path / "late")!r})
with lazydeps.load(*refs):
    import mine, shared
    waited = lazydeps.report().stalled
    import alpha, late
found = [mine.N, shared.N, waited, alpha.beta.N, late.N]
"""
    assert run(run_python, code, ref) == ["own", "own", 0, 39, "late"]


def test_own_code_imports_while_the_source_hangs(run_python: RunPython, tmp_path: Path) -> None:
    """An archive that does not come keeps nobody from the standard library and the function's own modules."""
    write_tree(tmp_path / "own", {"mine.py": "N = 'own'\n"})
    with ScriptedServer(lambda request: Answer(b"", "hang")) as server:
        code = f"""
sys.path.insert(0, {str(tmp_path / "own")!r})
lazydeps.load(*refs)
import mine, wave
found = mine.N
lazydeps.uninstall()
"""
        assert run(run_python, code, ref_of(f"{server.endpoint}/a.zip", b"x")) == "own"


def test_packs_and_archives_together(run_python: RunPython, tmp_path: Path) -> None:
    """The first that has a module wins, pack or archive; namespace packages and metadata join over all of them."""
    metadata = "Metadata-Version: 2.1\nName: alpha\nVersion: 9.9\n"
    write_tree(
        tmp_path / "tree",
        {"alpha.py": "WHO = 'pack'\n", "gamma.py": "WHO = 'pack'\n", "space/two.py": "N = 2\n",
         "alpha-9.9.dist-info/METADATA": metadata},
    )  # fmt: skip
    write_tree(tmp_path / "folder", {"space/three.py": "N = 3\n"})
    boot = ["alpha.py", "gamma.py", "space/two.py"]
    versions = {"alpha": "9.9"}
    pack = pack_tree(tmp_path / "p.tar.zst", tmp_path / "tree", boot=boot, distributions=versions)
    refs = [f"{pack.path.as_uri()}#root={pack.root}", file_ref(tmp_path, "a.zip", KINDS[".zip"])]
    code = f"""
sys.path.append({str(tmp_path / "folder")!r})
with lazydeps.load(*refs):
    import alpha, gamma, space.one, space.two, space.three
import importlib.metadata as metadata
found = [alpha.WHO == "pack", gamma.WHO, space.one.N, space.two.N, space.three.N, metadata.version("alpha"),
         [pack.ref for pack in lazydeps.report().packs] == refs]
"""
    assert run(run_python, code, *refs) == [True, "pack", 1, 2, 3, "9.9", True]
    assert run(run_python, code, *reversed(refs)) == [False, "pack", 1, 2, 3, "1.5", True]


def test_after_uninstall_nothing_is_found(run_python: RunPython, tmp_path: Path) -> None:
    """Modules that were imported stay; no other is found, and no distribution."""
    code = """
with lazydeps.load(*refs):
    import alpha
lazydeps.uninstall()
import importlib.metadata
found = [alpha.beta.N]
for name in ("space", "space.one"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        found.append(error.name)
try:
    importlib.metadata.version("alpha")
except importlib.metadata.PackageNotFoundError:
    found.append("no distribution")
"""
    assert run(run_python, code, file_ref(tmp_path, "a.zip", KINDS[".zip"])) == [
        39,
        "space",
        "space",
        "no distribution",
    ]


def test_packs_alone_do_not_pay(run_python: RunPython, tmp_path: Path) -> None:
    """Without such a reference none of the code for archives is imported."""
    write_tree(tmp_path / "tree", {"alpha.py": "N = 1\n"})
    pack = pack_tree(tmp_path / "p.tar.zst", tmp_path / "tree", boot=["alpha.py"])
    code = """
with lazydeps.load(*refs):
    import alpha
found = [name for name in sys.modules if name.startswith("lazydeps._") and ("legacy" in name or "_archive" in name)]
"""
    assert run(run_python, code, f"{pack.path.as_uri()}#root={pack.root}") == []


# -- what fits


def wheel(*tags: str, **files: bytes) -> bytes:
    """Return a wheel with these tags."""
    text = "Wheel-Version: 1.0\n" + "".join(f"Tag: {tag}\n" for tag in tags)
    return as_zip({"alpha.py": b"", "alpha-1.dist-info/WHEEL": text.encode(), **files})


OTHERS = {
    "wheel for another Python": (".whl", wheel("cp39-cp39-manylinux2014_x86_64"), "cp39-cp39"),
    "wheel for another system": (".whl", wheel("py3-none-win_amd64", "py3-none-win32"), "win_amd64"),
    "extension for another Python": (
        ".zip", as_zip({"alpha.py": b"", "pkg/fast.cpython-39-x86_64-linux-gnu.so": b""}), "cpython-39",
    ),
    "extension for another machine": (
        ".tar", tar_of(tar_member(f"alpha/fast.cpython-{NODOT}-sparc64-linux-gnu.so")), "sparc64",
    ),
    "extension for Windows": (".zip", as_zip({"alpha.py": b"", "fast.cp312-win_amd64.pyd": b""}), "win_amd64"),
    "layer for another Python": (".zip", as_zip({"python/lib/python3.2/site-packages/alpha.py": b""}), "python3.2"),
}  # fmt: skip


@pytest.mark.parametrize("other", OTHERS)
def test_for_another_interpreter(run_python: RunPython, tmp_path: Path, other: str) -> None:
    """What cannot run here is refused with what it is for and what was needed, before it is extracted."""
    suffix, content, actual = OTHERS[other]
    error = error_of(run_python, file_ref(tmp_path, "a" + suffix, content))
    assert error["type"] == "PackMismatchError"
    assert actual in error["actual"]
    assert actual in error["message"]
    assert NODOT in error["expected"].replace(".", "")
    assert not list((tmp_path / "lazydeps").glob("*/work"))


def test_extensions_for_several_interpreters(run_python: RunPython, tmp_path: Path) -> None:
    """An extension that is there for this interpreter may be there for others too."""
    files = {f"pkg/fast.{tag}.so": b"" for tag in (TAG, "cpython-39-x86_64-linux-gnu", "pypy39-pp73-x86_64-linux-gnu")}
    ref = file_ref(tmp_path, "a.zip", as_zip({**FILES, **files, "pkg/stable.abi3.so": b"", "pkg/lib.so": b""}))
    assert run(run_python, USE, ref)["n"] == 39


@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="tags are those of one platform")
@pytest.mark.parametrize(
    ("tag", "fits"),
    [
        ("py3-none-any", True), ("py2.py3-none-any", True), ("py2-none-any", False), ("py311-none-any", True),
        ("py399-none-any", False), (f"cp{NODOT}-cp{NODOT}-manylinux_2_17_x86_64.manylinux2014_x86_64", True),
        (f"cp{NODOT}-cp{NODOT}-linux_x86_64", True), (f"cp{NODOT}-cp{NODOT}-manylinux2014_aarch64", False),
        (f"cp{NODOT}-cp{NODOT}-musllinux_1_2_x86_64", False), (f"cp{NODOT}-cp{NODOT}t-manylinux2014_x86_64", False),
        ("cp39-abi3-manylinux2014_x86_64", True), ("cp399-abi3-manylinux2014_x86_64", False),
        (f"cp{NODOT}-none-manylinux2014_x86_64", True), ("cp39-none-any", False), ("pp39-pypy39_pp73-any", False),
        ("py3-none-macosx_11_0_arm64", False), ("py3-none-manylinux1_x86_64", True), ("nonsense", False), ("", False),
    ],
)  # fmt: skip
def test_tags(tag: str, fits: bool) -> None:
    """A wheel's tags are read as PEP 425 has them."""
    assert _fits(tag) is fits


# -- references and the command


def test_unpinned_archives(run_python: RunPython, tmp_path: Path) -> None:
    """Without a pin an archive is refused, unless the environment allows it: then its digest of now is the pin."""
    ref = file_ref(tmp_path, "a.zip", KINDS[".zip"])
    url = ref.partition("#")[0]
    error = error_of(run_python, url)
    assert error["type"] == "ConfigError"
    assert f"lazydeps lock {url}" in error["message"]
    found = run(run_python, USE, url, environ={"LAZYDEPS_ALLOW_UNPINNED": "1"})
    assert (found["n"], found["ref"], found["requests"]) == (39, ref, 0)


@pytest.mark.parametrize(
    ("text", "suffix", "is_archive"),
    [
        ("s3://b/a.zip", ".zip", True), ("s3://b/A.WHL", ".whl", True), ("s3://b/a.tar.gz", ".tar.gz", True),
        ("https://h/a.tgz?X-Amz=1/2.tar", ".tgz", True), ("s3://b/a.tar.zst", ".tar.zst", False),
        ("s3://b/a.tar.zst#sha256=" + "0" * 64, ".tar.zst", True),
        ("s3://b/a.zip#root=sha256:" + "0" * 64, ".zip", False),
        ("s3://b/a.tar.xz", None, False),
    ],
)  # fmt: skip
def test_which_references_are_archives(text: str, suffix: str | None, is_archive: bool) -> None:
    """The pin decides; without one the name does, and then a ``.tar.zst`` is a pack."""
    ref = Ref.parse(text)
    assert (ref.suffix, ref.is_archive) == (suffix, is_archive)


@pytest.mark.build
def test_lock(run_python: RunPython, tmp_path: Path, bucket: Bucket) -> None:
    """``lazydeps lock`` prints the reference that a start accepts, for a path and a URL, and says what is in it."""
    content = KINDS[".tar.gz"]
    path = tmp_path / "a.tar.gz"
    path.write_bytes(content)
    ref = ref_of(bucket.put("a.tar.gz", path), content)
    facts = lazydeps_json("lock", bucket.url("a.tar.gz"), environ=bucket.environ)
    unpacked = sum(map(len, FILES.values()))
    assert facts == {"ref": ref, "size": len(content), "files": len(FILES), "unpacked_size": unpacked, "warnings": []}
    assert lazydeps("lock", path).stdout.splitlines()[-1] == ref_of(path.as_uri(), content)
    assert run(run_python, USE, ref, environ=bucket.environ)["n"] == 39
    assert lazydeps("run", "--pack", path, "-c", "import alpha; print(alpha.beta.N)").stdout.strip() == "39"


@pytest.mark.build
def test_lock_refuses_what_a_start_refuses(tmp_path: Path) -> None:
    """A hostile archive, another one than was pinned, and a name that says nothing get the errors of a start."""
    path = tmp_path / "evil.zip"
    path.write_bytes(as_zip({"../evil.py": b""}))
    error = lazydeps_error("lock", path)
    assert (error["type"], error["member"]) == ("UnsafeArchiveError", "../evil.py")
    good = tmp_path / "good.zip"
    good.write_bytes(KINDS[".zip"])
    assert lazydeps_error("lock", f"{good}#sha256={'0' * 64}")["type"] == "IntegrityError"
    other = tmp_path / "good.rar"
    other.write_bytes(b"Rar!")
    assert ".whl" in lazydeps_error("lock", other)["message"]
