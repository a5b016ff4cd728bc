"""The exact percentile of more numbers than fit into memory: a radix select in two passes over a stream.

Floats are mapped to 32-bit integers of the same order. The first pass counts their upper 16 bits, which tells the upper
half of the number sought; the second counts the lower 16 bits of the numbers that share it.
"""

import math
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

HALF = 16  # bits


def percentile_of_stream(count: Callable[..., Iterable[jax.Array]], percentile: float) -> np.float32:
    """The smallest number of a stream that at least `percentile` percent of its numbers do not exceed.

    Args:
        count: (histogram, *arguments) -> arrays [chunks, 65536] int32, `histogram(numbers, counted, *arguments)` of
            each chunk of the stream, `counted` telling which numbers count. Called twice; both passes must see the same
            numbers.
        percentile: in (0, 100].

    Returns:
        The percentile, one of the numbers (numpy's method "inverted_cdf").
    """
    counts = _total(count(upper_histogram))
    rank = max(1, math.ceil(percentile / 100 * counts.sum()))
    upper = int(np.searchsorted(counts.cumsum(), rank))
    rank -= counts[:upper].sum()
    counts = _total(count(lower_histogram, jnp.uint32(upper)))
    lower = int(np.searchsorted(counts.cumsum(), rank))
    return _from_ordered(upper << HALF | lower)


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
