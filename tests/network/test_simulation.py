from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.models import dropout_of
from jsnn.network.chunks import time_chunks
from jsnn.network.simulation import simulate, spikes_per_neuron
from jsnn.network.transformation import NEURONS
from tests.networks import SMALL_RESNET, SMALL_VGG, last_threshold, random_inputs, random_snn, run_network

NETS = pytest.mark.parametrize("ann", [SMALL_VGG, SMALL_RESNET], ids=["vgg", "resnet"])
STEPS = 10
LABELS = np.array([0, 2])
DROPOUT = jax.random.key(5)


def shown(ann, snn, chunk, variables):
    """What a run with dropout shows."""
    return run_network(ann, snn, chunk, variables, random_inputs(STEPS, batch=2), LABELS, DROPOUT)


@partial(jax.jit, static_argnums=(0, 1))
def forward(ann, snn, variables, inputs, state=None):
    """The logits of the same network by `apply`, and its next state; from its initial state where none is given."""
    noise = dropout_of(jnp.arange(2), DROPOUT)
    state = snn.initial_state(variables, inputs[0], **noise) if state is None else state
    results, state = snn.apply(variables, state, inputs, **noise)
    return results.cumsum(0) / last_threshold(variables, ann), state


@NETS
@pytest.mark.parametrize("chunk", [1, 4])
def test_chunked_equals_whole_forward_and_backward(ann, chunk):
    for leak in (1.0, 0.9):
        snn, variables = random_snn(ann, seed=1, leak=leak)
        at_once, chunked = (shown(ann, snn, length, variables) for length in (STEPS, chunk))
        chex.assert_trees_all_equal(chunked.spikes, at_once.spikes)
        chex.assert_trees_all_close(chunked, at_once, rtol=1e-4, atol=1e-5)
        assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(at_once.gradients))


@NETS
def test_logits_at_a_step_are_those_of_a_shorter_presentation(ann):
    snn, variables = random_snn(ann, seed=2, leak=1.0)
    at_once = shown(ann, snn, STEPS, variables).logits
    short, _ = forward(ann, snn, variables, random_inputs(STEPS, batch=2)[:4])
    np.testing.assert_allclose(short, at_once[:4], rtol=1e-5, atol=1e-5)


def test_spikes_per_neuron_are_means_over_units():
    snn, variables = random_snn(SMALL_VGG, seed=3, leak=1.0)
    spikes_of = shown(SMALL_VGG, snn, STEPS, variables).spikes
    bits = 1 << np.arange(STEPS, dtype=np.uint16)
    words = {
        layer: jnp.asarray(np.tensordot(bits, np.asarray(spikes, np.uint16), axes=1))
        for layer, spikes in spikes_of.items()
    }
    counted = spikes_per_neuron(words, STEPS, dict.fromkeys(words, 0), 2)
    assert set(counted) == set(SMALL_VGG.spiking_layers)
    for layer, values in counted.items():
        expected = np.asarray(spikes_of[layer]).reshape(STEPS, 2, -1).mean(-1)
        np.testing.assert_allclose(values, expected, rtol=1e-5)
        assert 0 < expected.mean() < 1


def test_a_network_runs_by_hand_from_its_initial_state():
    snn, variables = random_snn(SMALL_VGG, seed=3, leak=1.0)
    inputs, expected = random_inputs(STEPS, batch=2), shown(SMALL_VGG, snn, STEPS, variables).logits
    first, state = forward(SMALL_VGG, snn, variables, inputs[:4])
    second, _ = forward(SMALL_VGG, snn, variables, inputs[4:], state)
    np.testing.assert_allclose(np.concatenate([first, first[-1] + second]), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 3, 4, 10, 32])
def test_chunks_are_few_and_of_one_length_and_padded_behind(chunk):
    times = np.asarray(time_chunks(STEPS, chunk))
    np.testing.assert_array_equal(times.ravel(), np.arange(times.size))
    assert times.shape[1] <= chunk
    assert len(times) == -(-STEPS // chunk)
    assert STEPS <= times.size < STEPS + len(times)


def test_neurons_of_another_network_are_refused_by_name():
    snn, variables = random_snn(SMALL_VGG, seed=0, leak=1.0)
    inputs = random_inputs(4, batch=1)

    def run(variables):
        simulate(snn, variables, lambda t: inputs[t], lambda observed: observed.total, num_steps=4, chunk=4)

    with pytest.raises(ValueError, match='no "neurons"'):
        run({"params": variables["params"]})
    others = {name: values for name, values in variables[NEURONS].items() if name != "conv1"}
    with pytest.raises(ValueError, match=r"spikes in conv0, conv1, .* neurons for conv0, dense0, dense1"):
        run({**variables, NEURONS: others})


def test_something_else_is_not_collected():
    snn, variables = random_snn(SMALL_VGG, seed=0, leak=1.0)
    inputs = random_inputs(4, batch=1)
    with pytest.raises(ValueError, match="words are collected alone, got words, spikes"):
        simulate(snn, variables, lambda t: inputs[t], lambda _: 0, num_steps=4, chunk=4, collect=("words", "spikes"))
    with pytest.raises(ValueError, match="no 'membranes' to collect"):
        simulate(snn, variables, lambda t: inputs[t], lambda _: 0, num_steps=4, chunk=4, collect=("membranes",))


@pytest.mark.parametrize(("num_steps", "chunk", "word"), [(0, 4, "num_steps"), (5, 0, "chunk"), (-1, 1, "num_steps")])
def test_numbers_of_steps_below_one_are_refused(num_steps, chunk, word):
    snn, variables = random_snn(SMALL_VGG, seed=0, leak=1.0)
    inputs = random_inputs(4, batch=1)
    with pytest.raises(ValueError, match=word):
        simulate(snn, variables, lambda t: inputs[t], lambda observed: observed.total, num_steps=num_steps, chunk=chunk)


def test_the_spikes_of_states_have_the_gradient_of_spikes():
    """Between chunks they are kept in a byte, which carries none, only where nobody asks for states."""
    snn, variables = random_snn(SMALL_VGG, seed=1, leak=0.9)
    inputs = random_inputs(STEPS, batch=2)

    def total(of_states, params):
        def observe(observed):
            states, spikes = observed.layers["states"]["conv0"], observed.layers["spikes"]["conv0"]
            return (states.spikes if of_states else spikes).sum(axis=tuple(range(1, spikes.ndim)))

        given = {"params": params, NEURONS: variables[NEURONS]}
        run = partial(simulate, snn, given, lambda time: inputs[time], observe, num_steps=STEPS, chunk=5)
        return run(collect=("states", "spikes"), **dropout_of(jnp.arange(2), DROPOUT)).sum()

    of_states, of_spikes = (jax.jit(jax.grad(partial(total, way)))(variables["params"]) for way in (True, False))
    chex.assert_trees_all_close(of_states, of_spikes, rtol=1e-6)
    assert float(jnp.abs(of_states["conv0"]["kernel"]).max()) > 0
