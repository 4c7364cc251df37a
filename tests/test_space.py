"""Room on the disk: who holds a store, and which of the others are removed when space is short."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from support_disk import HOSTS, THREADS, Pack, disk, environ_of, fill, holder, run_pack, start
from support_http import Answer, Request, ScriptedServer, ranged
from support_packs import write_tree

from lazydeps import ConfigError, InsufficientSpaceError, _space
from lazydeps._space import remove
from lazydeps._store import LAYOUT, Store

if TYPE_CHECKING:
    from lazydeps._pack import Root

SIZE = 900_000


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> list[Pack]:
    """Three packs of about 2.5 MB: ``one``, ``two`` and ``three``."""
    folder = tmp_path_factory.mktemp("packs")
    return [Pack(folder, name) for name in ("one", "two", "three")]


def names(directory: Path) -> set[str]:
    """Return what lies in the folder of stores."""
    return {path.name for path in directory.iterdir()}


def make_store(directory: Path, name: str, *, age: float = 0.0, files: int = 3, size: int = 1000) -> Path:
    """Make a store of nobody's, which was last used so many seconds ago."""
    store = directory / name
    write_tree(store, {f"tree/deep/er/{number}.bin": bytes(size) for number in range(files)})
    for path in (store / "lock", store / "users"):
        path.touch(0o600)
    for path in (store / "users", store):
        os.utime(path, (time.time() - age,) * 2)
    directory.chmod(0o700)
    return store


def digest(number: int) -> str:
    """Return 32 hex digits."""
    return f"{number:032x}"


def test_the_oldest_makes_room(packs: list[Pack], tmp_path: Path) -> None:
    """A start that does not fit removes the store that was not used for longest, and only as many as it needs."""
    one, two, three = packs
    with disk(tmp_path / "disk", "size=6m") as place:
        for pack in (one, two, one):  # by use, not by making
            assert run_pack(pack, place / "s") == [pack.name, SIZE]
        assert run_pack(three, place / "s") == ["three", SIZE]
        assert names(place / "s") == {one.folder, three.folder}
        assert one.check(place / "s") > 40
        assert run_pack(one, place / "s", then="found.append(lazydeps.report().packs[0].requests)") == ["one", SIZE, 0]


def test_what_is_held_stays(packs: list[Pack], tmp_path: Path) -> None:
    """A store of a running process is never removed: it works on, and who finds no room is told of it."""
    one, two, _ = packs
    with disk(tmp_path / "disk", "size=4m") as place:
        with holder(one, place / "s") as process:
            error = run_pack(two, place / "s")
            assert error["type"] == "InsufficientSpaceError"
            assert f"Another store there is held by running processes ({one.folder})" in error["message"]
            assert "ephemeral_storage" in error["message"]
            assert error["needed"] > error["available"] > 0
            assert process.communicate("go\n", timeout=30)[0] == "cold one\n"
        assert run_pack(two, place / "s") == ["two", SIZE]
        assert one.folder not in names(place / "s")


def held(directory: Path) -> list[str]:
    """Return which stores cannot be removed because somebody uses them, removing the others."""
    return _space.collect(str(directory))[1]


def test_forked_processes_hold(packs: list[Pack], tmp_path: Path) -> None:
    """A child that was forked from a process with a pack keeps its store, also when the parent is dead."""
    then = "pid = os.fork()\nif pid: print(pid, flush=True)"
    with holder(packs[0], tmp_path / "s", then=then) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            process.kill()
            process.wait(timeout=30)
            assert held(tmp_path / "s") == [packs[0].folder]
        finally:
            os.kill(child, signal.SIGKILL)
    for _ in range(200):
        if not held(tmp_path / "s"):
            break
        time.sleep(0.05)
    assert names(tmp_path / "s") == set()


def test_started_programs_do_not_hold(packs: list[Pack], tmp_path: Path) -> None:
    """A program that a process starts inherits nothing: it does not keep the store when the process has ended."""
    then = "import subprocess\nprint(subprocess.Popen(['sleep', '60'], close_fds=False).pid, flush=True)"
    with holder(packs[0], tmp_path / "s", then=then) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            process.kill()
            process.wait(timeout=30)
            assert held(tmp_path / "s") == []
        finally:
            os.kill(child, signal.SIGKILL)


