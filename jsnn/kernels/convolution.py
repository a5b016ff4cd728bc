"""Convolution whose gradients are fast on every platform, in a chosen precision.

On a CPU, convolutions and gradients come from `jsnn.kernels.cpu_convolution`. GPUs and TPUs use their own. The choice
is made when a program is lowered for a platform, so a program for a TPU is the same on every machine.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsnn.kernels import cpu_convolution
from jsnn.kernels.cpu_convolution import CHANNELS_LAST
from jsnn.kernels.precision import Arrays, cast, dtype_of_sums, kept, widened
from jsnn.kernels.windows import Padding, Pair


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: Sequence[Pair],
    operands: jnp.dtype | None = None,
    precision: Any = None,
) -> jax.Array:
    """`jax.lax.conv_general_dilated` for channels-last images, with gradients that are fast on every platform.

    Args:
        lhs: [N, H, W, C_in] images.
        rhs: [kH, kW, C_in, C_out] kernel.
        window_strides: (2,) steps of the window.
        padding: pixels (before, after) each side of the image, none negative.
        operands: dtype in which numbers enter the products, of the gradients too; sums have at least float32. None
            leaves them as they are.
        precision: of `jax.lax`, for platforms that multiply floats as sums of smaller ones.

    Returns:
        [N, H', W', C_out] of at least float32.
    """
    operands, lhs, rhs = widened(operands, lhs, rhs)
    options = _Options(operands, precision, tuple(window_strides), tuple(map(tuple, padding)))
    return _convolve(options, lhs, rhs)


class _Options(NamedTuple):
    """What a convolution and both of its gradients have in common."""

    operands: jnp.dtype
    precision: Any
    strides: Pair
    padding: Padding


# The three are linear in each array, and the gradients of one are the others: derivatives of any order stay fast.


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(options: _Options, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _by_platform(options, cpu_convolution.convolve, _xla_convolve, x, kernel)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _image_gradient(options: _Options, sides: Pair, cotangent: jax.Array, kernel: jax.Array) -> jax.Array:
    ways = (partial(way, sides=sides) for way in (cpu_convolution.image_gradient, _xla_image_gradient))
    return _by_platform(options, *ways, cotangent, kernel)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _filter_gradient(options: _Options, window: Pair, x: jax.Array, cotangent: jax.Array) -> jax.Array:
    ways = (partial(way, window=window) for way in (cpu_convolution.filter_gradient, _xla_filter_gradient))
    return _by_platform(options, *ways, x, cotangent)


def _by_platform(
    options: _Options, on_cpu: Callable[..., jax.Array], elsewhere: Callable[..., jax.Array], *arrays: jax.Array
) -> jax.Array:
    """What a CPU or another platform makes of two arrays in the dtype of operands."""
    how = {"strides": options.strides, "padding": options.padding}
    return jax.lax.platform_dependent(
        *cast(options.operands, *arrays),
        cpu=partial(on_cpu, **how),
        default=partial(elsewhere, precision=options.precision, **how),
    )


def _convolve_backward(options: _Options, residuals: Arrays, cotangent: jax.Array) -> Arrays:
    x, kernel = cast(cotangent.dtype, *residuals)
    of_image = _image_gradient(options, x.shape[1:3], cotangent, kernel)
    return of_image, _filter_gradient(options, kernel.shape[:2], x, cotangent)


def _image_gradient_backward(options: _Options, sides: Pair, residuals: Arrays, of_image: jax.Array) -> Arrays:
    cotangent, kernel = cast(of_image.dtype, *residuals)
    return _convolve(options, of_image, kernel), _filter_gradient(options, kernel.shape[:2], of_image, cotangent)


def _filter_gradient_backward(options: _Options, window: Pair, residuals: Arrays, of_kernel: jax.Array) -> Arrays:
    x, cotangent = cast(of_kernel.dtype, *residuals)
    return _image_gradient(options, x.shape[1:3], cotangent, of_kernel), _convolve(options, x, of_kernel)


def _forward(way: Callable[..., jax.Array], options: _Options, *arguments: Any) -> tuple[jax.Array, Arrays]:
    return way(options, *arguments), kept(options.operands, *arguments[-2:])


_convolve.defvjp(partial(_forward, _convolve), _convolve_backward)
_image_gradient.defvjp(partial(_forward, _image_gradient), _image_gradient_backward)
_filter_gradient.defvjp(partial(_forward, _filter_gradient), _filter_gradient_backward)


def _xla_convolve(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding, precision: Any) -> jax.Array:
    options = {"dimension_numbers": CHANNELS_LAST, "preferred_element_type": dtype_of_sums(x.dtype)}
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, precision=precision, **options)


def _xla_image_gradient(cotangent: jax.Array, kernel: jax.Array, sides: Pair, **how: Any) -> jax.Array:
    cotangent, kernel = cast(dtype_of_sums(kernel.dtype), cotangent, kernel)  # rounded, but gradients are not
    images = jax.ShapeDtypeStruct((cotangent.shape[0], *sides, kernel.shape[2]), kernel.dtype)
    return jax.linear_transpose(lambda x: _xla_convolve(x, kernel, **how), images)(cotangent)[0]


def _xla_filter_gradient(x: jax.Array, cotangent: jax.Array, window: Pair, **how: Any) -> jax.Array:
    x, cotangent = cast(dtype_of_sums(x.dtype), x, cotangent)
    kernels = jax.ShapeDtypeStruct((*window, x.shape[3], cotangent.shape[3]), x.dtype)
    return jax.linear_transpose(lambda kernel: _xla_convolve(x, kernel, **how), kernels)(cotangent)[0]
