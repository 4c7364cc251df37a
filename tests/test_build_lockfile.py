"""`lazydeps.lock` as the commands write it: pinning, going back, and a file that is whole and always the same."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import stat
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from lazydeps import _lockfile
from lazydeps.build.lockfile import KEPT, Entry, Lock, changing, pin, read, roll_back, target_key, write
from lazydeps.errors import ConfigError

ARM = target_key("3.13", "arm64")


def entry(number: int, **changes: object) -> Entry:
    """Return the entry of a pack that does not exist."""
    facts = Entry(
        ref=f"s3://b/packs/{number:064x}.tar.zst#root=sha256:{number:064x}",
        size=number,
        boot_size=1,
        unpacked_size=2,
        distributions={"numpy": "2.1.0", "idna": f"3.{number}"},
        published=f"2026-11-21T18:{number:02}:00Z",
    )
    return dataclasses.replace(facts, **changes)  # type: ignore[arg-type]


def pinned(*numbers: int) -> Lock:
    """Return a lock in which `science` has been pinned to these, one after the other."""
    lock = Lock()
    for number in numbers:
        lock = pin(lock, "science", ARM, entry(number))
    return lock


def sizes(lock: Lock, target: str = ARM) -> list[int]:
    """Return what is pinned, and what was, as numbers."""
    now = lock.entry("science", target)
    assert not any(one.previous for one in now.previous)
    return [now.size, *(one.size for one in now.previous)]


def test_the_file(tmp_path: Path) -> None:
    """The format that handlers, Terraform and people read: JSON, sorted, one space of indent, a newline at the end."""
    path = tmp_path / "lazydeps.lock"
    write(path, pin(pinned(1, 2), "base", "python3.13-any", entry(3)))
    text = path.read_text()
    document = json.loads(text)
    assert text == json.dumps(document, indent=1, sort_keys=True) + "\n"
    assert document["lazydeps_lock"] == 1
    assert list(document["packs"]) == ["base", "science"]
    science = document["packs"]["science"]["python3.13-arm64"]
    assert science["ref"] == entry(2).ref
    assert set(science) == {
        "ref", "size", "boot_size", "unpacked_size", "distributions", "published", "previous",
    }  # fmt: skip
    assert [set(one) for one in science["previous"]] == [set(science) - {"previous"}]
    assert science["previous"][0]["distributions"] == {"numpy": "2.1.0", "idna": "3.1"}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Reading gives the lock that was written, and writing that gives the same bytes; the runtime reads it too."""
    lock, path = pin(pinned(*range(14)), "other", "any", entry(20)), tmp_path / "lazydeps.lock"
    write(path, lock)
    first = path.read_bytes()
    assert read(path) == lock
    write(path, read(path))
    assert path.read_bytes() == first
    assert _lockfile.read(str(path))["science"][ARM]["ref"] == entry(13).ref


def test_pinning() -> None:
    """The one before is kept, ten at most, the newest first; the same pack again is no change."""
    lock = pinned(*range(15))
    assert sizes(lock) == [14, *range(13, 13 - KEPT, -1)]
    assert pin(lock, "science", ARM, entry(14, published="later")) is lock
    other = pin(lock, "science", target_key("3.13", "x86_64"), entry(1))
    assert sizes(other) == sizes(lock)
    assert sizes(other, "python3.13-x86_64") == [1]
    with pytest.raises(ConfigError, match="'a b' is no name for a pack: expected ASCII letters, digits, dots, - and _"):
        pin(lock, "a b", ARM, entry(1))


def test_going_back() -> None:
    """Each time one more, never back and forth, until nothing is known; then it says so."""
    lock = pinned(1, 2, 3)
    lock = roll_back(lock, "science", ARM)
    assert sizes(lock) == [2, 1]
    lock = roll_back(lock, "science", ARM)
    assert sizes(lock) == [1]
    with pytest.raises(
        ConfigError, match=rf"science for {ARM} has nothing to go back to: the lock knows only 000000000000 \(2026"
    ):
        roll_back(lock, "science", ARM)


def test_going_back_to_a_given_one() -> None:
    """By the first digits of its root, if they are those of one pack; with or without the algorithm's name."""
    roots = ["aa" + "0" * 62, "ab" + "0" * 62, "cd" + "0" * 62]
    lock = Lock()
    for size, root in enumerate([*roots, "ff" * 32]):
        lock = pin(lock, "science", ARM, entry(size, ref=f"s3://b/{root}.tar.zst#root=sha256:{root}"))
    assert sizes(roll_back(lock, "science", ARM, to="AB")) == [1, 0]
    assert sizes(roll_back(lock, "science", ARM, to="sha256:aa0")) == [0]
    with pytest.raises(ConfigError, match=r"never pinned to a pack that begins with '12'. The lock knows cd0000000000"):
        roll_back(lock, "science", ARM, to="12")
    with pytest.raises(ConfigError, match="'a' may be 2 packs of science"):
        roll_back(lock, "science", ARM, to="a")
    with pytest.raises(ConfigError, match="never pinned to a pack that begins with ''"):
        roll_back(lock, "science", ARM, to="")


def test_pushing_after_going_back() -> None:
    """What was rolled back from does not come back by itself; what comes next stands before what is pinned."""
    lock = roll_back(pinned(1, 2, 3), "science", ARM)
    assert sizes(pin(lock, "science", ARM, entry(4))) == [4, 2, 1]
    assert sizes(pin(lock, "science", ARM, entry(3))) == [3, 2, 1]
    # An older one, pushed again, is listed once.
    assert sizes(pin(lock, "science", ARM, entry(1))) == [1, 2]


