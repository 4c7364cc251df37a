"""Faults of the server and the network, each met by a real process that imports from a real pack over HTTP.

A case is what the server does and what must come of it: the right modules, or one clear error. What holds for all of
them (nothing hangs, nothing is left behind, no secret is told, the store can be used again) is in `support_faults`.
"""

from __future__ import annotations

import gzip
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from support_faults import (
    HANGS,
    QUERY,
    RENEWED,
    SECRETS,
    Asked,
    FaultyServer,
    Starts,
    always,
    another_object,
    behind_the_head,
    by_turns,
    chunked,
    cut,
    elsewhere,
    faulty_pack,
    other_range,
    passing,
    refuse,
    say,
    to_and_fro,
    trickle,
    whole,
    with_body,
    with_headers,
)
from support_http import ETAG, Answer, answer, certificate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import RunPython
    from support_faults import Script

    from lazydeps.build.write import Written

BOTH = ("fork", "threads")
ENDLESS = 1.0
"""Seconds that a load gets where the fault would never end."""
PATIENCE = 150.0
"""Seconds that a process gets where each of several tries may take its full time."""
ONE = {"LAZYDEPS_CONNECTIONS": "1"}
LENGTH = rb"Content-Length: \d+"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n" * 500
"""At ten bytes a second, 20 minutes."""
LATE = f"the pack did not arrive within the {ENDLESS} seconds"
BROKEN = ("the connection to 127.0.0.1", "This passes as a rule; if not, check what stands between.")
DENIED = ("Allow the role s3:GetObject on arn:aws:s3:::packs/science/p.tar.zst", "REQUEST-1")
SWAPPED = ("changed while it was read", "Give each pack a name of its own")
OTHER_REGION = "the refused request's region is compared with what another connection has found meanwhile"
LESS = "an answer of the wrong length is always said to be too short"
HEADERS = "the headers of an answer have a bound for their size and none for their time"


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> tuple[Written, int]:
    """The pack that every case imports from."""
    return faulty_pack(tmp_path_factory.mktemp("network"))


@pytest.fixture
def starts(run_python: RunPython, pack: tuple[Written, int], tmp_path: Path) -> Starts:
    """Starts over a store of the test's own."""
    return Starts(run_python, *pack, tmp_path / "lazydeps")


@dataclass(frozen=True)
class Case:
    """What a server does, and what must come of it."""

    script: Script
    words: tuple[str, ...] | str = ()
    """What the error says, or nothing where the import succeeds."""
    status: int | None = None
    kind: str = "FetchError"
    timeout: float | None = None
    environ: dict[str, str] = field(default_factory=dict)
    hosts: tuple[str, ...] = ("fork", "threads")
    """Both, unless the host makes no difference: several tries take a second or so."""
    xfail: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """How to start."""
        return {"environ": self.environ, **({} if self.timeout is None else {"timeout": self.timeout})}


def params(cases: dict[str, Case]) -> list[Any]:
    """Return each case with each of its hosts."""
    return [
        pytest.param(case, host, id=f"{name}, {host}", marks=known(case.xfail) if case.xfail else ())
        for name, case in cases.items()
        for host in case.hosts
    ]


