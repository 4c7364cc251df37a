"""One file to one new object, in parts that are kept: what was interrupted goes on where it stopped.

s3transfer, which boto3 brings, takes its parts back when it fails, forgets them when it is killed, and cannot continue
an upload; so small files too go by the few calls here, for one way to make the object. Nothing is ever replaced.
"""

from __future__ import annotations

import base64
import hashlib
import io
import threading
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from .s3 import S3_ERRORS, code_of, head, status_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

PART = 16 << 20
"""Bytes of one part of a multipart upload. S3 allows 10,000 parts: 160 GB."""
WORKERS = 4
"""Parts on their way at a time; each is held in memory."""
_TAKEN = ("PreconditionFailed", "ConditionalRequestConflict")
_AGAIN = ("NoSuchUpload", "InvalidPart", "InvalidPartOrder", "BadDigest", "ConditionalRequestConflict")
"""What S3 says of an upload that somebody else has completed or taken back, or that cannot become the file."""


class UploadInterruptedError(KeyboardInterrupt):
    """Ctrl-C; the parts that had arrived are kept."""

    def __init__(self, bucket: str, key: str, kept: int) -> None:
        super().__init__(f"s3://{bucket}/{key}")
        self.kept = kept
        """Bytes."""


@dataclass(frozen=True, slots=True)
class Content:
    """A file and the digests of its parts."""

    path: Path
    size: int
    part: int
    digests: tuple[bytes, ...]
    """SHA-256 of each part."""

    @classmethod
    def of(cls, path: Path, *, part: int = PART, on_progress: Callable[[int, int], None] | None = None) -> Content:
        """Read a file through."""
        digests, done, size = [], 0, path.stat().st_size
        with open(path, "rb") as file:
            while block := file.read(part):
                digests.append(hashlib.sha256(block).digest())
                done += len(block)
                if on_progress is not None:
                    on_progress(done, size)
        return cls(path, done, part, tuple(digests))

    @property
    def checksum(self) -> str:
        """What S3 reports as the SHA-256 of an object in these parts."""
        if len(self.digests) == 1:
            return base64.b64encode(self.digests[0]).decode()
        whole = hashlib.sha256(b"".join(self.digests)).digest()
        return f"{base64.b64encode(whole).decode()}-{len(self.digests)}"

    def checksum_of(self, number: int) -> str:
        """Return S3's spelling of the SHA-256 of a part, counted from 1."""
        return base64.b64encode(self.digests[number - 1]).decode()

    def read(self, number: int) -> bytes:
        """Return the bytes of a part, counted from 1."""
        with open(self.path, "rb") as file:
            file.seek((number - 1) * self.part)
            return file.read(self.part)

    def size_of(self, number: int) -> int:
        """Return how many bytes a part has, counted from 1."""
        return min(self.part, self.size - (number - 1) * self.part)


@dataclass(frozen=True, slots=True)
class Sent:
    """What an upload did."""

    created: bool
    """Whether the object is ours; else somebody else's came first."""
    sent: int = 0
    """Bytes that went over the wire."""
    resumed: int = 0
    """Bytes that an earlier upload had sent already."""


@dataclass(slots=True)
class _Upload:
    """An upload in parts under way."""

    id: str
    etags: dict[int, str] = field(default_factory=dict)
    """Of the parts that are there, by number."""


class _Body(io.BytesIO):
    """The bytes of a part; tells how far they have been read, and ends the request when the upload has been stopped."""

    def __init__(self, content: bytes, advance: Callable[[int], None], stopped: threading.Event) -> None:
        super().__init__(content)
        self._advance = advance
        self._stopped = stopped
        self._most = 0

    def read(self, size: int | None = -1, /) -> bytes:
        if self._stopped.is_set():
            raise _StoppedError
        block = super().read(-1 if size is None else size)
        # Read again, for a retry or a signature, it is not counted again.
        if self.tell() > self._most:
            self._advance(self.tell() - self._most)
            self._most = self.tell()
        return block


class _StoppedError(BaseException):
    """The rest of a part is not sent any more. No `Exception`: the SDK tries those again."""


