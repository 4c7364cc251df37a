"""Check a deployed function against the packs that it loads: its configuration, and what its role may read.

Asks Lambda, IAM and EC2 and changes nothing. What a caller may not look at is skipped, and says so.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from lazydeps import _config, _lockfile
from lazydeps._ref import Ref
from lazydeps.errors import ConfigError

from . import policies
from .doctor import AWS_ERRORS, error_code, one_line, packs_for, with_object
from .limits import FREE_STORAGE, INIT_LIMIT, memory_for, storage_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from . import lockfile
    from .doctor import Examination

SNAPSTART_STORAGE = 512
"""MB of ephemeral storage that a function with SnapStart may have at most."""
VARIABLES = (
    *("LAZYDEPS_PACK", "LAZYDEPS_DIR", "LAZYDEPS_TIMEOUT", "LAZYDEPS_CONNECTIONS", "LAZYDEPS_ALLOW_UNPINNED"),
    *("LAZYDEPS_CHILDREN", "LAZYDEPS_LOCK", "LAZYDEPS_TRACE"),
)


def examine_function(found: Examination, name: str, lock: lockfile.Lock | None) -> None:
    """Run all checks of one function.

    Args:
        found: takes the answers; has a session.
        name: the function's name or ARN.
        lock: the project's lock, whose packs the function loads where its environment names none.
    """
    try:
        facts = found.client("lambda").get_function_configuration(FunctionName=name)
    except AWS_ERRORS as error:
        if error_code(error) == "ResourceNotFoundException":
            here = found.session.region_name
            found.add(
                "function",
                "failure",
                f"there is no function {name} in {here}.",
                "Correct the name, or give --region or --profile.",
            )
        else:
            found.refused("function", error, f"lambda:GetFunctionConfiguration on {name}", needed=True)
        return
    if facts.get("PackageType", "Zip") != "Zip":
        found.add(
            "function",
            "warning",
            f"{name} is a container image: it has 10 GB for its packages, and its Python is the image's own.",
            "lazydeps works there too; whether it is worth it is for a measurement to say.",
        )
    else:
        state = facts.get("State", "Active")
        if state not in ("Active", "Inactive"):
            found.add("function", "warning", f"{name} is {state}: {facts.get('StateReason', 'no reason given')}.")
        else:
            found.ok("function", f"{name} is there, its state {state}.")
    python, arch = _target(found, facts)
    packs = _packs(found, facts, lock, python, arch)
    found.guard("target", _match, packs, python, arch)
    found.guard("storage", _storage, facts, packs)
    found.guard("memory", _memory, facts, packs)
    found.guard("timeout", _timeout, facts)
    found.guard("handler", _handler, facts)
    found.guard("layer", _layers, facts, python)
    found.guard("network", _network, facts)
    refs = [Ref.parse(text) for text in packs]
    found.guard("role", _role, facts, [ref for ref in refs if ref.url.startswith("s3://")])


def _target(found: Examination, facts: Mapping[str, Any]) -> tuple[str, str]:
    runtime = facts.get("Runtime") or ""
    arch = (facts.get("Architectures") or ["x86_64"])[0]
    python = runtime.removeprefix("python")
    if facts.get("PackageType", "Zip") != "Zip":
        found.add("runtime", "skipped", "a container image brings its own.")
        return "", arch
    major, _, minor = python.partition(".")
    if not runtime.startswith("python") or major != "3" or not minor.isdecimal():
        found.add("runtime", "failure", f"the function runs {runtime or 'no managed runtime'}, not Python.")
    elif int(minor) < 11:
        found.add("runtime", "failure", f"{runtime} is older than lazydeps supports.", "Use python3.11 or later.")
    else:
        found.ok("runtime", f"{runtime} on {arch}.")
    return python, arch


def _packs(
    found: Examination, facts: Mapping[str, Any], lock: lockfile.Lock | None, python: str, arch: str
) -> dict[str, dict[str, Any] | None]:
    """Check the LAZYDEPS_* variables; return what the function loads: reference to a pack's facts, None if unknown."""
    environ: dict[str, str] = (facts.get("Environment") or {}).get("Variables") or {}
    own = sorted(name for name in environ if name.startswith("LAZYDEPS_"))
    for name in own:
        if name not in VARIABLES:
            near = difflib.get_close_matches(name, VARIABLES, n=1)
            found.add(
                "variables",
                "warning",
                f"{name} is no variable of lazydeps.",
                f"Did you mean {near[0]}?" if near else "Leave it out.",
            )
    try:
        config = _config.Config.from_environ(environ)
    except ConfigError as error:
        found.add("variables", "failure", str(error), "Correct it in the function's environment.")
        return {}
    if not config.directory.startswith(("/tmp/", "/mnt/")):  # noqa: S108 - where Lambda lets a function write
        found.add(
            "variables",
            "failure",
            f"LAZYDEPS_DIR is {config.directory}, and Lambda lets a function write below /tmp and /mnt only.",
            "Leave it out, or name a folder there.",
        )
    if config.allow_unpinned:
        found.add(
            "variables",
            "warning",
            "LAZYDEPS_ALLOW_UNPINNED=1: whoever can write to the bucket can run code in the function.",
            "Pin the references and leave the variable out.",
        )
    locked = packs_for(lock, python, arch)
    packs: dict[str, dict[str, Any] | None] = {}
    failed = False
    for word in config.pack:
        if "://" not in word and _lockfile.is_name(word):
            if word not in locked:
                found.add(
                    "variables",
                    "failure",
                    f"LAZYDEPS_PACK names {word!r}, and the lock here has no such pack for python{python} on {arch}.",
                    f"lazydeps push PACK s3://BUCKET/PREFIX/ --name {word}",
                )
                failed = True
            else:
                packs[locked[word].ref] = None
            continue
        try:
            ref = Ref.parse(word)
        except ConfigError as error:
            found.add("variables", "failure", f"LAZYDEPS_PACK: {error}", "Copy what `lazydeps push` printed.")
            failed = True
            continue
        if ref.root is None and ref.sha256 is None and not config.allow_unpinned:
            found.add(
                "variables",
                "failure",
                f"LAZYDEPS_PACK: {ref.shown} has no pin, and load() refuses it.",
                "Copy what `lazydeps push` printed, from s3:// to the end.",
            )
            failed = True
        packs[str(ref)] = None
    if not config.pack and environ.get("LAZYDEPS_LOCK") != "0":
        packs.update(dict.fromkeys((entry.ref for entry in locked.values()), None))
    if not packs and not failed:
        found.add(
            "variables",
            "warning",
            "LAZYDEPS_PACK is not set and the lock here has no pack for this target: load() would do nothing.",
            "Set LAZYDEPS_PACK, or put lazydeps.lock into the function's zip file (`lazydeps package`).",
        )
    elif packs and not failed:
        whence = "LAZYDEPS_PACK" if config.pack else "lazydeps.lock here, if the deployed one is the same"
        found.ok("variables", f"{len(packs)} pack{'s' if len(packs) > 1 else ''} by {whence}.")
    sizes = {entry.ref: entry.size for entry in locked.values()}
    for text in packs:
        packs[text] = with_object(found, "pack of the function", text, size=sizes.get(text))
    return packs


