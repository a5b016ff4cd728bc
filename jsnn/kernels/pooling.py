"""Pools as sums of strided slices, which XLA fuses with what makes their input, unlike its window reduction."""

import math
from collections.abc import Mapping, Sequence
from functools import reduce
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
    sides = [side // width * width for side, width in zip(x.shape, window, strict=True)]
    corners = (jax.lax.slice(x, start, sides, strides) for start in np.ndindex(*window))
    return reduce(add, corners)