def upload(
    client: Any,
    content: Content,
    bucket: str,
    key: str,
    *,
    parameters: Mapping[str, Any],
    on_progress: Callable[[int, int], None] | None = None,
) -> Sent:
    """Make an object of a file, unless one comes to stand there meanwhile.

    Args:
        client: a boto3 S3 client; calls on it are made from several threads.
        content: the file.
        bucket: where.
        key: likewise.
        parameters: metadata, encryption and the like, as both `put_object` and `create_multipart_upload` take them.
        on_progress: called with (bytes there, bytes in all).

    Raises:
        ClientError, BotoCoreError: S3 refused or failed. The parts that have arrived are kept.
        UploadInterruptedError: Ctrl-C; likewise.
    """
    meter = _Meter(content.size, on_progress)
    place = {"Bucket": bucket, "Key": key}
    if len(content.digests) < 2:
        try:
            # The whole file in one request: nothing of it is there unless all of it is.
            client.put_object(
                **place,
                **parameters,
                Body=_Body(content.read(1), meter.advance, threading.Event()),
                ChecksumAlgorithm="SHA256",
                ChecksumSHA256=content.checksum_of(1),
                IfNoneMatch="*",
            )
        except ClientError as error:
            if code_of(error) in _TAKEN:
                return Sent(created=False)
            raise
        return Sent(created=True, sent=content.size)
    for attempt in (1, 2):
        found = _unfinished(client, content, bucket, key, parameters) if attempt == 1 else None
        if found is None:
            answer = client.create_multipart_upload(**place, **parameters, ChecksumAlgorithm="SHA256")
            found = _Upload(answer["UploadId"])
        resumed = sum(content.size_of(number) for number in found.etags)
        meter.restart(resumed)
        try:
            complete = _send(client, content, bucket, key, found, parameters, meter)
            if not complete:
                _abort(client, bucket, key, found.id)  # it would not become what was asked for: begin anew
                continue
            client.complete_multipart_upload(
                **place,
                UploadId=found.id,
                MultipartUpload={
                    "Parts": [
                        {"PartNumber": number, "ETag": etag, "ChecksumSHA256": content.checksum_of(number)}
                        for number, etag in sorted(found.etags.items())
                    ]
                },
                IfNoneMatch="*",
            )
        except KeyboardInterrupt as error:
            if isinstance(error, UploadInterruptedError):
                raise
            raise UploadInterruptedError(bucket, key, content.size) from None  # while its parts were put together
        except ClientError as error:
            if _is_there(client, bucket, key):
                # Somebody else's push of the same pack, maybe by means of the same upload.
                _abort(client, bucket, key, found.id)
                return Sent(created=False, resumed=resumed)
            if code_of(error) in _AGAIN and attempt == 1:
                _abort(client, bucket, key, found.id)
                continue
            raise
        if resumed and "Tagging" in parameters:
            _tag(client, bucket, key, parameters["Tagging"])  # an upload's tags are those of who began it
        return Sent(created=True, sent=content.size - resumed, resumed=resumed)
    raise AssertionError("the second attempt ends in one way or another")


def _is_there(client: Any, bucket: str, key: str) -> bool:
    """Return whether the object is there; False where S3 refuses that question too, after another one."""
    try:
        return head(client, bucket, key) is not None
    except S3_ERRORS:
        return False


def abort_all(client: Any, bucket: str, key: str) -> int:
    """Take back every unfinished upload of a key; return how many there were."""
    uploads = _uploads(client, bucket, key)
    for one in uploads:
        _abort(client, bucket, key, one["UploadId"], quiet=False)
    return len(uploads)


class _Meter:
    """How many bytes have arrived, told by several threads."""

    def __init__(self, total: int, on_progress: Callable[[int, int], None] | None) -> None:
        self._total = total
        self._done = 0
        self._lock = threading.Lock()
        self._on_progress = on_progress

    def restart(self, done: int) -> None:
        with self._lock:
            self._done = 0
        self.advance(done)

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            if self._on_progress is not None:
                self._on_progress(self._done, self._total)


def _uploads(client: Any, bucket: str, key: str) -> list[dict[str, Any]]:
    pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=key)
    return [one for page in pages for one in page.get("Uploads", ()) if one["Key"] == key]


def _unfinished(client: Any, content: Content, bucket: str, key: str, parameters: Mapping[str, Any]) -> _Upload | None:
    """Return the upload of the same key that has most of the same parts; None where there is none to go on with."""
    best = None
    try:
        for one in _uploads(client, bucket, key):
            if one.get("StorageClass", "STANDARD") != parameters.get("StorageClass", "STANDARD"):
                continue
            pages = client.get_paginator("list_parts").paginate(Bucket=bucket, Key=key, UploadId=one["UploadId"])
            parts = [part for page in pages for part in page.get("Parts", ())]
            if not all(is_same_part(part, content) for part in parts):
                continue  # other part sizes, or another file
            found = _Upload(one["UploadId"], {part["PartNumber"]: part["ETag"] for part in parts})
            if best is None or len(found.etags) > len(best.etags):
                best = found
    except ClientError as error:
        if status_of(error) not in (403, 404):
            raise
        return best  # who may not list uploads begins anew
    if best is not None and "ServerSideEncryption" in parameters:
        best.etags.pop(1, None)  # the answer to a part tells how the upload encrypts, so one has to be sent
    return best


