"""A convolution of tiny images as one matrix: no patches, and none of XLA:CPU's convolution, slow at two pixels."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jsnn.kernels.products import product
from jsnn.kernels.windows import Padding, Pair, output_sides

MOST_BLOCKS = 64  # of the matrix


def suits(sides: Pair, window: Pair, strides: Pair, padding: Padding) -> bool:
    """Whether images are so small that a convolution is best made one matrix: two pixels high or wide, in or out.

    Args:
        sides: (H, W) of the images.
        window: (kH, kW).
        strides: steps of the window.
        padding: pixels (before, after) each side of the image.

    Returns:
        Whether they are.
    """
    outputs = output_sides(sides, window, strides, padding)
    blocks = math.prod(sides) * math.prod(outputs)
    return tuple(window) != (1, 1) and min(*sides, *outputs) <= 2 and blocks <= MOST_BLOCKS


def convolve(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
    """The convolution.

    Args:
        x: [N, H, W, C_in] images.
        kernel: [kH, kW, C_in, C_out].
        strides: steps of the window.
        padding: pixels (before, after) each side of the image.

    Returns:
        [N, H', W', C_out] of at least float32.
    """
    outputs = output_sides(x.shape[1:3], kernel.shape[:2], strides, padding)
    matrix = _as_matrix(kernel, x.shape[1:3], outputs, strides, padding)
    return product(None, x.reshape(len(x), -1), matrix).reshape(len(x), *outputs, -1)


def image_gradient(cotangent: jax.Array, kernel: jax.Array, sides: Pair, strides: Pair, padding: Padding) -> jax.Array:
    """The gradient of the convolution with respect to its images.

    Args:
        cotangent: [N, H', W', C_out] the gradient with respect to the output.
        kernel: [kH, kW, C_in, C_out].
        sides: (H, W) of the images.
        strides: steps of the window.
        padding: pixels (before, after) each side of the image.

    Returns:
        [N, H, W, C_in] of at least float32.
    """
    matrix = _as_matrix(kernel, sides, cotangent.shape[1:3], strides, padding)
    return product(None, cotangent.reshape(len(cotangent), -1), matrix.T).reshape(len(cotangent), *sides, -1)


def filter_gradient(x: jax.Array, cotangent: jax.Array, window: Pair, strides: Pair, padding: Padding) -> jax.Array:
    """The gradient of the convolution with respect to its kernel: of the matrix's blocks, summed where they are equal.

    Args:
        x: [N, H, W, C_in] images.
        cotangent: [N, H', W', C_out] the gradient with respect to the output.
        window: (kH, kW).
        strides: steps of the window.
        padding: pixels (before, after) each side of the image.

    Returns:
        [kH, kW, C_in, C_out] of at least float32.
    """
    of_matrix = product(None, x.reshape(len(x), -1).T, cotangent.reshape(len(x), -1))
    kernel = jax.ShapeDtypeStruct((*window, x.shape[-1], cotangent.shape[-1]), of_matrix.dtype)
    place = partial(_as_matrix, sides=x.shape[1:3], outputs=cotangent.shape[1:3], strides=strides, padding=padding)
    return jax.linear_transpose(place, kernel)(of_matrix)[0]


def _as_matrix(kernel: jax.Array, sides: Pair, outputs: Pair, strides: Pair, padding: Padding) -> jax.Array:
    """The convolution as one matrix of a block for each pixel and output, [H * W * C_in, H' * W' * C_out]."""

    def block(pixel: Pair, output: Pair) -> jax.Array:
        i, j = (p + before - s * o for p, (before, _), s, o in zip(pixel, padding, strides, output, strict=True))
        inside = 0 <= i < kernel.shape[0] and 0 <= j < kernel.shape[1]
        return kernel[i, j] if inside else jnp.zeros_like(kernel[0, 0])

    return jnp.block([[block(pixel, output) for output in np.ndindex(outputs)] for pixel in np.ndindex(sides)])
