"""Who takes part in the benchmark, and what makes a contestant."""

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import NamedTuple

OURS, STEP_LOOP = "jsnn", "PyTorch step loop"


class Contestant(NamedTuple):
    """A network in one library, with the weights, thresholds and images of a Problem, for T time steps."""

    train: Callable[[], None]  # one optimiser step on the batch, its input spikes drawn afresh; returns when it is done
    evaluate: Callable[[], object]  # scores the batch without a gradient; returns when that is done
    rates: Callable[[], dict[str, float]]  # layer -> spikes per neuron and time step
    details: Callable[[], dict[str, float]] = dict  # figures of this contestant alone; called after a step


class Entry(NamedTuple):
    """Where a contestant comes from."""

    module: str  # beside this file, with a function `make`
    package: str  # distribution that it needs
    options: Mapping[str, object] = {}  # of `make`


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
