"""The benchmark's harness with tiny work: each contender starts, and what is reported follows from what was seen.

No time is judged here.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import boto3
import pytest

from benchmarks import __main__ as command
from benchmarks import environments, report, trials
from benchmarks.conditions import MAIN, SLOW, arranged, describe
from benchmarks.contenders import known
from benchmarks.environments import Workshop, finished
from benchmarks.model import Built, NotRun, Sample, Work
from benchmarks.server import ObjectServer
from benchmarks.starts import MEMORY, Scratch, StartFailed, start
from lazydeps.build.interpreters import probe

TINY = Work(name="tiny", requirements=("six==1.17.0", "packaging==26.3"), statements="import six, packaging.version")
CONDITION = describe("unshaped", 1)
OURS = ("warm", "no-bytecode", "lazydeps", "lazydeps-refill", "lazydeps-5x", "plain-zip")
"""Contenders that need nothing but Python and an index."""
SHAPED = describe("75 MiB/s", 1)
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def kit(tmp_path_factory):
    return Workshop(tmp_path_factory.mktemp("bench"), probe(sys.executable))


@pytest.fixture
def scratch():
    with Scratch() as made:
        yield made


@pytest.mark.bench_smoke
@pytest.mark.parametrize("name", known())
def test_each_contender_gets_ready(name, kit, scratch, tmp_path):
    """Builds it, starts it in fresh processes, and observes what it takes."""
    results = trials.Results(tell=print)
    trial = trials.Trial(condition=CONDITION, work=TINY, contenders=(name,), rounds=1)
    built = trials.build([trial], known(), kit, results)
    if not built and name not in OURS:
        pytest.skip(f"cannot be made here: {results.not_run[0]['reason']}")
    trials.measure([trial], built, scratch, tmp_path, results, observing=True)
    assert results.not_run == []
    (sample,) = results.samples
    assert (sample.contender, sample.work, sample.round) == (name, "tiny", 1)
    assert sample.seconds > 0
    assert sample.cpu_seconds > 0
    (seen,) = results.observations
    assert seen["peak_memory"] > 1_000_000
    brings = name not in ("warm", "no-bytecode", "lazydeps-refill")
    assert (seen["bytes_received"] > 10_000) is brings
    if can_trace() and sample.seconds < trials.TRACED / 2:
        assert seen["system_calls"] == sum(seen["system_calls_by_name"].values()) > 500
        assert seen["system_calls_by_name"]["openat"] > 10
    lands = brings and name != "snaploader"  # which keeps everything in memory
    assert (seen["landed"] > 10_000) is lands
    assert (seen["peak_store"] > 10_000) is lands


def can_trace():
    strace = shutil.which("strace")
    return strace and subprocess.run([strace, "-o", os.devnull, "true"], capture_output=True).returncode == 0


@pytest.mark.bench_smoke
def test_starts_under_tls(kit, scratch, tmp_path):
    built = known()["lazydeps"].build(TINY, kit)
    with arranged(describe("unshaped", 1, tls=True), built.objects, tmp_path) as place:
        assert place.environ["AWS_ENDPOINT_URL"].startswith("https://")
        facts = start(built, TINY, place, scratch.new()).facts
        assert facts["bytes_received"] > 10_000
        assert place.server.counters()["requests"] >= facts["requests"]


@pytest.mark.bench_smoke
def test_the_command_writes_the_report(kit, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "WORKS", {"tiny": TINY})
    monkeypatch.setattr(command, "WORK_FOLDER", kit.root)
    minor = f"{sys.version_info[0]}.{sys.version_info[1]}"
    asked = ["--works", "tiny", "--links", "unshaped", "--cores", "1", "--rounds", "2", "--python", minor]
    assert command.main([*asked, "--out", str(tmp_path), "--json"]) == 0
    written = json.loads((tmp_path / "report.json").read_text())
    assert json.loads(capsys.readouterr().out) == written["summary"]
    assert [(line["contender"], line["starts"]) for line in written["summary"]] == [("warm", 2), ("lazydeps", 2)]
    assert [module["module"] for module in written["waterfall"]["imports"]] == ["six", "packaging.version"]
    assert written["works"]["tiny"]["pack"]["files"] > 10
    assert written["bare"]["interpreter"]["median"] > 0
    assert "| unshaped, 1 core | lazydeps | 2 |" in (tmp_path / "report.md").read_text()


class Failing:
    """A contender whose process ends before it is ready."""

    name = "failing"
    label = "fails"

    def build(self, work, kit):
        return Built(argv=(sys.executable, "-c", "raise SystemExit('out of luck')"))


class Missing:
    """A contender that cannot be built."""

    name = "missing"
    label = "is not there"

    def build(self, work, kit):
        raise NotRun("not to be had here")


def test_what_fails_is_reported_and_the_others_go_on(kit, scratch, tmp_path):
    contenders = {"failing": Failing(), "missing": Missing(), "warm": Instant()}
    results = trials.Results(tell=print)
    trial = trials.Trial(condition=CONDITION, work=TINY, contenders=tuple(contenders), rounds=2)
    built = trials.build([trial], contenders, kit, results)
    trials.measure([trial], built, scratch, tmp_path, results, observing=False)
    assert [(entry["contender"], entry["work"]) for entry in results.not_run] == [
        ("missing", "tiny"),
        ("failing", "tiny"),
    ]
    assert results.not_run[0]["reason"] == "not to be had here"
    assert results.not_run[1]["reason"] == "unshaped, 1 core: ended before it was ready: out of luck"
    assert [(sample.contender, sample.round) for sample in results.samples] == [("warm", 1), ("warm", 2)]


class Instant:
    """A contender that is ready at once, and would then go on for ever with a child."""

    name = "warm"
    label = "instant"

    code = """if 1:
        import json, os, subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
        facts = {name: os.environ[name] for name in os.environ if name.startswith(("BENCH", "AWS"))}
        os.write(int(os.environ["BENCH_READY"]), b" ")
        facts |= {"cores": sorted(os.sched_getaffinity(0)), "files": os.listdir(os.environ["BENCH_TMP"])}
        facts |= {"pids": [os.getpid(), child.pid]}
        os.write(int(os.environ["BENCH_READY"]), json.dumps(facts).encode())
        time.sleep(1000)
    """

    def build(self, work, kit):
        return Built(argv=(sys.executable, "-c", self.code), environ={"BENCH_OWN": "mine"})


def test_a_start_gets_what_the_contract_says_and_leaves_nothing(kit, scratch, tmp_path):
    built = Instant().build(TINY, kit)
    with arranged(CONDITION, {}, tmp_path) as place:
        facts = start(built, TINY, place, scratch.new()).facts
        again = start(built, TINY, place, scratch.new()).facts
        assert facts["AWS_ENDPOINT_URL"] == place.server.endpoint
    assert (facts["BENCH_OWN"], facts["BENCH_IMPORTS"], facts["BENCH_BUCKET"]) == ("mine", TINY.statements, "bench")
    assert facts["BENCH_TMP"] != again["BENCH_TMP"]
    assert facts["BENCH_KEPT"] == again["BENCH_KEPT"]
    assert facts["files"] == []
    assert len(facts["cores"]) == 1
    assert len(os.sched_getaffinity(0)) >= 1
    wait_until(lambda: not any(alive(pid) for pid in facts["pids"]))


def test_a_link_can_be_shaped_again_and_again(tmp_path):
    def shape():
        with arranged(SHAPED, {}, tmp_path) as place:
            return place.shaped_by, place.server.counters()["requests"]

    assert SHAPED.link > 0
    first = shape()
    assert first[0] in ("kernel", "server")  # without rights, or `ip` and `tc`, there are no namespaces
    assert [shape() for _ in range(4)] == [first] * 4


def test_a_start_without_facts_fails(kit, scratch, tmp_path):
    code = "import os; os.write(int(os.environ['BENCH_READY']), b'[]')"
    with arranged(CONDITION, {}, tmp_path) as place, pytest.raises(StartFailed, match="wrote no JSON object"):
        start(Built(argv=(sys.executable, "-c", code)), TINY, place, scratch.new())


def test_a_program_that_is_not_there_fails(kit, scratch, tmp_path):
    with arranged(CONDITION, {}, tmp_path) as place, pytest.raises(StartFailed, match=r"did not start: .*no such"):
        start(Built(argv=("/no such",)), TINY, place, scratch.new())


def test_a_condition_that_cannot_be_had_is_reported(kit, scratch, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    results = trials.Results(tell=print)
    trial = trials.Trial(condition=describe("unshaped", 1, tls=True), work=TINY, contenders=("warm",), rounds=1)
    trials.measure([trial], {("warm", "tiny"): Built(argv=("no",))}, scratch, tmp_path, results, observing=False)
    assert results.samples == []
    assert "needs the openssl command" in results.not_run[0]["reason"]


def test_nothing_half_made_is_found(tmp_path):
    def fail(partial):
        partial.mkdir()
        (partial / "file").touch()
        raise NotRun("stopped")

    def make(partial):
        partial.mkdir()

    with pytest.raises(NotRun):
        finished(tmp_path / "folder", fail)
    assert not (tmp_path / "folder").exists()
    assert list(finished(tmp_path / "folder", make).iterdir()) == []
    assert finished(tmp_path / "folder", fail).is_dir()


def test_an_interrupt_leaves_nothing(tmp_path):
    """Ctrl-C reaches the whole foreground group; here only the benchmark, which has to see to the others."""
    code = f"""if 1:
        import sys
        sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
        from benchmarks import __main__ as command, contenders
        from test_build_bench import Instant, TINY
        command.WORKS = {{"tiny": TINY}}
        command.known = lambda: {{"warm": Instant()}}
        asked = ["--works", "tiny", "--contenders", "warm", "--cores", "1", "--rounds", "100000"]  # on a shaped link
        sys.exit(command.main([*asked, "--out", {str(tmp_path / "out")!r}]))
    """
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=environ) as process:
        seen = [process.stderr.readline() for _ in range(2)]
        wait_until(lambda: len(children(process.pid)) > 1)
        family = children(process.pid)
        process.send_signal(signal.SIGINT)
        seen += process.stderr.readlines()
        assert process.wait() == 130, seen
    wait_until(lambda: not any(alive(pid) for pid in family))
    assert not (tmp_path / "out").exists()
    made = f"lazydeps-bench-{process.pid}*"
    assert [path for place in (tmp_path, MEMORY, Path("/run/netns")) for path in place.glob(made)] == []


def children(pid):
    try:
        found = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return found + [below for child in found for below in children(child)]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(happened):
    for _ in range(1000):
        if happened():
            return
        time.sleep(0.02)
    pytest.fail("waited in vain")


# The server.


@pytest.fixture
def served(tmp_path):
    """A server with an object, and what is in it."""
    body = os.urandom(3_000_000)
    (tmp_path / "object").write_bytes(body)
    (tmp_path / "page").write_text("<a href='x.whl'>x</a>")
    with ObjectServer({"folder/a key": tmp_path / "object", "simple/x/": tmp_path / "page"}, "bench") as server:
        yield server, body


def ask(server, path, method="GET", **headers):
    connection = http.client.HTTPConnection(server.endpoint.removeprefix("http://"), timeout=30)
    connection.request(method, path, headers={name.replace("_", "-"): text for name, text in headers.items()})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("bytes=0-9", 0, 10),
        ("bytes=2999990-4000000", 2_999_990, 3_000_000),
        ("bytes=100-", 100, None),
        ("bytes=-7", -7, None),
    ],
)
def test_server_sends_ranges(served, wanted, start, stop):
    server, body = served
    answer, got = ask(server, "/bench/folder/a%20key", Range=wanted)
    assert answer.status == 206
    assert got == body[start:stop]
    first = start % len(body)
    assert answer.headers["Content-Range"] == f"bytes {first}-{first + len(got) - 1}/{len(body)}"


def test_server_refuses_as_s3_does(served):
    server, body = served
    whole, got = ask(server, "/bench/folder/a%20key?x-id=GetObject")
    assert (whole.status, got) == (200, body)
    etag = whole.headers["ETag"]
    assert ask(server, "/bench/folder/a%20key", If_Match=etag)[0].status == 200
    answer, text = ask(server, "/bench/folder/a%20key", If_Match='"other"')
    assert (answer.status, b"<Code>PreconditionFailed</Code>" in text) == (412, True)
    answer, text = ask(server, "/bench/nothing")
    assert (answer.status, b"<Code>NoSuchKey</Code>" in text) == (404, True)
    answer, text = ask(server, "/bench/folder/a%20key", Range="bytes=3000000-")
    assert (answer.status, b"<Code>InvalidRange</Code>" in text) == (416, True)


def test_server_keeps_a_connection(served):
    server, body = served
    connection = http.client.HTTPConnection(server.endpoint.removeprefix("http://"), timeout=30)
    connection.request("HEAD", "/bench/folder/a%20key")
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Content-Length"], answer.read()) == (200, "3000000", b"")
    socket = connection.sock
    connection.request("HEAD", "/bench/nothing")
    assert connection.getresponse().read() == b""
    connection.request("GET", "/bench/folder/a%20key", headers={"Range": "bytes=5-9"})
    assert connection.getresponse().read() == body[5:10]
    assert connection.sock is socket
    connection.close()


def test_server_serves_an_index(served):
    answer, text = ask(served[0], "/bench/simple/x/")
    assert (answer.headers["Content-Type"], text) == ("text/html", b"<a href='x.whl'>x</a>")


def test_server_counts(served):
    server, _ = served
    before = server.counters()
    ask(server, "/bench/folder/a%20key", Range="bytes=0-99")
    ask(server, "/bench/nothing")
    after = server.counters()
    assert (after["requests"] - before["requests"], after["sent"] - before["sent"]) == (2, 100)
    assert after["cpu_seconds"] > 0


def test_boto3_downloads_in_parts(served, tmp_path):
    server, body = served
    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id="nobody",
        aws_secret_access_key="nothing",
    )
    settings = boto3.s3.transfer.TransferConfig(multipart_threshold=1 << 20, multipart_chunksize=1 << 20)
    client.download_file("bench", "folder/a key", str(tmp_path / "copy"), Config=settings)
    client.close()
    assert (tmp_path / "copy").read_bytes() == body
    assert server.counters()["requests"] > 3


# What is reckoned.


def samples(contender, work, condition, seconds):
    return [
        Sample(
            contender=contender,
            work=work,
            condition=condition,
            round=number,
            seconds=taken,
            cpu_seconds=2 * taken,
            facts={
                "server": {"cpu_seconds": 0.5},
                "stalls": [{"module": "numpy", "seconds": taken}],
                "phases": [{"name": "all", "start": 0.0, "end": taken}, {"name": "first", "start": 0.0, "end": 0.5}],
            },
        )
        for number, taken in enumerate(seconds, 1)
    ]


def test_summary_compares_within_rounds():
    taken = samples("warm", "science", MAIN.label, [1.0, 2.0, 4.0]) + samples(
        "lazydeps", "science", MAIN.label, [2.0, 2.0, 6.0]
    )
    warm, ours = report.summarize(report.Times(taken))
    assert (warm["ratio"], ours["ratio"]) == (1.0, 1.5)
    assert (ours["median"], ours["low"], ours["high"], ours["cpu_seconds"]) == (2.0, 2.0, 4.0, 4.0)
    assert (ours["ratio_low"], ours["ratio_high"], ours["starts"], ours["server_cpu_seconds"]) == (1.25, 1.75, 3, 0.5)
    assert report.find_stalls(taken[:3]) == [{"module": "numpy", "seconds": 2.0}]
    assert [phase["name"] for phase in report.find_phases(taken[:3])] == ["first", "all"]
    assert report.find_phases(taken[:3])[1]["end"] == 2.0
    (alone,) = report.summarize(report.Times(taken[3:]))
    assert alone["ratio"] is None


def test_targets_are_met_or_missed_or_not_measured():
    results = trials.Results(tell=print)
    results.samples = [
        *samples("warm", "science", MAIN.label, [1.0, 1.0]),
        *samples("lazydeps", "science", MAIN.label, [1.05, 1.07]),
        *samples("no-bytecode", "science", MAIN.label, [2.0, 2.0]),
        *samples("warm", "science", SLOW.label, [1.0, 1.0]),
        *samples("lazydeps", "science", SLOW.label, [1.0, 1.0]),
        *samples("plain-zip", "science", SLOW.label, [7.0, 9.0]),
        *samples("zappa", "science", SLOW.label, [4.0, 4.0]),
        *samples("shiv", "science", SLOW.label, [2.9, 2.9]),
        *samples("warm", "small", MAIN.label, [0.1, 0.1]),
        *samples("lazydeps", "small", MAIN.label, [0.15, 0.17]),
    ]
    results.bare = {"import lazydeps": [0.007, 0.008]}
    seen = {"work": "science", "condition": MAIN.label}
    results.observations = [
        {**seen, "contender": "warm", "peak_memory": 100 << 20, "peak_store": 0, "landed": 0, "requests": 0},
        {**seen, "contender": "lazydeps", "peak_memory": 141 << 20, "peak_store": 102, "landed": 100, "requests": 20},
    ]
    judged = report.judge(results, {"science": {"boot_size": 90_000_000}})
    reached = {line["what"]: (line["reached"].split(" ")[0], line["met"]) for line in judged}
    assert reached == {
        "cold lazydeps / warm local, 2 cores, 3 Gbit/s": ("1.060", True),
        "same, 75 MiB/s": ("1.000", True),
        "same, one core, 3 Gbit/s": ("not", None),
        "same, TLS on, 2 cores, 3 Gbit/s": ("not", None),
        "faster than local import without bytecode": ("1.89", False),
        "faster than the plain zip loader, 75 MiB/s": ("8.00", True),
        "faster than each other rival, 75 MiB/s": ("2.90", False),
        "`small`: cold lazydeps - warm local": ("60.00", True),
        "`import lazydeps` in a bare interpreter": ("7.50", True),
        "resident memory over the warm import, parent + child at peak": ("41.00", False),
        "store at peak / bytes of files landed": ("1.020", True),
        "same imports from a pack with 5 × the cold files": ("not", None),
        "GETs for a 45 MB boot set": ("10.00", True),
        "second start on a filled store / warm local": ("not", None),
        "`torch`: cold / warm local, 2 cores, 3 Gbit/s": ("not", None),
    }
    assert "shiv" in next(line["reached"] for line in judged if "rival" in line["what"])


def test_plan_measures_rivals_on_the_slow_link_only():
    names = list(known())
    planned = trials.plan(list(command.WORKS.values())[:2], names, rounds=10, quick=False)
    rivals = {name for name in names if not name.startswith("lazydeps")} - {"warm", "no-bytecode"}
    assert [trial.condition for trial in planned if rivals & set(trial.contenders)] == [SLOW]
    assert {trial.condition.label for trial in planned} == {condition.label for condition in command.CONDITIONS}
    assert planned[-1].contenders == ("warm", "no-bytecode", "lazydeps")
    assert len(trials.plan(list(command.WORKS.values())[:2], names, rounds=3, quick=True)) < len(planned)


def test_large_pack_has_five_times_the_cold_files(kit):
    plain, large = environments.make_pack(kit, TINY), environments.make_large_pack(kit, TINY)
    assert plain["sets"]["cold"]["files"] > 5
    assert large["sets"]["cold"]["files"] >= 5 * plain["sets"]["cold"]["files"]
    assert large["sets"]["boot"]["files"] == plain["sets"]["boot"]["files"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--contenders", "nobody"], "no such contender: nobody"),
        (["--rounds", "0"], "must be at least 1"),
        (["--pack", "name=/nowhere.tar.zst"], "there is no /nowhere.tar.zst"),
    ],
)
def test_usage_errors(arguments, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err
