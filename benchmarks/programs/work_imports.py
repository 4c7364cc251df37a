"""What the rivals' programs do last: the work's imports, a look at where they came from, and word that it is done."""

import json
import os
import sys
from collections.abc import Iterable
from types import ModuleType


def import_work(paths: Iterable[str], *folders: str) -> dict[str, object]:
    """Do the imports and return what is worth reporting of them.

    What the rival's own client has brought already, boto3's dependencies above all, stays what it is, as in a function.

    Args:
        paths: what the rival has put in place, as paths below its folder.
        folders: where modules of it say that they are.

    Raises:
        ImportError: none of them was imported, or one of the same name from elsewhere.
    """
    shipped = {path.partition("/")[0].partition(".")[0] for path in paths}
    before = set(sys.modules)
    exec(os.environ["BENCH_IMPORTS"], {})
    brought = sorted(shipped & (sys.modules.keys() - before))
    inside = tuple(f"{folder}/" for folder in folders)
    strangers = [name for name in brought if not place_of(sys.modules[name]).startswith(inside)]
    if strangers or not brought:
        raise ImportError(f"not imported from {' or '.join(folders)}: {', '.join(strangers) or 'anything'}")
    return {"from": list(folders), "modules": brought, "there_before": sorted(shipped & before)}


def place_of(module: ModuleType) -> str:
    """Return where a module, or the first part of a namespace package, says that it is."""
    return module.__file__ or next(iter(module.__path__))


def say_ready(facts: dict[str, object]) -> None:
    """Stop the clock."""
    os.write(int(os.environ["BENCH_READY"]), json.dumps(facts).encode())
