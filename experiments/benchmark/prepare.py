"""The problem of a net: random weights and images, thresholds at which every layer spikes; as a file for the workers.

Weights are rounded to multiples of 2^-10. Then sums of weights over spikes are exact in float32 whatever their order,
all contestants spike alike, and thresholds that are found in different ways can be compared to the last bit.
"""

from pathlib import Path

import jax
import numpy as np

from experiments.benchmark.ours import balance
from experiments.benchmark.problem import Problem, save_problem
from jsnn.models import build

GRID = 2.0**-10
IMAGE_SHAPE, NUM_CLASSES = (32, 32, 3), 10
PERCENTILE = 99.0  # of the currents becomes the threshold: a tenth of the neurons or so spike at each step
SAMPLE, SAMPLE_STEPS = 2, 24  # images and steps on which thresholds are found


def prepare(path: Path, net: str, width: float, hidden: tuple[int, ...], batch: int, leak: float) -> Problem:
    """Make the problem of one of VGG_STAGES, see `build`, with so many images, and write it."""
    rng = np.random.default_rng(0)
    ann = build(net, NUM_CLASSES, width=width, hidden=hidden)
    shapes = jax.eval_shape(ann.init, jax.random.key(0), np.zeros((1, *IMAGE_SHAPE), np.float32))["params"]
    kernels = {layer: _weights(rng, leaf["kernel"].shape) for layer, leaf in shapes.items()}
    images = rng.integers(0, 256, (batch, *IMAGE_SHAPE)).astype(np.float32) / np.float32(127.5) - 1
    labels = rng.integers(0, NUM_CLASSES, batch).astype(np.int32)
    problem = Problem(tuple(ann.stages), kernels, {}, leak, images, labels)
    sample = problem._replace(images=images[:SAMPLE])
    problem = problem._replace(thresholds=balance(sample, SAMPLE_STEPS, "cpu", PERCENTILE))
    save_problem(path, problem)
    return problem


def _weights(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random weights on the grid, of variance 2 / inputs (He et al., 2015)."""
    drawn = rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
    return (np.rint(drawn / GRID) * GRID).astype(np.float32)
