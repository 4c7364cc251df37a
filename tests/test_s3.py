"""Packs in an S3 server, loaded in fresh processes that have ``AWS_*`` variables and nothing else of an SDK.

`test_sources_s3` has the requests in detail; here they carry real packs into real imports.
"""

from __future__ import annotations

import json
import random
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from local_s3 import LocalS3
from support_packs import pack_tree, write_tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Bucket, RunPython

    from lazydeps.build.write import Written

FILES: dict[str, str | bytes] = {
    "alpha/__init__.py": "from . import one\nfrom .one import X\n",
    "alpha/one.py": "X = 1\n",
    "alpha/cold.py": "Y = 2\n",
    "alpha/table.bin": random.Random(1).randbytes(3000),
    "alpha-1.5.dist-info/METADATA": "Metadata-Version: 2.1\nName: alpha\nVersion: 1.5\n\n",
    "beta.py": "B = 1\n",
}


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A small pack with something in each of its sets."""
    folder = tmp_path_factory.mktemp("pack")
    write_tree(folder / "tree", FILES)
    return pack_tree(
        folder / "p.tar.zst",
        folder / "tree",
        boot=["alpha/__init__.py", "alpha/one.py"],
        distributions={"alpha": "1.5"},
    )


def put(bucket: Bucket, pack: Written, key: str = "packs/p.tar.zst") -> str:
    """Store a pack and return its pinned reference."""
    return f"{bucket.put(key, pack.path)}#root={pack.root}"


def load(run_python: RunPython, ref: str, code: str, environ: dict[str, str]) -> Any:
    """Load a reference, import ``alpha`` in the block, run ``code`` after it; it prints one JSON value last."""
    body = f"import json, sys, lazydeps\nwith lazydeps.load({ref!r}):\n    import alpha\n"
    return json.loads(run_python(body + code, environ=environ).stdout.splitlines()[-1])


def refuse(run_python: RunPython, ref: str, environ: dict[str, str], tmp_path: Path) -> dict[str, Any]:
    """Load a reference that must fail; return the error. Nothing is imported, and nothing of the pack written."""
    body = f"""
import json, sys, lazydeps
try:
    with lazydeps.load({ref!r}):
        import alpha
    print("null")
except lazydeps.LazydepsError as error:
    assert not [name for name in sys.modules if name.partition(".")[0] == "alpha"]
    print(json.dumps({{"type": type(error).__name__, "message": str(error), **error.facts()}}))
"""
    error = json.loads(run_python(body, environ=environ).stdout.splitlines()[-1])
    assert error is not None, "nothing was raised"
    assert not list((tmp_path / "lazydeps").rglob("alpha*"))
    return dict(error)


def test_variables_are_enough_and_no_sdk_is_imported(bucket: Bucket, run_python: RunPython, pack: Written) -> None:
    """A pack loads from S3 with `AWS_*` alone: cold frames stay there, and the SDK's modules are not imported."""
    code = """
import importlib.metadata
p = lazydeps.report().packs[0]
print(json.dumps([
    alpha.X, importlib.metadata.version("alpha"),
    [name for name in sys.modules if name.partition(".")[0] in ("boto3", "botocore", "s3transfer", "urllib3")],
    p.cold_frames_fetched, p.landed, p.frames_total, p.requests > 0, p.bytes_received,
]))
"""
    x, version, sdk, fetched, landed, total, asked, received = load(run_python, put(bucket, pack), code, bucket.environ)
    assert (x, version, sdk, fetched, asked) == (1, "1.5", [], 0, True)
    assert landed == {**total, "cold": 0}
    assert min(total.values()) > 0
    assert 0 < received < pack.size


def test_cold_modules_come_from_s3_too(bucket: Bucket, run_python: RunPython, pack: Written) -> None:
    """After the block, a module that no trace foresaw is fetched by its import."""
    code = (
        "import alpha.cold, beta\nprint(json.dumps([alpha.cold.Y, beta.B, lazydeps.report().packs[0].landed['cold']]))"
    )
    y, b, landed = load(run_python, put(bucket, pack), code, bucket.environ)
    assert (y, b) == (2, 1)
    assert landed >= 1


