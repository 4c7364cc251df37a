"""From a built pack to a function that starts from it, and back: push --name, list, diff, rollback, prune, lock."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError
from support_command import COMMAND, command_environ, lazydeps, lazydeps_error, lazydeps_json
from support_packs import ARCH, pack_tree, write_tree

from lazydeps.build import lockfile, published, s3
from lazydeps.build.push import PushOptions, pin_all, plan_push, preflight, push, send
from lazydeps.errors import ConfigError, FetchError

if TYPE_CHECKING:
    from conftest import Bucket, RunPython

    from lazydeps.build.write import Written

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
HERE = f"python{PYTHON}-{ARCH}"
OTHER_ARCH = "arm64" if ARCH == "x86_64" else "x86_64"
ELSEWHERE = f"python{PYTHON}-{OTHER_ARCH}"
Packs = dict[str, "Written"]


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Packs:
    """Three builds of one pack for this machine, `1` to `3`, one for the `other` architecture, and a `damaged` one."""
    found = {}
    for number in (1, 2, 3):
        folder = tmp_path_factory.mktemp(f"build{number}")
        files: dict[str, str | bytes] = {
            "alpha.py": f"A = {number}\n",
            "same.bin": random.Random(0).randbytes(40_000),
            "data.bin": random.Random(number).randbytes(5_000),
            f"only{number}.txt": "x" * number,
        }
        write_tree(folder / "tree", files)
        versions = {"alpha": f"{number}.0", "same": "1.0", f"only{number}": "1"}
        found[str(number)] = pack_tree(folder / "p.tar.zst", folder / "tree", boot=["alpha.py"], distributions=versions)
    folder = tmp_path_factory.mktemp("other")
    write_tree(folder / "tree", {"alpha.py": "A = 9\n"})
    found["other"] = pack_tree(folder / "p.tar.zst", folder / "tree", boot=["alpha.py"], arch=OTHER_ARCH)
    return found


def digits(pack: Written) -> str:
    """Return the root's hex digits."""
    return pack.root.removeprefix("sha256:")


def key_of(pack: Written) -> str:
    """Return the key that a pack is pushed under."""
    return f"packs/{digits(pack)}.tar.zst"


def keys_in(bucket: Bucket) -> set[str]:
    """Return the keys of a bucket."""
    return {entry["Key"] for entry in bucket.client.list_objects_v2(Bucket=bucket.name).get("Contents", ())}


def uploads_in(bucket: Bucket) -> list[str]:
    """Return the keys of unfinished uploads."""
    return [one["Key"] for one in bucket.client.list_multipart_uploads(Bucket=bucket.name).get("Uploads", ())]


def pinned(lock: Path, target: str = HERE, name: str = "science") -> list[str]:
    """Return the roots that a lock pins and pinned, the newest first."""
    entry = json.loads(lock.read_text())["packs"][name][target]
    refs = [entry["ref"], *(one["ref"] for one in entry["previous"])]
    return [ref.rpartition(":")[2] for ref in refs]


def publish(bucket: Bucket, lock: Path, *packs: Written) -> None:
    """Do what `lazydeps push PACKS --name science` does, without a process of its own."""
    options = PushOptions(name="science")
    plans = [plan_push(pack.path, bucket.url("packs/"), options=options) for pack in packs]
    pin_all(lock, "science", plans, [send(plan, client=bucket.client, options=options) for plan in plans])


# Pushing


def test_push_to_start(bucket: Bucket, packs: Packs, run_python: RunPython, tmp_path: Path) -> None:
    """Two targets of one name in one run; the lock that comes of it is all that a function needs to start."""
    words = ("push", packs["1"].path, packs["other"].path, bucket.url("packs/"), "--name", "science")
    done = lazydeps(*words, environ=bucket.environ, cwd=tmp_path).stdout
    assert f"lazydeps.lock: science for {HERE} is {digits(packs['1'])[:12]} (new)" in done
    assert f"lazydeps.lock: science for {ELSEWHERE} is {digits(packs['other'])[:12]} (new)" in done
    assert f"arn:aws:s3:::{bucket.name}/{key_of(packs['other'])}" in done
    entry = json.loads((tmp_path / "lazydeps.lock").read_text())["packs"]["science"][HERE]
    assert entry == {
        "ref": f"{bucket.url(key_of(packs['1']))}#root={packs['1'].root}",
        "size": packs["1"].size,
        "boot_size": packs["1"].boot_size,
        "unpacked_size": packs["1"].unpacked_size,
        "distributions": {"alpha": "1.0", "same": "1.0", "only1": "1"},
        "published": bucket.client.head_object(Bucket=bucket.name, Key=key_of(packs["1"]))["LastModified"].strftime(
            "%Y-%m-%dT%H:%M:%SZ"
        ),
        "previous": [],
    }
    (tmp_path / "handler.py").write_text("import lazydeps\nwith lazydeps.load():\n    import alpha\nprint(alpha.A)\n")
    assert run_python(None, str(tmp_path / "handler.py"), environ=bucket.environ).stdout == "1\n"


def test_pushing_again_changes_nothing(bucket: Bucket, packs: Packs, tmp_path: Path) -> None:
    """The same packs again: the same bytes in the lock. Without --name no lock is written."""
    words = ("push", packs["1"].path, packs["other"].path, bucket.url("packs/"))
    lazydeps(*words, environ=bucket.environ, cwd=tmp_path)
    assert not (tmp_path / "lazydeps.lock").exists()
    lock = tmp_path / "locks.json"
    first = lazydeps_json(*words, "--name", "science", "--lock", lock, environ=bucket.environ)
    content = lock.read_bytes()
    assert (first["replaced"], first["lock"], len(first["packs"])) == ({HERE: None, ELSEWHERE: None}, str(lock), 2)
    again = lazydeps_json(*words, "--name", "science", "--lock", lock, environ=bucket.environ)
    assert again["replaced"] == {pack["target"]: pack["ref"] for pack in first["packs"]}
    assert lock.read_bytes() == content
    assert not any(pack["sent"] for pack in again["packs"])


