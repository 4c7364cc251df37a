"""What a worker still has to fetch, and in which requests: bookkeeping under the worker's lock, no I/O.

A frame is wanted, then queued in a request, then flying, then landed. Early requests are the exception: they are sent
before the root says where frames begin, so that their ranges are turned into frames afterwards.
"""

from __future__ import annotations

from _bisect import bisect_right

from ._fetch import HEAD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ._pack import Root, Section
else:
    from _collections import deque  # what `collections` is made of costs a millisecond less

EARLY = 2 << 20
"""Bytes of each early request. They are sent beside the first one, a connection each, for what lies behind its bytes:
while S3 thinks about an answer, several megabytes could have come."""
BOOT = 4 << 20
"""Bytes of the requests for boot frames that follow: large enough that a start makes few, and small enough that what is
needed first is not held up by what is needed later."""
LARGEST = 8 << 20
"""Bytes of other requests."""
GATHERED = 64 << 20
"""Bytes of requests once the source has asked for fewer of them."""
INDEX = -1
"""Stands for the index where frames are numbered."""


class Request:
    """A run of neighbouring frames, perhaps with the index behind it, that one ranged GET brings."""

    __slots__ = ("frames", "index", "section", "tries")

    def __init__(self, section: Section, frames: Iterable[int], *, index: bool = False) -> None:
        self.section = section
        self.frames = deque(frames)
        """What is still to come."""
        self.index = index
        """Whether the index is still to come, too. It lies behind the last boot frame."""
        self.tries = 0
        """How often it has failed since a frame of it landed."""


class Early:
    """A range that is asked for before anybody knows what lies in it. It may begin and end in the midst of a frame."""

    __slots__ = ("open", "start", "stop")

    def __init__(self, start: int, stop: int) -> None:
        self.start = start
        """Where what is still to come begins: whoever receives it moves this on."""
        self.stop = stop
        self.open = True
        """Whether what lies in it may still come."""

    def overlap(self, begin: int, end: int) -> int:
        """Return how many bytes of another range lie in this one."""
        return max(0, min(end, self.stop) - max(begin, self.start))


class _Half:
    """Something whose bytes come by two early requests."""

    __slots__ = ("content", "missing")

    def __init__(self, size: int) -> None:
        self.content = bytearray(size)
        self.missing = size
        """Bytes that have not come yet."""


def early_ranges(connections: int) -> list[Early]:
    """Return the ranges to ask for beside the first request, one for each further connection."""
    return [Early(HEAD + at * EARLY, HEAD + (at + 1) * EARLY) for at in range(connections - 1)]