def test_uninstall_lets_go(packs: list[Pack], tmp_path: Path) -> None:
    """`uninstall` gives the store up, and closes nothing that is not its own."""
    code = f"""
import json, os, lazydeps
from lazydeps import _space
place = os.environ["LAZYDEPS_DIR"]
with lazydeps.load({packs[0].ref!r}):
    import one
before = _space.collect(place)
session = next(iter(__import__("lazydeps._runtime")._runtime._sessions.values()))
handle = session.store._users
lazydeps.uninstall()
after = _space.collect(place)
with lazydeps.load({packs[0].ref!r}):
    pass
handle = next(iter(lazydeps._runtime._sessions.values())).store._users
os.close(handle)
reader, writer = os.pipe()
os.dup2(writer, handle)
lazydeps.uninstall()
print(json.dumps([before, after, os.write(handle, b"still open")]))
"""
    name = packs[0].folder
    assert start(code, tmp_path / "s") == [[[], [name]], [[name], []], 10]


def test_a_refused_pack_is_not_held(packs: list[Pack], tmp_path: Path) -> None:
    """A pack that is refused by what its store says of it is not held by the process that was refused."""
    code = f"""
import json, os, lazydeps
from lazydeps import _session, _space
with lazydeps.load({packs[0].ref!r}):
    import one
lazydeps.uninstall()
def refuse(root):
    raise lazydeps.PackMismatchError("for another Python")
_session.check_host = refuse
try:
    lazydeps.load({packs[0].ref!r})
except lazydeps.PackMismatchError:
    print(json.dumps(_space.collect(os.environ["LAZYDEPS_DIR"])[1]))
"""
    assert start(code, tmp_path / "s") == []


def test_only_stores_are_removed(tmp_path: Path) -> None:
    """What bears another name, is a file or a link, or belongs to a later version or another user, is left alone."""
    place, outside = tmp_path / "s", tmp_path / "outside"
    write_tree(outside, {"tree/precious.bin": b"1"})
    make_store(place, f"{digest(1)}-1")
    make_store(place, digest(2))
    archive = make_store(place, f"{digest(12)}-1-cpython-313-x86_64-linux-gnu").name
    alien = [
        "notes", digest(3)[1:], digest(0xABC).upper(), f"{digest(4)}-{LAYOUT + 1}", f"{digest(5)}-01",
        f"{digest(6)}-", f"{digest(7)}-1x", f"gone-{digest(8)}-1", "gone-notes-01234567",
        f"{digest(13)}-{LAYOUT + 1}-cpython-313-darwin", f"{digest(14)}-cpython-313-darwin", f"{digest(15)}-1-",
        f"{digest(16)}-1-a b",
    ]  # fmt: skip
    for name in alien:
        make_store(place, name)
    (place / digest(9)).write_text("a file")
    (place / f"{digest(10)}-1").symlink_to(outside)
    alien += [digest(9), f"{digest(10)}-1"]
    if os.geteuid() == 0:
        os.chown(make_store(place, f"{digest(11)}-1"), 65534, 65534)
        alien.append(f"{digest(11)}-1")
    removed, in_use = _space.collect(str(place))
    assert (set(removed), in_use) == ({f"{digest(1)}-1", digest(2), archive}, [])
    assert names(place) == set(alien)
    assert (outside / "tree/precious.bin").read_bytes() == b"1"


def test_no_link_is_followed(tmp_path: Path) -> None:
    """Links inside a store are removed, and never what they point to."""
    outside = tmp_path / "outside"
    write_tree(outside, {"folder/a.bin": b"1", "b.bin": b"2"})
    store = make_store(tmp_path / "s", f"{digest(1)}-1")
    (store / "tree/folder").symlink_to(outside / "folder")
    (store / "tree/deep/file").symlink_to(outside / "b.bin")
    (store / "tree/dangling").symlink_to(outside / "none")
    assert _space.collect(str(tmp_path / "s")) == ([store.name], [])
    assert names(tmp_path / "s") == set()
    assert sorted(path.name for path in outside.rglob("*.bin")) == ["a.bin", "b.bin"]


@pytest.mark.parametrize("name", ["lock", "users"])
def test_a_lock_that_is_a_link_is_not_made(tmp_path: Path, name: str) -> None:
    """A store whose lock is a link is left alone, and nothing is made where the link points."""
    store = make_store(tmp_path / "s", f"{digest(1)}-1")
    (store / name).unlink()
    (store / name).symlink_to(tmp_path / "planted")
    assert _space.collect(str(tmp_path / "s")) == ([], [])
    assert names(tmp_path / "s") == {store.name}
    assert not (tmp_path / "planted").exists()


