"""A convolution of tiny images as one matrix product; XLA:CPU's own is slow for images two pixels high or wide."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jsnn.kernels.products import product, product_of_transposed, transposed
from jsnn.kernels.windows import Padding, Pair, output_sides

MOST_BLOCKS = 64  # of the matrix


def suits(sides: Pair, window: Pair, strides: Pair, padding: Padding) -> bool:
    """Whether a convolution of (H, W) to (H', W') is best made one matrix: two pixels high or wide, in or out."""
    outputs = output_sides(sides, window, strides, padding)
    blocks = math.prod(sides) * math.prod(outputs)
    return tuple(window) != (1, 1) and min(*sides, *outputs) <= 2 and blocks <= MOST_BLOCKS


def convolve(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
    """The convolution of images [N, H, W, C_in] with [kH, kW, C_in, C_out], of at least float32."""
    outputs = output_sides(x.shape[1:3], kernel.shape[:2], strides, padding)
    matrix = _as_matrix(kernel, x.shape[1:3], outputs, strides, padding)
    return product(None, _as_row(x), matrix).reshape(x.shape[0], *outputs, kernel.shape[-1])


def image_gradient(cotangent: jax.Array, kernel: jax.Array, sides: Pair, strides: Pair, padding: Padding) -> jax.Array:
    """The gradient [N, H, W, C_in] with respect to the images."""
    matrix = _as_matrix(kernel, sides, cotangent.shape[1:3], strides, padding)
    images = product(None, _as_row(cotangent), transposed(matrix))
    return images.reshape(cotangent.shape[0], *sides, kernel.shape[2])


def filter_gradient(x: jax.Array, cotangent: jax.Array, window: Pair, strides: Pair, padding: Padding) -> jax.Array:
    """The gradient [kH, kW, C_in, C_out] with respect to the kernel: the matrix's, summed where blocks are equal."""
    of_matrix = product_of_transposed(_as_row(x), _as_row(cotangent))
    kernel = jax.ShapeDtypeStruct((*window, x.shape[-1], cotangent.shape[-1]), of_matrix.dtype)
    place = partial(_as_matrix, sides=x.shape[1:3], outputs=cotangent.shape[1:3], strides=strides, padding=padding)
    return jax.linear_transpose(place, kernel)(of_matrix)[0]


def _as_row(x: jax.Array) -> jax.Array:
    """Each image as a row of a matrix, [N, H * W * C]."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def _as_matrix(kernel: jax.Array, sides: Pair, outputs: Pair, strides: Pair, padding: Padding) -> jax.Array:
    """The convolution as one matrix of a block for each pixel and output, [H * W * C_in, H' * W' * C_out]."""

    def block(pixel: Pair, output: Pair) -> jax.Array:
        i, j = (p + before - s * o for p, (before, _), s, o in zip(pixel, padding, strides, output, strict=True))
        inside = 0 <= i < kernel.shape[0] and 0 <= j < kernel.shape[1]
        return kernel[i, j] if inside else jnp.zeros_like(kernel[0, 0])

    return jnp.block([[block(pixel, output) for output in np.ndindex(outputs)] for pixel in np.ndindex(sides)])
