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
        for statement in _listed(document.get("Statement")):
            says, why = _applies(statement, action, resource)
            deny = statement.get("Effect") == "Deny"
            if says is False:
                continue
            if says is None:
                if deny:
                    unknown_deny = unknown_deny or f"{name} denies with {why}"
                else:
                    unknown_allow = unknown_allow or f"{name} allows with {why}"
            elif deny:
                return Verdict(DENIED, f"{name} denies it")
            elif statement.get("Effect") == "Allow":
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
    unclear = [name for name in ("NotAction", "NotResource") if name in statement]
    if "Resource" in statement:
        patterns = [str(pattern) for pattern in _listed(statement["Resource"])]
        plain = [pattern for pattern in patterns if "${" not in pattern]
        if not _any(plain, resource):
            variable = [re.sub(r"\$\{[^}]*\}", "*", pattern) for pattern in patterns if "${" in pattern]
            if not _any(variable, resource):
                return False, ""
            unclear.append("a policy variable")
    if statement.get("Condition"):
        unclear.append("a condition")
    return (None, " and ".join(unclear)) if unclear else (True, "")


def _any(patterns: Any, text: str, *, lower: bool = False) -> bool:
    return any(_matches(str(pattern).lower() if lower else str(pattern), text) for pattern in _listed(patterns))


def _matches(pattern: str, text: str) -> bool:
    regex = "".join({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in pattern)
    return re.fullmatch(regex, text, re.DOTALL) is not None


def _listed(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
