"""`lazydeps push`: its options and words; `build/push.py` does the work."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lazydeps.build.commands import default_destination, lock_option, output_options
from lazydeps.build.console import Console, mega
from lazydeps.build.interrupts import exit_code

if TYPE_CHECKING:
    from lazydeps.build.push import Plan, Pushed, PushOptions


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
  lazydeps push                        # what `lazydeps pack` built of a configured project, each under its name
  lazydeps push data.tar.zst s3://my-bucket/packs/ --sse aws:kms --tag team=data
  lazydeps push data.tar.zst s3://my-bucket/packs/ --json | jq -r .ref""",
)
@click.argument("words", metavar="[PACK]... [s3://BUCKET/PREFIX/]", nargs=-1)
@click.option("--name", metavar="NAME", help="Pin the packs under this name in the lock file, which load() reads.")
@lock_option("The lock file that --name writes.")
@click.option("--tag", "tags", multiple=True, callback=_tags, metavar="KEY=VALUE", help="An object tag; ten at most.")
@click.option("--sse", type=click.Choice(["AES256", "aws:kms", "aws:kms:dsse"]), help="How S3 encrypts the object.")
@click.option("--sse-kms-key-id", "kms_key", metavar="KEY", help="The KMS key to encrypt with.")
@click.option(
    "--bucket-key/--no-bucket-key",
    default=None,
    help="With aws:kms: use an S3 Bucket Key, which means fewer calls to KMS.",
)
@click.option(
    "--storage-class",
    type=click.Choice(["STANDARD", "INTELLIGENT_TIERING", "STANDARD_IA", "ONEZONE_IA", "GLACIER_IR"]),
    help="The storage class of the object.  [default: STANDARD]",
)
@click.option("--dry-run", is_flag=True, help="Send nothing; check that it could be, and say what would go where.")
@click.option("--abort", is_flag=True, help="Drop what an interrupted push of these packs has left in the bucket.")
@output_options
def command(console: Console, words: tuple[str, ...], lock: Path, *, dry_run: bool, abort: bool, **options: Any) -> int:
    """Upload each PACK under a name that follows from its content.

    An object that is there is never replaced, and an equal one is not sent again. What was interrupted goes on where it
    stopped. Prints the pinned references; with --name, the lock file gets them, and what it had before is remembered
    for `lazydeps rollback`.

    Without s3://BUCKET/PREFIX/, pushes to the destination that the project configures in [tool.lazydeps] of its
    pyproject.toml, or in lazydeps.toml. Without a PACK, pushes what `lazydeps pack` has built of the project into
    dist/, each pack under its name; --name chooses one.
    """
    from lazydeps.build import push

    name = options.pop("name")
    pushes = [_Push(*_split(words), name)] if words else _of_project(name)
    results = [
        _push(console, one, lock, push.PushOptions(name=one.name, **options), dry_run=dry_run, abort=abort)
        for one in pushes
    ]
    console.result(results[0] if len(results) == 1 else {"pushes": results})
    return 0


@dataclass(frozen=True, slots=True)
class _Push:
    """Packs that go to one place under one name."""

    paths: list[Path]
    destination: str
    name: str | None


def _push(
    console: Console, one: _Push, lock: Path, asked: PushOptions, *, dry_run: bool, abort: bool
) -> dict[str, Any]:
    """Push packs of one name, say so to people, and return the facts."""
    from lazydeps.build import lockfile, push, s3

    # Without machine code, the packs for two architectures are one.
    by_ref = {plan.ref: plan for plan in (push.plan_push(path, one.destination, options=asked) for path in one.paths)}
    plans = list(by_ref.values())
    if asked.name is not None:
        push.check_targets(plans, asked.name)
        lockfile.read(lock, missing=True)  # damage is found before the upload, not after it
        if not dry_run:
            lockfile.check_writable(lock)
    client = s3.new_client()
    with console.step(f"Checking {one.destination}"):
        permission = push.preflight(one.destination, client=client, options=asked.parameters())
    if abort:
        count = push.abort(plans, client=client)
        if not console.as_json:
            console.line(f"{count} unfinished upload{'s' * (count != 1)} dropped")
        return {"aborted": count}
    if dry_run:
        return _say_what_would_be(console, plans, lock, asked.name, permission.region, client)
    done: list[Pushed] = []
    before: dict[str, str | None] = {}
    try:
        if not _send(console, plans, done, destination=one.destination, client=client, asked=asked):
            raise click.exceptions.Exit(exit_code())
        if asked.name is not None:
            before = push.pin_all(lock, asked.name, plans, done, client=client)
    except KeyboardInterrupt:
        console.fail("Interrupted", _arrived(done, plans))
        raise click.exceptions.Exit(exit_code()) from None
    facts: dict[str, Any] = {"packs": [asdict(pushed) for pushed in done], "region": permission.region}
    if len(done) == 1:
        facts.update(asdict(done[0]))
    if asked.name is not None:
        facts.update(name=asked.name, lock=str(lock), replaced=before)
    if not console.as_json:
        _say_what_was_done(console, done, lock, asked.name, before)
    return facts


