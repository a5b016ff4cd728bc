"""A researcher's own networks, with batch norm or shortcuts or of one batch size, are trained, saved and balanced."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsnn
from jsnn.network.operations import LayerShape, accumulates, layer_shapes, multiply_accumulates, neurons
from jsnn.training.checkpoint import restore, save
from jsnn.training.forward import with_rates
from jsnn.training.parallel import replicate, split_over_devices
from tests.network.own_network import CONSTANT, IMAGES, KEY, LABELS, SOURCE, STEPS, spiking

RNG = np.random.default_rng(5)


class Normalized(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(3, (3, 3))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.5)(x))
        return nn.Dense(3)(x.mean((1, 2)))


def test_batch_norm_is_trained_on_four_devices_and_resumed_to_the_bit(tmp_path):
    model, optimizer = Normalized(), optax.sgd(0.1, momentum=0.9)
    variables = model.init(jax.random.key(1), jnp.asarray(IMAGES[:1]))
    training = {"train": True, "mutable": ["batch_stats"]}
    forward = jsnn.ann_forward(model.apply, lambda index, key: training)
    step = jsnn.parallel_train_step(SOURCE, forward, optimizer)
    resident, item = replicate(SOURCE.resident), split_over_devices(np.arange(8, dtype=np.int32))
    first = jax.device_get(step(replicate(jsnn.init_state(variables, optimizer)), resident, item, KEY)[0])

    def objective(params, images, labels):
        logits, changed = model.apply({**variables, "params": params}, images, **training)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), changed

    parts = [
        jax.grad(objective, has_aux=True)(variables["params"], IMAGES[part], LABELS[part])
        for part in (slice(i, i + 2) for i in range(0, 8, 2))
    ]
    gradients, statistics = jax.tree.map(lambda *leaves: sum(leaves) / 4, *parts)
    expected = jax.tree.map(lambda leaf, slope: leaf - 0.1 * slope, variables["params"], gradients)
    chex.assert_trees_all_close(first.fixed, statistics, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(first.params["params"], expected, rtol=1e-5, atol=1e-6)

    save(tmp_path, 1, first, {})
    second = jax.device_get(step(replicate(first), resident, item, KEY)[0])
    resumed = restore(tmp_path, jax.eval_shape(lambda: first)).tree
    chex.assert_trees_all_equal(jax.device_get(step(replicate(resumed), resident, item, KEY)[0]), second)
    assert second.step == 2

    snn = jsnn.spiking(model.apply)
    trained = {"params": second.params["params"], **second.fixed}
    thresholds = jsnn.balance_thresholds(snn, trained, IMAGES, CONSTANT, KEY, num_steps=STEPS)
    assert list(thresholds) == ["Conv_0"]


def test_a_saved_network_gives_the_same_without_its_code(tmp_path):
    snn, variables = spiking()
    inputs = jnp.asarray(RNG.choice([-1, 0, 1], (STEPS, 2, 6, 6, 2)), jnp.float32)
    jsnn.save(tmp_path / "net.npz", snn, variables, inputs)
    actual = jsnn.load(tmp_path / "net.npz")(inputs)
    np.testing.assert_allclose(
        actual, snn.apply(variables, snn.initial_state(variables, inputs[0]), inputs)[0], rtol=1e-5, atol=1e-6
    )
    assert [path.name for path in tmp_path.iterdir()] == ["net.npz"]


def test_bfloat16_weights_and_random_keys_are_saved_too(tmp_path):
    """As an NNX network has them, whose dropout carries its key."""
    snn = jsnn.spiking(lambda variables, x: jax.nn.relu(x @ variables["w"]) @ variables["w"])
    x = jnp.asarray(RNG.normal(size=(2, 3)), jnp.bfloat16)
    variables = snn.init({"w": jnp.asarray(RNG.normal(size=(3, 3)), jnp.bfloat16), "rngs": jax.random.key(0)}, x)
    inputs = jnp.stack([x] * STEPS)
    jsnn.save(tmp_path / "net.npz", snn, variables, inputs)
    expected = snn.apply(variables, snn.initial_state(variables, x), inputs)[0]
    np.testing.assert_array_equal(jsnn.load(tmp_path / "net.npz")(inputs), expected)


def test_what_is_no_array_among_the_variables_is_saved_with_the_program(tmp_path):
    def apply(variables, x):
        return jax.nn.relu(x @ variables["w"]) * (2 if variables["doubled"] else 1)

    snn, x = jsnn.spiking(apply), jnp.asarray(RNG.normal(size=(2, 3)), jnp.float32)
    variables = snn.init({"w": jnp.eye(3), "doubled": True}, x)
    inputs = jnp.stack([x] * STEPS)
    jsnn.save(tmp_path / "net.npz", snn, variables, inputs)
    expected = snn.apply(variables, snn.initial_state(variables, x), inputs)[0]
    np.testing.assert_allclose(jsnn.load(tmp_path / "net.npz")(inputs), expected, rtol=1e-6)


def test_a_layer_without_the_batch_in_front_counts_its_mean():
    """As of tokens folded into the batch, in whatever order, or of features in front: training takes all of them."""
    rows = jnp.asarray(RNG.normal(size=(4, 6, 3)), jnp.float32)

    def rates(rectified, residuals):
        def apply(variables, x):
            return rectified(variables["w"], x).reshape(len(x), -1)

        snn = jsnn.spiking(apply, jsnn.lif(jsnn.surrogate.linear()))
        presentation = jsnn.Presentation(snn, jsnn.encoding.constant, STEPS, 2)
        forward = jsnn.snn_forward(presentation, with_rates, residuals=residuals)
        return forward(snn.init({"w": jnp.eye(3)}, rows), rows, None, KEY)[0].rates["w"]

    for residuals in ("exact", "byte"):
        expected = rates(lambda w, x: jax.nn.relu(x @ w), residuals)
        assert len(set(expected.tolist())) == 4
        for rectified in (
            lambda w, x: jax.nn.relu(x.reshape(-1, 3) @ w).reshape(4, 6, 3),
            lambda w, x: jax.nn.relu(x.swapaxes(0, 1).reshape(-1, 3) @ w).reshape(6, 4, 3).swapaxes(0, 1),
            lambda w, x: jax.nn.relu(w @ x.reshape(-1, 3).T).T.reshape(4, 6, 3),
        ):
            np.testing.assert_allclose(rates(rectified, residuals), [expected.mean()] * 4, rtol=1e-5)


def test_a_network_of_one_batch_size_is_balanced_in_batches_of_it():
    snn = jsnn.spiking(lambda variables, x: jax.nn.relu(x.reshape(4, -1) @ variables["w"]))
    x = jnp.asarray(RNG.normal(size=(8, 3, 1)), jnp.float32)
    actual = jsnn.balance_thresholds(snn, {"w": jnp.eye(3)}, x, jsnn.encoding.constant, KEY, num_steps=2, batch_size=4)
    assert float(actual["w"]) == float(x.max())


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), name="stem")(x))
        y = nn.relu(nn.Conv(5, (3, 3), strides=2, name="down")(x))
        x = nn.relu(nn.Conv(4, (3, 3), name="up")(y) + nn.Conv(4, (1, 1), strides=2, name="short")(x))
        x = x + nn.Conv(4, (3, 3), name="linear")(x)
        return nn.Dense(7, name="out")(nn.avg_pool(x, (3, 3), (3, 3)).reshape(len(x), -1))


def test_layer_shapes_and_costs_of_a_residual_network_by_hand():
    model, x = Residual(), jax.ShapeDtypeStruct((1, 6, 6, 2), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    shapes = layer_shapes(model.apply, variables, x)
    layers = jsnn.spiking(model.apply).trace(variables, x)[0].layers
    summed = list(layers)[2]
    assert shapes == {
        "stem": LayerShape(72, 144, 18, ("input",)),
        "down": LayerShape(144, 45, 36, ("stem",)),
        "up": LayerShape(45, 36, 45, ("down",)),
        "short": LayerShape(144, 36, 4, ("stem",)),
        "linear": LayerShape(36, 36, 36, (summed,)),
        "out": LayerShape(4, 7, 4, (summed,)),
    }
    assert list(layers) == ["stem", "down", summed]
    assert layers[summed].feeds == ("down", "stem")
    assert neurons(layers) == {"stem": 144, "down": 45, summed: 36}
    macs = {"stem": 2592, "down": 1620, "up": 1620, "short": 144, "linear": 1296, "out": 28}
    assert multiply_accumulates(shapes) == macs
    costs = accumulates(shapes, {"input": 72.0, "stem": 14.4, "down": 9.0, summed: 3.6})
    assert costs == pytest.approx(
        {"stem": 2592, "down": 162, "up": 324, "short": 14.4, "linear": 129.6, "out": 3.6 * 7}
    )


def test_a_transposed_convolution_has_synapses_where_there_are_pixels():
    """A window of 2 x 2 that moves over every second pixel holds one, one of 3 x 3 holds 2.25 on average."""
    for size, fan_in in ((2, 3), (3, 6.75)):
        up = nn.ConvTranspose(5, (size, size), strides=(2, 2), name="up")
        x = jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)
        shapes = layer_shapes(up.apply, jax.eval_shape(up.init, jax.random.key(0), x), x)
        (shape,) = shapes.values()
        assert shape == LayerShape(48, 8 * 8 * 5, fan_in, ("input",))
        assert list(multiply_accumulates(shapes).values()) == [320 * fan_in]
