"""Spike trains in words that chunks share: put together and taken apart again, as one neuron after the other would."""

from functools import partial

import jax
import numpy as np
import pytest

from jsnn.network import trains
from jsnn.network.chunks import time_chunks
from jsnn.neurons.packing import word_dtype


def bits(spikes, dtype):
    """Spikes [K, ...] as words [...]."""
    return sum(step.astype(dtype) << np.array(place, dtype) for place, step in enumerate(spikes))


def age_of(spikes, time):
    """Steps from the last spike of one neuron before a time; 0 where there is none."""
    earlier = np.flatnonzero(spikes[:time])
    return time - earlier[-1] if len(earlier) else 0


CASES = [
    (1, 1, 64),
    (7, 3, 64),
    (9, 4, 8),
    (70, 1, 8),
    (70, 2, 64),
    (70, 5, 8),
    (257, 3, 64),
    (70, 12, 64),
    (70, 32, 8),
]


@pytest.mark.parametrize(("num_steps", "chunk", "between"), CASES)
def test_a_chunk_finds_its_spikes_and_the_ages_before_it(num_steps, chunk, between, monkeypatch):
    monkeypatch.setattr(trains, "STEPS_BETWEEN_AGES", between)
    times = time_chunks(num_steps, chunk)
    rng, (count, length), shapes = np.random.default_rng(0), times.shape, {"a": (2, 3, 1), "b": (2, 5)}
    spikes = {layer: rng.random((times.size, *shape)) < 0.05 for layer, shape in shapes.items()}
    words, put = trains.no_words(shapes, times), jax.jit(partial(trains.put, num_steps=length))
    for number, layer in ((number, layer) for number in range(count) for layer in shapes):
        of_chunk = bits(spikes[layer][number * length : (number + 1) * length], word_dtype(length))
        words[layer] = put(words[layer], of_chunk, number)
    kept = trains.ages_between(words, times)

    @jax.jit
    def step(ages, number):
        ages = trains.ages_before(words, kept, times, number, ages)
        place = number, length
        now = {layer: trains.bits_of(words[layer], *place, shape) for layer, shape in shapes.items()}
        before = {layer: trains.ages_at(words[layer], ages[layer], *place, shape) for layer, shape in shapes.items()}
        return ages, now, before

    ages = {layer: leaf[0] for layer, leaf in kept.items()}
    for number in reversed(range(count)):
        ages, actual, before = step(ages, number)
        for layer in shapes:
            now = spikes[layer][number * length : (number + 1) * length]
            np.testing.assert_array_equal(actual[layer], bits(now, np.uint32))
            flat = spikes[layer].reshape(times.size, -1)
            expected = [age_of(neuron, number * length) for neuron in flat.T]
            np.testing.assert_array_equal(before[layer].reshape(-1), expected)
