"""Spike trains as bits, and neurons that are recorded as bits, against loops and the plain neuron."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsnn.neurons import LIFState, lif, over_time
from jsnn.neurons.neuron import record
from jsnn.neurons.packing import STEPS_PER_WORD, age_after, age_at, age_dtype, unpack, word_dtype
from jsnn.neurons.residuals import Kept, Train, replay
from jsnn.neurons.surrogate import stdb

NEURON = lif(stdb(0.3, 0.05))
# Few numbers of steps, for each is compiled: the ends of each word and what is just beyond.
chunks_of_shape = st.one_of(
    st.tuples(st.just(shape), st.lists(st.sampled_from(lengths), min_size=1, max_size=3))
    for shape, lengths in (((), (17, STEPS_PER_WORD)), ((2, 1, 3), (1, 8, 9, 16)))
)
leaks = st.sampled_from([1.0, 0.99, 0.5]) | st.floats(0.015625, 1.0, width=32)


def pack(spikes):
    """Words of spikes [K, ...] by a loop."""
    words = np.zeros(spikes.shape[1:], word_dtype(len(spikes)))
    for t, now in enumerate(spikes):
        words |= now.astype(words.dtype) << words.dtype.type(t)
    return jnp.asarray(words)


def age_by_loop(spikes, age, time):
    """Steps since the last spike before `time`; 0 where there is none."""
    for now in spikes[:time]:
        age = 1 if now else age + 1 if age else 0
    return age


@given(st.lists(st.booleans(), min_size=1, max_size=32), st.integers(0, 300))
def test_ages_equal_a_loop(spikes, age):
    words, times = pack(np.array(spikes)[:, None]), np.arange(32)
    expected = [age_by_loop(spikes, age, time) for time in range(len(spikes) + 1)]
    np.testing.assert_array_equal(age_at(words, np.int32(age), times)[: len(spikes)], expected[:-1])
    assert age_after(words, np.int32(age), len(spikes)) == expected[-1]


def test_words_and_ages_are_as_small_as_can_be():
    assert [word_dtype(k).itemsize for k in (1, 8, 9, 16, 17, 32)] == [1, 1, 2, 2, 4, 4]
    assert [age_dtype(k).itemsize for k in (1, 255, 256, 65535, 65536)] == [1, 1, 2, 2, 4]


def driven(seed, num_steps, shape):
    """Currents [T, ...] and a state amid a presentation."""
    rng = np.random.default_rng(seed)
    ages = np.where(rng.random(shape) < 0.5, 0, rng.integers(1, 300, shape) * (rng.random(shape) < 0.7) + 1)
    membrane = np.asarray(rng.normal(0, 1, shape), np.float32)
    state = LIFState(membrane, np.asarray(ages == 1, np.float32), np.asarray(ages, np.int32))
    return np.asarray(rng.normal(0.4, 1.5, (num_steps, *shape)), np.float32), state


@jax.jit
def plain_and_packed(current, state, weights, threshold, leak):
    """Spikes, state and gradients of some steps, by the plain neuron and by one that is kept as bits."""
    neuron = {"threshold": threshold, "leak": leak}
    spikes, after, _ = over_time(NEURON, neuron, state, current)
    words, kept_after = record(NEURON, neuron, state, current)
    train = Train(Kept(words), state.spikes, None, state.age)

    def plain(current, membrane):
        actual, end, _ = over_time(NEURON, neuron, state._replace(membrane=membrane), current)
        return (actual * weights).sum() + (end.membrane * weights[0]).sum()

    def replayed(current, membrane):
        actual, end = replay(NEURON.lossless, neuron, current, membrane, train)
        return (actual * weights).sum() + (end * weights[0]).sum()

    gradients = [jax.grad(function, (0, 1))(current, state.membrane) for function in (plain, replayed)]
    return (spikes, after), (unpack(words, len(current), jnp.float32), kept_after), gradients


@pytest.mark.usefixtures("optimized")
@given(st.integers(0, 2**32 - 1), chunks_of_shape, st.floats(0.0625, 4.0, width=32), leaks)
def test_a_neuron_kept_as_bits_equals_the_plain_one(seed, chunks_of_shape, threshold, leak):
    """A presentation cut anywhere: spikes, ages and states are equal to the bit, gradients but for rounding."""
    shape, chunks = chunks_of_shape
    current, state = driven(seed, sum(chunks), shape)
    weights = driven(seed + 1, sum(chunks), shape)[0]
    for chunk, end in zip(chunks, np.cumsum(chunks), strict=True):
        steps = slice(end - chunk, end)
        plain, packed, gradients = jax.device_get(
            plain_and_packed(current[steps], state, weights[steps], threshold, leak)
        )
        chex.assert_trees_all_equal(packed, plain)
        chex.assert_trees_all_close(*gradients, rtol=2e-5, atol=1e-6)
        state = plain[1]
