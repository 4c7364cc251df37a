"""Where a live process's traces go: the log, a folder, or S3. Nothing here ever fails the program."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    Documents = Sequence[tuple[str, dict[str, Any]]]
    """The first 16 digits of each pack's root, and its trace."""

LINE = 200_000
"""Characters of a log line: CloudWatch takes 256 KiB an event, and cuts what is longer."""


_LOG = "LAZYDEPS_TRACE_LOG"
"""Which standard error is the log, by device and inode: a process sets it for its children."""


class Outlet:
    """Writes documents. Each process has a name of its own, so a later document replaces its earlier ones."""

    is_slow = False
    """Whether writing takes longer than an import block should wait."""
    remedy = "name a folder that it can write to"

    def __init__(self, where: str) -> None:
        self.where = where
        self.name = os.urandom(8).hex()
        self._warned = False

    def write(self, documents: Documents) -> None:
        """Write the documents, or raise whatever kept them from being written."""

    def files(self, documents: Documents) -> list[tuple[str, str]]:
        """Return the documents as files: names and texts."""
        return [(f"{root}-{self.name}.json", _text(document)) for root, document in documents]

    def hurry(self) -> None:
        """Take little time for what is still to write: the process ends."""

    def close(self) -> None:
        """Nothing more is written. Take back what children were told."""

    def warn(self, error: Exception) -> None:
        """Say once that the trace could not be written."""
        if self._warned:
            return
        self._warned = True
        try:
            from logging import getLogger

            getLogger("lazydeps").warning(
                "LAZYDEPS_TRACE=%s: the trace could not be written (%s: %s). The function works without it; "
                "%s, or take LAZYDEPS_TRACE away.",
                self.where,
                type(error).__name__,
                error,
                self.remedy,
            )
        except Exception:
            pass  # a handler or filter of the program's


class LogOutlet(Outlet):
    """Lines on standard error, which Lambda puts into the function's log."""

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self._serial = 0
        # A child's may be a pipe whose other end reads answers and not a log.
        own = _standard_error()
        self._is_log = os.environ.setdefault(_LOG, own) == own

    def close(self) -> None:
        """Nothing more is written. Take back what children were told."""
        if self._is_log:
            os.environ.pop(_LOG, None)

    def write(self, documents: Documents) -> None:
        """Write each document as one line, or several parts of one."""
        if not self._is_log:
            return
        from binascii import b2a_base64
        from json import dumps
        from zlib import compress

        self._serial += 1
        for root, document in documents:
            packed = b2a_base64(compress(_text(document).encode(), 9), newline=False).decode()
            parts = [packed[start : start + LINE] for start in range(0, len(packed), LINE)]
            for number, part in enumerate(parts, 1):
                line = {"lazydeps_trace": 1, "id": f"{root}-{self.name}.{self._serial}"}
                text = dumps({**line, "part": number, "parts": len(parts), "z": part}, separators=(",", ":"))
                if sys.stderr is not None:
                    sys.stderr.write(f"lazydeps-trace: {text}\n")
                    sys.stderr.flush()


class FolderOutlet(Outlet):
    """Files of a folder."""

    def write(self, documents: Documents) -> None:
        """Write each document as a file."""
        for name, text in self.files(documents):
            self._put(name, text)

    def _put(self, name: str, text: str) -> None:
        """Write one file, whole or not at all."""
        from urllib.parse import unquote

        folder = unquote(self.where.removeprefix("file://"))
        os.makedirs(folder, exist_ok=True)
        part = os.path.join(folder, f".{name}.partial")
        try:
            with open(part, "w", encoding="utf-8") as stream:
                stream.write(text)
            os.replace(part, os.path.join(folder, name))
        except OSError:
            if os.path.lexists(part):
                os.unlink(part)  # a full disk is full enough
            raise


class S3Outlet(Outlet):
    """Objects below a prefix, put by botocore, which Lambda's runtimes bring along."""

    is_slow = True
    remedy = "allow its role s3:PutObject there"

    def __init__(self, where: str, environ: Mapping[str, str]) -> None:
        super().__init__(where)
        self._environ = environ
        self._client: Any = None
        self._patience: dict[str, Any] = {
            "connect_timeout": 3,
            "read_timeout": 10,
            "retries": {"total_max_attempts": 3},
        }

    def hurry(self) -> None:
        """Ask once, and wait 2 seconds for an answer: a bucket that cannot be reached shall hold up no exit."""
        self._client = None
        self._patience = {"connect_timeout": 2, "read_timeout": 2, "retries": {"total_max_attempts": 1}}

    def write(self, documents: Documents) -> None:
        """Put each document as an object."""
        for name, text in self.files(documents):
            self._put(name, text)

    def _put(self, name: str, text: str) -> None:
        if self._client is None:
            from botocore.config import Config
            from botocore.session import Session

            self._client = Session().create_client(
                "s3",
                region_name=self._environ.get("AWS_REGION") or self._environ.get("AWS_DEFAULT_REGION"),
                config=Config(**self._patience),
            )
        bucket, _, prefix = self.where.removeprefix("s3://").partition("/")
        prefix = f"{prefix.rstrip('/')}/" if prefix.rstrip("/") else ""
        self._client.put_object(Bucket=bucket, Key=prefix + name, Body=text.encode(), ContentType="application/json")


def open_outlet(where: str, environ: Mapping[str, str]) -> Outlet:
    """Return the outlet for a value of ``LAZYDEPS_TRACE``, which the configuration has checked."""
    if where == "log":
        return LogOutlet(where)
    return FolderOutlet(where) if where.startswith("file://") else S3Outlet(where, environ)


def _standard_error() -> str:
    try:
        facts = os.fstat(2)
    except OSError:
        return "none"
    return f"{facts.st_dev}:{facts.st_ino}"


def _text(document: dict[str, Any]) -> str:
    from json import dumps

    return dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
