"""lazydeps itself: from an empty store, on a filled one, with other packs and from other checkouts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.environments import SOURCE, inspect_pack, make_function, make_large_pack, make_pack
from benchmarks.model import Built, Contender
from benchmarks.starts import BUCKET
from lazydeps import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.model import Kit, Work

PROGRAM = Path(__file__).parents[1] / "programs" / "lazy.py"


class Lazydeps:
    """A start with lazydeps from an empty store."""

    def __init__(
        self, name: str = "lazydeps", label: str = "", *, pack: Path | None = None, source: Path | None = None
    ) -> None:
        """Take what differs from the plain contender.

        Args:
            name: how it is asked for.
            label: for people.
            pack: what to load instead of the work's own pack.
            source: a folder with another `lazydeps` package, which packs and is imported instead of this checkout's.
        """
        self.name = name
        self.label = f"lazydeps {__version__}" + (f", {label}" if label else "")
        self._pack = pack
        self._source = SOURCE if source is None else source.resolve()

    def build(self, work: Work, kit: Kit) -> Built:
        """See `model.Contender.build`."""
        return self.load(kit, self.packed(work, kit))

    def packed(self, work: Work, kit: Kit) -> Mapping[str, Any]:
        """Return what is known of the pack: ``path``, ``root`` and sizes."""
        return make_pack(kit, work, self._source) if self._pack is None else inspect_pack(self._pack)

    def load(self, kit: Kit, packed: Mapping[str, Any]) -> Built:
        """Return the start that loads a pack."""
        path, root = Path(packed["path"]), str(packed["root"])
        key = f"packs/{path.name.removesuffix('.tar.zst')}-{root.removeprefix('sha256:')[:12]}.tar.zst"
        environ = {"LAZYDEPS_PACK": f"s3://{BUCKET}/{key}#root={root}"}
        if self._source != SOURCE:
            environ["PYTHONPATH"] = str(self._source)
        return Built(argv=(str(make_function(kit)), "-P", str(PROGRAM)), environ=environ, objects={key: path})


class Refill(Lazydeps):
    """The second start: everything has landed before."""

    def build(self, work: Work, kit: Kit) -> Built:
        """See `model.Contender.build`."""
        built = super().build(work, kit)
        return replace(
            built,
            environ={**built.environ, "BENCH_STORE": "BENCH_KEPT"},
            note="The first round, which is dropped, fills the store.",
        )


class ManyCold(Lazydeps):
    """The same imports from a pack with five times the cold files."""

    def packed(self, work: Work, kit: Kit) -> Mapping[str, Any]:
        """See `Lazydeps.packed`."""
        return make_large_pack(kit, work)


def drawn(built: Built) -> Built:
    """Return the same start with a program that times each import and tells everything, for the waterfall."""
    return replace(built, argv=(*built.argv[:-1], str(PROGRAM.with_name("waterfall.py"))))


CONTENDERS: tuple[Contender, ...] = (
    Lazydeps(),
    Refill("lazydeps-refill", "second start on a filled store"),
    ManyCold("lazydeps-5x", "pack with five times the cold files"),
)
