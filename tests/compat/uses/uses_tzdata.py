"""Real uses of tzdata: `zoneinfo` without a system's zones reads its keys through `importlib.resources`."""

import datetime as dt
import importlib.resources
import multiprocessing
import zoneinfo

import pytest
import tzdata


@pytest.fixture(autouse=True)
def no_zones_of_the_system():
    zoneinfo.reset_tzpath(())
    zoneinfo.ZoneInfo.clear_cache()
    yield
    zoneinfo.reset_tzpath()


def keys():
    return importlib.resources.read_text("tzdata", "zones", encoding="utf-8").split()


@pytest.mark.parametrize(
    "key", ["Europe/Berlin", "America/Argentina/Buenos_Aires", "Asia/Kathmandu", "UTC", "Etc/GMT+5"]
)
def test_a_zone_is_found(key):
    assert zoneinfo.ZoneInfo(key).key == key


def test_offsets_change_with_the_season():
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    offsets = [dt.datetime(2024, month, 1, tzinfo=berlin).utcoffset() for month in (1, 7)]
    assert offsets == [dt.timedelta(hours=1), dt.timedelta(hours=2)]


def test_every_key_can_be_opened():
    for key in keys():
        zoneinfo.ZoneInfo.no_cache(key)


def test_all_keys_are_available():
    assert zoneinfo.available_timezones() == set(keys())


def test_a_zone_that_is_not_there_is_missed():
    with pytest.raises(zoneinfo.ZoneInfoNotFoundError):
        zoneinfo.ZoneInfo("Europe/Nowhere")


def test_the_folder_can_be_listed():
    names = {entry.name for entry in importlib.resources.files("tzdata").joinpath("zoneinfo", "Europe").iterdir()}
    assert {"Berlin", "Paris", "Rome"} <= names


def test_the_modules_sources_are_listed():
    names = {entry.name for entry in importlib.resources.files("tzdata").joinpath("zoneinfo", "Europe").iterdir()}
    assert "__init__.py" in names


def test_the_version_of_the_data():
    assert tzdata.IANA_VERSION in importlib.resources.read_text("tzdata.zoneinfo", "tzdata.zi", encoding="utf-8")


def test_a_forked_process_finds_zones():
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.map(_offset, ["Asia/Tokyo"]) == [9 * 3600]


def _offset(key):
    return dt.datetime(2024, 1, 1, tzinfo=zoneinfo.ZoneInfo(key)).utcoffset().total_seconds()
