"""`lazydeps gc` as a person uses it: every test runs it as a process, over stores that real starts have made."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from support_command import COMMAND, command_environ, lazydeps, lazydeps_error, lazydeps_json
from support_disk import Pack, as_nobody, disk, holder, run_pack
from support_packs import write_tree

from lazydeps._space import leftovers
from lazydeps.build.stores import collect, parse_age
from lazydeps.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

DAY = 86400


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """A pack of two distributions."""
    return Pack(tmp_path_factory.mktemp("pack"), "one")


@pytest.fixture(scope="module")
def filled(pack: Pack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pack's store, to copy."""
    place = tmp_path_factory.mktemp("filled") / "s"
    assert run_pack(pack, place)[0] == "one"
    return place


@pytest.fixture
def place(filled: Path, pack: Pack, tmp_path: Path) -> Path:
    """A folder with four stores: the pack's, used now; two of nothing, two and nine days old; one of an old layout."""
    place = tmp_path / "s"
    shutil.copytree(filled, place)
    os.utime(place / pack.folder / "users")
    for name, age in (("2" * 32 + "-1", 2 * DAY), ("9" * 32 + "-1", 9 * DAY), ("c" * 32, 12 * DAY)):
        write_tree(place / name, {"tree/a.bin": bytes(50_000)})
        if name[0] != "2":  # a start that got no further
            (place / name / "lock").touch()
        if "-" in name:
            (place / name / "users").touch()
            os.utime(place / name / "users", (time.time() - age,) * 2)
        os.utime(place / name, (time.time() - age,) * 2)
    return place


def names(place: Path) -> list[str]:
    """Return what lies in a folder, by its first letter."""
    return sorted(path.name[0] for path in place.iterdir())


def fates(facts: dict[str, Any]) -> list[str]:
    """Return what became of each store."""
    return [store["fate"] for store in facts["stores"]]


def test_everything_that_nobody_holds(pack: Pack, place: Path) -> None:
    """By default every store goes, the one in use excepted; the facts of each are right."""
    with holder(pack, place) as process:
        facts = lazydeps_json("gc", "--dir", place)
        assert process.communicate("go\n", timeout=30)[0] == "cold one\n"
    assert fates(facts) == ["held", "removed", "removed", "removed"]
    first, *others = facts["stores"]
    assert (first["name"], first["root"], first["distributions"]) == (pack.folder, pack.written.root, 2)
    assert first["held"]
    assert first["size"] > 2_000_000
    assert abs(first["last_used"] - time.time()) < 600
    assert [other["distributions"] for other in others] == [None] * 3
    assert [other["root"] for other in others] == ["sha256:" + digit * 32 for digit in "29c"]
    assert facts["freed"] == sum(other["size"] for other in others) >= 150_000
    assert facts["directory"] == str(place)
    assert [path.name for path in place.iterdir()] == [pack.folder]


def test_words_for_people(place: Path, pack: Pack) -> None:
    """A line for each store with its root, distributions, size, last use and fate, and one about all of them."""
    lines = lazydeps("gc", "--older-than", "9d", environ={"LAZYDEPS_DIR": str(place)}).stdout.splitlines()
    assert re.fullmatch(
        rf"kept    {pack.written.root}  2 distributions, \d\.\d MB, last used 20\d\d-\d\d-\d\d \d\d:\d\d[+-]\d\d:\d\d",
        lines[0],
    )
    assert [line.split()[0] for line in lines[:4]] == ["kept", "kept", "removed", "removed"]
    assert "unknown distributions" in lines[3]
    assert re.fullmatch(rf"{re.escape(str(place))}: 4 stores, 0\.1 MB freed", lines[4])
    assert len(names(place)) == 2


@pytest.mark.parametrize(
    ("options", "removed"),
    [
        (("--keep", "2"), 2),
        (("--keep", "9"), 0),
        (("--older-than", "1d"), 3),
        (("--older-than", "240h"), 1),
        (("--keep", "3", "--older-than", "1h"), 1),
    ],
)
def test_what_to_keep(place: Path, options: tuple[str, ...], removed: int) -> None:
    """`--keep` counts from the last used, `--older-than` by its age; with both, a store is kept that either keeps."""
    facts = lazydeps_json("gc", "--dir", place, *options)
    assert fates(facts) == ["kept"] * (4 - removed) + ["removed"] * removed
    assert len(names(place)) == 4 - removed


def test_a_dry_run_changes_nothing(place: Path, pack: Pack) -> None:
    """`--dry-run` says what would go, held stores included, and neither removes nor makes anything."""
    (place / ("gone-" + "7" * 32 + "-1-01234567")).mkdir()
    before = sorted(place.rglob("*"))
    with holder(pack, place):
        output = lazydeps("gc", "--dir", place, "--dry-run").stdout
    assert sorted(place.rglob("*")) == before
    assert [line.split("sha")[0].strip() for line in output.splitlines()[:-1]] == ["held", *["would be removed"] * 3]
    assert output.splitlines()[-1].endswith("would be freed")


