"""Nothing that a function is trusted with is told to anybody: not in errors, reports, traces or on a terminal."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support_http import Answer, Request, ScriptedServer, answer, ranged, s3_error
from support_packs import pack_tree, write_tree

from lazydeps import ConfigError
from lazydeps._ref import Ref

if TYPE_CHECKING:
    from lazydeps.build.write import Written

SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7XYZZY",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/XYZZY",
    "AWS_SESSION_TOKEN": "FwoGZXIvYXdzEBYaXYZZY",
}
QUERY = "X-Amz-Credential=AKIAXYZZY&X-Amz-Signature=feedXYZZYface"


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A pack with a boot module and a cold one."""
    folder = tmp_path_factory.mktemp("secrets")
    write_tree(folder / "tree", {"first.py": "N = 1\n", "later.py": "N = 2\n"})
    return pack_tree(folder / "p.tar.zst", folder / "tree", boot=["first.py"])


def told(store: Path, *arguments: str, environ: dict[str, str]) -> str:
    """Run a program of ours with secrets in its environment; return everything that it says."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[1] / "src"),
            "LAZYDEPS_DIR": str(store),
            "NO_PROXY": "*",
            **SECRETS,
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout + done.stderr


START = """
import sys, json, logging, traceback, lazydeps
logging.basicConfig(level=0)
ref = sys.argv[1]
try:
    with lazydeps.load(ref, timeout=20) as loading:
        import first
    print(repr(loading), first.N)
    import later
    print(later.N)
except lazydeps.LazydepsError as error:
    traceback.print_exc()
    print(repr(error), error.facts())
print(json.dumps(lazydeps.report().as_dict()), repr(lazydeps.report()))
try:
    lazydeps.lazy("nowhere.to.be.found").anything
except lazydeps.LazydepsError as error:
    print(error)
"""

TROUBLE = {
    "none": None,
    "denied": lambda request, content: s3_error(403, "AccessDenied"),
    "signature": lambda request, content: s3_error(403, "SignatureDoesNotMatch"),
    "expired": lambda request, content: s3_error(400, "ExpiredToken"),
    "missing": lambda request, content: answer(404),
    "damaged": lambda request, content: Answer(ranged(request, content).data[:-9] + b"damaged!!"),
    "another pack": lambda request, content: ranged(request, content[:60] + b"x" + content[61:]),
    "redirected": lambda request, content: answer(302, Location=f"https://localhost:1/elsewhere?{QUERY}"),
    "echo": lambda request, content: answer(
        500, f"<Error><Code>{request.headers.get('authorization', request.path)}</Code></Error>".encode()
    ),
}


@pytest.mark.parametrize("scheme", ["s3", "https"])
@pytest.mark.parametrize("trouble", TROUBLE)
def test_a_start_tells_no_secret(pack: Written, tmp_path: Path, scheme: str, trouble: str) -> None:
    """Whatever becomes of a start, with keys in the environment or a presigned address: no word of them comes out."""
    content = pack.path.read_bytes()

    def script(request: Request) -> Answer:
        wrong = TROUBLE[trouble]
        return ranged(request, content) if wrong is None else wrong(request, content)

    with ScriptedServer(script) as server:
        url = "s3://bucket/p.tar.zst" if scheme == "s3" else f"{server.url}?{QUERY}"
        said = told(
            tmp_path / "store", "-c", START, f"{url}#root={pack.root}", environ={"AWS_ENDPOINT_URL": server.endpoint}
        )
        assert server.requests
    assert "XYZZY" not in said
    assert ("1\n2\n" in said.replace("0x", "")) or "Error" in said
    assert str(pack.root) in said  # the report names the pack all the same
    for path in tmp_path.rglob("*"):  # nor does the store keep any
        if path.is_file():
            assert b"XYZZY" not in path.read_bytes()


@pytest.mark.parametrize(
    "text",
    [
        f"https://host/p.tar.zst?{QUERY}#root=sha256:nonsense",
        f"https://host?{QUERY}",
        f"ftp://host/p.tar.zst?{QUERY}",
        "https://user:XYZZY@host#root=1",
        "nothing://user:XYZZY@host/x",
    ],
)
def test_a_wrong_reference_is_not_repeated(text: str) -> None:
    """A reference that cannot be parsed is named without what it is signed with."""
    with pytest.raises(ConfigError) as caught:
        Ref.parse(text)
    assert "XYZZY" not in str(caught.value)


def test_a_reference_shows_no_secret() -> None:
    """The text that goes into reports and messages, and the one that a debugger shows."""
    ref = Ref.parse(f"https://host/p.tar.zst?{QUERY}#root=sha256:" + "ab" * 32)
    assert ref.shown == "https://host/p.tar.zst#root=sha256:" + "ab" * 32
    assert "XYZZY" not in repr(ref)
    assert "XYZZY" in str(ref)  # what a child process or another load needs
    key = "s3://bucket/a?b@c.tar.zst#root=sha256:" + "ab" * 32
    assert Ref.parse(key).shown == key


def test_unpinned_references_are_not_repeated(pack: Written, tmp_path: Path) -> None:
    """The refusal of a presigned address without a pin leaves its query out."""
    said = told(tmp_path, "-c", START, f"https://localhost:1/p.tar.zst?{QUERY}", environ={})
    assert "is not pinned" in said
    assert "XYZZY" not in said


@pytest.mark.parametrize("trouble", [*TROUBLE, "not pinned", "no archive", "another name"])
def test_an_archive_tells_no_secret(tmp_path: Path, trouble: str) -> None:
    """Nor does a start from an archive that is no pack, whatever becomes of it."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("first.py", "N = 1\n")
        archive.writestr("later.py", "N = 2\n")
    content = made.getvalue() if trouble != "no archive" else b"no zip at all" * 20
    pin = "" if trouble == "not pinned" else f"#sha256={hashlib.sha256(content).hexdigest()}"

    def script(request: Request) -> Answer:
        wrong = TROUBLE.get(trouble)
        return ranged(request, content) if wrong is None else wrong(request, content)

    with ScriptedServer(script) as server:
        name = "a.rar" if trouble == "another name" else "a.zip"
        said = told(tmp_path / "store", "-c", START, f"{server.endpoint}/{name}?{QUERY}{pin}", environ={})
        assert server.requests or trouble in ("not pinned", "another name")
        if trouble != "another name":
            locked = told(tmp_path, "-m", "lazydeps", "lock", f"{server.endpoint}/{name}?{QUERY}", environ={})
            assert f"/{name}" in locked or "Error" in locked
            said += locked
    assert "XYZZY" not in said
    assert f"/{name}" in said
    if trouble == "none":
        assert "1\n2\n" in said.replace("0x", "")
        assert pin in said  # in the report, and as `lock` prints it
    else:
        assert "Error" in said
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"XYZZY" not in path.read_bytes()


