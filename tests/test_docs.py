"""The site's sources: the reference has every public name, notebooks are as they are committed, examples run."""

import inspect
import json
import pkgutil
import re

import pytest

import jsnn
from jsnn import exchange
from tests.conftest import ROOT

DOCS = ROOT / "docs"
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
                names += [name] if directive == "automodule" else []
            else:
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


def test_what_the_reference_has_is_there():
    for name in {*referenced()} - {f"jsnn.{name}" for name in jsnn._missing}:
        assert pkgutil.resolve_name(name) is not None, name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs_and_install_on_colab_alone(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    first = "".join(cells[0]["source"])
    assert 'if "google.colab" in sys.modules:\n    %pip install -q "jsnn[data' in first
    assert f"]({path.name})" in (DOCS / "tutorials" / "index.md").read_text()


def test_the_landing_pages_example_runs(capsys):
    code = re.search(r"```python\n(.*?)```", (DOCS / "index.md").read_text(), re.DOTALL).group(1)
    names = {}
    exec(code, names)
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
