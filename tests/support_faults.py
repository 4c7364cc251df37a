"""Faults that a server can have, and one start against each: what is held to hold whatever the fault was.

`Starts.run` is the only way in: a fresh process imports from a small real pack and reports what it saw. What a fault
must lead to is the business of the tests.
"""

from __future__ import annotations

import json
import random
import re
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support_http import ETAG, Answer, Request, ScriptedServer, answer, ranged
from support_packs import THREADS, check_store, pack_tree, write_tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import RunPython
    from support_http import Then

    from lazydeps.build.write import Written

    Script = Callable[["Asked"], Answer]

HANGS = 40.0
"""Seconds after which a process counts as hung. A bound, not a judgement of speed."""
BOTH = ("fork", "threads")
ENDLESS = 0.5
"""Seconds that a load gets where the fault would never end."""
LATE = f"the pack did not arrive within the {ENDLESS} seconds"
BROKEN = ("the connection to 127.0.0.1", "This passes as a rule; if not, check what stands between.")
DENIED = ("Allow the role s3:GetObject on arn:aws:s3:::packs/science/p.tar.zst", "REQUEST-1")
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n" * 500
"""At ten bytes a second, 20 minutes."""
BUCKET, KEY = "packs", "science/p.tar.zst"
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI-K7MDENG-bPxRfiCYSECRETKEY",
    "AWS_SESSION_TOKEN": "IQoJb3JpZ2luX2VjEAoaCXVzSESSIONTOKEN",
}
QUERY = "X-Amz-Credential=PRESIGNEDKEY%2F20260101&X-Amz-Signature=PRESIGNEDSIGNATURE"
RENEWED = {name: f"{value}-RENEWED" for name, value in SECRETS.items()}
SIGNATURE = re.compile(r"Signature=([0-9a-f]{64})")


def faulty_pack(folder: Path) -> tuple[Written, int]:
    """Write a pack of 1.7 MB, of which the first request brings a third. Return it, and what ``many.TOTAL`` must be."""
    noise = random.Random(11)
    texts = [noise.randbytes(60_000).hex() for _ in range(16)]
    files: dict[str, str | bytes] = {
        f"many/m{n}.py": f"import zlib\nN = zlib.crc32({text!r}.encode())\n" for n, text in enumerate(texts)
    }
    files["many/__init__.py"] = (
        f"TOTAL = sum(__import__(f'many.m{{n}}', fromlist=['N']).N for n in range({len(texts)}))\n"
    )
    boot = ["many/__init__.py", *(f"many/m{n}.py" for n in range(len(texts)))]
    for n in range(3):
        files[f"many/data{n}.bin"] = noise.randbytes(100_000)
        files[f"many/cold{n}.py"] = f"N = {n}\nTEXT = {noise.randbytes(60_000).hex()!r}\n"
    write_tree(folder / "tree", files)
    pack = pack_tree(folder / "p.tar.zst", folder / "tree", boot=boot)
    return pack, sum(zlib.crc32(text.encode()) for text in texts)


class Asked:
    """A request for the pack, and how a good server would answer it."""

    def __init__(self, request: Request, content: bytes, again: int, server: ScriptedServer) -> None:
        self.request = request
        self.content = content
        self.again = again
        """How often the same range had been asked for before."""
        self.server = server
        self.start, self.stop = request.span(content)

    @property
    def cold(self) -> bool:
        """Whether this is for the second half of the pack, of which only unforeseen imports need anything."""
        return self.start > len(self.content) // 2

    @property
    def head(self) -> bool:
        """Whether this is for the beginning of the pack, where the root is."""
        return self.start == 0

    def good(self, content: bytes | None = None, etag: str = ETAG) -> Answer:
        """Return the bytes asked for."""
        whole = self.content if content is None else content
        if self.start >= len(whole):
            return answer(416, Content_Range=f"bytes */{len(whole)}")
        return ranged(self.request, whole, etag)

    def refused(self, status: int, code: str, **headers: str) -> Answer:
        """Return an error in S3's words, which repeat what was signed with and what came, as S3's really do."""
        echoes = "".join(f"<Echo>{value}</Echo>" for value in [*self.request.headers.values(), *SECRETS.values()])
        text = f'<?xml version="1.0"?>\n<Error><Code>{code}</Code><Message>WORDS-OF-S3</Message>{echoes}</Error>'
        return answer(status, text.encode(), x_amz_request_id="REQUEST-1", **headers)


# -- what a server does: each returns a script


def always(bad: Script) -> Script:
    """Do it at every request."""
    return bad


def behind_the_head(bad: Script) -> Script:
    """Answer the requests for the root, and do it at the others."""
    return lambda asked: asked.good() if asked.head else bad(asked)


def passing(bad: Script, first: int = 8) -> Script:
    """Do it at the first few requests: one on each of six connections, and more."""
    return lambda asked: bad(asked) if asked.request.number < first else asked.good()


