"""What happens when a thousand or ten thousand sandboxes start from one pack: a simulation, seeded and repeatable.

Each sandbox sends what the real client would send, because the client's own code plans it (`lazydeps._plan`): the first
request and the early ones beside it, then what the root makes known, then what the index does, over as many
connections, with the client's own tries and pauses where S3 refuses. Python's own work is left out: nothing but the
network takes time here, so that requests come closer together than in life.

Documented by AWS:

- S3 serves at least 5,500 GETs a second for each partitioned prefix and answers 503 SlowDown above what it serves. It
  splits a prefix under sustained load, gradually. A new prefix has no partition of its own yet: ``--prefixes`` counts
  prefixes that have one. https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html
- 85 to 90 MB/s over one connection.
  https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance-design-patterns.html
- Refused requests are not billed. https://docs.aws.amazon.com/AmazonS3/latest/userguide/ErrorCodeBilling.html
- Lambda gives one function at most 1,000 new sandboxes in 10 seconds: ten thousand at once are several functions
  with one pack, and ten thousand of one function come over 100 seconds.
  https://docs.aws.amazon.com/lambda/latest/dg/scaling-behavior.html
- An init that takes 10 seconds is stopped, and run again under the function's timeout.
  https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html

Measured by others, not promised by anybody: a sandbox's network gives about 300 MiB at up to 1.2 GiB/s and 75 MiB/s
from then on; S3's first byte takes 27 ms (median), 75 ms (95th percentile) and, rarely, seconds.
https://arxiv.org/abs/2501.07771

Assumed here: S3 counts requests in a token bucket of a tenth of a second's worth; a refused request uses up nothing
and its answer takes as long as a first byte; a prefix that has refused for half an hour is split in two (AWS staff
speak of 30 to 60 minutes, https://repost.aws/knowledge-center/s3-object-key-naming-pattern), which no storm here lives
to see; a new connection takes 5 ms; first bytes are log-normal, and one in ten thousand takes 1 to 10 seconds more.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from bisect import insort
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from heapq import heappop, heappush
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from lazydeps._config import CONNECTIONS, SOCKET_TIMEOUT
from lazydeps._fetch import HEAD
from lazydeps._pack import SKIPPABLE_HEADER, Section
from lazydeps._plan import GATHERED, Early, Plan, early_ranges
from lazydeps._retry import ATTEMPTS, REFUSAL_SECONDS, backoff
from lazydeps.build.read import as_ref, open_pack

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lazydeps._pack import Root

Backoff = Callable[[int, float | None, float], float]
"""From the number of failed tries, the seconds that the server asked for, and a random number below 1, to seconds."""

NORMAL_95 = 1.6448536269514722
"""The 95th percentile of the standard normal distribution."""
INIT_LIMIT = 10.0
"""Seconds that Lambda gives an init."""
STORMS = ((1_000, 0.0), (1_000, 10.0), (10_000, 0.0), (10_000, 10.0), (10_000, 100.0))
"""Sandboxes, and the seconds over which they start."""
PREFIXES = (1, 2, 4, 10)


# -- what a client does


def full_jitter(base: float, cap: float) -> Backoff:
    """Return the backoff that doubles from ``base`` seconds up to ``cap`` and picks any pause up to that.

    See https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/.
    """

    def pause(tries: int, retry_after: float | None, random: float) -> float:
        return max(min(retry_after or 0.0, cap), min(cap, base * 2.0 ** min(tries, 32)) * random)

    return pause


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a client does about refusals."""

    name: str
    attempts: int | None
    """How often a request is sent before its failure is final; None: any number of times."""
    budget: float = math.inf
    """Seconds from a request's first failure after which the next one is final."""
    backoff: Backoff = backoff
    narrow: int | None = None
    """How many connections go on after a refusal, for the rest of the start; None: all of them."""
    merge: int = 0
    """Up to how many bytes neighbouring requests become one after a refusal."""


