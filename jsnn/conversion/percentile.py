"""The exact percentile of more numbers than fit into memory: a radix select in two passes over a stream.

Floats are mapped to 32-bit integers of the same order. The first pass counts the upper 16 bits of all numbers. This
gives the upper 16 bits of the percentile. The second pass counts the lower 16 bits of the numbers with these upper
bits.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

HALF = 16  # bits


class UpperHalf(NamedTuple):
    """What the first pass tells of the number sought."""

    bits: int  # its upper 16 bits, in the ordered representation
    rank: int  # its rank among the numbers that share them, from 1


def total(histograms: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """The sum [65536] of histograms [n, 65536] in 64 bits, for a stream may be longer than 2^31."""
    return np.sum(histograms, axis=0, dtype=np.int64)


def upper_half(counts: np.ndarray, percentile: float) -> UpperHalf:
    """The upper half of the smallest number of a stream that at least `percentile` percent of them do not exceed.

    The counts [65536] are the total of `upper_histogram` over the stream.
    """
    share = Fraction(str(percentile)) / 100  # as it is written: 0.07 * 100 is more than 7
    rank = max(1, math.ceil(share * int(counts.sum())))
    bits = int(np.searchsorted(counts.cumsum(), rank))
    return UpperHalf(bits, int(rank - counts[:bits].sum()))


def all_finite(counts: np.ndarray) -> bool:
    """Whether all numbers of a stream are finite, by the total [65536] of `upper_histogram`.

    In the ordered representation -infinity and infinity are upper halves 0x7F and 0xFF80; NaN is below or above them.
    """
    return int(counts[0x80:0xFF80].sum()) == int(counts.sum())


def from_halves(upper: UpperHalf, counts: np.ndarray) -> np.float32:
    """The number sought, one of the stream (numpy's "inverted_cdf"), by the total [65536] of `lower_histogram`."""
    lower = int(np.searchsorted(counts.cumsum(), upper.rank))
    return _from_ordered(upper.bits << HALF | lower)


def upper_histogram(numbers: jax.Array, counted: jax.Array) -> jax.Array:
    """Count [65536] the upper 16 bits, in the ordered representation, of those float32 numbers that are counted.

    They are less than 2^31; `counted` is broadcastable to them.
    """
    return _histogram(_to_ordered(numbers) >> HALF, jnp.broadcast_to(counted, numbers.shape))


def lower_histogram(numbers: jax.Array, counted: jax.Array, upper: jax.Array) -> jax.Array:
    """Count [65536] the lower 16 bits of those numbers whose upper 16 bits are `upper`; as `upper_histogram`."""
    ordered = _to_ordered(numbers)
    return _histogram(ordered & ((1 << HALF) - 1), counted & (ordered >> HALF == upper))


def _histogram(halves: jax.Array, counted: jax.Array) -> jax.Array:
    return jnp.bincount(halves.astype(jnp.int32).ravel(), counted.astype(jnp.int32).ravel(), length=1 << HALF)


def _to_ordered(numbers: jax.Array) -> jax.Array:
    """float32 -> uint32 of the same order: all bits of negative numbers flipped, the sign bit of the others set."""
    bits = jax.lax.bitcast_convert_type(numbers.astype(jnp.float32), jnp.uint32)
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _from_ordered(ordered: int) -> np.float32:
    """The inverse of `_to_ordered` for one number."""
    bits = ordered & 0x7FFFFFFF if ordered >> 31 else ~ordered & 0xFFFFFFFF
    return np.uint32(bits).view(np.float32)
