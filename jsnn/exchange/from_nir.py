"""A graph of NIR as a spiking network, see `jsnn.exchange.to_nir` for what NIR means. Importing this imports nir."""

from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from typing import Any

import jax
import jax.numpy as jnp
import nir

from jsnn.conversion.thresholds import check_finite
from jsnn.exchange.function import ann_of
from jsnn.exchange.layout import Order, channels_first, check_result, order_behind
from jsnn.exchange.nir_nodes import NEURONS_OF_NIR, SoftReset, layers_of, reset_of_node, with_arrays
from jsnn.exchange.nodes import Add, LayerGraph, Neurons, Node
from jsnn.exchange.resets import HARD, SOFT
from jsnn.exchange.units import with_spikes_of
from jsnn.network.activations import unique_name
from jsnn.network.transformation import NEURONS, SNN, Variables, spiking
from jsnn.neurons import hard_reset_lif, lif
from jsnn.neurons.surrogate import Surrogate, stdb

Edges = list[tuple[str, str]]


def from_nir(
    graph: nir.NIRGraph, dt: float = 1.0, surrogate: Surrogate | None = None, reset: str = HARD
) -> tuple[SNN, Variables]:
    """The network of a NIRGraph: its maps are [B, H, W, C] here, and a spike stands for its threshold.

        leak = 1 - dt / tau,    I = (dt / tau) r * (what arrives)

    Args:
        graph: of Conv2d, Linear, Affine, AvgPool2d, SumPool2d, Flatten, Scale, IF and LIF nodes, and loops of an LI or
            I, a Threshold and a Scale, as `jsnn.to_nir` makes them of a soft reset. Neurons that say
            {"reset": "subtract"} in their metadata have a soft reset, others that of `reset`; all have the same.
            Shapes are those that arrive, be they not inferred; numbers of neurons are broadcast to [C, H, W].
        dt: seconds of a time step.
        surrogate: of the spikes; None is `jsnn.surrogate.stdb()`.
        reset: of neurons whose metadata name none: "hard", NIR's own, or "soft", which snnTorch's neurons have as a
            rule, and do not say.

    Returns:
        (the SNN, its variables): weights by the names of the nodes; neurons, in the order of theirs, by the name of the
        weights in front of them, as in every network here.

    Raises:
        ValueError: for other nodes and loops, nodes that do not fit what arrives, a graph of several inputs or outputs,
            neurons that rest or reset elsewhere than at 0, numbers that are not finite, a flattened map as the result,
            a dt that is not above 0, and another `reset`.
    """
    if not isinstance(graph, nir.NIRGraph):
        raise ValueError(f"from_nir takes a nir.NIRGraph, got a {type(graph).__name__}: read a file by nir.read.")
    if not dt > 0:
        raise ValueError(f"dt must be above 0 seconds, got {dt}.")
    if reset not in (HARD, SOFT):
        raise ValueError(f'reset must be "{HARD}" or "{SOFT}", got {reset!r}.')
    layers, resets = _read(graph, dt, reset)
    if len(resets) > 1:
        raise ValueError("some of the neurons have a soft reset and others a hard one: a network has one kind.")
    neurons = {name: node.layer for name, node in layers.nodes.items() if isinstance(node.layer, Neurons)}
    ours = with_spikes_of(layers, {name: 1 / layer.parameters["threshold"] for name, layer in neurons.items()})
    apply, params = ann_of(ours)
    snn = spiking(apply, (hard_reset_lif if HARD in resets else lif)(surrogate or stdb()))
    x = jax.ShapeDtypeStruct((1, *next(iter(ours.nodes.values())).shape), jnp.float32)
    traced, _ = snn.trace({"params": params}, x)
    parameters = (
        {key: jnp.array(value, jnp.float32) for key, value in layer.parameters.items()} for layer in neurons.values()
    )
    variables = {"params": params, NEURONS: dict(zip(traced.layers, parameters, strict=True))}
    check_finite(variables)
    return snn, variables


