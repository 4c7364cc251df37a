"""`lazydeps package` as a person runs it: what goes into a function's zip file, and that Lambda's client can run it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from runtime_api import Function
from support_command import lazydeps, lazydeps_error, lazydeps_json
from support_packs import ARCH

from lazydeps.build import limits, lockfile, package
from lazydeps.build.handler_code import Handler, check_handler, early_imports, matches
from lazydeps.errors import ConfigError, LazydepsError

if TYPE_CHECKING:
    from local_s3 import LocalS3

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
APP = """\
import lazydeps
import six

with lazydeps.load():
    import markupsafe

from shop import prices


def handler(event, context):
    return {
        "escaped": str(markupsafe.escape(event["text"])),
        "files": {module.__name__: module.__file__ for module in (six, markupsafe, lazydeps, prices)},
        "cached": {module.__name__: module.__cached__ for module in (six, lazydeps, prices)},
        "template": prices.TEMPLATE,
    }
"""
PRICES = """\
import pathlib

TEMPLATE = pathlib.Path(__file__).with_name("template.txt").read_text()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project: a handler, a package with data, and much that does not belong into a function."""
    folder = tmp_path / "project"
    for name, content in {
        "app.py": APP,
        "setup.py": "raise SystemExit\n",
        "test_app.py": "assert False\n",
        "README.md": "read me\n",
        "shop/__init__.py": "",
        "shop/prices.py": PRICES,
        "shop/template.txt": "a template",
        "shop/tests/test_prices.py": "assert False\n",
        "shop/.env": "SECRET=1\n",
        "shop/server.pem": "-----BEGIN PRIVATE KEY-----\n",
        "shop/__pycache__/prices.cpython-313.pyc": "stale",
        "tests/__init__.py": "",
        "notes/plan.txt": "no package\n",
        ".git/config": "[core]\n",
        ".venv/pyvenv.cfg": "home = /\n",
        "environment/pyvenv.cfg": "home = /\n",
        "environment/__init__.py": "",
        "environment/lib.py": "",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def code_of(facts: dict[str, Any]) -> list[str]:
    """Return the zip file's own code: its files without the runtime, what that needs, and bytecode."""
    ours = ("lazydeps/", "lazydeps-", "zstandard", "__pycache__")
    return [name for name in facts["contents"] if not name.startswith(ours) and "/__pycache__/" not in name]


