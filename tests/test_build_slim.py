"""Slimming: what is left out, what stays whatever a rule says, what is said about it. Real wheels, real processes."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import RunPython
from support_command import lazydeps, lazydeps_error, lazydeps_json

from lazydeps.build import read, resolve, slim
from lazydeps.build.elf import interface
from lazydeps.build.interpreters import canonical_arch, require_interpreter
from lazydeps.build.options import PackOptions
from lazydeps.build.patterns import matches
from lazydeps.build.strip_tree import strip_tree
from lazydeps.build.trace import Trace

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
ARCH = canonical_arch(os.uname().machine)
NUMPY_KEEPS = (
    "numpy/testing/__init__.py",
    "numpy/py.typed",
    "numpy/_core/_multiarray_tests.",
    "numpy/random/LICENSE.md",
)


def site_packages(folder: Path, files: dict[str, str], *, name: str = "one") -> Path:
    """Write an installed distribution, whose RECORD lists all its files."""
    info = f"{name}-1.0.dist-info"
    entries = {f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n\n", **files}
    for path, text in entries.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    (folder / info / "RECORD").write_text("".join(f"{path},,\n" for path in [*entries, f"{info}/RECORD"]))
    return folder


def packed_files(pack: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the files of a pack with their sizes and sets."""
    return {entry["path"]: entry for entry in lazydeps_json("inspect", pack["path"], "--files")["contents"]}


def pack_site(site: Path, out: Path, *words: str | Path) -> dict[str, Any]:
    """Run `lazydeps pack --from-dir`, quickly."""
    return lazydeps_json("pack", "--from-dir", site, "-o", out, "--level", "1", *words)


