"""What a pack is made of: files with hashes, projects with locks, wheel folders, archives; and for which targets.

Real wheels come from the index; where a version must lack something, wheels are made here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from packaging.tags import sys_tags
from support_command import lazydeps, lazydeps_error, lazydeps_json
from support_packs import ARCH

from lazydeps.build import resolve
from lazydeps.build.inputs import fill
from lazydeps.build.interpreters import find_interpreter, require_interpreter
from lazydeps.build.options import PackOptions, check_options
from lazydeps.build.records import find_edited, shared_warnings
from lazydeps.build.unpack import unpack
from lazydeps.build.uv import uv_binary
from lazydeps.build.wheels import choose_wheels, fits
from lazydeps.errors import ConfigError, LazydepsError, PackFormatError, UnsafeArchiveError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
CP = f"cp{MINOR.replace('.', '')}"
OTHER = "arm64" if ARCH == "x86_64" else "x86_64"
MACHINE = {"arm64": "aarch64", "x86_64": "x86_64"}
SIX = "sha256:4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274"
DOCOPT = "sha256:49b3a825280bd66b3aa83585ef59c4a8c82f2c8a522dbe754a8bc8d08c85c491"
QUICK = ("--level", "1", "--jobs", "1")


def tag(arch: str, glibc: int = 17) -> str:
    """Return the tag of a compiled wheel for this Python."""
    return f"{CP}-{CP}-manylinux_2_{glibc}_{MACHINE[arch]}"


def wheel(
    folder: Path, name: str, version: str = "1.0", tag: str = "py3-none-any", *, requires: Sequence[str] = ()
) -> Path:
    """Make a wheel with one module that knows its version and tag, with a RECORD that is right."""
    info = f"{name}-{version}.dist-info"
    extras = sorted({line.split("extra == ")[1].strip("'") for line in requires if "extra == " in line})
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    metadata += [f"Provides-Extra: {extra}" for extra in extras] + [f"Requires-Dist: {line}" for line in requires]
    files = {
        f"{name}.py": f"VERSION = {version!r}\nTAG = {tag!r}\n",
        f"{info}/METADATA": "\n".join(metadata) + "\n\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: {str(tag.endswith('any')).lower()}\nTag: {tag}\n",
    }
    rows = [f"{path},sha256={digest(text.encode())},{len(text)}" for path, text in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, text in files.items():
            archive.writestr(inner, text)
    return path


def digest(content: bytes) -> str:
    """Return a digest as RECORD spells it."""
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")


def filled(tmp_path: Path, **fields: Any) -> tuple[Path, dict[str, str], tuple[str, ...], frozenset[str]]:
    """Fill a tree as `pack` does; return it, its distributions, the warnings and what counts as asked for."""
    tree = tmp_path / f"tree-{random.getrandbits(32):08x}"
    options = check_options(PackOptions(out=tmp_path / "p", **{"python": MINOR, **fields}))
    assert options.python is not None
    done = fill(options, tree, require_interpreter(options.python))
    return tree, resolve.list_distributions(tree), done.warnings, done.requested


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of wheels: two versions of one, an application with an extra, and what it needs."""
    folder = tmp_path_factory.mktemp("house")
    for version in ("1.9", "1.10"):
        wheel(folder, "lzdlib", version)
    wheel(folder, "lzdopt")
    wheel(folder, "lzdapp", requires=["lzdlib>=1", "lzdopt>=1; extra == 'more'", "win>1; sys_platform == 'win32'"])
    return folder


# -- requirements files


def test_hashes_decide_what_is_installed(tmp_path: Path) -> None:
    """A file with hashes is kept to, also by what has no wheel and is built; another hash is refused."""
    file = tmp_path / "requirements.txt"
    file.write_text(f"--require-hashes\nsix==1.17.0 --hash={SIX}\ndocopt==0.6.2 \\\n    --hash={DOCOPT}\n")
    _, distributions, warnings, requested = filled(tmp_path, requirement_files=(file,))
    assert distributions == {"docopt": "0.6.2", "six": "1.17.0"}
    assert warnings == ("built from source, because there is no wheel: docopt.",)
    assert requested == {"docopt", "six"}
    file.write_text(f"six==1.17.0 --hash={DOCOPT}\n")
    with pytest.raises(LazydepsError, match=r"(?s)uv could not install .*Hash mismatch.*six"):
        filled(tmp_path, requirement_files=(file,))