def test_what_cannot_be_named(bucket: Bucket, packs: Packs, tmp_path: Path) -> None:
    """Two packs of one target under one name, a bad name, a damaged lock: found before anything is sent."""
    words = ("push", packs["1"].path, packs["2"].path, bucket.url("packs/"), "--name")
    error = lazydeps_error(*words, "science", environ=bucket.environ, cwd=tmp_path)
    assert f"are both for {HERE}, and 'science' can mean one pack for each target" in error["message"]
    error = lazydeps_error(*words, "a b", environ=bucket.environ, cwd=tmp_path)
    assert "'a b' is no name for a pack" in error["message"]
    (tmp_path / "lazydeps.lock").write_text("{}")
    error = lazydeps_error(
        "push", packs["1"].path, bucket.url("packs/"), "--name", "a", environ=bucket.environ, cwd=tmp_path
    )
    assert "is no lock file" in error["message"]
    assert keys_in(bucket) == set()


def test_a_second_pack_that_fails_pins_neither(bucket: Bucket, packs: Packs, tmp_path: Path) -> None:
    """The targets of a name move together or not at all."""
    content = packs["other"].path.read_bytes()
    (tmp_path / "bad.tar.zst").write_bytes(content[:-10] + bytes([content[-10] ^ 1]) + content[-9:])
    words = ("push", packs["1"].path, tmp_path / "bad.tar.zst", bucket.url("packs/"), "--name", "science")
    assert lazydeps_error(*words, environ=bucket.environ, cwd=tmp_path)["type"] == "IntegrityError"
    assert not (tmp_path / "lazydeps.lock").exists()