def _read(graph: nir.NIRGraph, dt: float, unnamed: str) -> tuple[LayerGraph, set[str]]:
    """The layers, whose spikes are 1, and the resets of their neurons."""
    if missing := {name for edge in graph.edges for name in edge} - {*graph.nodes}:
        raise ValueError(f"edges name {', '.join(sorted(missing))}, which is no node of the graph: take them out.")
    parts, edges = _without_loops({name: with_arrays(name, node) for name, node in graph.nodes.items()}, graph.edges)
    _check_ends(parts, edges)
    sources = {name: [source for source, target in edges if target == name] for name in parts}
    nodes: dict[str, Node] = {}
    gives: dict[str, str] = {}  # a node of NIR -> the last of ours that stand for it
    orders: dict[str, Order] = {}

    def put(name: str, suffix: str, layer: Any, inputs: tuple[str, ...], shape: tuple[int, ...]) -> str:
        name = unique_name(name + suffix, {*nodes, *parts}) if suffix else name
        nodes[name] = Node(layer, inputs, shape, f"the node {name}")
        orders[name] = order_behind(nodes[name], [orders[source] for source in inputs])
        return name

    for name in _in_order(sources):
        inputs = tuple(gives[source] for source in sources[name])
        if len({nodes[source].shape for source in inputs}) > 1:
            shapes = ", ".join(str(channels_first(nodes[source].shape)) for source in inputs)
            raise ValueError(f"what arrives at the node {name} can't be summed: it has the shapes {shapes}.")
        if len(inputs) > 1:
            inputs = (put(name, "_sum", Add(), inputs, nodes[inputs[0]].shape),)
        before, order = (nodes[inputs[0]].shape, orders[inputs[0]]) if inputs else ((), None)
        for suffix, layer, shape in layers_of(name, parts[name], before, order, dt):
            inputs = (put(name, suffix, layer, inputs, shape),)
        gives[name] = inputs[0]
    output = next(name for name, part in parts.items() if isinstance(part, nir.Output))
    check_result(orders[gives[output]])
    resets = {reset_of_node(part, unnamed) for part in parts.values() if isinstance(part, NEURONS_OF_NIR)}
    return LayerGraph(nodes, gives[output]), resets


def _check_ends(parts: dict[str, Any], edges: Edges) -> None:
    """Refuse a graph of several inputs or outputs, and nodes at which nothing arrives, or that go to no other."""
    for kind in (nir.Input, nir.Output):
        if (number := sum(isinstance(part, kind) for part in parts.values())) != 1:
            raise ValueError(f"the graph has {number} nodes of {kind.__name__}: a network has one.")
    givers, takers = {source for source, _ in edges}, {target for _, target in edges}
    for name, part in parts.items():
        if name not in takers and not isinstance(part, nir.Input):
            raise ValueError(f"nothing arrives at the node {name}: give it an edge, or take it out.")
        if name not in givers and not isinstance(part, nir.Output):
            raise ValueError(f"the node {name} goes to no other: give it an edge, or take it out.")


def _without_loops(nodes: dict[str, Any], edges: Edges) -> tuple[dict[str, Any], Edges]:
    """Nodes and edges with a SoftReset in place of each integrator whose threshold's spikes alone come back scaled."""
    behind: dict[str, list[str]] = {name: [] for name in nodes}
    before: dict[str, list[str]] = {name: [] for name in nodes}
    for source, target in edges:
        behind[source].append(target)
        before[target].append(source)
    parts, edges = dict(nodes), list(edges)
    for name, node in nodes.items():
        if not isinstance(node, nir.LI | nir.I) or len(behind[name]) != 1:
            continue
        (threshold,) = behind[name]
        back = [other for other in behind[threshold] if isinstance(nodes[other], nir.Scale)]
        back = [other for other in back if (before[other], behind[other]) == ([threshold], [name])]
        if isinstance(nodes[threshold], nir.Threshold) and before[threshold] == [name] and len(back) == 1:
            parts[name] = SoftReset(node, parts.pop(threshold).threshold, parts.pop(back[0]).scale)
            loop = {(name, threshold), (threshold, back[0]), (back[0], name)}
            edges = [(name if a == threshold else a, b) for a, b in edges if (a, b) not in loop]
    return parts, edges


def _in_order(sources: dict[str, list[str]]) -> Iterable[str]:
    """The nodes, each behind those that it takes."""
    try:
        return [*TopologicalSorter(sources).static_order()]
    except CycleError as error:
        raise ValueError(f"the nodes {', '.join(error.args[1])} are a loop that is no soft reset.") from error