def test_options_of_a_file_reach_uv(house: Path, tmp_path: Path) -> None:
    """Index options, constraints, markers, extras and included files in a requirements file are all honoured."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "more.txt").write_text("lzdapp[more]; python_version > '3'\nwin; sys_platform == 'win32'\n")
    (tmp_path / "constraints.txt").write_text("lzdlib<1.10\n")
    file = tmp_path / "requirements.txt"
    file.write_text(f"--no-index\n--find-links {house}\n-c constraints.txt\n-r inner/more.txt\n")
    _, distributions, warnings, requested = filled(tmp_path, requirement_files=(file,))
    assert distributions == {"lzdapp": "1.0", "lzdlib": "1.9", "lzdopt": "1.0"}
    assert (warnings, requested) == ((), {"lzdapp"})


def test_uvs_own_settings_reach_uv(house: Path, tmp_path: Path) -> None:
    """UV_* variables hold: the index that a person has set up is the one that is asked."""
    environ = {"UV_FIND_LINKS": str(house)}
    facts = lazydeps_json("pack", "lzdapp", "-o", "p.tar.zst", *QUICK, cwd=tmp_path, environ=environ)
    assert facts["distributions"] == {"lzdapp": "1.0", "lzdlib": "1.10"}


# -- projects


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a dependency, an extra, and groups of which one includes the other."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "proj"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["six"]\n'
        '[project.optional-dependencies]\nfast = ["markupsafe>=3"]\n'
        '[dependency-groups]\nweb = ["idna"]\nall = ["packaging", {include-group = "web"}]\n'
    )
    return folder


def lock(folder: Path, *words: str) -> None:
    """Make a project's uv.lock."""
    subprocess.run([uv_binary(), "lock", "-q", "--project", folder, *words], check=True, timeout=120)


@pytest.mark.parametrize("locked", [False, True], ids=["free", "locked"])
@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, {"six"}),
        ({"groups": ("all",)}, {"packaging", "idna"}),
        ({"extras": ("fast",)}, {"six", "markupsafe"}),
        ({"extras": ("fast",), "groups": ("web",)}, {"six", "markupsafe", "idna"}),
    ],
    ids=["dependencies", "group", "extra", "both"],
)
def test_a_project_gives_what_is_asked_of_it(
    project: Path, tmp_path: Path, fields: dict[str, Any], names: set[str], locked: bool
) -> None:
    """Its dependencies by default, groups alone where groups are named, extras with the dependencies; never itself."""
    if locked:
        lock(project)
    _, distributions, warnings, requested = filled(tmp_path, project=project, locked=locked, arch=OTHER, **fields)
    assert (set(distributions), set(requested), warnings) == (names, names, ())


def test_a_lock_is_kept_to(project: Path, tmp_path: Path) -> None:
    """The lock's versions and hashes hold; a missing lock and one that is out of date are told apart from failures."""
    with pytest.raises(ConfigError, match=r"--locked wants a uv.lock, and .*project has none. Make it: uv lock"):
        filled(tmp_path, project=project, locked=True)
    lock(project, "--upgrade-package", "six==1.16.0")
    assert filled(tmp_path, project=project, locked=True)[1] == {"six": "1.16.0"}
    pyproject = project / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace('"six"', '"six", "tomli"'))
    with pytest.raises(ConfigError, match=r"uv.lock of .*project does not agree .* uv lock, in that folder"):
        filled(tmp_path, project=project, locked=True)
    pyproject.write_text(pyproject.read_text().replace(', "tomli"', ""))
    text = (project / "uv.lock").read_text()
    (project / "uv.lock").write_text(re.sub("sha256:.{8}", "sha256:00000000", text))
    with pytest.raises(LazydepsError, match=r"(?s)Hash mismatch.*six"):
        filled(tmp_path, project=project, locked=True)


def test_a_pylock_is_installed(project: Path, tmp_path: Path) -> None:
    """A pylock.toml is a requirements file that says everything."""
    lock(project)
    pylock = tmp_path / "pylock.toml"
    subprocess.run(
        [uv_binary(), "export", "-q", "--project", project, "--no-emit-project", "--extra", "fast", "-o", pylock],
        check=True,
        capture_output=True,
        timeout=120,
    )
    tree, distributions, warnings, _ = filled(tmp_path, requirement_files=(pylock,), arch=OTHER)
    assert (set(distributions), warnings) == ({"six", "markupsafe"}, ())
    assert list(tree.glob(f"markupsafe/_speedups.*-{MACHINE[OTHER]}-linux-gnu.so"))


