"""Reading a spiking network as a graph of layers, see `jsnn.exchange.nodes`, from which exports are written.

What is read is the graph of operations that the network runs, whatever its modules are called.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jsnn.checks import is_broadcastable
from jsnn.exchange.nodes import LayerGraph, Neurons
from jsnn.exchange.reader import Reader, refuse
from jsnn.exchange.rules import RULES
from jsnn.network.graph import Layer
from jsnn.network.running import Program, constants
from jsnn.network.transformation import SNN, Variables, neurons_of
from jsnn.neurons.neuron import LEAK, Neuron, Range

THRESHOLD = Range("threshold", "above 0", lambda threshold: threshold > 0, "a spike stands for it")


def layer_graph(snn: SNN, variables: Variables, x: Any, *args: Any, **kwargs: Any) -> LayerGraph:
    """The layers of a spiking network, in the ANN's units.

    Convolutions and dense layers have the name of their weights, neurons theirs with "_neurons" behind it.

    Args:
        snn: the network, see `jsnn.spiking`.
        variables: of the SNN.
        x: [B, ...] inputs of one time step, channels last, or their jax.ShapeDtypeStruct.
        args, kwargs: of the ANN's function behind its input.

    Returns:
        The graph. Run over time as it stands in float32, it gives the results of `snn.apply`; of a network that
        computes in fewer bits, but for their rounding.

    Raises:
        ValueError: for an operation that is none of these layers, with its name and line, and for neurons whose
            parameters are out of their range, or do not fit those of a sample.
    """
    graph, arrays = snn.trace(variables, x, *args, **kwargs)
    parameters = neurons_of(graph, snn.neuron, variables)
    if len(graph.outputs) != 1:
        raise ValueError(f"a network of {len(graph.outputs)} results can't be exported: let it return one array.")
    running = [operation for operation in graph.operations if operation.over_time]
    made = {graph.input, *(number for operation in running for number in operation.outputs)}
    numbers = sorted({number for operation in running for number in operation.inputs} - made)
    known = constants(Program(graph, arrays, snn.kernels, {}), numbers)
    reader = Reader(graph, dict(zip(numbers, map(np.asarray, known), strict=True)))
    neurons = {layer.output: name for name, layer in graph.layers.items()}
    for operation in running:
        number = operation.outputs[0]
        if operation.primitive is None:
            name = neurons[number]
            own = _of_sample(graph.layers[name], snn.neuron, parameters[name])
            reader.values[number] = reader.layer(operation, Neurons(name, own), f"{name}_neurons")
        elif operation.primitive.name in RULES:
            reader.values[number] = RULES[operation.primitive.name](reader, operation)
        else:
            refuse(operation, "it is no convolution, dense layer, average pool, flatten, sum or factor")
    output = reader.settle(graph.outputs[0])
    return LayerGraph(reader.nodes, output)


def _of_sample(layer: Layer, neuron: Neuron, parameters: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The parameters of a layer's neurons in their dtype, each a scalar or broadcastable to those of a sample."""
    ranges = {one.name: one for one in (THRESHOLD, LEAK, *neuron.ranges)}
    arrays = {name: np.asarray(value, layer.dtype) for name, value in parameters.items()}
    for name, array in arrays.items():
        text = f"{ranges[name].text} and finite" if name in ranges else "finite"
        is_right = np.isfinite(array) & (ranges[name].holds(array) if name in ranges else True)
        if not np.all(is_right):
            raise ValueError(f"the {name} of {layer.name} must be {text} to be exported, got {array[~is_right][0]}.")
    return {name: _without_samples(f"the {name} of {layer.name}", array, layer) for name, array in arrays.items()}


def _without_samples(which: str, array: np.ndarray, layer: Layer) -> np.ndarray:
    """A parameter of a layer's neurons without the axis of samples; ValueError where it differs from one to another."""
    shape = layer.shape[1:]
    in_front = max(array.ndim - len(shape), 0)
    own = array.shape[in_front:]
    if math.prod(array.shape[:in_front]) > 1 or not is_broadcastable(own, shape):
        raise ValueError(
            f"{which} is of the shape {array.shape}: give it one that is broadcastable to the neurons of a sample, "
            f"{shape}."
        )
    return array.reshape(own)
