"""What pyproject.toml says holds: which module may import which, the requirements, the folders of the package."""

import importlib.util
import runpy
import tomllib

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

import jsnn
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]


def test_imports_keep_to_the_contracts():
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == EXIT_STATUS_SUCCESS


def lines(page):
    return {line for line in (ROOT / page).read_text().splitlines() if line}


def test_requirements_are_those_of_the_package_and_its_extras():
    asked = {line for line in lines("requirements.txt") if not line.startswith("chex")}  # which tests alone use
    assert asked == {*PROJECT["project"]["dependencies"], *EXTRAS["data"]}
    of_site = {line for line in lines("docs/requirements.txt") if not line.startswith("-r")}
    extras = {*EXTRAS["docs"], *EXTRAS["nir"], *EXTRAS["torch"]}
    assert of_site == extras - lines("experiments/requirements.txt")


def test_every_folder_of_the_library_is_in_the_package():
    folders = {path.parent for path in (ROOT / "jsnn").rglob("*.py")}
    named = PROJECT["tool"]["setuptools"]["packages"]
    assert {".".join(folder.relative_to(ROOT).parts) for folder in folders} == {*named}


def test_a_name_whose_package_is_not_installed_says_so_and_is_no_part_of_all(monkeypatch):
    find_spec = importlib.util.find_spec
    absent = {"nir", "snntorch"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else find_spec(name))
    alone = runpy.run_path(jsnn.__file__, run_name="jsnn")
    assert {*alone["_HOMES"]} - {*alone["__all__"]} == {"to_nir", "from_nir", "to_snntorch"}
    with pytest.raises(ModuleNotFoundError, match=r'jsnn.to_nir needs nir: pip install "jsnn\[nir\]"'):
        alone["__getattr__"]("to_nir")
