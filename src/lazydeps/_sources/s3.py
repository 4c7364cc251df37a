"""Packs in S3: Signature Version 4, endpoints, regions and what S3's refusals mean, over `https`'s connection.

GET of one object and nothing else. Access point ARNs, directory buckets and requester-pays are not supported.
"""

from __future__ import annotations

import time

from lazydeps._digest import new_sha256
from lazydeps.errors import ConfigError

from .https import HttpSource, Refusal, Target, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""SHA-256 of a GET's body, which is empty."""
KEY_SAFE = b"-._~/"
"""What S3's signature leaves unencoded in a key, besides letters and digits."""


class Credentials:
    """An access key. It has no useful ``repr``, on purpose."""

    __slots__ = ("key_id", "secret", "token")

    def __init__(self, key_id: str, secret: str, token: str | None = None) -> None:
        self.key_id = key_id
        self.secret = secret
        self.token = token


def sign(
    method: str,
    host: str,
    path: str,
    headers: Mapping[str, str],
    credentials: Credentials,
    region: str,
    now: float,
) -> dict[str, str]:
    """Sign an S3 request that has no query and no body, with AWS Signature Version 4.

    See https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html.

    Args:
        method: the HTTP method.
        host: the ``Host`` header.
        path: the path as it is sent, percent-encoded once.
        headers: the other headers to sign.
        credentials: the key to sign with.
        region: the region that the bucket is in.
        now: seconds since the epoch.

    Returns:
        ``headers`` and those that the signature adds; ``Host`` is not among them.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    signed = {**headers, "X-Amz-Content-SHA256": EMPTY_SHA256, "X-Amz-Date": stamp}
    if credentials.token:
        signed["X-Amz-Security-Token"] = credentials.token
    canonical = {name.lower(): " ".join(value.split()) for name, value in signed.items()}
    canonical["host"] = host
    names = sorted(canonical)
    lines = [method, path, "", *(f"{name}:{canonical[name]}" for name in names), "", ";".join(names), EMPTY_SHA256]
    digest = new_sha256()
    digest.update("\n".join(lines).encode("utf-8", "surrogateescape"))
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    key = b"AWS4" + credentials.secret.encode("utf-8", "surrogateescape")
    for part in scope.split("/"):
        key = _hmac(key, part)
    signature = _hmac(key, f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest.hexdigest()}").hex()
    signed["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.key_id}/{scope}, "
        f"SignedHeaders={';'.join(names)}, Signature={signature}"
    )
    return signed


class S3Source(HttpSource):
    """An object named by ``s3://BUCKET/KEY``. The key is taken as it stands, like the AWS CLI does."""

    keeps_redirects = False  # what a redirect teaches is the bucket's region, and the source keeps that

    def __init__(self, url: str, environ: Mapping[str, str]) -> None:
        super().__init__(url, environ)
        self.url = url  # what follows a "?" is part of the key
        self.bucket, _, self.key = url.removeprefix("s3://").partition("/")
        if not _is_name(self.bucket, "-._") or not self.key:
            raise ConfigError(
                f"{url!r} names no object: expected s3://BUCKET/KEY. Of an access point, use the alias, not the ARN."
            )
        self._found_region = ""
        self._chain: Any = None

    @property
    def region(self) -> str:
        """The region to sign for: the one S3 told us, else the configured one."""
        environ = self.environ
        region = self._found_region or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        if not _is_name(region, "-"):
            raise ConfigError(f"AWS_REGION is {region!r}: expected a region's name, such as eu-west-1.")
        return region

    def prepare(self) -> None:
        """Import what HTTP needs, and resolve credentials; see `Source.prepare`."""
        super().prepare()
        self._credentials()

    def target(self) -> Target:
        """Return the endpoint and the path of the object, in virtual-host style where that is possible."""
        key, region = quote(self.key, KEY_SAFE), self.region
        environ = self.environ
        endpoint = ""
        if environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() != "true":
            endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or ""
        if endpoint:
            base = Target.parse(endpoint)
            return Target(base.scheme, base.host, base.port, f"{base.path.rstrip('/')}/{self.bucket}/{key}", region)
        host = f"s3.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "")
        # A dot would not match the wildcard certificate; capitals and "_" are no host name (buckets of before 2018).
        if self.bucket != self.bucket.lower() or "." in self.bucket or "_" in self.bucket:
            return Target("https", host, None, f"/{self.bucket}/{key}", region)
        return Target("https", f"{self.bucket}.{host}", None, f"/{key}", region)

    def headers(self, target: Target, wanted: dict[str, str]) -> dict[str, str]:
        """Return the signed headers of one request."""
        return sign("GET", target.authority, target.path, wanted, self._credentials(), target.region, time.time())

    def follow(self, target: Target, refusal: Refusal) -> Target | None:
        """Return the object's address in the region that S3 names, if the request was signed for another."""
        region = refusal.region
        if refusal.status not in (301, 302, 307, 308, 400) or region == target.region or not _is_name(region, "-"):
            return None
        self._found_region = region
        return self.target()

    def describe(self, refusal: Refusal, start: int) -> str:
        """Say what S3's refusal means and what to do about it."""
        status, code = refusal.status, refusal.code
        if code == "RequestTimeTooSkewed":
            here = time.strftime("%Y-%m-%d %H:%M:%S GMT", time.gmtime())
            return (
                f"S3 refused {self.url} because this machine's clock is wrong: it says {here} and S3's says "
                f"{refusal.date or 'something else'}. Set the clock; in a container, that of its host."
            )
        if code in ("ExpiredToken", "InvalidToken", "TokenRefreshRequired"):
            return (
                f"S3 refused {self.url} because the credentials have expired or belong elsewhere ({code}). "
                "Renew AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN together."
            )
        if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch"):
            return (
                f"S3 refused {self.url}: the key in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is not valid there "
                f"({code}). Check both, AWS_SESSION_TOKEN, and AWS_REGION, which is {self.region} here."
            )
        if status in (401, 403) and code in ("", "AccessDenied", "Forbidden"):
            partition = "aws-cn" if self.region.startswith("cn-") else "aws"
            partition = "aws-us-gov" if self.region.startswith("us-gov-") else partition
            return (
                f"S3 denied access to {self.url}. Allow the role s3:GetObject on arn:{partition}:s3:::{self.bucket}/"
                f"{self.key}, and kms:Decrypt if a KMS key encrypts the object. A key that does not exist looks the "
                "same to a role without s3:ListBucket."
            )
        if status == 404:
            missing = f"the bucket {self.bucket}" if code == "NoSuchBucket" else f"the key {self.key} in {self.bucket}"
            return f"S3 has no {self.url}: {missing} does not exist. Check the reference, or `lazydeps push` the pack."
        return super().describe(refusal, start)

    def _credentials(self) -> Credentials:
        environ = self.environ
        key_id, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
        if key_id and secret:
            return Credentials(key_id, secret, environ.get("AWS_SESSION_TOKEN"))
        if self._chain is None:
            self._chain = _botocore_credentials(self.url)
        from botocore.exceptions import BotoCoreError

        try:
            frozen = self._chain.get_frozen_credentials()  # renews them when they are about to expire
        except BotoCoreError as error:
            raise _no_credentials(self.url, f"botocore could not renew them: {type(error).__name__}") from error
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)


