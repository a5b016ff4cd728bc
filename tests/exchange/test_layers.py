"""The graph of layers that exports are written from, run by a NumPy loop."""

from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import relu

import jsnn
from jsnn.exchange.layers import layer_graph
from jsnn.exchange.nodes import Add, AveragePool, Convolution, Dense, Flatten, Input, Neurons, Rescaling
from jsnn.exchange.resets import HARD, SOFT, reset_of
from tests.exchange.exact_networks import BATCH, BRANCHES, CHAIN, IMAGE, RESNET, exact_snn, spikes_and_results
from tests.exchange.numpy_maps import convolved, windows


class Loop:
    """The layers, one time step a call."""

    def __init__(self, layers):
        self.layers, self.membranes, self.trains = layers, {}, defaultdict(list)

    def __call__(self, x):
        values = {}
        for name, node in self.layers.nodes.items():
            values[name] = self.run(node.layer, x, *(values[source] for source in node.inputs))
            assert values[name].shape[1:] == node.shape
        return values[self.layers.output]

    def run(self, layer, x, *inputs):
        match layer:
            case Input():
                return x
            case Add():
                return sum(inputs)
            case Flatten():
                return inputs[0].reshape(len(x), -1)
            case Rescaling(scale, offset):
                return scale * inputs[0] + (0 if offset is None else offset)
            case AveragePool(window, strides, padding):
                return windows(inputs[0], window, strides, padding).mean((-2, -1))
            case Dense(kernel, bias):
                return inputs[0] @ kernel + (0 if bias is None else bias)
            case Convolution():
                kernel, bias, *options = layer
                return convolved(inputs[0], kernel, *options) + (0 if bias is None else bias)
            case Neurons(name, parameters):
                threshold = parameters["threshold"]
                before = self.trains[name][-1] if self.trains[name] else 0
                membrane = self.membranes.get(name, parameters["initial"] * threshold)
                self.membranes[name] = parameters["leak"] * membrane + inputs[0] - threshold * before
                self.trains[name].append((self.membranes[name] > threshold).astype(np.float32))
                return threshold * self.trains[name][-1]


@pytest.mark.parametrize(
    ("ann", "options"),
    [
        (CHAIN, {"leak": 0.5}),
        (CHAIN, {"initial": 0.5, "by_channel": True}),
        (BRANCHES, {}),
        (RESNET, {"leak": 0.75}),
    ],
)
def test_the_layers_run_over_time_are_the_network(ann, options):
    snn, variables, inputs = exact_snn(ann, **options)
    loop = Loop(layer_graph(snn, variables, inputs[0]))
    results = [loop(x) for x in np.asarray(inputs)]
    spikes, expected = spikes_and_results(snn, variables, inputs)
    for name in spikes:
        np.testing.assert_array_equal(loop.trains[name], spikes[name], err_msg=name)
        assert 0.02 < spikes[name].mean() < 0.98, name
    np.testing.assert_allclose(results, expected, rtol=1e-6)


def test_biases_and_batch_norm_are_in_the_weights():
    snn, variables, _ = exact_snn(CHAIN)
    nodes = layer_graph(snn, variables, jax.ShapeDtypeStruct((BATCH, *IMAGE), jnp.float32)).nodes
    assert list(nodes) == [
        *("input", "conv0", "conv0_neurons", "conv1", "conv1_neurons", "pool", "flatten"),
        *("dense0", "dense0_neurons", "readout"),
    ]
    params, averages = variables["params"], variables["batch_stats"]["norm0"]
    factor = params["norm0"]["scale"] / np.sqrt(averages["var"] + 1e-5)
    np.testing.assert_allclose(nodes["conv0"].layer.kernel, params["conv0"]["kernel"] * factor, rtol=1e-6)
    bias = (params["conv0"]["bias"] - averages["mean"]) * factor + params["norm0"]["bias"]
    np.testing.assert_allclose(nodes["conv0"].layer.bias, bias, rtol=1e-6, atol=1e-7)
    assert nodes["conv0"].layer.padding == ((0, 1), (0, 1))
    np.testing.assert_array_equal(nodes["dense0"].layer.kernel, params["dense0"]["kernel"])
    assert nodes["pool"].layer == AveragePool((2, 2), (2, 1), ((0, 0), (0, 0)))
    assert nodes["dense0"].inputs == ("flatten",)
    assert "test" not in nodes["conv0"].where.partition("(")[0]
    assert "exact_networks.py:" in nodes["conv0"].where


def test_a_shortcut_is_a_sum_of_two_nodes():
    nodes = layer_graph(*exact_snn(RESNET)[:2], jnp.zeros((1, *IMAGE))).nodes
    assert nodes["add"].inputs == ("block0_conv1", "pool")
    assert nodes["add_2"].inputs == ("block1_conv1", "block1_shortcut")
    assert nodes["block0_conv1_neurons"].inputs == ("add",)


