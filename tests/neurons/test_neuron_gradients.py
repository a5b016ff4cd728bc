"""Gradients of neurons equal STDB's backward recursion in NumPy, and PyTorch's for weights and parameters."""

from functools import partial
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.neurons import hard_reset_lif, lif
from jsnn.neurons.surrogate import linear, stdb
from tests.neurons.numpy_reference import stdb_gradient_loop
from tests.neurons.random_neurons import CHANNELS, currents, parameters_of, run


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

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def gradients_and_spikes(leaves):
        spikes, end, _ = run(neuron, leaves, jnp.asarray(inputs) @ leaves["weights"])
        return (spikes * of_spikes).sum() + (end.membrane * of_end).sum(), spikes

    gradients, spikes = gradients_and_spikes(leaves)
    expected_spikes, expected = dense_lif(
        inputs, leaves, 0.4, of_spikes, of_end,
        hard_reset=hard_reset, detach_spike=detach_spike, detach_threshold=detach_threshold,
    )  # fmt: skip
    np.testing.assert_array_equal(spikes, expected_spikes)
    assert 0.1 < expected_spikes.mean() < 0.6
    for name, gradient in expected.items():
        assert np.linalg.norm(gradient) > 0, name
        assert np.linalg.norm(gradients[name] - gradient) <= 1e-10 * np.linalg.norm(gradient), name
