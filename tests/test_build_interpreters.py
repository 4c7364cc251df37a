"""Finding interpreters: what is there is run before it is believed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from lazydeps.build import interpreters
from lazydeps.build.interpreters import canonical_arch, find_all, find_interpreter, probe, require_interpreter
from lazydeps.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
REAL = sys.executable


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def environ(tmp_path: Path, *folders: Path) -> dict[str, str]:
    return {"PATH": ":".join(str(folder) for folder in folders), "HOME": str(tmp_path / "home")}


def test_the_running_interpreter_is_found() -> None:
    """The first candidate is the running one, described as it describes itself."""
    found = find_interpreter(MINOR)
    assert found is not None
    assert found.minor == MINOR
    assert found.cache_tag == sys.implementation.cache_tag
    assert find_all()[MINOR] == found


def test_a_broken_shim_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shim that exists and fails hides neither the next entry of PATH nor the interpreter behind it."""
    broken = script(tmp_path / "a" / f"python{MINOR}", "echo 'pyenv: command not found' >&2; exit 127")
    script(tmp_path / "b" / f"python{MINOR}", f'exec {REAL} "$@"')
    monkeypatch.setattr(sys, "executable", str(broken))
    found = find_interpreter(MINOR, environ=environ(tmp_path, tmp_path / "a", tmp_path / "b"))
    assert found is not None
    assert str(found.path) == REAL  # what stands behind the shim, so that starting it is cheap


def test_a_shim_that_hangs_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A candidate that never answers ends after the time-out."""
    monkeypatch.setattr(interpreters, "PROBE_TIMEOUT", 0.2)
    assert probe(script(tmp_path / "python", "exec sleep 60")) is None


@pytest.mark.parametrize(
    "answer", ["echo not json", "echo '[]'", 'echo \'{"implementation": "pypy"}\'', "true"], ids=range(4)
)
def test_something_else_is_no_interpreter(tmp_path: Path, answer: str) -> None:
    """Another implementation, or another program of that name, is not used."""
    assert probe(script(tmp_path / "python", answer)) is None


@pytest.mark.parametrize(
    "place",
    [
        ".local/share/uv/python/cpython-3.99.1-linux-x86_64-gnu",
        ".pyenv/versions/3.99.2",
        ".asdf/installs/python/3.99.0",
        ".local/share/mise/installs/python/3.99.0",
    ],
)
def test_version_managers_are_searched(tmp_path: Path, place: str) -> None:
    """Interpreters that uv, pyenv, asdf and mise installed are candidates although they are not on PATH."""
    expected = script(tmp_path / "home" / place / "bin" / "python3.99", "exit 1")
    assert expected in interpreters._candidates("3.99", environ(tmp_path))


def test_another_version_under_the_name_is_passed_over(tmp_path: Path) -> None:
    """The version that it prints counts, not the name of the file."""
    script(tmp_path / "a" / "python3.99", f'exec {REAL} "$@"')
    assert find_interpreter("3.99", environ=environ(tmp_path, tmp_path / "a")) is None


def test_none_found_says_how_to_get_one(tmp_path: Path) -> None:
    """The error names what was tried and the commands that install an interpreter."""
    broken = script(tmp_path / "a" / "python3.99", "exit 1")
    with pytest.raises(ConfigError, match=r"uv python install 3\.99.*pyenv install 3\.99.*deadsnakes") as caught:
        require_interpreter("3.99", environ=environ(tmp_path, tmp_path / "a"))
    assert str(broken) in str(caught.value)


@pytest.mark.parametrize(("name", "expected"), [("AMD64", "x86_64"), ("aarch64", "arm64"), ("riscv64", "riscv64")])
def test_architectures_have_one_spelling(name: str, expected: str) -> None:
    """Machine names come out in AWS's spelling."""
    assert canonical_arch(name) == expected
