"""Convolutions of every kind, as grouped, dilated or in one dimension, and sums over pools equal those of jax.lax."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.kernels import fast_kernels, pool_sum, xla_kernels
from jsnn.network.rules import convolve_batch, multiply_batch
from tests.kernels.convolutions import SHAPES, arrays, assert_close, with_gradients


def convolution_and_options(x, kernel, strides, padding, layout, **others):
    """A convolution by jax.lax, and the parameters that it gives its primitive."""
    convolve = partial(
        jax.lax.conv_general_dilated, window_strides=strides, padding=padding, dimension_numbers=layout, **others
    )
    return convolve, jax.make_jaxpr(convolve)(x, kernel).eqns[0].params


ONES_2D, ONES_1D = [(1, 1), (1, 1)], [(1, 1)]
NHWC, NWC = ("NHWC", "HWIO", "NHWC"), ("NWC", "WIO", "NWC")
# Shapes of images and kernel, strides, padding, layout, other options.
CONVOLUTIONS = {
    "plain": ((2, 6, 5, 4), (3, 3, 4, 6), (1, 2), ONES_2D, NHWC, {}),
    "grouped": ((2, 6, 5, 4), (3, 3, 2, 6), (1, 1), ONES_2D, NHWC, {"feature_group_count": 2}),
    "depthwise": ((2, 6, 5, 4), (3, 3, 1, 4), (2, 1), ONES_2D, NHWC, {"feature_group_count": 4}),
    "grouped batch": ((4, 6, 5, 4), (3, 3, 4, 6), (1, 1), ONES_2D, NHWC, {"batch_group_count": 2}),
    "dilated": ((2, 9, 8, 4), (3, 3, 4, 6), (1, 1), ONES_2D, NHWC, {"rhs_dilation": (2, 3)}),
    "transposed": ((2, 6, 5, 4), (3, 3, 4, 6), (1, 1), ONES_2D, NHWC, {"lhs_dilation": (2, 2)}),
    "cropped": ((2, 9, 8, 4), (3, 3, 4, 6), (1, 1), [(-1, 0), (0, -2)], NHWC, {}),
    "without a pixel": ((2, 2, 2, 4), (3, 3, 4, 6), (1, 1), [(0, 0), (0, 0)], NHWC, {}),
    "smaller than the window": ((2, 5, 5, 4), (7, 7, 4, 6), (1, 1), [(0, 0), (0, 0)], NHWC, {}),
    "without channels": ((2, 6, 5, 0), (3, 3, 0, 6), (1, 1), ONES_2D, NHWC, {}),
    "without features": ((2, 6, 5, 4), (3, 3, 4, 0), (1, 1), ONES_2D, NHWC, {}),
    "padding alone": ((2, 6, 0, 4), (3, 3, 4, 6), (1, 1), [(1, 1), (2, 2)], NHWC, {}),
    "padded by more than the window": ((2, 9, 9, 4), (3, 3, 4, 6), (20, 20), [(6, 0), (6, 0)], NHWC, {}),
    "1-D": ((2, 9, 4), (3, 4, 6), (2,), ONES_1D, NWC, {}),
    "1-D grouped": ((2, 9, 4), (3, 2, 6), (1,), ONES_1D, NWC, {"feature_group_count": 2}),
    "3-D": ((2, 4, 3, 5, 4), (3, 3, 3, 4, 6), (1, 1, 1), [(1, 1)] * 3, ("NDHWC", "DHWIO", "NDHWC"), {}),
    "channels first": ((2, 4, 6, 5), (6, 4, 3, 3), (1, 1), ONES_2D, ("NCHW", "OIHW", "NCHW"), {}),
}


def in_ways(kind, *ways):
    """Results and gradients of a kind, by kernels or by JAX where they are None, of rounded images and kernel."""
    *shapes, strides, padding, layout, others = CONVOLUTIONS[kind]
    rng = np.random.default_rng(0)
    case = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    jaxs, options = convolution_and_options(*case, strides, padding, layout, **others)
    functions = [partial(kernels.convolve, options=options) if kernels else jaxs for kernels, _ in ways]
    rounded = [[leaf.astype(dtype).astype(jnp.float32) for leaf in case] for _, dtype in ways]
    return with_gradients(*((function, *leaves) for function, leaves in zip(functions, rounded, strict=True)))


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions_of_every_kind_equal_those_of_jax(kind):
    whole = jnp.float32
    fast, platforms, expected = in_ways(kind, (fast_kernels(None), whole), (xla_kernels(), whole), (None, whole))
    assert_close(fast, expected, 1e-6)
    assert_close(platforms, expected, 1e-6)


@pytest.mark.parametrize("kind", ["plain", "grouped", "dilated", "1-D"])
def test_operands_are_rounded_in_convolutions_of_every_kind(kind):
    """Sums and gradients are not, but for what numbers of few bits enter them."""
    ways = (fast_kernels(jnp.bfloat16), jnp.float32), (None, jnp.float32), (None, jnp.bfloat16)
    actual, exact, of_rounded = in_ways(kind, *ways)
    assert_close(actual, exact, 1e-2)
    assert_close(actual[0], of_rounded[0], 1e-6)
    for part in actual:
        assert (part != part.astype(jnp.bfloat16).astype(jnp.float32)).any()


def test_what_has_no_batch_in_front_is_left_to_jax():
    x, kernel = arrays(SHAPES[0], 3)
    _, options = convolution_and_options(x, kernel, (1, 1), ONES_2D, ("HWNC", "HWIO", "HWNC"))
    assert convolve_batch(fast_kernels(), options, x, kernel) is None
    for axes in ((((1,), (0,)), ((), ())), (((2,), (1,)), ((), ())), (((2,), (0,)), ((0,), (1,)))):
        assert multiply_batch(fast_kernels(), {"dimension_numbers": axes}, x[0], kernel[0, 0]) is None
    assert multiply_batch(fast_kernels(), {"dimension_numbers": (((3,), (2,)), ((), ()))}, x, kernel) is None


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
