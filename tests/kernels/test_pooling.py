"""Sums over the windows of a pool equal JAX's reductions, to which pools of other kinds are left."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.kernels import pool_sum
from tests.kernels.convolutions import assert_close, with_gradients

PLAIN = {"padding": [(0, 0)] * 4, "base_dilation": (1,) * 4, "window_dilation": (1,) * 4}


@pytest.mark.parametrize(
    ("window", "shape"), [((2, 2, 1), (3, 6, 8, 5)), ((4, 4, 1), (2, 8, 9, 3)), ((3, 1, 2), (2, 7, 4, 5))], ids=str
)
def test_a_pool_equals_a_window_reduction(window, shape):
    x, sides = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32), (1, *window)
    ways = (
        lambda x: pool_sum(x, sides, sides, PLAIN),
        lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, sides, sides, "VALID"),
    )
    assert_close(*with_gradients(*((way, x) for way in ways)), 1e-6)


@pytest.mark.parametrize(
    ("window", "strides", "change"),
    [
        ((1, 3, 3, 1), (1, 2, 2, 1), {}),
        ((1, 2, 2, 1), (1, 2, 2, 1), {"padding": [(0, 0), (0, 1), (0, 0), (0, 0)]}),
        ((1, 2, 2, 1), (1, 2, 2, 1), {"base_dilation": (1, 2, 1, 1)}),
        ((1, 2, 2, 1), (1, 2, 2, 1), {"window_dilation": (1, 2, 1, 1)}),
        ((1, 5, 5, 1), (1, 5, 5, 1), {}),
        ((4, 1, 1, 1), (4, 1, 1, 1), {}),
    ],
    ids=["overlapping", "padded", "dilated", "with a dilated window", "large", "larger than the image"],
)
def test_other_pools_are_left_to_jax(window, strides, change):
    assert pool_sum(jnp.ones((2, 10, 10, 3)), window, strides, {**PLAIN, **change}) is None
