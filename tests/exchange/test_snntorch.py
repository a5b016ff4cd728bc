"""Networks in snnTorch spike as they do here, to the last spike."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import relu

import jsnn
from tests.exchange.exact_networks import BRANCHES, CHAIN, RESNET, exact_snn, spikes_and_results

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
utils = pytest.importorskip("snntorch.utils")
torch.set_num_threads(1)  # small networks, see tests/network/torch_reference.py


def channels_first(x):
    return torch.tensor(np.moveaxis(np.asarray(x), -1, 1) if x.ndim == 4 else np.asarray(x))


def channels_last(x):
    return np.moveaxis(x.numpy(), 1, -1) if x.ndim == 4 else x.numpy()


def presented(module, inputs, layers=()):
    """Layer -> spikes [T, B, ...], and the results [T, B, ...], of one presentation."""
    trains = {name: [] for name in layers}
    hooks = [
        getattr(module, f"{name}_neurons").register_forward_hook(
            lambda _, __, output, train=train: train.append(channels_last(output) > 0)
        )
        for name, train in trains.items()
    ]
    utils.reset(module)
    with torch.no_grad():
        results = [channels_last(module(channels_first(x))) for x in inputs]
    for hook in hooks:
        hook.remove()
    return {name: np.stack(spikes) for name, spikes in trains.items()}, np.stack(results)


@pytest.mark.parametrize(
    ("ann", "options"),
    [
        (CHAIN, {}),
        (CHAIN, {"leak": 0.9}),
        (BRANCHES, {"initial": 0.5, "by_channel": True}),
        (RESNET, {"leak": 0.5, "initial": 0.5}),
    ],
    ids=["chain", "leaky chain", "branches", "resnet"],
)
def test_every_spike_is_the_same(ann, options):
    snn, variables, inputs = exact_snn(ann, **options)
    module = jsnn.to_snntorch(snn, variables, inputs[0])
    expected, results = spikes_and_results(snn, variables, inputs)
    for _ in range(2):  # a presentation leaves nothing behind
        trains, output = presented(module, inputs, expected)
        for name, spikes in expected.items():
            np.testing.assert_array_equal(trains[name], spikes, err_msg=name)
            assert 0.02 < spikes.mean() < 0.98, name
        np.testing.assert_allclose(output, results, rtol=1e-5, atol=1e-6)


def two_orders(_, x):
    return relu(x).reshape(1, -1) + relu(x.sum((1, 2)) @ jnp.ones((3, 12)))


def test_it_can_be_trained_on():
    snn, variables, inputs = exact_snn(CHAIN, leak=0.9)
    module = jsnn.to_snntorch(snn, variables, inputs[0]).train()
    utils.reset(module)
    sum(module(channels_first(x)).square().sum() for x in inputs).backward()
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    assert set(gradients) == {
        f"{name}.{leaf}" for name in (*variables["neurons"], "readout") for leaf in ("weight", "bias")
    }
    for name, gradient in gradients.items():
        assert gradient.isfinite().all(), name
        assert gradient.abs().sum() > 0, name


def assert_same_results(snn, variables, inputs):
    """The results of to_snntorch and of the network itself at a few steps."""
    module = jsnn.to_snntorch(snn, variables, inputs[0])
    expected, _ = jax.jit(snn.apply)(variables, snn.initial_state(variables, inputs[0]), inputs)
    np.testing.assert_allclose(presented(module, inputs)[1], expected, rtol=1e-5, atol=1e-6)
    assert np.std(expected) > 0.01
    return module


@pytest.mark.parametrize(
    ("first", "second", "threshold"),
    [
        ("graph", "self", np.array([0.25, 0.5, 1])),  # in NumPy's float64
        ("training", "import", np.array([[0.25, 0.5, 1]])),  # with an axis of samples
        ("type", "train", 0.5),
    ],
)
def test_names_that_pytorch_has_taken_and_thresholds_set_by_hand(first, second, threshold):
    def apply(variables, x):
        return relu(x @ variables[first]["w"]) @ variables[second]["w"]

    snn, rng = jsnn.spiking(apply), np.random.default_rng(0)
    inputs = jnp.asarray(rng.integers(0, 9, (3, 3, 4)) / 8, jnp.float32)  # as many samples as neurons
    weights = {first: {"w": jnp.ones((4, 3)) / 4}, second: {"w": jnp.asarray([[1, 2], [-1, 1], [2, 1.0]])}}
    variables = snn.init(weights, inputs[0])
    variables["neurons"][first]["threshold"] = threshold
    module = assert_same_results(snn, variables, inputs)
    assert [name for name, _ in module.named_children()] == [f"{first}_", f"{first}_neurons", f"{second}_"]


def test_a_pool_of_more_padding_than_half_of_its_window():
    snn = jsnn.spiking(lambda _, x: nn.avg_pool(relu(x), (3, 2), (2, 2), ((2, 2), (1, 1))))
    inputs = jnp.asarray(np.random.default_rng(0).integers(0, 9, (3, 1, 5, 4, 2)) / 4, jnp.float32)
    assert_same_results(snn, snn.init({}, inputs[0]), inputs)


@pytest.mark.parametrize(
    ("apply", "neuron", "x", "sentence"),
    [
        (lambda _, x: relu(x), jsnn.hard_reset_lif(), jnp.ones((1, 3)), r"only jsnn.lif neurons"),
        (lambda _, x: relu(x).reshape(1, -1), None, jnp.ones((1, 2, 2, 3)), "result is a flattened map"),
        (two_orders, None, jnp.ones((1, 2, 2, 3)), r"test_snntorch.py:\d+\) adds a flattened map to other"),
        (lambda _, x: nn.avg_pool(relu(x), (2,)), None, jnp.ones((1, 4, 3)), "has 1 spatial axes"),
        (lambda _, x: relu(x)[:, 1:], None, jnp.ones((1, 3)), r"slice in .*test_snntorch.py:\d+\)"),
    ],
)
def test_what_can_not_be_exported_is_told(apply, neuron, x, sentence):
    snn = jsnn.spiking(apply, neuron)
    with pytest.raises(ValueError, match=sentence):
        jsnn.to_snntorch(snn, snn.init({}, x), x)
