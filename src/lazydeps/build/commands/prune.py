"""`lazydeps prune`: its options and words; `build/published.py` does the work."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from lazydeps.build.commands import LOCK, output_options, parse_age, parsed
from lazydeps.build.commands.list import published_line
from lazydeps.build.console import Console, mega
from lazydeps.build.interrupts import exit_code

if TYPE_CHECKING:
    from pathlib import Path


@click.command(
    "prune",
    short_help="Remove older packs and unfinished uploads from a bucket.",
    epilog="""\b
Examples:
  lazydeps prune s3://my-bucket/packs/ --keep 3 --lock lazydeps.lock --dry-run
  lazydeps prune s3://my-bucket/packs/ --keep 3 --lock api/lazydeps.lock --lock jobs/lazydeps.lock --yes
  lazydeps prune s3://my-bucket/scratch/ --keep 1 --no-lock --older-than 30d""",
)
@click.argument("destination", metavar="s3://BUCKET/PREFIX/")
@click.option(
    "--keep", type=click.IntRange(min=1), required=True, metavar="N", help="Keep the N newest of each name and target."
)
@click.option("--lock", "locks", type=LOCK, multiple=True, help="A lock file whose packs stay; may be repeated.")
@click.option("--no-lock", is_flag=True, help="There is no lock file: no function starts from this prefix by one.")
@click.option(
    "--older-than",
    callback=parsed(parse_age),
    default="0s",
    metavar="AGE",
    help="Remove only what was published longer ago than this: 30d, 12h.",
)
@click.option("--dry-run", is_flag=True, help="Remove nothing; say what would be removed.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@output_options
def command(
    console: Console,
    destination: str,
    keep: int,
    locks: tuple[Path, ...],
    older_than: float,
    *,
    no_lock: bool,
    dry_run: bool,
    yes: bool,
) -> int:
    """Remove older packs from a bucket, and uploads that were begun more than a week ago and never finished.

    What a given lock file pins stays, and what it pinned before: name the lock file of every function that starts from
    here. What is no pack stays too.

    Exit code 1: something that should have been removed could not be.
    """
    context = click.get_current_context()
    if bool(locks) == no_lock:
        raise click.UsageError(
            "say which packs are in use: --lock FILE for each lock file, or --no-lock where there is none.", context
        )
    from lazydeps.build import lockfile, published, s3

    client = s3.new_client()
    found = published.locks_of(locks)
    with console.step(f"Looking at {destination}"):
        plan = published.plan_prune(destination, client=client, keep=keep, locks=found, older_than=older_than)
    if not plan.uploads_known:
        console.warn("unfinished uploads stay: s3:ListBucketMultipartUploads on the bucket would show them.")
    size = sum(pack.size for pack in plan.remove)
    if not console.as_json:
        for pack in plan.remove:
            console.line(f"{'would go' if dry_run else 'goes'}  {published_line(pack)}")
        for upload in plan.abort:
            console.line(f"{'would go' if dry_run else 'goes'}  unfinished upload of {upload.begun}: {upload.key}")
    if not dry_run and not yes and (plan.remove or plan.abort):
        if console.as_json:
            raise click.UsageError("with --json nobody can be asked: add --yes or --dry-run.", context)
        counts = [(len(plan.remove), f"pack{{}} ({mega(size)})"), (len(plan.abort), "unfinished upload{}")]
        what = " and ".join(f"{count} {word.format('s' * (count != 1))}" for count, word in counts if count)
        click.confirm(f"Remove {what} from {destination} for good?", abort=True, err=True)
    if dry_run:
        done = published.Pruned(plan.remove, plan.abort, (), versioned=False)
    else:
        try:
            # Somebody may have pinned one of them meanwhile, and is not to until they are gone: a push looks then.
            with lockfile.changing(*locks):
                again = published.locks_of(locks)
                done = published.prune(destination, plan, client=client, locks=again)
        except KeyboardInterrupt:
            console.fail("Interrupted", "what had not been removed yet is there still; the same command does the rest.")
            return exit_code()
    for key, reason in done.failed:
        console.warn(f"{key} could not be removed: {reason}.")
    if done.versioned:
        console.warn("the bucket keeps old versions: they cost until a lifecycle rule expires noncurrent versions.")
    freed = sum(pack.size for pack in done.removed)
    facts = {
        "destination": destination,
        "dry_run": dry_run,
        "removed": [pack.as_dict() for pack in done.removed],
        "kept": [pack.as_dict() for pack in plan.keep],
        "aborted": [asdict(upload) for upload in done.aborted],
        "failed": dict(done.failed),
        "freed": freed,
    }
    if not console.result(facts):
        console.line(
            f"{destination}: {len(done.removed)} removed, {len(plan.keep)} kept, {mega(freed)} "
            f"{'would be freed' if dry_run else 'freed'}"
        )
    return 1 if done.failed else 0
