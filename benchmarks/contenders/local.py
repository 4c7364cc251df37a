"""The same imports from a local folder: with valid bytecode, which is the limit, and without any."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.environments import finished, make_function
from benchmarks.model import Built, Contender

if TYPE_CHECKING:
    from benchmarks.model import Kit, Work

PROGRAM = Path(__file__).parents[1] / "programs" / "local.py"


class Warm:
    """A folder as `pip install --target` leaves it, its files in the page cache: the limit."""

    name = "warm"
    label = "local import, valid bytecode"

    def build(self, work: Work, kit: Kit) -> Built:
        """See `model.Contender.build`."""
        python = make_function(kit)
        return Built(argv=(str(python), "-P", str(PROGRAM)), environ={"PYTHONPATH": str(kit.site_packages(work))})


class NoBytecode:
    """The same folder without bytecode, and where none can be kept: what a plain zip or a layer is on Lambda."""

    name = "no-bytecode"
    label = "local import, no bytecode"

    def build(self, work: Work, kit: Kit) -> Built:
        """See `model.Contender.build`."""
        plain = kit.site_packages(work)
        tree = finished(
            plain.with_name("no-bytecode"),
            lambda partial: shutil.copytree(plain, partial, ignore=shutil.ignore_patterns("__pycache__")),
        )
        return Built(
            argv=(str(make_function(kit)), "-P", str(PROGRAM)),
            environ={"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
            note="No bytecode is written, as in the read-only folder of a function: PYTHONDONTWRITEBYTECODE stands for "
            "the failing attempts, which cost less than what they would save.",
        )


CONTENDERS: tuple[Contender, ...] = (Warm(), NoBytecode())
