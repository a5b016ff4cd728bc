"""Mixed precision: bfloat16 into the products, float32 membranes, sums and gradients."""

from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jsnn.encoding import poisson
from jsnn.network.acceleration import accelerate
from jsnn.network.bptt import Keys, present
from jsnn.network.simulation import Presentation, simulate
from jsnn.network.transformation import spiking
from tests.networks import IMAGE_SHAPE, SMALL_RESNET, SMALL_VGG, random_snn

STEPS, BATCH = 12, 4
IMAGES = np.random.default_rng(1).uniform(-1, 1, (BATCH, *IMAGE_SHAPE)).astype(np.float32)
NETWORKS = {"vgg": SMALL_VGG, "resnet": SMALL_RESNET}


@cache
def networks(name):
    """In bfloat16 and exact, with variables."""
    exact, variables = random_snn(NETWORKS[name], seed=5, leak=0.9)
    return spiking(NETWORKS[name].apply, exact.neuron, jnp.bfloat16), exact, variables


@partial(jax.jit, static_argnums=0)
def gradients(snn, variables):
    def loss(params):
        presentation = Presentation(snn, poisson, STEPS, 8)
        keys = Keys(jax.random.key(1), jax.random.key(2))
        outcome = present(presentation, {**variables, "params": params}, jnp.asarray(IMAGES), jnp.arange(BATCH), keys)
        logits = outcome.results.sum(0)
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(BATCH) % 3).mean()

    return jax.grad(loss)(variables["params"])


@pytest.mark.parametrize("name", NETWORKS)
def test_only_the_operands_are_rounded(name):
    """Spikes are exact in bfloat16, so the network is that of rounded weights; its gradients have float32's range."""
    mixed, exact, variables = networks(name)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), variables["params"])
    actual, expected = gradients(mixed, variables), gradients(exact, {**variables, "params": rounded})
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, variables["params"])
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert 0 < np.linalg.norm(one - other) < 0.02 * np.linalg.norm(other)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=str)
def test_a_network_in_few_bits_has_gradients_in_as_few(dtype):
    images, variables = jnp.asarray(IMAGES), SMALL_RESNET.init(jax.random.key(0), jnp.asarray(IMAGES))
    variables, images = jax.tree.map(lambda leaf: leaf.astype(dtype), (variables, images))

    def gradient(apply):
        return jax.jit(jax.grad(lambda variables: apply(variables, images).astype(jnp.float32).var()))(variables)

    actual, expected = gradient(accelerate(SMALL_RESNET.apply)), gradient(SMALL_RESNET.apply)
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, variables)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        one, other = one.astype(jnp.float32), other.astype(jnp.float32)
        assert np.linalg.norm(one - other) < 0.02 * np.linalg.norm(other)


def test_states_and_logits_are_float32():
    mixed, _, variables = networks("vgg")

    def run():
        return simulate(
            mixed,
            variables,
            lambda time: poisson(jnp.asarray(IMAGES), jax.random.key(0), jnp.arange(BATCH), time),
            lambda observed: observed,
            num_steps=3,
            chunk=2,
            collect=("states", "currents"),
        )

    floats = [leaf for leaf in jax.tree.leaves(jax.eval_shape(run)) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert len(floats) > 2 * len(SMALL_VGG.spiking_layers)
    assert {leaf.dtype for leaf in floats} == {jnp.dtype(jnp.float32)}
