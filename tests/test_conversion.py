from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn import layerwise
from jsnn.balancing import balance_thresholds
from jsnn.conversion import convert, scale_thresholds
from jsnn.encoding import constant, poisson
from jsnn.layers import Layer
from jsnn.models import VGG, ResNet, spiking
from jsnn.simulation import Presentation
from jsnn.surrogate import stdb
from tests.networks import IMAGE_SHAPE, SMALL_RESNET, SMALL_VGG, random_snn

KEY = jax.random.key(8)
STEPS = 30


def images(batch: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (batch, *IMAGE_SHAPE)), jnp.float32)


@cache
def balanced(ann, percentile: float, **options: int | tuple[str, ...]) -> dict[str, jax.Array]:
    """Thresholds for eight images."""
    model, variables = random_snn(ann, seed=4, leak=0.9)
    weights = {"params": variables["params"]}
    return balance_thresholds(
        model, weights, images(8), poisson, KEY, num_steps=STEPS, percentile=percentile, **options
    )


def largest(current: jax.Array, counted: jax.Array) -> jax.Array:
    return jnp.max(current, where=counted, initial=-jnp.inf)


@partial(jax.jit, static_argnums=0)
def currents(model, variables, x):
    """Input currents of all layers over all steps, at once."""
    inputs = poisson(x, KEY, jnp.arange(len(x)), jnp.arange(STEPS))
    _, seen = model.apply(variables, inputs, mutable=["current"])
    return {layer: exposed["current"] for layer, exposed in seen["current"].items()}


PERCENTILE_OF_A_RESNET = pytest.param(SMALL_RESNET, 99.0, 15, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("ann", "percentile", "chunk"),
    [(SMALL_VGG, 100.0, 10), (SMALL_VGG, 99.0, 15), (SMALL_RESNET, 100.0, 10), PERCENTILE_OF_A_RESNET],
)
def test_thresholds_equal_brute_force(ann, percentile, chunk):
    model, variables = random_snn(ann, seed=4, leak=0.9)
    x, weights = images(8), {"params": variables["params"]}
    thresholds = balanced(ann, percentile, chunk=chunk, batch_size=4)
    assert tuple(thresholds) == model.spiking_layers
    expected = dict.fromkeys(model.spiking_layers, 1.0)
    for layer in model.spiking_layers:
        current = currents(model, convert(weights, expected), x)[layer]
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
    model, variables = random_snn(SMALL_VGG, seed=4, leak=1.0)

    def temporaries(num_steps):
        what = Presentation(model, poisson, num_steps, 8)
        words = {"conv0": jax.ShapeDtypeStruct((num_steps // 8, 4, *IMAGE_SHAPE[:2], 4), jnp.uint8)}
        program = layerwise.observe.lower(
            what, "dense0", "conv1", largest, variables, KEY, images(4), jnp.arange(4), words
        )
        return program.compile().memory_analysis().temp_size_in_bytes

    assert temporaries(2048) - temporaries(64) <= 4 * (2048 - 64)  # the numbers of the time steps themselves


def test_stem_only_leaves_the_blocks_at_one():
    thresholds = balanced(SMALL_RESNET, 100.0, chunk=10, batch_size=4, layers=SMALL_RESNET.stem_layers)
    assert tuple(thresholds) == SMALL_RESNET.spiking_layers
    for layer, threshold in thresholds.items():
        assert (threshold == 1) == (layer not in SMALL_RESNET.stem_layers)


def test_the_weights_are_the_very_same_arrays():
    _, variables = random_snn(SMALL_VGG, seed=0, leak=1.0)
    weights = {"params": variables["params"]}
    snn = scale_thresholds(convert(weights, dict.fromkeys(SMALL_VGG.spiking_layers, 2.0), leak=0.9), 0.7)
    for one, other in zip(jax.tree.leaves(snn["params"]), jax.tree.leaves(weights["params"]), strict=True):
        assert one is other
    for values in snn["neuron"].values():
        chex.assert_trees_all_close(values, {"threshold": jnp.float32(1.4), "leak": jnp.float32(0.9)})


@pytest.mark.parametrize(
    "ann",
    [
        VGG(stages=(4, "A", 6), hidden=(8,), num_classes=3, dense_std=0.3),
        ResNet(blocks=(1, 1, 0, 0), channels=(4, 6, 6, 6), num_classes=3),
    ],
    ids=["vgg", "resnet"],
)
def test_firing_rates_tend_to_the_relu_activations(ann):
    """The rate of a layer is its ReLU over the product of the thresholds up to it; the error is of order 1 / T."""
    x = images(4)
    variables = jax.jit(ann.init)(jax.random.key(2), x)
    model = spiking(ann, stdb())
    thresholds = balance_thresholds(model, variables, x, constant, KEY, num_steps=64)
    snn = convert(variables, thresholds)

    @jax.jit
    def of_layers(variables):
        of_layer = {"capture_intermediates": lambda module, _: isinstance(module, Layer), "mutable": ["intermediates"]}
        return ann.apply(variables, x, **of_layer)[1]["intermediates"]

    @jax.jit
    def trains(snn):
        return model.apply(snn, jnp.broadcast_to(x, (1024, *x.shape)), mutable=["spikes"])[1]["spikes"]

    captured, spikes = of_layers(variables), jax.device_get(trains(snn))

    def errors(num_steps):
        scale, found = 1.0, {}
        for layer in model.spiking_layers:
            scale *= thresholds[layer]
            activation = captured[layer]["__call__"][0] / scale
            assert activation.max() > 0.02, layer
            found[layer] = float(np.abs(spikes[layer]["spikes"][:num_steps].mean(0) - activation).mean())
        return found

    short, middle, long = errors(64), errors(256), errors(1024)
    for layer in model.spiking_layers:
        assert short[layer] > 2 * middle[layer] > 4 * long[layer] > 0, layer


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda tree: tree["params"]["conv1"].update(bias=jnp.zeros(5)), "params/conv1/bias .*no bias"),
        (
            lambda tree: tree["params"].update(BatchNorm_0={"scale": jnp.ones(4)}),
            "BatchNorm_0/scale .*batch norm",
        ),
        (lambda tree: tree.update(batch_stats={"bn": {"mean": jnp.ones(4)}}), "batch_stats/bn/mean .*batch norm"),
        (
            lambda tree: tree["params"].update(attention={"kernel": jnp.ones((2, 2))}),
            "params/attention/kernel .*no kernel",
        ),
        (lambda tree: tree["params"]["dense0"].update(kernel=jnp.full((2, 2), jnp.nan)), "params/dense0/kernel .*NaN"),
        (lambda tree: tree["params"].pop("conv0"), "params/conv0 .*no weights"),
    ],
    ids=["bias", "batch norm", "batch statistics", "unknown layer", "NaN", "missing layer"],
)
def test_trees_that_cannot_be_converted_are_refused_by_path(change, path):
    _, variables = random_snn(SMALL_VGG, seed=0, leak=1.0)
    tree = {"params": {layer: dict(leaf) for layer, leaf in variables["params"].items()}}
    change(tree)
    with pytest.raises(ValueError, match=path):
        convert(tree, dict.fromkeys(SMALL_VGG.spiking_layers, 1.0))


