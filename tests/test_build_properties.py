"""What holds of every pack, whatever is in it: nothing is lost, added or changed, by us or by tar, and damage is found.

The trees are random ones: odd names, sizes around the borders of frames, executables, nested folders without a module.
Examples are the same in each run (`PROFILE`); to look further, raise ``max_examples`` and take ``derandomize`` away.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from support_packs import ARCH

from lazydeps._archive import Names
from lazydeps._config import Limits
from lazydeps._ref import Ref
from lazydeps.build import read
from lazydeps.build.options import PackOptions
from lazydeps.build.pack import PackResult, build_pack
from lazydeps.build.write import BOOT_GROWTH, FRAME
from lazydeps.errors import LazydepsError, UnsafeArchiveError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
PROFILE = settings(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
BORDERS = sorted({0, 1, 511, 512, 513, FRAME - 512, FRAME - 1, FRAME, FRAME + 1, 2 * FRAME, 5_000_000}
                 | {size + more for _, size in BOOT_GROWTH for more in (-512, 0, 1)})  # fmt: skip
"""Sizes in bytes at which something changes: a tar block, a frame of each size, several frames."""
NOISE = random.Random(5).randbytes(max(BORDERS))
SOURCES = (b"N = 1\n", b"import os\n", b"", b"this is { no Python\n", b"\xff\xfe not even text")


@dataclass(frozen=True, slots=True)
class File:
    """A file of a random tree."""

    content: bytes
    executable: bool


parts = st.text("abcXY09_-+ .,'~$@=#&()ü日", min_size=1, max_size=9).filter(lambda part: part not in (".", ".."))
endings = st.sampled_from(["", "", ".py", ".py", ".txt", ".so", ".pyi", ".tar.gz", ".cpython-313-x86_64-linux-gnu.txt"])
folders = st.lists(parts, max_size=4)
paths = st.builds(lambda above, name, ending: "/".join([*above, name + ending]), folders, parts, endings)
contents = st.one_of(
    st.builds(lambda size, at: NOISE[at : at + size], st.integers(0, 2000), st.integers(0, 9999)),
    st.sampled_from(BORDERS).map(lambda size: NOISE[:size]),
    st.sampled_from(BORDERS).map(bytes),
)


@st.composite
def trees(draw: st.DrawFn, *, most: int = 12) -> dict[str, File]:
    """Draw a tree that keeps the rules for names: no path twice, not even differing by case, none above another."""
    tree: dict[str, File] = {}
    names = Names(Limits())
    for path in draw(st.lists(paths, min_size=1, max_size=most)):
        try:
            names.add(path, size=0)
        except UnsafeArchiveError:
            continue
        content = draw(st.sampled_from(SOURCES)) if path.endswith(".py") else draw(contents)
        tree[path] = File(content, draw(st.booleans()))
    assume(tree)
    return tree


def write(folder: Path, tree: Mapping[str, File]) -> Path:
    """Write a tree, in its order."""
    for name, file in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        path.chmod(0o755 if file.executable else 0o644)
    return folder


def found_in(folder: Path) -> dict[str, File]:
    """Return the tree that stands in a folder, without the bytecode that a build adds."""
    return {
        path.relative_to(folder).as_posix(): File(path.read_bytes(), bool(path.stat().st_mode & 0o100))
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }


@pytest.fixture
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the folders of the examples."""
    return tmp_path_factory.mktemp("examples")


def fresh(scratch: Path) -> Path:
    """Return a new folder for one example; those before it are removed."""
    for old in scratch.iterdir():
        shutil.rmtree(old)
    return Path(tempfile.mkdtemp(dir=scratch))


def pack(folder: Path, tree: Mapping[str, File], name: str = "a", **changes: object) -> PackResult:
    """Build a pack of a tree, with a trace that touches nothing unless one is given."""
    trace = folder / f"{name}.trace.json"
    document = {"lazydeps_trace": 1, "python": MINOR, "arch": ARCH, "how": [], "order": [], "absent": [], "stdlib": []}
    trace.write_text(json.dumps({**document, **changes}))
    source = write(folder / f"{name}.tree", tree)
    return build_pack(
        PackOptions(
            out=folder / f"{name}.tar.zst", from_dir=source, trace_files=(trace,), prune=False, level=1, python=MINOR
        )
    )


def extract(result: PackResult, folder: Path) -> dict[str, File]:
    """Return what `lazydeps extract` writes, after `lazydeps verify` has found nothing."""
    root = bytes.fromhex(result.written.root.removeprefix("sha256:"))
    with read.open_pack(Ref(result.written.path.as_uri(), root)) as opened:
        assert read.verify(opened) > 0
        read.extract(opened, folder)
    return found_in(folder)