@pytest.mark.parametrize("command", ["inspect", "verify", "extract", "run"])
def test_the_command_tells_no_secret(pack: Written, tmp_path: Path, command: str) -> None:
    """Neither in words nor as JSON, with a presigned address and keys in the environment."""
    content = pack.path.read_bytes()
    with ScriptedServer(lambda request: ranged(request, content)) as server:
        ref = f"{server.url}?{QUERY}#root={pack.root}"
        report = tmp_path / "report.json"
        words = {
            "extract": [ref, "-o", str(tmp_path / "out")],
            "run": ["--pack", ref, "--report", "--report-json", str(report), "-c", "import first"],
        }.get(command, [ref])
        for more in [] if command == "run" else ["--json"], []:
            said = told(tmp_path / "s", "-m", "lazydeps", command, *more, *words, environ={})
            assert "XYZZY" not in said
            assert "Usage:" not in said
        assert server.requests
        assert not report.exists() or "XYZZY" not in report.read_text()
        assert report.exists() == (command == "run")


def test_a_trace_tells_no_secret(tmp_path: Path) -> None:
    """A recorded import names modules and files; the environment that it ran in stays where it is."""
    write_tree(tmp_path / "site", {"first.py": "import os\nKEY = os.environ.get('AWS_SECRET_ACCESS_KEY')\n"})
    out = tmp_path / "p.tar.zst"
    said = told(
        tmp_path / "s", "-m", "lazydeps", "pack", "--from-dir", str(tmp_path / "site"), "--trace", "import first",
        "--level", "3", "--save-trace", str(tmp_path / "trace.json"), "-o", str(out), "--json",
        environ={"HOME": str(tmp_path)},
    )  # fmt: skip
    assert out.exists(), said
    assert "XYZZY" not in said
    assert "first.py" in (tmp_path / "trace.json").read_text()
    assert "XYZZY" not in (tmp_path / "trace.json").read_text()
    assert b"XYZZY" not in out.read_bytes()
    json.loads(said[said.index("{") :])
