"""`lazydeps push` against a real S3 server: what it sends, what it never replaces, and what it says."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import pty
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from support_command import COMMAND, command_environ, lazydeps, lazydeps_error, lazydeps_json
from support_packs import ARCH, pack_tree, write_tree

from lazydeps.build.push import PART, PushOptions, push
from lazydeps.build.upload import Content, UploadInterruptedError, is_same_part
from lazydeps.errors import ConfigError, FetchError, IntegrityError

if TYPE_CHECKING:
    from conftest import Bucket, RunPython

    from lazydeps.build.write import Written


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A pack that fits one request."""
    folder = tmp_path_factory.mktemp("pack")
    write_tree(folder / "tree", {"alpha.py": "A = 1\n", "data.bin": random.Random(1).randbytes(50_000)})
    return pack_tree(folder / "p.tar.zst", folder / "tree", boot=["alpha.py"])


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Written]:
    """A pack of three parts, of bytes that do not compress."""
    folder = tmp_path_factory.mktemp("large")
    write_tree(folder / "tree", {"alpha.py": "A = 1\n", "data.bin": random.Random(2).randbytes(2 * PART + 12_345)})
    written = pack_tree(folder / "p.tar.zst", folder / "tree", boot=["alpha.py"])
    yield written
    written.path.unlink()


def key_of(pack: Written, prefix: str = "packs/") -> str:
    """Return the key that a pack is pushed under."""
    return f"{prefix}{pack.root.removeprefix('sha256:')}.tar.zst"


def keys_in(bucket: Bucket) -> list[str]:
    """Return the keys of a bucket."""
    return [entry["Key"] for entry in bucket.client.list_objects_v2(Bucket=bucket.name).get("Contents", ())]


def content_of(bucket: Bucket, key: str) -> bytes:
    """Return an object's content."""
    return bytes(bucket.client.get_object(Bucket=bucket.name, Key=key)["Body"].read())


def test_a_push(bucket: Bucket, pack: Written, run_python: RunPython) -> None:
    """The key is the root's digest; content, checksum and metadata arrive; the printed reference loads."""
    done = lazydeps_json("push", pack.path, bucket.url("packs/"), environ=bucket.environ)
    key = key_of(pack)
    checksum = base64.b64encode(hashlib.sha256(pack.path.read_bytes()).digest()).decode()
    head = bucket.client.head_object(Bucket=bucket.name, Key=key, ChecksumMode="ENABLED")
    minor = f"{sys.version_info[0]}.{sys.version_info[1]}"
    facts = {
        "ref": f"{bucket.url(key)}#root={pack.root}",
        "bucket": bucket.name,
        "key": key,
        "size": pack.size,
        "sent": True,
        "checksum": checksum,
        "target": f"python{minor}-{ARCH}",
        "published": head["LastModified"].strftime("%Y-%m-%dT%H:%M:%SZ"),
        "bytes_sent": pack.size,
        "bytes_resumed": 0,
        "seconds": done["seconds"],
    }
    assert done == {**facts, "packs": [facts], "region": "us-east-1"}
    assert keys_in(bucket) == [key]
    assert content_of(bucket, key) == pack.path.read_bytes()
    assert head["ChecksumSHA256"] == checksum
    assert head["ContentType"] == "application/zstd"
    assert "immutable" in head["CacheControl"]
    assert (head["Metadata"]["lazydeps-python"], head["Metadata"]["lazydeps-arch"]) == (minor, ARCH)
    code = f"import lazydeps\nwith lazydeps.load({done['ref']!r}):\n    import alpha\nprint(alpha.A)"
    assert run_python(code, environ=bucket.environ).stdout == "1\n"


