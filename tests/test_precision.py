"""Mixed precision: bfloat16 into the products, float32 membranes, sums and gradients."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jsnn.bptt import Keys, present
from jsnn.encoding import poisson
from jsnn.simulation import Presentation
from tests.networks import IMAGE_SHAPE, SMALL_RESNET, SMALL_VGG, random_snn

STEPS, BATCH = 12, 4
IMAGES = np.random.default_rng(1).uniform(-1, 1, (BATCH, *IMAGE_SHAPE)).astype(np.float32)
WITHOUT_DROPOUT = {
    "vgg": SMALL_VGG.clone(conv_dropout=0.0, dense_dropout=0.0),
    "resnet": SMALL_RESNET.clone(conv_dropout=0.0),
}


@partial(jax.jit, static_argnums=0)
def gradients(model, variables):
    def loss(params):
        what = Presentation(model, poisson, STEPS, 8)
        keys = Keys(jax.random.key(1), jax.random.key(2))
        logits = present(what, {**variables, "params": params}, jnp.asarray(IMAGES), jnp.arange(BATCH), keys)
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(BATCH) % 3).mean()

    return jax.grad(loss)(variables["params"])


@pytest.mark.parametrize("name", WITHOUT_DROPOUT)
def test_only_the_operands_are_rounded(name):
    """Spikes are exact in bfloat16, so the network is that of rounded weights; its gradients have float32's range."""
    mixed, variables = random_snn(WITHOUT_DROPOUT[name].clone(operands=jnp.bfloat16), seed=5, leak=0.9)
    exact, _ = random_snn(WITHOUT_DROPOUT[name], seed=5, leak=0.9)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), variables["params"])
    found, expected = gradients(mixed, variables), gradients(exact, {**variables, "params": rounded})
    chex.assert_trees_all_equal_shapes_and_dtypes(found, variables["params"])
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert 0 < np.linalg.norm(one - other) < 0.02 * np.linalg.norm(other)


def test_states_and_logits_are_float32():
    model, variables = random_snn(SMALL_VGG.clone(operands=jnp.bfloat16), seed=5, leak=0.9)

    def run():
        inputs = poisson(jnp.asarray(IMAGES), jax.random.key(0), jnp.arange(BATCH), jnp.arange(3))
        return model.apply(variables, inputs, mutable=["state", "current"])

    logits, seen = jax.eval_shape(run)
    floats = [leaf for leaf in jax.tree.leaves((logits, seen)) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert len(floats) > len(model.spiking_layers)
    assert {leaf.dtype for leaf in floats} == {jnp.dtype(jnp.float32)}
