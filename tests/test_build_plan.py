"""`lazydeps plan` as a person runs it, on real wheels; its model held against the published benchmark."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from support_command import lazydeps, lazydeps_error, lazydeps_json
from support_packs import ARCH

from lazydeps.build import model, plan, proposal
from lazydeps.build.options import PackOptions
from lazydeps.build.project import read_project
from lazydeps.build.replay import module_names
from lazydeps.build.requested import requested

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
OTHER = "arm64" if ARCH == "x86_64" else "x86_64"
BENCHMARKS = Path(__file__).parents[1] / "docs/benchmarks.md"
WANTED = ("pyyaml", "python-frontmatter", "six", "idna")
"""PyYAML has machine code enough to be heavy; python-frontmatter needs it; the others are light."""
APP = "import lazydeps\nimport six\n\nwith lazydeps.load():\n    import yaml\n\n\ndef handler(event, context): ...\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a handler and a requirements.txt."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "app.py").write_text(APP)
    (folder / "requirements.txt").write_text("".join(f"{name}\n" for name in WANTED))
    return folder


@pytest.fixture(scope="module")
def facts(project: Path) -> dict[str, Any]:
    """What `lazydeps plan --json` says of it."""
    statement = "import yaml, frontmatter, idna"
    return lazydeps_json("plan", project, "--python", MINOR, "--level", "3", "--trace", statement)


def parts_of(facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the parts by name."""
    return {part["name"]: part for part in facts["parts"]}


# -- the proposal


def test_the_split(facts: dict[str, Any]) -> None:
    """What is heavy and what needs it goes into the pack; what is light, or imported before load(), stays."""
    parts = parts_of(facts)
    assert {name: part["where"] for name, part in parts.items()} == {
        "pyyaml": "pack",
        "python-frontmatter": "pack",
        "six": "zip",
        "idna": "zip",
    }
    assert parts["pyyaml"]["why"].endswith("MB with machine code")
    assert parts["python-frontmatter"]["why"] == "needs pyyaml"
    assert parts["six"]["why"] == "app.py imports it before load()"
    assert parts["idna"]["why"] == "light"
    assert (facts["handler"], facts["verdict"]) == ("app.handler", "optional")


def test_the_sizes_are_those_of_real_frames(facts: dict[str, Any], project: Path, tmp_path: Path) -> None:
    """The parts add up to what `lazydeps pack` writes for the same requirements at the same level."""
    words = ["-r", project / "requirements.txt", "--trace", "import yaml, frontmatter, idna", "--level", "3"]
    packed = lazydeps_json("pack", *words, "-o", tmp_path / "all.tar.zst", "--python", MINOR)
    parts = facts["parts"]
    assert sum(part["unpacked"] for part in parts) == packed["unpacked_size"]
    frames = sum(entry["packed"] for entry in packed["sets"].values())
    assert sum(part["packed"] for part in parts) == pytest.approx(frames, abs=len(parts))
    assert all(0 < part["start"] <= part["packed"] <= part["unpacked"] for part in parts)
    in_pack = [part for part in parts if part["where"] == "pack"]
    assert facts["pack_size"] == sum(part["packed"] for part in in_pack)
    assert facts["pack_start"] == sum(part["start"] for part in in_pack)
    assert facts["everything_unpacked"] > facts["zip_unpacked"] > plan.RUNTIME_UNPACKED


def test_the_imports_were_measured(facts: dict[str, Any]) -> None:
    """Seconds by distribution, none for what the trace does not import, and an estimate for each memory size."""
    parts = parts_of(facts)
    assert parts["pyyaml"]["import_seconds"] > 0
    assert parts["six"]["import_seconds"] == 0
    assert facts["replayed"]["wall"] > 0
    assert facts["replayed"]["compiling"] > facts["replayed"]["wall"]
    assert [entry["memory"] for entry in facts["estimates"]] == [512, 1024, 1769, 3008]
    for entry in facts["estimates"]:
        assert 0 < entry["low"] < entry["expected"] < entry["high"]
        assert entry["zip_bytecode"] < entry["zip_plain"]


