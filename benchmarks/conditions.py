"""Under what a start runs: the link, the cores, TLS, and quotas of processor time that stand for memory sizes.

**The link** is a token bucket of the kernel (`tc tbf`), on a pair of virtual interfaces that leads to the server in a
network namespace, where this machine lets us make one. Elsewhere the server shapes it itself, by sleeping between its
writes. Both were measured side by side, science on two cores, 10 rounds: the starts took the same processor time within
2 % (1.49 and 1.51 s at 75 MiB/s, 1.51 and 1.52 s at 3 Gbit/s), the server 0.02 to 0.03 s in either, and the starts'
times did not tell them apart. The kernel's is preferred because no part of it is ours. The cap of one connection, which
is S3's and not the link's, is always the server's.

**Quotas.** Lambda gives a function memory / 1769 MB of a virtual processor. It lifts that during init, where the
processor is boosted whatever the size; so these conditions are what a start costs where there is no boost, such as the
retry of an init that took too long, which runs at the first invocation.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.model import Condition, NotRun
from benchmarks.server import Certificates, ObjectServer
from benchmarks.starts import BUCKET, PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LINKS = {"unshaped": 0.0, "3 Gbit/s": 375e6, "75 MiB/s": 75.0 * 2**20}
"""Bytes a second: what a Lambda function has in a burst, and what it has for good."""
FULL_PROCESSOR = 1769
"""Megabytes of memory at which Lambda gives one virtual processor."""
NAMESPACE = f"{PREFIX}{os.getpid()}"
OUTSIDE, INSIDE = (str(IPv4Address("198.18.0.0") + os.getpid() % 2**15 * 4 + host) for host in (1, 2))
"""Addresses of the link's ends, in the network that RFC 2544 keeps for benchmarks: those of the process's own /30."""
MTU = "9001"
"""Bytes of a packet: EC2's within a region."""
BURST = 256 << 10
"""Bytes that the token bucket lets through at once: the server's writes."""
QUEUE = 4 << 20
"""Bytes that may wait before the bucket."""
PERIOD = 20_000
"""Microseconds over which a quota is counted. Short, so that a start is slowed all along, not stopped and let go."""


def describe(link: str, cores: int, *, tls: bool = False, memory: int | None = None) -> Condition:
    """Return the condition with its label.

    Args:
        link: a name in `LINKS`.
        cores: 1 or 2.
        tls: whether the server speaks TLS.
        memory: megabytes of the Lambda function whose share of a processor is given; None: no quota.
    """
    label = f"{link}, {cores} core{'s' if cores > 1 else ''}" + (", TLS" if tls else "")
    quota = None if memory is None else memory / FULL_PROCESSOR
    return Condition(
        link=LINKS[link],
        cores=cores,
        tls=tls,
        quota=quota,
        label=label + (f", quota of {memory} MB" if memory else ""),
    )


MAIN = describe("3 Gbit/s", 2)
SLOW = describe("75 MiB/s", 2)
CONDITIONS = (
    MAIN,
    SLOW,
    describe("unshaped", 2),
    describe("3 Gbit/s", 1),
    describe("3 Gbit/s", 2, tls=True),
    *(describe("3 Gbit/s", 2, memory=memory) for memory in (512, FULL_PROCESSOR, 3008)),
)


