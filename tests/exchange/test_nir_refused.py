"""Networks that NIR has no nodes for, and graphs that no network runs: each is refused in a sentence."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.models import VGG
from jsnn.network.transformation import NEURONS, spiking
from jsnn.neurons import adaptive_lif, hard_reset_lif, lif
from tests.networks import ONE_IMAGE, random_snn

nir = pytest.importorskip("nir")

from jsnn.exchange.from_nir import from_nir  # noqa: E402
from jsnn.exchange.to_nir import to_nir  # noqa: E402


@pytest.mark.parametrize(
    ("options", "make", "sentence"),
    [
        ({}, lif, 'a soft reset, which no node of NIR has: choose reset="named"'),
        ({}, "initial", "an initial membrane, which no node of NIR has"),
        ({"reset": "exact"}, hard_reset_lif, "a hard reset is NIR's own"),
        ({"reset": "soft"}, lif, "there is no reset 'soft': choose from hard, named, exact"),
        ({"pools": "max"}, lif, "there is no pools 'max': choose from average, sum"),
        ({"dt": 0.0}, lif, "dt must be above 0 seconds, got 0.0"),
        ({}, adaptive_lif, "neither jsnn.lif nor jsnn.hard_reset_lif"),
    ],
)
def test_what_nir_does_not_have_is_refused(options, make, sentence):
    initial = 0.5 if make == "initial" else 0.0
    snn, variables = random_snn(VGG((4,), (), 3), 0, 1.0)
    snn = spiking(VGG((4,), (), 3).apply, hard_reset_lif() if initial else make())
    neurons = {"threshold": jnp.float32(1), "leak": jnp.float32(1), "initial": jnp.float32(initial)}
    extra = {name: jnp.float32(1) for name in snn.neuron.parameters()}
    with pytest.raises(ValueError, match=sentence):
        to_nir(snn, {**variables, NEURONS: {"conv0": extra | neurons}}, ONE_IMAGE, **options)


def test_a_window_that_no_zeros_make_square_is_refused():
    conv, x = nn.Conv(4, (3, 3), padding=((1, 0), (1, 1))), jnp.zeros((1, 6, 6, 2))
    snn = spiking(lambda variables, x: nn.relu(conv.apply(variables, x)))
    sentence = r"has the window \(3, 3\) with padding \(\(1, 0\), \(1, 1\)\): nir reads back square windows alone"
    with pytest.raises(ValueError, match=sentence):
        to_nir(snn, snn.init(conv.init(jax.random.key(0), x), x), x, reset="named")


def chain(*nodes):
    named = {"input": nir.Input({"input": np.array([3])}), **{f"node{i}": node for i, node in enumerate(nodes)}}
    named["output"] = nir.Output({"output": np.array([3])})
    return named, [*zip(named, [*named][1:], strict=False)]


ONES = np.ones(3)


@pytest.mark.parametrize(
    ("graph", "sentence"),
    [
        (chain(nir.CubaLIF(ONES, ONES, ONES, ONES, ONES)), "the node node0 is a CubaLIF, for which a network has no"),
        (chain(nir.LIF(2 * ONES, ONES, ONES, ONES)), "the neurons node0 rest or reset elsewhere than at 0"),
        (chain(nir.LIF(2 * ONES, ONES, 0 * ONES, ONES, ONES)), "the neurons node0 rest or reset elsewhere than at 0"),
        (chain(nir.LIF(ONES / 2, ONES, 0 * ONES, ONES)), "a tau above dt = 1.0 seconds"),
        (chain(nir.IF(ONES, 0 * ONES)), "the neurons node0 need a threshold above 0"),
        (chain(nir.LIF(np.inf * ONES, np.inf * ONES, 0 * ONES, ONES)), "the neurons node0 have a tau or r that is not"),
    ],
)
def test_what_a_network_does_not_have_is_refused(graph, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_nir(nir.NIRGraph(*graph))


LOOP = {"membrane": nir.I(ONES), "threshold": nir.Threshold(ONES), "reset": nir.Scale(-ONES), "more": nir.Scale(ONES)}
EDGES = ["input membrane", "membrane threshold", "threshold reset", "reset membrane", "threshold output", "input more"]


@pytest.mark.parametrize("to", ["threshold", "reset"])
def test_a_loop_with_an_edge_from_elsewhere_is_no_soft_reset(to):
    nodes = {"input": nir.Input({"input": np.array([3])}), **LOOP, "output": nir.Output({"output": np.array([3])})}
    with pytest.raises(ValueError, match="are a loop that is no soft reset"):
        from_nir(nir.NIRGraph(nodes, [tuple(edge.split()) for edge in (*EDGES, f"more {to}")]))


def test_a_flattened_map_as_the_result_is_refused():
    nodes = {"input": nir.Input({"input": np.array([2, 2, 3])}), "if": nir.IF(*(np.ones((2, 2, 3)),) * 2)}
    nodes |= {
        "flat": nir.Flatten({"input": np.array([2, 2, 3])}, 0, -1),
        "output": nir.Output({"output": np.array([12])}),
    }
    with pytest.raises(ValueError, match="the result is a flattened map, whose order differs"):
        from_nir(nir.NIRGraph(nodes, [*zip(nodes, [*nodes][1:], strict=False)]))


def test_loosely_made_graphs_are_refused():
    with pytest.raises(ValueError, match=r"takes a nir.NIRGraph, got a str: read a file by nir.read"):
        from_nir("graph.nir")
    nodes, edges = chain(nir.IF(ONES, ONES))
    with pytest.raises(ValueError, match="the node aside goes to no other"):
        from_nir(nir.NIRGraph({**nodes, "aside": nir.IF(ONES, ONES)}, [*edges, ("node0", "aside")], type_check=False))
    with pytest.raises(ValueError, match=r"neurons/.*/threshold holds NaN or infinity"):
        from_nir(nir.NIRGraph(*chain(nir.IF(ONES, np.inf * ONES))))
    nodes["input"] = nir.Input({"input": np.array([1, 4, 4])})
    nodes["node0"] = nir.Conv2d((4, 4), np.ones((1, 1, 3, 3)), 2, "same", 1, 1, np.zeros(1))
    with pytest.raises(ValueError, match=r'node0 has padding "same" and strides \(2, 2\)'):
        from_nir(nir.NIRGraph(nodes, edges, type_check=False))


IMAGE = {"input": nir.Input({"input": np.array([6, 6])})}


@pytest.mark.parametrize(
    ("nodes", "sentence"),
    [
        ({"node0": None}, "the node node0 is None"),
        ({"node0": nir.IF(np.ones(5), np.ones(5))}, r"node0 has numbers of the shape \(5,\), but \(3,\) arrives"),
        ({"node0": nir.Scale(np.ones((1, 3)))}, r"node0 has numbers of the shape \(1, 3\), but \(3,\) arrives"),
        ({"node0": nir.Linear(np.ones((3, 4)))}, r"node0 has weights \[out, in\] of \(3, 4\), but \(3,\) arrives"),
        ({"node0": nir.Affine(np.ones((3, 3)), np.ones((3, 1)))}, r"a bias of shape \(3, 1\) for 3 units"),
        ({"node0": nir.Conv2d(None, np.ones((1, 2, 3, 3)), 1, 0, 1, 1, np.ones(1))}, r"maps of 2 channels, but \(3,\)"),
        ({"node0": nir.AvgPool2d(*[np.array([2, 2])] * 2, np.array([0, 0]))}, r"a window of \(2, 2\), but \(3,\)"),
        (IMAGE | {"node0": nir.Flatten({"input": np.array([6, 6])}, 0, -1)}, r"\(6, 6\): .* three axes, \(1, 6, 6\)"),
        (IMAGE | {"node0": nir.Flatten({"input": np.array([6, 6])}, 1, -1)}, "flattens axes 1 to -1 of 2"),
        (IMAGE | {"node0": nir.Flatten({"input": np.array([6, 6])}, 2, -1)}, "flattens axes 2 to -1 of 2"),
        (IMAGE | {"node0": nir.IF(np.ones(3), np.ones(3))}, r"the shape \(3,\), but \(6, 6\) arrives"),
        ({"input": nir.Input({"input": None})}, "the shape of the input input is not known"),
        ({"node0": nir.IF(ONES, ONES, metadata={"reset": "Subtract"})}, "metadata name a reset 'Subtract' of neurons"),
    ],
)
def test_nodes_that_do_not_fit_what_arrives_are_refused(nodes, sentence):
    others, edges = chain(nir.IF(ONES, ONES))
    with pytest.raises(ValueError, match=sentence):
        from_nir(nir.NIRGraph({**others, **nodes}, edges, type_check=False))


def test_edges_and_sums_that_do_not_fit_are_refused():
    nodes, edges = chain(nir.IF(ONES, ONES), nir.Linear(np.ones((4, 3))))
    with pytest.raises(ValueError, match="edges name nowhere, which is no node of the graph"):
        from_nir(nir.NIRGraph(nodes, [*edges, ("node0", "nowhere")], type_check=False))
    with pytest.raises(
        ValueError, match=r"arrives at the node output can't be summed: it has the shapes \(4,\), \(3,\)"
    ):
        from_nir(nir.NIRGraph(nodes, [*edges, ("node0", "output")], type_check=False))
    with pytest.raises(ValueError, match='reset must be "hard" or "soft", got \'zero\''):
        from_nir(nir.NIRGraph(*chain(nir.IF(ONES, ONES))), reset="zero")


def test_graphs_that_are_no_network_are_refused():
    nodes, edges = chain(nir.IF(ONES, ONES), nir.Scale(ONES))
    with pytest.raises(ValueError, match="dt must be above 0 seconds, got 0"):
        from_nir(nir.NIRGraph(nodes, edges), dt=0.0)
    with pytest.raises(ValueError, match="are a loop that is no soft reset"):
        from_nir(nir.NIRGraph(nodes, [*edges, ("node1", "node0")]))
    more = {**nodes, "another": nir.Output({"output": np.array([3])})}
    with pytest.raises(ValueError, match="the graph has 2 nodes of Output"):
        from_nir(nir.NIRGraph(more, [*edges, ("node1", "another")]))
    with pytest.raises(ValueError, match="nothing arrives at the node alone"):
        from_nir(nir.NIRGraph({**nodes, "alone": nir.Scale(ONES)}, edges, type_check=False))
    soft = nir.IF(ONES, ONES, metadata={"reset": "subtract"})
    with pytest.raises(ValueError, match="some of the neurons have a soft reset and others a hard one"):
        from_nir(nir.NIRGraph(*chain(soft, nir.Scale(ONES), nir.IF(ONES, ONES))))
