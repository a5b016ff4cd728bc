"""Backpropagation from spike trains alone equals autodiff through the membranes."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jsnn.bptt import Keys, Presentation, present
from jsnn.encoding import constant, poisson
from jsnn.simulation import simulate
from jsnn.surrogate import stdb
from tests.networks import IMAGE_SHAPE, SMALL_RESNET, SMALL_VGG, random_snn

BATCH = 3
DROPPING = {"conv_dropout": 0.3}
NETWORKS = {"vgg": SMALL_VGG, "resnet": SMALL_RESNET}


def make(ann, leak, dropout):
    """A network whose dropout is on or off, and the arrays of a presentation."""
    rates = {"conv_dropout": 0.3 if dropout else 0.0} | (
        {"dense_dropout": 0.4 if dropout else 0.0} if ann is SMALL_VGG else {}
    )
    model, variables = random_snn(ann.clone(**rates), seed=5, leak=leak, surrogate=stdb(0.4, 0.05))
    images = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (BATCH, *IMAGE_SHAPE)), jnp.float32)
    return model, variables, images, jnp.asarray([4, 0, 9], jnp.int32), Keys(*jax.random.split(jax.random.key(2)))


def from_membranes(model, encode, num_steps, variables, images, index, keys):
    """The logits by the plain way: `lif_step` under autodiff, all steps in one chunk."""
    inputs = lambda time: encode(images, keys.encoding, index, time)
    logits = simulate(
        model,
        variables,
        inputs,
        lambda logits, _: logits,
        num_steps=num_steps,
        chunk=num_steps,
        index=index,
        rngs={"dropout": keys.dropout},
    )
    return logits[-1]


def loss_of(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(BATCH) % 3).mean()


@pytest.mark.parametrize("ann", NETWORKS)
@pytest.mark.parametrize("leak", [1.0, 0.9])
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("chunk", [1, 5, 8, 100])
def test_gradients_equal_those_through_membranes(ann, leak, dropout, chunk):
    num_steps = 21
    model, variables, *arrays = make(NETWORKS[ann], leak, dropout)

    def plain(params):
        return loss_of(from_membranes(model, poisson, num_steps, {**variables, "params": params}, *arrays))

    def packed(params):
        what = Presentation(model, poisson, num_steps, chunk)
        return loss_of(present(what, {**variables, "params": params}, *arrays))

    (a, ga), (b, gb) = (
        jax.jit(jax.value_and_grad(plain))(variables["params"]),
        jax.jit(jax.value_and_grad(packed))(variables["params"]),
    )
    worst = max(
        float(jnp.abs(x - y).max() / jnp.abs(x).max()) for x, y in zip(jax.tree.leaves(ga), jax.tree.leaves(gb))
    )
    print("WORST", worst, float(a - b))
