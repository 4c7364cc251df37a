"""The publisher's side of S3: destinations, a client, whether one may write there, and what S3's refusals mean."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from lazydeps.errors import ConfigError, FetchError

if TYPE_CHECKING:
    from collections.abc import Mapping

CONNECTIONS = 8
"""How many requests are under way at a time."""
S3_ERRORS = (BotoCoreError, ClientError, ResponseParserError)
"""What a call may raise for what S3, or a proxy that answers in its place, has done."""
_ACTIONS = {
    "HeadBucket": ("s3:ListBucket",),
    "ListObjectsV2": ("s3:ListBucket",),
    "ListMultipartUploads": ("s3:ListBucketMultipartUploads",),
    "ListParts": ("s3:ListMultipartUploadParts",),
    "HeadObject": ("s3:GetObject", "s3:ListBucket"),
    "GetObject": ("s3:GetObject",),
    "PutObject": ("s3:PutObject",),
    "CreateMultipartUpload": ("s3:PutObject",),
    "UploadPart": ("s3:PutObject",),
    "CompleteMultipartUpload": ("s3:PutObject",),
    "AbortMultipartUpload": ("s3:AbortMultipartUpload",),
    "PutObjectTagging": ("s3:PutObjectTagging",),
    "DeleteObjects": ("s3:DeleteObject",),
}
"""The IAM actions of each call. A HEAD of a key that is not there needs ListBucket, or it is answered with 403."""
_OF_BUCKETS = ("s3:ListBucket", "s3:ListBucketMultipartUploads")
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired")
_UNKNOWN = ("InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch", "UnrecognizedClientException")
_ELSEWHERE = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301")
_MISSING_CREDENTIALS = (
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound",
    "TokenRetrievalError",
)  # fmt: skip
_EXPIRED_LOGIN = ("SSOTokenLoadError", "UnauthorizedSSOTokenError", "SSOError")


@dataclass(frozen=True, slots=True)
class Destination:
    """A bucket, and the prefix of the packs in it."""

    bucket: str
    prefix: str
    """Empty, or with a slash at its end."""

    @classmethod
    def parse(cls, text: str) -> Destination:
        """Parse ``s3://BUCKET/PREFIX/``.

        Raises:
            ConfigError: it is none.
        """
        scheme, _, rest = text.partition("://")
        bucket, _, prefix = rest.partition("/")
        if scheme != "s3" or not bucket:
            raise ConfigError(f"{text!r} is no place to push to: expected s3://BUCKET/PREFIX/.")
        prefix = prefix.strip("/")
        return cls(bucket, f"{prefix}/" if prefix else "")

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


@dataclass(frozen=True, slots=True)
class Permission:
    """What `preflight` found out."""

    destination: str
    """``s3://BUCKET/PREFIX/``."""
    region: str
    """The bucket's, as S3 says, else the client's."""


def new_client() -> Any:
    """Return a client from the default session, which tries again as the SDK's standard mode does.

    Raises:
        ConfigError: the session's own settings are wrong.
    """
    mode = {} if os.environ.get("AWS_RETRY_MODE") else {"retries": {"mode": "standard"}}
    try:
        return boto3.client("s3", config=Config(max_pool_connections=CONNECTIONS + 2, **mode))
    except BotoCoreError as error:
        raise explain(error, "", "") from error
    except ValueError as error:  # of a variable or a line of the AWS configuration
        raise ConfigError(
            f"the SDK does not accept its own settings: {error}. Correct AWS_ENDPOINT_URL (https://HOST), "
            "AWS_MAX_ATTEMPTS or what `aws configure list` shows."
        ) from error


