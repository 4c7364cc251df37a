"""A start as Vercel's Python runtime does it, re-enacted: `uv sync` into an empty environment, then the imports.

Its own code wants that platform's folders, settings and socket. This does the same steps, with the same options.
"""

import os
import site
import subprocess
import sys
from pathlib import Path

from work_imports import import_work, say_ready  # type: ignore[import-not-found]

OPTIONS = (
    "--inexact",
    "--active",
    "--frozen",
    "--no-dev",
    "--no-editable",
    "--no-install-project",
    "--no-build",
    "--no-cache",
    "--no-progress",
    "--link-mode=hardlink",
)
project, tmp = Path(os.environ["BENCH_PROJECT"]), Path(os.environ["BENCH_TMP"])
objects = f"{os.environ['AWS_ENDPOINT_URL']}/{os.environ['BENCH_BUCKET']}"
here, environment = tmp / "project", tmp / "environment"
site_packages = environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
here.mkdir()
(here / "pyproject.toml").write_bytes((project / "pyproject.toml").read_bytes())
locked = (project / "uv.lock").read_text()
(here / "uv.lock").write_text(locked.replace(os.environ["BENCH_PLACEHOLDER"], objects))
# The environment is written by hand: it spares the run of `uv venv`.
base = Path(os.environ["BENCH_PYTHON"])
site_packages.mkdir(parents=True)
(environment / "bin").mkdir()
(environment / "bin" / "python").symlink_to(base)
(environment / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
passed = {name: os.environ[name] for name in ("PATH", "TMPDIR", "NO_PROXY", "SSL_CERT_FILE") if name in os.environ}
settings = {
    "VIRTUAL_ENV": str(environment),
    "UV_NO_CONFIG": "1",
    "UV_NO_INSTALLER_METADATA": "1",
    "UV_PYTHON_DOWNLOADS": "never",
}
subprocess.run([os.environ["BENCH_UV"], "sync", *OPTIONS], check=True, cwd=here, env={**passed, **settings})
site.addsitedir(str(site_packages))
sys.path.remove(str(site_packages))
sys.path.insert(0, str(site_packages))
bytecode = os.environ.get("BENCH_BYTECODE")
if bytecode:
    # The tree has the shape that `sys.pycache_prefix` asks for, but for the folder that it was compiled from. A prefix
    # of this start leads from the folder where the packages are now to that part of the tree, and to the library's.
    prefix = tmp / "bytecode"
    library = Path(os.__file__).parent
    for folder, compiled in ((site_packages, Path(os.environ["BENCH_COMPILED"])), (library, library)):
        link = Path(f"{prefix}{folder}")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"{bytecode}{compiled}")
    sys.pycache_prefix = str(prefix)
say_ready(import_work(os.listdir(site_packages), str(site_packages)))
