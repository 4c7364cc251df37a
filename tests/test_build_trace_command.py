"""`lazydeps trace` as a person runs it: merge, show, diff and unused, on real packs and on what functions recorded."""

from __future__ import annotations

import functools
import json
import os
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from conftest import Bucket
from runtime_api import Function
from support_command import lazydeps, lazydeps_error, lazydeps_json
from support_starts import wait_for

from lazydeps.build.interpreters import require_interpreter
from lazydeps.build.trace import Trace
from lazydeps.errors import ConfigError

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
SRC = str(Path(__file__).parents[1] / "src")


def save(path: Path, *order: str, **facts: Any) -> Path:
    """Write a trace of these entries."""
    Trace(**{"python": MINOR, "arch": "x86_64", "how": (path.stem,), "absent": (), **facts, "order": order}).save(path)
    return path


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))
    return folder


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real distributions, one with an extension module, of which the trace has next to nothing."""
    out = tmp_path_factory.mktemp("pack") / "p.tar.zst"
    lazydeps("pack", "markupsafe", "python-dateutil", "-o", out, "--level", "1", "--trace", "pass")
    return out


HANDLER = """
import lazydeps
with lazydeps.load():
    import markupsafe
    from dateutil.parser import parse
def handler(event, context):
    if "easter" in event:
        from dateutil import easter
    report, = lazydeps.report().packs
    return [str(markupsafe.escape("<")), parse("2020-02-03").year, report.cold_frames_fetched]
