"""`[tool.lazydeps]`: what a project says of its packs, and how it is told what it says wrongly."""

from __future__ import annotations

from pathlib import Path

import pytest

from lazydeps.build.options import PackOptions
from lazydeps.build.project import PackageSpec, PackSpec, find_project, options_for, read_project
from lazydeps.errors import ConfigError

WHOLE = """
python = ["3.13"]
arch = ["x86_64", "arm64"]
destination = "s3://bucket/packs/"
handler = "app.handler"
[packs.science]
requirements = ["numpy"]
requirement-files = ["requirements.txt"]
constraint-files = ["constraints.txt"]
groups = ["science"]
extras = ["fast"]
locked = true
wheels = "wheels"
from-dir = "site"
from-archive = "layer.zip"
python = ["3.11", "3.12"]
arch = ["arm64"]
destination = "s3://bucket/science/"
glibc = "2.17"
prune = false
exclude = ["*/tests/*"]
keep = ["numpy/tests/*"]
strip = true
sources = "drop"
optimize = 2
level = 19
trace = ["import numpy"]
trace-scripts = ["warm.py"]
trace-handlers = ["app.other"]
events = ["event.json"]
trace-files = ["trace.json"]
trace-env = ["STAGE=test"]
[packs.small]
requirements = ["six"]
[package]
include = ["app.py", "src/**"]
exclude = ["*.md"]
requirements = ["idna"]
requirement-files = ["light.txt"]
groups = ["light"]
handler = "src.app.handler"
runtime = false
"""


def write(folder: Path, text: str, name: str = "lazydeps.toml") -> Path:
    """Write a project's file, and a pyproject.toml beside it unless it is one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text('[project]\nname = "app"\nversion = "1"\n')
    (folder / name).write_text(text)
    return folder / name


def test_every_key_is_read(tmp_path: Path) -> None:
    """Each key of the file ends in its field, and paths begin at the file's folder."""
    project = read_project(write(tmp_path, WHOLE))
    assert (project.folder, project.file, project.lock) == (
        tmp_path,
        tmp_path / "lazydeps.toml",
        tmp_path / "lazydeps.lock",
    )
    assert (project.destination, project.handler) == ("s3://bucket/packs/", "app.handler")
    assert project.packs == {
        "science": PackSpec(
            name="science",
            python=("3.11", "3.12"),
            arch=("arm64",),
            destination="s3://bucket/science/",
            requirements=("numpy",),
            requirement_files=(tmp_path / "requirements.txt",),
            constraint_files=(tmp_path / "constraints.txt",),
            project=tmp_path,
            groups=("science",),
            extras=("fast",),
            locked=True,
            wheels=tmp_path / "wheels",
            from_dir=tmp_path / "site",
            from_archive=tmp_path / "layer.zip",
            glibc="2.17",
            prune=False,
            exclude=("*/tests/*",),
            keep=("numpy/tests/*",),
            strip=True,
            sources="drop",
            optimize=2,
            level=19,
            trace_statements=("import numpy",),
            trace_scripts=(tmp_path / "warm.py",),
            trace_handlers=("app.other",),
            events=(tmp_path / "event.json",),
            trace_files=(tmp_path / "trace.json",),
            trace_env=("STAGE=test",),
        ),
        "small": PackSpec(
            name="small",
            python=("3.13",),
            arch=("x86_64", "arm64"),
            destination="s3://bucket/packs/",
            requirements=("six",),
        ),
    }
    assert project.package == PackageSpec(
        include=("app.py", "src/**"),
        exclude=("*.md",),
        requirements=("idna",),
        requirement_files=(tmp_path / "light.txt",),
        groups=("light",),
        handler="src.app.handler",
        runtime=False,
    )


def test_a_pyproject_says_the_same(tmp_path: Path) -> None:
    """The same keys below [tool.lazydeps] give the same project."""
    tables = WHOLE.replace("[packs", "[tool.lazydeps.packs").replace("[package]", "[tool.lazydeps.package]")
    one = read_project(write(tmp_path, WHOLE))
    other = read_project(write(tmp_path, "[tool.lazydeps]\n" + tables, "pyproject.toml"))
    assert other.file.name == "pyproject.toml"
    for name in ("folder", "destination", "lock", "handler", "packs", "package"):
        assert getattr(one, name) == getattr(other, name)


def test_the_nearest_configured_project_is_found(tmp_path: Path) -> None:
    """Upwards from a folder: a pyproject.toml that says nothing of lazydeps is passed by; lazydeps.toml comes first."""
    assert find_project(tmp_path) is None
    write(tmp_path, "[tool.lazydeps]\ndestination = 's3://outer/'\n", "pyproject.toml")
    inner = tmp_path / "inner"
    (inner / "src").mkdir(parents=True)
    (inner / "pyproject.toml").write_text("[project]\nname = 'inner'\n")
    found = find_project(inner / "src")
    assert found is not None
    assert (found.folder, found.destination) == (tmp_path, "s3://outer/")
    (tmp_path / "lazydeps.toml").write_text("destination = 's3://other/'\n")
    found = find_project(inner / "src")
    assert found is not None
    assert found.destination == "s3://other/"
    (inner / "pyproject.toml").write_text("[tool.lazydeps]\n")
    found = find_project(inner / "src")
    assert found is not None
    assert found.folder == inner
    assert (found.packs, found.package) == ({}, PackageSpec())


