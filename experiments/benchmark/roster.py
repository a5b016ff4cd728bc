"""Who takes part in the benchmark: where each contestant is made, what it needs, and which surrogates it has."""

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

OURS, STEP_LOOP = "jsnn", "PyTorch step loop"
FLOOR = "floor: plain matrix products"  # the time that a step's products take at the machine's rate
ANN = "ANN, jsnn's convolution"  # a training step of the ANN, whatever the number of time steps
STDB, LINEAR = SURROGATES = "stdb", "linear"


class Entry(NamedTuple):
    """Where a contestant comes from."""

    make: str  # module beside this file, and its function that makes the contestant
    package: str  # that it needs, as it is installed
    library: str  # of it, the module that is imported before memory is measured
    options: Mapping[str, object] = {}  # of the function
    surrogates: Sequence[str] = SURROGATES  # of the problem, those that it has or has one near to


JELLY = "torch_peers.spikingjelly", "spikingjelly", "spikingjelly.activation_based.memopt"
ROSTER = {
    OURS: Entry("ours.make", "jax", "jax"),
    "jsnn, exact residuals": Entry("ours.make", "jax", "jax", {"residuals": "exact"}, [LINEAR]),
    STEP_LOOP: Entry("step_loop.make", "torch", "torch"),
    "PyTorch step loop, tuned": Entry("step_loop.make", "torch", "torch", {"tuned": True}),
    "SpikingJelly": Entry(*JELLY),
    "SpikingJelly, memory optimised": Entry(*JELLY, {"memory_optimised": True}),
    "snnTorch": Entry("torch_peers.snntorch", "snntorch", "snntorch"),
    "norse": Entry("torch_peers.norse", "norse", "norse.torch"),
    "spyx": Entry("jax_peers.spyx", "spyx", "spyx"),
    "spyx, jsnn's convolution": Entry("jax_peers.spyx", "spyx", "spyx", {"own_gradient": False}),
    "jaxpike": Entry("jax_peers.jaxpike", "jaxpike", "jaxpike"),
    "sparx": Entry("jax_peers.sparx", "sparxml", "sparx"),
    "jsnn, bfloat16": Entry("ours.make", "jax", "jax", {"precision": "bfloat16"}),
    ANN: Entry("ours.make_ann", "jax", "jax", surrogates=[]),
}


def package_of(name: str) -> str | None:
    """Name and version of the package that a contestant needs, or None where it is not installed."""
    try:
        return f"{ROSTER[name].package} {version(ROSTER[name].package)}"
    except PackageNotFoundError:
        return None
