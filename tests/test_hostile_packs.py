"""Hostile packs, one a case, loaded for real: by their author's own pin, and changed after they were pinned.

Whatever a pack claims, a start ends by itself, with one error of ours or with the right modules, writes nothing outside
of its store, and stays within bounded memory. `support_forge` makes the packs.
"""

from __future__ import annotations

import functools
import marshal
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from support_forge import MAGIC, Forged, Outcome, Victim, compress, retype, unpack
from support_packs import bytecode_of, pack_tree, write_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MEMORY = 1 << 30
"""Address space of each process, bytes: nothing needs it, and nothing may ask for more."""
BOUND = 400 << 20
"""Memory that a hostile pack may take in use, bytes: a few frames of 64 MiB, each packed and unpacked."""
GIB = 1 << 30
RUN = "import probe; value = probe.VALUE"
BOOT, DATA, COLD = "probe/boot.bin", "probe/data.bin", "probe/cold.py"
CODE = bytecode_of("probe/__init__.py")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small pack of every kind of file, with several frames in each section."""
    folder = tmp_path_factory.mktemp("sound")
    noise = functools.partial(bytes, range(256))
    files: dict[str, str | bytes] = {
        "probe/__init__.py": "import os\nopen(os.environ['PROBE_MARK'], 'a').close()\nVALUE = 'sound'\n",
        "probe/more.py": "MORE = 1\n",
        "probe/empty.txt": b"",
        BOOT: noise() * 1200,
        DATA: noise() * 30,
        COLD: "COLD = 1\n",
        "probe-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: probe\nVersion: 1\n",
    }
    write_tree(folder / "tree", files)
    boot = ["probe/__init__.py", BOOT, "probe/more.py"]
    pack = pack_tree(folder / "p.tar.zst", folder / "tree", boot=boot, distributions={"probe": "1"}, stdlib=("json",))
    return pack.path.read_bytes()


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    """The interpreter that loads packs. It has imported lazydeps and nothing that a load would bring."""
    with Victim(("lazydeps",)) as started:
        yield started


@pytest.fixture(scope="module")
def clerk() -> Iterator[Victim]:
    """The interpreter that runs the command."""
    with Victim(("lazydeps.build.cli",)) as started:
        yield started


def ends_well(outcome: Outcome) -> Outcome:
    """Check what holds whatever a pack claims."""
    assert not outcome.hung, outcome
    assert outcome.status == 0, outcome  # the child wrote its facts and left: nothing crashed under it
    assert not outcome.left, "a process was left over"
    assert outcome.rss < BOUND, f"{outcome.rss >> 20} MB"
    return outcome


def start(victim: Victim, box: Path, pack: bytes, root: str, code: str = RUN) -> Callable[[], Outcome]:
    """Begin to load a pack in a fresh store, run code, and wait until everything has landed."""
    box.mkdir(exist_ok=True)
    (box / "p.tar.zst").write_bytes(pack)
    ref = f"{(box / 'p.tar.zst').as_uri()}#root={root}"
    return victim.start(box, refs=[ref], code=code, memory=MEMORY, timeout=60)


def load(victim: Victim, box: Path, pack: bytes, root: str, code: str = RUN) -> Outcome:
    """Load a pack; see `start`."""
    return ends_well(start(victim, box, pack, root, code)())


def refused(outcome: Outcome, error: str, words: str) -> None:
    """Check that a load ended with one error, by its class and its words."""
    ends_well(outcome)
    assert outcome.facts["error"] is not None, f"loaded, and said {outcome.facts['value']!r}"
    kind, text, bases = outcome.facts["error"]
    assert (kind in error.split("|"), bool(re.search(words, text))) == (True, True), f"{kind}: {text}"
    assert "LazydepsError" in bases
    assert "defect of lazydeps" not in text
    assert len(text) < 10_000
    assert text.isprintable()


def loaded(outcome: Outcome, value: object = "sound") -> None:
    """Check that a load succeeded."""
    ends_well(outcome)
    assert outcome.facts["error"] is None, outcome.facts["error"]
    assert outcome.facts["value"] == value


def command(clerk: Victim, box: Path, pack: bytes, *verbs: str) -> Callable[[], Outcome]:
    """Begin to run ``lazydeps VERB PACK`` for each of some verbs."""
    box.mkdir(exist_ok=True)
    (box / "p.tar.zst").write_bytes(pack)
    commands = [[verb, str(box / "p.tar.zst")] for verb in verbs]
    return clerk.start(box, commands=commands, memory=MEMORY, timeout=60)


def said(outcome: Outcome, *expected: tuple[str, str] | None) -> None:
    """Check that each command ended well (None), or with exit code 1 and one clear error."""
    ends_well(outcome)
    assert outcome.facts["error"] is None, outcome.facts["error"]  # the command handles what a pack can do to it
    assert "Traceback" not in outcome.err
    assert outcome.facts["value"] == [0 if one is None else 1 for one in expected], outcome.err
    lines = [line for line in outcome.err.splitlines() if line.startswith("lazydeps: ")]
    wanted = [one for one in expected if one is not None]
    assert len(lines) == len(wanted), outcome.err
    for line, (error, words) in zip(lines, wanted):
        assert re.match(f"lazydeps: {error}: .*(?:{words})", line), line


def together(
    victim: Victim, clerk: Victim, box: Path, pack: bytes, root: str, *verbs: str, code: str = RUN
) -> tuple[Outcome, Outcome]:
    """Load a pack and run commands on it at the same time; return how both ended."""
    box.mkdir(exist_ok=True)
    ends = start(victim, box / "load", pack, root, code), command(clerk, box / "command", pack, *verbs)
    return ends[0](), ends[1]()


# -- the attacks: a name, what changes the pack, and the error

Change = "Callable[[Forged], object]"
REFUSED: dict[str, tuple[Any, str, str]] = {}
"""Attack → what changes the pack, class and words of the error that `load`, `inspect` and `verify` end with."""
VERIFIED: dict[str, tuple[Any, tuple[str, str], tuple[str, str] | None, tuple[str, str]]] = {}
"""Attack → what changes the pack; errors of `load`, of `inspect` (None: there is none to see) and of `verify`."""

FORMAT, UNSAFE, INTEGRITY = "PackFormatError", "UnsafeArchiveError", "IntegrityError"
PLAIN = "is not a plain path inside it"
DAMAGED = "damaged"


def table_lie(section: str, column: str, at: int | None, value: Any) -> Callable[[Forged], None]:
    """Return what puts a value into a column of a section's table; ``at`` None: in place of the column."""

    def change(pack: Forged) -> None:
        def lie(table: dict[str, Any]) -> None:
            if at is None:
                table[column] = value(table[column]) if callable(value) else value
            else:
                table[column][at] = value(table[column][at]) if callable(value) else value

        if section == "rest":
            pack.lie_index = lie
        else:
            pack.lie_root = lambda root: lie(root["boot"])

    return change


