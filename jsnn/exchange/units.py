"""Changes what a spike stands for, and scales the weights behind it to compensate."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

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
from jsnn.exchange.reader import with_axes
from jsnn.network.activations import unique_name

ONE = np.ones((), np.float64)


class Value(NamedTuple):
    """The output of an old node, as a multiple of that of a new one."""

    name: str  # of the new node
    factor: np.ndarray  # a scalar, or of a sample's axes, each of size 1 where all along it are equal


def with_spikes_of(graph: LayerGraph, spikes: Mapping[str, np.ndarray], sums: bool = False) -> LayerGraph:
    """The same network with what its neurons emit divided by a factor, which the weights behind them are multiplied by.

    Weights are multiplied in float64, in which the product of two float32 numbers is exact: divided again and rounded
    they are what they were. Factors without an offset go into weights as well; where there are none, they stay.

    Args:
        graph: the network.
        spikes: name of a node of Neurons -> what its output is divided by, a scalar or broadcastable to [H, W, C].
        sums: whether pools give the sums of their windows from now on, and no means.

    Returns:
        The graph; its result is as it was.
    """
    network = _Network({}, {}, frozenset(graph.nodes))
    for name, node in graph.nodes.items():
        network.put(name, node, np.asarray(spikes.get(name, ONE), np.float64), sums)
    return LayerGraph(network.nodes, network.node_of(network.values[graph.output]))


class _Network(NamedTuple):
    """The new nodes so far, and each old node's output as a multiple of theirs."""

    nodes: dict[str, Node]
    values: dict[str, Value]
    names: frozenset[str]  # of all old nodes

    def put(self, name: str, node: Node, spikes: np.ndarray, sums: bool) -> None:
        """Put what an old node is now."""
        layer, values = node.layer, [self.values[other] for other in node.inputs]
        match layer:
            case Input():
                value = self.add(name, node, layer, [])
            case Rescaling(scale, None):
                value = Value(values[0].name, values[0].factor * scale)
            case Rescaling(scale, offset):
                value = self.add(name, node, Rescaling(values[0].factor * scale, offset), values)
            case Convolution() | Dense():
                (value,) = values = [self.by_channel(values[0])]
                value = self.add(name, node, _multiplied(layer, value.factor), values)
            case AveragePool(window):
                (value,) = values = [self.by_channel(values[0])]
                size = math.prod(window) if sums else 1
                value = self.add(name, node, layer, values)._replace(factor=value.factor / size)
            case Flatten(shape):
                factor = values[0].factor
                flat = np.broadcast_to(factor, shape).reshape(-1) if factor.ndim else factor
                value = self.add(name, node, layer, values)._replace(factor=flat)
            case Add():
                alike = all(np.array_equal(other.factor, values[0].factor) for other in values)
                values = values if alike else [Value(self.node_of(value), ONE) for value in values]
                value = self.add(name, node, layer, values)._replace(factor=values[0].factor)
            case Neurons():
                value = self.add(name, node, layer, [Value(self.node_of(values[0]), ONE)])._replace(factor=spikes)
        self.values[name] = value

    def add(self, name: str, node: Node, layer: NamedTuple, values: list[Value]) -> Value:
        """Put a layer in a node's place."""
        self.nodes[name] = node._replace(layer=layer, inputs=tuple(value.name for value in values))
        return Value(name, ONE)

    def by_channel(self, value: Value) -> Value:
        """The value, its factor one number for each channel."""
        return value if math.prod(value.factor.shape[:-1]) == 1 else Value(self.node_of(value), ONE)

    def node_of(self, value: Value) -> str:
        """The name of a node whose output is the value."""
        if np.all(value.factor == 1):
            return value.name
        of, name = self.nodes[value.name], unique_name(f"{value.name}_rescaled", self.names | {*self.nodes})
        layer = Rescaling(with_axes(value.factor, len(of.shape)), None)
        self.nodes[name] = Node(layer, (value.name,), of.shape, of.where)
        return name


def _multiplied(layer: Convolution | Dense, factor: np.ndarray) -> Convolution | Dense:
    """The layer of inputs that are divided by a factor for each channel."""
    if np.all(factor == 1):
        return layer
    into, out = layer.kernel.shape[-2:]
    groups = layer.groups if isinstance(layer, Convolution) else 1
    of_inputs = np.broadcast_to(factor.reshape(-1), (groups * into,)).reshape(groups, into)
    return layer._replace(kernel=layer.kernel.astype(np.float64) * np.repeat(of_inputs, out // groups, axis=0).T)
