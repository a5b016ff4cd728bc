"""Networks that were not written for jsnn, as their authors would bring them, tend to their ANNs once they spike."""

from itertools import pairwise

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsnn
from tests.plain_networks import HIDDEN, IMAGES, PLAIN, ROWS, converted, drawn, plain

STEPS = (16, 64, 256)


class Block(nn.Module):
    channels: int

    @nn.compact
    def __call__(self, x):
        y = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(self.channels, (3, 3))(x)))
        return nn.relu(x + nn.Conv(self.channels, (3, 3))(y))


class CNN(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic=True):
        x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3))(x)))
        x = Block(4)(x)
        x = nn.avg_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(6)(x.reshape(len(x), -1)))
        x = nn.Dropout(0.5, deterministic=deterministic)(x)
        return nn.Dense(3)(x)


def variables_of(model, x=IMAGES):
    return drawn(jax.eval_shape(model.init, jax.random.key(0), x))


def held(x):
    return lambda time: jnp.broadcast_to(x, (len(time), *x.shape))


def means(snn, variables, x, num_steps, chunk=16, **kwargs):
    """The mean of the results over the first t steps, [T, ...]."""

    @jax.jit
    def run(variables, x):
        return jsnn.simulate(
            snn, variables, held(x), lambda observed: observed.total, num_steps=num_steps, chunk=chunk, **kwargs
        )

    totals = run(variables, x)
    return totals / jnp.arange(1, num_steps + 1).reshape(-1, *[1] * (totals.ndim - 1))


def assert_tends_to_the_ann(apply, variables, x, names=None, **kwargs):
    snn, spiking = converted(apply, variables, x)
    assert names is None or list(spiking["neurons"]) == names
    expected = apply(variables, x, **kwargs)
    actual = means(snn, spiking, x, STEPS[-1], **kwargs)
    errors = [float(jnp.abs(actual[t - 1] - expected).mean()) for t in STEPS]
    assert errors[-1] < 0.02 * float(jnp.abs(expected).mean())
    assert all(later < error / 2.5 for error, later in pairwise(errors)), errors
    return actual


def test_a_flax_network_in_three_lines():
    model = CNN()
    names = ["Conv_0", "Block_0/Conv_0", "Block_0/Conv_1", "Dense_0"]
    assert_tends_to_the_ann(model.apply, variables_of(model), IMAGES, names)


def test_dropout_has_one_mask_over_time():
    def network(variables, x, rngs=None):
        x = nn.relu(nn.Dense(8).apply({"params": variables["params"]["hidden"]}, x))
        return nn.Dropout(0.5, deterministic=rngs is None).apply({}, x, rngs=rngs)

    hidden = drawn(jax.eval_shape(nn.Dense(8).init, jax.random.key(0), ROWS))["params"]
    rngs = {"dropout": jax.random.key(3)}
    actual = assert_tends_to_the_ann(network, {"params": {"hidden": hidden}}, ROWS, ["hidden"], rngs=rngs)
    np.testing.assert_array_equal((actual != 0).any(0), network({"params": {"hidden": hidden}}, ROWS, rngs) > 0)


def test_an_nnx_network():
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

    net = Net(nnx.Rngs(0))
    net.eval()
    graphdef, state = nnx.split(net)
    variables = {"params": drawn(state)}
    assert_tends_to_the_ann(
        lambda variables, x: nnx.merge(graphdef, variables["params"])(x), variables, IMAGES, ["conv", "layers/0"]
    )


def test_a_plain_function_of_a_dict():
    assert_tends_to_the_ann(plain(jax.nn.relu), drawn(PLAIN), ROWS, ["hidden"])


def test_a_threshold_is_no_larger_than_the_ceiling():
    apply, variables = plain(lambda x: jnp.clip(x, 0, 0.5)), drawn(PLAIN)
    assert float(converted(apply, variables, ROWS)[1]["neurons"]["hidden"]["threshold"]) == 0.5
    assert_tends_to_the_ann(apply, variables, ROWS)


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


def test_operations_that_are_linear():
    model = Operations()
    names = ["grouped", "dilated", "again", "upward", "along"]
    assert_tends_to_the_ann(model.apply, variables_of(model), IMAGES, names)


def test_half_precision():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(3, (3, 3), dtype=jnp.bfloat16, name="first")(x))
            x = nn.relu(nn.Conv(3, (3, 3), dtype=jnp.bfloat16, param_dtype=jnp.bfloat16, name="second")(x))
            return nn.Dense(3, dtype=jnp.bfloat16)(x.reshape(len(x), -1))

    model = Net()
    variables = variables_of(model)
    snn, spiking = converted(model.apply, variables, IMAGES)
    assert spiking["neurons"]["second"]["threshold"].dtype == jnp.float32
    expected = model.apply(variables, IMAGES).astype(jnp.float32)
    errors = jnp.abs(means(snn, spiking, IMAGES, 128) - expected).mean((1, 2))
    assert errors[127] < errors[15] / 4
    assert errors[127] < 0.05 * jnp.abs(expected).mean()


def test_sums_of_spikes_do_not_overflow_where_the_anns_do_not():
    """In float16, which holds no number above 65,504: of small thresholds there are more spikes than that."""

    def apply(variables, x):
        return jax.nn.relu(x).sum((1, 2))

    snn, x = jsnn.spiking(apply), jnp.full((1, 300, 300, 1), 0.1, jnp.float16)
    variables = jsnn.convert(snn, {}, dict.fromkeys(snn.trace({}, x)[0].layers, 0.1), initial=0.5)
    results, _ = snn.apply(variables, snn.initial_state(variables, x), jnp.stack([x] * 2))
    np.testing.assert_allclose(results.mean(0), apply({}, x), rtol=1e-2)


@pytest.mark.parametrize("zeros", [np.zeros((1, 3)), np.zeros(3, np.float32), jnp.zeros((3,)), 0])
def test_a_maximum_with_zeros_of_any_shape_is_a_relu(zeros):
    variables = jsnn.spiking(lambda variables, x: jnp.maximum(x @ variables["w"], zeros)).init(HIDDEN, jnp.ones((2, 3)))
    assert set(variables["neurons"]) == {"w"}


def mean_of(apply, variables, x, threshold=2.0, steps=64):
    """The mean over time of a converted function's results."""
    snn = jsnn.spiking(apply)
    spiking = snn.init(variables, x)
    spiking["neurons"] = {name: {**n, "threshold": jnp.asarray(threshold)} for name, n in spiking["neurons"].items()}
    return snn.apply(spiking, snn.initial_state(spiking, x), jnp.broadcast_to(x, (steps, *x.shape)))[0].mean(0)


def test_a_fill_value_is_no_spike():
    def apply(variables, x):
        return jnp.take(jax.nn.relu(x @ variables["w"]), jnp.array([0, 9]), axis=1, mode="fill", fill_value=1.0)

    actual = mean_of(apply, HIDDEN, jnp.array([[1.0, 0.5, 0.0]]))
    np.testing.assert_allclose(actual, [[1.0, 1.0]], atol=0.05)