def test_local_projects_and_repositories_are_built(house: Path, tmp_path: Path) -> None:
    """A folder and a repository are built by uv, beside wheels, and leave no path of this machine in the tree."""
    if shutil.which("git") is None and not os.environ.get("CI"):
        pytest.skip("uv reads a repository with git, and it is not here")
    for name in ("near", "kept"):
        folder = tmp_path / name
        (folder / "src" / name).mkdir(parents=True)
        (folder / "src" / name / "__init__.py").write_text("")
        (folder / "pyproject.toml").write_text(
            f'[project]\nname = "{name}"\nversion = "1.0"\ndependencies = ["six"]\n'
            '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        )
    git = ["git", "-C", tmp_path / "kept", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True, timeout=60)
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "setup.py").write_text(
        "from setuptools import setup\nsetup(name='older', version='1.0', py_modules=['older'])\n"
    )
    (tmp_path / "older" / "older.py").write_text("")
    asked = (str(tmp_path / "near"), str(tmp_path / "older"), f"git+file://{tmp_path}/kept")
    tree, distributions, warnings, requested = filled(tmp_path, requirements=asked, arch=OTHER)
    assert distributions.keys() == {"near", "older", "kept", "six"}
    assert (warnings, requested) == ((), {"near", "older", "kept"})
    everything = b"".join((tree / path).read_bytes() for path in resolve.list_files(tree))
    assert str(tmp_path).encode() not in everything


# -- wheel folders


@pytest.mark.parametrize("content", [b"one.py,\xff,1\n", b"one.py,," + b"x" * 200_000])
def test_a_damaged_record_is_named(content: bytes, tmp_path: Path) -> None:
    """A RECORD that is no CSV in UTF-8 ends in one paragraph, not in a traceback."""
    info = tmp_path / "site" / "one-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: one\nVersion: 1.0\n\n")
    (info / "RECORD").write_bytes(content)
    (info.parent / "one.py").write_text("")
    error = lazydeps_error("pack", "--from-dir", info.parent, "-o", tmp_path / "p", *QUICK)["message"]
    assert "one-1.0.dist-info/RECORD is damaged: " in error
    assert "Install that distribution again, or remove the file." in error


def test_distributions_that_share_a_file_are_named(tmp_path: Path) -> None:
    """opencv-python and opencv-python-headless, for two: which file is there is a matter of chance."""
    for name, digest in (("one", "sha256=AA"), ("two", "sha256=BB"), ("three", "sha256=AA")):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "RECORD").write_text(f"shared/x.py,{digest},3\n{info.name}/METADATA,{digest},3\nown_{name}.py,,\n")
    (warning,) = shared_warnings(tmp_path)
    assert warning.startswith("one-1.0 and two-1.0 both install shared/x.py, and differ; ")
    assert "Ask for one of them only." in warning


@pytest.mark.parametrize("fields", ["Name: on\x1b[31me\nVersion: 1.0", "Name: one\nVersion: 1\x07"])
def test_a_name_with_control_characters_is_refused(fields: str, tmp_path: Path) -> None:
    """A pack with such a distribution would be refused by every reader, and terminals obey it."""
    info = tmp_path / "site" / "one-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\n{fields}\n\n")
    error = lazydeps_error("pack", "--from-dir", info.parent, "-o", tmp_path / "p", *QUICK)["message"]
    assert error.isprintable()
    assert error.startswith("one-1.0.dist-info gives its distribution's name or version with control characters: '")


def test_a_record_leads_nowhere_else(tmp_path: Path) -> None:
    """Digests are compared of files in the tree alone: a hostile RECORD names any file of this machine."""
    info = tmp_path / "site" / "one-1.0.dist-info"
    info.mkdir(parents=True)
    secret = tmp_path / "secret"
    secret.write_text("s")
    (info / "RECORD").write_text(f"{secret},sha256=AA,1\n../secret,sha256=AA,1\n")
    assert find_edited(info.parent) == {}


def test_a_tree_without_metadata_is_traced(tmp_path: Path) -> None:
    """Archives made by hand often have no dist-info folders: their modules are imported all the same."""
    folder = tmp_path / "site"
    (folder / "one").mkdir(parents=True)
    (folder / "one" / "__init__.py").write_text("import two")
    (folder / "two.py").write_text("")
    (folder / "_own.py").write_text("")
    facts = lazydeps_json("pack", "--from-dir", folder, "-o", tmp_path / "p", "--save-trace", tmp_path / "t", *QUICK)
    assert facts["sets"]["boot"]["files"] == 2
    assert json.loads((tmp_path / "t").read_text())["order"] == ["one/__init__.py", "two.py"]


@pytest.mark.parametrize("how", ["requirements", "project", "lock"])
def test_what_is_editable_is_packed_all_the_same(how: str, tmp_path: Path) -> None:
    """``-e ./near``, and ``editable = true`` in a project or its lock: the pack holds the code, and no link to it."""
    near, app = tmp_path / "near", tmp_path / "app"
    (near / "src" / "near").mkdir(parents=True)
    (near / "src" / "near" / "__init__.py").write_text("")
    (near / "pyproject.toml").write_text(
        '[project]\nname = "near"\nversion = "1.0"\n'
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
    )
    app.mkdir()
    (app / "pyproject.toml").write_text(
        f'[project]\nname = "app"\nversion = "1"\nrequires-python = ">={MINOR}"\ndependencies = ["near"]\n'
        '[tool.uv.sources]\nnear = {path = "../near", editable = true}\n'
    )
    if how == "requirements":
        (tmp_path / "r.txt").write_text(f"-e {near}\n")
        tree = filled(tmp_path, requirement_files=(tmp_path / "r.txt",))[0]
    else:
        if how == "lock":
            subprocess.run(
                [uv_binary(), "lock", "-q", "--python", sys.executable, "--project", app], check=True, timeout=60
            )
        tree = filled(tmp_path, project=app, locked=how == "lock")[0]
    names = {path.relative_to(tree).as_posix() for path in tree.rglob("*")}
    assert "near/__init__.py" in names
    assert not [name for name in names if name.endswith(".pth")]


