"""The commands that pages and `--help` show: each is understood as it stands, and how-to pages are followed."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from support_command import lazydeps
from support_pages import PageRun

from lazydeps.build.cli import cli

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Bucket

HERE = Path(__file__).parents[1]
PAGES = [HERE / "README.md", *sorted(HERE.glob("docs/how-to/*.md")), *sorted(HERE.glob("docs/tutorials/*.md"))]
FENCE = re.compile(r"^```(?:sh|console)\b[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`(lazydeps [a-z]+ [^`]*)`")


def commands_in(text: str) -> Iterator[list[str]]:
    """Yield the words after ``lazydeps`` of every such command in lines of shell."""
    for line in text.replace("\\\n", " ").splitlines():
        plain = line.replace("<(", "; ").replace(")", " ") if "<(" in line else line
        part: list[str] = []
        for word in [*shlex.split(plain.removeprefix("$ "), comments=True), ";"]:
            if word in ("&&", "|", ";", ">"):
                if part[:1] == ["lazydeps"]:
                    yield part[1:]
                part = []
            elif word.endswith(";"):
                part = []
            else:
                part.append(word)


def check(words: list[str]) -> None:
    """Raise a usage error if the command line has no such command or option, or an option lacks its value."""
    name, *rest = words
    command = cli.get_command(click.Context(cli), name)
    if command is None:
        raise click.UsageError(f"no command {name}")
    if isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        inner = command.get_command(click.Context(command), rest[0])
        if inner is None:
            raise click.UsageError(f"no command {name} {rest[0]}")
        command, rest = inner, rest[1:]
    context = click.Context(command, info_name=name, **command.context_settings)
    if name == "run":  # it ends its own options where the program's words begin
        command.parse_args(context, list(rest))
    else:
        command.make_parser(context).parse_args(list(rest))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name if "docs" in page.parts else "README")
def test_commands_of_a_page_are_understood(page: Path) -> None:
    """Every `lazydeps` command in a shell block or in a line of text names commands and options that there are."""
    text = page.read_text(encoding="utf-8")
    shown = [block for block in FENCE.findall(text) if "lazydeps:" not in block.partition("\n")[0]]
    found = [words for block in shown for words in commands_in(commands_only(block))]
    found += [words for code in CODE.findall(FENCE.sub("", text)) for words in commands_in(code.replace("…", ""))]
    assert found or page.name == "README.md"
    for words in found:
        try:
            check(words)
        except click.UsageError as error:
            pytest.fail(f"{page.name}: lazydeps {shlex.join(words)}\n{error.format_message()}")


def commands_only(block: str) -> str:
    """Return a block without what its commands print: of a console block, the lines after ``$``."""
    lines = block.replace("\\\n", " ").splitlines()
    if any(line.startswith("$ ") for line in lines):
        lines = [line for line in lines if line.startswith("$ ")]
    return "\n".join(lines)


def every_command() -> list[tuple[str, click.Command]]:
    """Return all commands with their names, those of groups too."""
    found: list[tuple[str, click.Command]] = []
    for name in cli.list_commands(click.Context(cli)):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        found.append((name, command))
        if isinstance(command, click.Group):
            found += [(f"{name} {inner}", each) for inner, each in command.commands.items()]
    return found


@pytest.mark.parametrize(("name", "command"), [pytest.param(*each, id=each[0]) for each in every_command()])
def test_examples_in_the_help_are_understood(name: str, command: click.Command) -> None:
    """The examples below each `--help` name options that there are."""
    lines = (command.epilog or "").replace("\b", "").replace("\\\n", " ")
    examples = [line.strip() for line in lines.splitlines() if "lazydeps " in line]
    found = [words for line in examples for words in commands_in(line)]
    assert found, f"{name} has no examples"
    for words in found:
        try:
            check(words)
        except click.UsageError as error:
            pytest.fail(f"lazydeps {shlex.join(words)}\n{error.format_message()}")


def test_a_command_that_is_not_understood_is_found() -> None:
    """The check can fail: for an unknown command, an unknown option, a value that is missing."""
    for line in (
        "lazydeps pak six",
        "lazydeps pack six --onto x",
        "lazydeps push p.tar.zst --name",
        "lazydeps trace x",
    ):
        (words,) = commands_in(line)
        with pytest.raises(click.UsageError):
            check(words)


# -- pages that are followed


def test_publish_and_roll_back(bucket: Bucket, tmp_path: Path) -> None:
    """The page's commands work in its order, once there is a second version to go back from."""
    for name in ("api", "jobs"):
        (tmp_path / name).mkdir()
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    author = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    page = PageRun(
        "docs/how-to/publish-and-roll-back.md",
        tmp_path,
        environ={**bucket.environ, **author},
        instead={"numpy pandas": "markupsafe --level 1", "my-bucket": bucket.name},
    )
    page.follow(until="--name science")
    lock = tmp_path / "lazydeps.lock"
    before = json.loads(lock.read_text())["packs"]["science"]
    assert before.keys() == {"python3.13-arm64", "python3.13-x86_64"}
    subprocess.run(["git", "add", "lazydeps.lock"], cwd=tmp_path, check=True)
    words = ("pack", "markupsafe", "six", "--level", "1", "--python", "3.13", "--arch", "x86_64,arm64")
    lazydeps(*words, "-o", "next-{arch}.tar.zst", "--quiet", cwd=tmp_path)
    packs = [tmp_path / f"next-{arch}.tar.zst" for arch in ("x86_64", "arm64")]
    lazydeps("push", *packs, bucket.url("packs/"), "--name", "science", cwd=tmp_path, environ=bucket.environ)
    page.follow(until="lazydeps diff")
    assert "six" in page.output
    subprocess.run(["git", "add", "lazydeps.lock"], cwd=tmp_path, check=True)
    page.follow(until="lazydeps rollback")
    after = json.loads(lock.read_text())["packs"]["science"]
    assert {target: entry["ref"] for target, entry in after.items()} == {
        target: entry["ref"] for target, entry in before.items()
    }
    for name in ("api", "jobs"):
        (tmp_path / name / "lazydeps.lock").write_bytes(lock.read_bytes())
    with zipfile.ZipFile(tmp_path / "old.zip", "w") as file:
        file.writestr("beta.py", "B = 7\n")
    bucket.put("libs/data-science.zip", tmp_path / "old.zip")
    page.follow()
    assert "libs is pinned for any target" in page.output
