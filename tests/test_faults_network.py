"""Faults of the server and the network, each met by a real process that imports from a real pack over HTTP.

A case is what the server does and what must come of it: the right modules, or one clear error. What holds for all of
them (nothing hangs, nothing is left behind, no secret is told, the store can be used again) is in `support_faults`.
"""

from __future__ import annotations

import gzip
import threading
from typing import TYPE_CHECKING

import pytest
from support_faults import (
    BOTH,
    BROKEN,
    CONTINUE,
    DENIED,
    ENDLESS,
    LATE,
    QUERY,
    Asked,
    Case,
    FaultyServer,
    Starts,
    always,
    another_object,
    behind_the_head,
    by_turns,
    chunked,
    cut,
    elsewhere,
    expect,
    faulty_pack,
    other_range,
    params,
    passing,
    refuse,
    say,
    to_and_fro,
    trickle,
    whole,
    with_body,
    with_headers,
)
from support_http import ETAG, Answer, answer

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import RunPython
    from support_faults import Script

    from lazydeps.build.write import Written

ONE = {"LAZYDEPS_CONNECTIONS": "1"}
LENGTH = rb"Content-Length: \d+"
SWAPPED = ("changed while it was read", "Give each pack a name of its own")


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> tuple[Written, int]:
    """The pack that every case imports from."""
    return faulty_pack(tmp_path_factory.mktemp("network"))


@pytest.fixture
def starts(run_python: RunPython, pack: tuple[Written, int], tmp_path: Path) -> Starts:
    """Starts over a store of the test's own."""
    return Starts(run_python, *pack, tmp_path / "lazydeps")