@pytest.fixture(scope="module")
def published(s3: LocalS3, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A pack of markupsafe, pushed; the lock entry."""
    folder = tmp_path_factory.mktemp("published")
    s3.client().create_bucket(Bucket="packaged")
    packed = lazydeps_json("pack", "markupsafe", "-o", folder / "m.tar.zst", "--python", MINOR, "--level", "3")
    pushed = lazydeps_json("push", folder / "m.tar.zst", "s3://packaged/packs/", environ=s3.environ)
    return {**packed, "ref": pushed["ref"]}


def write_lock(path: Path, published: dict[str, Any], target: str = f"python{MINOR}-{ARCH}") -> Path:
    """Write a lock whose pack `text` is the published one."""
    facts = {name: published[name] for name in ("ref", "size", "boot_size", "unpacked_size", "distributions")}
    entry = lockfile.Entry(**facts, published="2026-11-21T18:00:00Z")
    lockfile.write(path, lockfile.pin(lockfile.Lock(), "text", target, entry))
    return path


# -- what it is for


def test_the_handler_runs_under_lambdas_client(
    project: Path, published: dict[str, Any], s3: LocalS3, tmp_path: Path
) -> None:
    """Unzipped it answers: light dependencies and lazydeps from the zip file, heavy ones from the pack."""
    write_lock(project / "lazydeps.lock", published)
    out = tmp_path / "function.zip"
    facts = lazydeps_json("package", project, "--with", "six", "--with", "markupsafe", "-o", out, "--python", MINOR)
    assert facts["left_out"] == {"markupsafe": "text"}
    assert (facts["handler"], facts["lock"], facts["runtime"]) == ("app.handler", True, True)
    assert not any("markupsafe" in name for name in facts["contents"])
    task = tmp_path / "task"
    with zipfile.ZipFile(out) as archive:
        archive.extractall(task)
    before = sorted(task.rglob("*"))
    environ = {**s3.environ, "LAZYDEPS_DIR": str(tmp_path / "store"), "HOME": str(tmp_path)}
    with Function(sys.executable, "app.handler", task_root=task, environ=environ) as function:
        done = function.invoke({"text": "<"})
    answer = done.response if isinstance(done.response, dict) else json.loads(done.response)
    assert answer["escaped"] == "&lt;"
    assert answer["template"] == "a template"
    within = {name: Path(file).is_relative_to(task) for name, file in answer["files"].items()}
    assert within == {"six": True, "markupsafe": False, "lazydeps": True, "shop.prices": True}
    assert Path(answer["files"]["markupsafe"]).is_relative_to(tmp_path / "store")
    assert sorted(task.rglob("*")) == before, "bytecode was compiled that the zip file should have had"


def test_the_same_bytes_again(project: Path, tmp_path: Path) -> None:
    """Another folder, order on the disk, umask, time zone and time of the files give the same bytes."""
    first = lazydeps_json("package", project, "--with", "six", "-o", tmp_path / "1.zip")
    again = tmp_path / "elsewhere" / "again"
    again.parent.mkdir()
    again.mkdir(mode=0o700)
    for path in sorted(project.rglob("*"), reverse=True):
        if path.is_file():
            target = again / path.relative_to(project)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            target.chmod(0o600)
    second = lazydeps_json("package", "--with", "six", "-o", "2.zip", cwd=again, environ={"TZ": "Asia/Tokyo"})
    content = (tmp_path / "1.zip").read_bytes()
    assert (again / "2.zip").read_bytes() == content
    assert first["code_sha256"] == second["code_sha256"] == base64.b64encode(hashlib.sha256(content).digest()).decode()
    assert (first["size"], first["digest"]) == (len(content), f"sha256:{hashlib.sha256(content).hexdigest()}")
    with zipfile.ZipFile(tmp_path / "1.zip") as archive:
        members = archive.infolist()
        assert archive.testzip() is None
    assert [member.filename for member in members] == sorted(first["contents"])
    assert {member.filename: member.file_size for member in members} == first["contents"]
    assert {member.date_time for member in members} == {(1980, 1, 1, 0, 0, 0)}
    assert {stat.S_IMODE(member.external_attr >> 16) for member in members} <= {0o644, 0o755}


def test_every_module_has_bytecode_that_stays_valid(project: Path) -> None:
    """Each module of the code, the dependencies and the runtime comes with unchecked-hash bytecode (PEP 552)."""
    out = project / "f.zip"
    facts = lazydeps_json("package", project, "--with", "six", "-o", out)
    with zipfile.ZipFile(out) as archive:
        for name in facts["contents"]:
            if name.endswith(".py"):
                folder, _, module = name.rpartition("/")
                cache = f"{folder}/__pycache__/".lstrip("/") + f"{module[:-3]}.{sys.implementation.cache_tag}.pyc"
                assert archive.read(cache)[4:8] == b"\1\0\0\0", cache


# -- what goes in


def test_the_default_is_the_code_and_nothing_else(project: Path) -> None:
    """The handler's module and the packages beside it, with their data: no tests, environments, caches or secrets."""
    done = lazydeps("package", project, "--dry-run", "--json", "-o", project / "f.zip")
    facts = json.loads(done.stdout)
    assert code_of(facts) == ["app.py", "shop/__init__.py", "shop/prices.py", "shop/template.txt"]
    assert not (project / "f.zip").exists()
    assert not facts["written"]
    warnings = [line for line in facts["warnings"] if "often hold secrets" in line]
    assert [line.split()[0] for line in warnings] == ["shop/.env", "shop/server.pem"]
    assert "shop/.env was left out" in done.stderr


def test_includes_and_excludes(project: Path) -> None:
    """Patterns choose; what hides and what looks secret comes only by its own name; an exclude wins."""
    words = ["--include", "app.py", "--include", "shop/**", "--include", "notes", "--include", "shop/.env"]
    facts = lazydeps_json("package", project, "-n", "--no-runtime", *words, "--exclude", "template.*")
    assert code_of(facts) == ["app.py", "notes/plan.txt", "shop/.env", "shop/__init__.py", "shop/prices.py"]
    assert not any(name.startswith("lazydeps") for name in facts["contents"])


def test_an_include_that_matches_nothing(project: Path) -> None:
    """A pattern without a file is an error that names it."""
    error = lazydeps_error("package", project, "-n", "--include", "app.py", "--include", "shpo/**")
    assert "--include shpo/** matches no file" in error["message"]


def test_code_below_src(project: Path) -> None:
    """Where the handler lies in src, that folder becomes the top of the zip file."""
    (project / "src").mkdir()
    for name in ("app.py", "shop"):
        (project / name).rename(project / "src" / name)
    facts = lazydeps_json("package", project, "-n", "--no-runtime", "--handler", "app.handler")
    assert code_of(facts)[:2] == ["app.py", "shop/__init__.py"]
    facts = lazydeps_json(
        "package", project, "-n", "--no-runtime", "--handler", "app.handler", "--include", "src/app.py"
    )
    assert code_of(facts) == ["app.py"]


def test_a_link_that_leads_out(project: Path, tmp_path: Path) -> None:
    """A link to a file outside the project is refused by name."""
    (tmp_path / "outside.py").write_text("")
    (project / "shop/inside.py").symlink_to(tmp_path / "outside.py")
    assert "shop/inside.py is a link that leads out" in lazydeps_error("package", project, "-n")["message"]


def test_links_to_folders(project: Path, tmp_path: Path) -> None:
    """A linked folder of the project is code like any other; one that leads out is refused where the code needs it."""
    (project / "lib/common").mkdir(parents=True)
    (project / "lib/common/__init__.py").write_text("")
    (project / "common").symlink_to("lib/common")
    (project / "lib/common/again").symlink_to("../../shop")
    (project / "shop/back").symlink_to("../lib/common")  # without an end
    (project / "result").symlink_to(tmp_path)  # as some build tools leave
    names = code_of(lazydeps_json("package", project, "-n", "--no-runtime"))
    assert {"common/__init__.py", "shop/back/__init__.py", "common/again/prices.py"} < set(names)
    assert not any(name.startswith(("result", "lib")) for name in names)
    (project / "shop/outside").symlink_to(tmp_path)
    assert "/outside is a link that leads out" in lazydeps_error("package", project, "-n")["message"]
    (project / "shop/outside").unlink()
    (project / "app.py").write_text("import result\n" + APP)
    assert "result is a link that leads out" in lazydeps_error("package", project, "-n")["message"]


def test_folders_that_are_packages(project: Path) -> None:
    """What the code imports goes in: a folder without __init__.py, and a package whose name tools use elsewhere."""
    for name, content in {
        "common/text.py": "import deeper.more\n",
        "deeper/more.py": "",
        "scripts/once.py": "",
        "shop/build/__init__.py": "",
        "build/app.py": "",
    }.items():
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text(content)
    (project / "app.py").write_text(APP + "    from common import text\n")
    names = set(code_of(lazydeps_json("package", project, "-n", "--no-runtime")))
    assert {"common/text.py", "deeper/more.py", "shop/build/__init__.py"} < names
    assert not any(name.startswith(("scripts/", "build/")) for name in names)


def test_more_that_often_holds_secrets(project: Path) -> None:
    """Keys and credentials of other tools, in whatever case, are left out and named; modules of such names are code."""
    secret = ("Server.KEY", "production.env", "secrets.json", "id_ecdsa", ".npmrc", "main.tfvars", "x.tfstate.backup")
    for name in (*secret, "secrets.py", "config.json"):
        (project / "shop" / name).write_text("")
    facts = lazydeps_json("package", project, "-n", "--no-runtime")
    names = code_of(facts)
    assert not {f"shop/{name}" for name in secret} & set(names)
    assert {"shop/secrets.py", "shop/config.json"} < set(names)
    assert all(any(f"shop/{name} was left out" in line for line in facts["warnings"]) for name in secret)


def test_a_name_that_no_zip_file_can_have(project: Path) -> None:
    """A name that is no text is refused with what to do, and goes by an --exclude."""
    (project / "shop" / os.fsdecode(b"\xff.txt")).write_text("")
    message = lazydeps_error("package", project, "-n", "--no-runtime")["message"]
    assert "has a name that no zip file can have. Rename it, or --exclude" in message
    assert lazydeps_json("package", project, "-n", "--no-runtime", "--exclude", "*.txt")["files"]


def test_the_zip_file_of_the_last_time(project: Path) -> None:
    """An include that finds the zip file itself does not put it into the next one."""
    words = ("package", project, "--no-runtime", "--include", "**", "-o", project / "function.zip")
    first = lazydeps_json(*words)
    assert lazydeps_json(*words)["digest"] == first["digest"]
    assert "function.zip" not in first["contents"]


def test_what_the_project_says(project: Path, published: dict[str, Any]) -> None:
    """[tool.lazydeps.package] gives includes, requirements and the handler; the command line wins over it."""
    (project / "main.py").write_text("def run(event, context): ...\n")
    (project / "lazydeps.toml").write_text(
        f'python = ["{MINOR}"]\n[packs.text]\nrequirements = ["markupsafe"]\n'
        '[package]\ninclude = ["main.py"]\nrequirements = ["six"]\nhandler = "main.run"\nruntime = false\n'
    )
    facts = lazydeps_json("package", project, "-n")
    assert [name for name in code_of(facts) if "six" not in name] == ["main.py"]
    assert (facts["handler"], facts["distributions"].keys()) == ("main.run", {"six"})
    facts = lazydeps_json("package", project, "-n", "--handler", "app.handler", "--include", "app.py", "--with", "idna")
    assert (facts["handler"], facts["distributions"].keys()) == ("app.handler", {"idna"})


def test_several_targets_have_to_be_told_apart(project: Path) -> None:
    """A project with packs for two architectures wants to know which zip file is meant."""
    (project / "lazydeps.toml").write_text('arch = ["x86_64", "arm64"]\n[packs.one]\nrequirements = ["six"]\n')
    assert "packs for arm64 and x86_64: say which with --arch" in lazydeps("package", project, "-n", code=2).stderr


def test_another_architecture(project: Path) -> None:
    """The zip file for the other architecture has that one's extension modules."""
    other, machine = ("arm64", "aarch64") if ARCH == "x86_64" else ("x86_64", "x86_64")
    facts = lazydeps_json("package", project, "-n", "--with", "markupsafe", "--python", "3.12", "--arch", other)
    libraries = [name for name in facts["contents"] if name.endswith(".so")]
    assert len(libraries) == 2
    assert all(f"cpython-312-{machine}" in name for name in libraries)
    assert "shop/__pycache__/prices.cpython-312.pyc" in facts["contents"]


# -- packs and the zip file


def test_versions_follow_the_packs(project: Path, published: dict[str, Any]) -> None:
    """What both need is resolved to the pack's version, so that the two halves of a function go together."""
    old = {**published, "distributions": {"markupsafe": "2.1.5"}}
    write_lock(project / "lazydeps.lock", old)
    facts = lazydeps_json("package", project, "-n", "--with", "markupsafe", "--also", "markupsafe")
    assert facts["distributions"]["markupsafe"] == "2.1.5"
    error = lazydeps_error("package", project, "-n", "--with", "markupsafe>=3")
    assert "markupsafe" in error["message"]


def test_a_pack_for_another_target_leaves_nothing_out(project: Path, published: dict[str, Any]) -> None:
    """Only what the packs of this Python and architecture hold is left out."""
    write_lock(
        project / "lazydeps.lock", published, target="python3.11-x86_64" if MINOR != "3.11" else "python3.12-any"
    )
    facts = lazydeps_json("package", project, "-n", "--with", "markupsafe")
    assert facts["left_out"] == {}
    assert "markupsafe" in facts["distributions"]


def test_an_import_before_the_load(project: Path, published: dict[str, Any]) -> None:
    """Code that imports what only a pack has before it calls load() gets a warning that names both."""
    write_lock(project / "lazydeps.lock", published)
    (project / "app.py").write_text(APP.replace("import six\n", "import markupsafe\n"))
    facts = lazydeps_json("package", project, "-n", "--with", "markupsafe")
    assert any("app.py imports markupsafe before it calls lazydeps.load()" in line for line in facts["warnings"])


def test_imports_that_nothing_installs(tmp_path: Path) -> None:
    """Without a lock, the code's imports that are in no place are named; the SDK, types and later imports are not."""
    (tmp_path / "main.py").write_text(
        "from typing import TYPE_CHECKING\nimport json, boto3, idna, shop\nif TYPE_CHECKING:\n    import numpy\n"
        "def handler(event, context):\n    import pandas\n"
    )
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/__init__.py").write_text("import markupsafe\nfrom . import prices\n")
    (tmp_path / "shop/prices.py").touch()
    (said,) = lazydeps_json("package", tmp_path, "--dry-run", cwd=tmp_path)["warnings"]
    assert said.startswith("main.py imports idna, shop/__init__.py imports markupsafe: not in the zip file")
    assert said.endswith("Name what installs it: -r requirements.txt, or --with idna.")
    words = ("package", tmp_path, "--with", "idna", "--with", "markupsafe", "--dry-run")
    assert lazydeps_json(*words, cwd=tmp_path)["warnings"] == []


def test_the_same_file_of_code_and_dependency(project: Path) -> None:
    """Where the code and a dependency have the same file, the code's is taken, and said so."""
    (project / "six.py").write_text("MINE = True\n")
    facts = lazydeps_json("package", project, "--with", "six", "-o", project / "f.zip")
    assert any(line.startswith("six.py is in the function's code and in a dependency") for line in facts["warnings"])
    with zipfile.ZipFile(project / "f.zip") as archive:
        assert archive.read("six.py") == b"MINE = True\n"


def test_sizes(project: Path) -> None:
    """More than --max-size fails and writes nothing; more than 5 MB gets a warning that names the heaviest."""
    error = lazydeps_error("package", project, "-o", project / "f.zip", "--max-size", "0.1")
    assert "--max-size allows 100,000. Heaviest: zstandard" in error["message"]
    assert not (project / "f.zip").exists()
    (project / "shop/big.bin").write_bytes(b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(170_000)))
    facts = lazydeps_json("package", project, "-n")
    assert any("move what is heavy into a pack. Heaviest: shop" in line for line in facts["warnings"])


