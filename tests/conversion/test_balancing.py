"""Balanced thresholds equal brute force, for all layers or some, in bounded memory; bad arguments are refused."""

from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.conversion import balance_thresholds, convert, layerwise, paper_thresholds
from jsnn.encoding import constant, poisson
from jsnn.network.simulation import Presentation, simulate
from tests.networks import IMAGE_SHAPE, SMALL_RESNET, SMALL_VGG, images, random_snn

KEY = jax.random.key(8)
STEPS = 30


@cache
def balanced(ann, percentile: float, **options: int | tuple[str, ...]) -> dict[str, jax.Array]:
    """Thresholds for eight images."""
    snn, variables = random_snn(ann, seed=4, leak=0.9)
    weights = {"params": variables["params"]}
    return balance_thresholds(snn, weights, images(8), poisson, KEY, num_steps=STEPS, percentile=percentile, **options)


def largest(current: jax.Array, counted: jax.Array) -> jax.Array:
    return jnp.max(current, where=counted, initial=-jnp.inf)


@partial(jax.jit, static_argnums=0)
def currents(snn, variables, x):
    """Input currents of all layers over all steps, at once."""
    return simulate(
        snn,
        variables,
        lambda time: poisson(x, KEY, jnp.arange(len(x)), time),
        lambda observed: observed.layers["currents"],
        num_steps=STEPS,
        chunk=STEPS,
        collect=("currents",),
    )


PERCENTILE_OF_A_RESNET = pytest.param(SMALL_RESNET, 99.0, 15, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("ann", "percentile", "chunk"),
    [(SMALL_VGG, 100.0, 10), (SMALL_VGG, 99.0, 15), (SMALL_RESNET, 100.0, 10), PERCENTILE_OF_A_RESNET],
)
def test_thresholds_equal_brute_force(ann, percentile, chunk):
    snn, variables = random_snn(ann, seed=4, leak=0.9)
    x, weights = images(8), {"params": variables["params"]}
    thresholds = balanced(ann, percentile, chunk=chunk, batch_size=4)
    assert tuple(thresholds) == ann.spiking_layers
    expected = dict.fromkeys(ann.spiking_layers, 1.0)
    for layer in ann.spiking_layers:
        current = currents(snn, convert(snn, weights, expected), x)[layer]
        expected[layer] = float(np.percentile(current, percentile, method="inverted_cdf"))
        np.testing.assert_allclose(thresholds[layer], expected[layer], rtol=1e-5, err_msg=layer)


@pytest.mark.parametrize(
    ("ann", "percentile", "chunk"), [(SMALL_VGG, 99.0, 15), (SMALL_RESNET, 100.0, 10)], ids=["vgg", "resnet"]
)
def test_thresholds_do_not_depend_on_what_is_kept_or_how_it_is_cut(ann, percentile, chunk):
    """Kept as bits, or run again from the input for every layer: the same, but for the order of sums."""
    one_pass = balanced(ann, percentile, chunk=chunk, batch_size=4)
    from_the_input = balanced(ann, percentile, chunk=8, batch_size=8, keep_bytes=0)
    chex.assert_trees_all_close(one_pass, from_the_input, rtol=1e-6)


