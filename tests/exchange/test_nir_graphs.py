"""Graphs of NIR by its own equations: networks of all kinds that went through a file, and graphs that others made."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.conversion import convert
from jsnn.network.simulation import simulate
from jsnn.network.transformation import NEURONS, spiking

nir = pytest.importorskip("nir")

from jsnn.exchange.from_nir import from_nir  # noqa: E402
from jsnn.exchange.to_nir import to_nir  # noqa: E402
from tests.exchange import nir_reference  # noqa: E402

STEPS = 10
ONES = np.ones(3)


def random(*shape, low=0.0, high=1.5):
    return np.random.default_rng(0).uniform(low, high, shape)


def graph_of(nodes, edges=None, shape=(3,), result=(3,)):
    """Nodes between an input and an output, one behind the other where no edges say otherwise."""
    ends = nir.Input({"input": np.array(shape)}), nir.Output({"output": np.array(result)})
    nodes = {"in": ends[0], **nodes, "out": ends[1]}
    return nir.NIRGraph(nodes, edges or [*zip(nodes, [*nodes][1:], strict=False)])


def results(snn, variables, inputs):
    """[T, ...] of inputs [T, ...] of one sample, channels last."""
    one = jnp.asarray(inputs, jnp.float32)[:, None]
    options = {"num_steps": len(one), "chunk": len(one)}
    return np.asarray(simulate(snn, variables, one.__getitem__, lambda observed: observed.results, **options))[:, 0]


def assert_same_results(graph, inputs, expected=None):
    """By NIR's equations, of inputs channels last, and in the network that the graph becomes."""
    outputs = nir_reference.run(graph, np.moveaxis(inputs, -1, 1), 1.0)["out" if "out" in graph.nodes else "output"]
    assert np.ptp(outputs) > 0.1
    back = results(*from_nir(graph), inputs)
    for ours in (back,) if expected is None else (back, expected):
        np.testing.assert_allclose(np.moveaxis(ours, -1, 1), outputs, rtol=1e-5, atol=1e-5)


class Named(nn.Module):
    """Layers within a module."""

    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Conv(3, (3, 3))(x))


class Layers(nn.Module):
    """A few layers in front of a dense one."""

    layers: tuple

    @nn.compact
    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return nn.Dense(2)(x.reshape(len(x), -1))


def conv(*sizes, **options):
    return nn.Sequential([nn.Conv(4, *sizes, **options), nn.relu])


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Named(), (5, 4, 2)),
        (conv((3, 1)), (6, 5, 2)),
        (conv((1, 3), kernel_dilation=2), (6, 9, 2)),
        (conv((3, 3), (2, 2)), (8, 7, 2)),
        (conv((1, 3), padding=((0, 0), (-1, 3))), (4, 6, 2)),
        (conv((3, 3), feature_group_count=2), (6, 6, 4)),
    ],
    ids="a module within a module|a flat window|dilation|odd and even sides|negative padding|groups".split("|"),
)
def test_what_goes_through_a_file_comes_back(layer, shape, tmp_path):
    ann, x = Layers((layer,)), jnp.zeros((1, *shape))
    snn, variables = spiking(ann.apply), ann.init(jax.random.key(0), x)
    variables = convert(snn, variables, dict.fromkeys(snn.init(variables, x)[NEURONS], 0.3))
    nir.write(tmp_path / "graph.nir", to_nir(snn, variables, x, reset="named"))
    inputs = random(STEPS, *shape)
    assert_same_results(nir.read(tmp_path / "graph.nir"), inputs, results(snn, variables, inputs))


def test_a_window_that_no_zeros_make_square_is_refused():
    ann, x = Layers((conv((3, 3), padding=((1, 0), (1, 1))),)), jnp.zeros((1, 6, 6, 2))
    snn = spiking(ann.apply)
    variables = snn.init(ann.init(jax.random.key(0), x), x)
    sentence = r"has the window \(3, 3\) with padding \(\(1, 0\), \(1, 1\)\): nir reads back square windows alone"
    with pytest.raises(ValueError, match=sentence):
        to_nir(snn, variables, x, reset="named")


def test_a_pool_and_the_same_pool_are_two_terms():
    ann, x = Layers((conv((1, 1)), lambda x: nn.avg_pool(x, (2, 2), (2, 2)), lambda x: x + x)), jnp.zeros((1, 4, 4, 2))
    snn = spiking(ann.apply)
    variables = snn.init(ann.init(jax.random.key(0), x), x)
    inputs = random(STEPS, 4, 4, 2)
    assert_same_results(to_nir(snn, variables, x, reset="named"), inputs, results(snn, variables, inputs))


@pytest.mark.parametrize(
    ("integrator", "reset"), [(nir.I(2 * ONES), -ONES), (nir.LI(4 * ONES, 2 * ONES, 0 * ONES), -2 * ONES)]
)
def test_a_reset_is_multiplied_as_all_that_arrives(integrator, reset):
    nodes = {"membrane": integrator, "threshold": nir.Threshold(ONES), "reset": nir.Scale(reset)}
    loop = [("membrane", "threshold"), ("threshold", "reset"), ("reset", "membrane")]
    assert_same_results(graph_of(nodes, [("in", "membrane"), *loop, ("threshold", "out")]), random(STEPS, 3))


