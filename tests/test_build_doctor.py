"""`lazydeps doctor` as a person runs it, against moto's S3, STS, IAM, Lambda and EC2; and its policy evaluator."""

from __future__ import annotations

import copy
import io
import json
import sys
import threading
import uuid
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.stub import Stubber
from support_command import lazydeps, lazydeps_error, lazydeps_json
from support_packs import ARCH, pack_tree, write_tree

from lazydeps.build import policies
from lazydeps.build.doctor import Check, DoctorOptions, Examination, _bucket_settings, _write_test
from lazydeps.build.doctor_function import _memory, _simulate, _storage

if TYPE_CHECKING:
    from collections.abc import Callable

    from local_s3 import LocalS3

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
OTHER = "arm64" if ARCH == "x86_64" else "x86_64"
TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
        ],
    }
)


class Account:
    """A bucket with a pushed pack, functions and roles beside it, and a folder for a project."""

    def __init__(self, s3: LocalS3, folder: Path) -> None:
        self.endpoint = s3.endpoint
        self.environ = s3.environ
        self.folder = folder
        self.name = f"doctor-{uuid.uuid4().hex[:12]}"
        s3.client().create_bucket(Bucket=self.name)
        tree = folder / "tree"
        write_tree(tree, {"heavy.py": "X = 1\n", "heavy-1.0.dist-info/METADATA": "Name: heavy\nVersion: 1.0\n"})
        written = pack_tree(
            folder / "heavy.tar.zst", tree, boot=["heavy.py"], distributions={"heavy": "1.0"}, arch=ARCH
        )
        pushed = lazydeps_json("push", written.path, f"s3://{self.name}/packs/", environ=self.environ)
        self.ref: str = pushed["ref"]
        self.arn = "arn:aws:s3:::" + self.ref.partition("#")[0].removeprefix("s3://")
        self.size = written.size
        self.entry = {
            "ref": self.ref,
            "size": written.size,
            "boot_size": written.boot_size,
            "unpacked_size": written.unpacked_size,
            "distributions": {"heavy": "1.0"},
            "published": "2026-11-21T18:00:00Z",
        }

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.environ["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environ["AWS_SECRET_ACCESS_KEY"],
        )

    def lock(self, **changes: Any) -> Path:
        """Write a lock that names the pack."""
        packs = {"heavy": {f"python{MINOR}-{ARCH}": {**self.entry, **changes}}}
        path = self.folder / "lazydeps.lock"
        path.write_text(json.dumps({"lazydeps_lock": 1, "packs": packs}))
        return path

    def role(self, *statements: dict[str, Any], managed: bool = False) -> str:
        """Make a role with one policy; return its ARN."""
        iam, name = self.client("iam"), f"role-{uuid.uuid4().hex[:8]}"
        arn: str = iam.create_role(RoleName=name, AssumeRolePolicyDocument=TRUST)["Role"]["Arn"]
        document = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
        if managed:
            policy = iam.create_policy(PolicyName=f"{name}-managed", PolicyDocument=document)["Policy"]["Arn"]
            iam.attach_role_policy(RoleName=name, PolicyArn=policy)
        elif statements:
            iam.put_role_policy(RoleName=name, PolicyName="read-packs", PolicyDocument=document)
        return arn

    def function(self, role: str, *, environ: dict[str, str] | None = None, **changes: Any) -> str:
        """Make a function; return its name."""
        name = f"function-{uuid.uuid4().hex[:8]}"
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            archive.writestr("app.py", "def handler(event, context): return 1\n")
        settings = {
            "Runtime": f"python{MINOR}",
            "Architectures": [ARCH],
            "Handler": "app.handler",
            "Timeout": 30,
            "MemorySize": 512,
            "EphemeralStorage": {"Size": 512},
            **changes,
        }
        self.client("lambda").create_function(
            FunctionName=name,
            Role=role,
            Code={"ZipFile": content.getvalue()},
            Environment={"Variables": {"LAZYDEPS_PACK": self.ref} if environ is None else environ},
            **settings,
        )
        return name

    def allow(self, **changes: Any) -> dict[str, Any]:
        """Return the statement that the pack needs."""
        return {"Effect": "Allow", "Action": "s3:GetObject", "Resource": self.arn, **changes}


