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
PATCHES_AT_ONCE = 1_200_000  # numbers, which the CPU's caches hold
MIDDLING_CHANNELS = range(33, 128)  # where XLA:CPU convolves at two thirds of the rate of products of patches
MOST_BLOCKS = 64  # of a convolution as one matrix

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: Sequence[Pair],
    operands: jnp.dtype | None = None,
    **options: Any,
) -> jax.Array:
    """`jax.lax.conv_general_dilated` for channels-last images, with gradients that are fast on every platform.

    To be given to `flax.linen.Conv` as its `conv_general_dilated`.

    Args:
        lhs: [N, H, W, C_in] images.
        rhs: [kH, kW, C_in, C_out] kernel.
        window_strides: (2,) steps of the window.
        padding: pixels (before, after) each side of the image.
        operands: dtype in which numbers enter the products, of the gradients too; sums keep the dtype of `lhs`. None
            leaves them as they are.
        options: what linen passes beside; dilation and groups are not supported.

    Returns:
        [N, H', W', C_out].
    """
    del options
    strides, padding = tuple(window_strides), tuple(map(tuple, padding))
    outputs = _output_sides(lhs.shape[1:3], rhs.shape[:2], strides, padding)
    if _on_cpu() and _is_tiny(lhs.shape[1:3], outputs):
        images, matrix = lhs.reshape(lhs.shape[0], -1), _as_matrix(lhs.shape[1:3], outputs, rhs, strides, padding)
        return _product(operands, images, matrix).reshape(lhs.shape[0], *outputs, -1)
    return _convolve(operands, strides, padding, lhs, rhs)


def dot_general(
    lhs: jax.Array, rhs: jax.Array, dimension_numbers: Any, operands: jnp.dtype | None = None, **options: Any
) -> jax.Array:
    """The product of a dense layer, to be given to `flax.linen.Dense` as its `dot_general`.

    Args:
        lhs: [..., in].
        rhs: [in, out].
        dimension_numbers: those of linen, which are the only ones supported.
        operands: dtype in which numbers enter the product, see `conv_general_dilated`.
        options: what linen passes beside.

    Returns:
        [..., out].
    """
    del dimension_numbers, options
    return _product(operands, lhs.reshape(-1, lhs.shape[-1]), rhs).reshape(*lhs.shape[:-1], -1)


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
    columns = math.prod(window) * x.shape[-1]
    pieces = [_pieces(leaf, columns * math.prod(cotangent.shape[1:3])) for leaf in (x, cotangent)]

    def add(gradient: jax.Array, piece: list[jax.Array]) -> tuple[jax.Array, None]:
        x, cotangent = piece
        cotangent = cotangent.reshape(-1, cotangent.shape[-1])
        return gradient + _product(None, cotangent.T, _patches(x, window, strides, padding)), None

    start = jnp.zeros((cotangent.shape[-1], columns), _sums(x.dtype))
    return jax.lax.scan(add, start, pieces)[0].T.reshape(*window, x.shape[-1], -1)


def _on_cpu() -> bool:
    """Whether programs are compiled for a CPU."""
    return jax.default_backend() == "cpu"


