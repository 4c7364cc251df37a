"""Fuzz every target for a while: ``python -m tests.fuzz [--seconds N] [--target NAME …]``. What `make fuzz` runs.

Each target runs in a process of its own, with bounded memory. New inputs, crashes with how to replay them, and the
report go to ``build/fuzz``. The exit code is 1 where there was a finding.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import random
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .targets import TARGETS, name_of
from .work import replay

TOTAL = 600
"""Seconds of all targets together, unless somebody says how long each one shall run."""
GRACE = 60.0
"""Seconds after its time in which a target's process has to end by itself. One that does not hangs in C."""


def fuzz(name: str, folder: Path, *, seconds: float, engine: str, seed: int) -> dict[str, Any]:
    """Run one target in a process of its own and return its report."""
    folder.mkdir(parents=True, exist_ok=True)
    result = folder / "report.json"
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", f"{__package__}.work", name, str(folder), str(seconds), engine, str(seed)]
    with open(folder / "log", "w+") as log:
        try:
            code = subprocess.run(command, stdout=log, stderr=log, check=False, timeout=seconds + GRACE).returncode
            how = f"ended with {code}"
        except subprocess.TimeoutExpired:
            how = f"hung: still ran {GRACE:g} seconds after its time"
        log.seek(0)
        said = log.read()
    facts: dict[str, Any] = {"target": name, "runs": 0, "findings": {}}
    if result.exists():
        facts = json.loads(result.read_text())
    else:  # the interpreter died under it
        facts["findings"][how] = 1
        current = folder / "current"
        if current.exists():
            content = current.read_bytes()
            data = content[8 : 8 + int.from_bytes(content[:8], "little")]
            crash = folder / "crashes" / name_of(data)
            crash.write_bytes(data)
            crash.with_suffix(".txt").write_text(f"{how}\n{said[-4000:]}\nreplay: {replay(name, crash)}\n")
    figures = re.findall(r"cov: (\d+) ft: (\d+)", said)
    if figures:  # libFuzzer's: branches, and branches with how often they ran
        start = re.search(r"INITED cov: (\d+)", said)
        facts["lines"] = int(start.group(1)) if start else 0
        facts["new_lines"] = int(figures[-1][0]) - facts["lines"]
        facts["features"] = int(figures[-1][1])
    facts["kept"] = len(list((folder / "corpus").glob("*")))
    return facts


def main() -> int:
    """Read the command line, fuzz, report."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--target", action="append", choices=[*TARGETS], help="only this one; may be repeated")
    parser.add_argument("--seconds", type=float, help=f"for each target; default: {TOTAL} for all together")
    parser.add_argument("--engine", choices=["auto", "atheris", "mutate"], default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="targets that run at the same time")
    parser.add_argument("--seed", type=int, default=random.randrange(1, 1 << 31))
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--replay", type=Path, help="run one input of --target again, without nets, and end")
    options = parser.parse_args()
    names = options.target or [*TARGETS]
    if options.replay:
        TARGETS[names[0]].run(options.replay.read_bytes())
        return 0
    engine = options.engine
    if engine == "auto":
        engine = "atheris" if importlib.util.find_spec("atheris") else "mutate"
    seconds = options.seconds or TOTAL / len(names)
    print(f"{len(names)} targets, {seconds:g} seconds each, engine {engine}, seed {options.seed}", flush=True)
    began = time.monotonic()

    def one(name: str) -> dict[str, Any]:
        folder = (options.out / name).absolute()
        facts = fuzz(name, folder, seconds=seconds, engine=engine, seed=options.seed)
        found = "".join(f"\n    {count} × {place}" for place, count in facts["findings"].items())
        print(
            f"{name:8} {facts['runs']:>9,} runs, {facts.get('lines', 0):>4} + {facts.get('new_lines', 0)} "
            f"{'branches' if 'features' in facts else 'lines'}, {facts['kept']} inputs kept, "
            f"{facts.get('peak_mb', '?')} MB, {len(facts['findings'])} findings{found}",
            flush=True,
        )
        return facts

    with ThreadPoolExecutor(options.jobs) as pool:
        reports = list(pool.map(one, names))
    with contextlib.suppress(OSError):
        (options.out / "report.json").write_text(json.dumps(reports, indent=1) + "\n")
    runs, findings = sum(facts["runs"] for facts in reports), sum(len(facts["findings"]) for facts in reports)
    print(f"{runs:,} runs in {time.monotonic() - began:.0f} seconds, {findings} findings: {options.out}/*/crashes")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
