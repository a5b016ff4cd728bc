"""What is told of the package in several places is told alike."""

import importlib.util
import runpy
import tomllib

import pytest

import jsnn
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_requirements_are_those_of_the_package_with_data():
    project = PROJECT["project"]
    of_package = {*project["dependencies"], *project["optional-dependencies"]["data"]}
    asked = {line for line in (ROOT / "requirements.txt").read_text().splitlines() if line}
    assert {line for line in asked if not line.startswith("chex")} == of_package  # which tests alone use


def test_the_site_needs_what_its_extras_install():
    extras = PROJECT["project"]["optional-dependencies"]
    lines = (ROOT / "docs" / "requirements.txt").read_text().splitlines()
    asked = {line for line in lines if not line.startswith("-r")}
    of_experiments = {*(ROOT / "experiments" / "requirements.txt").read_text().splitlines()}
    assert asked == {*extras["docs"], *extras["nir"], *extras["torch"]} - of_experiments


def test_every_folder_of_the_library_is_in_the_package():
    folders = {path.parent for path in (ROOT / "jsnn").rglob("*.py")}
    named = PROJECT["tool"]["setuptools"]["packages"]
    assert {".".join(folder.relative_to(ROOT).parts) for folder in folders} == {*named}


def test_a_name_whose_package_is_not_installed_says_so_and_is_no_part_of_all(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("nir", "snntorch") else find_spec(name)
    )
    alone = runpy.run_path(jsnn.__file__, run_name="jsnn")
    assert {*alone["_HOMES"]} - {*alone["__all__"]} == {"to_nir", "from_nir", "to_snntorch"}
    with pytest.raises(ModuleNotFoundError, match=r'jsnn.to_nir needs nir: pip install "jsnn\[nir\]"'):
        alone["__getattr__"]("to_nir")