@pytest.fixture(scope="module")
def shared(s3: LocalS3, tmp_path_factory: pytest.TempPathFactory) -> Account:
    """The account; a push for each test would take longer than the tests."""
    return Account(s3, tmp_path_factory.mktemp("doctor"))


@pytest.fixture
def account(shared: Account, tmp_path: Path) -> Account:
    """The account, with a project's folder of the test's own."""
    found = copy.copy(shared)
    found.folder = tmp_path
    return found


def doctor(account: Account, *words: str | Path, code: int = 0) -> dict[str, list[dict[str, str]]]:
    """Run `lazydeps doctor --json`; return the checks by name."""
    facts = lazydeps_json("doctor", account.folder, *words, code=code, environ=account.environ)
    assert facts["healthy"] is (code == 0)
    checks: dict[str, list[dict[str, str]]] = {}
    for check in facts["checks"]:
        assert set(check) == {"name", "state", "words", "todo"}
        assert check["words"].endswith((".", ")")), check
        checks.setdefault(check["name"], []).append(check)
    return checks


def states(checks: dict[str, list[dict[str, str]]]) -> dict[str, str]:
    """Return each check's only, or worst, state."""
    order = ["ok", "skipped", "warning", "failure"]
    return {name: max((one["state"] for one in found), key=order.index) for name, found in checks.items()}


# -- this machine and the bucket


def test_a_sound_project(account: Account) -> None:
    """With a bucket, credentials and a lock whose pack is there, nothing fails, and nothing is written."""
    account.client("s3").put_public_access_block(
        Bucket=account.name,
        PublicAccessBlockConfiguration=dict.fromkeys(
            ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
        ),
    )
    account.lock()
    before = keys(account)
    checks = doctor(account, "--to", f"s3://{account.name}/packs/")
    assert states(checks) == {
        "uv": "ok",
        f"python {MINOR}": "ok",
        "disk": states(checks)["disk"],
        "lock": "ok",
        "credentials": "ok",
        "region": "ok",
        "bucket": "ok",
        "public access": "ok",
        "versioning": "ok",
        "list": "ok",
        "write": "skipped",
        f"pack heavy python{MINOR}-{ARCH}": "ok",
    }
    assert "arn:aws:sts::" in checks["credentials"][0]["words"]
    assert keys(account) == before


def keys(account: Account) -> list[str]:
    """Return the bucket's keys."""
    listed = account.client("s3").list_objects_v2(Bucket=account.name)
    return [entry["Key"] for entry in listed.get("Contents", [])]


def test_the_write_test_leaves_nothing(account: Account) -> None:
    """--write-test puts an object, reads it and takes it away again."""
    before = keys(account)
    checks = doctor(account, "--to", f"s3://{account.name}/packs/", "--write-test")
    assert checks["write"][0]["state"] == "ok"
    assert "was put" in checks["write"][0]["words"]
    assert keys(account) == before


def test_without_credentials(account: Account) -> None:
    """Without credentials that check fails with a sentence, and what needs them is skipped: no traceback."""
    account.lock()
    environ = {"AWS_ENDPOINT_URL": account.endpoint, "AWS_EC2_METADATA_DISABLED": "true"}
    words = ["doctor", account.folder, "--to", f"s3://{account.name}/", "--function", "f", "--json"]
    done = lazydeps(*words, code=1, environ=environ)
    found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert found["credentials"]["state"] == "failure"
    assert "no usable AWS credentials" in found["credentials"]["words"]
    skipped = ("bucket", "function", f"pack heavy python{MINOR}-{ARCH}")
    assert {found[name]["state"] for name in skipped} == {"skipped"}
    assert "Traceback" not in done.stderr