def _of_project(name: str | None) -> list[_Push]:
    """Return what `lazydeps pack` has built of the configured project: each pack's files, destination and name."""
    from lazydeps.build.project import find_project
    from lazydeps.build.targets import plan_project

    context = click.get_current_context()
    project = find_project(Path.cwd())
    if project is None:
        raise click.UsageError(
            "no pack to push: lazydeps push PACK s3://BUCKET/PREFIX/. `lazydeps pack` builds one. Only a project with "
            "[tool.lazydeps] in its pyproject.toml, or with a lazydeps.toml, says by itself what there is to push.",
            context,
        )
    pushes: dict[str, _Push] = {}
    for build in plan_project(project, {}, names=() if name is None else (name,)):
        assert build.name is not None
        if build.destination is None:
            raise click.UsageError(
                f"no destination: {project.file} configures none for {build.name}. Give it destination = "
                '"s3://BUCKET/PREFIX/", or name the packs and where they go.',
                context,
            )
        path = build.options.out
        if not path.is_file():
            raise click.UsageError(f"there is no {path} yet: `lazydeps pack` builds it.", context)
        shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        pushes.setdefault(build.name, _Push([], build.destination, build.name)).paths.append(shown)
    return list(pushes.values())


def _send(
    console: Console, plans: list[Plan], done: list[Pushed], *, destination: str, client: Any, asked: PushOptions
) -> bool:
    """Send packs, and add to ``done`` what has arrived. Return False after a Ctrl-C, which has been answered then."""
    from lazydeps.build import push

    for plan in plans:
        try:
            with console.step(f"Pushing {plan.path.name} to {destination}", unit="bytes") as advance:
                done.append(push.send(plan, client=client, options=asked, on_progress=advance))
        except KeyboardInterrupt as error:
            kept = getattr(error, "kept", 0)
            words = (
                f"{mega(kept)} of {plan.path.name} are kept in the bucket. The same command continues; with --abort it "
                "drops them."
                if kept
                else f"{plan.path.name} may have arrived or not; the same command finds out and does the rest."
            )
            console.fail("Interrupted", f"{words} {_arrived(done, plans)}" if done else words)
            return False
        if asked.tags and not done[-1].sent:
            console.warn(f"{plan.url} was there already and keeps the tags and the encryption that it has.")
    return True


def _arrived(done: list[Pushed], plans: list[Plan]) -> str:
    there = ", ".join(f"s3://{one.bucket}/{one.key}" for one in done)
    return f"{len(done)} of {len(plans)} packs are in the bucket ({there}). The same command does the rest."


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
                "no destination: give it last, lazydeps push PACK s3://BUCKET/PREFIX/. A project says it once, as "
                "destination in [tool.lazydeps] of its pyproject.toml.",
                click.get_current_context(),
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
) -> dict[str, Any]:
    from lazydeps.build import push

    found = [(plan, push.is_there(plan, client=client)) for plan in plans]
    facts: dict[str, Any] = {
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
    if console.as_json:
        return facts
    for plan, there in found:
        words = "is there already" if there else f"would be sent ({mega(plan.size)})"
        console.line(f"{plan.path}: {words}: {plan.url}")
    if name is not None:
        console.line(f"{lock}: {name} would be pinned for {', '.join(plan.target for plan in plans)}")
    console.line(
        f"It may be: credentials, bucket ({region or 'region not known'}) and the right to write were checked."
    )
    return facts


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
