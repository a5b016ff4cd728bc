"""The exact percentile of more numbers than fit into memory: a radix select in two passes over a stream.

Floats are mapped to 32-bit integers of the same order. The first pass counts their upper 16 bits, which tells the upper
half of the number sought; the second counts the lower 16 bits of the numbers that share it.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

HALF = 16  # bits


class UpperHalf(NamedTuple):
    """What the first pass tells of the number sought.

    Attributes:
        bits: its upper 16 bits, in the ordered representation.
        rank: its rank among the numbers that share them, from 1.
    """

    bits: int
    rank: int


def upper_half(histograms: Iterable[jax.Array], percentile: float) -> UpperHalf:
    """The upper half of the smallest number of a stream that at least `percentile` percent of them do not exceed.

    Args:
        histograms: arrays [chunks, 65536], the `upper_histogram` of each chunk of the stream.
        percentile: in (0, 100].

    Returns:
        The UpperHalf.
    """
    counts = _total(histograms)
    rank = max(1, math.ceil(percentile / 100 * counts.sum()))
    bits = int(np.searchsorted(counts.cumsum(), rank))
    return UpperHalf(bits, int(rank - counts[:bits].sum()))


def whole(upper: UpperHalf, histograms: Iterable[jax.Array]) -> np.float32:
    """The number sought, one of the stream (numpy's method "inverted_cdf").

    Args:
        upper: its upper half.
        histograms: arrays [chunks, 65536], the `lower_histogram` of each chunk of the same stream.

    Returns:
        The percentile.
    """
    lower = int(np.searchsorted(_total(histograms).cumsum(), upper.rank))
    return _from_ordered(upper.bits << HALF | lower)


def upper_histogram(numbers: jax.Array, counted: jax.Array) -> jax.Array:
    """Counts of the upper 16 bits of the ordered representation of the numbers that count, [65536] int32."""
    return _histogram(_to_ordered(numbers) >> HALF, jnp.broadcast_to(counted, numbers.shape))


def lower_histogram(numbers: jax.Array, counted: jax.Array, upper: jax.Array) -> jax.Array:
    """Counts of the lower 16 bits of those numbers that count and whose upper half is `upper`, [65536] int32."""
    ordered = _to_ordered(numbers)
    return _histogram(ordered & ((1 << HALF) - 1), counted & (ordered >> HALF == upper))


def _total(histograms: Iterable[jax.Array]) -> np.ndarray:
    """The sum of all histograms, on the host in 64 bits: a stream may be longer than 2^31."""
    return sum(np.asarray(some).sum(axis=0, dtype=np.int64) for some in histograms)


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
