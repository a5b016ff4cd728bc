"""What the README shows works as it stands there."""

import re

import numpy as np

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
