"""Who takes part in the benchmark."""

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import NamedTuple


class Entry(NamedTuple):
    """Where a contestant comes from."""

    module: str  # beside this file, with a function `make`
    package: str  # distribution that it needs
    options: Mapping[str, object] = {}  # of `make`


OURS, STEP_LOOP = "jsnn", "PyTorch step loop"
ROSTER = {
    OURS: Entry("ours", "jax"),
    STEP_LOOP: Entry("step_loop", "torch"),
    "PyTorch step loop, tuned": Entry("step_loop", "torch", {"tuned": True}),
    "SpikingJelly": Entry("spikingjelly_net", "spikingjelly"),
    "SpikingJelly, memory optimised": Entry("spikingjelly_net", "spikingjelly", {"memory_optimised": True}),
    "snnTorch": Entry("snntorch_net", "snntorch"),
    "norse": Entry("norse_net", "norse"),
    "spyx": Entry("spyx_net", "spyx"),
    "spyx, jsnn's convolution": Entry("spyx_net", "spyx", {"own_gradient": False}),
    "jsnn, bfloat16": Entry("ours", "jax", {"precision": "bfloat16"}),
}


def installed_version(name: str) -> str | None:
    """The version of a contestant's package, or None where it is not installed."""
    try:
        return version(ROSTER[name].package)
    except PackageNotFoundError:
        return None


def module_of(name: str) -> ModuleType:
    """The module of a contestant; importing it imports its library."""
    return import_module(f"experiments.benchmark.{ROSTER[name].module}")
