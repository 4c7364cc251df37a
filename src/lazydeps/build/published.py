"""The packs that stand in a bucket: which there are, and removing those that nothing needs any more.

What is no pack of ours is never listed, and never removed.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from lazydeps import _fetch
from lazydeps._config import Limits
from lazydeps._pack import Root
from lazydeps._ref import Ref
from lazydeps._sources import open_source
from lazydeps.build.lockfile import target_key
from lazydeps.build.s3 import CONNECTIONS, S3_ERRORS, Destination, explain, status_of
from lazydeps.errors import FetchError, LazydepsError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from lazydeps.build.lockfile import Entry, Lock

KEY = re.compile(r"[0-9a-f]{64}\.tar\.zst")
"""How a pack is named below its prefix: by its root."""
BATCH = 1000
"""Objects of one DeleteObjects."""
UNFINISHED = 7 * 86400.0
"""Seconds after which nobody goes on with an upload."""
TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Published:
    """A pack in a bucket."""

    ref: str
    key: str
    name: str | None
    """What it was pushed as; None without `--name`."""
    target: str
    """As the lock file spells it, ``python3.13-arm64``."""
    size: int
    published: str
    """When S3 got it, ``2026-11-21T18:00:00Z``."""
    root: str
    """64 hex digits."""
    commit: str | None
    built: str | None
    distributions: str | None
    """Names and versions as far as the metadata has them, with ``...`` at the end where it was cut."""
    locked: str | None = None
    """``current`` or ``previous`` where a lock names it, with the pack's name there."""

    def as_dict(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An upload that was never completed."""

    key: str
    upload: str
    begun: str


@dataclass(frozen=True, slots=True)
class Pruning:
    """What may go, and what stays."""

    remove: tuple[Published, ...]
    keep: tuple[Published, ...]
    abort: tuple[Unfinished, ...]
    uploads_known: bool = True
    """False: S3 does not let us list unfinished uploads."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What has gone."""

    removed: tuple[Published, ...]
    aborted: tuple[Unfinished, ...]
    failed: tuple[tuple[str, str], ...]
    """Keys that could not be removed, each with the reason."""
    versioned: bool
    """Whether the bucket keeps old versions, which go on costing."""


def survey(
    destination: str,
    *,
    client: Any,
    locks: Iterable[Lock] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Published]:
    """Return the packs directly below a prefix, the newest first.

    Args:
        destination: ``s3://BUCKET/PREFIX/``.
        client: a boto3 S3 client.
        locks: whose packs to mark.
        on_progress: called with (objects looked at, objects in all).

    Raises:
        ConfigError: the destination is malformed, or there are no credentials.
        FetchError: S3 refused or failed.
    """
    place = Destination.parse(destination)
    marks = _marks(locks)
    try:
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=place.bucket, Prefix=place.prefix, Delimiter="/"
        )
        found = [
            entry
            for page in pages
            for entry in page.get("Contents", ())
            if KEY.fullmatch(entry["Key"].removeprefix(place.prefix))
        ]
        packs = []
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for done, pack in enumerate(pool.map(lambda entry: _describe(client, place, entry, marks), found), 1):
                if pack is not None:
                    packs.append(pack)
                if on_progress is not None:
                    on_progress(done, len(found))
    except S3_ERRORS as error:
        raise explain(error, place.bucket, place.prefix, client) from error
    return sorted(packs, key=lambda pack: (pack.published, pack.key), reverse=True)


