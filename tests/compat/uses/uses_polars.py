"""Real uses of polars: an abi3 extension of more than a hundred megabytes in a distribution of its own."""

import datetime as dt
import importlib.metadata
import pickle

import polars as pl
import pytest
from polars.testing import assert_frame_equal

FRAME = pl.DataFrame({"key": ["a", "b", "a", "c"], "value": [1, 2, 3, None], "when": [dt.date(2024, 1, 1)] * 4})


def test_groups_are_summed():
    got = FRAME.group_by("key").agg(pl.col("value").sum()).sort("key")
    assert got.to_dict(as_series=False) == {"key": ["a", "b", "c"], "value": [4, 2, 0]}


def test_a_lazy_query_is_optimised():
    query = FRAME.lazy().filter(pl.col("value") > 1).select("key")
    assert "FILTER" in query.explain()
    assert query.collect()["key"].to_list() == ["b", "a"]


@pytest.mark.parametrize("form", ["csv", "parquet", "ipc", "ndjson"])
def test_files_are_written_and_read(form, tmp_path):
    path = tmp_path / "file"
    getattr(FRAME, f"write_{form}")(path)
    options = {"csv": {"try_parse_dates": True}, "ndjson": {"schema": FRAME.schema}}
    assert_frame_equal(getattr(pl, f"read_{form}")(path, **options.get(form, {})), FRAME)


def test_sql_is_understood():
    got = pl.SQLContext(frame=FRAME).execute(
        "SELECT key, COUNT(*) AS n FROM frame GROUP BY key ORDER BY key", eager=True
    )
    assert got["n"].to_list() == [2, 1, 1]


def test_a_python_function_is_called_from_rust():
    got = FRAME.select(pl.col("key").map_elements(str.upper, return_dtype=pl.String))
    assert got["key"].to_list() == ["A", "B", "A", "C"]


def test_an_error_crosses_the_border():
    with pytest.raises(pl.exceptions.ColumnNotFoundError, match="nothing"):
        FRAME.select("nothing")


def test_a_frame_is_pickled():
    assert_frame_equal(pickle.loads(pickle.dumps(FRAME)), FRAME)


def test_dates_have_time_zones():
    times = pl.Series(["2024-07-01 00:00"]).str.to_datetime(time_zone="Europe/Berlin")
    assert times.dt.convert_time_zone("UTC")[0].hour == 22


def test_a_table_is_printed():
    assert "shape: (4, 3)" in str(FRAME)


def test_the_version_is_the_distributions():
    assert importlib.metadata.version("polars") == pl.__version__


def test_the_versions_are_shown(capsys):
    pl.show_versions()
    assert "Polars" in capsys.readouterr().out