def python(folder: Path, code: str, *options: str) -> str:
    """Run code in a Python that has nothing but a folder."""
    done = subprocess.run(
        [sys.executable, *options, "-S", "-B", "-c", code],
        env={"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """numpy, zstandard and click as uv installs them."""
    folder = tmp_path_factory.mktemp("site") / "site-packages"
    interpreter = require_interpreter(MINOR)
    resolve.install(["numpy", "zstandard", "click"], into=folder, interpreter=interpreter, arch=ARCH, glibc="2.34")
    resolve.normalise(folder, drop_scripts=True)
    return folder


@pytest.fixture(scope="module")
def slimmed(site: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the command says of those, stripped, with the default rules."""
    return pack_site(site, tmp_path_factory.mktemp("slim") / "p.tar.zst", "--strip", "--trace", "import numpy")


@pytest.fixture(scope="module")
def extracted(slimmed: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The slimmed pack, extracted."""
    folder = tmp_path_factory.mktemp("out") / "tree"
    lazydeps("extract", slimmed["path"], "-o", folder, "-q")
    return folder


# -- patterns


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*.pyi", "a/b/c.pyi", True),
        ("*.pyi", "c.pyi", True),
        ("*.pyi", "a/c.pyix", False),
        ("a/*.txt", "a/b.txt", True),
        ("a/*.txt", "a/b/c.txt", False),
        ("a/**/*.txt", "a/c.txt", True),
        ("a/**/*.txt", "a/b/d/c.txt", True),
        ("a/**", "a/b/c", True),
        ("a/**", "a", False),
        ("a/**", "ab/c", False),
        ("*/**/tests/**", "a/tests/x.py", True),
        ("*/**/tests/**", "a/b/tests/c/x.py", True),
        ("*/**/tests/**", "tests/x.py", False),
        ("*/**/tests/**", "a/tests.py", False),
        ("numpy/_core", "numpy/_core/include/x.h", True),
        ("numpy/_core", "my/numpy/_core/x.h", False),
        ("docs", "a/docs/b.txt", True),
        ("docs/", "docs/b.txt", True),
        ("a?c", "abc", True),
        ("a+b", "a+b", True),
        ("a+b", "aab", False),
    ],
)
def test_patterns(pattern: str, path: str, expected: bool) -> None:
    """`*` stays in a name, `**` crosses folders, a folder means what is in it, and no slash means anywhere."""
    assert matches(pattern, path) is expected


# -- the default rules on real wheels


def test_what_is_reported_is_what_is_missing(site: Path, slimmed: dict[str, Any]) -> None:
    """The figures of each rule and each distribution are those of the files that the pack does not have."""
    files = packed_files(slimmed)
    missing = {path: (site / path).stat().st_size for path in resolve.list_files(site) if path not in files}
    assert {path for path in missing if "/tests/" in path}
    assert {path for path in missing if path.endswith(".pyi")}
    smaller = {
        path: (site / path).stat().st_size - entry["size"]
        for path, entry in files.items()
        if path.endswith(".so") and (site / path).stat().st_size > entry["size"]
    }
    rules, distributions = slimmed["slimmed"]["rules"], slimmed["slimmed"]["distributions"]
    assert rules["strip"] == {"files": len(smaller), "bytes": sum(smaller.values())}
    assert rules["tests"]["files"] == sum("/tests/" in f"/{path}" or "conftest" in path for path in missing)
    assert rules["headers"]["bytes"] == sum(
        size for path, size in missing.items() if path.endswith((".h", ".hpp")) and "/tests/" not in path
    )
    for sums in (rules, distributions):
        assert sum(entry["files"] for entry in sums.values()) == len(missing) + len(smaller)
        assert sum(entry["bytes"] for entry in sums.values()) == sum(missing.values()) + sum(smaller.values())
        assert list(sums) == sorted(sums, key=lambda name: -sums[name]["bytes"])
    assert set(distributions) == {"numpy", "zstandard"}
    assert distributions["numpy"]["files"] == sum(path.startswith("numpy") for path in [*missing, *smaller])


def test_what_stays(slimmed: dict[str, Any], site: Path) -> None:
    """Modules called `testing`, markers of types, extension modules, metadata and every licence are in the pack."""
    files = packed_files(slimmed)
    assert not [path for path in files if "/tests/" in path or path.endswith((".pyi", ".h", ".a", ".pxd"))]
    for start in NUMPY_KEEPS:
        assert [path for path in files if path.startswith(start)], start
    legal = [path for path in resolve.list_files(site) if "licenses/" in path or "LICENSE" in path]
    assert len(legal) > 5
    assert not set(legal) - files.keys()


def test_record_agrees(extracted: Path) -> None:
    """Every file that a RECORD lists is there, with its digest and size, stripped ones too; none is missing in it."""
    rows: dict[str, list[str]] = {}
    for record in extracted.glob("*.dist-info/RECORD"):
        rows |= {row[0]: row[1:] for row in csv.reader(record.read_text().splitlines())}
    for path, (digest, size) in rows.items():
        content = (extracted / path).read_bytes()
        if digest:
            expected = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            assert (digest, int(size)) == (f"sha256={expected}", len(content)), path
    assert {path for path in resolve.list_files(extracted) if not path.endswith(".pyc")} == rows.keys()
    code = (
        "import importlib.metadata as m; files = m.files('numpy');"
        "print(len(files) > 100, all(file.locate().exists() for file in files), m.packages_distributions()['numpy'][0])"
    )
    assert python(extracted, code) == "True True numpy"


def test_stripped_libraries_work(extracted: Path, site: Path) -> None:
    """What is stripped loads and computes, and a loader sees in it what it saw; the user's own folder is untouched."""
    code = (
        "import numpy, numpy.random, numpy.linalg, zstandard.backend_c as z;"
        "back = z.ZstdDecompressor().decompress(z.ZstdCompressor().compress(b'x'));"
        "print(numpy.linalg.inv([[2.0, 0], [0, 4]])[1, 1], back)"
    )
    assert python(extracted, code) == "0.25 b'x'"
    (own,) = (site / "zstandard").glob("backend_c.*.so")
    ours = extracted / "zstandard" / own.name
    assert own.stat().st_size > 10_000_000
    assert ours.stat().st_size < 2_000_000
    assert interface(own) == interface(ours)
    assert len(interface(own)[1]) >= 4


def test_the_table_of_what_was_saved(site: Path, tmp_path: Path) -> None:
    """People get a line a distribution, the most first, a total, and the rules."""
    words = ["--from-dir", site, "-o", tmp_path / "p.tar.zst", "--level", "1", "-q", "--trace", "import click"]
    lines = [line.split() for line in lazydeps("pack", *words, "--keep", "zstandard").stdout.splitlines()]
    start = lines.index(["left", "out", "files", "bytes"])
    assert [line[0] for line in lines[start + 1 : start + 3]] == ["numpy", "total"]
    assert lines[start + 1][1:] == lines[start + 2][1:]
    assert lines[start + 3][:3] == ["by", "rule:", "tests"]


# -- what code names, and what the trace touches

NAMED = {
    "one/__init__.py": "from .tests.util import make\n",
    "one/tests/__init__.py": "",
    "one/tests/util.py": "import one.deep.tests.base\nmake = len\n",
    "one/tests/data.csv": "1",
    "one/deep/__init__.py": "",
    "one/deep/tests/__init__.py": "",
    "one/deep/tests/base.py": "",
    "one/plugged/__init__.py": "",
    "one/plugged/tests/__init__.py": "",
    "one/plugged/tests/hook.py": "",
    "one/named/__init__.py": "import importlib\nTABLE = ['one.named.tests.case:run']\n",
    "one/named/tests/case.py": "",
    "one/relative/__init__.py": "def run():\n    from . import (\n        other,\n        tests,\n    )\n",
    "one/relative/tests/__init__.py": "",
    "one/lazy/__init__.py": "__getattr__, _, _ = attach_stub(__name__, __file__)\n",
    "one/lazy/__init__.pyi": "from .x import y as y\n",
    "one/plain/__init__.py": "# the tests are in one.plain, and tests import this\nLENGTH = 'tests'\n",
    "one/plain/__init__.pyi": "",
    "one/plain/tests/__init__.py": "import one.plain\n",
    "one/conftest.py": "from one.plain.tests import thing\n",
    "one-1.0.dist-info/entry_points.txt": "[hooks]\nsome = one.plugged.tests.hook:run\n",
    "tests/__init__.py": "",
}


def test_tests_that_code_imports_from_stay(tmp_path: Path) -> None:
    """A folder of tests that an import, an entry point or a name in a string leads to is kept whole, and what it needs.

    A stub stays beside a module that attaches it. What only tests name goes, and so does what is only mentioned.
    """
    site = site_packages(tmp_path / "site", NAMED)
    facts = pack_site(site, tmp_path / "p.tar.zst", "--trace", "import sys", "--explain", "one/deep/tests/base.py")
    missing = set(resolve.list_files(site)) - packed_files(facts).keys()
    assert missing == {"one/plain/__init__.pyi", "one/plain/tests/__init__.py", "one/conftest.py"}
    (base,) = facts["explained"]
    assert "it stays: one/tests/util.py imports from one/deep/tests" in base["why"]


BESIDE = {
    "one/__init__.py": "from .loader import attach_stub\n",
    "one/loader.py": """
import os
def attach_stub(name, file):
    with open(os.path.splitext(file)[0] + ".pyi") as stub:
        return stub.read()
def jit(cache):
    def decorate(function):
        assert os.path.exists(function.__code__.co_filename), "no locator available"  # as numba did before it read it
        return function
    return decorate
""",
    "one/lazy.py": "from .loader import attach_stub\nSAID = attach_stub(__name__, __file__)\n",
    "one/lazy.pyi": "a stub",
    "one/cached.py": "from .loader import jit\n@jit(cache=True)\ndef f():\n    return 1\n",
    "one/plain.py": "",
    "one/plain.pyi": "",
}
USE_BESIDE = """
import sys, lazydeps
with lazydeps.load(sys.argv[1]):
    import one.lazy, one.cached
print(one.lazy.SAID, one.cached.f())
"""


@pytest.mark.parametrize("statement", ["import one", "import one.lazy, one.cached", "from a file"])
@pytest.mark.parametrize("words", [(), ("--sources", "drop"), ("--no-prune",)])
def test_what_modules_need_on_the_disk_is_there(
    statement: str, words: tuple[str, ...], tmp_path: Path, run_python: RunPython
) -> None:
    """A stub that is attached and a source that numba caches land before their module runs, traced or not.

    Also where the trace says nothing of them, as one that was recorded elsewhere.
    """
    site = site_packages(tmp_path / "site", BESIDE)
    how = ["--trace", statement]
    if statement == "from a file":
        order = ["one/__init__.py", "one/loader.py", "one/lazy.py", "one/cached.py"]
        Trace(MINOR, ARCH, ("by hand",), tuple(order), ()).save(tmp_path / "t.json")
        how = ["--trace-file", str(tmp_path / "t.json")]
    facts = pack_site(site, tmp_path / "p.tar.zst", *how, *words)
    done = run_python(USE_BESIDE, facts["ref"])
    assert (done.stdout, done.returncode) == ("a stub 1\n", 0), done.stderr
    files = packed_files(facts)
    boot = "data" if statement == "import one" else "boot"
    assert [files[name]["set"] for name in ("one/lazy.pyi", "one/cached.py")] == [boot, boot]
    if words != ("--no-prune",):
        assert "one/plain.pyi" not in files


@pytest.mark.parametrize("words", [(), ("--sources", "drop"), ("--no-prune",)])
def test_sources_that_programs_open_are_data(words: tuple[str, ...], tmp_path: Path, run_python: RunPython) -> None:
    """Astropy reads the tables of its parsers as text, long after its import: they are files after the block."""
    files = {
        "astropy/__init__.py": "",
        "astropy/units/__init__.py": "",
        "astropy/units/generic_parsetab.py": "table",
        "astropy/units/other.py": "",
    }
    site = site_packages(tmp_path / "site", files, name="astropy")
    facts = pack_site(site, tmp_path / "p.tar.zst", "--trace", "import astropy", *words)
    code = "import sys, lazydeps\nwith lazydeps.load(sys.argv[1]): import astropy\n"
    code += "print(open(astropy.__path__[0] + '/units/generic_parsetab.py').read())"
    assert run_python(code, facts["ref"]).stdout == "table\n"
    assert packed_files(facts)["astropy/units/generic_parsetab.py"]["set"] == "data"


TOUCHED = {
    "one/__init__.py": (
        "import importlib, pathlib\n"
        "HERE = pathlib.Path(__file__).parent\n"
        "TEXT = (HERE / 'te' 'sts' / 'data.txt').read_text() + (HERE / 'one.h').read_text()\n"
        "importlib.import_module('on' + 'e.te' + 'sts.used')\n"
    ),
    "one/one.h": "h",
    "one/two.h": "h",
    "one/note.txt": "n",
    "one/tests/__init__.py": "",
    "one/tests/data.txt": "d",
    "one/tests/used.py": "from . import also\nUSED = __cached__\n",
    "one/tests/also.py": "",
    "one/tests/unused.py": "",
}


def test_what_the_trace_touches_stays(tmp_path: Path) -> None:
    """Files and modules that the traced program opened or imported are in the boot set, compiled; `--exclude` warns.

    That holds for a recorded trace and for one from a file.
    """
    site = site_packages(tmp_path / "site", TOUCHED)
    touched = {"one/one.h", "one/tests/data.txt"}
    touched |= {f"one/tests/__pycache__/{name}.cpython-{MINOR.replace('.', '')}.pyc" for name in ("used", "also")}
    words = ["--exclude", "one/tests/used.py", "--exclude", "one/note.txt"]
    first = pack_site(site, tmp_path / "p.tar.zst", *words, "--save-trace", tmp_path / "t.json")
    second = pack_site(site, tmp_path / "q.tar.zst", *words, "--trace-file", tmp_path / "t.json")
    assert first["root"] == second["root"]
    files = packed_files(first)
    assert {path for path in touched if files[path]["set"] == "boot"} == touched
    missing = {"one/two.h", "one/tests/unused.py", "one/note.txt"}
    assert set(resolve.list_files(site)) - files.keys() == missing
    assert {name: entry["files"] for name, entry in first["slimmed"]["rules"].items()} == {
        "headers": 1,
        "tests": 1,
        "--exclude one/note.txt": 1,
    }
    (warning,) = first["warnings"]
    assert warning.startswith(
        "--exclude one/tests/used.py names 1 files that the traced program touches (one/tests/used.py)"
    )


def test_a_library_that_another_needs_stays(site: Path, tmp_path: Path) -> None:
    """A rule cannot take a library away from an extension that stays, traced or not."""
    words = ["--exclude", "numpy.libs", "--trace", "import click"]
    facts = pack_site(site, tmp_path / "p.tar.zst", *words)
    assert {path for path in resolve.list_files(site) if path.startswith("numpy.libs/")} <= packed_files(facts).keys()
    assert any(warning.startswith("--exclude numpy.libs names") for warning in facts["warnings"])


# -- what the user says

ASKED = {
    "one/__init__.py": "",
    "one/a.h": "a",
    "one/b.h": "b",
    "one/x.pyi": "",
    "one/big.bin": "b",
    "one/docs/index.md": "d",
    "one/docs/LICENSE.md": "l",
    "one/tests/t.py": "",
    "one/tests/NOTICE": "n",
}


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        ([], {"one/a.h", "one/b.h", "one/x.pyi", "one/tests/t.py"}),
        (["--no-prune"], set()),
        (["--no-prune", "--exclude", "big.bin"], {"one/big.bin"}),
        (["--no-prune", "--exclude", "rule:headers"], {"one/a.h", "one/b.h"}),
        (["--keep", "a.h"], {"one/b.h", "one/x.pyi", "one/tests/t.py"}),
        (["--keep", "one"], set()),
        (["--keep", "rule:headers", "--keep", "rule:stubs"], {"one/tests/t.py"}),
        (["--no-prune", "--exclude", "*.h", "--keep", "one/b.h"], {"one/a.h"}),
        (["--no-prune", "--exclude", "rule:docs"], {"one/docs/index.md"}),
        (
            ["--no-prune", "--exclude", "one/**", "--keep", "*.py"],
            {"one/a.h", "one/b.h", "one/x.pyi", "one/big.bin", "one/docs/index.md"},
        ),
        (["--no-prune", "--exclude", "*.dist-info", "--exclude", "*.pyi"], {"one/x.pyi"}),
    ],
    ids=lambda words: " ".join(sorted(words) if isinstance(words, set) else words),
)  # fmt: skip
def test_options_decide(words: list[str], missing: set[str], tmp_path: Path) -> None:
    """`--keep` wins over rules and `--exclude`; rules go on and off by name; metadata and licences always stay."""
    site = site_packages(tmp_path / "site", ASKED)
    facts = pack_site(site, tmp_path / "p.tar.zst", *words, "--trace", "import sys")
    assert set(resolve.list_files(site)) - packed_files(facts).keys() == missing
    assert facts["warnings"] == []


def test_an_option_that_names_nothing_is_told(tmp_path: Path) -> None:
    """A pattern without a file behind it is a warning, a rule that there is not an error with their names."""
    site = site_packages(tmp_path / "site", {"one/__init__.py": ""})
    facts = pack_site(site, tmp_path / "p.tar.zst", "--exclude", "two", "--keep", "*.h")
    assert facts["warnings"] == [
        "--exclude two names no file of the installation.",
        "--keep *.h names no file of the installation.",
    ]
    error = lazydeps_error("pack", "--from-dir", site, "-o", tmp_path / "q.tar.zst", "--keep", "rule:test")
    assert error["message"].startswith("there is no rule 'test' to prune by. The rules are tests, stubs, headers,")


def test_every_rule_and_exception_says_why() -> None:
    """`prune.toml` gives a reason for each entry, patterns for each, and normalised names of distributions."""
    known = slim.rules()
    assert [name for name, rule in known.rules.items() if rule.default] == [
        "tests",
        "stubs",
        "headers",
        "static-libraries",
        "native-sources",
    ]
    assert all(rule.why and rule.patterns for rule in known.rules.values())
    for entry in (*known.keep, *known.sources, *known.opened, *known.docstrings):
        assert entry.reason
        assert entry.patterns
        assert entry.distribution == resolve.canonicalize_name(entry.distribution)


def test_what_jedi_reads_stays(tmp_path: Path) -> None:
    """An exception of `prune.toml` counts for its distribution only."""
    files = {"jedi/__init__.py": "", "jedi/x.pyi": "", "jedi/third_party/typeshed/y.pyi": ""}
    for name, missing in (("jedi", {"jedi/x.pyi"}), ("other", {"jedi/x.pyi", "jedi/third_party/typeshed/y.pyi"})):
        tree = site_packages(tmp_path / name, files, name=name)
        planned = slim.plan(tree, resolve.list_files(tree), PackOptions(out=tmp_path))
        assert set(planned.removable) == missing


# -- explain


def test_explain_says_where_and_why(site: Path, tmp_path: Path) -> None:
    """For each file: its distribution, its set, and the reason in words; patterns work; what is not there is told."""
    asked = [
        "numpy/__init__.py",
        "numpy/f2py/crackfortran.py",
        "numpy/lib/tests/test_io.py",
        "zstandard/*.pyi",
        "numpy.libs/libscipy_openblas*",
        "numpy/_core/include/numpy/npy_math.h",
        "click/py.typed",
        "click-*.dist-info/METADATA",
        "numpy/__init__.pi",
    ]
    words = [word for name in asked for word in ("--explain", name)]
    words += ["--keep", "npy_math.h", "--exclude", "zstandard/__init__.pyi", "--trace", "import numpy"]
    out = tmp_path / "p.tar.zst"
    facts = pack_site(site, out, *words)
    said = {entry["path"]: entry for entry in facts["explained"]}
    place = r"traced, position \d+ of \d+ in the trace of `import numpy`"
    for path, distribution, kind, why in [
        ("numpy/__init__.py", "numpy", "boot", rf"{place}; its source is cold\."),
        ("numpy/f2py/crackfortran.py", "numpy", "cold", r"a module that the traced program did not import; its source"),
        ("numpy/lib/tests/test_io.py", "numpy", "", r"left out by the rule tests \(a package's own test suite"),
        ("zstandard/__init__.pyi", "zstandard", "", r"left out by --exclude zstandard/__init__.pyi; nothing traced"),
        ("numpy/_core/include/numpy/npy_math.h", "numpy", "data", r"a rule names it and it stays: --keep npy_math.h"),
        ("click/py.typed", "click", "data", r"a running program may open it; the traced one did not\."),
        ("numpy/__init__.pi", "", "", r"is not in the installation\. Did you mean numpy/__init__\.py"),
    ]:
        entry = said.pop(path)
        assert (entry["distribution"], entry["set"]) == (distribution, kind), path
        assert re.search(why, entry["why"]), entry["why"]
    kinds = {path.partition("/")[0].partition("-")[0]: entry for path, entry in said.items()}
    assert re.match(
        r"a library that numpy/_core/_multiarray_umath.* needs, which is position", kinds["numpy.libs"]["why"]
    )
    assert kinds["click"]["distribution"] == "click"
    text = lazydeps("pack", "--from-dir", site, "-o", out, "--level", "1", "-q", *words).stdout
    for entry in facts["explained"]:
        assert f"{entry['path']}\n  " in text
        assert entry["why"] in text


# -- strip: what is left alone


def test_what_cannot_be_stripped_is_left_with_a_warning(site: Path, tmp_path: Path) -> None:
    """A file that would not be the same afterwards is named; one with data of its own behind it is not touched."""
    (own,) = (site / "zstandard").glob("backend_c.*.so")
    content = own.read_bytes()
    damaged = bytearray(content)
    table, size, count = int.from_bytes(content[32:40], "little"), 56, int.from_bytes(content[56:58], "little")
    notes = [
        at for at in range(table, table + size * count, size) if int.from_bytes(content[at : at + 4], "little") == 4
    ]
    damaged[notes[0] + 8 : notes[0] + 16] = (1 << 40).to_bytes(8, "little")  # a note far behind the end
    files = {
        "bad.so": bytes(damaged),
        "payload.so": content + bytes(10_000),
        "good.so": content,
        "text.so": b"GROUP(x)",
    }
    files |= {"program": content, "not-executable": content, "one.py": b"pass"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    for name in ("program", "one.py", "good.so"):
        (tmp_path / name).chmod(0o755)
    (tmp_path / "link").hardlink_to(tmp_path / "good.so")
    done = strip_tree(tmp_path, files)
    assert set(done.saved) == {"good.so", "program"}
    (warning,) = done.warnings
    assert warning.startswith("bad.so was left as it is: the ELF file is cut off")
    for name in files.keys() - done.saved.keys():
        assert (tmp_path / name).read_bytes() == files[name]
    for name, count in done.saved.items():
        assert len(content) - (tmp_path / name).stat().st_size == count
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "link").read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*files, "link"])


