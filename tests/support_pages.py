"""Pages of the documentation, run: their code blocks are written, applied and executed in the order of the page.

A block's info string says what it is, after the language:

    ```python file=handler.py      a file: written under that name
    ```diff file=handler.py        a change of a file: its old lines must stand there, once
    ```sh run                      commands: run by bash, all must succeed
    ```text expect                 what the commands before it printed; each line must be among theirs, `…` is anything
    ```sh elsewhere                not run: it needs an account, or a machine of another kind

Every block of a page has to be one of these. `test_build_tutorials.py` runs the tutorials and
`test_build_pages.py` how-to pages.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HERE = Path(__file__).parents[1]
FENCE = re.compile(r"^```(?P<info>[^\n`]+)?\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """One code block of a page."""

    where: str
    """``PAGE:LINE``."""
    role: str
    """``file``, ``change``, ``run``, ``expect`` or ``elsewhere``."""
    file: str
    """Of a file or a change: which."""
    body: str


def blocks_of(page: Path) -> Iterator[Block]:
    """Yield a page's blocks. One that does not say what it is fails the test."""
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        where = f"{page.relative_to(HERE)}:{text.count(chr(10), 0, found.start()) + 1}"
        language, _, what = (found["info"] or "").partition(" ")
        name, _, file = what.partition("=")
        role = "change" if (language, name) == ("diff", "file") else name
        if role not in ("file", "change", "run", "expect", "elsewhere") or (name == "file") is not bool(file):
            pytest.fail(f"{where}: ```{found['info'] or ''} is none of the blocks that tests/support_pages.py runs")
        yield Block(where, role, file, found["body"])


class PageRun:
    """A page being followed, in a folder of its own.

    Args:
        page: relative to the repository.
        folder: where its files go and its commands run.
        environ: what its commands get besides PATH.
        instead: texts of the page, and what stands for each here (a digest that follows from the content, say).
    """

    def __init__(
        self, page: str, folder: Path, *, environ: Mapping[str, str], instead: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.output = ""
        """What the last commands printed, on both streams."""
        self.instead = dict(instead or {})
        self._unused = set(self.instead)
        self._environ = environ
        self._left = list(blocks_of(HERE / page))

    def follow(self, until: str | None = None) -> None:
        """Do what the page says, up to and with the block that holds the text ``until``, or to its end."""
        while self._left:
            block = self._left.pop(0)
            self._do(block)
            if until is not None and until in block.body:
                return
        if until is not None:
            pytest.fail(f"the page has no block with {until!r} any more")
        if self._unused:
            pytest.fail(f"the page does not say {sorted(self._unused)} any more")

    def _do(self, block: Block) -> None:
        body = block.body
        for text, here in self.instead.items():
            if text in body:
                self._unused.discard(text)
                body = body.replace(text, here)
        if block.role == "file":
            path = self.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(body, encoding="utf-8")
        elif block.role == "change":
            self._change(block, body)
        elif block.role == "run":
            self._run(block, body)
        elif block.role == "expect":
            for line in body.splitlines():
                pattern = ".*".join(re.escape(part) for part in line.split("…"))
                if not re.search(f"^{pattern}$", self.output, re.MULTILINE):
                    pytest.fail(f"{block.where}: the page promises\n  {line}\nand this was printed:\n{self.output}")

    def _change(self, block: Block, body: str) -> None:
        path = self.folder / block.file
        text = path.read_text(encoding="utf-8")
        lines = body.splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if line[0] in " -")
        if text.count(old) != 1:
            pytest.fail(f"{block.where}: {block.file} has these lines {text.count(old)} times, not once:\n{old}")
        path.write_text(text.replace(old, "".join(line[1:] for line in lines if line[0] in " +")), encoding="utf-8")

    def _run(self, block: Block, body: str) -> None:
        # The `lazydeps` of this interpreter, whatever else is installed.
        path = f"{Path(sys.executable).parent}:{self._environ.get('PATH', os.environ['PATH'])}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", body],
            cwd=self.folder,
            env={**os.environ, "LANG": "C.UTF-8", "COLUMNS": "120", **self._environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=300,
        )
        self.output = done.stdout
        if done.returncode:
            pytest.fail(f"{block.where}: ended with {done.returncode}\n{body}\n{done.stdout}")
