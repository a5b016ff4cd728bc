"""What a network costs: multiply-accumulates of an ANN, accumulates of an SNN, and the energy of either.

An ANN multiplies every input by every weight. An SNN adds a weight wherever a spike arrives, so its cost grows with the
number of spikes. Average pools count nothing. Padding counts like pixels. The zeros between the pixels of a transposed
convolution count nothing.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jsnn.network.activations import WITH_WEIGHTS, layer_name, origins_of, unique_name, with_neurons
from jsnn.network.calls import Call
from jsnn.network.graph import Graph, Operation, first_origin, made_of, trace

PICOJOULES_MAC, PICOJOULES_AC = 4.6, 0.9  # float32 at 45 nm: multiply and add, add alone (Horowitz, ISSCC 2014)
INPUT = "input"


class LayerShape(NamedTuple):
    """The size of an operation with weights, for one sample."""

    inputs: int  # numbers that enter it
    outputs: int  # neurons that it drives
    fan_in: float  # synapses of each of them, on average where some windows hold more pixels than others
    feeds: tuple[str, ...]  # layers of neurons whose spikes arrive; "input" is the network's


def layer_shapes(apply: Callable[..., Any], variables: Any, x: Any, **kwargs: Any) -> dict[str, LayerShape]:
    """The sizes of all convolutions and products with weights, found by tracing, which computes nothing.

    Args:
        apply: (variables, x, **kwargs) -> results, an ANN's function.
        variables: of the ANN, arrays or jax.ShapeDtypeStruct.
        x: [1, ...] one sample, or its jax.ShapeDtypeStruct.
        kwargs: of the function.

    Returns:
        Name of the weights -> LayerShape, in forward order.

    Raises:
        ValueError: where x is not one sample.
    """
    if x.shape[:1] != (1,):
        raise ValueError(f"the sizes are those of one sample: pass x of shape [1, ...], got {x.shape}.")
    graph = with_neurons(trace(apply, Call(variables, x, (), kwargs)))
    sources: dict[int, tuple[str, ...]] = {graph.input: (INPUT,)}
    names = {layer.output: layer.name for layer in graph.layers.values()}
    origins, shapes = origins_of(graph, graph.operations), {}
    for operation in graph.operations:
        feeds, path = made_of(sources, operation), first_origin(origins, operation)
        is_product = operation.primitive is not None and operation.primitive.name in WITH_WEIGHTS
        if operation.over_time and is_product and path is not None:
            shapes[unique_name(layer_name(path), shapes)] = _shape(graph, operation, origins, feeds)
        for number in operation.outputs:
            sources[number] = (names[number],) if number in names else feeds
    return shapes


def _shape(graph: Graph, operation: Operation, origins: Mapping[int, Any], feeds: tuple[str, ...]) -> LayerShape:
    x, weights = (graph.avals[number] for number in sorted(operation.inputs, key=lambda number: number in origins))
    outputs = graph.avals[operation.outputs[0]]
    if operation.primitive.name == "conv_general_dilated":
        features = weights.shape[operation.options["dimension_numbers"].rhs_spec[0]]
        dilation = math.prod(operation.options["lhs_dilation"])  # places of a window for each that holds a pixel
    else:
        (of_x, of_weights), _ = operation.options["dimension_numbers"]
        contracted = of_weights if operation.inputs[1] in origins else of_x
        features, dilation = weights.size // math.prod(weights.shape[axis] for axis in contracted), 1
    return LayerShape(x.size, outputs.size, weights.size / (features * dilation), feeds)


def multiply_accumulates(shapes: Mapping[str, LayerShape]) -> dict[str, int]:
    """Layer -> the multiply-accumulates of an ANN for one sample, outputs * fan_in.

    Also those of one time step of its SNN on dense hardware, which multiplies silent inputs too.
    """
    return {name: round(shape.outputs * shape.fan_in) for name, shape in shapes.items()}


def accumulates(shapes: Mapping[str, LayerShape], spikes: Mapping[str, float]) -> dict[str, float]:
    """Layer -> the accumulates of an SNN for one sample, (arriving spikes) * outputs * fan_in / inputs.

    A spike costs one accumulate for each synapse that it reaches, its fan-out (Rueckauer et al., 2017,
    doi:10.3389/fnins.2017.00682), which is outputs * fan_in / inputs on average over the inputs of a layer. A pool
    hands a spike on to the synapses of one pixel. Given are the spikes of all neurons of a layer, and of "input", in a
    presentation; none where a name is missing.
    """
    arriving = {name: sum(spikes.get(source, 0.0) for source in shape.feeds) for name, shape in shapes.items()}
    return {name: arriving[name] * shape.outputs * shape.fan_in / shape.inputs for name, shape in shapes.items()}


def neurons(layers: Mapping[str, Any]) -> dict[str, int]:
    """Layer -> number of spiking neurons for one sample, of the `Graph.layers` of an SNN."""
    return {name: math.prod(layer.shape[1:]) for name, layer in layers.items()}
