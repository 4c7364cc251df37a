"""References: ``URL#root=sha256:HEX``, read and written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazydeps._ref import Ref
from lazydeps.errors import ConfigError

HEX = "0123456789abcdef" * 4
urls = st.builds(
    "{}://{}/{}".format,
    st.sampled_from(["s3", "https", "http"]),
    st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True),
    st.text(st.characters(exclude_characters="#", exclude_categories=["Cs"]), min_size=1).filter(
        lambda path: path == path.strip()
    ),
)


@given(urls, st.binary(min_size=32, max_size=32), st.sampled_from(["root=sha256:", "sha256=", ""]))
def test_text_and_back(url: str, digest: bytes, pin: str) -> None:
    """What is parsed prints as it was written, and parses to the same again."""
    text = f"{url}#{pin}{digest.hex()}" if pin else url
    ref = Ref.parse(text)
    assert str(ref) == text
    assert ref.url == url
    assert ref.root == (digest if pin.startswith("root") else None)
    assert ref.sha256 == (digest if pin.startswith("sha256") else None)
    assert Ref.parse(f" {text}\n") == ref
    assert len({ref, Ref.parse(text)}) == 1
    assert text in repr(ref) or "\\" in repr(ref) or '"' in repr(ref)


def test_hex_digits_are_written_small() -> None:
    """Capitals in a digest are read and name the same pack."""
    assert Ref.parse(f"s3://b/k#root=sha256:{HEX.upper()}") == Ref.parse(f"s3://b/k#root=sha256:{HEX}")
    assert Ref.parse(f"s3://b/k#sha256=sha256:{HEX}") == Ref.parse(f"s3://b/k#sha256={HEX}")


def test_pins_tell_references_apart() -> None:
    """The same address with another pin, or none, is another reference."""
    refs = {Ref.parse(f"s3://b/k{pin}") for pin in ("", f"#root=sha256:{HEX}", f"#sha256={HEX}")}
    assert len(refs) == 3
    assert Ref.parse("s3://b/k") != "s3://b/k"


@pytest.mark.parametrize("url", ["file:///a/b", "file://localhost/a"])
def test_files(url: str) -> None:
    """A local file, with and without the host that RFC 8089 allows."""
    assert Ref.parse(url).url == url


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a reference"),
        ("bucket/key", "is not a reference"),
        ("S3://bucket/key", "is not a reference"),
        ("ftp://host/key", "is not a reference"),
        ("s3:/bucket/key", "is not a reference"),
        ("s3://bucket", "names no object"),
        ("s3://bucket/", "names no object"),
        ("s3:///key", "names no object"),
        ("https:///key", "names no object"),
        ("file://", "names no object"),
        ("file://host/path", "three slashes"),
        ("s3://b/k#root=", "malformed"),
        (f"s3://b/k#root={HEX}", "malformed"),
        (f"s3://b/k#root=sha256:{HEX[:-1]}", "malformed"),
        (f"s3://b/k#root=sha256:{HEX[:30]}  {HEX[:32]}", "malformed"),
        (f"s3://b/k#root=sha256:{HEX}0", "malformed"),
        (f"s3://b/k#root=sha256:{HEX[:-1]}g", "malformed"),
        (f"s3://b/k#root=sha512:{HEX}", "malformed"),
        (f"s3://b/k#Root=sha256:{HEX}", "malformed"),
        (f"s3://b/k#{HEX}", "malformed"),
        (f"s3://b/k#sha256={HEX[:-2]} 0", "malformed"),
    ],
)
def test_what_is_no_reference(text: str, message: str) -> None:
    """Each is refused with what was expected, never read as something near it."""
    with pytest.raises(ConfigError, match=message):
        Ref.parse(text)
