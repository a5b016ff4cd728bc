"""What all contestants are given: a VGG's weights and thresholds, images and labels, as NumPy arrays."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

POOL = "A"


class Problem(NamedTuple):
    """A spiking VGG without bias and the batch that it is trained on; the same for every contestant.

    The layers are conv0, conv1, ... (3x3, padding 1) in the order of `stages`, "A" being a 2x2 average pool, then
    flatten (height, width, channels), dense0, dense1, ... and readout. Every layer but the readout spikes.

    Attributes:
        stages: output channels of each convolution, "A" for a pool.
        kernels: layer -> float32 [3, 3, in, out] or [in, out].
        thresholds: layer -> threshold.
        leak: of the membranes per time step, in (0, 1].
        images: [B, H, W, C] float32 in [-1, 1]; the input at each step is sign(x) * Bernoulli(|x|).
        labels: [B] int32.
    """

    stages: tuple[int | str, ...]
    kernels: dict[str, np.ndarray]
    thresholds: dict[str, float]
    leak: float
    images: np.ndarray
    labels: np.ndarray

    @property
    def hidden(self) -> tuple[str, ...]:
        """Names of the hidden dense layers, in forward order."""
        return tuple(f"dense{i}" for i in range(sum(name.startswith("dense") for name in self.kernels)))

    @property
    def pools(self) -> tuple[bool, ...]:
        """Whether each convolution is followed by a pool, in forward order."""
        after = (*self.stages[1:], None)
        return tuple(follower == POOL for stage, follower in zip(self.stages, after, strict=True) if stage != POOL)


def save_problem(path: Path, problem: Problem) -> None:
    """Write a problem as one npz file.

    Args:
        path: the file.
        problem: the problem.
    """
    arrays = {f"kernel/{layer}": kernel for layer, kernel in problem.kernels.items()}
    arrays |= {f"threshold/{layer}": np.float64(threshold) for layer, threshold in problem.thresholds.items()}
    stages = np.array([str(stage) for stage in problem.stages])
    np.savez(path, stages=stages, leak=problem.leak, images=problem.images, labels=problem.labels, **arrays)


def load_problem(path: Path, batch: int) -> Problem:
    """Read a problem and take the first images of it.

    Args:
        path: the npz file.
        batch: B, number of images.

    Returns:
        The Problem.
    """
    with np.load(path) as file:
        kernels = {name.removeprefix("kernel/"): file[name] for name in file if name.startswith("kernel/")}
        thresholds = {
            name.removeprefix("threshold/"): float(file[name]) for name in file if name.startswith("threshold/")
        }
        stages = tuple(stage if stage == POOL else int(stage) for stage in file["stages"])
        return Problem(stages, kernels, thresholds, float(file["leak"]), file["images"][:batch], file["labels"][:batch])


def operations(problem: Problem, num_steps: int) -> float:
    """Floating-point operations of the matrix products of one training step.

        2 * (forward + gradient of weights + gradient of inputs, which the first layer does not need) * B * T

    Args:
        problem: the problem.
        num_steps: T.

    Returns:
        The number of operations, multiplications and additions counted apart.
    """
    passes = [2 if layer == "conv0" else 3 for layer in problem.kernels]
    products = sum(times * count for times, count in zip(passes, _products(problem), strict=True))
    return 2.0 * products * len(problem.images) * num_steps


def neurons(problem: Problem) -> int:
    """Number of spiking neurons of the network for one image."""
    convs = sum(height * width * kernel.shape[-1] for kernel, (height, width) in _convolutions(problem))
    return convs + sum(problem.kernels[layer].shape[-1] for layer in problem.hidden)


def _products(problem: Problem) -> Sequence[int]:
    """Multiplications of each layer for one image and time step, in the order of the kernels."""
    convs = [height * width * kernel.size for kernel, (height, width) in _convolutions(problem)]
    return [*convs, *(problem.kernels[layer].size for layer in (*problem.hidden, "readout"))]


def _convolutions(problem: Problem) -> list[tuple[np.ndarray, tuple[int, int]]]:
    """The kernel and the output's height and width of each convolution."""
    height, width = problem.images.shape[1:3]
    found = []
    for i, pooled in enumerate(problem.pools):
        found.append((problem.kernels[f"conv{i}"], (height, width)))
        height, width = (height // 2, width // 2) if pooled else (height, width)
    return found
