"""A convolution and its gradients on a CPU, by the fastest method for its shape.

The methods are Winograd's, XLA's, matrix products of patches or of strips, and one matrix for tiny images. XLA:CPU
alone is slow: its filter gradient runs at a hundredth of the machine's rate inside a loop and at a tenth with a large
batch, its input gradient at a fifth, and both at a hundredth if an image is two pixels high or wide.
"""

import math

import jax
import jax.numpy as jnp

from jsnn.kernels import patches, strips, tiny, winograd
from jsnn.kernels.precision import dtype_of_sums, has_few_bits
from jsnn.kernels.windows import Padding, Pair, output_sides

XLA_TAKES_NARROW_ONES = jax.__version_info__ >= (0, 11)  # before, XLA:CPU convolves few channels at half its rate
CHANNELS_FOR_WINOGRAD = 32  # of images and outputs at least, without which additions outweigh the products
WEIGHTS_FOR_WINOGRAD = 1 << 16  # of a kernel's pixel at most, above which its gradient's sums outweigh the products
NARROW = 32  # channels of images and outputs at most, where strips give a kernel's gradient up to twice as fast
CHANNELS_FOR_STRIPS = 16  # of images and outputs at least, of numbers of few bits: XLA's own way is slower
CHANNELS_LAST = ("NHWC", "HWIO", "NHWC")


def convolve(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
    """The convolution of images [N, H, W, C_in] with [kH, kW, C_in, C_out] by the fastest way, of at least float32."""
    if tiny.suits(x.shape[1:3], kernel.shape[:2], strides, padding):
        return tiny.convolve(x, kernel, strides, padding)
    if _suits_winograd(x.dtype, kernel.shape, strides):
        return winograd.convolve(x, kernel, padding)
    if _suits_strips(x.dtype, kernel.shape, strides):
        return strips.convolve(x, kernel, padding)
    if _suits_xla(x.dtype, x.shape[1:3], kernel.shape, strides, padding):
        return jax.lax.conv_general_dilated(
            x, kernel, strides, padding, dimension_numbers=CHANNELS_LAST, preferred_element_type=dtype_of_sums(x.dtype)
        )
    return patches.convolve(x, kernel, strides, padding)


def image_gradient(cotangent: jax.Array, kernel: jax.Array, sides: Pair, strides: Pair, padding: Padding) -> jax.Array:
    """The gradient [N, H, W, C_in] with respect to the images: the cotangent convolved with the turned kernel."""
    if tiny.suits(sides, kernel.shape[:2], strides, padding):
        return tiny.image_gradient(cotangent, kernel, sides, strides, padding)
    edges, around = [(0, 0, 0)], []
    for side, outputs, stride, window, (before, _) in zip(
        sides, cotangent.shape[1:3], strides, kernel.shape[:2], padding, strict=True
    ):
        left = window - 1 - before
        right = side + window - 1 - left - (stride * (outputs - 1) + 1)
        edges.append((min(left, 0), min(right, 0), stride - 1))
        around.append((max(left, 0), max(right, 0)))
    # Zeros between pixels are put in beforehand, and edges that nothing saw cut off: XLA:CPU is slow at dilated
    # convolutions. Zeros around are left to the convolution, which pads piece by piece, within the caches.
    cotangent = jax.lax.pad(cotangent, jnp.zeros((), cotangent.dtype), [*edges, (0, 0, 0)])
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    return convolve(cotangent, turned, (1, 1), tuple(around))


def filter_gradient(x: jax.Array, cotangent: jax.Array, window: Pair, strides: Pair, padding: Padding) -> jax.Array:
    """The gradient [kH, kW, C_in, C_out] with respect to the kernel, by the fastest way for its shape."""
    if tiny.suits(x.shape[1:3], window, strides, padding):
        return tiny.filter_gradient(x, cotangent, window, strides, padding)
    shape = (*window, x.shape[-1], cotangent.shape[-1])
    if math.prod(shape[2:]) <= WEIGHTS_FOR_WINOGRAD and _suits_winograd(x.dtype, shape, strides):
        return winograd.filter_gradient(x, cotangent, padding)
    narrow = strides == (1, 1) and window[1] > 1 and max(shape[2:]) <= NARROW
    if narrow or _suits_strips(x.dtype, shape, strides):
        return strips.filter_gradient(x, cotangent, window, padding)
    return patches.filter_gradient(x, cotangent, window, strides, padding)


def _suits_winograd(dtype: jnp.dtype, kernel: tuple[int, ...], strides: Pair) -> bool:
    """Whether Winograd's is the fastest way; its sums of operands would not fit those of few bits."""
    return (
        dtype == dtype_of_sums(dtype)
        and (*kernel[:2], *strides) == (3, 3, 1, 1)
        and min(kernel[2:]) >= CHANNELS_FOR_WINOGRAD
    )


def _suits_strips(dtype: jnp.dtype, kernel: tuple[int, ...], strides: Pair) -> bool:
    """Whether products of strips are the fastest way: where a CPU's matrix units outrun the making of patches."""
    return (
        has_few_bits(dtype)
        and strides == (1, 1)
        and tuple(kernel[:2]) != (1, 1)
        and min(kernel[2:]) >= CHANNELS_FOR_STRIPS
    )


def _suits_xla(dtype: jnp.dtype, sides: Pair, kernel: tuple[int, ...], strides: Pair, padding: Padding) -> bool:
    """Whether XLA:CPU's own convolution is at least as fast as products of patches."""
    height, width, channels, features = kernel
    if (height, width) == (1, 1):
        return True
    if min(*sides, *output_sides(sides, kernel[:2], strides, padding)) <= 2:
        return False
    if math.prod(kernel[:3]) <= patches.FEW_COLUMNS:
        return has_few_bits(dtype)  # their patches, copied number by number, take three times as long
    wide = features >= 128 and channels * features >= 128 * 128
    return XLA_TAKES_NARROW_ONES or wide or max(channels, features) <= 16
