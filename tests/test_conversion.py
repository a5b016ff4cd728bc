from functools import cache, partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.conversion import (
    balance_thresholds,
    convert,
    from_paper_thresholds,
    layerwise,
    paper_thresholds,
    scale_paper_thresholds,
    scale_thresholds,
)
from jsnn.encoding import constant, poisson
from jsnn.models import VGG, ResNet
from jsnn.network.simulation import Presentation, simulate
from jsnn.network.transformation import NEURONS, spiking
from jsnn.neurons import hard_reset_lif
from tests.networks import IMAGE_SHAPE, SMALL_RESNET, SMALL_VGG, random_snn

KEY = jax.random.key(8)
STEPS = 30


def images(batch: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (batch, *IMAGE_SHAPE)), jnp.float32)


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


def test_the_weights_are_the_very_same_arrays():
    snn, variables = random_snn(SMALL_VGG, seed=0, leak=1.0)
    weights = {"params": variables["params"]}
    scaled = scale_thresholds(convert(snn, weights, dict.fromkeys(SMALL_VGG.spiking_layers, 2.0), leak=0.9), 0.7)
    for one, other in zip(jax.tree.leaves(scaled["params"]), jax.tree.leaves(weights["params"]), strict=True):
        assert one is other
    expected = {"threshold": jnp.float32(1.4), "leak": jnp.float32(0.9), "initial": jnp.float32(0)}
    for values in scaled[NEURONS].values():
        chex.assert_trees_all_close(values, expected)


def test_one_factor_scales_all_thresholds_or_all_of_the_paper_s():
    _, variables = random_snn(SMALL_RESNET, seed=0, leak=0.9)
    order = SMALL_RESNET.spiking_layers

    def thresholds(variables):
        return {layer: float(variables[NEURONS][layer]["threshold"]) for layer in order}

    before = thresholds(variables)
    for layer, threshold in thresholds(scale_thresholds(variables, 0.7)).items():
        assert threshold == pytest.approx(0.7 * before[layer])
    scaled = thresholds(scale_paper_thresholds(variables, 0.7, order))
    for depth, (layer, threshold) in enumerate(scaled.items(), start=1):
        assert threshold == pytest.approx(0.7**depth * before[layer])
    of_paper = {layer: 0.7 * threshold for layer, threshold in paper_thresholds(before).items()}
    chex.assert_trees_all_close(from_paper_thresholds(of_paper), scaled, rtol=1e-5)
    for scale in (partial(scale_thresholds, factor=0.7), partial(scale_paper_thresholds, factor=0.7, order=order)):
        chex.assert_trees_all_equal(_without_thresholds(scale(variables)), _without_thresholds(variables))


def _without_thresholds(variables):
    neurons = variables[NEURONS].items()
    kept = {layer: {k: v for k, v in values.items() if k != "threshold"} for layer, values in neurons}
    return {**variables, NEURONS: kept}


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
        ResNet(blocks=(1, 1, 0, 0), channels=(4, 6, 6, 6), num_classes=3),
        pytest.param(
            ResNet(blocks=(1, 1, 0, 0), channels=(4, 6, 6, 6), num_classes=3, norm="batch"), marks=pytest.mark.slow
        ),
    ],
    ids=["vgg", "resnet", "resnet with batch norm"],
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


def test_weights_that_are_not_finite_are_refused_by_path():
    snn, variables = random_snn(SMALL_VGG, seed=0, leak=1.0)
    params = {**variables["params"], "dense0": {"kernel": jnp.full((2, 2), jnp.nan)}}
    with pytest.raises(ValueError, match=r"params/dense0/kernel .*NaN"):
        convert(snn, {"params": params}, dict.fromkeys(SMALL_VGG.spiking_layers, 1.0))
    with pytest.raises(ValueError, match=r"params/dense0/kernel .*NaN"):
        balance_thresholds(snn, {"params": params}, images(2), poisson, KEY, num_steps=6)


def test_parameters_that_the_neurons_lack_are_refused_by_name():
    _, variables = random_snn(SMALL_VGG, seed=0, leak=1.0)
    snn = spiking(SMALL_VGG.apply, hard_reset_lif())
    with pytest.raises(ValueError, match="no 'decay', but threshold, leak, initial"):
        convert(snn, {"params": variables["params"]}, dict.fromkeys(SMALL_VGG.spiking_layers, 1.0), decay=0.5)


@pytest.mark.parametrize(
    ("thresholds", "leak", "word"),
    [(0.0, 1.0, "threshold of conv0"), (-1.0, 1.0, "threshold"), (float("nan"), 1.0, "threshold")]
    + [(1.0, leak, "leak") for leak in (0.0, -0.5, 1.1, float("nan"))],
)
def test_thresholds_and_leaks_out_of_range_are_refused(thresholds, leak, word):
    snn, variables = random_snn(SMALL_VGG, seed=0, leak=1.0)
    weights = {"params": variables["params"]}
    with pytest.raises(ValueError, match=word):
        convert(snn, weights, dict.fromkeys(SMALL_VGG.spiking_layers, thresholds), leak=leak)


@pytest.mark.parametrize("factor", [0, -0.7, float("inf")])
def test_factors_out_of_range_are_refused(factor):
    _, variables = random_snn(SMALL_VGG, seed=0, leak=1.0)
    with pytest.raises(ValueError, match="factor"):
        scale_thresholds(variables, factor)
    with pytest.raises(ValueError, match="factor"):
        scale_paper_thresholds(variables, factor, SMALL_VGG.spiking_layers)


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


def test_a_current_that_is_not_finite_is_refused():
    """XLA:CPU's maximum of so many numbers would pass over it."""
    snn, variables = random_snn(SMALL_VGG, seed=0, leak=1.0)
    spoiled = jnp.full((64, *images(1).shape[1:]), 0.5).at[3, 1, 1].set(jnp.nan)
    with pytest.raises(ValueError, match="conv0 has maximum or percentile nan"):
        balance_thresholds(snn, {"params": variables["params"]}, spoiled, constant, KEY, num_steps=2)


def test_conversion_works_inside_transformations():
    snn, variables = random_snn(SMALL_VGG, seed=0, leak=1.0)

    @jax.jit
    def scaled(weights, threshold, leak, factor):
        thresholds = dict.fromkeys(SMALL_VGG.spiking_layers, threshold)
        return scale_thresholds(convert(snn, weights, thresholds, leak=leak), factor)[NEURONS]["conv0"]

    expected = {"threshold": jnp.float32(1), "leak": jnp.float32(0.9), "initial": jnp.float32(0)}
    chex.assert_trees_all_close(scaled({"params": variables["params"]}, 2.0, 0.9, 0.5), expected)
