"""Spikes, membranes and currents are recorded as loops in NumPy compute them, by channel, too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsnn
from tests.network.own_network import IMAGES, MODEL, STEPS, ann, held, recorded, spiking
from tests.neurons.numpy_reference import lif_loop

RNG = np.random.default_rng(2)


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
