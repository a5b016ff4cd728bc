"""Networks that NIR has no nodes for, and graphs that no network runs: each is refused in a sentence."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsnn
from jsnn.models import VGG
from jsnn.network.transformation import NEURONS, spiking
from jsnn.neurons import adaptive_lif, hard_reset_lif, lif
from tests.exchange.nir_reference import graph_of, nir
from tests.networks import ONE_IMAGE, random_snn


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
        jsnn.to_nir(snn, {**variables, NEURONS: {"conv0": extra | neurons}}, ONE_IMAGE, **options)


def test_a_window_that_no_zeros_make_square_is_refused():
    conv, x = nn.Conv(4, (3, 3), padding=((1, 0), (1, 1))), jnp.zeros((1, 6, 6, 2))
    snn = spiking(lambda variables, x: nn.relu(conv.apply(variables, x)))
    sentence = r"has the window \(3, 3\) with padding \(\(1, 0\), \(1, 1\)\): nir reads back square windows alone"
    with pytest.raises(ValueError, match=sentence):
        jsnn.to_nir(snn, snn.init(conv.init(jax.random.key(0), x), x), x, reset="named")


ONES, NODE, MAP = np.ones(3), nir.IF(np.ones(3), np.ones(3)), np.ones((2, 2, 3))
SOFT = nir.IF(ONES, ONES, metadata={"reset": "subtract"})
LOOP = {"membrane": nir.I(ONES), "threshold": nir.Threshold(ONES), "reset": nir.Scale(-ONES), "more": nir.Scale(ONES)}
EDGES = "input membrane, membrane threshold, threshold reset, reset membrane, threshold output, input more"
LINE = "input node0, node0 node1, node1 output"
SCALED = {"node0": NODE, "node1": nir.Scale(ONES)}
WIDER = {"node0": NODE, "node1": nir.Linear(np.ones((4, 3)))}
STRIDED = nir.Conv2d((4, 4), np.ones((1, 1, 3, 3)), 2, "same", 1, 1, np.zeros(1))


def joined(nodes, edges):
    """A graph of edges "source target, ..."."""
    return graph_of(nodes, [tuple(edge.split()) for edge in edges.split(", ")])


def alone(node, *shape):
    """A graph of one node, which inputs of a shape, or of three features, arrive at."""
    return graph_of({"node0": node}, shape=shape or (3,))


def flatten(start, *shape):
    return nir.Flatten({"input": np.array(shape)}, start, -1)


@pytest.mark.parametrize(
    ("graph", "sentence"),
    [
        (alone(nir.CubaLIF(ONES, ONES, ONES, ONES, ONES)), "the node node0 is a CubaLIF, for which a network has no"),
        (alone(nir.LIF(2 * ONES, ONES, ONES, ONES)), "the neurons node0 rest or reset elsewhere than at 0"),
        (alone(nir.LIF(2 * ONES, ONES, 0 * ONES, ONES, ONES)), "the neurons node0 rest or reset elsewhere than at 0"),
        (alone(nir.LIF(ONES / 2, ONES, 0 * ONES, ONES)), "a tau above dt = 1.0 seconds"),
        (alone(nir.IF(ONES, 0 * ONES)), "the neurons node0 need a threshold above 0"),
        (alone(nir.LIF(np.inf * ONES, np.inf * ONES, 0 * ONES, ONES)), "the neurons node0 have a tau or r that is not"),
        (alone(nir.IF(ONES, np.inf * ONES)), "neurons/.*/threshold holds NaN or infinity"),
        (alone(None), "the node node0 is None"),
        (alone(nir.IF(np.ones(5), np.ones(5))), r"node0 has numbers of the shape \(5,\), but \(3,\) arrives"),
        (alone(nir.Scale(np.ones((1, 3)))), r"node0 has numbers of the shape \(1, 3\), but \(3,\) arrives"),
        (alone(nir.Linear(np.ones((3, 4)))), r"node0 has weights \[out, in\] of \(3, 4\), but \(3,\) arrives"),
        (alone(nir.Affine(np.ones((3, 3)), np.ones((3, 1)))), r"a bias of shape \(3, 1\) for 3 units"),
        (alone(nir.Conv2d(None, np.ones((1, 2, 3, 3)), 1, 0, 1, 1, ONES[:1])), r"maps of 2 channels, but \(3,\)"),
        (alone(nir.AvgPool2d(*[np.array([2, 2])] * 2, np.array([0, 0]))), r"a window of \(2, 2\), but \(3,\)"),
        (alone(flatten(0, 6, 6), 6, 6), r"\(6, 6\): .* three axes, \(1, 6, 6\)"),
        (alone(flatten(1, 6, 6), 6, 6), "flattens axes 1 to -1 of 2"),
        (alone(flatten(2, 6, 6), 6, 6), "flattens axes 2 to -1 of 2"),
        (alone(NODE, 6, 6), r"the shape \(3,\), but \(6, 6\) arrives"),
        (alone(STRIDED, 1, 4, 4), r'node0 has padding "same" and strides \(2, 2\)'),
        (graph_of({"input": nir.Input({"input": None}), "node0": NODE}), "the shape of the input input is not known"),
        (alone(nir.IF(ONES, ONES, metadata={"reset": "Subtract"})), "metadata name a reset 'Subtract' of neurons"),
        (
            graph_of({"if": nir.IF(MAP, MAP), "flat": flatten(0, 2, 2, 3)}, None, MAP.shape, (12,)),
            "the result is a flattened map, whose order differs",
        ),
        (joined(LOOP, f"{EDGES}, more threshold"), "are a loop that is no soft reset"),
        (joined(LOOP, f"{EDGES}, more reset"), "are a loop that is no soft reset"),
        (joined(SCALED, f"{LINE}, node1 node0"), "are a loop that is no soft reset"),
        (joined(SCALED | {"aside": NODE}, f"{LINE}, node0 aside"), "the node aside goes to no other"),
        (joined(SCALED | {"alone": NODE}, LINE), "nothing arrives at the node alone"),
        (
            joined(SCALED | {"more": nir.Output({"output": ONES})}, f"{LINE}, node1 more"),
            "the graph has 2 nodes of Output",
        ),
        (joined(WIDER, f"{LINE}, node0 nowhere"), "edges name nowhere, which is no node of the graph"),
        (
            joined(WIDER, f"{LINE}, node0 output"),
            r"arrives at the node output can't be summed: it has the shapes \(4,\), \(3,\)",
        ),
        (graph_of({"node0": SOFT, "node1": NODE}), "some of the neurons have a soft reset and others a hard one"),
        ("graph.nir", "takes a nir.NIRGraph, got a str: read a file by nir.read"),
    ],
)
def test_what_a_network_does_not_have_is_refused(graph, sentence):
    with pytest.raises(ValueError, match=sentence):
        jsnn.from_nir(graph)


def test_options_that_are_none_are_refused():
    with pytest.raises(ValueError, match="dt must be above 0 seconds, got 0"):
        jsnn.from_nir(alone(NODE), dt=0.0)
    with pytest.raises(ValueError, match='reset must be "hard" or "soft", got \'zero\''):
        jsnn.from_nir(alone(NODE), reset="zero")
