"""The fuzz targets, for a moment: inputs made by Hypothesis within the structure, by mutation, and the kept corpus.

`make fuzz` runs the same targets for as long as one likes.
"""

from __future__ import annotations

import copy
import itertools
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fuzz import mutate, targets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lazydeps import UnsafeArchiveError, _archive, _pack
from lazydeps._config import Config, Limits
from lazydeps._fetch import new_decompressor, unpack
from lazydeps._pack import Frame, Section, check_path
from lazydeps._sources import https
from lazydeps.build.trace import Trace
from lazydeps.errors import ConfigError, PackFormatError

LIMITS = Limits()
CORPUS = Path(__file__).parent / "fuzz" / "corpus"
QUICK = settings(
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    database=None,
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(mutate.NUMBERS)
    | st.sampled_from(mutate.TEXTS)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def changed(draw: st.DrawFn, table: dict[str, Any]) -> dict[str, Any]:
    """A table in which up to three values, anywhere, are others, are gone, or stand twice."""
    table = copy.deepcopy(table)
    for _once in range(draw(st.integers(1, 3))):
        inner: Any = table
        while True:
            keys = sorted(inner) if isinstance(inner, dict) else range(len(inner))
            if not keys:
                break
            key = draw(st.sampled_from(list(keys)))
            if isinstance(inner[key], (dict, list)) and inner[key] and draw(st.integers(0, 3)):
                inner = inner[key]
                continue
            what = draw(st.sampled_from(("replace", "replace", "shift", "remove", "repeat")))
            if what == "remove":
                del inner[key]
            elif what == "repeat" and isinstance(inner, list):
                inner.insert(key, inner[key])
            elif what == "shift" and type(inner[key]) is int:
                inner[key] += draw(st.integers(-1024, 1024))
            else:
                inner[key] = draw(values)
            break
    return table


@QUICK
@given(changed(targets.sound_tables()[0]))
def test_a_root_of_other_values(table: dict[str, Any]) -> None:
    """Whatever stands in a root, it is refused with an error of ours, or everything that is asked of it holds."""
    targets.run_root(targets.HEAD + targets.dump(table))


@QUICK
@given(changed(targets.sound_tables()[1]))
def test_an_index_of_other_values(table: dict[str, Any]) -> None:
    """Whatever stands in an index, it is refused, or its frames hold each byte of each file exactly once."""
    targets.run_index(targets.dump(table))


@QUICK
@given(st.binary(max_size=200), st.sampled_from(["root", "index", "trace"]))
def test_no_table_at_all(data: bytes, name: str) -> None:
    """Bytes where JSON is expected are an error of ours."""
    target = targets.TARGETS[name]
    target.run((target.tag or b"") + data)


@QUICK
@given(
    files=st.lists(st.tuples(st.integers(512, 2000), st.sampled_from((0, 0, 1, 511, 512, 3000))), max_size=12),
    cuts=st.sets(st.integers(1, 20_000), max_size=12),
    base=st.sampled_from((0, 512, 7168)),
)
def test_any_way_to_cut_the_stream(files: list[tuple[int, int]], cuts: set[int], base: int) -> None:
    """Wherever frames are cut, even within a header, every file's bytes are found, once, by both ways of asking."""
    offsets, sizes, at = [], [], base
    for gap, size in files:
        offsets.append(at + gap)
        sizes.append(size)
        at += gap + size
    end = at + 1024
    ends = [base, *sorted(cut + base for cut in cuts if cut + base < end), end]
    unpacked = [high - low for low, high in itertools.pairwise(ends)]
    table = {
        "paths": [f"f{n}" for n in range(len(files))], "offsets": offsets, "sizes": sizes, "executable": [],
        "packed": [1] * len(unpacked), "unpacked": unpacked, "digests": "00" * 32 * len(unpacked),
    }  # fmt: skip
    section = Section(table, first=3, start=99, base=base)
    section.validate(LIMITS)
    targets.check_section(section)


parts = st.sampled_from(
    ("a", "b", "..", ".", "", "é", "a\\b", "\0", "n" * 255, "n" * 256, "é" * 128, "\ud800")
) | st.text(max_size=3)


@QUICK
@given(st.lists(st.lists(parts, max_size=5).map("/".join), max_size=4))
def test_paths_together_and_alone(paths: list[str]) -> None:
    """The check of a whole table, which is made for speed, refuses exactly what the check of one path refuses."""

    def refused(check: Any) -> bool:
        try:
            check()
        except UnsafeArchiveError:
            return True
        return False

    alone = any(refused(lambda path=path: check_path(path, LIMITS)) for path in paths)
    assert refused(lambda: _pack._check_paths(paths, LIMITS)) == alone
    if not alone:
        folders = {str(parent) for path in paths for parent in Path(path).parents} - {"."}
        assert _pack._check_paths(paths, LIMITS) == _pack._folders(paths) == folders


@QUICK
@given(
    st.text(max_size=60) | st.sampled_from([seed.decode() for seed in targets.TARGETS["ref"].seeds()]),
    st.text(max_size=5),
)
def test_references_and_variables(text: str, more: str) -> None:
    """A reference, and each variable, is read or refused with a ConfigError; a pinned one's text reads the same."""
    for data in (text, text + more, more + text):
        targets.run_ref(data.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("name", targets.TARGETS)
def test_mutations(name: str) -> None:
    """A few hundred changed inputs, the same each time, find nothing new."""
    target = targets.TARGETS[name]
    chance = random.Random(name)
    inputs = target.seeds()
    for _once in range(400):
        data = mutate.mutate(chance.choice(inputs), chance, tag=target.tag, other=chance.choice(inputs), most=1 << 14)
        try:
            target.run(data)
        except Exception as error:  # noqa: BLE001 - the target says which are right
            pytest.fail(f"{error!r} for {data!r}")


@pytest.mark.parametrize("name", targets.TARGETS)
def test_the_kept_corpus(name: str) -> None:
    """What fuzzing has found once stays found: each kept input is refused, or holds."""
    paths = sorted((CORPUS / name).iterdir())
    assert paths
    for path in paths:
        targets.TARGETS[name].run(path.read_bytes())


def test_the_corpus_is_small() -> None:
    """The corpus stays in the repository's bounds: 200 KB, and a name that is its content's."""
    paths = [path for path in CORPUS.rglob("*") if path.is_file() and path.name != "README.md"]
    assert sum(path.stat().st_size for path in paths) < 200_000
    for path in paths:
        assert path.parent.name in {*targets.TARGETS, *(name for name, _ in targets.OPTIONAL)}
        assert path.name == targets.name_of(path.read_bytes())


def test_a_target_finds_what_it_looks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a reader that does not check, the targets do find something: they can fail."""
    monkeypatch.setattr(Section, "validate", lambda self, limits: None)
    root, index = targets.sound_tables()
    root["boot"]["offsets"][1] = root["boot"]["offsets"][0] + 10
    index["paths"][0] = "../x"
    with pytest.raises(targets.Finding, match="runs do not overlap"):
        targets.run_root(targets.HEAD + targets.dump(root))
    with pytest.raises(targets.Finding, match="plain parts"):
        targets.run_index(targets.dump(index))
    monkeypatch.setattr(
        targets, "decompressors", lambda: {"a": lambda data, size: bytes(size), "b": new_decompressor()}
    )
    with pytest.raises(targets.Finding, match="a and b agree"):
        targets.run_frame(b"\x05\0\0nothing")
    monkeypatch.setattr(_archive, "check_name", lambda raw, limits, *, folder=False: raw)
    with pytest.raises(targets.Finding, match="plain parts"):
        stored = targets.TARGETS["legacy"].seeds()[1]
        targets.TARGETS["legacy"].run(stored.replace(b"python/alpha/empty", b"python/../ha/empty"))


@pytest.mark.parametrize("way", targets.decompressors())
def test_a_frame_states_its_size(way: str) -> None:
    """The standard library's zstd and the package both refuse a frame that does not state its size."""
    import zstandard

    content = b"lazydeps" * 100
    for stated in (True, False):
        packed = zstandard.ZstdCompressor(write_content_size=stated).compress(content)
        frame = Frame(7, 0, len(packed), 0, len(content), bytes(32))
        if stated:
            assert unpack(targets.decompressors()[way], memoryview(packed), frame) == content
        else:
            with pytest.raises(PackFormatError, match="frame 7 of the pack does not unpack to the 800 bytes"):
                unpack(targets.decompressors()[way], memoryview(packed), frame)


def test_the_command_reports_a_finding(tmp_path: Path) -> None:
    """`python -m tests.fuzz` runs a target in a process of its own, and reports and keeps what came of it."""
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        "--engine",
        "mutate",
        "--target",
        "index",
        "--seconds",
        "1",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 findings" in done.stdout
    assert (tmp_path / "index" / "report.json").exists()
    assert not any((tmp_path / "index" / "crashes").iterdir())


# -- what fuzzing found


@pytest.mark.parametrize("text", ["bytes 5-3/10", "bytes 5-3/4", "bytes 0-99/50"])
def test_a_range_that_ends_before_it_begins(text: str) -> None:
    """A `Content-Range` whose bytes cannot be (RFC 9110, 14.4) is as good as none."""
    assert https._content_range(text) is None


def test_an_answer_of_a_negative_size() -> None:
    """An answer that claims fewer than no bytes is a FetchError."""
    targets.run_answer(
        b"\1HTTP/1.1 206 OK\r\nContent-Range: bytes 1-0/1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    targets.run_answer(
        b"\2HTTP/1.1 206 OK\r\nContent-Range: bytes 5-3/4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )


def test_a_port_of_many_digits() -> None:
    """A port that is no port is a ConfigError, however long."""
    with pytest.raises(ConfigError, match="port"):
        https.Target.parse(f"https://host:{'9' * 5000}/p")


def test_connections_of_many_digits() -> None:
    """A number of connections that is none is a ConfigError, however long."""
    with pytest.raises(ConfigError, match="LAZYDEPS_CONNECTIONS"):
        Config.from_environ({"LAZYDEPS_CONNECTIONS": "9" * 5000})


def test_a_trace_nested_deeply(tmp_path: Path) -> None:
    """A file that is no trace is a ConfigError, however deeply nested."""
    (tmp_path / "t.json").write_text("[" * 200_000)
    with pytest.raises(ConfigError, match="not a trace"):
        Trace.load(tmp_path / "t.json")


def test_a_trace_that_is_no_text(tmp_path: Path) -> None:
    """A trace with what no UTF-8 can hold is a ConfigError: nothing could be saved, or packed, from it."""
    document = b'{"lazydeps_trace":1,"python":"\\ud800","arch":"x","how":[],"order":[],"absent":[]}'
    (tmp_path / "t.json").write_bytes(document)
    with pytest.raises(ConfigError, match="not a sound trace"):
        Trace.load(tmp_path / "t.json").save(tmp_path / "u.json")
