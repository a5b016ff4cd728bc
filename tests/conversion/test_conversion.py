"""Conversion keeps the weights and sets thresholds by which rates tend to the ReLUs; scaling scales these alone."""

from functools import partial
from itertools import count

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsnn import balance_thresholds, convert, hard_reset_lif, paper_thresholds, scale_thresholds, simulate, spiking
from jsnn.conversion import from_paper_thresholds, scale_paper_thresholds
from jsnn.encoding import constant, poisson
from jsnn.models import VGG, ResNet
from tests.networks import IMAGE_SHAPE, SMALL_RESNET, SMALL_VGG, images, random_snn

KEY = jax.random.key(8)


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
    x, rng = images(4), np.random.default_rng(3)

    def draw(path, leaf):
        """Statistics and scales of batch norm that do something."""
        return jnp.asarray(rng.uniform(0.5, 2, leaf.shape), leaf.dtype) if path[-1].key in ("var", "scale") else leaf

    variables = jax.tree_util.tree_map_with_path(draw, jax.jit(ann.init)(jax.random.key(2), x))
    snn = spiking(ann.apply)
    thresholds = balance_thresholds(snn, variables, x, constant, KEY, num_steps=64)
    captured = []  # what the ANN's ReLUs give
    with monkeypatch.context() as patch:
        patch.setattr(nn, "relu", lambda x: captured.append(jax.nn.relu(x)) or captured[-1])
        ann.apply(variables, x)

    @jax.jit
    def trains(variables):
        options = {"num_steps": 1024, "chunk": 1024, "collect": ("spikes",)}
        inputs = partial(constant, x, KEY, jnp.arange(len(x)))
        return simulate(snn, variables, inputs, lambda observed: observed.layers["spikes"], **options)

    spikes = jax.device_get(trains(convert(snn, variables, thresholds)))
    for layer, activation in zip(ann.spiking_layers, captured, strict=True):
        rate = activation / thresholds[layer]
        assert rate.max() > 0.02, layer
        short, middle, long = (np.abs(spikes[layer][:steps].mean(0) - rate).mean() for steps in (64, 256, 1024))
        assert short > 2 * middle > 4 * long > 0, layer


ORDER, DENSE = SMALL_VGG.spiking_layers, spiking(lambda variables, x: jax.nn.relu(x @ variables["w"]))
SNN, VARIABLES = random_snn(SMALL_VGG, seed=0, leak=1.0)
WEIGHTS = {"params": VARIABLES["params"]}
SPOILED = {"params": {**WEIGHTS["params"], "dense0": {"kernel": jnp.full((2, 2), jnp.nan)}}}


def converted(threshold=1.0, leak=1.0):
    return convert(SNN, WEIGHTS, dict.fromkeys(ORDER, threshold), leak=leak)


def scaled(scale, threshold, factor):
    return scale(converted(threshold), factor)


def inside_jit(threshold, leak):
    return jax.jit(lambda variables: convert(DENSE, variables, {"w": threshold}, leak=leak))({"w": jnp.eye(3)})


NAN = float("nan")
REFUSED = [
    (partial(convert, SNN, SPOILED, dict.fromkeys(ORDER, 1.0)), r"params/dense0/kernel .*NaN"),
    (partial(balance_thresholds, SNN, SPOILED, images(2), poisson, KEY, num_steps=6), r"params/dense0/kernel .*NaN"),
    (
        partial(convert, spiking(SMALL_VGG.apply, hard_reset_lif()), WEIGHTS, {}, decay=0.5),
        "no 'decay', but threshold, leak, initial",
    ),
    # What float32 rounds to 0 or infinity, too, and what is no number.
    (partial(converted, 1e-50), "threshold of conv0 must be above 0 and finite, got 0"),
    *((partial(converted, threshold), "threshold of conv0 must") for threshold in (0.0, -1.0, NAN, 1e39)),
    *((partial(converted, threshold), "must be real numbers") for threshold in (None, "1", 1j, True)),
    *((partial(converted, leak=leak), r"leak must be in \(0, 1\], got") for leak in (0.0, -0.5, 1.1, 1e-50)),
    (partial(converted, leak=NAN), "leak must be finite, got nan"),
    (partial(inside_jit, -1.0, 1.0), "threshold of w"),  # what is known there is checked there, too
    (partial(inside_jit, 1.0, 3.0), "leak"),
]
for scale in (scale_thresholds, partial(scale_paper_thresholds, order=ORDER)):
    REFUSED += [(partial(scaled, scale, 1.0, factor), "factor") for factor in (0, -0.7, float("inf"))]
    REFUSED.append((partial(scaled, scale, 1e-30, 1e-30), "threshold of conv0 times 1e-30"))


