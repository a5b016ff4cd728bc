"""The layer that each operation of a spiking network becomes: one function (reader, operation) -> value for each."""

import math
from collections.abc import Callable

from jsnn.exchange.nodes import Add, AveragePool, Convolution, Dense, Flatten, Node
from jsnn.exchange.reader import Reader, Value, refuse
from jsnn.network.graph import Operation


def convolution(reader: Reader, operation: Operation) -> Value:
    """conv_general_dilated of maps [B, H, W, C]."""
    (kernel, name), options = reader.weights(operation), operation.options
    numbers, axes = options["dimension_numbers"], kernel.ndim
    channels_last = (0, axes - 1, *range(1, axes - 1))
    if not tuple(numbers.lhs_spec) == tuple(numbers.out_spec) == channels_last:
        refuse(operation, "its maps must be [B, H, W, C]")
    if options["batch_group_count"] != 1 or set(options["lhs_dilation"]) != {1}:
        refuse(operation, "transposed convolutions, and groups of the batch, are not exported")
    out, into, *window = numbers.rhs_spec
    layer = Convolution(
        kernel=kernel.transpose(*window, into, out),
        bias=None,
        strides=tuple(options["window_strides"]),
        padding=tuple(map(tuple, options["padding"])),
        dilation=tuple(options["rhs_dilation"]),
        groups=options["feature_group_count"],
    )
    return reader.layer(operation, layer, name)


def product(reader: Reader, operation: Operation) -> Value:
    """dot_general of the last axis with a matrix; of a map it is a convolution with a window of one pixel."""
    (matrix, name), (of_x, of_matrix) = reader.weights(operation), operation.options["dimension_numbers"][0]
    spatial = len(reader.shape(operation.inputs[0])) - 2
    if matrix.ndim != 2 or tuple(of_x) != (spatial + 1,) or len(of_matrix) != 1:
        refuse(operation, "a dense layer is a product of [..., in] with a matrix [in, out]")
    kernel = matrix if of_matrix[0] == 0 else matrix.T
    if not spatial:
        return reader.layer(operation, Dense(kernel, None), name)
    ones, zeros = (1,) * spatial, ((0, 0),) * spatial
    return reader.layer(operation, Convolution(kernel.reshape(*ones, *kernel.shape), None, ones, zeros, ones, 1), name)


def window_sum(reader: Reader, operation: Operation) -> Value:
    """reduce_window_sum: an average pool, times the size of its window."""
    options = operation.options
    window, strides, padding = (options[key] for key in ("window_dimensions", "window_strides", "padding"))
    outside = window[0], window[-1], strides[0], strides[-1]
    if set(outside) != {1} or any((*padding[0], *padding[-1])):
        refuse(operation, "a pool must leave samples and channels alone")
    if {*options["base_dilation"], *options["window_dilation"]} != {1}:
        refuse(operation, "a pool with dilation is not exported")
    layer = AveragePool(tuple(window[1:-1]), tuple(strides[1:-1]), tuple(map(tuple, padding[1:-1])))
    return reader.layer(operation, layer, "pool").times(float(math.prod(window)))


def sum_over_map(reader: Reader, operation: Operation) -> Value:
    """reduce_sum over [H, W]: an average pool of all, flattened, times its size."""
    _, *window, features = reader.shape(operation.inputs[0])
    if not window or tuple(operation.options["axes"]) != tuple(range(1, len(window) + 1)):
        refuse(operation, "a sum must be over H and W, of maps [B, H, W, C]")
    pixel = (*(1,) * len(window), features)
    layer = AveragePool(tuple(window), tuple(window), ((0, 0),) * len(window))
    pool = reader.layer(operation, layer, "pool")
    _, name = reader.settled(pool._replace(node=pool.node._replace(shape=pixel)))
    flat = Node(Flatten(pixel), (name,), (features,), operation.where)
    return Value(flat, "flatten", float(math.prod(window)))


def reshaped(reader: Reader, operation: Operation) -> Value:
    """What leaves a value as it is, or flattens it."""
    (number,), name, after = operation.inputs, operation.primitive.name, reader.shape(operation.outputs[0])
    batch, *before = reader.shape(number)
    moves = name == "transpose" and tuple(operation.options["permutation"]) != tuple(range(len(after)))
    if after == (batch, *before) and not moves:
        return reader.values[number]
    if name not in ("reshape", "squeeze") or after != (batch, math.prod(before)):
        refuse(operation, "of all that changes axes only [B, H, W, C] to [B, H * W * C] is exported")
    if len(before) == 2 and min(before) > 1 and reader.is_of_input(reader.values[number].node):
        refuse(operation, "an image has an axis of channels, [B, H, W, 1]: give the network's input one")
    return reader.layer(operation, Flatten(tuple(before)), "flatten")


def added(reader: Reader, operation: Operation) -> Value:
    """A sum or difference of two values over time or of one and a constant."""
    _check_shapes(reader, operation)
    (first, second), sign = operation.inputs, -1 if operation.primitive.name == "sub" else 1
    if first not in reader.values:
        return reader.values[second].times(sign).plus(reader.constant(operation, first))
    if second not in reader.values:
        return reader.values[first].plus(sign * reader.constant(operation, second))
    name = reader.settle(first)
    other = reader.settle(second) if sign > 0 else reader.settled(reader.values[second].times(sign))[1]
    return Value(Node(Add(), (name, other), reader.shape(operation.outputs[0])[1:], operation.where), "add")


def multiplied(reader: Reader, operation: Operation) -> Value:
    """A product with a constant, or a division by one."""
    _check_shapes(reader, operation)
    first, second = operation.inputs
    if operation.primitive.name == "div":
        return reader.values[first].over(reader.constant(operation, second))
    value, constant = (first, second) if first in reader.values else (second, first)
    return reader.values[value].times(reader.constant(operation, constant))


def negative(reader: Reader, operation: Operation) -> Value:
    """A value with the other sign."""
    return reader.values[operation.inputs[0]].times(-1.0)


def _check_shapes(reader: Reader, operation: Operation) -> None:
    """Refuse values over time that are broadcast."""
    for number in operation.inputs:
        if number in reader.values and reader.shape(number) != reader.shape(operation.outputs[0]):
            refuse(operation, "a value over time must have the shape of the result")


RULES: dict[str, Callable[[Reader, Operation], Value]] = {
    "conv_general_dilated": convolution,
    "dot_general": product,
    "reduce_window_sum": window_sum,
    "reduce_sum": sum_over_map,
    **dict.fromkeys("reshape squeeze broadcast_in_dim transpose".split(), reshaped),
    **dict.fromkeys("convert_element_type copy stop_gradient name".split(), reshaped),
    **dict.fromkeys("add add_any sub".split(), added),
    **dict.fromkeys("mul div".split(), multiplied),
    "neg": negative,
}
