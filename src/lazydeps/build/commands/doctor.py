"""`lazydeps doctor`: its options and words; `build/doctor.py` and `build/doctor_function.py` do the work."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from lazydeps.build.commands import FILE, FOLDER, output_options

if TYPE_CHECKING:
    from pathlib import Path

    from lazydeps.build.console import Console

_MARKS = {"ok": "ok      ", "warning": "warning ", "failure": "FAILURE ", "skipped": "skipped "}


@click.command(
    "doctor",
    epilog="""\b
Examples:
  lazydeps doctor                                   # this machine, the project's bucket, its lock
  lazydeps doctor --to s3://my-bucket/packs/ --write-test
  lazydeps doctor --function my-function --profile production""",
)
@click.argument("project", type=FOLDER, default=".")
@click.option("--to", "destination", metavar="s3://BUCKET/PREFIX/", help="Where to push.  [default: the project's]")
@click.option("--lock", type=FILE, help="The lock file.  [default: the project's lazydeps.lock, if there]")
@click.option("--function", metavar="NAME", help="A deployed function to check against the packs.")
@click.option("--python", "pythons", multiple=True, help="Minor versions of the targets.  [default: the project's]")
@click.option("--region", help="The function's region.  [default: the session's]")
@click.option("--profile", help="A profile of the AWS configuration.")
@click.option("--write-test", is_flag=True, help="Put a small object under the prefix, and remove it.")
@output_options
def command(console: Console, project: Path, **options: Any) -> int:
    """Check what packing, publishing and running need, before a build.

    Writes nothing, unless --write-test is given. Ends with 1 if a check failed.
    """
    from lazydeps import _lockfile
    from lazydeps.build.doctor import Check, DoctorOptions, examine
    from lazydeps.build.project import find_project

    found = find_project(project)
    if found is not None:
        options["destination"] = options["destination"] or found.destination
        pythons = {python for pack in found.packs.values() for python in pack.python}
        options["pythons"] = options["pythons"] or tuple(sorted(pythons))
    lock = found.lock if found is not None else project / _lockfile.NAME
    options["lock"] = options["lock"] or (lock if lock.is_file() else None)
    options["pythons"] = options["pythons"] or (f"{sys.version_info[0]}.{sys.version_info[1]}",)

    def say(check: Check) -> None:
        if not console.as_json:
            console.line(f"{_MARKS[check.state]} {check.name}: {check.words}")
            if check.todo and check.state != "ok":
                console.line(f"         → {check.todo}")

    checks = examine(DoctorOptions(**options), on_check=say)
    count = Counter(check.state for check in checks)
    facts = {"healthy": not count["failure"], "count": dict(count), "checks": [asdict(check) for check in checks]}
    if not console.result(facts):
        console.line("\n" + ", ".join(f"{number} {state}" for state, number in sorted(count.items())))
    return 1 if count["failure"] else 0
