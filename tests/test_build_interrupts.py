"""Ctrl-C, SIGTERM and SIGHUP while a pack is built: whatever it is doing, nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support_command import COMMAND, command_environ, lazydeps_json

from lazydeps.build import interrupts, processes
from lazydeps.build.bytecode import compile_tree
from lazydeps.build.interpreters import require_interpreter
from lazydeps.build.interrupts import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PHASES = ("install", "compile", "trace", "write")
SLOW_BACKEND = """
import pathlib, subprocess, sys, time
def build_wheel(*arguments, **options):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "compiler of " + {mark!r}])
    pathlib.Path({begun!r}).touch()
    time.sleep(600)
get_requires_for_build_wheel = lambda *arguments, **options: []
"""


class Place:
    """The folders of one build, and how to look into them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out, self.temporary, self.cache, self.site = (
            folder / name for name in ("out", "temporary", "cache", "site")
        )
        for made in (self.out, self.temporary, self.site):
            made.mkdir(parents=True)
        (self.site / "one.py").write_text("")
        self.begun = folder / "begun"

    def words(self, phase: str) -> tuple[list[str], Callable[[], object]]:
        """Return a command line that stays in a phase, and what says that it is there."""
        words = ["pack", "-o", str(self.out / "p.tar.zst"), "--cache-dir", str(self.cache), "-j", "2"]
        if phase == "install":
            project = self.folder / "project"
            project.mkdir()
            (project / "pyproject.toml").write_text(
                '[build-system]\nrequires = []\nbuild-backend = "slow"\nbackend-path = ["."]\n'
                '[project]\nname = "slow"\nversion = "1"\n'
            )
            (project / "slow.py").write_text(SLOW_BACKEND.format(mark=str(self.folder), begun=str(self.begun)))
            return [*words, str(project)], self.begun.exists
        words += ["--from-dir", str(self.site)]
        if phase == "compile":
            # One folder compiles at once and one does not: an entry is in the cache, and the other never comes.
            (self.site / "a").mkdir()
            (self.site / "a" / "quick.py").write_text("x = 1\n")
            (self.site / "b").mkdir()
            (self.site / "b" / "slow.py").write_text("x = [\n" + "(1, [2, 'a'], {3: 4.5}),\n" * 200_000 + "]\n")
            return words, lambda: any(self.cache.rglob("bytecode/*/*"))
        if phase == "trace":
            code = f"import time; open({str(self.begun)!r}, 'w'); time.sleep(600)"
            return [*words, "--trace", code], self.begun.exists
        (self.site / "big.bin").write_bytes(os.urandom(1 << 20) * 96)
        return [*words, "--level", "22"], lambda: any(self.cache.rglob("frames/*/*"))

    def processes(self) -> list[str]:
        """Return the command lines of what still runs for this build."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                where = os.readlink(entry / "cwd")
            except OSError:
                continue
            if int(entry.name) != os.getpid() and (str(self.folder) in line or where.startswith(str(self.folder))):
                found.append(line)
        return found

    def check(self) -> None:
        """Nothing but whole entries of the cache may be left."""
        assert [path.name for path in self.out.iterdir()] == []
        assert [path.name for path in self.temporary.iterdir()] == []
        assert list(self.cache.rglob("half/*")) == []
        assert self.processes() == []


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "place")
    yield place
    for line in Path("/proc").glob("[0-9]*/cmdline"):  # only what a failing test has left
        try:
            if str(place.folder).encode() in line.read_bytes() and int(line.parent.name) != os.getpid():
                os.kill(int(line.parent.name), signal.SIGKILL)
        except OSError:
            continue


def begin(place: Place, words: list[str]) -> subprocess.Popen[str]:
    """Start a command as a shell does: in a process group of its own."""
    environ = {"TMPDIR": str(place.temporary), "UV_CACHE_DIR": str(place.folder / "uv"), "COLUMNS": "100"}
    return subprocess.Popen(
        [*COMMAND, *words],
        env=command_environ(environ),
        cwd=place.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait until something is so; fail when the process ends first, or after a minute."""
    give_up = time.monotonic() + 60
    while not condition():
        if process.poll() is not None or time.monotonic() > give_up:
            pytest.fail(f"it did not come so far: {process.poll()}\n{process.communicate()}")
        time.sleep(0.005)


@pytest.mark.parametrize("whom", ["group", "process"])
@pytest.mark.parametrize("phase", PHASES)
def test_ctrl_c(place: Place, phase: str, whom: str) -> None:
    """In each phase, to the group as a terminal sends it and to the process alone: exit code 130 and nothing left.

    No pack or half of one, no scratch folder, no half entry of the cache; uv's build backend and what that has
    started, compilers and the recorder are gone.
    """
    words, there = place.words(phase)
    process = begin(place, words)
    wait_until(there, process)
    assert place.processes()
    if whom == "group":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "lazydeps: Interrupted: " in said
    assert "Traceback" not in said + out
    place.check()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_ended_from_outside(place: Place, number: signal.Signals, code: int) -> None:
    """A CI job's timeout and a closed terminal clean up as Ctrl-C does; the exit code tells which it was."""
    words, there = place.words("trace")
    process = begin(place, words)
    wait_until(there, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in said) == (code, False)
    place.check()


