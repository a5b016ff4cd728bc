from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jsnn.network.simulation import running_sum
from jsnn.neurons import LIFState, lif, over_time
from jsnn.neurons.surrogate import linear, stdb
from tests.neurons.numpy_reference import lif_loop, stdb_gradient_loop


def currents(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.4, 0.8, shape)


def at_rest(current: jax.Array, surrogate=None) -> LIFState:
    return lif(surrogate or stdb()).init({"threshold": 1.0, "initial": 0.0}, jnp.asarray(current[0]))


@partial(jax.jit, static_argnames="surrogate")
def run_from(current: jax.Array, state: LIFState, threshold: float, leak: float, surrogate=None):
    spikes, state, _ = over_time(lif(surrogate or stdb()), {"threshold": threshold, "leak": leak}, state, current)
    return spikes, state


def run(current: jax.Array, threshold=1.0, leak=1.0, surrogate=None) -> tuple[jax.Array, LIFState]:
    return run_from(current, at_rest(current, surrogate), threshold, leak, surrogate)


@pytest.mark.parametrize("leak", [1.0, 0.9])
@pytest.mark.parametrize("shape", [(30,), (30, 5), (12, 2, 3, 4)])
def test_equals_a_numpy_loop(float64, shape, leak):
    current = currents(shape)
    spikes, state = run(jnp.asarray(current), 0.7, leak)
    membranes, expected = lif_loop(current, 0.7, leak)
    np.testing.assert_array_equal(spikes, expected)
    np.testing.assert_allclose(state.membrane, membranes[-1], rtol=1e-12)
    assert 0 < expected.mean() < 1


@pytest.mark.parametrize("leak", [1.0, 0.9])
def test_stdb_gradient_equals_the_backward_recursion(float64, leak):
    current, cotangent = currents((40, 6)), currents((40, 6), seed=1)
    gradient = jax.grad(lambda i: (run(i, 0.7, leak, stdb(0.3, 0.05))[0] * cotangent).sum())(jnp.asarray(current))
    expected = stdb_gradient_loop(current, 0.7, leak, 0.3, 0.05, cotangent)
    np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-14)
    assert np.abs(expected).max() > 0


def test_the_reset_carries_no_gradient(float64):
    # u[1] = I[0] + I[1] - v * o[0]; with a live reset, d u[1] / d I[0] would differ from 1.
    def membrane(current):
        return run(current, 1.0, 1.0, linear())[1].membrane

    np.testing.assert_array_equal(jax.grad(membrane)(jnp.array([1.2, 0.1])), [1, 1])


def test_a_membrane_at_the_threshold_does_not_fire():
    spikes, _ = run(jnp.array([1.0, 0.5]))
    np.testing.assert_array_equal(spikes, [0, 1])


def test_age_counts_from_the_last_spike():
    _, state = run(jnp.array([[2.0, 0.0, 0.3], [0.0, 0.0, 0.9], [-1.0, 0.0, 0.0]]))
    np.testing.assert_array_equal(state.age, [3, 0, 2])


@pytest.mark.usefixtures("optimized")
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    num_steps=st.sampled_from([1, 2, 13]),  # few: each number of steps up to the largest is compiled
    cut=st.integers(0, 13),
    leak=st.sampled_from([1.0, 0.95, 0.5]),
    threshold=st.floats(0.1, 3.0),
    seed=st.integers(0, 1000),
)
def test_time_can_be_cut_anywhere(num_steps, cut, leak, threshold, seed):
    current = currents((num_steps, 3), seed).astype(np.float32)
    cut = min(cut, num_steps)
    spikes, state = run(current, threshold, leak)
    first, middle = run(current[:cut], threshold, leak) if cut else (current[:0], at_rest(current))
    second, end = run_from(current[cut:], middle, threshold, leak)
    chex.assert_trees_all_equal((np.concatenate([first, second]), end), (spikes, state))


@settings(max_examples=50, deadline=None)
@given(threshold=st.floats(0.25, 4.0), seed=st.integers(0, 1000))
def test_soft_reset_keeps_the_residue(threshold, seed):
    """For leak 1 the input is all there: sum of currents = membrane + threshold * spikes before the last step."""
    current = jnp.asarray(currents((25, 4), seed), jnp.float32)
    spikes, state = run(current, threshold, 1.0)
    np.testing.assert_allclose(current.sum(0), state.membrane + threshold * spikes[:-1].sum(0), atol=2e-5)


def test_states_are_those_after_each_step(float64):
    current = jnp.asarray(currents((30, 5)))
    _, end, states = over_time(lif(), {"threshold": 0.7, "leak": 0.9}, at_rest(current), current)
    membranes, expected = lif_loop(np.asarray(current), 0.7, 0.9)
    np.testing.assert_allclose(states.membrane, membranes, rtol=1e-12)
    np.testing.assert_array_equal(states.spikes, expected)
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf[-1], states), end)


def test_jit_and_vmap_agree_with_plain_calls():
    current = jnp.asarray(currents((20, 6)), jnp.float32)

    def run(current):
        return over_time(lif(), {"threshold": 0.8, "leak": 0.95}, at_rest(current), current)[0]

    plain, jitted = run(current), jax.jit(run)(current)
    mapped = jax.vmap(run, in_axes=1, out_axes=1)(current)
    chex.assert_trees_all_equal(plain, jitted, mapped)


def test_thresholds_may_differ_by_neuron():
    current = jnp.full((10, 2), 0.5)
    spikes, _ = run(current, jnp.array([0.4, 2.0]))
    np.testing.assert_array_equal(spikes.sum(0), [10, 2])


def test_the_readout_is_the_running_sum(float64):
    current = currents((9, 4))
    last, logits = running_sum(jnp.ones(4), jnp.asarray(current))
    np.testing.assert_allclose(logits, 1 + current.cumsum(0), rtol=1e-12)
    np.testing.assert_array_equal(last, logits[-1])


def test_a_state_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"state of shape \(3,\)"):
        run_from(jnp.zeros((5, 4)), at_rest(jnp.zeros((5, 3))), 1.0, 1.0)
