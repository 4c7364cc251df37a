"""Zappa's `slim_handler`: a small function that fetches its project, a tar.gz, when it starts."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.environments import BOTO3, finished, last_lines
from benchmarks.model import Built, Contender, NotRun

if TYPE_CHECKING:
    from benchmarks.model import Kit, Work

VERSION = "0.63.0"
HANDLER = ("werkzeug==3.1.9", "markupsafe==3.0.4", "durationpy==0.11", "certifi==2026.10.18")
"""What its handler imports besides boto3."""
PROGRAMS = Path(__file__).parents[1] / "programs"


class Zappa:
    """The archive as `zappa deploy` makes it with default settings, loaded by Zappa's own handler."""

    name = "zappa"
    label = f"Zappa {VERSION} slim_handler"

    def build(self, work: Work, kit: Kit) -> Built:
        """See `model.Contender.build`."""
        python = kit.environment("zappa", f"zappa=={VERSION}", *HANDLER, *BOTO3, "pip==26.3")
        folder = kit.folder("zappa", VERSION, work.name, *work.requirements)
        archive = finished(
            folder / "project.tar.gz", lambda partial: _archive(python, kit.minor, kit.site_packages(work), partial)
        )
        key = f"zappa/{work.name}.tar.gz"
        return Built(
            argv=(str(python), str(PROGRAMS / "zappa_handler.py")),
            environ={"BENCH_KEY": key},
            objects={key: archive},
            note="Zappa packs the bytecode that pip left, but gives every file the time of packing, which makes all of "
            "it stale. Its handler is imported with what it needs; the settings of a deployed project are not read.",
        )


def _archive(python: Path, minor: str, packages: Path, archive: Path) -> None:
    """Let Zappa make the archive of an empty project, in an environment that has the work's packages alone.

    Raises:
        NotRun: it failed.
    """
    venv, project = archive.with_name("venv"), archive.with_name("project")
    library = venv / "lib" / f"python{minor}"
    library.mkdir(parents=True, exist_ok=True)
    (library / "site-packages").unlink(missing_ok=True)
    (library / "site-packages").symlink_to(packages)
    project.mkdir(exist_ok=True)
    command = [str(python), str(PROGRAMS / "zappa_archive.py"), str(venv), f"python{minor}"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotRun(f"Zappa made no archive: {last_lines(done.stderr)}")
    (project / done.stdout.splitlines()[-1]).rename(archive)


CONTENDERS: tuple[Contender, ...] = (Zappa(),)