def test_no_stores(tmp_path: Path) -> None:
    """A folder that is not there holds none, which is no error, and is not made."""
    assert lazydeps_json("gc", "--dir", tmp_path / "none")["stores"] == []
    assert not (tmp_path / "none").exists()


def test_what_was_left_is_finished(place: Path) -> None:
    """Removals that were killed are finished, and counted."""
    shutil.copytree(place / ("9" * 32 + "-1"), place / ("gone-" + "7" * 32 + "-1-01234567"))
    output = lazydeps("gc", "--dir", place, "--keep", "4").stdout
    assert output.splitlines()[-1].endswith("0.0 MB freed; 1 earlier removal finished")
    assert leftovers(str(place)) == []
    assert len(names(place)) == 4


def test_a_folder_that_others_can_write(place: Path) -> None:
    """It could hold anything: nothing in it is touched."""
    place.chmod(0o777)
    error = lazydeps_error("gc", "--dir", place)
    assert error["type"] == "ConfigError"
    assert "alone can write to" in error["message"]
    assert len(names(place)) == 4


def test_a_store_that_cannot_be_removed(tmp_path: Path) -> None:
    """One that resists is reported, makes the exit code 1, and keeps no other from going."""
    with disk(tmp_path / "disk") as base:
        base.chmod(0o700)
        for digit in "12":
            write_tree(base / (digit * 32 + "-1"), {"tree/a.bin": b"1"})
        (base / ("1" * 32 + "-1") / "tree/busy").mkdir()
        busy = f"{base}/{'1' * 32}-1/tree/busy"
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", busy], check=True)
        done = lazydeps("gc", "--dir", base, code=1)
        assert "could not be removed" in done.stderr
        assert sorted(line.split()[0] for line in done.stdout.splitlines()[:2]) == ["failed", "removed"]
        (left,) = leftovers(str(base))
        subprocess.run(["umount", f"{base}/{left}/tree/busy"], check=True)
        assert lazydeps_json("gc", "--dir", base)["finished"] == 1
        assert list(base.iterdir()) == []


def test_another_users_stores(place: Path) -> None:
    """A store of another user in a folder of ours is not ours to remove."""
    as_nobody()  # or skip: giving it away needs root
    os.chown(place / ("2" * 32 + "-1"), 65534, 65534)
    assert fates(lazydeps_json("gc", "--dir", place)) == ["removed"] * 3
    assert names(place) == ["2"]


def test_interrupted(tmp_path: Path) -> None:
    """Ctrl-C ends it with 130; no store is left half-removed under its name, and the next run does the rest."""
    place = tmp_path / "s"
    for attempt in range(5):  # it may be done before the signal comes
        for number, files in enumerate((2000, 100, 100)):
            store = place / f"{number:032x}-1"
            write_tree(store, {"tree/0.bin": b"", "users": b""})
            for n in range(1, files):
                (store / f"tree/{n}.bin").touch()
            os.utime(store / "users", (time.time() - number,) * 2)  # the large one is the first to go
        process = subprocess.Popen(
            [*COMMAND, "gc", "--dir", str(place)], env=command_environ(), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        while process.poll() is None and not leftovers(str(place)):
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        if process.returncode or attempt == 4:
            break
    assert (process.returncode, "the next removal does the rest" in errors) == (130, True), errors
    left = [path for path in place.iterdir() if not path.name.startswith("gone-")]
    assert [len(list(store.glob("tree/*.bin"))) for store in left] == [100] * len(left)
    lazydeps("gc", "--dir", place)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("age", ["7", "d", "-1d", "7 d", "1y", "", "nan", "1e3d"])
def test_an_age_that_is_none(age: str) -> None:
    """What is no number with a unit is refused, with what would be one."""
    with pytest.raises(ConfigError, match=r"is no age: give a number and a unit, such as 7d"):
        parse_age(age)


def test_ages() -> None:
    """Seconds, minutes, hours, days and weeks, whole or not."""
    assert [parse_age(text) for text in ("30s", "5m", "1.5h", "7d", "2w")] == [30, 300, 5400, 604800, 1209600]


def test_usage(tmp_path: Path) -> None:
    """A wrong option ends with 2 and says what would be right; the help shows examples."""
    assert "such as 7d" in lazydeps("gc", "--dir", tmp_path, "--older-than", "soon", code=2).stderr
    assert "--keep" in lazydeps("gc", "--keep", "-1", code=2).stderr
    assert "lazydeps gc --keep 2 --older-than 7d" in lazydeps("gc", "--help").stdout


def test_a_store_that_is_used_meanwhile_is_not_old(place: Path) -> None:
    """Removing takes time: a store that a process used meanwhile is younger than was asked for."""
    fates = []
    for removal in collect(str(place), older_than=1.0):
        fates.append((removal.store.name, removal.fate))
        if removal.fate == "removed":
            for path in place.iterdir():
                (path / "users").touch()
    assert [fate for _, fate in fates].count("removed") == 1
    assert fates[-1][1] == "kept"
    assert (place / fates[-1][0]).is_dir()