def refuse(status: int, code: str, **headers: str) -> Script:
    """Refuse as S3 does."""
    return lambda asked: asked.refused(status, code, **headers)


def say(data: bytes, then: Then = "close", *, pause: float = 0.0) -> Script:
    """Send this and nothing else."""
    return lambda asked: Answer(data, then, pause=pause)


def cut(count: int, then: Then) -> Script:
    """Promise everything, and send so many bytes of the body."""

    def script(asked: Asked) -> Answer:
        head, body = split(asked)
        return Answer(head + body[:count], then)

    return script


def trickle(asked: Asked) -> Answer:
    """Send the headers at once, and then a byte a second."""
    return Answer(asked.good().data, pause=1, at_once=len(split(asked)[0]))


def with_headers(old: bytes, new: bytes, then: Then = "keep") -> Script:
    """Answer well but for something in the headers."""

    def script(asked: Asked) -> Answer:
        head, body = split(asked)
        return Answer(re.sub(old, new, head) + body, then)

    return script


def with_body(change: Callable[[bytes], bytes], *, length: bool = True, extra: bytes = b"") -> Script:
    """Answer another body under the range that was asked for.

    Args:
        change: makes the body from the good one.
        length: whether Content-Length is the new body's.
        extra: more header lines.
    """

    def script(asked: Asked) -> Answer:
        head, body = split(asked)
        body = change(body)
        if length:
            head = re.sub(rb"Content-Length: \d+", b"Content-Length: %d" % len(body), head)
        return Answer(head[:-2] + extra + b"\r\n" + body)

    return script


def other_range(more: int) -> Script:
    """Answer, consistently, more bytes than were asked for, or fewer."""

    def script(asked: Asked) -> Answer:
        body = asked.content[asked.start : asked.stop + more]
        span = f"bytes {asked.start}-{asked.start + len(body) - 1}/{len(asked.content)}"
        return answer(206, body, Content_Range=span, ETag=ETAG)

    return script


def another_object(etag: str = "") -> Script:
    """Serve an object of the same size, under this ETag or none."""

    def script(asked: Asked) -> Answer:
        good = asked.good(bytes(len(asked.content)), etag)
        return good if etag else Answer(good.data.replace(b"\r\nETag: ", b"", 1))

    return script


def chunked(asked: Asked) -> Answer:
    """Send the body in one chunk."""
    head, body = split(asked)
    head = head.replace(b"Content-Length", b"Transfer-Encoding: chunked\r\nX-Length")
    return Answer(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))


def whole(asked: Asked) -> Answer:
    """Ignore the range."""
    return answer(200, asked.content, ETag=ETAG)


def elsewhere(status: int) -> Script:
    """Be a bucket in eu-west-1, and say so to whoever signs for another region."""

    def script(asked: Asked) -> Answer:
        if "/eu-west-1/s3/" in asked.request.headers["authorization"]:
            return asked.good()
        return asked.refused(status, "PermanentRedirect", x_amz_bucket_region="eu-west-1")

    return script


def to_and_fro(asked: Asked) -> Answer:
    """Be in two regions, and in each of them say that it is the other one."""
    there = "us-west-2" if "/eu-west-1/s3/" in asked.request.headers["authorization"] else "eu-west-1"
    return asked.refused(301, "PermanentRedirect", x_amz_bucket_region=there)


def by_turns(asked: Asked) -> Answer:
    """Refuse, and break off, and refuse."""
    return cut(100_000, "close")(asked) if asked.again % 2 else asked.refused(503, "SlowDown")


def split(asked: Asked) -> tuple[bytes, bytes]:
    """Return the headers and the body of a good answer."""
    head, blank, body = asked.good().data.partition(b"\r\n\r\n")
    return head + blank, body


class FaultyServer(ScriptedServer):
    """A server of the pack, which answers as it is told."""

    def __init__(self, pack: Written, script: Script, **options: Any) -> None:
        content, tries = pack.path.read_bytes(), Counter[int]()

        def reply(request: Request) -> Answer:
            asked = Asked(request, content, tries[request.span(content)[0]], self)
            tries[asked.start] += 1
            return script(asked)

        super().__init__(reply, **options)


PROGRAM = """
import importlib, json, os, sys, threading, traceback
import lazydeps
asked = json.loads(sys.argv[1])
before = set(threading.enumerate())
value = error = None
later = []
def note(caught):
    traceback.print_exc(file=sys.stdout)  # what a log would show
    cause = caught.__cause__ or (None if caught.__suppress_context__ else caught.__context__)
    second = isinstance(cause, lazydeps.LazydepsError)
    return {"type": type(caught).__name__, "message": str(caught), "second": second, **caught.facts()}
def ask(number):
    try:
        later.append(importlib.import_module(f"many.cold{number}").N)
    except lazydeps.LazydepsError as caught:
        later.append(note(caught))
try:
    with lazydeps.load(asked["ref"], **asked["options"]):
        import many
    value = many.TOTAL
except lazydeps.LazydepsError as caught:
    error = note(caught)
AFTER
children = []
for task in os.listdir("/proc/self/task"):
    try:
        children += open(f"/proc/self/task/{task}/children").read().split()
    except OSError:
        pass  # a thread that has been joined leaves the system a moment later
links = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}")]
print(json.dumps({
    "value": value,
    "error": error,
    "later": later,
    "report": lazydeps.report().as_dict(),
    "children": children,
    "threads": [thread.name for thread in threading.enumerate() if thread not in before],
    "sockets": [link for link in links if link.startswith("socket:")],
    "half": "many" in sys.modules and not hasattr(sys.modules["many"], "TOTAL"),
}))
"""


