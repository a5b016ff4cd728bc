"""A researcher's own networks, inputs and losses are trained and balanced; what a network costs is counted."""

from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsnn
from jsnn.data import array_source, event_source
from jsnn.network.operations import LayerShape, accumulates, layer_shapes, multiply_accumulates, neurons
from jsnn.training.checkpoint import restore, save
from jsnn.training.parallel import replicate, split_over_devices
from tests.network.own_network import CONSTANT, IMAGES, ITEM, KEY, LABELS, SOURCE, STEPS, spiking
from tests.plain_networks import run

RNG = np.random.default_rng(5)


class Normalized(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(3, (3, 3))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.5)(x))
        return nn.Dense(3)(x.mean((1, 2)))


def test_batch_norm_is_trained_on_four_devices_and_resumed_to_the_bit(tmp_path):
    model, optimizer = Normalized(), optax.sgd(0.1, momentum=0.9)
    variables = jax.jit(model.init)(jax.random.key(1), jnp.asarray(IMAGES[:1]))
    training = {"train": True, "mutable": ["batch_stats"]}
    step = jsnn.parallel_train_step(SOURCE, jsnn.ann_forward(model.apply, lambda index, key: training), optimizer)
    batch = replicate(SOURCE.resident), split_over_devices(ITEM), KEY
    first = jax.device_get(step(replicate(jsnn.init_state(variables, optimizer)), *batch)[0])

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def gradient(params, images, labels):
        logits, changed = model.apply({**variables, "params": params}, images, **training)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), changed

    parts = [gradient(variables["params"], IMAGES[i : i + 2], LABELS[i : i + 2]) for i in range(0, 8, 2)]
    gradients, statistics = jax.tree.map(lambda *leaves: sum(leaves) / 4, *parts)
    expected = jax.tree.map(lambda leaf, slope: leaf - 0.1 * slope, variables["params"], gradients)
    chex.assert_trees_all_close((first.fixed, first.params["params"]), (statistics, expected), rtol=1e-5, atol=1e-6)

    save(tmp_path, 1, first, {})
    second = jax.device_get(step(replicate(first), *batch)[0])
    resumed = restore(tmp_path, jax.eval_shape(lambda: first)).tree
    chex.assert_trees_all_equal(jax.device_get(step(replicate(resumed), *batch)[0]), second)
    assert second.step == 2

    trained = {"params": second.params["params"], **second.fixed}
    thresholds = jsnn.balance_thresholds(jsnn.spiking(model.apply), trained, IMAGES, CONSTANT, KEY, num_steps=STEPS)
    assert list(thresholds) == ["Conv_0"]


def test_events_are_trained_balanced_and_evaluated():
    events = RNG.poisson(0.3, (8, STEPS, 6, 6, 2)).astype(np.uint8)
    source, optimizer, (snn, variables) = event_source(events, LABELS), optax.sgd(0.1), spiking()
    presentation = jsnn.Presentation(snn, jsnn.encoding.events, STEPS, 4)
    actual = jax.jit(jsnn.snn_evaluation(presentation, source))(variables, source.resident, ITEM, KEY)
    totals = run(snn, variables, jnp.asarray(events, jnp.float32).swapaxes(0, 1)).cumsum(0)
    losses = optax.softmax_cross_entropy_with_integer_labels(totals, jnp.asarray(LABELS)[None])
    np.testing.assert_allclose(actual.loss, losses.sum(1), rtol=1e-4)

    balanced = (snn, variables, jnp.asarray(events, jnp.float32), jsnn.encoding.events, KEY)
    at_once = jsnn.balance_thresholds(*balanced, num_steps=STEPS)
    of_parts = jsnn.balance_thresholds(*balanced, num_steps=STEPS, batch_size=3)  # cut by samples, not by steps
    chex.assert_trees_all_close(of_parts, at_once, rtol=1e-6)

    step = jax.jit(jsnn.train_step(source, jsnn.snn_forward(presentation, jsnn.summed), optimizer))
    state, metrics = step(jsnn.init_state(variables, optimizer), source.resident, ITEM, KEY)
    assert float(metrics.loss) == pytest.approx(float(losses.mean(1)[-1]), rel=1e-4)
    assert np.abs(state.params["params"]["conv"]["kernel"] - variables["params"]["conv"]["kernel"]).max() > 0


def regression(outputs, batch):
    """A squared error at every step, the later the heavier, and a penalty for activity above one spike in ten steps."""
    results, spikes = outputs
    weights = jnp.arange(1, len(results) + 1) / len(results)
    error = (weights[:, None, None] * (results - batch.labels) ** 2).mean()
    penalty = sum((jnp.maximum(0, count / STEPS - 0.1) ** 2).mean() for count in spikes.values())
    return error + penalty, {"error": error, "penalty": penalty}


def test_a_loss_of_every_step_and_every_spike_is_trained():
    snn, variables = spiking()
    source, optimizer = array_source(IMAGES, RNG.normal(size=(8, 3)).astype(np.float32)), optax.adam(1e-2)
    forward = jsnn.snn_forward(jsnn.Presentation(snn, CONSTANT, STEPS, 8), lambda outcome: outcome)
    step = jax.jit(jsnn.train_step(source, forward, optimizer, loss=regression))
    state, errors = jsnn.init_state(variables, optimizer), []
    for _ in range(20):
        state, metrics = step(state, source.resident, ITEM, KEY)
        errors.append(float(metrics.scores["error"]))
    assert errors[-1] < 0.9 * errors[0]
    assert float(metrics.scores["penalty"]) > 0
    chex.assert_trees_all_equal(state.fixed, {"neurons": variables["neurons"]})


def test_a_network_of_one_batch_size_is_balanced_in_batches_of_it():
    snn = jsnn.spiking(lambda variables, x: jax.nn.relu(x.reshape(4, -1) @ variables["w"]))
    x = jnp.asarray(RNG.normal(size=(8, 3, 1)), jnp.float32)
    actual = jsnn.balance_thresholds(snn, {"w": jnp.eye(3)}, x, CONSTANT, KEY, num_steps=2, batch_size=4)
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
    variables = jax.eval_shape(model.init, KEY, x)
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
    expected = {"stem": 2592, "down": 162, "up": 324, "short": 14.4, "linear": 129.6, "out": 3.6 * 7}
    assert costs == pytest.approx(expected)


def test_a_transposed_convolution_has_synapses_where_there_are_pixels():
    """A window of 2 x 2 that moves over every second pixel holds one, one of 3 x 3 holds 2.25 on average."""
    for size, fan_in in ((2, 3), (3, 6.75)):
        up = nn.ConvTranspose(5, (size, size), strides=(2, 2), name="up")
        x = jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)
        shapes = layer_shapes(up.apply, jax.eval_shape(up.init, KEY, x), x)
        (shape,) = shapes.values()
        assert shape == LayerShape(48, 8 * 8 * 5, fan_in, ("input",))
        assert list(multiply_accumulates(shapes).values()) == [320 * fan_in]
