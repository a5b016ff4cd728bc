"""The graph of layers while it is read from a graph of operations.

Biases and batch norm multiply a value by constants or add constants to it. These constants are collected beside the
value. When a layer takes the value, they are merged into the weights that made it.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

import numpy as np

from jsnn.exchange.nodes import Add, Convolution, Dense, Input, Neurons, Node, Rescaling
from jsnn.network.activations import layer_name, origins_of, unique_name
from jsnn.network.graph import Graph, Operation


class Value(NamedTuple):
    """A value over time: scale * (what a node gives) + offset."""

    node: Node
    name: str  # that the node shall get
    scale: Any = 1.0  # a number, or an array of a sample's axes, each of size 1 where all along it are equal
    offset: Any = None  # likewise, or None

    def times(self, factor: Any) -> "Value":
        """The value times a constant."""
        offset = None if self.offset is None else self.offset * factor
        return self._replace(scale=self.scale * factor, offset=offset)

    def over(self, divisor: Any) -> "Value":
        """The value divided by a constant, so that n / n is 1 for every n."""
        offset = None if self.offset is None else self.offset / divisor
        return self._replace(scale=self.scale / divisor, offset=offset)

    def plus(self, constant: Any) -> "Value":
        """The value and a constant."""
        return self._replace(offset=constant if self.offset is None else self.offset + constant)


class Reader:
    """Nodes so far, and the values over time that are made of them."""

    def __init__(self, graph: Graph, known: Mapping[int, np.ndarray]) -> None:
        self.nodes: dict[str, Node] = {}
        self.values: dict[int, Value] = {}
        self._graph, self._known, self._origins = graph, known, origins_of(graph, graph.operations)
        shape = self.shape(graph.input)[1:]
        self.values[graph.input] = Value(Node(Input(shape), (), shape, "the network's input"), "input")
        self.settle(graph.input)

    def shape(self, number: int) -> tuple[int, ...]:
        """[B, ...] of a value."""
        return tuple(self._graph.avals[number].shape)

    def layer(self, operation: Operation, layer: Any, name: str) -> Value:
        """What a layer gives that takes the values over time which an operation takes."""
        inputs = tuple(self.settle(number) for number in operation.inputs if number in self.values)
        return Value(Node(layer, inputs, self.shape(operation.outputs[0])[1:], operation.where), name)

    def settle(self, number: int) -> str:
        """The name of the node that gives a value, from now on in the graph."""
        self.values[number], name = self.settled(self.values[number])
        return name

    def settled(self, value: Value) -> tuple[Value, str]:
        """A value with nothing gathered beside it any more, and the name of its node."""
        if not any(node is value.node for node in self.nodes.values()):
            value = _taken_in(value)
        name = self._place(value)
        if value.offset is None and np.all(value.scale == 1):
            return value, name
        axes = len(value.node.shape)
        offset = None if value.offset is None else with_axes(value.offset, axes)
        layer = Rescaling(with_axes(value.scale, axes), offset)
        value = Value(Node(layer, (name,), value.node.shape, value.node.where), "rescaling")
        return value, self._place(value)

    def is_of_input(self, node: Node) -> bool:
        """Whether a node gives the network's input, but for what is done to each element."""
        if isinstance(node.layer, Neurons | Rescaling | Add):
            return any(self.is_of_input(self.nodes[name]) for name in node.inputs)
        return isinstance(node.layer, Input)

    def constant(self, operation: Operation, number: int) -> np.ndarray:
        """A constant as a sample of an operation's result meets it, in float64."""
        axes = len(self.shape(operation.outputs[0]))
        value = smallest(with_axes(self._known[number].astype(np.float64), axes))
        if len(value) > 1:
            refuse(operation, "it differs from sample to sample")
        return value[0]

    def weights(self, operation: Operation) -> tuple[np.ndarray, str]:
        """What a product multiplies by, and its name."""
        number = operation.inputs[1]
        if number not in self._known:
            refuse(operation, "its second input must be the weights")
        value, path = self._known[number], self._origins.get(number)
        dtype = np.result_type(value.dtype, np.float32) if value.dtype.kind not in "iub" else np.float32
        return value.astype(dtype), layer_name(path) if path else "weights"

    def _place(self, value: Value) -> str:
        """Put a value's node into the graph, where it isn't yet."""
        for name, node in self.nodes.items():
            if node is value.node:
                return name
        name = unique_name(value.name, self.nodes)
        self.nodes[name] = value.node
        return name


def refuse(operation: Operation, why: str) -> NoReturn:
    """Raise the ValueError for an operation that can't be exported."""
    raise ValueError(f"{operation.primitive.name} in {operation.where} can't be exported: {why}.")


def with_axes(value: Any, axes: int) -> np.ndarray:
    """A number or array with so many axes, new ones in front."""
    return np.reshape(value, (1,) * (axes - np.ndim(value)) + np.shape(value))


def _taken_in(value: Value) -> Value:
    """Weights with what follows them in kernel and bias, where that is one number for each channel.

    A scale by place stays behind them, and the constant that it then multiplies goes into the bias.
    """
    layer, axes = value.node.layer, len(value.node.shape)
    if not isinstance(layer, Convolution | Dense):
        return value
    scale, left = with_axes(value.scale, axes), 1.0
    offset = None if value.offset is None else with_axes(value.offset, axes)
    if not _is_by_channel(scale):
        if offset is None or not np.all(scale):
            return value
        scale, left, offset = np.ones((1,) * axes), scale, smallest(offset / scale)
    if offset is not None and not _is_by_channel(offset):
        return value
    dtype, features = layer.kernel.dtype, layer.kernel.shape[-1]
    bias = None if offset is None else np.broadcast_to(offset.reshape(-1), (features,)).astype(dtype)
    folded = layer._replace(kernel=(layer.kernel * scale.reshape(-1)).astype(dtype), bias=bias)
    return Value(value.node._replace(layer=folded), value.name, left)


def _is_by_channel(part: np.ndarray) -> bool:
    """Whether an array of a sample's axes has one number for each channel."""
    return math.prod(part.shape[:-1]) == 1


def smallest(part: np.ndarray) -> np.ndarray:
    """An array of a sample's axes, of size 1 along those where all are equal."""
    for axis in range(part.ndim):
        first = part.take([0], axis)
        part = first if np.all(part == first) else part
    return part