def _match(found: Examination, packs: Mapping[str, dict[str, Any] | None], python: str, arch: str) -> None:
    for text, facts in packs.items():
        if facts is None or not python:
            continue
        if facts["python"] != python or facts["arch"] not in (arch, "any"):
            found.add(
                "target",
                "failure",
                f"{Ref.parse(text).shown.partition('#')[0]} is for Python {facts['python']} on {facts['arch']}, and "
                f"the function runs Python {python} on {arch}: it would refuse the pack.",
                f"lazydeps pack … --python {python} --arch {arch}",
            )
        else:
            found.ok("target", f"a pack for Python {facts['python']} on {facts['arch']} runs there.")


def _storage(found: Examination, facts: Mapping[str, Any], packs: Mapping[str, dict[str, Any] | None]) -> None:
    has = int((facts.get("EphemeralStorage") or {}).get("Size", FREE_STORAGE))
    known = [pack for pack in packs.values() if pack is not None]
    snapstart = (facts.get("SnapStart") or {}).get("ApplyOn", "None") != "None"
    if snapstart and has > SNAPSTART_STORAGE:
        found.add(
            "snapstart",
            "failure",
            f"SnapStart allows {SNAPSTART_STORAGE} MB of ephemeral storage, and the function has {has}.",
            "Set ephemeral_storage to 512, or SnapStart off.",
        )
    elif snapstart:
        found.ok("snapstart", "on: the packs are loaded when a version is published.")
    if not known:
        found.add("storage", "skipped", "no pack's figures are known.")
        return
    start = sum(pack["sets"]["boot"]["unpacked"] + pack["sets"]["data"]["unpacked"] for pack in known)
    every = sum(pack["unpacked_size"] for pack in known)
    least, most = storage_for(start), storage_for(every)
    words = f"the function has {has} MB of /tmp; a start lands {least} MB and all files are {most} MB"
    if has < least:
        found.add("storage", "failure", f"{words}.", f"Set ephemeral_storage to {max(FREE_STORAGE, most)}.")
    elif has < most:
        found.add(
            "storage", "warning", f"{words}: the rest comes only if asked for.", f"Set ephemeral_storage to {most}."
        )
    else:
        found.ok("storage", f"{words}.")


