"""A researcher's own losses, of every step and every spike, have their exact gradients and train a network."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsnn
from jsnn.data import array_source
from jsnn.network.bptt import Keys, present
from jsnn.training.forward import from_membranes
from tests.network.own_network import CONSTANT, IMAGES, INDEX, KEY, STEPS, spiking

RNG = np.random.default_rng(3)
TARGETS = RNG.normal(size=(8, 3)).astype(np.float32)


def regression(outputs, batch):
    """A squared error at every step, the later the heavier, and a penalty for activity above one spike in ten steps."""
    results, spikes = outputs
    weights = jnp.arange(1, len(results) + 1) / len(results)
    error = (weights[:, None, None] * (results - batch.labels) ** 2).mean()
    penalty = sum((jnp.maximum(0, count / STEPS - 0.1) ** 2).mean() for count in spikes.values())
    return error + penalty, {"error": error, "penalty": penalty}


def assert_close(actual, expected, tolerance):
    """Relative to the norm of each leaf, none of them zero."""
    for leaf, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(other) > 0
        assert np.linalg.norm(leaf - other) <= tolerance * np.linalg.norm(other)


@pytest.mark.parametrize("chunk", [4, 100])
def test_an_own_loss_of_steps_and_spikes_has_the_same_gradient_from_bits_as_from_membranes(chunk):
    snn, variables = spiking(jsnn.lif(jsnn.surrogate.stdb(0.4, 0.05)))
    presentation = jsnn.Presentation(snn, jsnn.encoding.poisson, STEPS, chunk)
    source = array_source(IMAGES, TARGETS)
    batch = source.take(source.resident, INDEX)

    def gradient(run):
        @jax.jit
        def loss_of(params):
            def objective(params):
                keys = Keys(jax.random.key(2), jax.random.key(3))
                outcome = run(presentation, {**variables, "params": params}, batch.images, batch.index, keys)
                return regression(outcome, batch)

            return jax.value_and_grad(objective, has_aux=True)(params)

        return loss_of(variables["params"])

    (loss, scores), gradients = gradient(present)
    (other, _), expected = gradient(from_membranes)
    assert float(loss) == pytest.approx(float(other), rel=1e-6)
    assert min(map(float, scores.values())) > 0
    assert_close(gradients, expected, 1e-6)


def test_a_regression_is_trained():
    snn, variables = spiking()
    source, optimizer = array_source(IMAGES, TARGETS), optax.adam(1e-2)
    forward = jsnn.snn_forward(jsnn.Presentation(snn, CONSTANT, STEPS, 8), lambda outcome: outcome)
    step = jax.jit(jsnn.train_step(source, forward, optimizer, loss=regression))
    state, errors = jsnn.init_state(variables, optimizer), []
    for _ in range(20):
        state, metrics = step(state, source.resident, np.arange(8, dtype=np.int32), KEY)
        errors.append(float(metrics.scores["error"]))
    assert errors[-1] < 0.9 * errors[0]
    chex.assert_trees_all_equal(state.fixed, {"neurons": variables["neurons"]})