def path_lie(old: str, new: Any) -> Callable[[Forged], None]:
    """Return what gives a file another path in its index."""

    def change(pack: Forged) -> None:
        for table in (pack.root["boot"], pack.index):
            if old in table["paths"]:
                table["paths"][table["paths"].index(old)] = new

    return change


def root_lie(lie: Callable[[dict[str, Any]], object]) -> Callable[[Forged], None]:
    """Return what changes the root's table."""

    def change(pack: Forged) -> None:
        pack.lie_root = lie

    return change


def setting(**values: Any) -> Callable[[Forged], None]:
    """Return what sets parts of a pack."""

    def change(pack: Forged) -> None:
        for name, value in values.items():
            setattr(pack, name, value)

    return change


PATHS = {
    "absolute path": "/tmp/lazydeps-escaped",
    "absolute path, twice the slash": "//lazydeps-escaped",
    "parent": "../escaped",
    "parent twice": "../../escaped",
    "parent inside": "a/../../b",
    "parent at the end": "a/..",
    "the folder itself": ".",
    "backslash": "a\\..\\b",
    "empty component": "a//b",
    "empty": "",
    "slash at the end": "a/",
    "NUL": "a\0b",
    "line break": "a\nb",
    "escape sequence": "a\x1b[2Jb",
    "direction override": "a\u202eb",
    "lone surrogate": "a\\ud800b",
    "component too long": "n" * 256,
    "component too long in bytes": "é" * 128,
    "path too long": "p/" * 600 + "x",
    "path too long in bytes": "é/" * 400 + "x",
    "a number": 5,
    "nothing": None,
}
for _name, _path in PATHS.items():
    for _where, _old in (("boot", BOOT), ("rest", DATA)):
        REFUSED[f"path: {_name}, {_where}"] = (path_lie(_old, _path), UNSAFE, PLAIN)
for _where, _raw in (("boot", "write_root"), ("rest", "write_index")):
    # As an escape in JSON and as raw bytes: the one is a surrogate, the other is not UTF-8.
    _old = BOOT if _where == "boot" else DATA
    REFUSED[f"path: lone surrogate, {_where}"] = (
        setting(**{_raw: lambda text, old=_old: text.replace(old.encode(), b"a\\ud800b")}),
        UNSAFE,
        PLAIN,
    )
    REFUSED[f"path: not UTF-8, {_where}"] = (
        setting(**{_raw: lambda text, old=_old: text.replace(old.encode(), b"a\xff\xfeb")}),
        FORMAT,
        DAMAGED,
    )
    REFUSED[f"path: surrogate in UTF-8, {_where}"] = (
        setting(**{_raw: lambda text, old=_old: text.replace(old.encode(), b"a\xed\xa0\x80b")}),
        FORMAT,
        DAMAGED,
    )
    REFUSED[f"path: a list, {_where}"] = (path_lie(_old, []), FORMAT, DAMAGED)
    REFUSED[f"paths: a text, {_where}"] = (table_lie(_where, "paths", None, "abc"), FORMAT, DAMAGED)
    REFUSED[f"paths: an object, {_where}"] = (
        table_lie(_where, "paths", None, dict.fromkeys),
        FORMAT,
        DAMAGED,
    )

TWICE, FOLDER = "lists the same path twice", "has a file where it has a folder"
REFUSED |= {
    "same path twice, boot": (path_lie(BOOT, CODE), UNSAFE, TWICE),
    "same path twice, rest": (path_lie(DATA, COLD), UNSAFE, TWICE),
    "same path twice, boot and rest": (path_lie(DATA, BOOT), UNSAFE, TWICE),
    "same bytecode twice, boot and rest": (path_lie(DATA, CODE), UNSAFE, TWICE),
    "file is a folder, boot": (path_lie(BOOT, "probe"), UNSAFE, FOLDER),
    "file is a folder, rest": (path_lie(DATA, "probe/cold.py/x"), UNSAFE, FOLDER),
    "file of the boot set is a folder of the rest": (path_lie(DATA, f"{BOOT}/x"), UNSAFE, FOLDER),
    "file of the rest is a folder of the boot set": (path_lie(DATA, "probe"), UNSAFE, FOLDER),
}

NUMBERS: dict[str, Any] = {
    "negative": -1,
    "bool": True,
    "whole float": float,
    "float": 0.5,
    "text": str,
    "null": None,
    "list": [],
    "2**63": 2**63,
    "2**64": 2**64,
    "beyond what Python prints": 10**4299,
}
SOME = ("bool", "whole float", "2**63")
"""Those of them that are tried where one reader reads what another has been tried with in full; fuzzing tries all."""
for _column in ("offsets", "sizes", "packed", "unpacked"):
    for _where in ("boot", "rest"):
        for _name, _value in NUMBERS.items():
            if _where == "rest" and _name not in SOME:
                continue
            REFUSED[f"{_column}: {_name}, {_where}"] = (
                table_lie(_where, _column, -1 if _column in {"offsets", "sizes"} else 0, _value),
                FORMAT,
                "damaged|limit is",
            )
    REFUSED[f"{_column}: missing"] = (root_lie(lambda root, name=_column: root["boot"].pop(name)), FORMAT, DAMAGED)
    REFUSED[f"{_column}: one less"] = (table_lie("boot", _column, None, lambda old: old[:-1]), FORMAT, DAMAGED)
    REFUSED[f"{_column}: one more"] = (table_lie("rest", _column, None, lambda old: [*old, 600]), FORMAT, DAMAGED)
    REFUSED[f"{_column}: 1e400"] = (
        setting(write_index=lambda text, key=_column: re.sub(rb"(?<=\"%s\":\[)\d+" % key.encode(), b"1e400", text)),
        FORMAT,
        DAMAGED,
    )
for _name, _value in {
    "negative": -1,
    "bool": True,
    "float": 1.0,
    "text": "0",
    "list": [0],
    "out of range": 10**6,
    "huge": 10**4000,
}.items():
    for _where in ("boot", "rest"):
        REFUSED[f"executable: {_name}, {_where}"] = (table_lie(_where, "executable", None, [_value]), FORMAT, DAMAGED)
