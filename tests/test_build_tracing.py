"""What a build records and how several recordings become one: merging, handlers and their events, log lines."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_command import lazydeps, lazydeps_error, lazydeps_json

from lazydeps.build.merge import merge
from lazydeps.build.trace import Trace, fit, is_module, target_suffixes

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
X86 = f".cpython-{MINOR.replace('.', '')}-x86_64-linux-gnu.so"
ARM = f".cpython-{MINOR.replace('.', '')}-aarch64-linux-gnu.so"


def trace(*order: str, **facts: Any) -> Trace:
    """Return a trace of these entries."""
    made = {"python": MINOR, "arch": "x86_64", "how": ("import a",), "absent": (), **facts}
    return Trace(order=order, **made)


# -- merging

entries = st.sampled_from([*(f"m{n}.py" for n in range(6)), *(f"d{n}.txt" for n in range(4)), "x" + X86, "file:m1.py"])
traces = st.lists(entries, unique=True).map(lambda order: trace(*order))


@given(st.lists(traces, min_size=1, max_size=4))
def test_every_entry_stands_once(some: list[Trace]) -> None:
    """Nothing is lost and nothing is doubled; merging the same traces again, or the result, changes nothing."""
    merged = merge(some)
    assert len(set(merged.order)) == len(merged.order)
    assert set(merged.order) == {entry for one in some for entry in one.order}
    assert merge([*some, *some]) == merged
    assert merge([merged, *some]) == merged
    assert merge([merged]) == merged


@given(st.lists(traces, min_size=1, max_size=4))
def test_the_first_trace_keeps_its_order(some: list[Trace]) -> None:
    """Its modules stand as they stood; a file of it never stands later among them."""
    merged = merge(some).order
    first = some[0].order
    assert [entry for entry in merged if entry in first and is_module(entry)] == [
        entry for entry in first if is_module(entry)
    ]
    for index, entry in enumerate(first):
        if not is_module(entry):
            assert all(merged.index(entry) < merged.index(later) for later in first[index + 1 :] if is_module(later))


@given(st.lists(traces, min_size=1, max_size=4))
def test_a_module_finds_its_files(some: list[Trace]) -> None:
    """The watermark: whatever file stood before a module in any of the traces stands before it in the merged one."""
    merged = merge(some).order
    for one in some:
        for index, entry in enumerate(one.order):
            if not is_module(entry):
                behind = [later for later in one.order[index + 1 :] if is_module(later)]
                assert all(merged.index(entry) < merged.index(later) for later in behind)


@given(traces, traces)
def test_what_is_new_precedes_what_it_preceded(first: Trace, second: Trace) -> None:
    """An entry that only the second trace has is there before the modules that came after it there."""
    merged = merge([first, second]).order
    for index, entry in enumerate(second.order):
        if entry not in first.order:
            for later in second.order[index + 1 :]:
                if is_module(later) or later not in first.order:
                    assert merged.index(entry) < merged.index(later)


def test_a_merge_in_so_many_words() -> None:
    """The example of the documentation: new entries before the shared module, a shared file before its reader."""
    one = trace("a.py", "b.py", "late.txt", how=("A",), absent=("c", "q"), stdlib=("re", "json"))
    two = trace("late.txt", "c.py", "b.py", "d.py", how=("B",), absent=("q", "z"), stdlib=("json", "csv"))
    merged = merge([one, two])
    assert merged.order == ("a.py", "late.txt", "c.py", "b.py", "d.py")
    assert (merged.how, merged.absent, merged.stdlib) == (("A", "B"), ("q", "z"), ("re", "json", "csv"))


def test_architectures_merge_under_the_first_ones_names() -> None:
    """The same extension module of two architectures is one entry, and fits a tree of either."""
    merged = merge([trace("p/x" + X86, "p/y.abi3.so"), trace("n.py", "p/x" + ARM, "p/y" + ARM, "p/z" + ARM)])
    assert merged.order == ("n.py", "p/x" + X86, "p/y.abi3.so", "p/z" + ARM)
    files = ("n.py", "p/x" + ARM, "p/y.abi3.so", "p/z" + ARM)
    fitted = fit(merged, files, suffixes=target_suffixes(MINOR, "arm64"))
    assert (fitted.trace.order, fitted.dropped) == (files, ())


# -- recording for a pack


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installed folder with modules that need nothing."""
    modules = {f"{name}.py": "" for name in ("one", "two", "three", "late", "other")}
    return write(tmp_path_factory.mktemp("site"), **{**modules, "own.py": "WHERE = 'packed'\n"})


def pack(site: Path, out: Path, *words: str | Path, **options: Any) -> tuple[Trace, dict[str, Any]]:
    """Pack the folder, and return the trace that was used and what the command says."""
    saved = out.with_suffix(".json")
    facts = lazydeps_json(
        "pack", "--from-dir", site, "-o", out, "--level", "1", "--save-trace", saved, *words, **options
    )
    return Trace.load(saved), facts


HANDLER = """
    import json, os
    import one
    import own
    assert own.WHERE == "function's", own.WHERE
    import lazydeps
    with lazydeps.load() as loading:
        import two
    assert loading.refs == ()
    import boto3
    boto3.client("s3")  # needs a region, which every function has
    assert open("config.txt").read() == "mine"
    assert os.environ["LAMBDA_TASK_ROOT"] == os.getcwd()
    assert "SECRET" not in os.environ, "the user's environment"
    def handler(event, context):
        if event["do"] == "raise":
            import late
            raise RuntimeError(os.environ.get("GIVEN", "nothing given"))
        import three
        assert context.get_remaining_time_in_millis() > 1000
        facts = [context.function_name, context.memory_limit_in_mb, context.invoked_function_arn,
                 context.aws_request_id, context.log_group_name, context.log_stream_name]
        assert all(isinstance(fact, str) and fact for fact in facts), facts
"""


