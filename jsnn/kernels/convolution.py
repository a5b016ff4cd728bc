"""Convolution whose gradients are fast on every platform, in a chosen precision.

On CPU convolutions and gradients are those of `jsnn.kernels.cpu_convolution`; on GPU and TPU the platform's own are
right. Which is taken is settled when the program is lowered: what a CPU lowers for a TPU holds no CPU way.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from jsnn.kernels import cpu_convolution
from jsnn.kernels.cpu_convolution import CHANNELS_LAST
from jsnn.kernels.products import cast, dtype_of_sums, widened
from jsnn.kernels.windows import Padding, Pair


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
    operands, lhs, rhs = widened(operands, lhs, rhs)
    return _convolve(operands, strides, padding, lhs, rhs)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _convolve(
    operands: jnp.dtype | None, strides: Pair, padding: Padding, x: jax.Array, kernel: jax.Array
) -> jax.Array:
    x, kernel = cast(operands, x, kernel)
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=partial(cpu_convolution.convolve, strides=strides, padding=padding),
        default=partial(_xla_convolve, strides, padding, sums=dtype_of_sums(x.dtype)),
    )


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
    dtype = cotangent.dtype

    def on_cpu(x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> list[jax.Array]:
        of_image = cpu_convolution.image_gradient(cotangent, kernel, x.shape[1:3], strides, padding)
        of_kernel = cpu_convolution.filter_gradient(x, cotangent, kernel.shape[:2], strides, padding)
        return cast(dtype, of_image, of_kernel)

    def elsewhere(*arrays: jax.Array) -> list[jax.Array]:
        # Rounded numbers, but in float32, so that the gradients are not rounded too.
        x, kernel, cotangent = cast(dtype, *arrays)
        _, backward = jax.vjp(partial(_xla_convolve, strides, padding), x, kernel)
        return list(backward(cotangent))

    arrays = (*residuals, *cast(operands, cotangent))
    return tuple(jax.lax.platform_dependent(*arrays, cpu=on_cpu, default=elsewhere))


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _xla_convolve(
    strides: Pair, padding: Padding, x: jax.Array, kernel: jax.Array, sums: jnp.dtype | None = None
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=CHANNELS_LAST, preferred_element_type=sums
    )
