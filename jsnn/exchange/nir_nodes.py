"""What the nodes of NIR are as layers of ours."""

import copy
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import nir
import numpy as np

from jsnn.checks import is_broadcastable
from jsnn.exchange.layout import Order, channels_first, channels_last, from_channels_first, positions
from jsnn.exchange.nodes import AveragePool, Convolution, Dense, Flatten, Input, Neurons, Rescaling
from jsnn.exchange.reader import smallest, with_axes
from jsnn.exchange.resets import HARD, SOFT
from jsnn.exchange.state_dicts import as_array

Shape = tuple[int, ...]
Chain = list[tuple[str, Any, Shape]]  # layers, one behind the other: the end of their names, they, and what they give


class SoftReset(NamedTuple):
    """Neurons whose spikes come back to their membrane, one step later."""

    integrator: nir.LI | nir.I
    threshold: np.ndarray  # of the membrane as it is counted there
    reset: np.ndarray  # what a spike adds to it


ROUNDING = 1e-6  # of float32, in which a graph may have been kept, as a share of the threshold
NEURONS_OF_NIR = (nir.IF, nir.LIF, SoftReset)
RESETS = {"subtract": SOFT, "zero": HARD}  # in metadata


def with_arrays(name: str, node: Any) -> nir.NIRNode:
    """A node whose tensors, as snnTorch and norse leave them in it, are NumPy arrays; ValueError for what is none."""
    if not isinstance(node, nir.NIRNode):
        raise ValueError(f"the node {name} is {node}, as of a layer that NIR does not have: put a node of NIR there.")
    node = copy.copy(node)
    vars(node).update(_as_arrays(vars(node)))
    node.metadata = _as_arrays(node.metadata)
    return node


def _as_arrays(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: as_array(value) if hasattr(value, "detach") else value for name, value in fields.items()}


def reset_of_node(neurons: nir.IF | nir.LIF | SoftReset, unnamed: str) -> str:
    """SOFT or HARD; unnamed where metadata do not say it."""
    if isinstance(neurons, SoftReset):
        return SOFT
    named = neurons.metadata.get("reset")
    if named is not None and named not in RESETS:
        raise ValueError(f"metadata name a reset {named!r} of neurons: jsnn knows {' and '.join(map(repr, RESETS))}.")
    return unnamed if named is None else RESETS[named]


def layers_of(name: str, node: Any, before: Shape, order: Order, dt: float) -> Chain:
    """The layers that stand for a node of NIR.

    Args:
        name: of the node.
        node: a NIRNode or a SoftReset.
        before: [H, W, C] or [features] of what arrives.
        order: in which flattened features arrive.
        dt: seconds of a time step.

    Returns:
        The Chain; empty where the node changes nothing.

    Raises:
        ValueError: for a node that is no such layer.
    """
    match node:
        case nir.Input():
            shape = node.input_type["input"]
            if shape is None or not len(shape):
                raise ValueError(f"the shape of the input {name} is not known: make it nir.Input of that of a sample.")
            shape = channels_last(tuple(map(int, shape)))
            return [("", Input(shape), shape)]
        case nir.Output():
            return []
        case nir.Conv2d():
            layer = _convolution(name, node, before)
            return [("", layer, (*_windows(name, layer, layer.kernel.shape, before), layer.kernel.shape[-1]))]
        case nir.Linear() | nir.Affine():
            return [("", _dense(name, node, before, order), node.weight.shape[:1])]
        case nir.AvgPool2d() | nir.SumPool2d():
            return _pool(name, node, before)
        case nir.Flatten():
            return _flatten(name, node, before)
        case nir.Scale():
            scale = _in_our_order(name, np.asarray(node.scale), before, order)
            return [("", Rescaling(with_axes(scale, len(before)), None), before)]
        case nir.IF() | nir.LIF() | SoftReset():
            return _neurons(name, node, before, order, dt)
    raise ValueError(f"the node {name} is a {type(node).__name__}, for which a network has no layer.")


