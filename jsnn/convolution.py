"""Convolution whose gradients are fast on every platform, in a chosen precision.

On CPU convolutions and gradients are those of `jsnn.cpu_convolution`, or products with one matrix where images are
tiny; on GPU and TPU the platform's own are right.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jsnn import cpu_convolution
from jsnn.cpu_convolution import CHANNELS_LAST
from jsnn.products import cast, dtype_of_sums, product
from jsnn.tiny import as_matrix, is_tiny
from jsnn.windows import Padding, Pair, output_sides


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
        padding: pixels (before, after) each side of the image, none negative.
        operands: dtype in which numbers enter the products, of the gradients too; sums have at least float32. None
            leaves them as they are.
        options: what linen passes beside; dilation and groups are not supported.

    Returns:
        [N, H', W', C_out] of at least float32.

    Raises:
        ValueError: where there is dilation or more than one group.
    """
    if options.get("feature_group_count", 1) != 1 or any(
        step != 1 for name in ("lhs_dilation", "rhs_dilation") for step in options.get(name) or ()
    ):
        raise ValueError(f"convolutions here have neither groups nor dilation, got {options}: use jax.lax's.")
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