def test_nobody_answers(tmp_path: Path) -> None:
    """An endpoint that refuses connections is a failure with words, within a bounded time."""
    environ = {
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    }
    facts = lazydeps_json("doctor", tmp_path, "--to", "s3://bucket/x/", environ=environ, code=1, timeout=60)
    found = {check["name"]: check for check in facts["checks"]}
    assert "Could not connect to the endpoint URL" in found["credentials"]["words"]
    assert "AWS_ENDPOINT_URL" in found["credentials"]["todo"]


def test_a_profile_that_is_not_there(account: Account) -> None:
    """An unknown profile is a failure that names it."""
    checks = doctor(account, "--to", "s3://bucket/x/", "--profile", "nobody", code=1)
    assert "nobody" in checks["credentials"][0]["words"]


def test_a_bucket_that_is_not_there(account: Account) -> None:
    """A missing bucket is named, with the command that makes it."""
    checks = doctor(account, "--to", "s3://nowhere-at-all/packs/", code=1)
    assert checks["bucket"][0]["words"] == "there is no bucket nowhere-at-all."
    assert "aws s3 mb s3://nowhere-at-all" in checks["bucket"][0]["todo"]


def test_an_open_bucket_is_warned_of(account: Account) -> None:
    """A bucket without a public access block, or with half of one, gets a warning, which fails nothing."""
    s3 = account.client("s3")
    s3.delete_public_access_block(Bucket=account.name)
    assert "put-public-access-block" in open_to_the_public(account)
    s3.put_public_access_block(Bucket=account.name, PublicAccessBlockConfiguration={"BlockPublicAcls": True})
    assert "put-public-access-block" in open_to_the_public(account)


def open_to_the_public(account: Account) -> str:
    """Return what to do about a bucket that is open, of the only answer there is, a warning."""
    (found,) = doctor(account, "--to", f"s3://{account.name}/")["public access"]
    assert found["state"] == "warning"
    return found["todo"]


def test_a_lock_that_promises_another_size(account: Account) -> None:
    """A pack with another size than the lock's is a failure."""
    account.lock(size=account.size + 1)
    checks = doctor(account, code=1)
    words = checks[f"pack heavy python{MINOR}-{ARCH}"][0]["words"]
    assert f"has {account.size:,} bytes, and the lock says {account.size + 1:,}" in words


def test_a_pack_that_is_gone(account: Account) -> None:
    """A lock whose object is missing is a failure that names the object."""
    account.lock(ref=account.ref.replace("/packs/", "/gone/"))
    found = doctor(account, code=1)[f"pack heavy python{MINOR}-{ARCH}"][0]
    assert found["state"] == "failure"
    assert "/gone/" in found["words"]


def test_a_replaced_pack(account: Account) -> None:
    """An object whose root is not the pinned one is a failure: the pin decides, not the name."""
    account.lock(ref=account.ref[:-64] + "0" * 64)
    found = doctor(account, code=1)[f"pack heavy python{MINOR}-{ARCH}"][0]
    assert found["state"] == "failure"
    assert "0000" in found["words"]


def test_a_damaged_lock(account: Account) -> None:
    """A lock that is none is a failure, and the rest is checked all the same."""
    (account.folder / "lazydeps.lock").write_text("{}")
    checks = doctor(account, "--to", f"s3://{account.name}/", code=1)
    assert states(checks)["lock"] == "failure"
    assert states(checks)["bucket"] == "ok"


