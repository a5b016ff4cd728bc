"""Convolution and pooling that XLA compiles to fast code on every platform, in the forward and in the backward pass.

On CPU, XLA's own filter gradient of a convolution falls to a hundredth of the machine's rate inside a loop, and to a
tenth at a large batch; its input gradient falls to a fifth, and so does all of it where an image is two pixels high or
wide. Here they are made of operations that keep the rate. On GPU and TPU the platform's own are right.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

CHANNELS_LAST = ("NHWC", "HWIO", "NHWC")
PIXELS_AT_ONCE = 2048  # of the filter gradient: what the CPU's caches hold
MOST_BLOCKS = 64  # of a convolution as one matrix

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


def conv_general_dilated(
    lhs: jax.Array, rhs: jax.Array, window_strides: Sequence[int], padding: Sequence[Pair], **options: Any
) -> jax.Array:
    """`jax.lax.conv_general_dilated` for channels-last images, with a filter gradient that is fast on every platform.

    To be given to `flax.linen.Conv` as its `conv_general_dilated`.

    Args:
        lhs: [N, H, W, C_in] images.
        rhs: [kH, kW, C_in, C_out] kernel.
        window_strides: (2,) steps of the window.
        padding: pixels (before, after) each side of the image.
        options: what linen passes beside; dilation and groups are not supported.

    Returns:
        [N, H', W', C_out].
    """
    del options
    strides, padding = tuple(window_strides), tuple(map(tuple, padding))
    if jax.default_backend() != "cpu":
        return _plain(strides, padding, lhs, rhs)
    if _is_tiny(lhs.shape[1:3], _output_sides(lhs.shape[1:3], rhs.shape[:2], strides, padding)):
        return _by_matrix(lhs, rhs, strides, padding)
    return _convolve(strides, padding, lhs, rhs)


def average_pool(x: jax.Array) -> jax.Array:
    """2x2 average pool with stride 2; an odd last row or column is left out.

    Args:
        x: [..., H, W, C].

    Returns:
        [..., H // 2, W // 2, C].
    """
    height, width = (side // 2 * 2 for side in x.shape[-3:-1])
    # Four strided slices, not a window reduction: XLA fuses them with what makes x.
    corners = [x[..., i:height:2, j:width:2, :] for i in range(2) for j in range(2)]
    return sum(corners) / 4


def image_gradient(
    cotangent: jax.Array, kernel: jax.Array, sides: Pair, strides: Pair, padding: Padding
) -> jax.Array:
    """The gradient of a convolution with respect to its images: the cotangent convolved with the turned kernel.

    Args:
        cotangent: [N, H', W', C_out] the gradient with respect to the output.
        kernel: [kH, kW, C_in, C_out].
        sides: (H, W) of the images.
        strides: steps of the window.
        padding: pixels (before, after) each side of the image.

    Returns:
        [N, H, W, C_in].
    """
    spread = [(0, 0, 0)]
    for side, outputs, stride, window, (before, _) in zip(
        sides, cotangent.shape[1:3], strides, kernel.shape[:2], padding, strict=True
    ):
        left = window - 1 - before
        right = side + window - 1 - left - (stride * (outputs - 1) + 1)
        spread.append((left, right, stride - 1))
    # Zeros are put in before the convolution, which then is a plain one: XLA:CPU is slow at dilated ones.
    cotangent = jax.lax.pad(cotangent, jnp.zeros((), cotangent.dtype), [*spread, (0, 0, 0)])
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    return _plain((1, 1), ((0, 0), (0, 0)), cotangent, turned)


def filter_gradient(
    x: jax.Array, cotangent: jax.Array, window: Pair, strides: Pair, padding: Padding
) -> jax.Array:
    """The gradient of a convolution with respect to its kernel.

        dK[i, j] = sum over samples n and outputs p, q of  x[n, s p + i, s q + j]^T g[n, p, q]

    Args:
        x: [N, H, W, C_in] images.
        cotangent: [N, H', W', C_out] g, the gradient with respect to the output.
        window: (kH, kW).
        strides: s, steps of the window.
        padding: pixels (before, after) each side of the image.

    Returns:
        [kH, kW, C_in, C_out].
    """
    if strides == (1, 1) and window != (1, 1):
        return _by_convolution(x, cotangent, padding)
    return _by_products(x, cotangent, window, strides, padding)


def _output_sides(sides: Pair, window: Pair, strides: Pair, padding: Padding) -> Pair:
    """(H', W') of a convolution of images of sides (H, W)."""
    every = zip(sides, window, strides, padding, strict=True)
    return tuple((side + sum(pad) - width) // stride + 1 for side, width, stride, pad in every)


def _is_tiny(sides: Pair, outputs: Pair) -> bool:
    """Where XLA:CPU convolves at a hundredth of its rate: two pixels high or wide, in or out."""
    return min(*sides, *outputs) <= 2 and math.prod(sides) * math.prod(outputs) <= MOST_BLOCKS


def _by_matrix(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
    """The convolution of tiny images as one product with a matrix of a block for each pixel and output."""
    sides = x.shape[1:3]
    outputs = _output_sides(sides, kernel.shape[:2], strides, padding)

    def block(pixel: Pair, output: Pair) -> jax.Array:
        i, j = (p + before - s * o for p, (before, _), s, o in zip(pixel, padding, strides, output, strict=True))
        inside = 0 <= i < kernel.shape[0] and 0 <= j < kernel.shape[1]
        return kernel[i, j] if inside else jnp.zeros_like(kernel[0, 0])

    rows = [jnp.concatenate([block(pixel, output) for output in np.ndindex(outputs)], axis=1) for pixel in np.ndindex(sides)]
    return (x.reshape(x.shape[0], -1) @ jnp.concatenate(rows)).reshape(x.shape[0], *outputs, -1)


def _by_convolution(x: jax.Array, cotangent: jax.Array, padding: Padding) -> jax.Array:
    """Stride 1: the images, channels as their batch, convolved with the cotangent as one large kernel."""

    def of_piece(x: jax.Array, cotangent: jax.Array) -> jax.Array:
        return _plain((1, 1), padding, x.transpose(3, 1, 2, 0), cotangent.transpose(1, 2, 0, 3))

    height, width = cotangent.shape[1:3]
    piece = max(1, PIXELS_AT_ONCE // (height * width))
    whole, rest = divmod(x.shape[0], piece)
    pieces = [leaf[: whole * piece].reshape(whole, piece, *leaf.shape[1:]) for leaf in (x, cotangent)]

    def add(gradient: jax.Array, piece: list[jax.Array]) -> tuple[jax.Array, None]:
        return gradient + of_piece(*piece), None

    shape = jax.eval_shape(of_piece, *(leaf[:1] for leaf in (x, cotangent)))
    gradient, _ = jax.lax.scan(add, jnp.zeros(shape.shape, shape.dtype), pieces)
    if rest:
        gradient = gradient + of_piece(x[whole * piece :], cotangent[whole * piece :])
    return gradient.transpose(1, 2, 0, 3)


def _by_products(
    x: jax.Array, cotangent: jax.Array, window: Pair, strides: Pair, padding: Padding
) -> jax.Array:
    """One matrix product for each element of the window."""
    height, width = cotangent.shape[1:3]
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    cotangent = cotangent.reshape(-1, cotangent.shape[-1])

    def of_element(i: int, j: int) -> jax.Array:
        rows, columns = (slice(k, k + s * (n - 1) + 1, s) for k, s, n in zip((i, j), strides, (height, width), strict=True))
        return x[:, rows, columns].reshape(-1, x.shape[-1]).T @ cotangent

    return jnp.stack([jnp.stack([of_element(i, j) for j in range(window[1])]) for i in range(window[0])])


def _plain(strides: Pair, padding: Padding, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=CHANNELS_LAST)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _convolve(strides: Pair, padding: Padding, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _plain(strides, padding, x, kernel)


def _convolve_forward(
    strides: Pair, padding: Padding, x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _plain(strides, padding, x, kernel), (x, kernel)


def _convolve_backward(
    strides: Pair, padding: Padding, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    of_image = image_gradient(cotangent, kernel, x.shape[1:3], strides, padding)
    return of_image, filter_gradient(x, cotangent, kernel.shape[:2], strides, padding)


_convolve.defvjp(_convolve_forward, _convolve_backward)
