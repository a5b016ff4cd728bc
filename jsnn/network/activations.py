"""Finds the activations that become neurons: ReLU in its usual forms, relu6, clip, qcfs."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsnn.network.graph import NAMES_OF_LEAVES, Graph, Layer, Operation, first_origin, made_of, needed
from jsnn.quantization import is_qcfs

WITH_WEIGHTS = ("conv_general_dilated", "dot_general")
UNCHANGED = ("broadcast_in_dim", "convert_element_type", "reshape", "copy", "squeeze")  # of a constant


class Activation(NamedTuple):
    """An operation that is an activation."""

    current: int  # number of the value that it is the activation of
    ceiling: float | None = None  # its largest value, or None
    threshold: int | None = None  # number of the value that a spike shall stand for, or None


def with_neurons(graph: Graph) -> Graph:
    """The graph of an ANN with a layer of neurons in place of every activation."""
    makers = {number: operation for operation in graph.operations for number in operation.outputs}
    replaced = []
    for operation in graph.operations:
        activation = _activation(graph, makers, operation)
        if activation is not None:
            inputs = tuple(number for number in (activation.current, activation.threshold) if number is not None)
            operation = operation._replace(primitive=None, options=activation._asdict(), call=None, inputs=inputs)
        replaced.append(operation)
    operations = tuple(needed(replaced, graph.outputs))
    return graph._replace(operations=operations, layers=_layers(graph, operations))


def _activation(graph: Graph, makers: Mapping[int, Operation], operation: Operation) -> Activation | None:
    """The activation that an operation is, if it is one."""
    if not operation.over_time:
        return None

    def constant(number: int) -> float | None:
        return _constant(graph, makers, number)

    def of(number: int, name: str) -> Operation | None:
        maker = makers.get(number)
        return maker if maker is not None and maker.primitive.name == name else None

    def split(inputs: tuple[int, ...]) -> tuple[int, float | None]:
        """A value and the constant beside it."""
        one, other = inputs
        return (one, constant(other)) if constant(other) is not None else (other, constant(one))

    if is_qcfs(operation.primitive.name, operation.options):
        current, lam = operation.inputs
        return Activation(current, threshold=lam)
    match operation.primitive.name:
        case "max":
            x, floor = split(operation.inputs)
            if floor != 0:
                return None
            below = of(x, "min")
            inner, ceiling = split(below.inputs) if below else (x, None)
            return Activation(inner, ceiling) if ceiling is not None and ceiling > 0 else Activation(x)
        case "min":
            y, ceiling = split(operation.inputs)
            relu = of(y, "max")
            inner = _activation(graph, makers, relu) if relu and ceiling is not None and ceiling > 0 else None
            return Activation(inner.current, min(ceiling, inner.ceiling or ceiling)) if inner else None
        case "clamp":
            floor, x, ceiling = operation.inputs
            most = constant(ceiling)
            return Activation(x, most) if constant(floor) == 0 and most is not None and most > 0 else None
        case "select_n" if len(operation.inputs) == 3:
            predicate, otherwise, x = operation.inputs
            compared = of(predicate, "gt") or of(predicate, "ge")
            if compared is None:  # where(x < 0, 0, x)
                compared, otherwise, x = of(predicate, "lt") or of(predicate, "le"), x, otherwise
            is_relu = compared and compared.inputs[0] == x and constant(compared.inputs[1]) == constant(otherwise) == 0
            return Activation(x) if is_relu else None
    return None


def _constant(graph: Graph, makers: Mapping[int, Operation], number: int) -> float | None:
    """The one number that a value holds everywhere, if that is known."""
    if number in graph.constants:
        value = graph.constants[number]
        if isinstance(value, jax.core.Tracer) or not jnp.issubdtype(graph.avals[number].dtype, np.number):
            return None
        return float(np.ravel(value)[0]) if np.size(value) and np.all(value == np.ravel(value)[0]) else None
    maker = makers.get(number)
    if maker is not None and maker.primitive.name in UNCHANGED and len(maker.inputs) == 1:
        return _constant(graph, makers, maker.inputs[0])
    return None


def _layers(graph: Graph, operations: tuple[Operation, ...]) -> dict[str, Layer]:
    """The layers of neurons by name, in the order in which they run."""
    origins = origins_of(graph, operations)
    scopes: dict[int, tuple[int, str]] = {}  # of a value over time the latest operation with weights, and their name
    feeds: dict[int, tuple[str, ...]] = {}
    layers: dict[str, Layer] = {}
    for position, operation in enumerate(operations):
        if not operation.over_time:
            continue
        path = first_origin(origins, operation)
        scope = max((scopes[number] for number in operation.inputs if number in scopes), default=(-1, ""))
        sources = made_of(feeds, operation)
        if operation.primitive is None:
            (current, ceiling, threshold), (output,) = Activation(**operation.options), operation.outputs
            aval, name = graph.avals[current], unique_name(scope[1] or "neurons", layers)
            dtype = jnp.promote_types(aval.dtype, jnp.float32)
            layers[name] = Layer(name, current, output, tuple(aval.shape), dtype, ceiling, threshold, sources)
            sources = (name,)
        elif operation.primitive.name in WITH_WEIGHTS and path is not None:
            scope = position, layer_name(path)
        for number in operation.outputs:
            scopes[number], feeds[number] = scope, sources
    return layers


def origins_of(graph: Graph, operations: Sequence[Operation]) -> dict[int, tuple[str, ...]]:
    """Value number -> path of the first of the weights that it is made of, where it does not depend on the input."""
    origins = dict(graph.paths)
    for operation in operations:
        path = first_origin(origins, operation)
        if path is not None and not operation.over_time:
            origins |= dict.fromkeys(operation.outputs, path)
    return origins


def layer_name(path: tuple[str, ...]) -> str:
    """The name of the layer whose weights are at a path: ("params", "conv0", "kernel") is conv0."""
    names = list(path[1:] if path[0] == "params" and len(path) > 1 else path)
    while len(names) > 1 and names[-1] in NAMES_OF_LEAVES:
        names.pop()
    return "/".join(names)


def unique_name(name: str, taken: Mapping[str, Any]) -> str:
    """The name, or with a number behind it where it is taken."""
    names = (name, *(f"{name}_{i}" for i in range(2, len(taken) + 3)))
    return next(candidate for candidate in names if candidate not in taken)