@pytest.mark.parametrize(
    ("thresholds", "leak", "word"),
    [(0.0, 1.0, "threshold of conv0"), (-1.0, 1.0, "threshold"), (float("nan"), 1.0, "threshold")]
    + [(1.0, leak, "leak") for leak in (0.0, -0.5, 1.1, float("nan"))],
)
def test_thresholds_and_leaks_out_of_range_are_refused(thresholds, leak, word):
    _, variables = random_snn(SMALL_VGG, seed=0, leak=1.0)
    with pytest.raises(ValueError, match=word):
        convert({"params": variables["params"]}, dict.fromkeys(SMALL_VGG.spiking_layers, thresholds), leak)


@pytest.mark.parametrize("factor", [0, -0.7, float("inf")])
def test_factors_out_of_range_are_refused(factor):
    _, variables = random_snn(SMALL_VGG, seed=0, leak=1.0)
    with pytest.raises(ValueError, match="factor"):
        scale_thresholds(variables, factor)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"num_steps": 4, "chunk": 0}, "chunk"),
        ({"num_steps": 4, "percentile": 0}, "percentile"),
        ({"num_steps": 4, "percentile": 101}, "percentile"),
        ({"num_steps": 4, "layers": ("conv9",)}, "conv9"),
        ({"num_steps": 4, "batch_size": 0}, "batch_size"),
    ],
)
def test_bad_arguments_of_balancing_are_refused(arguments, word):
    model, variables = random_snn(SMALL_VGG, seed=0, leak=1.0)
    with pytest.raises(ValueError, match=word):
        balance_thresholds(model, {"params": variables["params"]}, images(2), poisson, KEY, **arguments)


def test_a_layer_without_positive_current_is_refused_by_name():
    model, variables = random_snn(SMALL_VGG, seed=0, leak=1.0)
    weights = {"params": {**variables["params"], "conv1": {"kernel": -jnp.ones((3, 3, 4, 6))}}}
    with pytest.raises(ValueError, match="conv1 has maximum"):
        balance_thresholds(model, weights, images(2), poisson, KEY, num_steps=6)


def test_conversion_works_inside_transformations():
    _, variables = random_snn(SMALL_VGG, seed=0, leak=1.0)

    @jax.jit
    def scaled(weights, threshold, leak, factor):
        thresholds = dict.fromkeys(SMALL_VGG.spiking_layers, threshold)
        return scale_thresholds(convert(weights, thresholds, leak), factor)["neuron"]["conv0"]

    chex.assert_trees_all_close(
        scaled({"params": variables["params"]}, 2.0, 0.9, 0.5), {"threshold": jnp.float32(1), "leak": jnp.float32(0.9)}
    )
