"""What the nodes of NIR are as layers of ours."""

import copy
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import nir
import numpy as np

from jsnn.exchange.layout import Order, channels_last, from_channels_first, positions
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


def with_arrays(node: nir.NIRNode) -> nir.NIRNode:
    """A node whose tensors, as snnTorch and norse leave them in it, are NumPy arrays."""
    node = copy.copy(node)
    vars(node).update(_as_arrays(vars(node)))
    node.metadata = _as_arrays(node.metadata)
    return node


def _as_arrays(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: as_array(value) if hasattr(value, "detach") else value for name, value in fields.items()}


def reset_of_node(neurons: nir.IF | nir.LIF | SoftReset) -> str:
    """SOFT or HARD."""
    if isinstance(neurons, SoftReset):
        return SOFT
    return SOFT if neurons.metadata.get("reset") == "subtract" else HARD


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
            shape = channels_last(_known(name, node.input_type["input"]))
            return [("", Input(shape), shape)]
        case nir.Output():
            return []
        case nir.Conv2d():
            return [("", _convolution(name, node), channels_last(_known(name, node.output_type["output"])))]
        case nir.Linear() | nir.Affine():
            return [("", _dense(name, node, order), node.weight.shape[:1])]
        case nir.AvgPool2d() | nir.SumPool2d():
            return _pool(name, node)
        case nir.Flatten():
            shape = tuple(_known(name, node.output_type["output"]))
            if len(shape) != 1:
                raise ValueError(f"the node {name} flattens to {shape}: a network flattens all axes into one.")
            return [] if len(before) == 1 else [("", Flatten(before), shape)]
        case nir.Scale():
            scale = np.asarray(node.scale)
            scale = from_channels_first(scale, order) if scale.ndim else with_axes(scale, len(before))
            return [("", Rescaling(scale, None), before)]
        case nir.IF() | nir.LIF() | SoftReset():
            return _neurons(name, node, before, order, dt)
    raise ValueError(f"the node {name} is a {type(node).__name__}, for which a network has no layer.")


def _known(name: str, shape: np.ndarray | None) -> Shape:
    if shape is None:
        raise ValueError(f"the shape of the node {name} is not known: let nir infer it, graph.infer_types().")
    return tuple(map(int, shape))


def _convolution(name: str, node: nir.Conv2d) -> Convolution:
    """With the padding of PyTorch's "same", which has the odd zero behind."""
    kernel, strides, dilation = node.weight.transpose(2, 3, 1, 0), _pair(node.stride), _pair(node.dilation)
    if isinstance(node.padding, str):
        if node.padding == "same" and strides != (1, 1):
            raise ValueError(f'the node {name} has padding "same" and strides {strides}: "same" needs strides of 1.')
        lacking = [d * (size - 1) * (node.padding == "same") for d, size in zip(dilation, kernel.shape, strict=False)]
        padding = tuple((total // 2, total - total // 2) for total in lacking)
    else:
        padding = tuple((zeros, zeros) for zeros in _pair(node.padding))
    return Convolution(kernel, node.bias, strides, padding, dilation, int(node.groups))


def _pair(value: Any) -> tuple[int, int]:
    """A number for each of two spatial axes."""
    return tuple(map(int, np.broadcast_to(value, 2)))


def _dense(name: str, node: nir.Linear | nir.Affine, order: Order) -> Dense:
    if node.weight.ndim != 2:
        raise ValueError(f"the node {name} has weights of shape {node.weight.shape}: those of a layer are [out, in].")
    rows = node.weight.T
    return Dense(rows if order is None else rows[np.argsort(positions(order))], getattr(node, "bias", None))


def _pool(name: str, node: nir.AvgPool2d | nir.SumPool2d) -> Chain:
    """A pool of means; one of sums is followed by their number."""
    shape = channels_last(_known(name, node.output_type["output"]))
    window, strides, padding = map(_pair, (node.kernel_size, node.stride, node.padding))
    mean = ("", AveragePool(window, strides, tuple((zeros, zeros) for zeros in padding)), shape)
    if isinstance(node, nir.AvgPool2d):
        return [mean]
    return [mean, ("_sum", Rescaling(np.full((1,) * len(shape), float(math.prod(window))), None), shape)]


def _neurons(name: str, node: nir.IF | nir.LIF | SoftReset, shape: Shape, order: Order, dt: float) -> Chain:
    """Neurons, behind a factor on their current where there is one."""
    membrane = node.integrator if isinstance(node, SoftReset) else node
    leaky = isinstance(membrane, nir.LIF | nir.LI)
    rate = dt / np.asarray(membrane.tau, np.float64) if leaky else np.float64(1)
    leak, gain = 1 - rate if leaky else rate, np.asarray(rate * membrane.r)
    gain = gain if np.any(gain.astype(np.float32) != 1) else np.ones(())
    threshold, start = _threshold_and_start(node, gain)
    rest = threshold - start - node.threshold if isinstance(node, SoftReset) else getattr(node, "v_leak", 0.0)
    if np.any(np.abs(rest) > ROUNDING * threshold) or np.any(getattr(node, "v_reset", 0.0)):
        raise ValueError(f"the neurons {name} rest or reset elsewhere than at 0, which no neurons here do.")
    if not np.all((leak > 0) & (leak <= 1) & (threshold > 0)):
        raise ValueError(f"the neurons {name} need a threshold above 0, and a tau above dt = {dt} seconds.")
    parameters = {"threshold": threshold, "leak": leak, "initial": start / threshold}
    neurons = Neurons(name, {key: _smallest(value, order) for key, value in parameters.items()})
    if np.all(gain == 1):
        return [("", neurons, shape)]
    factor = with_axes(_smallest(gain, order), len(shape))
    return [("_current", Rescaling(factor, None), shape), ("", neurons, shape)]


def _threshold_and_start(node: nir.IF | nir.LIF | SoftReset, gain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The threshold and the membrane before the first step; a reset is multiplied by the gain, as all that arrives."""
    if not isinstance(node, SoftReset):
        return np.asarray(node.v_threshold, np.float64), np.asarray(node.metadata.get("initial", 0.0), np.float64)
    threshold = -gain * np.asarray(node.reset, np.float64)
    if isinstance(node.integrator, nir.LI):  # the membrane is counted from where it starts, and so rests below
        return threshold, -np.asarray(node.integrator.v_leak, np.float64)
    return threshold, threshold - node.threshold


def _smallest(value: np.ndarray, order: Order) -> np.ndarray:
    """A number where all neurons have the same, one for each channel where these do, else what they differ in."""
    value = np.asarray(value)
    value = smallest(from_channels_first(value, order)) if value.ndim else value
    differs = next((axis for axis, size in enumerate(value.shape) if size > 1), value.ndim)
    return value.reshape(value.shape[differs:])
