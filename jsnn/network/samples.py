"""The axis of the batch in each layer, numbers per sample, and inputs of a sample that are not finite.

The batch is the first axis of a network's input. In a layer it may be another axis, such as [C, B] after a transpose,
or be merged with others, such as tokens.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jsnn.encoding import Repeated
from jsnn.network.graph import Graph, Operation


def axes_of_samples(graph: Graph) -> dict[str, int | None]:
    """Layer -> the axis of its neurons [B, ...] that is the batch; None where samples share none.

    Behind an operation that does not tell, it is the first axis if that is as long as the batch.
    """
    batch = graph.avals[graph.input].shape[:1]
    axes: dict[int, int | None] = {graph.input: 0}
    for operation in graph.operations:
        told = {_axis_behind(graph, operation, place, axes.get(n)) for place, n in enumerate(operation.inputs)} - {None}
        for number in operation.outputs if operation.over_time else ():
            shape = graph.avals[number].shape
            fitting = [axis for axis in told if shape[axis : axis + 1] == batch]
            axes[number] = fitting[0] if len(fitting) == 1 else 0 if shape[:1] == batch else None
    return {name: axes[layer.output] for name, layer in graph.layers.items()}


def _axis_behind(graph: Graph, operation: Operation, place: int, axis: int | None) -> int | None:
    """Where an operation leaves the axis of the input at a place; None where it is lost."""
    options, before = operation.options, graph.avals[operation.inputs[place]].shape
    name = None if axis is None else "neurons" if operation.primitive is None else operation.primitive.name
    match name:
        case None:
            return None
        case "transpose":
            return options["permutation"].index(axis)
        case "broadcast_in_dim":
            return options["broadcast_dimensions"][axis]
        case "reshape":
            after = graph.avals[operation.outputs[0]].shape
            in_front = [math.prod(after[:place]) for place in range(len(after))]
            return next((i for i, n in enumerate(in_front) if n == math.prod(before[:axis]) and after[i] > 1), None)
        case "dot_general":
            contracted, together = (dims[place] for dims in options["dimension_numbers"])
            left = [i for i in range(len(before)) if i not in (*contracted, *together)]
            if axis not in left:
                return together.index(axis) if axis in together else None
            others = graph.avals[operation.inputs[0]].ndim - len(contracted) if place else len(together)
            return others + left.index(axis)
        case "conv_general_dilated":
            numbers = options["dimension_numbers"]
            return numbers.out_spec[0] if (place, axis) == (0, numbers.lhs_spec[0]) else None
    gone = options.get("dimensions" if name == "squeeze" else "axes", ())
    return None if axis in gone else axis - sum(other < axis for other in gone)


def mean_over_neurons(spikes: jax.Array, axis: int | None, batch: int) -> jax.Array:
    """The mean number of spikes per neuron [K, B] of spikes [K, ...] of a layer whose batch is at an axis.

    Of a layer without such an axis, as of tokens folded into the batch, the batch's mean for each sample.
    """
    others = tuple(place for place in range(1, spikes.ndim) if axis is None or place != axis + 1)
    mean = spikes.mean(axis=others)
    return jnp.broadcast_to(mean[:, None], (len(spikes), batch)) if axis is None else mean


def with_not_finite(graph: Graph, results: Any, inputs: jax.Array | Repeated, state: Mapping[str, Any]) -> Any:
    """Results [K, B, ...] of K steps, NaN for a sample from the step on at which its numbers are no longer finite.

    A spike is 0 or 1 whatever its membrane is, so NaN and infinity, of an image or a weight, would end at a neuron.
    They stay in its state, which tells the sample and the chunk. Where inputs [K, B, ...] are not finite, these tell
    the step. Both are sums of 0 times a number, which is 0 or NaN.
    """
    axes, x = axes_of_samples(graph), inputs.value[None] if isinstance(inputs, Repeated) else inputs
    of_inputs = jnp.cumsum(_zeros_or_nan(x, (0, 1)), axis=0)  # [K, B], or [1, B] for all steps
    of_states = jnp.zeros_like(of_inputs[-1])
    for name, leaves in state.items():
        for leaf in jax.tree.leaves(leaves):
            of_states += _zeros_or_nan(leaf, () if axes[name] is None else (axes[name],)).astype(of_states.dtype)
    mark = of_inputs + jnp.where(jnp.isnan(of_inputs[-1]), 0, of_states)

    def marked(result: jax.Array) -> jax.Array:
        by_sample = mark if result.shape[1:2] == mark.shape[1:] else mark.sum(1, keepdims=True)
        return result + by_sample.reshape(*by_sample.shape, *[1] * (result.ndim - 2)).astype(result.dtype)

    return jax.tree.map(marked, results)


def _zeros_or_nan(array: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Along some axes 0 where all numbers are finite, and NaN elsewhere; what is no floating-point number always is."""
    others = tuple(axis for axis in range(array.ndim) if axis not in axes)
    dtype = array.dtype if jnp.issubdtype(array.dtype, jnp.floating) else jnp.float32
    numbers = array if array.dtype == dtype else jnp.zeros_like(array, dtype)
    return jnp.sum(0 * jax.lax.stop_gradient(numbers), axis=others)
