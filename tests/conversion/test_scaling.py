"""Whatever the thresholds: a conversion leaves the weights as they are, and factors scale thresholds and no more."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jsnn.conversion import convert, from_paper_thresholds, paper_thresholds, scale_paper_thresholds, scale_thresholds
from jsnn.network.transformation import NEURONS, spiking
from tests.networks import IMAGE_SHAPE, SMALL_RESNET
from tests.properties import many

ORDER = SMALL_RESNET.spiking_layers
WEIGHTS = jax.tree.map(
    lambda leaf: jnp.ones(leaf.shape),
    jax.eval_shape(SMALL_RESNET.init, jax.random.key(0), jnp.zeros((1, *IMAGE_SHAPE))),
)
seeds, factors = st.integers(0, 2**32 - 1), st.floats(0.01, 10)
leaks = st.sampled_from([1.0, 0.99, 0.5]) | st.floats(0.015625, 1.0, width=32)


def assert_holds(variables, thresholds, leak, rtol=1e-6):
    """The very same arrays of weights, thresholds as given, and all else of the neurons."""
    leaves = zip(jax.tree.leaves(variables["params"]), jax.tree.leaves(WEIGHTS["params"]), strict=True)
    assert all(one is other for one, other in leaves)
    assert tuple(variables[NEURONS]) == ORDER
    assert all(sorted(values) == ["initial", "leak", "threshold"] for values in variables[NEURONS].values())
    actual = [[float(values[name]) for name in sorted(values)] for values in variables[NEURONS].values()]
    expected = [[0, np.float32(leak), thresholds[layer]] for layer in ORDER]
    np.testing.assert_allclose(actual, expected, rtol=rtol)


@many
@given(seeds, leaks, factors, factors)
def test_a_conversion_keeps_the_weights_and_a_factor_scales_all_thresholds(seed, leak, factor, other):
    rng = np.random.default_rng(seed)
    thresholds = {layer: np.float32(rng.uniform(0.01, 100)) for layer in ORDER}
    variables = convert(spiking(SMALL_RESNET.apply), WEIGHTS, thresholds, leak=leak)
    assert_holds(variables, thresholds, leak, rtol=0)
    there = scale_thresholds(scale_thresholds(variables, factor), other)
    assert_holds(there, {layer: factor * other * value for layer, value in thresholds.items()}, leak)
    assert_holds(scale_thresholds(there, 1 / (factor * other)), thresholds, leak)


@many
@given(seeds, st.floats(0.25, 4))
def test_a_factor_scales_each_threshold_in_the_papers_units(seed, factor):
    rng = np.random.default_rng(seed)
    papers = {layer: rng.uniform(0.1, 3) for layer in ORDER}
    thresholds = from_paper_thresholds(papers)
    there_and_back = paper_thresholds(thresholds)
    assert list(there_and_back) == list(papers)
    np.testing.assert_allclose(list(there_and_back.values()), list(papers.values()), rtol=1e-12)
    scaled = scale_paper_thresholds(convert(spiking(SMALL_RESNET.apply), WEIGHTS, thresholds), factor, ORDER)
    assert_holds(scaled, from_paper_thresholds({layer: factor * v for layer, v in papers.items()}), 1.0, rtol=1e-5)
    expected = {layer: factor**depth * thresholds[layer] for depth, layer in enumerate(ORDER, start=1)}
    assert_holds(scaled, expected, 1.0, rtol=1e-5)
