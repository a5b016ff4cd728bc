"""Networks of a user's own learn digits, become spiking and are fine-tuned above their converted selves at T = 4."""

from functools import cache
from itertools import pairwise

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsnn

pytestmark = pytest.mark.slow

STEPS, BATCH, KEY = 4, 64, jax.random.key(0)


class CNN(nn.Module):
    """As a Flax tutorial would have it: biases, batch norm, a residual sum, dropout."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Conv(8, (3, 3))(x)))
        y = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Conv(8, (3, 3))(x)))
        x = nn.avg_pool(x + y, (2, 2), (2, 2)).reshape(len(x), -1)
        x = nn.Dropout(0.2, deterministic=not train)(nn.relu(nn.Dense(32)(x)))
        return nn.Dense(10)(x)


def linen(images):
    model, options = CNN(), {"train": True, "mutable": ["batch_stats"]}
    return model.apply, model.init(KEY, images), lambda index, key: {**options, "rngs": {"dropout": key}}


class MLP(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.hidden = nnx.Linear(256, 64, rngs=rngs)
        self.out = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.avg_pool(nnx.relu(self.conv(x)), (2, 2), (2, 2))
        return self.out(nnx.relu(self.hidden(x.reshape(len(x), -1))))


def of_nnx(images):
    graphdef, state = nnx.split(MLP(nnx.Rngs(0)))
    return lambda variables, x: nnx.merge(graphdef, variables["params"])(x), {"params": state}, lambda index, key: {}


def plain(images):
    sides = (64, 64, 48, 10)
    keys = jax.random.split(KEY, 3)
    drawn = [jax.random.normal(key, side) / 6 for key, side in zip(keys, pairwise(sides), strict=False)]
    params = [{"w": matrix, "b": jnp.zeros(matrix.shape[1])} for matrix in drawn]

    def apply(variables, x):
        *hidden, last = variables["params"]
        x = x.reshape(len(x), -1)
        for layer in hidden:
            x = jnp.maximum(x @ layer["w"] + layer["b"], 0)
        return x @ last["w"] + last["b"]

    return apply, {"params": params}, lambda index, key: {}


NETWORKS = {"linen": (linen, 0.5), "nnx": (of_nnx, 0.0), "function": (plain, 0.25)}  # and their initial membranes


@cache
def source_of(split):
    return jsnn.data.resident_source(jsnn.data.load_split("digits", split))


def train(forward, variables, rate, epochs):
    source, rule = source_of("train"), optax.adam(rate)
    step, state = jax.jit(jsnn.train_step(source, forward, rule)), jsnn.init_state(variables, rule)
    for epoch in range(epochs):
        for item in source.shuffled(BATCH, 0, epoch, 0):
            state, _ = step(state, source.resident, item, KEY)
    return state.variables()


def accuracy(evaluation, variables):
    scores = jsnn.evaluate_split(jsnn.parallel_evaluation(evaluation), variables, source_of("test"), 120, KEY)
    return scores.accuracy[-1]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_your_own_is_converted_and_fine_tuned(name):
    """What three trainings reach is the point."""
    source, encode = source_of("train"), jsnn.encoding.constant
    images = source.prepare(source.resident.images[:256])
    make, initial = NETWORKS[name]
    apply, variables, in_training = make(images[:1])
    fast = jsnn.accelerate(apply)
    variables = train(jsnn.ann_forward(fast, in_training), variables, 3e-3, 15)
    ann = accuracy(jsnn.ann_evaluation(fast, source_of("test")), variables)
    reached = {}
    for surrogate in (jsnn.surrogate.linear(), jsnn.surrogate.stdb()):
        snn = jsnn.spiking(apply, jsnn.lif(surrogate))
        thresholds = jsnn.balance_thresholds(snn, variables, images, encode, KEY, num_steps=32)
        spiking = jsnn.convert(snn, variables, thresholds, initial=initial)
        presentation = jsnn.Presentation(snn, encode, STEPS, STEPS)
        evaluation = jsnn.snn_evaluation(presentation, source_of("test"))
        tuned = train(jsnn.snn_forward(presentation, jsnn.averaged), spiking, 3e-4, 5)
        reached[surrogate.by_age is None] = accuracy(evaluation, spiking), accuracy(evaluation, tuned)
    assert ann > 0.95
    for converted, tuned in reached.values():
        assert tuned > converted
        assert tuned > 0.9
    assert np.isclose(reached[True][0], reached[False][0])  # what is converted does not depend on the surrogate