for _name, _value in {
    "not hex": lambda old: "z" * len(old),
    "white space": lambda old: "0 " * (len(old) // 2),
    "a list": lambda old: [old],
    "too short": lambda old: old[:-2],
    "not ASCII": lambda old: "٣" * len(old),
    "null": None,
    "white space that shifts": lambda old: old[:62] + " " + old[62:-1],
}.items():
    for _where in ("boot", "rest"):
        REFUSED[f"digests: {_name}, {_where}"] = (table_lie(_where, "digests", None, _value), FORMAT, DAMAGED)

REFUSED |= {
    "index overlaps": (table_lie("boot", "offsets", -1, lambda old: old - 4096), FORMAT, "overlaps"),
    "index loops": (table_lie("rest", "offsets", None, lambda old: old[::-1]), FORMAT, "overlaps"),
    "index: the same place twice": (
        table_lie("rest", "offsets", None, lambda old: [old[0]] * len(old)),
        FORMAT,
        "overlaps",
    ),
    "index points before its section": (table_lie("rest", "offsets", 0, 512), FORMAT, "overlaps"),
    "index points behind the stream": (table_lie("rest", "offsets", -1, 1 << 34), FORMAT, "reach beyond"),
    "file larger than the stream": (table_lie("rest", "sizes", -1, 1 << 34), FORMAT, "reach beyond"),
    "frame before the root": (table_lie("boot", "packed", 0, -10_000), FORMAT, "has sizes -10000"),
    "frame of nothing": (table_lie("boot", "packed", 0, 0), FORMAT, "has sizes 0"),
    "frame that unpacks to nothing": (table_lie("rest", "unpacked", 0, 0), FORMAT, "has sizes"),
    "frame larger than the limit": (table_lie("boot", "unpacked", 0, (64 << 20) + 1), FORMAT, "the limit is"),
    "stream larger than the limit": (
        root_lie(
            lambda root: root["boot"].update(packed=[9] * 400, unpacked=[64 << 20] * 400, digests="00" * 32 * 400)
        ),
        FORMAT,
        "the limit is",
    ),
    "frames without digests": (table_lie("rest", "packed", None, lambda old: old * 1000), FORMAT, DAMAGED),
    "index: no frames but files": (
        root_lie(lambda root: root["boot"].update(packed=[], unpacked=[], digests="")),
        FORMAT,
        "reach beyond",
    ),
}

for _key in ("packed", "unpacked", "frames", "data_frames"):
    for _name, _value in NUMBERS.items():
        if _key != "packed" and _name not in SOME:
            continue
        REFUSED[f"index.{_key}: {_name}"] = (
            root_lie(
                lambda root, key=_key, new=_value: root["index"].update(
                    {key: new(root["index"][key]) if callable(new) else new}
                )
            ),
            FORMAT,
            "damaged|limit is|more data frames",
        )
    REFUSED[f"index.{_key}: missing"] = (root_lie(lambda root, key=_key: root["index"].pop(key)), FORMAT, DAMAGED)
for _name in ("boot", "data", "cold"):
    for _case, _value in NUMBERS.items():
        if _name != "data" and _case not in SOME:
            continue
        REFUSED[f"sizes.{_name}: {_case}"] = (
            root_lie(
                lambda root, key=_name, new=_value: root["sizes"].update(
                    {key: new(root["sizes"][key]) if callable(new) else new}
                )
            ),
            FORMAT,
            "damaged|claims more than",
        )
REFUSED |= {
    "index of no bytes": (root_lie(lambda root: root["index"].update(packed=0)), FORMAT, "no bytes"),
    "index unpacks to one more": (
        root_lie(lambda root: _more(root["index"], "unpacked")),
        FORMAT,
        "does not unpack to",
    ),
    "index unpacks to one less": (
        root_lie(lambda root: _more(root["index"], "unpacked", -1)),
        FORMAT,
        "does not unpack|no zstd",
    ),
    "more frames than there are": (root_lie(lambda root: _more(root["index"], "frames")), FORMAT, "number of frames"),
    "fewer frames than there are": (
        root_lie(lambda root: _more(root["index"], "frames", -1)),
        FORMAT,
        "number of frames",
    ),
    "64 million frames": (root_lie(lambda root: root["index"].update(frames=64 << 20)), FORMAT, "number of frames"),
    "billions of frames": (root_lie(lambda root: root["index"].update(frames=10**10)), FORMAT, "the limit is"),
    "data frames that are none": (
        root_lie(lambda root: root["index"].update(data_frames=10**6)),
        FORMAT,
        "more data frames",
    ),
    "digest of the index: not hex": (root_lie(lambda root: root["index"].update(digest="z" * 64)), FORMAT, DAMAGED),
    "digest of the index: white space": (
        root_lie(lambda root: root["index"].update(digest="00 " * 20 + "0000")),
        FORMAT,
        DAMAGED,
    ),
    "digest of the index: short": (root_lie(lambda root: root["index"].update(digest="")), FORMAT, DAMAGED),
    "digest of the index: another": (
        root_lie(lambda root: root["index"].update(digest="00" * 32)),
        INTEGRITY,
        "index is not what",
    ),
}


def _more(table: dict[str, Any], key: str, by: int = 1) -> None:
    table[key] += by


def text_lie(part: str, write: Callable[[bytes], bytes]) -> Callable[[Forged], None]:
    """Return what changes the text of the root or of the index."""
    return setting(**{f"write_{part}": write})


for _part in ("root", "index"):
    REFUSED |= {
        f"{_part}: deeply nested": (text_lie(_part, lambda text: b"[" * 1_000_000), FORMAT, DAMAGED),
        f"{_part}: deeply nested objects": (text_lie(_part, lambda text: b'{"a":' * 500_000), FORMAT, DAMAGED),
        f"{_part}: deeply nested value": (
            text_lie(_part, lambda text: text[:-1] + b',"paths":' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
            FORMAT,
            DAMAGED,
        ),
        f"{_part}: a number of a million digits": (
            text_lie(_part, lambda text: b'{"x":' + b"9" * 1_000_000 + b"}"),
            FORMAT,
            DAMAGED,
        ),
        f"{_part}: NaN": (text_lie(_part, lambda text: text[:-1] + b',"x":NaN}'), FORMAT, "NaN is no number"),
        f"{_part}: Infinity": (
            text_lie(_part, lambda text: text[:-1] + b',"x":-Infinity}'),
            FORMAT,
            "Infinity is no number",
        ),
        f"{_part}: byte order mark": (text_lie(_part, lambda text: b"\xef\xbb\xbf" + text), FORMAT, DAMAGED),
        f"{_part}: UTF-16": (text_lie(_part, lambda text: text.decode().encode("utf-16")), FORMAT, DAMAGED),
        f"{_part}: UTF-16 without mark": (
            text_lie(_part, lambda text: text.decode().encode("utf-16-le")),
            FORMAT,
            DAMAGED,
        ),
        f"{_part}: UTF-32": (text_lie(_part, lambda text: text.decode().encode("utf-32")), FORMAT, DAMAGED),
        f"{_part}: Latin-1": (text_lie(_part, lambda text: text.replace(b"probe", b"pr\xf6be")), FORMAT, DAMAGED),
        f"{_part}: nothing": (text_lie(_part, lambda text: b""), FORMAT, DAMAGED),
        f"{_part}: cut off": (text_lie(_part, lambda text: text[:-1]), FORMAT, DAMAGED),
        f"{_part}: more behind it": (text_lie(_part, lambda text: text + text), FORMAT, DAMAGED),
        f"{_part}: a list": (text_lie(_part, lambda text: b"[" + text + b"]"), FORMAT, "no table"),
        f"{_part}: a text": (text_lie(_part, lambda text: b'"lazydeps"'), FORMAT, "no table"),
        f"{_part}: empty": (text_lie(_part, lambda text: b"{}"), FORMAT, DAMAGED),
    }

REFUSED |= {
    "magic: a frame of data": (setting(magic=b"\x28\xb5\x2f\xfd"), FORMAT, "not a lazydeps pack"),
    "magic: another skippable frame": (setting(magic=b"\x5e\x2a\x4d\x18"), FORMAT, "not a lazydeps pack"),
    "tag": (setting(tag=b"LAZYDEPS"), FORMAT, "first block is not a root"),
    "version 0": (setting(version=0), FORMAT, "format version 0 and"),
    "version from the future": (setting(version=2), FORMAT, "format version 2 and"),
    "version 2**32-1": (setting(version=2**32 - 1), FORMAT, "format version 4294967295 and"),
}
for _fact in ("python", "pyc_magic", "os", "arch", "libc", "libc_version"):
    for _name, _value in {
        "number": 3,
        "null": None,
        "escape sequence": "\x1b[2J",
        "long": "3" * 65,
        "not ASCII": "²",
    }.items():
        REFUSED[f"{_fact}: {_name}"] = (
            root_lie(lambda root, key=_fact, new=_value: root.update({key: new})),
            FORMAT,
            DAMAGED,
        )
for _key, _values in {
    "top_level": {
        "text": "probe",
        "object": {"probe": 1},
        "numbers": [1],
        "escape sequence": ["probe", "\x1b[2J"],
        "null": None,
    },
    "namespaces": {"text": "probe", "numbers": [1], "lists": [[]]},
    "absent": {"text": "probe", "numbers": [1], "lists": [[]], "object": {}},
    "stdlib": {"text": "json", "numbers": [1], "lists": [["json"]], "line break": ["json\n"]},
    "metadata": {"text": "a.dist-info", "numbers": [1], "other folder": ["probe"], "folder below": ["a/b.dist-info"]},
    "distributions": {
        "list": ["probe"],
        "text": "probe",
        "number": {"probe": 1},
        "null": {"probe": None},
        "object": {"probe": {"probe": "1"}},
        "escape sequence": {"\x1b[2J": "1"},
        "line break": {"probe": "1\n2"},
    },
    "sizes": {"list": [], "null": None},
    "index": {"list": [], "null": None, "text": "packed"},
    "boot": {"list": [], "null": None, "text": "packed"},
}.items():
    REFUSED[f"{_key}: missing"] = (root_lie(lambda root, key=_key: root.pop(key)), FORMAT, DAMAGED)
    for _name, _value in _values.items():
        REFUSED[f"{_key}: {_name}"] = (
            root_lie(lambda root, key=_key, new=_value: root.update({key: new})),
            FORMAT,
            DAMAGED,
        )
for _name, _value in {
    "parent": "..",
    "parent inside": "../x.dist-info",
    "NUL": "a\0.dist-info",
    "long": "n" * 250 + ".dist-info",
}.items():
    _expected = (FORMAT, DAMAGED) if "\0" in _value else (UNSAFE, PLAIN)
    REFUSED[f"metadata: {_name}"] = (root_lie(lambda root, new=_value: root.update(metadata=[new])), *_expected)
    if _name == "parent inside":
        REFUSED[f"metadata: {_name}"] = (root_lie(lambda root, new=_value: root.update(metadata=[new])), UNSAFE, PLAIN)


def many_files(pack: Forged) -> None:
    """List 1,000,001 files."""
    count = 1_000_001
    base = pack.index["offsets"][0]
    pack.index.update(
        paths=[format(n, "x") for n in range(count)], offsets=[base + 512 * n for n in range(count)], sizes=[0] * count
    )
    pack.index["unpacked"][-1] = 60 << 20


REFUSED["1,000,001 files"] = (many_files, FORMAT, "lists 1000001 files; the limit is 1000000")

# -- frames: `inspect` does not read them


@functools.cache
def bomb(size: int = GIB, **options: Any) -> bytes:
    """Return a frame of zeros."""
    state = zstandard.ZstdCompressor(level=1, **options).compressobj(size=size)
    block = bytes(1 << 22)
    return b"".join([state.compress(block) for _ in range(size >> 22)]) + state.flush()


def frame_lie(make: Callable[[bytes], bytes], unpacked: int | None = None) -> Callable[[Forged], None]:
    """Return what replaces the last frame of a pack, sealed with the digest of what stands there."""

    def change(pack: Forged) -> None:
        pack.rest[-1] = make(pack.rest[-1])
        if unpacked is not None:
            pack.index["unpacked"][-1] = unpacked

    return change


def lying_size(frame: bytes) -> bytes:
    """Return a bomb whose header claims 64 MiB."""
    content = bytearray(bomb())
    assert content[5 + 1 : 10] == GIB.to_bytes(4, "little") or content[5:9] == GIB.to_bytes(4, "little")
    at = 5 if content[5:9] == GIB.to_bytes(4, "little") else 6
    content[at : at + 4] = (64 << 20).to_bytes(4, "little")
    return bytes(content)


def with_dictionary(frame: bytes) -> bytes:
    """Compress with a trained dictionary, whose id then stands in the frame."""
    samples = [bytes(range(at, at + 64)) * 4 + b"%d" % at for at in range(150)]
    return compress(unpack(frame), dict_data=zstandard.train_dictionary(2048, samples))


SKIPPED = MAGIC + (4).to_bytes(4, "little") + b"skip"
WRONG = "does not unpack to|no zstd frame"
FRAMES: dict[str, Any] = {
    "frame without its size": frame_lie(lambda frame: compress(unpack(frame), write_content_size=False)),
    "frame of 1 GiB of zeros": frame_lie(lambda frame: bomb()),
    "frame of 1 GiB of zeros, as large as may be": frame_lie(lambda frame: bomb(), 64 << 20),
    "frame of 1 GiB of zeros that claims 64 MiB": frame_lie(lying_size, 64 << 20),
    "frame of 1 GiB of zeros without its size": frame_lie(lambda frame: bomb(write_content_size=False), 64 << 20),
    "two frames in one": frame_lie(lambda frame: frame + frame),
    "two halves in one": frame_lie(lambda frame: compress(unpack(frame)[:1000]) + compress(unpack(frame)[1000:])),
    "skippable frame before": frame_lie(lambda frame: SKIPPED + frame),
    "skippable frame behind": frame_lie(lambda frame: frame + SKIPPED),
    "skippable frame instead": frame_lie(lambda frame: SKIPPED),
    "frame with a dictionary": frame_lie(with_dictionary),
    "frame cut off": frame_lie(lambda frame: frame[:-1]),
    "frame of other bytes": frame_lie(lambda frame: b"\x28\xb5\x2f\xfd" + bytes(range(100))),
    "no frame": frame_lie(lambda frame: b"PK\x03\x04 is no frame"),
    "unpacked: one more": table_lie("rest", "unpacked", -1, lambda old: old + 1),
    "unpacked: one less": table_lie("rest", "unpacked", -1, lambda old: old - 1),
}
for _name, _change in FRAMES.items():
    VERIFIED[_name] = (_change, (FORMAT, WRONG), None, (FORMAT, WRONG))
for _name, _make in {
    "index: 1 GiB of zeros": lambda text: bomb(),
    "index: 1 GiB of zeros without its size": lambda text: bomb(write_content_size=False),
    "index: two frames": lambda text: compress(text[:100]) + compress(text[100:]),
    "index: a skippable frame": lambda text: MAGIC + len(text).to_bytes(4, "little") + text,
    "index: a skippable frame before it": lambda text: SKIPPED + compress(text),
    "index: without its size": lambda text: compress(text, write_content_size=False),
    "index: not compressed": lambda text: text,
}.items():
    REFUSED[_name] = (setting(pack_index=_make), FORMAT, WRONG)
REFUSED["index: 1 GiB, and says so"] = (
    lambda pack: (
        setting(pack_index=lambda text: bomb())(pack),
        root_lie(lambda root: root["index"].update(unpacked=GIB))(pack),
    ),
    FORMAT,
    "the limit is",
)

CUT = "cut off|ends before"
VERIFIED |= {
    "digest of a frame: another": (
        table_lie("boot", "digests", None, lambda old: "00" * (len(old) // 2)),
        (INTEGRITY, "frame 0"),
        None,
        (INTEGRITY, "frame 0"),
    ),
    "frame beyond the end": (
        table_lie("rest", "packed", -1, lambda old: old + 10_000),
        (FORMAT, CUT),
        (FORMAT, "accounts for"),
        (FORMAT, "accounts for"),
    ),
    "more frames than bytes": (
        lambda pack: (
            table_lie("rest", "packed", None, lambda old: [1] * 50_000)(pack),
            pack.index.update(unpacked=[pack.index["unpacked"][0], *[4096] * 49_999]),
            table_lie_all(pack, 50_000),
        ),
        (f"{INTEGRITY}|FetchError", "frame 3|cut off"),  # whichever connection is first
        (FORMAT, "accounts for"),
        (FORMAT, "accounts for"),
    ),
}


def table_lie_all(pack: Forged, frames: int) -> None:
    """Give the index a number of frames of one byte each."""

    def lie(table: dict[str, Any]) -> None:
        table.update(packed=[1] * frames, digests="00" * 32 * frames)

    pack.lie_index = lie
    pack.lie_root = lambda root: root["index"].update(frames=frames, data_frames=frames)


def forge(sound: bytes, change: Callable[[Forged], object]) -> tuple[bytes, str]:
    """Return a hostile pack and the root that its author pins."""
    pack = Forged.read(sound)
    change(pack)
    return pack.seal()


def test_the_forge_is_sound(sound: bytes, victim: Victim, clerk: Victim, tmp_path: Path) -> None:
    """Taken apart and sealed again without a lie, the pack is the one it was: what is refused below is the lie."""
    pack, root = forge(sound, lambda pack: None)
    outcome, commands = together(victim, clerk, tmp_path, pack, root, "inspect", "verify")
    loaded(outcome)
    said(commands, None, None)
    forged = Forged.read(sound)
    assert len(forged.boot) >= 2
    assert len(forged.rest) == 2


@pytest.mark.parametrize("attack", REFUSED)
def test_refused(sound: bytes, victim: Victim, clerk: Victim, tmp_path: Path, attack: str) -> None:
    """A pack that lies in its tables: a load and both commands end with the same one error, and nothing escaped."""
    change, error, words = REFUSED[attack]
    pack, root = forge(sound, change)
    outcome, commands = together(victim, clerk, tmp_path, pack, root, "inspect", "verify")
    refused(outcome, error, words)
    said(commands, (error, words), (error, words))


@pytest.mark.parametrize("attack", VERIFIED)
def test_refused_when_read(sound: bytes, victim: Victim, clerk: Victim, tmp_path: Path, attack: str) -> None:
    """A pack that lies about its frames: refused when a frame is read, within bounded memory."""
    change, at_load, at_inspect, at_verify = VERIFIED[attack]
    pack, root = forge(sound, change)
    outcome, commands = together(victim, clerk, tmp_path, pack, root, "inspect", "verify")
    refused(outcome, *at_load)
    said(commands, at_inspect, at_verify)


# -- what is harmless, or not for this interpreter


def tar_lie(kind: bytes, link: bytes) -> Callable[[Forged], None]:
    """Return what makes of the data file, in the tar stream alone, another kind of member."""

    def change(pack: Forged) -> None:
        block = pack.content(DATA)
        retype(block, pack.place(DATA)[0] - 512, kind, link)
        pack.replace(DATA, block)

    return change


def tar_name(pack: Forged) -> None:
    """Give the data file another name in the tar stream."""
    block = pack.content(DATA)
    at = pack.place(DATA)[0] - 512
    block[at : at + 100] = b"../../escaped".ljust(100, b"\0")
    retype(block, at, b"0")
    pack.replace(DATA, block)


NO_FILE = (FORMAT, "no regular file")
HARMLESS: dict[str, tuple[Any, tuple[str, str] | None]] = {
    "tar: symbolic link": (tar_lie(b"2", b"/etc/passwd"), NO_FILE),
    "tar: symbolic link out of the tree": (tar_lie(b"2", b"../../../escaped"), NO_FILE),
    "tar: hard link": (tar_lie(b"1", b"/etc/passwd"), NO_FILE),
    "tar: character device": (tar_lie(b"3", b""), NO_FILE),
    "tar: block device": (tar_lie(b"4", b""), NO_FILE),
    "tar: folder": (tar_lie(b"5", b""), NO_FILE),
    "tar: FIFO": (tar_lie(b"6", b""), NO_FILE),
    "tar: another name": (tar_name, (FORMAT, "differ at")),
    "same key twice": (text_lie("root", lambda text: b'{"python":"2.7",' + text[1:]), None),
    "unknown keys": (root_lie(lambda root: root.update(zzz={"a": [1.5, None, "\u202e"]})), None),
    "digits in another case": (table_lie("boot", "digests", None, str.upper), None),
    "modules that act when imported": (
        root_lie(lambda root: root.update(stdlib=["unittest.__main__", "venv.__main__", "antigravity", "this"])),
        None,
    ),
    "modules that are none of the standard library": (
        root_lie(lambda root: root.update(stdlib=["probe", "../x", "os/path", "json..x", "", "lazydeps.x"])),
        None,
    ),
    "folders of metadata that are not there": (
        root_lie(lambda root: root.update(metadata=["a.dist-info", "b.egg-info"])),
        None,
    ),
    "absent: everything": (root_lie(lambda root: root.update(absent=["", "/", "..", "\0", "probe/none"])), None),
    "namespaces: out of the tree": (root_lie(lambda root: root.update(namespaces=["..", "/etc", "probe/../.."])), None),
    "more behind the last frame": (setting(tail=b"more"), (FORMAT, "accounts for")),
    "a frame more behind the last": (setting(tail=compress(b"more")), (FORMAT, "accounts for")),
}


@pytest.mark.parametrize("attack", HARMLESS)
def test_harmless(sound: bytes, victim: Victim, clerk: Victim, tmp_path: Path, attack: str) -> None:
    """A lie that nobody asks about: the right modules, and a tree of plain files with what the index says."""
    change, at_verify = HARMLESS[attack]
    pack, root = forge(sound, change)
    code = RUN + "\nimport importlib.metadata as m; names = [d.metadata['Name'] for d in m.distributions()]"
    outcome, commands = together(victim, clerk, tmp_path, pack, root, "inspect", "verify", code=code)
    said(commands, at_verify if at_verify and "accounts for" in at_verify[1] else None, at_verify)
    loaded(outcome)
    assert (outcome.out, outcome.err) == ("", "")
    (tree,) = (tmp_path / "load" / "store").glob("*/tree")
    original = Forged.read(sound)
    paths = original.root["boot"]["paths"] + original.index["paths"]
    assert sorted(str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()) == sorted(paths)
    assert (tree / DATA).read_bytes() == bytes(range(256)) * 30


MISMATCH = "PackMismatchError"
ELSEWHERE: dict[str, tuple[dict[str, str], str]] = {
    "python: older": ({"python": "3.2"}, "built for Python 3.2"),
    "python: newer": ({"python": "3.99"}, "built for Python 3.99"),
    "python: none": ({"python": ""}, "built for Python "),
    "os": ({"os": "win32"}, "on win32"),
    "arch": ({"arch": "riscv64"}, "riscv64"),
    "arch: none": ({"arch": ""}, "this process is"),
    "bytecode's magic": ({"pyc_magic": "00000000"}, "has magic number 00000000"),
    "libc: newer": ({"libc_version": "99.1"}, "need glibc 99.1"),
}


@pytest.mark.parametrize("attack", ELSEWHERE)
def test_for_elsewhere(sound: bytes, victim: Victim, clerk: Victim, tmp_path: Path, attack: str) -> None:
    """A pack for another interpreter or system is refused before anything of it runs; the command reads it."""
    changes, words = ELSEWHERE[attack]
    pack, root = forge(sound, root_lie(lambda root: root.update(changes)))
    outcome, commands = together(victim, clerk, tmp_path, pack, root, "inspect", "verify")
    refused(outcome, MISMATCH, words)
    assert not outcome.facts["mark"]
    said(commands, None, None)


def test_for_another_libc(sound: bytes, victim: Victim, tmp_path: Path) -> None:
    """A pack whose libraries need another C library is refused as one for elsewhere."""
    pack, root = forge(sound, root_lie(lambda root: root.update(libc="musl", libc_version="1.2")))
    refused(load(victim, tmp_path / "load", pack, root), MISMATCH, "musl")


# -- packs that the writer writes, with names that are taken


def written(folder: Path, files: dict[str, str | bytes], boot: list[str]) -> tuple[bytes, str]:
    """Write a real pack, and return it with its root."""
    write_tree(folder / "tree", files)
    done = pack_tree(folder / "p.tar.zst", folder / "tree", boot=boot)
    return done.path.read_bytes(), done.root


MARKS = "import os\nopen(os.environ['PROBE_MARK'], 'a').close()\n"


@pytest.mark.parametrize("name", ["os", "json", "site", "colorsys", "lazydeps", "zstandard"])
def test_no_module_of_ours_is_shadowed(victim: Victim, tmp_path: Path, name: str) -> None:
    """A pack that brings the standard library's modules, or lazydeps, is not asked for them, imported before or not."""
    files: dict[str, str | bytes] = {f"{name}/__init__.py": MARKS, f"{name}/evil.py": MARKS, "other.py": "VALUE = 1\n"}
    pack, root = written(tmp_path, files, [f"{name}/__init__.py", "other.py"])
    code = (
        f"import {name}, other\nif {name!r} == 'lazydeps':\n    import lazydeps._fetch\n"
        f"try:\n    import {name}.evil\nexcept ImportError as error:\n    value = {name}.__file__, str(error)\n"
    )
    if name == "zstandard":  # a name that anybody may bring; the worker takes its own, from where lazydeps is
        code = "import other; value = ['', 'No module']"
    outcome = load(victim, tmp_path / "box", pack, root, code)
    file, error = outcome.facts["value"]
    loaded(outcome, [file, error])
    assert str(tmp_path) not in file
    assert "No module" in error
    assert not outcome.facts["mark"]


@pytest.mark.parametrize("name", ["sitecustomize", "usercustomize"])
def test_no_module_runs_by_being_there(victim: Victim, tmp_path: Path, name: str) -> None:
    """Modules that an interpreter imports at its start, and ``.pth`` files, do nothing in a pack."""
    files: dict[str, str | bytes] = {f"{name}.py": MARKS, "other.py": "VALUE = 1\n", "x.pth": f"import {name}\n"}
    pack, root = written(tmp_path, files, [f"{name}.py", "x.pth", "other.py"])
    outcome = load(victim, tmp_path / "box", pack, root, "import other; value = other.VALUE")
    loaded(outcome, 1)
    assert not outcome.facts["mark"]


def test_names_that_differ_in_case(victim: Victim, tmp_path: Path) -> None:
    """On Linux they are two files, and both land."""
    pack, root = written(
        tmp_path, {"a/X.txt": b"X", "a/x.txt": b"x", "A/x.txt": b"A", "other.py": ""}, ["other.py", "a/X.txt"]
    )
    code = "import lazydeps; lazydeps.wait(); import other, pathlib; at = pathlib.Path(other.__file__).parent\n"
    code += "value = [(at / name).read_text() for name in ('a/X.txt', 'a/x.txt', 'A/x.txt')]"
    loaded(load(victim, tmp_path / "box", pack, root, code), ["X", "x", "A"])


def test_names_of_the_stores_own_files(victim: Victim, tmp_path: Path) -> None:
    """Below ``tree`` the store's names mean nothing."""
    names = ["landed", "lock", "root", "index", "code", "parts/x", "tree/x"]
    pack, root = written(
        tmp_path, {**dict.fromkeys(names, b"hostile"), "other.py": "VALUE = 1\n"}, ["landed", "code", "other.py"]
    )
    loaded(load(victim, tmp_path / "box", pack, root, "import other; value = other.VALUE"), 1)
    outcome = victim.ask(
        tmp_path / "box",
        refs=[f"{(tmp_path / 'box/p.tar.zst').as_uri()}#root={root}"],
        memory=MEMORY,
        timeout=60,
        code="import lazydeps, other; value = [other.VALUE, lazydeps.report().requests]",
    )
    loaded(ends_well(outcome), [1, 0])


def test_bytecode_without_sources(victim: Victim, tmp_path: Path) -> None:
    """A module needs no source in the pack; asking for the source says that there is none."""
    write_tree(tmp_path / "tree", {"bare/__init__.py": "VALUE = 1\n"})
    (tmp_path / "tree/bare/__init__.py").unlink()
    done = pack_tree(tmp_path / "p.tar.zst", tmp_path / "tree", boot=["bare/__init__.py"])
    code = (
        "import bare, inspect\ntry:\n    inspect.getsource(bare)\n"
        "except OSError as error:\n    value = [bare.VALUE, str(error)]"
    )
    outcome = load(victim, tmp_path / "box", done.path.read_bytes(), done.root, code)
    loaded(outcome, [1, "could not get source code"])


GARBAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "zeros": (lambda code: bytes(len(code)), "ValueError|EOFError|TypeError"),
    "cut off": (lambda code: code[:40] + bytes(len(code) - 40), "ValueError|EOFError|TypeError"),
    "a number": (lambda code: code[:16] + marshal.dumps(5).ljust(len(code) - 16, b"0"), "TypeError"),
    "another type": (lambda code: code[:16] + b"\xff" * (len(code) - 16), "ValueError"),
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_bytecode_that_is_none(sound: bytes, victim: Victim, tmp_path: Path, garbage: str) -> None:
    """Bytecode is run, not judged: whoever pins a root trusts its author. What cannot be read is an ordinary error."""
    change, kinds = GARBAGE[garbage]
    pack = Forged.read(sound)
    block = pack.content(CODE)
    at, size = pack.place(CODE)
    block[at : at + size] = change(bytes(block[at : at + size]))
    pack.replace(CODE, block)
    code = f"try:\n    {RUN}\nexcept Exception as error:\n    value = type(error).__name__, 'probe' in globals()"
    outcome = load(victim, tmp_path / "load", *pack.seal(), code)
    assert outcome.facts["error"] is None, outcome.facts
    kind, present = outcome.facts["value"]
    assert re.fullmatch(kinds, kind)
    assert not present


def test_bytecodes_own_header_means_nothing(sound: bytes, victim: Victim, tmp_path: Path) -> None:
    """The root says which interpreter bytecode is for; a file's own magic number is not asked."""
    pack = Forged.read(sound)
    block = pack.content(CODE)
    at, _ = pack.place(CODE)
    block[at : at + 16] = b"\xff" * 16
    pack.replace(CODE, block)
    loaded(load(victim, tmp_path / "load", *pack.seal()))


# -- changed after it was pinned


def pinned(sound: bytes) -> str:
    """Return the root of the sound pack."""
    return Forged.read(sound).seal()[1]


def other_code(frame: bytes) -> bytes:
    """Return a boot frame with other code in it, of the same packed size if that can be had."""
    return compress(unpack(frame).replace(b"sound", b"evil!"))


def with_frame(pack: Forged, where: str, at: int, frame: bytes) -> bytes:
    """Return the pack with other bytes in the place of a frame; root and index stay as they were."""
    bytes_before, _ = pack.seal()
    old = getattr(pack, where)[at]
    begin = bytes_before.index(old)
    return bytes_before[:begin] + frame[: len(old)].ljust(len(old), b"\0") + bytes_before[begin + len(old) :]


def flip(pack: bytes, at: int) -> bytes:
    """Return the pack with one bit changed."""
    return pack[:at] + bytes([pack[at] ^ 1]) + pack[at + 1 :]


def another(pack: Forged) -> bytes:
    """Return a sound pack of somebody else."""
    pack.boot[0] = other_code(pack.boot[0])
    return pack.seal()[0]


TAMPERED: dict[str, tuple[Callable[[Forged], bytes], tuple[str, str]]] = {
    "another pack, sound in itself": (another, (INTEGRITY, "not the pinned one")),
    "a bit of the root's tag": (lambda pack: flip(pack.seal()[0], 8), (INTEGRITY, "not the pinned one")),
    "a bit of the version": (lambda pack: flip(pack.seal()[0], 16), (INTEGRITY, "not the pinned one")),
    "a bit of the root": (lambda pack: flip(pack.seal()[0], 100), (INTEGRITY, "not the pinned one")),
    "a bit of the magic": (lambda pack: flip(pack.seal()[0], 0), (FORMAT, "not a lazydeps pack")),
    "a bit of the root's size": (lambda pack: flip(pack.seal()[0], 4), (INTEGRITY, "not the pinned one")),
    "size of the root: 4 GiB": (lambda pack: MAGIC + b"\xff" * 4 + pack.seal()[0][8:], (FORMAT, "promises a root of")),
    "size of the root: nothing": (lambda pack: MAGIC + bytes(4) + pack.seal()[0][8:], (FORMAT, "promises a root of")),
    "root of no pack": (lambda pack: compress(b"hello" * 1000), (FORMAT, "not a lazydeps pack")),
    "other code in a boot frame": (
        lambda pack: with_frame(pack, "boot", 0, other_code(pack.boot[0])),
        (INTEGRITY, "frame 0"),
    ),
    "a bit of a boot frame": (lambda pack: with_frame(pack, "boot", 0, flip(pack.boot[0], 9)), (INTEGRITY, "frame 0")),
    "a bit of a data frame": (lambda pack: with_frame(pack, "rest", 0, flip(pack.rest[0], 9)), (INTEGRITY, "frame")),
    "a bit of a cold frame": (lambda pack: with_frame(pack, "rest", 1, flip(pack.rest[1], 9)), (INTEGRITY, "frame")),
    "a bomb in a boot frame": (lambda pack: with_frame(pack, "boot", 0, bomb()), (INTEGRITY, "frame 0")),
    "a frame in another's place": (lambda pack: with_frame(pack, "boot", 0, pack.boot[1]), (INTEGRITY, "frame 0")),
    "a bit of the index": (
        lambda pack: flip(pack.seal()[0], pack.boundaries()[-4] + 9),
        (INTEGRITY, "index is not what"),
    ),
    "bytes inserted": (lambda pack: pack.seal()[0][:2000] + b"x" + pack.seal()[0][2000:], (INTEGRITY, "")),
    "bytes taken out": (lambda pack: pack.seal()[0][:2000] + pack.seal()[0][2001:], (INTEGRITY, "")),
}


@pytest.mark.parametrize("attack", TAMPERED)
def test_tampered(sound: bytes, victim: Victim, tmp_path: Path, attack: str) -> None:
    """Whoever can write to the bucket runs no code: not a byte lands that the pinned root does not vouch for."""
    change, expected = TAMPERED[attack]
    pack = change(Forged.read(sound))
    assert pack != sound
    outcome = load(victim, tmp_path / "load", pack, pinned(sound))
    refused(outcome, *expected)
    assert outcome.facts["value"] in (None, "sound")
    if outcome.facts["value"] is None:
        assert not outcome.facts["mark"]
    vouched = b"".join(map(unpack, (forged := Forged.read(sound)).boot + forged.rest))
    for path in (tmp_path / "load").glob("store/*/tree/**/*"):
        assert path.is_dir() or path.read_bytes() in vouched, path


@pytest.mark.parametrize("at", [-8, -4], ids=["magic", "size"])
def test_the_head_of_the_index_is_nobodys_word(
    sound: bytes, victim: Victim, clerk: Victim, tmp_path: Path, at: int
) -> None:
    """Eight bytes that no digest covers: a load does not look at them, and `inspect` and `verify` say so."""
    forged = Forged.read(sound)
    pack = flip(forged.seal()[0], forged.boundaries()[-3] - forged.root["index"]["packed"] + at)
    outcome, commands = together(victim, clerk, tmp_path, pack, pinned(sound), "inspect", "verify")
    loaded(outcome)
    said(commands, *[(FORMAT, "no index stands behind")] * 2)


EACH = """
import lazydeps, os
value = {}
for cut in CUTS:
    try:
        with lazydeps.load(f"file://{BOX}/{cut}.tar.zst#root={ROOT}", directory=os.environ["LAZYDEPS_DIR"] + f"/{cut}"):
            import probe
        lazydeps.wait(complete=True)
    except Exception as error:
        value[cut] = type(error).__name__, str(error), "probe" in __import__("sys").modules
    lazydeps.uninstall()
    __import__("sys").modules.pop("probe", None)
"""


def test_truncated(sound: bytes, victim: Victim, clerk: Victim, tmp_path: Path) -> None:
    """Cut off at every boundary, beside each, and at each of the first 64 bytes: one error that says so."""
    ends = Forged.read(sound).boundaries()[:-1]
    cuts = sorted({*range(64), *ends, *(end - 1 for end in ends), *(end + 1 for end in ends), len(sound) - 1})
    box = tmp_path / "load"
    box.mkdir()
    for cut in cuts:
        (box / f"{cut}.tar.zst").write_bytes(sound[:cut])
    code = f"BOX, ROOT, CUTS = {str(box)!r}, {pinned(sound)!r}, {cuts}\n{EACH}"
    outcome = ends_well(victim.ask(box, refs=[], code=code, memory=MEMORY, timeout=120))
    assert outcome.facts["error"] is None, outcome.facts["error"]
    assert list(map(int, outcome.facts["value"])) == cuts  # each of them failed
    for cut, (kind, text, imported) in outcome.facts["value"].items():
        assert kind in (FORMAT, "FetchError"), (cut, text)
        assert re.search("cut off|not a lazydeps pack", text), (cut, text)
        assert "defect" not in text
        assert not imported or int(cut) >= ends[5], cut
    short = "(?:FetchError|PackFormatError)", "cut off|not a lazydeps|accounts for"
    for cut in (0, 7, 30, *ends[4:]):
        said(command(clerk, tmp_path / f"command-{cut}", sound[:cut], "inspect", "verify")(), short, short)
