"""A convolution of stride 1 and its filter gradient as matrix products of strips.

A strip holds the kW pixels of one row of a window. Images become kW times as large, while patches would make them kH *
kW times as large. Each strip is multiplied by all kH rows of the kernel, and the results are added to the outputs above
and below it.
"""

import jax
import jax.numpy as jnp

from jsnn.kernels.precision import as_bits, dtype_of_sums, from_bits
from jsnn.kernels.products import product, product_of_transposed
from jsnn.kernels.windows import Padding, Pair, as_rows, in_pieces, output_sides

NUMBERS_AT_ONCE = 250_000  # of strips and their products, which the CPU's caches hold
STRIPS_AT_ONCE = 256  # even where these are more numbers: products of fewer rows are slow


def convolve(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    """The convolution of images [N, H, W, C_in] with a kernel [kH, kW, C_in, C_out], of at least float32.

    y[p, q] = sum over rows i of the kernel of  strip[p + i, q] K[i],   strip[p, q] = (x[p, q], ..., x[p, q + kW - 1])
    """
    height, width, channels, features = kernel.shape
    outputs = output_sides(x.shape[1:3], (height, width), (1, 1), padding)
    matrix = kernel.transpose(1, 2, 0, 3).reshape(width * channels, height * features)

    def multiply(bits: jax.Array) -> jax.Array:
        pixels = from_bits(_strips(bits, width, padding), x.dtype)
        products = product(None, as_rows(pixels), matrix).reshape(*pixels.shape[:3], height, features)
        return sum(products[:, i : i + outputs[0], :, i] for i in range(height))

    pieces = _in_pieces(as_bits(x), kernel.shape, outputs)
    return jax.lax.map(multiply, pieces).reshape(x.shape[0], *outputs, features)


def filter_gradient(x: jax.Array, cotangent: jax.Array, window: Pair, padding: Padding) -> jax.Array:
    """The gradient [kH, kW, C_in, C_out] of the convolution with respect to its kernel.

    dK[i] = sum over samples and outputs of  strip[p + i, q]^T g[p, q]

    for the gradient g [N, H', W', C_out] with respect to the output.
    """
    (height, width), channels, features = window, x.shape[-1], cotangent.shape[-1]
    shape = (height, width, channels, features)
    pieces = [_in_pieces(as_bits(leaf), shape, cotangent.shape[1:3]) for leaf in (x, cotangent)]

    def add(gradient: jax.Array, piece: list[jax.Array]) -> tuple[jax.Array, None]:
        of_images, of_cotangent = piece
        pixels = as_rows(from_bits(_strips(of_images, width, padding), x.dtype))
        gradients = as_rows(from_bits(_shifted(of_cotangent, height), cotangent.dtype))
        return gradient + product_of_transposed(pixels, gradients), None

    start = jnp.zeros((width * channels, height * features), dtype_of_sums(x.dtype))
    gradient, _ = jax.lax.scan(add, start, pieces)
    return gradient.reshape(width, channels, height, features).transpose(2, 0, 1, 3)


def _strips(x: jax.Array, width: int, padding: Padding) -> jax.Array:
    """The pixels of a window's row at each place, [N, padded H, W', kW * C]."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    places = x.shape[2] - width + 1
    return jnp.concatenate([x[:, :, j : j + places] for j in range(width)], axis=-1)


def _shifted(cotangent: jax.Array, height: int) -> jax.Array:
    """What each strip's row p is multiplied with: g[p - i] for rows i of the kernel, 0 where there is no such output.

    [N, padded H, W', kH * C_out]
    """
    rows = cotangent.shape[1] + height - 1
    around = jnp.pad(cotangent, ((0, 0), (height - 1, height - 1), (0, 0), (0, 0)))
    return jnp.concatenate([around[:, height - 1 - i :][:, :rows] for i in range(height)], axis=-1)


def _in_pieces(x: jax.Array, shape: tuple[int, ...], outputs: Pair) -> jax.Array:
    """Images, or their gradients, in pieces [pieces, n, ...] whose strips and products fit the caches."""
    height, width, channels, features = shape
    strips, numbers = (outputs[0] + height - 1) * outputs[1], width * channels + height * features
    return in_pieces(x, strips * numbers, max(NUMBERS_AT_ONCE, STRIPS_AT_ONCE * numbers))
