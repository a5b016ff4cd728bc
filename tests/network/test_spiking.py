"""Networks that were not written for jsnn, as their authors would bring them, tend to their ANNs once they spike."""

from functools import partial
from itertools import pairwise

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsnn
from tests.network.own_network import held
from tests.plain_networks import HIDDEN, IMAGES, PLAIN, ROWS, converted, dense, drawn, plain


class CNN(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic=True):
        x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3))(x)))
        y = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3))(x)))
        x = nn.relu(x + nn.Conv(4, (3, 3))(y))
        x = nn.avg_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(6)(x.reshape(len(x), -1)))
        x = nn.Dropout(0.5, deterministic=deterministic)(x)
        return nn.Dense(3)(x)


class Operations(nn.Module):
    """Grouped, dilated, transposed and 1-D convolutions, concatenation, a padded pool, remat, jit, moved arrays."""

    @nn.compact
    def __call__(self, x):
        grouped = nn.relu(nn.Conv(4, (3, 3), feature_group_count=2, name="grouped")(x))
        dilated = nn.relu(nn.Conv(2, (3, 3), kernel_dilation=2, name="dilated")(x))
        x = jnp.concatenate([grouped, dilated, x], axis=-1)
        x = nn.relu(nn.remat(nn.Conv)(3, (1, 1), name="again")(x))
        x = nn.avg_pool(x, (3, 3), (2, 2), "SAME", count_include_pad=False)
        x = nn.relu(nn.ConvTranspose(2, (2, 2), strides=(2, 2), name="upward")(x))
        x = jnp.pad(jnp.roll(x[:, ::2], 1, axis=2), ((0, 0), (1, 0), (0, 0), (0, 0)))
        x = jnp.stack(jnp.split(x, 2, axis=2), axis=1).transpose(0, 2, 1, 3, 4).reshape(len(x), -1, 6)
        x = jax.jit(nn.relu)(nn.Conv(3, (3,), name="along")(jnp.tile(x, (1, 1, 2))))
        return nn.DenseGeneral(3, axis=(1, 2), name="out")(x * jnp.arange(3) - x.mean(1, keepdims=True))


class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(36, 6, rngs=rngs)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.avg_pool(nnx.relu(self.norm(self.conv(x))), (2, 2), (2, 2))
        x = nnx.relu(self.layers[0](x.reshape(len(x), -1)))
        return self.out(self.dropout(x))


def of_flax(model):
    """The function of a Flax network, random variables and images."""
    return model.apply, drawn(jax.eval_shape(model.init, jax.random.key(0), IMAGES)), IMAGES


def of_nnx():
    net = Net(nnx.Rngs(0))
    net.eval()
    graphdef, state = nnx.split(net)
    return lambda v, x: nnx.merge(graphdef, v["params"])(x), {"params": drawn(state)}, IMAGES


def means(snn, variables, x, num_steps, **kwargs):
    """The mean of the results over the first t steps, [T, ...]."""

    @jax.jit
    def run(variables, x):
        return jsnn.simulate(snn, variables, held(x), lambda seen: seen.total, num_steps=num_steps, chunk=16, **kwargs)

    totals = run(variables, x)
    return totals / jnp.arange(1, num_steps + 1).reshape(-1, *[1] * (totals.ndim - 1))


def assert_tends_to_the_ann(names, apply, variables, x, **kwargs):
    """The layers have these names, and four times the steps make the error smaller by more than 2.5."""
    snn, spiking = converted(apply, variables, x)
    assert list(spiking["neurons"]) == names
    expected = jax.jit(partial(apply, **kwargs))(variables, x)
    actual = means(snn, spiking, x, 256, **kwargs)
    errors = [float(jnp.abs(actual[t - 1] - expected).mean()) for t in (16, 64, 256)]
    assert errors[-1] < 0.02 * float(jnp.abs(expected).mean())
    assert all(later < error / 2.5 for error, later in pairwise(errors)), errors
    return spiking, actual


@pytest.mark.parametrize(
    ("network", "names"),
    [
        (lambda: of_flax(CNN()), ["Conv_0", "Conv_1", "Conv_2", "Dense_0"]),
        (lambda: of_flax(Operations()), ["grouped", "dilated", "again", "upward", "along"]),
        (of_nnx, ["conv", "layers/0"]),
    ],
    ids=["Flax", "all operations that are linear", "NNX"],
)
def test_a_network_as_it_comes_tends_to_the_ann(network, names):
    assert_tends_to_the_ann(names, *network())


def test_a_ceiling_is_the_largest_threshold():
    network = plain(lambda x: jnp.clip(x, 0, 0.5)), drawn(PLAIN), ROWS
    spiking, _ = assert_tends_to_the_ann(["hidden"], *network)
    assert float(spiking["neurons"]["hidden"]["threshold"]) == 0.5


def test_dropout_has_one_mask_over_time():
    def network(params, x, rngs=None):
        return nn.Dropout(0.5, deterministic=rngs is None).apply({}, jax.nn.relu(dense(params["hidden"], x)), rngs=rngs)

    variables, rngs = {"hidden": drawn(PLAIN)["hidden"]}, {"dropout": jax.random.key(3)}
    _, actual = assert_tends_to_the_ann(["hidden"], network, variables, ROWS, rngs=rngs)
    np.testing.assert_array_equal((actual != 0).any(0), network(variables, ROWS, rngs) > 0)


def test_half_precision():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(3, (3, 3), dtype=jnp.bfloat16, name="first")(x))
            x = nn.relu(nn.Conv(3, (3, 3), dtype=jnp.bfloat16, param_dtype=jnp.bfloat16, name="second")(x))
            return nn.Dense(3, dtype=jnp.bfloat16)(x.reshape(len(x), -1))

    apply, variables, _ = of_flax(Net())
    snn, spiking = converted(apply, variables, IMAGES)
    assert spiking["neurons"]["second"]["threshold"].dtype == jnp.float32
    expected = apply(variables, IMAGES).astype(jnp.float32)
    errors = jnp.abs(means(snn, spiking, IMAGES, 128) - expected).mean((1, 2))
    assert errors[127] < errors[15] / 4
    assert errors[127] < 0.05 * jnp.abs(expected).mean()


def test_a_fill_value_is_no_spike():
    def apply(variables, x):
        return jnp.take(jax.nn.relu(x @ variables["w"]), jnp.array([0, 9]), axis=1, mode="fill", fill_value=1.0)

    snn, x = jsnn.spiking(apply), jnp.array([[1.0, 0.5, 0.0]])
    mean = means(snn, jsnn.convert(snn, HIDDEN, {"w": 2.0}), x, 64)[-1]
    np.testing.assert_allclose(mean, [[1.0, 1.0]], atol=0.05)