FORK, THREADS = ("fork",), ("threads",)
PASSES = {
    "nothing wrong": Case(Asked.good),
    "500 for a while": Case(passing(refuse(500, "InternalError"))),
    "503 for a while": Case(passing(refuse(503, "SlowDown"), 4)),
    "503 with a time": Case(passing(refuse(503, "SlowDown", Retry_After="1"), 1), environ=ONE),
    "503 with a date": Case(
        passing(refuse(503, "SlowDown", Retry_After="Tue, 01 Jan 2019 00:00:00 GMT"), 2), environ=ONE, hosts=THREADS
    ),
    "503 with a day": Case(passing(refuse(503, "SlowDown", Retry_After="86400"), 1), environ=ONE, hosts=FORK),
    "503 with nonsense": Case(passing(refuse(503, "SlowDown", Retry_After="soon"), 2), environ=ONE, hosts=THREADS),
    "429": Case(passing(refuse(429, "TooManyRequests"), 2), hosts=FORK),
    "another region, one connection, 301": Case(elsewhere(301), environ=ONE),
    "another region, one connection, 307": Case(elsewhere(307), environ=ONE, hosts=THREADS),
    "another region, one connection, 400": Case(elsewhere(400), environ=ONE, hosts=FORK),
    "reset before an answer": Case(passing(say(b"", "reset")), hosts=FORK),
    "reset in a body": Case(passing(cut(100_000, "reset"))),
    "closed before an answer": Case(passing(say(b""))),
    "short bodies": Case(passing(cut(100_000, "close"))),
    "long bodies": Case(always(with_body(lambda body: body + b"x" * 1000, length=False))),
    "whole object at once": Case(whole, environ=ONE),
    "whole object at every request": Case(whole),
    "whole object, said to be longer": Case(
        lambda asked: answer(200, asked.content, then="hang", length=10**12, ETag=ETAG)
    ),
    "weak ETags": Case(always(with_headers(b"ETag: ", b"ETag: W/")), hosts=FORK),
    "no ETags": Case(always(with_headers(b"ETag: .*\r\n", b"")), hosts=THREADS),
    "no length": Case(always(with_headers(LENGTH, b"Content-Length: -5", "close")), hosts=FORK),
    "length of 5,000 digits": Case(
        always(with_headers(LENGTH, b"Content-Length: " + b"9" * 5000, "close")), hosts=THREADS
    ),
    "total too large": Case(always(with_headers(rb"/\d+\r", b"/999999999999999999\r")), hosts=FORK),
    "chunks": Case(chunked),
    "labelled as gzip": Case(always(with_headers(b"ETag: ", b"Content-Encoding: gzip\r\nETag: ")), hosts=THREADS),
    "interim answers": Case(lambda asked: Answer(CONTINUE[: 25 * 3] + asked.good().data), hosts=FORK),
}
FAILS = {
    "denied": Case(always(refuse(403, "AccessDenied")), DENIED, 403),
    "denied behind the head": Case(behind_the_head(refuse(403, "AccessDenied")), DENIED, 403),
    "no such key": Case(
        always(refuse(404, "NoSuchKey")), ("the key science/p.tar.zst in packs", "`lazydeps push`"), 404, hosts=FORK
    ),
    "no such bucket": Case(
        always(refuse(404, "NoSuchBucket")), ("the bucket packs does not exist", "Check"), 404, hosts=THREADS
    ),
    "deleted behind the head": Case(
        behind_the_head(refuse(404, "NoSuchKey")), "does not exist. Check", 404, hosts=FORK
    ),
    "swapped": Case(
        behind_the_head(
            lambda asked: (
                asked.refused(412, "PreconditionFailed")
                if asked.request.headers.get("if-match") == ETAG
                else another_object('"new"')(asked)
            )
        ),
        SWAPPED,
        412,
    ),
    "swapped, If-Match ignored": Case(behind_the_head(another_object('"new"')), SWAPPED, 412),
    "swapped, the same ETag": Case(
        behind_the_head(another_object(ETAG)), ("what its root promises", "push the pack again"), kind="IntegrityError"
    ),
    "swapped, no ETag": Case(
        behind_the_head(another_object()), ("what its root promises", "push the pack again"), kind="IntegrityError"
    ),
    "another ETag each time": Case(
        lambda asked: asked.good(etag=f'"{asked.request.number}"'), SWAPPED, 412, hosts=THREADS
    ),
    "another object from the start": Case(
        always(another_object(ETAG)), ("this is not a lazydeps pack", "lazydeps pack"), kind="PackFormatError"
    ),
    "another pack": Case(
        lambda asked: asked.good(asked.content[:40] + b"?" + asked.content[41:]),
        ("is not the pinned one: expected root sha256:", "pin the reference that `lazydeps push` printed"),
        kind="IntegrityError",
    ),
    "an empty object": Case(
        always(refuse(416, "InvalidRange", Content_Range="bytes */0")),
        ("has 0 bytes", "Push the pack again"),
        416,
        hosts=FORK,
    ),
    "a shorter object": Case(
        behind_the_head(refuse(416, "InvalidRange", Content_Range="bytes */7")),
        ("has 7 bytes", "Push the"),
        416,
        hosts=THREADS,
    ),
    "500 for ever": Case(always(refuse(500, "InternalError")), ("answered 500 (InternalError)",), 500, hosts=THREADS),
    "500 for ever behind the head": Case(
        behind_the_head(refuse(500, "InternalError")), "answered 500", 500, hosts=FORK
    ),
    "sent to and fro": Case(to_and_fro, ("redirects more than 5 times", "Check"), 301, environ=ONE),
    "clock is wrong": Case(
        always(refuse(403, "RequestTimeTooSkewed", Date="Tue, 01 Jan 2030 00:00:00 GMT")),
        ("this machine's clock is wrong", " GMT and S3's says Tue, 01 Jan 2030 00:00:00 GMT", "Set the clock"),
        403,
        hosts=FORK,
    ),
    "credentials expired": Case(
        always(refuse(400, "ExpiredToken")),
        ("have expired", "Renew AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"),
        400,
        hosts=FORK,
    ),
    "wrong key": Case(
        always(refuse(403, "SignatureDoesNotMatch")), ("is not valid there", "Check both"), 403, hosts=THREADS
    ),
    "reset before an answer": Case(always(say(b"", "reset")), BROKEN, hosts=THREADS),
    "reset in a body": Case(behind_the_head(cut(50_000, "reset")), BROKEN, hosts=THREADS),
    "closed before an answer": Case(always(say(b"")), (*BROKEN, "closed instead of an answer"), hosts=FORK),
    "short bodies": Case(behind_the_head(cut(50_000, "close")), (*BROKEN, "before the body did"), hosts=THREADS),
    "bodies that stop coming": Case(behind_the_head(cut(50_000, "hang")), LATE, timeout=ENDLESS),
    "a root that stops coming": Case(cut(100, "hang"), LATE, timeout=ENDLESS),
    "bodies that trickle": Case(behind_the_head(trickle), LATE, timeout=ENDLESS),
    "a root that trickles": Case(trickle, LATE, timeout=ENDLESS),
    "headers that trickle": Case(lambda asked: Answer(asked.good().data, pause=1), LATE, timeout=ENDLESS),
    "headers without end": Case(
        say(b"HTTP/1.1 206 Whatever\r\n" + b"X-Pad: padding\r\n" * 20_000, "hang"),
        (*BROKEN, "headers are longer than 65536 bytes"),
        hosts=THREADS,
    ),
    "interim answers without end": Case(say(CONTINUE, "hang", pause=0.1), LATE, timeout=ENDLESS),
    "no answer": Case(say(b"", "hang"), LATE, timeout=ENDLESS),
    "no answer behind the head": Case(behind_the_head(say(b"", "hang")), LATE, timeout=ENDLESS),
    "fewer bytes than asked for": Case(other_range(-1000), ("sent less than it was asked for",), 206, hosts=FORK),
    "more bytes than asked for": Case(
        other_range(1000), ("another range than was asked for", "Serve it by S3"), 206, environ=ONE
    ),
    "more bytes than the range": Case(with_body(lambda body: body + b"x" * 1000), ("another length",), 206, hosts=FORK),
    "length far too large": Case(
        with_headers(LENGTH, b"Content-Length: 1" + b"0" * 18), ("another length",), 206, hosts=FORK
    ),
    "compressed on the way": Case(
        with_body(gzip.compress, extra=b"Content-Encoding: gzip\r\n"), ("gzip",), 206, hosts=FORK
    ),
    "compressed at rest": Case(
        lambda asked: asked.good(gzip.compress(asked.content[:100_000])),
        ("this is not a lazydeps pack",),
        kind="PackFormatError",
        hosts=THREADS,
    ),
    "several parts": Case(
        lambda asked: answer(206, b"--B\r\n\r\n--B--\r\n", Content_Type="multipart/byteranges; boundary=B"),
        ("another range than was asked for", "Serve it by S3"),
        206,
        hosts=FORK,
    ),
    "broken chunks": Case(
        lambda asked: Answer(chunked(asked).data[:2000] + b"xyz\r\n", "close"), BROKEN, hosts=THREADS
    ),
    "no range in the answer": Case(
        lambda asked: answer(206, b"", ETag=ETAG),
        ("another range than was asked for", "Serve it by S3"),
        206,
        hosts=THREADS,
    ),
    "no length and no range": Case(
        lambda asked: Answer(whole(asked).data.replace(b"Content-Length: ", b"Content-Length: -"), "close"),
        ("does not say how long the object is", "Serve it with a Content-Length"),
        200,
        hosts=FORK,
    ),
    "ranges ignored behind the head": Case(
        behind_the_head(whole), ("ignores ranges", "a web server that answers range requests"), 200
    ),
    "204": Case(
        lambda asked: answer(204), ("answered 204 instead of the bytes", "Check the address"), 204, hosts=THREADS
    ),
    "not HTTP": Case(say(b"SSH-2.0-OpenSSH_9.2\r\n"), (*BROKEN, "is not HTTP/1.1"), hosts=FORK),
    "HTTP/2": Case(say(b"\0\0\6\4\0\0\0\0\0\0\4\0\0\1\0"), (*BROKEN, "is not HTTP/1.1"), hosts=THREADS),
    "status that is no number": Case(say(b"HTTP/1.1 abc\r\n\r\n"), (*BROKEN, "is not HTTP/1.1"), hosts=FORK),
    "status too large": Case(say(b"HTTP/1.1 99999 No\r\n\r\n"), (*BROKEN, "is not HTTP/1.1"), hosts=THREADS),
}


