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


def image_of(shape, batch=1):
    return jax.ShapeDtypeStruct((batch, *shape), jnp.float32)


def shapes_of(model, image_shape):
    return jax.eval_shape(model.init, jax.random.key(0), image_of(image_shape))


# A shallow and a deep network of both kinds, the deep ones with more pools for large images; the rest repeats.
ESSENTIAL = [("vgg5", "28"), ("vgg16", "32"), ("vgg16", "224"), ("resnet8", "28"), ("resnet20", "32")]
OTHERS = [(name, "224") for name in ARCHITECTURES if name not in dict(ESSENTIAL)]


@pytest.mark.parametrize(
    ("architecture", "side"), [*ESSENTIAL, *(pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS)]
)
def test_ann_and_snn_have_the_same_weights(architecture, side):
    ann, x = build(architecture, 10), image_of(SHAPES[side], batch=2)
    snn, weights = spiking(ann.apply), shapes_of(ann, SHAPES[side])
    variables = jax.eval_shape(snn.init, weights, x)
    chex.assert_trees_all_equal_shapes_and_dtypes(weights["params"], variables["params"])
    assert set(weights) == {"params"}
    assert set(variables) == {"params", NEURONS}
    assert set(variables[NEURONS]) == set(ann.spiking_layers)
    assert tuple(snn.trace(weights, x)[0].layers) == ann.spiking_layers
    shortcuts = {name for name in weights["params"] if name.endswith("_shortcut")}
    assert set(weights["params"]) - shortcuts == {*ann.spiking_layers, "readout"}


@pytest.mark.parametrize("architecture", ["vgg5", "resnet12"])
def test_batch_norm_leaves_the_names_of_the_layers_as_they_are(architecture):
    ann, x = build(architecture, 10, width=1 / 16, hidden=(8,), norm="batch"), image_of(SHAPES["32"], batch=2)
    weights = shapes_of(ann, SHAPES["32"])
    assert tuple(spiking(ann.apply).trace(weights, x)[0].layers) == ann.spiking_layers
    norms = {name for name in weights["params"] if name.endswith("_norm")}
    assert norms == set(weights["batch_stats"])
    assert {name.removesuffix("_norm") for name in norms} == set(weights["params"]) - norms - {"readout"}


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
    params = shapes_of(build(architecture, 10), image_shape)["params"]
    first_dense = "readout" if architecture.startswith("resnet") else "dense0"
    assert params[first_dense]["kernel"].shape[0] == dense_input


def test_parameter_counts_of_the_paper():
    def count(architecture):
        params = shapes_of(build(architecture, 10), SHAPES["32"])
        return sum(leaf.size for leaf in jax.tree.leaves(params))

    assert count("vgg5") == 9 * (3 * 64 + 64 * 128 + 128 * 128) + 8192 * 4096 + 4096 * 4096 + 4096 * 10
    assert 11e6 < count("resnet20") < 12e6


def test_initial_weights_follow_the_recipe():
    ann = build("vgg5", 10, hidden=(512,))

    @jax.jit
    def deviations():
        params = ann.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
        return [params[layer]["kernel"].std() for layer in ("conv1", "dense0")]

    np.testing.assert_allclose(deviations(), [np.sqrt(2 / (9 * 128)), 0.01], rtol=0.02)


def test_dropout_holds_one_mask_over_time():
    """The readout, an identity here, shows what the mask leaves of a layer's spikes at every step."""
    units, index = 8, jnp.arange(2)
    ann = build("vgg5", units, width=1 / 16, hidden=(units,), conv_dropout=0.5, dense_std=0.5)
    snn, x = spiking(ann.apply), jnp.ones((2, 8, 8, 1))
    params = {**jax.jit(ann.init)(jax.random.key(0), x)["params"], "readout": {"kernel": jnp.eye(units)}}
    variables = snn.init({"params": params}, x)

    @jax.jit
    def run(key):
        shown = simulate(
            snn,
            variables,
            lambda time: jnp.broadcast_to(x, (len(time), *x.shape)),
            lambda observed: (observed.results, observed.layers["spikes"]["dense0"]),
            num_steps=12,
            chunk=6,
            collect=("spikes",),
            **dropout_of(index, key),
        )
        _, sown = ann.apply({"params": params}, x, **dropout_of(index, key), mutable=["masks"])
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
    model = ResNet(blocks=(1, 0, 0, 0), channels=(4, 4, 4, 4), num_classes=3)
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    params = jax.jit(model.init)(jax.random.key(1), images)["params"]
    for name in ("block0_conv0", "block0_conv1"):
        params[name] = jax.tree.map(jnp.zeros_like, params[name])
    without = ResNet(blocks=(0, 0, 0, 0), channels=(4, 4, 4, 4), num_classes=3)
    stem_only = {name: params[name] for name in ("conv0", "conv1", "conv2", "readout")}
    actual, expected = (
        jax.jit(net.apply)({"params": weights}, images) for net, weights in ((model, params), (without, stem_only))
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("rate", "index", "message"),
    [
        (0.5, None, "index"),
        # One index for all would give all samples the same mask.
        *((0.5, jnp.arange(size), rf"\(4,\), got \({size},\)") for size in (1, 3)),
        *((rate, jnp.arange(4), "rate of dropout") for rate in (1.0, -0.5, 1.5, np.nan)),
    ],
)
def test_dropout_of_a_bad_rate_or_without_the_samples_indices_is_refused(rate, index, message):
    with pytest.raises(ValueError, match=message):
        Dropout(rate).apply({}, jnp.ones((4, 8)), index, rngs={"dropout": jax.random.key(0)})


def test_dropout_takes_a_list_of_indices():
    def dropped(index):
        return Dropout(0.5).apply({}, jnp.ones((2, 8)), index, rngs={"dropout": jax.random.key(0)})

    np.testing.assert_array_equal(*jax.jit(lambda: [dropped([3, 1]), dropped(jnp.array([3, 1]))])())


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"architecture": "vgg7"}, "vgg7"),
        *(({"num_classes": number}, "num_classes") for number in (1, 10.0)),
        ({"width": 0}, "width"),
        *(({"hidden": units}, "hidden") for units in ((0,), 64, (64.0,))),
        ({"conv_dropout": 1.0}, "conv_dropout"),
        ({"dense_dropout": -0.1}, "dense_dropout"),
        ({"norm": "layer"}, "norm"),
    ],
)
def test_bad_arguments_are_refused(arguments, word):
    with pytest.raises(ValueError, match=word):
        build(**{"architecture": "vgg5", "num_classes": 10, **arguments})


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