def preflight(
    destination: str, *, client: Any = None, options: Mapping[str, Any] | None = None, write: bool = True
) -> Permission:
    """Find out, before any work is done, whether packs can be pushed somewhere. Leaves nothing there.

    Begins an upload in parts under the prefix and takes it back at once: of all calls that S3 checks the right to write
    for, and the right to use a KMS key, that is the one without a trace.

    Args:
        destination: ``s3://BUCKET/PREFIX/``.
        client: a boto3 S3 client. None: one from the default session.
        options: what the upload will ask for besides (encryption, storage class, tags), as `create_multipart_upload`
            takes it.
        write: whether to try. False: only whether the bucket can be read.

    Raises:
        ConfigError: the destination is malformed, or there are no credentials.
        FetchError: there is no such bucket, or S3 refuses: the message says why and what to do.
    """
    place = Destination.parse(destination)
    client = client if client is not None else new_client()
    key = f"{place.prefix}{'0' * 64}.tar.zst"
    try:
        # A HEAD of the bucket asks for the same right and is answered without words.
        found = client.list_objects_v2(Bucket=place.bucket, Prefix=place.prefix, MaxKeys=1)
        region = found["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region") or client.meta.region_name
        if write:
            upload = client.create_multipart_upload(Bucket=place.bucket, Key=key, **(options or {}))["UploadId"]
            try:
                client.abort_multipart_upload(Bucket=place.bucket, Key=key, UploadId=upload)
            except ClientError as error:
                if status_of(error) != 403:  # an empty upload costs nothing; `lazydeps prune` removes it
                    raise
    except (KeyError, RecursionError) as error:  # an answer without what S3 says, or redirections without an end
        raise _not_s3(error, str(place)) from error
    except S3_ERRORS as error:
        raise explain(error, place.bucket, key, client, tags="Tagging" in (options or {})) from error
    return Permission(str(place), str(region or ""))


def head(client: Any, bucket: str, key: str) -> dict[str, Any] | None:
    """Return what S3 says of an object, with its checksum; None where there is none.

    Raises:
        ClientError: among others where the bucket is missing.
    """
    try:
        found: dict[str, Any] = client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    except ClientError as error:
        if status_of(error) == 404:
            # A bucket that is missing answers a HEAD in the same words as a key that is missing.
            client.head_bucket(Bucket=bucket)
            return None
        raise
    return found


def status_of(error: ClientError) -> int | None:
    """Return the HTTP status of S3's refusal."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return int(status) if status is not None else None


def code_of(error: ClientError) -> str:
    """Return S3's word for it, ``AccessDenied``."""
    return str(error.response.get("Error", {}).get("Code", ""))


