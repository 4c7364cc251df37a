"""The format: what the writer writes, any tar reads, and the reader understands; what it must not be, is refused."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_packs import host_target

from lazydeps import IntegrityError, PackFormatError, UnsafeArchiveError, _pack
from lazydeps._config import Limits
from lazydeps._pack import Root, Section
from lazydeps.build.write import Member, write_pack
from lazydeps.errors import ConfigError

LIMITS = Limits()
names = st.text("abcdefgh_", min_size=1, max_size=8)
paths = st.lists(names, min_size=1, max_size=4).map("/".join)


def read_root(pack: bytes) -> Root:
    """Parse the root of a whole pack in memory."""
    size = _pack.root_size(pack[:8], limits=LIMITS)
    return Root(pack[8 : 8 + size], limits=LIMITS)


def read_rest(pack: bytes, root: Root) -> Section:
    """Parse the index of a whole pack in memory."""
    start, stop = root.index_span
    root.check_index(pack[start:stop])
    return root.read_index(zstandard.ZstdDecompressor().decompress(pack[start:stop]))


def contents(pack: bytes) -> dict[str, bytes]:
    """Read every file through the index and its frames, checking each."""
    root = read_root(pack)
    rest = read_rest(pack, root)
    files: dict[str, bytes] = {}
    for section in (root.boot, rest):
        section.validate(LIMITS)
        for number in range(section.first, section.first + len(section)):
            frame = section.frame(number)
            packed = pack[frame.start : frame.start + frame.packed]
            frame.check(packed)
            text = zstandard.ZstdDecompressor().decompress(packed)
            assert len(text) == frame.unpacked
            for file, begin, end in _pack.runs(section, number):
                assert number in section.frames_of(file)
                files[section.paths[file]] = (
                    files.get(section.paths[file], b"") + text[begin - frame.base : end - frame.base]
                )
    return files


@pytest.fixture
def members(tmp_path: Path) -> list[Member]:
    """A few files of every kind and size: empty, small, larger than a frame, long-named, executable."""
    files = {
        "pkg/__init__.py": b"",
        "pkg/big.bin": os.urandom(3_500_000),
        "pkg/empty.txt": b"",
        "pkg/" + "d" * 90 + "/" + "n" * 120 + ".txt": b"long",
        "pkg/ünï.txt": b"unicode",
        "pkg/run": b"#!",
    }
    result = []
    for name, content in files.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        result.append(Member(name, path, "boot"))
    (tmp_path / "tree/pkg/run").chmod(0o755)
    return [Member(m.path, m.source, kind) for m, kind in zip(result, ("boot", "boot", "data", "data", "cold", "cold"))]


def write(out: Path, members: list[Member], **options: object) -> bytes:
    """Write a pack and return its bytes."""
    write_pack(out, members, target=host_target(), distributions={"pkg": "1"}, level=3, **options)  # type: ignore[arg-type]
    return out.read_bytes()


def test_gnu_tar_extracts_it(tmp_path: Path, members: list[Member]) -> None:
    """An ordinary tar lists and extracts a pack, content and execute bits included."""
    write(tmp_path / "p.tar.zst", members)
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "--zstd", "-xf", "p.tar.zst", "-C", "out"], cwd=tmp_path, check=True)
    for member in members:
        assert (tmp_path / "out" / member.path).read_bytes() == member.source.read_bytes()
    assert os.access(tmp_path / "out/pkg/run", os.X_OK)
    assert not os.access(tmp_path / "out/pkg/big.bin", os.X_OK)


def test_reader_agrees_with_tar(tmp_path: Path, members: list[Member]) -> None:
    """What the index promises is what the tar stream holds, byte for byte."""
    pack = write(tmp_path / "p.tar.zst", members)
    assert contents(pack) == {member.path: member.source.read_bytes() for member in members}


def test_big_files_span_frames(tmp_path: Path, members: list[Member]) -> None:
    """A file larger than a frame is cut, so that several workers can take parts of it."""
    root = read_root(write(tmp_path / "p.tar.zst", members))
    assert len(root.boot.frames_of(root.boot.number_of["pkg/big.bin"])) >= 4


def test_same_bytes_in_another_place_and_time(tmp_path: Path, members: list[Member]) -> None:
    """Neither folder, nor time, nor the number of threads shows in the bytes."""
    first = write(tmp_path / "p.tar.zst", members, jobs=1)
    moved = []
    for member in members:
        copy = tmp_path / "other" / member.path
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(member.source.read_bytes())
        copy.chmod(member.source.stat().st_mode)
        os.utime(copy, (1, 1))
        moved.append(Member(member.path, copy, member.set))
    assert write(tmp_path / "q.tar.zst", moved, jobs=3) == first


def test_written_figures_are_the_files(tmp_path: Path, members: list[Member]) -> None:
    """The figures that `lazydeps pack` prints are those of the file on the disk."""
    out = tmp_path / "p.tar.zst"
    written = write_pack(out, members, target=host_target(), distributions={}, level=3)
    pack = out.read_bytes()
    root = read_root(pack)
    assert (
        written.root == "sha256:" + hashlib.sha256(pack[8 : 8 + _pack.root_size(pack[:8], limits=LIMITS)]).hexdigest()
    )
    assert written.size == len(pack)
    assert written.boot_size == root.boot.starts[-1]
    assert written.files == len(members)
    assert written.unpacked_size == sum(m.source.stat().st_size for m in members)
    assert {name: root.unpacked(name) for name in ("boot", "data", "cold")} == {
        name: entry.unpacked for name, entry in written.sets.items()
    }


def test_every_byte_is_covered(tmp_path: Path, members: list[Member]) -> None:
    """A flipped byte anywhere is found by the root's pin, the index's digest or a frame's digest."""
    pack = write(tmp_path / "p.tar.zst", members)
    pin = read_root(pack).digest
    for place in [0, 5, 8, 100, *range(200, len(pack), 40_009), len(pack) - 1]:
        hostile = bytearray(pack)
        hostile[place] ^= 1
        with pytest.raises((IntegrityError, PackFormatError)):
            size = _pack.root_size(bytes(hostile[:8]), limits=LIMITS)
            _pack.check_root(bytes(hostile[8 : 8 + size]), pin)
            root = Root(bytes(hostile[8 : 8 + size]), limits=LIMITS)
            if bytes(hostile[root.boot.starts[-1] : root.boot.starts[-1] + 4]) != _pack.SKIPPABLE_MAGIC:
                raise PackFormatError("index frame")
            if int.from_bytes(hostile[root.boot.starts[-1] + 4 : root.boot.starts[-1] + 8], "little") != (
                root.index_span[1] - root.index_span[0]
            ):
                raise PackFormatError("index frame")
            contents(bytes(hostile))


