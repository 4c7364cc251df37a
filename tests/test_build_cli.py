"""The `lazydeps` command as a person uses it, with real wheels through uv; every test runs it as a process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support_command import COMMAND, command_environ, lazydeps, lazydeps_error, lazydeps_json, on_a_terminal
from support_packs import ARCH, pack_tree, write_tree

from lazydeps._ref import Ref
from lazydeps.build import read
from lazydeps.build.cli import COMMANDS
from lazydeps.errors import IntegrityError, PackFormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Bucket

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
SMALL = ("six", "idna", "markupsafe", "python-dateutil")
ESCAPE = "\x1b["


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `lazydeps pack … --json` says about a pack of a few small wheels, one with an extension."""
    out = tmp_path_factory.mktemp("small") / "small.tar.zst"
    return lazydeps_json("pack", *SMALL, "-o", out, "--python", MINOR, "--level", "3")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small site-packages folder, written by hand."""
    folder = tmp_path_factory.mktemp("site") / "site-packages"
    for name in ("one", "two"):
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n\n")
        (info / "RECORD").write_text(f"{name}/__init__.py,,\n")
        (folder / name).mkdir()
    (folder / "one/__init__.py").write_text("WHO = 'one'\n")
    (folder / "one/rare.py").write_text("RARE = True\n")
    (folder / "two/__init__.py").write_text(
        "import pathlib\nTEXT = (pathlib.Path(__file__).parent / 'read.txt').read_text()\n"
    )
    (folder / "two/read.txt").write_text("read while it is imported")
    (folder / "two/other.txt").write_text("not read")
    return folder


@pytest.fixture
def tmpdir(tmp_path: Path) -> Path:
    """A folder for TMPDIR, empty, so that a test sees what is left there."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


def left_in(folder: Path) -> list[str]:
    """Return what stands in a folder."""
    return sorted(path.name for path in folder.iterdir())


def sets_of(pack: str | Path) -> dict[str, str]:
    """Return each packed file's set."""
    return {entry["path"]: entry["set"] for entry in lazydeps_json("inspect", pack, "--files")["contents"]}


# -- pack