def test_a_link_to_a_project_is_refused(tmp_path: Path) -> None:
    """An older uv installs what is editable as a link; that is no pack."""
    info = tmp_path / "near-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: near\nVersion: 1.0\n\n")
    (info / "direct_url.json").write_text('{"url": "file:///near", "dir_info": {"editable": true}}')
    with pytest.raises(ConfigError, match=r"near was installed as an editable project: .* Give the folder without -e"):
        resolve.refuse_editable(tmp_path)


def test_a_lock_for_other_pythons_says_so(tmp_path: Path) -> None:
    """Without requires-python a lock is for whatever Python uv found: locking again would change nothing."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "app"\nversion = "1"\ndependencies = ["six"]\n')
    subprocess.run(
        [uv_binary(), "lock", "-q", "--python", sys.executable, "--project", tmp_path], check=True, timeout=60
    )
    lock = tmp_path / "uv.lock"
    lock.write_text(re.sub('requires-python = ".*"', 'requires-python = ">=3.9"', lock.read_text()))
    with pytest.raises(ConfigError, match=rf'Write requires-python = ">={MINOR}" into \[project\], then: uv lock'):
        filled(tmp_path, project=tmp_path, locked=True)


def test_of_a_wheel_folder_everything_goes_in(house: Path, tmp_path: Path) -> None:
    """Each distribution once, in its newest version; nothing is asked of an index; the rest counts as needed."""
    _, distributions, _, requested = filled(tmp_path, wheels=house)
    assert distributions == {"lzdapp": "1.0", "lzdlib": "1.10", "lzdopt": "1.0"}
    assert requested == {"lzdapp", "lzdopt"}  # which only an extra of the other needs
    wheel(tmp_path / "short", "lzdapp", requires=["six"])
    with pytest.raises(LazydepsError, match=r"(?s)six was not found in the provided package locations"):
        filled(tmp_path, wheels=tmp_path / "short")


def test_a_wheel_has_to_fit_the_target(tmp_path: Path) -> None:
    """The newest version that fits is taken, in its most particular wheel; names without one are all named."""
    folder = tmp_path / "wheels"
    wheel(folder, "lzdlib", "2.0", tag(OTHER))
    wheel(folder, "lzdlib", "1.0", tag(ARCH))
    particular = wheel(folder, "lzdlib", "1.1", tag(ARCH))
    wheel(folder, "lzdlib", "1.1")
    wheel(folder, "lzdlib", "1.2", tag(ARCH, glibc=39))
    target = {"python": MINOR, "arch": ARCH, "glibc": "2.34"}
    assert choose_wheels(folder, **target) == [particular]
    assert filled(tmp_path, wheels=folder, arch=ARCH)[1] == {"lzdlib": "1.1"}
    wheel(folder, "new", "1.0", tag(ARCH, glibc=39))
    wheel(folder, "lzdodd", "1.0", tag(OTHER))
    words = (
        rf"(?s)no wheel in .* fits Python {MINOR} on {ARCH} with glibc 2.34 for:\n  lzdodd: found lzdodd.*\n  new: fo"
    )
    with pytest.raises(ConfigError, match=words):
        choose_wheels(folder, **target)
    (folder / "notes.whl").touch()
    with pytest.raises(ConfigError, match=r"notes.whl has no wheel's name"):
        choose_wheels(folder, **target)
    with pytest.raises(ConfigError, match=r"--wheels wants a folder of wheels, and .* has none"):
        choose_wheels(tmp_path, **target)


def test_tags_are_those_of_an_installer_on_the_target() -> None:
    """For a target like this very machine, the tags that fit are those that `packaging` finds here."""
    libc, version = os.confstr("CS_GNU_LIBC_VERSION").split()  # type: ignore[union-attr]
    assert libc == "glibc"
    here = set(sys_tags())
    assert {found for found in here if fits([found], python=MINOR, arch=ARCH, glibc=version)} == here


# -- folders and archives


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installed site-packages folder: small real wheels, one with an extension."""
    folder = tmp_path_factory.mktemp("site") / "site-packages"
    interpreter = require_interpreter(MINOR)
    resolve.install(["six", "markupsafe"], into=folder, interpreter=interpreter, arch=ARCH, glibc="2.34")
    resolve.normalise(folder, drop_scripts=True)
    return folder