WITHOUT_END = {
    "503": always(refuse(503, "SlowDown")),
    "503 with a time": always(refuse(503, "SlowDown", Retry_After="3600")),
    "503 behind the head": behind_the_head(refuse(503, "SlowDown")),
    "by turns refused and broken": by_turns,
}


@pytest.mark.parametrize(("case", "host"), params(PASSES))
def test_the_right_modules(starts: Starts, case: Case, host: str) -> None:
    """What passes, or is merely odd, costs time at most: the modules are the right ones."""
    with FaultyServer(starts.pack, case.script) as server:
        seen = starts.run(starts.s3(), server.endpoint, server=server, host=host, **case.options)
    assert seen["value"] == starts.total, seen["error"]


@pytest.mark.parametrize(("case", "host"), params(FAILS))
def test_one_clear_error(starts: Starts, case: Case, host: str) -> None:
    """What does not pass ends in one error of the right class, which says what was found and what to do."""
    with FaultyServer(starts.pack, case.script) as server:
        error = starts.fails(starts.s3(), server.endpoint, server=server, host=host, **case.options)
    expect(error, case.words, case.kind, case.status)


@pytest.mark.parametrize("host", BOTH)
def test_kept_connections_that_the_server_closes(starts: Starts, host: str) -> None:
    """A server may close a connection behind each answer: the next request takes another, and no try is lost."""
    with FaultyServer(starts.pack, lambda asked: Answer(asked.good().data, "close")) as server:
        seen = starts.run(starts.s3(), server.endpoint, server=server, host=host, environ=ONE)
    assert seen["value"] == starts.total
    assert seen["report"]["packs"][0]["retries"] == 0
    assert server.connections == len(server.requests) > 1