def test_the_same_requirements_give_the_same_pack(small: dict[str, Any], tmp_path: Path, tmpdir: Path) -> None:
    """A second run, in another folder with another TMPDIR, hash seed and time zone, writes the same bytes."""
    environ = {"TMPDIR": str(tmpdir), "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    words = ["pack", *SMALL[::-1], "-o", "again.tar.zst", "--level", "3", "--jobs", "1"]
    again = lazydeps_json(*words, cwd=tmp_path, environ=environ)
    assert again["root"] == small["root"]
    assert (tmp_path / "again.tar.zst").read_bytes() == Path(small["path"]).read_bytes()
    assert left_in(tmpdir) == []


def test_the_facts_are_those_of_the_pack(small: dict[str, Any]) -> None:
    """Every figure of `pack --json` is what tar, the file system and `inspect` find."""
    path = Path(small["path"])
    listed = subprocess.run(["tar", "--zstd", "-tf", path], capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    files = [name for name in listed if name]
    assert small["files"] == len(files)
    assert small["size"] == path.stat().st_size
    assert 0 < small["boot_size"] < small["size"]
    assert small["ref"] == f"{path.as_uri()}#root={small['root']}"
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", small["root"])
    assert set(small["distributions"]) >= set(SMALL)
    assert (small["python"], small["arch"]) == (MINOR, ARCH)
    assert {"six.py", "dateutil/__init__.py"} < set(files)
    unzipped = subprocess.run(["zstd", "-dc", path], capture_output=True, check=True).stdout
    path.with_suffix("").write_bytes(unzipped)
    with tarfile.open(path.with_suffix("")) as archive:
        assert small["unpacked_size"] == sum(member.size for member in archive)
    facts = lazydeps_json("inspect", path)
    assert {name: facts[name] for name in ("root", "ref", "size", "boot_size", "unpacked_size", "files")} == {
        name: small[name] for name in ("root", "ref", "size", "boot_size", "unpacked_size", "files")
    }
    assert facts["distributions"] == small["distributions"]
    assert facts["sets"] == small["sets"]


def test_tar_extracts_what_plain_python_imports(small: dict[str, Any], tmp_path: Path) -> None:
    """`tar --zstd -xf` into an empty folder and PYTHONPATH are all it takes, in an interpreter without site."""
    subprocess.run(["tar", "--zstd", "-xf", small["path"], "-C", tmp_path], check=True)
    code = (
        "import markupsafe._speedups, dateutil.parser, idna, six; print(idna.encode('bücher').decode(), six.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["xn--bcher-kva", str(tmp_path / "six.py")]


def test_a_requirements_file(small: dict[str, Any], tmp_path: Path) -> None:
    """`-r` takes pip's files, together with other requirements, and gives the pack that the words give."""
    (tmp_path / "requirements.txt").write_text(
        "# ours\nsix\n-r more.txt\n" + f"markupsafe=={small['distributions']['markupsafe']}\n"
    )
    (tmp_path / "more.txt").write_text("idna ; python_version > '3'\n")
    facts = lazydeps_json(
        "pack", "-r", tmp_path / "requirements.txt", "python-dateutil", "-o", tmp_path / "p.tar.zst", "--level", "3"
    )
    assert facts["root"] == small["root"]


def test_an_installed_folder(site: Path, tmp_path: Path) -> None:
    """`--from-dir` packs a folder as it stands; by default its distributions' modules are imported and recorded."""
    facts = lazydeps_json("pack", "--from-dir", site, "-o", tmp_path / "p.tar.zst", "--level", "3")
    assert facts["distributions"] == {"one": "1.0", "two": "1.0"}
    assert (facts["arch"], facts["failed_imports"]) == ("any", {})
    sets = sets_of(tmp_path / "p.tar.zst")
    assert sets["two/read.txt"] == "boot"
    assert (sets["two/other.txt"], sets["one/rare.py"]) == ("data", "cold")
    done = lazydeps("run", "--pack", tmp_path / "p.tar.zst", "-c", "import two; print(two.TEXT)")
    assert done.stdout == "read while it is imported\n"


def test_a_script_is_recorded(site: Path, tmp_path: Path) -> None:
    """`--trace-script` records a program: what it does not import is cold."""
    script = tmp_path / "handler.py"
    script.write_text("import one.rare\n\ndef handler(event, context):\n    import two\n")
    out = tmp_path / "p.tar.zst"
    lazydeps("pack", "--from-dir", site, "-o", out, "--level", "3", "--trace-script", script)
    tag = sys.implementation.cache_tag
    sets = sets_of(out)
    assert sets[f"one/__pycache__/rare.{tag}.pyc"] == "boot"
    assert sets[f"two/__pycache__/__init__.{tag}.pyc"] == "cold"


def test_a_trace_is_saved_and_used_again(site: Path, tmp_path: Path) -> None:
    """`--save-trace` and `--trace-file` give the same root, and the second runs nothing of the packages."""
    trace = tmp_path / "trace.json"
    words = ["pack", "--from-dir", site, "--level", "3", "-o"]
    statement = f"import two, one; open({str(tmp_path / 'ran')!r}, 'a').write('x')"
    first = lazydeps_json(*words, tmp_path / "a.tar.zst", "--trace", statement, "--save-trace", trace)
    assert json.loads(trace.read_text())
    default = lazydeps_json(*words, tmp_path / "b.tar.zst")
    assert default["root"] != first["root"], "the statement's order must matter, or this shows nothing"
    second = lazydeps_json(*words, tmp_path / "c.tar.zst", "--trace-file", trace)
    assert second["root"] == first["root"]
    assert (tmp_path / "ran").read_text() == "x"


def test_no_interpreter_of_the_version(tmp_path: Path) -> None:
    """A target whose Python is not here says how to get it, before anything is installed."""
    error = lazydeps_error("pack", "six", "-o", tmp_path / "p.tar.zst", "--python", "3.99")
    assert error["type"] == "ConfigError"
    assert "3.99" in error["message"]
    assert "uv python install 3.99" in error["message"]
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("requirement", "named"),
    [("six==99.9", "six==99.9"), ("no-such-project-of-lazydeps", "no-such-project-of-lazydeps"), ("six=1", "six=1")],
)
def test_a_requirement_that_cannot_be_had(tmp_path: Path, tmpdir: Path, requirement: str, named: str) -> None:
    """The error names the requirement; nothing is written."""
    environ = {"TMPDIR": str(tmpdir)}
    (tmp_path / "out").mkdir()
    error = lazydeps_error("pack", "idna", requirement, "-o", tmp_path / "out/p.tar.zst", environ=environ)
    assert named in error["message"]
    assert left_in(tmp_path / "out") == left_in(tmpdir) == []


def test_a_pack_for_the_other_architecture(tmp_path: Path) -> None:
    """A pack for arm64 builds on x86-64 (and the reverse), and is refused here before it runs."""
    other = {"x86_64": "arm64", "arm64": "x86_64"}[ARCH]
    out = tmp_path / "p.tar.zst"
    facts = lazydeps_json(
        "pack", "numpy", "-o", out, "--python", MINOR, "--arch", other, "--level", "1", "--trace", "import numpy"
    )
    assert facts["arch"] == other
    machine = {"arm64": "aarch64"}.get(other, other)
    boot = [path for path, kind in sets_of(out).items() if kind == "boot"]
    assert any(f"_multiarray_umath.cpython-{MINOR.replace('.', '')}-{machine}" in path for path in boot)
    done = lazydeps("run", "--pack", out, "-c", "print('ran')", code=1)
    assert done.stdout == ""
    assert done.stderr.startswith("lazydeps: PackMismatchError: this pack was built for Python ")
    assert f"linux {other} and this process is Python {MINOR} on linux {ARCH}" in done.stderr


def test_what_pack_says_to_a_person(site: Path, tmp_path: Path) -> None:
    """The reference stands alone on its line, beside the table of the sets and the next step."""
    done = lazydeps("pack", "--from-dir", site, "-o", "p.tar.zst", "--level", "3", cwd=tmp_path)
    ref = lazydeps_json("inspect", tmp_path / "p.tar.zst")["ref"]
    assert ref in done.stdout.splitlines()
    rows = [line.split()[0] for line in done.stdout.splitlines() if line[:1].isalpha()]
    assert [row for row in rows if row in ("boot", "data", "cold", "total")] == ["boot", "data", "cold", "total"]
    assert "lazydeps push p.tar.zst s3://BUCKET/PREFIX/" in done.stdout
    assert "Recording" in done.stderr


def test_the_time_in_the_archive_is_the_users(site: Path, tmp_path: Path) -> None:
    """Members date from 1980, or from SOURCE_DATE_EPOCH."""
    times = []
    for environ in ({}, {"SOURCE_DATE_EPOCH": "1700000000"}):
        out = tmp_path / f"{len(environ)}.tar.zst"
        lazydeps("pack", "--from-dir", site, "-o", out, "--level", "1", "-q", environ=environ)
        out.with_suffix("").write_bytes(subprocess.run(["zstd", "-dc", out], capture_output=True, check=True).stdout)
        with tarfile.open(out.with_suffix("")) as archive:
            times.append({member.mtime for member in archive})
    assert times == [{315532800}, {1700000000}]


# -- run


def run_small(small: dict[str, Any], *words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run ``lazydeps run`` with the small pack's reference."""
    return lazydeps("run", "--pack", small["ref"], *words, **options)


def test_code_a_script_and_a_module(small: dict[str, Any], tmp_path: Path) -> None:
    """Each of the three ways sees its arguments, its standard input, its name and its folder as under plain Python."""
    code = "import sys, os, six; print(sys.argv, __name__, sys.stdin.read(), sys.path[0] in ('', os.getcwd()))"
    done = run_small(small, "-c", code, "-x", "--report", "word", stdin="typed")
    assert done.stdout == "['-c', '-x', '--report', 'word'] __main__ typed True\n"
    (tmp_path / "beside.py").write_text("HERE = True\n")
    script = tmp_path / "program.py"
    script.write_text("import sys, dateutil, beside\nprint(sys.argv, __name__, __file__, beside.HERE)\n")
    done = run_small(small, script, "--pack", "x", "-c")
    assert done.stdout == f"{[str(script), '--pack', 'x', '-c']} __main__ {script} True\n"
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text("import sys, idna\nprint(sys.argv[1:], __name__, __package__)\n")
    done = run_small(small, "-m", "package", "-m", "y", cwd=tmp_path)
    assert done.stdout == "['-m', 'y'] __main__ package\n"


def test_a_module_of_the_pack_runs(small: dict[str, Any]) -> None:
    """`-m` finds modules in the pack, cold ones as well."""
    done = run_small(small, "-m", "dateutil.easter")
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize(
    ("program", "code", "words"),
    [
        ("raise SystemExit(7)", 7, ""),
        ("import sys; sys.exit('words')", 1, "words\n"),
        ("import os; os._exit(9)", 9, ""),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", 128 + signal.SIGTERM, ""),
    ],
)
def test_the_exit_code_is_the_programs(
    small: dict[str, Any], tmpdir: Path, program: str, code: int, words: str
) -> None:
    """However it ends; and its temporary store is gone."""
    done = run_small(small, "-c", f"import six; {program}", code=code, environ={"TMPDIR": str(tmpdir)})
    assert done.stderr.endswith(words)
    assert left_in(tmpdir) == []


def test_the_store_is_temporary(small: dict[str, Any], tmpdir: Path) -> None:
    """Without --dir the store is a new one, there while the program runs and gone when it has ended."""
    program = "import os, six; print(os.environ['LAZYDEPS_DIR'], six.__file__, os.path.exists(six.__file__))"
    done = run_small(small, "-c", program, environ={"TMPDIR": str(tmpdir)})
    store, file, _ = done.stdout.split()
    assert Path(store).is_relative_to(tmpdir)
    assert file.startswith(store)
    assert left_in(tmpdir) == []


def test_the_report(small: dict[str, Any], tmp_path: Path) -> None:
    """`--report` says in words, `--report-json` in a file, that no cold frame was fetched; stdout is the program's."""
    report = tmp_path / "report.json"
    done = run_small(small, "--report", "--report-json", report, "-c", "import six; print('out')")
    assert done.stdout == "out\n"
    assert "cold frames fetched on demand: 0" in done.stderr
    assert f"pack     {small['ref']}" in done.stderr
    (pack,) = json.loads(report.read_text())["packs"]
    assert pack["landed"] == {**pack["frames_total"], "cold": 0}
    assert pack["frames_total"]["cold"] > 0
    code = "import importlib.util, inspect, six; inspect.getsource(six)"
    run_small(small, "--report-json", report, "-c", code)
    assert json.loads(report.read_text())["packs"][0]["cold_frames_fetched"] > 0


def test_a_store_that_is_kept(small: dict[str, Any], tmp_path: Path) -> None:
    """With --dir, which may be relative, a second run sends no request; the store holds no copy of the archive."""
    report, store = tmp_path / "report.json", tmp_path / "store"
    reports = []
    for _ in range(2):
        run_small(small, "--dir", "store", "--report-json", report, "-c", "import six, dateutil", cwd=tmp_path)
        reports.append(json.loads(report.read_text())["packs"][0])
    assert reports[0]["requests"] > 0
    assert (reports[1]["requests"], reports[1]["bytes_received"], reports[1]["store_reused"]) == (0, 0, True)
    archive = Path(small["path"]).read_bytes()
    for path in store.rglob("*"):
        if path.is_file():
            assert path.read_bytes()[:4] not in (archive[:4], b"\x28\xb5\x2f\xfd"), path
    assert any(store.rglob("*.so"))


def test_several_packs_and_paths(small: dict[str, Any], site: Path, tmp_path: Path) -> None:
    """`--pack` may be given again, and takes paths."""
    lazydeps("pack", "--from-dir", site, "-o", tmp_path / "p.tar.zst", "--level", "3", "-q")
    words = ["run", "--pack", "p.tar.zst", "--pack", small["path"], "-c", "import one, six; print(one.WHO)"]
    assert lazydeps(*words, cwd=tmp_path).stdout == "one\n"


def test_a_program_whose_import_is_in_no_pack(small: dict[str, Any]) -> None:
    """What no pack has is an ordinary ModuleNotFoundError, and exit code 1."""
    done = run_small(small, "-c", "import not_in_any_pack", code=1)
    assert done.stderr.endswith("ModuleNotFoundError: No module named 'not_in_any_pack'\n")


# -- usage and failures


@pytest.mark.parametrize(
    "command",
    COMMANDS,
)
def test_help_has_examples(command: str) -> None:
    """Each command's help ends with examples of itself, laid out as they are typed."""
    text = lazydeps(command, "--help").stdout
    assert text.startswith(f"Usage: lazydeps {command} ") or command == "run"
    examples = text.partition("Examples:\n")[2].splitlines()
    assert sum(line.strip().startswith(f"lazydeps {command} ") for line in examples) >= 1, text
    assert all(line.startswith("  ") for line in examples if line)


def test_the_list_of_commands_is_whole_and_quick() -> None:
    """On 80 columns no command's words are cut, and none of the commands' files is imported to print them."""
    code = "import sys, lazydeps.build.cli as c; c.run_cli(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "COLUMNS": "80"}, capture_output=True, text=True, check=True
    )
    assert "..." not in done.stdout.partition("Commands:")[2]
    loaded = done.stderr.split()
    assert "lazydeps.build.cli" in loaded
    assert not {"boto3", "elftools", "packaging", "lazydeps.build.commands.pack"} & set(loaded)


def test_help_and_version() -> None:
    """The command names its subcommands, and its version."""
    text = lazydeps("--help").stdout
    for command in COMMANDS:
        assert re.search(rf"^  {command} +\w", text, re.MULTILINE)
    assert re.fullmatch(r"lazydeps, version \d\S*\n", lazydeps("--version").stdout)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["inspect"], "Missing argument 'PACK'"),
        (["inspect", "p", "--colour"], "No such option"),
        (["pack", "six"], "Missing option '-o' / '--out'"),
        (["pack", "six", "-o", "p", "--level", "30"], "not in the range 1<=x<=22"),
        (["pack", "-r", "nowhere.txt", "-o", "p"], "nowhere.txt"),
        (["pack", "--from-dir", "nowhere", "-o", "p"], "nowhere"),
        (["pack", "six", "-o", "nowhere/p.tar.zst"], "there is no folder"),
        (["pack", "six", "-o", "."], "is a directory"),
        (["pack", "six", "-o", "p", "--save-trace", "nowhere/t.json"], "there is no folder"),
        (["pack", "-o", "p"], "nothing to pack"),
        (["pack", "six", "--from-dir", ".", "-o", "p"], "cannot be combined with"),
        (["pack", "six", "-o", "p", "--python", "3.9"], "from 3.11 on"),
        (["pack", "six", "-o", "p", "--arch", "riscv64"], "x86_64 or arm64"),
        (["push", "nowhere.tar.zst", "s3://b/"], "nowhere.tar.zst"),
        (["extract", "p"], "Missing option '-o' / '--out'"),
        (["run", "-c", "print(1)"], "Missing option '--pack'"),
        (["run", "--pack", "p"], "nothing to run"),
        (["run", "--pack", "p", "-c"], "nothing to run"),
        (["run", "--pack", "p", "nowhere.py"], "there is no program nowhere.py"),
        (["run", "--pack", "p", "--timeout", "soon", "-c", "1"], "'soon' is not a valid float"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_usage(tmp_path: Path, words: list[str], said: str) -> None:
    """Wrong usage is exit code 2, in words on standard error, with nothing on standard output and nothing written."""
    done = lazydeps(*words, code=2, cwd=tmp_path)
    assert said in done.stderr
    assert "Usage: lazydeps" in done.stderr
    assert done.stdout == ""
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        (["inspect", "nowhere.tar.zst"], "ConfigError", "there is no pack at nowhere.tar.zst"),
        (["verify", "file:///nowhere/p.tar.zst"], "FetchError", "/nowhere/p.tar.zst"),
        (["extract", "ftp://host/p.tar.zst", "-o", "out"], "ConfigError", "is not a reference"),
        (["inspect", "p.tar.zst#root=sha256:12"], "ConfigError", "malformed"),
        (["inspect", "not-a-pack"], "PackFormatError", "not"),
        (["verify", "empty"], "FetchError", "has 0 bytes"),
        (["push", "not-a-pack", "s3://bucket/"], "PackFormatError", "not"),
        (["extract", "https://127.0.0.1:9/p.tar.zst", "-o", "out"], "ConfigError", "not pinned"),
        (["extract", "s3://bucket/p.tar.zst", "-o", "out"], "ConfigError", "lazydeps inspect"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_failures_are_json_too(tmp_path: Path, words: list[str], kind: str, said: str) -> None:
    """With --json a failure is one object on standard output; people read it on standard error. Exit code 1."""
    (tmp_path / "not-a-pack").write_bytes(b"PK\x03\x04" + bytes(5000))
    (tmp_path / "p.tar.zst").write_bytes(b"x")
    (tmp_path / "empty").write_bytes(b"")
    before = left_in(tmp_path)
    done = lazydeps(*words, "--json", code=1, cwd=tmp_path)
    error = json.loads(done.stdout)["error"]
    assert error["type"] == kind
    assert said in error["message"]
    assert done.stderr.splitlines()[-1] == f"lazydeps: {kind}: {error['message']}"
    assert lazydeps(*words, code=1, cwd=tmp_path).stdout == ""
    assert left_in(tmp_path) == before


@pytest.mark.parametrize("pack", ["nowhere.tar.zst", "file:///nowhere/p.tar.zst#root=sha256:" + "ab" * 32])
def test_run_without_its_pack(tmp_path: Path, tmpdir: Path, pack: str) -> None:
    """A pack that is not there: exit code 1, the place in the message, no traceback, and the program does not start."""
    done = lazydeps("run", "--pack", pack, "-c", "print('ran')", code=1, cwd=tmp_path, environ={"TMPDIR": str(tmpdir)})
    assert done.stdout == ""
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr
    assert left_in(tmpdir) == []


def test_run_refuses_what_is_not_pinned(tmp_path: Path, bucket: Bucket) -> None:
    """A file that the caller names is pinned to what it holds; something remote without a pin is refused."""
    write_tree(tmp_path / "tree", {"alpha.py": "A = 1\n"})
    pack = pack_tree(tmp_path / "p.tar.zst", tmp_path / "tree", boot=["alpha.py"])
    url = bucket.put("p.tar.zst", pack.path)
    words = ["-c", "import alpha; print(alpha.A)"]
    assert lazydeps("run", "--pack", pack.path, *words).stdout == "1\n"
    done = lazydeps("run", "--pack", url, *words, code=1, environ=bucket.environ)
    assert "not pinned" in done.stderr
    assert lazydeps("run", "--pack", f"{url}#root={pack.root}", *words, environ=bucket.environ).stdout == "1\n"
    allowed = {**bucket.environ, "LAZYDEPS_ALLOW_UNPINNED": "1"}
    assert lazydeps("run", "--pack", url, *words, environ=allowed).stdout == "1\n"


# -- inspect, verify, extract


def test_inspect_fetches_no_frames(small: dict[str, Any], tmp_path: Path) -> None:
    """What a pack holds is read from its root and its index: damage elsewhere goes unseen, a pinned root does not."""
    content = bytearray(Path(small["path"]).read_bytes())
    content[-1] ^= 1
    (tmp_path / "p.tar.zst").write_bytes(content)
    assert lazydeps_json("inspect", tmp_path / "p.tar.zst")["root"] == small["root"]
    error = lazydeps_error("inspect", f"{tmp_path / 'p.tar.zst'}#root=sha256:{'ab' * 32}")
    assert (error["type"], error["actual"]) == ("IntegrityError", small["root"])


def test_inspect_in_words_and_from_s3(small: dict[str, Any], bucket: Bucket) -> None:
    """A person sees the target, the sets and every distribution; a reference in S3 gives the same facts."""
    url = bucket.put("a b/p.tar.zst", Path(small["path"]))
    facts = lazydeps_json("inspect", url, "--files", environ=bucket.environ)
    assert facts["ref"] == f"{url}#root={small['root']}"
    assert {**facts, "ref": ""} == {**lazydeps_json("inspect", small["path"], "--files"), "ref": ""}
    lines = lazydeps("inspect", small["path"], "--files").stdout.splitlines()
    assert lines[0].startswith(f"Python {MINOR} on linux {ARCH}")
    assert lines[-1] == small["ref"]
    assert {f"{name} {version}" for name, version in small["distributions"].items()} <= set(lines)
    assert sum(line.endswith(" six.py") and line.startswith("cold") for line in lines) == 1


def test_verify(small: dict[str, Any], bucket: Bucket) -> None:
    """A sound pack is sound, on this disk and in S3, pinned or not; what was not pinned is said."""
    facts = lazydeps_json("verify", small["ref"])
    assert facts == {"ref": small["ref"], "pinned": True, "frames": facts["frames"], "size": small["size"]}
    assert facts["frames"] >= 3
    said = lazydeps("verify", small["path"]).stdout
    assert f"All {facts['frames']} frames" in said
    assert "was not pinned" in said
    url = bucket.put("p.tar.zst", Path(small["path"]))
    assert lazydeps_json("verify", url, environ=bucket.environ)["frames"] == facts["frames"]


def test_verify_finds_a_flipped_byte_in_every_part(small: dict[str, Any], tmp_path: Path) -> None:
    """One byte of each part of the pack, from the first to the last: exit code 1 and the error's kind."""
    content = Path(small["path"]).read_bytes()
    boot, size = small["boot_size"], small["size"]
    places = {
        "magic": 0,
        "root's length": 5,
        "root": 40,
        "boot frame": boot // 2,
        "boot frame's end": boot - 1,
        "index's length": boot + 4,
        "index": boot + 40,
        "behind the middle": (boot + size) // 2,
        "last frame": size - 30,
        "last byte": size - 1,
    }
    damaged = tmp_path / "p.tar.zst"
    for name, at in places.items():
        damaged.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        error = lazydeps_error("verify", f"{damaged}#root={small['root']}")
        assert error["type"] in ("IntegrityError", "PackFormatError"), name
        if name not in ("magic", "root's length", "index's length"):
            assert error["type"] == "IntegrityError", name
            assert error["expected"] != error["actual"]
    for shorter in (size - 1, boot, 100):
        damaged.write_bytes(content[:shorter])
        assert lazydeps_error("verify", f"{damaged}#root={small['root']}")["type"] in ("PackFormatError", "FetchError")
    damaged.write_bytes(content + b"\0")
    assert lazydeps_error("verify", f"{damaged}#root={small['root']}")["type"] == "PackFormatError"


def test_every_byte_of_a_pack_counts(tmp_path: Path) -> None:
    """Each single byte of a small pack, flipped, is found by what `verify` does."""
    write_tree(tmp_path / "tree", {"a.py": "A = 1\n", "data.txt": "data", "b.py": "B = 2\n"})
    pack = pack_tree(tmp_path / "p.tar.zst", tmp_path / "tree", boot=["a.py"], distributions={"a": "1"})
    content = pack.path.read_bytes()
    damaged = tmp_path / "damaged.tar.zst"
    ref = Ref.parse(f"{damaged.as_uri()}#root={pack.root}")
    unseen = []
    for at in range(len(content)):
        damaged.write_bytes(content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :])
        try:
            with read.open_pack(ref) as opened:
                read.verify(opened)
            unseen.append(at)
        except (IntegrityError, PackFormatError):
            pass
    assert unseen == []


def test_extract_writes_the_tree(small: dict[str, Any], bucket: Bucket, tmp_path: Path) -> None:
    """What `extract` writes is what tar extracts, from this disk and from S3, modes included."""
    (tmp_path / "tar").mkdir()
    subprocess.run(["tar", "--zstd", "-xf", small["path"], "-C", tmp_path / "tar"], check=True)
    facts = lazydeps_json("extract", small["path"], "-o", "out", cwd=tmp_path)
    assert facts == {"ref": small["ref"], "path": str(tmp_path / "out"), "files": small["files"]}
    url = bucket.put("p.tar.zst", Path(small["path"]))
    (tmp_path / "empty").mkdir()
    lazydeps("extract", f"{url}#root={small['root']}", "-o", tmp_path / "empty", environ=bucket.environ)

    def content(folder: str) -> dict[str, tuple[bytes, int]]:
        base = tmp_path / folder
        return {
            str(path.relative_to(base)): (path.read_bytes(), path.stat().st_mode & 0o111)
            for path in base.rglob("*")
            if path.is_file()
        }

    assert len(content("tar")) == small["files"]
    assert content("out") == content("tar") == content("empty")
    assert left_in(tmp_path) == ["empty", "out", "tar"]


def test_extract_never_mixes(small: dict[str, Any], tmp_path: Path) -> None:
    """A folder with something in it, or a file, is refused and left alone; a damaged pack leaves nothing."""
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("mine")
    for out in (full, full / "mine"):
        error = lazydeps_error("extract", small["path"], "-o", out)
        assert (error["type"], "empty folder" in error["message"]) == ("ConfigError", True)
    assert (full / "mine").read_text() == "mine"
    content = bytearray(Path(small["path"]).read_bytes())
    content[-20] ^= 1
    (tmp_path / "p.tar.zst").write_bytes(content)
    assert lazydeps_error("extract", tmp_path / "p.tar.zst", "-o", tmp_path / "new")["type"] == "IntegrityError"
    assert left_in(tmp_path) == ["full", "p.tar.zst"]


def test_extract_from_afar_needs_a_pin(small: dict[str, Any], bucket: Bucket, tmp_path: Path) -> None:
    """A remote reference without a pin is refused, unless the environment says otherwise."""
    url = bucket.put("p.tar.zst", Path(small["path"]))
    error = lazydeps_error("extract", url, "-o", tmp_path / "out", environ=bucket.environ)
    assert (error["type"], left_in(tmp_path)) == ("ConfigError", [])
    allowed = {**bucket.environ, "LAZYDEPS_ALLOW_UNPINNED": "1"}
    assert lazydeps_json("extract", url, "-o", tmp_path / "out", environ=allowed)["files"] == small["files"]


# -- Ctrl-C


@pytest.fixture
def start(tmp_path: Path, tmpdir: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a command in a process group of its own, as a shell does, with TMPDIR in `tmpdir`."""
    started = []

    def start(*words: str | Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, *map(str, words)],
            env=command_environ({"TMPDIR": str(tmpdir)}),
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait until something is so; fail when the process ends first, or after a minute."""
    give_up = time.monotonic() + 60
    while not condition():
        if process.poll() is not None or time.monotonic() > give_up:
            pytest.fail(f"it did not come so far: {process.poll()}\n{process.communicate()}")
        time.sleep(0.01)


def is_alive(group: int) -> bool:
    """Tell whether a process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_ctrl_c_while_a_program_runs(
    small: dict[str, Any], tmp_path: Path, tmpdir: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    """The program gets it, and its temporary store goes with it: exit code 130, or what the program makes of it."""
    program = "import six, time, pathlib; pathlib.Path('started').touch(); time.sleep(60)"
    polite = f"try:\n    {program}\nexcept KeyboardInterrupt:\n    print('bye')\n    raise SystemExit(5)"
    for code, status, said in ((program, 130, ""), (polite, 5, "bye\n")):
        process = start("run", "--pack", small["ref"], "-c", code)
        wait_until((tmp_path / "started").exists, process)
        assert left_in(tmpdir) != []
        os.killpg(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=30)
        assert (process.returncode, out) == (status, said)
        assert left_in(tmpdir) == []
        assert not is_alive(process.pid)
        (tmp_path / "started").unlink()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: str(number.name))
def test_a_run_that_is_ended_from_outside(
    small: dict[str, Any],
    tmp_path: Path,
    tmpdir: Path,
    start: Callable[..., subprocess.Popen[str]],
    number: signal.Signals,
) -> None:
    """A signal to the command alone, as a CI job's timeout sends it, reaches the program; the store is removed."""
    code = "import six, time, pathlib; pathlib.Path('started').touch(); time.sleep(60)"
    process = start("run", "--pack", small["ref"], "-c", code)
    wait_until((tmp_path / "started").exists, process)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert left_in(tmpdir) == []
    assert not is_alive(process.pid)


@pytest.mark.parametrize("phase", ["trace", "write"])
def test_ctrl_c_during_pack(
    site: Path, tmp_path: Path, tmpdir: Path, start: Callable[..., subprocess.Popen[str]], phase: str
) -> None:
    """Whatever it is doing: no pack, no half of one, no scratch folder and no process is left; exit code 130."""
    folder, out = tmp_path / "site", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    (folder / "one.py").write_text("")
    words: list[str | Path] = ["pack", "--from-dir", folder, "-o", out / "p.tar.zst"]
    if phase == "trace":
        begun = tmp_path / "begun"
        words += ["--trace", f"open({str(begun)!r}, 'w'); import time; time.sleep(60)"]
        condition: Callable[[], object] = begun.exists
    else:
        (folder / "big.bin").write_bytes(os.urandom(1 << 20) * 96)
        words += ["--level", "22", "-j", "2"]

        def condition() -> object:
            return left_in(out)

    process = start(*words)
    wait_until(condition, process)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Interrupted" in said
    assert "Traceback" not in said
    assert left_in(out) == left_in(tmpdir) == []
    assert not is_alive(process.pid)


# -- colours


def test_escape_codes_only_on_a_terminal(small: dict[str, Any], tmp_path: Path) -> None:
    """In a pipe there is no escape code, on a terminal NO_COLOR takes the colours away."""
    colour = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")
    environ = {"TERM": "xterm-256color"}
    for words, code in ((["verify", small["path"]], 0), (["inspect", small["path"]], 0), (["verify", "nowhere"], 1)):
        done = lazydeps(*words, code=code, environ=environ)
        assert ESCAPE not in done.stdout + done.stderr
        assert "\r" not in done.stdout + done.stderr
    assert colour.search(on_a_terminal("verify", small["path"], environ={}))
    assert not colour.search(on_a_terminal("verify", small["path"], environ={"NO_COLOR": "1"}))
    assert colour.search(on_a_terminal("verify", "nowhere", code=1, environ={}))
    assert not colour.search(on_a_terminal("verify", "nowhere", code=1, environ={"NO_COLOR": "1"}))
