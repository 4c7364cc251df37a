"""Check what packing, publishing and running need, before any of it is begun.

Each check is one answer with one sentence and what to do. Nothing is written anywhere, except the probe that
`DoctorOptions.write_test` asks for. What a deployed function says of itself is `doctor_function.py`'s.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import boto3
from botocore.config import Config as BotoConfig
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from lazydeps._ref import Ref
from lazydeps.errors import ConfigError, LazydepsError

from . import lockfile, read
from .interpreters import find_interpreter
from .s3 import Destination
from .uv import uv_binary

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

State = Literal["ok", "warning", "failure", "skipped"]
SCRATCH = 2_000_000_000
"""Bytes that a build of a large pack needs in the temporary folder; less is a warning."""
_CLIENT = BotoConfig(connect_timeout=5, read_timeout=15, retries={"max_attempts": 2, "mode": "standard"})
AWS_ERRORS = (BotoCoreError, ClientError, ResponseParserError)
"""What a call of boto3 may raise for what AWS, or whatever answers in its place, has done."""
_BLOCKS = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
_PROBE = b"lazydeps doctor\n"
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AllAccessDisabled", "403"})


@dataclass(frozen=True, slots=True)
class Check:
    """One answer."""

    name: str
    """What was looked at, for example ``credentials``."""
    state: State
    words: str
    """What was found, a sentence; for `skipped` the reason."""
    todo: str = ""
    """What to do about it; empty where nothing is to be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorOptions:
    """What to look at."""

    pythons: tuple[str, ...] = ()
    """Minor versions of the targets."""
    destination: str | None = None
    """``s3://BUCKET/PREFIX/``; None: nothing of S3 is looked at but what the lock names."""
    lock: Path | None = None
    function: str | None = None
    """Name or ARN of a deployed function."""
    region: str | None = None
    profile: str | None = None
    write_test: bool = False
    """Whether to put and remove a small object under the prefix."""


@dataclass(slots=True)
class Examination:
    """The checks of one run, in order, and what they share."""

    options: DoctorOptions
    session: Any = None
    """A boto3 session with credentials that AWS knows; None where there is none."""
    checks: list[Check] = field(default_factory=list)
    on_check: Callable[[Check], None] | None = None

    def add(self, name: str, state: State, words: str, todo: str = "") -> None:
        """Take an answer."""
        check = Check(name, state, words, todo)
        self.checks.append(check)
        if self.on_check is not None:
            self.on_check(check)

    def ok(self, name: str, words: str) -> None:
        """Take a good answer."""
        self.add(name, "ok", words)

    def client(self, service: str) -> Any:
        """Return a client whose waits are bounded."""
        return self.session.client(service, config=_CLIENT)

    def guard(self, name: str, check: Callable[..., None], *arguments: Any) -> None:
        """Run a check; take as an answer whatever it raises, for AWS, or what answers in its place, may say anything.

        Args:
            name: the check's, if it ends so.
            check: a function that takes this examination.
            arguments: what else it takes.
        """
        try:
            check(self, *arguments)
        except (*AWS_ERRORS, LazydepsError) as error:
            self.add(name, "failure", f"{one_line(error)}.", _advice(error))
        except Exception as error:
            self.add(
                name,
                "failure",
                f"this could not be looked at: {type(error).__name__}: {one_line(error)[:300]}.",
                "Look at AWS_ENDPOINT_URL, AWS_MAX_ATTEMPTS, the proxy, and what `aws configure list` shows.",
            )

    def refused(self, name: str, error: Exception, permission: str, *, needed: bool) -> None:
        """Take an AWS call that failed.

        Args:
            name: the check's.
            error: what boto raised.
            permission: the IAM action of the call, and on what.
            needed: whether lazydeps needs the call itself. A look that only this check needs is skipped, not failed.
        """
        code = error_code(error)
        if code in _DENIED:
            state: State = "failure" if needed else "skipped"
            self.add(name, state, f"AWS denied {permission} ({code}).", f"Allow {permission}." if needed else "")
        else:
            self.add(name, "failure" if needed else "skipped", f"{one_line(error)}.", _advice(error))