@dataclass(frozen=True, slots=True)
class Group:
    """A control group with a quota, below the one that this process is in."""

    home: Path
    """The folder of the group that this process is in."""
    folder: Path

    @classmethod
    def make(cls, quota: int) -> Group:
        """Make one, in whichever version of control groups has the processor's controller.

        Args:
            quota: microseconds of processor time in each `PERIOD`.

        Raises:
            OSError: there is no such controller, or we may not.
        """
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
        homes = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
        for _, mount, kind, options, *_ in mounts:
            controllers = options.split(",") if kind == "cgroup" else [""] if kind == "cgroup2" else []
            for _, names, path in homes:
                if kind == "cgroup2" and "cpu" not in Path(mount, "cgroup.controllers").read_text().split():
                    continue
                if ("cpu" in names.split(",") and "cpu" in controllers) or (not names and kind == "cgroup2"):
                    home = Path(mount, path.lstrip("/"))
                    group = cls(home, home / f"{PREFIX}{os.getpid()}")
                    group._set_up(quota, unified=kind == "cgroup2")
                    return group
        raise FileNotFoundError("no controller for processors is mounted")

    def _set_up(self, quota: int, *, unified: bool) -> None:
        if unified:
            (self.home / "cgroup.subtree_control").write_text("+cpu")
        self.folder.mkdir()
        try:
            if unified:
                (self.folder / "cpu.max").write_text(f"{quota} {PERIOD}")
            else:
                (self.folder / "cpu.cfs_period_us").write_text(str(PERIOD))
                (self.folder / "cpu.cfs_quota_us").write_text(str(quota))
        except OSError:
            self.folder.rmdir()
            raise

    def enter(self) -> None:
        """Put this process, and so whatever it starts, under the quota."""
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def leave(self) -> None:
        """Take this process out. What it started stays under the quota."""
        (self.home / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self) -> None:
        """Remove the group. Its processes have been killed, and may take a moment to be gone."""
        for _ in range(50):
            with contextlib.suppress(OSError):
                self.folder.rmdir()
                return
            time.sleep(0.1)


@dataclass(frozen=True, slots=True)
class Place:
    """Where starts run."""

    server: ObjectServer
    environ: Mapping[str, str]
    """What leads to the server."""
    cores: frozenset[int]
    group: Group | None
    shaped_by: str
    """``kernel`` or ``server``; empty where nothing is shaped."""

    @contextlib.contextmanager
    def confined(self) -> Iterator[None]:
        """Make what is started within the block run on these cores and under the quota.

        This process takes both upon itself for that long, and its children inherit them: nothing has to be run in the
        child, whose clock ticks already.
        """
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.cores)
        try:
            if self.group is not None:
                self.group.enter()
            yield
        finally:
            if self.group is not None:
                self.group.leave()
            os.sched_setaffinity(0, before)


@contextlib.contextmanager
def arranged(
    condition: Condition, objects: Mapping[str, Path], folder: Path, *, namespaces: bool = True
) -> Iterator[Place]:
    """Run the server and set up what the condition asks for.

    Args:
        condition: what is asked for.
        objects: what the server serves, key to file.
        folder: for certificates; of this run.
        namespaces: whether to shape the link in a network namespace where that can be made.

    Raises:
        NotRun: this machine lacks what the condition needs.
    """
    with contextlib.ExitStack() as stack:
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < condition.cores:
            raise NotRun(f"needs {condition.cores} cores, and there are {len(cores)}")
        certificates = make_certificates(folder) if condition.tls else None
        group = None if condition.quota is None else stack.enter_context(quota_group(condition.quota))
        inside = stack.enter_context(shaped_namespace(condition.link)) if namespaces and condition.link else None
        server = stack.enter_context(
            ObjectServer(objects, BUCKET, rate=condition.link, certificates=certificates)
            if inside is None
            else ObjectServer(objects, BUCKET, certificates=certificates, address=INSIDE, prefix=inside)
        )
        environ = {
            "AWS_ENDPOINT_URL": server.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": f"127.0.0.1,{INSIDE}",
        }
        if certificates is not None:
            environ["AWS_CA_BUNDLE"] = environ["SSL_CERT_FILE"] = str(certificates.authority)
        shaped_by = "" if not condition.link else "server" if inside is None else "kernel"
        # The last cores: a machine's first one gets most of the interrupts.
        yield Place(server, environ, frozenset(cores[-condition.cores :]), group, shaped_by)