def test_a_second_push_sends_nothing(bucket: Bucket, pack: Written) -> None:
    """An equal object is not sent again: its time stays, and the words say so."""
    first = lazydeps("push", pack.path, bucket.url("packs"), environ=bucket.environ).stdout
    before = bucket.client.head_object(Bucket=bucket.name, Key=key_of(pack))
    written: list[str] = []
    bucket.client.meta.events.register("before-send.s3.PutObject", lambda **_: written.append("PUT"))
    second = push(pack.path, bucket.url("packs/"), client=bucket.client)
    assert (second.sent, written) == (False, [])
    third = lazydeps("push", pack.path, bucket.url("packs//"), environ=bucket.environ).stdout
    after = bucket.client.head_object(Bucket=bucket.name, Key=key_of(pack))
    assert (before["LastModified"], before["ETag"]) == (after["LastModified"], after["ETag"])
    assert first.startswith("Sent: ")
    assert third.startswith("Already there: ")
    ref = f"{bucket.url(key_of(pack))}#root={pack.root}"
    assert ref in first.splitlines()
    assert ref in third.splitlines()
    assert f"arn:aws:s3:::{bucket.name}/{key_of(pack)}" in first


@pytest.mark.parametrize("prefix", ["", "a b/c+d", "ü/%41", "deep/er/and/deeper/"])
def test_prefixes_of_any_kind(bucket: Bucket, pack: Written, run_python: RunPython, prefix: str) -> None:
    """The prefix is taken as it is written, and the reference that comes of it loads."""
    done = lazydeps_json("push", pack.path, bucket.url(prefix), environ=bucket.environ)
    stem = prefix.rstrip("/")
    assert keys_in(bucket) == [done["key"]] == [key_of(pack, f"{stem}/" if stem else "")]
    code = "import lazydeps\nwith lazydeps.load():\n    import alpha\nprint(alpha.A)"
    environ = {**bucket.environ, "LAZYDEPS_PACK": done["ref"]}
    assert run_python(code, environ=environ).stdout == "1\n"


def test_a_large_pack_goes_in_parts(bucket: Bucket, large: Written, run_python: RunPython) -> None:
    """Above 16 MB the upload has parts, each with its checksum, and the composite one is compared."""
    done = lazydeps_json("push", large.path, bucket.url("packs/"), environ=bucket.environ)
    assert done["sent"]
    assert done["checksum"].endswith("-3")
    head = bucket.client.head_object(Bucket=bucket.name, Key=key_of(large))
    assert head["ETag"].strip('"').endswith("-3")
    assert content_of(bucket, key_of(large)) == large.path.read_bytes()
    assert not bucket.client.list_multipart_uploads(Bucket=bucket.name).get("Uploads")
    again = lazydeps_json("push", large.path, bucket.url("packs/"), environ=bucket.environ)
    same = ("ref", "size", "checksum", "published", "target")
    assert [again[key] for key in same] == [done[key] for key in same]
    assert (again["sent"], again["bytes_sent"]) == (False, 0)
    code = f"import lazydeps\nwith lazydeps.load({done['ref']!r}):\n    import alpha\nprint(alpha.A)"
    assert run_python(code, environ=bucket.environ).stdout == "1\n"


def test_progress_reaches_the_end(bucket: Bucket, large: Written) -> None:
    """Whoever watches is told bytes of bytes, never backwards beyond the end."""
    told: list[tuple[int, int]] = []
    push(large.path, bucket.url("packs/"), client=bucket.client, on_progress=lambda *now: told.append(now))
    assert {total for _, total in told} == {large.size}
    assert max(done for done, _ in told) == large.size


def test_a_terminal_shows_bytes_and_their_rate(bucket: Bucket, large: Written) -> None:
    """On a terminal the bar has the bytes there of all, and how many a second."""
    owner, terminal = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "push", str(large.path), bucket.url("packs/")],
        env=command_environ({**bucket.environ, "TERM": "xterm", "COLUMNS": "200"}),
        stdout=subprocess.DEVNULL,
        stderr=terminal,
    )
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal that nobody holds any more
        while block := os.read(owner, 1 << 16):
            shown += block
    os.close(owner)
    assert process.wait(60) == 0
    assert re.search(rb"\d/33\.6 MB", shown), shown
    assert b"MB/s" in shown


@pytest.mark.parametrize("which", ["pack", "large"])
def test_another_tools_upload_is_compared(bucket: Bucket, which: str, request: pytest.FixtureRequest) -> None:
    """An equal object without a SHA-256 checksum, as another tool leaves it, is accepted after a comparison."""
    pack: Written = request.getfixturevalue(which)
    bucket.put(key_of(pack), pack.path)
    head = bucket.client.head_object(Bucket=bucket.name, Key=key_of(pack), ChecksumMode="ENABLED")
    assert "ChecksumSHA256" not in head
    done = lazydeps_json("push", pack.path, bucket.url("packs/"), environ=bucket.environ)
    assert (done["sent"], done["key"]) == (False, key_of(pack))