def test_limits_and_terraform(facts: dict[str, Any]) -> None:
    """Each limit says what is taken of it; the values are those that a function's resource wants."""
    limits = {limit["name"]: limit for limit in facts["limits"]}
    assert {name: limit["limit"] for name, limit in limits.items() if limit["unit"] == "MB"} == {
        "zip file, unzipped": 250,
        "zip file, direct upload": 50,
        "storage at start": 10_240,
        "storage with every file": 10_240,
    }
    assert all(limit["fits"] for limit in limits.values())
    assert facts["terraform"] == {
        "handler": "app.handler",
        "runtime": f"python{MINOR}",
        "architectures": [ARCH],
        "memory_size": 512,
        "timeout": 30,
        "ephemeral_storage": 512,
        "lazydeps_pack": "s3://BUCKET/packs/ROOT.tar.zst#root=sha256:ROOT",
    }


def test_the_configuration_works(facts: dict[str, Any], project: Path, tmp_path: Path) -> None:
    """Pasted, it makes `lazydeps pack` build the proposed pack and `lazydeps package` the proposed zip file."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "pyproject.toml").write_text(facts["configuration"])
    spec = read_project(tmp_path / "pyproject.toml")
    assert spec.packs["heavy"].trace_statements == ("import yaml, frontmatter",)
    assert spec.handler == "app.handler"
    packed = lazydeps_json("pack", "-o", f"{tmp_path}/packs/", "--level", "3", cwd=tmp_path)
    assert packed["distributions"].keys() == {"pyyaml", "python-frontmatter"}
    packaged = lazydeps_json("package", "-n", "--no-runtime", cwd=tmp_path)
    assert packaged["distributions"].keys() == {"six", "idna"}


def test_for_people(project: Path) -> None:
    """Says honestly that everything would fit, with both ways' starts; the tables keep to 80 columns."""
    done = lazydeps("plan", project, "--level", "3", "--to", "s3://bucket/packs/", environ={"COLUMNS": "80"})
    assert "It fits: you may not need lazydeps." in done.stdout
    assert re.search(r"Expected with 512 MB: [\d.]+ s as a plain zip, [\d.]+ s with bytecode,", done.stdout)
    assert "an estimate, on a core as fast as this machine's" in done.stdout
    assert '  lazydeps_pack     = "s3://bucket/packs/ROOT.tar.zst#root=sha256:ROOT"' in done.stdout
    assert '  destination = "s3://bucket/packs/"' in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "To paste into pyproject.toml (--write makes a lazydeps.toml of it)" in done.stdout
    assert done.stdout.endswith(
        "\nNext: paste that or give --write, then lazydeps pack, the push that it prints,\n"
        f"      then lazydeps package --python {MINOR} --arch {ARCH}\n"
    )


def test_nothing_heavy(tmp_path: Path) -> None:
    """A project with light dependencies alone is told that it does not need lazydeps."""
    (tmp_path / "app.py").write_text("import six\n\n\ndef handler(event, context): ...\n")
    facts = lazydeps_json("plan", tmp_path, "--with", "six", "--with", "markupsafe", "--level", "3")
    assert facts["verdict"] == "not needed"
    assert facts["warnings"] == []  # no advice to put imports into a block
    assert {part["where"] for part in facts["parts"]} == {"zip"}
    assert "lazydeps_pack" not in facts["terraform"]
    assert "packs" not in tomllib.loads(facts["configuration"])["tool"]["lazydeps"]


def test_another_architecture(project: Path) -> None:
    """For a foreign target the sizes are the target's, and the imports are those of the same versions here."""
    facts = lazydeps_json("plan", project, "--with", "pyyaml", "--arch", OTHER, "--level", "3", "--python", MINOR)
    assert (facts["arch"], facts["terraform"]["architectures"]) == (OTHER, [OTHER])
    assert parts_of(facts)["pyyaml"]["import_seconds"] > 0
    assert facts["replayed"]["failed"] == 0


