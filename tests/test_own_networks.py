"""A researcher's own neurons, surrogates, losses, data and networks, through every stage of the library."""

from functools import cache, partial
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsnn
from jsnn.data import array_source, event_source
from jsnn.network.bptt import Keys, present
from jsnn.network.operations import LayerShape, accumulates, layer_shapes, multiply_accumulates, neurons
from jsnn.training.checkpoint import restore, save
from jsnn.training.forward import from_membranes
from jsnn.training.parallel import replicate, split_over_devices
from tests.numpy_reference import lif_loop

BATCH, STEPS = 4, 10
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, (8, 6, 6, 2)).astype(np.float32)
LABELS = RNG.integers(0, 3, 8).astype(np.int32)
SOURCE = array_source(IMAGES, LABELS)
INDEX, KEY = jnp.arange(BATCH, dtype=jnp.int32), jax.random.key(0)
CONSTANT = jsnn.encoding.constant


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(3, (3, 3), name="conv")(x))
        x = nn.avg_pool(x, (2, 2), (2, 2)).reshape(len(x), -1)
        return nn.Dense(3, name="out")(nn.relu(nn.Dense(5, name="hidden")(x)))


MODEL = Net()
THRESHOLDS = {"conv": 0.4, "hidden": 0.3}


@cache
def ann():
    return MODEL.init(jax.random.key(1), jnp.asarray(IMAGES[:1]))


def spiking(neuron=None, leak=0.9):
    snn = jsnn.spiking(MODEL.apply, neuron)
    return snn, jsnn.convert(snn, ann(), THRESHOLDS, leak=leak)


def held(x):
    return lambda time: jnp.broadcast_to(x, (len(time), *x.shape))


@partial(jax.jit, static_argnums=0)
def recorded(snn, variables, images):
    return jsnn.record(snn, variables, held(images), num_steps=STEPS, what=("spikes", "currents"), chunk=4)


def assert_close(actual, expected, tolerance):
    """Relative to the norm of each leaf, none of them zero."""
    for leaf, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(other) > 0
        assert np.linalg.norm(leaf - other) <= tolerance * np.linalg.norm(other)


class State(NamedTuple):
    membrane: jax.Array
    spikes: jax.Array


def own_neuron():
    """A neuron that is inhibited by its own spikes: two thresholds are taken off, where lif takes one."""

    def init(neuron, current):
        return State(jnp.zeros_like(current), jnp.zeros_like(current))

    def step(neuron, state, current):
        reset = (1 + neuron["inhibition"]) * neuron["threshold"] * jax.lax.stop_gradient(state.spikes)
        membrane = neuron["leak"] * state.membrane + current - reset
        spikes = jsnn.surrogate.arctan().spike(membrane / neuron["threshold"] - 1, None)
        return spikes, State(membrane, spikes)

    return jsnn.Neuron(lambda: {"threshold": 1.0, "leak": 1.0, "inhibition": 1.0}, init, step)


