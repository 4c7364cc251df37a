"""shiv: a zipapp that unpacks itself when it runs for the first time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.environments import BOTO3, finished, run
from benchmarks.model import Built, Contender

if TYPE_CHECKING:
    from benchmarks.model import Kit, Work

VERSION = "1.0.8"
PROGRAM = Path(__file__).parents[1] / "programs" / "shiv.py"


class Shiv:
    """A compressed zipapp, fetched and run."""

    name = "shiv"
    label = f"shiv {VERSION}"

    def build(self, work: Work, kit: Kit) -> Built:
        """See `model.Contender.build`."""
        python = kit.environment("shiv", f"shiv=={VERSION}", *BOTO3)
        folder = kit.folder("shiv", VERSION, work.name, *work.requirements)
        zipapp = finished(folder / "app.pyz", lambda partial: _build(python, kit.site_packages(work), partial))
        key = f"shiv/{work.name}.pyz"
        return Built(
            argv=(str(python), str(PROGRAM)),
            environ={"BENCH_KEY": key},
            objects={key: zipapp},
            note="Fetched with boto3's download_file and run in the same process: that spares it a second interpreter. "
            "Without --compile-pyc, which compiles every file before the first import, and takes longer.",
        )


def _build(python: Path, packages: Path, zipapp: Path) -> None:
    """Build the zipapp. Its entry point is not in it: it is the handler's, and stands beside the program.

    Raises:
        NotRun: shiv failed.
    """
    options = ("--compressed", "--entry-point", "shiv_entry:main", "--output-file", str(zipapp))
    run([str(python), "-m", "shiv", "--site-packages", str(packages), *options])


CONTENDERS: tuple[Contender, ...] = (Shiv(),)
