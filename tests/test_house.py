"""The order of the house: no import upward, documented functions, settings that a reader can trust."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

# A module imports from floors below its own, never from its own or above.
FLOORS = (
    {"surrogate", "randomness", "percentile", "optimizers", "datasets", "augment", "files", "hosts"}
    | {"packing", "products", "windows"},
    {"encoding", "neuron", "sources", "patches", "tiny", "winograd", "checkpoint", "metrics"},
    {"cpu_convolution", "packed", "streaming"},
    {"convolution", "modules", "simulation"},
    {"layers"},
    {"models", "bptt"},
    {"conversion", "layerwise", "training"},
    {"balancing", "evaluation"},
    {"parallel"},
)
FLOOR_OF = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}
MODULES = sorted((ROOT / "jsnn").glob("*.py"))
GUESTS = {"matplotlib", "tyro", "tqdm", "torch", "tensorflow", "experiments", "tests"}


def imports_of(path: Path) -> set[str]:
    """Full names of all modules that a file imports, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", [path for path in MODULES if path.stem != "__init__"], ids=lambda path: path.stem)
def test_no_import_goes_upward(path):
    below = {name.removeprefix("jsnn.") for name in imports_of(path) if name.startswith("jsnn.")}
    for module in below:
        assert FLOOR_OF[module] < FLOOR_OF[path.stem], f"{path.stem} imports {module}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_the_library_needs_no_guests(path):
    assert not {name.split(".")[0] for name in imports_of(path)} & GUESTS


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_public_functions_are_documented_and_typed(path):
    for node in ast.parse(path.read_text()).body:
        public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        if public:
            assert ast.get_docstring(node), node.name
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.args, *node.args.kwonlyargs]
            assert all(argument.annotation for argument in arguments), node.name
            assert node.returns, node.name
