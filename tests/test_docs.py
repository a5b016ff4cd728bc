"""The site and the first page: the reference has every public name, notebooks hold no outputs, examples run."""

import inspect
import json
import re

import numpy as np
import pytest

import jsnn
from experiments.recipes import RECIPES
from jsnn import exchange
from tests.conftest import ROOT

DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()
MODULES = {"jsnn.surrogate": jsnn.surrogate, "jsnn.encoding": jsnn.encoding}
ROOMS = {"jsnn.models": jsnn.models, "jsnn.data": jsnn.data, "jsnn.exchange": exchange}
NOTEBOOKS = sorted((DOCS / "tutorials").glob("*.ipynb"))
NOTED = r"^\.\. (currentmodule|module|automodule|autofunction|autoclass|autodata|data):: (\S+)"


def referenced():
    """The full names that the pages of the reference have an entry for."""
    names = []
    for page in (DOCS / "api").glob("*.rst"):
        module = "jsnn"
        for directive, name in re.findall(NOTED, page.read_text(), re.MULTILINE):
            if directive.endswith("module"):
                module = name
            if directive not in ("currentmodule", "module"):
                names.append(name if name.startswith("jsnn.") else f"{module}.{name}")
    return names


def public():
    """All public names, by `__all__`, or by where they are defined."""
    names = {f"jsnn.{name}" for name in jsnn.__all__}
    rooms = {f"{room}.{name}": name for room, module in ROOMS.items() for name in module.__all__}
    names |= {full for full, name in rooms.items() if name not in jsnn.__all__}
    for room, module in MODULES.items():
        own = [name for name, thing in inspect.getmembers(module, callable) if thing.__module__ == module.__name__]
        names |= {f"{room}.{name}" for name in own if not name.startswith("_")}
    return names


def test_the_reference_has_every_public_name_once():
    names = referenced()
    assert public() - {*names} == set()
    assert len({*names}) == len(names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs_and_install_on_colab_alone(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    first = "".join(cells[0]["source"])
    assert 'if "google.colab" in sys.modules:\n    %pip install -q "jsnn[data' in first
    assert f"]({path.name})" in (DOCS / "tutorials" / "index.md").read_text()


def code_of(text):
    """The blocks of Python of a page."""
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_landing_pages_example_runs(capsys):
    names = {}
    exec(code_of((DOCS / "index.md").read_text())[0], names)
    apart = names["results"].mean(0) - names["Net"]().apply(names["variables"], names["x"])
    assert abs(apart).max() < 0.1
    assert capsys.readouterr().out


def test_changelog_and_citation_are_of_this_version():
    assert f"\n## {jsnn.__version__} (" in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {jsnn.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"{{{jsnn.__version__}}}" in (DOCS / "citing.md").read_text()


def test_drawings_are_as_they_are_drawn(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    import drawings

    for draw in (drawings.transformation, drawings.chunks, drawings.bits):
        assert (drawings.PICTURES / f"{draw.__name__}.svg").read_text() == draw()


def test_the_ten_lines_run():
    code, names = code_of(README)[0], {}
    _, library = code.strip().split("\n\nsplit")
    assert len(library.splitlines()) <= 11
    exec(code, names)
    before, after = names["variables"]["params"], names["state"].variables()
    assert 0 < names["metrics"].loss < 2.3
    assert set(after["neurons"]) == {"Conv_0"}
    assert not np.allclose(before["Dense_0"]["kernel"], after["params"]["Dense_0"]["kernel"])


def test_the_recipes_own_network_runs():
    page, names = (DOCS / "recipes.md").read_text(), {}
    network, loss = code_of(page)
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
    folders = (DOCS / "contributing.md").read_text()
    modules = (*ROOT.glob("jsnn/**/*.py"), *ROOT.glob("experiments/**/*.py"), ROOT / "tests" / "conftest.py")
    for folder in {path.parent for path in modules}:
        assert f"`{folder.relative_to(ROOT)}/`" in folders, folder
    assert len(README.splitlines()) <= 110


def table(text):
    """Row name -> column name -> cell of a table in Markdown."""
    (_, *columns), _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return {name: dict(zip(map(str.lower, columns), cells, strict=True)) for name, *cells in rows}


def test_the_first_page_has_the_figures_of_the_page_of_speed():
    page = (DOCS / "benchmark.md").read_text()
    units = ("seconds", "gigabytes")
    seconds, gigabytes = (table(page.split(f"<!-- {name} -->\n")[1].split("\n<!--")[0]) for name in units)
    small = table(re.search(r"\n\n(\| library .*?)\n\n", README, re.DOTALL)[1])
    assert set(small) == {"jsnn", "PyTorch step loop, tuned", "SpikingJelly", "spyx, jsnn's convolution"}
    for name, cells in small.items():
        assert cells == {shape: f"{seconds[name][shape]} ({gigabytes[name][shape]} GB)" for shape in cells}


def test_what_is_linked_is_there():
    links = [link for link in re.findall(r"\]\(([^)#]*)", README) if not link.startswith("https:")]
    assert len(links) > 10
    assert all((ROOT / link).exists() for link in links)