def test_the_metadata(bucket: Bucket, packs: Packs, tmp_path: Path) -> None:
    """The object says what it is, of which commit and of when; a changed file makes the commit a dirty one."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    (tmp_path / "file").write_text("1")
    for words in (["init", "-q"], ["add", "file"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
    environ = {**bucket.environ, "SOURCE_DATE_EPOCH": "1000000000", "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    words = ("push", packs["1"].path, bucket.url("packs/"), "--name", "science")
    lazydeps(*words, environ=environ, cwd=tmp_path)
    metadata = bucket.client.head_object(Bucket=bucket.name, Key=key_of(packs["1"]))["Metadata"]
    assert metadata == {
        "lazydeps-version": metadata["lazydeps-version"],
        "lazydeps-python": PYTHON,
        "lazydeps-arch": ARCH,
        "lazydeps-name": "science",
        "lazydeps-root": digits(packs["1"]),
        "lazydeps-distributions": "alpha==1.0 only1==1 same==1.0",
        "lazydeps-git-commit": commit,
        "lazydeps-built": "2001-09-09T01:46:40Z",
    }
    (tmp_path / "file").write_text("2")
    dry = lazydeps_json(*words, "--dry-run", environ=environ, cwd=tmp_path)["packs"][0]["metadata"]
    assert dry["lazydeps-git-commit"] == f"{commit}-dirty"
    (tmp_path / "plain").mkdir()
    environ["GIT_CEILING_DIRECTORIES"] = str(tmp_path)
    del environ["SOURCE_DATE_EPOCH"]
    dry = lazydeps_json(*words, "--dry-run", environ=environ, cwd=tmp_path / "plain")["packs"][0]["metadata"]
    assert "lazydeps-git-commit" not in dry
    assert dry["lazydeps-built"] == datetime.fromtimestamp(packs["1"].path.stat().st_mtime, UTC).strftime(
        "%Y-%m-%dT%H:%M:%SZ"
    )


def test_a_long_list_of_distributions_is_cut(tmp_path: Path) -> None:
    """All metadata stays under the 2 KB that S3 takes; the list ends with dots at a whole distribution."""
    write_tree(tmp_path / "tree", {"alpha.py": ""})
    versions = {f"distribution-number-{number}": f"1.{number}" for number in range(200)}
    pack = pack_tree(tmp_path / "p.tar.zst", tmp_path / "tree", boot=["alpha.py"], distributions=versions)
    metadata = plan_push(pack.path, "s3://b/p/", options=PushOptions(name="n" * 100)).metadata
    assert 1800 < sum(len(key) + len(value) for key, value in metadata.items()) < 2048
    *words, last = metadata["lazydeps-distributions"].split(" ")
    assert last == "..."
    assert set(words) < {f"{name}=={version}" for name, version in versions.items()}


def test_tags_encryption_and_class(bucket: Bucket, packs: Packs) -> None:
    """What is asked arrives with the object; an ACL is never sent."""
    words = ("push", packs["1"].path, bucket.url("packs/"), "--tag", "team=data science", "--tag", "cost=a/b=c")
    more = ("--sse", "aws:kms", "--sse-kms-key-id", "my-key", "--bucket-key", "--storage-class", "STANDARD_IA")
    lazydeps(*words, *more, environ=bucket.environ)
    place = {"Bucket": bucket.name, "Key": key_of(packs["1"])}
    head = bucket.client.head_object(**place)
    assert (head["ServerSideEncryption"], head["SSEKMSKeyId"], head["StorageClass"]) == (
        "aws:kms", "my-key", "STANDARD_IA",
    )  # fmt: skip
    tags = bucket.client.get_object_tagging(**place)["TagSet"]
    assert {tag["Key"]: tag["Value"] for tag in tags} == {"team": "data science", "cost": "a/b=c"}
    said = lazydeps(*words, *more, environ=bucket.environ).stderr
    assert "was there already and keeps the tags and the encryption that it has" in said
    asked: list[dict[str, Any]] = []
    client = bucket.server.client()
    client.meta.events.register("provide-client-params.s3", lambda params, **_: asked.append(params))
    push(packs["2"].path, bucket.url("packs/"), client=client, options=PushOptions(sse="aws:kms", bucket_key=True))
    assert any(params.get("BucketKeyEnabled") for params in asked)
    assert not any("ACL" in params or any(key.startswith("Grant") for key in params) for params in asked)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tags": {str(number): "" for number in range(11)}}, "S3 takes 10 tags an object, and there are 11"),
        ({"tags": {"": "a"}}, "the tag =a cannot be: S3 takes keys of 1 to 128 characters"),
        ({"tags": {"k" * 129: "a"}}, "cannot be: S3 takes keys of 1 to 128"),
        ({"tags": {"k": "a" * 257}}, "values of up to 256"),
        ({"tags": {"AWS:k": "a"}}, "do not begin with aws:"),
        ({"tags": {"k": "a;b"}}, "';' is none of them"),
        ({"kms_key": "k"}, "--sse-kms-key-id goes with --sse aws:kms"),
        ({"kms_key": "k", "sse": "AES256"}, "--sse-kms-key-id goes with --sse aws:kms"),
        ({"bucket_key": True, "sse": "aws:kms:dsse"}, "--bucket-key goes with --sse aws:kms alone"),
    ],
    ids=range(9),
)
def test_options_that_s3_would_refuse(packs: Packs, options: dict[str, Any], words: str) -> None:
    """They are refused before S3 is asked, in words that name the option."""
    with pytest.raises(ConfigError) as error:
        plan_push(packs["1"].path, "s3://b/p/", options=PushOptions(**options))
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["p.tar.zst"], "no destination: give it last, lazydeps push PACK s3://BUCKET/PREFIX/."),
        (["s3://b/p/"], "no pack to push"),
        (["p.tar.zst", "s3://b/p/", "--tag", "a"], "'a' is no KEY=VALUE"),
        (["p.tar.zst", "s3://b/p/", "--tag", "a=1", "--tag", "a=2"], "'a=2' is given twice"),
        (["p.tar.zst", "s3://b/p/", "--storage-class", "GLACIER"], "'GLACIER' is not one of"),
    ],
    ids=range(5),
)
def test_usage(packs: Packs, words: list[str], said: str) -> None:
    """What cannot be meant is a usage error, exit code 2."""
    assert said in lazydeps("push", *words, code=2, cwd=packs["1"].path.parent).stderr


def test_a_dry_run(bucket: Bucket, packs: Packs, tmp_path: Path) -> None:
    """It says what would go where, checks that it may, and leaves nothing: no object, no upload, no lock."""
    words = ("push", packs["1"].path, packs["other"].path, bucket.url("packs/"), "--name", "science", "--dry-run")
    said = lazydeps(*words, environ=bucket.environ, cwd=tmp_path).stdout
    assert f"would be sent ({packs['1'].size / 1e6:.1f} MB): {bucket.url(key_of(packs['1']))}" in said
    assert f"lazydeps.lock: science would be pinned for {HERE}, {ELSEWHERE}" in said
    assert "credentials, bucket (us-east-1) and the right to write were checked" in said
    assert (keys_in(bucket), uploads_in(bucket), os.listdir(tmp_path)) == (set(), [], [])
    bucket.put(key_of(packs["1"]), packs["1"].path)
    facts = lazydeps_json(*words, environ=bucket.environ, cwd=tmp_path)
    assert [pack["there"] for pack in facts["packs"]] == [True, False]
    words = ("push", packs["1"].path, "s3://no-such-bucket-here/p/", "--dry-run")
    assert lazydeps_error(*words, environ=bucket.environ)["status"] == 404


# What S3 refuses


def test_rights_are_checked_before_the_work(bucket: Bucket, packs: Packs, tmp_path: Path) -> None:
    """A missing bucket or right is reported for a pack that is damaged: nobody has read it through yet."""
    content = packs["1"].path.read_bytes()
    (tmp_path / "bad.tar.zst").write_bytes(content[:-10] + bytes([content[-10] ^ 1]) + content[-9:])
    with pytest.raises(FetchError, match="there is no bucket no-such-bucket-here"):
        push(tmp_path / "bad.tar.zst", "s3://no-such-bucket-here/p/", client=bucket.client)
    with pytest.raises(FetchError, match="denied CreateMultipartUpload"):
        push(tmp_path / "bad.tar.zst", bucket.url("p/"), client=refusing(bucket, "CreateMultipartUpload"))


def test_preflight(bucket: Bucket) -> None:
    """It tells the region, leaves nothing, asks only for reading where that is all, and takes tags into account."""
    found = preflight(bucket.url("packs"), client=bucket.client)
    assert (found.destination, found.region) == (bucket.url("packs/"), "us-east-1")
    assert (keys_in(bucket), uploads_in(bucket)) == (set(), [])
    client = refusing(bucket, "CreateMultipartUpload")
    assert preflight(bucket.url("packs/"), client=client, write=False) == found
    with pytest.raises(FetchError, match=r"needs s3:PutObject on \S+ and s3:PutObjectTagging on arn:aws:s3:::"):
        preflight(bucket.url("packs/"), client=client, options={"Tagging": "a=b"})
    # Who may not take uploads back may push all the same.
    client = refusing(bucket, "AbortMultipartUpload")
    assert preflight(bucket.url("packs/"), client=client) == found
    for key in uploads_in(bucket):
        assert key == f"packs/{'0' * 64}.tar.zst"
    lazydeps("prune", bucket.url("packs/"), "--keep", "1", "--no-lock", "--yes", environ=bucket.environ)


def refusing(bucket: Bucket, operation: str) -> Any:
    """Return a client to which S3 denies one call."""
    from botocore.awsrequest import AWSResponse

    class Raw:
        def stream(self, **_: Any) -> Any:
            yield b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"

    client = bucket.server.client()
    client.meta.events.register(
        f"before-send.s3.{operation}", lambda request, **_: AWSResponse(request.url, 403, {}, Raw())
    )
    return client


@pytest.mark.parametrize(
    ("status", "code", "message", "words"),
    [
        (403, "AccessDenied", "no", "needs s3:PutObject on arn:aws:s3:::b/p/*. `aws sts get-caller-identity`"),
        (403, "AccessDenied", "not authorized to perform: kms:GenerateDataKey", "kms:GenerateDataKey and kms:Decrypt"),
        (400, "KMS.NotFoundException", "Key 'x' does not exist", "or push with another --sse-kms-key-id or --sse"),
        (301, "PermanentRedirect", "", "Run the command again with AWS_REGION=eu-west-1"),
        (400, "AuthorizationHeaderMalformed", "", "`aws s3api head-bucket --bucket b` shows it"),
        (404, "NoSuchBucket", "", "Create it (`aws s3 mb s3://b`), or check the name, the region and the account"),
        (400, "ExpiredToken", "", "Get new ones, with `aws sso login`"),
        (403, "InvalidAccessKeyId", "", "look at AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN"),
        (403, "RequestTimeTooSkewed", "", "clock is more than 15 minutes off"),
        (503, "SlowDown", "Please reduce", "S3 answered PutObject on s3://b/p/k with 503 SlowDown: Please reduce"),
    ],
    ids=range(10),
)
def test_refusals(status: int, code: str, message: str, words: str) -> None:
    """Each is one paragraph with what was asked, what S3 says and the next command."""
    response = {
        "Error": {"Code": code, "Message": message, "Region": "eu-west-1"},
        "ResponseMetadata": {"HTTPStatusCode": status, "RequestId": "R1", "HTTPHeaders": {}},
    }
    error = s3.explain(ClientError(response, "PutObject"), "b", "p/k")
    assert isinstance(error, FetchError)
    assert words in str(error)
    assert "\n" not in str(error)
    assert (error.status, error.request_id, error.retryable) == (status, "R1", status == 503)


def test_the_sdks_own_errors(tmp_path: Path, packs: Packs) -> None:
    """No credentials, no such profile: ConfigErrors that say what to set, through the real SDK."""
    nothing = {"HOME": str(tmp_path), "AWS_REGION": "us-east-1"}
    words = ("push", packs["1"].path, "s3://b-u-c/p/")
    error = lazydeps_error(*words, environ=nothing)
    assert (error["type"], "run `aws configure` or `aws sso login`" in error["message"]) == ("ConfigError", True)
    error = lazydeps_error(*words, environ={**nothing, "AWS_PROFILE": "nobody"})
    assert (error["type"], "nobody" in error["message"]) == ("ConfigError", True)


# Going back


def test_rolling_back(bucket: Bucket, packs: Packs, tmp_path: Path) -> None:
    """Each time one more; a push afterwards goes on from there; nothing left is an error that says what is known."""
    roots = [digits(packs[number]) for number in "123"]
    options: dict[str, Any] = {"environ": bucket.environ, "cwd": tmp_path}
    lock = tmp_path / "lazydeps.lock"
    for number in "123":
        publish(bucket, lock, packs[number])
    assert pinned(lock) == roots[::-1]
    content = lock.read_bytes()
    said = lazydeps("rollback", "science", "--dry-run", **options).stdout
    assert f"science for {HERE}: {roots[2][:12]} (" in said
    assert f" -> {roots[1][:12]} (" in said
    assert "would be pinned" in said
    assert lock.read_bytes() == content
    facts = lazydeps_json("rollback", "science", **options)["targets"][HERE]
    assert [facts["from"].rpartition(":")[2], facts["to"].rpartition(":")[2], facts["left"]] == [*roots[:0:-1], 1]
    said = lazydeps("rollback", "science", **options).stdout
    assert "Next: commit lazydeps.lock, and deploy the functions that have it." in said
    assert pinned(lock) == roots[:1]
    error = lazydeps_error("rollback", "science", **options)
    assert f"science for {HERE} has nothing to go back to: the lock knows only {roots[0][:12]}" in error["message"]
    lazydeps("push", packs["3"].path, bucket.url("packs/"), "--name", "science", **options)
    assert pinned(lock) == [roots[2], roots[0]]


def test_rolling_back_some_targets(bucket: Bucket, packs: Packs, tmp_path: Path) -> None:
    """All targets or none; --arch, --python and --to choose; what is not there any more is not pinned."""
    options: dict[str, Any] = {"environ": bucket.environ, "cwd": tmp_path}
    lock, roots = tmp_path / "lazydeps.lock", [digits(packs[number]) for number in "123"]
    for number in "123":
        publish(bucket, lock, packs[number], packs["other"])
    content = lock.read_bytes()
    error = lazydeps_error("rollback", "science", **options)
    assert f"science for {ELSEWHERE} has nothing to go back to, and the targets of a name go" in error["message"]
    assert f"Choose the others, {HERE}, with --arch or --python" in error["message"]
    error = lazydeps_error("rollback", "science", "--python", "3.9", **options)
    assert (
        f"the lock has 'science' for {', '.join(sorted((HERE, ELSEWHERE)))}, and not for Python 3.9" in error["message"]
    )
    assert "no pack named 'x': it has science" in lazydeps_error("rollback", "x", **options)["message"]
    assert (
        "The lock knows"
        in lazydeps_error("rollback", "science", "--to", "00ff00", "--arch", ARCH, **options)["message"]
    )
    assert lock.read_bytes() == content
    bucket.client.delete_object(Bucket=bucket.name, Key=key_of(packs["2"]))
    error = lazydeps_error("rollback", "science", "--arch", ARCH, **options)
    assert (error["type"], error["status"]) == ("FetchError", 404)
    assert f"{key_of(packs['2'])} is not there any more. `lazydeps list {bucket.url('packs/')}`" in error["message"]
    assert lock.read_bytes() == content
    # Of two targets, the one that ever was that pack.
    facts = lazydeps_json("rollback", "science", "--to", roots[0][:8], **options)
    assert list(facts["targets"]) == [HERE]
    assert pinned(lock) == [roots[0]]
    assert pinned(lock, ELSEWHERE) == [digits(packs["other"])]


def test_rolling_back_without_a_lock(tmp_path: Path) -> None:
    """A lock that is not there is named, with the command that writes one."""
    error = lazydeps_error("rollback", "science", cwd=tmp_path)
    assert "the lock file lazydeps.lock cannot be read: No such file" in error["message"]
    assert "--name NAME` writes it" in error["message"]


# Listing and pruning


def published_at(bucket: Bucket, ages: dict[str, int]) -> Any:
    """Return a client to which objects seem to be some days old."""
    client = bucket.server.client()

    def age(parsed: dict[str, Any], **_: Any) -> None:
        for entry in parsed.get("Contents", ()):
            days = next((days for digits, days in ages.items() if digits in entry["Key"]), 0)
            entry["LastModified"] = datetime.now(UTC) - timedelta(days=days)

    client.meta.events.register("after-call.s3.ListObjectsV2", age)
    return client


@pytest.fixture
def shelf(bucket: Bucket, packs: Packs, tmp_path: Path) -> Path:
    """A prefix with three builds and another target of `science`, and what is no pack of it; returns a lock."""
    options: dict[str, Any] = {"client": bucket.client}
    for number in ("1", "2", "3", "other"):
        push(packs[number].path, bucket.url("packs/"), options=PushOptions(name="science"), **options)
    bucket.put(f"packs/{'e' * 64}.tar.zst", b"no pack" * 1000)
    bucket.put("packs/notes.txt", b"not ours")
    bucket.put(f"packs/deeper/{digits(packs['1'])}.tar.zst", packs["1"].path)
    lock = lockfile.Lock()
    for number in "12":
        plan = plan_push(packs[number].path, bucket.url("packs/"), options=PushOptions())
        entry = lockfile.Entry(plan.ref, plan.size, 1, 1, {}, "2026-01-01T00:00:00Z")
        lock = lockfile.pin(lock, "science", HERE, entry)
    lockfile.write(tmp_path / "lazydeps.lock", lock)
    return tmp_path / "lazydeps.lock"


NOT_OURS = {f"packs/{'e' * 64}.tar.zst", "packs/notes.txt"}


def test_listing(bucket: Bucket, packs: Packs, shelf: Path) -> None:
    """Packs and nothing else, the newest first, with what a lock says of them."""
    facts = lazydeps_json("list", bucket.url("packs"), "--lock", shelf, environ=bucket.environ)["packs"]
    assert {pack["root"]: pack["locked"] for pack in facts} == {
        digits(packs["1"]): "previous science",
        digits(packs["2"]): "current science",
        digits(packs["3"]): None,
        digits(packs["other"]): None,
    }
    one = next(pack for pack in facts if pack["root"] == digits(packs["1"]))
    assert (one["name"], one["target"], one["size"]) == ("science", HERE, packs["1"].size)
    assert one["ref"] == f"{bucket.url(key_of(packs['1']))}#root={packs['1'].root}"
    assert one["distributions"] == "alpha==1.0 only1==1 same==1.0"
    client = published_at(bucket, {digits(packs["1"]): 1, digits(packs["2"]): 3, digits(packs["3"]): 2})
    found = published.survey(bucket.url("packs/"), client=client)
    assert [pack.root for pack in found] == [digits(packs[name]) for name in ("other", "1", "3", "2")]
    said = lazydeps("list", bucket.url("packs/"), "--name", "science", environ=bucket.environ).stdout
    assert said.splitlines()[-1].startswith(f"{bucket.url('packs/')}: 4 packs, ")
    assert lazydeps_json("list", bucket.url("packs/"), "--name", "x", environ=bucket.environ)["packs"] == []
    assert lazydeps_json("list", bucket.url("none/"), environ=bucket.environ)["packs"] == []


def test_a_pack_that_another_tool_has_copied(bucket: Bucket, packs: Packs, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object without our metadata is read: the pack that its key names is one, and whatever else is none."""
    for name, value in bucket.environ.items():
        monkeypatch.setenv(name, value)
    bucket.put(key_of(packs["1"]), packs["1"].path)
    bucket.put(key_of(packs["2"]), packs["3"].path)  # a pack, but not the one of that name
    found = published.survey(bucket.url("packs/"), client=bucket.client)
    assert [(pack.root, pack.target, pack.name) for pack in found] == [(digits(packs["1"]), HERE, None)]


