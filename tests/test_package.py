"""What is told of the package in several places is told alike."""

import tomllib

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_requirements_are_those_of_the_package_with_data():
    project = PROJECT["project"]
    of_package = {*project["dependencies"], *project["optional-dependencies"]["data"]}
    asked = {line for line in (ROOT / "requirements.txt").read_text().splitlines() if line}
    assert {line for line in asked if not line.startswith("chex")} == of_package  # which tests alone use


def test_every_folder_of_the_library_is_in_the_package():
    folders = {path.parent for path in (ROOT / "jsnn").rglob("*.py")}
    assert {".".join(folder.relative_to(ROOT).parts) for folder in folders} == {
        *PROJECT["tool"]["setuptools"]["packages"]
    }