def known(reason: str) -> pytest.MarkDecorator:
    """Return the mark of a known defect."""
    return pytest.mark.xfail(strict=True, reason=reason)


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
    "another region, one connection, 307": Case(elsewhere(307), environ=ONE),
    "another region, one connection, 400": Case(elsewhere(400), environ=ONE),
    "reset before an answer": Case(passing(say(b"", "reset"))),
    "reset in a body": Case(passing(cut(100_000, "reset"))),
    "closed before an answer": Case(passing(say(b""))),
    "short bodies": Case(passing(cut(100_000, "close"))),
    "long bodies": Case(always(with_body(lambda body: body + b"x" * 1000, length=False))),
    "kept connections are closed": Case(lambda asked: Answer(asked.good().data, "close"), environ=ONE),
    "whole object at once": Case(whole, environ=ONE),
    "whole object at every request": Case(whole),
    "whole object, said to be longer": Case(
        lambda asked: answer(200, asked.content, then="hang", length=10**12, ETag=ETAG)
    ),
    "weak ETags": Case(always(with_headers(b"ETag: ", b"ETag: W/"))),
    "no ETags": Case(always(with_headers(b"ETag: .*\r\n", b""))),
    "no length": Case(always(with_headers(LENGTH, b"Content-Length: -5", "close"))),
    "length of 5,000 digits": Case(always(with_headers(LENGTH, b"Content-Length: " + b"9" * 5000, "close"))),
    "total too large": Case(always(with_headers(rb"/\d+\r", b"/999999999999999999\r"))),
    "chunks": Case(chunked),
    "labelled as gzip": Case(always(with_headers(b"ETag: ", b"Content-Encoding: gzip\r\nETag: "))),
    "interim answers": Case(lambda asked: Answer(CONTINUE[: 25 * 3] + asked.good().data)),
}
FAILS = {
    "denied": Case(always(refuse(403, "AccessDenied")), DENIED, 403),
    "denied behind the head": Case(behind_the_head(refuse(403, "AccessDenied")), DENIED, 403),
    "no such key": Case(
        always(refuse(404, "NoSuchKey")), ("the key science/p.tar.zst in packs", "`lazydeps push`"), 404
    ),
    "no such bucket": Case(always(refuse(404, "NoSuchBucket")), ("the bucket packs does not exist", "Check"), 404),
    "deleted behind the head": Case(behind_the_head(refuse(404, "NoSuchKey")), "does not exist. Check", 404),
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
    "another ETag each time": Case(lambda asked: asked.good(etag=f'"{asked.request.number}"'), SWAPPED, 412),
    "another object from the start": Case(
        always(another_object(ETAG)), ("this is not a lazydeps pack", "lazydeps pack"), kind="PackFormatError"
    ),
    "an empty object": Case(
        always(refuse(416, "InvalidRange", Content_Range="bytes */0")), ("has 0 bytes", "Push the pack again"), 416
    ),
    "a shorter object": Case(
        behind_the_head(refuse(416, "InvalidRange", Content_Range="bytes */7")), ("has 7 bytes", "Push the"), 416
    ),
    "500 for ever": Case(always(refuse(500, "InternalError")), ("answered 500 (InternalError)",), 500),
    "500 for ever behind the head": Case(
        behind_the_head(refuse(500, "InternalError")), "answered 500", 500, hosts=FORK
    ),
    "sent to and fro": Case(to_and_fro, ("redirects more than 5 times", "Check"), 301, environ=ONE),
    "clock is wrong": Case(
        always(refuse(403, "RequestTimeTooSkewed", Date="Tue, 01 Jan 2030 00:00:00 GMT")),
        ("this machine's clock is wrong", " GMT and S3's says Tue, 01 Jan 2030 00:00:00 GMT", "Set the clock"),
        403,
    ),
    "credentials expired": Case(
        always(refuse(400, "ExpiredToken")), ("have expired", "Renew AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"), 400
    ),
    "wrong key": Case(always(refuse(403, "SignatureDoesNotMatch")), ("is not valid there", "Check both"), 403),
    "reset before an answer": Case(always(say(b"", "reset")), BROKEN),
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
    "more bytes than the range": Case(
        with_body(lambda body: body + b"x" * 1000), ("another length",), 206, hosts=FORK, xfail=LESS
    ),
    "length far too large": Case(
        with_headers(LENGTH, b"Content-Length: 1" + b"0" * 18), ("another length",), 206, hosts=FORK, xfail=LESS
    ),
    "compressed on the way": Case(
        with_body(gzip.compress, extra=b"Content-Encoding: gzip\r\n"), ("gzip",), 206, hosts=FORK, xfail=LESS
    ),
    "compressed at rest": Case(
        lambda asked: asked.good(gzip.compress(asked.content, 1)),
        ("this is not a lazydeps pack",),
        kind="PackFormatError",
    ),
    "several parts": Case(
        lambda asked: answer(206, b"--B\r\n\r\n--B--\r\n", Content_Type="multipart/byteranges; boundary=B"),
        ("another range than was asked for", "Serve it by S3"),
        206,
    ),
    "broken chunks": Case(
        lambda asked: Answer(chunked(asked).data[:2000] + b"xyz\r\n", "close"), BROKEN, hosts=THREADS
    ),
    "no range in the answer": Case(
        lambda asked: answer(206, b"", ETag=ETAG), ("another range than was asked for", "Serve it by S3"), 206
    ),
    "no length and no range": Case(
        lambda asked: Answer(whole(asked).data.replace(b"Content-Length: ", b"Content-Length: -"), "close"),
        ("does not say how long the object is", "Serve it with a Content-Length"),
        200,
    ),
    "ranges ignored behind the head": Case(
        behind_the_head(whole), ("ignores ranges", "a web server that answers range requests"), 200
    ),
    "204": Case(lambda asked: answer(204), ("answered 204 instead of the bytes", "Check the address"), 204),
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
@pytest.mark.parametrize("script", WITHOUT_END.values(), ids=WITHOUT_END)
def test_refusals_without_end(starts: Starts, script: Script, host: str) -> None:
    """What is met with patience is met with as much as there is time for. Then the error is what came last."""
    with FaultyServer(starts.pack, script) as server:
        error = starts.fails(starts.s3(), server.endpoint, server=server, host=host, timeout=ENDLESS)
    assert error["type"] == "FetchError"
    assert any(words in error["message"] for words in ("503 (SlowDown). This passes", LATE, BROKEN[1]))


def expect(
    error: dict[str, Any], words: tuple[str, ...] | str, kind: str = "FetchError", status: int | None = None
) -> None:
    """Compare an error with what it should be."""
    assert (error["type"], error.get("status")) == (kind, status), error["message"]
    for part in (words,) if isinstance(words, str) else words:
        assert part in error["message"]


@pytest.mark.parametrize("host", BOTH)
@pytest.mark.parametrize("status", [301, 307])
@known(OTHER_REGION)
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


@pytest.mark.xfail(strict=True, reason="the report repeats the reference as it was given, query and all")
def test_the_report_of_a_presigned_address(starts: Starts) -> None:
    """The report names the address without what signs it, as errors do: people log reports."""
    with FaultyServer(starts.pack, Asked.good) as server:
        seen = starts.run(starts.web(server.endpoint), "", server=server)
    assert "PRESIGNED" not in str(seen["report"])


# -- no server, or one that cannot be talked to


@contextmanager
def listening(reply: bytes | None = None, *, backlog: int = 100) -> Iterator[int]:
    """Listen on a port; answer whatever comes with ``reply`` if there is one, else accept nobody."""
    with socket.create_server(("127.0.0.1", 0), backlog=backlog) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(reply or b"")

        thread = threading.Thread(target=serve if reply is not None else lambda: None)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@contextmanager
def deaf() -> Iterator[int]:
    """Listen on a port whose queue is full: no connection is ever made, and none refused."""
    with listening(backlog=0) as port, socket.create_connection(("127.0.0.1", port)):
        yield port


@pytest.mark.parametrize("host", BOTH)
def test_a_name_that_nobody_knows(starts: Starts, host: str) -> None:
    """A name that does not resolve is named, with what decides it."""
    error = starts.fails(starts.s3(), "http://s3.invalid", host=host)
    expect(error, ("the name s3.invalid cannot be resolved", "Check bucket, region and endpoint", "DNS settings"))


@pytest.mark.parametrize("host", BOTH)
def test_a_closed_port(starts: Starts, host: str) -> None:
    """A server that is not there says so at once, and the error says where it should be."""
    with listening() as port:
        pass
    error = starts.fails(starts.s3(), f"http://127.0.0.1:{port}", host=host)
    expect(error, (f"127.0.0.1:{port} refuses connections", "Check AWS_ENDPOINT_URL"))


@pytest.mark.parametrize("host", BOTH)
def test_a_server_that_never_accepts(starts: Starts, host: str) -> None:
    """A load ends with its timeout while it is connecting, too."""
    with deaf() as port:
        expect(starts.fails(starts.s3(), f"http://127.0.0.1:{port}", host=host, timeout=ENDLESS), LATE)


@pytest.mark.parametrize("host", BOTH)
def test_a_handshake_that_hangs(starts: Starts, host: str) -> None:
    """A load ends with its timeout while TLS is being negotiated, too."""
    with listening() as port:
        expect(starts.fails(starts.s3(), f"https://localhost:{port}", host=host, timeout=ENDLESS), LATE)


@pytest.mark.parametrize("host", BOTH)
def test_an_authority_that_nobody_knows(starts: Starts, tmp_path: Path, host: str) -> None:
    """A certificate that is not trusted is final, and the error names the remedy, which helps."""
    context, _ = certificate(tmp_path)
    with FaultyServer(starts.pack, Asked.good, tls=context) as server:
        error = starts.fails(starts.s3(), server.endpoint, server=server, host=host)
        assert not server.requests, "a request was signed for somebody who is not trusted"
    expect(error, ("the certificate of localhost", "is not trusted", "set AWS_CA_BUNDLE", "this machine's clock"))


def test_an_authority_of_ones_own(starts: Starts, tmp_path: Path) -> None:
    """AWS_CA_BUNDLE makes an authority trusted."""
    context, bundle = certificate(tmp_path)
    with FaultyServer(starts.pack, Asked.good, tls=context) as server:
        environ = {"AWS_CA_BUNDLE": str(bundle)}
        assert starts.run(starts.s3(), server.endpoint, server=server, environ=environ)["value"] == starts.total


@pytest.mark.parametrize("host", BOTH)
def test_no_tls_where_it_is_expected(starts: Starts, host: str) -> None:
    """A server that speaks plain HTTP at an https address gets no request, and is named."""
    with listening(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n") as port:
        error = starts.fails(starts.s3(), f"https://localhost:{port}", host=host)
    expect(error, (f"the connection to localhost:{port} failed", "check what stands between"))


# -- after the block, where the importing thread fetches


@pytest.mark.parametrize("host", BOTH)
def test_credentials_that_expire_are_read_again(starts: Starts, host: str) -> None:
    """After the error that says so, the program renews its credentials in `os.environ`; the next import succeeds."""

    def script(asked: Asked) -> Answer:
        renewed = asked.request.headers["x-amz-security-token"] == RENEWED["AWS_SESSION_TOKEN"]
        return asked.refused(400, "ExpiredToken") if asked.cold and not renewed else asked.good()

    after = f"ask(1)\nask(1)\nos.environ.update({RENEWED!r})\nask(1)\nask(2)"
    with FaultyServer(starts.pack, script) as server:
        first, second, *rest = starts.run(starts.s3(), server.endpoint, server=server, host=host, after=after)["later"]
    expect(first, ("have expired", "Renew AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN"), status=400)
    assert second == first
    assert rest == [1, 2]


ON_DEMAND = {
    "denied": Case(refuse(403, "AccessDenied"), DENIED, 403),
    "swapped": Case(another_object('"new"'), ("what its root promises",), kind="IntegrityError"),
    "500 for ever": Case(refuse(500, "InternalError"), ("answered 500",), 500),
    "short bodies": Case(cut(1000, "close"), (*BROKEN, "before the body did")),
    "no answer": Case(say(b"", "hang"), ("did not answer within",), timeout=ENDLESS),
    "a body that trickles": Case(trickle, ("sends too slowly",), timeout=ENDLESS),
}


@pytest.mark.parametrize("case", ON_DEMAND.values(), ids=ON_DEMAND)
def test_an_unforeseen_import_that_fails(starts: Starts, case: Case) -> None:
    """What fails on demand is the import's error, and nothing else's: what is there stays there."""

    def script(asked: Asked) -> Answer:
        return case.script(asked) if asked.cold else asked.good()

    after = "ask(1)\nlater.append(importlib.import_module('many.m3').N == many.m3.N)"
    with FaultyServer(starts.pack, script) as server:
        error, still = starts.run(starts.s3(), server.endpoint, server=server, after=after, **case.options)["later"]
    expect(error, case.words, case.kind, case.status)
    assert still is True
    with FaultyServer(starts.pack, Asked.good) as server:
        assert starts.run(starts.s3(), server.endpoint, server=server, host="none", after="ask(1)")["later"] == [1]


# -- without `timeout=`: what ends then ends by the bounds of single requests and tries


@pytest.mark.chaos
@pytest.mark.parametrize("host", BOTH)
def test_no_answer_without_a_timeout(starts: Starts, host: str) -> None:
    """A server that never answers is given up after five tries."""
    with FaultyServer(starts.pack, say(b"", "hang")) as server:
        error = starts.fails(starts.s3(), server.endpoint, server=server, host=host, hangs=PATIENCE)
    expect(error, ("did not answer within 5 seconds", "In a VPC, S3 needs a gateway endpoint"))


@pytest.mark.chaos
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_nobody_accepts_without_a_timeout(starts: Starts, scheme: str) -> None:
    """A server that never accepts, or never negotiates TLS, is given up after five tries."""
    with (deaf if scheme == "http" else listening)() as port:
        error = starts.fails(starts.s3(), f"{scheme}://localhost:{port}", hangs=PATIENCE)
    expect(error, ("did not answer within 5 seconds", "In a VPC, S3 needs a gateway endpoint"))


@pytest.mark.chaos
def test_bodies_that_trickle_without_a_timeout(starts: Starts) -> None:
    """A frame that does not come whole in its time is asked for anew, and given up after five tries."""
    with FaultyServer(starts.pack, behind_the_head(trickle)) as server:
        error = starts.fails(starts.s3(), server.endpoint, server=server, hangs=PATIENCE)
    expect(error, ("sends too slowly", "Look for a throttled link"))


@pytest.mark.chaos
def test_refusals_without_a_timeout(starts: Starts) -> None:
    """A source that refuses for ever is given up after a minute."""
    with FaultyServer(starts.pack, always(refuse(503, "SlowDown"))) as server:
        error = starts.fails(starts.s3(), server.endpoint, server=server, hangs=PATIENCE)
    expect(error, ("answered 503 (SlowDown)", "fewer sandboxes"), status=503)


@pytest.mark.chaos
@pytest.mark.parametrize("host", BOTH)
@known("the root's bytes are read without any bound")
def test_a_root_that_trickles_without_a_timeout(starts: Starts, host: str) -> None:
    """A root that comes a byte a second is given up like any frame."""
    with FaultyServer(starts.pack, trickle) as server:
        error = starts.fails(starts.s3(), server.endpoint, server=server, host=host, hangs=PATIENCE)
    expect(error, "too slowly")


@pytest.mark.chaos
@pytest.mark.parametrize("shape", ["headers", "interim answers"])
@known(HEADERS)
def test_headers_that_trickle_without_a_timeout(starts: Starts, shape: str) -> None:
    """Headers have a bound in time, whatever they are made of."""
    script: dict[str, Script] = {
        "headers": lambda asked: Answer(asked.good().data, pause=1),
        "interim answers": say(CONTINUE, "hang", pause=0.1),
    }
    with FaultyServer(starts.pack, script[shape]) as server:
        error = starts.fails(starts.s3(), server.endpoint, server=server, hangs=PATIENCE)
    expect(error, "")


@pytest.mark.chaos
@known("a source that alternates refusals with broken bodies is retried for ever")
def test_by_turns_refused_and_broken_without_a_timeout(starts: Starts) -> None:
    """Two faults that each may pass do not make one that lasts for ever."""
    with FaultyServer(starts.pack, behind_the_head(by_turns)) as server:
        error = starts.fails(starts.s3(), server.endpoint, server=server, hangs=PATIENCE)
    assert error["type"] == "FetchError"


@pytest.mark.chaos
@known("`stop` waits for a connect that is under way")
def test_an_error_in_the_block_while_connecting(starts: Starts, run_python: RunPython) -> None:
    """An error in the block ends the block, though the worker's threads wait for a server that never accepts."""
    code = f"""
import threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
import time, lazydeps
from lazydeps._config import Config
Config.__init__.__kwdefaults__["socket_timeout"] = 600.0
try:
    with lazydeps.load({starts.s3()!r}):
        time.sleep(0.3)
        raise KeyError
except KeyError:
    print([thread.name for thread in threading.enumerate() if thread.name == "lazydeps"])
"""
    with deaf() as port:
        variables = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", **SECRETS}
        assert run_python(code, environ=variables, timeout=HANGS).stdout == "[]\n"