def test_pruning(bucket: Bucket, packs: Packs, shelf: Path) -> None:
    """All but the newest of each name and target go, and never what a lock pins or pinned, nor what is no pack."""
    client = published_at(bucket, {digits(packs["1"]): 40, digits(packs["2"]): 30, digits(packs["3"]): 20})
    everything = keys_in(bucket)

    def going(keep: int, locks: list[lockfile.Lock], older_than: float = 0) -> set[str]:
        plan = published.plan_prune(bucket.url("packs/"), client=client, keep=keep, locks=locks, older_than=older_than)
        assert {pack.key for pack in (*plan.remove, *plan.keep)} == {key_of(pack) for pack in packs.values()}
        return {pack.root for pack in plan.remove}

    one, two = digits(packs["1"]), digits(packs["2"])
    assert going(1, []) == {one, two}
    assert going(2, []) == {one}
    assert going(1, [], older_than=35 * 86400) == {one}
    lock = lockfile.read(shelf)
    assert going(1, [lock]) == set()
    assert going(1, [lockfile.roll_back(lock, "science", HERE)]) == {two}
    plan = published.plan_prune(bucket.url("packs/"), client=client, keep=1)
    # Pinned since we looked: it stays.
    later = [lockfile.roll_back(lock, "science", HERE)]
    done = published.prune(bucket.url("packs/"), plan, client=client, locks=later)
    assert [pack.root for pack in done.removed] == [two]
    assert keys_in(bucket) == everything - {key_of(packs["2"])}


