"""A researcher's own network, of Flax's layers alone, and images to show it."""

from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jsnn
from jsnn.data import array_source

STEPS, RNG = 10, np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, (8, 6, 6, 2)).astype(np.float32)
LABELS = RNG.integers(0, 3, 8).astype(np.int32)
SOURCE = array_source(IMAGES, LABELS)
ITEM, KEY = np.arange(8, dtype=np.int32), jax.random.key(0)
CONSTANT = jsnn.encoding.constant


class Net(nn.Module):
    """A convolution, a pool and two dense layers, of which two layers spike."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(3, (3, 3), name="conv")(x))
        x = nn.avg_pool(x, (2, 2), (2, 2)).reshape(len(x), -1)
        return nn.Dense(3, name="out")(nn.relu(nn.Dense(5, name="hidden")(x)))


MODEL = Net()
THRESHOLDS = {"conv": 0.4, "hidden": 0.3}


@cache
def ann():
    """The network's weights."""
    return jax.jit(MODEL.init)(jax.random.key(1), jnp.asarray(IMAGES[:1]))


def spiking(neuron=None, leak=0.9):
    """The network as an SNN, and its variables."""
    snn = jsnn.spiking(MODEL.apply, neuron)
    return snn, jsnn.convert(snn, ann(), THRESHOLDS, leak=leak)


def held(x):
    """The same input at every step."""
    return lambda time: jnp.broadcast_to(x, (len(time), *x.shape))
