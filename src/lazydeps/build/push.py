"""Push packs to S3 under names that follow from their content, and make sure that they arrived.

`build/upload.py` sends; here is what is sent along, what is checked before and after, and what the lock file gets.
"""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import lazydeps
from lazydeps._ref import Ref
from lazydeps.build import lockfile
from lazydeps.build.epoch import source_date, spelled
from lazydeps.build.lockfile import Entry, target_key
from lazydeps.build.read import as_ref, open_pack
from lazydeps.build.s3 import S3_ERRORS, Destination, explain, head, new_client, preflight
from lazydeps.build.upload import PART, Content, Sent, abort_all, upload
from lazydeps.errors import ConfigError, FetchError, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from lazydeps._pack import Root

__all__ = [
    "PART",
    "Plan",
    "PushOptions",
    "Pushed",
    "abort",
    "check_targets",
    "is_there",
    "pin_all",
    "plan_push",
    "preflight",
    "push",
    "send",
]

METADATA = 1900
"""Bytes of all metadata together, names included. S3 takes 2 KB."""
TAGS = 10
ENCRYPTIONS = ("AES256", "aws:kms", "aws:kms:dsse")
STORAGE_CLASSES = ("STANDARD", "INTELLIGENT_TIERING", "STANDARD_IA", "ONEZONE_IA", "GLACIER_IR")
"""Those that answer at once: a start cannot wait for a restore."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PushOptions:
    """What to send along with every pack."""

    name: str | None = None
    """The name that the lock file gets it under."""
    tags: dict[str, str] = field(default_factory=dict)
    """Object tags, for billing and lifecycle rules."""
    sse: str | None = None
    """One of `ENCRYPTIONS`. None: as the bucket's default says."""
    kms_key: str | None = None
    bucket_key: bool | None = None
    """Whether S3 may use one data key for many objects, which makes KMS cheaper. None: as the bucket says."""
    storage_class: str | None = None
    """One of `STORAGE_CLASSES`."""

    def check(self) -> None:
        """Raise ConfigError where S3 would refuse them, or where they contradict each other."""
        if self.name is not None:
            lockfile.check_name(self.name)
        if self.kms_key is not None and (self.sse or "").partition(":")[0] != "aws":
            raise ConfigError("--sse-kms-key-id goes with --sse aws:kms or --sse aws:kms:dsse. Add one of them.")
        if self.bucket_key is not None and self.sse != "aws:kms":
            raise ConfigError("--bucket-key goes with --sse aws:kms alone. Add it, or leave the bucket key out.")
        if len(self.tags) > TAGS:
            raise ConfigError(f"S3 takes {TAGS} tags an object, and there are {len(self.tags)}. Leave some out.")
        for key, value in self.tags.items():
            if not 1 <= len(key) <= 128 or len(value) > 256 or key.lower().startswith("aws:"):
                raise ConfigError(
                    f"the tag {key}={value} cannot be: S3 takes keys of 1 to 128 characters that do not begin with "
                    "aws: and values of up to 256. Correct --tag."
                )
            for letter in key + value:
                if not (letter.isalnum() or letter in " +-=._:/@"):
                    raise ConfigError(
                        f"the tag {key}={value} cannot be: S3 takes letters, digits, spaces and + - = . _ : / @ in "
                        f"tags, and {letter!r} is none of them. Correct --tag."
                    )

    def parameters(self) -> dict[str, Any]:
        """Return them as the calls that make an object take them."""
        parameters: dict[str, Any] = {}
        if self.tags:
            parameters["Tagging"] = urlencode(self.tags)
        if self.sse:
            parameters["ServerSideEncryption"] = self.sse
        if self.kms_key:
            parameters["SSEKMSKeyId"] = self.kms_key
        if self.bucket_key is not None:
            parameters["BucketKeyEnabled"] = self.bucket_key
        if self.storage_class:
            parameters["StorageClass"] = self.storage_class
        return parameters


@dataclass(frozen=True, slots=True)
class Plan:
    """A pack, and where it goes."""

    path: Path
    bucket: str
    key: str
    ref: str
    size: int
    target: str
    """As the lock file spells it, ``python3.13-arm64``."""
    metadata: dict[str, str]
    boot_size: int
    unpacked_size: int
    distributions: dict[str, str]

    @property
    def url(self) -> str:
        """Where it goes."""
        return f"s3://{self.bucket}/{self.key}"


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
    target: str = ""
    """As the lock file spells it, ``python3.13-arm64``."""
    published: str = ""
    """When S3 got it, ``2026-11-21T18:00:00Z``."""
    bytes_sent: int = 0
    bytes_resumed: int = 0
    """Bytes that an interrupted push had sent before."""
    seconds: float = 0.0
    """How long the upload took."""


