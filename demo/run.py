"""`make demo`: a science stack imported by a cold Lambda handler while it downloads, beside two other ways.

Packs, pushes to a local S3 server, and starts the same handler three ways in fresh processes under AWS's own
runtime client. It needs no AWS account. The S3 server is a Python test server on this machine: the three ways
can be compared with each other within one run, and with nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import timeline
from local_s3 import LocalS3
from runtime_api import Function, FunctionError
from science import (
    EXAMPLES,
    REQUIREMENTS,
    ROOT,
    WORK,
    lazydeps_json,
    make_function_environment,
    make_pack,
    make_rivals,
)

from lazydeps.build.interpreters import find_interpreter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BUCKET = "demo-bucket"
MB = 1_000_000


class Start(NamedTuple):
    """One cold start and the invocation after it. Seconds; the first three from the start of the process."""

    ready: float
    first: float
    warm: float
    response: dict[str, Any]


class Way(NamedTuple):
    """One way to bring the dependencies, and how its starts went."""

    name: str
    run: Callable[[], Start]
    rounds: int
    starts: list[Start]

    def spread(self) -> str:
        """Return the median time to the first response, and the range where there is one."""
        times = sorted(start.first for start in self.starts)
        spread = f"{times[0]:.2f} - {times[-1]:.2f}, {len(times)} starts" if len(times) > 1 else "1 start"
        return f"{statistics.median(times):6.2f} s  ({spread})"

    def median(self) -> Start:
        """Return the start whose time to the first response is the (lower) median."""
        return sorted(self.starts, key=lambda start: start.first)[(len(self.starts) - 1) // 2]


def main() -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(description="Start a science stack on a cold local Lambda, three ways.")
    parser.add_argument("--rounds", type=int, default=3, help="cold starts of each way but the plain zip (default: 3)")
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs left in build/demo")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a kill ends our processes as Ctrl-C does
    if options.fresh:
        shutil.rmtree(WORK, ignore_errors=True)
    try:
        with contextlib.ExitStack() as stack:
            return show(stack, rounds=max(1, options.rounds))
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except (FunctionError, subprocess.CalledProcessError) as error:
        print(f"\nthe demo failed: {error}", file=sys.stderr)
        return 1


def show(stack: contextlib.ExitStack, *, rounds: int) -> int:
    """Do all of it; processes and scratch folders end with ``stack``."""
    WORK.mkdir(parents=True, exist_ok=True)
    found = next(filter(None, map(find_interpreter, ("3.13", "3.12", "3.11"))), None)
    if found is None:
        print("the demo needs a working Python 3.13, 3.12 or 3.11, and found none", file=sys.stderr)
        return 1

    say(f"Python {found.version} for the function, with lazydeps, AWS's runtime client and boto3")
    python = make_function_environment(found)

    say(f"lazydeps pack {' '.join(REQUIREMENTS)}")
    packed, cached = make_pack(found)
    distributions = ", ".join(f"{name} {version}" for name, version in sorted(packed["distributions"].items()))
    print(
        f"  {packed['files']:,} files, {packed['unpacked_size'] / MB:.0f} MB unpacked, "
        f"{packed['size'] / MB:.0f} MB packed, of which a start needs {packed['boot_size'] / MB:.0f} MB"
        + ("  (from the last run)" if cached else "")
    )
    print(f"  {distributions}")
    tree, archive = make_rivals(Path(packed["path"]))

    say("lazydeps push, to a local S3 (moto, a test server in Python: right about the protocol, not fast)")
    s3 = stack.enter_context(LocalS3())
    client = s3.client()
    client.create_bucket(Bucket=BUCKET)
    pushed = lazydeps_json("push", packed["path"], f"s3://{BUCKET}/packs/", environ=s3.environ)
    ref = pushed["ref"]
    print(f"  {ref}")
    client.upload_file(str(archive), BUCKET, "plain.zip")

    memory = Path("/dev/shm")
    in_memory = memory.is_dir() and shutil.disk_usage(memory).free > 2_000 * MB
    where = memory if in_memory else None
    every = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lazydeps-demo-", dir=where)))

    def start(environ: Mapping[str, str], handler: str = "lambda_handler.handler", root: Path = EXAMPLES) -> Start:
        # A new folder each time. On a disk nothing is removed before the end: ext4 is slow to create files for seconds
        # after many were removed, which would be counted against whoever comes next.
        scratch = Path(tempfile.mkdtemp(dir=every))
        environ = {name: value.replace("SCRATCH", str(scratch)) for name, value in environ.items()}
        start = run_start(python, handler, root, {**s3.environ, **environ}, scratch, minor=found.minor)
        if in_memory:
            shutil.rmtree(scratch)
        return start

    def streamed() -> Start:
        return start({"LAZYDEPS_PACK": ref, "LAZYDEPS_DIR": "SCRATCH/store"})

    def local() -> Start:
        return start({"PYTHONPATH": str(tree)})

    def plain() -> Start:
        return start(
            {
                "DEPENDENCIES_BUCKET": BUCKET,
                "DEPENDENCIES_KEY": "plain.zip",
                "DEPENDENCIES_DIR": "SCRATCH/plain",
                "PYTHONPATH": str(EXAMPLES),
            },
            "plain_zip_handler.handler",
            ROOT / "demo",
        )

    ways = [
        Way("lazydeps, store empty", streamed, rounds, []),
        Way("warm local disk", local, rounds, []),
        Way("plain zip", plain, 1, []),
    ]
    say("the same handler, cold, in fresh processes under awslambdaric; in turn")
    for path in tree.rglob("*"):  # into the page cache: the disk of the third way is a warm one
        if path.is_file():
            path.read_bytes()
    for number in range(rounds):
        for way in ways:
            if number < way.rounds:
                way.starts.append(way.run())
                print(f"  {way.name:<24}{way.starts[-1].first:6.2f} s", flush=True)
    print_outcome(ways, ref)
    return 0


def run_start(
    python: Path, handler: str, task_root: Path, environ: Mapping[str, str], scratch: Path, *, minor: str
) -> Start:
    """Start a function in a fresh process with an empty home, store and cache; invoke it twice; end it."""
    (scratch / "home").mkdir()
    environ = {
        **environ,
        "AWS_EXECUTION_ENV": f"AWS_Lambda_python{minor}",
        "HOME": str(scratch / "home"),  # matplotlib keeps its font cache here: as on Lambda, a cold start has none
    }
    with Function(python, handler, task_root=task_root, environ=environ) as function:
        first = function.invoke({"report": True}, timeout=300)
        second = function.invoke({})
        assert function.ready is not None
        assert first.answered is not None
        assert second.answered is not None
        assert second.taken is not None
        if not first.response["cold"] or second.response["cold"]:
            raise FunctionError("the first invocation was not cold, or the second was\n" + function.log())
        return Start(
            function.ready - function.started,
            first.answered - function.started,
            second.answered - second.taken,
            {**first.response, "started": function.started},
        )


def print_outcome(ways: list[Way], ref: str) -> None:
    """Print the comparison, the timeline of one start, and what to do next."""
    streamed, local, plain = ways
    print("\n== From the start of the process to the first response\n")
    for way in ways:
        print(f"  {way.name:<24}{way.spread()}   second invocation {way.median().warm * 1000:.0f} ms")
    ratio = streamed.median().first / local.median().first
    print(f"\n  lazydeps over warm local disk: {ratio:.2f}.  plain zip over lazydeps: ", end="")
    print(f"{plain.median().first / streamed.median().first:.1f}.\n")

    marks = [0.0, *(mark - plain.starts[0].response["started"] for mark in plain.starts[0].response["marks"])]
    marks.append(plain.starts[0].first)
    print(
        timeline.bars(
            [
                (
                    plain.name,
                    [(kind, end - begin) for kind, begin, end in zip("pdxif", marks, marks[1:], strict=False)],
                ),
                (streamed.name, [("=", streamed.median().first)]),
                (local.name, [("=", local.median().first)]),
            ]
        )
    )
    print("  plain zip: p Python starts, d boto3 and download, x extract, i import (compiles), f first invocation")

    chosen = streamed.median()
    report = chosen.response["report"]
    pack = report["packs"][0]
    print("\n== The median start with lazydeps\n")
    print(timeline.start(report, ready=chosen.ready, answered=chosen.first))
    print("\n  the longest waits for bytes:")
    print(timeline.stalls(report))
    total, landed = pack["frames_total"], pack["landed"]
    print(
        f"\n  {pack['requests']} requests, {pack['retries']} retries, {pack['bytes_received'] / MB:.1f} MB received; "
        f"worker: {pack['host']}\n  frames in the store: boot {landed['boot']} of {total['boot']}, "
        f"data {landed['data']} of {total['data']}, cold {landed['cold']} of {total['cold']} "
        f"({pack['cold_frames_fetched']} asked for)"
    )
    versions = ", ".join(f"{name} {version}" for name, version in chosen.response["versions"].items())
    print(
        f"  the handler: slope {chosen.response['slope']}, a PNG of {chosen.response['png_bytes']:,} bytes, "
        f"a workbook of {chosen.response['xlsx_bytes']:,} bytes\n  {versions}"
    )

    print(
        f"""
== The pack's reference: where it is, and the digest that pins every byte of it

  {ref}

== With a bucket of your own

  pip install 'lazydeps[build]'
  lazydeps pack {" ".join(REQUIREMENTS)} --python 3.13 --arch x86_64 -o science.tar.zst \\
      --trace-script demo/trace_handler.py
  lazydeps push science.tar.zst s3://YOUR-BUCKET/packs/       # prints the reference

  Then deploy examples/lambda_handler.py with lazydeps beside it, set LAZYDEPS_PACK to the reference, and give the
  function's role s3:GetObject on the object.

  The S3 here is one Python process on this machine, which shares its cores with the function. The ratios above
  hold for this run only; they say nothing about Lambda or S3."""
    )


def say(text: str) -> None:
    """Print a step's headline."""
    print(f"\n[{time.monotonic() - _BEGAN:5.1f} s] {text}", flush=True)


_BEGAN = time.monotonic()

if __name__ == "__main__":
    sys.exit(main())
