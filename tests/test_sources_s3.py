"""S3: a real server (moto's process) for what works, a scripted one for what S3 does on a bad day."""

from __future__ import annotations

import calendar
import json
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest
from support_http import CONTENT, Answer, Request, ScriptedServer, answer, ranged, s3_error

from lazydeps._sources import Body, open_source
from lazydeps._sources.s3 import S3Source
from lazydeps.errors import ConfigError, FetchError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from conftest import Bucket, RunPython

KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "hunter2",
    "AWS_SESSION_TOKEN": "swordfish",
}
URL = "s3://the-bucket/packs/science.tar.zst"


def read(body: Body) -> bytes:
    """Read a body to its end."""
    chunks = []
    buffer = memoryview(bytearray(100_000))
    while count := body.readinto(buffer):
        chunks.append(bytes(buffer[:count]))
    body.close()
    return b"".join(chunks)


def fetch(url: str, environ: Mapping[str, str], start: int, stop: int, etag: str | None = None) -> bytes:
    """Fetch one range by a connection of its own."""
    connection = open_source(url, environ).connect(timeout=10)
    try:
        return read(connection.get(start, stop, etag=etag))
    finally:
        connection.close()


def failure(server: ScriptedServer, **environ: str) -> FetchError:
    """Return the error that a request to this server ends with; no secret is in it."""
    with pytest.raises(FetchError) as caught:
        fetch(URL, {**KEYS, "AWS_ENDPOINT_URL": server.endpoint, **environ}, 0, 100)
    told = f"{caught.value} {caught.value.facts()}"
    assert not [word for word in ("hunter2", "swordfish", "AKIA", "WORDS-OF-S3") if word in told]
    assert caught.value.url == URL
    return caught.value


@pytest.mark.parametrize(
    "key", ["plain", "a b/ä€😀.zst", "plus+and%2Fpercent", "a//b", "trailing/", "que?ry=1&x", "sub!'()*;:@,$=[]"]
)
def test_ranges_of_any_key(bucket: Bucket, key: str) -> None:
    """Whatever a key holds, its bytes come; the moto server checks the path it was asked for."""
    url = bucket.put(key, CONTENT)
    source = open_source(url, bucket.environ)
    assert source.url == url
    connection = source.connect(timeout=10)
    body = connection.get(1000, 300_000)
    assert (body.size, body.total) == (299_000, len(CONTENT))
    assert read(body) == CONTENT[1000:300_000]
    assert read(connection.get(len(CONTENT) - 5, 1 << 40, etag=body.etag)) == CONTENT[-5:]
    connection.close()


def test_pin(bucket: Bucket) -> None:
    """The ETag is S3's; an object that was overwritten meanwhile is refused by the server."""
    url = bucket.put("pack", CONTENT)
    connection = open_source(url, bucket.environ).connect(timeout=10)
    etag = connection.get(0, 10).etag
    assert etag == bucket.client.head_object(Bucket=bucket.name, Key="pack")["ETag"]
    bucket.put("pack", bytes(len(CONTENT)))
    with pytest.raises(FetchError, match="changed while it was read") as caught:
        connection.get(0, 10, etag=etag)
    assert (caught.value.status, caught.value.retryable) == (412, False)
    connection.close()


def test_range_behind_the_end(bucket: Bucket) -> None:
    """416 from S3 says that the object is cut off."""
    url = bucket.put("pack", b"x" * 17)
    with pytest.raises(FetchError, match=r"byte 17 .* was wanted") as caught:
        fetch(url, bucket.environ, 17, 20)
    assert (caught.value.status, caught.value.retryable) == (416, False)


def test_missing_key_and_bucket(bucket: Bucket) -> None:
    """404 says which of the two is missing."""
    with pytest.raises(FetchError, match=f"the key gone in {bucket.name} does not exist") as caught:
        fetch(bucket.url("gone"), bucket.environ, 0, 10)
    assert (caught.value.status, caught.value.retryable) == (404, False)
    with pytest.raises(FetchError, match="the bucket lazydeps-no-bucket does not exist"):
        fetch("s3://lazydeps-no-bucket/key", bucket.environ, 0, 10)


