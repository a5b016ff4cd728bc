"""Balanced thresholds equal brute force, for all layers or some, in bounded memory; percentiles equal NumPy's."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jsnn.conversion import balance_thresholds, convert, layerwise, paper_thresholds
from jsnn.conversion.percentile import from_halves, lower_histogram, total, upper_half, upper_histogram
from jsnn.encoding import constant, poisson
from jsnn.network.simulation import Presentation, simulate
from tests.networks import IMAGE_SHAPE, SMALL_VGG, TINY_RESNET, TINY_VGG, images, random_snn

KEY = jax.random.key(8)
STEPS = 30
SPOILED = jnp.full((64, *IMAGE_SHAPE), 0.5)


@cache
def balanced(ann, percentile=100.0, **options):
    """Thresholds for eight images."""
    snn, variables = random_snn(ann, seed=4, leak=0.9)
    options = {"chunk": 10, "batch_size": 4, "percentile": percentile, **options}
    return balance_thresholds(snn, {"params": variables["params"]}, images(8), poisson, KEY, num_steps=STEPS, **options)


@partial(jax.jit, static_argnums=0)
def currents(snn, variables, x):
    """Input currents of all layers over all steps, at once."""
    inputs, options = partial(poisson, x, KEY, jnp.arange(len(x))), {"num_steps": STEPS, "collect": ("currents",)}
    return simulate(snn, variables, inputs, lambda seen: seen.layers["currents"], chunk=STEPS, **options)


FROM_THE_INPUT = {"chunk": 8, "batch_size": 8, "keep_bytes": 0}  # every layer is run again from the input


@pytest.mark.parametrize(
    ("ann", "percentile", "options"),
    [(TINY_VGG, 100.0, FROM_THE_INPUT), (SMALL_VGG, 99.0, {}), (TINY_RESNET, 100.0, {})],
)
def test_thresholds_equal_brute_force_whatever_is_kept_and_however_it_is_cut(ann, percentile, options):
    snn, variables = random_snn(ann, seed=4, leak=0.9)
    x, weights = images(8), {"params": variables["params"]}
    thresholds = balanced(ann, percentile, **options)
    assert tuple(thresholds) == ann.spiking_layers
    expected = dict.fromkeys(ann.spiking_layers, 1.0)
    for layer in ann.spiking_layers:
        current = currents(snn, convert(snn, weights, expected), x)[layer]
        expected[layer] = float(np.percentile(current, percentile, method="inverted_cdf"))
        np.testing.assert_allclose(thresholds[layer], expected[layer], rtol=1e-5, err_msg=layer)


@pytest.mark.usefixtures("optimized")
def test_memory_of_balancing_is_bounded_by_the_chunk():
    snn, variables = random_snn(SMALL_VGG, seed=4, leak=1.0)
    probe = layerwise.Probe("dense0", ("conv1",), lambda current, counted: jnp.max(current, where=counted, initial=0))

    def temporaries(num_steps):
        presentation, batch = Presentation(snn, poisson, num_steps, 8), (images(4), jnp.arange(4), KEY)
        words = {"conv0": jax.ShapeDtypeStruct((num_steps // 8, 4, *IMAGE_SHAPE[:2], 4), jnp.uint8)}
        program = layerwise.probe_layer.lower(presentation, probe, variables, batch, words)
        return program.compile().memory_analysis().temp_size_in_bytes

    assert temporaries(2048) - temporaries(64) <= 4 * (2048 - 64)  # the numbers of the time steps themselves


def test_stem_only_gives_the_blocks_the_threshold_before_them():
    """In the paper's units each of the blocks' thresholds is 1."""
    stem = TINY_RESNET.stem_layers
    thresholds = balanced(TINY_RESNET, layers=stem)
    assert tuple(thresholds) == TINY_RESNET.spiking_layers
    everywhere = balanced(TINY_RESNET, 100.0)
    for layer, threshold in thresholds.items():
        np.testing.assert_allclose(threshold, everywhere[layer if layer in stem else stem[-1]], rtol=1e-6)
    for layer, threshold in paper_thresholds(thresholds).items():
        assert (threshold == 1) == (layer not in stem)


def test_layers_before_the_first_balanced_have_the_paper_s_one():
    last = SMALL_VGG.spiking_layers[-1]
    thresholds = balanced(SMALL_VGG, layers=(last,))
    assert all((threshold == 1) == (layer != last) for layer, threshold in thresholds.items())


def of_half_as_many(number):
    """The number of batches of this process, and that of another."""
    return np.stack([number, number // 2])


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"chunk": 0}, "chunk"),
        *(({"percentile": percent}, "percentile") for percent in (0, 101)),
        ({"layers": ("conv9",)}, "conv9"),
        ({"layers": ()}, "no layers"),
        ({"layers": "conv0"}, r"got 'conv0': write \['conv0'\]"),
        ({"batch_size": 0}, "batch_size"),
        ({"images": images(8).at[7].mul(9), "batch_size": 3}, "poisson takes pixels"),  # in the last batch
        ({"images": images(8), "batch_size": 2, "all_gather": of_half_as_many}, r"as many batches each, got \[4, 2\]"),
        ({"variables": {"conv1": {"kernel": -jnp.ones((3, 3, 4, 6))}}, "num_steps": 6}, "conv1 has maximum"),
        # XLA:CPU's maximum of so many numbers would pass over the one that is not finite.
        *(
            ({"images": SPOILED.at[3, 1, 1].set(number), "encode": constant, "percentile": percent}, "conv0 is not fin")
            for number in (jnp.nan, -jnp.inf)
            for percent in (100, 90)
        ),
    ],
)
def test_bad_arguments_of_balancing_are_refused(arguments, word):
    snn, variables = random_snn(SMALL_VGG, seed=0, leak=1.0)
    given = {"variables": {}, "images": images(2), "encode": poisson, "num_steps": 4, **arguments}
    weights = {"params": variables["params"] | given.pop("variables")}
    with pytest.raises(ValueError, match=word):
        balance_thresholds(snn, weights, key=KEY, **given)


def percentile(chunks, percent):
    def counts(histogram, *arguments):
        return total([histogram(jnp.asarray(chunk, jnp.float32), jnp.bool_(True), *arguments) for chunk in chunks])

    upper = upper_half(counts(upper_histogram), percent)
    return from_halves(upper, counts(lower_histogram, jnp.uint32(upper.bits)))


NUMBERS = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40)


@settings(max_examples=25, derandomize=False)
@given(NUMBERS, st.sampled_from([0.5, 1, 25, 50, 90, 99.7, 100]))
def test_the_percentile_of_a_stream_equals_numpys_on_any_numbers(numbers, percent):
    chunks = np.resize(np.array(numbers, np.float32), (4, 10))  # one shape, so one compilation
    assert percentile(chunks, percent) == np.percentile(chunks, percent, method="inverted_cdf")


@pytest.mark.parametrize(("percentile", "size", "rank"), [(7, 100, 7), (55, 100, 55), (99.9, 1000, 999)])
def test_the_rank_is_that_of_the_percentile_as_it_is_written(percentile, size, rank):
    assert upper_half(np.ones(size, np.int64), percentile).bits == rank - 1