def test_source_date_epoch(tmp_path: Path, members: list[Member], monkeypatch: pytest.MonkeyPatch) -> None:
    """SOURCE_DATE_EPOCH is the members' time, and an input: another time is another pack."""
    first = write(tmp_path / "p.tar.zst", members)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    second = write(tmp_path / "q.tar.zst", members)
    assert first != second
    listed = subprocess.run(["tar", "--zstd", "-tvf", "q.tar.zst"], cwd=tmp_path, capture_output=True, text=True)
    assert "2023-11-1" in listed.stdout
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(ConfigError, match="whole seconds"):
        write(tmp_path / "r.tar.zst", members)


def test_the_writer_refuses_repeated_paths(tmp_path: Path, members: list[Member]) -> None:
    """The same path twice would let one file hide another."""
    with pytest.raises(ConfigError, match="twice"):
        write(tmp_path / "p.tar.zst", [members[0], members[0]])


def test_the_writer_leaves_nothing_behind_on_error(tmp_path: Path, members: list[Member]) -> None:
    """A source that vanishes midway leaves neither a pack nor a partial file."""
    broken = [*members[:-1], Member("gone", tmp_path / "gone", "cold")]
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "p.tar.zst", broken)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tree"]


def test_an_unknown_version_is_refused_by_name(tmp_path: Path, members: list[Member]) -> None:
    """A pack from the future says so instead of being misread."""
    pack = bytearray(write(tmp_path / "p.tar.zst", members))
    pack[16:20] = (7).to_bytes(4, "little")
    with pytest.raises(PackFormatError, match="format version 7"):
        read_root(bytes(pack))


def test_what_is_no_pack_is_refused() -> None:
    """A zip, an HTML page or an empty object is named as what it is not."""
    for head in (b"PK\x03\x04" + bytes(8), b"<html><b", b""):
        with pytest.raises(PackFormatError, match="not a lazydeps pack"):
            _pack.root_size(head, limits=LIMITS)
    with pytest.raises(PackFormatError, match="promises a root"):
        _pack.root_size(_pack.SKIPPABLE_MAGIC + b"\xff\xff\xff\xff", limits=LIMITS)


