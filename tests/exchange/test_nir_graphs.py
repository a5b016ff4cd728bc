"""Graphs of NIR by its own equations: networks of all kinds that went through a file, and graphs that others made."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsnn
from jsnn.conversion import convert
from jsnn.network.transformation import NEURONS, spiking
from tests.exchange import nir_reference
from tests.exchange.nir_reference import graph_of, nir

STEPS = 10
ONES = np.ones(3)


def random(*shape, low=0.0, high=1.5):
    return np.random.default_rng(0).uniform(low, high, shape)


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape)


def results(snn, variables, inputs):
    """[T, ...] of inputs [T, ...] of one sample, channels last."""
    one = jnp.asarray(inputs, jnp.float32)[:, None]
    return np.asarray(snn.apply(variables, snn.initial_state(variables, one[0]), one)[0])[:, 0]


def assert_same_results(graph, inputs, expected=None):
    """By NIR's equations, and in the network that the graph becomes."""
    outputs = nir_reference.run(graph, inputs)["out" if "out" in graph.nodes else "output"]
    assert np.ptp(outputs) > 0.1
    back = results(*jsnn.from_nir(graph), inputs)
    for ours in (back,) if expected is None else (back, expected):
        np.testing.assert_allclose(ours, outputs, rtol=1e-5, atol=1e-5)


def conv(*sizes, **options):
    return nn.Sequential([nn.Conv(4, *sizes, **options), nn.relu])


def pool(x):
    return nn.avg_pool(x, (2, 2), (2, 2))


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ((conv((3, 3)),), (5, 4, 2)),
        ((conv((3, 1)),), (6, 5, 2)),
        ((conv((1, 3), kernel_dilation=2),), (6, 9, 2)),
        ((conv((3, 3), (2, 2)),), (8, 7, 2)),
        ((conv((1, 3), padding=((0, 0), (-1, 3))),), (4, 6, 2)),
        ((conv((3, 3), feature_group_count=2),), (6, 6, 4)),
        ((conv((1, 1)), pool, lambda x: x + x), (4, 4, 2)),
    ],
    ids="a module within a module|a flat window|dilation|odd and even sides|negative padding|groups|"
    "a pool and the same pool are two terms".split("|"),
)
def test_what_goes_through_a_file_comes_back(layers, shape, tmp_path):
    ann = nn.Sequential([*layers, lambda x: x.reshape(len(x), -1), nn.Dense(2)])
    snn, x = spiking(ann.apply), jnp.zeros((1, *shape))
    variables = ann.init(jax.random.key(0), x)
    variables = convert(snn, variables, dict.fromkeys(snn.init(variables, x)[NEURONS], 0.3))
    nir.write(tmp_path / "graph.nir", jsnn.to_nir(snn, variables, x, reset="named"))
    inputs = random(STEPS, *shape)
    assert_same_results(nir.read(tmp_path / "graph.nir"), inputs, results(snn, variables, inputs))


@pytest.mark.parametrize(
    ("integrator", "reset"), [(nir.I(2 * ONES), -ONES), (nir.LI(4 * ONES, 2 * ONES, 0 * ONES), -2 * ONES)]
)
def test_a_reset_is_multiplied_as_all_that_arrives(integrator, reset):
    nodes = {"membrane": integrator, "threshold": nir.Threshold(ONES), "reset": nir.Scale(reset)}
    loop = [("membrane", "threshold"), ("threshold", "reset"), ("reset", "membrane")]
    graph = graph_of(nodes, [("input", "membrane"), *loop, ("threshold", "output")])
    assert_same_results(graph, random(STEPS, 3))


def by_place(library=np.asarray):
    """A biased convolution and neurons of a tau each, its arrays made by a library."""
    ones, tau = np.ones((2, 4, 4)), random(2, 4, 4, low=2, high=5)
    weight, bias = random(2, 1, 3, 3, low=-1), random(2, low=-1)
    lif = nir.LIF(*map(library, (tau, ones, 0 * ones, ones)))
    conv = nir.Conv2d((4, 4), library(weight), 1, 1, 1, 1, library(bias))
    return graph_of({"conv": conv, "lif": lif}, None, (1, 4, 4), (2, 4, 4))


def test_neurons_by_place_go_out_as_they_came():
    graph = by_place()
    snn, variables = jsnn.from_nir(graph)
    inputs = random(STEPS, 4, 4, 1)
    assert_same_results(jsnn.to_nir(snn, variables, jnp.zeros((1, 4, 4, 1))), inputs, results(snn, variables, inputs))
    assert_same_results(graph, inputs)


