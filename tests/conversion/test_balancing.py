"""Balanced thresholds equal brute force, for all layers or some, in bounded memory; bad arguments are refused."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.conversion import balance_thresholds, convert, layerwise, paper_thresholds
from jsnn.encoding import constant, poisson
from jsnn.models import ResNet
from jsnn.network.simulation import Presentation, simulate
from tests.networks import IMAGE_SHAPE, SMALL_VGG, TINY_VGG, images, random_snn

KEY = jax.random.key(8)
STEPS = 30
SPOILED = jnp.full((64, *IMAGE_SHAPE), 0.5)


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


KEPT_AS_BITS = {"chunk": 10, "batch_size": 4}
FROM_THE_INPUT = {"chunk": 8, "batch_size": 8, "keep_bytes": 0}  # every layer is run again from the input
WITH_A_SHORTCUT = ResNet(blocks=(0, 1, 0, 0), channels=(4, 6, 6, 6), num_classes=3)


@pytest.mark.parametrize(
    ("ann", "percentile", "options"),
    [
        (TINY_VGG, 100.0, FROM_THE_INPUT),
        (SMALL_VGG, 99.0, KEPT_AS_BITS),
        (WITH_A_SHORTCUT, 100.0, KEPT_AS_BITS),
    ],
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
    """In the paper's units each of the blocks' thresholds is 1."""
    stem = WITH_A_SHORTCUT.stem_layers
    thresholds = balanced(WITH_A_SHORTCUT, 100.0, chunk=10, batch_size=4, layers=stem)
    assert tuple(thresholds) == WITH_A_SHORTCUT.spiking_layers
    everywhere = balanced(WITH_A_SHORTCUT, 100.0, chunk=10, batch_size=4)
    for layer, threshold in thresholds.items():
        np.testing.assert_allclose(threshold, everywhere[layer if layer in stem else stem[-1]], rtol=1e-6)
    for layer, threshold in paper_thresholds(thresholds).items():
        assert (threshold == 1) == (layer not in stem)


def test_layers_before_the_first_balanced_have_the_paper_s_one():
    last = SMALL_VGG.spiking_layers[-1]
    thresholds = balanced(SMALL_VGG, 100.0, chunk=10, batch_size=4, layers=(last,))
    assert all((threshold == 1) == (layer != last) for layer, threshold in thresholds.items())


def gathered(number):
    """The number of batches of this process, and half as many of another."""
    return np.stack([number, number // 2])


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"chunk": 0}, "chunk"),
        ({"percentile": 0}, "percentile"),
        ({"percentile": 101}, "percentile"),
        ({"layers": ("conv9",)}, "conv9"),
        ({"layers": ()}, "no layers"),
        ({"layers": "conv0"}, r"got 'conv0': write \['conv0'\]"),
        ({"batch_size": 0}, "batch_size"),
        ({"images": images(8).at[7].mul(9), "batch_size": 3}, "poisson takes pixels"),  # in the last batch
        ({"images": images(8), "batch_size": 2, "all_gather": gathered}, r"as many batches each, got \[4, 2\]"),
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