def test_the_prune_command(bucket: Bucket, packs: Packs, shelf: Path, tmp_path: Path) -> None:
    """It wants to know what is in use, asks, says what it freed, and with --dry-run changes nothing."""
    words = ("prune", bucket.url("packs/"), "--keep", "1")
    environ, everything = bucket.environ, keys_in(bucket)
    assert "--lock FILE for each lock file, or --no-lock" in lazydeps(*words, environ=environ, code=2).stderr
    both = lazydeps(*words, "--no-lock", "--lock", shelf, environ=environ, code=2).stderr
    assert "say which packs are in use" in both
    assert "add --yes or --dry-run" in lazydeps(*words, "--no-lock", "--json", environ=environ, code=2).stderr
    missing = lazydeps_error(*words, "--lock", tmp_path / "none", "--yes", environ=environ)
    assert "cannot be read: No such file" in missing["message"]
    said = lazydeps(*words, "--no-lock", environ=environ, code=130, stdin="n\n")
    assert "Remove 2 packs (0.1 MB) from" in said.stderr
    dry = lazydeps_json(*words, "--no-lock", "--dry-run", environ=environ)
    assert (len(dry["removed"]), len(dry["kept"])) == (2, 2)
    assert dry["freed"] == sum(pack["size"] for pack in dry["removed"])
    assert keys_in(bucket) == everything
    nothing_old = lazydeps_json(*words, "--no-lock", "--older-than", "1d", "--yes", environ=environ)
    assert (nothing_old["removed"], nothing_old["freed"]) == ([], 0)
    locked = lazydeps_json(*words, "--lock", shelf, "--yes", environ=environ)
    assert {pack["root"] for pack in locked["removed"]} <= {digits(packs["3"])}
    done = lazydeps(*words, "--no-lock", environ=environ, stdin="y\n").stdout
    left = keys_in(bucket)
    assert NOT_OURS | {f"packs/deeper/{digits(packs['1'])}.tar.zst", key_of(packs["other"])} < left
    assert len(left) == 5
    assert done.splitlines()[-1].endswith(" MB freed")