def test_the_project_says_what_to_look_at(account: Account) -> None:
    """Destination and Python versions come from [tool.lazydeps]; a version without an interpreter is a failure."""
    (account.folder / "pyproject.toml").write_text(
        f'[tool.lazydeps]\ndestination = "s3://{account.name}/packs/"\npython = ["3.99"]\n'
        '[tool.lazydeps.packs.one]\nrequirements = ["six"]\n'
    )
    checks = doctor(account, code=1)
    assert "uv python install 3.99" in checks["python 3.99"][0]["todo"]
    assert states(checks)["bucket"] == "ok"


def test_for_people(account: Account) -> None:
    """Each answer is a line with its state, and what to do stands under what is not well."""
    done = lazydeps("doctor", account.folder, "--to", "s3://nowhere-at-all/", code=1, environ=account.environ)
    assert "ok       credentials: AWS knows them as arn:" in done.stdout
    assert "FAILURE  bucket: there is no bucket nowhere-at-all.\n         → aws s3 mb" in done.stdout
    assert "1 failure" in done.stdout.splitlines()[-1]


# -- a deployed function


def test_a_sound_function(account: Account) -> None:
    """A function that fits its pack, with a role that may read it, has nothing to fail or warn of."""
    name = account.function(account.role(account.allow()))
    checks = doctor(account, "--function", name)
    got = states(checks)
    assert {got[key] for key in ("function", "runtime", "variables", "target", "storage", "memory", "timeout")} == {
        "ok"
    }
    assert got["handler"] == got["layer"] == got["network"] == got["role"] == "ok"
    assert f"s3:GetObject on {account.arn} is allowed" in checks["role"][0]["words"]
    assert "the bucket's own policy" in checks["role"][0]["words"].lower()


def test_a_function_that_is_not_there(account: Account) -> None:
    """A missing function is named with the region that was asked."""
    checks = doctor(account, "--function", "nobody", code=1)
    assert checks["function"][0]["words"] == "there is no function nobody in us-east-1."


def test_a_function_of_another_target(account: Account) -> None:
    """A pack for another architecture, or another Python, is a failure that says how to pack for the function."""
    name = account.function(account.role(account.allow()), Architectures=[OTHER], Runtime="python3.12")
    found = doctor(account, "--function", name, code=1)["target"][0]
    assert f"runs Python 3.12 on {OTHER}" in found["words"]
    assert f"--python 3.12 --arch {OTHER}" in found["todo"]


def test_a_short_timeout(account: Account) -> None:
    """A timeout under the 10 s of an init is a warning that says why."""
    name = account.function(account.role(account.allow()), Timeout=3)
    found = doctor(account, "--function", name)["timeout"][0]
    assert found["state"] == "warning"
    assert "run again in the first invocation" in found["words"]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"LAZYDEPS_PACK": "s3://bucket/key.tar.zst"}, "has no pin"),
        ({"LAZYDEPS_PACK": "ftp://bucket/key"}, "is not a reference"),
        ({"LAZYDEPS_PACK": "science"}, "names 'science', and the lock here has no such pack"),
        ({"LAZYDEPS_CONNECTIONS": "many"}, "LAZYDEPS_CONNECTIONS is 'many'"),
        ({"LAZYDEPS_DIR": "/var/lazydeps"}, "below /tmp and /mnt only"),
    ],
)
def test_variables_that_cannot_work(account: Account, environ: dict[str, str], expected: str) -> None:
    """What load() would refuse in the function's environment is found before it runs."""
    checks = doctor(account, "--function", account.function(account.role(), environ=environ), code=1)
    assert any(expected in check["words"] for check in checks["variables"] if check["state"] == "failure")


def test_a_misspelt_variable(account: Account) -> None:
    """An unknown LAZYDEPS_ variable gets a warning with the nearest one; a function without a pack gets one too."""
    checks = doctor(account, "--function", account.function(account.role(), environ={"LAZYDEPS_PACKS": account.ref}))
    assert checks["variables"][0]["todo"] == "Did you mean LAZYDEPS_PACK?"
    assert "load() would do nothing" in checks["variables"][1]["words"]