class Starts:
    """Starts of one test in one store."""

    def __init__(self, run_python: RunPython, pack: Written, total: int, store: Path) -> None:
        self._run_python = run_python
        self.pack = pack
        self.total = total
        """What a whole import computes."""
        self.store = store

    def s3(self) -> str:
        """Return the reference of the pack in S3."""
        return f"s3://{BUCKET}/{KEY}#root={self.pack.root}"

    def web(self, address: str) -> str:
        """Return the reference of the pack at a presigned address."""
        return f"{address}/{KEY}?{QUERY}#root={self.pack.root}"

    def run(
        self,
        ref: str,
        endpoint: str,
        *,
        server: ScriptedServer | None = None,
        host: str = "fork",
        after: str = "",
        environ: dict[str, str] | None = None,
        hangs: float = HANGS,
        **options: Any,
    ) -> dict[str, Any]:
        """Start, import, end; check what must hold whatever happened, and return what was seen.

        Args:
            ref: what to load.
            endpoint: the URL that stands for S3.
            server: what answers, if it is ours: its requests tell which signatures must stay secret.
            host: where the worker is to run, ``fork`` or ``threads``; ``none`` if everything has landed before.
            after: code behind the block, where ``ask(N)`` imports ``many.coldN`` and notes how that ended.
            environ: more variables.
            hangs: seconds that the process gets.
            options: those of `lazydeps.load`.
        """
        code = (THREADS if host == "threads" else "") + PROGRAM.replace("AFTER", after)
        variables = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": endpoint}
        done = self._run_python(
            code,
            json.dumps({"ref": ref, "options": options}),
            environ={**variables, **SECRETS, **(environ or {})},
            timeout=hangs,
        )
        # What a program passes in, it gets back: that the report's `ref` is cut is a test of its own.
        output = done.stdout.replace(json.dumps(ref), "")
        self._check_secrets(output + done.stderr, server)
        assert done.stderr == "", "something else was said than the one error"
        seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        left = {name: seen[name] for name in ("children", "threads", "sockets", "half")}
        assert left == {"children": [], "threads": [], "sockets": [], "half": False}
        assert (seen["value"] is None) == (seen["error"] is not None), seen
        assert seen["value"] in (None, self.total)
        assert seen["report"]["packs"][0]["host"] == host
        for error in (seen["error"], *seen["later"]):
            assert not isinstance(error, dict) or not error["second"], "one error would do"
        check_store(self.store, self.pack)
        return seen

    def fails(self, ref: str, endpoint: str, **options: Any) -> dict[str, Any]:
        """Start, fail, and start again in the same store with a good server. Return the error."""
        error = self.run(ref, endpoint, **options)["error"]
        assert error is not None, "nothing was raised"
        with FaultyServer(self.pack, Asked.good) as good:
            assert self.run(self.s3(), good.endpoint, server=good)["value"] == self.total
        return dict(error)

    def _check_secrets(self, output: str, server: ScriptedServer | None) -> None:
        """Nothing that signs, or is signed, is in what the process wrote, on its outputs or in its store."""
        secrets = {*SECRETS.values(), "PRESIGNED", "WORDS-OF-S3"}
        for request in server.requests if server else ():
            secrets.update(SIGNATURE.findall(request.headers.get("authorization", "")))
        for secret in secrets:
            assert secret not in output
            for path in self.store.rglob("*"):
                assert not path.is_file() or secret.encode() not in path.read_bytes(), path


# -- what must come of it


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

    @property
    def options(self) -> dict[str, Any]:
        """How to start."""
        return {"environ": self.environ, **({} if self.timeout is None else {"timeout": self.timeout})}


def params(cases: dict[str, Case]) -> list[Any]:
    """Return each case with each of its hosts."""
    return [
        pytest.param(case, host, id=f"{name.replace(' ', '-')}-{host}")
        for name, case in cases.items()
        for host in case.hosts
    ]


def expect(
    error: dict[str, Any], words: tuple[str, ...] | str, kind: str = "FetchError", status: int | None = None
) -> None:
    """Compare an error with what it should be."""
    assert (error["type"], error.get("status")) == (kind, status), error["message"]
    for part in (words,) if isinstance(words, str) else words:
        assert part in error["message"]