def push(
    pack: Path,
    destination: str,
    *,
    client: Any = None,
    options: PushOptions | None = None,
    part: int = PART,
    on_progress: Callable[[int, int], None] | None = None,
) -> Pushed:
    """Upload a pack to ``s3://BUCKET/PREFIX/``.

    The key is the root's digest, so the same pack has the same key and another one never replaces it. An upload that
    was interrupted goes on where it stopped.

    Args:
        pack: the file.
        destination: bucket and prefix.
        client: a boto3 S3 client. None: one from the default session.
        options: encryption, tags and the like.
        part: bytes of one part of an upload, 5 MiB at least.
        on_progress: called with (bytes there, bytes in all).

    Raises:
        ConfigError: the destination is malformed, or there are no credentials.
        FetchError: S3 refused or failed; the message names the permission.
        PackFormatError: the file is no pack, or not a whole one.
        IntegrityError: the file is damaged, or what arrived, or what stands there, is not the pack.
        UploadInterruptedError: Ctrl-C; what has arrived is kept.
    """
    options = options or PushOptions()
    plan = plan_push(pack, destination, options=options)
    client = client if client is not None else new_client()
    preflight(destination, client=client, options=options.parameters())
    return send(plan, client=client, options=options, part=part, on_progress=on_progress)


def plan_push(pack: Path, destination: str, *, options: PushOptions) -> Plan:
    """Read what a pack says of itself, and say where it goes. S3 is not asked.

    Raises:
        ConfigError: the destination is malformed, or the options cannot be.
        PackFormatError: the file is no pack, or not a whole one.
    """
    place = Destination.parse(destination)
    options.check()
    with open_pack(as_ref(str(pack))) as opened:
        root = opened.root
    key = f"{place.prefix}{root.digest.hex()}.tar.zst"
    return Plan(
        path=pack,
        bucket=place.bucket,
        key=key,
        ref=str(Ref(f"s3://{place.bucket}/{key}", root.digest)),
        size=opened.size,
        target=target_key(root.python, root.arch),
        metadata=_metadata(root, pack, options),
        boot_size=root.boot.starts[-1],
        unpacked_size=sum(root.unpacked(name) for name in ("boot", "data", "cold")),
        distributions=dict(root.distributions),
    )


def send(
    plan: Plan,
    *,
    client: Any,
    options: PushOptions,
    part: int = PART,
    on_progress: Callable[[int, int], None] | None = None,
) -> Pushed:
    """Check a pack through, upload it, and compare what arrived. Arguments and errors are those of `push`."""
    pack, bucket, key = plan.path, plan.bucket, plan.key
    with open_pack(as_ref(f"{pack}#root=sha256:{Ref.parse(plan.ref).root.hex()}")) as opened:  # type: ignore[union-attr]
        for _ in opened.packed_frames():
            pass  # a damaged pack would hold its key for good, as nothing is ever replaced
    content = Content.of(pack, part=part)
    parameters = {
        "ContentType": "application/zstd",
        "CacheControl": "public, max-age=31536000, immutable",
        "Metadata": plan.metadata,
        **options.parameters(),
    }
    begun = time.monotonic()
    done = Sent(created=False)
    try:
        there = head(client, bucket, key)
        if there is None:
            done = upload(client, content, bucket, key, parameters=parameters, on_progress=on_progress)
            there = head(client, bucket, key)
        seconds = time.monotonic() - begun
        if there is not None and there["ContentLength"] == content.size:
            # The part of the checksum before "-N" says everything, and some servers leave the rest out.
            found = there.get("ChecksumSHA256", "").partition("-")[0]
            equal = found == content.checksum.partition("-")[0] or (
                not done.created and _same_content(client, pack, bucket, key)
            )
    except S3_ERRORS as error:
        raise explain(error, bucket, key, client, tags=bool(options.tags)) from error
    if there is None:
        raise FetchError(
            f"{plan.url} is not there after its upload. Push again.", url=plan.url, status=404, retryable=True
        )
    if there["ContentLength"] != content.size:
        raise IntegrityError(
            f"{plan.url} has {there['ContentLength']} bytes and the pack has {content.size}. It was not replaced: "
            "remove that object and push again.",
            expected=str(content.size),
            actual=str(there["ContentLength"]),
        )
    if not equal:
        raise IntegrityError(
            f"{plan.url} is not the pack: its SHA-256 checksum is {there.get('ChecksumSHA256') or 'not known'} "
            f"and the pack's is {content.checksum}. It was not replaced: remove that object and push again.",
            expected=content.checksum,
            actual=there.get("ChecksumSHA256", ""),
        )
    return Pushed(
        ref=plan.ref,
        bucket=bucket,
        key=key,
        size=content.size,
        sent=done.created,
        checksum=content.checksum,
        target=plan.target,
        published=there["LastModified"].strftime("%Y-%m-%dT%H:%M:%SZ"),
        bytes_sent=done.sent,
        bytes_resumed=done.resumed,
        seconds=round(seconds, 3),
    )


