"""SHA-256 in the spelling the project uses everywhere: ``sha256:`` and 64 lower-case hex digits.

`_hashlib` is OpenSSL's module behind `hashlib`: it uses the processor's SHA instructions, and importing it
alone costs less than `hashlib`, which a start would pay for nothing. `hashlib` is the fallback.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import _Hash

    Buffer = bytes | bytearray | memoryview

PREFIX = "sha256:"


def new_sha256() -> _Hash:
    """Return a fresh SHA-256 object (``update``, ``digest``, ``hexdigest``)."""
    try:
        from _hashlib import openssl_sha256 as sha256  # type: ignore[import-not-found,unused-ignore]
    except ImportError:  # an interpreter built without OpenSSL
        from hashlib import sha256
    return sha256()  # type: ignore[no-any-return,unused-ignore]


def sha256_digest(data: Buffer) -> bytes:
    """Return the 32 raw bytes of the SHA-256 of ``data``."""
    state = new_sha256()
    state.update(data)
    return state.digest()


def format_digest(raw: bytes) -> str:
    """Spell 32 raw bytes as ``sha256:HEX``."""
    return PREFIX + raw.hex()


def parse_digest(text: str) -> bytes | None:
    """Return the 32 raw bytes that ``sha256:HEX`` names, or None if ``text`` is not such a name."""
    if not text.startswith(PREFIX) or len(text) != len(PREFIX) + 64:
        return None
    try:
        raw = bytes.fromhex(text[len(PREFIX) :])
    except ValueError:
        return None
    return raw if len(raw) == 32 else None  # `fromhex` passes over white space
