"""A spiking network as a graph of NIR, the neuromorphic intermediate representation. Importing this imports nir.

In NIR (Pedersen et al., 2024, doi:10.1038/s41467-024-52259-9) a spike is 1 and maps are [C, H, W]. A spike resets the
membrane to a fixed value:

    IF:  dv/dt = r I        LIF:  tau dv/dt = v_leak - v + r I        v becomes v_reset where v > v_threshold

An Euler step of dt is u[t] = leak u[t-1] + I[t] where tau is dt / (1 - leak) and r is tau / dt. An IF node jumps by its
input, r = 1, as NIR's simulators have it.
"""

from typing import Any

import nir
import numpy as np

from jsnn.exchange.layers import layer_graph
from jsnn.exchange.layout import Order, by_neuron, channels_first, check_result, order_behind, positions
from jsnn.exchange.nir_convolution import bias_of, convolution_of
from jsnn.exchange.nodes import (
    Add,
    AveragePool,
    Convolution,
    Dense,
    Flatten,
    Input,
    LayerGraph,
    Neurons,
    Node,
    Rescaling,
)
from jsnn.exchange.resets import HARD, reset_of
from jsnn.exchange.units import with_spikes_of
from jsnn.network.activations import unique_name
from jsnn.network.transformation import SNN, Variables

RESETS = ("hard", "named", "exact")
POOLS = {"average": nir.AvgPool2d, "sum": nir.SumPool2d}
Edges = list[tuple[str, str]]


def to_nir(
    snn: SNN,
    variables: Variables,
    x: Any,
    *args: Any,
    reset: str = "hard",
    pools: str = "average",
    dt: float = 1.0,
    **kwargs: Any,
) -> nir.NIRGraph:
    """A network as a NIRGraph, its weights in PyTorch's layout, batch norm in them, and thresholds in the next ones.

    Thresholds are those of our membranes. In float64 weights are exactly the ANN's times the threshold before them.
    Convolutions have one group and a square window, filled up with zeros, for nir reads no others back. A flatten node
    has NIR's axes, without one of samples: PyTorch's simulators run it on one sample without that axis.

    Args:
        snn: the network, see `jsnn.spiking`, of `jsnn.lif` or `jsnn.hard_reset_lif` neurons.
        variables: of the SNN.
        x: [B, H, W, C] or [B, features] inputs of one time step, or their jax.ShapeDtypeStruct.
        args, kwargs: of the ANN's function behind its input.
        reset: what becomes of a reset. NIR's own is "hard", to 0. Of a soft one "named" makes the same nodes with
            {"reset": "subtract", "initial": membrane before the first step} in their metadata, which simulators that
            do not know of it run with a hard one; "exact" makes of each layer a leaky integrator, a threshold and an
            edge back that subtracts, one step later, what NIR means by itself.
        pools: "average", AvgPool2d, or "sum", SumPool2d with the size of the window in the weights behind it: which of
            them a simulator knows.
        dt: seconds of a time step; snnTorch takes it as 1e-4, norse as 1e-3.

    Returns:
        The graph, of nodes by the names of their weights, with a dot for each slash: files have none in names. Its
        spikes are those of the network where this computes in float32: simulators do.

    Raises:
        ValueError: for a soft reset or an initial membrane where reset is "hard", and what NIR has no node for.
    """
    for name, value, choices in (("reset", reset, RESETS), ("pools", pools, POOLS)):
        if value not in choices:
            raise ValueError(f"there is no {name} {value!r}: choose from {', '.join(choices)}.")
    if not dt > 0:
        raise ValueError(f"dt must be above 0 seconds, got {dt}.")
    own = reset_of(snn.neuron)
    if own is None:
        raise ValueError("these neurons are neither jsnn.lif nor jsnn.hard_reset_lif, for which NIR has nodes.")
    graph = layer_graph(snn, variables, x, *args, **kwargs)
    neurons = {name: node.layer.parameters for name, node in graph.nodes.items() if isinstance(node.layer, Neurons)}
    begins = any(np.any(parameters["initial"]) for parameters in neurons.values())
    if reset == "hard" and (own != HARD or begins):
        raise ValueError(
            f"these neurons have {'a soft reset' if own != HARD else 'an initial membrane'}, which no node of NIR has: "
            'choose reset="named", which says so in metadata, or "exact", a threshold whose spikes are subtracted.'
        )
    if reset == "exact" and own == HARD:
        raise ValueError('a hard reset is NIR\'s own: choose reset="hard", or "named" for an initial membrane.')
    graph = with_spikes_of(graph, {name: one["threshold"] for name, one in neurons.items()}, sums=pools == "sum")
    return _exported(graph, own, reset, pools, dt)


