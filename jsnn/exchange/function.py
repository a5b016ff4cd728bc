"""A graph of layers as the function of an ANN, from which `jsnn.spiking` makes the network."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jsnn.exchange.nodes import AveragePool, Convolution, Dense, Flatten, LayerGraph, Neurons, Node, Rescaling

ARRAYS = ("kernel", "bias", "scale", "offset")  # the fields of layers that are trained


def ann_of(graph: LayerGraph) -> tuple[Callable[[Mapping[str, Any], jax.Array], jax.Array], dict[str, Any]]:
    """The ANN that has a ReLU where the graph has neurons.

    Args:
        graph: the network.

    Returns:
        (apply, params): apply of ({"params": params}, x [B, H, W, C] or [B, features]) gives the results [B, ...], and
        params have the arrays of each node that has some, in float32.
    """
    fields = {name: {field: getattr(node.layer, field, None) for field in ARRAYS} for name, node in graph.nodes.items()}
    params = {
        name: {field: jnp.array(value, jnp.float32) for field, value in arrays.items() if value is not None}
        for name, arrays in fields.items()
    }

    def apply(variables: Mapping[str, Any], x: jax.Array) -> jax.Array:
        first, *others = graph.nodes.items()
        values = {first[0]: x}
        for name, node in others:
            inputs = [values[source] for source in node.inputs]
            with jax.named_scope(name):  # which errors say
                values[name] = _run(node, variables["params"].get(name, {}), inputs)
        return values[graph.output]

    return apply, {name: arrays for name, arrays in params.items() if arrays}


def _run(node: Node, arrays: Mapping[str, jax.Array], inputs: list[jax.Array]) -> jax.Array:
    """What a node gives."""
    x, layer = inputs[0], node.layer
    match layer:
        case Convolution():
            y = _convolve(layer, x, arrays["kernel"])
            return y + arrays["bias"] if "bias" in arrays else y
        case Dense():
            y = x @ arrays["kernel"]
            return y + arrays["bias"] if "bias" in arrays else y
        case AveragePool(window, strides, padding):
            return nn.avg_pool(x, window, strides, padding)
        case Flatten():
            return x.reshape(len(x), -1)
        case Rescaling():
            y = x * arrays["scale"]
            return y + arrays["offset"] if "offset" in arrays else y
        case Neurons():
            return jax.nn.relu(x)
    return sum(inputs[1:], start=x)


def _convolve(layer: Convolution, x: jax.Array, kernel: jax.Array) -> jax.Array:
    axes, dtype = "HW"[: np.ndim(kernel) - 2], jnp.promote_types(x.dtype, kernel.dtype)
    return jax.lax.conv_general_dilated(
        x.astype(dtype),
        kernel.astype(dtype),
        layer.strides,
        layer.padding,
        rhs_dilation=layer.dilation,
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
        feature_group_count=layer.groups,
    )
