"""`make bench`: what a cold import of the science stack costs with lazydeps, over the same import from a warm disk.

The contenders take turns within one run, each in a fresh process with an empty store; the clock is the parent's, from
the start of the process to its end. Ratios hold for one machine and one run. Writes ``report.json`` (every sample) and
``report.md`` into ``build/bench``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "demo"))

from science import WORK, make_function_environment, make_pack, make_rivals

from lazydeps.build.interpreters import find_interpreter

OUT = ROOT / "build" / "bench"
IMPORTS = "import numpy, pandas, scipy.stats, matplotlib.pyplot, openpyxl"
LOADED = f"""
import sys, lazydeps
with lazydeps.load():
    {IMPORTS}
report = lazydeps.report()
print(report.requests, report.bytes_received, report.stalled)
"""
THREADED = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n" + LOADED
CONTENDERS = {
    "warm local import": IMPORTS,
    "lazydeps, forked worker": LOADED,
    "lazydeps, worker in threads": THREADED,
    "lazydeps, store filled": LOADED,
}
LINKS = {"unshaped": 0.0, "3 Gbit/s": 375e6, "75 MiB/s": 75 * 2**20}


def main() -> int:
    """Run everything and write the report."""
    parser = argparse.ArgumentParser(description="Measure cold starts against a warm local import.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--links", nargs="*", choices=LINKS, default=list(LINKS))
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    found = next(filter(None, map(find_interpreter, ("3.13", "3.12", "3.11"))), None)
    if found is None:
        print("the benchmark needs a working Python 3.13, 3.12 or 3.11, and found none", file=sys.stderr)
        return 1
    python = make_function_environment(found)
    packed, _ = make_pack(found)
    tree, _ = make_rivals(Path(packed["path"]))
    # A store in memory where there is such a folder: what is measured is lazydeps, not this machine's disk.
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="lazydeps-bench-", dir=shared if shared.is_dir() else None) as scratch:
        cores = sorted(os.sched_getaffinity(0))
        conditions = [
            (link, count) for link in options.links for count in sorted({min(2, len(cores)), 1}, reverse=True)
        ]
        samples = [
            measure(python, packed, tree, Path(scratch), link=link, cores=cores[:count], rounds=options.rounds)
            for link, count in conditions
        ]
    write_report(packed, samples, found.version)
    return 0


def measure(
    python: Path, packed: dict[str, Any], tree: Path, scratch: Path, *, link: str, cores: list[int], rounds: int
) -> dict[str, Any]:
    """Take every contender's samples under one condition."""
    command = [sys.executable, str(ROOT / "benchmarks" / "shaped_s3.py"), packed["path"], "--rate", str(LINKS[link])]
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    facts = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        environ = {
            "PATH": os.defpath,
            "HOME": str(scratch),
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{int(server.stdout.readline())}",
            "LAZYDEPS_PACK": f"s3://bucket/science.tar.zst#root={packed['root']}",
        }
        try:
            for number in range(rounds + 1):
                store = scratch / f"store-{number}"
                for name, code in CONTENDERS.items():
                    changes = {"PYTHONPATH": str(tree)} if name == "warm local import" else {"LAZYDEPS_DIR": str(store)}
                    if name.endswith("threads"):
                        shutil.rmtree(store)
                    begin = time.perf_counter()
                    done = subprocess.run(
                        [python, "-c", code],
                        env={**environ, **changes},
                        stdout=subprocess.PIPE,
                        text=True,
                        check=True,
                        preexec_fn=lambda: os.sched_setaffinity(0, cores),
                    )
                    if number:  # the first round warms the page cache
                        seconds[name].append(time.perf_counter() - begin)
                        facts = done.stdout if name == "lazydeps, forked worker" else facts
                shutil.rmtree(store)
        finally:
            server.kill()
    requests, received, stalled = facts.split()
    result = {"link": link, "cores": len(cores), "seconds": seconds, "requests": int(requests), "bytes": int(received)}
    print(
        f"{link}, {len(cores)} cores: " + "; ".join(f"{name} {spread(taken)}" for name, taken in seconds.items()),
        flush=True,
    )
    return {**result, "stalled": float(stalled)}


def spread(seconds: list[float]) -> str:
    """Spell the median and the range."""
    return f"{statistics.median(seconds):.2f} [{min(seconds):.2f} - {max(seconds):.2f}]"


def write_report(packed: dict[str, Any], samples: list[dict[str, Any]], python: str) -> None:
    """Write the samples and the tables."""
    OUT.mkdir(parents=True, exist_ok=True)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, CPython {python}"
    pack = {key: packed[key] for key in ("root", "size", "boot_size", "unpacked_size", "files", "distributions")}
    (OUT / "report.json").write_text(
        json.dumps({"machine": machine, "pack": pack, "samples": samples}, indent=1) + "\n"
    )
    rounds = len(samples[0]["seconds"]["warm local import"])
    words = (
        f"Science stack, boot set {pack['boot_size'] / 1e6:.0f} MB packed. {machine}. {rounds} rounds in turn; "
        "median seconds [range]; the ratio is the median of the rounds' ratios to the warm local import."
    )
    lines = [
        words,
        "",
        "| link | cores | contender | seconds | ratio |",
        "|---|---|---|---|---|",
    ]
    for sample in samples:
        warm = sample["seconds"]["warm local import"]
        for name, taken in sample["seconds"].items():
            ratio = statistics.median(a / b for a, b in zip(taken, warm, strict=True))
            lines.append(f"| {sample['link']} | {sample['cores']} | {name} | {spread(taken)} | {ratio:.2f} |")
    lines += ["", f"{samples[0]['requests']} requests, {samples[0]['bytes'] / 1e6:.1f} MB a start."]
    (OUT / "report.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    print(f"\nwritten: {OUT.relative_to(ROOT)}/report.md and report.json")


if __name__ == "__main__":
    sys.exit(main())