@contextlib.contextmanager
def shaped_namespace(rate: float) -> Iterator[tuple[str, ...] | None]:
    """Make a network namespace behind a link with a token bucket, for the length of the block.

    Args:
        rate: bytes a second.

    Yields:
        What runs a command inside; None where no namespace can be made.
    """
    inside = ("ip", "netns", "exec", NAMESPACE)
    ours, theirs = f"lzb{os.getpid()}a", f"lzb{os.getpid()}b"
    bucket = ("rate", f"{int(rate * 8)}bit", "burst", str(BURST), "limit", str(QUEUE))
    try:
        _remove_orphans()
        for command in (
            ("ip", "netns", "add", NAMESPACE),
            ("ip", "link", "add", ours, "mtu", MTU, "type", "veth", "peer", "name", theirs, "netns", NAMESPACE),
            ("ip", "addr", "add", f"{OUTSIDE}/30", "dev", ours),
            ("ip", "link", "set", ours, "up"),
            (*inside, "ip", "addr", "add", f"{INSIDE}/30", "dev", theirs),
            (*inside, "ip", "link", "set", theirs, "mtu", MTU, "up"),
            (*inside, "tc", "qdisc", "add", "dev", theirs, "root", "tbf", *bucket),
        ):
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
        made = True
    except (OSError, subprocess.CalledProcessError):
        made = False
    try:
        yield inside if made else None
    finally:
        with contextlib.suppress(OSError):  # there is no `ip`
            # The pair would go with the namespace, but later, and the next one needs the name.
            for command in (("ip", "link", "del", ours), ("ip", "netns", "del", NAMESPACE)):
                subprocess.run(command, capture_output=True, check=False)


def _remove_orphans() -> None:
    """Remove the namespaces of runs that were killed. The names tell the processes that made them."""
    listed = subprocess.run(("ip", "netns", "list"), capture_output=True, text=True, check=True).stdout
    for name in listed.split():
        owner = name.removeprefix(PREFIX)
        if name.startswith(PREFIX) and owner.isdecimal() and not Path("/proc", owner).exists():
            subprocess.run(("ip", "netns", "del", name), capture_output=True, check=False)


def make_certificates(folder: Path) -> Certificates:
    """Make an authority that lives for a day, and its certificate for the server's addresses.

    Raises:
        NotRun: there is no openssl, or it cannot do that.
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        raise NotRun("TLS needs the openssl command to make certificates, and there is none")
    made = Certificates(folder / "authority.pem", folder / "server.pem", folder / "server.key")
    if made.certificate.exists():
        return made
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    authority_key, request, extensions = folder / "authority.key", folder / "server.csr", folder / "server.ext"
    extensions.write_text(
        f"subjectAltName=IP:127.0.0.1,IP:{INSIDE}\nbasicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
        "extendedKeyUsage=serverAuth\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    authority = ("-x509", "-days", "1", "-subj", "/CN=lazydeps benchmark", "-keyout", authority_key, "-out")
    usage = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    signed = ("-CA", made.authority, "-CAkey", authority_key, "-CAcreateserial", "-days", "1", "-extfile", extensions)
    for arguments in (
        ("req", *new_key, *authority, made.authority, *usage),
        ("req", *new_key, "-subj", "/CN=127.0.0.1", "-keyout", made.key, "-out", request),
        ("x509", "-req", "-in", request, *signed, "-out", made.certificate),
    ):
        done = subprocess.run([openssl, *map(str, arguments)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotRun(f"openssl could not make certificates: {done.stderr.strip().splitlines()[-1:]}")
    return made


@contextlib.contextmanager
def quota_group(processors: float) -> Iterator[Group]:
    """Make a control group with a quota, for the length of the block.

    Args:
        processors: seconds of processor time a second.

    Raises:
        NotRun: none can be made here.
    """
    try:
        made = Group.make(int(processors * PERIOD))
    except OSError as error:
        raise NotRun(f"no control group with a quota can be made here: {error}") from error
    try:
        yield made
    finally:
        made.remove()
