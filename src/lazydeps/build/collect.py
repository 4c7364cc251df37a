"""Read traces that were saved or collected: documents, and log files with the lines that live functions write.

What writes those lines is `lazydeps._recording`, switched on by ``LAZYDEPS_TRACE=log``.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from typing import TYPE_CHECKING, Any

from lazydeps.errors import ConfigError

from .trace import VERSION, Trace

if TYPE_CHECKING:
    from pathlib import Path

MARK = "lazydeps-trace: "
"""Stands before each line's JSON, as in `lazydeps._recording`."""
LARGEST = 64 << 20
"""Bytes that one trace may have, decompressed: logs hold what anybody writes into them."""


def read_traces(path: Path) -> list[Trace]:
    """Read a file of traces: one document, or a log with the lines of any number of processes.

    Of several traces of one process the last counts: each holds all that came before.

    Raises:
        ConfigError: the file is missing, holds no trace, or one that is damaged or of another version.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"the trace {path} could not be read: {error.strerror or error}.") from error
    if MARK not in text:
        return [Trace.load(path)]
    parts: dict[str, dict[int, dict[str, Any]]] = {}
    for number, line in enumerate(text.split(MARK)[1:], 1):
        part = _parse(line, f"{path}, trace line {number}")
        known = parts.setdefault(part["id"], {})
        if known and next(iter(known.values()))["parts"] != part["parts"]:
            known.clear()
        known[part["part"]] = part
    latest: dict[str, tuple[int, Trace]] = {}
    torn = 0
    for key, known in parts.items():
        if len(known) < next(iter(known.values()))["parts"]:
            torn += 1  # the log was cut: by a time range, or by a function that was killed
            continue
        packed = "".join(known[number]["z"] for number in sorted(known))
        process, _, serial = key.rpartition(".")
        if process not in latest or latest[process][0] < int(serial):
            latest[process] = int(serial), Trace.parse(_inflate(packed, path), path)
    if not latest:
        raise ConfigError(f"{path} has only parts of {torn} traces. Export the whole log, all lines of a process.")
    return [found for _, found in latest.values()]


def _parse(line: str, where: str) -> dict[str, Any]:
    """Read the JSON object that a line begins with; in a JSON export of logs its quotes are escaped."""
    text = line.replace('\\"', '"') if line.startswith('{\\"') else line
    try:
        part, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is cut or damaged: {error}. Export the log again, with whole lines.") from error
    if not isinstance(part, dict) or part.get("lazydeps_trace") != VERSION:
        raise ConfigError(f"{where} is of another version than {VERSION}. Update lazydeps here or in the function.")
    fields = {"id": str, "part": int, "parts": int, "z": str}
    if not all(type(part.get(name)) is kind for name, kind in fields.items()) or not _is_id(part["id"]):
        raise ConfigError(f"{where} is damaged: {', '.join(fields)} are not all what they should be.")
    return part


def _is_id(text: str) -> bool:
    return text.rpartition(".")[2].isdecimal()


def _inflate(packed: str, path: Path) -> str:
    try:
        inflater = zlib.decompressobj()
        content = inflater.decompress(base64.b64decode(packed, validate=True), LARGEST)
        if not inflater.eof:
            raise ValueError("it does not end")
        return content.decode()
    except (ValueError, binascii.Error, zlib.error) as error:
        raise ConfigError(f"a trace in {path} is damaged: {error}. Export the log again, with whole lines.") from error
