from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.models import ARCHITECTURES, VGG, ResNet, build, dropout_of
from jsnn.models.layers import Dropout
from jsnn.network.simulation import simulate
from jsnn.network.transformation import NEURONS, spiking

SHAPES = {"28": (28, 28, 1), "32": (32, 32, 3), "224": (224, 224, 3)}


def shapes_of(model, image_shape):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *image_shape)))


# A shallow and a deep network of both kinds, the deep ones with more pools for large images; the rest repeats.
ESSENTIAL = [("vgg5", "28"), ("vgg16", "32"), ("vgg16", "224"), ("resnet8", "28"), ("resnet20", "32")]
OTHERS = [(name, "224") for name in ARCHITECTURES if name not in dict(ESSENTIAL)]
CASES = [*((*case, None) for case in ESSENTIAL), ("vgg5", "32", "batch"), ("resnet12", "32", "batch")]
CASES += [pytest.param(*case, None, marks=pytest.mark.slow) for case in OTHERS]


@pytest.mark.parametrize(("architecture", "side", "norm"), CASES)
def test_ann_and_snn_have_the_same_weights(architecture, side, norm):
    """Batch norm leaves the names of the layers as they are."""
    ann, x = build(architecture, 10, norm=norm), jnp.zeros((2, *SHAPES[side]))
    snn, weights = spiking(ann.apply), shapes_of(ann, SHAPES[side])
    variables = jax.eval_shape(snn.init, weights, x)
    chex.assert_trees_all_equal_shapes_and_dtypes({**weights, NEURONS: None}, {**variables, NEURONS: None})
    assert set(variables[NEURONS]) == set(ann.spiking_layers)
    assert tuple(snn.trace(weights, x)[0].layers) == ann.spiking_layers
    assert set(weights) == ({"params", "batch_stats"} if norm else {"params"})
    layers = {name for name in weights["params"] if not name.endswith("_norm")}
    norms = set(weights["params"]) - layers
    assert norms == ({f"{name}_norm" for name in layers - {"readout"}} if norm else set())
    assert norms == set(weights.get("batch_stats", ()))
    assert {name for name in layers if not name.endswith("_shortcut")} == {*ann.spiking_layers, "readout"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layers_run_in_the_order_of_their_names(architecture):
    ann, names = build(architecture, 10, width=1 / 64, hidden=(4, 4)), []
    key, x = jax.random.key(0), jnp.zeros((1, 32, 32, 3))
    jax.eval_shape(lambda: names.extend(ann.init(key, x)["params"]))  # a result of it would have its names sorted
    assert tuple(name for name in names if "shortcut" not in name) == (*ann.spiking_layers, "readout")


@pytest.mark.parametrize(
    ("architecture", "image_shape", "dense_input"),
    [
        ("vgg16", SHAPES["32"], 2 * 2 * 512),
        ("vgg16", SHAPES["224"], 7 * 7 * 512),
        ("vgg5", SHAPES["28"], 7 * 7 * 128),
        ("vgg5", SHAPES["224"], 7 * 7 * 128),
        ("resnet20", SHAPES["32"], 2 * 2 * 512),
        ("resnet34", SHAPES["224"], 7 * 7 * 512),
    ],
)
def test_dense_input_is_of_a_sane_size(architecture, image_shape, dense_input):
    params = shapes_of(build(architecture, 10), image_shape)["params"]
    first_dense = "readout" if architecture.startswith("resnet") else "dense0"
    assert params[first_dense]["kernel"].shape[0] == dense_input


def test_parameter_counts_of_the_paper():
    def count(architecture):
        return sum(leaf.size for leaf in jax.tree.leaves(shapes_of(build(architecture, 10), SHAPES["32"])))

    assert count("vgg5") == 9 * (3 * 64 + 64 * 128 + 128 * 128) + 8192 * 4096 + 4096 * 4096 + 4096 * 10
    assert 11e6 < count("resnet20") < 12e6


def test_initial_weights_follow_the_recipe():
    ann = build("vgg5", 10, hidden=(512,))
    params = jax.jit(ann.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    deviations = [params[layer]["kernel"].std() for layer in ("conv1", "dense0")]
    np.testing.assert_allclose(deviations, [np.sqrt(2 / (9 * 128)), 0.01], rtol=0.02)


def test_dropout_holds_one_mask_over_time():
    """The readout, an identity here, shows what the mask leaves of a layer's spikes at every step."""
    ann, x = build("vgg5", 8, width=1 / 16, hidden=(8,), conv_dropout=0.5, dense_std=0.5), jnp.ones((2, 8, 8, 1))
    params = {**jax.jit(ann.init)(jax.random.key(0), x)["params"], "readout": {"kernel": jnp.eye(8)}}
    snn = spiking(ann.apply)
    variables = snn.init({"params": params}, x)

    def observe(observed):
        return observed.results, observed.layers["spikes"]["dense0"]

    @jax.jit
    def run(key):
        noise, times = dropout_of(jnp.arange(2), key), {"num_steps": 12, "chunk": 6}
        shown = simulate(
            snn, variables, lambda time: jnp.stack([x] * len(time)), observe, collect=("spikes",), **times, **noise
        )
        _, sown = ann.apply({"params": params}, x, **noise, mutable=["masks"])
        return *shown, {name: masks["mask"] for name, masks in sown["masks"].items()}

    (results, spikes, masks), other = run(jax.random.key(1)), run(jax.random.key(2))
    np.testing.assert_allclose(results, masks["dense0_dropout"] * spikes, rtol=1e-6)
    assert (spikes.sum(0)[masks["dense0_dropout"] == 0] > 1).any()
    assert (spikes.sum(0)[masks["dense0_dropout"] > 0] > 1).any()
    assert set(masks) == {"conv1_dropout", "dense0_dropout"}
    chex.assert_shape(masks["conv1_dropout"], (2, 4, 4, 8))
    for name, mask in masks.items():
        assert (mask != other[-1][name]).any()


def test_the_shortcut_enters_the_second_neuron_of_a_block():
    """With all weights of a block zero, an identity block repeats its input's activation."""
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    model, without = (ResNet(blocks=(count, 0, 0, 0), channels=(4, 4, 4, 4), num_classes=3) for count in (1, 0))
    params = jax.jit(model.init)(jax.random.key(1), images)["params"]
    params |= {name: jax.tree.map(jnp.zeros_like, params[name]) for name in ("block0_conv0", "block0_conv1")}
    actual, expected = (jax.jit(net.apply)({"params": params}, images) for net in (model, without))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def dropped(index, rate=0.5):
    return Dropout(rate).apply({}, jnp.ones((2, 8)), index, rngs={"dropout": jax.random.key(0)})


def test_dropout_takes_a_list_of_indices():
    np.testing.assert_array_equal(*jax.jit(lambda: [dropped([3, 1]), dropped(jnp.array([3, 1]))])())


vgg5 = partial(build, "vgg5", 10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (partial(dropped, None), "index"),
        # One index for all would give all samples the same mask.
        *((partial(dropped, jnp.arange(size)), rf"\(2,\), got \({size},\)") for size in (1, 3)),
        *((partial(dropped, jnp.arange(2), rate), "rate of dropout") for rate in (1.0, -0.5, 1.5, np.nan)),
        (partial(build, "vgg7", 10), "vgg7"),
        *((partial(build, "vgg5", number), "num_classes") for number in (1, 10.0)),
        (partial(vgg5, width=0), "width"),
        *((partial(vgg5, hidden=units), "hidden") for units in ((0,), 64, (64.0,))),
        (partial(vgg5, conv_dropout=1.0), "conv_dropout"),
        (partial(vgg5, dense_dropout=-0.1), "dense_dropout"),
        (partial(vgg5, norm="layer"), "norm"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (build("vgg16", 10), r"too small .* 1x1 cannot be pooled"),
        (VGG((8, "A"), (4,), norm="batchnorm"), "norm must be one of None, 'batch', 'folded', got 'batchnorm'"),
        (VGG((8, "M"), (4,)), "conv1 needs a whole number of units, at least 1, got 'M'"),
        (VGG((8, "A"), (4.0,)), "dense0 needs a whole number of units"),
        (ResNet((1, 1, 1)), r"blocks and channels are by stage, got \(1, 1, 1\)"),
    ],
)
def test_bad_fields_and_too_small_images_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        shapes_of(model, (8, 8, 1))
