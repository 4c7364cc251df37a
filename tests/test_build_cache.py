"""The cache of builds: the same pack with it and without it, and no fault of a disk or a neighbour but costs time."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support_command import COMMAND, command_environ, lazydeps, lazydeps_error, lazydeps_json
from support_disk import disk, remount

from lazydeps.build import cache as cache_module
from lazydeps.build.cache import Cache, default_folder, entries, key, parse_size, prune, size_limit
from lazydeps.build.options import PackOptions
from lazydeps.build.pack import build_pack
from lazydeps.errors import ConfigError

NAME = key("a name")


def make_site(folder: Path, *names: str) -> Path:
    """Write a site-packages folder of small distributions, each with two modules and a data file."""
    for name in names:
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n\n")
        (info / "RECORD").write_text(f"{name}/__init__.py,,\n")
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(f"WHO = {name!r}\n")
        (folder / name / "rare.py").write_text("RARE = True\n")
        (folder / name / "data.txt").write_text(name * 1000)
    return folder


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Three small distributions."""
    return make_site(tmp_path / "site", "one", "two", "three")


def pack(site: Path, cache: Path | None, *words: str, **options: Any) -> dict[str, Any]:
    """Pack a folder with a cache, or without one, and return what the command says."""
    where = ["--no-cache"] if cache is None else ["--cache-dir", cache]
    return lazydeps_json("pack", "--from-dir", site, "-o", site.parent / "p.tar.zst", *where, *words, **options)


def kept(folder: Path) -> dict[str, int]:
    """Return how many entries there are of each kind."""
    found: dict[str, int] = {}
    for entry in entries(folder):
        found[entry.kind] = found.get(entry.kind, 0) + 1
    return found


# -- packs


def test_cold_warm_and_without(site: Path, tmp_path: Path) -> None:
    """The root is the same without a cache, with an empty one and with a full one; the second build makes nothing."""
    folder = tmp_path / "cache"
    without = pack(site, None)
    assert without["cache"] is None
    assert not folder.exists()
    cold = pack(site, folder)
    assert cold["cache"] == {"hits": 0, "misses": sum(kept(folder).values()), "saved_bytes": 0}
    assert set(kept(folder)) == {"frames", "bytecode", "traces"}
    warm = pack(site, folder)
    assert (warm["cache"]["hits"], warm["cache"]["misses"]) == (cold["cache"]["misses"], 0)
    assert warm["cache"]["saved_bytes"] > 0
    assert without["root"] == cold["root"] == warm["root"]
    assert {**warm, "seconds": 0, "cache": 0} == {**without, "seconds": 0, "cache": 0}


