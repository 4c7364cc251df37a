"""The stack that this is for, from a pack: numpy, pandas, scipy, matplotlib and openpyxl do what an installation does.

One program is run on the plain folder that `tar` extracts, and in each of the ways a pack is loaded; what it says
must be the same. The pack is built once.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support_command import lazydeps, lazydeps_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from local_s3 import LocalS3

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
REQUIREMENTS = ("numpy", "pandas", "scipy", "matplotlib", "openpyxl", "jinja2")
IMPORTS = "import numpy, pandas, scipy.stats, matplotlib.pyplot, openpyxl"

PROGRAM = """
import base64, io, json, os, sys, traceback

exec(os.environ["START"])  # the imports, however this way has it


def versions():
    from importlib.metadata import version
    return {name: version(name) for name in ("numpy", "pandas", "scipy", "matplotlib", "openpyxl", "Jinja2")}


def describe():
    return pandas.DataFrame({"a": [1, 2, 4], "b": [0.5, None, 2.5]}).describe().to_string()


def styling():
    frame = pandas.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    return frame.style.format("{:.1f}").highlight_max(color="red").to_html(table_uuid="t")


def resources():
    from importlib.resources import files
    data = files("matplotlib").joinpath("mpl-data/matplotlibrc").read_text()
    return [len(data), data[:200], sorted(entry.name for entry in files("matplotlib").joinpath("mpl-data").iterdir())]


def picture():
    from matplotlib import pyplot
    figure, axes = pyplot.subplots()
    axes.plot([1, 2, 3], [3, 1, 2], label="$x^2$")
    axes.set_title("a title")
    axes.legend()
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return base64.b64encode(out.getvalue()).decode()


def source():
    import inspect
    return inspect.getsource(pandas.DataFrame.head)


def trace():
    frame = pandas.DataFrame({"a": [1]})
    try:
        frame["missing"]
    except KeyError:
        return traceback.format_exc().replace(base, "SITE")


def statistics():
    from scipy import stats
    result = stats.ttest_ind([1.0, 2.0, 3.0, 4.0], [2.0, 3.5, 4.0, 6.0])
    return [result.statistic, result.pvalue]


def excel():
    out = io.BytesIO()
    pandas.DataFrame({"a": [1, 2], "b": ["x", "ü"]}).to_excel(out, index=False, engine="openpyxl")
    book = openpyxl.load_workbook(io.BytesIO(out.getvalue()))
    rows = [[cell.value for cell in row] for row in book.active.iter_rows()]
    return [rows, pandas.read_excel(io.BytesIO(out.getvalue())).to_string()]


def threads():
    from concurrent.futures import ThreadPoolExecutor
    import numpy.linalg
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda n: round(float(numpy.linalg.det(numpy.eye(n) * 2)), 6), range(1, 9)))


def plugins():
    import importlib
    return [importlib.import_module(name).__name__ for name in ("pandas.io.formats.style", "scipy.optimize",
            "scipy.sparse.linalg", "matplotlib.backends.backend_pdf", "numpy.fft", "openpyxl.chart")]


def where():
    return sorted({os.path.relpath(sys.modules[name].__file__, base).split(os.sep)[0]
                   for name in ("numpy", "pandas", "scipy", "matplotlib", "openpyxl", "jinja2", "dateutil")})


base = os.path.dirname(os.path.dirname(pandas.__file__))
results = {}
for check in (versions, describe, styling, resources, picture, source, trace, statistics, excel, threads, plugins,
              where):
    try:
        results[check.__name__] = check()
    except BaseException:
        results[check.__name__] = "FAILED: " + traceback.format_exc()
