"""zstd, from the standard library where it has one (PEP 784), else from the `zstandard` package."""

from __future__ import annotations

from functools import cache

DEFAULT_LEVEL = 12
"""zstd level of a pack's frames; 19 packs a few per cent smaller at a fifth of the speed."""


def compress(chunk: bytes | bytearray, level: int) -> bytes:
    """Return one zstd frame, which holds the size of its content and no checksum of zstd's own."""
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        import zstandard

        # The runtime checks SHA-256 over the packed bytes, so zstd's own checksum would be work done twice.
        compressor = zstandard.ZstdCompressor(level=level, write_checksum=False, write_content_size=True)
        return compressor.compress(chunk)
    packed: bytes = zstd.compress(chunk, level=level)
    return packed


def decompress(frame: bytes) -> bytes:
    """Return what a frame of `compress` holds."""
    try:
        from compression import zstd
    except ImportError:
        import zstandard

        return zstandard.ZstdDecompressor().decompress(frame)
    content: bytes = zstd.decompress(frame)
    return content


@cache
def library() -> str:
    """Return which library compresses, in which version: another one may give other bytes."""
    try:
        from compression import zstd
    except ImportError:
        import zstandard

        return f"zstandard {zstandard.__version__} {zstandard.backend} {'.'.join(map(str, zstandard.ZSTD_VERSION))}"
    return f"compression.zstd {zstd.zstd_version}"
