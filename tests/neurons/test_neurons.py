"""Every neuron against loops in NumPy and PyTorch, and one of a user's own against the same among jsnn's."""

from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.neurons import Neuron, adaptive_lif, current_lif, hard_reset_lif, lif, refractory_lif
from jsnn.neurons.neuron import record
from jsnn.neurons.packing import unpack
from jsnn.neurons.surrogate import boxcar, linear
from tests.neurons.numpy_reference import (
    adaptive_lif_loop,
    current_lif_loop,
    hard_reset_lif_loop,
    lif_loop,
    refractory_lif_loop,
)
from tests.neurons.random_neurons import CHANNELS, currents, parameters_of, run

NEURONS = {
    "lif": (lif(), lif_loop),
    "lif, linear": (lif(linear()), lif_loop),
    "lif, live spike": (lif(detach_spike=False), lif_loop),
    "lif, detached threshold": (lif(detach_threshold=True), lif_loop),
    "lif, both other": (lif(linear(), detach_spike=False, detach_threshold=True), lif_loop),
    "hard reset": (hard_reset_lif(), hard_reset_lif_loop),
    "hard reset, linear, live spike": (hard_reset_lif(linear(), detach_spike=False), hard_reset_lif_loop),
    "adaptive": (adaptive_lif(), adaptive_lif_loop),
    "current": (current_lif(), current_lif_loop),
    "refractory": (refractory_lif(), partial(refractory_lif_loop, period=1)),
    "refractory for 3": (refractory_lif(boxcar(), period=3), partial(refractory_lif_loop, period=3)),
}


@pytest.mark.parametrize("shape", [(), (CHANNELS,)], ids=["scalars", "by channel"])
@pytest.mark.parametrize("name", NEURONS)
def test_equals_a_numpy_loop(float64, name, shape):
    (neuron, loop), current = NEURONS[name], currents(32)
    parameters = parameters_of(neuron, shape)
    spikes, end, states = run(neuron, parameters, current)
    membranes, expected = loop(current, **parameters)
    np.testing.assert_array_equal(spikes, expected)
    np.testing.assert_allclose(states.membrane, membranes, rtol=1e-12, atol=1e-13)
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf[-1], states), end)
    assert all(0.05 < spikes[..., channel].mean() < 0.8 for channel in range(CHANNELS))
    if getattr(end, "age", None) is not None:
        np.testing.assert_array_equal(end.age, np.where(expected.any(0), 1 + expected[::-1].argmax(0), 0))


@pytest.mark.parametrize("name", NEURONS)
def test_time_can_be_cut_and_spikes_kept_as_bits(float64, name):
    neuron, current = NEURONS[name][0], currents(20)
    parameters = parameters_of(neuron, (CHANNELS,))
    spikes, end, _ = run(neuron, parameters, current)

    @jax.jit
    def in_words(current):
        state, every = neuron.init(parameters, current[0]), []
        for piece in (current[:7], current[7:]):
            words, state = record(neuron, parameters, state, piece)
            every.append(unpack(words, len(piece), current.dtype))
        return jnp.concatenate(every), state

    actual, later = in_words(jnp.asarray(current))
    np.testing.assert_array_equal(actual, spikes)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13), later, end)


def test_a_refractory_neuron_pauses():
    spikes = run(refractory_lif(period=2), {"threshold": 1.0, "leak": 1.0}, jnp.full((8, 1), 3.0))[0]
    np.testing.assert_array_equal(spikes[:, 0], [1, 0, 0, 1, 0, 0, 1, 0])


class Mine(NamedTuple):
    membrane: jax.Array
    spikes: jax.Array


def test_a_neuron_of_ones_own():
    """That of the module's text, which is `hard_reset_lif` without its options."""

    def init(neuron, current):
        return Mine(jnp.zeros_like(current), jnp.zeros_like(current))

    def step(neuron, state, current):
        membrane = neuron["leak"] * state.membrane * (1 - state.spikes) + current
        spikes = linear().spike(membrane / neuron["threshold"] - 1, None)
        return spikes, Mine(membrane, spikes)

    mine = Neuron(lambda: {"threshold": 1.0, "leak": 0.9}, init, step)
    theirs = hard_reset_lif(linear(), detach_spike=False)
    parameters, current = {"threshold": 0.7, "leak": 0.9, "initial": 0.0}, jnp.asarray(currents(20), jnp.float32)

    def both(neuron):
        def total(current):
            spikes = run(neuron, parameters, current)[0]
            return (spikes * currents(20, seed=1)).sum(), spikes

        return jax.grad(total, has_aux=True)(current)

    chex.assert_trees_all_equal(both(mine), both(theirs))


WITHOUT_TORCH = pytest.mark.skipif(find_spec("torch") is None, reason="parity needs PyTorch: pip install torch")


@pytest.mark.torch
@WITHOUT_TORCH
@pytest.mark.parametrize("shape", [(), (CHANNELS,)], ids=["scalars", "by channel"])
@pytest.mark.parametrize(
    ("hard_reset", "detach_spike", "detach_threshold"),
    [
        *((False, spike, threshold) for spike in (True, False) for threshold in (True, False)),
        (True, True, False),
        (True, False, False),
    ],
)
def test_gradients_of_weights_and_parameters_equal_pytorchs(float64, hard_reset, detach_spike, detach_threshold, shape):
    from tests.network.torch_reference import dense_lif

    make = partial(hard_reset_lif, linear(0.4)) if hard_reset else partial(lif, linear(0.4))
    neuron = make(detach_spike=detach_spike, **({} if hard_reset else {"detach_threshold": detach_threshold}))
    rng = np.random.default_rng(3)
    inputs = rng.choice([-1.0, 0, 1], (12, 5, 6), p=[0.2, 0.4, 0.4])
    leaves = {"weights": rng.normal(0.1, 0.5, (6, CHANNELS)), **parameters_of(neuron, shape)}
    of_spikes, of_end = rng.normal(size=(12, 5, CHANNELS)), rng.normal(size=(5, CHANNELS))

    def value(leaves):
        spikes, end, _ = run(neuron, leaves, jnp.asarray(inputs) @ leaves["weights"])
        return (spikes * of_spikes).sum() + (end.membrane * of_end).sum(), spikes

    gradients, spikes = jax.grad(value, has_aux=True)(jax.tree.map(jnp.asarray, leaves))
    expected_spikes, expected = dense_lif(
        inputs, leaves, 0.4, of_spikes, of_end,
        hard_reset=hard_reset, detach_spike=detach_spike, detach_threshold=detach_threshold,
    )  # fmt: skip
    np.testing.assert_array_equal(spikes, expected_spikes)
    assert 0.1 < expected_spikes.mean() < 0.6
    for name, gradient in expected.items():
        assert np.linalg.norm(gradient) > 0, name
        assert np.linalg.norm(gradients[name] - gradient) <= 1e-10 * np.linalg.norm(gradient), name