@pytest.mark.parametrize(("call", "sentence"), REFUSED, ids=count())
def test_what_can_be_no_threshold_leak_factor_or_weight_is_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_numbers_among_the_variables_do_not_widen_neurons(float64):
    snn = spiking(lambda variables, x: jax.nn.relu(x @ variables["w"]) * variables["scale"])
    converted = convert(snn, {"w": jnp.eye(3, dtype=jnp.float32), "scale": 2.0}, {"w": 1.0})
    assert converted["neurons"]["w"]["threshold"].dtype == jnp.float32


def test_weights_of_eight_bits_and_lists_of_thresholds_are_taken():
    snn = spiking(lambda variables, x: jax.nn.relu(x @ variables["w"].astype(jnp.float32)))
    converted = convert(snn, {"w": jnp.ones((2, 3), jnp.float8_e4m3fn)}, {"w": [1, 2.0, 3]})
    threshold = converted["neurons"]["w"]["threshold"]
    assert threshold.dtype == jnp.float32
    np.testing.assert_array_equal(threshold, [1, 2, 3])


def test_conversion_works_inside_transformations():
    @jax.jit
    def of_jit(threshold, leak, factor):
        return scale_thresholds(converted(threshold, leak), factor)["neurons"]

    expected = {"threshold": jnp.float32(1), "leak": jnp.float32(0.9), "initial": jnp.float32(0)}
    chex.assert_trees_all_close(of_jit(2.0, 0.9, 0.5), dict.fromkeys(ORDER, expected))


RESNET, LAYERS = spiking(SMALL_RESNET.apply), SMALL_RESNET.spiking_layers
SHAPES = jax.eval_shape(SMALL_RESNET.init, KEY, jnp.zeros((1, *IMAGE_SHAPE)))
ONES = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), SHAPES)
seeds, factors = st.integers(0, 2**32 - 1), st.floats(0.01, 10)
leaks = st.sampled_from([1.0, 0.99, 0.5]) | st.floats(0.015625, 1.0, width=32)


def assert_holds(variables, thresholds, leak, rtol=1e-6):
    """The very same arrays of weights, thresholds as given, and all else of the neurons."""
    neurons = variables["neurons"]
    assert jax.tree.all(jax.tree.map(lambda one, other: one is other, variables["params"], ONES["params"]))
    assert tuple(neurons) == LAYERS
    assert all(sorted(values) == ["initial", "leak", "threshold"] for values in neurons.values())
    actual = [[float(values[name]) for name in sorted(values)] for values in neurons.values()]
    expected = [[0, np.float32(leak), thresholds[layer]] for layer in LAYERS]
    np.testing.assert_allclose(actual, expected, rtol=rtol)


@given(seeds, leaks, factors, factors)
def test_a_conversion_keeps_the_weights_and_a_factor_scales_all_thresholds(seed, leak, factor, other):
    rng = np.random.default_rng(seed)
    thresholds = {layer: np.float32(rng.uniform(0.01, 100)) for layer in LAYERS}
    variables = convert(RESNET, ONES, thresholds, leak=leak)
    assert_holds(variables, thresholds, leak, rtol=0)
    there = scale_thresholds(scale_thresholds(variables, factor), other)
    assert_holds(there, {layer: factor * other * value for layer, value in thresholds.items()}, leak)
    assert_holds(scale_thresholds(there, 1 / (factor * other)), thresholds, leak)


@given(seeds, st.floats(0.25, 4))
def test_a_factor_scales_each_threshold_in_the_papers_units(seed, factor):
    rng = np.random.default_rng(seed)
    papers = {layer: rng.uniform(0.1, 3) for layer in LAYERS}
    thresholds = from_paper_thresholds(papers)
    there_and_back = paper_thresholds(thresholds)
    assert list(there_and_back) == list(papers)
    np.testing.assert_allclose(list(there_and_back.values()), list(papers.values()), rtol=1e-12)
    scaled = scale_paper_thresholds(convert(RESNET, ONES, thresholds), factor, LAYERS)
    assert_holds(scaled, from_paper_thresholds({layer: factor * v for layer, v in papers.items()}), 1.0, rtol=1e-5)
    expected = {layer: factor**depth * thresholds[layer] for depth, layer in enumerate(LAYERS, start=1)}
    assert_holds(scaled, expected, 1.0, rtol=1e-5)
