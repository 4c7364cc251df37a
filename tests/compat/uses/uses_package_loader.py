"""Real uses of jinja2's loaders: templates that lie in a packed package, which no import opens."""

import importlib.resources
import os

import jinja2
import pandas as pd
import pytest

FOLDER = "io/formats/templates"


@pytest.fixture
def environment():
    return jinja2.Environment(loader=jinja2.PackageLoader("pandas", FOLDER))


def test_a_template_is_loaded(environment):
    assert environment.get_template("html.tpl").filename.startswith(os.path.dirname(pd.__file__))


def test_templates_are_listed(environment):
    assert {"html.tpl", "latex.tpl", "string.tpl"} <= set(environment.list_templates())


def test_a_template_includes_others(environment):
    assert "{% include html_table_tpl %}" in environment.loader.get_source(environment, "html.tpl")[0]


def test_a_template_that_is_not_there_is_missed(environment):
    with pytest.raises(jinja2.TemplateNotFound):
        environment.get_template("nothing.tpl")


def test_a_template_is_up_to_date(environment):
    assert environment.get_template("string.tpl").is_up_to_date


def test_loaders_are_chosen_in_order():
    own = jinja2.DictLoader({"html.tpl": "own {{ x }}"})
    chosen = jinja2.ChoiceLoader([own, jinja2.PackageLoader("pandas", FOLDER)])
    assert jinja2.Environment(loader=chosen).get_template("html.tpl").render(x=1) == "own 1"


def test_the_folder_works_for_a_file_system_loader():
    folder = os.path.join(os.path.dirname(pd.__file__), *FOLDER.split("/"))
    assert jinja2.Environment(loader=jinja2.FileSystemLoader(folder)).get_template("string.tpl")


def test_resources_lead_to_the_templates():
    text = importlib.resources.files("pandas").joinpath(FOLDER, "string.tpl").read_text(encoding="utf-8")
    assert "{%" in text


def test_a_styled_table_is_rendered():
    assert "<td" in pd.DataFrame({"a": [1, 2]}).style.highlight_max().to_html()