def _memory(found: Examination, facts: Mapping[str, Any], packs: Mapping[str, dict[str, Any] | None]) -> None:
    has = int(facts.get("MemorySize", 128))
    boot = sum(pack["boot_unpacked"] for pack in packs.values() if pack is not None)
    needed = memory_for(boot)
    words = f"{has} MB; after its imports a process like this has about {needed} MB (a rough estimate)"
    if has < needed:
        found.add("memory", "warning", f"{words}.", "Give it more, and look at Max Memory Used in its log.")
    else:
        found.ok("memory", f"{words}.")


def _timeout(found: Examination, facts: Mapping[str, Any]) -> None:
    has = int(facts.get("Timeout", 3))
    if has < INIT_LIMIT:
        found.add(
            "timeout",
            "warning",
            f"{has} s. An init that takes longer than {INIT_LIMIT} s is stopped and run again in the first invocation, "
            "under this timeout: a slow start would fail where it could go on.",
            "Set timeout to 30.",
        )
    else:
        found.ok("timeout", f"{has} s, enough for an init that is run again.")


def _handler(found: Examination, facts: Mapping[str, Any]) -> None:
    handler = facts.get("Handler")
    if facts.get("PackageType", "Zip") != "Zip":
        return
    module, _, function = (handler or "").rpartition(".")
    if not module or not function.isidentifier():
        found.add("handler", "failure", f"{handler!r} is not MODULE.FUNCTION.", "Correct the function's handler.")
    else:
        found.ok("handler", f"{handler}; `lazydeps package --handler {handler}` checks that it is in the zip file.")


def _layers(found: Examination, facts: Mapping[str, Any], python: str) -> None:
    layers = facts.get("Layers") or []
    for layer in layers:
        arn = layer["Arn"]
        try:
            version = found.client("lambda").get_layer_version_by_arn(Arn=arn)
        except AWS_ERRORS as error:
            found.refused("layer", error, f"lambda:GetLayerVersion on {arn}", needed=False)
            continue
        runtimes = version.get("CompatibleRuntimes") or []
        if runtimes and f"python{python}" not in runtimes:
            found.add(
                "layer",
                "warning",
                f"{arn} is for {', '.join(runtimes)}, and the function runs python{python}.",
                f"lazydeps layer --python {python}",
            )
        else:
            found.ok("layer", f"{arn}.")
    if not layers:
        found.ok("layer", "none: lazydeps has to be in the function's own zip file.")


def _network(found: Examination, facts: Mapping[str, Any]) -> None:
    vpc = (facts.get("VpcConfig") or {}).get("VpcId")
    if not vpc:
        found.ok("network", "no VPC: S3 is reached directly.")
        return
    region = found.session.region_name
    try:
        filters = [
            {"Name": "vpc-id", "Values": [vpc]},
            {"Name": "service-name", "Values": [f"com.amazonaws.{region}.s3"]},
        ]
        endpoints = found.client("ec2").describe_vpc_endpoints(Filters=filters)["VpcEndpoints"]
    except AWS_ERRORS as error:
        found.add(
            "network",
            "warning",
            f"the function is in {vpc}, and whether that has a way to S3 could not be told ({one_line(error)}).",
            "Make sure that its subnets have an S3 gateway endpoint or a NAT gateway.",
        )
        return
    if endpoints:
        found.ok("network", f"{vpc} has the S3 endpoint {endpoints[0]['VpcEndpointId']}.")
    else:
        found.add(
            "network",
            "warning",
            f"the function is in {vpc}, which has no S3 endpoint: without a NAT gateway it cannot reach the packs.",
            "Add an S3 gateway endpoint to the route tables of its subnets. It costs nothing.",
        )


