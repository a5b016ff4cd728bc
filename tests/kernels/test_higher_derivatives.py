"""Higher derivatives of convolutions and products equal those of JAX, those of a scan among them."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.kernels import fast_kernels
from tests.kernels.convolutions import arrays, assert_close, ours, reference, take


def of_order(order, function, x, y):
    """Derivatives of an order, each the gradient of the squares of those before."""

    def squares(order, *leaves):
        before = jax.grad(partial(squares, order - 1), (0, 1))(*leaves) if order else [function(*leaves)]
        return sum((leaf**2).sum() for leaf in before)

    return jax.jit(jax.grad(partial(squares, order - 1), (0, 1)))(x, y)


@pytest.mark.parametrize(("way", "stride"), [("products", 2), ("strips", 1), ("platform's", 2)])
def test_third_derivatives_equal_those_of_jax(way, stride, float64, monkeypatch):
    """Those of second order are within them."""
    take(way, monkeypatch)
    case, how = arrays((2, 3, 4, 7, 8), (2, 3), jnp.float64), {"stride": stride, "padding": ((0, 2), (1, 0))}
    assert_close(*(of_order(3, partial(way, **how), *case) for way in (ours, reference)), 1e-11)


@cache
def in_a_scan(convolve, multiply, channels):
    """Second derivatives of convolutions and products in turn, over three steps."""
    x, kernel = arrays((2, channels, channels, 6, 6), 3)

    def over_time(x, kernel):
        def step(state, _):
            state = jnp.tanh(convolve(state, kernel / (1.5 * channels**0.5), 1))
            return state + multiply(state.reshape(-1, channels), kernel[0, 0] / 9).reshape(state.shape), None

        return jax.lax.scan(step, x, length=3)[0]

    return of_order(2, over_time, x, kernel)


@pytest.mark.parametrize(
    ("operands", "channels", "tolerance"), [(None, 4, 1e-5), (jnp.bfloat16, 4, 3e-2), (jnp.bfloat16, 16, 3e-2)], ids=str
)
def test_a_scan_of_convolutions_and_products_is_differentiated_twice(operands, channels, tolerance):
    actual = in_a_scan(partial(ours, operands=operands), fast_kernels(operands).multiply, channels)
    assert_close(actual, in_a_scan(reference, jnp.matmul, channels), tolerance)


def test_second_derivatives_of_products_of_few_bits_and_rows():
    rng = np.random.default_rng(0)
    case = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 40), (40, 30))]
    assert_close(*(of_order(2, way, *case) for way in (fast_kernels(jnp.bfloat16).multiply, jnp.matmul)), 2e-2)
