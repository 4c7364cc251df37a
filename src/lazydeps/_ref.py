"""References: where a pack is and what it must be, ``URL#root=sha256:HEX``.

Parses and prints them; it fetches nothing and reads no environment.
"""

from __future__ import annotations

from ._digest import PREFIX, parse_digest
from .errors import ConfigError

SCHEMES = ("s3", "https", "http", "file")
ARCHIVES = (".zip", ".whl", ".tar", ".tar.gz", ".tgz", ".tar.zst")
"""How the name of an archive that is not a pack ends, which says what it is. Unpinned, a ``.tar.zst`` is a pack."""


class Ref:
    """A parsed reference. Equal references have equal text."""

    __slots__ = ("root", "sha256", "url")

    url: str
    """The address without its fragment; always one of `SCHEMES`."""
    root: bytes | None
    """The pinned SHA-256 of the pack's root, 32 raw bytes; None where the reference is not pinned."""
    sha256: bytes | None
    """The pinned SHA-256 of a whole archive that is not a pack (``#sha256=HEX``)."""

    def __init__(self, url: str, root: bytes | None = None, sha256: bytes | None = None) -> None:
        self.url = url
        self.root = root
        self.sha256 = sha256

    @property
    def suffix(self) -> str | None:
        """Which of `ARCHIVES` the name ends with, or None."""
        name = self.url.partition("?")[0].lower() if self.url.startswith("http") else self.url.lower()
        return next((suffix for suffix in ARCHIVES if name.endswith(suffix)), None)

    @property
    def is_archive(self) -> bool:
        """Whether this is an archive that is not a pack."""
        return self.sha256 is not None or (self.root is None and self.suffix not in (None, ".tar.zst"))

    @classmethod
    def parse(cls, text: str) -> Ref:
        """Parse ``URL``, ``URL#root=sha256:HEX`` or ``URL#sha256=HEX``.

        Raises:
            ConfigError: the scheme is unknown, the path is empty, or the pin is malformed.
        """
        text = text.strip()
        shown = without_secrets(text)
        url, _, fragment = text.partition("#")
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in SCHEMES:
            raise ConfigError(
                f"{shown!r} is not a reference: expected s3://BUCKET/KEY, https://… or file:///PATH, "
                "followed by #root=sha256:HEX. `lazydeps push` and `lazydeps pack` print one to copy."
            )
        authority, slash, path = rest.partition("/")
        if not slash or not path or (scheme != "file" and not authority):
            raise ConfigError(f"{shown!r} names no object: expected {scheme}://…/NAME.tar.zst#root=sha256:HEX.")
        if scheme == "file" and authority not in ("", "localhost"):
            raise ConfigError(f"{shown!r} names a host: a local file is file:///PATH, with three slashes.")
        root = sha256 = None
        if fragment:
            name, _, value = fragment.partition("=")
            if name == "root":
                root = parse_digest(value)
            elif name == "sha256":
                sha256 = parse_digest(PREFIX + value.removeprefix(PREFIX))
            if root is None and sha256 is None:
                raise ConfigError(
                    f"the pin of {shown!r} is malformed: expected #root=sha256: and 64 hex digits, found #{fragment}."
                )
        return cls(url, root, sha256)

    def __str__(self) -> str:
        if self.root is not None:
            return f"{self.url}#root={PREFIX}{self.root.hex()}"
        if self.sha256 is not None:
            return f"{self.url}#sha256={self.sha256.hex()}"
        return self.url

    @property
    def shown(self) -> str:
        """The reference for messages and reports: what a presigned address is signed with is left out."""
        return str(Ref(without_secrets(self.url), self.root, self.sha256))

    def __repr__(self) -> str:
        return f"Ref({self.shown!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))


def without_secrets(url: str) -> str:
    """Return an address without query, fragment, user name and password.

    The key of ``s3://`` is taken as it stands: there a ``?`` begins no query, and an ``@`` ends no user name.
    """
    url = url.partition("#")[0]
    if url.startswith("s3://"):
        return url
    scheme, separator, rest = url.partition("?")[0].partition("://")
    authority, slash, path = rest.partition("/")
    return scheme + separator + authority.rpartition("@")[2] + slash + path
