"""What the README and the page of recipes show works as it stands there."""

import re

import numpy as np

from experiments.recipes import RECIPES
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()


def test_the_ten_lines_run():
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    _, library = code.strip().split("\n\nsplit")
    assert len(library.splitlines()) <= 11
    names = {}
    exec(code, names)
    before, after = names["variables"]["params"], names["state"].variables()
    assert 0 < names["metrics"].loss < 2.3
    assert set(after["neurons"]) == {"Conv_0"}
    assert not np.allclose(before["Dense_0"]["kernel"], after["params"]["Dense_0"]["kernel"])


def test_the_recipes_own_network_runs():
    page = (ROOT / "docs" / "recipes.md").read_text()
    names = {}
    network, loss = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(network, names)
    before, after = names["variables"], names["state"].variables()
    assert 0 < names["metrics"].loss < 2.3
    for parameter, value in after["neurons"]["Conv_0"].items():
        assert not np.allclose(value, before["neurons"]["Conv_0"][parameter]), parameter
    exec(loss, names)
    _, metrics = names["step"](names["state"], names["split"], names["item"], names["key"])
    assert 0 < metrics.loss < 2.3
    for name in RECIPES:
        assert f"**{name}.**" in page


def test_the_map_names_every_folder_of_code_and_is_short():
    for package in ("jsnn", "experiments", "tests"):
        for folder in {path.parent for path in (ROOT / package).rglob("*.py")}:
            assert f"`{folder.relative_to(ROOT)}/`" in README, folder
    assert len(README.splitlines()) <= 150


def test_what_is_linked_is_there_and_nothing_is_left_open():
    links = [link for link in re.findall(r"\]\(([^)#]*)", README) if not link.startswith("https:")]
    assert len(links) > 10
    assert all((ROOT / link).exists() for link in links)
    assert not re.search(r"\b(RESULTS|FMNIST|MINUTES)\b", README)