def test_a_pack_of_nothing_is_the_projects_dependencies(tmp_path: Path) -> None:
    """A pack without inputs takes the project's dependencies; without a project that is an error."""
    project = read_project(write(tmp_path, "[packs.all]\nlevel = 3\n"))
    assert project.packs["all"].project == tmp_path
    (tmp_path / "pyproject.toml").unlink()
    with pytest.raises(ConfigError, match=r"\[packs.all\] asks for .* no pyproject.toml in .* Give it requirements,"):
        read_project(tmp_path / "lazydeps.toml")


def test_events_are_for_the_projects_handler(tmp_path: Path) -> None:
    """Events without a handler are for the project's own; a handler alone records nothing."""
    text = 'handler = "app.handler"\n[packs.one]\nrequirements = ["six"]\n'
    assert read_project(write(tmp_path, text)).packs["one"].trace_handlers == ()
    text += 'events = ["event.json"]\n'
    assert read_project(write(tmp_path, text)).packs["one"].trace_handlers == ("app.handler",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pythons = []", r"lazydeps.toml: pythons is no key that lazydeps knows. Did you mean python\?"),
        ("qqq = 1", r"qqq is no key that lazydeps knows. It may have python, arch, destination, handler, lock,"),
        ("[packs.a]\nrequirement_files = []", r"\[packs.a\] requirement_files is no key .* mean requirement-files\?"),
        ("[package]\nincludes = []", r"\[package\] includes is no key .* Did you mean include\?"),
        ("python = [3.13]", r'python wants a list of strings, \["3.13"\]; found 3.13 in it'),
        ('arch = "arm64"', r'arch wants a list of strings, \["arm64"\]; found "arm64"'),
        ("destination = true", r'destination wants a string, "…"; found true'),
        ('destination = ""', r'destination wants a string, "…"; found ""'),
        ("packs = ['a']", r'packs wants a table, \[packs\]; found \["a"\]'),
        ("[packs]\na = 1", r"\[packs\] a wants a table, \[packs.a\]; found 1"),
        ("[packs.'a b']\nlevel = 3", r"\[packs.a b\] is no name for a pack: 'a b'"),
        ("[packs.a]\nlocked = 'yes'", r'\[packs.a\] locked wants true or false; found "yes"'),
        ("[packs.a]\nlevel = 23", r"\[packs.a\] level wants a whole number from 1 to 22; found 23"),
        ("[packs.a]\noptimize = true", r"optimize wants a whole number from 0 to 2; found true"),
        ("[packs.a]\nsources = 'warm'", r'sources wants "cold" or "drop"; found "warm"'),
        ("[packs.a]\nwheels = ['w']", r'wheels wants a string, "…"; found \["w"\]'),
        ("python = \n", r"lazydeps.toml is no TOML file: .*line 1"),
    ],
)
def test_a_wrong_file_is_told_so(tmp_path: Path, text: str, words: str) -> None:
    """The error names the file, the table, the key, what it wants and what it found, or the key that was meant."""
    with pytest.raises(ConfigError, match=words) as caught:
        read_project(write(tmp_path, text))
    assert str(tmp_path / "lazydeps.toml") in str(caught.value)


def test_a_wrong_pyproject_names_its_tables(tmp_path: Path) -> None:
    """In a pyproject.toml, tables are called as they stand there."""
    file = write(tmp_path, "[tool.lazydeps.packs.a]\nlevle = 3\n", "pyproject.toml")
    with pytest.raises(ConfigError, match=r"\[tool.lazydeps.packs.a\] levle is no key .* Did you mean level\?"):
        read_project(file)
    file.write_text("[tool]\nlazydeps = 3\n")
    with pytest.raises(ConfigError, match=r"tool.lazydeps wants a table, \[tool.lazydeps\]; found 3"):
        read_project(file)


def test_an_unknown_pack_names_the_nearest(tmp_path: Path) -> None:
    """Asking for a pack that is not configured names those that are."""
    project = read_project(write(tmp_path, WHOLE))
    assert project.pack("small").name == "small"
    with pytest.raises(ConfigError, match=r"no pack 'scince'. Did you mean science\? It has science, small\."):
        project.pack("scince")


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    """A pack's options are the file's, but for what the command line gives."""
    spec = read_project(write(tmp_path, WHOLE)).packs["science"]
    out = tmp_path / "out.tar.zst"
    options = options_for(spec, python="3.12", arch="arm64", out=out, flags={"level": 3, "keep": ("a",), "jobs": 1})
    assert isinstance(options, PackOptions)
    assert (options.python, options.arch, options.out) == ("3.12", "arm64", out)
    assert (options.level, options.keep, options.jobs) == (3, ("a",), 1)
    assert (options.sources, options.trace_statements, options.groups) == ("drop", ("import numpy",), ("science",))
