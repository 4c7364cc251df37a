"""`lazydeps push`: its options and words; `build/push.py` does the work."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lazydeps.build.commands import default_destination, lock_option, output_options
from lazydeps.build.console import Console, mega

if TYPE_CHECKING:
    from lazydeps.build.push import Plan, Pushed


def _tags(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    tags: dict[str, str] = {}
    for value in values:
        key, separator, text = value.partition("=")
        if not separator or key in tags:
            what = "is given twice" if separator else "is no KEY=VALUE"
            raise click.BadParameter(f"{value!r} {what}.", ctx, param)
        tags[key] = text
    return tags


@click.command(
    "push",
    epilog="""\b
Examples:
  lazydeps push data.tar.zst s3://my-bucket/packs/
  lazydeps push science-*.tar.zst s3://my-bucket/packs/ --name science
  lazydeps push data.tar.zst s3://my-bucket/packs/ --sse aws:kms --tag team=data
  lazydeps push data.tar.zst s3://my-bucket/packs/ --json | jq -r .ref""",
)
@click.argument("words", metavar="PACK... s3://BUCKET/PREFIX/", nargs=-1, required=True)
@click.option("--name", metavar="NAME", help="Pin the packs under this name in the lock file, which load() reads.")
@lock_option("The lock file that --name writes.")
@click.option("--tag", "tags", multiple=True, callback=_tags, metavar="KEY=VALUE", help="An object tag; ten at most.")
@click.option("--sse", type=click.Choice(["AES256", "aws:kms", "aws:kms:dsse"]), help="How S3 encrypts the object.")
@click.option("--sse-kms-key-id", "kms_key", metavar="KEY", help="The KMS key to encrypt with.")
@click.option("--bucket-key/--no-bucket-key", default=None, help="With aws:kms: fewer calls to KMS, or one a request.")
@click.option(
    "--storage-class",
    type=click.Choice(["STANDARD", "INTELLIGENT_TIERING", "STANDARD_IA", "ONEZONE_IA", "GLACIER_IR"]),
    help="What S3 keeps it in.  [default: STANDARD]",
)
@click.option("--dry-run", is_flag=True, help="Send nothing; check that it could be, and say what would go where.")
@click.option("--abort", is_flag=True, help="Drop what an interrupted push of these packs has left in the bucket.")
@output_options
def command(console: Console, words: tuple[str, ...], lock: Path, *, dry_run: bool, abort: bool, **options: Any) -> int:
    """Upload each PACK under a name that follows from its content.

    An object that is there is never replaced, and an equal one is not sent again. What was interrupted goes on where it
    stopped. Prints the pinned references; with --name, the lock file gets them, and what it had before is remembered
    for `lazydeps rollback`.
    """
    from lazydeps.build import push, s3

    paths, destination = _split(words)
    asked = push.PushOptions(**options)
    plans = [push.plan_push(path, destination, options=asked) for path in paths]
    if asked.name is not None:
        push.check_targets(plans, asked.name)
        from lazydeps.build import lockfile

        lockfile.read(lock, missing=True)  # damage is found before the upload, not after it
    client = s3.new_client()
    with console.step(f"Checking {destination}"):
        permission = push.preflight(destination, client=client, options=asked.parameters())
    if abort:
        count = push.abort(plans, client=client)
        if not console.result({"aborted": count}):
            console.line(f"{count} unfinished upload{'s' * (count != 1)} dropped")
        return 0
    if dry_run:
        _say_what_would_be(console, plans, lock, asked.name, permission.region, client)
        return 0
    done = []
    for plan in plans:
        try:
            with console.step(f"Pushing {plan.path.name} to {destination}", unit="bytes") as advance:
                done.append(push.send(plan, client=client, options=asked, on_progress=advance))
        except KeyboardInterrupt as error:
            kept = getattr(error, "kept", 0)
            console.fail(
                "Interrupted",
                f"{mega(kept)} of {plan.path.name} are kept in the bucket. The same command continues; with --abort it "
                "drops them."
                if kept
                else "nothing of it stands in the bucket; the same command does it again.",
            )
            return 130
        if asked.tags and not done[-1].sent:
            console.warn(f"{plan.url} was there already and keeps the tags and the encryption that it has.")
    before = push.pin_all(lock, asked.name, plans, done) if asked.name is not None else {}
    facts: dict[str, Any] = {"packs": [asdict(one) for one in done], "region": permission.region}
    if len(done) == 1:
        facts.update(asdict(done[0]))
    if asked.name is not None:
        facts.update(name=asked.name, lock=str(lock), replaced=before)
    if not console.result(facts):
        _say_what_was_done(console, done, lock, asked.name, before)
    return 0