@pytest.mark.parametrize("other", ["shorter", "same size"])
def test_a_different_object_is_never_replaced(bucket: Bucket, pack: Written, other: str) -> None:
    """What stands under the key and is not the pack is an error that says what to do; it is left as it is."""
    content = pack.path.read_bytes()
    content = content[:-1] if other == "shorter" else content[:-1] + bytes([content[-1] ^ 1])
    bucket.put(key_of(pack), content)
    error = lazydeps_error("push", pack.path, bucket.url("packs/"), environ=bucket.environ)
    assert error["type"] == "IntegrityError"
    assert "was not replaced: remove that object" in error["message"]
    assert content_of(bucket, key_of(pack)) == content


def test_a_different_object_with_a_checksum(bucket: Bucket, pack: Written) -> None:
    """The same, where S3 knows the other object's SHA-256."""
    content = bytes(pack.size)
    bucket.client.put_object(Bucket=bucket.name, Key=key_of(pack), Body=content, ChecksumAlgorithm="SHA256")
    with pytest.raises(IntegrityError, match="not the pack") as error:
        push(pack.path, bucket.url("packs/"), client=bucket.client)
    assert error.value.actual == base64.b64encode(hashlib.sha256(content).digest()).decode()
    assert content_of(bucket, key_of(pack)) == content


@pytest.mark.parametrize("which", ["pack", "large"])
@pytest.mark.parametrize("equal", [True, False], ids=["equal", "different"])
def test_somebody_is_faster(bucket: Bucket, which: str, equal: bool, request: pytest.FixtureRequest) -> None:
    """An object that appears after we looked is not replaced: equal, and the push is done; different, and it fails."""
    pack: Written = request.getfixturevalue(which)
    key = key_of(pack)
    content = pack.path.read_bytes() if equal else b"somebody else's"
    client = bucket.server.client()

    def overtake(**_: Any) -> None:
        if not keys_in(bucket):
            bucket.put(key, content)

    client.meta.events.register("before-call.s3.PutObject", overtake)
    client.meta.events.register("before-call.s3.CompleteMultipartUpload", overtake)
    if equal:
        done = push(pack.path, bucket.url("packs/"), client=client)
        assert done.sent is False
    else:
        with pytest.raises(IntegrityError, match="was not replaced"):
            push(pack.path, bucket.url("packs/"), client=client)
    assert content_of(bucket, key) == content
    assert not bucket.client.list_multipart_uploads(Bucket=bucket.name).get("Uploads")


