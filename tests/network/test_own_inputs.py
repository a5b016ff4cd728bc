"""A researcher's own inputs: events are trained on and evaluated, pixels get a gradient through their spikes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsnn
from jsnn.data import event_source
from tests.network.own_network import BATCH, IMAGES, INDEX, KEY, LABELS, STEPS, spiking

RNG = np.random.default_rng(4)


def test_events_are_trained_and_evaluated():
    events = RNG.poisson(0.3, (8, STEPS, 6, 6, 2)).astype(np.uint8)
    source, optimizer = event_source(events, LABELS), optax.sgd(0.1)
    snn, variables = spiking()
    presentation = jsnn.Presentation(snn, jsnn.encoding.events, STEPS, 4)
    item = np.arange(8, dtype=np.int32)
    evaluate = jax.jit(jsnn.snn_evaluation(presentation, source))
    actual = evaluate(variables, source.resident, item, KEY)
    inputs = jnp.asarray(events, jnp.float32).swapaxes(0, 1)
    logits = np.cumsum(snn.apply(variables, snn.initial_state(variables, inputs[0]), inputs)[0], axis=0)
    losses = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), jnp.asarray(LABELS)[None])
    np.testing.assert_allclose(actual.loss, losses.sum(1), rtol=1e-4)

    # Cut by samples, not by steps.
    balanced = (snn, variables, inputs.swapaxes(0, 1), jsnn.encoding.events, KEY)
    at_once = jsnn.balance_thresholds(*balanced, num_steps=STEPS)
    of_parts = jsnn.balance_thresholds(*balanced, num_steps=STEPS, batch_size=3)
    chex.assert_trees_all_close(of_parts, at_once, rtol=1e-6)

    step = jax.jit(jsnn.train_step(source, jsnn.snn_forward(presentation, jsnn.summed), optimizer))
    state, metrics = step(jsnn.init_state(variables, optimizer), source.resident, item, KEY)
    assert float(metrics.loss) == pytest.approx(float(losses.mean(1)[-1]), rel=1e-4)
    assert np.abs(state.params["params"]["conv"]["kernel"] - variables["params"]["conv"]["kernel"]).max() > 0


def test_pixels_get_a_gradient_straight_through_their_spikes():
    snn = jsnn.spiking(lambda params, x: x @ params["w"])
    weights, x = jnp.asarray(RNG.normal(size=(2, 5)), jnp.float32), jnp.asarray(IMAGES[:BATCH, 0, 0])

    def total(encode, x):
        def at(time):
            return encode(x, KEY, INDEX, time)

        variables = {"w": weights, "neurons": {}}
        return jsnn.simulate(snn, variables, at, lambda observed: observed.total, num_steps=STEPS, chunk=4)[-1].sum()

    gradient = jax.jit(jax.grad(total, 1), static_argnums=0)
    expected = np.broadcast_to(STEPS * weights.sum(1), x.shape)
    np.testing.assert_allclose(gradient(jsnn.encoding.poisson_straight_through, x), expected, rtol=1e-5)
    np.testing.assert_array_equal(gradient(jsnn.encoding.poisson, x), 0)
