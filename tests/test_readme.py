"""The code on the first page and on the page of recipes runs as it stands."""

import re

import numpy as np

from experiments.recipes import RECIPES
from tests.conftest import ROOT

README, FOLDERS = ((ROOT / page).read_text() for page in ("README.md", "docs/contributing.md"))
UNITS = ("seconds", "gigabytes")  # the tables of docs/benchmark.md


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


def test_the_map_names_every_folder_of_code_and_the_first_page_is_short():
    modules = (*ROOT.glob("jsnn/**/*.py"), *ROOT.glob("experiments/**/*.py"), ROOT / "tests" / "conftest.py")
    for folder in {path.parent for path in modules}:
        assert f"`{folder.relative_to(ROOT)}/`" in FOLDERS, folder
    assert len(README.splitlines()) <= 110


def table(text):
    """Row name -> column name -> cell of a table in Markdown."""
    (_, *columns), _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return {name: dict(zip(map(str.lower, columns), cells, strict=True)) for name, *cells in rows}


def test_the_first_page_has_the_figures_of_the_page_of_speed():
    page = (ROOT / "docs" / "benchmark.md").read_text()
    seconds, gigabytes = (table(page.split(f"<!-- {name} -->\n")[1].split("\n<!--")[0]) for name in UNITS)
    small = table(re.search(r"\n\n(\| library .*?)\n\n", README, re.DOTALL)[1])
    assert set(small) == {"jsnn", "PyTorch step loop, tuned", "SpikingJelly", "spyx, jsnn's convolution"}
    for name, cells in small.items():
        assert cells == {shape: f"{seconds[name][shape]} ({gigabytes[name][shape]} GB)" for shape in cells}


def test_what_is_linked_is_there_and_nothing_is_left_open():
    links = [link for link in re.findall(r"\]\(([^)#]*)", README) if not link.startswith("https:")]
    assert len(links) > 10
    assert all((ROOT / link).exists() for link in links)
    assert not re.search(r"\b(RESULTS|FMNIST|MINUTES)\b", README)
