"""A start with lambda-snaploader, which holds the packages in memory and imports them from there."""

import contextlib
import ctypes
import logging
import os
import sys

MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
CLONE_NEWNS = 0x20000
CLONE_NEWUSER = 0x10000000
TASK = "/var/task"
"""What it writes into every module's `__file__`, wherever it is used: the folder of a function's package."""
MAPPING = "/tmp/snaploader_path_mapping.txt"
"""What it writes, wherever it is told to put files."""


def call(name: str, *arguments: object) -> None:
    """Call a function of the C library.

    Raises:
        OSError: it failed.
    """
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), name)


def mount_task(data: str) -> None:
    """Make a folder `TASK` that only this process sees, and go there.

    It ships modules only: data files that packages read are looked for where `__file__` says, so a user would have to
    put them into the function's package. Here they get there in a mount namespace of this process.

    Args:
        data: what the folder shows.

    Raises:
        OSError: we may not.
    """
    uid, gid = os.geteuid(), os.getegid()
    call("unshare", CLONE_NEWNS | (CLONE_NEWUSER if uid else 0))
    if uid:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    if not os.path.isdir(TASK):
        call("mount", b"none", os.path.dirname(TASK).encode(), b"tmpfs", 0, None)
        os.mkdir(TASK)
    call("mount", data.encode(), TASK.encode(), None, MS_BIND, None)
    os.chdir(TASK)


with contextlib.suppress(OSError):  # then what reads data files fails, and says so
    mount_task(os.environ["BENCH_DATA"])

from lambda_snaploader import load_libraries_from_s3  # type: ignore[import-not-found]
from lambda_snaploader.loader import get_memory_filesystem  # type: ignore[import-not-found]
from work_imports import import_work, say_ready  # type: ignore[import-not-found]

errors: list[str] = []


def notice(record: logging.LogRecord) -> bool:
    """Keep what its loader logs: it goes on as if a module that raised had been imported."""
    errors.append(record.getMessage())
    return False


logging.getLogger("lambda_snaploader.loader").addFilter(notice)
bucket, key, folder = os.environ["BENCH_BUCKET"], os.environ["BENCH_KEY"], os.environ["BENCH_TMP"] + "/libraries"
if not load_libraries_from_s3(bucket=bucket, key=key, target_dir=folder):
    sys.exit("load_libraries_from_s3 returned False")
os.remove(MAPPING)
facts = import_work(get_memory_filesystem(), TASK, folder)
if errors:
    sys.exit(f"its loader hid {len(errors)} errors, the first: {errors[0]}")
say_ready(facts)