def test_weights_that_two_ask_for_are_one_node():
    """A value that neurons and a sum take, and what follows weights that somebody has taken already."""

    def apply(variables, x):
        x = x @ variables["first"]["w"]
        return relu(x) + 2 * x

    snn = jsnn.spiking(apply)
    variables = snn.init({"first": {"w": jnp.eye(3)}}, jnp.ones((2, 3)))
    nodes = layer_graph(snn, variables, jnp.ones((2, 3))).nodes
    assert list(nodes) == ["input", "first", "first_neurons", "rescaling", "add"]
    np.testing.assert_array_equal(nodes["rescaling"].layer.scale, [2.0])


def dense(x):
    return x.reshape(len(x), -1) @ jnp.ones((24, 3))


# [B, H, W] would be taken for a sequence [B, L, C].
MAPS, WITHOUT, NEEDS_CHANNELS = (2, 4, 4, 2), (2, 6, 4), r"an image has an axis of channels, \[B, H, W, 1\]"


@pytest.mark.parametrize(
    ("function", "shape", "sentence"),
    [
        (lambda x: relu(x)[:, ::-1], MAPS, r"rev in .*test_layers.py:\d+\) can't be exported"),
        (lambda x: relu(x)[:, :2], MAPS, "slice in"),
        (lambda x: relu(x).transpose(0, 2, 1, 3), MAPS, r"transpose in .* only \[B, H, W, C\] to"),
        (lambda x: relu(x).sum(3), MAPS, r"reduce_sum in .* must be over H and W"),
        (lambda x: relu(x) * jnp.arange(2.0).reshape(2, 1, 1, 1), MAPS, "mul in .* differs from sample to sample"),
        (lambda x: relu(x).mean((1, 2))[:, None, None] + x, MAPS, r"broadcast_in_dim in .* only \[B, H, W, C\] to"),
        (lambda x: (relu(x),) * 2, MAPS, "2 results"),
        (lambda x: relu(x) + jnp.arange(4.0)[:, None], (2, 1, 3), "add in .* must have the shape of the result"),
        (dense, WITHOUT, NEEDS_CHANNELS),
        (lambda x: dense(relu(2 * x)), WITHOUT, NEEDS_CHANNELS),
        (lambda x: dense(x + x), WITHOUT, NEEDS_CHANNELS),
        (
            lambda x: jax.lax.conv(relu(x), jnp.ones((2, 4, 3, 3)), (1, 1), "SAME"),
            MAPS,
            r"conv_general_dilated in .* maps must be \[B, H, W, C\]",
        ),
    ],
)
def test_what_is_no_layer_is_refused_by_its_line(function, shape, sentence):
    snn, x = jsnn.spiking(lambda variables, x: function(x)), jnp.ones(shape)
    with pytest.raises(ValueError, match=sentence):
        layer_graph(snn, snn.init({}, x), x)


def test_neurons_are_known_by_what_they_do():
    assert reset_of(jsnn.lif(jsnn.surrogate.arctan())) == SOFT
    assert reset_of(jsnn.hard_reset_lif(jsnn.surrogate.linear())) == HARD
    soft = jsnn.lif()
    delayed = soft._replace(step=lambda neuron, state, current: soft.step(neuron, state, current * 0.9))
    assert [reset_of(other) for other in (jsnn.adaptive_lif(), delayed)] == [None, None]
    assert reset_of(jsnn.lif()._replace(ranges=[])) == SOFT  # which can't be hashed


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"threshold": -1.0}, "threshold of neurons must be above 0 and finite .* got -1.0"),
        ({"threshold": np.array([1.0, 0.0, 2.0])}, "threshold of neurons .* got 0.0"),
        ({"leak": 1.2}, r"leak of neurons must be in \(0, 1\] and finite .* got 1.2"),
        ({"leak": np.nan}, "leak of neurons .* got nan"),
        ({"initial": np.inf}, "initial of neurons must be finite to be exported, got inf"),
        ({"threshold": np.ones((2, 3))}, r"threshold of neurons is of the shape \(2, 3\): .* of a sample, \(3,\)"),
        ({"threshold": np.ones(2)}, r"threshold of neurons is of the shape \(2,\)"),
    ],
)
def test_neurons_out_of_their_range_are_not_exported(parameters, sentence):
    snn, x = jsnn.spiking(lambda _, x: relu(x)), jnp.ones((2, 3))
    variables = snn.init({}, x)
    variables["neurons"]["neurons"] |= parameters
    with pytest.raises(ValueError, match=sentence):
        layer_graph(snn, variables, x)


def test_parameters_of_neurons_are_those_of_a_sample():
    snn, x = jsnn.spiking(lambda _, x: relu(x)), jnp.ones((2, 4, 3))
    variables = snn.init({}, x)
    variables["neurons"]["neurons"]["threshold"] = np.arange(1.0, 4).reshape(1, 1, 3)
    threshold = layer_graph(snn, variables, x).nodes["neurons_neurons"].layer.parameters["threshold"]
    assert threshold.dtype == np.float32
    np.testing.assert_array_equal(threshold, [[1, 2, 3]])