sdk = [name for name in sys.modules if name.partition(".")[0] in ("boto3", "botocore", "s3transfer")]
print(json.dumps({"base": base, "results": results, "sdk": sdk, "cached": pandas.__cached__}))
"""
CHECKS = (
    "versions",
    "describe",
    "styling",
    "resources",
    "picture",
    "source",
    "trace",
    "statistics",
    "excel",
    "threads",
    "plugins",
    "where",
)
WAYS = ("run", "load", "auto over S3")


class Science:
    """The pack, its folder, and an environment in which its programs run."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder = folder
        self.facts = facts
        """What `lazydeps pack --json` printed."""
        self.ref = str(facts["ref"])
        # One folder of fonts' names for all: matplotlib spends seconds on making it.
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "MPLCONFIGDIR": str(folder / "mpl"),
            "MPLBACKEND": "Agg",
            "OPENBLAS_NUM_THREADS": "2",
            "START": IMPORTS,
        }
        self.program = folder / "program.py"
        self.program.write_text(PROGRAM)

    def python(self, *words: str | Path, **environ: str) -> dict[str, Any]:
        """Run the program in a fresh interpreter and return what it says."""
        done = subprocess.run(
            [sys.executable, *words],
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def science() -> Iterator[Science]:
    """Build the pack; everything that comes of it (1 GB) is removed at the end of this file's tests."""
    folder = Path(tempfile.mkdtemp(prefix="lazydeps-science-"))
    try:
        facts = lazydeps_json(
            "pack", *REQUIREMENTS, "-o", folder / "p.tar.zst", "--python", MINOR, "--level", "3", "--trace", IMPORTS
        )
        yield Science(folder, facts)
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def plain(science: Science) -> dict[str, Any]:
    """What the program says on the folder that tar extracts, in an interpreter without lazydeps or site-packages."""
    tree = science.folder / "tree"
    tree.mkdir()
    extract = ["tar", "--zstd", "-xvf", science.facts["path"], "-C", tree]
    listed = subprocess.run(extract, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(listed) == science.facts["files"]
    said = science.python("-S", science.program, PYTHONPATH=str(tree))
    assert said["base"] == str(tree)
    assert Path(said["cached"]).relative_to(tree) in map(Path, listed), "compiled here, and not when it was packed"
    shutil.rmtree(tree)
    return dict(said["results"])


@pytest.fixture(scope="module", params=WAYS)
def packed(request: pytest.FixtureRequest, science: Science, s3: LocalS3, s3_client: Any) -> Iterator[dict[str, Any]]:
    """What the program says with the pack loaded, in each way."""
    store = science.folder / "store"
    if request.param == "run":
        words: list[str | Path] = ["run", "--pack", science.ref, "--dir", store, science.program]
        said = json.loads(lazydeps(*words, environ=science.environ).stdout.splitlines()[-1])
    elif request.param == "load":
        start = f"import lazydeps\nwith lazydeps.load({science.ref!r}):\n    {IMPORTS}\n"
        said = science.python(science.program, START=start, LAZYDEPS_DIR=str(store))
    else:
        s3_client.create_bucket(Bucket="science")
        pushed = lazydeps_json("push", science.facts["path"], "s3://science/packs/", environ=s3.environ)
        environ = {**s3.environ, "LAZYDEPS_PACK": pushed["ref"], "LAZYDEPS_DIR": str(store)}
        said = science.python(science.program, START=f"import lazydeps.auto\n{IMPORTS}\n", **environ)
        s3_client.delete_object(Bucket="science", Key=pushed["key"])
        s3_client.delete_bucket(Bucket="science")
    assert said["base"].startswith(str(store)), "the modules came from somewhere else"
    assert said["sdk"] == []
    yield dict(said["results"])
    shutil.rmtree(store)


@pytest.mark.parametrize("check", CHECKS)
def test_a_pack_does_what_an_installation_does(plain: dict[str, Any], packed: dict[str, Any], check: str) -> None:
    """Each use of the stack gives the same from a pack as from a plain folder."""
    assert set(CHECKS) == plain.keys() == packed.keys()
    assert not str(plain[check]).startswith("FAILED"), plain[check]
    assert packed[check] == plain[check]


def test_the_plain_folder_says_what_is_expected(plain: dict[str, Any], science: Science) -> None:
    """What is compared is worth comparing: each result has its substance."""
    assert plain["versions"] == {
        name: science.facts["distributions"][name.lower()] for name in (*REQUIREMENTS[:-1], "Jinja2")
    }
    assert "mean" in plain["describe"]
    assert "background-color: red" in plain["styling"]
    assert plain["resources"][0] > 10_000
    picture = base64.b64decode(plain["picture"])
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(picture) > 5000
    assert "\n    def head(self, n: int = 5)" in plain["source"]
    assert "SITE/pandas/core/frame.py" in plain["trace"]
    assert plain["trace"].endswith("KeyError: 'missing'\n")
    assert "self.columns.get_loc(key)" in plain["trace"], "no source lines"
    assert plain["statistics"][1] == pytest.approx(0.2396, abs=0.01)
    assert plain["excel"][0] == [["a", "b"], [1, "x"], [2, "ü"]]
    assert plain["threads"] == [2.0**n for n in range(1, 9)]
    assert len(plain["where"]) == 7


def test_the_pack_is_the_size_that_it_says(science: Science) -> None:
    """The boot set is a part of the pack, and what the statement imports is in it."""
    facts = science.facts
    assert facts["failed_imports"] == {}
    assert facts["warnings"] == []
    assert set(facts["distributions"]) >= set(REQUIREMENTS)
    assert facts["unpacked_size"] > 200e6
    assert facts["boot_size"] < facts["size"] < facts["unpacked_size"] / 2


def test_a_frame_is_described_from_an_empty_store(science: Science) -> None:
    """The command of the first page: cold frames stay where they are, and the store holds no copy of the archive."""
    store, report = science.folder / "kept", science.folder / "report.json"
    code = "import pandas; print(pandas.DataFrame({'a':[1]}).describe())"
    words: list[str | Path] = ["run", "--pack", science.ref, "--dir", store, "--report", "--report-json", report]
    try:
        done = lazydeps(*words, "-c", code, environ=science.environ)
        assert done.stdout.split()[:3] == ["a", "count", "1.0"]
        (pack,) = json.loads(report.read_text())["packs"]
        assert pack["landed"]["boot"] == pack["frames_total"]["boot"] > 1
        # `describe` imports a module when it is called, which no trace of imports foresees.
        assert pack["landed"]["cold"] == pack["cold_frames_fetched"] < 4 < pack["frames_total"]["cold"]
        assert f"cold {pack['cold_frames_fetched']} of {pack['frames_total']['cold']}" in done.stderr
        assert pack["bytes_received"] < 0.8 * science.facts["size"]
        size = science.facts["size"]
        for path in store.rglob("*"):
            if path.is_file():
                with open(path, "rb") as file:
                    assert file.read(4) not in (b"\x28\xb5\x2f\xfd", b"\x5a\x2a\x4d\x18"), path
                assert path.stat().st_blocks * 512 < size, path  # the bytecode is a sparse file
        landed = sum(path.stat().st_blocks * 512 for path in store.rglob("*") if path.is_file())
        sets = science.facts["sets"]
        assert landed < 1.2 * (sets["boot"]["unpacked"] + sets["data"]["unpacked"])
        again = lazydeps(*words, "-c", code, environ=science.environ)
        assert again.stdout == done.stdout
        assert json.loads(report.read_text())["packs"][0]["requests"] == 0
    finally:
        shutil.rmtree(store, ignore_errors=True)