FLAT, DENSE = nir.Flatten({"input": np.array([4, 6, 6])}, 0, -1), nir.Linear(normal(3, 144))
IF = nir.IF(np.array(1.0), np.array(0.5), np.array(0.0))  # as norse has it, a number for all of them
BEHIND = {"if": IF, "flat": FLAT, "dense": DENSE}


@pytest.mark.parametrize(
    ("layers", "inputs"),
    [
        ({"conv": nir.Conv2d((6, 6), normal(4, 2, 3, 5), 1, (1, 2), 1, 1, np.zeros(4)), **BEHIND}, 2),
        ({"conv": nir.Conv2d(None, normal(4, 1, 3, 3), 1, 1, 1, 4, np.zeros(4)), **BEHIND}, 4),
        ({"pool": nir.AvgPool2d(np.array([3, 3]), np.array([1, 1]), np.array([1, 1])), **BEHIND}, 4),
    ],
    ids=["a window not square", "depthwise", "a pool"],
)
def test_graphs_of_other_libraries(layers, inputs):
    """Shapes are those that arrive, and linear layers have no bias."""
    assert_same_results(graph_of(layers, None, (inputs, 6, 6)), random(STEPS, 6, 6, inputs))


def test_a_reset_that_no_metadata_name():
    named = {"if": nir.IF(ONES, 0.5 * ONES, metadata={"reset": "subtract"})}
    inputs = random(STEPS, 3)
    expected = results(*jsnn.from_nir(graph_of(named)), inputs)
    np.testing.assert_array_equal(
        results(*jsnn.from_nir(graph_of({"if": nir.IF(ONES, 0.5 * ONES)}), reset="soft"), inputs), expected
    )
    assert np.any(results(*jsnn.from_nir(graph_of({"if": nir.IF(ONES, 0.5 * ONES)})), inputs) != expected)


def test_a_gain_of_one_but_for_rounding_is_no_layer():
    leaks = np.linspace(0.5, 0.99, 8)
    tau = np.float32(1e-4) / (1 - np.float32(leaks))
    lif = nir.LIF(tau, tau / np.float32(1e-4), np.zeros(8), np.ones(8))
    assert not jsnn.from_nir(graph_of({"lif": lif}, None, (8,), (8,)), dt=1e-4)[1]["params"]


def test_what_a_graph_becomes_shares_no_memory_with_it():
    buffer = np.ones(80, np.float32)
    start = -buffer.ctypes.data % 64 // 4  # JAX takes over the memory of arrays that begin at a multiple of 64 bytes
    bias = buffer[start : start + 64]
    nodes = {"dense": nir.Affine(np.ones((64, 3), np.float32), bias)}
    _, variables = jsnn.from_nir(graph_of(nodes, None, (3,), (64,)))
    bias += 1
    np.testing.assert_array_equal(variables["params"]["dense"]["bias"], 1)


@pytest.mark.torch
def test_tensors_in_a_graph_are_arrays():
    torch = pytest.importorskip("torch")
    tensors = by_place(torch.tensor)
    _, variables = jsnn.from_nir(tensors)
    np.testing.assert_array_equal(
        variables["params"]["conv"]["kernel"], np.float32(tensors.nodes["conv"].weight).transpose(2, 3, 1, 0)
    )
    assert isinstance(tensors.nodes["conv"].weight, torch.Tensor)


def test_a_node_may_have_a_name_of_ours_and_ends_may_have_others():
    neurons = {"a": nir.IF(ONES, 0.5 * ONES), "b": nir.IF(ONES, 0.25 * ONES)}
    graph = graph_of({**neurons, "a_rescaled": nir.Linear(7 * np.eye(3))}, ends=("in", "out"))
    assert_same_results(graph, random(STEPS, 3))


def test_an_error_names_the_node():
    snn, variables = jsnn.from_nir(by_place())
    shifted = {"conv": {**variables["params"]["conv"], "bias": jnp.zeros((4, 4, 2)).at[0].set(1)}}
    with pytest.raises(ValueError, match=r"^conv .*adds a constant behind no weights"):
        jsnn.to_nir(snn, {**variables, "params": {**variables["params"], **shifted}}, jnp.zeros((1, 4, 4, 1)))


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bfloat16"])
def test_inputs_may_be_of_any_dtype(dtype):
    snn, variables = jsnn.from_nir(by_place())
    x = jnp.ones((1, 2, 4, 4, 1), dtype)
    actual, _ = snn.apply(variables, snn.initial_state(variables, x[0]), x)
    expected, _ = snn.apply(variables, snn.initial_state(variables, jnp.float32(x[0])), jnp.float32(x))
    np.testing.assert_array_equal(actual, expected)
