"""lambda-snaploader: a zip that is held in memory, modules imported from there, shared objects from memory files."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.environments import BOTO3, finished
from benchmarks.model import Built, Contender

if TYPE_CHECKING:
    from benchmarks.model import Kit, Work

VERSION = "0.1.0"
PROGRAM = Path(__file__).parents[1] / "programs" / "snaploader.py"


class Snaploader:
    """`load_libraries_from_s3` of a zip as its example makes it: all that `pip install --target` leaves."""

    name = "snaploader"
    label = f"lambda-snaploader {VERSION}"

    def build(self, work: Work, kit: Kit) -> Built:
        """See `model.Contender.build`."""
        packages = kit.site_packages(work)
        folder = kit.folder("snaploader", work.name, *work.requirements)
        archive = finished(folder / "libraries.zip", lambda partial: _zip(packages, partial))
        data = finished(folder / "data", lambda partial: _copy_data(packages, partial))
        key = f"snaploader/{work.name}.zip"
        # The hooks of SnapStart are what Lambda's runtime has, and it asks for them.
        loader = (f"lambda-snaploader=={VERSION}", "snapshot-restore-py==1.0.0")
        return Built(
            argv=(str(kit.environment("snaploader", *loader, *BOTO3)), str(PROGRAM)),
            environ={"BENCH_KEY": key, "BENCH_DATA": str(data)},
            objects={key: archive},
            note="It imports modules from memory and says that they are in /var/task, where packages then look for "
            "their data files. Those lie there beforehand, in a mount namespace of the start, at no cost to it; "
            "without them matplotlib could not be imported. It knows no namespace packages and no importlib.resources.",
        )


def _zip(packages: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        for file in sorted(packages.rglob("*")):
            if file.is_file():
                out.write(file, file.relative_to(packages))


def _copy_data(packages: Path, data: Path) -> None:
    """Copy all that is neither a module nor a shared object."""
    code = shutil.ignore_patterns("__pycache__", "*.py", "*.so", "*.so.*")
    shutil.copytree(packages, data, ignore=code)


CONTENDERS: tuple[Contender, ...] = (Snaploader(),)
