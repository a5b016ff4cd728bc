"""Convolution whose gradients are fast on every platform, in a chosen precision.

On CPU convolutions and gradients are those of `jsnn.kernels.cpu_convolution`, or products with one matrix where images
are tiny; on GPU and TPU the platform's own are right.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from jsnn.kernels import cpu_convolution
from jsnn.kernels.cpu_convolution import CHANNELS_LAST
from jsnn.kernels.products import cast, dtype_of_sums, product
from jsnn.kernels.tiny import as_matrix, is_tiny
from jsnn.kernels.windows import Padding, Pair, output_sides


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: Sequence[Pair],
    operands: jnp.dtype | None = None,
) -> jax.Array:
    """`jax.lax.conv_general_dilated` for channels-last images, with gradients that are fast on every platform.

    Args:
        lhs: [N, H, W, C_in] images.
        rhs: [kH, kW, C_in, C_out] kernel.
        window_strides: (2,) steps of the window.
        padding: pixels (before, after) each side of the image, none negative.
        operands: dtype in which numbers enter the products, of the gradients too; sums have at least float32. None
            leaves them as they are.

    Returns:
        [N, H', W', C_out] of at least float32.
    """
    strides, padding = tuple(window_strides), tuple(map(tuple, padding))
    sides, outputs = lhs.shape[1:3], output_sides(lhs.shape[1:3], rhs.shape[:2], strides, padding)
    if _on_cpu() and rhs.shape[:2] != (1, 1) and is_tiny(sides, outputs):
        matrix = as_matrix(sides, outputs, rhs, strides, padding)
        return product(operands, lhs.reshape(lhs.shape[0], -1), matrix).reshape(lhs.shape[0], *outputs, -1)
    return _convolve(operands, strides, padding, lhs, rhs)


def _on_cpu() -> bool:
    """Whether programs are compiled for a CPU."""
    return jax.default_backend() == "cpu"


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _convolve(
    operands: jnp.dtype | None, strides: Pair, padding: Padding, x: jax.Array, kernel: jax.Array
) -> jax.Array:
    x, kernel = cast(operands, x, kernel)
    if _on_cpu():
        return cpu_convolution.convolve(x, kernel, strides, padding)
    return _platforms_own(strides, padding, x, kernel, dtype_of_sums(x.dtype))


def _convolve_forward(
    operands: jnp.dtype | None, strides: Pair, padding: Padding, x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve(operands, strides, padding, x, kernel), tuple(cast(operands, x, kernel))


def _convolve_backward(
    operands: jnp.dtype | None,
    strides: Pair,
    padding: Padding,
    residuals: tuple[jax.Array, jax.Array],
    cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    dtype = cotangent.dtype
    (cotangent,) = cast(operands, cotangent)
    if _on_cpu():
        of_image = cpu_convolution.image_gradient(cotangent, kernel, x.shape[1:3], strides, padding)
        gradients = of_image, cpu_convolution.filter_gradient(x, cotangent, kernel.shape[:2], strides, padding)
    else:
        # Rounded numbers, but in float32, so that the gradients are not rounded too.
        x, kernel, cotangent = (leaf.astype(dtype) for leaf in (x, kernel, cotangent))
        _, backward = jax.vjp(partial(_platforms_own, strides, padding), x, kernel)
        gradients = backward(cotangent)
    return tuple(gradient.astype(dtype) for gradient in gradients)


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _platforms_own(
    strides: Pair, padding: Padding, x: jax.Array, kernel: jax.Array, sums: jnp.dtype | None = None
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=CHANNELS_LAST, preferred_element_type=sums
    )
