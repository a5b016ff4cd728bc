"""What all contestants are given, a spiking VGG and a batch as NumPy arrays, and what they make of it."""

import math
from collections.abc import Callable, Iterator
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
    thresholds: dict[str, float]  # of the layers that spike, in forward order
    leak: float  # of the membranes per time step, in (0, 1]
    images: np.ndarray  # [B, H, W, C] float32 in [-1, 1]
    labels: np.ndarray  # [B] int32


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
    """Write a problem as one npz file for the workers."""
    arrays = {f"kernels/{name}": kernel for name, kernel in problem.kernels.items()}
    arrays |= {f"thresholds/{name}": np.float64(threshold) for name, threshold in problem.thresholds.items()}
    stages = np.array([str(stage) for stage in problem.stages])
    np.savez(path, stages=stages, leak=problem.leak, images=problem.images, labels=problem.labels, **arrays)


def load_problem(path: Path, batch: int) -> Problem:
    """Read a problem and take the first images of it."""
    with np.load(path) as file:
        kernels, thresholds = (
            {name.removeprefix(f"{kind}/"): file[name] for name in file if name.startswith(f"{kind}/")}
            for kind in ("kernels", "thresholds")
        )
        stages = tuple(stage if stage == POOL else int(stage) for stage in map(str, file["stages"]))
        thresholds = {name: float(threshold) for name, threshold in thresholds.items()}
        images, labels = file["images"][:batch], file["labels"][:batch]
        return Problem(stages, kernels, thresholds, float(file["leak"]), images, labels)


def operations(problem: Problem, num_steps: int) -> float:
    """Floating-point operations of the matrix products of one training step, multiplications and additions apart.

    2 * (forward + gradient of weights + gradient of inputs, which the first layer does not need) * B * T
    """
    first, *others = (layer.kernel.size * math.prod(layer.outputs[:-1]) for layer in layers(problem))
    return 2.0 * (2 * first + 3 * sum(others)) * len(problem.images) * num_steps


def neurons(problem: Problem) -> int:
    """Number of spiking neurons of the network for one image."""
    return sum(math.prod(layer.outputs) for layer in layers(problem) if layer.name != READOUT)
