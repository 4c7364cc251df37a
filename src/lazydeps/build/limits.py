"""What AWS Lambda allows a function (AWS, "Lambda quotas"), and what a start takes of it.

For `plan`, `package` and `doctor`, so that one of them does not refuse what another proposed.
"""

UPLOAD_LIMIT = 50 << 20
"""Bytes of a zip file: what `update-function-code` takes directly has fewer."""
UNZIPPED_LIMIT = 250 << 20
"""Bytes of a function's code and layers, unzipped: "must be smaller than 262144000 bytes", says the API."""
FREE_STORAGE, MOST_STORAGE = 512, 10_240
"""MB of ``/tmp`` that every function has, and that one can have."""
STORE_OVERHEAD = 1.02
"""Bytes of a store in ``/tmp`` for each byte landed, at its peak (docs/benchmarks.md: 1.016)."""
BASE_MEMORY, MEMORY_A_BYTE = 60, 0.6
"""MB of a process with lazydeps, and how much of its boot set's bytes it comes to hold (rough: ``science``)."""
INIT_LIMIT = 10
"""Seconds after which an init is stopped, and run again in the first invocation."""


def storage_for(count: int) -> int:
    """Return the MB of ``/tmp`` that so many bytes of files take."""
    return -(-int(count * STORE_OVERHEAD) // (1 << 20))


def memory_for(boot: int) -> int:
    """Return the MB that a process comes to have after importing so many bytes of boot set: a rough estimate."""
    return BASE_MEMORY + int(MEMORY_A_BYTE * boot / (1 << 20))
