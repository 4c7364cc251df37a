"""From bytes on a connection to checked content: the head of a pack, its frames and its index.

Each function does one step and trusts nothing that comes in. Who asks when, and where the content goes, is `_worker`'s
business, and `lazydeps.build.read`'s.
"""

from __future__ import annotations

from ._pack import SKIPPABLE_HEADER, Frame, Root, check_root, root_size
from .errors import PackFormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ._config import Limits
    from ._sources import Body, Connection

    Decompress = Callable[[memoryview, int], bytes]

HEAD = 512 * 1024
"""Bytes of the first request, which brings the root and the first boot frames."""


class Head:
    """A pack's first request: the checked content of the root, and a body that goes on with the first boot frame."""

    __slots__ = ("body", "content", "stop")

    def __init__(self, content: bytes, body: Body, stop: int) -> None:
        self.content = content
        self.body = body
        self.stop = stop
        """Offset in the pack behind the body's last byte."""


def fetch_head(
    connection: Connection, expected: bytes | None, limits: Limits, check: Callable[[], None] | None = None
) -> Head:
    """Fetch and check a pack's root, and keep the rest of the request that brought it.

    Args:
        connection: to the source of the pack.
        expected: the pinned digest, or None.
        limits: bounds on the root's size.
        check: called before each wait for bytes; what it raises ends the reading.

    Raises:
        FetchError: the source failed.
        PackFormatError: this is no pack.
        IntegrityError: it is not the pinned pack.
    """
    body = connection.get(0, HEAD)
    stop = body.size
    start = bytearray(min(SKIPPABLE_HEADER, body.total))
    read_exactly(body, memoryview(start), check)
    size = root_size(start, limits=limits)
    if SKIPPABLE_HEADER + size > body.total:
        raise PackFormatError(f"the pack is cut off: it has {body.total} bytes and its root alone needs {size}.")
    if SKIPPABLE_HEADER + size > body.size:
        # A root that passes the first request: ask again, for all of it and the frames behind it.
        etag = body.etag
        body.close()
        body = connection.get(SKIPPABLE_HEADER, SKIPPABLE_HEADER + size + HEAD, etag=etag)
        stop = SKIPPABLE_HEADER + body.size
    content = bytearray(size)
    read_exactly(body, memoryview(content), check)
    check_root(content, expected)
    return Head(bytes(content), body, stop)


def read_exactly(body: Body, view: memoryview, check: Callable[[], None] | None = None) -> None:
    """Fill ``view`` from the body.

    Args:
        body: the body.
        view: where its next bytes go.
        check: called before each wait for bytes; what it raises ends the reading.

    Raises:
        PackFormatError: the object ends before the view is full.
    """
    while view:
        if check is not None:
            check()
        count = body.readinto(view)
        if not count:
            raise PackFormatError(
                "the pack is cut off: it ends before its last frame. Push it again; its reference stays the same."
            )
        view = view[count:]


def new_decompressor() -> Decompress:
    """Return a function from a zstd frame and its unpacked size to its content. One a thread.

    Python 3.14 brings zstd itself; before that it is the `zstandard` package.
    """
    try:
        from compression.zstd import ZstdDecompressor, get_frame_info  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        from zstandard import ZstdDecompressor as Decompressor
        from zstandard import frame_content_size

        decompressor = Decompressor()

        def decompress(data: memoryview, size: int) -> bytes:
            if frame_content_size(data) != size:  # it decides what is allocated
                return b""
            return decompressor.decompress(data, max_output_size=size, allow_extra_data=False)

        return decompress

    def decompress_stdlib(data: memoryview, size: int) -> bytes:
        if get_frame_info(data).decompressed_size != size:  # as the format says, and as `zstandard` has it above
            return b""
        state = ZstdDecompressor()  # the standard library's object serves one frame
        content: bytes = state.decompress(data, size)
        return content if state.eof and not state.unused_data else b""

    return decompress_stdlib


def unpack(decompress: Decompress, packed: memoryview, frame: Frame) -> bytes:
    """Decompress a checked frame.

    Raises:
        PackFormatError: it does not hold what the index says.
    """
    return _decompressed(decompress, packed, frame.unpacked, f"frame {frame.number}")


def unpack_index(root: Root, packed: memoryview, decompress: Decompress) -> bytes:
    """Check and decompress the index.

    Raises:
        IntegrityError: it is not the index that the root promises.
        PackFormatError: it does not hold what the root says.
    """
    root.check_index(packed)
    return _decompressed(decompress, packed, root.index_unpacked, "the index")


def _decompressed(decompress: Decompress, packed: memoryview, size: int, what: str) -> bytes:
    try:
        content = decompress(packed, size)
    except Exception as error:  # zstandard and compression.zstd each have a ZstdError of their own
        raise PackFormatError(f"{what} of the pack is no zstd frame: {error}. Build the pack again.") from error
    if len(content) != size:
        raise PackFormatError(f"{what} of the pack does not unpack to the {size} bytes that its index promises.")
    return content
