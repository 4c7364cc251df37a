"""Signature Version 4: what we sign is what botocore signs."""

from __future__ import annotations

import datetime as dt
import string
import sys
from functools import partial
from typing import Any
from unittest import mock

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials as BotocoreCredentials
from botocore.session import Session
from hypothesis import example, given
from hypothesis import strategies as st

from lazydeps._sources.https import Target
from lazydeps._sources.s3 import Credentials, S3Source, sign

KEY_ID, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
names = st.text(string.ascii_lowercase + string.digits, min_size=3, max_size=20)
keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60) | st.lists(
    st.sampled_from(["a b", "ä€😀", "+", "", "..", ".", "%2F", "?x=1", "&", "=", ":", "~", "#", "'()*!", "\\"]),
    min_size=1,
).map("/".join).filter(bool)
words = st.text(string.ascii_letters + string.digits + "+/=", min_size=1, max_size=80)


@given(
    bucket=st.builds("{}{}{}".format, names, st.sampled_from(["", "-", "."]), names),
    key=keys,
    endpoint=st.none() | st.builds("{}://{}{}{}".format, st.sampled_from(["http", "https"]),
                                   st.sampled_from(["localhost", "127.0.0.1", "minio.example", "[::1]"]),
                                   st.sampled_from(["", ":9000", ":443", ":80"]), st.sampled_from(["", "/", "/base/"])),
    region=st.sampled_from(["us-east-1", "eu-central-1", "cn-north-1", "us-gov-west-1"]),
    secret=words,
    token=st.none() | words,
    etag=st.none() | st.just('"5d41402abc4b2a76b9719d911017c592-12"') | st.just('"two  spaces"'),
    start=st.integers(0, 1 << 40),
    now=st.integers(0, 4_102_444_800),
)  # fmt: skip
@example("a.b.c", "a b/ä+/../c//d", "http://localhost:9000", "us-east-1", SECRET, "token", '"e"', 0, 0)
def test_signature_is_botocores(
    bucket: str,
    key: str,
    endpoint: str | None,
    region: str,
    secret: str,
    token: str | None,
    etag: str | None,
    start: int,
    now: int,
) -> None:
    """For any key, endpoint, token and time, every signed header is the one botocore computes."""
    environ = {"AWS_REGION": region} | ({"AWS_ENDPOINT_URL": endpoint} if endpoint else {})
    target = S3Source(f"s3://{bucket}/{key}", environ).target()
    wanted = {"Range": f"bytes={start}-{start + 99}"} | ({"If-Match": etag} if etag else {})
    ours = sign("GET", target.authority, target.path, wanted, Credentials(KEY_ID, secret, token), region, float(now))

    request = AWSRequest("GET", f"{target.scheme}://{target.authority}{target.path}", headers=wanted)
    moment = dt.datetime.fromtimestamp(now, dt.UTC).replace(tzinfo=None)
    with mock.patch("botocore.auth.get_current_datetime", return_value=moment):
        S3SigV4Auth(BotocoreCredentials(KEY_ID, secret, token), "s3", region).add_auth(request)
    assert {name.lower(): value for name, value in ours.items()} == {
        name.lower(): value for name, value in request.headers.items()
    }


@pytest.mark.parametrize("region", ["us-east-1", "cn-north-1"])
@pytest.mark.parametrize("bucket", ["plain-bucket", "with.dots"])
@given(key=keys)
def test_address_is_botocores(bucket: str, region: str, key: str) -> None:
    """Host and path are those to which botocore would send the request."""
    client = _client(region)
    theirs = client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": key}).partition("?")[0]
    expected = Target.parse(theirs)
    ours = S3Source(f"s3://{bucket}/{key}", {"AWS_REGION": region}).target()
    assert (ours.scheme, ours.host, ours.path) == (expected.scheme, expected.host, expected.path)


_clients: dict[str, Any] = {}


def _client(region: str) -> Any:
    # Making one takes a second.
    if region not in _clients:
        config = Config(signature_version="s3v4", s3={"us_east_1_regional_endpoint": "regional"})
        _clients[region] = Session().create_client(
            "s3", region, aws_access_key_id=KEY_ID, aws_secret_access_key=SECRET, config=config
        )
    return _clients[region]


def test_signing_changes_nothing_it_was_given() -> None:
    """The function is pure: its headers argument stays as it was."""
    headers = {"Range": "bytes=0-1"}
    sign("GET", "host", "/key", headers, Credentials(KEY_ID, SECRET), "us-east-1", 0.0)
    assert headers == {"Range": "bytes=0-1"}


def test_without_openssl(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter built without OpenSSL computes the same."""
    signed = partial(sign, "GET", "host", "/key", {}, Credentials(KEY_ID, SECRET), "us-east-1", 0.0)
    expected = signed()
    monkeypatch.setitem(sys.modules, "_hashlib", None)
    assert signed() == expected


def test_the_example_of_aws() -> None:
    """The GET of https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html, to the letter."""
    headers = sign(
        "GET",
        "examplebucket.s3.amazonaws.com",
        "/test.txt",
        {"Range": "bytes=0-9"},
        Credentials(KEY_ID, SECRET),
        "us-east-1",
        dt.datetime(2013, 5, 24, tzinfo=dt.UTC).timestamp(),
    )
    signature = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    assert headers["Authorization"].endswith(f"Signature={signature}")
    assert "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, " in headers["Authorization"]
