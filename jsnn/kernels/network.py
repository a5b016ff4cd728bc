"""The functions that compute a network's convolutions and matrix products."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jsnn.kernels.convolution import conv_general_dilated
from jsnn.kernels.precision import rounded, widened
from jsnn.kernels.products import product
from jsnn.kernels.windows import output_sides

OUR_LAYOUT = jax.lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))  # flax's: NHWC, HWIO, NHWC


class Kernels(NamedTuple):
    """Ways to compute.

    Attributes:
        convolve: (x, kernel, options of jax.lax.conv_general_dilated) -> the convolution.
        multiply: (x [N, in], matrix [in, out], precision of jax.lax) -> [N, out].
        operands: dtype that numbers are rounded to before they enter a product; None where they are not.
    """

    convolve: Callable[[jax.Array, jax.Array, Mapping[str, Any]], jax.Array]
    multiply: Callable[[jax.Array, jax.Array, Any], jax.Array]
    operands: DTypeLike | None = None


@cache
def fast_kernels(operands: DTypeLike | None = None) -> Kernels:
    """Convolutions and products with gradients that are fast on every platform, in reverse mode.

    Args:
        operands: dtype in which numbers enter the products, of the gradients too; None leaves them as they are.

    Returns:
        The Kernels; grouped, dilated and empty convolutions, those of one or three dimensions and those padded by
            more than their window are the platform's own.

    Raises:
        ValueError: where operands are no floating-point dtype.
    """
    if operands is not None and not _is_floating(operands):
        raise ValueError(f"operands must be a floating-point dtype, as bfloat16, or None, got {operands!r}.")
    return Kernels(partial(_convolve, operands), partial(_multiply, operands), operands)


def _is_floating(dtype: DTypeLike) -> bool:
    try:
        return jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:  # no dtype has such a name
        return False


@cache
def xla_kernels() -> Kernels:
    """XLA's own convolutions and products, which have forward mode and every derivative, and are slow on a CPU.

    Returns:
        The Kernels.
    """
    return Kernels(_xla_convolve, lambda x, matrix, precision=None: jnp.matmul(x, matrix, precision=precision))


def _convolve(operands: jnp.dtype | None, x: jax.Array, kernel: jax.Array, options: Mapping[str, Any]) -> jax.Array:
    dilated = {*options["lhs_dilation"], *options["rhs_dilation"]} != {1}
    grouped = (options["feature_group_count"], options["batch_group_count"]) != (1, 1)
    cropped = any(pad < 0 for side in options["padding"] for pad in side)
    ours = options["dimension_numbers"] == OUR_LAYOUT and not (dilated or grouped or cropped)
    if ours and _has_pixels(x, kernel, options):
        where = options["window_strides"], options["padding"]
        return conv_general_dilated(x, kernel, *where, operands, options["precision"])
    if operands is not None:
        x, kernel = rounded(operands, x), rounded(operands, kernel)
    return _xla_convolve(x, kernel, options)


def _has_pixels(x: jax.Array, kernel: jax.Array, options: Mapping[str, Any]) -> bool:
    """Whether the window fits into the images, nothing is empty, and every place of the window has a pixel in it."""
    window, padding = kernel.shape[:2], options["padding"]
    sides = output_sides(x.shape[1:3], window, options["window_strides"], padding)
    sees_images = all(max(pads) < width for pads, width in zip(padding, window, strict=True))
    return min(*sides, *x.shape[1:], *kernel.shape) > 0 and sees_images


def _multiply(operands: jnp.dtype | None, x: jax.Array, matrix: jax.Array, precision: Any = None) -> jax.Array:
    return product(*widened(operands, x, matrix), precision)


def _xla_convolve(x: jax.Array, kernel: jax.Array, options: Mapping[str, Any]) -> jax.Array:
    options = {name: value for name, value in options.items() if name != "out_sharding"}
    return jax.lax.conv_general_dilated(x, kernel, **options)
