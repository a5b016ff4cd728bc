"""What all contestants are given, a spiking VGG and a batch as NumPy arrays, what they make of it, and who they are."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import NamedTuple

import numpy as np

POOL, READOUT = "A", "readout"
LEARNING_RATE = 1e-4  # of every contestant's Adam
ARRAYS = ("images", "labels", "inputs")  # of a Problem, beside its kernels


class Entry(NamedTuple):
    """Where a contestant comes from."""

    make: str  # module beside this file, and its function that makes the contestant
    libraries: tuple[str, ...]  # modules that it needs
    surrogates: Mapping[str, str]  # the problem's that it is trained with -> the library's own that is nearest
    options: Mapping[str, object] = {}  # of the function


OURS, STEP_LOOP = "jsnn", "PyTorch step loop"
FLOOR = "floor"  # stands for what a step's plain products take at the machine's rate
ANN = "ANN, jsnn's convolution"  # a training step of the ANN, whatever the number of time steps
STDB, LINEAR = SURROGATES = "stdb", "linear"
THEMSELVES = {STDB: STDB, LINEAR: LINEAR}
JELLY = "torch_peers.spikingjelly", ("spikingjelly.activation_based.layer", "spikingjelly.activation_based.memopt")
OF_JELLY = {STDB: "ATan", LINEAR: "PiecewiseQuadratic"}
OF_SPYX = {STDB: "superspike", LINEAR: "triangular"}
ROSTER = {
    OURS: Entry("ours.make", ("jax",), THEMSELVES),
    "jsnn, exact residuals": Entry("ours.make", ("jax",), {LINEAR: LINEAR}, {"residuals": "exact"}),
    STEP_LOOP: Entry("step_loop.make", ("torch",), THEMSELVES),
    "PyTorch step loop, tuned": Entry("step_loop.make", ("torch",), THEMSELVES, {"tuned": True}),
    "SpikingJelly": Entry(*JELLY, OF_JELLY),
    "SpikingJelly, memory optimised": Entry(*JELLY, OF_JELLY, {"memory_optimised": True}),
    "snnTorch": Entry("torch_peers.snntorch", ("snntorch",), {STDB: "fast_sigmoid", LINEAR: "fast_sigmoid"}),
    "norse": Entry("torch_peers.norse", ("norse.torch",), {STDB: "super", LINEAR: "triangle"}),
    "spyx": Entry("spyx_net.make", ("spyx",), OF_SPYX),
    "spyx, jsnn's convolution": Entry("spyx_net.make", ("spyx",), OF_SPYX, {"own_gradient": False}),
    "jaxpike": Entry("jax_peers.jaxpike", ("jaxpike",), {STDB: "FastSigmoid", LINEAR: "Triangular"}),
    "sparx": Entry("jax_peers.sparx", ("sparx",), {STDB: "ATan", LINEAR: "Triangle"}),
    "jsnn, bfloat16": Entry("ours.make", ("jax",), THEMSELVES, {"precision": "bfloat16"}),
    ANN: Entry("ours.make_ann", ("jax",), {}),
}


def package_of(name: str) -> str | None:
    """Name and version of the distribution that a contestant needs, or None where it is not installed."""
    module = ROSTER[name].libraries[0].split(".")[0]
    return next((f"{package} {version(package)}" for package in _distributions().get(module, ())), None)


@cache
def _distributions() -> Mapping[str, list[str]]:
    """Module -> the distributions that it is in; to find them all takes a second."""
    return packages_distributions()


class Problem(NamedTuple):
    """A spiking VGG without bias and the batch that it is trained on; the same for every contestant."""

    stages: tuple[int | str, ...]  # output channels of each 3x3 convolution of padding 1, "A" for a 2x2 average pool
    kernels: dict[str, np.ndarray]  # conv0, ..., dense0, ..., readout -> float32 [3, 3, in, out] or [in, out]
    thresholds: dict[str, float]  # of the layers that spike, all but the readout, in forward order
    leak: float  # of the membranes per time step, in (0, 1]
    images: np.ndarray  # [B, H, W, C] float32 in [-1, 1]; the input at each step is sign(x) * Bernoulli(|x|)
    labels: np.ndarray  # [B] int32
    inputs: np.ndarray | None = None  # [T, B, H, W, C] int8, the input spikes that jsnn draws, for others to balance on
    surrogate: str = STDB  # with which spikes are differentiated, one of SURROGATES


class Contestant(NamedTuple):
    """A network in one library, with the weights, thresholds and images of a Problem, for T time steps."""

    train: Callable[[], None]  # one optimiser step on the batch, its input spikes drawn afresh; returns when it is done
    evaluate: Callable[[], object]  # scores the batch without a gradient; returns when that is done
    rates: Callable[[], dict[str, float]]  # layer -> spikes per neuron and time step
    details: Callable[[], dict[str, float]] = dict  # figures of this contestant alone; called after a step


class Layer(NamedTuple):
    """A layer with weights; its shapes, for one image, are height, width and channels or units."""

    name: str
    kernel: np.ndarray
    pooled: bool  # whether a pool comes before it
    inputs: tuple[int, ...]  # behind the pool; the first dense layer flattens them in this order
    outputs: tuple[int, ...]


def layers(problem: Problem) -> Iterator[Layer]:
    """The layers with weights, in forward order."""
    convolutions = sum(stage != POOL for stage in problem.stages)
    dense = (f"dense{i}" for i in range(len(problem.kernels) - convolutions - 1))
    names = [f"conv{i}" for i in range(convolutions)]
    shape, pooled = problem.images.shape[1:], False
    for stage in (*problem.stages, *dense, READOUT):
        if stage == POOL:
            shape, pooled = (shape[0] // 2, shape[1] // 2, shape[2]), True
            continue
        name = names.pop(0) if isinstance(stage, int) else stage
        kernel = problem.kernels[name]
        outputs = (*shape[: kernel.ndim - 2], kernel.shape[-1])
        yield Layer(name, kernel, pooled, shape, outputs)
        shape, pooled = outputs, False


def save_problem(path: Path, problem: Problem) -> None:
    """Write a problem as one npz file for the workers; what is no array in it goes as JSON."""
    facts = json.dumps([problem.stages, problem.thresholds, problem.leak])
    arrays = {name: getattr(problem, name) for name in ARRAYS if getattr(problem, name) is not None}
    np.savez(path, facts=facts, **arrays, **problem.kernels)


def load_problem(path: str | Path, batch: int) -> Problem:
    """Read a problem and take the first images of it."""
    with np.load(path) as file:
        kernels = dict(file)
    stages, thresholds, leak = json.loads(str(kernels.pop("facts")))
    images, labels, spikes = (kernels.pop(name, None) for name in ARRAYS)
    return Problem(tuple(stages), kernels, thresholds, leak, images[:batch], labels[:batch], spikes)


def operations(problem: Problem, num_steps: int) -> float:
    """Multiplications and additions of a step: forward, gradients of weights and, behind the first layer, of inputs."""
    first, *others = (layer.kernel.size * math.prod(layer.outputs[:-1]) for layer in layers(problem))
    return 2.0 * (2 * first + 3 * sum(others)) * len(problem.images) * num_steps


def neurons(problem: Problem) -> int:
    """Number of spiking neurons of the network for one image."""
    return sum(math.prod(layer.outputs) for layer in layers(problem) if layer.name != READOUT)