def test_heavy_and_early(tmp_path: Path) -> None:
    """A heavy import before load() is told to move; a light one that the pack needs too goes into both."""
    (tmp_path / "app.py").write_text(APP.replace("import six\n", "import yaml\n"))
    words = ["--with", "python-frontmatter", "--level", "3"]
    facts = lazydeps_json("plan", tmp_path, *words)
    assert parts_of(facts)["pyyaml"]["where"] == "pack"
    assert any("app.py imports pyyaml before it calls lazydeps.load()" in line for line in facts["warnings"])
    (tmp_path / "app.py").write_text(APP.replace("import six\n", "import dateutil\n"))
    script = tmp_path / "work.py"
    script.write_text("import yaml, dateutil.parser\n")
    words = ["--with", "pyyaml", "--with", "python-dateutil", "--with", "idna", "--level", "3"]
    facts = lazydeps_json("plan", tmp_path, *words, "--trace-script", script)
    where = {name: part["where"] for name, part in parts_of(facts).items()}
    needed = dict.fromkeys(where.keys() - {"pyyaml", "python-dateutil", "idna"}, "both")
    assert where == {"pyyaml": "pack", "python-dateutil": "both", "idna": "zip", **needed}
    assert 'trace-scripts = ["work.py"]' in facts["configuration"]


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a small wheel exceeds."""
    monkeypatch.setattr(plan, "UNZIPPED_LIMIT", 4_000_000)


def test_more_than_the_zip_file_takes(small_limits: None, tmp_path: Path) -> None:
    """What does not fit unzipped is needed in a pack; what fits nowhere is impossible."""
    options = PackOptions(out=tmp_path / "x", requirements=("pyyaml", "idna"), level=3)
    found = plan.make_plan(options, folder=tmp_path)
    assert found.verdict == "needed"
    assert found.zip_unpacked < 4_000_000 < found.everything_unpacked
    assert found.names("pack") == ["pyyaml"]


def test_storage_and_memory() -> None:
    """/tmp has room for every file, or for a start where all would be too much; memory for the boot set."""
    mega = 1 << 20
    assert plan._storage(landed=100 * mega, unpacked=300 * mega) == 512
    assert plan._storage(landed=100 * mega, unpacked=1000 * mega) == 1020
    assert plan._storage(landed=5000 * mega, unpacked=20_000 * mega) == 5100
    limits = plan._limits(1, 1, 11_000 * mega, 20_000 * mega, (), 512)
    assert [limit.fits for limit in limits] == [True, True, False]
    assert plan._memory((), boot=200 * mega) == 1769
    slow = model.estimate(model.Work(wall=3.0, cpu=3.5, received=60e6), 512)
    quick = model.estimate(model.Work(wall=0.3, cpu=0.4, received=6e6), 512)
    assert slow.unlent > 10
    assert plan._memory((quick,), boot=mega) == 512
    assert plan._memory((slow,), boot=mega) == 1769
    assert plan._memory((quick,), boot=1000 * mega) == 1769


# -- where requirements come from, and where the proposal goes


def test_the_projects_own_dependencies(tmp_path: Path) -> None:
    """A pyproject.toml's dependencies are planned, and come back as they stand there."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "p"\nversion = "1"\ndependencies = ["idna>=3,<4"]\n')
    facts = lazydeps_json("plan", tmp_path, "--level", "3")
    assert facts["requested"].keys() == {"idna"}
    assert tomllib.loads(facts["configuration"])["tool"]["lazydeps"]["package"]["requirements"] == ["idna>=3,<4"]


def test_what_the_project_configures(tmp_path: Path) -> None:
    """Packs and package of [tool.lazydeps] are planned together, for their target."""
    (tmp_path / "lazydeps.toml").write_text(
        f'python = ["{MINOR}"]\n[packs.one]\nrequirements = ["six"]\ntrace = ["import six"]\n'
        '[packs.two]\nrequirements = ["idna"]\n[package]\nrequirements = ["markupsafe"]\n'
    )
    options = proposal.project_options(tmp_path)
    assert options.requirements == ("six", "idna", "markupsafe")
    assert (options.python, options.trace_statements) == (MINOR, ("import six",))


def test_nothing_to_plan(tmp_path: Path) -> None:
    """An empty folder says how to name what the function imports."""
    assert "has neither pyproject.toml nor requirements.txt" in lazydeps("plan", tmp_path, code=2).stderr