def test_whatever_changes_the_cache_changes_nothing(site: Path, tmp_path: Path) -> None:
    """Files come, go and change, entries are lost and damaged: each build gives what one without a cache gives."""
    chance = random.Random(18)
    folder = tmp_path / "cache"

    def build(cache: Path | None) -> str:
        options = PackOptions(out=tmp_path / "p.tar.zst", from_dir=site, cache=cache, level=1)
        return build_pack(options).written.root

    seen = {build(folder)}
    for number in range(6):
        package = chance.choice(sorted(path for path in site.iterdir() if (path / "__init__.py").exists()))
        if number % 3 == 2:
            (package / f"new{number}.py").write_text(f"x = {chance.random()}\n")
        else:
            (package / "__init__.py").write_text(f"from . import rare\nWHO = {chance.random()}\n")
        for entry in chance.sample(entries(folder), len(entries(folder)) // 3):
            if chance.random() < 0.5:
                entry.path.unlink()
            else:
                content = bytearray(entry.path.read_bytes())
                content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
                entry.path.write_bytes(content)
        roots = {build(folder), build(folder), build(None)}
        assert len(roots) == 1, f"round {number}"
        seen |= roots
    assert len(seen) == 7


def test_real_wheels(tmp_path: Path) -> None:
    """Wheels with an extension, from an index: the second pack is the first one, byte for byte."""
    words = ["pack", "six", "markupsafe", "--level", "3", "--cache-dir", tmp_path / "cache", "-o"]
    first = lazydeps_json(*words, tmp_path / "a.tar.zst")
    second = lazydeps_json(*words, tmp_path / "b.tar.zst")
    assert (second["cache"]["hits"], second["cache"]["misses"]) == (first["cache"]["misses"], 0)
    assert (tmp_path / "a.tar.zst").read_bytes() == (tmp_path / "b.tar.zst").read_bytes()


def test_another_distribution_costs_its_own_bytecode(site: Path, tmp_path: Path) -> None:
    """One more distribution, in front of the others: what they compile to is found."""
    folder = tmp_path / "cache"
    pack(site, folder)
    before = kept(folder)["bytecode"]
    make_site(site, "another")
    facts = pack(site, folder)
    assert kept(folder)["bytecode"] == before + 1
    assert facts["cache"]["hits"] >= before


def test_what_the_pack_depends_on_is_in_the_keys(site: Path, tmp_path: Path) -> None:
    """Another level, other statements and another Python find nothing that was made for the first."""
    folder = tmp_path / "cache"
    pack(site, folder, "--level", "3")
    counts = kept(folder)
    pack(site, folder, "--level", "4")
    assert kept(folder) == {**counts, "frames": 2 * counts["frames"]}
    for number, statement in enumerate(("import one", "import one, two")):
        pack(site, folder, "--level", "4", "--trace", statement)
        assert kept(folder)["traces"] == 2 + number
    bytecode = kept(folder)["bytecode"]
    assert bytecode == counts["bytecode"]
    assert pack(site, folder, "--level", "4", "--python", "3.12")["python"] == "3.12"
    assert kept(folder)["bytecode"] == 2 * bytecode


def test_statements_run_once_and_scripts_each_time(site: Path, tmp_path: Path) -> None:
    """What a script reads nobody knows, so it is recorded each time."""
    ran = tmp_path / "ran"
    script = tmp_path / "script.py"
    script.write_text(f"import two\nopen({str(ran)!r}, 'a').write('script ')\n")
    statement = f"import one; open({str(ran)!r}, 'a').write('statement ')"
    for words in (["--trace", statement], ["--trace-script", str(script)]):
        assert pack(site, tmp_path / "cache", *words)["root"] == pack(site, tmp_path / "cache", *words)["root"]
    assert ran.read_text().split() == ["statement", "script", "script"]


def test_a_failed_import_is_tried_again(site: Path, tmp_path: Path) -> None:
    """What was missing on this machine may have been installed meanwhile."""
    mended = tmp_path / "mended"
    (site / "two" / "__init__.py").write_text(f"open({str(mended)!r})\n")
    assert list(pack(site, tmp_path / "cache")["failed_imports"]) == ["two"]
    mended.touch()
    facts = pack(site, tmp_path / "cache")
    assert facts["failed_imports"] == {}
    assert facts["root"] == pack(site, None)["root"]


def test_a_program_that_changes_the_tree_is_recorded_each_time(site: Path, tmp_path: Path) -> None:
    """A trace that was found would leave out what the program writes."""
    code = (
        "import one; path = one.__path__[0] + '/data.txt'; text = open(path).read(); open(path, 'w').write('changed')"
    )
    facts = [pack(site, cache, "--trace", code) for cache in (tmp_path / "cache", tmp_path / "cache", None)]
    assert len({entry["root"] for entry in facts}) == 1
    (warning,) = facts[0]["warnings"]
    assert warning == "the traced program wrote into one/data.txt; the pack has what it left there."
    assert "traces" not in kept(tmp_path / "cache")
    assert (site / "one" / "data.txt").read_text().startswith("one")


def test_what_a_traced_program_writes_is_not_packed(site: Path, tmp_path: Path) -> None:
    """numba, for one, leaves machine code for this processor beside its modules: the pack would never be the same."""
    code = "import os, one; open(f'{one.__path__[0]}/{os.urandom(4).hex()}.nbi', 'wb').write(os.urandom(9))"
    first, second = (pack(site, None, "--trace", code) for _ in range(2))
    assert first["root"] == second["root"] == pack(site, None, "--trace", "import os, one")["root"]


def test_a_traced_program_that_removes_files_is_refused(site: Path) -> None:
    """What is to be packed is gone then; the message names it."""
    words = ["--from-dir", site, "-o", site.parent / "p", "--no-cache"]
    said = lazydeps_error("pack", *words, "--trace", "import os, one; os.remove(one.__path__[0] + '/data.txt')")
    assert "removed files of the packages that it imports (one/data.txt)" in said["message"]


@pytest.mark.parametrize("how", ["exec(open({file!r}).read())", "import sys; sys.path.append({folder!r}); import app"])
def test_a_statement_that_reads_other_files_is_recorded_each_time(how: str, site: Path, tmp_path: Path) -> None:
    """The trace of one that runs the user's own module would be that of what the module was when it ran first."""
    app = tmp_path / "project" / "app.py"
    app.parent.mkdir()
    code = how.format(file=str(app), folder=str(app.parent))
    orders = []
    for text in ("import one", "import two"):
        app.write_text(text)
        pack(site, tmp_path / "cache", "--trace", code, "--save-trace", str(tmp_path / "t.json"))
        orders.append(json.loads((tmp_path / "t.json").read_text())["order"])
    assert orders[0] != orders[1]
    assert "two/__init__.py" not in orders[0]
    assert "two/__init__.py" in orders[1]


def test_two_builds_at_once(site: Path, tmp_path: Path) -> None:
    """Builds that fill one cache at the same time give the same root, and no half of an entry is left."""
    folder = tmp_path / "cache"
    builds = [
        subprocess.Popen(
            [*COMMAND, "pack", "--from-dir", site, "-o", tmp_path / f"{number}.tar.zst", "--cache-dir", folder],
            env=command_environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in range(3)
    ]
    for build in builds:
        _, said = build.communicate(timeout=120)
        assert (build.returncode, b"warning" in said) == (0, False), said
    expected = pack(site, None)["root"]
    assert {lazydeps_json("inspect", tmp_path / f"{number}.tar.zst")["root"] for number in range(3)} == {expected}
    assert list(folder.rglob("half/*")) == []


def test_a_full_disk_costs_the_cache(site: Path, tmp_path: Path) -> None:
    """The pack is written, with one warning that says what to do; what was kept before is found."""
    (site / "one" / "big.bin").write_bytes(random.Random(1).randbytes(6 << 20))
    expected = pack(site, None)["root"]
    with disk(tmp_path / "disk", "size=3m") as folder:
        for hits in (0, 1):
            facts = pack(site, folder / "cache")
            assert facts["root"] == expected
            assert [warning for warning in facts["warnings"] if "No space left" in warning] == facts["warnings"]
            assert len(facts["warnings"]) == 1
            assert "--no-cache" in facts["warnings"][0]
            assert (facts["cache"]["hits"] > 0) == bool(hits)
            assert list(folder.rglob("half/*")) == []


def test_a_read_only_disk_is_read(site: Path, tmp_path: Path) -> None:
    """A cache that came with an image is used as it is; without anything to keep, nobody is bothered."""
    with disk(tmp_path / "disk", "size=30m") as folder:
        root = pack(site, folder / "cache")["root"]
        remount(folder, "ro")
        facts = pack(site, folder / "cache", environ={"LAZYDEPS_CACHE_SIZE": "10"})
        assert (facts["root"], facts["cache"]["misses"]) == (root, 0)
        facts = pack(site, folder / "cache", "--level", "4")
        assert len(facts["warnings"]) == 1
        assert "Read-only" in facts["warnings"][0]


def test_a_cache_that_others_can_write_to_is_not_read(site: Path, tmp_path: Path) -> None:
    """Who writes there decides what the pack holds: nothing is read, nothing written, and it is said."""
    folder = tmp_path / "cache"
    root = pack(site, folder)["root"]
    folder.chmod(0o777)
    facts = pack(site, folder)
    assert (facts["root"], facts["cache"]["hits"]) == (root, 0)
    (warning,) = facts["warnings"]
    assert f"only user {os.geteuid()} can write to" in warning
    error = lazydeps_error("cache", "info", "--cache-dir", folder)
    assert (error["type"], "drwxrwxrwx" in error["message"]) == ("ConfigError", True)


def test_no_more_than_the_limit(site: Path, tmp_path: Path) -> None:
    """A build ends with a cache that is as small as was asked for, and keeps what was used last."""
    folder = tmp_path / "cache"
    pack(site, folder)
    everything = sum(entry.size for entry in entries(folder)) + 500
    (site / "one" / "__init__.py").write_text("WHO = 2\n")
    facts = pack(site, folder, environ={"LAZYDEPS_CACHE_SIZE": str(everything)})
    assert sum(entry.size for entry in entries(folder)) <= everything
    assert facts["warnings"] == []
    assert pack(site, folder)["cache"]["misses"] == 0
    error = lazydeps_error("pack", "six", "-o", tmp_path / "x", environ={"LAZYDEPS_CACHE_SIZE": "much"})
    assert "LAZYDEPS_CACHE_SIZE: 'much' is no size" in error["message"]


def test_where_the_cache_is(site: Path, tmp_path: Path) -> None:
    """`LAZYDEPS_CACHE`, then XDG_CACHE_HOME, then ~/.cache; `LAZYDEPS_CACHE=0` is none."""
    mine = tmp_path / "me"
    home = {"HOME": str(mine)}
    assert default_folder(home) == mine / ".cache/lazydeps"
    assert default_folder({**home, "XDG_CACHE_HOME": "/var/x"}) == Path("/var/x/lazydeps")
    assert default_folder({**home, "XDG_CACHE_HOME": "relative"}) == mine / ".cache/lazydeps"
    assert default_folder({**home, "XDG_CACHE_HOME": "/var/x", "LAZYDEPS_CACHE": "/mine"}) == Path("/mine")
    assert default_folder({**home, "LAZYDEPS_CACHE": "0"}) is None
    words = ["pack", "--from-dir", site, "-o", tmp_path / "p.tar.zst"]
    facts = lazydeps_json(*words, environ={"LAZYDEPS_CACHE": str(tmp_path / "mine")})
    assert facts["cache"]["misses"] == sum(kept(tmp_path / "mine").values()) > 0
    assert lazydeps_json(*words, environ={"LAZYDEPS_CACHE": "0"})["cache"] is None
    done = lazydeps(*words, "--no-cache", "--cache-dir", tmp_path, code=2)
    assert "choose --cache-dir or --no-cache" in done.stderr


def test_a_file_larger_than_the_memory_to_spare(site: Path, tmp_path: Path) -> None:
    """A library of 600 MB is packed in a process that never holds half of that."""
    with (site / "one" / "huge.bin").open("wb") as file:
        file.truncate(600 << 20)
    code = (
        "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL); "
        "print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    words = ["pack", "--from-dir", site, "-o", tmp_path / "p.tar.zst", "--level", "1", "--no-cache", "-q"]
    done = subprocess.run(
        [sys.executable, "-c", code, *COMMAND, *words], env=command_environ(), capture_output=True, text=True
    )
    status, most = map(int, done.stdout.split())
    assert status == 0, done.stderr
    assert most < 300 << 10  # KiB


# -- entries


def test_what_is_kept_is_found(tmp_path: Path) -> None:
    """By its kind and its key, in a folder that only we can read."""
    cache = Cache(tmp_path / "deep" / "cache")
    assert cache.get("frames", NAME) is None
    cache.put("frames", NAME, b"content")
    cache.put("frames", key("empty"), b"")
    assert (cache.get("frames", NAME), cache.get("frames", key("empty"))) == (b"content", b"")
    assert cache.get("traces", NAME) is None
    assert (cache.used.hits, cache.used.misses, cache.used.saved_bytes) == (2, 2, 7)
    assert cache.warnings == ()
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "deep/cache").rglob("*") if path.is_dir()} == {0o700}
    assert (tmp_path / "deep/cache").stat().st_mode & 0o777 == 0o700
    assert {entry.path.stat().st_mode & 0o777 for entry in entries(cache.folder)} == {0o600}


def test_keys_tell_their_parts_apart() -> None:
    """Parts that join to the same text are not the same parts, and text is not confused by surrogates."""
    assert len({key("ab", "c"), key("a", "bc"), key("abc"), key("abc", ""), key("", "abc")}) == 5
    assert key("a") == key(b"a")
    assert key("\udcff") == key(b"\xff")


def test_a_damaged_entry_is_none_and_is_replaced(tmp_path: Path) -> None:
    """Each byte counts; so does the name, the kind, and that it is a file of its own."""
    cache = Cache(tmp_path / "cache")
    cache.put("frames", NAME, b"content")
    (entry,) = entries(cache.folder)
    sound = entry.path.read_bytes()
    damaged = [sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :] for at in range(len(sound))]
    for content in (*damaged, b"", sound[:-1], sound + b"x", sound[:10]):
        entry.path.write_bytes(content)
        assert cache.get("frames", NAME) is None
    cache.put("frames", NAME, b"content")
    assert cache.get("frames", NAME) == b"content"
    other = key("another name")
    cache.put("frames", other, b"other")
    (path,) = (one.path for one in entries(cache.folder) if one.path != entry.path)
    path.write_bytes(entry.path.read_bytes())
    assert cache.get("frames", other) is None  # sound, but not what was asked for
    cache.put("frames", other, b"other")
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert cache.get("frames", other) is None
    cache.put("frames", other, b"other")
    assert (cache.get("frames", other), cache.get("frames", NAME)) == (b"other", b"content")


