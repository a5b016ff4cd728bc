"""The order of features in a network with channels last, and in PyTorch, which has channels first.

The order of a value gives, for each element of a sample, its place in PyTorch's flattened sample. Equal elements have
the same place. The order is None if PyTorch has the same value with channels first; its features then keep their order.
"""

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import NoReturn

import numpy as np

from jsnn.network.activations import WITH_WEIGHTS
from jsnn.network.graph import Graph, Operation, made_of
from jsnn.quantization import is_qcfs

Path = tuple[str, ...]  # of a leaf of variables: its collection, modules and name
Order = np.ndarray | None
MOVES = ("reshape", "squeeze", "transpose", "broadcast_in_dim")
ELEMENTWISE = {
    *"add add_any sub mul div rem max min neg abs sign exp exp2 log log1p expm1 tanh logistic erf sin cos".split(),
    *"sqrt rsqrt cbrt square pow integer_pow floor ceil round clamp select_n gt lt ge le eq ne and or not".split(),
    *"is_finite convert_element_type reduce_precision copy stop_gradient name optimization_barrier".split(),
}


def sources_of(graph: Graph) -> dict[int, tuple[Path, ...]]:
    """Value number -> the paths of all that it is made of, where it does not depend on the network's input."""
    sources: dict[int, tuple[Path, ...]] = {number: (path,) for number, path in graph.paths.items()}
    for operation in graph.operations:
        if not operation.over_time:
            sources |= dict.fromkeys(operation.outputs, made_of(sources, operation))
    return sources


def orders_of_weights(graph: Graph, shapes: Mapping[Path, tuple[int, ...]]) -> dict[Path, np.ndarray]:
    """Path of the weights that meet features in another order than PyTorch's -> the place of each there.

    Args:
        graph: of a function of [B, ..., C], channels last.
        shapes: of its leaves, by path.

    Returns:
        Of a dense layer the places of its rows, of others, as batch norm's, of all of their elements.

    Raises:
        ValueError: where the order is not known, with the operation and its line.
    """
    sources, orders, met = sources_of(graph), {graph.input: _order_of_input(graph)}, {}
    for operation in filter(lambda operation: operation.over_time, graph.operations):
        order = _order_behind(graph, operation, orders)
        paths = [path for path in made_of(sources, operation) if path in shapes]
        if operation.primitive.name not in WITH_WEIGHTS and _is_open(order):
            sources |= dict.fromkeys(operation.outputs, tuple(paths))  # what it meets next has the order
        else:
            met_in = _order_of_rows(operation, orders) if operation.primitive.name in WITH_WEIGHTS else order
            for path in paths:
                places = _order_of_leaf(operation, met_in, shapes[path])
                if not _is_same(met.setdefault(path, places), places):
                    _refuse(operation, f"{'/'.join(path)} meets features in two orders, so that it can't be in both")
        orders |= dict.fromkeys(operation.outputs, order)
    return {path: places for path, places in met.items() if places is not None}


def _order_of_input(graph: Graph) -> Order:
    """The order of the input: [B, H, W] is an image, unless it is taken as a sequence, [B, L, C]."""
    _, *shape = graph.avals[graph.input].shape
    if len(shape) != 2:
        return None
    elements = {graph.input}  # what has the input's axes still
    for operation in graph.operations:
        if not elements.intersection(operation.inputs) or "axes" in operation.options:
            continue
        if _takes_sequences(operation, shape, graph.avals[operation.outputs[0]].shape):
            return None
        if operation.primitive.name in MOVES:
            return np.arange(math.prod(shape)).reshape(shape)
        elements.update(operation.outputs)
    return None


def _takes_sequences(operation: Operation, shape: Sequence[int], after: tuple[int, ...]) -> bool:
    """Whether an operation takes [B, L, C] as such: weights, pools, and a reshape to groups of channels."""
    name, (length, channels) = operation.primitive.name, shape
    in_groups = name == "reshape" and after[1:2] == (length,) and 1 < after[-1] < channels
    return name in WITH_WEIGHTS or "window_dimensions" in operation.options or in_groups


def _order_behind(graph: Graph, operation: Operation, orders: Mapping[int, Order]) -> Order:
    """The order of what an operation gives; ValueError where it is not known."""
    name, shape = operation.primitive.name, graph.avals[operation.outputs[0]].shape
    before = {number: graph.avals[number].shape for number in operation.inputs if number in orders}
    if name in MOVES:
        ((number, former),) = before.items()
        return _moved(operation, orders[number], former, shape)
    if "axes" in operation.options:
        ((number, former),) = before.items()
        return _reduced(operation, orders[number], former)
    if name in ELEMENTWISE or is_qcfs(name, operation.options):
        return _shared(operation, [(orders[number], former[1:]) for number, former in before.items()], shape[1:])
    has_weights = name in WITH_WEIGHTS and len(before) == 1
    if not has_weights and any(orders[number] is not None for number in before):
        if name.startswith("custom_"):
            _refuse(operation, "it has a derivative of its own: pass the function itself, not what `accelerate` makes")
        _refuse(operation, "it takes a flattened or transposed map, whose order differs where channels come first")
    return None