@pytest.fixture(scope="module")
def root_of_site(site: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The root of the pack of that folder."""
    out = tmp_path_factory.mktemp("packed") / "p.tar.zst"
    root: str = lazydeps_json("pack", "--from-dir", site, "-o", out, *QUICK)["root"]
    return root


def archive_of(site: Path, into: Path, kind: str) -> Path:
    """Make an archive of a site-packages folder as people have them."""
    prefix = {"layer.zip": "python/", "long.zip": f"python/lib/python{MINOR}/site-packages/"}.get(kind, "")
    path = into / (kind if kind.endswith(".zip") else f"deps.{kind}")
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in resolve.list_files(site):
                archive.write(site / name, prefix + name)
            if prefix:
                archive.writestr("bin/tool", "#!/bin/sh\n")
    elif kind == "tar.zst":
        subprocess.run(["tar", "--zstd", "-cf", path, "-C", site, "."], check=True, timeout=60)
    else:
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as archive:
            archive.add(site, ".")
    return path


@pytest.mark.parametrize("kind", ["plain.zip", "layer.zip", "long.zip", "tar", "tar.gz", "tar.zst"])
def test_an_archive_gives_the_pack_of_its_folder(site: Path, root_of_site: str, tmp_path: Path, kind: str) -> None:
    """Layer zips of both layouts, plain zips and tars give the same root as the folder that they hold."""
    facts = lazydeps_json("pack", "--from-archive", archive_of(site, tmp_path, kind), "-o", tmp_path / "p", *QUICK)
    assert facts["root"] == root_of_site
    left = [f"1 of the files in {kind} do not belong in site-packages and were left out (bin/tool)."]
    assert facts["warnings"] == (left if kind in ("layer.zip", "long.zip") else [])


def test_a_wheel_can_be_the_archive(tmp_path: Path) -> None:
    """A wheel's contents are taken without its dependencies, if it fits the target."""
    fitting = wheel(tmp_path, "lzdlib", "1.0", tag(ARCH))
    assert filled(tmp_path, from_archive=fitting, arch=ARCH)[1] == {"lzdlib": "1.0"}
    with pytest.raises(ConfigError, match=f"lzdlib-1.0-.* does not fit Python {MINOR} on {OTHER} with glibc"):
        filled(tmp_path, from_archive=fitting, arch=OTHER)


def test_an_archive_that_cannot_be_used_is_refused(site: Path, tmp_path: Path) -> None:
    """Members that would land elsewhere, layers for another Python, damage and unknown names: each says which file."""
    target = {"into": tmp_path / "out", "python": "3.12", "arch": ARCH, "glibc": "2.34"}
    hostile = tmp_path / "hostile.tar"
    with tarfile.open(hostile, "w") as archive:
        archive.addfile(tarfile.TarInfo("../escaped.py"))
    with pytest.raises(UnsafeArchiveError, match=r"hostile.tar: .*'../escaped.py'") as caught:
        unpack(hostile, **target)  # type: ignore[arg-type]
    assert caught.value.member == "../escaped.py"
    assert not (tmp_path / "escaped.py").exists()
    with pytest.raises(ConfigError, match=rf"long.zip is a layer for Python {MINOR}, and the pack is for 3.12"):
        unpack(archive_of(site, tmp_path, "long.zip"), **target)  # type: ignore[arg-type]
    damaged = archive_of(site, tmp_path, "tar.gz")
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(PackFormatError, match=r"deps.tar.gz: the archive is cut off"):
        unpack(damaged, **target)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"knows an archive by its name, which ends with .zip, .*: .*deps.rar"):
        unpack(tmp_path / "deps.rar", **target)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_files_that_somebody_edited_are_named(site: Path, tmp_path: Path) -> None:
    """A file that is not what RECORD says is packed and named, from a folder and from an archive; a lost one is not."""
    folder = tmp_path / "site"
    shutil.copytree(site, folder)
    assert find_edited(folder) == {}
    with (folder / "six.py").open("a") as file:
        file.write("# mended\n")
    (folder / "markupsafe" / "_speedups.pyi").unlink()
    (version,) = [path.name.removeprefix("six-").removesuffix(".dist-info") for path in folder.glob("six-*.dist-info")]
    expected = (f"six-{version}: six.py is not what was installed (RECORD has another digest); packed as found.",)
    assert filled(tmp_path, from_dir=folder)[2] == expected
    tree, _, warnings, _ = filled(tmp_path, from_archive=archive_of(folder, tmp_path, "layer.zip"))
    assert expected[0] in warnings
    assert (tree / "six.py").read_text().endswith("# mended\n")


