"""Weights from PyTorch: the same logits, and a sentence where a layer is missing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import jsnn
from jsnn.models import VGG, ResNet
from tests.exchange.torch_weights import Function, X, assert_same_logits, assert_same_results, flat, nn, settled, taken

pytestmark = pytest.mark.torch
OUR_VGG = VGG(stages=(4, "A", 6), hidden=(9,), num_classes=3, norm="batch")


def torch_vgg():
    conv0 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2)
    conv1 = nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2)
    dense0 = nn.Linear(6 * 4 * 6, 9, bias=False), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.5)
    return settled(nn.Sequential(*conv0, *conv1, nn.Flatten(), *dense0, nn.Linear(9, 3, bias=False)))


class Block(nn.Module):
    """As in torchvision: the shortcut is made last."""

    def __init__(self, into, out, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        shortcut = nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.downsample = shortcut if (into, stride) != (out, 1) else nn.Sequential()

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + self.downsample(x)).relu()


def test_a_vgg_with_batch_norm_gives_the_same_logits():
    variables = assert_same_logits(torch_vgg(), OUR_VGG)
    assert set(variables) == {"params", "batch_stats"}


def test_a_resnet_gives_the_same_logits_though_its_shortcuts_are_made_last():
    def unit(into):
        return nn.Conv2d(into, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()

    blocks = Block(4, 4, 1), Block(4, 6, 2), Block(6, 6, 1)
    module = nn.Sequential(
        *unit(3), *unit(4), *unit(4), nn.AvgPool2d(2), *blocks, nn.Flatten(), nn.Linear(6 * 3 * 2, 3, bias=False)
    )
    assert_same_logits(settled(module), ResNet(blocks=(1, 2, 0, 0), channels=(4, 6, 6, 6), num_classes=3, norm="batch"))


def own(x):
    """Layers whose names are not in the order in which they run, biases, groups, what can't spike, dense twice."""
    x = linen.max_pool(linen.tanh(linen.Conv(4, (3, 3), padding=1, name="zebra")(x)), (2, 2), (2, 2))
    x = linen.Conv(4, (3, 3), padding=1, feature_group_count=2, name="ape")(x)
    x = linen.hard_sigmoid(linen.sigmoid(flat(x)))
    return linen.Dense(3, name="a10")(linen.relu(linen.Dense(5, name="a2")(x)))


OWN = Function(own)


def own_module():
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1, groups=2)),
        *(nn.Flatten(), nn.Sigmoid(), nn.Hardsigmoid(), nn.Linear(96, 5), nn.ReLU(), nn.Linear(5, 3)),
    )


def test_a_network_of_ones_own_comes_in_as_tensors_arrays_and_from_several_devices():
    module = own_module()
    assert_same_logits(module, OWN)
    state = {f"module.{name}": value.numpy() for name, value in module.state_dict().items()}
    variables = assert_same_logits(module, OWN, state)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: state.pop("9.weight"), r"no layer for a2 \(.*96x5.* left is 7 \+ 9 \(.*bias 3\)"),
        (lambda state: state.update({"10.weight": np.ones((2, 3))}), r"no layer for 10 \(kernel 3x2\) of the state"),
        (lambda state: state.update({"3.weight": np.ones((4, 4, 3, 3))}), r"ape \(.*3x3x2x4.*left is 3 \(.*3x3x4x4"),
        (lambda state: state["7.bias"].fill_(np.nan), "params/a2/bias holds NaN"),
    ],
)
def test_a_layer_that_one_side_lacks_is_named(change, sentence):
    state = own_module().state_dict()
    change(state)
    with pytest.raises(ValueError, match=sentence):
        taken(state, OWN)


def plain_apply(variables, x):
    hidden = jax.nn.relu(flat(x) @ variables["d0"]["kernel"] + variables["d0"]["bias"])
    return hidden @ variables["d1"]["kernel"] + variables["d1"]["bias"]


def test_plain_jax_without_collections_comes_in():
    module = nn.Sequential(nn.Flatten(), nn.Linear(288, 5), nn.ReLU(), nn.Linear(5, 3))
    sizes = {"d0": (288, 5), "d1": (5, 3)}
    zeros = {name: {"kernel": jnp.zeros(size), "bias": jnp.zeros(size[1])} for name, size in sizes.items()}
    assert_same_results(module, plain_apply, jsnn.from_torch(module.state_dict(), plain_apply, zeros, X))


class OfNnx(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 2, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(2, use_running_average=True, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, deterministic=True, rngs=rngs)
        self.dense = nnx.Linear(192, 3, rngs=rngs)

    def __call__(self, x):
        return self.dense(self.dropout(flat(self.norm(self.conv(x)))))


@pytest.mark.parametrize("as_made", [lambda make: make(), nnx.eval_shape], ids=["arrays", "shapes"])
def test_a_state_of_nnx_comes_in(as_made):
    module = settled(nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(192, 3)))
    graph, state = nnx.split(as_made(lambda: OfNnx(nnx.Rngs(0))))

    def apply(variables, x):
        return nnx.merge(graph, variables["params"])(x)

    variables = jsnn.from_torch(module.state_dict(), apply, {"params": state}, X)
    drawn = jax.tree.map(lambda leaf: leaf if hasattr(leaf, "addressable_data") else jnp.zeros(leaf.shape), variables)
    assert_same_results(module, apply, drawn)


def test_what_pytorch_trains_on_stays_as_it_came():
    """JAX takes arrays of NumPy, and so a tensor's memory, as they are."""
    module = torch_vgg()
    variables = assert_same_logits(module, OUR_VGG)
    before = jax.tree.map(np.array, variables)
    for tensor in module.state_dict().values():
        tensor.add_(1)
    jax.tree.map(np.testing.assert_array_equal, variables, before)


@pytest.mark.parametrize(
    ("state_dict", "sentence"),
    [
        ({"state_dict": {}, "epoch": 3}, r"pass checkpoint\['state_dict'\]"),
        ({"epoch": 3}, "'epoch' with a int"),
        ({"fc.weight": "abc"}, "'fc.weight' with a str"),
        ({3: np.ones(2)}, "got 3 with a ndarray"),
        ({}, "an empty one"),
        ([], "got a list"),
    ],
)
def test_what_is_no_state_dict_is_refused_at_the_door(state_dict, sentence):
    with pytest.raises(ValueError, match=sentence):
        jsnn.from_torch(state_dict, plain_apply, {}, X)
