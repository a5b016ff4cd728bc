"""What the README shows works as it stands there."""

import re

import jax
import numpy as np

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()


def test_the_ten_lines_run():
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    assert len(code.strip().splitlines()) <= 11
    names = {}
    exec(code, names)
    assert names["logits"].shape == (8, 16, 10)
    assert names["spiking"]["params"] is names["variables"]["params"]
    assert np.isfinite(names["logits"]).all()
    assert jax.tree.all(jax.tree.map(lambda spikes: set(np.unique(spikes)) <= {-1, 0, 1}, names["spikes"]))


def test_the_map_names_every_folder_of_code_and_is_short():
    for package in ("jsnn", "experiments", "tests"):
        for folder in {path.parent for path in (ROOT / package).rglob("*.py")}:
            assert f"`{folder.relative_to(ROOT)}/`" in README, folder
    assert len(README.splitlines()) <= 150


def test_pictures_are_there_and_nothing_is_left_open():
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert pictures
    assert all((ROOT / picture).is_file() for picture in pictures)
    assert not re.search(r"\b(RESULTS|FMNIST|MINUTES)\b", README)
