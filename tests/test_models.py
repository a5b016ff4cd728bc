from itertools import product

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.models import ARCHITECTURES, ResNet, build, spiking
from jsnn.surrogate import stdb

SHAPES = {"28": (28, 28, 1), "32": (32, 32, 3), "224": (224, 224, 3)}


def shapes_of(model, batch_shape, image_shape):
    images = jax.ShapeDtypeStruct((*batch_shape, *image_shape), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)


# A shallow and a deep network of both kinds, the deep ones with more pools for large images; the rest repeats.
ESSENTIAL = [("vgg5", "28"), ("vgg16", "32"), ("vgg16", "224"), ("resnet8", "28"), ("resnet20", "32")]
OTHERS = [case for case in product(ARCHITECTURES, SHAPES) if case not in ESSENTIAL]


@pytest.mark.parametrize(
    ("architecture", "side"), [*ESSENTIAL, *(pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS)]
)
def test_ann_and_snn_have_the_same_weights(architecture, side):
    ann = build(architecture, 10)
    snn = spiking(ann, stdb())
    weights, variables = shapes_of(ann, (2,), SHAPES[side]), shapes_of(snn, (3, 2), SHAPES[side])
    chex.assert_trees_all_equal_shapes_and_dtypes(weights["params"], variables["params"])
    assert set(weights) == {"params"}
    assert set(variables) == {"params", "neuron"}
    assert set(variables["neuron"]) == set(snn.spiking_layers)
    shortcuts = {name for name in weights["params"] if name.endswith("_shortcut")}
    assert set(weights["params"]) - shortcuts == {*snn.spiking_layers, "readout"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layers_run_in_the_order_of_their_names(architecture):
    ann, names = build(architecture, 10, width=1 / 64, hidden=(4, 4)), []

    def init():  # traced alone; a function's result would have its names sorted
        names.extend(ann.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"])

    jax.eval_shape(init)
    assert tuple(name for name in names if "shortcut" not in name) == (*ann.spiking_layers, "readout")


@pytest.mark.parametrize(
    ("architecture", "image_shape", "dense_input"),
    [
        ("vgg5", SHAPES["32"], 8 * 8 * 128),
        ("vgg16", SHAPES["32"], 2 * 2 * 512),
        ("vgg16", SHAPES["224"], 7 * 7 * 512),
        ("vgg5", SHAPES["28"], 7 * 7 * 128),
        ("vgg5", SHAPES["224"], 7 * 7 * 128),
        ("resnet20", SHAPES["32"], 2 * 2 * 512),
        ("resnet34", SHAPES["224"], 7 * 7 * 512),
    ],
)
def test_dense_input_is_of_a_sane_size(architecture, image_shape, dense_input):
    params = shapes_of(build(architecture, 10), (1,), image_shape)["params"]
    first_dense = "readout" if architecture.startswith("resnet") else "dense0"
    assert params[first_dense]["kernel"].shape[0] == dense_input


def test_parameter_counts_of_the_paper():
    def count(architecture):
        params = shapes_of(build(architecture, 10), (1,), SHAPES["32"])
        return sum(leaf.size for leaf in jax.tree.leaves(params))

    assert count("vgg5") == 9 * (3 * 64 + 64 * 128 + 128 * 128) + 8192 * 4096 + 4096 * 4096 + 4096 * 10
    assert 11e6 < count("resnet20") < 12e6


def test_initial_weights_follow_the_recipe():
    ann = build("vgg5", 10, hidden=(512,))
    params = jax.jit(ann.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    np.testing.assert_allclose(params["conv1"]["kernel"].std(), np.sqrt(2 / (9 * 128)), rtol=0.02)
    np.testing.assert_allclose(params["dense0"]["kernel"].std(), 0.01, rtol=0.02)


def test_dropout_holds_one_mask_over_time():
    snn = spiking(build("vgg5", 3, width=1 / 16, hidden=(8,), conv_dropout=0.5), stdb())
    inputs = jnp.ones((1, 2, 8, 8, 1)).repeat(6, 0)
    variables = jax.jit(snn.init)(jax.random.key(0), inputs)
    run = jax.jit(lambda x, key: snn.apply(variables, x, jnp.arange(2), rngs={"dropout": key}, mutable=["masks"])[1])
    short, long = run(inputs[:1], jax.random.key(1)), run(inputs, jax.random.key(1))
    chex.assert_trees_all_equal(short, long)  # no time axis, the same whatever the number of steps
    assert set(short["masks"]) == {"conv1_dropout", "dense0_dropout"}
    chex.assert_shape(short["masks"]["conv1_dropout"]["mask"], (2, 4, 4, 8))
    other = run(inputs, jax.random.key(2))
    assert (other["masks"]["conv1_dropout"]["mask"] != long["masks"]["conv1_dropout"]["mask"]).any()


def test_the_shortcut_enters_the_second_neuron_of_a_block():
    """With all weights of a block zero, an identity block repeats its input's activation."""
    model = ResNet(blocks=(1, 0, 0, 0), channels=(4, 4, 4, 4), num_classes=3)
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    params = jax.jit(model.init)(jax.random.key(1), images)["params"]
    for name in ("block0_conv0", "block0_conv1"):
        params[name] = jax.tree.map(jnp.zeros_like, params[name])
    without = ResNet(blocks=(0, 0, 0, 0), channels=(4, 4, 4, 4), num_classes=3)
    stem_only = {name: params[name] for name in ("conv0", "conv1", "conv2", "readout")}
    found, expected = (
        jax.jit(net.apply)({"params": weights}, images) for net, weights in ((model, params), (without, stem_only))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_too_small_images_are_refused():
    with pytest.raises(ValueError, match=r"too small .* 1x1 cannot be pooled"):
        shapes_of(build("vgg16", 10), (1,), (8, 8, 1))


def test_dropout_without_sample_indices_is_refused():
    model = build("vgg5", 10, width=1 / 16, hidden=(4,))
    images, variables = jnp.zeros((1, 8, 8, 1)), shapes_of(model, (1,), (8, 8, 1))
    with pytest.raises(ValueError, match="index"):
        jax.eval_shape(lambda variables: model.apply(variables, images, rngs={"dropout": jax.random.key(0)}), variables)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"architecture": "vgg7"}, "vgg7"),
        ({"num_classes": 1}, "num_classes"),
        ({"width": 0}, "width"),
        ({"hidden": (0,)}, "hidden"),
        ({"conv_dropout": 1.0}, "conv_dropout"),
        ({"dense_dropout": -0.1}, "dense_dropout"),
    ],
)
def test_bad_arguments_are_refused(arguments, word):
    with pytest.raises(ValueError, match=word):
        build(**{"architecture": "vgg5", "num_classes": 10, **arguments})