def _convolution(name: str, node: nir.Conv2d, before: Shape) -> Convolution:
    """With the padding of PyTorch's "same", which has the odd zero behind."""
    channels = node.weight.shape[1] * int(node.groups)
    if len(before) != 3 or before[-1] != channels:
        raise ValueError(f"the node {name} takes maps of {channels} channels, but {channels_first(before)} arrives.")
    kernel, strides, dilation = node.weight.transpose(2, 3, 1, 0), _pair(node.stride), _pair(node.dilation)
    if isinstance(node.padding, str):
        if node.padding == "same" and strides != (1, 1):
            raise ValueError(f'the node {name} has padding "same" and strides {strides}: "same" needs strides of 1.')
        lacking = [d * (size - 1) * (node.padding == "same") for d, size in zip(dilation, kernel.shape, strict=False)]
        padding = tuple((total // 2, total - total // 2) for total in lacking)
    else:
        padding = tuple((zeros, zeros) for zeros in _pair(node.padding))
    return Convolution(kernel, _bias(name, node), strides, padding, dilation, int(node.groups))


def _windows(name: str, layer: Convolution | AveragePool, window: Shape, before: Shape) -> Shape:
    """[H, W] of what a convolution or pool gives, whatever nir has inferred, which is wrong for windows not square."""
    spread = [d * (size - 1) for d, size in zip(getattr(layer, "dilation", (1, 1)), window, strict=False)]
    rests = [size + sum(zeros) - more - 1 for size, zeros, more in zip(before, layer.padding, spread, strict=False)]
    if len(before) != 3 or min(rests) < 0:
        raise ValueError(f"the node {name} has a window of {window[:2]}, but {channels_first(before)} arrives.")
    return tuple(rest // stride + 1 for rest, stride in zip(rests, layer.strides, strict=True))


def _pair(value: Any) -> tuple[int, int]:
    """A number for each of two spatial axes."""
    return tuple(map(int, np.broadcast_to(value, 2)))


def _dense(name: str, node: nir.Linear | nir.Affine, before: Shape, order: Order) -> Dense:
    if node.weight.ndim != 2 or node.weight.shape[1:] != before:
        arriving = channels_first(before)
        raise ValueError(f"the node {name} has weights [out, in] of {node.weight.shape}, but {arriving} arrives.")
    rows = node.weight.T
    return Dense(rows if order is None else rows[np.argsort(positions(order))], _bias(name, node))


def _bias(name: str, node: nir.Conv2d | nir.Linear | nir.Affine) -> np.ndarray | None:
    bias, units = getattr(node, "bias", None), node.weight.shape[:1]
    if bias is None:
        return None
    if not is_broadcastable(np.shape(bias), units):
        raise ValueError(
            f"the node {name} has a bias of shape {np.shape(bias)} for {units[0]} units: it needs one each."
        )
    return np.broadcast_to(bias, units)


def _pool(name: str, node: nir.AvgPool2d | nir.SumPool2d, before: Shape) -> Chain:
    """A pool of means; one of sums is followed by their number."""
    window, strides, padding = map(_pair, (node.kernel_size, node.stride, node.padding))
    layer = AveragePool(window, strides, tuple((zeros, zeros) for zeros in padding))
    shape = (*_windows(name, layer, window, before), before[-1])
    mean = ("", layer, shape)
    if isinstance(node, nir.AvgPool2d):
        return [mean]
    return [mean, ("_sum", Rescaling(np.full((1,) * len(shape), float(math.prod(window))), None), shape)]


def _flatten(name: str, node: nir.Flatten, before: Shape) -> Chain:
    """Of all axes into one; none where there is one."""
    first, last, axes = node.start_dim, node.end_dim, len(before)
    if axes > 1 and (first not in (0, -axes) or last not in (-1, axes - 1)):
        raise ValueError(f"the node {name} flattens axes {first} to {last} of {axes}: a network flattens all into one.")
    if axes == 2 and min(before) > 1:
        arriving = channels_first(before)
        raise ValueError(f"the node {name} flattens {arriving}: an image has three axes, {(1, *arriving)}.")
    return [] if len(before) == 1 else [("", Flatten(before), (math.prod(before),))]


def _neurons(name: str, node: nir.IF | nir.LIF | SoftReset, shape: Shape, order: Order, dt: float) -> Chain:
    """Neurons, behind a factor on their current where there is one."""
    membrane = node.integrator if isinstance(node, SoftReset) else node
    leaky = isinstance(membrane, nir.LIF | nir.LI)
    if leaky and not np.all(np.isfinite(membrane.tau) & np.isfinite(membrane.r)):
        raise ValueError(f"the neurons {name} have a tau or r that is not finite: those without a leak are nir.IF.")
    rate = dt / np.asarray(membrane.tau, np.float64) if leaky else np.float64(1)
    leak, gain = 1 - rate if leaky else rate, np.asarray(rate * membrane.r)
    gain = gain if np.any(np.abs(gain - 1) > ROUNDING) else np.ones(())
    threshold, start = _threshold_and_start(node, gain)
    rest = threshold - start - node.threshold if isinstance(node, SoftReset) else getattr(node, "v_leak", 0.0)
    if np.any(np.abs(rest) > ROUNDING * threshold) or np.any(getattr(node, "v_reset", 0.0)):
        raise ValueError(f"the neurons {name} rest or reset elsewhere than at 0, which no neurons here do.")
    if not np.all((leak > 0) & (leak <= 1) & (threshold > 0)):
        raise ValueError(f"the neurons {name} need a threshold above 0, and a tau above dt = {dt} seconds.")
    parameters = {"threshold": threshold, "leak": leak, "initial": start / threshold}
    neurons = Neurons(
        name, {key: _smallest(_in_our_order(name, value, shape, order)) for key, value in parameters.items()}
    )
    if np.all(gain == 1):
        return [("", neurons, shape)]
    factor = with_axes(_smallest(_in_our_order(name, gain, shape, order)), len(shape))
    return [("_current", Rescaling(factor, None), shape), ("", neurons, shape)]


def _threshold_and_start(node: nir.IF | nir.LIF | SoftReset, gain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The threshold and the membrane before the first step; a reset is multiplied by the gain, as all that arrives."""
    if not isinstance(node, SoftReset):
        return np.asarray(node.v_threshold, np.float64), np.asarray(node.metadata.get("initial", 0.0), np.float64)
    threshold = -gain * np.asarray(node.reset, np.float64)
    if isinstance(node.integrator, nir.LI):  # the membrane is counted from where it starts, and so rests below
        return threshold, -np.asarray(node.integrator.v_leak, np.float64)
    return threshold, threshold - node.threshold


def _in_our_order(name: str, value: np.ndarray, shape: Shape, order: Order) -> np.ndarray:
    """Numbers of a node, broadcastable to what arrives, with our order of axes and features; one alone as it is."""
    arriving = channels_first(shape)
    if not is_broadcastable(value.shape, arriving):
        raise ValueError(f"the node {name} has numbers of the shape {value.shape}, but {arriving} arrives.")
    if not value.ndim:
        return value
    return from_channels_first(with_axes(value, len(shape)) if order is None else np.broadcast_to(value, shape), order)


def _smallest(value: np.ndarray) -> np.ndarray:
    """A number where all neurons have the same, one for each channel where these do, else what they differ in."""
    value = smallest(value)
    differs = next((axis for axis, size in enumerate(value.shape) if size > 1), value.ndim)
    return value.reshape(value.shape[differs:])
