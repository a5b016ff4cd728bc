"""Properties of neurons, spikes and conversions that hold for any input that hypothesis thinks of."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jsnn.conversion import (
    convert,
    from_paper_thresholds,
    paper_thresholds,
    scale_paper_thresholds,
    scale_thresholds,
)
from jsnn.encoding import poisson
from jsnn.network.transformation import NEURONS, spiking
from jsnn.neurons import LIFState, lif, over_time
from jsnn.neurons.neuron import record
from jsnn.neurons.packing import STEPS_PER_WORD, age_after, unpack
from jsnn.neurons.residuals import Kept, Train, replay
from jsnn.neurons.surrogate import stdb
from tests.networks import IMAGE_SHAPE, SMALL_RESNET, SMALL_VGG
from tests.properties import many

leaf_shapes = st.sampled_from([(), (2, 1, 3)])
# Few numbers of steps, for each is compiled: the ends of each word and what is just beyond.
chunks_of_shape = st.one_of(
    st.tuples(st.just(shape), st.lists(st.sampled_from(lengths), min_size=1, max_size=3))
    for shape, lengths in (((), (1, 17, STEPS_PER_WORD)), ((2, 1, 3), (1, 8, 9, 16)))
)
leaks = st.sampled_from([1.0, 0.99, 0.5]) | st.floats(0.015625, 1.0, width=32)
thresholds = st.floats(0.0625, 4.0, width=32)
seeds = st.integers(0, 2**32 - 1)
NEURON = lif(stdb(0.3, 0.05))


def driven(seed, num_steps, shape):
    """Currents [T, ...] and a state amid a presentation."""
    rng = np.random.default_rng(seed)
    ages = np.where(rng.random(shape) < 0.5, 0, rng.integers(1, 300, shape) * (rng.random(shape) < 0.7) + 1)
    membrane = np.asarray(rng.normal(0, 1, shape), np.float32)
    state = LIFState(membrane, np.asarray(ages == 1, np.float32), np.asarray(ages, np.int32))
    return np.asarray(rng.normal(0.4, 1.5, (num_steps, *shape)), np.float32), state


@jax.jit
def plain_and_packed(current, state, weights, threshold, leak):
    """Spikes, state and gradients of some steps, by the plain neuron and by one that is kept as bits."""
    neuron = {"threshold": threshold, "leak": leak}
    spikes, after, _ = over_time(NEURON, neuron, state, current)
    words, kept_after = record(NEURON, neuron, state, current)
    train = Train(Kept(words), state.spikes, None, state.age)

    def plain(current, membrane):
        actual, end, _ = over_time(NEURON, neuron, state._replace(membrane=membrane), current)
        return (actual * weights).sum() + end.membrane.sum()

    def replayed(current, membrane):
        actual, end = replay(NEURON.lossless, neuron, current, membrane, train)
        return (actual * weights).sum() + end.sum()

    gradients = [jax.grad(function, (0, 1))(current, state.membrane) for function in (plain, replayed)]
    bits = unpack(words, len(current), jnp.float32)
    return (spikes, after, gradients[0]), (bits, kept_after, gradients[1]), age_after(words, state.age, len(current))


@pytest.mark.usefixtures("optimized")
@settings(many, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seeds, chunks_of_shape, thresholds, leaks)
def test_packed_equals_plain(seed, chunks_of_shape, threshold, leak):
    """A presentation cut anywhere and kept as bits: spikes, ages and states to the bit, gradients to rounding."""
    shape, chunks = chunks_of_shape
    current, state = driven(seed, sum(chunks), shape)
    weights = driven(seed + 1, sum(chunks), shape)[0]
    for chunk, end in zip(chunks, np.cumsum(chunks), strict=True):
        steps = slice(end - chunk, end)
        plain, packed, age = plain_and_packed(current[steps], state, weights[steps], threshold, leak)
        for expected, actual in zip(plain[:2], packed[:2], strict=True):
            jax.tree.map(np.testing.assert_array_equal, actual, expected)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6), packed[2], plain[2])
        state = plain[1]
        np.testing.assert_array_equal(age, state.age)


@many
@given(seeds, leaf_shapes, st.sampled_from([1, 2, 17, 60]), st.integers(-3, 3))
def test_a_soft_reset_keeps_the_residue(seed, shape, num_steps, exponent):
    """Without leak, what came in is in the membrane or was spent on spikes: sum I = u + v * spikes, to the bit.

    Currents are multiples of 2^-6 and v is a power of 2, so that no sum is rounded.
    """
    rng = np.random.default_rng(seed)
    current = np.asarray(rng.integers(-100, 200, (num_steps, *shape)) / 64, np.float32)
    threshold = 2.0**exponent
    spikes, state = jax.device_get(driven_neurons(current, threshold))
    residue = state.membrane - threshold * spikes[-1]  # the membrane is kept from before its reset
    np.testing.assert_array_equal(current.sum(0), residue + threshold * spikes.sum(0))
    assert set(np.unique(spikes)) <= {0, 1}
    np.testing.assert_array_equal(state.age, np.where(spikes.any(0), 1 + np.argmax(spikes[::-1], 0), 0))


@jax.jit
def driven_neurons(current, threshold):
    neuron = {"threshold": threshold, "leak": 1.0, "initial": 0.0}
    return over_time(NEURON, neuron, NEURON.init(neuron, current[0]), current)[:2]


POISSON_STEPS = 512
pixels = st.floats(-1, 1, width=32, allow_subnormal=False)


@jax.jit
def present(image, seed, index):
    return poisson(image, jax.random.key(seed), index, jnp.arange(POISSON_STEPS))


@many
@given(
    seeds,
    st.lists(pixels, min_size=4, max_size=4),
    st.integers(0, 2**31 - 1),
)
def test_poisson_spikes_have_the_mean_of_the_image(seed, values, index):
    image = np.asarray(values, np.float32)[None]
    spikes = np.asarray(present(image, np.uint32(seed), np.array([index], np.int32)))[:, 0]
    assert set(np.unique(spikes)) <= {-1, 0, 1}
    assert (spikes * np.sign(image[0]) >= 0).all()
    rate = np.abs(values)
    deviation = np.sqrt(rate * (1 - rate) / POISSON_STEPS)
    assert (np.abs(spikes.mean(0) - image[0]) <= 6 * deviation + 1 / POISSON_STEPS).all()


@cache
def weights_of(model):
    return jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *IMAGE_SHAPE)))


@many
@given(st.sampled_from([SMALL_VGG, SMALL_RESNET]), seeds, leaks, st.floats(0.01, 10), st.floats(0.01, 10))
def test_a_conversion_keeps_the_weights_and_can_be_undone(model, seed, leak, factor, other):
    rng = np.random.default_rng(seed)
    balanced = {layer: np.float32(rng.uniform(0.01, 100)) for layer in model.spiking_layers}
    variables = convert(spiking(model.apply), weights_of(model), balanced, leak=leak)
    assert variables["params"] is weights_of(model)["params"]
    assert list(variables[NEURONS]) == list(model.spiking_layers)
    for layer, values in variables[NEURONS].items():
        assert values["threshold"] == balanced[layer]
        assert values["leak"] == np.float32(leak)
    there = scale_thresholds(scale_thresholds(variables, factor), other)
    back = scale_thresholds(there, 1 / (factor * other))
    assert_close(back, variables)
    assert_close(there, scale_thresholds(variables, factor * other))
    assert all(tree["params"] is variables["params"] for tree in (there, back))


def assert_close(actual, expected):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), actual[NEURONS], expected[NEURONS])


@many
@given(st.sampled_from([SMALL_VGG, SMALL_RESNET]), seeds, st.floats(0.25, 4))
def test_a_factor_scales_each_threshold_in_the_papers_units(model, seed, factor):
    rng = np.random.default_rng(seed)
    papers = {layer: rng.uniform(0.1, 3) for layer in model.spiking_layers}
    there_and_back = paper_thresholds(from_paper_thresholds(papers))
    assert list(there_and_back) == list(papers)
    np.testing.assert_allclose(list(there_and_back.values()), list(papers.values()), rtol=1e-12)
    variables = convert(spiking(model.apply), weights_of(model), from_paper_thresholds(papers))
    scaled = scale_paper_thresholds(variables, factor, model.spiking_layers)
    assert list(scaled[NEURONS]) == list(model.spiking_layers)
    actual = paper_thresholds({layer: values["threshold"] for layer, values in scaled[NEURONS].items()})
    np.testing.assert_allclose(list(actual.values()), [factor * v for v in papers.values()], rtol=1e-5)