@pytest.mark.usefixtures("optimized")
def test_memory_of_balancing_is_bounded_by_the_chunk():
    snn, variables = random_snn(SMALL_VGG, seed=4, leak=1.0)

    def temporaries(num_steps):
        presentation = Presentation(snn, poisson, num_steps, 8)
        words = {"conv0": jax.ShapeDtypeStruct((num_steps // 8, 4, *IMAGE_SHAPE[:2], 4), jnp.uint8)}
        program = layerwise.probe_layer.lower(
            presentation,
            layerwise.Probe("dense0", ("conv1",), largest),
            variables,
            (images(4), jnp.arange(4), KEY),
            words,
        )
        return program.compile().memory_analysis().temp_size_in_bytes

    assert temporaries(2048) - temporaries(64) <= 4 * (2048 - 64)  # the numbers of the time steps themselves


def test_stem_only_gives_the_blocks_the_threshold_before_them():
    """Which is the paper's 1."""
    stem = SMALL_RESNET.stem_layers
    thresholds = balanced(SMALL_RESNET, 100.0, chunk=10, batch_size=4, layers=stem)
    assert tuple(thresholds) == SMALL_RESNET.spiking_layers
    everywhere = balanced(SMALL_RESNET, 100.0, chunk=10, batch_size=4)
    for layer, threshold in thresholds.items():
        np.testing.assert_allclose(threshold, everywhere[layer if layer in stem else stem[-1]], rtol=1e-6)
    for layer, threshold in paper_thresholds(thresholds).items():
        assert (threshold == 1) == (layer not in stem)


def test_layers_before_the_first_balanced_have_the_paper_s_one():
    last = SMALL_VGG.spiking_layers[-1]
    thresholds = balanced(SMALL_VGG, 100.0, chunk=10, batch_size=4, layers=(last,))
    assert all((threshold == 1) == (layer != last) for layer, threshold in thresholds.items())


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"num_steps": 4, "chunk": 0}, "chunk"),
        ({"num_steps": 4, "percentile": 0}, "percentile"),
        ({"num_steps": 4, "percentile": 101}, "percentile"),
        ({"num_steps": 4, "layers": ("conv9",)}, "conv9"),
        ({"num_steps": 4, "layers": ()}, "no layers"),
        ({"num_steps": 4, "batch_size": 0}, "batch_size"),
    ],
)
def test_bad_arguments_of_balancing_are_refused(arguments, word):
    snn, variables = random_snn(SMALL_VGG, seed=0, leak=1.0)
    with pytest.raises(ValueError, match=word):
        balance_thresholds(snn, {"params": variables["params"]}, images(2), poisson, KEY, **arguments)


def test_a_layer_without_positive_current_is_refused_by_name():
    snn, variables = random_snn(SMALL_VGG, seed=0, leak=1.0)
    weights = {"params": {**variables["params"], "conv1": {"kernel": -jnp.ones((3, 3, 4, 6))}}}
    with pytest.raises(ValueError, match="conv1 has maximum"):
        balance_thresholds(snn, weights, images(2), poisson, KEY, num_steps=6)


@pytest.mark.parametrize("percentile", [100, 90])
@pytest.mark.parametrize("number", [jnp.nan, -jnp.inf])
def test_a_current_that_is_not_finite_is_refused(number, percentile):
    """XLA:CPU's maximum of so many numbers would pass over it."""
    snn, variables = random_snn(SMALL_VGG, seed=0, leak=1.0)
    ann = {"params": variables["params"]}
    spoiled = jnp.full((64, *images(1).shape[1:]), 0.5).at[3, 1, 1].set(number)
    with pytest.raises(ValueError, match="conv0 is not finite"):
        balance_thresholds(snn, ann, spoiled, constant, KEY, num_steps=2, percentile=percentile)


def test_one_name_of_a_layer_is_no_sequence_of_names():
    snn, variables = random_snn(SMALL_VGG, seed=4, leak=0.9)
    with pytest.raises(ValueError, match=r"got 'conv0': write \['conv0'\]"):
        balance_thresholds(snn, variables, images(2), poisson, KEY, num_steps=2, layers="conv0")


def test_pixels_out_of_range_are_refused_in_every_batch():
    snn, variables = random_snn(SMALL_VGG, seed=4, leak=0.9)
    with pytest.raises(ValueError, match="poisson takes pixels"):
        balance_thresholds(snn, variables, images(8).at[7].mul(9), poisson, KEY, num_steps=STEPS, batch_size=3)


def test_processes_with_other_numbers_of_batches_are_refused():
    """Of which the one with more would wait for ever."""
    snn, variables = random_snn(SMALL_VGG, seed=4, leak=0.9)
    with pytest.raises(ValueError, match=r"as many batches each, got \[4, 2\]"):
        balance_thresholds(
            snn,
            variables,
            images(8),
            poisson,
            KEY,
            num_steps=STEPS,
            batch_size=2,
            all_gather=lambda number: np.stack([number, number // 2]),
        )
