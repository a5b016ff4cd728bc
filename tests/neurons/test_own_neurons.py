"""A researcher's own neurons and surrogates, and neurons whose thresholds and leaks are trained."""

from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jsnn
from jsnn.training.checkpoint import restore, save
from tests.network.own_network import CONSTANT, IMAGES, ITEM, KEY, LABELS, SOURCE, STEPS, THRESHOLDS, ann, held, spiking
from tests.neurons.numpy_reference import lif_loop
from tests.neurons.random_neurons import currents, run


class State(NamedTuple):
    membrane: jax.Array
    spikes: jax.Array


def init(neuron, current):
    return State(jnp.zeros_like(current), jnp.zeros_like(current))


def step(neuron, state, current):
    membrane = neuron["leak"] * state.membrane * (1 - state.spikes) + neuron["gain"] * current
    spikes = jsnn.surrogate.linear().spike(membrane / neuron["threshold"] - 1, None)
    return spikes, State(membrane, spikes)


# That of the text of `jsnn.neurons.neuron`, with a parameter more.
OWN = jsnn.Neuron(lambda: {"threshold": 1.0, "leak": 0.9, "gain": 1.0}, init, step)


def test_an_own_neuron_through_every_stage(tmp_path):
    snn, _ = spiking(OWN)
    thresholds = jsnn.balance_thresholds(snn, ann(), IMAGES, CONSTANT, KEY, num_steps=STEPS, batch_size=4)
    variables = jsnn.convert(snn, ann(), thresholds, gain=1.5)
    assert set(variables["neurons"]) == set(THRESHOLDS)
    assert all(values["gain"] == 1.5 for values in variables["neurons"].values())
    presentation = jsnn.Presentation(snn, CONSTANT, STEPS, 4)
    optimizer = optax.adam(1e-2)
    train = jax.jit(jsnn.train_step(SOURCE, jsnn.snn_forward(presentation, jsnn.averaged), optimizer))
    state, losses = jsnn.init_state(variables, optimizer), []
    for epoch in range(5):
        for item in SOURCE.shuffled(4, 0, epoch, 0):
            state, metrics = train(state, SOURCE.resident, item, KEY)
            losses.append(float(metrics.loss))
    assert np.mean(losses[-2:]) < np.mean(losses[:2])

    save(tmp_path, int(state.step), state, {})
    again = restore(tmp_path, jax.eval_shape(lambda: state)).tree
    chex.assert_trees_all_equal(again, state)

    evaluate = jax.jit(jsnn.snn_evaluation(presentation, SOURCE))
    actual = evaluate(again.variables(), SOURCE.resident, ITEM, KEY)
    options = {"num_steps": STEPS, "what": ("spikes", "currents"), "chunk": 4}
    shown = jsnn.record(snn, again.variables(), held(IMAGES), **options)
    assert actual.count == 8
    for layer in THRESHOLDS:
        expected = shown["spikes"][layer].reshape(STEPS, 8, -1).mean(-1).sum(1)
        np.testing.assert_allclose(actual.spikes[layer], expected, rtol=1e-5)
        values = jax.device_get(again.variables()["neurons"][layer])
        current = values["gain"] * np.asarray(shown["currents"][layer])
        _, by_loop = lif_loop(current, values["threshold"], values["leak"], hard_reset=True)
        np.testing.assert_array_equal(shown["spikes"][layer], by_loop)


def test_an_own_neuron_with_a_hard_reset_is_the_hard_reset_neuron():
    """It lacks the options, but has the same spikes and gradients."""
    theirs = jsnn.hard_reset_lif(jsnn.surrogate.linear(), detach_spike=False)
    parameters = {"threshold": 0.7, "leak": 0.9, "initial": 0.0, "gain": 1.0}
    current = jnp.asarray(currents(20), jnp.float32)

    @partial(jax.jit, static_argnums=0)
    def both(neuron):
        def total(current):
            spikes = run(neuron, parameters, current)[0]
            return (spikes * currents(20, seed=1)).sum(), spikes

        return jax.grad(total, has_aux=True)(current)

    chex.assert_trees_all_equal(both(OWN), both(theirs))


def test_thresholds_and_leaks_are_trained():
    snn, variables = spiking(jsnn.lif(jsnn.surrogate.linear()))
    presentation, trained = jsnn.Presentation(snn, CONSTANT, STEPS, 4), ("params", "neurons")
    optimizer = optax.sgd(0.1)
    train = jax.jit(jsnn.train_step(SOURCE, jsnn.snn_forward(presentation, jsnn.averaged, trained), optimizer))
    state, metrics = train(jsnn.init_state(variables, optimizer, trained), SOURCE.resident, ITEM, KEY)

    @jax.grad
    def gradient(variables):
        every = jsnn.simulate(snn, variables, held(IMAGES), lambda seen: seen.results, num_steps=STEPS, chunk=STEPS)
        return optax.softmax_cross_entropy_with_integer_labels(every.mean(0), LABELS).mean()

    expected = jax.tree.map(lambda leaf, slope: leaf - 0.1 * slope, variables, jax.jit(gradient)(variables))
    chex.assert_trees_all_close(state.variables(), expected, rtol=1e-5, atol=1e-6)
    for layer in THRESHOLDS:
        for name in ("threshold", "leak"):
            assert state.params["neurons"][layer][name] != variables["neurons"][layer][name]
    assert set(metrics.finite) == {"conv", "hidden", "out", "neurons/conv", "neurons/hidden", "optimizer"}