def _exported(graph: LayerGraph, own: str, reset: str, pools: str, dt: float) -> nir.NIRGraph:
    """The nodes, and the edges between them: what arrives at a node from several is summed."""
    nodes: dict[str, nir.NIRNode] = {}
    edges: Edges = []
    gives: dict[str, list[str]] = {}  # our node -> the nodes whose outputs sum up to what it gives
    orders: dict[str, Order] = {}
    for name, node in graph.nodes.items():
        orders[name] = order_behind(node, [orders[source] for source in node.inputs])
        arriving = [giver for source in node.inputs for giver in gives[source]]
        if isinstance(node.layer, Add):
            gives[name] = _each_once(arriving, channels_first(node.shape), nodes, edges)
            continue
        order = orders[node.inputs[0]] if node.inputs else None
        if isinstance(node.layer, Neurons):
            part = _neurons(name, node, order, own, reset, dt)
        else:
            shape = graph.nodes[node.inputs[0]].shape if node.inputs else node.shape
            part = {"": _node(node, shape, order, pools)}
        first, *others = names = [_put(nodes, f"{name}{suffix}", one) for suffix, one in part.items()]
        edges += [(giver, first) for giver in arriving]
        if others:  # a loop, whose second node is the threshold
            edges += zip(names, (*others, first), strict=True)
        gives[name] = others[:1] or [first]
    check_result(orders[graph.output])
    output = nir.Output({"output": np.array(channels_first(graph.nodes[graph.output].shape))})
    name = _put(nodes, "output", output)
    return nir.NIRGraph(nodes, [*edges, *((giver, name) for giver in gives[graph.output])])


def _put(nodes: dict[str, nir.NIRNode], name: str, node: nir.NIRNode) -> str:
    """Put a node among the others; returns its name, which is another one where that is taken."""
    name = unique_name(name.replace("/", "."), nodes)
    nodes[name] = node
    return name


def _each_once(givers: list[str], shape: tuple[int, ...], nodes: dict[str, nir.NIRNode], edges: Edges) -> list[str]:
    """The nodes that give the terms of a sum; one that comes twice is followed by one that multiplies by 1."""
    terms: list[str] = []
    for giver in givers:
        term = giver
        if giver in terms:
            term = _put(nodes, f"{giver}_again", nir.Scale(np.ones(shape, np.float32)))
            edges.append((giver, term))
        terms.append(term)
    return terms


def _node(node: Node, shape: tuple[int, ...], order: Order, pools: str) -> nir.NIRNode:
    """A node without state, of inputs of a shape."""
    match node.layer:
        case Input():
            return nir.Input({"input": np.array(channels_first(shape))})
        case Convolution():
            return convolution_of(node, shape)
        case Dense(kernel, bias):
            rows = kernel if order is None else kernel[positions(order)]
            return nir.Affine(np.ascontiguousarray(rows.T), bias_of(bias, kernel))
        case AveragePool(window, strides, padding):
            return POOLS[pools](np.array(window), np.array(strides), np.array(_symmetric(padding, node.where)))
        case Flatten():
            return nir.Flatten({"input": np.array(channels_first(shape))}, 0, -1)
        case Rescaling(scale, None):
            return nir.Scale(by_neuron(scale, node.shape, order))
    raise ValueError(f"{node.where} adds a constant behind no weights, for which NIR has no node.")


def _neurons(name: str, node: Node, order: Order, own: str, reset: str, dt: float) -> dict[str, nir.NIRNode]:
    """Neurons, or a loop of an integrator, its threshold and what a spike subtracts, by the ends of their names."""
    threshold, leak, share = (
        by_neuron(node.layer.parameters[key].astype(np.float64), node.shape, order)
        for key in ("threshold", "leak", "initial")
    )
    start, leaky = share * threshold, bool(np.any(leak != 1))
    of_membrane = {"r": np.ones_like(leak)}
    if leaky:
        if np.any(leak == 1):
            raise ValueError(f"some of the neurons {name} leak and others don't, for which NIR has no node.")
        of_membrane = {"tau": dt / (1 - leak), "r": 1 / (1 - leak)}
    if reset == "exact":  # the membrane counted from where it starts
        resting = {"v_leak": -start} if leaky else {}
        integrator = (nir.LI if leaky else nir.I)(**of_membrane, **resting)
        return {"": integrator, "_threshold": nir.Threshold(threshold - start), "_reset": nir.Scale(-threshold)}
    resting = {"v_leak": np.zeros_like(leak)} if leaky else {}
    neurons = (nir.LIF if leaky else nir.IF)(
        **of_membrane, **resting, v_threshold=threshold, v_reset=np.zeros_like(threshold)
    )
    if reset == "named":
        neurons.metadata = {"reset": "subtract" if own != HARD else "zero", "initial": start}
    return {"": neurons}


def _symmetric(padding: tuple[tuple[int, int], ...], where: str) -> tuple[int, ...]:
    """The padding of a pool, the same at both ends."""
    if len(padding) != 2 or any(before != after for before, after in padding):
        raise ValueError(f"{where} pools with padding {padding}: NIR has pools of 2 axes, with as much at both ends.")
    return tuple(before for before, _ in padding)
