"""What all contestants are given: a VGG's weights and thresholds, images and labels, as NumPy arrays."""

import math
import pickle
from pathlib import Path
from typing import NamedTuple

import numpy as np

POOL, READOUT = "A", "readout"
LEARNING_RATE = 1e-4  # of every contestant's Adam


class Problem(NamedTuple):
    """A spiking VGG without bias and the batch that it is trained on; the same for every contestant.

    The input at each step is sign(x) * Bernoulli(|x|). Every layer but the readout spikes.
    """

    stages: tuple[int | str, ...]  # output channels of each 3x3 convolution of padding 1, "A" for a 2x2 average pool
    kernels: dict[str, np.ndarray]  # conv0, ..., dense0, ..., readout -> float32 [3, 3, in, out] or [in, out]
    thresholds: dict[str, float]  # of the layers that spike
    leak: float  # of the membranes per time step, in (0, 1]
    images: np.ndarray  # [B, H, W, C] float32 in [-1, 1]
    labels: np.ndarray  # [B] int32


class Layer(NamedTuple):
    """A layer with weights; shapes are those for one image, height, width and channels or units."""

    name: str
    kernel: np.ndarray
    pooled: bool  # whether a pool comes before it
    inputs: tuple[int, ...]  # behind the pool; the first dense layer flattens them as they are
    outputs: tuple[int, ...]


def layers(problem: Problem) -> list[Layer]:
    """The layers with weights, in forward order."""
    in_order: list[Layer] = []
    shape, pooled = problem.images.shape[1:], False
    dense = sorted(name for name in problem.kernels if name.startswith("dense"))
    for stage in (*problem.stages, *dense, READOUT):
        if stage == POOL:
            shape, pooled = (shape[0] // 2, shape[1] // 2, shape[2]), True
            continue
        convolution = isinstance(stage, int)
        name = f"conv{len(in_order)}" if convolution else stage
        kernel = problem.kernels[name]
        outputs = (*shape[: 2 * convolution], kernel.shape[-1])
        in_order.append(Layer(name, kernel, pooled, shape, outputs))
        shape, pooled = outputs, False
    return in_order


def spiking_layers(problem: Problem) -> tuple[str, ...]:
    """Names of all layers but the readout, in forward order; the thresholds are not used."""
    return tuple(layer.name for layer in layers(problem)[:-1])


def save_problem(path: Path, problem: Problem) -> None:
    """Write a problem for the workers."""
    path.write_bytes(pickle.dumps(problem))


def load_problem(path: Path, batch: int) -> Problem:
    """Read a problem and take the first images of it."""
    with path.open("rb") as file:
        problem: Problem = pickle.load(file)
    return problem._replace(images=problem.images[:batch], labels=problem.labels[:batch])


def operations(problem: Problem, num_steps: int) -> float:
    """Floating-point operations of the matrix products of one training step, multiplications and additions apart.

    2 * (forward + gradient of weights + gradient of inputs, which the first layer does not need) * B * T
    """
    first, *others = (layer.kernel.size * math.prod(layer.outputs[:-1]) for layer in layers(problem))
    return 2.0 * (2 * first + 3 * sum(others)) * len(problem.images) * num_steps


def neurons(problem: Problem) -> int:
    """Number of spiking neurons of the network for one image."""
    return sum(math.prod(layer.outputs) for layer in layers(problem)[:-1])