# -- what cannot be combined


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"from_dir": Path(), "requirements": ("six",)}, r"--from-dir cannot be combined with requirements; a folder"),
        ({"from_dir": Path(), "from_archive": Path("a.zip")}, "--from-dir cannot be combined with --from-archive"),
        ({"from_archive": Path("a.zip"), "wheels": Path()}, "--from-archive cannot be combined with --wheels; an arch"),
        ({"requirement_files": (Path("pylock.toml"),), "requirements": ("six",)}, "pylock.toml says all .* requirem"),
        ({"requirement_files": (Path("pylock.a.toml"), Path("r.txt"))}, "a pylock.toml says all .* another -r"),
        ({"project": Path(), "locked": True, "wheels": Path()}, "--locked takes packages from their indexes"),
        ({"groups": ("web",)}, "--group is about a project, and there is no pyproject.toml in this folder"),
        ({"project": Path()}, "--project wants a folder with a pyproject.toml"),
        ({"wheels": Path("nowhere")}, "--wheels wants a folder of wheels, and nowhere is none"),
        ({"from_archive": Path("a.zip")}, "--from-archive wants a file, and a.zip is none"),
        ({"constraint_files": (Path("c.txt"),)}, "nothing to pack: give requirements"),
    ],
)
def test_inputs_that_cannot_be_combined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: Mapping[str, Any], words: str
) -> None:
    """What contradicts itself is said before anything is installed."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=words):
        check_options(PackOptions(out=Path("p"), **fields))


def test_unknown_groups_and_extras_name_the_nearest(project: Path, tmp_path: Path) -> None:
    """A group or an extra that the project does not have is usage, and names what it has."""
    for field, words in (
        ({"groups": ("wep",)}, r"no dependency group 'wep'. Did you mean web\? It has web, all\."),
        ({"extras": ("slow",)}, r"no extra 'slow'. It has fast\."),
    ):
        with pytest.raises(ConfigError, match=words):
            check_options(PackOptions(out=tmp_path / "p", project=project, **field))
    (project / "pyproject.toml").write_text('[dependency-groups]\nweb = ["idna"]\n')
    with pytest.raises(
        ConfigError, match=r"has no \[project\], and so no dependencies to pack. Name a dependency group"
    ):
        check_options(PackOptions(out=tmp_path / "p", project=project))


# -- targets


def test_all_that_has_no_wheel_for_another_machine_is_named(tmp_path: Path) -> None:
    """What is compiled and what builds only for here stand in one message, each with the version that would do."""
    house = tmp_path / "house"
    wheel(house, "lzdodd", "1.0", tag(ARCH))
    wheel(house, "lzdodd", "0.9", tag(OTHER))
    wheel(house, "lzdeven", "1.0", tag(ARCH))
    wheel(house, "lzdtop", requires=["lzdodd>=1", "lzdeven"])
    compiled = tmp_path / "compiled"
    compiled.mkdir()
    (compiled / "setup.py").write_text(
        "from setuptools import Distribution, setup\n"
        "class Binary(Distribution):\n    has_ext_modules = lambda self: True\n"
        "setup(name='compiled', version='1.0', py_modules=['compiled'], distclass=Binary)\n"
    )
    (compiled / "compiled.py").write_text("")
    file = tmp_path / "requirements.txt"
    file.write_text(f"--find-links {house}\nlzdtop\n{compiled}\nsix\n")
    start = rf"^3 packages have no wheel for Python {MINOR} on {OTHER} with glibc [\d.]+, and cannot be built for it"
    with pytest.raises(LazydepsError, match=start) as caught:
        filled(tmp_path, requirement_files=(file,), arch=OTHER)
    said = str(caught.value)
    assert "\n  lzdodd==1.0: lzdodd==0.9 has one\n" in said
    assert "\n  lzdeven==1.0: no other version has one\n" in said
    assert "\n  compiled @ file://" in said
    assert "its build makes a wheel for this machine" in said
    assert "six" not in said
    assert "--wheels" in said
    assert filled(tmp_path, requirement_files=(file,), arch=ARCH)[1].keys() == {
        "lzdtop",
        "lzdodd",
        "lzdeven",
        "compiled",
        "six",
    }


def test_several_targets_in_one_run(tmp_path: Path) -> None:
    """Repeated and comma-separated targets each give a file of their own; a single target gives the facts as ever."""
    other = next(minor for minor in ("3.12", "3.11") if find_interpreter(minor) is not None)
    words = ["pack", "markupsafe", "--python", f"{MINOR},{other}", "--arch", "x86_64", "--arch", "aarch64", *QUICK]
    facts = lazydeps_json(*words, "-o", "m-{python}-{arch}.tar.zst", cwd=tmp_path)
    assert facts["failed"] == []
    packs = {(pack["python"], pack["arch"]): pack for pack in facts["packs"]}
    names = {f"m-{python}-{arch}.tar.zst" for python, arch in packs}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert packs.keys() == {(python, arch) for python in (MINOR, other) for arch in ("x86_64", "arm64")}
    alone = lazydeps_json("pack", "markupsafe", "--arch", OTHER, "-o", "alone.tar.zst", *QUICK, cwd=tmp_path)
    assert alone["root"] == packs[MINOR, OTHER]["root"]
    assert alone.keys() | {"name"} == packs[MINOR, OTHER].keys()
    done = lazydeps("pack", "six", "--arch", "x86_64,arm64", "-o", "folder", *QUICK, "--quiet", cwd=tmp_path)
    first, second = (f"folder/pack-py{MINOR.replace('.', '')}-{arch}.tar.zst" for arch in ("x86_64", "arm64"))
    assert [line.split(":")[0] for line in done.stdout.splitlines() if line.startswith("folder")] == [first, second]
    assert done.stdout.endswith(f"\nNext: lazydeps push {first} {second} s3://BUCKET/PREFIX/ --name NAME\n")


def test_the_next_commands_of_a_project(tmp_path: Path) -> None:
    """What lies where a project has it, `lazydeps push` finds; else the targets of a name go together."""
    (tmp_path / "lazydeps.toml").write_text(
        'arch = ["x86_64", "arm64"]\ndestination = "s3://b/p/"\n[packs.a]\nrequirements = ["six"]\nlevel = 1\n'
        f'[packs.b]\nrequirements = ["idna"]\nlevel = 1\narch = ["{ARCH}"]\n'
    )
    assert lazydeps("pack", "--quiet", cwd=tmp_path).stdout.endswith("\nNext: lazydeps push\n")
    done = lazydeps("pack", "--quiet", "-o", "out", cwd=tmp_path)
    tag = f"py{MINOR.replace('.', '')}"
    assert done.stdout.endswith(
        f"\nNext: lazydeps push out/a-{tag}-x86_64.tar.zst out/a-{tag}-arm64.tar.zst s3://b/p/ --name a\n"
        f"      lazydeps push out/b-{tag}-{ARCH}.tar.zst s3://b/p/ --name b\n"
    )


@pytest.mark.parametrize(
    ("name", "option"),
    [("requirements.txt", "-r"), ("pylock.toml", "-r"), ("layer.zip", "--from-archive"), ("site", "--from-dir"),
     ("wheels", "--wheels")],
)  # fmt: skip
def test_a_file_in_the_place_of_a_requirement(tmp_path: Path, name: str, option: str) -> None:
    """What is given without its option is named with it, where uv would look for a package of that name."""
    (tmp_path / "requirements.txt").write_text("six\n")
    (tmp_path / "pylock.toml").write_text("")
    with zipfile.ZipFile(tmp_path / "layer.zip", "w") as file:
        file.writestr("python/six.py", "")
    (tmp_path / "site/six-1.dist-info").mkdir(parents=True)
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels/six-1-py3-none-any.whl").touch()
    said = lazydeps("pack", name, "-o", "p.tar.zst", cwd=tmp_path, code=2).stderr
    assert f"{name} is no requirement. Give it with its option: {option} {name}." in said


def test_a_configured_project_is_packed(tmp_path: Path) -> None:
    """All packs for all targets, into dist/; one that fails is told and stops no other; --name and flags choose."""
    (tmp_path / "lazydeps.toml").write_text(
        'arch = ["x86_64", "arm64"]\n[packs.small]\nrequirements = ["six"]\nlevel = 1\n'
        f'[packs.none]\nrequirements = ["six==99"]\narch = ["{OTHER}"]\n'
    )
    below = tmp_path / "src"
    below.mkdir()
    facts = lazydeps_json("pack", cwd=below, code=1)
    tags = [f"py{MINOR.replace('.', '')}-{arch}" for arch in ("x86_64", "arm64")]
    assert sorted(path.name for path in (tmp_path / "dist").iterdir()) == sorted(f"small-{tag}.tar.zst" for tag in tags)
    assert [pack["name"] for pack in facts["packs"]] == ["small", "small"]
    (failed,) = facts["failed"]
    assert (failed["name"], failed["python"], failed["arch"]) == ("none", MINOR, OTHER)
    assert failed["error"]["type"] == "LazydepsError"
    assert "six==99" in failed["error"]["message"]
    done = lazydeps("pack", "--quiet", cwd=tmp_path, code=1)
    assert "small-" in done.stdout
    assert f"FAILED: none, Python {MINOR} on {OTHER}: uv could not install" in done.stdout
    assert "six==99" in done.stderr
    one = lazydeps_json("pack", "--name", "small", "--arch", ARCH, "--sources", "cold", "-o", "out", cwd=tmp_path)
    assert Path(one["path"]) == tmp_path / "out" / f"small-py{MINOR.replace('.', '')}-{ARCH}.tar.zst"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["six", "-o", "p.tar.zst"], "2 packs cannot all be p.tar.zst: give --out a folder, or a name for each, such"),
        (["six", "-o", "p-{python}.tar.zst"], "would both be p-3.13.tar.zst"),
        (["six", "-o", "p-{machine}.tar.zst"], "--out knows {python}, {arch} in a file's name; found {machine}"),
        (["six", "-o", "d", "--save-trace", "t.json"], "--save-trace names one file"),
        (["six", "-o", "here.txt"], "--out has to be a folder, or hold {python} and {arch}, and here.txt is a file"),
        (["--name", "science"], "--name chooses packs that a project configures, and neither this folder"),
        (["six", "--name", "science", "-o", "d"], "leave it out to pack something else"),
    ],
)
def test_where_packs_go_is_checked_first(tmp_path: Path, words: list[str], said: str) -> None:
    """Files that would be one, placeholders that nobody knows, names without a project: usage, and nothing is built."""
    (tmp_path / "here.txt").touch()
    done = lazydeps("pack", *words, "--python", "3.13", "--arch", "arm64,x86_64", cwd=tmp_path, code=2)
    assert said in " ".join(done.stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == ["here.txt"]


def test_one_pack_of_a_project_may_be_named(tmp_path: Path) -> None:
    """With one configured pack for one target `-o` takes its file; with more the message counts what would be built."""
    text = f'python = ["{MINOR}"]\narch = ["{ARCH}"]\n[packs.small]\nrequirements = ["six"]\nlevel = 1\n'
    (tmp_path / "lazydeps.toml").write_text(text)
    facts = lazydeps_json("pack", "-o", "mine.tar.zst", cwd=tmp_path)
    assert Path(facts["path"]) == tmp_path / "mine.tar.zst"
    assert (tmp_path / "mine.tar.zst").is_file()
    for words, said in (
        (["-o", "mine.tar.zst", "--arch", "arm64,x86_64"], "2 packs cannot all be mine.tar.zst"),
        (["-o", "mine.zst"], "a file NAME.tar.zst, such as mine.tar.zst: not mine.zst"),
    ):
        assert said in " ".join(lazydeps("pack", *words, cwd=tmp_path, code=2).stderr.split())
    (tmp_path / "folder.tar.zst").mkdir()
    done = lazydeps("pack", "-o", "folder.tar.zst", cwd=tmp_path, code=2)
    assert "folder.tar.zst is a directory" in " ".join(done.stderr.split())


def test_an_interpreter_that_is_not_there_is_asked_for(tmp_path: Path) -> None:
    """Bytecode needs the target's Python: without one, the error says how to get it."""
    environ = {"PATH": "/nowhere", "HOME": str(tmp_path), "PYENV_ROOT": str(tmp_path)}
    if find_interpreter("3.14", environ={**os.environ, **environ}) is not None:
        pytest.skip("Python 3.14 stands where every search looks")
    error = lazydeps_error(
        "pack", "six", "--python", "3.14", "-o", "p.tar.zst", cwd=tmp_path, environ={**environ, "COLUMNS": "120"}
    )
    assert error["type"] == "ConfigError"
    assert "no working Python 3.14 was found" in error["message"]
    assert "uv python install 3.14" in error["message"]


