"""The usual way, for comparison: download a zip of the dependencies, extract it, put it on the path, import.

What comes after is examples/lambda_handler.py itself, which imports as usual where no pack is configured.
"""

from __future__ import annotations

import os
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

BUCKET, KEY = os.environ["DEPENDENCIES_BUCKET"], os.environ["DEPENDENCIES_KEY"]
FOLDER = Path(os.environ["DEPENDENCIES_DIR"])

_marks = [time.monotonic()]

import boto3

FOLDER.mkdir()
_archive = FOLDER / "dependencies.zip"
boto3.client("s3").download_file(BUCKET, KEY, str(_archive))
_marks.append(time.monotonic())

with zipfile.ZipFile(_archive) as _zip:
    _zip.extractall(FOLDER / "site-packages")
_archive.unlink()
_marks.append(time.monotonic())

sys.path.insert(0, str(FOLDER / "site-packages"))
import lambda_handler

_marks.append(time.monotonic())


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Do what examples/lambda_handler.py does, and add when each step of the init ended (monotonic seconds)."""
    return {**lambda_handler.handler(event, context), "marks": _marks}
