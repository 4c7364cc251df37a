"""What a person sees while a command works: on a terminal of their own, in a pipe, in a log, and in no colours."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support_command import COMMAND, command_environ, lazydeps, on_a_terminal

from lazydeps.build.pack import PHASES

CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with modules, and with enough of a file that compressing it takes longer than one picture."""
    folder = tmp_path_factory.mktemp("console") / "site"
    (folder / "package").mkdir(parents=True)
    (folder / "package" / "__init__.py").write_text("x = 1\n")
    (folder / "package" / "big.bin").write_bytes(os.urandom(1 << 20) * 24)
    return folder


def drawn(*words: str | Path, code: int = 0, **environ: str) -> list[str]:
    """Run a command on a terminal; return the pictures it drew one after another, with their escape codes."""
    return [line for line in re.split(r"[\r\n]+", on_a_terminal(*words, code=code, environ=environ)) if line]


def plain(lines: list[str]) -> list[str]:
    """Return lines without escape codes."""
    return [CODES.sub("", line).rstrip() for line in lines]


def moving(lines: list[str]) -> list[str]:
    """Return the pictures of steps that are not finished."""
    return [line for line in plain(lines) if line[:1] in SPINNER or line[:2] == "  "]


def test_bytes_and_rate(site: Path, tmp_path: Path) -> None:
    """While it compresses, a person sees how much of how much, how fast, since when, and which file."""
    lines = drawn("pack", "--from-dir", site, "-o", tmp_path / "p.tar.zst", "--level", "19", "-j", "1")
    writing = [line for line in moving(lines) if "Compressing" in line]
    assert any(re.search(r" \d+\.\d/25\.2 MB  \d+\.\d MB/s 0:00:\d\d package/big\.bin", line) for line in writing)
    compiling = [line for line in moving(lines) if "Compiling" in line]
    assert re.search(r" 1/1 0:00:\d\d package$", compiling[-1])
    done = [line for line in plain(lines) if line.startswith("✓")]
    assert [line.split()[1] for line in done] == ["Installing", "Compiling", "Recording", "Compressing", "Removing"]
    assert all(re.search(r"  \d+\.\d s$", line) for line in done)


def test_what_uv_says_is_shown(tmp_path: Path) -> None:
    """Resolving and downloading take longest: what uv said last stands behind the step."""
    lines = drawn("pack", "six", "-o", tmp_path / "p.tar.zst", COLUMNS="140")
    installing = [line for line in moving(lines) if "Installing" in line]
    assert re.search(r"0:00:\d\d \+ six==\d", installing[-1])


@pytest.mark.parametrize("width", [20, 40, 69, 70, 100, 200])
def test_no_picture_is_wider_than_the_terminal(site: Path, tmp_path: Path, width: int) -> None:
    """A line that wraps is not erased and fills the screen."""
    code = "import package, " + ", ".join(["sys"] * 40)
    words = ["pack", "--from-dir", site, "--trace", code, "--level", "1", "-o", tmp_path / "p.tar.zst"]
    lines = drawn(*words, COLUMNS=str(width))
    pictures = [line for line in plain(lines) if line[:1] in SPINNER + "✓" or line[:2] == "  "]
    pictures = [line for line in pictures if re.search(r"\d:\d\d|✓", line)]
    assert len(pictures) >= 8
    assert max(map(len, pictures)) <= width
    wide = [line for line in pictures if "━" in line]
    assert bool(wide) == (width >= 70)


def test_a_log_has_a_line_at_the_beginning_and_one_at_the_end(site: Path, tmp_path: Path) -> None:
    """Where nothing can move, each phase says that it begins, and in how many seconds it was done."""
    done = lazydeps("pack", "--from-dir", site, "-o", tmp_path / "p.tar.zst", "--level", "1")
    lines = done.stderr.splitlines()
    assert len(lines) == 2 * len(PHASES)
    for begin, end in zip(lines[::2], lines[1::2]):
        assert begin.endswith(" …")
        assert re.fullmatch(re.escape(begin.removesuffix(" …")) + r": done in \d+\.\d s", end)
    assert "\r" not in done.stderr
    assert not CODES.search(done.stderr)


def test_a_step_that_fails_is_not_done(site: Path, tmp_path: Path) -> None:
    """Neither tick nor closing line stand at a step that ended with an error."""
    words = ["pack", "--from-dir", site, "--trace", "1/0", "-o", tmp_path / "p.tar.zst"]
    said = lazydeps(*words, code=1).stderr
    assert "Compiling bytecode for Python 3.13: done" in said
    assert "Recording 1/0 …" in said
    assert "Recording 1/0: done" not in said
    shown = plain(drawn(*words, code=1))
    assert [line.split()[1] for line in shown if line.startswith("✓")] == ["Installing", "Compiling"]
    assert any(line.startswith("lazydeps: LazydepsError: the traced program") for line in shown)


