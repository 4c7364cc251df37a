"""Real uses of entry points: through `importlib.metadata`, and through the old `pkg_resources`."""

import importlib.metadata
import warnings

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it says itself that it is deprecated
    import pkg_resources


def test_entry_points_are_found_and_loaded():
    found = importlib.metadata.entry_points(group="distutils.commands")
    assert {"build_py", "bdist_wheel", "egg_info"} <= {one.name for one in found if one.dist.name == "setuptools"}
    assert found["build_py"].load().__module__ == "setuptools.command.build_py"


def test_every_command_loads():
    for one in importlib.metadata.entry_points(group="distutils.commands"):
        assert isinstance(one.load(), type)


def test_metadata_is_read():
    distribution = importlib.metadata.distribution("setuptools")
    assert distribution.metadata["Name"] == "setuptools"
    assert distribution.read_text("entry_points.txt").startswith("[distutils.commands]")


def test_modules_are_mapped_to_distributions():
    assert importlib.metadata.packages_distributions()["pkg_resources"] == ["setuptools"]


def test_the_files_of_a_distribution_are_listed():
    assert "setuptools/__init__.py" in {str(file) for file in importlib.metadata.files("setuptools")}


def test_pkg_resources_iterates_over_entry_points():
    assert "build_py" in {one.name for one in pkg_resources.iter_entry_points("distutils.commands")}


def test_pkg_resources_knows_the_distribution():
    assert pkg_resources.get_distribution("setuptools").version == importlib.metadata.version("setuptools")


def test_pkg_resources_requires():
    assert [one.project_name for one in pkg_resources.require("setuptools")] == ["setuptools"]


def test_pkg_resources_loads_an_entry_point():
    loaded = pkg_resources.load_entry_point("setuptools", "distutils.commands", "sdist")
    assert loaded.__module__ == "setuptools.command.sdist"


def test_pkg_resources_reads_data():
    assert pkg_resources.resource_exists("setuptools", "script.tmpl")
    assert b"EASY-INSTALL" in pkg_resources.resource_string("setuptools", "script.tmpl")


def test_pkg_resources_names_a_file():
    with open(pkg_resources.resource_filename("setuptools", "script.tmpl"), "rb") as file:
        assert b"EASY-INSTALL" in file.read()


def test_pkg_resources_lists_a_folder_of_data():
    assert "cli-64.exe" in pkg_resources.resource_listdir("setuptools", "")


def test_a_distribution_that_is_not_there_is_missed():
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.distribution("surely-not-here")
    with pytest.raises(pkg_resources.DistributionNotFound):
        pkg_resources.get_distribution("surely-not-here")
