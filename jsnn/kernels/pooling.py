"""Pools as sums of strided slices, which XLA fuses with what makes their input, unlike its window reduction."""

import math
from collections.abc import Mapping, Sequence
from functools import partial, reduce
from operator import add
from typing import Any

import jax
import numpy as np


def pool_sum(x: jax.Array, window: Sequence[int], strides: Sequence[int], options: Mapping[str, Any]) -> Any:
    """The sum over windows that do not overlap.

    Args:
        x: [...].
        window: its sides, one for each axis of x.
        strides: its steps.
        options: of XLA's window reduction: `padding`, `base_dilation` and `window_dilation`.

    Returns:
        [...] the sums; None where windows overlap, are dilated, padded, of more than 16 numbers or larger than x.
    """
    is_plain = tuple(window) == tuple(strides) and not np.any(options["padding"])
    is_dilated = {*options["base_dilation"], *options["window_dilation"]} != {1}
    if not is_plain or is_dilated or math.prod(window) > 16 or any(np.less(x.shape, window)):
        return None
    return _sum_of_slices(tuple(window), x)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _sum_of_slices(window: tuple[int, ...], x: jax.Array) -> jax.Array:
    sides = _covered(x.shape, window)
    corners = (jax.lax.slice(x, start, sides, window) for start in np.ndindex(*window))
    return reduce(add, corners)


@_sum_of_slices.defjvp
def _with_tangent(window: tuple[int, ...], primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    # The transpose of this form hands each number back to its window at once; that of slices is a large array for each.
    (x,), (tangent,) = primals, tangents
    covered = jax.lax.slice(tangent, [0] * x.ndim, _covered(x.shape, window))
    split = [part for side, width in zip(covered.shape, window, strict=True) for part in (side // width, width)]
    return _sum_of_slices(window, x), covered.reshape(split).sum(range(1, 2 * x.ndim, 2))


def _covered(shape: Sequence[int], window: Sequence[int]) -> list[int]:
    """The sides of the part of an array that windows cover."""
    return [side // width * width for side, width in zip(shape, window, strict=True)]