def abort(plans: Iterable[Plan], *, client: Any) -> int:
    """Take back the unfinished uploads of packs; return how many there were.

    Raises:
        FetchError: S3 refused.
    """
    count = 0
    for plan in plans:
        try:
            count += abort_all(client, plan.bucket, plan.key)
        except S3_ERRORS as error:
            raise explain(error, plan.bucket, plan.key, client) from error
    return count


def is_there(plan: Plan, *, client: Any) -> bool:
    """Return whether an object stands under a pack's key already.

    Raises:
        FetchError: S3 refused.
    """
    try:
        return head(client, plan.bucket, plan.key) is not None
    except S3_ERRORS as error:
        raise explain(error, plan.bucket, plan.key, client) from error


def check_targets(plans: Sequence[Plan], name: str) -> None:
    """Raise ConfigError where two packs would be one entry of the lock file."""
    seen: dict[str, Plan] = {}
    for plan in plans:
        other = seen.setdefault(plan.target, plan)
        if other.ref != plan.ref:
            raise ConfigError(
                f"{other.path} and {plan.path} are both for {plan.target}, and {name!r} can mean one pack for each "
                "target. Push them with two names."
            )


def pin_all(
    path: Path, name: str, plans: Sequence[Plan], pushed: Sequence[Pushed], *, client: Any = None
) -> dict[str, str | None]:
    """Pin packs in a lock file, all or none. Return what each target meant before, None where it meant nothing.

    Args:
        path: the lock file.
        name: what the packs are called in it.
        plans: the packs.
        pushed: what `send` returned for each.
        client: looks once more whether they are there, now that no `lazydeps prune` with this lock file can remove
            them. None: nobody looks.

    Raises:
        ConfigError: the file is no lock, or cannot be written.
        FetchError: a pack has gone since it was sent.
    """
    with lockfile.changing(path):
        for plan in plans:
            if client is not None and not is_there(plan, client=client):
                raise FetchError(
                    f"{plan.url} was removed after it was found or sent, maybe by a `lazydeps prune`. {path} was not "
                    "changed. Push again.",
                    url=plan.url,
                    status=404,
                    retryable=True,
                )
        lock = lockfile.read(path, missing=True)
        before: dict[str, str | None] = {}
        for plan, done in zip(plans, pushed, strict=True):
            now = lock.packs.get(name, {}).get(plan.target)
            before.setdefault(plan.target, now.ref if now else None)  # one pack can be given twice
            entry = Entry(
                ref=plan.ref,
                size=plan.size,
                boot_size=plan.boot_size,
                unpacked_size=plan.unpacked_size,
                distributions=plan.distributions,
                published=done.published,
            )
            lock = lockfile.pin(lock, name, plan.target, entry)
        lockfile.write(path, lock)
    return before


def _same_content(client: Any, pack: Path, bucket: str, key: str) -> bool:
    """Compare byte by byte an object that another tool, or another part size, gave another checksum or none."""
    body = client.get_object(Bucket=bucket, Key=key)["Body"]
    with open(pack, "rb") as file:
        return all(block == file.read(len(block)) for block in body.iter_chunks(1 << 20))


def _metadata(root: Root, pack: Path, options: PushOptions) -> dict[str, str]:
    """Return what the object says of itself, in ASCII, as S3 wants it."""
    built = source_date()
    found = {
        "lazydeps-version": lazydeps.__version__,
        "lazydeps-python": root.python,
        "lazydeps-arch": root.arch,
        "lazydeps-root": root.digest.hex(),
        "lazydeps-built": spelled(pack.stat().st_mtime if built is None else built),
    }
    if options.name is not None:
        found["lazydeps-name"] = options.name
    commit = git_commit()
    if commit is not None:
        found["lazydeps-git-commit"] = commit
    room = METADATA - sum(len(key) + len(value) for key, value in found.items()) - len("lazydeps-distributions")
    listed = " ".join(f"{name}=={version}" for name, version in sorted(root.distributions.items()))
    listed = listed.encode("ascii", "replace").decode()
    if len(listed) > room:
        listed = listed[: room - 4].rpartition(" ")[0] + " ..."
    if listed:
        found["lazydeps-distributions"] = listed
    return found


def git_commit() -> str | None:
    """Return the commit of the current folder's repository, with ``-dirty`` where files differ; None without one."""
    words = ["git", "--no-optional-locks"]
    try:
        commit = subprocess.run(
            [*words, "rev-parse", "--verify", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        changed = subprocess.run(
            [*words, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    if not commit.isalnum() or len(commit) > 64:
        return None
    return f"{commit}-dirty" if changed else commit
