"""What users and their scripts see of the command: its help texts, word for word, and the shape of its JSON.

After a change of a help text: `python -m pytest tests/test_build_golden.py --golden-update`, and read the difference.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from support_archives import DEFLATED, Entry, zip_of
from support_command import lazydeps, lazydeps_json
from support_packs import ARCH, pack_tree, write_tree

from lazydeps import errors
from lazydeps.build import published
from lazydeps.build.cli import cli, run_cli

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Bucket

HERE = Path(__file__).parents[1]
GOLDEN = HERE / "tests/golden/help"
SCHEMAS = HERE / "docs/reference/json"
RENEW = "python -m pytest tests/test_build_golden.py --golden-update"
DRAFT = "python tests/golden/draft_schema.py"
WITHOUT_EXAMPLES: frozenset[str] = frozenset({"lazydeps"})
"""Commands whose help shows where to start, and no list of examples."""


def commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield the words of every command, with the command, groups included."""

    def walk(words: tuple[str, ...], command: click.Command) -> Iterator[tuple[tuple[str, ...], click.Command]]:
        yield words, command
        if isinstance(command, click.Group):
            with click.Context(command, info_name=" ".join(words)) as context:
                for name in command.list_commands(context):
                    found = command.get_command(context, name)
                    assert found is not None, f"{' '.join(words)} lists {name} and does not have it"
                    yield from walk((*words, name), found)

    return walk(("lazydeps",), cli)


ALL = dict(commands())
IDS = [" ".join(words) for words in ALL]


def golden_file(words: tuple[str, ...]) -> Path:
    """Return where the help of a command is kept."""
    return GOLDEN / f"{'-'.join(words)}.txt"


