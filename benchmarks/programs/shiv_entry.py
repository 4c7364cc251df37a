"""The entry point of the zipapp: what a handler's module would be."""

import os
from pathlib import Path

from work_imports import import_work, say_ready  # type: ignore[import-not-found]


def main() -> None:
    """Do the imports; called by shiv's bootstrap when the path is set."""
    (folder,) = Path(os.environ["SHIV_ROOT"]).glob("*/site-packages")
    say_ready(import_work(os.listdir(folder), str(folder)))
