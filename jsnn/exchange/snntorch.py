"""A spiking network as a native module of snnTorch, spike for spike. Importing this imports PyTorch."""

import keyword
import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import snntorch
import torch
from snntorch import surrogate
from torch import fx, nn

from jsnn.exchange.layers import layer_graph
from jsnn.exchange.layout import Order, check_result, order_behind, positions
from jsnn.exchange.nodes import Add, AveragePool, Convolution, Dense, Flatten, Input, Node, Rescaling
from jsnn.exchange.reader import with_axes
from jsnn.exchange.resets import SOFT, reset_of
from jsnn.network.activations import unique_name
from jsnn.network.transformation import SNN, Variables

TAKEN = {"self", *keyword.kwlist, *dir(fx.GraphModule({}, fx.Graph()))}  # names that no layer of a module can have


def to_snntorch(snn: SNN, variables: Variables, x: Any, *args: Any, **kwargs: Any) -> fx.GraphModule:
    """The network as a torch.nn.Module of Conv2d, Linear, AvgPool2d, Flatten and `snntorch.Leaky`.

    Its weights are the ANN's in PyTorch's layout, with batch norm in them, and neurons emit their threshold for a spike
    (`graded_spikes_factor`). A call is one time step, with maps as [B, C, H, W]:

        snntorch.utils.reset(module)  # after `import snntorch.utils`, before each presentation
        logits = sum(module(images) for _ in range(num_steps)) / num_steps

    The membranes of `Leaky` are counted from where neurons start, `initial` * v.

    Args:
        snn: the network, see `jsnn.spiking`, of `jsnn.lif` neurons.
        variables: of the SNN.
        x: [B, H, W, C] or [B, features] inputs of one time step, or their jax.ShapeDtypeStruct.
        args, kwargs: of the ANN's function behind its input.

    Returns:
        The module, in evaluation mode. Names are those of `jsnn.exchange.layers.layer_graph`, "_" for other signs
        and behind those that PyTorch has taken, as "train". It computes in float32: a network that does so in fewer
        bits, as in bfloat16, has other spikes where a membrane is within their rounding of its threshold.

    Raises:
        ValueError: for an operation that is no such layer, with its name and line, and for other neurons.
    """
    if reset_of(snn.neuron) != SOFT:
        raise ValueError("only jsnn.lif neurons, with soft reset, can be exported; these are others.")
    layers, graph = layer_graph(snn, variables, x, *args, **kwargs), fx.Graph()
    modules: dict[str, nn.Module] = {}
    values: dict[str, fx.Node] = {}
    orders: dict[str, Order] = {}
    for name, node in layers.nodes.items():
        orders[name] = order_behind(node, [orders[source] for source in node.inputs])
        if isinstance(node.layer, Input):
            values[name] = graph.placeholder("x")
        elif isinstance(node.layer, Add):
            values[name] = graph.call_function(operator.add, tuple(values[source] for source in node.inputs))
        else:
            (source,) = node.inputs
            values[name] = values[source]
            for suffix, module in _modules(node, orders[source]).items():
                target = unique_name(_attribute(name + suffix), modules)
                modules[target] = module
                values[name] = graph.call_module(target, (values[name],))
    check_result(orders[layers.output])
    graph.output(values[layers.output])
    return fx.GraphModule(modules, graph, "SNN").eval()