"""


def test_from_production_to_the_next_pack(bucket: Bucket, pack: Path, tmp_path: Path) -> None:
    """Two live functions, one that logs and one that writes to S3, give one trace; its pack has no cold frame to fetch.

    The real runtime client, the real command, S3 in between.
    """
    task = write(tmp_path / "task", {"app.py": HANDLER})
    ref = lazydeps_json("push", pack, bucket.url("packs/"), environ=bucket.environ)["ref"]

    def call(store: str, ref: str, *events: object, trace: str = "") -> tuple[list[Any], str]:
        own = {"LAZYDEPS_PACK": ref, "LAZYDEPS_DIR": str(tmp_path / store), "PYTHONPATH": SRC, "LAZYDEPS_TRACE": trace}
        with Function(sys.executable, "app.handler", task_root=task, environ={**bucket.environ, **own}) as function:
            answers = [function.invoke(event).response for event in events]
            if trace.startswith("s3:"):
                kept = functools.partial(bucket.client.list_objects_v2, Bucket=bucket.name, Prefix="t/")
                wait_for(lambda: "Contents" in kept(), f"no object\n{function.log()}", 60)
            elif trace:
                wait_for(lambda: function.log().count("lazydeps-trace") == 2, f"no line\n{function.log()}", 60)
            return answers, function.log()

    answers, _ = call("a", ref, {}, trace=bucket.url("t/"))
    assert answers[0][:2] == ["&lt;", 2020]
    assert answers[0][2] > 0
    _, log = call("b", ref, {}, {"easter": 1}, trace="log")
    (key,) = (entry["Key"] for entry in bucket.client.list_objects_v2(Bucket=bucket.name, Prefix="t/")["Contents"])
    (tmp_path / "s3.json").write_bytes(bucket.client.get_object(Bucket=bucket.name, Key=key)["Body"].read())
    (tmp_path / "log.txt").write_text(log)

    merged = lazydeps_json("trace", "merge", tmp_path / "s3.json", tmp_path / "log.txt", "-o", tmp_path / "t.json")
    assert (merged["traces"], merged["how"], merged["extensions"]) == (2, ["function local"], 1)
    assert merged["added"] == [1, 0]
    found = lazydeps_json("trace", "diff", tmp_path / "s3.json", tmp_path / "log.txt")
    assert (found["only_first"], found["only_second"], found["moved"]) == ([], ["dateutil/easter.py"], [])

    built = tmp_path / "new.tar.zst"
    lazydeps("pack", "markupsafe", "python-dateutil", "-o", built, "--level", "1", "--trace-file", tmp_path / "t.json")
    ref = lazydeps_json("push", built, bucket.url("packs/"), environ=bucket.environ)["ref"]
    answers, _ = call("c", ref, {}, {"easter": 1})
    assert [answer[2] for answer in answers] == [0, 0]


def test_merge_says_what_it_did(tmp_path: Path) -> None:
    """A sentence and the next command; with --dry-run nothing is written."""
    files = save(tmp_path / "a.json", "a.py", "b.py"), save(tmp_path / "b.json", "n.txt", "c.py", "b.py")
    out = tmp_path / "out.json"
    said = lazydeps("trace", "merge", *files, "-o", out, "--dry-run").stdout
    assert "Would write" in said
    assert not out.exists()
    said = lazydeps("trace", "merge", *files, "-o", out).stdout
    assert f"Wrote {out}: 4 entries of 2 traces (3 modules, 0 extension modules, 1 files)" in said
    assert "lazydeps pack … --trace-file" in said
    assert Trace.load(out).order == ("a.py", "n.txt", "c.py", "b.py")
    (tmp_path / "empty.txt").write_text("nothing\n")
    error = lazydeps_error("trace", "merge", tmp_path / "empty.txt", "-o", out)
    assert "empty.txt is not a trace" in error["message"]


def test_show_counts_and_weighs(pack: Path, tmp_path: Path) -> None:
    """Counts by package; with the pack bytes, distributions, and what of the trace the pack does not have."""
    machine = os.uname().machine
    extension = f"markupsafe/_speedups.cpython-{MINOR.replace('.', '')}-{machine}-linux-gnu.so"
    order = ("markupsafe/__init__.py", extension, "dateutil/tz/tz.py", "dateutil/rrule.py", "gone/x.txt")
    path = save(tmp_path / "t.json", *order, stdlib=("re",), absent=("dateutil/_nothing",))
    facts = lazydeps_json("trace", "show", path, "--first", "2")
    assert [facts[name] for name in ("modules", "extensions", "files", "absent", "stdlib")] == [3, 1, 1, 1, 1]
    assert {group["name"]: group["entries"] for group in facts["groups"]} == {"dateutil": 2, "markupsafe": 2, "gone": 1}
    assert {group["name"]: group["first"] for group in facts["groups"]} == {"dateutil": 3, "markupsafe": 1, "gone": 5}
    assert facts["first"] == list(order[:2])
    assert facts["packed"] is None
    facts = lazydeps_json("trace", "show", path, "--pack", pack, "--by", "distribution")
    names = {group["name"] for group in facts["groups"]}
    assert names == {"markupsafe", "python-dateutil", "(none)"}
    assert facts["not_in_pack"] == ["gone/x.txt"]
    contents = lazydeps_json("inspect", pack, "--files")["contents"]
    sizes = {entry["path"]: entry["size"] for entry in contents}
    tag = sys.implementation.cache_tag
    expected = sizes[extension] + sizes[f"markupsafe/__pycache__/__init__.{tag}.pyc"]
    assert next(group["unpacked"] for group in facts["groups"] if group["name"] == "markupsafe") == expected
    assert 0 < facts["packed"] < facts["unpacked"]
    said = lazydeps("trace", "show", path, "--pack", pack)
    assert "     1      " in said.stdout
    assert "dateutil/tz" in said.stdout
    assert "1 entries are not in" in said.stderr
    assert "needs --pack" in lazydeps("trace", "show", path, "--by", "distribution", code=2).stderr


def test_diff_finds_what_moved(tmp_path: Path) -> None:
    """Only in one, only in the other, and the fewest entries that moved; architectures are no difference."""
    tag = f".cpython-{MINOR.replace('.', '')}"
    first = save(tmp_path / "a.json", "a.py", "b.py", "c.py", f"x{tag}-x86_64-linux-gnu.so", "old.py", absent=("p",))
    second = save(tmp_path / "b.json", "c.py", "a.py", "b.py", f"x{tag}-aarch64-linux-gnu.so", "new.py")
    assert lazydeps_json("trace", "diff", first, second) == {
        "only_first": ["old.py"],
        "only_second": ["new.py"],
        "moved": ["c.py"],
        "same": 3,
        "absent_first": ["p"],
        "absent_second": [],
    }
    said = lazydeps("trace", "diff", first, second).stdout
    assert [line for line in said.splitlines() if line[0] in "-+~"] == ["- old.py", "+ new.py", "~ c.py"]
    assert lazydeps_json("trace", "diff", first, first)["moved"] == []


# -- unused

SITE = {
    "heavy/__init__.py": "import heavy.inner, deep, shared\n",
    "heavy/inner.py": "TABLE = list(range(1000))\n",
    "shared.py": "def f(): pass\nf()\n",
    "light.py": "import shared\ndef run(): pass\n",
    "constant.py": "PI = 3\n",
    "number.py": "PI = 3\n",
    "base.py": "class Base: pass\n",
    "given.py": "",
    "later.py": "X = 1\n",
    "attributes.py": "def __getattr__(name):\n    if name.startswith('_'): raise AttributeError\n    return 1\n",
    "heavier.py": "import deep, only\n",
    "deep.py": "TABLE = list(range(1000))\n",
    "only.py": "",
}
APP = """
import json
import heavy
import light, constant as c
from number import PI
from base import Base
import given
import later
from attributes import thing
import heavier

class Own(Base): pass
MODULES = [given]

def handler(event, context):
    light.run()
    import later as local
    return [c.PI, PI, json.dumps(event), local.X]

def never():
    return heavy, heavier.only, thing
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("site"), SITE)