def _split(words: tuple[str, ...]) -> tuple[list[Path], str]:
    """Tell the packs from the destination, which comes last."""
    *first, last = words
    if "://" in last or (first and not Path(last).is_file()):
        destination = last
    else:
        first.append(last)
        found = default_destination()
        if found is None:
            raise click.UsageError(
                "no destination: give it last, lazydeps push PACK s3://BUCKET/PREFIX/.", click.get_current_context()
            )
        destination = found
    if not first:
        raise click.UsageError(
            "no pack to push: lazydeps push PACK s3://BUCKET/PREFIX/. `lazydeps pack` builds one.",
            click.get_current_context(),
        )
    for path in first:
        if not Path(path).is_file():
            raise click.UsageError(
                f"there is no pack at {path}: `lazydeps pack REQUIREMENTS -o {path}` builds one.",
                click.get_current_context(),
            )
    return [Path(path) for path in first], destination


def _say_what_would_be(
    console: Console, plans: list[Plan], lock: Path, name: str | None, region: str, client: Any
) -> None:
    from lazydeps.build import push

    found = [(plan, push.is_there(plan, client=client)) for plan in plans]
    facts = {
        "dry_run": True,
        "region": region,
        "packs": [
            {
                "path": str(plan.path),
                "ref": plan.ref,
                "bucket": plan.bucket,
                "key": plan.key,
                "size": plan.size,
                "target": plan.target,
                "there": there,
                "metadata": plan.metadata,
            }
            for plan, there in found
        ],
        **({} if name is None else {"name": name, "lock": str(lock)}),
    }
    if console.result(facts):
        return
    for plan, there in found:
        words = "is there already" if there else f"would be sent ({mega(plan.size)})"
        console.line(f"{plan.path}: {words}: {plan.url}")
    if name is not None:
        console.line(f"{lock}: {name} would be pinned for {', '.join(plan.target for plan in plans)}")
    console.line(
        f"It may be: credentials, bucket ({region or 'region not known'}) and the right to write were checked."
    )


def _say_what_was_done(
    console: Console, done: list[Pushed], lock: Path, name: str | None, before: dict[str, str | None]
) -> None:
    for one in done:
        rate = f", {one.bytes_sent / 1e6 / one.seconds:,.1f} MB/s" if one.sent and one.seconds else ""
        resumed = f", {mega(one.bytes_resumed)} of it sent before" if one.bytes_resumed else ""
        console.line(
            f"{'Sent' if one.sent else 'Already there'}: s3://{one.bucket}/{one.key} "
            f"({mega(one.size)}{resumed}{rate}, SHA-256 verified)"
        )
    console.line()
    for one in done:
        console.line(one.ref)
    if name is None:
        console.line(
            "\nNext: set LAZYDEPS_PACK to this reference in the function's environment, and allow its role "
            "s3:GetObject on"
        )
    else:
        console.line()
        for one in done:
            was = before[one.target]
            words = "as before" if was == one.ref else "new" if was is None else f"was {_short(was)}"
            console.line(f"{lock}: {name} for {one.target} is {_short(one.ref)} ({words})")
        console.line(f"\nNext: ship {lock} beside the handler, and allow the function's role s3:GetObject on")
    for one in done:
        console.line(f"arn:aws:s3:::{one.bucket}/{one.key}")


def _short(ref: str) -> str:
    return ref.rpartition(":")[2][:12]