@pytest.mark.parametrize("which", ["pack", "large"])
def test_two_pushes_at_once(bucket: Bucket, which: str, request: pytest.FixtureRequest) -> None:
    """Both succeed with the same reference, and the object is the pack."""
    pack: Written = request.getfixturevalue(which)
    both = [
        subprocess.Popen(
            [*COMMAND, "push", str(pack.path), bucket.url("packs/"), "--json"],
            env=command_environ(bucket.environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [one.communicate(timeout=120) for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    results = [json.loads(out) for out, _ in said]
    assert results[0]["ref"] == results[1]["ref"]
    assert any(result["sent"] for result in results)
    assert keys_in(bucket) == [key_of(pack)]
    assert content_of(bucket, key_of(pack)) == pack.path.read_bytes()


class Gate:
    """A server in front of the bucket's that passes everything on, and holds the second part of an upload back."""

    def __init__(self, endpoint: str) -> None:
        address = urlsplit(endpoint)
        self._behind = (str(address.hostname), int(address.port or 80))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.reached = threading.Event()
        """Set when the second part has come."""
        self.opened = threading.Event()
        """Lets it through."""
        self._sockets = [self._listener]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """End every connection and wait for the threads."""
        self.opened.set()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            server = socket.create_connection(self._behind)
            self._sockets += [client, server]
            for pair in ((client, server), (server, client)):
                self._threads.append(threading.Thread(target=self._pass_on, args=pair))
                self._threads[-1].start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while block := source.recv(1 << 16):
                if b"partNumber=2" in block:
                    self.reached.set()
                    self.opened.wait()
                sink.sendall(block)
        except OSError:
            pass
        finally:
            for one in (source, sink):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def gate(bucket: Bucket) -> Iterator[Gate]:
    """A gate before the bucket's server."""
    gate = Gate(bucket.endpoint)
    yield gate
    gate.close()


def interrupted(bucket: Bucket, gate: Gate, pack: Written, *, by: int) -> tuple[int, str]:
    """End a push by a signal when all parts but the second are there; return its exit code and what it said."""
    process = subprocess.Popen(
        [*COMMAND, "push", str(pack.path), bucket.url("packs/")],
        env=command_environ({**bucket.environ, "AWS_ENDPOINT_URL": gate.endpoint}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert gate.reached.wait(60)
        for _ in range(600):
            if parts_in(bucket) == [[1, 3]]:
                break
            time.sleep(0.05)
        os.killpg(process.pid, by)
        _, said = process.communicate(timeout=60)  # the gate is shut: it does not wait for the network
    finally:
        process.kill()
        process.communicate()
    return process.returncode, said


def parts_in(bucket: Bucket) -> list[list[int]]:
    """Return the numbers of the parts of every unfinished upload."""
    uploads = bucket.client.list_multipart_uploads(Bucket=bucket.name).get("Uploads", ())
    return [
        [
            part["PartNumber"]
            for part in bucket.client.list_parts(Bucket=bucket.name, Key=one["Key"], UploadId=one["UploadId"]).get(
                "Parts", ()
            )
        ]
        for one in uploads
    ]


@pytest.fixture
def parts_sent(bucket: Bucket) -> Iterator[list[int]]:
    """The numbers of the parts that the bucket's client sends."""
    sent: list[int] = []

    def note(params: dict[str, Any], **_: Any) -> None:
        sent.append(params["PartNumber"])

    bucket.client.meta.events.register("provide-client-params.s3.UploadPart", note)
    yield sent
    bucket.client.meta.events.unregister("provide-client-params.s3.UploadPart", note)


@pytest.mark.parametrize(("by", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_keeps_what_has_arrived(
    bucket: Bucket, gate: Gate, large: Written, parts_sent: list[int], by: signal.Signals, expected: int
) -> None:
    """An interrupted upload leaves no object, says how much is kept and ends at once; the same command goes on."""
    code, said = interrupted(bucket, gate, large, by=by)
    assert code == expected, said
    kept = large.size - PART
    assert f"Interrupted: {kept / 1e6:.1f} MB of p.tar.zst are kept in the bucket. The same command continues" in said
    assert "with --abort it drops them" in said
    assert "Traceback" not in said
    assert keys_in(bucket) == []
    done = push(large.path, bucket.url("packs/"), client=bucket.client)
    assert (done.sent, done.bytes_sent, done.bytes_resumed, parts_sent) == (True, PART, kept, [2])
    assert content_of(bucket, key_of(large)) == large.path.read_bytes()
    assert parts_in(bucket) == []


def test_ctrl_c_while_the_parts_are_put_together(bucket: Bucket, large: Written, parts_sent: list[int]) -> None:
    """All parts are kept, and it is said: the next push sends none of them."""
    client = bucket.server.client()

    def interrupt(**_: Any) -> None:
        raise KeyboardInterrupt

    client.meta.events.register("before-call.s3.CompleteMultipartUpload", interrupt)
    with pytest.raises(UploadInterruptedError) as error:
        push(large.path, bucket.url("packs/"), client=client)
    assert error.value.kept == large.size
    done = push(large.path, bucket.url("packs/"), client=bucket.client)
    assert (done.sent, done.bytes_sent, parts_sent) == (True, 0, [])


def test_a_push_that_was_killed_goes_on(bucket: Bucket, gate: Gate, large: Written) -> None:
    """After a kill -9 in the middle there is no object under the key, and the next push sends what is missing."""
    assert interrupted(bucket, gate, large, by=signal.SIGKILL)[0] == -signal.SIGKILL
    assert keys_in(bucket) == []
    said = lazydeps("push", large.path, bucket.url("packs/"), environ=bucket.environ).stdout
    assert f"({large.size / 1e6:.1f} MB, {(large.size - PART) / 1e6:.1f} MB of it sent before, " in said
    assert content_of(bucket, key_of(large)) == large.path.read_bytes()
    assert parts_in(bucket) == []


def test_what_was_kept_can_be_dropped(bucket: Bucket, large: Written, pack: Written) -> None:
    """`--abort` takes back the unfinished uploads of the packs that are named, and sends nothing."""
    mine, other = ({"Bucket": bucket.name, "Key": key_of(one)} for one in (large, pack))
    for place in (mine, mine, other):
        bucket.client.create_multipart_upload(**place)
    done = lazydeps_json("push", large.path, bucket.url("packs/"), "--abort", environ=bucket.environ)
    assert done == {"aborted": 2}
    left = bucket.client.list_multipart_uploads(Bucket=bucket.name)["Uploads"]
    assert [one["Key"] for one in left] == [key_of(pack)]
    assert keys_in(bucket) == []
    bucket.client.abort_multipart_upload(**other, UploadId=left[0]["UploadId"])


def begin(bucket: Bucket, pack: Written, parts: dict[int, bytes], **parameters: Any) -> str:
    """Leave an upload unfinished, with these parts in it."""
    place = {"Bucket": bucket.name, "Key": key_of(pack)}
    upload: str = bucket.client.create_multipart_upload(**place, ChecksumAlgorithm="SHA256", **parameters)["UploadId"]
    for number, content in parts.items():
        bucket.client.upload_part(**place, UploadId=upload, PartNumber=number, Body=content)
    return upload


def test_parts_of_something_else_are_not_taken(bucket: Bucket, large: Written, parts_sent: list[int]) -> None:
    """Parts of another size, or with other bytes, are no help: the upload begins anew; the best of several goes on."""
    content = large.path.read_bytes()
    begin(bucket, large, {1: content[: PART // 2]})
    begin(bucket, large, {1: content[:PART], 3: bytes(large.size - 2 * PART)})
    begin(bucket, large, {1: content[:PART], 2: content[PART : 2 * PART], 4: b"more"})
    del parts_sent[:]
    done = push(large.path, bucket.url("packs/"), client=bucket.client)
    assert (done.bytes_resumed, sorted(parts_sent)) == (0, [1, 2, 3])
    assert content_of(bucket, key_of(large)) == content
    bucket.client.delete_object(Bucket=bucket.name, Key=key_of(large))
    begin(bucket, large, {1: content[:PART]})
    begin(bucket, large, {3: content[2 * PART :], 1: content[:PART]})
    del parts_sent[:]
    assert push(large.path, bucket.url("packs/"), client=bucket.client).bytes_sent == PART
    assert parts_sent == [2]
    lazydeps("push", large.path, bucket.url("packs/"), "--abort", environ=bucket.environ)


def test_listed_checksums_count_before_tags(large: Written) -> None:
    """S3 lists the SHA-256 of parts, and encrypted ones have no MD5 for a tag; other stores list the tag alone."""
    content, first = Content.of(large.path), large.path.read_bytes()[:PART]
    md5 = {"PartNumber": 1, "Size": PART, "ETag": f'"{hashlib.md5(first).hexdigest()}"'}
    other = {**md5, "ETag": '"of an encrypted part"'}
    assert is_same_part({**other, "ChecksumSHA256": content.checksum_of(1)}, content)
    assert not is_same_part({**md5, "ChecksumSHA256": content.checksum_of(2)}, content)
    assert is_same_part(md5, content)
    assert not is_same_part(other, content)
    assert not is_same_part({**md5, "Size": PART - 1}, content)
    assert not is_same_part({**md5, "PartNumber": 4}, content)


def test_a_refusal_in_the_middle_is_the_one_reported(bucket: Bucket, large: Written) -> None:
    """Credentials that expire refuse every later call too: the error is the first one's, and the parts are kept."""
    client = bucket.server.client()

    def expire(request: Any, **_: Any) -> Any:
        client.meta.events.register("before-send.s3.HeadObject", _refuse)
        return _refuse(request)

    def second(request: Any, **_: Any) -> Any:
        return expire(request) if "partNumber=2" in request.url else None

    client.meta.events.register("before-send.s3.UploadPart", second)
    with pytest.raises(FetchError, match="denied UploadPart on"):
        push(large.path, bucket.url("packs/"), client=client)
    assert len(parts_in(bucket)) == 1
    done = push(large.path, bucket.url("packs/"), client=bucket.client)
    assert done.bytes_resumed + done.bytes_sent == large.size


def test_who_may_not_list_uploads_begins_anew(bucket: Bucket, large: Written) -> None:
    """Continuing needs rights that pushing does not: without them the push succeeds all the same."""
    begin(bucket, large, {1: large.path.read_bytes()[:PART]})
    for operation in ("ListMultipartUploads", "ListParts"):
        client = bucket.server.client()
        client.meta.events.register(f"before-send.s3.{operation}", _refuse)
        done = push(large.path, bucket.url("packs/"), client=client)
        assert (done.sent, done.bytes_resumed) == (True, 0), operation
        bucket.client.delete_object(Bucket=bucket.name, Key=key_of(large))
    lazydeps("push", large.path, bucket.url("packs/"), "--abort", environ=bucket.environ)


def test_an_upload_that_encrypts_otherwise_is_not_continued(
    bucket: Bucket, large: Written, parts_sent: list[int]
) -> None:
    """An object is encrypted as its upload began: one that was begun otherwise is dropped; tags are set at the end."""
    content, options = large.path.read_bytes(), PushOptions(sse="aws:kms", tags={"team": "data"})
    begin(bucket, large, {1: content[:PART], 2: content[PART : 2 * PART]})
    del parts_sent[:]
    assert push(large.path, bucket.url("packs/"), client=bucket.client, options=options).bytes_resumed == 0
    head = bucket.client.head_object(Bucket=bucket.name, Key=key_of(large))
    assert (head["ServerSideEncryption"], head["TagCount"]) == ("aws:kms", 1)
    assert parts_in(bucket) == []
    bucket.client.delete_object(Bucket=bucket.name, Key=key_of(large))
    begin(bucket, large, {1: content[:PART], 2: content[PART : 2 * PART]}, ServerSideEncryption="aws:kms")
    del parts_sent[:]
    assert push(large.path, bucket.url("packs/"), client=bucket.client, options=options).bytes_resumed == PART
    assert sorted(parts_sent) == [1, 3]
    head = bucket.client.head_object(Bucket=bucket.name, Key=key_of(large))
    assert (head["ServerSideEncryption"], head["TagCount"]) == ("aws:kms", 1)


def test_a_part_size_of_ones_own(bucket: Bucket, large: Written, parts_sent: list[int]) -> None:
    """Parts of 5 MiB make more of them, and the checksum that is compared is of those."""
    done = push(large.path, bucket.url("packs/"), client=bucket.client, part=5 << 20)
    assert len(parts_sent) == -(-large.size // (5 << 20)) == 7
    assert done.checksum.endswith("-7")
    assert content_of(bucket, key_of(large)) == large.path.read_bytes()


def test_what_arrived_is_checked(bucket: Bucket, pack: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store whose object does not have the pack's checksum after the upload is not believed."""
    monkeypatch.setattr(Content, "checksum", "AAAA")
    with pytest.raises(IntegrityError, match="not the pack"):
        push(pack.path, bucket.url("packs/"), client=bucket.client)


def test_a_bucket_that_is_not_there(pack: Written, bucket: Bucket) -> None:
    """A missing bucket is named; it is not made."""
    error = lazydeps_error("push", pack.path, "s3://no-such-bucket-here/packs/", environ=bucket.environ)
    assert (error["type"], error["status"]) == ("FetchError", 404)
    assert "there is no bucket no-such-bucket-here" in error["message"]
    assert "no-such-bucket-here" not in [entry["Name"] for entry in bucket.client.list_buckets()["Buckets"]]


@pytest.mark.parametrize("destination", ["packs/", "s3:///packs/", "https://bucket/packs/", "s3://"])
def test_a_destination_that_is_none(pack: Written, destination: str) -> None:
    """A malformed destination is refused before S3 is asked, in words that show the right form."""
    error = lazydeps_error("push", pack.path, destination)
    assert error["type"] == "ConfigError"
    assert f"{destination!r} is no place to push to: expected s3://BUCKET/PREFIX/" in error["message"]


def test_a_file_that_is_no_pack(bucket: Bucket, tmp_path: Path) -> None:
    """Only packs are pushed, and only whole ones."""
    (tmp_path / "wheel.zip").write_bytes(b"PK\x03\x04" + bytes(9000))
    error = lazydeps_error("push", tmp_path / "wheel.zip", bucket.url("packs/"), environ=bucket.environ)
    assert error["type"] == "PackFormatError"
    assert keys_in(bucket) == []


def test_a_pack_that_is_damaged_or_cut_off(bucket: Bucket, pack: Written, tmp_path: Path) -> None:
    """A damaged pack never comes to stand under the key of the whole one, where it could not be replaced."""
    content = pack.path.read_bytes()
    for name, damaged in {
        "cut": content[:-10],
        "flipped": content[:-10] + bytes([content[-10] ^ 1]) + content[-9:],
    }.items():
        (tmp_path / name).write_bytes(damaged)
        for there in ([], [key_of(pack)]):
            if there:  # the sound pack has been pushed: nobody is told to remove that
                bucket.put(there[0], content)
            error = lazydeps_error("push", tmp_path / name, bucket.url("packs/"), environ=bucket.environ)
            assert error["type"] in ("PackFormatError", "IntegrityError"), name
            assert "remove that object" not in error["message"]
            assert keys_in(bucket) == there, name
        bucket.client.delete_object(Bucket=bucket.name, Key=key_of(pack))


def test_no_credentials_and_no_server(pack: Written, tmp_path: Path, bucket: Bucket) -> None:
    """What botocore says comes as our errors, with a remedy and without a traceback."""
    nothing = {"HOME": str(tmp_path), "AWS_ENDPOINT_URL": bucket.endpoint, "AWS_REGION": "us-east-1"}
    error = lazydeps_error("push", pack.path, bucket.url(""), environ=nothing)
    assert (error["type"], "AWS_PROFILE" in error["message"]) == ("ConfigError", True)
    nobody = {**bucket.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    done = lazydeps("push", pack.path, bucket.url(""), "--json", environ=nobody, code=1)
    error = json.loads(done.stdout)["error"]
    assert (error["type"], error["retryable"]) == ("FetchError", True)
    assert "127.0.0.1:9" in error["message"]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        ("ListObjectsV2", "s3:ListBucket on arn:aws:s3:::{}."),
        ("CreateMultipartUpload", "s3:PutObject on arn:aws:s3:::{}/packs/*."),
        ("HeadObject", "s3:GetObject on arn:aws:s3:::{}/packs/* and s3:ListBucket on arn:aws:s3:::{}."),
        ("PutObject", "s3:PutObject on arn:aws:s3:::{}/packs/*."),
    ],
)
def test_a_refusal_names_the_permission(bucket: Bucket, pack: Written, operation: str, words: str) -> None:
    """A publisher without a right is told which one, whichever call S3 refuses."""
    client = bucket.server.client()
    client.meta.events.register(f"before-send.s3.{operation}", _refuse)
    with pytest.raises(FetchError) as error:
        push(pack.path, bucket.url("packs/"), client=client)
    assert f"denied {operation} on s3://{bucket.name}/packs/" in str(error.value)
    assert f"The publisher needs {words.replace('{}', bucket.name)} `aws sts" in str(error.value)
    assert error.value.status == 403
    assert keys_in(bucket) == []


def _refuse(request: Any, **_: Any) -> Any:
    from botocore.awsrequest import AWSResponse

    class Raw:
        def stream(self, **_: Any) -> Iterator[bytes]:
            yield b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"

    return AWSResponse(request.url, 403, {}, Raw())


def test_a_destination_is_parsed_before_credentials(pack: Written) -> None:
    """The order of the checks: what costs nothing comes first."""
    with pytest.raises(ConfigError, match="no place to push to"):
        push(pack.path, "gs://bucket/", client=object())
