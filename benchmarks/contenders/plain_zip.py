"""What people write themselves: one `download_file` of a zip, `extractall`, `sys.path.insert`."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.environments import finished, make_function
from benchmarks.model import Built, Contender

if TYPE_CHECKING:
    from benchmarks.model import Kit, Work

PROGRAM = Path(__file__).parents[1] / "programs" / "plain_zip.py"


class PlainZip:
    """A zip without bytecode, as packagers make it."""

    name = "plain-zip"
    label = "boto3 download_file + zipfile.extractall"

    def build(self, work: Work, kit: Kit) -> Built:
        """See `model.Contender.build`."""
        plain = kit.site_packages(work)
        archive = finished(plain.with_name("plain.zip"), lambda partial: _zip(plain, partial))
        key = f"plain/{work.name}.zip"
        return Built(
            argv=(str(make_function(kit)), "-P", str(PROGRAM)), environ={"BENCH_KEY": key}, objects={key: archive}
        )


def _zip(tree: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        for file in sorted(tree.rglob("*")):
            if file.is_file() and file.suffix != ".pyc":
                out.write(file, file.relative_to(tree))


CONTENDERS: tuple[Contender, ...] = (PlainZip(),)