def test_what_a_killed_removal_left_goes_first(tmp_path: Path) -> None:
    """Where it is enough, no store has to go."""
    place = tmp_path / "s"
    make_store(place, f"{digest(1)}-1", age=1e6)
    make_store(place, f"gone-{digest(2)}-1-0a1b2c3d")
    make_store(place, f"gone-{digest(2)}-0a1b2c3d")
    removed, _ = _space.collect(str(place), most=1)
    assert names(place) == {f"{digest(1)}-1"}
    assert len(removed) == 2


def test_the_folder_tells_the_age_of_an_older_store(tmp_path: Path) -> None:
    """A store without a `users` file was used when its folder was last changed."""
    place = tmp_path / "s"
    make_store(place, f"{digest(1)}-1", age=500)
    (make_store(place, digest(2), age=900) / "users").unlink()
    os.utime(place / digest(2), (time.time() - 900,) * 2)
    make_store(place, f"{digest(3)}-1", age=700)
    assert [name for _, name in _space.stores(str(place))] == [digest(2), f"{digest(3)}-1", f"{digest(1)}-1"]


def test_an_older_layout_is_not_read_and_makes_room(packs: list[Pack], tmp_path: Path) -> None:
    """What an older version left under a plain name is passed over, and removed when space is short."""
    one = packs[0]
    with disk(tmp_path / "disk", "size=4m") as place:
        (place / "s").mkdir(mode=0o700)
        old = make_store(place / "s", one.folder.partition("-")[0], size=600_000)
        (old / "root").write_text("another layout")
        (old / "tree/one").mkdir()
        (old / "tree/one/__init__.py").write_text("WHO = 'old'\n")
        assert run_pack(one, place / "s") == ["one", SIZE]
        assert names(place / "s") == {one.folder}


def test_room_for_an_empty_store(packs: list[Pack], tmp_path: Path) -> None:
    """A disk without one inode left still takes a start, if there is a store to remove."""
    with disk(tmp_path / "disk", "size=9m", "nr_inodes=150") as place:
        assert run_pack(packs[0], place / "s") == ["one", SIZE]
        for number in range(150):
            try:
                (place / f"filler{number}").touch()
            except OSError:
                break
        assert os.statvfs(place).f_favail == 0
        assert run_pack(packs[1], place / "s") == ["two", SIZE]
        assert names(place / "s") == {packs[1].folder}


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT])
def test_one_more_try_for_each_store_that_was_removed(tmp_path: Path, reason: int) -> None:
    """A write that finds no room, whatever the free bytes say, is tried again until there is no store to remove."""
    place = tmp_path / "s"
    for number in range(3):
        make_store(place, f"{digest(number)}-1", age=100 - number)
    store = Store(str(place), bytes(31) + b"\x07")
    seen: list[set[str]] = []

    def step() -> str:
        seen.append(names(place))
        raise OSError(reason, os.strerror(reason))

    with pytest.raises(InsufficientSpaceError, match=r"the disk is full: .*LAZYDEPS_DIR"):
        store.with_room(step)
    assert [len(found) for found in seen] == [3, 2, 1]  # its own name is the first of the three
    assert names(place) == {f"{digest(0)}-1"}


def test_an_error_of_another_kind_removes_nothing(tmp_path: Path) -> None:
    """Only a full disk is a reason to remove a store."""
    place = tmp_path / "s"
    make_store(place, f"{digest(1)}-1")

    def step() -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(Exception, match=r"cannot be used: Input/output error"):
        Store(str(place), bytes(32)).with_room(step)
    assert names(place) == {f"{digest(1)}-1"}


def take(store: Path) -> list[int]:
    """Take both locks of a store as a removal does, and return the files."""
    handles = [os.open(store / name, os.O_RDWR | os.O_CREAT, 0o600) for name in ("lock", "users")]
    for handle in handles:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return handles


