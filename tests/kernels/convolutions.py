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


def arrays(shape: tuple[int, ...], size: int, seed: int = 0, dtype: Any = jnp.float32) -> tuple[jax.Array, jax.Array]:
    """Random images and a random kernel."""
    batch, channels, features, height, width = shape
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batch, height, width, channels))
    kernel = rng.normal(size=(size, size, channels, features))
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


def with_gradients(convolve: Callable, *cases: Sequence[jax.Array]) -> list[tuple[jax.Array, ...]]:
    """The result and both gradients for a random cotangent, of all pairs of images and kernel; compiled at once."""

    def of_pair(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, ...]:
        y, backward = jax.vjp(convolve, x, kernel)
        cotangent = jnp.asarray(np.random.default_rng(1).normal(size=y.shape), y.dtype)
        return (y, *backward(cotangent))

    return jax.jit(lambda *cases: [of_pair(*case) for case in cases])(*cases)


def assert_close(actual: Any, expected: Any, tolerance: float) -> None:
    """Shapes and dtypes equal, values within `tolerance` of the norm."""
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b), a.shape


def lower_for(on_cpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the programs for a CPU, or those for other platforms."""
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, cpu, default: (cpu if on_cpu else default)(*args))


def take(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have convolutions go one way where they can."""
    on_cpu, narrow_ones, for_winograd, for_strips = WAYS[way]
    lower_for(on_cpu, monkeypatch)
    monkeypatch.setattr(cpu_convolution, "XLA_TAKES_NARROW_ONES", narrow_ones)
    monkeypatch.setattr(cpu_convolution, "CHANNELS_FOR_WINOGRAD", for_winograd)
    monkeypatch.setattr(cpu_convolution, "CHANNELS_FOR_STRIPS", for_strips)
    monkeypatch.setattr(cpu_convolution, "NARROW", NEVER if for_strips == ALWAYS else 0)
    monkeypatch.setattr(cpu_convolution, "has_few_bits", lambda dtype: True)