@pytest.mark.parametrize("host", BOTH)
@pytest.mark.parametrize("script", WITHOUT_END.values(), ids=WITHOUT_END)
def test_refusals_without_end(starts: Starts, script: Script, host: str) -> None:
    """What is met with patience is met with as much as there is time for. Then the error is what came last."""
    with FaultyServer(starts.pack, script) as server:
        error = starts.fails(starts.s3(), server.endpoint, server=server, host=host, timeout=ENDLESS)
    assert error["type"] == "FetchError"
    assert any(words in error["message"] for words in ("503 (SlowDown). This passes", LATE, BROKEN[1]))


@pytest.mark.parametrize("host", BOTH)
@pytest.mark.parametrize("status", [301, 307])
def test_another_region_told_to_all_connections(starts: Starts, host: str, status: int) -> None:
    """A bucket in another region is found there, also by a request that is told so after others have been."""
    known_by_others = threading.Event()

    def script(asked: Asked) -> Answer:
        if "/eu-west-1/s3/" in asked.request.headers["authorization"]:
            known_by_others.set()
        elif asked.head:
            known_by_others.wait(4)
        return elsewhere(status)(asked)

    with FaultyServer(starts.pack, script) as server:
        seen = starts.run(starts.s3(), server.endpoint, server=server, host=host)
    assert seen["value"] == starts.total, seen["error"]


@pytest.mark.parametrize("host", BOTH)
def test_redirects_without_end(starts: Starts, host: str) -> None:
    """A web server that always sends on is given up; where it sends to is signed, and not told."""
    with FaultyServer(starts.pack, lambda asked: answer(302, Location=f"/{asked.request.number}?{QUERY}")) as server:
        error = starts.fails(starts.web(server.endpoint), "", server=server, host=host)
    expect(error, ("redirects more than 5 times", "Check the address"), status=302)


@pytest.mark.parametrize("host", BOTH)
def test_a_presigned_address_that_expired(starts: Starts, host: str) -> None:
    """The error names the address without what signs it."""
    with FaultyServer(starts.pack, lambda asked: answer(403)) as server:
        error = starts.fails(starts.web(server.endpoint), "", server=server, host=host)
        expect(error, (f"{server.endpoint}/science/p.tar.zst answered 403", "may have expired"), status=403)


def test_the_report_of_a_presigned_address(starts: Starts) -> None:
    """The report names the address without what signs it, as errors do: people log reports."""
    with FaultyServer(starts.pack, Asked.good) as server:
        seen = starts.run(starts.web(server.endpoint), "", server=server)
    assert "PRESIGNED" not in str(seen["report"])


@pytest.mark.parametrize("pin", ["", "#root=sha256:123"], ids=["none", "malformed"])
def test_a_presigned_address_with_a_wrong_pin(run_python: RunPython, pin: str) -> None:
    """What is wrong with a reference is said without what signs it."""
    code = f"""
import lazydeps
try:
    lazydeps.load("https://packs.invalid/p.tar.zst?{QUERY}{pin}")
except lazydeps.ConfigError as error:
    print(error)
"""
    message = run_python(code).stdout
    assert "https://packs.invalid/p.tar.zst" in message
    assert "PRESIGNED" not in message