def test_the_store_outlives_the_object(bucket: Bucket, run_python: RunPython, pack: Written) -> None:
    """A second process imports from the store without a request, although the object is gone."""
    ref = put(bucket, pack)
    code = "p = lazydeps.report().packs[0]\nprint(json.dumps([alpha.X, p.requests, p.store_reused]))"
    assert load(run_python, ref, code, bucket.environ)[2] is False
    bucket.client.delete_object(Bucket=bucket.name, Key="packs/p.tar.zst")
    assert load(run_python, ref, code, bucket.environ) == [1, 0, True]


@pytest.mark.parametrize(
    "key",
    [
        "a folder/with two  spaces/p.tar.zst",
        "plus+and=equals&more/p.tar.zst",
        "größe/日本/🐍.tar.zst",
        "100%25/~tilde/p%2Fq.tar.zst",
        "quote'(brackets)*!/p.tar.zst",
        "what?is=this/p.tar.zst",
    ],
)
def test_keys_of_any_kind(bucket: Bucket, run_python: RunPython, pack: Written, key: str) -> None:
    """A reference holds the key as S3 spells it; nothing in it is encoded or decoded twice."""
    assert load(run_python, put(bucket, pack, key), "print(alpha.X)", bucket.environ) == 1


def test_several_packs(bucket: Bucket, run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """LAZYDEPS_PACK may name several objects."""
    write_tree(tmp_path / "tree", {"gamma.py": "G = 3\n"})
    other = pack_tree(tmp_path / "q.tar.zst", tmp_path / "tree", boot=["gamma.py"])
    refs = f"{put(bucket, pack)} {put(bucket, other, 'packs/q.tar.zst')}"
    code = "import lazydeps.auto, alpha, gamma\nlazydeps.wait()\nprint(alpha.X, gamma.G)"
    done = run_python(code, environ={**bucket.environ, "LAZYDEPS_PACK": refs})
    assert done.stdout.split() == ["1", "3"]


def test_keys_with_spaces_in_the_variable(bucket: Bucket, run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """White space separates the references of LAZYDEPS_PACK only where another one begins: keys may hold it."""
    write_tree(tmp_path / "tree", {"gamma.py": "G = 3\n"})
    other = pack_tree(tmp_path / "q.tar.zst", tmp_path / "tree", boot=["gamma.py"])
    refs = f"\n{put(bucket, pack, 'a b/p  p.tar.zst')}\n  {put(bucket, other, 'q q.tar.zst')} "
    code = "import lazydeps\nwith lazydeps.load():\n    import alpha, gamma\nprint(alpha.X, gamma.G)"
    assert run_python(code, environ={**bucket.environ, "LAZYDEPS_PACK": refs}).stdout == "1 3\n"


def test_the_endpoint_of_s3_wins(bucket: Bucket, run_python: RunPython, pack: Written) -> None:
    """AWS_ENDPOINT_URL_S3 is asked, not AWS_ENDPOINT_URL, as the SDK does it."""
    environ = {
        **bucket.environ,
        "AWS_ENDPOINT_URL_S3": bucket.endpoint,
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    }
    assert load(run_python, put(bucket, pack), "print(alpha.X)", environ) == 1


def test_a_missing_object_and_a_missing_bucket(
    bucket: Bucket, run_python: RunPython, pack: Written, tmp_path: Path
) -> None:
    """What is not there is named, and which of the two it is."""
    pin = f"#root={pack.root}"
    error = refuse(run_python, bucket.url("packs/gone.tar.zst") + pin, bucket.environ, tmp_path)
    assert (error["type"], error["status"], error["retryable"]) == ("FetchError", 404, False)
    assert f"the key packs/gone.tar.zst in {bucket.name} does not exist" in error["message"]
    assert "lazydeps push" in error["message"]
    error = refuse(run_python, f"s3://no-such-bucket-here/p.tar.zst{pin}", bucket.environ, tmp_path)
    assert (error["type"], error["status"]) == ("FetchError", 404)
    assert "the bucket no-such-bucket-here does not exist" in error["message"]


def test_an_unpinned_reference(bucket: Bucket, run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """Without a pin nothing is fetched, unless the environment allows it; the report then names the root."""
    url = put(bucket, pack).partition("#")[0]
    error = refuse(run_python, url, bucket.environ, tmp_path)
    assert error["type"] == "ConfigError"
    assert "not pinned" in error["message"]
    allowed = {**bucket.environ, "LAZYDEPS_ALLOW_UNPINNED": "1"}
    code = "print(json.dumps(lazydeps.report().packs[0].ref))"
    assert load(run_python, url, code, allowed) == f"{url}#root={pack.root}"


def test_another_pack_under_the_key(bucket: Bucket, run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """Whoever can write to the bucket can stop a start, and run nothing in it."""
    ref = put(bucket, pack)
    write_tree(tmp_path / "tree", {"alpha.py": "raise SystemExit('ran')\n"})
    other = pack_tree(tmp_path / "q.tar.zst", tmp_path / "tree", boot=["alpha.py"])
    put(bucket, other)
    error = refuse(run_python, ref, bucket.environ, tmp_path)
    assert error["type"] == "IntegrityError"
    assert (error["expected"], error["actual"]) == (pack.root, other.root)


def test_one_flipped_byte_is_found_wherever_it_is(
    bucket: Bucket, run_python: RunPython, pack: Written, tmp_path: Path
) -> None:
    """Damage anywhere is an IntegrityError of the load, or of the wait for the frame it lies in.

    Nothing is imported from a damaged boot frame, and no damaged file is written.
    """
    content = pack.path.read_bytes()
    places = sorted(
        {*range(0, len(content), len(content) // 24), pack.boot_size - 1, pack.boot_size + 9, len(content) - 1}
    )
    refs = {}
    for at in places:
        damaged = bytearray(content)
        damaged[at] ^= 0x10
        refs[at] = f"{bucket.put(f'{at}.tar.zst', bytes(damaged))}#root={pack.root}"
    code = f"""
import json, os, sys, lazydeps
store = os.environ["LAZYDEPS_DIR"]
for at, ref in {refs!r}.items():
    if os.fork():
        os.wait()
        continue
    os.environ["LAZYDEPS_DIR"] = store + str(at)
    stage = "block"
    try:
        with lazydeps.load(ref):
            import alpha
        stage = "complete"
        lazydeps.wait(complete=True)
        outcome = None
    except (lazydeps.IntegrityError, lazydeps.PackFormatError) as error:
        outcome = type(error).__name__
    print(json.dumps([at, outcome, stage, "alpha" in sys.modules]), flush=True)
    os._exit(0)
"""
    lines = run_python(code, environ=bucket.environ).stdout.splitlines()
    outcomes = {at: rest for at, *rest in map(json.loads, lines)}
    assert list(outcomes) == places
    for at, (outcome, stage, imported) in outcomes.items():
        assert outcome == "IntegrityError" or (outcome == "PackFormatError" and at < 16), (at, outcome)
        if at < pack.boot_size:
            assert (stage, imported) == ("block", False), at
        for name, right in FILES.items():
            for found in tmp_path.glob(f"lazydeps{at}/**/tree/{name}"):
                assert found.read_bytes() == (right.encode() if isinstance(right, str) else right), (at, name)
    assert {stage for _, stage, _ in outcomes.values()} == {"block", "complete"}


def test_no_server(run_python: RunPython, pack: Written, tmp_path: Path, bucket: Bucket) -> None:
    """An endpoint that nobody listens at is a FetchError that names it, not a hang."""
    environ = {**bucket.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "LAZYDEPS_TIMEOUT": "20"}
    error = refuse(run_python, f"s3://b/p.tar.zst#root={pack.root}", environ, tmp_path)
    assert (error["type"], error["status"]) == ("FetchError", None)
    assert "127.0.0.1:9" in error["message"]


def test_no_credentials(bucket: Bucket, run_python: RunPython, pack: Written, tmp_path: Path) -> None:
    """Without any credentials the error says which variables were looked at, and what to do."""
    environ = {name: value for name, value in bucket.environ.items() if "KEY" not in name}
    error = refuse(run_python, put(bucket, pack), environ, tmp_path)
    assert error["type"] == "ConfigError"
    assert "no AWS credentials" in error["message"]
    assert "AWS_SECRET_ACCESS_KEY" in error["message"]


# -- a server that checks signatures and permissions


class Guarded:
    """A server that checks signatures (by botocore) and IAM permissions, and what it holds."""

    def __init__(self, environ: dict[str, str], ref: str, keys: dict[str, dict[str, str]]) -> None:
        self.environ = environ
        self.ref = ref
        self.keys = keys
        """By who it is: ``reader``, ``stranger`` and ``role``, their ``AWS_*`` variables."""


@pytest.fixture(scope="module")
def guarded(pack: Written) -> Iterator[Guarded]:
    """Run a server of its own: once moto checks requests, it refuses everybody else's made-up keys."""
    import boto3

    with LocalS3() as server:
        client = server.client()
        client.create_bucket(Bucket="guarded")
        key = "a b+c/ü.tar.zst"
        client.put_object(Bucket="guarded", Key=key, Body=pack.path.read_bytes())
        made_up = {
            "endpoint_url": server.endpoint,
            "region_name": "us-east-1",
            "aws_access_key_id": "x",
            "aws_secret_access_key": "x",
        }
        iam, sts = boto3.client("iam", **made_up), boto3.client("sts", **made_up)

        def policy(action: str) -> str:
            return json.dumps(
                {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": action, "Resource": "*"}]}
            )

        keys = {}
        for name, action in {"reader": "s3:GetObject", "stranger": "sqs:SendMessage"}.items():
            iam.create_user(UserName=name)
            iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=policy(action))
            made = iam.create_access_key(UserName=name)["AccessKey"]
            keys[name] = {
                "AWS_ACCESS_KEY_ID": made["AccessKeyId"],
                "AWS_SECRET_ACCESS_KEY": made["SecretAccessKey"],
            }
        role = iam.create_role(RoleName="function", AssumeRolePolicyDocument=policy("sts:AssumeRole"))["Role"]
        iam.put_role_policy(RoleName="function", PolicyName="p", PolicyDocument=policy("s3:GetObject"))
        made = sts.assume_role(RoleArn=role["Arn"], RoleSessionName="start")["Credentials"]
        keys["role"] = {
            "AWS_ACCESS_KEY_ID": made["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": made["SecretAccessKey"],
            "AWS_SESSION_TOKEN": made["SessionToken"],
        }
        # https://docs.getmoto.org/en/latest/docs/iam.html: from now on, no more requests without a check
        switch = urllib.request.Request(
            f"{server.endpoint}/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(switch).close()
        environ = {name: value for name, value in server.environ.items() if "KEY" not in name}
        yield Guarded(environ, f"s3://guarded/{key}#root={pack.root}", keys)


@pytest.mark.parametrize("who", ["reader", "role"])
def test_a_server_that_checks_takes_our_signature(guarded: Guarded, run_python: RunPython, who: str) -> None:
    """Long-lived keys, and a role's keys with their session token, as in a function."""
    assert load(run_python, guarded.ref, "print(alpha.X)", {**guarded.environ, **guarded.keys[who]}) == 1


@pytest.mark.parametrize(
    ("who", "changes", "words"),
    [
        ("stranger", {}, "s3:GetObject on arn:aws:s3:::guarded/a b+c/ü.tar.zst"),
        ("reader", {"AWS_SECRET_ACCESS_KEY": "wrong"}, "SignatureDoesNotMatch"),
        ("reader", {"AWS_ACCESS_KEY_ID": "AKIAWRONG"}, "InvalidAccessKeyId"),
        ("role", {"AWS_SESSION_TOKEN": "wrong"}, "AWS_SESSION_TOKEN"),
    ],
    ids=["permission", "secret", "key id", "token"],
)
def test_a_server_that_checks_refuses_others(
    guarded: Guarded, run_python: RunPython, tmp_path: Path, who: str, changes: dict[str, str], words: str
) -> None:
    """A refusal names what is missing, is not retried, and shows no secret."""
    environ = {**guarded.environ, **guarded.keys[who], **changes}
    error = refuse(run_python, guarded.ref, environ, tmp_path)
    assert (error["type"], error["retryable"]) == ("FetchError", False)
    assert error["status"] in (400, 403)
    assert words in error["message"]
    assert environ["AWS_SECRET_ACCESS_KEY"] not in error["message"] or environ["AWS_SECRET_ACCESS_KEY"] == "wrong"