def test_threads_and_forks_share_a_source(bucket: Bucket) -> None:
    """One source serves several threads and a forked child, each by its own connection."""
    source = open_source(bucket.put("pack", CONTENT), bucket.environ)
    connection = source.connect(timeout=10)
    assert read(connection.get(0, 10)) == CONTENT[:10]
    results = []

    def part(number: int) -> None:
        mine = source.connect(timeout=10)
        results.append(read(mine.get(number * 1000, number * 1000 + 1000)) == CONTENT[number * 1000 :][:1000])
        mine.close()

    threads = [threading.Thread(target=part, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 4
    child = os.fork()
    if child == 0:
        try:
            part(5)
            os._exit(0 if results[-1] else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert read(connection.get(10, 20)) == CONTENT[10:20]
    connection.close()


def test_request_as_it_is_sent() -> None:
    """Path style at a custom endpoint, its own path kept; signed, with token and pin, by the date of now."""
    with ScriptedServer(ranged) as server:
        environ = {**KEYS, "AWS_ENDPOINT_URL": f"{server.endpoint}/base/"}
        etag = '"0123456789abcdef"'
        assert fetch(URL, environ, 5, 10, etag) == CONTENT[5:10]
        request = server.requests[0]
    assert (request.method, request.path) == ("GET", "/base/the-bucket/packs/science.tar.zst")
    assert request.headers["if-match"] == etag
    assert request.headers["x-amz-security-token"] == "swordfish"
    signed = "SignedHeaders=host;if-match;range;x-amz-content-sha256;x-amz-date;x-amz-security-token"
    assert signed in request.headers["authorization"]
    assert f"/{request.headers['x-amz-date'][:8]}/us-east-1/s3/aws4_request" in request.headers["authorization"]
    signed_at = calendar.timegm(time.strptime(request.headers["x-amz-date"], "%Y%m%dT%H%M%SZ"))
    assert abs(signed_at - time.time()) < 300  # S3 allows 15 minutes; this is about UTC, not about speed


def test_credentials_are_read_at_every_request() -> None:
    """Keys that change in the environment sign the next request, on the same connection."""
    with ScriptedServer(ranged) as server:
        environ = {**KEYS, "AWS_ENDPOINT_URL": server.endpoint}
        connection = open_source(URL, environ).connect(timeout=5)
        read(connection.get(0, 10))
        environ["AWS_ACCESS_KEY_ID"] = "OTHER"
        del environ["AWS_SESSION_TOKEN"]
        read(connection.get(0, 10))
        connection.close()
        assert server.connections == 1
        first, second = (request.headers for request in server.requests)
    assert "Credential=AKIAIOSFODNN7EXAMPLE/" in first["authorization"]
    assert "Credential=OTHER/" in second["authorization"]
    assert "x-amz-security-token" not in second


def test_endpoint_that_changes() -> None:
    """A connection kept to one server is never used for another."""
    with ScriptedServer(ranged) as one, ScriptedServer(ranged) as other:
        environ = {**KEYS, "AWS_ENDPOINT_URL": one.endpoint}
        connection = open_source(URL, environ).connect(timeout=5)
        read(connection.get(0, 10))
        environ["AWS_ENDPOINT_URL"] = other.endpoint
        read(connection.get(0, 10))
        connection.close()
        assert (len(one.requests), len(other.requests)) == (1, 1)


def test_environment_is_enough(run_python: RunPython) -> None:
    """With keys in the environment neither botocore nor `urllib.request` is imported."""
    with ScriptedServer(ranged) as server:
        code = f"""
import os, sys
from lazydeps._sources import open_source
connection = open_source({URL!r}, os.environ).connect(timeout=5)
connection.get(0, 10).close()
connection.close()
assert not {{"botocore", "boto3", "urllib.request", "hashlib", "json", "xml"}} & set(sys.modules)
"""
        run_python(code, environ={**KEYS, "AWS_ENDPOINT_URL": server.endpoint})
        assert len(server.requests) == 1


def test_profile_by_botocore(run_python: RunPython, tmp_path: Path) -> None:
    """Without keys in the environment, botocore's chain finds the profile's."""
    (tmp_path / "credentials").write_text(
        "[mine]\naws_access_key_id = FROMPROFILE\naws_secret_access_key = x\naws_session_token = y\n"
    )
    with ScriptedServer(ranged) as server:
        code = f"""
import os
from lazydeps._sources import open_source
connection = open_source({URL!r}, os.environ).connect(timeout=5)
connection.get(0, 10).close()
connection.close()
"""
        environ = {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"), "AWS_PROFILE": "mine"}
        run_python(code, environ={**environ, "AWS_ENDPOINT_URL": server.endpoint})
        assert "Credential=FROMPROFILE/" in server.requests[0].headers["authorization"]
        assert server.requests[0].headers["x-amz-security-token"] == "y"


def test_container_credentials_by_botocore(run_python: RunPython) -> None:
    """ECS and SnapStart give credentials by a local web service; botocore asks it."""
    keys = {"AccessKeyId": "FROMCONTAINER", "SecretAccessKey": "x", "Token": "y", "Expiration": "2099-01-01T00:00:00Z"}
    document = json.dumps(keys).encode()

    def script(request: Request) -> Answer:
        return answer(200, document, then="close") if request.path == "/credentials" else ranged(request)

    with ScriptedServer(script) as server:
        code = f"""
import os
from lazydeps._sources import open_source
connection = open_source({URL!r}, os.environ).connect(timeout=5)
for _ in range(2):
    connection.get(0, 10).close()
connection.close()
"""
        environ = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{server.endpoint}/credentials"}
        run_python(code, environ={**environ, "AWS_ENDPOINT_URL": server.endpoint})
        assert [request.path for request in server.requests].count("/credentials") == 1
        assert "Credential=FROMCONTAINER/" in server.requests[-1].headers["authorization"]


@pytest.mark.parametrize(
    ("hide", "environ", "found"),
    [
        (True, {}, "is not installed"),
        (False, {}, "ended without any"),
        (False, {"AWS_PROFILE": "nobody"}, "ProfileNotFound"),
        (True, {"AWS_ACCESS_KEY_ID": "only half"}, "not both set"),
    ],
)
def test_no_credentials(run_python: RunPython, hide: bool, environ: dict[str, str], found: str) -> None:
    """Without credentials nothing is sent, and the message says what was looked at and what to set."""
    code = f"""
import os, sys
if {hide}:
    sys.modules["botocore"] = None
from lazydeps._sources import open_source
from lazydeps.errors import ConfigError
try:
    open_source({URL!r}, os.environ).connect(timeout=5).get(0, 10)
except ConfigError as error:
    print(error)
"""
    told = run_python(code, environ=environ).stdout
    assert "AWS_SECRET_ACCESS_KEY" in told
    assert found in told
    assert "role" in told


def test_line_break_in_a_secret() -> None:
    """A key copied with its line break could smuggle a header; it is refused before anything is sent."""
    with ScriptedServer(ranged) as server:
        environ = {**KEYS, "AWS_SESSION_TOKEN": "swordfish\r\nX-Evil: 1", "AWS_ENDPOINT_URL": server.endpoint}
        with pytest.raises(ConfigError, match="line break") as caught:
            fetch(URL, environ, 0, 10)
        assert not server.requests
    assert "Evil" not in str(caught.value)


@pytest.mark.parametrize(
    ("bucket", "environ", "address"),
    [
        ("b-1", {}, "https://b-1.s3.us-east-1.amazonaws.com/k"),
        ("b-1", {"AWS_DEFAULT_REGION": "eu-west-1"}, "https://b-1.s3.eu-west-1.amazonaws.com/k"),
        ("b-1", {"AWS_REGION": "eu-west-2", "AWS_DEFAULT_REGION": "x"}, "https://b-1.s3.eu-west-2.amazonaws.com/k"),
        ("b-1", {"AWS_REGION": "cn-north-1"}, "https://b-1.s3.cn-north-1.amazonaws.com.cn/k"),
        ("b.dot", {}, "https://s3.us-east-1.amazonaws.com/b.dot/k"),
        ("Old_Name", {}, "https://s3.us-east-1.amazonaws.com/Old_Name/k"),
        ("b-1", {"AWS_ENDPOINT_URL": "http://h:9000"}, "http://h:9000/b-1/k"),
        ("b-1", {"AWS_ENDPOINT_URL_S3": "https://s", "AWS_ENDPOINT_URL": "http://h"}, "https://s/b-1/k"),
        (
            "b-1",
            {"AWS_ENDPOINT_URL": "http://h", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "TRUE"},
            "https://b-1.s3.us-east-1.amazonaws.com/k",
        ),
    ],
)
def test_endpoints(bucket: str, environ: dict[str, str], address: str) -> None:
    """Endpoint, region and addressing style follow the SDK's variables."""
    target = S3Source(f"s3://{bucket}/k", environ).target()
    assert f"{target.scheme}://{target.authority}{target.path}" == address


@pytest.mark.parametrize(
    "url", ["s3://arn:aws:s3:us-east-1:1:accesspoint/k", "s3://b@evil.example/k", "s3://b?/k", "s3://ü/k"]
)
def test_buckets_that_are_none(url: str) -> None:
    """A bucket's name cannot become another host."""
    with pytest.raises(ConfigError, match="BUCKET/KEY"):
        open_source(url, {})


def test_regions_that_are_none() -> None:
    """A region's name cannot become another host."""
    with pytest.raises(ConfigError, match="AWS_REGION"):
        S3Source(URL, {"AWS_REGION": "evil.example/"}).target()


@pytest.mark.parametrize("status", [301, 307, 400])
def test_bucket_in_another_region(status: int) -> None:
    """S3 names the bucket's region: the request is signed for it and sent again, later ones are right at once."""

    def script(request: Request) -> Answer:
        if "/eu-north-1/" in request.headers["authorization"]:
            return ranged(request)
        return answer(status, b"<Error><Code>PermanentRedirect</Code></Error>", x_amz_bucket_region="eu-north-1")

    with ScriptedServer(script) as server:
        source = open_source(URL, {**KEYS, "AWS_ENDPOINT_URL": server.endpoint})
        for _ in range(2):
            connection = source.connect(timeout=5)
            assert read(connection.get(0, 10)) == CONTENT[:10]
            connection.close()
        assert len(server.requests) == 3
    assert isinstance(source, S3Source)
    assert source.region == "eu-north-1"


def test_region_in_the_body_only() -> None:
    """AuthorizationHeaderMalformed names the region in its XML."""

    def script(request: Request) -> Answer:
        if "/eu-north-1/" in request.headers["authorization"]:
            return ranged(request)
        text = b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-north-1</Region></Error>"
        return answer(400, text)

    with ScriptedServer(script) as server:
        assert fetch(URL, {**KEYS, "AWS_ENDPOINT_URL": server.endpoint}, 0, 10) == CONTENT[:10]


def test_region_changes_the_host() -> None:
    """Without a custom endpoint the region is part of the host that is asked next."""
    source = S3Source(URL, KEYS)

    class Moved:
        status, region = 301, "eu-north-1"

    target = source.follow(source.target(), Moved)  # type: ignore[arg-type]
    assert target is not None
    assert target.host == "the-bucket.s3.eu-north-1.amazonaws.com"


@pytest.mark.parametrize("region", ["us-east-1", "evil.example/", ""])
def test_region_that_is_no_news(region: str) -> None:
    """A redirect to where we are, to nowhere or to another host is an error and no loop."""
    with ScriptedServer(
        lambda request: answer(301, x_amz_bucket_region=region, Location="http://evil.example")
    ) as server:
        error = failure(server)
        assert len(server.requests) == 1
    assert error.status == 301


def test_two_servers_that_send_us_to_and_fro() -> None:
    """Regions that contradict one another end in an error."""

    def script(request: Request) -> Answer:
        return answer(301, x_amz_bucket_region="eu-west-1" if request.number % 2 else "eu-west-2")

    with ScriptedServer(script) as server:
        assert failure(server).status == 301
        assert len(server.requests) == 6


@pytest.mark.parametrize(
    ("region", "arn"),
    [
        ("us-east-1", "arn:aws:s3:::the-bucket/packs/science.tar.zst"),
        ("cn-north-1", "arn:aws-cn:s3:::the-bucket/packs/science.tar.zst"),
        ("us-gov-west-1", "arn:aws-us-gov:s3:::the-bucket/packs/science.tar.zst"),
    ],
)
def test_access_denied(region: str, arn: str) -> None:
    """The missing permission and its resource are named, and what else looks like this."""
    with ScriptedServer(lambda request: s3_error(403, "AccessDenied")) as server:
        error = failure(server, AWS_REGION=region)
    assert "s3:GetObject" in str(error)
    assert arn in str(error)
    assert "s3:ListBucket" in str(error)
    assert (error.status, error.request_id, error.retryable) == (403, "REQUEST-1", False)


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "RequestTimeTooSkewed", "clock is wrong: it says .* GMT and S3's says Fri, 01 Jan 2100"),
        (400, "ExpiredToken", "credentials have expired .*AWS_SESSION_TOKEN"),
        (400, "InvalidToken", "AWS_SESSION_TOKEN"),
        (403, "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY.*us-east-1"),
        (403, "InvalidObjectState", "InvalidObjectState"),
        (400, "InvalidRequest", "InvalidRequest"),
        (404, "NoSuchBucket", "the bucket the-bucket does not exist"),
    ],
)
def test_refusals(status: int, code: str, message: str) -> None:
    """Each of S3's codes says what is wrong and what to set; none of these passes by itself."""
    with ScriptedServer(lambda request: s3_error(status, code, Date="Fri, 01 Jan 2100 00:00:00 GMT")) as server:
        error = failure(server)
    assert not error.retryable
    assert error.status == status
    with pytest.raises(FetchError, match=message):
        raise error


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError"), (503, "ServiceUnavailable")])
def test_failures_that_pass(status: int, code: str) -> None:
    """They are retryable, with the pause that S3 asks for; the code is told, S3's message is not."""
    with ScriptedServer(lambda request: s3_error(status, code, Retry_After="3")) as server:
        error = failure(server)
    assert (error.retryable, error.retry_after, error.status) == (True, 3.0, status)
    assert code in str(error)


@pytest.mark.parametrize("body", [b"<Error><Code>" + b"A" * 100_000, b"<Code>hunter2 <b></Code>", b"\xff\xfe", b""])
def test_error_bodies_of_any_kind(body: bytes) -> None:
    """An endless, odd or empty error body changes nothing about what is said."""
    with ScriptedServer(lambda request: answer(500, body)) as server:
        assert failure(server).retryable


def test_error_body_that_breaks_off() -> None:
    """The status is enough where the XML does not come."""
    with ScriptedServer(lambda request: answer(403, b"<Er", length=500, then="close")) as server:
        assert "s3:GetObject" in str(failure(server))