def test_impatience_leaves_nothing_either(place: Place) -> None:
    """Ctrl-C again and again while it cleans up does not interrupt the cleaning."""
    for folder in range(40):  # something to clean up
        (place.site / f"p{folder}").mkdir()
        for number in range(50):
            (place.site / f"p{folder}" / f"{number}.txt").write_text("")
    words, there = place.words("trace")
    process = begin(place, words)
    wait_until(there, process)
    while process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGINT)
        except ProcessLookupError:
            break
        time.sleep(0.002)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said.count("Interrupted") == 1
    place.check()


def test_a_signal_that_was_ignored_stays_ignored(place: Place) -> None:
    """Under `nohup` a closed terminal does not end the build."""
    words, there = place.words("trace")
    words = [word.replace("sleep(600)", "sleep(2)") for word in words]
    process = subprocess.Popen(
        ["nohup", *COMMAND, *words],
        env=command_environ(),
        cwd=place.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(there, process)
    process.send_signal(signal.SIGHUP)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert (place.out / "p.tar.zst").exists()


def test_killed_at_any_moment_the_cache_is_sound(place: Place) -> None:
    """SIGKILL while frames are being kept: the next build takes what is whole and gives the same root."""
    words, there = place.words("write")
    words[words.index("22")] = "3"
    plain = [word for word in words if word not in ("--cache-dir", str(place.cache))]
    root = lazydeps_json(*plain, "--no-cache")["root"]
    process = begin(place, words)
    wait_until(there, process)
    process.kill()
    process.communicate(timeout=60)
    (place.out / "p.tar.zst").unlink(missing_ok=True)
    facts = lazydeps_json(*words)
    assert facts["root"] == root
    assert facts["cache"]["hits"] > 0


def test_a_held_signal_comes_afterwards() -> None:
    """Between the steps that belong together there is no exception, and behind them there is."""
    steps = []
    before = {number: signal.getsignal(number) for number in interrupts.SIGNALS}
    try:
        with pytest.raises(Interrupted) as caught, interrupts.raised_once():
            with interrupts.held():
                os.kill(os.getpid(), signal.SIGTERM)
                steps.append("a")
                os.kill(os.getpid(), signal.SIGINT)  # the second one
                steps.append("b")
            steps.append("never")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert steps == ["a", "b"]
    assert caught.value.exit_code == 143


def test_compilers_in_threads_end_with_the_build(tmp_path: Path) -> None:
    """An interrupted build does not wait for the compilers that its threads run, and they do not finish their work."""
    begun, finished = tmp_path / "begun", tmp_path / "finished"
    slow = tmp_path / "python"
    slow.write_text(f"#!/bin/sh\ntouch {begun}\nsleep 30\ntouch {finished}\n")
    slow.chmod(0o755)
    (tmp_path / "mod.py").write_text("")

    def interrupt() -> None:
        while not begun.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=interrupt)
    sender.start()
    with pytest.raises(KeyboardInterrupt):
        compile_tree(tmp_path, ["mod.py"], interpreter=require_interpreter("3.13")._replace(path=slow))
    sender.join()
    assert not finished.exists()


def test_a_program_that_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    """What a program has started goes with it."""
    note = tmp_path / "pid"
    code = (
        "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
        f"; open({str(note)!r}, 'w').write(str(child.pid)); time.sleep(600)"
    )
    with pytest.raises(subprocess.TimeoutExpired):
        processes.run([sys.executable, "-c", code], timeout=2)
    child = Path("/proc", note.read_text(), "stat")
    give_up = time.monotonic() + 30
    while child.exists() and child.read_text().split()[2] != "Z" and time.monotonic() < give_up:
        time.sleep(0.01)
    assert not child.exists() or child.read_text().split()[2] == "Z"


def test_lines_come_as_they_are_said(tmp_path: Path) -> None:
    """What a program says on standard error arrives line by line, while it still runs."""
    heard: list[str] = []
    go_on = tmp_path / "go on"

    def take(line: str) -> None:
        heard.append(line)
        go_on.touch()  # which the program waits for: had the line come at the end, this would never end

    code = f"""
import os, sys, time
print("first", file=sys.stderr, flush=True)
while not os.path.exists({str(go_on)!r}):
    time.sleep(0.01)
print("second", file=sys.stderr)
"""
    done = processes.run([sys.executable, "-c", code], on_line=take)
    assert heard == ["first", "second"]
    assert done.stderr == b"first\nsecond\n"