def test_the_lock_names_the_functions_packs(account: Account) -> None:
    """Without LAZYDEPS_PACK the function is checked against the lock's packs for its target; with a name, that one."""
    account.lock()
    for environ in ({}, {"LAZYDEPS_PACK": "heavy"}):
        checks = doctor(account, "--function", account.function(account.role(account.allow()), environ=environ))
        assert states(checks)["target"] == states(checks)["role"] == "ok"


def test_a_vpc_without_a_way_to_s3(account: Account) -> None:
    """A function in a VPC without an S3 endpoint gets a warning that names the VPC."""
    ec2 = account.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(GroupName=f"g-{vpc}", Description="g", VpcId=vpc)["GroupId"]
    network = {"SubnetIds": [subnet], "SecurityGroupIds": [group]}
    name = account.function(account.role(account.allow()), VpcConfig=network)
    told = account.client("lambda").get_function_configuration(FunctionName=name)["VpcConfig"]["VpcId"]
    found = doctor(account, "--function", name)["network"][0]
    assert (found["state"], f"is in {told}, which has no S3 endpoint" in found["words"]) == ("warning", True)


def test_a_role_that_may_not(account: Account) -> None:
    """A role whose policies allow another bucket only is a failure that says what to allow."""
    role = account.role(account.allow(Resource="arn:aws:s3:::another/*"))
    found = doctor(account, "--function", account.function(role), code=1)["role"][0]
    assert f"s3:GetObject on {account.arn} is not granted" in found["words"]
    assert found["todo"] == f"Allow s3:GetObject on {account.arn}."


def test_a_role_with_a_managed_policy(account: Account) -> None:
    """Attached policies count as inline ones do; what stands under a condition cannot be told, which is a warning."""
    allowed = account.function(account.role(account.allow(Action="s3:Get*"), managed=True))
    assert doctor(account, "--function", allowed)["role"][0]["state"] == "ok"
    condition = {"StringEquals": {"aws:SourceVpc": "vpc-1"}}
    unclear = account.function(account.role(account.allow(Condition=condition), managed=True))
    found = doctor(account, "--function", unclear)["role"][0]
    assert (found["state"], "a condition" in found["words"]) == ("warning", True)


def found_by(check: Callable[..., None], facts: dict[str, Any], *packs: dict[str, Any]) -> dict[str, Check]:
    """Return what one check says of a configuration, as Lambda spells it, and of packs."""
    found = Examination(DoctorOptions())
    check(found, facts, {f"s3://bucket/{number}": pack for number, pack in enumerate(packs)})
    return {one.name: one for one in found.checks}


def a_pack(*, boot: int, data: int = 0, cold: int = 0) -> dict[str, Any]:
    """Return the figures of a pack, in MB unpacked."""
    sets = {"boot": boot, "data": data, "cold": cold}
    unpacked = {name: {"unpacked": size << 20} for name, size in sets.items()}
    return {"sets": unpacked, "unpacked_size": sum(sets.values()) << 20, "boot_unpacked": boot << 20}


def test_the_storage_of_a_function() -> None:
    """What a start lands has to fit into /tmp, or it fails; what else is packed may come later, with a warning."""
    pack = a_pack(boot=300, data=100, cold=500)
    for size, state in ((300, "failure"), (512, "warning"), (1024, "ok")):
        assert found_by(_storage, {"EphemeralStorage": {"Size": size}}, pack)["storage"].state == state
    failed = found_by(_storage, {"EphemeralStorage": {"Size": 512}}, pack, pack)["storage"]
    assert (failed.state, failed.todo) == ("failure", "Set ephemeral_storage to 1836.")
    assert found_by(_storage, {}, a_pack(boot=1))["storage"].words.startswith("the function has 512 MB of /tmp")


