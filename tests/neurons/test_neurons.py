"""Neurons and their gradients equal loops in NumPy and PyTorch, may be cut in time, and refuse bad arguments."""

from functools import partial
from importlib.util import find_spec

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jsnn.neurons import adaptive_lif, current_lif, hard_reset_lif, lif, over_time, refractory_lif
from jsnn.neurons.neuron import record
from jsnn.neurons.packing import unpack
from jsnn.neurons.surrogate import boxcar, linear, stdb
from tests.neurons.numpy_reference import adaptive_lif_loop, current_lif_loop, lif_loop, stdb_gradient_loop
from tests.neurons.random_neurons import CHANNELS, by_spike_time, currents, parameters_of, run

seeds = st.integers(0, 2**32 - 1)
NEURONS = {
    "lif": (lif(), lif_loop),
    "lif, linear": (lif(linear()), lif_loop),
    "lif, both other": (lif(linear(), detach_spike=False, detach_threshold=True), lif_loop),
    "hard reset": (hard_reset_lif(), partial(lif_loop, hard_reset=True)),
    "hard reset, live spike": (hard_reset_lif(linear(), detach_spike=False), partial(lif_loop, hard_reset=True)),
    "adaptive": (adaptive_lif(), adaptive_lif_loop),
    "current": (current_lif(), current_lif_loop),
    "refractory": (refractory_lif(), partial(lif_loop, period=1)),
    "refractory for 3": (refractory_lif(boxcar(), period=3), partial(lif_loop, period=3)),
}


@partial(jax.jit, static_argnums=0)
def run_in_words(neuron, parameters, current):
    """Spikes and the last state of two pieces, kept as bits."""
    state, every = neuron.init(parameters, current[0]), []
    for piece in (current[:7], current[7:]):
        words, state = record(neuron, parameters, state, piece)
        every.append(unpack(words, len(piece), current.dtype))
    return jnp.concatenate(every), state


@pytest.mark.parametrize("shape", [(), (CHANNELS,)], ids=["scalars", "by channel"])
@pytest.mark.parametrize("name", NEURONS)
def test_a_neuron_equals_a_numpy_loop_whole_or_in_pieces_kept_as_bits(float64, name, shape):
    (neuron, loop), current = NEURONS[name], currents(32)
    parameters = parameters_of(neuron, shape)
    spikes, end, states = run(neuron, parameters, current)
    membranes, expected = loop(current, **parameters)
    np.testing.assert_array_equal(spikes, expected)
    np.testing.assert_array_equal(states.spikes, expected)
    np.testing.assert_allclose(states.membrane, membranes, rtol=1e-12, atol=1e-13)
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf[-1], states), end)
    assert all(0.05 < spikes[..., channel].mean() < 0.8 for channel in range(CHANNELS))
    if getattr(end, "age", None) is not None:
        np.testing.assert_array_equal(end.age, np.where(expected.any(0), 1 + expected[::-1].argmax(0), 0))
    if shape:
        in_words, later = run_in_words(neuron, parameters, current)
        np.testing.assert_array_equal(in_words, spikes)
        chex.assert_trees_all_close(later, end, rtol=1e-12, atol=1e-13)


def test_jit_and_vmap_agree_with_plain_calls():
    current, parameters = jnp.asarray(currents(20), jnp.float32), {"threshold": 0.8, "leak": 0.95, "initial": 0.0}

    def spikes(current):
        return over_time(lif(), parameters, lif().init(parameters, current[0]), current)[0]

    mapped = jax.vmap(spikes, in_axes=1, out_axes=1)(current)
    chex.assert_trees_all_equal(spikes(current), jax.jit(spikes)(current), mapped)


@jax.jit
def run_from(state, current, threshold, leak):
    return over_time(lif(), {"threshold": threshold, "leak": leak}, state, current)[:2]


@pytest.mark.usefixtures("optimized")
@settings(max_examples=50, derandomize=False)
@given(
    cut=st.sampled_from([0, 1, 5, 13]),  # few, for each length is compiled
    leak=st.sampled_from([1.0, 0.95, 0.5]),
    threshold=st.floats(0.1, 3.0),
    seed=seeds,
)
def test_time_can_be_cut_anywhere(cut, leak, threshold, seed):
    current = currents(13, seed).astype(np.float32)
    start = lif().init({"threshold": threshold, "initial": 0.0}, current[0])
    whole, expected = run_from(start, current, threshold, leak)
    first, middle = run_from(start, current[:cut], threshold, leak) if cut else (current[:0], start)
    second, end = run_from(middle, current[cut:], threshold, leak) if cut < 13 else (current[:0], middle)
    chex.assert_trees_all_equal((np.concatenate([first, second]), end), (whole, expected))


@given(seeds, st.sampled_from([(), (2, 1, 3)]), st.sampled_from([1, 2, 17, 60]), st.integers(-3, 3))
def test_a_soft_reset_keeps_the_residue(seed, shape, num_steps, exponent):
    """Without leak, what came in is in the membrane or was spent on spikes: sum I = u + v * spikes, to the bit.

    Currents are multiples of 2^-6 and v is a power of 2, so that no sum is rounded.
    """
    rng = np.random.default_rng(seed)
    current = np.asarray(rng.integers(-100, 200, (num_steps, *shape)) / 64, np.float32)
    threshold = 2.0**exponent
    start = lif().init({"threshold": threshold, "initial": 0.0}, current[0])
    spikes, state = jax.device_get(run_from(start, current, threshold, 1.0))
    residue = state.membrane - threshold * spikes[-1]  # the membrane is kept from before its reset
    np.testing.assert_array_equal(current.sum(0), residue + threshold * spikes.sum(0))
    assert set(np.unique(spikes)) <= {0, 1}
    np.testing.assert_array_equal(state.age, np.where(spikes.any(0), 1 + np.argmax(spikes[::-1], 0), 0))