def _role(found: Examination, facts: Mapping[str, Any], refs: list[Ref]) -> None:
    if not refs:
        found.add("role", "skipped", "the function loads nothing from S3.")
        return
    role = facts["Role"]
    partition = role.split(":")[1]  # aws, aws-cn or aws-us-gov
    wanted = [("s3:GetObject", f"arn:{partition}:s3:::{ref.url.removeprefix('s3://')}") for ref in refs]
    wanted += [("kms:Decrypt", key) for key in _keys(found, refs)]
    client = found.client("iam")
    verdicts = _simulate(client, role, wanted)
    if verdicts is None:
        try:
            documents, boundary = _policies(client, role.rpartition("/")[2])
        except AWS_ERRORS as error:
            what = (
                "iam:SimulatePrincipalPolicy, or iam:GetRole, iam:List*RolePolicies, iam:GetRolePolicy, iam:GetPolicy*"
            )
            if error_code(error) == "NoSuchEntity":
                found.add("role", "failure", f"the function's role {role} is not there.", "Give it another one.")
            else:
                found.refused("role", error, f"{what} on {role}", needed=False)
            return
        verdicts = {}
        for action, arn in wanted:
            verdict = policies.evaluate(documents, action, arn)
            if boundary and verdict.answer == policies.ALLOWED:
                limit = policies.evaluate(boundary, action, arn)
                verdict = verdict if limit.answer == policies.ALLOWED else limit
            verdicts[action, arn] = verdict
    for (action, arn), verdict in verdicts.items():
        words = f"{action} on {arn} is {verdict.answer} for {role} ({verdict.why})"
        if verdict.answer == policies.ALLOWED:
            whose = "bucket" if action == "s3:GetObject" else "key"
            found.ok("role", f"{words}. The {whose}'s own policy and the organisation's are not looked at.")
        elif verdict.answer == policies.UNKNOWN:
            found.add(
                "role",
                "warning",
                f"whether {role} may {action} {arn} cannot be told: {verdict.why}.",
                "Look at that statement, or allow iam:SimulatePrincipalPolicy and run this again.",
            )
        elif verdict.answer == policies.NOT_GRANTED and action == "kms:Decrypt":
            found.add(
                "role",
                "warning",
                f"a pack is encrypted with {arn}, and {words}: unless the key's own policy allows it, as that of the "
                "account's aws/s3 key does, S3 will refuse the pack.",
                f"Allow kms:Decrypt on {arn}.",
            )
        else:
            found.add(
                "role",
                "failure",
                f"{words}.",
                "Take that statement away." if verdict.answer == policies.DENIED else f"Allow {action} on {arn}.",
            )


def _keys(found: Examination, refs: list[Ref]) -> list[str]:
    """Return the ARNs of the KMS keys that objects are encrypted with: who reads one has to be allowed its key."""
    keys = []
    for ref in refs:
        bucket, _, key = ref.url.removeprefix("s3://").partition("/")
        try:
            facts = found.client("s3").head_object(Bucket=bucket, Key=key)
        except AWS_ERRORS as error:
            what = f"whether {ref.shown.partition('#')[0]} is encrypted with a KMS key, which the role would need too"
            found.add("role", "skipped", f"{what}, could not be looked at ({one_line(error)}).")
            continue
        name = str(facts.get("SSEKMSKeyId") or "")
        if name and name not in keys:
            keys.append(name)
    return keys


def _simulate(client: Any, role: str, wanted: list[tuple[str, str]]) -> dict[tuple[str, str], policies.Verdict] | None:
    """Ask IAM itself about actions on ARNs; None where the caller may not, or the server cannot."""
    try:
        return {
            (action, arn): _simulated(
                client.simulate_principal_policy(PolicySourceArn=role, ActionNames=[action], ResourceArns=[arn])[
                    "EvaluationResults"
                ][0]
            )
            for action, arn in wanted
        }
    except (*AWS_ERRORS, KeyError, IndexError):
        return None


def _simulated(result: Mapping[str, Any]) -> policies.Verdict:
    answers = {"allowed": policies.ALLOWED, "explicitDeny": policies.DENIED, "implicitDeny": policies.NOT_GRANTED}
    answer, missing = answers[result["EvalDecision"]], result.get("MissingContextValues")
    if missing:
        # IAM has decided as if the request had none of them.
        return policies.Verdict(policies.UNKNOWN, f"it depends on {', '.join(missing)}, which only a request has")
    for whose, detail, name in (
        ("the organisation", "OrganizationsDecisionDetail", "AllowedByOrganizations"),
        ("the permissions boundary", "PermissionsBoundaryDecisionDetail", "AllowedByPermissionsBoundary"),
    ):
        if answer == policies.ALLOWED and (result.get(detail) or {}).get(name) is False:
            return policies.Verdict(policies.NOT_GRANTED, f"{whose} does not allow it")
    return policies.Verdict(answer, "IAM's own simulation says so")


def _policies(client: Any, role: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the documents of a role's policies by name, and that of its permissions boundary."""
    facts = client.get_role(RoleName=role)["Role"]
    documents = {}
    for page in client.get_paginator("list_role_policies").paginate(RoleName=role):
        for name in page["PolicyNames"]:
            documents[name] = client.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
    for page in client.get_paginator("list_attached_role_policies").paginate(RoleName=role):
        for policy in page["AttachedPolicies"]:
            documents[policy["PolicyName"]] = _managed(client, policy["PolicyArn"])
    arn = (facts.get("PermissionsBoundary") or {}).get("PermissionsBoundaryArn")
    boundary = {f"the permissions boundary {arn.rpartition('/')[2]}": _managed(client, arn)} if arn else {}
    return documents, boundary


def _managed(client: Any, arn: str) -> Any:
    version = client.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    return client.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]
