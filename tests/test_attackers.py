"""Who can write to the bucket or to the network can stop a start. They cannot run code in it.

Another user on the same machine is the subject of `test_faults_disk`, a hostile pack's author of `test_hostile_packs`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support_http import Answer, Request, ScriptedServer, answer, ranged
from support_packs import pack_tree, write_tree

from lazydeps._pack import SKIPPABLE_HEADER

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import RunPython

    from lazydeps.build.write import Written

EVIL = "import os\nopen(os.environ['RAN'], 'w').close()\nN = 1\n"


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Written, Written]:
    """A pack, and another one whose modules do what an attacker wants, as alike to the first as can be."""
    made = []
    for name in ("good", "evil"):
        folder = tmp_path_factory.mktemp(name)
        code = EVIL if name == "evil" else EVIL.replace("open(os.environ['RAN'], 'w').close()", "len(os.environ)")
        write_tree(folder / "tree", {"first.py": code, "later.py": code, "data.bin": b"0" * 700_000})
        made.append(pack_tree(folder / "p.tar.zst", folder / "tree", boot=["first.py"]))
    return made[0], made[1]


def swapped(request: Request, good: bytes, evil: bytes) -> Answer:
    """Serve the other object, as a bucket does after somebody wrote to it."""
    return ranged(request, evil)


def between(request: Request, good: bytes, evil: bytes) -> Answer:
    """Serve the pinned root, then the other pack's frames, under the same ETag."""
    size = SKIPPABLE_HEADER + int.from_bytes(good[4:8], "little")
    theirs = SKIPPABLE_HEADER + int.from_bytes(evil[4:8], "little")
    return ranged(request, (good[:size] + evil[theirs:]).ljust(len(good), b"\0")[: len(good)])


def flipped(request: Request, good: bytes, evil: bytes) -> Answer:
    """Change one byte of every answer on its way, a little behind the headers."""
    reply = bytearray(ranged(request, good).data)
    start = reply.index(b"\r\n\r\n") + 4
    if start < len(reply):
        reply[min(start + 60, len(reply) - 1)] ^= 1
    return Answer(bytes(reply))


def cold_only(request: Request, good: bytes, evil: bytes) -> Answer:
    """Behave until a cold module is asked for."""
    return flipped(request, good, evil) if 0 < request.span(good)[0] < len(good) else ranged(request, good)


ATTACKS: dict[str, Callable[[Request, bytes, bytes], Answer]] = {
    "the object replaced": swapped,
    "the frames replaced": between,
    "a byte changed on the way": flipped,
    "a byte of a cold module changed": cold_only,
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_code_runs(run_python: RunPython, packs: tuple[Written, Written], tmp_path: Path, attack: str) -> None:
    """Every attack ends in IntegrityError, in the first start and in the next one, and nothing of it was run."""
    good, evil = (pack.path.read_bytes() for pack in packs)
    ran = tmp_path / "ran"
    code = f"""
import json, lazydeps
ref = "URL#root={packs[0].root}"
said = []
for name in ("first", "later", "first"):
    try:
        with lazydeps.load(ref):
            __import__(name)
    except lazydeps.LazydepsError as error:
        said.append(type(error).__name__)
    else:
        said.append(name)
print(json.dumps(said))
"""
    with ScriptedServer(lambda request: ATTACKS[attack](request, good, evil)) as server:
        for _ in range(2):
            done = run_python(code.replace("URL", server.url), environ={"RAN": str(ran)}, timeout=60)
            said = json.loads(done.stdout)
            assert said == (
                ["first", "IntegrityError", "first"] if attack.endswith("module changed") else ["IntegrityError"] * 3
            )
    assert not ran.exists()


def test_a_redirect_to_the_attacker(run_python: RunPython, packs: tuple[Written, Written], tmp_path: Path) -> None:
    """Whoever can redirect the request can serve what they like; it is checked like everything else."""
    evil = packs[1].path.read_bytes()
    ran = tmp_path / "ran"
    with ScriptedServer(lambda request: ranged(request, evil)) as theirs:
        with ScriptedServer(lambda request: answer(302, Location=theirs.url)) as server:
            code = f"""
import lazydeps
try:
    with lazydeps.load("{server.url}#root={packs[0].root}"):
        import first
except lazydeps.IntegrityError as error:
    print("refused:", error)
"""
            done = run_python(code, environ={"RAN": str(ran)}, timeout=60)
        assert theirs.requests
    assert "refused: the pack at this address is not the pinned one" in done.stdout
    assert not ran.exists()


def test_without_a_pin_nothing_is_fetched(
    run_python: RunPython, packs: tuple[Written, Written], tmp_path: Path
) -> None:
    """A reference that pins nothing is refused before a byte is asked for; allowed, it runs what the bucket holds."""
    evil = packs[1].path.read_bytes()
    ran = tmp_path / "ran"
    code = """
import lazydeps
try:
    with lazydeps.load("URL"):
        import first
except lazydeps.ConfigError as error:
    print("refused:", error)
"""
    with ScriptedServer(lambda request: ranged(request, evil)) as server:
        code = code.replace("URL", server.url)
        assert "is not pinned" in run_python(code, environ={"RAN": str(ran)}).stdout
        assert not server.requests
        assert not ran.exists()
        run_python(code, environ={"RAN": str(ran), "LAZYDEPS_ALLOW_UNPINNED": "1"})
    assert ran.exists(), "or the tests above show nothing"


def test_no_pack_provides_the_standard_library(run_python: RunPython, tmp_path: Path) -> None:
    """A pack that holds modules named like Python's, or like lazydeps, is asked for neither."""
    names = ["json", "secrets", "sitecustomize", "lazydeps", "site"]
    write_tree(tmp_path / "tree", {"first.py": "N = 1\n"} | {f"{name}.py": EVIL for name in names})
    pack = pack_tree(tmp_path / "p.tar.zst", tmp_path / "tree", boot=["first.py"])
    code = f"""
import lazydeps
with lazydeps.load("{pack.path.as_uri()}#root={pack.root}"):
    import first, json, secrets, site
import lazydeps.auto
print([module.__file__ for module in (json, secrets, site, lazydeps)])
"""
    done = run_python(code, environ={"RAN": str(tmp_path / "ran")})
    assert str(tmp_path) not in done.stdout
    assert not (tmp_path / "ran").exists()
