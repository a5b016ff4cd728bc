"""A convolution and its filter gradient as products of matrices of patches, in pieces that a CPU's caches hold."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jsnn.kernels.precision import as_bits, dtype_of_sums, from_bits
from jsnn.kernels.products import product, product_of_transposed
from jsnn.kernels.windows import Padding, Pair, as_rows, in_pieces, output_sides

PATCHES_AT_ONCE = 600_000  # numbers, which the CPU's caches hold
FEW_COLUMNS = 36  # of patches, which then are small beside the result and need no pieces


def convolve(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
    """The convolution of images [N, H, W, C_in] as products of patches with [kH, kW, C_in, C_out] as a matrix."""
    outputs = output_sides(x.shape[1:3], kernel.shape[:2], strides, padding)
    matrix = kernel.reshape(-1, kernel.shape[-1])

    def multiply(bits: jax.Array) -> jax.Array:
        return product(None, from_bits(_patches(bits, kernel.shape[:2], strides, padding), x.dtype), matrix)

    if len(matrix) <= FEW_COLUMNS:
        products = multiply(as_bits(x))
    else:
        products = jax.lax.map(multiply, in_pieces(as_bits(x), math.prod(outputs) * len(matrix), PATCHES_AT_ONCE))
    return products.reshape(x.shape[0], *outputs, kernel.shape[-1])


def filter_gradient(x: jax.Array, cotangent: jax.Array, window: Pair, strides: Pair, padding: Padding) -> jax.Array:
    """The gradient [kH, kW, C_in, C_out] of a convolution with respect to its kernel.

        dK[i, j] = sum over samples n and outputs p, q of  x[n, s p + i, s q + j]^T g[n, p, q]

    for the images x [N, H, W, C_in], the gradient g [N, H', W', C_out] with respect to the output and the strides s.
    """
    columns, features = math.prod(window) * x.shape[-1], cotangent.shape[-1]
    numbers = columns * math.prod(cotangent.shape[1:3])
    pieces = [in_pieces(as_bits(leaf), numbers, PATCHES_AT_ONCE) for leaf in (x, cotangent)]

    def add(gradient: jax.Array, piece: list[jax.Array]) -> tuple[jax.Array, None]:
        of_images, of_cotangent = piece
        patches = from_bits(_patches(of_images, window, strides, padding), x.dtype)
        gradients = as_rows(from_bits(of_cotangent, cotangent.dtype))
        narrow, wide = (patches, gradients) if columns <= features else (gradients, patches)
        return gradient + product_of_transposed(narrow, wide), None  # the smaller, for it may be moved in memory

    start = jnp.zeros(sorted((columns, features)), dtype_of_sums(x.dtype))
    gradient, _ = jax.lax.scan(add, start, pieces)
    return (gradient if columns <= features else gradient.T).reshape(*window, x.shape[-1], features)


def _patches(x: jax.Array, window: Pair, strides: Pair, padding: Padding) -> jax.Array:
    """What the window sees at each output, [N * H' * W', kH * kW * C]."""
    outputs = output_sides(x.shape[1:3], window, strides, padding)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))

    def shifted(i: int, j: int) -> jax.Array:
        every = zip((i, j), strides, outputs, strict=True)
        rows, columns = (slice(start, start + stride * (count - 1) + 1, stride) for start, stride, count in every)
        return x[:, rows, columns]

    patches = jnp.concatenate([shifted(i, j) for i, j in np.ndindex(window)], axis=-1)
    return as_rows(patches)
