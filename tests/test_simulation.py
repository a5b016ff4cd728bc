from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.simulation import simulate, spikes_per_neuron
from tests.networks import SMALL_RESNET, SMALL_VGG, random_inputs, random_snn, run_network

NETS = pytest.mark.parametrize("ann", [SMALL_VGG, SMALL_RESNET], ids=["vgg", "resnet"])
STEPS = 10
LABELS = np.array([0, 2])


def seen(model, chunk, variables):
    """What a run with dropout shows."""
    return run_network(model, chunk, variables, random_inputs(STEPS, batch=2), LABELS, jax.random.key(5))


@partial(jax.jit, static_argnums=0)
def forward(model, variables, inputs):
    """The logits of the same network, without a state."""
    return model.apply(variables, inputs, jnp.arange(2), rngs={"dropout": jax.random.key(5)})


@NETS
@pytest.mark.parametrize("chunk", [1, 4])
def test_chunked_equals_whole_forward_and_backward(ann, chunk):
    for leak in (1.0, 0.9):
        model, variables = random_snn(ann, seed=1, leak=leak)
        whole, chunked = (seen(model, length, variables) for length in (STEPS, chunk))
        chex.assert_trees_all_equal(chunked.spikes, whole.spikes)
        chex.assert_trees_all_close(chunked, whole, rtol=1e-4, atol=1e-5)
        assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(whole.gradients))


@NETS
def test_logits_at_a_step_are_those_of_a_shorter_presentation(ann):
    model, variables = random_snn(ann, seed=2, leak=1.0)
    whole, short = seen(model, STEPS, variables).logits, forward(model, variables, random_inputs(STEPS, batch=2)[:4])
    np.testing.assert_allclose(short, whole[:4], rtol=1e-5, atol=1e-5)


def test_spikes_per_neuron_are_means_over_units():
    model, variables = random_snn(SMALL_VGG, seed=3, leak=1.0)
    spikes_of = seen(model, STEPS, variables).spikes
    bits = 1 << np.arange(STEPS, dtype=np.uint16)
    trains = {
        layer: {"lif": jnp.asarray(np.tensordot(bits, np.asarray(spikes, np.uint16), axes=1))}
        for layer, spikes in spikes_of.items()
    }
    counted = spikes_per_neuron(trains, STEPS)
    assert set(counted) == set(model.spiking_layers)
    for layer, values in counted.items():
        expected = np.asarray(spikes_of[layer]).reshape(STEPS, 2, -1).mean(-1)
        np.testing.assert_allclose(values, expected, rtol=1e-5)
        assert 0 < expected.mean() < 1


def test_a_network_runs_from_rest_without_a_state():
    model, variables = random_snn(SMALL_VGG, seed=3, leak=1.0)
    inputs = random_inputs(STEPS, batch=2)
    found, expected = forward(model, variables, inputs), seen(model, STEPS, variables).logits
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("num_steps", "chunk", "word"), [(0, 4, "num_steps"), (5, 0, "chunk"), (-1, 1, "num_steps")])
def test_numbers_of_steps_below_one_are_refused(num_steps, chunk, word):
    model, variables = random_snn(SMALL_VGG, seed=0, leak=1.0)
    inputs = random_inputs(4, batch=1)
    with pytest.raises(ValueError, match=word):
        simulate(model, variables, lambda t: inputs[t], lambda x, _: x, num_steps=num_steps, chunk=chunk)