CLIENT = Policy(name="client", attempts=None, budget=REFUSAL_SECONDS, merge=GATHERED)
"""The client as it is, but that its connections pause together and these each for itself."""
COUNTING = Policy(name="counting", attempts=ATTEMPTS)
"""A client that takes a refusal for a failure like any other."""
PATIENT = Policy(name="patient", attempts=None, budget=REFUSAL_SECONDS)
"""A client that waits, and goes on with as many requests as before."""
POLICIES = {policy.name: policy for policy in (CLIENT, COUNTING, PATIENT)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The requests of one start, by the bytes that they bring."""

    root: int
    """The first request up to the end of the root; only then is it known what else to ask for."""
    head: int
    """What else the first request brings: the first boot frames."""
    early: tuple[int, ...]
    """Requests that are sent beside the first one. What one of them fails to bring is queued before everything else."""
    queue: tuple[int, ...]
    """Requests that the root makes known."""
    index: int
    """Which request brings the index: 0 for the first one, then the early ones and those of the queue, in order."""
    data: tuple[int, ...]
    """Requests that the index makes known."""
    connections: int

    @property
    def requests(self) -> int:
        """How many they are where none is refused."""
        return 1 + len(self.early) + len(self.queue) + len(self.data)

    @property
    def size(self) -> int:
        """Bytes that they bring."""
        return self.root + self.head + sum(self.early) + sum(self.queue) + sum(self.data)

    def cut(self, requests: int) -> Start:
        """Return a start with the same bytes in this many requests: the first one, and equal ones in one queue.

        Raises:
            ValueError: it takes at least two.
        """
        if requests < 2:
            raise ValueError(f"a start takes at least 2 requests, not {requests}.")
        rest = self.size - self.root - self.head
        return replace(self, early=(), queue=_pieces(rest, requests - 1), index=requests - 1, data=())


def _pieces(size: int, count: int) -> tuple[int, ...]:
    return tuple(size * (at + 1) // count - size * at // count for at in range(count))


def plan_start(root: Root, rest: Section, *, connections: int = CONNECTIONS) -> Start:
    """Return the requests that the client makes for a pack's boot and data sets, by the client's own `Plan`.

    Args:
        root: of the pack; asked for nothing but where things lie.
        rest: the section of the data and cold frames.
        connections: as `Config.connections`.

    Raises:
        ValueError: the root is larger than the first request, which this simulation does not know.
    """
    begin = root.boot.starts[0]
    if begin > HEAD:
        raise ValueError(f"the pack's root takes {begin} bytes: more than the first request brings, {HEAD}.")
    end = rest.starts[-1]
    first, early = Early(begin, min(HEAD, end)), early_ranges(connections)
    for one in early:
        one.open = one.start < end
    plan = Plan(root, None, missing=list, early=[first, *early])
    index_start, index_stop = root.index_span
    queue: list[int] = []
    brings_index = None
    while (request := plan.take()) is not None:
        size = sum(request.section.packed[number - request.section.first] for number in request.frames)
        if request.index:
            size += index_stop - index_start + (SKIPPABLE_HEADER if request.frames else 0)
            brings_index = 1 + len(early) + len(queue)
        queue.append(size)
    if brings_index is None:  # an early one does, or the first
        brings_index = next(at for at, one in enumerate([first, *early]) if one.stop >= index_stop)
    plan.add_index(rest)
    data = []
    while (request := plan.take()) is not None:
        data.append(sum(rest.packed[number - rest.first] for number in request.frames))
    return Start(
        root=begin,
        head=first.stop - begin,
        early=tuple(max(0, min(one.stop, end) - one.start) for one in early),
        queue=tuple(queue),
        index=brings_index,
        data=tuple(data),
        connections=connections,
    )


def read_start(pack: str, *, connections: int = CONNECTIONS) -> Start:
    """Return the requests of a start from this pack: a path or a reference.

    Raises:
        LazydepsError: it cannot be read.
    """
    with open_pack(as_ref(pack)) as opened:
        return plan_start(opened.root, opened.rest, connections=connections)


def invent_start(boot: int, data: int, *, connections: int = CONNECTIONS, frame: int = 256 << 10) -> Start:
    """Return the requests of a start from a pack that nobody has built.

    Args:
        boot: packed bytes of its boot set.
        data: packed bytes of its data set.
        connections: as `Config.connections`.
        frame: packed bytes of its frames.
    """
    head, index = 128 << 10, 128 << 10
    boot_section = _section(_pieces(boot, math.ceil(boot / frame)), first=0, start=head)
    index_start = head + boot + SKIPPABLE_HEADER
    rest = _section(_pieces(data, math.ceil(data / frame)), first=len(boot_section), start=index_start + index)
    frames = rest.first + len(rest)
    root = SimpleNamespace(
        boot=boot_section, index_span=(index_start, index_start + index), data_stop=frames, frames=frames
    )
    return plan_start(cast("Root", root), rest, connections=connections)


def _section(packed: Sequence[int], *, first: int, start: int) -> Section:
    table = {"paths": [], "offsets": [], "sizes": [], "executable": [], "digests": ""}
    return Section({**table, "packed": list(packed), "unpacked": list(packed)}, first=first, start=start, base=0)


# -- what S3 and the network do


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """S3, and the network between it and one sandbox. Seconds, bytes, bytes a second."""

    rate: float = 5500.0
    """Requests a second that a prefix serves."""
    window: float = 0.1
    """Seconds' worth of requests that a prefix serves at once after a rest."""
    split_after: float = 1800.0
    """Seconds from its first refusal after which a prefix is split, which doubles what it serves."""
    first_byte: float = 0.027
    """Median."""
    first_byte_95: float = 0.075
    """95th percentile."""
    outliers: float = 1e-4
    """Share of the answers that are late."""
    late: tuple[float, float] = (1.0, 10.0)
    """How late those are: any time between these."""
    connect: float = 0.005
    """A new connection, TLS included."""
    connection_rate: float = 90e6
    burst: float = 300 * 2**20
    """What a sandbox may receive at `burst_rate` after a rest."""
    burst_rate: float = 1.2 * 2**30
    steady_rate: float = 75 * 2**20
    """What it may receive from then on, and what fills the burst up again."""


class _Prefix:
    """What decides whether S3 serves a request."""

    __slots__ = ("_at", "_rate", "_refusing_since", "_split_after", "_tokens", "_window")

    def __init__(self, service: Service) -> None:
        self._rate = service.rate
        self._window = service.window
        self._split_after = service.split_after
        self._tokens = service.rate * service.window
        self._at = 0.0
        self._refusing_since: float | None = None

    def admits(self, now: float) -> bool:
        """Whether a request that comes now is served."""
        self._tokens = min(self._rate * self._window, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return True
        if self._refusing_since is None:
            self._refusing_since = now
        elif now - self._refusing_since >= self._split_after:
            self._rate *= 2.0
            self._refusing_since = None
        return False


class _Link:
    """A sandbox's network: its connections share alike what the burst, or the steady rate, leaves them."""

    __slots__ = ("_at", "_left", "_rate", "_service", "_tokens", "version")

    def __init__(self, service: Service, now: float) -> None:
        self._service = service
        self._left: dict[int, float] = {}
        self._tokens = float(service.burst)
        self._rate = 0.0
        self._at = now
        self.version = 0
        """Rises with every change, so that an event planned before it can be told from one that counts."""

    def begin(self, connection: int, size: float, now: float) -> float:
        """Let a connection receive this many bytes. Return when the next change is due."""
        self._advance(now)
        self._left[connection] = size
        return self._plan()

    def step(self, now: float) -> tuple[list[int], float | None]:
        """Return the connections that have received all of theirs, and when the next change is due."""
        self._advance(now)
        done = [connection for connection, left in self._left.items() if left < 0.5]
        for connection in done:
            del self._left[connection]
        return done, self._plan() if self._left else None

    def _advance(self, now: float) -> None:
        seconds, self._at = now - self._at, now
        received = self._rate * seconds if self._left else 0.0
        for connection in self._left:
            self._left[connection] -= received
        service = self._service
        level = self._tokens + service.steady_rate * seconds - received * len(self._left)
        self._tokens = min(service.burst, level) if level > 1.0 else 0.0

    def _plan(self) -> float:
        self.version += 1
        service, count = self._service, len(self._left)
        total = service.burst_rate if self._tokens else service.steady_rate
        self._rate = min(service.connection_rate, total / count)
        soonest = min(self._left.values()) / self._rate
        drain = self._rate * count - service.steady_rate
        if self._tokens and drain > 0:
            soonest = min(soonest, self._tokens / drain)
        return self._at + soonest


# -- the simulation


class _Request:
    """A request on its way from the plan to its last byte. Ordered by where its bytes lie."""

    __slots__ = ("early", "failed_at", "first", "last", "size", "tries")

    def __init__(self, position: int, size: int, *, early: bool = False) -> None:
        self.first = self.last = position
        """Positions of its first and last piece among those of the start; neighbours may merge."""
        self.size = size
        self.early = early
        """Whether it is sent before the root is known, and so only once."""
        self.tries = 0
        self.failed_at: float | None = None

    def __lt__(self, other: _Request) -> bool:
        return self.first < other.first


class _Sandbox:
    """One start under way."""

    __slots__ = (
        "active",
        "began",
        "ended",
        "idle",
        "indexed",
        "known",
        "limit",
        "link",
        "open",
        "prefix",
        "queue",
        "receiving",
        "refused",
    )

    def __init__(self, connections: int, prefix: _Prefix, service: Service, began: float) -> None:
        self.began = began
        self.prefix = prefix
        self.queue: list[_Request] = []
        """What is still to be asked for, in the order of the pack."""
        self.idle: list[int] = []
        """Connections that wait for something to ask for."""
        self.open = [False] * connections
        self.receiving: dict[int, _Request] = {}
        self.link = _Link(service, began)
        self.active = 0
        """Requests that some connection has taken and not brought yet."""
        self.limit = connections
        """How many of those there may be."""
        self.known = False
        """Whether the root has come. Until then nothing is taken from the queue."""
        self.indexed = False
        """Whether the index has come."""
        self.refused = False
        """Whether S3 has refused this sandbox anything."""
        self.ended = False


class _Storm:
    """A heap of events, each a step of one sandbox."""

    def __init__(
        self, start: Start, policy: Policy, service: Service, *, sandboxes: int, spread: float, prefixes: int, seed: int
    ) -> None:
        self._start, self._policy, self._service = start, policy, service
        self._random = Random(seed)
        self._mu = math.log(service.first_byte)
        self._sigma = (math.log(service.first_byte_95) - self._mu) / NORMAL_95
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0
        self.sent = self.served = self.refused = self.timed_out = self.retries = self.failed = 0
        self.seconds: list[float] = []
        """Of the starts that ended well."""
        self.now = 0.0
        places = [_Prefix(service) for _ in range(prefixes)]
        for at in range(sandboxes):
            began = spread * at / sandboxes
            self._at(began, self._begin, _Sandbox(start.connections, places[at % prefixes], service, began))

    def run(self) -> None:
        """Let every sandbox come to its end."""
        events = self._events
        while events:
            time, _, step, arguments = heappop(events)
            if not arguments[0].ended:
                self.now = time
                step(*arguments)

    def _at(self, time: float, step: Callable[..., None], *arguments: Any) -> None:
        self._number += 1
        heappush(self._events, (time, self._number, step, arguments))

    def _begin(self, sandbox: _Sandbox) -> None:
        """Send the first request and, each over a connection of its own, the early ones."""
        start = self._start
        early = [_Request(at, size, early=True) for at, size in enumerate(start.early, start=1)]
        for connection, request in enumerate([_Request(0, start.root), *early]):
            sandbox.active += 1
            self._ask(sandbox, connection, request)
        # Connections that began with no early request have nothing to do yet.
        sandbox.idle += range(1 + len(early), start.connections)

    def _ask(self, sandbox: _Sandbox, connection: int, request: _Request, pause: float = 0.0) -> None:
        """Send a request after a pause, over a connection that may have to be opened first."""
        if sandbox.open[connection]:
            self._send(sandbox, connection, request)
        else:
            sandbox.open[connection] = True
            self._at(self.now + pause + self._service.connect, self._send, sandbox, connection, request)

    def _send(self, sandbox: _Sandbox, connection: int, request: _Request) -> None:
        self.sent += 1
        answer = self._random.lognormvariate(self._mu, self._sigma)
        if self._random.random() < self._service.outliers:
            answer += self._random.uniform(*self._service.late)
        if not sandbox.prefix.admits(self.now):
            self.refused += 1
            self._at(self.now + min(answer, SOCKET_TIMEOUT), self._fail, sandbox, connection, request, True)
        elif answer > SOCKET_TIMEOUT:
            self.timed_out += 1
            self._at(self.now + SOCKET_TIMEOUT, self._fail, sandbox, connection, request, False)
        else:
            self.served += 1
            self._at(self.now + answer, self._receive, sandbox, connection, request, request.size)

    def _receive(self, sandbox: _Sandbox, connection: int, request: _Request, size: int) -> None:
        sandbox.receiving[connection] = request
        due = sandbox.link.begin(connection, size, self.now)
        self._at(due, self._step, sandbox, sandbox.link.version)

    def _step(self, sandbox: _Sandbox, version: int) -> None:
        """See to the connections that have received all of theirs, unless a later change has moved this one."""
        if version != sandbox.link.version:
            return
        done, due = sandbox.link.step(self.now)
        if due is not None:
            self._at(due, self._step, sandbox, sandbox.link.version)
        for connection in done:
            self._received(sandbox, connection, sandbox.receiving.pop(connection))

    def _received(self, sandbox: _Sandbox, connection: int, request: _Request) -> None:
        start = self._start
        if request.first == 0 and not sandbox.known:
            # The root says what else there is: the others go on, and this connection with the rest of its request.
            sandbox.known = True
            for at, size in enumerate(start.queue, start=1 + len(start.early)):
                insort(sandbox.queue, _Request(at, size))
            self._wake(sandbox)
            if start.head:
                self._receive(sandbox, connection, request, start.head)
                return
        if request.first <= start.index <= request.last and not sandbox.indexed:
            sandbox.indexed = True
            for at, size in enumerate(start.data, start=2 + len(start.early) + len(start.queue)):
                insort(sandbox.queue, _Request(at, size))
        sandbox.active -= 1
        self._next(sandbox, connection)
        self._wake(sandbox)
        if not sandbox.active and not sandbox.queue:
            sandbox.ended = True
            self.seconds.append(self.now - sandbox.began)

    def _wake(self, sandbox: _Sandbox) -> None:
        while sandbox.idle and sandbox.known and sandbox.queue and sandbox.active < sandbox.limit:
            self._next(sandbox, sandbox.idle.pop(0))

    def _next(self, sandbox: _Sandbox, connection: int) -> None:
        """Give a connection the next request, or let it wait."""
        if not sandbox.known or not sandbox.queue or sandbox.active >= sandbox.limit:
            sandbox.idle.append(connection)
            return
        request = sandbox.queue.pop(0)
        sandbox.active += 1
        self._gather(sandbox, request)
        self._ask(sandbox, connection, request)

    def _gather(self, sandbox: _Sandbox, request: _Request) -> None:
        """Let a request bring what follows it in the pack too, once this sandbox has been refused something."""
        if not sandbox.refused or request.first == 0:
            return
        queue = sandbox.queue
        while (at := next((at for at, other in enumerate(queue) if other.first == request.last + 1), None)) is not None:
            other = queue[at]
            if request.size + other.size > self._policy.merge:
                break
            request.last, request.size = other.last, request.size + other.size
            del queue[at]

    def _fail(self, sandbox: _Sandbox, connection: int, request: _Request, refused: bool) -> None:
        """See to a request that was refused, or whose answer did not come in time."""
        policy = self._policy
        sandbox.open[connection] = False
        if refused:
            sandbox.refused = True
            if policy.narrow is not None:
                sandbox.limit = min(sandbox.limit, policy.narrow)
        if request.early:
            # Sent once: what it was to bring is queued. The connection goes on with whatever is next.
            request.early = False
            sandbox.active -= 1
            insort(sandbox.queue, request)
            self._next(sandbox, connection)
            return
        request.tries += 1
        if request.failed_at is None:
            request.failed_at = self.now
        pause = policy.backoff(request.tries, None, self._random.random())
        spent = self.now + pause - request.failed_at
        if spent > policy.budget or (policy.attempts is not None and request.tries >= policy.attempts):
            sandbox.ended = True
            self.failed += 1
            return
        if sandbox.active > sandbox.limit and request.first:
            # Others are still at it: leave this one to them.
            sandbox.active -= 1
            insort(sandbox.queue, request)
            sandbox.idle.append(connection)
            return
        self._gather(sandbox, request)
        self.retries += 1
        self._ask(sandbox, connection, request, pause)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a storm went. Times are seconds from a sandbox's own start until the last byte of its boot and data sets."""

    policy: str
    sandboxes: int
    spread: float
    """Seconds over which the sandboxes started."""
    prefixes: int
    seed: int
    requests: int
    """Of one start, where none is refused."""
    size: int
    """Bytes of one start."""
    sustained: float
    """Starts a second that all prefixes together serve without a refusal."""
    median: float | None
    """Of the starts that ended well; None where none did."""
    p95: float | None
    p99: float | None
    slowest: float | None
    failed: int
    """Starts that gave up."""
    late: int
    """Starts that ended well after more than Lambda's 10 seconds of init."""
    over: float
    """Seconds from the first start until the last sandbox ended, one way or the other."""
    sent: int
    served: int
    refused: int
    timed_out: int
    """Requests that were admitted, and whose first byte the client did not wait for."""
    retries: int


def simulate(
    start: Start,
    *,
    sandboxes: int,
    spread: float = 0.0,
    prefixes: int = 1,
    policy: Policy = CLIENT,
    service: Service | None = None,
    seed: int = 0,
) -> Outcome:
    """Let sandboxes start, and say how it went. The same arguments give the same outcome.

    Args:
        start: the requests of each start.
        sandboxes: how many there are.
        spread: seconds over which they start, evenly; 0: all at the same instant.
        prefixes: copies of the pack under prefixes with partitions of their own; the sandboxes take turns.
        policy: what the client does about refusals.
        service: S3 and the network. None: as the module describes them.
        seed: of the random numbers.
    """
    service = service or Service()
    storm = _Storm(start, policy, service, sandboxes=sandboxes, spread=spread, prefixes=prefixes, seed=seed)
    storm.run()
    seconds = sorted(storm.seconds)

    def percentile(percent: float) -> float | None:
        return seconds[max(0, math.ceil(len(seconds) * percent / 100) - 1)] if seconds else None

    return Outcome(
        policy=policy.name,
        sandboxes=sandboxes,
        spread=spread,
        prefixes=prefixes,
        seed=seed,
        requests=start.requests,
        size=start.size,
        sustained=prefixes * service.rate / start.requests,
        median=percentile(50),
        p95=percentile(95),
        p99=percentile(99),
        slowest=percentile(100),
        failed=storm.failed,
        late=sum(taken > INIT_LIMIT for taken in seconds),
        over=storm.now,
        sent=storm.sent,
        served=storm.served,
        refused=storm.refused,
        timed_out=storm.timed_out,
        retries=storm.retries,
    )


def storms(start: Start, *, seed: int = 0) -> list[dict[str, Any]]:
    """Return what a report says: `Outcome` records of `STORMS` by `PREFIXES`, and what other policies would do.

    A client that is merely patient is shown for the storms that start at once: there is nothing else to see.
    """
    cases = [(size, spread, prefixes, CLIENT) for size, spread in STORMS for prefixes in PREFIXES]
    cases += [(size, spread, 1, PATIENT) for size, spread in STORMS if not spread]
    cases += [(size, spread, 1, COUNTING) for size, spread in STORMS]
    return [
        asdict(simulate(start, sandboxes=size, spread=spread, prefixes=prefixes, policy=policy, seed=seed))
        for size, spread, prefixes, policy in cases
    ]


# -- the command


def describe(policy: Policy) -> str:
    """Say in a sentence what a client does about refusals."""
    shown = range(1, 7 if policy.attempts is None else policy.attempts)
    pauses = ", ".join(f"{policy.backoff(tries, None, 1.0):g}" for tries in shown)
    parts = [f"{policy.name}: sends a refused request again after a random pause of up to {pauses} s"]
    if policy.attempts is None:
        parts[0] += " and so on"
    else:
        parts.append(f"gives the start up after {policy.attempts} refusals of one request")
    if policy.budget < math.inf:
        parts.append(f"gives the start up {policy.budget:g} s after the first refusal of one request")
    if policy.narrow is not None:
        parts.append(f"goes on with {policy.narrow} of its connections")
    if policy.merge:
        parts.append(f"asks for up to {policy.merge / 2**20:g} MiB at once from then on")
    return "; ".join(parts) + "."


def table(outcomes: Iterable[dict[str, Any]]) -> list[str]:
    """Return the lines of a Markdown table of `Outcome` records."""
    lines = [
        "| policy | sandboxes | over | prefixes | median s | p95 s | p99 s | most s | fail | > 10 s | sent | refused |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for outcome in outcomes:
        times = [outcome[key] for key in ("median", "p95", "p99", "slowest")]
        cells = [
            outcome["policy"],
            f"{outcome['sandboxes']:,}",
            f"{outcome['spread']:g} s" if outcome["spread"] else "at once",
            str(outcome["prefixes"]),
            *("-" if seconds is None else f"{seconds:.2f}" for seconds in times),
            *(f"{outcome[key]:,}" for key in ("failed", "late", "sent", "refused")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate what the command line asks for, and print a table or JSON."""
    options = _parse(arguments)
    if options.pack:
        start = read_start(options.pack, connections=options.connections)
    else:
        boot, data = (round(size * 1e6) for size in (options.boot_size, options.data_size))
        start = invent_start(boot, data, connections=options.connections)
    if options.requests is not None:
        start = start.cut(options.requests)
    service = Service(rate=options.rate, window=options.window)
    if options.sandboxes:
        policies = [_changed(POLICIES[options.policy], options)]
        outcomes = [
            asdict(
                simulate(
                    start,
                    sandboxes=sandboxes,
                    spread=spread,
                    prefixes=prefixes,
                    policy=policies[0],
                    service=service,
                    seed=options.seed,
                )
            )
            for sandboxes in options.sandboxes
            for spread in options.spread
            for prefixes in options.prefixes
        ]
    else:
        policies = list(POLICIES.values())
        outcomes = storms(start, seed=options.seed)
    if options.json:
        print(json.dumps({"start": asdict(start), "outcomes": outcomes}, indent=1))
        return 0
    print(
        f"A start: {start.requests} requests, {start.size / 1e6:.1f} MB, {start.connections} connections. One prefix "
        f"that serves {service.rate:g} GETs a second sustains {service.rate / start.requests:.0f} starts a second.\n"
    )
    print("\n".join(describe(policy) for policy in policies) + "\n")
    print("\n".join(table(outcomes)))
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.storm",
        description="Simulate many sandboxes that start from one pack at once, against S3's documented limits.",
        epilog="Without --sandboxes: the storms of the benchmark's report. What is documented and what is assumed "
        "stands at the head of benchmarks/storm.py.",
    )
    add = parser.add_argument
    add("pack", nargs="?", help="a pack, path or reference, whose requests are sent; without one, a made-up pack's are")
    add("--boot-size", type=float, default=45.0, metavar="MB", help="packed boot set of a made-up pack (%(default)s)")
    add("--data-size", type=float, default=10.0, metavar="MB", help="packed data set of a made-up pack (%(default)s)")
    add("--requests", type=int, metavar="N", help="the same bytes in this many requests a start, none of them early")
    add("--connections", type=int, default=CONNECTIONS, metavar="N", help="connections of a start (%(default)s)")
    add("--sandboxes", type=int, nargs="+", metavar="N", help="how many start")
    add("--spread", type=float, nargs="+", default=[0.0], metavar="SECONDS", help="over which they start (at once)")
    add("--prefixes", type=int, nargs="+", default=[1], metavar="N", help="copies of the pack, a partition each (1)")
    add("--rate", type=float, default=Service().rate, help="GETs a second that a prefix serves (%(default)g)")
    add("--window", type=float, default=Service().window, help="seconds' worth it serves at once (%(default)s)")
    add("--policy", choices=POLICIES, default=CLIENT.name, help="for refusals; the next five options change it")
    add("--attempts", type=int, metavar="N", help="tries of a request")
    add("--pauses", type=float, nargs=2, metavar=("BASE", "CAP"), help="up to BASE * 2^tries seconds, at most CAP")
    add("--budget", type=float, metavar="SECONDS", help="from a request's first failure to its last try")
    add("--narrow", type=int, metavar="N", help="connections after a refusal")
    add("--merge", type=float, metavar="MIB", help="largest request after a refusal")
    add("--seed", type=int, default=0, help="of the random numbers (%(default)s)")
    add("--json", action="store_true", help="print the requests of a start and the outcomes as JSON")
    return parser.parse_args(arguments)


def _changed(policy: Policy, options: argparse.Namespace) -> Policy:
    """Return the policy with what the command line says otherwise."""
    changes: dict[str, Any] = {
        name: value for name in ("attempts", "budget", "narrow") if (value := getattr(options, name)) is not None
    }
    if options.merge is not None:
        changes["merge"] = round(options.merge * 2**20)
    if options.pauses is not None:
        changes["backoff"] = full_jitter(*options.pauses)
    return replace(policy, name=f"{policy.name}, changed", **changes) if changes else policy


if __name__ == "__main__":
    sys.exit(main())