def test_a_pack_that_is_pinned_as_a_file_stays(bucket: Bucket, packs: Packs, shelf: Path, tmp_path: Path) -> None:
    """`lazydeps lock` pins a pack's bytes, and not its root: what its lock names is not removed either."""
    lock = tmp_path / "files.lock"
    for number in ("1", "2"):
        lazydeps("lock", bucket.url(key_of(packs[number])), "--name", "file", "--lock", lock, environ=bucket.environ)
    lazydeps("prune", bucket.url("packs/"), "--keep", "1", "--lock", lock, "--yes", environ=bucket.environ)
    assert {key_of(packs["1"]), key_of(packs["2"])} < keys_in(bucket)


def test_pruning_while_somebody_pins(bucket: Bucket, packs: Packs, shelf: Path, tmp_path: Path) -> None:
    """While packs are removed nobody can pin one; and a push that found its pack there pins none that has gone."""
    lock = tmp_path / "app/lazydeps.lock"
    lock.parent.mkdir()
    lockfile.write(lock, lockfile.Lock())
    words = ("prune", bucket.url("packs/"), "--keep", "1", "--lock", str(lock), "--yes")
    with lockfile.changing(lock):  # somebody's push is about to write
        process = subprocess.Popen(
            [*COMMAND, *words], env=command_environ(bucket.environ), stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline().startswith("goes")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        lockfile.write(lock, lockfile.read(shelf))
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert {f"packs/{root}.tar.zst" for root in pinned(lock)} < keys_in(bucket)

    options = PushOptions(name="science")
    plan = plan_push(packs["1"].path, bucket.url("packs/"), options=options)
    done = send(plan, client=bucket.client, options=options)
    before = lock.read_bytes()
    bucket.client.delete_object(Bucket=bucket.name, Key=plan.key)
    with pytest.raises(FetchError, match=r"was removed after it was found or sent.*Push again"):
        pin_all(lock, "science", [plan], [done], client=bucket.client)
    assert lock.read_bytes() == before


def test_ctrl_c_before_the_lock_is_written(bucket: Bucket, packs: Packs, tmp_path: Path) -> None:
    """Interrupted while it waits for the lock file, a push says that its packs have arrived."""
    lock = tmp_path / "lazydeps.lock"
    words = ("push", str(packs["1"].path), bucket.url("packs/"), "--name", "a", "--lock", str(lock))
    with lockfile.changing(lock):
        process = subprocess.Popen(
            [*COMMAND, *words], env=command_environ(bucket.environ), stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        while "Pushing p.tar.zst to" not in (line := process.stderr.readline()) or ": done in" not in line:
            assert line
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert f"1 of 1 packs are in the bucket ({bucket.url(key_of(packs['1']))}). The same command does the rest." in said
    assert not lock.exists()


def test_a_lock_that_cannot_be_written(bucket: Bucket, packs: Packs, tmp_path: Path) -> None:
    """It is found out before the upload, and the message says what to do."""
    words = ("push", packs["1"].path, bucket.url("packs/"), "--name", "a", "--lock", tmp_path / "no/lazydeps.lock")
    error = lazydeps_error(*words, environ=bucket.environ)
    assert "no/lazydeps.lock cannot be written: No such file" in error["message"]
    assert "Make that folder" in error["message"]
    assert keys_in(bucket) == set()


def test_unfinished_uploads(bucket: Bucket, packs: Packs) -> None:
    """Those of packs that are older than a week go; younger ones somebody may go on with, others are not ours."""
    keys = [key_of(packs["1"]), "packs/notes.txt", key_of(packs["2"])]
    for key in keys:
        bucket.client.create_multipart_upload(Bucket=bucket.name, Key=key)
    client = bucket.server.client()

    def begun(parsed: dict[str, Any], **_: Any) -> None:
        for one in parsed["Uploads"]:
            one["Initiated"] = datetime.now(UTC) - timedelta(days=6 if one["Key"] == keys[2] else 8)

    client.meta.events.register("after-call.s3.ListMultipartUploads", begun)
    plan = published.plan_prune(bucket.url("packs/"), client=client, keep=1)
    done = published.prune(bucket.url("packs/"), plan, client=client)
    assert [upload.key for upload in done.aborted] == keys[:1]
    assert sorted(uploads_in(bucket)) == sorted(keys[1:])
    denied = refusing(bucket, "ListMultipartUploads")
    assert not published.plan_prune(bucket.url("packs/"), client=denied, keep=1).uploads_known
    for one in bucket.client.list_multipart_uploads(Bucket=bucket.name)["Uploads"]:
        bucket.client.abort_multipart_upload(Bucket=bucket.name, Key=one["Key"], UploadId=one["UploadId"])


def test_what_could_not_be_removed(bucket: Bucket, packs: Packs, shelf: Path) -> None:
    """S3 answers for each object: those that it keeps are named, and not counted as freed."""
    client = bucket.server.client()
    plan = published.plan_prune(bucket.url("packs/"), client=client, keep=1)
    stays = plan.remove[0].key

    def keep_one(params: dict[str, Any], **_: Any) -> None:
        params["Delete"]["Objects"] = [one for one in params["Delete"]["Objects"] if one["Key"] != stays]

    def answer(parsed: dict[str, Any], **_: Any) -> None:
        parsed["Errors"] = [{"Key": stays, "Code": "AccessDenied", "Message": "no"}]

    client.meta.events.register("provide-client-params.s3.DeleteObjects", keep_one)
    client.meta.events.register("after-call.s3.DeleteObjects", answer)
    done = published.prune(bucket.url("packs/"), plan, client=client)
    assert done.failed == ((stays, "AccessDenied: no"),)
    assert [pack.key for pack in done.removed] == [plan.remove[1].key]
    assert stays in keys_in(bucket)


# Comparing


def test_comparing_packs(packs: Packs) -> None:
    """Distributions and files that are new, gone or other, and the sizes of the sets on both sides."""
    facts = lazydeps_json("diff", packs["1"].path, packs["2"].path, "--files")
    assert facts["distributions"] == {
        "added": {"only2": "1"},
        "removed": {"only1": "1"},
        "changed": {"alpha": ["1.0", "2.0"]},
    }
    files = {entry["path"]: entry["kind"] for entry in facts["contents"]}
    assert files.pop("only1.txt") == "removed"
    assert files.pop("only2.txt") == "added"
    assert files.pop("data.bin") == files.pop("alpha.py") == "changed"
    assert [kind for path, kind in files.items() if path.endswith(".pyc")] == ["changed"]
    assert "same.bin" not in [entry["path"] for entry in facts["contents"]]
    assert facts["files"] == {"added": 1, "removed": 1, "changed": 3}
    assert facts["sizes"]["total"]["packed"][0] < packs["1"].size
    assert facts["sizes"]["total"]["files"] == [5, 5]
    said = lazydeps("diff", packs["1"].path, packs["2"].path).stdout
    for line in ("+ only2 1", "- only1 1", "~ alpha 1.0 -> 2.0", "files: 1 added, 1 removed, 3 changed"):
        assert line in said.splitlines()
    assert "~ data.bin (5,000 -> 5,000 bytes)" in said


def test_comparing_equal_packs(packs: Packs, tmp_path: Path) -> None:
    """A pack and itself; and the same files in other frames, which only their content tells."""
    same = lazydeps_json("diff", packs["1"].path, packs["1"].path)
    assert (same["equal"], same["largest"]) == (True, [])
    tree, again = packs["1"].path.parent / "tree", tmp_path / "again.tar.zst"
    versions = {"alpha": "1.0", "same": "1.0", "only1": "1"}
    pack_tree(again, tree, boot=["alpha.py", "same.bin"], distributions=versions, level=19)
    other = lazydeps_json("diff", packs["1"].path, again)
    assert (other["equal"], other["files"]) == (True, {"added": 0, "removed": 0, "changed": 0})
    assert other["before"] != other["after"]
    assert "The packs hold the same distributions and the same files." in lazydeps("diff", again, again).stdout
    assert not lazydeps_json("diff", packs["1"].path, packs["other"].path)["equal"]


def test_comparing_by_name(bucket: Bucket, packs: Packs, tmp_path: Path) -> None:
    """A name of the lock, with a target or where there is only one, and references; a path comes first."""
    options: dict[str, Any] = {"environ": bucket.environ, "cwd": tmp_path}
    lock = tmp_path / "lazydeps.lock"
    for number in "12":
        publish(bucket, lock, packs[number])
    ref = f"{bucket.url(key_of(packs['1']))}#root={packs['1'].root}"
    facts = lazydeps_json("diff", ref, "science", **options)
    assert facts["distributions"]["changed"] == {"alpha": ["1.0", "2.0"]}
    assert lazydeps_json("diff", packs["2"].path, f"science@{HERE}", **options)["equal"]
    publish(bucket, lock, packs["other"])
    error = lazydeps_error("diff", "science", ref, **options)
    assert "say which, science@" in error["message"]
    said = lazydeps("diff", f"science@{HERE}", f"science@{ELSEWHERE}", **options).stdout
    assert f"target: {HERE} -> {ELSEWHERE}" in said.splitlines()
    error = lazydeps_error("diff", f"science@python3.8-{ARCH}", ref, **options)
    assert f"and not for python3.8-{ARCH}" in error["message"]
    (tmp_path / "science").write_bytes(packs["1"].path.read_bytes())
    assert lazydeps_json("diff", "science", packs["1"].path, **options)["equal"]


# Older archives


def test_the_projects_lock_and_destination(bucket: Bucket, packs: Packs, tmp_path: Path) -> None:
    """In a configured project, below it too: its lock file and its prefix, in push, list, rollback, diff and lock."""
    (tmp_path / "lazydeps.toml").write_text(f'destination = "{bucket.url("packs/")}"\nlock = "deploy/pins.lock"\n')
    (tmp_path / "deploy").mkdir()
    below = tmp_path / "src"
    below.mkdir()
    options: dict[str, Any] = {"environ": bucket.environ, "cwd": below}
    for number in "12":
        lazydeps("push", packs[number].path, "--name", "science", **options)
    lock = tmp_path / "deploy/pins.lock"
    assert pinned(lock) == [digits(packs[number]) for number in "21"]
    assert os.listdir(below) == []
    assert {pack["root"] for pack in lazydeps_json("list", **options)["packs"]} == {digits(packs[n]) for n in "12"}
    lazydeps("diff", f"science@{HERE}", packs["2"].path, **options)
    options["cwd"] = tmp_path
    assert "Next: commit deploy/pins.lock" in lazydeps("rollback", "science", **options).stdout
    assert "no prefix to look at" in lazydeps("list", code=2, environ=bucket.environ, cwd="/").stderr


@pytest.mark.parametrize("moment", ["yesterday", "-1", "1.5", "9" * 20, "\u0663"])
def test_a_source_date_that_is_none(packs: Packs, tmp_path: Path, moment: str) -> None:
    """SOURCE_DATE_EPOCH is read alike everywhere: what is no time is one error, before anything is built or sent."""
    environ = {"SOURCE_DATE_EPOCH": moment}
    for words in (["push", packs["1"].path, "s3://b/p/"], ["pack", "no-such-thing-here", "-o", "p.tar.zst"]):
        said = lazydeps(*words, environ=environ, cwd=tmp_path, code=1 + (words[0] == "pack")).stderr
        assert f"SOURCE_DATE_EPOCH is {moment!r}: expected whole seconds since 1970" in said


def test_one_pack_given_twice(bucket: Bucket, packs: Packs, tmp_path: Path) -> None:
    """A pure pack built for two architectures is one pack: what the name meant before is told of each alike."""
    twin = tmp_path / "twin.tar.zst"
    twin.write_bytes(packs["1"].path.read_bytes())
    words = ("push", packs["1"].path, twin, bucket.url("packs/"), "--name", "science")
    assert lazydeps_json(*words, environ=bucket.environ, cwd=tmp_path)["replaced"] == {HERE: None}


def test_a_pack_is_no_archive_to_lock(packs: Packs, tmp_path: Path) -> None:
    """It can be locked, and a warning says what is lost and where the reference that streams it comes from."""
    (said,) = lazydeps_json("lock", packs["1"].path, cwd=tmp_path)["warnings"]
    assert said.startswith("it is a pack, and as an archive all of it is fetched and extracted before the first import")
    assert "`lazydeps inspect` prints the reference that streams it" in said


def test_locking_an_archive(bucket: Bucket, run_python: RunPython, tmp_path: Path) -> None:
    """`lazydeps lock URL --name` pins an archive for every target; load() starts from it."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("python/beta.py", "B = 7\n")
    url = bucket.put("libs/old.zip", content.getvalue())
    words = ("lock", url, "--name", "libs")
    facts = lazydeps_json(*words, environ=bucket.environ, cwd=tmp_path)
    assert (facts["name"], facts["lock"]) == ("libs", "lazydeps.lock")
    entry = json.loads((tmp_path / "lazydeps.lock").read_text())["packs"]["libs"]["any"]
    assert (entry["ref"], entry["size"], entry["boot_size"]) == (facts["ref"], len(content.getvalue()), 0)
    before = (tmp_path / "lazydeps.lock").read_bytes()
    assert "libs is pinned for any target" in lazydeps(*words, environ=bucket.environ, cwd=tmp_path).stdout
    assert (tmp_path / "lazydeps.lock").read_bytes() == before
    (tmp_path / "handler.py").write_text("import lazydeps\nwith lazydeps.load():\n    import beta\nprint(beta.B)\n")
    assert run_python(None, str(tmp_path / "handler.py"), environ=bucket.environ).stdout == "7\n"
    error = lazydeps_error("lock", url, "--name", "a/b", environ=bucket.environ, cwd=tmp_path)
    assert "'a/b' is no name for a pack" in error["message"]


def test_a_projects_packs_are_pushed_by_name(bucket: Bucket, tmp_path: Path) -> None:
    """`lazydeps pack && lazydeps push`: all that is configured, each under its name, in the project's lock."""
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    below = tmp_path / "src"
    below.mkdir()
    config = f'arch = ["x86_64", "arm64"]\ndestination = "{bucket.url("p/")}"\nlock = "deps.lock"\n'
    (tmp_path / "lazydeps.toml").write_text(
        config + '[packs.pure]\nrequirements = ["six"]\n[packs.built]\nrequirements = ["markupsafe"]\n'
    )
    done = lazydeps("push", cwd=below, environ=bucket.environ, code=2)
    assert (
        f"pure-py{sys.version_info[0]}{sys.version_info[1]}-x86_64.tar.zst yet: `lazydeps pack` builds it."
        in " ".join(done.stderr.split())
    )
    assert "Next: lazydeps push\n" in lazydeps("pack", "--level", "1", cwd=below).stdout
    chosen = lazydeps_json("push", "--name", "built", cwd=below, environ=bucket.environ)
    assert (chosen["name"], len(chosen["packs"])) == ("built", 2)
    facts = lazydeps_json("push", cwd=below, environ=bucket.environ)
    assert [(one["name"], [pack["sent"] for pack in one["packs"]]) for one in facts["pushes"]] == [
        ("pure", [True]),  # without machine code one pack serves both
        ("built", [False, False]),
    ]
    lock = json.loads((tmp_path / "deps.lock").read_text())["packs"]
    assert lock["pure"].keys() == {f"python{python}-any"}
    assert lock["built"].keys() == {
        f"python{python}-x86_64",
        f"python{python}-arm64",
    }
    assert not (below / "lazydeps.lock").exists()
    empty = tmp_path.parent / f"{tmp_path.name}-empty"
    empty.mkdir()
    done = lazydeps("push", cwd=empty, environ=bucket.environ, code=2)
    assert "no pack to push: lazydeps push PACK s3://BUCKET/PREFIX/." in " ".join(done.stderr.split())


def test_a_project_says_where_to_push(bucket: Bucket, packs: Packs, tmp_path: Path) -> None:
    """Without a destination the project's is used, from a folder below it, too; one that is given wins over it."""
    below = tmp_path / "src"
    below.mkdir()
    words = ("push", packs["1"].path)
    done = lazydeps(*words, cwd=below, environ=bucket.environ, code=2)
    assert "no destination: give it last, lazydeps push PACK s3://BUCKET/PREFIX/. A project" in " ".join(
        done.stderr.split()
    )
    (tmp_path / "pyproject.toml").write_text(f'[tool.lazydeps]\ndestination = "{bucket.url("ours/")}"\n')
    facts = lazydeps_json(*words, cwd=below, environ=bucket.environ)
    assert (facts["bucket"], facts["key"]) == (bucket.name, f"ours/{digits(packs['1'])}.tar.zst")
    facts = lazydeps_json(*words, packs["2"].path, cwd=below, environ=bucket.environ)
    assert {one["key"].partition("/")[0] for one in facts["packs"]} == {"ours"}
    facts = lazydeps_json(*words, bucket.url("given/"), cwd=below, environ=bucket.environ)
    assert facts["key"].startswith("given/")
