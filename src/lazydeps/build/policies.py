"""What IAM policies say of one action on one resource: a small evaluator that says so where it cannot tell.

Knows Allow, Deny, and wildcards in Action and Resource. It does not know conditions, NotAction, NotResource,
NotPrincipal and policy variables: a statement with one of these that may matter makes the answer `UNKNOWN`.
See AWS, "Policy evaluation logic".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ALLOWED = "allowed"
DENIED = "denied"
NOT_GRANTED = "not granted"
UNKNOWN = "cannot tell"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What policies say."""

    answer: str
    """`ALLOWED`, `DENIED` (by a Deny statement), `NOT_GRANTED` (by none) or `UNKNOWN`."""
    why: str = ""
    """Which policy decided, or what could not be told."""


def evaluate(policies: Mapping[str, Any], action: str, resource: str) -> Verdict:
    """Return what policies, all attached to one principal, say of an action.

    Args:
        policies: name to policy document, as IAM returns it.
        action: for example ``s3:GetObject``.
        resource: its ARN, without wildcards.
    """
    allowed = unknown_allow = unknown_deny = ""
    for name, document in policies.items():
        if not isinstance(document, dict):
            unknown_deny = unknown_deny or f"{name} cannot be read"
            continue
        for statement in _listed(document.get("Statement")):
            if not isinstance(statement, dict) or statement.get("Effect") not in ("Allow", "Deny"):
                unknown_deny = unknown_deny or f"{name} has a statement that neither allows nor denies"
                continue
            says, why = _applies(statement, action, resource)
            deny = statement["Effect"] == "Deny"
            if says is False:
                continue
            if says is None:
                if deny:
                    unknown_deny = unknown_deny or f"{name} denies with {why}"
                else:
                    unknown_allow = unknown_allow or f"{name} allows with {why}"
            elif deny:
                return Verdict(DENIED, f"{name} denies it")
            else:
                allowed = allowed or name
    if unknown_deny:
        return Verdict(UNKNOWN, unknown_deny)
    if allowed:
        return Verdict(ALLOWED, f"{allowed} allows it")
    if unknown_allow:
        return Verdict(UNKNOWN, unknown_allow)
    return Verdict(NOT_GRANTED, f"none of {', '.join(policies)} allows it" if policies else "the role has no policies")


def _applies(statement: Mapping[str, Any], action: str, resource: str) -> tuple[bool | None, str]:
    """Tell whether a statement speaks of this action and resource; None, and what of it is not understood."""
    if "Action" in statement and not _any(statement["Action"], action.lower(), lower=True):
        return False, ""
    unclear = [name for name in ("NotAction", "NotResource", "NotPrincipal") if name in statement]
    unclear += [
        f"neither {name} nor Not{name}"
        for name in ("Action", "Resource")
        if name not in statement and f"Not{name}" not in statement
    ]
    if "Resource" in statement:
        patterns = [str(pattern) for pattern in _listed(statement["Resource"])]
        plain = [pattern for pattern in patterns if "${" not in pattern]
        if not any(_names(pattern, resource) for pattern in plain):
            variable = [re.sub(r"\$\{[^}]*\}", "*", pattern) for pattern in patterns if "${" in pattern]
            if _any(plain, resource):
                unclear.append("a wildcard for several parts of an ARN")
            elif _any(variable, resource):
                unclear.append("a policy variable")
            else:
                return False, ""
    if statement.get("Condition"):
        unclear.append("a condition")
    return (None, " and ".join(unclear)) if unclear else (True, "")


def _names(pattern: str, resource: str) -> bool:
    """Tell whether a pattern names an ARN: a wildcard stays in its part, but for one that ends the pattern."""
    parts, has = pattern.split(":", 5), resource.split(":", 5)
    if len(parts) < len(has):
        if not pattern.endswith("*"):
            return False
        has[len(parts) - 1 :] = [":".join(has[len(parts) - 1 :])]
    return len(parts) == len(has) and all(map(_matches, parts, has))


def _any(patterns: Any, text: str, *, lower: bool = False) -> bool:
    return any(_matches(str(pattern).lower() if lower else str(pattern), text) for pattern in _listed(patterns))


def _matches(pattern: str, text: str) -> bool:
    regex = "".join({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in pattern)
    return re.fullmatch(regex, text, re.DOTALL) is not None


def _listed(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
