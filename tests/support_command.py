"""The `lazydeps` command as a person runs it: a process of its own, with the user's own uv and nothing of a shell."""

from __future__ import annotations

import json
import os
import pty
import select
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

COMMAND = [sys.executable, "-m", "lazydeps"]


def command_environ(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a command: the user's (which index uv asks is theirs to say), and ``environ``."""
    return {**os.environ, "LANG": "C.UTF-8", "COLUMNS": "120", **(environ or {})}


def lazydeps(
    *words: str | Path,
    code: int = 0,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
    stdin: str = "",
    timeout: float = 180.0,
) -> subprocess.CompletedProcess[str]:
    """Run ``lazydeps WORDS`` and return what it printed. Another exit code than ``code`` fails the test."""
    __tracebackhide__ = True
    command = [*COMMAND, *map(str, words)]
    done = subprocess.run(
        command,
        cwd=cwd,
        env=command_environ(environ),
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    if done.returncode != code:
        pytest.fail(
            f"{shlex.join(command)}\nended with {done.returncode}, not {code}\n"
            f"-- standard output\n{done.stdout}\n-- standard error\n{done.stderr}"
        )
    return done


def lazydeps_json(*words: str | Path, **options: Any) -> dict[str, Any]:
    """Run ``lazydeps WORDS --json`` and return the one object on standard output."""
    __tracebackhide__ = True
    facts = json.loads(lazydeps(*words, "--json", **options).stdout)
    assert isinstance(facts, dict)
    return facts


def lazydeps_error(*words: str | Path, **options: Any) -> dict[str, Any]:
    """Run ``lazydeps WORDS --json``, which must end with 1, and return the ``error`` it reports."""
    __tracebackhide__ = True
    error = lazydeps_json(*words, code=1, **options)["error"]
    assert isinstance(error, dict)
    return error


def on_a_terminal(*words: str | Path, code: int = 0, environ: Mapping[str, str] | None = None) -> str:
    """Run ``lazydeps WORDS`` on a terminal of its own and return all that it shows, with its escape codes."""
    owner, terminal = pty.openpty()
    try:
        process = subprocess.Popen(
            [*COMMAND, *map(str, words)],
            env=command_environ({"TERM": "xterm-256color", **(environ or {})}),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        os.close(terminal)
        shown = b""
        while select.select([owner], [], [], 60)[0]:
            try:
                block = os.read(owner, 1 << 16)
            except OSError:  # Linux's end of file on a terminal
                break
            if not block:
                break
            shown += block
        assert process.wait(10) == code, shown
    finally:
        os.close(owner)
    return shown.decode()