def test_what_a_lock_names() -> None:
    """Names and targets that are not there are errors with those that are; `refs` has the present and the past."""
    lock = pin(pinned(1, 2), "base", "any", entry(5))
    assert lock.refs() == {entry(1).ref, entry(2).ref, entry(5).ref}
    with pytest.raises(ConfigError, match="no pack named 'x': it has base, science"):
        lock.entry("x", ARM)
    with pytest.raises(ConfigError, match=f"has 'science' for {ARM}, and not for any"):
        lock.entry("science", "any")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """It is an empty lock for who is about to write one, and an error for the others."""
    assert read(tmp_path / "lazydeps.lock", missing=True) == Lock()
    with pytest.raises(ConfigError, match=r"lazydeps\.lock cannot be read: No such file"):
        read(tmp_path / "lazydeps.lock")
    (tmp_path / "lazydeps.lock").symlink_to("nowhere")
    with pytest.raises(ConfigError, match="No such file"):
        read(tmp_path / "lazydeps.lock", missing=True)


@pytest.mark.parametrize("key", ["ref", "size", "boot_size", "unpacked_size", "distributions", "published", "previous"])
def test_a_damaged_entry(tmp_path: Path, key: str) -> None:
    """A value of another type is named with its place; nothing is guessed."""
    path = tmp_path / "lazydeps.lock"
    write(path, pinned(1, 2))
    document = json.loads(path.read_text())
    document["packs"]["science"][ARM][key] = True
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=f"the lock is damaged: {key} of science.{ARM} of {path}"):
        read(path)
    document = json.loads(json.dumps(document))
    write(path, pinned(1, 2))
    document = json.loads(path.read_text())
    if key != "previous":
        del document["packs"]["science"][ARM]["previous"][0][key]
        path.write_text(json.dumps(document))
        with pytest.raises(ConfigError, match=f"{key} of a previous pack of science"):
            read(path)


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure leaves the old file as it was and nothing beside it; the mode stays, and a link stays a link."""
    path = tmp_path / "lazydeps.lock"
    before = os.umask(0o027)
    try:
        write(path, pinned(1))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    content = path.read_bytes()
    with pytest.raises(ConfigError, match=r"would have .* bytes and a start reads at most 4,194,304.*--lock FILE"):
        write(path, pin(Lock(), "big", ARM, entry(1, distributions={"x" * 100 + str(n): "1" for n in range(50_000)})))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(ConfigError, match=r"cannot be written: No space left on device .*with --lock FILE"):
            write(path, pinned(2))
    assert path.read_bytes() == content
    path.chmod(0o604)
    (tmp_path / "link").symlink_to("lazydeps.lock")
    write(tmp_path / "link", pinned(3))
    assert (tmp_path / "link").is_symlink()
    assert (read(path), stat.S_IMODE(path.stat().st_mode)) == (pinned(3), 0o604)
    assert sorted(os.listdir(tmp_path)) == ["lazydeps.lock", "link"]


def test_what_others_have_written_stays(tmp_path: Path) -> None:
    """Fields that this version does not know outlive a push and a rollback, at the top, of a pack and of its past."""
    path = tmp_path / "lazydeps.lock"
    write(path, pinned(1, 2))
    document = json.loads(path.read_text())
    now = document["packs"]["science"][ARM]
    document["note"], now["signature"], now["previous"][0]["signature"] = {"by": "ci"}, "two", "one"
    path.write_text(json.dumps(document))
    write(path, pin(read(path), "science", ARM, entry(3)))
    after = json.loads(path.read_text())
    assert after["note"] == {"by": "ci"}
    assert [one.get("signature") for one in after["packs"]["science"][ARM]["previous"]] == ["two", "one"]
    write(path, roll_back(read(path), "science", ARM))
    assert json.loads(path.read_text()) == document


def test_the_same_pack_in_two_places() -> None:
    """A root that was pinned in two buckets is one pack: its digits are enough to go back to the later one."""
    lock = pinned(1)
    moved = entry(1).ref.replace("s3://b/", "s3://elsewhere/")
    for one in (entry(1, ref=moved), entry(2)):
        lock = pin(lock, "science", ARM, one)
    assert roll_back(lock, "science", ARM, to=f"{1:064x}").entry("science", ARM).ref == moved


def test_several_files_are_kept_from_changing_at_once(tmp_path: Path) -> None:
    """Two files of one folder do not wait for each other, and a folder that is not there is said to be so."""
    with changing(tmp_path / "a.lock", tmp_path / "b.lock"):
        pass
    with (
        pytest.raises(ConfigError, match=r"cannot be written: No such file.*Make that folder"),
        changing(tmp_path / "no/a"),
    ):
        pass


def _pin_many(path: Path, name: str, together: Barrier) -> None:
    together.wait(60)
    for number in range(50):
        with changing(path):
            write(path, pin(read(path, missing=True), name, ARM, entry(number)))


def test_two_at_once(tmp_path: Path) -> None:
    """Processes that pin in one file wait for each other: nothing is lost."""
    path = tmp_path / "lazydeps.lock"
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(2)
    both = [context.Process(target=_pin_many, args=(path, name, together)) for name in ("a", "b")]
    for one in both:
        one.start()
    for one in both:
        one.join(60)
    assert [one.exitcode for one in both] == [0, 0]
    lock = read(path)
    assert [lock.entry(name, ARM).size for name in "ab"] == [49, 49]
    assert [len(lock.entry(name, ARM).previous) for name in "ab"] == [KEPT, KEPT]
