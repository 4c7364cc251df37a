"""Faults of the way to a server, and of fetching late: no server, one that cannot be talked to, on demand, without end.

What holds for every start is in `support_faults`; what a server may answer is the subject of `test_faults_network`.
"""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from support_faults import (
    BOTH,
    BROKEN,
    CONTINUE,
    DENIED,
    ENDLESS,
    HANGS,
    LATE,
    RENEWED,
    SECRETS,
    Asked,
    Case,
    FaultyServer,
    Starts,
    always,
    another_object,
    behind_the_head,
    by_turns,
    cut,
    expect,
    faulty_pack,
    refuse,
    say,
    trickle,
)
from support_http import Answer, certificate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import RunPython
    from support_faults import Script

    from lazydeps.build.write import Written

PATIENCE = 200.0
"""Seconds that a process gets where each of several tries may take its full time."""


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> tuple[Written, int]:
    """The pack that every case imports from."""
    return faulty_pack(tmp_path_factory.mktemp("network"))


@pytest.fixture
def starts(run_python: RunPython, pack: tuple[Written, int], tmp_path: Path) -> Starts:
    """Starts over a store of the test's own."""
    return Starts(run_python, *pack, tmp_path / "lazydeps")


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
    "no answer": Case(say(b"", "hang"), ("did not answer within",), timeout=2.0),
    "a body that trickles": Case(trickle, ("sends too slowly",), timeout=2.0),
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
def test_a_root_that_trickles_without_a_timeout(starts: Starts, host: str) -> None:
    """A root that comes a byte a second is given up like any frame."""
    with FaultyServer(starts.pack, trickle) as server:
        error = starts.fails(starts.s3(), server.endpoint, server=server, host=host, hangs=PATIENCE)
    expect(error, "too slowly")


@pytest.mark.chaos
@pytest.mark.parametrize("shape", ["headers", "interim answers"])
def test_headers_that_trickle_without_a_timeout(starts: Starts, shape: str) -> None:
    """Headers have a bound in time, whatever they are made of."""
    script: dict[str, Script] = {
        "headers": lambda asked: Answer(asked.good().data, pause=1),
        "interim answers": say(CONTINUE, "hang", pause=0.1),
    }
    with FaultyServer(starts.pack, script[shape]) as server:
        error = starts.fails(starts.s3(), server.endpoint, server=server, hangs=PATIENCE)
    expect(error, ("did not answer within 5 seconds",))


@pytest.mark.chaos
def test_by_turns_refused_and_broken_without_a_timeout(starts: Starts) -> None:
    """Two faults that each may pass do not make one that lasts for ever."""
    with FaultyServer(starts.pack, behind_the_head(by_turns)) as server:
        error = starts.fails(starts.s3(), server.endpoint, server=server, hangs=PATIENCE)
    assert error["type"] == "FetchError"


@pytest.mark.chaos
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