def test_an_own_neuron_through_every_stage(tmp_path):
    snn = jsnn.spiking(MODEL.apply, own_neuron())
    thresholds = jsnn.balance_thresholds(snn, ann(), IMAGES, CONSTANT, KEY, num_steps=STEPS, batch_size=4)
    variables = jsnn.convert(snn, ann(), thresholds, inhibition=0.5)
    assert {name: float(values["inhibition"]) for name, values in variables["neurons"].items()} == dict.fromkeys(
        THRESHOLDS, 0.5
    )

    presentation = jsnn.Presentation(snn, CONSTANT, STEPS, 4)
    optimizer = optax.adam(1e-2)
    step = jax.jit(jsnn.train_step(SOURCE, jsnn.snn_forward(presentation, jsnn.averaged), optimizer))
    state, losses = jsnn.init_state(variables, optimizer), []
    for epoch in range(5):
        for item in SOURCE.shuffled(BATCH, 0, epoch, 0):
            state, metrics = step(state, SOURCE.resident, item, KEY)
            losses.append(float(metrics.loss))
    assert np.mean(losses[-2:]) < np.mean(losses[:2])

    save(tmp_path, int(state.step), state, {})
    again = restore(tmp_path, jax.eval_shape(lambda: state)).tree
    chex.assert_trees_all_equal(again, state)

    evaluate = jax.jit(jsnn.snn_evaluation(presentation, SOURCE))
    actual = evaluate(again.variables(), SOURCE.resident, np.arange(8, dtype=np.int32), KEY)
    shown = recorded(snn, again.variables(), IMAGES)
    assert actual.count == 8
    for layer in THRESHOLDS:
        expected = shown["spikes"][layer].reshape(STEPS, 8, -1).mean(-1).sum(1)
        np.testing.assert_allclose(actual.spikes[layer], expected, rtol=1e-5)
        values = jax.device_get(again.variables()["neurons"][layer])
        np.testing.assert_array_equal(shown["spikes"][layer], inhibited(np.asarray(shown["currents"][layer]), values))


def inhibited(current, neuron):
    """The spikes of the own neuron, written once more."""
    spikes, membrane, spike = np.zeros_like(current), 0 * current[0], 0 * current[0]
    for t, now in enumerate(current):
        reset = (1 + neuron["inhibition"]) * neuron["threshold"] * spike
        membrane = neuron["leak"] * membrane + now - reset
        spikes[t] = spike = (membrane / neuron["threshold"] - 1 > 0).astype(current.dtype)
    return spikes


def test_an_own_surrogate_gives_the_gradient():
    surrogate = jsnn.surrogate.from_derivative(lambda z: jnp.exp(-(z**2)))
    snn = jsnn.spiking(lambda params, x: jax.nn.relu(x @ params["hidden"]), jsnn.lif(surrogate))
    x, weights = IMAGES[:, 0, 0], RNG.normal(size=(2, 5)).astype(np.float32)
    variables = jsnn.convert(snn, {"hidden": weights}, {"hidden": 0.7})

    def total(weights):
        given = {**variables, "hidden": weights}
        return snn.apply(given, snn.initial_state(given, x), jnp.asarray(x)[None])[0].sum()

    slopes = np.exp(-((x @ weights / 0.7 - 1) ** 2))
    np.testing.assert_allclose(jax.grad(total)(jnp.asarray(weights)), x.T @ slopes, rtol=1e-5)


def test_thresholds_by_channel(float64):
    snn = jsnn.spiking(MODEL.apply)
    by_channel = np.array([0.2, 0.4, 0.8])
    weights = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), ann())
    variables = jsnn.convert(snn, weights, {"conv": by_channel, "hidden": 0.3}, leak=0.9)
    images = jnp.asarray(IMAGES, jnp.float64)
    shown = recorded(snn, variables, images)
    expected = lif_loop(np.asarray(shown["currents"]["conv"]), by_channel, 0.9)[1]
    np.testing.assert_array_equal(shown["spikes"]["conv"], expected)
    rates = expected.mean((0, 1, 2, 3))
    assert rates[0] > rates[2] > 0
    assert jsnn.scale_thresholds(variables, 0.5)["neurons"]["conv"]["threshold"].tolist() == [0.1, 0.2, 0.4]