def hostile_section(**changes: object) -> Section:
    """Return a section of two files in one frame, with some of its table replaced."""
    table = {
        "paths": ["a", "b"],
        "offsets": [512, 1536],
        "sizes": [10, 20],
        "executable": [],
        "packed": [100],
        "unpacked": [2048],
        "digests": "0" * 64,
    }
    return Section({**table, **changes}, first=0, start=0, base=0)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"paths": ["../a", "b"]}, UnsafeArchiveError, "not a plain path"),
        ({"paths": ["/etc/passwd", "b"]}, UnsafeArchiveError, "not a plain path"),
        ({"paths": ["a/../../b", "b"]}, UnsafeArchiveError, "not a plain path"),
        ({"paths": ["a//b", "b"]}, UnsafeArchiveError, "not a plain path"),
        ({"paths": ["a\x00b", "b"]}, UnsafeArchiveError, "not a plain path"),
        ({"paths": ["a\\b", "b"]}, UnsafeArchiveError, "not a plain path"),
        ({"paths": ["", "b"]}, UnsafeArchiveError, "not a plain path"),
        ({"paths": ["n" * 256, "b"]}, UnsafeArchiveError, "not a plain path"),
        ({"paths": ["a", "a"]}, UnsafeArchiveError, "twice"),
        ({"offsets": [512, 600]}, PackFormatError, "overlaps"),
        ({"offsets": [0, 1536]}, PackFormatError, "overlaps"),
        ({"offsets": [512, -5]}, PackFormatError, "overlaps"),
        ({"sizes": [10, 5000]}, PackFormatError, "reach"),
        ({"sizes": [-1, 20]}, PackFormatError, "overlaps"),
        ({"sizes": [10]}, PackFormatError, "columns"),
        ({"packed": [0]}, PackFormatError, "sizes"),
        ({"packed": [1 << 40]}, PackFormatError, "sizes"),
        ({"unpacked": [1 << 40]}, PackFormatError, "sizes"),
        ({"digests": "0" * 63}, PackFormatError, "columns"),
    ],
)
def test_a_lying_index_is_refused(changes: dict[str, object], error: type[Exception], match: str) -> None:
    """Each lie about paths, offsets and sizes is refused before anything is written."""
    hostile_section().validate(LIMITS)
    with pytest.raises(error, match=match):
        hostile_section(**changes).validate(LIMITS)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=300)
@given(
    st.dictionaries(
        st.sampled_from(["boot", "index", "sizes", "python", "top_level", "absent", "stdlib", "metadata", "paths"]),
        st.none() | st.integers() | st.text() | st.lists(st.integers()),
    )
)
def test_a_damaged_root_is_a_format_error(changes: dict[str, object]) -> None:
    """Whatever stands in a root's table, the reader answers with its own error, or with a root."""
    table: dict[str, object] = {
        "python": "3.13", "pyc_magic": "", "os": "linux", "arch": "any", "libc": "", "libc_version": "",
        "distributions": {}, "top_level": [], "namespaces": [], "absent": [], "stdlib": [], "metadata": [],
        "sizes": {"boot": 0, "data": 0, "cold": 0},
        "boot": {"paths": [], "offsets": [], "sizes": [], "executable": [],
                 "packed": [], "unpacked": [], "digests": ""},
        "index": {"packed": 1, "unpacked": 1, "digest": "00" * 32, "frames": 1, "data_frames": 0},
    }  # fmt: skip
    content = b"lazydeps" + (1).to_bytes(4, "little") + json.dumps({**table, **changes}).encode()
    try:
        Root(content, limits=LIMITS)
    except PackFormatError:
        assert changes


@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=40)
@given(
    files=st.dictionaries(paths, st.binary(max_size=5000), max_size=12),
    cuts=st.tuples(st.integers(0, 12), st.integers(0, 12)),
)
def test_pack_and_read_is_the_identity(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], cuts: tuple[int, int]
) -> None:
    """Any set of files, cut into any sets, comes out as it went in, through our reader and through tarfile."""
    folder = tmp_path_factory.mktemp("identity")
    files = {
        name: content for name, content in files.items() if not any(other.startswith(name + "/") for other in files)
    }
    members = []
    for at, (name, content) in enumerate(files.items()):
        source = folder / f"source-{at}"
        source.write_bytes(content)
        members.append(Member(name, source, ("boot", "data", "cold")[(at >= min(cuts)) + (at >= max(cuts))]))  # type: ignore[arg-type]
    pack = write(folder / "p.tar.zst", members)
    assert contents(pack) == files
    reader = zstandard.ZstdDecompressor().stream_reader(pack, read_across_frames=True)
    with reader as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        assert {info.name: archive.extractfile(info).read() for info in archive} == files  # type: ignore[union-attr]
