"""Drafts the JSON Schema of a command's result: `lazydeps NAME … --json | python tests/golden/draft_schema.py NAME`.

A draft: it knows types, not meanings. Objects whose names are not fixed (distributions by name) come out as if they
were; fields that are there only sometimes have to leave ``required``.
"""

from __future__ import annotations

import json
import sys
from typing import Any

TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}


def draft(value: Any) -> dict[str, Any]:
    """Return a schema that the value fits."""
    if isinstance(value, dict):
        fields = {name: {"description": "TODO", **draft(entry)} for name, entry in value.items()}
        return {"type": "object", "additionalProperties": False, "required": [*value], "properties": fields}
    if isinstance(value, list):
        return {"type": "array", "items": draft(value[0]) if value else {}}
    return {"type": TYPES[type(value)]}


if __name__ == "__main__":
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"lazydeps {sys.argv[1]} --json"}
    print(json.dumps({**head, **draft(json.load(sys.stdin))}, indent=2, ensure_ascii=False))