@pytest.fixture(scope="module")
def function(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A function's folder: a handler in a package, a module that the pack has too, events."""
    folder = tmp_path_factory.mktemp("function")
    return write(
        folder,
        **{
            "app/__init__.py": "",
            "app/main.py": HANDLER,
            "own.py": 'WHERE = "function\'s"\n',
            "config.txt": "mine",
            "good.json": '{"do": "work"}',
            "bad.json": '{"do": "raise"}',
        },
    )


def test_a_handler_is_called_as_lambda_calls_it(site: Path, function: Path, tmp_path: Path) -> None:
    """Found by slashes or dots, in its folder, with a context, lazydeps and the bundled SDK; its own files stay out.

    An event that it fails on costs a warning with the event's name; what it had imported by then is kept.
    """
    words = ("--trace-handler", "app/main.handler", "--event", "good.json", "--event", "bad.json")
    environ = {"SECRET": "x", "FROM_HERE": "y"}
    more = ("--trace-env", "GIVEN=a value", "--trace-env", "FROM_HERE")
    found, facts = pack(site, tmp_path / "p.tar.zst", *words, *more, cwd=function, environ=environ)
    assert found.order == ("one.py", "two.py", "three.py", "late.py")
    assert found.how == ("handler app/main.handler with good.json, bad.json",)
    (warning,) = facts["warnings"]
    assert "the handler raised with bad.json" in warning
    assert "RuntimeError: a value" in warning
    assert not list(function.rglob("__pycache__"))


def test_a_handler_without_events_is_only_imported(site: Path, function: Path, tmp_path: Path) -> None:
    """From another folder, by --project."""
    words = ("--trace-handler", "app.main.handler", "--project", function)
    found, facts = pack(site, tmp_path / "p.tar.zst", *words, cwd=tmp_path)
    assert (found.order, found.how) == (("one.py", "two.py"), ("handler app.main.handler",))
    assert facts["warnings"] == []


def test_all_ways_are_merged_in_their_order(site: Path, function: Path, tmp_path: Path) -> None:
    """Files, statements, scripts, handlers; each script by itself, so that none sees what another has imported."""
    trace("own.py").save(tmp_path / "t.json")
    alone = "import sys; assert 'three' not in sys.modules; import {}\n"
    write(tmp_path, **{"s1.py": alone.format("late, three"), "s2.py": alone.format("other, three")})
    words = ["--trace-handler", "app.main.handler", "--event", function / "good.json", "--project", function]
    words += ["--trace-script", tmp_path / "s1.py", "--trace-script", tmp_path / "s2.py"]
    words += ["--trace", "import three", "--trace-file", tmp_path / "t.json"]
    found, _ = pack(site, tmp_path / "p.tar.zst", *words)
    assert found.how == (
        "import a",
        "import three",
        "script s1.py",
        "script s2.py",
        "handler app.main.handler with good.json",
    )
    assert found.order == ("own.py", "late.py", "other.py", "one.py", "two.py", "three.py")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "import nowhere_at_all\n",
            "program `handler app.handler` failed:.*No module named 'nowhere_at_all'",
        ),
        ("", "module 'app' has no attribute 'handler'"),
    ],
)
def test_a_handler_that_cannot_be_imported_is_fatal(site: Path, tmp_path: Path, body: str, reason: str) -> None:
    """A trace of half an import would make a pack whose other half is cold; nothing is written."""
    write(tmp_path, **{"app.py": body})
    out = tmp_path / "p.tar.zst"
    words = ("pack", "--from-dir", site, "-o", out, "--trace-handler", "app.handler")
    error = lazydeps_error(*words, cwd=tmp_path)
    assert error["type"] == "LazydepsError"
    assert re.search(reason, error["message"], re.DOTALL)
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--trace-handler", "handler"], "wants MODULE.FUNCTION"),
        (["--trace-handler", "gone.handler"], "there is no gone.py in"),
        (["--trace-handler", "own.handler", "--event", "config.txt"], "config.txt is no JSON"),
        (["--event", "good.json"], "--event is what a handler is called with"),
        (["--trace-env", "NOT_SET_HERE"], "it is not set here"),
        (["--trace-env", "LAZYDEPS_PACK=x"], "cannot set LAZYDEPS_PACK"),
        (["--trace-env", "a b=c"], "wants NAME=VALUE or NAME"),
    ],
)
def test_what_cannot_be_recorded_is_refused_at_once(
    site: Path, function: Path, tmp_path: Path, words: list[str], reason: str
) -> None:
    """A usage error, before anything is installed, that says what to write instead."""
    done = lazydeps("pack", "--from-dir", site, "-o", tmp_path / "p", *words, code=2, cwd=function)
    assert reason in done.stderr
    assert "Compiling" not in done.stderr


def test_a_log_is_as_good_as_a_trace_file(site: Path, tmp_path: Path) -> None:
    """`--trace-file` takes a log; a line that was cut is an error that says to export it again."""
    log = tmp_path / "log.txt"
    log.write_text('2026 INFO lazydeps-trace: {"lazydeps_trace":1,"id":"a.1","part":1,"parts":1,"z":"AAAA\n')
    out = tmp_path / "p.tar.zst"
    error = lazydeps_error("pack", "--from-dir", site, "-o", out, "--trace-file", log)
    assert "trace line 1 is cut or damaged" in error["message"]
    log.write_text(f"2026 INFO lazydeps-trace: {json.dumps({'lazydeps_trace': 9})}\n")
    error = lazydeps_error("pack", "--from-dir", site, "-o", out, "--trace-file", log)
    assert "of another version than 1" in error["message"]
