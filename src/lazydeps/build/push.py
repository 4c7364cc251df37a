"""Push a pack to S3 under a name that follows from its content, and make sure that it arrived.

Uploads through s3transfer with SHA-256 checksums; never replaces an object that is there.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError

from lazydeps._ref import Ref
from lazydeps.build.read import as_ref, open_pack
from lazydeps.errors import ConfigError, FetchError, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PART = 16 << 20
"""Bytes of one part of a multipart upload. S3 allows 10,000 parts: 160 GB."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """A pack that is in the bucket."""

    ref: str
    """The pinned reference, for ``LAZYDEPS_PACK``."""
    bucket: str
    key: str
    size: int
    sent: bool
    """False: an equal object was there already."""
    checksum: str
    """The SHA-256 checksum as S3 spells it: base64, and ``-N`` for an upload in N parts."""


def push(
    pack: Path, destination: str, *, client: Any = None, on_progress: Callable[[int, int], None] | None = None
) -> Pushed:
    """Upload a pack to ``s3://BUCKET/PREFIX/``.

    The key is the root's digest, so the same pack has the same key and another one never replaces it.

    Args:
        pack: the file.
        destination: bucket and prefix.
        client: a boto3 S3 client. None: one from the default session.
        on_progress: called with (bytes sent, bytes in all).

    Raises:
        ConfigError: the destination is malformed, or there are no credentials.
        FetchError: S3 refused or failed; the message names the permission.
        PackFormatError: the file is no pack, or not a whole one.
        IntegrityError: the file is damaged, or what arrived, or what stands there, is not the pack.
    """
    bucket, prefix = _split(destination)
    with open_pack(as_ref(str(pack))) as opened:
        root, python, arch = opened.root.digest, opened.root.python, opened.root.arch
        for _ in opened.packed_frames():
            pass  # a damaged pack would hold its key for good, as nothing is ever replaced
    key = f"{prefix}{root.hex()}.tar.zst"
    ref = str(Ref(f"s3://{bucket}/{key}", root))
    size = pack.stat().st_size
    checksum = _composite_checksum(pack)
    target = f"s3://{bucket}/{key}"
    try:
        client = client if client is not None else boto3.client("s3")
        there = _head(client, bucket, key)
        sent = there is None
        if there is None:
            sent = _upload(client, pack, bucket, key, python=python, arch=arch, size=size, on_progress=on_progress)
            there = _head(client, bucket, key)
        if there is not None and there["ContentLength"] == size:
            # The part of the checksum before "-N" says everything, and some servers leave the rest out.
            found = there.get("ChecksumSHA256", "").partition("-")[0]
            equal = found == checksum.partition("-")[0] or (not sent and _same_content(client, pack, bucket, key))
    except (BotoCoreError, ClientError) as error:
        raise _explain(error, bucket, key) from error
    if there is None:
        raise FetchError(f"{target} is not there after its upload. Push again.", url=target, status=404, retryable=True)
    if there["ContentLength"] != size:
        raise IntegrityError(
            f"{target} has {there['ContentLength']} bytes and the pack has {size}. It was not replaced: remove that "
            "object and push again.",
            expected=str(size),
            actual=str(there["ContentLength"]),
        )
    if not equal:
        raise IntegrityError(
            f"{target} is not the pack: its SHA-256 checksum is {there.get('ChecksumSHA256') or 'not known'} "
            f"and the pack's is {checksum}. It was not replaced: remove that object and push again.",
            expected=checksum,
            actual=there.get("ChecksumSHA256", ""),
        )
    return Pushed(ref, bucket, key, size, sent, checksum)


def _split(destination: str) -> tuple[str, str]:
    scheme, _, rest = destination.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise ConfigError(f"{destination!r} is no place to push to: expected s3://BUCKET/PREFIX/.")
    prefix = prefix.strip("/")
    return bucket, f"{prefix}/" if prefix else ""


def _composite_checksum(pack: Path) -> str:
    """Return the checksum that S3 reports for an upload in parts of `PART` bytes."""
    digests = []
    with open(pack, "rb") as file:
        while block := file.read(PART):
            digests.append(hashlib.sha256(block).digest())
    if len(digests) == 1:
        return base64.b64encode(digests[0]).decode()
    return base64.b64encode(hashlib.sha256(b"".join(digests)).digest()).decode() + f"-{len(digests)}"


def _head(client: Any, bucket: str, key: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            # A bucket that is missing answers a HEAD in the same words as a key that is missing.
            client.head_bucket(Bucket=bucket)
            return None
        raise
    return found


def _same_content(client: Any, pack: Path, bucket: str, key: str) -> bool:
    """Compare byte by byte an object that another tool, or another part size, gave another checksum or none."""
    body = client.get_object(Bucket=bucket, Key=key)["Body"]
    with open(pack, "rb") as file:
        return all(block == file.read(len(block)) for block in body.iter_chunks(1 << 20))


def _upload(
    client: Any,
    pack: Path,
    bucket: str,
    key: str,
    *,
    python: str,
    arch: str,
    size: int,
    on_progress: Callable[[int, int], None] | None,
) -> bool:
    """Upload, unless somebody else's upload of the same key comes first. Return whether ours did."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if on_progress is not None:
            on_progress(done, size)

    def never_replace(params: dict[str, Any], **_: Any) -> None:
        params["IfNoneMatch"] = "*"

    # s3transfer does not pass IfNoneMatch on, so it is added to the two calls that create an object.
    events = ("provide-client-params.s3.PutObject", "provide-client-params.s3.CompleteMultipartUpload")
    for event in events:
        client.meta.events.register(event, never_replace)
    try:
        client.upload_file(
            str(pack),
            bucket,
            key,
            ExtraArgs={
                "ChecksumAlgorithm": "SHA256",
                "ContentType": "application/zstd",
                "CacheControl": "public, max-age=31536000, immutable",
                "Metadata": {"lazydeps-python": python, "lazydeps-arch": arch},
            },
            Config=TransferConfig(multipart_threshold=PART, multipart_chunksize=PART),
            Callback=advance,
        )
    except Exception as error:
        # s3transfer wraps what the client raised; the words of the answer survive.
        if "PreconditionFailed" in str(error) or "ConditionalRequestConflict" in str(error):
            return False
        cause = error.__cause__ or error.__context__
        raise cause if isinstance(cause, (BotoCoreError, ClientError)) else error from None
    finally:
        for event in events:
            client.meta.events.unregister(event, never_replace)
    return True


def _explain(error: Exception, bucket: str, key: str) -> Exception:
    url = f"s3://{bucket}/{key}"
    if not isinstance(error, ClientError):
        name = type(error).__name__
        if name in ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"):
            return ConfigError(
                f"no usable AWS credentials ({error}). Set AWS_PROFILE, or run `aws configure` or `aws sso login`."
            )
        return FetchError(f"could not reach S3 for {url}: {error}.", url=url, retryable=True)
    status = error.response["ResponseMetadata"].get("HTTPStatusCode")
    request = error.response["ResponseMetadata"].get("RequestId")
    code = error.response.get("Error", {}).get("Code", "")
    if status == 404:
        words = f"there is no bucket {bucket}. Create it, or check the name and the region."
    elif status == 403:
        words = (
            f"S3 denied {error.operation_name} on {url} ({code}). The publisher needs s3:PutObject and s3:GetObject on "
            f"arn:aws:s3:::{bucket}/* and s3:ListBucket on arn:aws:s3:::{bucket}."
        )
    else:
        words = f"S3 answered {error.operation_name} on {url} with {status} {code}: {error}."
    return FetchError(words, url=url, status=status, request_id=request, retryable=bool(status and status >= 500))