def is_same_part(part: Mapping[str, Any], content: Content) -> bool:
    """Return whether a part that S3 lists is the one of a file."""
    number = part["PartNumber"]
    if number > len(content.digests) or part["Size"] != content.size_of(number):
        return False
    if "ChecksumSHA256" in part:
        return bool(part["ChecksumSHA256"] == content.checksum_of(number))
    # Stores that list no checksums have the MD5 as their tag. The whole is compared by SHA-256 when it is there.
    digest = hashlib.md5(content.read(number), usedforsecurity=False).hexdigest()
    return bool(part["ETag"].strip('"') == digest)


def _send(
    client: Any,
    content: Content,
    bucket: str,
    key: str,
    found: _Upload,
    parameters: Mapping[str, Any],
    meter: _Meter,
) -> bool:
    """Send the parts that are missing. Return whether the upload encrypts as asked; if not, it is of no use."""
    stopped = threading.Event()

    def send(number: int) -> dict[str, Any]:
        answer: dict[str, Any] = client.upload_part(
            Bucket=bucket,
            Key=key,
            UploadId=found.id,
            PartNumber=number,
            Body=_Body(content.read(number), meter.advance, stopped),
            ChecksumSHA256=content.checksum_of(number),
        )
        return answer

    missing = [number for number in range(1, len(content.digests) + 1) if number not in found.etags]
    resuming = len(missing) < len(content.digests)
    numbers: SimpleQueue[int] = SimpleQueue()
    results: SimpleQueue[tuple[int, dict[str, Any] | BaseException]] = SimpleQueue()
    for number in missing:
        numbers.put(number)

    def work() -> None:
        while not stopped.is_set():
            try:
                number = numbers.get_nowait()
            except Empty:
                return
            try:
                results.put((number, send(number)))
            except BaseException as error:
                results.put((number, error))
                return

    # No pool of `concurrent.futures`: the interpreter waits for its threads, and Ctrl-C would for a dead connection.
    threads = [threading.Thread(target=work, name="lazydeps-push", daemon=True) for _ in missing[:WORKERS]]
    for thread in threads:
        thread.start()
    useful = True
    try:
        for _ in missing:
            number, answer = results.get()
            if isinstance(answer, BaseException):
                raise answer
            found.etags[number] = answer["ETag"]
            if resuming and not _encrypts(answer, parameters):
                useful = False
                break
    except KeyboardInterrupt:
        stopped.set()
        while not results.empty():
            number, answer = results.get()
            if not isinstance(answer, BaseException):
                found.etags[number] = answer["ETag"]
        kept = sum(map(content.size_of, found.etags))
        raise UploadInterruptedError(bucket, key, kept) from None
    except BaseException:
        stopped.set()
        for thread in threads:
            thread.join()  # a part that arrives after its upload has been taken back would be kept
        raise
    finally:
        stopped.set()
    for thread in threads:
        thread.join()
    return useful


def _encrypts(answer: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool:
    asked = parameters.get("ServerSideEncryption")
    key = str(parameters.get("SSEKMSKeyId") or "").rpartition("/")[2]  # S3 answers with the key's ARN
    return asked is None or (
        answer.get("ServerSideEncryption") == asked
        and (not key or str(answer.get("SSEKMSKeyId", "")).rpartition("/")[2] == key)
    )


def _abort(client: Any, bucket: str, key: str, upload: str, *, quiet: bool = True) -> None:
    try:
        client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
    except S3_ERRORS as error:
        gone = isinstance(error, ClientError) and code_of(error) == "NoSuchUpload"
        if not quiet and not gone:
            raise


def _tag(client: Any, bucket: str, key: str, tagging: str) -> None:
    from urllib.parse import parse_qsl

    tags = [{"Key": name, "Value": value} for name, value in parse_qsl(tagging, keep_blank_values=True)]
    client.put_object_tagging(Bucket=bucket, Key=key, Tagging={"TagSet": tags})