def test_nothing_gets_lost(tmp_path: Path) -> None:
    """What an extra brings and what lies in a folder is in the configuration, and the folder's address with it."""
    own = tmp_path / "own-lib"
    (own / "own_lib").mkdir(parents=True)
    (own / "own_lib/__init__.py").write_text("")
    (own / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "own-lib"\nversion = "1"\ndependencies = ["idna"]\n[tool.setuptools]\n'
        'packages = ["own_lib"]\n'
    )
    (tmp_path / "more").write_text("idna\n")
    (tmp_path / "requirements.txt").write_text("./own-lib\n--find-links ./more\nrequests[socks]\n")
    facts = lazydeps_json("plan", ".", "--level", "1", cwd=tmp_path)
    document = tomllib.loads(facts["configuration"])["tool"]["lazydeps"]
    asked = document["package"]["requirements"]
    assert f"own-lib @ {own.as_uri()}" in asked
    assert any(line.startswith("pysocks==") for line in asked)
    assert not any(line.startswith(("idna", "urllib3")) for line in asked)
    assert any("looks for packages elsewhere (--find-links)" in line for line in facts["warnings"])
    # And it makes a function that has all of it, unchanged.
    (tmp_path / "lazydeps.toml").write_text(
        facts["configuration"].replace("[tool.lazydeps]\n", "").replace("tool.lazydeps.", "")
    )
    (tmp_path / "app.py").write_text("def handler(event, context): ...\n")
    done = lazydeps_json("package", tmp_path, "-n", "--no-runtime", "--handler", "app.handler")
    assert {part["name"] for part in facts["parts"]} == done["distributions"].keys()


def test_addresses_in_the_configuration(tmp_path: Path) -> None:
    """A repository stays one, at the commit that was installed, and passwords in addresses are left out."""
    for name, facts in {
        "one": {"url": "https://u:secret@git.example/one", "vcs_info": {"vcs": "git", "commit_id": "0f"}},
        "two": {"url": "https://example.com/two-2-py3-none-any.whl", "archive_info": {}},
        "three": {},
    }.items():
        info = tmp_path / f"tree/{name}-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Name: {name}\nVersion: 1\n")
        if facts:
            (info / "direct_url.json").write_text(json.dumps(facts))
    (tmp_path / "r.txt").write_text("git+https://u:secret@git.example/one\nthree\n")
    warnings: list[str] = []
    options = PackOptions(out=tmp_path / "p", requirement_files=(tmp_path / "r.txt",), python=MINOR)
    found = requested(options, tmp_path / "tree", requires={}, warnings=warnings)
    assert found == {
        "one": "one @ git+https://git.example/one@0f",
        "two": "two @ https://example.com/two-2-py3-none-any.whl",
        "three": "three==1",
    }
    assert any("is fetched with a password or a token. It was left out" in line for line in warnings)
    assert "secret" not in str(warnings)


def test_terraform_takes_the_values() -> None:
    """What would begin a template in HCL is escaped."""
    assert proposal.terraform_text({"a": "s3://b/${x}/%{y}"}) == 'a = "s3://b/$${x}/%%{y}"'


def test_writing_the_configuration(tmp_path: Path) -> None:
    """--write makes a lazydeps.toml, and never replaces one."""
    written = lazydeps_json("plan", tmp_path, "--with", "six", "--level", "3", "--write")["written"]
    path = tmp_path / "lazydeps.toml"
    assert Path(written) == path
    before = path.read_text()
    assert read_project(path).package.requirements == ("six",)
    done = lazydeps("plan", tmp_path, "--with", "idna", "--level", "3", "--write", code=2)
    assert "configures lazydeps already; it is left as it is" in done.stderr
    assert path.read_text() == before
    said = lazydeps("plan", tmp_path, "--with", "idna", "--level", "3").stdout
    assert "lazydeps.toml configures lazydeps already. What this plan would say, to compare:" in said
    assert "To paste" not in said


def test_what_cannot_be_installed(tmp_path: Path) -> None:
    """Uv's reason arrives as one error, not as a traceback."""
    error = lazydeps_error("plan", tmp_path, "--with", "six==99", "--level", "3")
    assert "six==99" in error["message"]


# -- the model


def published() -> dict[tuple[str, str], dict[str, tuple[float, float]]]:
    """Return the benchmark page's medians: work and condition to contender to (seconds, CPU seconds)."""
    found: dict[tuple[str, str], dict[str, tuple[float, float]]] = {}
    work = ""
    for line in BENCHMARKS.read_text().splitlines():
        if line.startswith("### "):
            work = line.removeprefix("### ").strip()
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 7 and cells[2].isdecimal():
            found.setdefault((work, cells[0]), {})[cells[1]] = (float(cells[3].split()[0]), float(cells[5]))
    return found