def by_place(library):
    """A biased convolution and neurons of a tau each, its arrays made by a library."""
    ones, tau = np.ones((2, 4, 4)), random(2, 4, 4, low=2, high=5)
    weight, bias = random(2, 1, 3, 3, low=-1), random(2, low=-1)
    lif = nir.LIF(*map(library, (tau, ones, 0 * ones, ones)))
    conv = nir.Conv2d((4, 4), library(weight), 1, 1, 1, 1, library(bias))
    return graph_of({"conv": conv, "lif": lif}, None, (1, 4, 4), (2, 4, 4))


def test_neurons_by_place_go_out_as_they_came():
    graph = by_place(np.asarray)
    snn, variables = from_nir(graph)
    inputs = random(STEPS, 4, 4, 1)
    assert_same_results(to_nir(snn, variables, jnp.zeros((1, 4, 4, 1))), inputs, results(snn, variables, inputs))
    assert_same_results(graph, inputs)


def unchecked(nodes, shape, result):
    """As libraries make graphs that nir's own inference of shapes does not pass."""
    nodes = {"in": nir.Input({"input": np.array(shape)}), **nodes, "out": nir.Output({"output": np.array(result)})}
    return nir.NIRGraph(nodes, [*zip(nodes, [*nodes][1:], strict=False)], type_check=False)


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape)


DENSE_OF_MAP = {"flat": nir.Flatten({"input": np.array([4, 6, 6])}, 0, -1), "dense": nir.Linear(normal(3, 144))}


@pytest.mark.parametrize(
    ("layers", "inputs"),
    [
        ({"conv": nir.Conv2d((6, 6), normal(4, 2, 3, 5), 1, (1, 2), 1, 1, np.zeros(4))}, 2),
        ({"conv": nir.Conv2d(None, normal(4, 1, 3, 3), 1, 1, 1, 4, np.zeros(4))}, 4),
        ({"pool": nir.AvgPool2d(np.array([3, 3]), np.array([1, 1]), np.array([1, 1]))}, 4),
    ],
    ids=["a window not square", "depthwise", "a pool"],
)
def test_shapes_are_those_that_arrive(layers, inputs):
    """And a number of norse's neurons is for all of them."""
    neurons = {"if": nir.IF(np.array(1.0), np.array(0.5), np.array(0.0))}
    graph = unchecked({**layers, **neurons, **DENSE_OF_MAP}, (inputs, 6, 6), (3,))
    assert_same_results(graph, random(STEPS, 6, 6, inputs))


def test_a_reset_that_no_metadata_name():
    named = {"if": nir.IF(ONES, 0.5 * ONES, metadata={"reset": "subtract"})}
    inputs = random(STEPS, 3)
    expected = results(*from_nir(graph_of(named)), inputs)
    np.testing.assert_array_equal(
        results(*from_nir(graph_of({"if": nir.IF(ONES, 0.5 * ONES)}), reset="soft"), inputs), expected
    )
    assert np.any(results(*from_nir(graph_of({"if": nir.IF(ONES, 0.5 * ONES)})), inputs) != expected)


def test_a_gain_of_one_but_for_rounding_is_no_layer():
    leaks = np.linspace(0.5, 0.99, 8)
    tau = np.float32(1e-4) / (1 - np.float32(leaks))
    lif = nir.LIF(tau, tau / np.float32(1e-4), np.zeros(8), np.ones(8))
    assert not from_nir(graph_of({"lif": lif}, None, (8,), (8,)), dt=1e-4)[1]["params"]


def test_what_a_graph_becomes_shares_no_memory_with_it():
    buffer = np.ones(80, np.float32)
    start = -buffer.ctypes.data % 64 // 4  # JAX takes over the memory of arrays that begin at a multiple of 64 bytes
    bias = buffer[start : start + 64]
    nodes = {"dense": nir.Affine(np.ones((64, 3), np.float32), bias)}
    _, variables = from_nir(graph_of(nodes, None, (3,), (64,)))
    bias += 1
    np.testing.assert_array_equal(variables["params"]["dense"]["bias"], 1)


@pytest.mark.torch
def test_tensors_in_a_graph_are_arrays():
    torch = pytest.importorskip("torch")
    tensors = by_place(torch.tensor)
    _, variables = from_nir(tensors)
    np.testing.assert_array_equal(
        variables["params"]["conv"]["kernel"], np.float32(tensors.nodes["conv"].weight).transpose(2, 3, 1, 0)
    )
    assert isinstance(tensors.nodes["conv"].weight, torch.Tensor)


def test_a_node_may_have_a_name_of_ours():
    neurons = {"a": nir.IF(ONES, 0.5 * ONES), "b": nir.IF(ONES, 0.25 * ONES)}
    assert_same_results(graph_of({**neurons, "a_rescaled": nir.Linear(7 * np.eye(3))}), random(STEPS, 3))


def test_an_error_names_the_node():
    snn, variables = from_nir(by_place(np.asarray))
    shifted = {"conv": {**variables["params"]["conv"], "bias": jnp.zeros((4, 4, 2)).at[0].set(1)}}
    with pytest.raises(ValueError, match=r"^conv .*adds a constant behind no weights"):
        to_nir(snn, {**variables, "params": {**variables["params"], **shifted}}, jnp.zeros((1, 4, 4, 1)))


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bfloat16"])
def test_inputs_may_be_of_any_dtype(dtype):
    snn, variables = from_nir(by_place(np.asarray))
    x = jnp.ones((1, 2, 4, 4, 1), dtype)
    actual, _ = snn.apply(variables, snn.initial_state(variables, x[0]), x)
    expected, _ = snn.apply(variables, snn.initial_state(variables, jnp.float32(x[0])), jnp.float32(x))
    np.testing.assert_array_equal(actual, expected)