class Plan:
    """The work on one pack, from the moment its root is known. Every call needs the worker's lock."""

    def __init__(
        self,
        root: Root,
        rest: Section | None,
        *,
        missing: Callable[[Iterable[int]], list[int]],
        only: Sequence[int] | None = None,
        complete: bool = False,
        early: Sequence[Early] = (),
    ) -> None:
        """Queue everything that is wanted and not coming by an early request.

        Args:
            root: the pack's root.
            rest: the section of the data and cold frames, if it is known.
            missing: tells which of some frames have not landed.
            only: the wanted data and cold frames. None: the boot and data sets.
            complete: every frame.
            early: what has been asked for already.
        """
        self.root = root
        self.rest: Section | None = None
        self._missing = missing
        self._only = only
        self._stop = root.frames if complete else root.data_stop
        self._boot, self._largest = BOOT, LARGEST
        self._queue: deque[Request] = deque()
        self._flying: set[int] = set()
        """Frames, and the index, that a connection has asked for and that have not landed."""
        self._early = early
        self._expected: set[int] = set()
        """Those of them that early requests bring."""
        self._halves: dict[int, _Half] = {}
        boot = root.boot
        if only is None:
            self._expect(boot)
            self._queue.extend(self._requests(boot, self._lacking(range(len(boot)))))
        if rest is not None:
            self.add_index(rest)
        elif INDEX not in self._flying:
            if self._queue and self._queue[-1].frames[-1] == len(boot) - 1:
                self._queue[-1].index = True
            else:
                self._queue.append(Request(boot, (), index=True))

    def __len__(self) -> int:
        return len(self._queue)

    def section_of(self, number: int) -> Section:
        """Return the section that a frame belongs to."""
        if number < len(self.root.boot):
            return self.root.boot
        assert self.rest is not None
        return self.rest

    def add_index(self, rest: Section) -> None:
        """Queue what the index makes known."""
        self.rest = rest
        self._flying.discard(INDEX)
        wanted: Iterable[int] = range(rest.first, self._stop) if self._only is None else self._only
        if self._only is None:
            self._expect(rest)
        self._queue.extend(self._requests(rest, self._lacking(wanted)))

    def landed(self, number: int) -> None:
        """Note that a frame is in place."""
        self._flying.discard(number)

    def demand(self, first: int, stop: int) -> None:
        """Put these frames before everything else; before the index is known, put that there."""
        if self.rest is not None:
            if first >= 0:
                self._queue.extendleft(reversed(self._requests(self.rest, self._missing(range(first, stop)))))
            return
        # The index names the cold frames, so whoever asks for some has read it, or asks for it.
        for request in self._queue:
            if request.index:
                request.index = False
                self._queue.appendleft(Request(request.section, (), index=True))
                break

    def take(self) -> Request | None:
        """Return the next request that has anything left to bring."""
        while self._queue:
            request = self._queue.popleft()
            self._trim(request)
            if request.frames or request.index:
                return request
        return None

    def _trim(self, request: Request) -> None:
        """Leave in a request the first run of neighbours that nobody has brought or is bringing; queue what follows.

        A demand may have taken frames out of its middle, and one GET brings neighbours only.
        """
        frames = self._lacking(request.frames)
        run = next((at for at, number in enumerate(frames) if number != frames[0] + at), len(frames))
        apart = request.index and bool(frames) and frames[:run][-1] != len(self.root.boot) - 1
        if run < len(frames) or apart:
            self._queue.appendleft(Request(request.section, frames[run:], index=request.index))
            request.index = False
        request.frames = deque(frames[:run])
        request.index = request.index and self.rest is None and INDEX not in self._flying
        self._flying.update(request.frames)
        if request.index:
            self._flying.add(INDEX)

    def _lacking(self, frames: Iterable[int]) -> list[int]:
        return [number for number in self._missing(frames) if number not in self._flying]

    def _requests(self, section: Section, frames: Sequence[int]) -> list[Request]:
        """Group frames into requests, neighbours together."""
        requests: list[Request] = []
        largest = self._boot if section is self.root.boot else self._largest
        room = 0
        for number in frames:
            packed = section.packed[number - section.first]
            if requests and requests[-1].frames[-1] == number - 1 and packed <= room:
                requests[-1].frames.append(number)
                room -= packed
            else:
                requests.append(Request(section, (number,)))
                room = largest - packed
        return requests

    def gather(self, refused: Request | None = None) -> None:
        """Make fewer, larger requests of what is queued, because the source has asked for fewer.

        Args:
            refused: a request that it did not serve, to be queued again ahead of the rest.
        """
        self._boot = self._largest = GATHERED
        if refused is not None:
            self._flying.difference_update(refused.frames)
            if refused.index:
                self._flying.discard(INDEX)
            self._queue.appendleft(refused)
        gathered: list[Request] = []
        room = 0
        for request in self._queue:
            packed = sum(request.section.packed[number - request.section.first] for number in request.frames)
            last = gathered[-1] if gathered else None
            if (
                last is not None
                and last.frames
                and request.frames
                and not last.index
                and last.section is request.section
                and last.frames[-1] + 1 == request.frames[0]
                and packed <= room
            ):
                last.frames.extend(request.frames)
                last.index = request.index
                last.tries = max(last.tries, request.tries)
                room -= packed
            else:
                gathered.append(request)
                room = GATHERED - packed
        self._queue = deque(gathered)

    # -- early requests

    def contents(self, early: Early, wait_for_index: Callable[[], None]) -> Iterator[tuple[int, int, int]]:
        """Yield number, first byte and the byte behind the last of everything that an early range has a part of.

        Args:
            early: the range.
            wait_for_index: called, without the lock, when nothing more can be said before the index is known.
        """
        yield from self._frames_in(self.root.boot, early)
        begin, end = self.root.index_span
        if early.overlap(begin, end):
            yield INDEX, begin, end
        if end < early.stop:
            wait_for_index()
            if self.rest is not None:
                yield from self._frames_in(self.rest, early)

    def _frames_in(self, section: Section, early: Early) -> Iterator[tuple[int, int, int]]:
        for at in range(max(0, bisect_right(section.starts, early.start) - 1), len(section)):
            if section.starts[at] >= early.stop or section.first + at >= self._stop:
                break
            if section.starts[at + 1] > early.start:
                yield section.first + at, section.starts[at], section.starts[at + 1]

    def expects(self, number: int) -> bool:
        """Whether a frame, or the index, is still to come by an early request."""
        return number in self._expected

    def join(self, number: int, size: int, offset: int, part: memoryview) -> bytearray | None:
        """Keep a part of something of this size; return all of it when the other part has come too."""
        half = self._halves.setdefault(number, _Half(size))
        half.content[offset : offset + len(part)] = part
        half.missing -= len(part)
        return None if half.missing else self._halves.pop(number).content

    def received(self, number: int) -> None:
        """Note that something has come by an early request, and that the caller lands it or calls `give_back`."""
        self._expected.discard(number)

    def give_back(self, number: int) -> None:
        """Queue something again, ahead of the rest, that has come and could not be landed."""
        self._flying.discard(number)
        self._queue_first([number])

    def close(self, early: Early) -> None:
        """Queue again, ahead of the rest, what an early request was to bring and no longer will."""
        early.open = False
        lost = []
        for number in sorted(self._expected):
            begin, end = self.root.index_span
            if number != INDEX:
                section = self.section_of(number)
                begin, end = section.starts[number - section.first], section.starts[number - section.first + 1]
            half = self._halves.get(number)
            if self._coming(begin, end) < (half.missing if half else end - begin):
                lost.append(number)
        for number in lost:
            self._expected.discard(number)
            self._flying.discard(number)
            self._halves.pop(number, None)
        self._queue_first(lost)

    def _queue_first(self, numbers: Sequence[int]) -> None:
        boot = len(self.root.boot)
        if self.rest is not None:
            frames = [number for number in numbers if number >= boot]
            self._queue.extendleft(reversed(self._requests(self.rest, frames)))
        if INDEX in numbers:
            self._queue.appendleft(Request(self.root.boot, (), index=True))
        frames = [number for number in numbers if 0 <= number < boot]
        self._queue.extendleft(reversed(self._requests(self.root.boot, frames)))

    def _expect(self, section: Section) -> None:
        """Note what of a section, and of the index behind the boot frames, the early requests will bring."""
        for early in self._early:
            for number, begin, end in self._frames_in(section, early):
                if self._coming(begin, end) == end - begin and self._lacking((number,)):
                    self._flying.add(number)
                    self._expected.add(number)
        begin, end = self.root.index_span
        if self._early and self.rest is None and self._coming(begin, end) == end - begin:
            self._flying.add(INDEX)
            self._expected.add(INDEX)

    def _coming(self, begin: int, end: int) -> int:
        return sum(early.overlap(begin, end) for early in self._early if early.open)
