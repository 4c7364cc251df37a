"""Make inputs from inputs: bytes changed anywhere, and, where an input is JSON, values changed within its structure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from random import Random

NUMBERS = (
    0,
    1,
    -1,
    2,
    255,
    256,
    511,
    512,
    513,
    4096,
    65535,
    2**26,
    2**26 + 1,
    2**31 - 1,
    2**31,
    2**32,
    2**53,
    2**63,
    -(2**63),
    2**64,
    10**400,
    10**4299,
    0.5,
    -0.0,
    512.0,
    1e308,
    float("inf"),
    float("nan"),
)
TEXTS = (
    "",
    ".",
    "..",
    "/",
    "../x",
    "/etc/x",
    "a/../../b",
    "a//b",
    "a\\b",
    "a\0b",
    "a\nb",
    "\ud800",
    "\x1b[2J",
    "\u202e",
    "ä" * 200,
    "n" * 256,
    "p/" * 600,
    "a",
    "a/b",
    "A",
    "é",
    "e\u0301",
    "os",
    "json",
    "lazydeps",
    "__main__",
    "sitecustomize",
    "__pycache__/x.pyc",
    "..dist-info",
    "x.dist-info",
    "²",
    "9" * 5000,
    "0 " * 32,
    "zz" * 32,
    "0a" * 32,
)
WORDS = (
    b"\r\n",
    b"\r\n\r\n",
    b": ",
    b"bytes ",
    b"-",
    b"/",
    b"/0",
    b"chunked",
    b"close",
    b"Content-Length: ",
    b"206",
    b"100",
    b"#root=sha256:",
    b"://",
    b"[",
    b"{",
    b'"',
    b"\\ud800",
    b"1e400",
    b"NaN",
    b"-1",
    b"9" * 30,
    b"9" * 5000,
    b"[" * 3000,
    b"\xff",
    b"\0",
    b"\x28\xb5\x2f\xfd",
    b"\x5d\x2a\x4d\x18",
)


def mutate(data: bytes, random: Random, *, tag: bytes | None, other: bytes = b"", most: int = 1 << 16) -> bytes:
    """Return a changed input.

    Args:
        data: an input.
        random: decides everything.
        tag: what stands before the JSON of an input that is JSON; None: it is none.
        other: another input, from which parts may come.
        most: longest result, bytes.
    """
    if tag is not None and random.random() < 0.7:
        try:
            table = json.loads(data.removeprefix(tag))
        except (ValueError, RecursionError):
            table = None
        if isinstance(table, (dict, list)) and table:
            for _once in range(1 + random.randrange(3)):
                _change(table, random)
            try:
                text = json.dumps(table, separators=(",", ":"), ensure_ascii=random.random() < 0.2)
                return (tag + text.encode("utf-8", "surrogatepass"))[:most]
            except (ValueError, RecursionError):
                pass
    content = bytearray(data)
    for _once in range(1 + random.randrange(4)):
        _scramble(content, random, other)
    return bytes(content[:most])


def _change(table: Any, random: Random) -> None:
    """Change one value somewhere in a table."""
    while table:
        keys = list(table) if isinstance(table, dict) else list(range(len(table)))
        key = random.choice(keys)
        inner = table[key]
        if isinstance(inner, (dict, list)) and inner and random.random() < 0.8:
            table = inner
            continue
        break
    else:
        return  # an earlier change has emptied it
    kind = random.randrange(8)
    if kind == 0:
        del table[key]
    elif kind == 1 and isinstance(table, list):
        table.insert(key, inner)
    elif kind == 2 and isinstance(table, list):
        other = random.randrange(len(table))
        table[key], table[other] = table[other], inner
    elif kind <= 4 and isinstance(inner, int) and abs(inner) < 2**70:
        table[key] = random.choice(
            (inner + random.choice((-1, 1, 512, -512)), inner * 2, -inner, bool(inner), float(inner))
        )
    elif kind <= 4 and isinstance(inner, str) and inner:
        at = random.randrange(len(inner) + 1)
        table[key] = inner[:at] + random.choice(TEXTS) + inner[at + random.randrange(2) :]
    else:
        table[key] = random.choice(
            (random.choice(NUMBERS), random.choice(TEXTS), None, True, [], {}, [0], {"a": 1}, [[]])
        )


def _scramble(content: bytearray, random: Random, other: bytes) -> None:
    """Change a few bytes, wherever they are."""
    at = random.randrange(len(content) + 1)
    end = min(len(content), at + (1 << random.randrange(8)))
    kind = random.randrange(8)
    if kind == 0 and content:
        content[at % len(content)] ^= 1 << random.randrange(8)
    elif kind == 1 and content:
        content[at % len(content)] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
    elif kind == 2:
        del content[at:end]
    elif kind == 3:
        content[at:at] = content[at:end]
    elif kind == 4:
        content[at:at] = random.choice(WORDS)
    elif kind == 5 and other:
        begin = random.randrange(len(other))
        content[at:end] = other[begin : begin + (1 << random.randrange(8))]
    elif kind == 6:
        content[at:end] = random.randbytes(end - at)
    else:
        del content[at:]
