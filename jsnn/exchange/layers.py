"""Reading a spiking network as a graph of layers, see `jsnn.exchange.nodes`, from which exports are written.

What is read is the graph of operations that the network runs, whatever its modules are called.
"""

from typing import Any

import numpy as np

from jsnn.exchange.nodes import LayerGraph, Neurons
from jsnn.exchange.reader import Reader, refuse
from jsnn.exchange.rules import RULES
from jsnn.network.running import Program, constants
from jsnn.network.transformation import NEURONS, SNN, Variables, check_neurons


def layer_graph(snn: SNN, variables: Variables, x: Any, *args: Any, **kwargs: Any) -> LayerGraph:
    """The layers of a spiking network, in the ANN's units.

    Convolutions and dense layers have the name of their weights, neurons theirs with "_neurons" behind it.

    Args:
        snn: the network, see `jsnn.spiking`.
        variables: of the SNN.
        x: [B, ...] inputs of one time step, channels last, or their jax.ShapeDtypeStruct.
        args, kwargs: of the ANN's function behind its input.

    Returns:
        The graph. Run over time as it stands, it gives the results of `snn.apply`.

    Raises:
        ValueError: for an operation that is none of these layers, with its name and line.
    """
    graph, arrays = snn.trace(variables, x, *args, **kwargs)
    check_neurons(graph, snn.neuron, variables)
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
            parameters = {key: np.asarray(value) for key, value in variables[NEURONS][name].items()}
            reader.values[number] = reader.layer(operation, Neurons(name, parameters), f"{name}_neurons")
        elif operation.primitive.name in RULES:
            reader.values[number] = RULES[operation.primitive.name](reader, operation)
        else:
            refuse(operation, "it is no convolution, dense layer, average pool, flatten, sum or factor")
    output = reader.settle(graph.outputs[0])
    return LayerGraph(reader.nodes, output)
