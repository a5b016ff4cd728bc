"""Mixed precision: bfloat16 into the products, float32 membranes, sums and gradients."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jsnn import Presentation, accelerate, simulate, spiking
from jsnn.encoding import poisson
from jsnn.network.bptt import Keys, present
from tests.networks import TINY_RESNET, images, random_snn

STEPS, BATCH = 12, 4
IMAGES = images(BATCH)
EXACT, VARIABLES = random_snn(TINY_RESNET, seed=5, leak=0.9)
MIXED = spiking(TINY_RESNET.apply, EXACT.neuron, jnp.bfloat16)


@partial(jax.jit, static_argnums=0)
def gradients(snn, variables):
    def loss(params):
        presentation = Presentation(snn, poisson, STEPS, 6)
        keys = Keys(jax.random.key(1), jax.random.key(2))
        outcome = present(presentation, {**variables, "params": params}, IMAGES, jnp.arange(BATCH), keys)
        logits = outcome.results.sum(0)
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(BATCH) % 3).mean()

    return jax.grad(loss)(variables["params"])


def test_only_the_operands_are_rounded():
    """Spikes are exact in bfloat16, so the network is that of rounded weights; its gradients have float32's range."""
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), VARIABLES["params"])
    actual, expected = gradients(MIXED, VARIABLES), gradients(EXACT, {**VARIABLES, "params": rounded})
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, VARIABLES["params"])
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert near(one, other)
        assert (one != other).any()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_network_in_few_bits_has_gradients_in_as_few(dtype):
    given = jax.jit(TINY_RESNET.init)(jax.random.key(0), IMAGES), IMAGES
    variables, inputs = jax.tree.map(lambda leaf: leaf.astype(dtype), given)

    def gradient(apply):
        return jax.jit(jax.grad(lambda variables: apply(variables, inputs).astype(jnp.float32).var()))(variables)

    actual, expected = gradient(accelerate(TINY_RESNET.apply)), gradient(TINY_RESNET.apply)
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, variables)
    assert all(map(near, jax.tree.leaves(actual), jax.tree.leaves(expected)))


def near(one, other):
    """Whether two arrays are equal to two percent."""
    one, other = one.astype(jnp.float32), other.astype(jnp.float32)
    return np.linalg.norm(one - other) < 0.02 * np.linalg.norm(other)


def test_states_and_logits_are_float32():
    def run():
        inputs, everything = partial(poisson, IMAGES, jax.random.key(0), jnp.arange(BATCH)), lambda observed: observed
        how = {"num_steps": 3, "chunk": 2, "collect": ("states", "currents")}
        return simulate(MIXED, VARIABLES, inputs, everything, **how)

    floats = [leaf for leaf in jax.tree.leaves(jax.eval_shape(run)) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert len(floats) > 2 * len(TINY_RESNET.spiking_layers)
    assert {leaf.dtype for leaf in floats} == {jnp.dtype(jnp.float32)}
