"""Networks whose sums are exact, for what is exported must spike the same to the last one."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jsnn
from jsnn.models import ResNet
from jsnn.network.simulation import simulate

IMAGE, BATCH, STEPS = (8, 6, 2), 3, 12
EPSILON = 1e-5  # of batch norm


class Chain(nn.Module):
    """Biases, batch norm, one-sided padding, a pool, and dense layers behind a flatten."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), strides=(2, 2), name="conv0")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True, epsilon=EPSILON, name="norm0")(x))
        x = nn.avg_pool(nn.relu(nn.Conv(6, (3, 3), padding=1, name="conv1")(x)), (2, 2), (2, 1))
        x = nn.relu(nn.Dense(7, name="dense0")(x.reshape(len(x), -1)))
        return nn.Dense(3, name="readout")(x)


class Branches(nn.Module):
    """A shortcut, groups, dilation, a dense layer on a map, batch norm behind a pool, a mean over it, no names."""

    norm_behind_pool: bool = True

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), kernel_dilation=2)(x))
        y = nn.Conv(4, (3, 3), feature_group_count=2, use_bias=False)(x)
        x = nn.relu(x - nn.BatchNorm(use_running_average=True, epsilon=EPSILON)(y))
        x = nn.avg_pool(x, (2, 2), (2, 2))
        if self.norm_behind_pool:
            x = nn.BatchNorm(use_running_average=True, epsilon=EPSILON)(x)
        x = nn.relu(nn.Dense(6)(x))
        return nn.Dense(3)((2 * x[:, :]).sum((1, 2)) / 8)


CHAIN, BRANCHES = Chain(), Branches()
RESNET = ResNet(blocks=(1, 1, 0, 0), channels=(4, 6, 6, 6), num_classes=3, norm="batch")


def exact_snn(ann: nn.Module, leak: float = 1.0, initial: float = 0.0, by_channel: bool = False):
    """An SNN of small multiples of powers of two, and inputs [T, B, ...] likewise."""
    rng = np.random.default_rng(5)
    shapes = jax.eval_shape(ann.init, jax.random.key(0), jnp.zeros((1, *IMAGE)))

    def draw(path, leaf):
        choices = {
            "kernel": np.array([-4, -2, -1, 0, 1, 2, 4, 6]) / 8,
            "scale": [0.5, 1, 2],
            "var": np.float32([0.25, 1, 4]) - np.float32(EPSILON),
        }
        return jnp.asarray(rng.choice(choices.get(path[-1].key, np.arange(-2, 3) / 8), leaf.shape), jnp.float32)

    ann_variables = jax.tree_util.tree_map_with_path(draw, shapes)
    snn = jsnn.spiking(ann.apply)
    variables = snn.init(ann_variables, jnp.zeros((1, *IMAGE)))
    layers = snn.trace(variables, jnp.zeros((1, *IMAGE)))[0].layers
    thresholds = {
        name: rng.choice([0.25, 0.5, 1], layer.shape[-1:] if by_channel else ()) for name, layer in layers.items()
    }
    inputs = jnp.asarray(rng.integers(-4, 5, (STEPS, BATCH, *IMAGE)) / 4, jnp.float32)
    return snn, jsnn.convert(snn, ann_variables, thresholds, leak=leak, initial=initial), inputs


@partial(jax.jit, static_argnums=0)
def spikes_and_results(snn, variables, inputs):
    """Layer -> spikes [T, B, ...], and the results [T, B, ...]."""

    def observe(observed):
        return observed.layers["spikes"], observed.results

    return simulate(snn, variables, inputs.__getitem__, observe, num_steps=STEPS, chunk=STEPS, collect=("spikes",))
