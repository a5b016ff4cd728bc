"""Convolutions of random images, by jax.lax and by every way of jsnn, and their gradients."""

from collections.abc import Callable, Sequence
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
    shape: tuple[int, ...], window: int | tuple[int, int], dtype: Any = jnp.float32
) -> tuple[jax.Array, jax.Array]:
    """Random images and a random kernel, square where its window is a number."""
    batch, channels, features, height, width = shape
    rng, sides = np.random.default_rng(0), (window, window) if isinstance(window, int) else window
    x, kernel = rng.normal(size=(batch, height, width, channels)), rng.normal(size=(*sides, channels, features))
    return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)


def reference(x: jax.Array, kernel: jax.Array, stride: int = 1, padding: Padding | None = None) -> jax.Array:
    """The convolution by jax.lax alone, padded by half the window where no padding is given."""
    padding = padding or [(kernel.shape[0] // 2,) * 2] * 2
    options = {"dimension_numbers": cpu_convolution.CHANNELS_LAST, "precision": "highest"}
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, **options)


def ours(x: jax.Array, kernel: jax.Array, stride: int = 1, padding: Padding | None = None, **options: Any) -> jax.Array:
    """The same by jsnn, which may round the operands."""
    padding = padding or [(kernel.shape[0] // 2,) * 2] * 2
    return conv_general_dilated(x, kernel, (stride, stride), padding, **options)


def with_gradients(*cases: tuple) -> list[tuple[jax.Array, ...]]:
    """Results of functions with arrays, and all gradients for a random cotangent; compiled at once."""

    def of_one(function: Callable, leaves: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        y, backward = jax.vjp(function, *leaves)
        return y, *backward(jnp.asarray(np.random.default_rng(1).normal(size=y.shape), y.dtype))

    functions, every = [function for function, *_ in cases], [leaves for _, *leaves in cases]
    return jax.jit(lambda every: list(map(of_one, functions, every)))(every)


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
