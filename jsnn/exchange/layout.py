"""Where the axes and features of our arrays are in a library that has channels first."""

import numpy as np

from jsnn.exchange.nodes import Add, Flatten, Neurons, Node, Rescaling
from jsnn.exchange.reader import with_axes

Order = tuple[int, ...] | None  # [H, W, C] of a flattened map whose features are in another order there; else None


def order_behind(node: Node, orders: list[Order]) -> Order:
    """The order of what a node gives, from those of what goes in; ValueError for a sum of features in two orders."""
    if isinstance(node.layer, Flatten):
        *window, channels = node.layer.shape
        return node.layer.shape if channels > 1 and np.prod(window) > 1 else None
    if isinstance(node.layer, Neurons | Rescaling | Add):
        if len(set(orders)) > 1:
            raise ValueError(
                f"{node.where} adds a flattened map to other features, whose order differs where channels come first."
            )
        return orders[0]
    return None


def check_result(order: Order) -> None:
    """Refuse a network whose result is in another order there."""
    if order is not None:
        raise ValueError(
            "the result is a flattened map, whose order differs where channels come first: return the map instead."
        )


def positions(order: tuple[int, ...]) -> np.ndarray:
    """Where each feature of a flattened [C, H, W] is in the flattened [H, W, C]."""
    return np.moveaxis(np.arange(np.prod(order)).reshape(order), -1, 0).reshape(-1)


def by_neuron(value: np.ndarray, shape: tuple[int, ...], order: Order) -> np.ndarray:
    """What is broadcastable to neurons [H, W, C], channels first: [C, H, W], or [features]."""
    by_place = np.broadcast_to(with_axes(value, len(shape)), shape)
    return by_place[positions(order)] if order is not None else np.ascontiguousarray(np.moveaxis(by_place, -1, 0))


def channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    """[C, H, W] of [H, W, C]."""
    return (shape[-1], *shape[:-1])


def channels_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """[H, W, C] of [C, H, W]."""
    return (*shape[1:], shape[0])


def from_channels_first(value: np.ndarray, order: Order) -> np.ndarray:
    """What is [C, H, W], or [features] there, as it is here."""
    if order is None:
        return np.moveaxis(value, 0, -1)
    return value[np.argsort(positions(order))]