def test_a_writer_that_is_killed(tmp_path: Path) -> None:
    """Whenever it dies, every entry is whole; what it left half-written goes when it is an hour old."""
    code = (
        "import sys, pathlib; from lazydeps.build.cache import Cache, key; cache = Cache(pathlib.Path(sys.argv[1]))\n"
        "print('go', flush=True)\n"
        "while True:\n"
        "    for n in range(9): cache.put('frames', key(str(n)), str(n).encode() * 300_000)\n"
    )
    folder = tmp_path / "cache"
    for number in range(6):
        writer = subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.02 + 0.013 * number)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    cache = Cache(folder)
    found = [cache.get("frames", key(str(n))) for n in range(9)]
    assert any(found)
    assert all(content in (None, str(n).encode() * 300_000) for n, content in enumerate(found))
    assert len([entry for entry in found if entry]) == len(entries(folder))
    half = folder / "v1" / "half"
    for name in ("old", "new"):
        (half / name).write_bytes(b"x")
    os.utime(half / "old", (0, 0))
    cache.trim(10**9)
    assert not (half / "old").exists()
    assert (half / "new").exists()


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    """A hit counts as a use."""
    cache = Cache(tmp_path)
    tmp_path.chmod(0o700)
    for number in range(4):
        cache.put("frames", key(str(number)), bytes(1000))
    for age, number in enumerate((3, 2, 1, 0)):
        path = cache._path("frames", key(str(number)))
        os.utime(path, (1000 + age, 1000 + age))
    assert cache.get("frames", key("3")) is not None
    size = entries(tmp_path)[0].size
    removed = [entry.path for entry in prune(tmp_path, size=2 * size)]
    assert removed == [cache._path("frames", key(number)) for number in ("2", "1")]
    assert [cache.get("frames", key(str(number))) is None for number in range(4)] == [False, True, True, False]


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("12", 12), ("500MB", 500_000_000), ("1.5 gb", 1_500_000_000), ("3KB", 3000)]
)
def test_sizes(text: str, size: int) -> None:
    """Sizes are spelled as everybody spells them."""
    assert parse_size(text) == size
    assert size_limit({"LAZYDEPS_CACHE_SIZE": text}) == size


