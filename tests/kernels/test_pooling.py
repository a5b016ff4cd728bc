"""Sums over the windows of a pool equal JAX's reductions, to which pools of other kinds are left."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.kernels import pool_sum
from tests.kernels.convolutions import assert_close, with_gradients

PLAIN = {"padding": [(0, 0)] * 4, "base_dilation": (1,) * 4, "window_dilation": (1,) * 4}


def test_a_pool_equals_a_window_reduction():
    two_by_two, rng = (1, 2, 2, 1), np.random.default_rng(0)
    pools = [(two_by_two, (3, 6, 8, 5)), (two_by_two, (3, 7, 5, 2)), ((1, 3, 1, 2), (2, 7, 4, 5))]
    for window, shape in (*pools, ((1, 4, 4, 1), (2, 8, 9, 3))):
        x = jnp.asarray(rng.normal(size=shape), jnp.float32)
        reduction = partial(
            jax.lax.reduce_window,
            init_value=0.0,
            computation=jax.lax.add,
            window_dimensions=window,
            window_strides=window,
            padding="VALID",
        )
        ours = partial(pool_sum, window=window, strides=window, options=PLAIN)
        assert_close(*with_gradients((ours, x), (reduction, x)), 1e-6)


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