def _botocore_credentials(url: str) -> Any:
    """Return the process's credentials by botocore's chain: profiles, containers, SnapStart, instances."""
    try:
        from botocore.exceptions import BotoCoreError
        from botocore.session import Session
    except ImportError:
        raise _no_credentials(url, "botocore, which knows profiles and roles, is not installed") from None
    try:
        found = Session().get_credentials()
    except BotoCoreError as error:
        raise _no_credentials(url, f"botocore failed: {type(error).__name__}") from error
    if found is None:
        raise _no_credentials(url, "botocore's chain ended without any")
    return found


def _no_credentials(url: str, found: str) -> ConfigError:
    return ConfigError(
        f"no AWS credentials to read {url}: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not both set, and {found}. "
        "Give the function a role, or set the variables or AWS_PROFILE."
    )


def _hmac(key: bytes, message: str) -> bytes:
    try:
        from _hashlib import hmac_digest
    except ImportError:  # an interpreter built without OpenSSL
        from hmac import digest as hmac_digest  # type: ignore[assignment,unused-ignore]
    return hmac_digest(key, message.encode("utf-8", "surrogateescape"), "sha256")


def _is_name(text: str, punctuation: str) -> bool:
    """Whether ``text`` is ASCII letters, digits and this punctuation, so that it cannot leave its place in a host."""
    plain = text.translate(dict.fromkeys(map(ord, punctuation)))
    return plain.isascii() and plain.isalnum()