def test_what_is_no_size() -> None:
    """The message says what a size looks like; by default the limit is 2 GB."""
    for text in ("much", "-1", "5 parsecs", ""):
        with pytest.raises(ConfigError, match="is no size: give a number and a unit, such as 500MB"):
            parse_size(text)
    assert size_limit({}) == cache_module.DEFAULT_SIZE == 2_000_000_000


# -- `lazydeps cache`


def test_info_clear_and_prune(site: Path, tmp_path: Path) -> None:
    """What `info` counts, `clear` and `prune` remove, and a dry run does not."""
    folder = tmp_path / "cache"
    environ = {"LAZYDEPS_CACHE": str(folder)}
    empty = lazydeps_json("cache", "info", environ=environ)
    assert (empty["path"], empty["entries"], empty["bytes"], empty["oldest_use"]) == (str(folder), 0, 0, None)
    assert not folder.exists()
    pack(site, folder)
    facts = lazydeps_json("cache", "info", "--cache-dir", folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert (facts["entries"], facts["bytes"]) == (len(files), sum(path.stat().st_size for path in files))
    assert {kind: count["entries"] for kind, count in facts["kinds"].items()} == kept(folder)
    assert facts["oldest_use"].startswith(time.strftime("%Y-"))
    assert facts["limit"] == 2_000_000_000
    lines = lazydeps("cache", "info", environ=environ).stdout.splitlines()
    assert lines[0].startswith(f"{folder}: ")
    assert [line.split()[0] for line in lines[1:4]] == ["frames", "bytecode", "traces"]

    traces = kept(folder)["traces"]
    would = lazydeps_json("cache", "clear", "--kind", "traces", "--dry-run", environ=environ)
    assert (would["removed"], would["dry_run"], kept(folder)["traces"]) == (traces, True, traces)
    assert lazydeps_json("cache", "clear", "--kind", "traces", environ=environ)["removed"] == traces
    assert "traces" not in kept(folder)
    assert lazydeps_json("cache", "prune", "--older-than", "1h", environ=environ)["removed"] == 0
    oldest = entries(folder)[0]
    os.utime(oldest.path, (0, 0))
    done = lazydeps_json("cache", "prune", "--older-than", "30d", environ=environ)
    assert (done["removed"], done["freed"]) == (1, oldest.size)
    said = lazydeps("cache", "prune", "--size", "0", "--dry-run", environ=environ).stdout
    assert f"{len(entries(folder))} entries would be removed" in said
    lazydeps("cache", "prune", "--size", "0", environ=environ)
    assert entries(folder) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["prune"], "say how much may stay (--size) or for how long (--older-than)"),
        (["prune", "--size", "much"], "'much' is no size"),
        (["prune", "--older-than", "long"], "'long' is no age"),
        (["clear", "--kind", "hats"], "'hats' is not one of"),
        (["frobnicate"], "No such command 'frobnicate'"),
    ],
)
def test_wrong_usage_of_the_cache_command(words: list[str], said: str) -> None:
    """Exit code 2, in words."""
    assert said in lazydeps("cache", *words, code=2).stderr


def test_the_cache_is_switched_off() -> None:
    """With `LAZYDEPS_CACHE=0` there is no folder to speak of, and the error says how to name one."""
    error = lazydeps_error("cache", "info", environ={"LAZYDEPS_CACHE": "0"})
    assert error["message"] == "LAZYDEPS_CACHE=0 switches the cache off: name the folder with --cache-dir."


def test_a_projects_packs_use_the_cache(tmp_path: Path) -> None:
    """What a project configures is built with the cache, as what the command line names."""
    (tmp_path / "lazydeps.toml").write_text('[packs.small]\nrequirements = ["six"]\nlevel = 1\n')
    words = ("pack", "--cache-dir", tmp_path / "cache")
    assert lazydeps_json(*words, cwd=tmp_path)["cache"]["misses"] > 0
    assert lazydeps_json(*words, cwd=tmp_path)["cache"]["misses"] == 0