def help_of(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what the command's ``--help`` prints on a terminal of 100 columns."""
    monkeypatch.setenv("COLUMNS", "100")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert run_cli([*words[1:], "--help"]) == 0
    return out.getvalue()


@pytest.mark.parametrize("words", ALL, ids=IDS)
def test_the_help_is_the_one_written_down(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    """`--help` of every command is what its file under tests/golden/help says."""
    path, text = golden_file(words), help_of(words, monkeypatch)
    if pytestconfig.getoption("--golden-update"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    shown = path.relative_to(HERE)
    assert path.exists(), f"{shown} is missing: a new command? Write it with `{RENEW}`, and read it."
    assert text == path.read_text(encoding="utf-8"), (
        f"{shown} is stale. Renew it with `{RENEW}`, and read the difference."
    )


@pytest.mark.parametrize("words", [words for words in ALL if isinstance(ALL[words], click.Group)], ids=" ".join)
def test_lists_of_commands_are_not_cut(words: tuple[str, ...]) -> None:
    """On a terminal of 80 columns, too, a list of commands has a whole sentence for each."""
    command = ALL[words]
    with click.Context(command, info_name=" ".join(words), terminal_width=80) as context:
        cut = [line for line in command.get_help(context).splitlines()[1:] if line.endswith("...")]
    assert not cut, f"too long for the list of {' '.join(words)}: give these commands a short_help"


def test_there_is_no_help_of_a_command_that_is_gone(pytestconfig: pytest.Config) -> None:
    """The files are those of the commands, and no more."""
    left_over = set(GOLDEN.glob("*")) - {golden_file(words) for words in ALL}
    if pytestconfig.getoption("--golden-update"):
        for path in left_over:
            path.unlink()
        left_over = set()
    assert not left_over, f"{sorted(path.name for path in left_over)}: no such command. Remove them with `{RENEW}`."


def test_help_in_a_process_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compared here is what a person sees who types it."""
    shown = lazydeps("push", "--help", environ={"COLUMNS": "100"}).stdout
    assert shown == help_of(("lazydeps", "push"), monkeypatch)


@pytest.mark.parametrize("words", ALL, ids=IDS)
def test_the_help_says_what_people_need(words: tuple[str, ...]) -> None:
    """Every command says what it does and shows examples, of itself; every option says what it is for."""
    command = ALL[words]
    name = " ".join(words)
    assert command.help, f"{name} does not say what it does"
    assert command.help.splitlines()[0].endswith("."), f"the first line of {name}'s help is no sentence"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            spelled = "/".join([*parameter.opts, *parameter.secondary_opts])
            assert parameter.help, f"{name} {spelled} has no help text"
    if name not in WITHOUT_EXAMPLES and not isinstance(command, click.Group):
        assert command.epilog, f"{name} has no examples"
        assert command.epilog.startswith("\b\nExamples:\n"), f"the epilog of {name} is no list of examples"
        assert f"  {name} " in f"{command.epilog} ", f"the examples of {name} do not call it"


# -- JSON


def with_json() -> list[str]:
    """Return the names of the commands that take ``--json`` or ``--report-json``."""
    return [
        "-".join(words[1:])
        for words, command in ALL.items()
        if any({"--json", "--report-json"} & set(parameter.opts) for parameter in command.params)
    ]


def schema(name: str) -> dict[str, Any]:
    """Return the schema of a command's result, or of ``error``."""
    path = SCHEMAS / f"{name}.schema.json"
    if not path.exists():
        shown = path.relative_to(HERE)
        words = f"lazydeps {name.replace('-', ' ')}"
        pytest.fail(
            f"`{words} --json` is not documented: write {shown}. For a draft from a result: `{words} … --json | "
            f"{DRAFT} {name} > {shown}`. Describe its fields, and add a real result to tests/test_build_golden.py."
        )
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def check(name: str, result: Any) -> None:
    """Fail with all that is wrong with a result."""
    errors_resource: Resource[Any] = Resource.from_contents(schema("error"))
    registry: Registry[Any] = Registry().with_resource("error.schema.json", errors_resource)
    problems = [
        f"{part.json_path}: {part.message}"
        for error in Draft202012Validator(schema(name), registry=registry).iter_errors(result)
        for part in [error, *(error.context or ())]  # of alternatives, what is wrong with each
    ]
    assert not problems, f"not what docs/reference/json/{name}.schema.json says:\n" + "\n".join(problems)


@pytest.mark.parametrize("name", with_json())
def test_every_result_is_documented(name: str) -> None:
    """A command that prints JSON has a schema."""
    assert schema(name)["title"]


def test_there_is_no_schema_of_a_command_that_is_gone() -> None:
    """The schemas are those of the commands, and of the error."""
    names = {path.name.removesuffix(".schema.json") for path in SCHEMAS.glob("*.json")}
    assert names - {*with_json(), "error"} == set()


@pytest.mark.parametrize("path", sorted(SCHEMAS.glob("*.json")), ids=lambda path: path.name)
def test_schemas_are_strict_and_explained(path: Path) -> None:
    """A field that is new has to be written down, and each says what it is."""
    whole = json.loads(path.read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(whole)
    assert whole["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert whole["title"]

    def walk(part: Any, where: str) -> None:
        if isinstance(part, dict):
            if "properties" in part:
                assert part.get("additionalProperties") is False, f"{where} lets unknown fields pass"
                for field, entry in part["properties"].items():
                    assert entry.get("description") or "$ref" in entry, f"{where}.{field} is not explained"
                    assert entry["description"] != "TODO", f"{where}.{field} is still a draft"
            for key, entry in part.items():
                walk(entry, f"{where}.{key}")
        elif isinstance(part, list):
            for entry in part:
                walk(entry, where)

    walk(whole, path.stem)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A result of `lazydeps pack`."""
    out = tmp_path_factory.mktemp("packed") / "small.tar.zst"
    minor = f"{sys.version_info[0]}.{sys.version_info[1]}"
    words = ("--python", minor, "--level", "3", "--explain", "six.py", "--explain", "nothing.py")
    return lazydeps_json("pack", "six", "markupsafe", "-o", out, "--save-trace", out.with_name("t.json"), *words)


def in_process(*words: str | Path, code: int = 0) -> dict[str, Any]:
    """Return what the command prints with ``--json``; without a process of its own, which takes longer than most."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert run_cli([*map(str, words), "--json"]) == code, out.getvalue()
    facts: dict[str, Any] = json.loads(out.getvalue())
    return facts


def test_pack(packed: dict[str, Any]) -> None:
    """`lazydeps pack --json`, with --explain; a field that is missing or of another type does not pass."""
    check("pack", packed)
    assert [one["path"] for one in packed["explained"]] == ["six.py", "nothing.py"]
    for wrong in ({"size": "1"}, {"cache": 1}, {"failed": []}):
        with pytest.raises(AssertionError, match="not what docs/reference/json/pack"):
            check("pack", {**packed, **wrong})


def test_several_packs(tmp_path: Path) -> None:
    """`lazydeps pack --json` of a project of which one pack can be built and one cannot; the same as a dry run."""
    text = '[packs.small]\nrequirements = ["six"]\nlevel = 1\n[packs.none]\nrequirements = ["six==99"]\n'
    (tmp_path / "lazydeps.toml").write_text(text)
    found = lazydeps_json("pack", "--no-cache", cwd=tmp_path, code=1)
    check("pack", found)
    assert [one["name"] for one in found["packs"]] == ["small"]
    assert found["packs"][0]["cache"] is None
    found = lazydeps_json("pack", "--dry-run", "-o", "other", cwd=tmp_path, code=1)
    check("pack", found)
    assert [one["distributions"].keys() for one in found["packs"]] == [{"six"}]
    assert not (tmp_path / "other").exists()
    assert [one["error"]["type"] for one in found["failed"]] == ["LazydepsError"]
    (tmp_path / "file").touch()
    found = lazydeps_json("pack", "-o", "file/{name}.tar.zst", cwd=tmp_path, code=1)
    check("pack", found)
    assert [one["error"]["type"] for one in found["failed"]] == ["OSError", "OSError"]


def test_publishing(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`push` in all its ways, `list`, `diff`, `rollback` and `prune`, each as people use them after one another."""
    for name, value in bucket.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        write_tree(tmp_path / f"tree{number}", {"alpha.py": f"A = {number}\n", f"only{number}.txt": "x"})
        versions = {"alpha": f"{number}.0", f"only{number}": "1"}
        pack_tree(tmp_path / f"{number}.tar.zst", tmp_path / f"tree{number}", boot=["alpha.py"], distributions=versions)
    pack_tree(tmp_path / "any.tar.zst", tmp_path / "tree1", boot=["alpha.py"], arch="any")
    to = bucket.url("packs/")
    check("push", in_process("push", "1.tar.zst", to, "--name", "app", "--dry-run"))
    for _ in range(2):
        check("push", in_process("push", "any.tar.zst", to))
    project = f'destination = "{to}"\n[packs.a]\nrequirements = ["alpha"]\n[packs.b]\nrequirements = ["alpha"]\n'
    (tmp_path / "lazydeps.toml").write_text(project)
    (tmp_path / "dist").mkdir()
    for name in ("a", "b"):
        file = f"{name}-py{sys.version_info[0]}{sys.version_info[1]}-{ARCH}.tar.zst"
        shutil.copy("any.tar.zst", tmp_path / "dist" / file)
    check("push", in_process("push", "--dry-run"))
    (tmp_path / "lazydeps.toml").unlink()
    check("push", in_process("push", "1.tar.zst", "any.tar.zst", to, "--name", "app"))
    check("push", in_process("push", "2.tar.zst", to, "--name", "app"))
    check("push", in_process("push", "2.tar.zst", "any.tar.zst", to, "--dry-run"))
    check("push", in_process("push", "2.tar.zst", to, "--abort"))
    found = in_process("list", to, "--lock", "lazydeps.lock")
    check("list", found)
    assert {str(one["locked"]) for one in found["packs"]} == {"current app", "previous app"}
    for words in ([], ["--files"]):
        found = in_process("diff", "1.tar.zst", "2.tar.zst", *words)
        check("diff", found)
        assert found["distributions"]["changed"] == {"alpha": ["1.0", "2.0"]}
    check("diff", in_process("diff", "1.tar.zst", "1.tar.zst"))
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    for words in (["--dry-run"], []):
        found = in_process("rollback", "app", "--python", python, "--arch", ARCH, *words)
        check("rollback", found)
        assert list(found["targets"]) == [f"python{python}-{ARCH}"]
    bucket.client.create_multipart_upload(Bucket=bucket.name, Key=f"packs/{'0' * 64}.tar.zst")
    monkeypatch.setattr(published, "UNFINISHED", -1.0)
    for words in (["--dry-run"], ["--yes"]):
        found = in_process("prune", to, "--keep", "1", "--no-lock", *words)
        check("prune", found)
        assert (len(found["removed"]), len(found["aborted"])) == (1, 1)


def test_traces(packed: dict[str, Any], tmp_path: Path) -> None:
    """`lazydeps trace`: merge, show alone and with a pack, diff and unused."""
    trace, shorter, script = Path(packed["path"]).with_name("t.json"), tmp_path / "shorter.json", tmp_path / "app.py"
    document = json.loads(trace.read_text())
    shorter.write_text(json.dumps({**document, "order": document["order"][1:], "absent": ["nowhere"]}))
    for words in (["--dry-run"], []):
        check("trace-merge", in_process("trace", "merge", trace, shorter, "-o", tmp_path / "m.json", *words))
    for words in ([], ["--pack", packed["path"]], ["--pack", packed["path"], "--by", "distribution"]):
        check("trace-show", in_process("trace", "show", trace, *words))
    found = in_process("trace", "diff", trace, shorter)
    check("trace-diff", found)
    assert (found["only_first"], found["absent_second"]) == (document["order"][:1], ["nowhere"])
    script.write_text("import six\nimport markupsafe\nmarkupsafe.escape('<')\n")
    found = in_process("trace", "unused", packed["path"], "--trace-script", script, "--runs", "1")
    check("trace-unused", found)
    assert ([one["package"] for one in found["unused"]], [*found["used"]]) == (["six"], ["markupsafe"])


def test_reading(packed: dict[str, Any], tmp_path: Path) -> None:
    """`lazydeps inspect`, with and without files, `verify` and `extract`."""
    check("inspect", lazydeps_json("inspect", packed["path"]))
    check("inspect", lazydeps_json("inspect", packed["path"], "--files"))
    check("verify", lazydeps_json("verify", packed["path"]))
    check("extract", lazydeps_json("extract", packed["path"], "-o", tmp_path / "site"))


def test_run_and_gc(packed: dict[str, Any], tmp_path: Path) -> None:
    """`lazydeps run --report-json`, and `lazydeps gc` of the store that it leaves."""
    report, store = tmp_path / "report.json", tmp_path / "store"
    lazydeps("run", "--pack", packed["path"], "--dir", store, "--report-json", report, "-c", "import markupsafe")
    check("run", json.loads(report.read_text()))
    check("gc", lazydeps_json("gc", "--dir", store, "--dry-run"))
    check("gc", lazydeps_json("gc", "--dir", store))


def test_lock_and_archives(tmp_path: Path) -> None:
    """`lazydeps lock`, and what `run` and `gc` say of an archive that is not a pack."""
    archive, report, store = tmp_path / "a.zip", tmp_path / "report.json", tmp_path / "store"
    archive.write_bytes(zip_of(Entry("alpha.py", b"N = 39\n", method=DEFLATED)))
    check("lock", lazydeps_json("lock", archive))
    check("lock", in_process("lock", archive, "--name", "libs", "--lock", tmp_path / "lazydeps.lock"))
    lazydeps("run", "--pack", archive, "--dir", store, "--report-json", report, "-c", "import alpha")
    check("run", json.loads(report.read_text()))
    check("gc", lazydeps_json("gc", "--dir", store))


def test_layer(tmp_path: Path) -> None:
    """`lazydeps layer --json`."""
    check("layer", lazydeps_json("layer", "-o", tmp_path / "layer.zip"))


def test_package(tmp_path: Path) -> None:
    """`lazydeps package --json`, after a dry run."""
    (tmp_path / "app.py").write_text("def handler(event, context): ...\n")
    check("package", lazydeps_json("package", tmp_path, "--dry-run", "--with", "six"))


def test_plan(tmp_path: Path) -> None:
    """`lazydeps plan --json`, with a handler, a pack and a configuration that was written."""
    (tmp_path / "app.py").write_text("def handler(event, context): ...\n")
    check("plan", lazydeps_json("plan", tmp_path, "--with", "pyyaml", "--level", "1", "--write"))


def test_doctor(bucket: Bucket, tmp_path: Path) -> None:
    """`lazydeps doctor --json`, with checks of each state but a failure."""
    found = lazydeps_json("doctor", tmp_path, "--to", f"s3://{bucket.name}/", environ=bucket.environ)
    assert {one["state"] for one in found["checks"]} == {"ok", "warning", "skipped"}
    check("doctor", found)


def test_cache(tmp_path: Path) -> None:
    """`lazydeps cache`, filled by a pack, then emptied."""
    folder = tmp_path / "cache"
    lazydeps_json("pack", "six", "-o", tmp_path / "p.tar.zst", "--level", "1", "--cache-dir", folder)
    check("cache-info", lazydeps_json("cache", "info", "--cache-dir", folder))
    check("cache-prune", lazydeps_json("cache", "prune", "--size", "1kB", "--dry-run", "--cache-dir", folder))
    check("cache-clear", lazydeps_json("cache", "clear", "--cache-dir", folder))
    check("cache-info", lazydeps_json("cache", "info", "--cache-dir", folder))


def test_errors(packed: dict[str, Any], bucket: Bucket, tmp_path: Path) -> None:
    """Errors of every kind of the command, with the facts that belong to it."""
    damaged = tmp_path / "damaged.tar.zst"
    content = bytearray(Path(packed["path"]).read_bytes())
    content[-9] ^= 1
    damaged.write_bytes(content)
    hostile = tmp_path / "hostile.zip"
    hostile.write_bytes(zip_of(Entry("../evil.py", b"")))
    kinds = set()
    for words in (
        ["verify", damaged],
        ["verify", f"{packed['path']}#root=sha256:{'0' * 64}"],
        ["inspect", tmp_path / "missing.tar.zst"],
        ["inspect", hostile],
        ["inspect", bucket.url("missing.tar.zst")],
        ["lock", hostile],
    ):
        result = lazydeps_json(*words, code=1, environ=bucket.environ)
        check("error", result)
        kinds.add(result["error"]["type"])
    assert kinds >= {"IntegrityError", "FetchError", "UnsafeArchiveError"}


def test_every_error_is_documented() -> None:
    """The document of errors knows every class of ours, and every fact that one carries."""
    entry = schema("error")["properties"]["error"]["properties"]
    assert set(entry["type"]["enum"]) == {*errors.__all__, "OSError", "Interrupted"}
    facts = {name for kind in errors.__all__ for name in getattr(errors, kind).fields}
    assert set(entry) == {"type", "message", *facts}


def test_a_draft_accepts_what_it_was_made_of(packed: dict[str, Any]) -> None:
    """The tool that drafts a schema writes one that its input fits, and that nothing else with another field does."""
    command = [sys.executable, HERE / "tests/golden/draft_schema.py", "pack"]
    done = subprocess.run(command, input=json.dumps(packed), capture_output=True, text=True, check=True, timeout=60)
    draft = Draft202012Validator(json.loads(done.stdout))
    assert draft.is_valid(packed)
    assert not draft.is_valid({**packed, "another": 1})
