"""A small random problem of the benchmark, which its tests share."""

import numpy as np

from experiments.benchmark.problem import Problem


def problem(seed=0):
    """4x4 images, a convolution of 6, a pool, hidden 5 and 3 classes."""
    rng = np.random.default_rng(seed)
    shapes = {"conv0": (3, 3, 2, 6), "dense0": (24, 5), "readout": (5, 3)}
    kernels = {layer: rng.normal(0, 0.4, shape).astype(np.float32) for layer, shape in shapes.items()}
    images = rng.uniform(-1, 1, (2, 4, 4, 2)).astype(np.float32)
    return Problem((6, "A"), kernels, {"conv0": 0.4, "dense0": 0.4}, 0.9, images, np.array([0, 2], np.int32))
