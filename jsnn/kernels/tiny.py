"""A convolution of tiny images as one matrix: no patches, and none of XLA:CPU's convolution, slow at two pixels."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jsnn.kernels.windows import Padding, Pair

MOST_BLOCKS = 64  # of the matrix


def is_tiny(sides: Pair, outputs: Pair) -> bool:
    """Whether a convolution of (H, W) to (H', W') is best made one matrix: two pixels high or wide, in or out."""
    return min(*sides, *outputs) <= 2 and math.prod(sides) * math.prod(outputs) <= MOST_BLOCKS


def as_matrix(sides: Pair, outputs: Pair, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
    """The convolution of tiny images as one matrix [H * W * C_in, H' * W' * C_out]: a block by pixel and output."""

    def block(pixel: Pair, output: Pair) -> jax.Array:
        i, j = (p + before - s * o for p, (before, _), s, o in zip(pixel, padding, strides, output, strict=True))
        inside = 0 <= i < kernel.shape[0] and 0 <= j < kernel.shape[1]
        return kernel[i, j] if inside else jnp.zeros_like(kernel[0, 0])

    return jnp.block([[block(pixel, output) for output in np.ndindex(outputs)] for pixel in np.ndindex(sides)])