def explain(error: Exception, bucket: str, key: str, client: Any = None, *, tags: bool = False) -> Exception:
    """Return an error of ours for one of the SDK's: what was asked, what S3 says, and the next command to run.

    Args:
        error: a BotoCoreError or ClientError.
        bucket: which was asked for.
        key: likewise; may be empty.
        client: whose partition the ARNs are in.
        tags: whether the upload carries tags, which needs a permission of its own.
    """
    url = f"s3://{bucket}/{key}"
    if not isinstance(error, ClientError):
        return _explain_sdk(error, url)
    status, code = status_of(error), code_of(error)
    metadata, said = error.response.get("ResponseMetadata", {}), str(error.response.get("Error", {}).get("Message", ""))
    call = error.operation_name
    partition = getattr(getattr(client, "meta", None), "partition", None) or "aws"
    if "kms" in code.lower() or ("kms:" in said.lower() and status in (400, 403)):
        words = (
            f"S3 cannot use the KMS key for {call} on {url} ({code}: {said}). The publisher needs kms:GenerateDataKey "
            "and kms:Decrypt on the key, and functions need kms:Decrypt. Allow them in the key's policy, or push with "
            "another --sse-kms-key-id or --sse AES256."
        )
    elif code in _ELSEWHERE or status == 301:
        headers = metadata.get("HTTPHeaders", {})
        region = headers.get("x-amz-bucket-region") or error.response.get("Error", {}).get("Region")
        where = f"is in {region}" if region else "is in another region or partition"
        words = (
            f"the bucket {bucket} {where}, and {call} went to {_region_of(client) or 'another one'} ({code}). Run the "
            f"command again with AWS_REGION={region or 'THE-BUCKETS-REGION'}; `aws s3api head-bucket --bucket "
            f"{bucket}` shows it."
        )
    elif status == 404 and code != "NoSuchUpload":
        words = (
            f"there is no bucket {bucket}. Create it (`aws s3 mb s3://{bucket}`), or check the name, the region and "
            "the account."
        )
    elif code in _EXPIRED:
        words = (
            f"the AWS credentials have expired ({code}, {call} on {url}). Get new ones, with `aws sso login` or "
            "however you got these, and run the command again: what has arrived of an upload is kept."
        )
    elif code in _UNKNOWN:
        words = (
            f"S3 does not accept the AWS credentials ({code}: {said}; {call} on {url}). `aws sts get-caller-identity` "
            "says who you are; look at AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN."
        )
    elif code in ("RequestTimeTooSkewed", "RequestInTheFuture"):
        words = (
            f"this machine's clock is more than 15 minutes off, and S3 refused {call} on {url} ({code}). Set it "
            "(`timedatectl set-ntp true`; `wsl --shutdown` after a sleep under WSL) and run the command again."
        )
    elif status == 403:
        words = f"S3 denied {call} on {url} ({code}{': ' + said if said else ''}). The publisher needs " + _needs(
            call, bucket, key, partition, tags=tags
        )
        words += ". `aws sts get-caller-identity` says who you are."
    else:
        words = f"S3 answered {call} on {url} with {status} {code}: {said or error}. " + (
            "Run the command again in a while: what has arrived of an upload is kept."
            if (status or 500) >= 500 or code in ("SlowDown", "RequestTimeout")
            else "`lazydeps doctor` looks at the bucket and the rights."
        )
    return FetchError(
        words,
        url=url,
        status=status,
        request_id=metadata.get("RequestId"),
        retryable=bool(status and status >= 500) or code in ("SlowDown", "RequestTimeout"),
    )


def _explain_sdk(error: Exception, url: str) -> Exception:
    name = type(error).__name__
    if name in _EXPIRED_LOGIN:
        return ConfigError(f"the AWS SSO login has expired ({error}). Run `aws sso login` and the command again.")
    if name in _MISSING_CREDENTIALS:
        return ConfigError(
            f"no usable AWS credentials ({error}). Set AWS_PROFILE, or run `aws configure` or `aws sso login`."
        )
    if name in ("NoRegionError", "InvalidRegionError"):
        return ConfigError(f"no usable AWS region ({error}). Set AWS_REGION to the bucket's.")
    if name == "ParamValidationError":
        return ConfigError(f"the SDK does not accept this for {url}: {error}. Correct it.")
    if name == "ResponseParserError":
        return _not_s3(error, url)
    return FetchError(
        f"could not reach S3 for {url}: {error}. Check the network, the proxy and AWS_REGION, and run the command "
        "again: what has arrived of an upload is kept.",
        url=url,
        retryable=True,
    )


def _not_s3(error: Exception, url: str) -> FetchError:
    what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return FetchError(
        f"what answered for {url} is not S3 ({what}). Look at the proxy (HTTPS_PROXY, NO_PROXY), at a login page of "
        "the network, and at AWS_ENDPOINT_URL; `lazydeps doctor` checks them.",
        url=url,
    )


def _region_of(client: Any) -> str:
    return str(getattr(getattr(client, "meta", None), "region_name", "") or "")


def _needs(call: str, bucket: str, key: str, partition: str, *, tags: bool) -> str:
    actions = _ACTIONS.get(call, ("s3:GetObject",))
    if tags and actions == ("s3:PutObject",):
        actions = ("s3:PutObject", "s3:PutObjectTagging")
    prefix = key[: key.rfind("/") + 1]
    words = []
    for action in actions:
        what = bucket if action in _OF_BUCKETS else f"{bucket}/{prefix}*"
        words.append(f"{action} on arn:{partition}:s3:::{what}")
    return " and ".join(words)