def plan_prune(
    destination: str,
    *,
    client: Any,
    keep: int,
    locks: Sequence[Lock] = (),
    older_than: float = 0.0,
    now: datetime | None = None,
) -> Pruning:
    """Say what may be removed: all but the newest few of each name and target, and nothing that a lock names.

    Args:
        destination: ``s3://BUCKET/PREFIX/``.
        client: a boto3 S3 client.
        keep: how many of each name and target stay, whatever the locks say.
        locks: what they pin, and what they pinned before, stays.
        older_than: seconds since which a pack has to have been there to go.
        now: stands in for the clock.

    Raises:
        ConfigError, FetchError: as `survey`.
    """
    place, now = Destination.parse(destination), now or datetime.now(UTC)
    counts: dict[tuple[str | None, str], int] = {}
    remove: list[Published] = []
    stay: list[Published] = []
    for pack in survey(destination, client=client, locks=locks):
        group = (pack.name, pack.target)
        counts[group] = counts.get(group, 0) + 1
        young = (now - datetime.fromisoformat(pack.published)).total_seconds() < older_than
        (stay if counts[group] <= keep or pack.locked or young else remove).append(pack)
    try:
        pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=place.bucket, Prefix=place.prefix)
        unfinished = [
            Unfinished(one["Key"], one["UploadId"], one["Initiated"].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
            for page in pages
            for one in page.get("Uploads", ())
            if KEY.fullmatch(one["Key"].removeprefix(place.prefix))
            and (now - one["Initiated"]).total_seconds() > UNFINISHED
        ]
    except S3_ERRORS as error:
        if isinstance(error, ClientError) and status_of(error) == 403:
            return Pruning(tuple(remove), tuple(stay), (), uploads_known=False)
        raise explain(error, place.bucket, place.prefix, client) from error
    return Pruning(tuple(remove), tuple(stay), tuple(unfinished))


def prune(destination: str, pruning: Pruning, *, client: Any, locks: Sequence[Lock] = ()) -> Pruned:
    """Remove what `plan_prune` found.

    Args:
        destination: ``s3://BUCKET/PREFIX/``.
        pruning: what to remove.
        client: a boto3 S3 client.
        locks: read again since, and kept from changing (`lockfile.changing`): what somebody has pinned meanwhile stays.

    Raises:
        FetchError: S3 refused all of it.
    """
    place, marks = Destination.parse(destination), _marks(locks)
    going = [pack for pack in pruning.remove if pack.root not in marks]
    refused: dict[str, str] = {}
    versioned, aborted = False, []
    try:
        for at in range(0, len(going), BATCH):
            batch = going[at : at + BATCH]
            answer = client.delete_objects(
                Bucket=place.bucket, Delete={"Objects": [{"Key": pack.key} for pack in batch], "Quiet": False}
            )
            versioned |= any(one.get("DeleteMarker") for one in answer.get("Deleted", ()))
            for error in answer.get("Errors", ()):
                refused[error["Key"]] = f"{error.get('Code')}: {error.get('Message')}"
        for upload in pruning.abort:
            try:
                client.abort_multipart_upload(Bucket=place.bucket, Key=upload.key, UploadId=upload.upload)
                aborted.append(upload)
            except client.exceptions.NoSuchUpload:
                pass  # somebody was faster
            except S3_ERRORS as error:
                refused[upload.key] = str(error)
    except S3_ERRORS as error:
        raise explain(error, place.bucket, place.prefix, client) from error
    removed = tuple(pack for pack in going if pack.key not in refused)
    return Pruned(removed, tuple(aborted), tuple(sorted(refused.items())), versioned)


def check_there(ref: str, *, client: Any = None) -> None:
    """Raise FetchError unless the object of a reference can be read."""
    parsed = Ref.parse(ref)
    if parsed.url.startswith("s3://"):
        from lazydeps.build.s3 import head, new_client

        place = parsed.url.removeprefix("s3://")
        bucket, _, key = place.partition("/")
        client = client if client is not None else new_client()
        try:
            found = head(client, bucket, key)
        except S3_ERRORS as error:
            raise explain(error, bucket, key, client) from error
        if found is None:
            raise FetchError(
                f"{parsed.url} is not there any more. `lazydeps list {parsed.url.rpartition('/')[0]}/` shows what is; "
                "name another one with --to, or push the pack again.",
                url=parsed.url,
                status=404,
            )
        return
    connection = open_source(parsed.url, os.environ).connect(timeout=TIMEOUT)
    try:
        connection.get(0, 1).close()
    finally:
        connection.close()


def _marks(locks: Iterable[Lock]) -> dict[str, str]:
    """Return roots to what a lock says of them. Whichever bucket it names them in: better one too many."""
    marks: dict[str, str] = {}
    for lock in locks:
        for name, entries in lock.packs.items():
            for entry in entries.values():
                for one in entry.previous:
                    for root in _roots(one):
                        marks.setdefault(root, f"previous {name}")
        for name, entries in lock.packs.items():
            for entry in entries.values():
                for root in _roots(entry):
                    marks[root] = f"current {name}"
    return marks


def _roots(entry: Entry) -> set[str]:
    """Return what pins an entry, and the root in its key: `lazydeps lock` pins a pack's file, and not its root."""
    return {entry.digest, Ref.parse(entry.ref).url.rpartition("/")[2].removesuffix(".tar.zst")}


def _describe(client: Any, place: Destination, entry: Mapping[str, Any], marks: Mapping[str, str]) -> Published | None:
    """Return the facts of a pack; None for what only looks like one."""
    key = entry["Key"]
    root = key.removeprefix(place.prefix).removesuffix(".tar.zst")
    ref = Ref(f"s3://{place.bucket}/{key}", bytes.fromhex(root))
    try:
        metadata = client.head_object(Bucket=place.bucket, Key=key)["Metadata"]
    except ClientError as error:
        if status_of(error) == 404:
            return None  # removed meanwhile
        raise
    python, arch = metadata.get("lazydeps-python"), metadata.get("lazydeps-arch")
    if not python or not arch or metadata.get("lazydeps-root", root) != root:
        found = _root_of(ref)
        if found is None:
            return None
        python, arch = found.python, found.arch
    return Published(
        ref=str(ref),
        key=key,
        name=metadata.get("lazydeps-name"),
        target=target_key(python, arch),
        size=entry["Size"],
        published=entry["LastModified"].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        root=root,
        commit=metadata.get("lazydeps-git-commit"),
        built=metadata.get("lazydeps-built"),
        distributions=metadata.get("lazydeps-distributions"),
        locked=marks.get(root),
    )


def _root_of(ref: Ref) -> Root | None:
    """Return the root of an object that says nothing of itself, if it is the pack that its key names."""
    try:
        connection = open_source(ref.url, os.environ).connect(timeout=TIMEOUT)
        try:
            head = _fetch.fetch_head(connection, ref.root, Limits())
            head.body.close()
            return Root(head.content, limits=Limits())
        finally:
            connection.close()
    except LazydepsError:
        return None


def locks_of(paths: Collection[os.PathLike[str]]) -> list[Lock]:
    """Read lock files.

    Raises:
        ConfigError: one is not there, or is none.
    """
    from pathlib import Path

    from lazydeps.build import lockfile

    return [lockfile.read(Path(path)) for path in paths]