def examine(options: DoctorOptions, *, on_check: Callable[[Check], None] | None = None) -> tuple[Check, ...]:
    """Run all checks that the options ask for.

    A check that cannot be made is skipped and says why; nothing is raised for what AWS or the machine answers.

    Args:
        options: what to look at.
        on_check: called with each answer when it is there.
    """
    found = Examination(options, on_check=on_check)
    found.guard("tools", _tools)
    found.guard("disk", _disk)
    lock = _lock(found)
    remote = options.destination is not None or options.function is not None or bool(lock and lock.packs)
    if not remote:
        found.add("aws", "skipped", "no destination, no function and no lock file names anything in AWS.")
        return tuple(found.checks)
    found.guard("credentials", _credentials)
    if options.destination is not None:
        found.guard("bucket", _destination, options.destination)
    if lock is not None:
        found.guard("packs of the lock", _locked_objects, lock)
    if options.function is not None:
        if found.session is None:
            found.add("function", "skipped", "there are no credentials to ask Lambda with.")
        else:
            from .doctor_function import examine_function

            found.guard("function", examine_function, options.function, lock)
    return tuple(found.checks)


def error_code(error: Exception) -> str:
    """Return AWS's code of an error, or an empty text."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def one_line(error: BaseException) -> str:
    """Return an error's words in one line, without the full stop."""
    return " ".join(str(error).split()).rstrip(".")


def packs_for(lock: lockfile.Lock | None, python: str, arch: str) -> dict[str, lockfile.Entry]:
    """Return the locked packs that a target loads: name to entry."""
    keys = (lockfile.target_key(python, arch), lockfile.target_key(python, "any"), lockfile.ARCHIVE)
    packs = {} if lock is None else lock.packs
    found = {name: next((targets[key] for key in keys if key in targets), None) for name, targets in packs.items()}
    return {name: entry for name, entry in found.items() if entry is not None}


# -- this machine


def _tools(found: Examination) -> None:
    try:
        uv = uv_binary()
        done = subprocess.run([os.fspath(uv), "--version"], capture_output=True, text=True, timeout=30, check=True)
        found.ok("uv", f"{done.stdout.strip()} resolves and installs.")
    except (ConfigError, OSError, subprocess.SubprocessError) as error:
        found.add("uv", "failure", f"{one_line(error)}.", "pip install 'lazydeps[build]'")
    for python in found.options.pythons:
        interpreter = find_interpreter(python)
        if interpreter is None:
            found.add(
                f"python {python}",
                "failure",
                f"no working Python {python} was found, and bytecode for it has to be compiled by one.",
                f"uv python install {python}",
            )
        else:
            found.ok(f"python {python}", f"{interpreter.path} is {interpreter.version}.")


def _disk(found: Examination) -> None:
    place = tempfile.gettempdir()
    free = shutil.disk_usage(place).free
    words = f"{free / 1e9:.1f} GB are free in {place}"
    if free < SCRATCH:
        found.add("disk", "warning", f"{words}; a large pack needs {SCRATCH / 1e9:.0f} GB.", "Set TMPDIR elsewhere.")
    else:
        found.ok("disk", f"{words}.")


def _lock(found: Examination) -> lockfile.Lock | None:
    path = found.options.lock
    if path is None:
        found.add("lock", "skipped", "there is no lazydeps.lock here.")
        return None
    try:
        lock = lockfile.read(path)
    except LazydepsError as error:
        found.add("lock", "failure", str(error), "Take the file from version control, or push again.")
        return None
    entries = [f"{name} ({', '.join(sorted(targets))})" for name, targets in sorted(lock.packs.items())]
    refs = map(Ref.parse, lock.refs())
    unpinned = sorted(ref.shown for ref in refs if ref.root is None and ref.sha256 is None)
    if unpinned:
        found.add("lock", "failure", f"{path} has references without a pin: {', '.join(unpinned)}.", "Push them again.")
    else:
        found.ok("lock", f"{path} is sound: {'; '.join(entries) or 'no packs yet'}.")
    return lock


# -- AWS


def _credentials(found: Examination) -> None:
    try:
        session = boto3.Session(profile_name=found.options.profile, region_name=found.options.region)
        if session.get_credentials() is None:
            found.add(
                "credentials",
                "failure",
                "no usable AWS credentials were found.",
                "Set AWS_PROFILE, or run `aws configure` or `aws sso login`.",
            )
            return
        # STS has an endpoint in every region; without any region at all the one that always was there answers.
        client = session.client("sts", config=_CLIENT, region_name=session.region_name or "us-east-1")
        who = client.get_caller_identity()
    except AWS_ERRORS as error:
        found.add("credentials", "failure", f"{one_line(error)}.", _advice(error))
        return
    found.ok("credentials", f"AWS knows them as {who['Arn']}.")
    if session.region_name is None:
        found.add(
            "region", "failure", "no region is set.", "Set AWS_REGION, or give --region, to where the function runs."
        )
        return
    found.ok("region", f"{session.region_name}.")
    found.session = session