@pytest.mark.parametrize("option", ["--quiet", "--json"])
def test_silence(site: Path, tmp_path: Path, option: str) -> None:
    """With --quiet and with --json standard error has warnings and errors, and nothing else."""
    words = ["pack", "--from-dir", site, "--level", "1", "-o", tmp_path / "p.tar.zst", option]
    done = lazydeps(*words)
    assert done.stderr == ""
    if option == "--json":
        assert json.loads(done.stdout)["warnings"] == []
    folder = tmp_path / "site"
    shutil.copytree(site, folder)
    (folder / "some.pth").write_text("x\n")
    words[2] = folder
    done = lazydeps(*words)
    assert re.fullmatch(r"lazydeps: warning: some\.pth is packed but not honoured: .*\n", done.stderr)
    said = plain(drawn(*words))
    assert not [line for line in said if line[:1] in SPINNER + "✓"]


def test_colours() -> None:
    """On a terminal, unless NO_COLOR or TERM=dumb; in a pipe only with FORCE_COLOR, and then nothing moves."""
    words = ["verify", "nowhere.tar.zst"]
    assert any(COLOUR.search(line) for line in drawn(*words, code=1))
    shown = drawn(*words, code=1, NO_COLOR="1")
    assert not any(COLOUR.search(line) for line in shown)
    shown = drawn(*words, code=1, TERM="dumb")
    assert not any(CODES.search(line) for line in shown)
    assert not COLOUR.search(lazydeps(*words, code=1, environ={"TERM": "xterm-256color"}).stderr)
    assert COLOUR.search(lazydeps(*words, code=1, environ={"FORCE_COLOR": "1"}).stderr)
    assert not COLOUR.search(lazydeps(*words, code=1, environ={"FORCE_COLOR": "1", "NO_COLOR": "1"}).stderr)


def test_nothing_moves_in_a_pipe_or_on_a_dumb_terminal(site: Path, tmp_path: Path) -> None:
    """FORCE_COLOR asks for colours, not for pictures that a log would keep; a dumb terminal cannot erase any."""
    words = ["pack", "--from-dir", site, "--level", "1", "-o", tmp_path / "p.tar.zst"]
    said = lazydeps(*words, environ={"FORCE_COLOR": "1"}).stderr
    assert "\r" not in said
    assert "\x1b[2K" not in said
    assert said.count("done in") == len(PHASES)
    shown = drawn(*words, TERM="dumb")
    assert not any(CODES.search(line) for line in shown)
    assert sum("done in" in line for line in shown) == len(PHASES)
    coloured = drawn(*words, NO_COLOR="1")
    assert moving(coloured)
    assert not any(COLOUR.search(line) for line in coloured)


# -- completion

COMPLETE = """
source <(lazydeps completion bash) || exit 1
compopt() { printf 'compopt %s %s\\n' "$@"; }
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMPREPLY=()
$(complete -p lazydeps | grep -oE -e '-F [^ ]+' | cut -c4-) lazydeps
printf '%s\\n' "${COMPREPLY[@]}"
"""


def completed(*line: str, tmp_path: Path) -> list[str]:
    """Return what a real bash offers behind a line, with the command found on its PATH."""
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    (tmp_path / "bin").mkdir(exist_ok=True)
    script = tmp_path / "bin" / "lazydeps"
    script.write_text("#!/bin/sh\nexec " + " ".join(COMMAND) + ' "$@"\n')
    script.chmod(0o755)
    environ = command_environ({"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"})
    done = subprocess.run(
        ["bash", "--norc", "-c", COMPLETE, "bash", *line], env=environ, capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [word for word in done.stdout.splitlines() if word]


def test_bash_completes(tmp_path: Path) -> None:
    """Commands and their commands, options, values of options; and files where a word may be one."""
    assert completed("lazydeps", "ins", tmp_path=tmp_path) == ["inspect"]
    assert {"pack", "push", "run", "cache", "completion"} <= set(completed("lazydeps", "", tmp_path=tmp_path))
    assert completed("lazydeps", "cache", "pr", tmp_path=tmp_path) == ["prune"]
    assert completed("lazydeps", "pack", "--no-ca", tmp_path=tmp_path) == ["--no-cache"]
    assert completed("lazydeps", "pack", "--sources", "", tmp_path=tmp_path) == ["cold", "drop"]
    for line in (["inspect", "p"], ["run", "--pack", "p"], ["run", "--pack", "p", "prog"], ["pack", "-r", "req"]):
        assert completed("lazydeps", *line, tmp_path=tmp_path) == ["compopt -o default"], line


@pytest.mark.parametrize(
    ("shell", "holds"),
    [
        ("bash", "complete -o nosort -F"),
        ("zsh", "#compdef lazydeps"),
        ("fish", "complete --no-files --command lazydeps"),
    ],
)
def test_a_script_for_each_shell(shell: str, holds: str) -> None:
    """Each is for this command, asks by the variable that the command answers, and is checked by its shell if here."""
    script = lazydeps("completion", shell).stdout
    assert holds in script
    assert f"_LAZYDEPS_COMPLETE={shell}_complete" in script
    if shutil.which(shell) is not None:
        subprocess.run([shell, "-n"], input=script, text=True, check=True)
    text = lazydeps("completion", "--help").stdout
    assert f"lazydeps completion {shell}" in text


def test_no_script_for_other_shells() -> None:
    """An unknown shell is wrong usage, and the message names those that are known."""
    assert "'bash', 'zsh', 'fish'" in lazydeps("completion", "tcsh", code=2).stderr
