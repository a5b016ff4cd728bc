"""Convolutions of random images, by jax.lax and by every way of jsnn, and their gradients."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.kernels import cpu_convolution
from jsnn.kernels.convolution import conv_general_dilated

Padding = Sequence[tuple[int, int]]

# (images, channels in, channels out, height, width): odd and even sides, tiny ones, many channels, a prime number.
SHAPES = [(5, 3, 8, 9, 12), (4, 6, 5, 7, 7), (3, 40, 72, 6, 5), (2, 130, 36, 4, 4), (6, 5, 4, 2, 2), (4, 3, 5, 1, 2)]
SHAPES += [(7, 4, 4, 2, 9)]

NEVER, ALWAYS = 10**6, 1
# On a CPU or not, whether XLA takes narrow convolutions, from how many channels on Winograd's way and strips are taken.
WAYS = {
    "products": (True, False, NEVER, NEVER),
    "XLA's": (True, True, NEVER, NEVER),
    "Winograd's": (True, True, ALWAYS, NEVER),
    "strips": (True, True, NEVER, ALWAYS),
    "platform's": (False, False, NEVER, NEVER),
}


def arrays(
    shape: tuple[int, ...], window: int | tuple[int, int], seed: int = 0, dtype: Any = jnp.float32
) -> tuple[jax.Array, jax.Array]:
    """Random images and a random kernel, square where its window is a number."""
    batch, channels, features, height, width = shape
    rng = np.random.default_rng(seed)
    sides = (window, window) if isinstance(window, int) else window
    x, kernel = rng.normal(size=(batch, height, width, channels)), rng.normal(size=(*sides, channels, features))
    return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)


def reference(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding | None = None) -> jax.Array:
    """The convolution by jax.lax alone."""
    padding = padding or [(kernel.shape[0] // 2,) * 2] * 2
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )


def ours(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding | None = None, operands: Any = None
) -> jax.Array:
    """The same by jsnn, which may round the operands."""
    padding = padding or [(kernel.shape[0] // 2,) * 2] * 2
    return conv_general_dilated(x, kernel, (stride, stride), padding, operands=operands)


def result_and_gradients(convolve: Callable, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, ...]:
    """The result and both gradients for a random cotangent."""
    y, backward = jax.vjp(convolve, x, kernel)
    cotangent = jnp.asarray(np.random.default_rng(1).normal(size=y.shape), y.dtype)
    return (y, *backward(cotangent))


def with_gradients(convolve: Callable, *cases: Sequence[jax.Array]) -> list[tuple[jax.Array, ...]]:
    """Results and gradients of all pairs of images and kernel; compiled at once."""
    return jax.jit(lambda *cases: [result_and_gradients(convolve, *case) for case in cases])(*cases)


@cache
def expected_of(stride: int, padding: Padding | None, *cases: tuple) -> list[tuple[jax.Array, ...]]:
    """Results and gradients by jax.lax alone, for shapes with their windows."""
    return with_gradients(partial(reference, stride=stride, padding=padding), *(arrays(*case) for case in cases))


def assert_equals_reference(stride: int, padding: Padding | None, *cases: tuple) -> None:
    """Results and gradients by jsnn are those by jax.lax, for shapes with their windows."""
    actual = with_gradients(partial(ours, stride=stride, padding=padding), *(arrays(*case) for case in cases))
    assert_close(actual, expected_of(stride, padding, *cases), 1e-6)


def assert_close(actual: Any, expected: Any, tolerance: float) -> None:
    """Shapes and dtypes equal, values within `tolerance` of the norm."""
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b), a.shape


def take(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have convolutions go one way where they can."""
    on_cpu, narrow_ones, for_winograd, for_strips = WAYS[way]
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, cpu, default: (cpu if on_cpu else default)(*args))
    monkeypatch.setattr(cpu_convolution, "XLA_TAKES_NARROW_ONES", narrow_ones)
    monkeypatch.setattr(cpu_convolution, "CHANNELS_FOR_WINOGRAD", for_winograd)
    monkeypatch.setattr(cpu_convolution, "CHANNELS_FOR_STRIPS", for_strips)
    monkeypatch.setattr(cpu_convolution, "NARROW", NEVER if for_strips == ALWAYS else 0)
    monkeypatch.setattr(cpu_convolution, "has_few_bits", lambda dtype: True)