def _destination(found: Examination, destination: str) -> None:
    try:
        place = Destination.parse(destination)
    except ConfigError as error:
        found.add("bucket", "failure", str(error), "Give s3://BUCKET/PREFIX/.")
        return
    bucket, prefix = place.bucket, place.prefix
    if found.session is None:
        found.add("bucket", "skipped", "there are no credentials to ask S3 with.")
        return
    client = found.client("s3")
    try:
        head = client.head_bucket(Bucket=bucket)
    except AWS_ERRORS as error:
        status = error.response["ResponseMetadata"].get("HTTPStatusCode") if isinstance(error, ClientError) else None
        if status == 404:
            found.add(
                "bucket", "failure", f"there is no bucket {bucket}.", f"aws s3 mb s3://{bucket}, or correct the name."
            )
        elif status == 403:
            found.add(
                "bucket",
                "failure",
                f"S3 denied a look at {bucket}: it is another account's, or s3:ListBucket is missing.",
                f"Allow s3:ListBucket on arn:aws:s3:::{bucket}.",
            )
        else:
            found.add("bucket", "failure", f"{one_line(error)}.", _advice(error))
        return
    region = head.get("BucketRegion") or head["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
    here = found.session.region_name
    if region and region != here:
        found.add(
            "bucket",
            "warning",
            f"{bucket} is in {region} and the session's region is {here}: a function in {here} would pay for the "
            "transfer and wait longer.",
            "Use a bucket in the function's region.",
        )
    else:
        found.ok("bucket", f"{bucket} is there{f', in {region}' if region else ''}.")
    _bucket_settings(found, client, bucket)
    try:
        listed = client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=10)
        count = f"{listed.get('KeyCount', 0)}{' or more' if listed.get('IsTruncated') else ''}"
        found.ok("list", f"the objects under s3://{bucket}/{prefix} can be listed: {count}.")
    except AWS_ERRORS as error:
        found.refused("list", error, f"s3:ListBucket on arn:aws:s3:::{bucket}", needed=True)
    if found.options.write_test:
        _write_test(found, client, bucket, prefix)
    else:
        found.add("write", "skipped", "nothing was written; --write-test puts a small object and removes it.")


def _bucket_settings(found: Examination, client: Any, bucket: str) -> None:
    try:
        block = client.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
        closed = all(block.get(name) for name in _BLOCKS)
    except AWS_ERRORS as error:
        if error_code(error) != "NoSuchPublicAccessBlockConfiguration":
            found.refused("public access", error, f"s3:GetBucketPublicAccessBlock on {bucket}", needed=False)
            closed = True
        else:
            closed = False
    else:
        if closed:
            found.ok("public access", "all of it is blocked.")
    if not closed:
        found.add(
            "public access",
            "warning",
            f"{bucket} does not block all public access. Packs need none.",
            f"aws s3api put-public-access-block --bucket {bucket} --public-access-block-configuration "
            "BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true",
        )
    try:
        status = client.get_bucket_versioning(Bucket=bucket).get("Status", "off")
        found.ok(
            "versioning",
            "on: objects that are removed can be brought back, and old versions cost until a rule expires them."
            if status == "Enabled"
            else "off: packs never replace one another, so it is not needed.",
        )
    except AWS_ERRORS as error:
        found.refused("versioning", error, f"s3:GetBucketVersioning on {bucket}", needed=False)