# -- sources and optimisation

SOURCES = {
    "one/__init__.py": "from . import sub\nimport pathlib\n(pathlib.Path(__file__).parent / 'read.py').read_text()\n",
    "one/sub.py": "def work():\n    'Its help.'\n    assert 1 == 2, 'checked'\n    return work.__doc__\n",
    "one/read.py": "x = 1\n",
    "one/rare.py": "RARE = 1\n",
    "one/wrong.py": "print 'two'\n",
    "one/a-script.py": "x = 1\n",
    "one/space/inner.py": "INNER = 1\n",
    "one/fast.py": "# @njit(cache=True)\n",
    "two.py": "TWO = 2\n",
}


def test_dropped_sources(tmp_path: Path) -> None:
    """Bytecode stands in their place, for lazydeps and plain Python; what the trace read, or is no module, stays."""
    site = site_packages(tmp_path / "site", SOURCES)
    facts = pack_site(
        site, tmp_path / "p.tar.zst", "--sources", "drop", "--trace", "import one, two", "--explain", "two.py"
    )
    files = packed_files(facts)
    sources = {path for path in files if path.endswith(".py")}
    assert sources == {"one/read.py", "one/wrong.py", "one/a-script.py", "one/fast.py"}
    bare = {"one/__init__.pyc", "one/sub.pyc", "one/rare.pyc", "one/space/inner.pyc", "two.pyc"}
    assert {path for path in files if path.endswith(".pyc") and "__pycache__" not in path} == bare
    assert {path for path in bare if files[path]["set"] == "boot"} == bare - {"one/rare.pyc", "one/space/inner.pyc"}
    with read.open_pack(read.as_ref(facts["path"])) as opened:
        assert sorted(opened.root.namespaces) == ["one/space"]  # although no source in it says so
    assert facts["slimmed"]["rules"]["sources"]["bytes"] == sum((site / path[:-1]).stat().st_size for path in bare)
    assert facts["explained"][0]["why"].endswith("its source was left out by --sources drop.")
    lazydeps("extract", facts["path"], "-o", tmp_path / "tree", "-q")
    code = (
        "import one.rare, one.space.inner, two, inspect, json, traceback, importlib.metadata as m\n"
        "said = [one.rare.RARE, two.TWO, one.space.inner.INNER, one.sub.__file__.rpartition('/')[2]]\n"
        "try: said.append(inspect.getsource(one.sub.work))\n"
        "except OSError as error: said.append(str(error))\n"
        "try: one.sub.work()\n"
        "except AssertionError: said.append(traceback.format_exc().splitlines()[-2].partition('one/sub.py')[2])\n"
        "said += [sorted(m.packages_distributions()), sorted(str(f) for f in m.files('one') if f.suffix == '.pyc')]\n"
        "print(json.dumps(said))"
    )
    plain = json.loads(python(tmp_path / "tree", code))
    assert plain[:5] == [1, 2, 1, "sub.pyc", "could not get source code"]
    assert plain[5].startswith('", line 3, in work')
    assert plain[6:] == [["one", "two"], sorted(bare)]
    loaded = f"import lazydeps\nwith lazydeps.load({facts['ref']!r}): import one, two\n{code}"
    environ = {"PYTHONPATH": str(Path(slim.__file__).parents[2]), "LAZYDEPS_DIR": str(tmp_path / "store")}
    done = subprocess.run([sys.executable, "-c", loaded], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [entry for entry in json.loads(done.stdout) if not isinstance(entry, list)] == plain[:6]
    assert json.loads(done.stdout)[7] == plain[7]


def test_kept_sources(tmp_path: Path) -> None:
    """`--keep` holds for sources too."""
    site = site_packages(tmp_path / "site", SOURCES)
    words = ["--sources", "drop", "--keep", "one/s*.py", "--trace", "import one"]
    files = packed_files(pack_site(site, tmp_path / "p.tar.zst", *words))
    assert "one/sub.py" in files
    assert f"one/__pycache__/sub.cpython-{MINOR.replace('.', '')}.pyc" in files
    assert "one/rare.py" not in files


@pytest.mark.parametrize(("level", "answer"), [(0, "AssertionError"), (1, "Its help."), (2, "None")])
def test_optimised_bytecode(level: int, answer: str, tmp_path: Path) -> None:
    """`-O` compiles asserts away and `-OO` docstrings too, under the name that a Python without `-O` reads."""
    site = site_packages(tmp_path / "site", SOURCES)
    facts = pack_site(site, tmp_path / "p.tar.zst", *["-O"] * level, "--trace", "import one")
    lazydeps("extract", facts["path"], "-o", tmp_path / "tree", "-q")
    code = "import one.sub\ntry: print(one.sub.work())\nexcept AssertionError: print('AssertionError')"
    assert python(tmp_path / "tree", code) == answer


def test_a_distribution_that_needs_docstrings_is_named(site: Path, tmp_path: Path) -> None:
    """`-OO` warns of click, whose help is docstrings; `-O` has nothing to warn of."""
    tree = tmp_path / "site"
    tree.mkdir()
    for path in site.glob("click*"):
        shutil.copytree(path, tree / path.name)
    assert pack_site(tree, tmp_path / "p.tar.zst", "-O")["warnings"] == []
    (warning,) = pack_site(tree, tmp_path / "p.tar.zst", "-OO")["warnings"]
    assert warning.startswith("click needs docstrings, which -OO takes away: the help of commands")
