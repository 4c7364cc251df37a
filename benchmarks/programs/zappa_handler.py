"""A start with Zappa's `slim_handler`: its own loader brings the project archive."""

import os
from types import SimpleNamespace

from work_imports import import_work, say_ready  # type: ignore[import-not-found]
from zappa.handler import LambdaHandler  # type: ignore[import-not-found]

# Its folder is "/tmp/" and the project's name: a name that leads from there to BENCH_TMP changes nothing else.
name = os.path.relpath(os.environ["BENCH_TMP"], os.path.realpath("/tmp")) + "/project"
# Without its `__init__`, which reads the settings of a deployed project and ends by importing a web application.
handler = object.__new__(LambdaHandler)
handler.settings = SimpleNamespace(PROJECT_NAME=name)
handler.load_remote_project_archive(f"s3://{os.environ['BENCH_BUCKET']}/{os.environ['BENCH_KEY']}")
folder = f"/tmp/{name}"
say_ready(import_work(os.listdir(folder), folder))
