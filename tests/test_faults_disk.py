"""Faults of the disk, on real file systems and as real users: full, read-only, forbidden, missing, foreign, linked.

Each start ends with the right modules or with one clear error that names the remedy, and nothing half-written is left
under a name in ``tree/``.
"""

from __future__ import annotations

import inspect
import os
import shutil
import signal
import subprocess
import sys
import time
from _thread import allocate_lock
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from support_disk import (
    HOSTS,
    NOBODY,
    Pack,
    as_nobody,
    common_folder,
    disk,
    environ_of,
    fill,
    holder,
    remount,
    run_pack,
    start,
)
from support_http import Answer, Request, ScriptedServer, ranged

from lazydeps import ConfigError, InsufficientSpaceError
from lazydeps._config import Limits
from lazydeps._pack import Root
from lazydeps._store import Landing, Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZE = 900_000
GOOD = ["one", SIZE]
COLD = "from one import cold\nfound.append(cold.WHO)"


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """A pack of about 2.5 MB."""
    return Pack(tmp_path_factory.mktemp("pack"), "one")


@pytest.fixture(scope="module")
def filled(pack: Pack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store that a start has filled, to copy."""
    place = tmp_path_factory.mktemp("filled") / "s"
    assert run_pack(pack, place) == GOOD
    return place


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """A pack with 300 small files in its data set."""
    return Pack(tmp_path_factory.mktemp("many"), "many", files=300)


def check_remedy(error: Any, kind: str, *words: str) -> None:
    """Make sure that an error is of a kind, and says what to do."""
    assert isinstance(error, dict), error
    assert error["type"] == kind
    for word in (*words, "LAZYDEPS_DIR"):
        assert word in error["message"], error["message"]
    if kind == "InsufficientSpaceError":
        assert "ephemeral_storage" in error["message"]


# -- full


@pytest.mark.parametrize("host", HOSTS)
def test_full_at_the_check(pack: Pack, tmp_path: Path, host: str) -> None:
    """Too small a disk is refused before a frame is written; with space, the next start succeeds in that store."""
    with disk(tmp_path / "disk", "size=4m") as place:
        (place / "filler").write_bytes(bytes(3 << 20))
        error = run_pack(pack, place / "s", host=host)
        check_remedy(error, "InsufficientSpaceError", "more bytes in", "at least 2 MB")
        assert error["needed"] > error["available"] > 0
        assert pack.check(place / "s") == 0
        assert not (place / "s" / pack.folder / "root").exists()
        (place / "filler").unlink()
        assert run_pack(pack, place / "s", host=host) == GOOD


def fills(place: Path, pack: Pack, *, at: int = 1, take: Callable[[Path], Any] = fill) -> Callable[[Request], Answer]:
    """Return a server's script that takes all space of a disk when it gets the request with this number."""

    def script(request: Request) -> Answer:
        if request.number == at:
            take(place)
        return ranged(request, pack.content)

    return script


@pytest.mark.parametrize(("host", "at"), [("fork", 0), ("fork", 1), ("fork", 2), ("threads", 1)])
def test_full_in_the_middle(pack: Pack, tmp_path: Path, host: str, at: int) -> None:
    """Somebody takes the space while the pack lands: one error; what has landed is whole and of use later."""
    with disk(tmp_path / "disk", "size=8m") as place:
        with ScriptedServer(fills(place, pack, at=at)) as server:
            error = run_pack(pack, place / "s", host=host, ref=pack.at(server.url), connections=1)
            assert len(server.requests) > at
        check_remedy(error, "InsufficientSpaceError")
        pack.check(place / "s")
        (place / "filler").unlink()
        assert run_pack(pack, place / "s", host=host, then=COLD) == [*GOOD, "cold one"]
        assert pack.check(place / "s") > 40


@pytest.mark.parametrize("host", HOSTS)
def test_full_when_a_cold_module_is_wanted(pack: Pack, tmp_path: Path, host: str) -> None:
    """An import after the start fails with the same error, and succeeds when there is space; all else works on."""
    then = f"""
from contextlib import suppress
from pathlib import Path
{inspect.getsource(fill)}
filler = fill(Path({str(tmp_path / "disk")!r}))
try:
    from one import cold
except lazydeps.InsufficientSpaceError as error:
    found.append(str(error))
filler.unlink()
from one import cold
found.append(cold.WHO)
"""
    with disk(tmp_path / "disk", "size=8m") as place:
        found = run_pack(pack, place / "s", host=host, then=then)
    assert [*found[:2], found[3]] == [*GOOD, "cold one"]
    assert "the disk is full" in found[2]
    assert "ephemeral_storage" in found[2]


def test_the_record_of_what_landed_needs_no_space_later(pack: Pack, tmp_path: Path) -> None:
    """A frame of empty files lands on a disk without a byte left: a full one is an error, never a SIGBUS."""
    code = f"""
import json, os, sys
from _thread import allocate_lock
from contextlib import suppress
from pathlib import Path
{inspect.getsource(fill)}
from lazydeps._config import Limits
from lazydeps._fetch import fetch_head
from lazydeps._pack import Root
from lazydeps._sources import open_source
from lazydeps._store import Landing, Store
place = Path(os.environ["LAZYDEPS_DIR"])
connection = open_source({pack.written.path.as_uri()!r}, {{}}).connect(timeout=5)
root = Root(fetch_head(connection, None, Limits()).content, limits=Limits())
store = Store(str(place), root.digest)
store.prepare()
assert store.try_lock()
landing = Landing(store, root, allocate_lock())
fill(place)
reader = Store(str(place), root.digest)
assert reader.open_landed(root) and not reader.has_landed(0)
store._landed[0] = 1
print(json.dumps(reader.has_landed(0)))
"""
    with disk(tmp_path / "disk", "size=1m") as place:
        (place / "s").mkdir(mode=0o700)
        assert start(code, place / "s") is True


WRITES: dict[str, Callable[[Store, Root], Any]] = {
    "the root": lambda store, root: store.write_root(bytes(100_000)),
    "the index": lambda store, root: store.write_index(bytes(100_000)),
    "the files for landing": lambda store, root: Landing(store, root, allocate_lock()),
    "the first folders": lambda store, root: (store.unlock(), store.try_lock()),
    "another store": lambda store, root: Store(store.directory, bytes(32)).prepare(),
}


@pytest.mark.parametrize("what", WRITES)
@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_every_write_explains_itself(pack: Pack, tmp_path: Path, what: str, fault: str) -> None:
    """Whatever of a store is being written, a full disk and a read-only one are told in our own errors."""
    root = Root(pack.content[8 : 8 + int.from_bytes(pack.content[4:8], "little")], limits=Limits())
    with disk(tmp_path / "disk", "size=1m", "nr_inodes=60") as place:
        store = Store(str(place / "s"), root.digest)
        store.prepare()
        assert store.try_lock()
        if what == "the first folders":
            os.rmdir(f"{store.path}/parts")
        if fault == "full":
            fill(place)
            take_inodes(place)
            with pytest.raises(InsufficientSpaceError, match=r"the disk is full: .*ephemeral_storage.*LAZYDEPS_DIR"):
                WRITES[what](store, root)
        else:
            store.unlock()
            remount(place, "ro")
            with pytest.raises(ConfigError, match=r"Read-only file system\. Set LAZYDEPS_DIR"):
                WRITES[what](store, root)
            remount(place, "rw")
        store.unlock()


def take_inodes(place: Path) -> None:
    """Take every inode that a disk has left."""
    with suppress(OSError):
        (place / "taken").mkdir()
        for number in range(100_000):
            (place / "taken" / str(number)).touch()


@pytest.mark.parametrize("host", HOSTS)
def test_inodes_used_up_at_the_check(many: Pack, tmp_path: Path, host: str) -> None:
    """A disk with bytes but too few inodes says so, before a data file is written; with more it goes on."""
    with disk(tmp_path / "disk", "size=16m", "nr_inodes=200") as place:
        error = run_pack(many, place / "s", host=host)
        check_remedy(error, "InsufficientSpaceError", "more files and folders", "inodes")
        assert not list((place / "s").rglob("many?/*.txt"))
        many.check(place / "s")
        remount(place, "nr_inodes=1000")
        assert run_pack(many, place / "s", host=host) == ["many", SIZE]
        assert many.check(place / "s") > 300


def test_inodes_in_the_middle(pack: Pack, tmp_path: Path) -> None:
    """Inodes that go while the pack lands are named as what lacks, though bytes are free."""
    with disk(tmp_path / "disk", "size=16m", "nr_inodes=400") as place:
        with ScriptedServer(fills(place, pack, take=take_inodes)) as server:
            error = run_pack(pack, place / "s", ref=pack.at(server.url), connections=1)
        check_remedy(error, "InsufficientSpaceError", "the disk is full", "no inodes")
        assert error["available"] > 5_000_000
        pack.check(place / "s")
        shutil.rmtree(place / "taken")
        assert run_pack(pack, place / "s") == GOOD


def test_without_one_inode(pack: Pack, tmp_path: Path) -> None:
    """A disk that has no inode for the store's folder is full, not forbidden."""
    with disk(tmp_path / "disk", "size=16m", "nr_inodes=50") as place:
        take_inodes(place)
        check_remedy(run_pack(pack, place / "s"), "InsufficientSpaceError", "no inodes")


# -- read-only


@pytest.mark.parametrize("host", HOSTS)
def test_read_only_before_the_start(pack: Pack, tmp_path: Path, host: str) -> None:
    """On a read-only disk a filled store serves its pack, and an empty one is an error that names the remedy."""
    with disk(tmp_path / "disk", "size=16m") as place:
        remount(place, "ro")
        check_remedy(run_pack(pack, place / "s", host=host), "ConfigError", "Read-only file system")
        remount(place, "rw")
        assert run_pack(pack, place / "s", host=host) == GOOD
        remount(place, "ro")
        then = "found.append(lazydeps.report().packs[0].requests)"
        assert run_pack(pack, place / "s", host=host, then=then) == [*GOOD, 0]


def test_read_only_and_half_filled(pack: Pack, tmp_path: Path) -> None:
    """A store that lacks something on a read-only disk is an error with the remedy, not a wrong module."""
    with disk(tmp_path / "disk", "size=8m") as place:
        with ScriptedServer(fills(place, pack, at=2)) as server:
            run_pack(pack, place / "s", ref=pack.at(server.url), connections=1)
        assert (place / "s" / pack.folder / "root").exists()
        remount(place, "ro")
        check_remedy(run_pack(pack, place / "s"), "ConfigError", "Read-only file system")
        pack.check(place / "s")


def test_read_only_while_it_runs(pack: Pack, tmp_path: Path) -> None:
    """The disk becomes read-only under a process: what has landed imports, what has not is a clear error, for now."""
    mount = f"subprocess.run(['mount', '-o', 'remount,{{}}', {str(tmp_path / 'disk')!r}], check=True)"
    then = f"""
import subprocess
{mount.format("ro")}
try:
    from one import cold
except lazydeps.ConfigError as error:
    found.append(str(error))
from one import part
{mount.format("rw")}
from one import cold
found.append(cold.WHO)
"""
    with disk(tmp_path / "disk", "size=16m") as place:
        found = run_pack(pack, place / "s", then=then)
    assert [*found[:2], found[3]] == [*GOOD, "cold one"]
    assert "Read-only file system" in found[2]
    assert "LAZYDEPS_DIR" in found[2]


# -- forbidden


@pytest.mark.parametrize("host", HOSTS)
def test_a_folder_that_we_cannot_write(pack: Pack, host: str) -> None:
    """EACCES, of a folder of our own or of one that would have to be made, is an error that names the remedy."""
    prefix = as_nobody(reads_all=True)
    with common_folder() as place:
        (place / "own").mkdir(mode=0o500)
        os.chown(place / "own", NOBODY, NOBODY)
        check_remedy(run_pack(pack, place / "own", host=host, prefix=prefix), "ConfigError", "Permission denied")
        (place / "theirs").mkdir(mode=0o755)
        error = run_pack(pack, place / "theirs/s", host=host, prefix=prefix)
        check_remedy(error, "ConfigError", "Permission denied")
        assert run_pack(pack, place / "s", host=host, prefix=prefix) == GOOD


@pytest.mark.parametrize("part", ["tree", "parts", "."])
def test_a_part_that_we_cannot_write(pack: Pack, part: str) -> None:
    """A store with a folder that we may only read gets nothing landed in it, and says why."""
    prefix = as_nobody(reads_all=True)
    with common_folder() as place:
        assert run_pack(pack, place / "s", prefix=prefix) == GOOD
        store = place / "s" / pack.folder
        (store / "landed").unlink()
        shutil.rmtree(store / "tree/one")
        (store / part).chmod(0o500)
        check_remedy(run_pack(pack, place / "s", prefix=prefix), "ConfigError", "Permission denied")
        (store / part).chmod(0o700)
        assert run_pack(pack, place / "s", prefix=prefix) == GOOD


# -- missing


def test_no_folder_to_be_in(pack: Pack, tmp_path: Path) -> None:
    """A path that does not exist is made; one below a file, or a link to nothing, is an error with the remedy."""
    assert run_pack(pack, tmp_path / "not/there/yet") == GOOD
    assert (tmp_path / "not/there/yet").stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    for path in ("file", "file/below", "dangling", "dangling/below"):
        check_remedy(run_pack(pack, tmp_path / path), "ConfigError")
    assert not (tmp_path / "nothing").exists()


def test_no_common_folder(pack: Pack, tmp_path: Path) -> None:
    """Where the parent of the folder cannot be made either, the error names the variable and what is wrong."""
    with disk(tmp_path / "disk", "size=1m") as place:
        remount(place, "ro")
        check_remedy(run_pack(pack, place / "tmp/lazydeps"), "ConfigError", "Read-only file system")


# -- foreign and linked


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes | None]]:
    """Return every name in a folder with mode, time of change and content."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mode,
            path.lstat().st_mtime_ns,
            path.read_bytes() if path.is_file() else None,
        )
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("which", ["folder", "store", "tree"])
@pytest.mark.parametrize("how", ["owner", "link", "mode"])
def test_a_folder_that_is_not_ours_alone(pack: Pack, filled: Path, tmp_path: Path, which: str, how: str) -> None:
    """The stores' folder, a store or its tree that is another's, a link, or open to others is refused and not read."""
    place = tmp_path / "s"
    shutil.copytree(filled, place)
    path = {"folder": place, "store": place / pack.folder, "tree": place / pack.folder / "tree"}[which]
    if how == "owner":
        as_nobody()  # or skip: giving it away needs root
        os.chown(path, NOBODY, NOBODY)
    elif how == "link":
        path.rename(tmp_path / "outside")
        path.symlink_to(tmp_path / "outside")
    else:
        path.chmod(0o777)
    before = snapshot(tmp_path)
    check_remedy(run_pack(pack, place), "ConfigError", str(path), "this user alone can write to", "Remove it")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("complete", [True, False], ids=["filled", "half"])
@pytest.mark.parametrize("part", ["parts", "landed", "code", "root", "index", "lock", "users"])
def test_a_link_inside_is_not_followed(pack: Pack, filled: Path, tmp_path: Path, part: str, complete: bool) -> None:
    """A part of a store that was replaced by a link: nothing is read or written where it points."""
    place, outside = tmp_path / "s", tmp_path / "outside"
    shutil.copytree(filled, place)
    path = place / pack.folder / part
    outside.mkdir(mode=0o700)
    path.rename(outside / part)
    path.symlink_to(outside / part)
    if not complete:
        shutil.rmtree(place / pack.folder / "tree")
    before = snapshot(outside)
    found = run_pack(pack, place, then="if isinstance(found, list):\n    from one import part")
    if found != GOOD:
        check_remedy(found, "ConfigError", pack.folder, "link")
    elif complete:
        assert part in ("parts", "lock", "index")
    else:
        assert part == "landed"  # with a new tree, the record of what was in the old one goes unread
    assert snapshot(outside) == before
    path.unlink()
    assert run_pack(pack, place, then=COLD) == [*GOOD, "cold one"]


@pytest.mark.parametrize("part", ["parts", "lock"])
def test_a_link_is_not_followed_later(pack: Pack, filled: Path, tmp_path: Path, part: str) -> None:
    """What an import on demand would write through a link it does not, and says so."""
    place = tmp_path / "s"
    shutil.copytree(filled, place)
    path = place / pack.folder / part
    (tmp_path / "outside").mkdir(mode=0o700)
    path.rename(tmp_path / "outside" / part)
    path.symlink_to(tmp_path / "outside" / part)
    before = snapshot(tmp_path / "outside")
    then = "try:\n    from one import cold\nexcept lazydeps.ConfigError as error:\n    found = str(error)"
    found = run_pack(pack, place, then=then)
    assert "LAZYDEPS_DIR" in found
    assert pack.folder in found
    assert snapshot(tmp_path / "outside") == before


def test_a_sticky_folder_for_everybody(pack: Pack) -> None:
    """LAZYDEPS_DIR itself must be ours alone; a folder like `/tmp` is where it can lie, not what it can be."""
    with common_folder() as place:
        error = run_pack(pack, place)
        check_remedy(error, "ConfigError", str(place), "this user alone can write to", "drwxrwxrwt")
        assert list(place.iterdir()) == []
        assert run_pack(pack, place / "s") == GOOD


# -- another user


def attack(words: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a shell script as a user without rights."""
    return subprocess.run(
        [*as_nobody(), "sh", "-c", words, "sh", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


ATTACKS = {
    "list": 'ls "$1"',
    "list the tree": 'ls "$1/$2/tree"',
    "read": 'cat "$1/$2/tree/one/data.bin"',
    "read the code": 'cat "$1/$2/code"',
    "write": 'echo evil >> "$1/$2/tree/one/data.bin"',
    "plant a module": 'echo evil > "$1/$2/tree/one/evil.py"',
    "plant a store": 'mkdir "$1/00000000000000000000000000000000-1"',
    "replace the folder": 'mv "$1" "$1.old" && mkdir "$1"',
    "replace the tree": 'mv "$1/$2/tree" "$1/$2/old"',
    "remove": 'rm -rf "$1"; ! test -d "$1"',
    "open it": 'chmod 777 "$1"',
    "lock": 'flock -n "$1/$2/lock" true',
    "hold": 'flock -ns "$1/$2/users" true',
    "link to a file in it": 'ln "$1/$2/tree/one/data.bin" "${1%/*}/link"',
}


def test_another_user_and_a_live_store(pack: Pack) -> None:
    """Another user can neither list nor read, change, replace, open, lock or link to a store that is in use."""
    with common_folder() as place, holder(pack, place / "s") as process:
        assert attack('touch "$1/theirs" && rm "$1/theirs"', place).returncode == 0  # it can write beside it
        before = snapshot(place)
        for name, words in ATTACKS.items():
            done = attack(words, place / "s", pack.folder)
            assert done.returncode != 0, name
            assert "not found" not in done.stderr, done.stderr
            assert snapshot(place) == before, name
        assert process.communicate("go\n", timeout=30)[0] == "cold one\n"


PLANTED = {
    "folder": 'mkdir -p "$1/$2/tree/one"; echo "WHO = \'evil\'" > "$1/$2/tree/one/__init__.py"; chmod -R 755 "$1"',
    "open folder": 'mkdir -p "$1/$2/tree"; chmod -R 777 "$1"',
    "link to their folder": 'mkdir -p "${1}x/$2/tree"; ln -s "${1}x" "$1"',
    "link to our folder": 'ln -s "${1%/*}/ours" "$1"',
    "dangling link": 'ln -s "${1%/*}/nothing" "$1"',
    "file": 'echo evil > "$1"',
    "fifo": 'mkfifo "$1"',
}


@pytest.mark.parametrize("how", PLANTED)
def test_another_user_was_there_first(pack: Pack, how: str) -> None:
    """Whatever another user made where the stores belong is refused with the reason; nothing in it is run."""
    with common_folder() as place:
        (place / "ours").mkdir(mode=0o700)
        assert attack(PLANTED[how], place / "s", pack.folder).returncode == 0
        before = snapshot(place)
        error = run_pack(pack, place / "s")
        check_remedy(error, "ConfigError", str(place / "s"), "this user alone can write to")
        assert snapshot(place) == before


def test_another_user_cannot_stop_a_store_from_being_removed(pack: Pack) -> None:
    """Nor can it keep a removal from ending, or have it touch what is its own."""
    with common_folder() as place:
        assert run_pack(pack, place / "s") == GOOD
        assert attack('mkdir "$1/theirs" && ln -s theirs "$1/gone-$2-01234567"', place, pack.folder).returncode == 0
        code = (
            "import json, os\nfrom lazydeps._space import collect\n"
            "print(json.dumps(collect(os.environ['LAZYDEPS_DIR'])))"
        )
        assert start(code, place / "s") == [[pack.folder], []]
        assert start(code, place) == [[], []]
        assert (place / "theirs").is_dir()


# -- the folder goes away


def test_the_store_vanishes_while_it_is_filled(pack: Pack, tmp_path: Path) -> None:
    """Somebody removes the whole folder under a worker: an error or the right modules, and no hang."""
    place = tmp_path / "s"

    def remove(request: Request) -> Answer:
        if request.number == 1:
            shutil.rmtree(place)
        return ranged(request, pack.content)

    with ScriptedServer(remove) as server:
        found = run_pack(pack, place, ref=pack.at(server.url), connections=1)
    if found != GOOD:
        assert found["type"] in ("ConfigError", "LazydepsError"), found
        assert "LAZYDEPS_DIR" in found["message"]
    assert run_pack(pack, place) == GOOD


def test_interrupted_on_a_full_disk(pack: Pack, tmp_path: Path) -> None:
    """Killed when the disk is full, a start leaves nothing that the next one stumbles over."""
    with disk(tmp_path / "disk", "size=8m") as place:
        with ScriptedServer(fills(place, pack, at=1)) as server:
            code = f"import lazydeps\nwith lazydeps.load({pack.at(server.url)!r}):\n    import one"
            process = subprocess.Popen(
                [sys.executable, "-c", code], env=environ_of(place / "s", 1), stderr=subprocess.DEVNULL
            )
            while len(server.requests) < 2 and process.poll() is None:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=30)
        pack.check(place / "s")
        (place / "filler").unlink()
        assert run_pack(pack, place / "s") == GOOD