def test_what_record_shows_is_what_loops_give(float64):
    def network(params, x):
        return jax.nn.relu(x @ params["first"] + params["bias"]) @ params["second"]

    def with_relu(params, x):
        return jax.nn.relu(network(params, x))

    snn = jsnn.spiking(with_relu)
    shapes = {"first": (4, 6), "bias": (6,), "second": (6, 5)}
    weights = {name: RNG.normal(size=shape) for name, shape in shapes.items()}
    variables = jsnn.convert(snn, weights, {"first": 0.6, "second": 0.9}, leak=0.8)
    inputs = RNG.normal(size=(STEPS, 3, 4))
    shown = jsnn.record(
        snn,
        variables,
        lambda time: jnp.asarray(inputs).at[time].get(mode="fill", fill_value=0),
        num_steps=STEPS,
        what=("spikes", "membranes", "currents"),
        chunk=4,
    )
    current, threshold = inputs @ weights["first"] + weights["bias"], 0.6
    for layer, later in (("first", 0.9), ("second", None)):
        membranes, spikes = lif_loop(current, threshold, 0.8)
        np.testing.assert_allclose(shown["currents"][layer], current, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(shown["membranes"][layer], membranes, rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(shown["spikes"][layer], spikes)
        assert 0 < spikes.mean() < 1
        current, threshold = threshold * spikes @ weights["second"] if later else None, later


def test_nothing_else_is_recorded():
    snn, variables = spiking()
    with pytest.raises(ValueError, match="there is no 'ages' to record: choose from spikes, membranes, currents"):
        jsnn.record(snn, variables, held(IMAGES), num_steps=2, what=("spikes", "ages"))


def test_thresholds_and_leaks_are_trained():
    snn, variables = spiking(jsnn.lif(jsnn.surrogate.linear()))
    presentation, trained = jsnn.Presentation(snn, CONSTANT, STEPS, 4), ("params", "neurons")
    optimizer = optax.sgd(0.1)
    step = jax.jit(jsnn.train_step(SOURCE, jsnn.snn_forward(presentation, jsnn.averaged, trained), optimizer))
    item = np.arange(BATCH, dtype=np.int32)
    state, metrics = step(jsnn.init_state(variables, optimizer, trained), SOURCE.resident, item, KEY)

    @jax.grad
    def gradient(variables):
        logits = jsnn.simulate(
            snn, variables, held(IMAGES[:BATCH]), lambda observed: observed.results, num_steps=STEPS, chunk=STEPS
        ).mean(0)
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS[:BATCH]).mean()

    expected = jax.tree.map(lambda leaf, slope: leaf - 0.1 * slope, variables, jax.jit(gradient)(variables))
    chex.assert_trees_all_close(state.variables(), expected, rtol=1e-5, atol=1e-6)
    for layer in THRESHOLDS:
        for name in ("threshold", "leak"):
            assert state.params["neurons"][layer][name] != variables["neurons"][layer][name]
    assert set(metrics.finite) == {"conv", "hidden", "out", "neurons/conv", "neurons/hidden", "optimizer"}


TARGETS = RNG.normal(size=(8, 3)).astype(np.float32)


def regression(outputs, batch):
    """A squared error at every step, the later the heavier, and a penalty for activity above one spike in ten steps."""
    results, spikes = outputs
    weights = jnp.arange(1, len(results) + 1) / len(results)
    error = (weights[:, None, None] * (results - batch.labels) ** 2).mean()
    penalty = sum((jnp.maximum(0, count / STEPS - 0.1) ** 2).mean() for count in spikes.values())
    return error + penalty, {"error": error, "penalty": penalty}


@pytest.mark.parametrize("chunk", [4, 100])
def test_an_own_loss_of_steps_and_spikes_has_the_same_gradient_from_bits_as_from_membranes(chunk):
    snn, variables = spiking(jsnn.lif(jsnn.surrogate.stdb(0.4, 0.05)))
    presentation = jsnn.Presentation(snn, jsnn.encoding.poisson, STEPS, chunk)
    source = array_source(IMAGES, TARGETS)
    batch = source.take(source.resident, INDEX)

    def gradient(run):
        @jax.jit
        def loss_of(params):
            def objective(params):
                keys = Keys(jax.random.key(2), jax.random.key(3))
                outcome = run(presentation, {**variables, "params": params}, batch.images, batch.index, keys)
                return regression(outcome, batch)

            return jax.value_and_grad(objective, has_aux=True)(params)

        return loss_of(variables["params"])

    (loss, scores), gradients = gradient(present)
    (other, _), expected = gradient(from_membranes)
    assert float(loss) == pytest.approx(float(other), rel=1e-6)
    assert min(map(float, scores.values())) > 0
    assert_close(gradients, expected, 1e-6)


def test_a_regression_is_trained():
    snn, variables = spiking()
    source, optimizer = array_source(IMAGES, TARGETS), optax.adam(1e-2)
    forward = jsnn.snn_forward(jsnn.Presentation(snn, CONSTANT, STEPS, 8), lambda outcome: outcome)
    step = jax.jit(jsnn.train_step(source, forward, optimizer, loss=regression))
    state, errors = jsnn.init_state(variables, optimizer), []
    for _ in range(20):
        state, metrics = step(state, source.resident, np.arange(8, dtype=np.int32), KEY)
        errors.append(float(metrics.scores["error"]))
    assert errors[-1] < 0.9 * errors[0]
    chex.assert_trees_all_equal(state.fixed, {"neurons": variables["neurons"]})


def test_events_are_trained_and_evaluated():
    events = RNG.poisson(0.3, (8, STEPS, 6, 6, 2)).astype(np.uint8)
    source, optimizer = event_source(events, LABELS), optax.sgd(0.1)
    snn, variables = spiking()
    presentation = jsnn.Presentation(snn, jsnn.encoding.events, STEPS, 4)
    item = np.arange(8, dtype=np.int32)
    evaluate = jax.jit(jsnn.snn_evaluation(presentation, source))
    actual = evaluate(variables, source.resident, item, KEY)
    inputs = jnp.asarray(events, jnp.float32).swapaxes(0, 1)
    logits = np.cumsum(snn.apply(variables, snn.initial_state(variables, inputs[0]), inputs)[0], axis=0)
    losses = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), jnp.asarray(LABELS)[None])
    np.testing.assert_allclose(actual.loss, losses.sum(1), rtol=1e-4)

    # Cut by samples, not by steps.
    balanced = (snn, variables, inputs.swapaxes(0, 1), jsnn.encoding.events, KEY)
    at_once = jsnn.balance_thresholds(*balanced, num_steps=STEPS)
    of_parts = jsnn.balance_thresholds(*balanced, num_steps=STEPS, batch_size=3)
    chex.assert_trees_all_close(of_parts, at_once, rtol=1e-6)

    step = jax.jit(jsnn.train_step(source, jsnn.snn_forward(presentation, jsnn.summed), optimizer))
    state, metrics = step(jsnn.init_state(variables, optimizer), source.resident, item, KEY)
    assert float(metrics.loss) == pytest.approx(float(losses.mean(1)[-1]), rel=1e-4)
    assert np.abs(state.params["params"]["conv"]["kernel"] - variables["params"]["conv"]["kernel"]).max() > 0


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


def test_pixels_get_a_gradient_straight_through_their_spikes():
    snn = jsnn.spiking(lambda params, x: x @ params["w"])
    weights, x = jnp.asarray(RNG.normal(size=(2, 5)), jnp.float32), jnp.asarray(IMAGES[:BATCH, 0, 0])

    def total(encode, x):
        def at(time):
            return encode(x, KEY, INDEX, time)

        variables = {"w": weights, "neurons": {}}
        return jsnn.simulate(snn, variables, at, lambda observed: observed.total, num_steps=STEPS, chunk=4)[-1].sum()

    gradient = jax.jit(jax.grad(total, 1), static_argnums=0)
    expected = np.broadcast_to(STEPS * weights.sum(1), x.shape)
    np.testing.assert_allclose(gradient(jsnn.encoding.poisson_straight_through, x), expected, rtol=1e-5)
    np.testing.assert_array_equal(gradient(jsnn.encoding.poisson, x), 0)


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
