"""Spike trains as bits, and neurons that are recorded as bits, against loops and the plain neuron."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jsnn.neurons import LIFState, lif, over_time
from jsnn.neurons.neuron import record
from jsnn.neurons.packing import age_after, age_at, age_dtype, unpack, word_dtype
from jsnn.neurons.residuals import Kept, Train, replay
from jsnn.neurons.surrogate import stdb

SURROGATE = stdb(0.3, 0.05)
NEURON = lif(SURROGATE)


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


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=32), st.integers(0, 300))
def test_ages_equal_a_loop(spikes, age):
    words = pack(np.array(spikes)[:, None])
    for time in range(len(spikes)):
        assert age_at(words, jnp.array([age], jnp.int32), time) == age_by_loop(spikes, age, time)
    assert age_after(words, jnp.array([age], jnp.int32), len(spikes)) == age_by_loop(spikes, age, len(spikes))


@pytest.mark.parametrize("num_steps", [1, 7, 8, 9, 16, 17, 32])
def test_unpacking_inverts_packing(num_steps):
    spikes = np.random.default_rng(num_steps).random((num_steps, 3, 2)) < 0.4
    np.testing.assert_array_equal(unpack(pack(spikes), num_steps, jnp.float32), spikes)


def test_words_and_ages_are_as_small_as_can_be():
    assert [word_dtype(k).itemsize for k in (1, 8, 9, 16, 17, 32)] == [1, 1, 2, 2, 4, 4]
    assert [age_dtype(k).itemsize for k in (1, 255, 256, 65535, 65536)] == [1, 1, 2, 2, 4]


def driven(num_steps, shape=(5,), seed=0):
    """Currents [K, ...] and a state amid a presentation."""
    rng = np.random.default_rng(seed)
    membrane, age = jnp.asarray(rng.normal(0.2, 0.3, shape), jnp.float32), jnp.asarray(rng.integers(0, 4, shape))
    state = LIFState(membrane, (age == 1).astype(jnp.float32), age)
    return jnp.asarray(rng.normal(0.4, 0.8, (num_steps, *shape)), jnp.float32), state


def parameters(leak, threshold=0.7):
    return {"threshold": threshold, "leak": leak, "initial": 0.0}


@jax.jit
def recorded_and_plain(current, state, leak):
    return *record(NEURON, parameters(leak), state, current), *over_time(NEURON, parameters(leak), state, current)[:2]


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("num_steps", [1, 8, 13, 32])
@pytest.mark.parametrize("leak", [1.0, 0.9])
def test_recorded_spikes_and_state_are_those_of_the_plain_neuron(num_steps, leak):
    words, end, spikes, expected = recorded_and_plain(*driven(num_steps), leak)
    np.testing.assert_array_equal(unpack(words, num_steps, jnp.float32), spikes)
    chex.assert_trees_all_equal(end, expected)
    assert words.dtype == word_dtype(num_steps)


@jax.jit
def gradients(current, state, weights, leak):
    """In currents and membranes, by replay and by the plain neuron."""
    of_end = jnp.linspace(-1, 1, 5)
    neuron = parameters(leak)
    train = Train(Kept(record(NEURON, neuron, state, current)[0]), state.spikes, age=state.age)

    def plain(current, membrane):
        spikes, end, _ = over_time(NEURON, neuron, state._replace(membrane=membrane), current)
        return (spikes * weights).sum() + (end.membrane * of_end).sum()

    def replayed(current, membrane):
        spikes, end = replay(NEURON.lossless, neuron, current, membrane, train)
        return (spikes * weights).sum() + (end * of_end).sum()

    return [jax.grad(function, (0, 1))(current, state.membrane) for function in (replayed, plain)]


@pytest.mark.parametrize("leak", [1.0, 0.9])
@pytest.mark.parametrize("num_steps", [1, 8, 13, 32])
def test_a_replay_has_the_gradients_of_the_plain_neuron(num_steps, leak):
    actual, expected = gradients(*driven(num_steps), driven(num_steps, seed=1)[0], leak)
    chex.assert_trees_all_close(actual, expected, rtol=1e-6, atol=1e-7)
    assert np.abs(expected[0]).max() > 0


def test_more_steps_than_a_word_holds_are_refused():
    current, state = driven(33)
    with pytest.raises(ValueError, match="32 time steps of spikes, got 33"):
        record(NEURON, parameters(0.9), state, current)


@jax.jit
def recorded_by_steps(current, state, leak):
    """By the way of a neuron that has none of its own to record."""
    return record(NEURON._replace(record=None), parameters(leak), state, current)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("num_steps", [1, 8, 13, 32])
def test_any_neuron_is_recorded_like_lif(num_steps):
    current, state = driven(num_steps)
    chex.assert_trees_all_equal(recorded_by_steps(current, state, 0.9), recorded_and_plain(current, state, 0.9)[:2])