def test_any_order_of_inputs_gives_the_same_root(tmp_path: Path) -> None:
    """Requirements as words, files, constraints, a project and wheels, shuffled: the same bytes each time."""
    house = tmp_path / "house"
    wheel(house, "lzdlib")
    (tmp_path / "one.txt").write_text("idna==3.10\n")
    (tmp_path / "two.txt").write_text("packaging==25.0\nsix\n")
    (tmp_path / "constraints.txt").write_text("six==1.16.0\nmarkupsafe<4\n")
    (tmp_path / "pyproject.toml").write_text('[dependency-groups]\na = ["markupsafe"]\nb = ["certifi==2025.1.31"]\n')
    parts = [
        ["six"],
        [str(house / "lzdlib-1.0-py3-none-any.whl")],
        ["-r", "one.txt"],
        ["-r", "two.txt"],
        ["-c", "constraints.txt"],
        ["--project", "."],
        ["--group", "a"],
        ["--group", "b"],
    ]
    roots = set()
    for seed in range(3):
        random.Random(seed).shuffle(parts)
        words = [word for part in parts for word in part]
        facts = lazydeps_json("pack", *words, "-o", f"{seed}.tar.zst", *QUICK, cwd=tmp_path)
        assert facts["distributions"].keys() == {"six", "lzdlib", "idna", "packaging", "markupsafe", "certifi"}
        roots.add(facts["root"])
    assert len(roots) == 1
    assert json.dumps(facts["distributions"]["six"]) == '"1.16.0"'
