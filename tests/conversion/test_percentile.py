import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jsnn.conversion.percentile import from_halves, lower_histogram, total, upper_half, upper_histogram

FLOATS = st.floats(-1e6, 1e6, width=32)


def percentile(chunks, percent):
    def counts(histogram, *arguments):
        return total([histogram(jnp.asarray(chunk, jnp.float32), jnp.bool_(True), *arguments) for chunk in chunks])

    upper = upper_half(counts(upper_histogram), percent)
    return from_halves(upper, counts(lower_histogram, jnp.uint32(upper.bits)))


@settings(max_examples=25, deadline=None)
@given(st.lists(FLOATS, min_size=1, max_size=40), st.sampled_from([0.5, 25, 50, 90, 99.7, 100]))
def test_equals_numpy_on_any_numbers(numbers, percent):
    numbers = np.array(numbers, np.float32)
    padded = np.resize(numbers, 40)  # one shape, so one compilation
    assert percentile([padded], percent) == np.percentile(padded, percent, method="inverted_cdf")


@pytest.mark.parametrize("percent", [1, 50, 99.7, 100])
def test_equals_numpy_over_a_stream(percent):
    chunks = np.random.default_rng(0).normal(0, 3, (5, 4, 500)).astype(np.float32)
    assert percentile(chunks, percent) == np.percentile(chunks, percent, method="inverted_cdf")


@pytest.mark.parametrize(("percentile", "size", "rank"), [(7, 100, 7), (55, 100, 55), (99.9, 1000, 999)])
def test_the_rank_is_that_of_the_percentile_as_it_is_written(percentile, size, rank):
    counts = np.ones(size, np.int64)
    assert upper_half(counts, percentile).bits == rank - 1