def received(work: str) -> float:
    """Return the bytes that lazydeps received for a work, from the same page."""
    section = BENCHMARKS.read_text().partition(f"\n### {work}\n")[2].partition("\n### ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| lazydeps |")]
    return next((float(row[6]) * 1e6 for row in rows if len(row) == 9), 0.8e6)


def test_the_model_gives_what_was_measured() -> None:
    """For each shaped condition of the published run, lazydeps' median is within the model's stated spread."""
    checked = 0
    for (work, condition), medians in published().items():
        if "lazydeps" not in medians or "TLS" in condition or "unshaped" in condition:
            continue
        # What two cores measure, as a plan does; on a single one, numpy's threads have none to spin on.
        base = (medians if "1 core" in condition else published()[work, "3 Gbit/s, 2 cores"])["warm"]
        quota = re.search(r"quota of (\d+) MB", condition)
        cores = model.cores_of(int(quota.group(1))) if quota else float(condition.split(", ")[1].split()[0])
        link = model.SUSTAINED if "MiB/s" in condition else model.BURST
        wanted = model.Work(wall=base[0] - model.INTERPRETER, cpu=base[1] - model.INTERPRETER, received=received(work))
        got = model.packed_start(wanted, cores=cores, link=link)
        assert got == pytest.approx(medians["lazydeps"][0], rel=model.SPREAD), (work, condition)
        checked += 1
    assert checked >= 9


def test_the_model_without_bytecode() -> None:
    """The factor for imports without bytecode lies between those of the published run, and measurements win."""
    found = published()
    factors = [
        row["no-bytecode"][0] / row["warm"][0] for row in found.values() if "no-bytecode" in row and "warm" in row
    ]
    assert min(factors) < model.NO_BYTECODE < max(factors)
    work = model.Work(wall=1.0, cpu=1.0, received=1.0)
    assert model.plain_start(work, cores=1.0) == pytest.approx(3.42)
    measured = model.Work(wall=1.0, cpu=1.0, received=1.0, compiling=2.0)
    assert model.plain_start(measured, cores=1.0) == pytest.approx(2.02)


def test_what_more_memory_does() -> None:
    """More memory never makes a start slower; beyond two cores it changes nothing; the burst ends."""
    work = model.Work(wall=1.0, cpu=1.2, received=60e6)
    found = [model.estimate(work, memory) for memory in (128, 512, 1024, 1769, 3008, 3538, 10_240)]
    unlent = [entry.unlent for entry in found]
    assert unlent == sorted(unlent, reverse=True)
    assert found[-1].unlent == found[-2].unlent
    assert model.burst_link(10e6) == model.BURST
    assert model.SUSTAINED < model.burst_link(3e9) < model.BURST


def test_module_names() -> None:
    """A trace's entries as modules: packages, extension modules; no data, no sources opened as files."""
    order = (
        "a/__init__.py",
        "a/b.py",
        "a/_c.cpython-313-x86_64-linux-gnu.so",
        "a/data.json",
        "file:a/v.py",
        "a-b/c.py",
    )
    suffixes = (".cpython-313-x86_64-linux-gnu.so", ".abi3.so", ".so")
    assert module_names((*order, "a/__main__.py"), suffixes) == ("a", "a.b", "a._c")


@pytest.mark.parametrize(
    ("statement", "kept"),
    [
        ("import yaml, six", "import yaml"),
        ("import six", ""),
        ("from six import moves; import yaml as y", "import yaml as y"),
        ("import json\nfrom yaml.nodes import Node", "import json\nfrom yaml.nodes import Node"),
        ("yaml.load('')", "yaml.load('')"),
        ("import (", "import ("),
    ],
)
def test_statements_lose_what_stays_in_the_zip_file(facts: dict[str, Any], statement: str, kept: str) -> None:
    """A statement to record imports from the pack and the standard library only: nothing else is there."""
    fields = {field.name for field in dataclasses.fields(plan.Plan)}
    known = {name: value for name, value in facts.items() if name in fields}
    found = plan.Plan(**{**known, "parts": tuple(plan.Part(**part) for part in facts["parts"])})
    assert proposal._without(statement, found) == kept