def test_snapstart_and_storage() -> None:
    """SnapStart with more than 512 MB of /tmp is a failure."""
    on = {"SnapStart": {"ApplyOn": "PublishedVersions"}}
    assert found_by(_storage, {**on, "EphemeralStorage": {"Size": 1024}})["snapstart"].state == "failure"
    assert found_by(_storage, {**on, "EphemeralStorage": {"Size": 512}})["snapstart"].state == "ok"
    assert "snapstart" not in found_by(_storage, {"EphemeralStorage": {"Size": 1024}})


def test_the_memory_of_a_function() -> None:
    """Memory below what a boot set of that size comes to is a warning: the figure is a rough one."""
    assert found_by(_memory, {"MemorySize": 128}, a_pack(boot=200))["memory"].state == "warning"
    assert found_by(_memory, {"MemorySize": 256}, a_pack(boot=200))["memory"].state == "ok"


# -- policies

ARN = "arn:aws:s3:::bucket/packs/0f.tar.zst"


@pytest.mark.parametrize(
    ("statements", "answer"),
    [
        ([], policies.NOT_GRANTED),
        ([{"Effect": "Allow", "Action": "s3:GetObject", "Resource": ARN}], policies.ALLOWED),
        ([{"Effect": "Allow", "Action": "S3:getobject", "Resource": ARN}], policies.ALLOWED),
        ([{"Effect": "Allow", "Action": ["s3:Put*", "s3:G?tObject"], "Resource": ["*"]}], policies.ALLOWED),
        ([{"Effect": "Allow", "Action": "*", "Resource": "arn:aws:s3:::bucket/*"}], policies.ALLOWED),
        ([{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::bucket"}], policies.NOT_GRANTED),
        ([{"Effect": "Allow", "Action": "s3:GetObjectTagging", "Resource": "*"}], policies.NOT_GRANTED),
        ([{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::BUCKET/*"}], policies.NOT_GRANTED),
        ([{"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"}], policies.UNKNOWN),
        ([{"Effect": "Allow", "Action": "s3:*", "NotResource": "arn:aws:s3:::x/*"}], policies.UNKNOWN),
        ([{"Effect": "Allow", "Action": "s3:*", "Resource": "arn:aws:s3:::${aws:x}/*"}], policies.UNKNOWN),
        ([{"Effect": "Allow", "Action": "s3:*", "Resource": "*", "Condition": {"Bool": {"a": "b"}}}], policies.UNKNOWN),
        (
            [
                {"Effect": "Allow", "Action": "s3:*", "Resource": "*"},
                {"Effect": "Deny", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::bucket/packs/*"},
            ],
            policies.DENIED,
        ),
        (
            [
                {"Effect": "Allow", "Action": "s3:*", "Resource": "*"},
                {"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": {"Bool": {"a": "b"}}},
            ],
            policies.UNKNOWN,
        ),
        (
            [
                {"Effect": "Allow", "Action": "s3:*", "Resource": "*"},
                {"Effect": "Deny", "Action": "s3:PutObject", "Resource": "*"},
                {"Effect": "Deny", "NotAction": "s3:*", "Resource": "arn:aws:s3:::another/*"},
            ],
            policies.ALLOWED,
        ),
        # A wildcard in the middle stays in its part of the ARN; what it may mean beyond, AWS does not promise.
        ([{"Effect": "Allow", "Action": "s3:*", "Resource": "arn:*:bucket/*"}], policies.UNKNOWN),
        ([{"Effect": "Allow", "Action": "s3:*", "Resource": "arn:aws:*:::bucket/packs/*"}], policies.ALLOWED),
        ([{"Effect": "Allow", "Action": "s3:*", "Resource": "arn:aws:s3:*"}], policies.ALLOWED),
        ([{"Effect": "Allow", "Action": "s3:*", "Resource": "arn:aws:s3:::bucket*"}], policies.ALLOWED),
        ([{"Effect": "Allow", "Action": "s3:*", "Resource": "arn:aws:s3:::bucket/packs/?f.tar.zst"}], policies.ALLOWED),
        ([{"Effect": "Allow", "Action": "s3:*", "Resource": "arn:aws:s3:us-east-1::bucket/*"}], policies.NOT_GRANTED),
        (
            [
                {"Effect": "Allow", "Action": "s3:*", "Resource": "*"},
                {"Effect": "Deny", "Action": "s3:*", "Resource": "arn:*:bucket/*"},
            ],
            policies.UNKNOWN,
        ),
        # No document that IAM would take: nothing is concluded from it.
        ([{"Effect": "Allow", "Resource": "*"}], policies.UNKNOWN),
        ([{"Effect": "Allow", "Action": "s3:*"}], policies.UNKNOWN),
        ([{"Effect": "Allow", "action": "iam:*", "Resource": "*"}], policies.UNKNOWN),
        (["Allow"], policies.UNKNOWN),
    ],
)
def test_what_policies_say(statements: list[Any], answer: str) -> None:
    """IAM's logic: a Deny wins, then an Allow, else nothing is granted; what is not understood is said to be so."""
    assert policies.evaluate({"one": {"Statement": statements}}, "s3:GetObject", ARN).answer == answer


def test_a_statement_that_is_no_list() -> None:
    """IAM accepts a single statement without a list around it, over several policies."""
    single = {"Statement": {"Effect": "Allow", "Action": "s3:GetObject", "Resource": ARN}}
    verdict = policies.evaluate({"first": {"Statement": []}, "second": single}, "s3:GetObject", ARN)
    assert verdict == policies.Verdict(policies.ALLOWED, "second allows it")


def test_a_document_that_is_none() -> None:
    """What IAM's answer was not decoded from is not taken for a policy without statements."""
    allow = {"Statement": {"Effect": "Allow", "Action": "s3:GetObject", "Resource": ARN}}
    verdict = policies.evaluate({"first": allow, "second": "%7B"}, "s3:GetObject", ARN)
    assert verdict == policies.Verdict(policies.UNKNOWN, "second cannot be read")


@pytest.mark.parametrize(
    ("result", "answer"),
    [
        ({"EvalDecision": "allowed"}, policies.ALLOWED),
        ({"EvalDecision": "explicitDeny"}, policies.DENIED),
        ({"EvalDecision": "implicitDeny"}, policies.NOT_GRANTED),
        ({"EvalDecision": "allowed", "MissingContextValues": ["aws:SourceVpce"]}, policies.UNKNOWN),
        (
            {"EvalDecision": "allowed", "OrganizationsDecisionDetail": {"AllowedByOrganizations": False}},
            policies.NOT_GRANTED,
        ),
        (
            {"EvalDecision": "allowed", "PermissionsBoundaryDecisionDetail": {"AllowedByPermissionsBoundary": False}},
            policies.NOT_GRANTED,
        ),
    ],
)
def test_what_iam_simulates(result: dict[str, Any], answer: str) -> None:
    """IAM's simulation knows no context of a request, and tells what an organisation or a boundary says beside it."""
    client = boto3.client("iam", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    with Stubber(client) as stub:
        full = {"EvalActionName": "s3:GetObject", **result}
        stub.add_response("simulate_principal_policy", {"EvaluationResults": [full]})
        verdicts = _simulate(client, "arn:aws:iam::123456789012:role/r-with-20-letters", [("s3:GetObject", ARN)])
    assert verdicts is not None
    assert verdicts["s3:GetObject", ARN].answer == answer


@pytest.mark.parametrize("may", [True, False])
def test_a_pack_that_kms_encrypts(account: Account, may: bool) -> None:
    """To read it the role needs the key too; s3:GetObject alone is not called enough."""
    key = "arn:aws:kms:us-east-1:123456789012:key/11111111-2222-3333-4444-555555555555"
    name = account.ref.partition("#")[0].removeprefix(f"s3://{account.name}/")
    client = account.client("s3")
    place = {"Bucket": account.name, "Key": name}
    content = client.get_object(**place)["Body"].read()
    client.put_object(**place, Body=content, ServerSideEncryption="aws:kms", SSEKMSKeyId=key)
    try:
        more = [{"Effect": "Allow", "Action": "kms:Decrypt", "Resource": key}] if may else []
        function = account.function(account.role(account.allow(), *more))
        said = doctor(account, "--function", function)["role"]
    finally:
        client.put_object(**place, Body=content)
    assert [one["state"] for one in said] == ["ok", "ok" if may else "warning"]
    assert f"kms:Decrypt on {key}" in said[1]["words"]


class Liar(BaseHTTPRequestHandler):
    """Answers every call with what no AWS service says."""

    body = b""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.body)

    do_POST = do_PUT = do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.mark.parametrize("body", [b"", b"{}", b"<html><br></html>", b'<?xml version="1.0"?><Foo/>'])
def test_nothing_that_answers_ends_in_a_traceback(tmp_path: Path, body: bytes) -> None:
    """A login page or an empty answer in AWS's place is a failed check, and for a push an error of one paragraph."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("It", (Liar,), {"body": body}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_MAX_ATTEMPTS": "1", "AWS_REGION": "us-east-1"}
    environ = {**keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}
    write_tree(tmp_path / "tree", {"a.py": ""})
    pack = pack_tree(tmp_path / "p.tar.zst", tmp_path / "tree", boot=["a.py"])
    try:
        facts = lazydeps_json("doctor", tmp_path, "--to", "s3://bucket/p/", "--function", "f", code=1, environ=environ)
        error = lazydeps_error("push", pack.path, "s3://bucket/p/", environ=environ)
    finally:
        server.shutdown()
        server.server_close()
    assert [check["name"] for check in facts["checks"] if check["state"] == "failure"] == ["credentials"]
    assert "s3://bucket/p/" in error["message"]
    # What comes after the credentials is guarded one by one.
    found = Examination(DoctorOptions())
    found.guard("role", lambda _: {}["Role"])
    assert (found.checks[0].state, "KeyError: 'Role'" in found.checks[0].words) == ("failure", True)


def test_answers_that_are_not_full(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty answer is not taken for a blocked bucket, nor for the object that was put."""
    for name, value in {**account.environ, "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)
    client = account.client("s3")

    def empty(parsed: dict[str, Any], **_: Any) -> None:
        if "Body" in parsed:
            parsed["Body"] = io.BytesIO()
        parsed["PublicAccessBlockConfiguration"] = {}

    client.meta.events.register("after-call.s3.GetPublicAccessBlock", empty)
    client.meta.events.register("after-call.s3.GetObject", empty)
    closed = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
    client.put_public_access_block(Bucket=account.name, PublicAccessBlockConfiguration=closed)
    found = Examination(DoctorOptions())
    _bucket_settings(found, client, account.name)
    _write_test(found, client, account.name, "p/")
    client.delete_public_access_block(Bucket=account.name)
    states = {check.name: check.state for check in found.checks}
    assert (states["public access"], states["write"]) == ("warning", "failure")


def test_settings_that_the_sdk_does_not_take(tmp_path: Path) -> None:
    """An endpoint without https:// is named, by push and by doctor."""
    write_tree(tmp_path / "tree", {"a.py": ""})
    pack = pack_tree(tmp_path / "p.tar.zst", tmp_path / "tree", boot=["a.py"])
    environ = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": "localhost:1"}
    error = lazydeps_error("push", pack.path, "s3://bucket/p/", environ=environ)
    assert "Invalid endpoint: localhost:1. Correct AWS_ENDPOINT_URL" in error["message"]
    assert "Invalid endpoint" in lazydeps("doctor", tmp_path, "--to", "s3://b/", code=1, environ=environ).stdout