def test_more_than_lambda_unzips(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than Lambda takes unzipped is an error that names the heaviest and the command that helps."""
    monkeypatch.setattr(package, "UNZIPPED_LIMIT", 1000)
    options = package.PackageOptions(out=project / "f.zip", folder=project, runtime=False)
    with pytest.raises(
        LazydepsError, match=r"Lambda takes less than 1,000 with all layers\. Heaviest: .*`lazydeps plan` says what"
    ):
        package.build_package(options)
    monkeypatch.undo()
    assert limits.UNZIPPED_LIMIT == 262_144_000
    # Lambda says "must be smaller than": as many bytes as the limit are too many.
    has = package.build_package(options, dry_run=True).unpacked_size
    monkeypatch.setattr(package, "UNZIPPED_LIMIT", has)
    with pytest.raises(LazydepsError, match="less than"):
        package.build_package(options)
    monkeypatch.setattr(package, "UNZIPPED_LIMIT", has + 1)
    assert package.build_package(options).files == 7
    assert sorted(path.name for path in project.iterdir() if "zip" in path.name) == ["f.zip"]


# -- the handler


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def other(event, context): ...\n", "app.py defines no handler, the function of the handler app.handler"),
        ("async def handler(event, context): ...\n", "is asynchronous"),
        ("def handler(event): ...\n", "`def handler(event)`, and it is called with two arguments"),
        ("def handler(a, b, c): ...\n", "called with two arguments"),
        ("def handler(a, b, *, c): ...\n", "called with two arguments"),
        ("def handler(:\n", "app.py:1 is no Python"),
        ("async def handler(event, context): ...\nhandler.attribute = 1\n", "is asynchronous"),
        ("if True:\n    other = handler\n", "app.py defines no handler"),
    ],
)
def test_handlers_that_lambda_could_not_call(project: Path, source: str, expected: str) -> None:
    """What Lambda would find out at the first invocation is found out now, without importing anything."""
    app = project / "app.py"
    app.write_text(source)
    with pytest.raises(ConfigError, match=re.escape(expected)):
        check_handler(Handler("app", "handler"), {"app.py": app})


@pytest.mark.parametrize(
    "source",
    [
        "def handler(event, context, more=1): ...\n",
        "def handler(*arguments): ...\n",
        "@wraps\ndef handler(one): ...\n",
        "try:\n    def handler(event, context): ...\nexcept E:\n    pass\n",
        "from shop import handler\n",
        "handler = make()\n",
        "class handler: ...\n",
        "from shop import *\n",
        "@runs\nasync def handler(event, context): ...\n",
        "print(handler := make())\n",
        "for handler in make(): ...\n",
        "def __getattr__(name): ...\n",
    ],
)
def test_handlers_that_lambda_can_call(project: Path, source: str) -> None:
    """What may be callable with an event and a context is accepted."""
    (project / "app.py").write_text(source)
    assert (
        lazydeps_json("package", project, "-n", "--no-runtime", "--handler", "app.handler")["handler"] == "app.handler"
    )


def test_a_project_without_a_usual_handler(tmp_path: Path) -> None:
    """Where no usual handler is there, the error says how to name one; and so does one for a name that is none."""
    assert "which function is the handler?" in lazydeps_error("package", tmp_path, "-n")["message"]
    error = lazydeps_error("package", tmp_path, "-n", "--handler", "nothing.here")
    assert "there is neither nothing.py nor nothing/__init__.py" in error["message"]
    (tmp_path / "app.py").write_text("def handler(event): ...\n")
    assert "with two arguments, event and context" in lazydeps_error("package", tmp_path, "-n")["message"]
    with pytest.raises(ConfigError, match=r"wants MODULE\.FUNCTION"):
        Handler.parse("handler")
    assert Handler.parse("pkg/app.handler") == Handler("pkg.app", "handler")
    # Lambda imports by name, and takes what no import statement could.
    assert Handler.parse("my-function/app.handler") == Handler("my-function.app", "handler")
    with pytest.raises(ConfigError, match=r"wants MODULE\.FUNCTION"):
        Handler.parse("../app.handler")


def test_for_people(project: Path, published: dict[str, Any]) -> None:
    """Size, CodeSha256, what was left out by which pack, and the command to deploy it with."""
    write_lock(project / "lazydeps.lock", published)
    done = lazydeps("package", "--with", "markupsafe", cwd=project)
    assert "function.zip: " in done.stdout
    assert "Left out: markupsafe (in pack text)" in done.stdout
    digest = base64.b64encode(hashlib.sha256((project / "function.zip").read_bytes()).digest()).decode()
    assert f"CodeSha256 {digest}" in done.stdout
    assert "aws lambda update-function-code --function-name NAME --zip-file fileb://function.zip" in done.stdout
    assert f"--architectures {ARCH}" in done.stdout


# -- the rules behind it


@pytest.mark.parametrize(
    ("path", "pattern", "anywhere", "expected"),
    [
        ("app.py", "app.py", False, True),
        ("src/app.py", "app.py", False, False),
        ("src/app.py", "app.py", True, True),
        ("src/a/b.py", "src", False, True),
        ("src/a/b.py", "src/*", False, True),  # the folder src/a, and all in it
        ("src/a/b.py", "src/*.py", False, False),
        ("src/a/b.py", "src/**", False, True),
        ("src/a/b.py", "src/**/*.py", False, True),
        ("src/b.py", "src/**/*.py", False, True),
        ("srcs/b.py", "src/**", False, False),
        ("a/b.md", "*.md", False, False),
        ("a/b.md", "*.md", True, True),
        ("a+b.py", "./a+b.py", False, True),
    ],
)
def test_patterns(path: str, pattern: str, anywhere: bool, expected: bool) -> None:
    """A star stays in its folder, two do not, a folder stands for what is in it."""
    assert matches(path, pattern, anywhere=anywhere) is expected


@pytest.mark.parametrize(
    ("source", "early", "loads"),
    [
        ("import a.b, c\nfrom d.e import f\n", {"a", "c", "d"}, False),
        ("import a\nimport lazydeps\nwith lazydeps.load():\n    import b\nimport c\n", {"a"}, True),
        ("import lazydeps.auto\nimport b\n", set(), True),
        ("from lazydeps import load\nimport a\nloading = load()\nimport b\n", {"a"}, True),
        ("try:\n    import a\nexcept ImportError:\n    import b\n", {"a", "b"}, False),
        ("def f():\n    import late\nfrom . import x\n", set(), False),
        ("if typing.TYPE_CHECKING:\n    import a\nelse:\n    import b\n", {"b"}, False),
    ],
)
def test_what_is_imported_before_the_load(source: str, early: set[str], loads: bool) -> None:
    """Names of top-level modules that an import statement needs before load() has run."""
    assert early_imports(source) == (early, loads)
