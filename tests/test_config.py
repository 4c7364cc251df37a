"""``LAZYDEPS_*``: what each variable may say, and what is said about what it may not."""

from __future__ import annotations

import pytest

from lazydeps._config import CONNECTIONS, DIRECTORY, SOCKET_TIMEOUT, Config, Limits
from lazydeps.errors import ConfigError


@pytest.mark.parametrize("value", [None, ""])
def test_defaults(value: str | None) -> None:
    """Nothing set, or set to nothing: no pack, and the defaults."""
    names = ("PACK", "DIR", "ALLOW_UNPINNED", "TIMEOUT", "CONNECTIONS", "CHILDREN", "TRACE")
    config = Config.from_environ({} if value is None else {f"LAZYDEPS_{name}": value for name in names})
    assert config.pack == ()
    assert config.directory == DIRECTORY == "/tmp/lazydeps"
    assert not config.allow_unpinned
    assert config.timeout is None
    assert config.connections == CONNECTIONS == 6
    assert config.socket_timeout == SOCKET_TIMEOUT
    assert config.children
    assert config.trace is None


def test_everything_set() -> None:
    """Each variable reaches its setting; packs are separated by any white space."""
    config = Config.from_environ(
        {
            "LAZYDEPS_PACK": " s3://b/1#root=x\n\ts3://b/2 ",
            "LAZYDEPS_DIR": "/mnt/packs",
            "LAZYDEPS_ALLOW_UNPINNED": "1",
            "LAZYDEPS_TIMEOUT": "2.5",
            "LAZYDEPS_CONNECTIONS": "12",
            "LAZYDEPS_CHILDREN": "0",
            "LAZYDEPS_TRACE": "s3://b/traces/",
        }
    )
    assert config.pack == ("s3://b/1#root=x", "s3://b/2")
    assert (config.directory, config.allow_unpinned, config.timeout) == ("/mnt/packs", True, 2.5)
    assert (config.connections, config.socket_timeout, config.children) == (12, 2.5, False)
    assert config.trace == "s3://b/traces/"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LAZYDEPS_DIR", "tmp/lazydeps"),
        ("LAZYDEPS_ALLOW_UNPINNED", "yes"),
        ("LAZYDEPS_TIMEOUT", "10s"),
        ("LAZYDEPS_TIMEOUT", "0"),
        ("LAZYDEPS_TIMEOUT", "-1"),
        ("LAZYDEPS_TIMEOUT", "inf"),
        ("LAZYDEPS_TIMEOUT", "nan"),
        ("LAZYDEPS_CONNECTIONS", "0"),
        ("LAZYDEPS_CONNECTIONS", "65"),
        ("LAZYDEPS_CONNECTIONS", "2.0"),
        ("LAZYDEPS_CONNECTIONS", "²"),
        ("LAZYDEPS_CHILDREN", "no"),
    ],
)
def test_values_that_cannot_be(name: str, value: str) -> None:
    """The message names the variable, what it holds and what it should hold."""
    with pytest.raises(ConfigError, match=f"^{name} is '{value}': expected .*leave it out"):
        Config.from_environ({name: value})


def test_replace() -> None:
    """A copy differs in what was asked for; the original does not change; the socket's timeout follows."""
    limits = Limits()
    config = Config(pack=("a",), connections=3, limits=limits)
    other = config.replace(directory="/d", timeout=1.0)
    assert (other.pack, other.connections, other.directory, other.timeout) == (("a",), 3, "/d", 1.0)
    assert other.limits is limits
    assert (config.directory, config.timeout) == (DIRECTORY, None)
    assert (config.socket_timeout, other.socket_timeout) == (SOCKET_TIMEOUT, 1.0)


def test_no_other_setting_can_be_invented() -> None:
    """A misspelt setting is an error where it is written."""
    with pytest.raises(TypeError):
        Config().replace(conections=3)
    with pytest.raises(AttributeError):
        Limits().frames = 3  # type: ignore[attr-defined]
