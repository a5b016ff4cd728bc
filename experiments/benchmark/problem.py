"""What every contestant is given, a spiking VGG and a batch as NumPy arrays, and what it makes of them."""

import math
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from experiments.benchmark.roster import STDB

POOL, READOUT = "A", "readout"
LEARNING_RATE = 1e-4  # of every contestant's Adam


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
    flattens: bool  # whether it is the first dense layer, which flattens its inputs in the order of their shape
    inputs: tuple[int, ...]  # behind the pool
    outputs: tuple[int, ...]


def layers(problem: Problem) -> Iterator[Layer]:
    """The layers with weights, in forward order."""
    convolutions, shape, pooled = count(), problem.images.shape[1:], False
    num_hidden = sum(kernel.ndim == 2 for kernel in problem.kernels.values()) - 1
    for stage in (*problem.stages, *(f"dense{i}" for i in range(num_hidden)), READOUT):
        if stage == POOL:
            shape, pooled = (shape[0] // 2, shape[1] // 2, shape[2]), True
            continue
        name = f"conv{next(convolutions)}" if isinstance(stage, int) else stage
        kernel = problem.kernels[name]
        outputs = (*shape[: kernel.ndim - 2], kernel.shape[-1])
        yield Layer(name, kernel, pooled, len(shape) > len(outputs), shape, outputs)
        shape, pooled = outputs, False


def network(
    problem: Problem, pool: Any, flatten: Any, synapses: Callable[[Layer], Any], neurons: Callable[[Layer], Any]
) -> list[Any]:
    """A library's modules in forward order; pools and flattening are alike everywhere, the others made for a layer."""
    modules: list[Any] = []
    for layer in layers(problem):
        modules += [pool] * layer.pooled + [flatten] * layer.flattens + [synapses(layer)]
        modules += [neurons(layer)] if layer.name in problem.thresholds else []
    return modules


def operations(problem: Problem, num_steps: int) -> float:
    """Multiplications and additions of a step: forward, gradients of weights and, behind the first layer, of inputs."""
    first, *others = (layer.kernel.size * math.prod(layer.outputs[:-1]) for layer in layers(problem))
    return 2.0 * (2 * first + 3 * sum(others)) * len(problem.images) * num_steps


def neurons(problem: Problem) -> int:
    """Number of spiking neurons of the network for one image."""
    return sum(math.prod(layer.outputs) for layer in layers(problem) if layer.name != READOUT)