def _output_sides(sides: Pair, window: Pair, strides: Pair, padding: Padding) -> Pair:
    """(H', W') of a convolution of images of sides (H, W)."""
    every = zip(sides, window, strides, padding, strict=True)
    return tuple((side + sum(pad) - width) // stride + 1 for side, width, stride, pad in every)


def _is_tiny(sides: Pair, outputs: Pair) -> bool:
    """Where XLA:CPU convolves at a hundredth of its rate: two pixels high or wide, in or out."""
    return min(*sides, *outputs) <= 2 and math.prod(sides) * math.prod(outputs) <= MOST_BLOCKS


def _as_matrix(sides: Pair, outputs: Pair, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
    """The convolution of tiny images as a matrix of a block for each pixel and output."""

    def block(pixel: Pair, output: Pair) -> jax.Array:
        i, j = (p + before - s * o for p, (before, _), s, o in zip(pixel, padding, strides, output, strict=True))
        inside = 0 <= i < kernel.shape[0] and 0 <= j < kernel.shape[1]
        return kernel[i, j] if inside else jnp.zeros_like(kernel[0, 0])

    return jnp.block([[block(pixel, output) for output in np.ndindex(outputs)] for pixel in np.ndindex(sides)])


def _pieces(x: jax.Array, patches: int) -> jax.Array:
    """[N, ...] -> [pieces, n, ...], n images at a time whose patches are that many numbers each."""
    most = max(1, PATCHES_AT_ONCE // patches)
    size = max(n for n in range(1, most + 1) if x.shape[0] % n == 0)
    return x.reshape(-1, size, *x.shape[1:])


def _patches(x: jax.Array, window: Pair, strides: Pair, padding: Padding) -> jax.Array:
    """What the window sees at each output, [N * H' * W', kH * kW * C]."""
    outputs = _output_sides(x.shape[1:3], window, strides, padding)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))

    def seen(i: int, j: int) -> jax.Array:
        every = zip((i, j), strides, outputs, strict=True)
        rows, columns = (slice(start, start + stride * (count - 1) + 1, stride) for start, stride, count in every)
        return x[:, rows, columns]

    patches = jnp.concatenate([seen(i, j) for i, j in np.ndindex(window)], axis=-1)
    return patches.reshape(-1, patches.shape[-1])


def _by_patches(strides: Pair, padding: Padding, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution as products of patches, some images at a time."""
    outputs = _output_sides(x.shape[1:3], kernel.shape[:2], strides, padding)
    matrix = kernel.reshape(-1, kernel.shape[-1])

    def of_piece(x: jax.Array) -> jax.Array:
        return _product(None, _patches(x, kernel.shape[:2], strides, padding), matrix)

    return jax.lax.map(of_piece, _pieces(x, math.prod(outputs) * len(matrix))).reshape(x.shape[0], *outputs, -1)


def _plain(strides: Pair, padding: Padding, x: jax.Array, kernel: jax.Array) -> jax.Array:
    if _on_cpu() and kernel.shape[:2] != (1, 1) and min(kernel.shape[2:]) in MIDDLING_CHANNELS:
        return _by_patches(strides, padding, x, kernel)
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=CHANNELS_LAST, preferred_element_type=_sums(x.dtype)
    )


def _sums(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype in which products are summed: float32, or better where the operands are."""
    return jnp.promote_types(dtype, jnp.float32)


def _cast(operands: jnp.dtype | None, *arrays: jax.Array) -> list[jax.Array]:
    return [array if operands is None else array.astype(operands) for array in arrays]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _convolve(
    operands: jnp.dtype | None, strides: Pair, padding: Padding, x: jax.Array, kernel: jax.Array
) -> jax.Array:
    return _plain(strides, padding, *_cast(operands, x, kernel))


def _convolve_forward(
    operands: jnp.dtype | None, strides: Pair, padding: Padding, x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    x, kernel = _cast(operands, x, kernel)
    return _plain(strides, padding, x, kernel), (x, kernel)


def _convolve_backward(
    operands: jnp.dtype | None,
    strides: Pair,
    padding: Padding,
    residuals: tuple[jax.Array, jax.Array],
    cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    dtype = cotangent.dtype
    (cotangent,) = _cast(operands, cotangent)
    if _on_cpu():
        of_image = image_gradient(cotangent, kernel, x.shape[1:3], strides, padding)
        return of_image.astype(dtype), filter_gradient(x, cotangent, kernel.shape[:2], strides, padding).astype(dtype)

    def platforms_own(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=CHANNELS_LAST)

    _, backward = jax.vjp(platforms_own, x, kernel)
    return tuple(gradient.astype(dtype) for gradient in backward(cotangent))


_convolve.defvjp(_convolve_forward, _convolve_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(operands: jnp.dtype | None, x: jax.Array, matrix: jax.Array) -> jax.Array:
    x, matrix = _cast(operands, x, matrix)
    return jnp.matmul(x, matrix, preferred_element_type=_sums(x.dtype))


def _product_forward(
    operands: jnp.dtype | None, x: jax.Array, matrix: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _product(operands, x, matrix), tuple(_cast(operands, x, matrix))


def _product_backward(
    operands: jnp.dtype | None, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, matrix = residuals
    return _product(operands, cotangent, matrix.T), _product(operands, x.T, cotangent)


_product.defvjp(_product_forward, _product_backward)