def test_stdb_gradient_equals_the_backward_recursion(float64):
    current, cotangent = currents(40), currents(40, seed=1)

    @jax.jit
    @jax.grad
    def gradient(current, leak):
        parameters = {"threshold": 0.7, "leak": leak, "initial": 0.0}
        return (run(lif(stdb(0.3, 0.05)), parameters, current)[0] * cotangent).sum()

    for leak in (1.0, 0.9):
        expected = stdb_gradient_loop(current, 0.7, leak, 0.3, 0.05, cotangent)
        np.testing.assert_allclose(gradient(current, leak), expected, rtol=1e-12, atol=1e-14)
        assert np.abs(expected).max() > 0


def test_the_reset_carries_no_gradient(float64):
    """u[1] = I[0] + I[1] - v * o[0]: with a gradient of the reset, d u[1] / d I[0] would differ from 1."""

    def membrane(current):
        return run(lif(linear()), {"threshold": 1.0, "leak": 1.0, "initial": 0.0}, current)[1].membrane

    np.testing.assert_array_equal(jax.grad(membrane)(jnp.array([1.2, 0.1])), [1, 1])


@pytest.mark.torch
@pytest.mark.skipif(find_spec("torch") is None, reason="parity needs PyTorch: pip install torch")
@pytest.mark.parametrize("shape", [(), (CHANNELS,)], ids=["scalars", "by channel"])
@pytest.mark.parametrize("detach_spike", [True, False])
@pytest.mark.parametrize(
    ("make", "options"), [(hard_reset_lif, {}), *((lif, {"detach_threshold": b}) for b in (True, False))]
)
def test_gradients_of_weights_and_parameters_equal_pytorchs(float64, make, options, detach_spike, shape):
    from tests.network.torch_reference import dense_lif

    neuron, rng = make(linear(0.4), detach_spike=detach_spike, **options), np.random.default_rng(3)
    inputs = rng.choice([-1.0, 0, 1], (12, 5, 6), p=[0.2, 0.4, 0.4])
    leaves = {"weights": rng.normal(0.1, 0.5, (6, CHANNELS)), **parameters_of(neuron, shape)}
    of_spikes, of_end = rng.normal(size=(12, 5, CHANNELS)), rng.normal(size=(5, CHANNELS))

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def gradients_and_spikes(leaves):
        spikes, end, _ = run(neuron, leaves, jnp.asarray(inputs) @ leaves["weights"])
        return (spikes * of_spikes).sum() + (end.membrane * of_end).sum(), spikes

    gradients, spikes = gradients_and_spikes(leaves)
    how = {"hard_reset": make is hard_reset_lif, "detach_spike": detach_spike, "detach_threshold": False, **options}
    expected_spikes, expected = dense_lif(inputs, leaves, 0.4, of_spikes, of_end, **how)
    np.testing.assert_array_equal(spikes, expected_spikes)
    assert 0.1 < expected_spikes.mean() < 0.6
    for name, gradient in expected.items():
        assert np.linalg.norm(gradient) > 0, name
        assert np.linalg.norm(gradients[name] - gradient) <= 1e-10 * np.linalg.norm(gradient), name


def test_the_parameters_before_anything_is_known():
    of_lif = {"threshold": 1.0, "leak": 1.0, "initial": 0.0}
    assert lif().parameters() == hard_reset_lif().parameters() == of_lif
    assert adaptive_lif().parameters() == {"threshold": 1.0, "leak": 1.0, "decay": 0.9, "strength": 0.1}
    assert current_lif().parameters() == {"threshold": 1.0, "leak": 1.0, "decay": 0.5}
    assert refractory_lif().parameters() == {"threshold": 1.0, "leak": 1.0}


ONE = {"threshold": 1.0, "leak": 1.0, "initial": 0.0}
NAN, INF, AT_LEAST = float("nan"), float("inf"), "at least 1 time step, got"
OF_INTEGERS = "an input current is a floating-point number, got int32"
OF_TWO = r"a state of shape \(3,\) does not fit a current of shape \(4, 2\)"
TOO_MANY = "a word holds 32 time steps of spikes, got 33: choose a small"


def started(call, neuron, current):
    """A call of a function that drives neurons of which there are three."""
    return partial(call, neuron, ONE, neuron.init(ONE, jnp.ones(3)), current)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        *((partial(make, stdb()), "by spike times, as stdb, is for lif") for make in (adaptive_lif, current_lif)),
        (lambda: refractory_lif(by_spike_time()), "by spike times, as stdb, is for lif and hard_reset_lif"),
        *((partial(refractory_lif, period=p), f"a refractory period takes {AT_LEAST} {p}") for p in (0, 1.5, NAN, INF)),
        *((started(call, lif(), jnp.ones((4, 2))), OF_TWO) for call in (over_time, record)),
        *((started(call, lif(), jnp.ones((4, 3), int)), OF_INTEGERS) for call in (over_time, record)),
        *((started(record, neuron, jnp.ones((33, 3))), TOO_MANY) for neuron in (lif(), current_lif())),
    ],
)
def test_bad_input_is_told_in_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        call()
    assert "\n" not in str(error.value)