def _write_test(found: Examination, client: Any, bucket: str, prefix: str) -> None:
    key = f"{prefix}.lazydeps-doctor-{uuid.uuid4().hex}"
    where = f"arn:aws:s3:::{bucket}/{prefix}*"
    try:
        client.put_object(Bucket=bucket, Key=key, Body=_PROBE, IfNoneMatch="*")
    except AWS_ERRORS as error:
        found.refused("write", error, f"s3:PutObject on {where}", needed=True)
        return
    try:
        if client.get_object(Bucket=bucket, Key=key)["Body"].read() == _PROBE:
            found.ok("write", f"a small object was put under s3://{bucket}/{prefix} and read.")
        else:
            found.add(
                "write",
                "failure",
                f"a small object was put under s3://{bucket}/{prefix}, and what was read is something else.",
                "Look at the proxy and at AWS_ENDPOINT_URL: this is not what S3 does.",
            )
    except AWS_ERRORS as error:
        found.refused("write", error, f"s3:GetObject on {where}", needed=True)
    try:
        client.delete_object(Bucket=bucket, Key=key)
    except AWS_ERRORS as error:
        found.add(
            "write",
            "warning",
            f"the probe s3://{bucket}/{key} could not be removed: {one_line(error)}.",
            "Remove it by hand.",
        )


def _locked_objects(found: Examination, lock: lockfile.Lock) -> None:
    for name, targets in sorted(lock.packs.items()):
        for target, entry in sorted(targets.items()):
            if entry.ref.startswith("s3://") and found.session is None:
                found.add(f"pack {name} {target}", "skipped", "there are no credentials to ask S3 with.")
                continue
            with_object(found, f"pack {name} {target}", entry.ref, size=entry.size)


def with_object(found: Examination, name: str, text: str, *, size: int | None = None) -> dict[str, Any] | None:
    """Check that what a reference names is there and is what it pins, as far as a pack's head tells; return its facts.

    Args:
        found: takes the answer.
        name: the check's.
        text: the reference.
        size: bytes that it was promised to have.

    Returns:
        What `read.describe` says of a pack; None for another archive and where the check failed.
    """
    facts: dict[str, Any] | None = None
    try:
        ref = Ref.parse(text)
        if ref.is_archive:
            actual = _archive_size(found, ref)
        else:
            with read.open_pack(ref, environ=_environ(found)) as opened:
                facts = read.describe(opened)
                facts["boot_unpacked"] = facts["sets"]["boot"]["unpacked"]
                actual = opened.size
    except LazydepsError as error:
        found.add(name, "failure", str(error), "Push it again, or correct the reference or the permission.")
        return None
    except AWS_ERRORS as error:
        found.add(name, "failure", f"{Ref.parse(text).shown}: {one_line(error)}.", _advice(error))
        return None
    if size is not None and actual is not None and actual != size:
        found.add(
            name,
            "failure",
            f"{ref.shown} has {actual:,} bytes, and the lock says {size:,}.",
            "Push the pack again, or roll back to one that is whole.",
        )
        return None
    checked = "its head matches the pin" if facts is not None else "what it holds is checked when it is loaded"
    found.ok(name, f"{ref.shown.partition('#')[0]} is there{f' with {actual:,} bytes' if actual else ''}; {checked}.")
    return facts


def _archive_size(found: Examination, ref: Ref) -> int | None:
    if not ref.url.startswith("s3://"):
        return None
    bucket, _, key = ref.url.removeprefix("s3://").partition("/")
    return int(found.client("s3").head_object(Bucket=bucket, Key=key)["ContentLength"])


def _environ(found: Examination) -> Mapping[str, str]:
    """Return the environment in which the runtime's own S3 client sees this session's credentials and region."""
    environ = dict(os.environ)
    if found.session is not None:
        frozen = found.session.get_credentials().get_frozen_credentials()
        environ |= {"AWS_ACCESS_KEY_ID": frozen.access_key, "AWS_SECRET_ACCESS_KEY": frozen.secret_key}
        environ.pop("AWS_SESSION_TOKEN", None)
        if frozen.token:
            environ["AWS_SESSION_TOKEN"] = frozen.token
        environ["AWS_REGION"] = environ["AWS_DEFAULT_REGION"] = found.session.region_name
    return environ


def _advice(error: Exception) -> str:
    name, code = type(error).__name__, error_code(error)
    if name == "ProfileNotFound":
        return "Name a profile that `aws configure list-profiles` shows."
    if name in ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"):
        return "Set AWS_PROFILE, or run `aws configure` or `aws sso login`."
    if code in ("ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "SignatureDoesNotMatch"):
        return "Get new credentials: `aws sso login`, or correct the keys."
    if name in ("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ProxyConnectionError"):
        return "Check the network, the proxy, the region and AWS_ENDPOINT_URL."
    return ""