def test_who_waited_for_a_store_that_went_begins_anew(packs: list[Pack], tmp_path: Path) -> None:
    """A worker that gets the lock of a removed store lands nothing where another process has made it again."""
    place, one = tmp_path / "s", packs[0]
    store = place / one.folder
    store.mkdir(parents=True, mode=0o700)
    place.chmod(0o700)
    old = take(store)
    code = f"import lazydeps\nwith lazydeps.load({one.ref!r}):\n    import one\nprint(one.WHO)"
    process = subprocess.Popen(
        [sys.executable, "-c", THREADS + code], env=environ_of(place), stdout=subprocess.PIPE, text=True
    )
    try:
        while str(store / "lock") not in _opened(process.pid):
            assert process.poll() is None
            time.sleep(0.005)
        store.rename(place / f"gone-{one.folder}-01234567")
        store.mkdir(mode=0o700)
        new = take(store)
        for handle in old:
            os.close(handle)
        while f"{place}/gone-{one.folder}-01234567/lock" in _opened(process.pid):
            assert process.poll() is None
            time.sleep(0.005)
        assert names(store) == {"lock", "users"}
        for handle in new:
            os.close(handle)
        assert process.communicate(timeout=60)[0] == "one\n"
    finally:
        process.kill()
        process.wait()
    assert one.check(place) > 40


def _opened(pid: int) -> set[str]:
    """Return the paths of the files that a process has open."""
    found = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            found.add(os.readlink(path))
    return found


def test_what_is_held_is_what_the_path_names(packs: list[Pack], tmp_path: Path) -> None:
    """A store that is removed and made again while a session takes hold of it: the session holds the new one."""
    code = f"""
import fcntl, json, os, shutil, lazydeps
with lazydeps.load({packs[0].ref!r}):
    import one
path = lazydeps.report().packs[0].store
lazydeps.uninstall()
flock = fcntl.flock
def slow(handle, how):
    if how & fcntl.LOCK_SH and not os.path.exists(path + "-old"):
        os.rename(path, path + "-old")
        shutil.copytree(path + "-old", path)
    flock(handle, how)
fcntl.flock = slow
with lazydeps.load({packs[0].ref!r}) as loading:
    pass
held = os.fstat(loading._sessions[0].store._users).st_ino
print(json.dumps([held == os.stat(path + end + "/users").st_ino for end in ("", "-old")]))
"""
    assert start(code, tmp_path / "s") == [True, False]


def test_two_removals_of_one_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A removal that was overtaken does not touch the store that somebody has made under the same name since."""
    store = make_store(tmp_path / "s", f"{digest(1)}-1")
    flock = fcntl.flock
    new: list[int] = []

    def slow(handle: int, how: int) -> None:
        if not new and how & fcntl.LOCK_EX and os.readlink(f"/proc/self/fd/{handle}").endswith("/users"):
            store.rename(tmp_path / "overtaken")
            make_store(tmp_path / "s", store.name)
            new.append(os.open(store / "users", os.O_RDONLY))
            flock(new[0], fcntl.LOCK_SH)
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    with pytest.raises(FileNotFoundError, match="removed by somebody else"):
        _space.remove(str(tmp_path / "s"), store.name)
    os.close(new[0])
    assert len(list(store.rglob("*.bin"))) == 3


def test_a_store_that_goes_while_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removed between two steps of its making, a store is made again; a folder that always vanishes is an error."""
    mkdir = os.mkdir
    vanish = 2

    def fleeting(path: str, mode: int = 0o777) -> None:
        nonlocal vanish
        mkdir(path, mode)
        if path.endswith(f"-{LAYOUT}") and vanish:
            vanish -= 1
            os.rmdir(path)

    monkeypatch.setattr(os, "mkdir", fleeting)
    store = Store(str(tmp_path / "s"), bytes(32))
    store.prepare()
    assert Path(store.path).is_dir()
    vanish = 100
    with pytest.raises(ConfigError, match="LAZYDEPS_DIR"):
        Store(str(tmp_path / "s"), b"1" * 32).prepare()


LOOP = """
import json, os, sys, time, lazydeps
end = time.monotonic() + float(sys.argv[1])
count = 0
while time.monotonic() < end:
    with lazydeps.load({ref!r}):
        import {name}
        from {name} import part
    assert len(part.TEXT) == 400_000 and {name}.WHO == {name!r}
    from {name} import cold
    assert cold.WHO == "cold {name}"
    if count % 2:
        lazydeps.uninstall()
    else:
        lazydeps.wait()
        lazydeps.uninstall()
    for name in [name for name in sys.modules if name.partition(".")[0] == {name!r}]:
        del sys.modules[name]
    count += 1
print(count)
"""
COLLECT = """
import os, sys, time
from lazydeps import _space
end = time.monotonic() + float(sys.argv[1])
count = 0
while time.monotonic() < end:
    count += len(_space.collect(os.environ["LAZYDEPS_DIR"])[0])
print(count)
"""