@pytest.mark.parametrize("python", ["3.11", "3.12", MINOR])
def test_unused_names_what_a_run_did_without(site: Path, tmp_path: Path, python: str) -> None:
    """Calls, constants, base classes, values and local imports are uses; what only others need does not count.

    On 3.11 by `sys.setprofile`, from 3.12 on by `sys.monitoring`.
    """
    try:
        require_interpreter(python)
    except ConfigError:
        pytest.skip(f"no Python {python} here")
    write(tmp_path, {"app.py": APP, "e.json": "{}"})
    words = ("trace", "unused", "--from-dir", site, "--python", python, "--runs", "1")
    facts = lazydeps_json(*words, "--trace-handler", "app.handler", "--event", "e.json", cwd=tmp_path)
    found = {entry["package"]: entry for entry in facts["unused"]}
    assert found.keys() == {"heavy", "heavier", "attributes"}
    assert facts["used"].keys() == {"light", "constant", "number", "base", "given", "later"}
    assert facts["used"]["light"] == "run was called"
    assert facts["used"]["number"] == "`PI` is read at app.py:18"
    assert facts["used"]["later"] == "imported at app.py:17"
    heavy = found["heavy"]
    # Both bring `deep`, so neither alone would save it; `light` needs `shared`.
    assert [found[name]["modules"] for name in ("heavy", "heavier", "attributes")] == [2, 2, 1]
    assert 0 < sum(entry["bytes"] for entry in found.values()) < facts["bytes"]
    assert heavy["seconds"] <= facts["seconds"] <= facts["total_seconds"]
    assert (Path(heavy["file"]).name, heavy["line"], heavy["text"]) == ("app.py", 3, "import heavy")
    assert heavy["suggestion"] == 'heavy = lazydeps.lazy("heavy")'
    assert found["attributes"]["suggestion"].startswith('attributes = lazydeps.lazy("attributes")')
    assert "attributes.thing" in found["attributes"]["suggestion"]
    assert "Not seen: constants and base classes" in facts["note"]


def test_unused_finds_the_handler_of_a_project(site: Path, tmp_path: Path) -> None:
    """With --project the handler is looked for there; what is installed is the folder's, and nothing of the project."""
    files = {"pyproject.toml": '[project]\nname = "none"\ndependencies = ["six==99"]\n', "where.py": "import heavy\n"}
    write(tmp_path / "src", {**files, "app.py": "import where\ndef handler(event, context): ...\n"})
    words = ("trace", "unused", "--from-dir", site, "--trace-handler", "app.handler", "--runs", "1")
    facts = lazydeps_json(*words, "--project", "src", cwd=tmp_path)
    assert [entry["package"] for entry in facts["unused"]] == ["heavy"]
    assert "app" in lazydeps(*words, cwd=tmp_path, code=2).stderr


def test_unused_over_a_pack_and_over_requirements(pack: Path, tmp_path: Path) -> None:
    """The same program over both; a pack's bytes are packed ones. C functions count as well as Python's."""
    program = "import markupsafe._speedups, dateutil.parser, sys\nfor name in ['_escape_inner']:\n"
    program += "    getattr(sys.modules['markupsafe._speedups'], name)('<')\n"
    script = tmp_path / "app.py"
    script.write_text(program)
    sizes = []
    for words in ([pack], ["markupsafe", "python-dateutil"]):
        facts = lazydeps_json("trace", "unused", *words, "--trace-script", script, "--runs", "1")
        assert [entry["package"] for entry in facts["unused"]] == ["dateutil"]
        assert facts["unused"][0]["modules"] > 3
        assert facts["used"] == {"markupsafe": "_escape_inner was called"}
        sizes.append(facts["bytes"])
    assert 0 < sizes[0] < sizes[1]
    done = lazydeps("trace", "unused", pack, "--trace-script", script, "--runs", "1")
    assert "app.py:1: import markupsafe._speedups, dateutil.parser, sys" in done.stdout
    assert 'write: parser = lazydeps.lazy("dateutil.parser")' in done.stdout
    assert "Together: " in done.stdout
    assert "Look at the code before you change it" in done.stderr


def test_unused_says_when_there_is_nothing(site: Path) -> None:
    """Nothing to gain is an answer too."""
    done = lazydeps("trace", "unused", "--from-dir", site, "--trace", "import light; light.run()", "--runs", "1")
    assert "Everything that is imported at the top of the program is used: light." in done.stdout


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["six"], "one program, please"),
        (["six", "--trace", "pass", "--trace-script", __file__], "one program, please"),
        (["--trace", "pass"], "name a pack or requirements"),
        (["six", "--trace-handler", "gone.handler"], "there is no gone.py"),
    ],
)
def test_unused_wants_one_program_over_one_tree(tmp_path: Path, words: list[str], reason: str) -> None:
    """Usage errors, before anything is installed."""
    assert reason in lazydeps("trace", "unused", *words, code=2, cwd=tmp_path).stderr


def test_unused_fails_with_the_program(site: Path) -> None:
    """Its traceback is in the message; nothing is claimed of half a run."""
    error = lazydeps_error("trace", "unused", "--from-dir", site, "--trace", "import light\n1/0", "--runs", "1")
    assert "ZeroDivisionError" in error["message"]


def test_help_has_examples() -> None:
    """Each subcommand shows how it is used."""
    listed = lazydeps("trace", "--help").stdout
    for name in ("merge", "show", "diff", "unused"):
        assert name in listed
        assert "Examples:" in lazydeps("trace", name, "--help").stdout
    assert json.loads(json.dumps(listed)).startswith("Usage: lazydeps trace")
