"""serverless-python-requirements: a zip of the requirements that is unpacked when the function starts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.environments import BOTO3, finished, run
from benchmarks.model import Built, Contender, NotRun

if TYPE_CHECKING:
    from benchmarks.model import Kit, Work

PACKAGE = "serverless-python-requirements"
VERSION = "6.1.2"
PROGRAM = Path(__file__).parents[1] / "programs" / "serverless_requirements.py"
PACK = """
const [tree, archive] = process.argv.slice(1);
const { deleteFiles } = require('serverless-python-requirements/lib/slim');
const { addTree, writeZip } = require('serverless-python-requirements/lib/zipTree');
const JSZip = require('jszip');
deleteFiles({ slim: true, strip: false }, tree);
addTree(new JSZip(), tree).then((zip) => writeZip(zip, archive));
"""
"""Its own steps for `zip: true`, `slim: true` and `strip: false`, for a folder with the requirements installed."""


class ServerlessRequirements:
    """Its zip and its `unzip_requirements.py`; the zip comes from the object server."""

    name = "serverless-requirements"
    label = f"{PACKAGE} {VERSION}"

    def build(self, work: Work, kit: Kit) -> Built:
        """See `model.Contender.build`."""
        plugin = kit.folder(PACKAGE, VERSION)
        modules = finished(plugin / "node_modules", _install)
        task = finished(plugin / "task", lambda partial: _redirect(modules / PACKAGE, partial))
        folder = kit.folder(PACKAGE, VERSION, work.name, *work.requirements)
        archive = finished(
            folder / "requirements.zip", lambda partial: _pack(modules, kit.site_packages(work), partial)
        )
        key = f"serverless-requirements/{work.name}.zip"
        return Built(
            argv=(str(kit.environment("boto3", *BOTO3)), str(PROGRAM)),
            environ={"BENCH_KEY": key, "PYTHONPATH": str(task)},
            objects={key: archive},
            note="The plugin leaves its zip in the function's package; fetching it from S3, with boto3's "
            "download_file, is ours. Packed by the plugin's own code with `zip: true, slim: true, strip: false`, which "
            "leaves out bytecode and .dist-info. Its fixed /tmp is replaced by this start's folder.",
        )


def _install(modules: Path) -> None:
    """Install the plugin and what it needs.

    Raises:
        NotRun: npm cannot.
    """
    if shutil.which("npm") is None:
        raise NotRun("it comes from npm, and there is no npm")
    prefix = modules.with_name("npm")
    options = ("--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(prefix))
    run(["npm", "install", *options, f"{PACKAGE}@{VERSION}"])
    (prefix / "node_modules").rename(modules)


def _redirect(package: Path, task: Path) -> None:
    """Write its `unzip_requirements.py` for a function whose `/tmp` is `BENCH_TMP`.

    It names /tmp twice, in constants. A mount namespace would leave the file alone, but takes time, and privileges.

    Raises:
        NotRun: it names /tmp in another way.
    """
    text = (package / "unzip_requirements.py").read_text()
    if text.count("/tmp") != 2 or text.count("'/tmp/") != 2:
        raise NotRun("unzip_requirements.py has changed: it does not name /tmp where it did")
    task.mkdir()
    (task / "unzip_requirements.py").write_text(text.replace("'/tmp/", "os.environ['BENCH_TMP'] + '/"))


def _pack(modules: Path, packages: Path, archive: Path) -> None:
    """Let the plugin thin out a copy of the packages and zip it.

    Raises:
        NotRun: it failed.
    """
    tree = archive.with_name("tree")
    if tree.exists():
        shutil.rmtree(tree)
    shutil.copytree(packages, tree)
    environ = {**os.environ, "NODE_PATH": str(modules)}
    run(["node", "-e", PACK, "--", str(tree), str(archive)], environ=environ)
    shutil.rmtree(tree)


CONTENDERS: tuple[Contender, ...] = (ServerlessRequirements(),)
