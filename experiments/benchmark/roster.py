"""Who takes part in the benchmark: where each contestant is made, what it needs, and which surrogates it has."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple


class Entry(NamedTuple):
    """Where a contestant comes from."""

    make: str  # module beside this file, and its function that makes the contestant
    package: str  # that it needs, as it is installed
    library: str  # of it, the module that is imported before memory is measured
    surrogates: Mapping[str, str]  # a surrogate of the problem -> the nearest that the library has
    options: Mapping[str, object] = {}  # of the function


OURS, STEP_LOOP = "jsnn", "PyTorch step loop"
FLOOR = "floor: plain matrix products"  # the time that a step's products take at the machine's rate
ANN = "ANN, jsnn's convolution"  # a training step of the ANN, whatever the number of time steps
STDB, LINEAR = SURROGATES = "stdb", "linear"
THEMSELVES = {STDB: STDB, LINEAR: LINEAR}
JELLY = "torch_peers.spikingjelly", "spikingjelly", "spikingjelly.activation_based.memopt"
OF_JELLY = {STDB: "ATan", LINEAR: "PiecewiseQuadratic"}
OF_SPYX = {STDB: "superspike", LINEAR: "triangular"}
ROSTER = {
    OURS: Entry("ours.make", "jax", "jax", THEMSELVES),
    "jsnn, exact residuals": Entry("ours.make", "jax", "jax", {LINEAR: LINEAR}, {"residuals": "exact"}),
    STEP_LOOP: Entry("step_loop.make", "torch", "torch", THEMSELVES),
    "PyTorch step loop, tuned": Entry("step_loop.make", "torch", "torch", THEMSELVES, {"tuned": True}),
    "SpikingJelly": Entry(*JELLY, OF_JELLY),
    "SpikingJelly, memory optimised": Entry(*JELLY, OF_JELLY, {"memory_optimised": True}),
    "snnTorch": Entry("torch_peers.snntorch", "snntorch", "snntorch", {STDB: "fast_sigmoid", LINEAR: "fast_sigmoid"}),
    "norse": Entry("torch_peers.norse", "norse", "norse.torch", {STDB: "super", LINEAR: "triangle"}),
    "spyx": Entry("jax_peers.spyx", "spyx", "spyx", OF_SPYX),
    "spyx, jsnn's convolution": Entry("jax_peers.spyx", "spyx", "spyx", OF_SPYX, {"own_gradient": False}),
    "jaxpike": Entry("jax_peers.jaxpike", "jaxpike", "jaxpike", {STDB: "FastSigmoid", LINEAR: "Triangular"}),
    "sparx": Entry("jax_peers.sparx", "sparxml", "sparx", {STDB: "ATan", LINEAR: "Triangle"}),
    "jsnn, bfloat16": Entry("ours.make", "jax", "jax", THEMSELVES, {"precision": "bfloat16"}),
    ANN: Entry("ours.make_ann", "jax", "jax", {}),
}


def package_of(name: str) -> str | None:
    """Name and version of the package that a contestant needs, or None where it is not installed."""
    try:
        return f"{ROSTER[name].package} {version(ROSTER[name].package)}"
    except PackageNotFoundError:
        return None