def untar(result: PackResult, folder: Path) -> dict[str, File]:
    """Return what ``tar --zstd -xf`` writes."""
    folder.mkdir()
    command = ["tar", "--zstd", "-xf", result.written.path, "-C", folder, "--no-same-owner"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return found_in(folder)


@settings(PROFILE, max_examples=25)
@given(tree=trees())
def test_pack_and_extract_is_the_identity(scratch: Path, tree: dict[str, File]) -> None:
    """Every file comes out with its name, its bytes and its executable bit; by tar, too; and nothing else does."""
    folder = fresh(scratch)
    result = pack(folder, tree)
    assert extract(result, folder / "extracted") == tree
    assert untar(result, folder / "untarred") == tree
    event(f"frames: {result.written.size // FRAME}")


@st.composite
def traced(draw: st.DrawFn) -> tuple[dict[str, File], list[str], list[str]]:
    """Draw a tree, a trace's order over it, and what else the trace names, which is not there."""
    tree = draw(trees())
    order = draw(st.lists(st.sampled_from(sorted(tree)), unique=True))
    marked = draw(st.lists(st.booleans(), min_size=len(order), max_size=len(order)))
    order = [f"file:{name}" if mark and name.endswith(".py") else name for name, mark in zip(order, marked)]
    gone = [f"gone/{name}" for name in draw(st.lists(parts, max_size=3, unique=True)) if f"gone/{name}" not in tree]
    return tree, order, gone


@settings(PROFILE, max_examples=25)
@given(drawn=traced())
def test_no_trace_loses_a_file(scratch: Path, drawn: tuple[dict[str, File], list[str], list[str]]) -> None:
    """Whatever a trace names, in whatever order, every file is in the pack once, and what it names comes first."""
    tree, order, gone = drawn
    folder = fresh(scratch)
    result = pack(folder, tree, order=[*gone, *order], absent=gone)
    with read.open_pack(Ref(result.written.path.as_uri())) as opened:
        entries = read.describe(opened, files=True)["contents"]
    names = [entry["path"] for entry in entries]
    assert len(names) == len(set(names)) == result.written.files
    boot = {entry["path"] for entry in entries if entry["set"] == "boot"}
    assert {name for name in order if not name.endswith(".py")} <= boot
    assert {name.removeprefix("file:") for name in order if name.startswith("file:")} <= boot
    assert set(result.trace_dropped) >= set(gone)
    assert extract(result, folder / "extracted") == tree


@settings(PROFILE, max_examples=15)
@given(tree=trees(), seed=st.integers(0, 999), umask=st.sampled_from([0o022, 0o027, 0o077]))
def test_the_order_of_the_input_does_not_matter(scratch: Path, tree: dict[str, File], seed: int, umask: int) -> None:
    """Written to the disk in another order, at another place, under another umask: the same pack, byte for byte."""
    folder = fresh(scratch)
    shuffled = list(tree.items())
    random.Random(seed).shuffle(shuffled)
    one = pack(folder, tree, "one")
    before = os.umask(umask)
    try:
        other = pack(folder, dict(shuffled), "another name")
    finally:
        os.umask(before)
    assert one.written.root == other.written.root
    assert one.written.path.read_bytes() == other.written.path.read_bytes()


# -- damage


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> PackResult:
    """A pack of a few files, small enough to damage each of its bytes."""
    tree = {
        "alpha/__init__.py": File(b"N = 39\n", executable=False),
        "alpha/data.txt": File(NOISE[:300], executable=False),
        "alpha-1.dist-info/METADATA": File(b"Metadata-Version: 2.1\nName: alpha\nVersion: 1\n", executable=False),
    }
    return pack(tmp_path_factory.mktemp("small"), tree, order=["alpha/__init__.py"])


def damaged(pack: PackResult, folder: Path) -> Iterator[tuple[int, Path]]:
    """Yield each position, with a copy of the pack whose byte there is another."""
    content = bytearray(pack.written.path.read_bytes())
    copy = folder / "damaged.tar.zst"
    bits = itertools.cycle(range(8))
    for at in range(len(content)):
        bit = 1 << next(bits)
        content[at] ^= bit
        copy.write_bytes(content)
        yield at, copy
        content[at] ^= bit


def test_a_flipped_bit_anywhere_is_found(small: PackResult, tmp_path: Path) -> None:
    """Of every byte of a pack, one bit is flipped: with its pin, `verify` refuses each of these packs."""
    root = bytes.fromhex(small.written.root.removeprefix("sha256:"))
    unnoticed = []
    for at, copy in damaged(small, tmp_path):
        try:
            with read.open_pack(Ref(copy.as_uri(), root)) as opened:
                read.verify(opened)
            unnoticed.append(at)
        except LazydepsError:
            pass
    assert unnoticed == []


@settings(PROFILE, max_examples=25)
@given(cut=st.floats(0, 1, exclude_max=True), more=st.binary(max_size=20))
def test_a_pack_that_is_cut_off_is_found(small: PackResult, scratch: Path, cut: float, more: bytes) -> None:
    """A pack that ends early, or ends early and goes on with something else, is refused."""
    content = small.written.path.read_bytes()
    kept = content[: int(len(content) * cut)] + more
    assume(kept != content)
    copy = scratch / "cut.tar.zst"
    copy.write_bytes(kept)
    with pytest.raises(LazydepsError), read.open_pack(Ref(copy.as_uri())) as opened:
        read.verify(opened)