class Scaled(nn.Module):
    """scale * x + offset."""

    def __init__(self, scale: torch.Tensor, offset: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * x + self.offset


class FromStart(nn.Module):
    """A spike of a membrane that is counted from where it starts, with snnTorch's default surrogate."""

    def __init__(self, start: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("start", start)

    def forward(self, above: torch.Tensor) -> torch.Tensor:
        return surrogate.atan()(above + self.start)


def _attribute(name: str) -> str:
    """A name as that of a module's attribute, which is neither Python's nor one that all modules have."""
    name = "".join(sign if sign.isalnum() else "_" for sign in name)
    return f"{name}_" if name in TAKEN else name


def _modules(node: Node, order: Order) -> dict[str, nn.Module]:
    """A node as modules one behind the other, by what is put behind its name."""
    match node.layer:
        case Convolution():
            return _convolution(node.layer, node.where)
        case AveragePool(window, strides, _):
            padding, inside = _padding(node.layer.padding, node.where, [size // 2 for size in window])
            return padding | {"": nn.AvgPool2d(window, strides, inside)}
        case Dense(kernel, bias):
            rows = kernel if order is None else kernel[positions(order)]
            return {"": _filled(nn.Linear, rows.T, bias, *kernel.shape)}
        case Flatten():
            return {"": nn.Flatten()}
        case Rescaling(scale, offset):
            parts = scale, np.zeros_like(scale) if offset is None else offset
            return {"": Scaled(*(_by_neuron(part.astype(np.float32), node.shape, order) for part in parts))}
    return _neurons(node, order)


def _convolution(layer: Convolution, where: str) -> dict[str, nn.Module]:
    padding, inside = _padding(layer.padding, where, (math.inf, math.inf))
    height, width, into, out = layer.kernel.shape
    options = {"stride": layer.strides, "padding": inside, "dilation": layer.dilation, "groups": layer.groups}
    weight = layer.kernel.transpose(3, 2, 0, 1)
    return padding | {"": _filled(nn.Conv2d, weight, layer.bias, into * layer.groups, out, (height, width), **options)}


def _padding(
    padding: tuple[tuple[int, int], ...], where: str, most: Sequence[float]
) -> tuple[dict[str, nn.Module], tuple[int, ...]]:
    """A module in front and the padding left to the layer, which PyTorch has the same at both ends and up to a most."""
    if len(padding) != 2:
        raise ValueError(f"{where} has {len(padding)} spatial axes: networks of 2 are exported to snnTorch.")
    (top, bottom), (left, right) = padding
    if top == bottom and left == right and top <= most[0] and left <= most[1]:
        return {}, (top, left)
    return {"_padding": nn.ZeroPad2d((left, right, top, bottom))}, (0, 0)


def _neurons(node: Node, order: Order) -> dict[str, nn.Module]:
    """Leaky neurons; with a leak, counting from another start costs a constant current."""
    parameters = {name: np.asarray(value) for name, value in node.layer.parameters.items()}
    threshold, leak = parameters["threshold"], parameters["leak"]
    start = parameters["initial"] * threshold
    drift = start * (leak - 1)

    def tensor(value: np.ndarray) -> torch.Tensor:
        return _by_neuron(value, node.shape, order)

    leaky = snntorch.Leaky(
        beta=tensor(leak),
        threshold=tensor(threshold),
        spike_grad=FromStart(tensor(start)) if np.any(start) else None,
        init_hidden=True,
        reset_mechanism="subtract",
        graded_spikes_factor=tensor(threshold),
        reset_delay=True,
    )
    current = {"_drift": Scaled(torch.ones(()), tensor(drift))} if np.any(drift) else {}
    return current | {"": leaky}


def _by_neuron(value: np.ndarray, shape: tuple[int, ...], order: Order) -> torch.Tensor:
    """A number for all neurons of a shape [H, W, C], or an array that is broadcastable to them, channels first."""
    if value.size == 1:
        value = value.reshape(())
    elif order is not None:
        value = np.broadcast_to(value, shape)[positions(order)]
    else:
        value = np.moveaxis(with_axes(value, len(shape)), -1, 0)
    return torch.tensor(np.ascontiguousarray(value))


def _filled(
    make: type[nn.Module], weight: np.ndarray, bias: np.ndarray | None, *sizes: Any, **options: Any
) -> nn.Module:
    """A module with given weights."""
    tensors = {"weight": torch.tensor(np.ascontiguousarray(weight))}
    if bias is not None:
        tensors["bias"] = torch.tensor(np.ascontiguousarray(bias))
    module = make(*sizes, bias=bias is not None, dtype=tensors["weight"].dtype, **options)
    module.load_state_dict(tensors)
    return module