def test_starts_while_others_collect(packs: list[Pack], tmp_path: Path) -> None:
    """Starts of the very stores that two processes keep removing: each succeeds with the right modules."""
    codes = [LOOP.format(ref=pack.ref, name=pack.name) for pack in (packs[0], packs[0], packs[1])] + [COLLECT] * 2
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, "3"],
            env=environ_of(tmp_path / "s"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for code in codes
    ]
    outputs = [process.communicate(timeout=90) for process in processes]
    assert [process.returncode for process in processes] == [0] * 5, [error for _, error in outputs]
    counts = [int(output) for output, _ in outputs]
    assert min(counts) > 0
    assert sum(counts[3:]) > 3
    assert run_pack(packs[0], tmp_path / "s") == ["one", SIZE]


def test_killed_while_it_collects(packs: list[Pack], tmp_path: Path) -> None:
    """Killed anywhere, a removal leaves no half of a store under its name, and the next one cleans up behind it."""
    place = tmp_path / "s"
    moments = random.Random(3)
    begun = 0
    for number in range(5):
        store = make_store(place, f"{digest(number)}-1", files=1000, size=1)
        process = subprocess.Popen([sys.executable, "-c", COLLECT, "30"], env=environ_of(place))
        while process.poll() is None and store.exists() and moments.random() > 0.02:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.01))
        process.kill()
        process.wait(timeout=30)
        if store.exists():
            assert len(list(store.rglob("*.bin"))) == 1000
        begun += not store.exists()
    assert begun
    assert run_pack(packs[0], place) == ["one", SIZE]
    _space.collect(str(place), keep=(packs[0].folder,))
    assert names(place) == {packs[0].folder}


@pytest.mark.parametrize("host", HOSTS)
def test_a_full_disk_in_the_middle_makes_room(packs: list[Pack], tmp_path: Path, host: str) -> None:
    """If somebody takes the space after the check, a store that nobody uses gives way and nothing fails."""
    one, two, _ = packs
    with disk(tmp_path / "disk", "size=8m") as place:
        assert run_pack(one, place / "s") == ["one", SIZE]

        def script(request: Request) -> Answer:
            if "if-match" in request.headers and not (place / "filler").exists():
                fill(place)
            return ranged(request, two.content)

        with ScriptedServer(script) as server:
            then = "p = lazydeps.report().packs[0]; found += [p.retries, p.host]"
            found: Any = run_pack(two, place / "s", ref=two.at(server.url), host=host, then=then, connections=1)
        assert found == ["two", SIZE, 0, host]
        assert (place / "filler").stat().st_size > 2_000_000
        assert two.check(place / "s") > 40
        assert names(place / "s") == {two.folder}


def test_the_report_names_the_folder(packs: list[Pack], tmp_path: Path) -> None:
    """A store's folder is named by the root and the version of its layout."""
    then = "found = lazydeps.report().packs[0].store"
    assert run_pack(packs[0], tmp_path / "s", then=then) == str(tmp_path / "s" / packs[0].folder)
    assert packs[0].folder.endswith(f"-{LAYOUT}")
    assert json.dumps(sorted(names(tmp_path / "s"))) == json.dumps([packs[0].folder])


def test_what_is_opened_again_is_held(tmp_path: Path) -> None:
    """A store that was removed under a process and made anew by another one is held by both, not only by the other."""
    one, two = (Store(str(tmp_path), bytes(32)) for _ in range(2))
    for store in (one, two):
        store.prepare()
        assert store.try_lock()
        store.unlock()
        assert store.hold()
        if store is one:
            shutil.rmtree(store.path)
    one.reopen(cast("Root", SimpleNamespace(boot=SimpleNamespace(bases=[0]), frames=1)))
    two.release()
    with pytest.raises(BlockingIOError):
        remove(str(tmp_path), one.name)
    one.release()
    assert remove(str(tmp_path), one.name)
