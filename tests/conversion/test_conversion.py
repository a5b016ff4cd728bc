"""Conversion leaves the weights as they are and sets thresholds with which firing rates tend to the ReLUs."""

from functools import cache, partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.conversion import balance_thresholds, convert, scale_paper_thresholds, scale_thresholds
from jsnn.encoding import constant, poisson
from jsnn.models import VGG, ResNet
from jsnn.network.simulation import simulate
from jsnn.network.transformation import NEURONS, spiking
from jsnn.neurons import hard_reset_lif
from tests.networks import SMALL_VGG, images, random_snn

KEY = jax.random.key(8)


def activations(ann, variables, x, monkeypatch):
    """What the ReLUs of an ANN give, by layer."""
    rectified = []
    with monkeypatch.context() as patch:
        patch.setattr(nn, "relu", lambda x: rectified.append(jax.nn.relu(x)) or rectified[-1])
        ann.apply(variables, x)
    return dict(zip(ann.spiking_layers, rectified, strict=True))


def normalized(variables):
    """Variables with statistics and scales of batch norm that do something."""
    rng = np.random.default_rng(3)

    def draw(path, leaf):
        return jnp.asarray(rng.uniform(0.5, 2, leaf.shape) if path[-1].key in ("var", "scale") else leaf, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, variables)


@pytest.mark.parametrize(
    "ann",
    [
        VGG(stages=(4, "A", 6), hidden=(8,), num_classes=3, dense_std=0.3),
        ResNet(blocks=(1, 1, 0, 0), channels=(4, 6, 6, 6), num_classes=3, norm="batch"),
    ],
    ids=["vgg", "resnet with batch norm"],
)
def test_firing_rates_tend_to_the_relu_activations(ann, monkeypatch):
    """A threshold times its layer's rate is the ReLU; the error is of order 1 / T."""
    x = images(4)
    variables = normalized(jax.jit(ann.init)(jax.random.key(2), x))
    snn = spiking(ann.apply)
    thresholds = balance_thresholds(snn, variables, x, constant, KEY, num_steps=64)
    captured = activations(ann, variables, x, monkeypatch)

    @jax.jit
    def trains(variables):
        options = {"num_steps": 1024, "chunk": 1024, "collect": ("spikes",)}
        inputs = partial(constant, x, KEY, jnp.arange(len(x)))
        return simulate(snn, variables, inputs, lambda observed: observed.layers["spikes"], **options)

    spikes = jax.device_get(trains(convert(snn, variables, thresholds)))

    def errors(num_steps):
        errors = {}
        for layer in ann.spiking_layers:
            activation = captured[layer] / thresholds[layer]
            assert activation.max() > 0.02, layer
            errors[layer] = float(np.abs(spikes[layer][:num_steps].mean(0) - activation).mean())
        return errors

    short, middle, long = errors(64), errors(256), errors(1024)
    for layer in ann.spiking_layers:
        assert short[layer] > 2 * middle[layer] > 4 * long[layer] > 0, layer


ORDER = SMALL_VGG.spiking_layers


@cache
def small():
    """A network, its weights and its thresholds."""
    snn, variables = random_snn(SMALL_VGG, seed=0, leak=1.0)
    return snn, {"params": variables["params"]}, dict.fromkeys(ORDER, 1.0)


def test_weights_that_are_not_finite_are_refused_by_path():
    snn, weights, thresholds = small()
    params = {**weights["params"], "dense0": {"kernel": jnp.full((2, 2), jnp.nan)}}
    with pytest.raises(ValueError, match=r"params/dense0/kernel .*NaN"):
        convert(snn, {"params": params}, thresholds)
    with pytest.raises(ValueError, match=r"params/dense0/kernel .*NaN"):
        balance_thresholds(snn, {"params": params}, images(2), poisson, KEY, num_steps=6)


def test_parameters_that_the_neurons_lack_are_refused_by_name():
    with pytest.raises(ValueError, match="no 'decay', but threshold, leak, initial"):
        convert(spiking(SMALL_VGG.apply, hard_reset_lif()), *small()[1:], decay=0.5)


@pytest.mark.parametrize(
    ("threshold", "leak", "word"),
    [(0.0, 1.0, "threshold of conv0"), (-1.0, 1.0, "threshold"), (float("nan"), 1.0, "threshold")]
    + [(1.0, leak, "leak") for leak in (0.0, -0.5, 1.1, float("nan"))]
    # What float32 rounds to 0 or infinity, and what is no number.
    + [(1e-50, 1.0, "above 0 and finite, got 0"), (1e39, 1.0, "threshold"), (1.0, 1e-50, r"in \(0, 1\], got 0")]
    + [(threshold, 1.0, "must be real numbers") for threshold in (None, "1", 1j, True)],
)
def test_thresholds_and_leaks_out_of_range_are_refused(threshold, leak, word):
    snn, weights, _ = small()
    with pytest.raises(ValueError, match=word):
        convert(snn, weights, dict.fromkeys(ORDER, threshold), leak=leak)


@pytest.mark.parametrize(
    ("threshold", "factor", "word"),
    [
        *((1.0, factor, "factor") for factor in (0, -0.7, float("inf"))),
        (1e-30, 1e-30, "threshold of conv0 times 1e-30"),
    ],
)
def test_factors_out_of_range_or_too_small_are_refused(threshold, factor, word):
    snn, weights, _ = small()
    variables = convert(snn, weights, dict.fromkeys(ORDER, threshold))
    for scale in (scale_thresholds, partial(scale_paper_thresholds, order=ORDER)):
        with pytest.raises(ValueError, match=word):
            scale(variables, factor)


@pytest.mark.parametrize(("threshold", "leak", "name"), [(-1.0, 1.0, "threshold of w"), (1.0, 3.0, "leak")])
def test_what_is_known_inside_jit_is_checked_there_too(threshold, leak, name):
    snn, weights = spiking(lambda variables, x: jax.nn.relu(x @ variables["w"])), {"w": jnp.eye(3)}
    with pytest.raises(ValueError, match=name):
        jax.jit(lambda variables: convert(snn, variables, {"w": threshold}, leak=leak))(weights)


def test_numbers_among_the_variables_do_not_widen_neurons(float64):
    snn = spiking(lambda variables, x: jax.nn.relu(x @ variables["w"]) * variables["scale"])
    converted = convert(snn, {"w": jnp.eye(3, dtype=jnp.float32), "scale": 2.0}, {"w": 1.0})
    assert converted[NEURONS]["w"]["threshold"].dtype == jnp.float32


def test_weights_of_eight_bits_and_lists_of_thresholds_are_taken():
    def apply(variables, x):
        return jax.nn.relu(x @ variables["params"]["w"].astype(jnp.float32))

    converted = convert(spiking(apply), {"params": {"w": jnp.ones((2, 3), jnp.float8_e4m3fn)}}, {"w": [1, 2.0, 3]})
    threshold = converted[NEURONS]["w"]["threshold"]
    assert threshold.dtype == jnp.float32
    np.testing.assert_array_equal(threshold, [1, 2, 3])


def test_conversion_works_inside_transformations():
    snn, weights, _ = small()

    @jax.jit
    def scaled(weights, threshold, leak, factor):
        return scale_thresholds(convert(snn, weights, dict.fromkeys(ORDER, threshold), leak=leak), factor)[NEURONS]

    expected = {"threshold": jnp.float32(1), "leak": jnp.float32(0.9), "initial": jnp.float32(0)}
    chex.assert_trees_all_close(scaled(weights, 2.0, 0.9, 0.5), dict.fromkeys(ORDER, expected))