def _moved(operation: Operation, order: Order, former: tuple[int, ...], shape: tuple[int, ...]) -> Order:
    """The order behind what moves elements, repeats them, or counts its axes anew."""
    places, options, name = _places(order, former[1:])[None], operation.options, operation.primitive.name
    samples_stay = former[:1] == shape[:1]
    if name == "transpose":
        samples_stay = options["permutation"][0] == 0
        places = places.transpose(options["permutation"])
    elif name == "broadcast_in_dim":
        axes = options["broadcast_dimensions"]
        samples_stay = axes[:1] in ((), (0,))
        sizes = dict(zip(axes, places.shape, strict=False))
        places = np.broadcast_to(places.reshape([sizes.get(axis, 1) for axis in range(len(shape))]), (1, *shape[1:]))
    if not samples_stay:
        _refuse(operation, "it moves samples from the first axis, where they must stay")
    return _named(places.reshape(shape[1:]))


def _reduced(operation: Operation, order: Order, former: tuple[int, ...]) -> Order:
    """The order of what is left of a sum, maximum or the like over some axes."""
    axes, places = [axis - 1 for axis in operation.options["axes"]], _places(order, former[1:])
    if len(axes) == len(former):
        return None
    if -1 in axes:
        _refuse(operation, "it takes samples together, which have to stay apart: evaluate the network, as in a test")
    alone = [places[(0,) * axis + (slice(None),) + (0,) * (places.ndim - axis - 1)] for axis in range(places.ndim)]
    if order is not None and len(axes) < places.ndim:
        slowest = int(np.argmax([along[-1] for along in alone]))  # PyTorch's channels
        if slowest in axes or not np.array_equal(reduce(np.add.outer, alone), places):
            _refuse(operation, "it takes elements together that are others where channels come first")
    left = places[tuple(0 if axis in axes else slice(None) for axis in range(places.ndim))]
    return _named(np.unique(left, return_inverse=True)[1].reshape(left.shape))


def _shared(operation: Operation, values: list[tuple[Order, tuple[int, ...]]], shape: tuple[int, ...]) -> Order:
    """The order of values, each with its shape, that meet element by element."""
    if all(order is None and former == shape for order, former in values):
        return None
    places = [np.broadcast_to(_places(order, former), shape) for order, former in values]
    first = next((one for one in places if all(_agrees(one, other) for other in places)), None)
    if first is None:
        _refuse(operation, "it takes a flattened map and other features, whose order differs where channels come first")
    return _named(first)


def _agrees(places: np.ndarray, others: np.ndarray) -> bool:
    """Whether others are in the same order but for those that are alike."""
    if places is others or np.array_equal(places, others):
        return True
    for axis in range(places.ndim):
        if np.all(others == others.take([0], axis)):
            places, others = places.take([0], axis), others.take([0], axis)
    return bool(np.all(np.diff(others.ravel()[np.argsort(places, axis=None, kind="stable")]) >= 0))


def _order_of_rows(operation: Operation, orders: Mapping[int, Order]) -> Order:
    """The order of the features that a product or convolution takes; ValueError where its weights can't follow it."""
    scope = operation.where.partition(" (")[0]
    if set(operation.options.get("lhs_dilation", ())) - {1} or "ConvTranspose" in scope:
        _refuse(operation, "transposed convolutions have other kernels in PyTorch")
    order = next(orders[number] for number in operation.inputs if number in orders)
    if order is not None and (operation.primitive.name != "dot_general" or order.ndim > 1 or _is_open(order)):
        _refuse(operation, "it takes a map made of features, flattened or transposed, whose channels are others")
    return order


def _order_of_leaf(operation: Operation, order: Order, shape: tuple[int, ...]) -> Order:
    """The order of a leaf's first axis where it meets features of an order."""
    if order is None or math.prod(shape) == 1:
        return None
    if shape[:1] != order.shape:
        _refuse(operation, f"weights of {'x'.join(map(str, shape))} meet features that are in another order in PyTorch")
    return order


def _places(order: Order, shape: tuple[int, ...]) -> np.ndarray:
    """An order as places; None has PyTorch's [C, H, W] with channels last."""
    if order is not None or not shape:
        return np.zeros(shape, int) if order is None else order
    *window, channels = shape
    return np.moveaxis(np.arange(math.prod(shape)).reshape(channels, *window), 0, -1)


def _named(places: np.ndarray) -> Order:
    """Places as an order, None where they are those of PyTorch."""
    return None if np.array_equal(places, _places(None, places.shape)) else places


def _is_open(order: Order) -> bool:
    """Whether some elements are alike, so that their order is that of others that they meet."""
    return order is not None and len(np.unique(order)) < order.size


def _is_same(order: Order, other: Order) -> bool:
    return order is other or (order is not None and other is not None and np.array_equal(order, other))


def _refuse(operation: Operation, why: str) -> NoReturn:
    """Raise the ValueError for an operation behind which the order is not known."""
    raise ValueError(
        f"{operation.primitive.name} in {operation.where} can't get PyTorch's weights: {why}. Keep maps [B, H, W, C] "
        "up to where they are flattened for a dense layer, or set the weights by hand."
    )
