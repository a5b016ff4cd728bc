"""How an operation of an ANN runs with an axis of time in front, or why it can't.

Only operations that are linear in their inputs may act on spikes: the mean of their outputs over time is then their
output for the mean input. All other operations raise an error.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jsnn.kernels import Kernels, pool_sum
from jsnn.kernels.precision import dtype_of_sums
from jsnn.network.calls import LOOPS
from jsnn.network.graph import Graph, Operation
from jsnn.network.linear import acts_linearly

ADVICE = {
    "reduce_window_max": "use an average pool (flax.linen.avg_pool) in place of the max pool",
    "reduce_window": "use an average pool (flax.linen.avg_pool) in place of the max pool",
    "reduce_max": "of a softmax at the end, return the logits; in place of another maximum use a mean or a sum",
    "argmax": "take the argmax of the network's result instead",
    "mul": "two values that depend on the input can't be multiplied (attention, gating, a square): use a sum",
    "dot_general": "two values that depend on the input can't be multiplied (attention): use weights for one of them",
    "square": (
        "in place of a norm by the input, as layer norm, use batch norm with its running averages; in place of another "
        "square use weights"
    ),
    "integer_pow": (
        "in place of GELU use jax.nn.relu, in place of another power use weights; batch norm runs with its running "
        "averages"
    ),
    "max": "a maximum must be with 0 (jax.nn.relu) to become a layer of neurons",
    "min": "a minimum must be of a ReLU and a constant above 0 (jax.nn.relu6) to become a layer of neurons",
    "clamp": "clip from 0 to a constant above 0 to get a layer of neurons",
    "select_n": "choose by something that does not depend on the input, or use jax.nn.relu",
    **dict.fromkeys(("gt", "ge", "lt", "le", "eq", "ne"), "compare nothing that depends on the input: use jax.nn.relu"),
    "custom_vjp_call": "a gradient of its own would be lost: write it in plain operations",
    **dict.fromkeys(LOOPS, "unroll the loop or branch: spikes do not enter it"),
    **dict.fromkeys("tanh logistic erf erfc exp log1p exp2 abs sin".split(), "use jax.nn.relu as the activation"),
    "rsqrt": "use batch norm with its running averages in place of a norm by the input",
}


def check_can_spike(graph: Graph) -> None:
    """Refuse a graph with an operation that spikes can't go through.

    The ValueError names the operation, its module, its line of source and what to use instead.
    """
    over_time = {graph.input, *(n for operation in graph.operations if operation.over_time for n in operation.outputs)}
    for operation in graph.operations:
        if operation.over_time and operation.primitive is not None:
            _check(graph, operation, {place for place, number in enumerate(operation.inputs) if number in over_time})
    for layer in graph.layers.values():
        if not jnp.issubdtype(graph.avals[layer.current].dtype, jnp.floating):
            raise ValueError(
                f"the current of {layer.name} is no floating-point number: give the network such ones as its input, or "
                "embed whole numbers before it."
            )
        if layer.threshold in over_time:
            raise ValueError(f"lam of the qcfs of {layer.name} depends on the input: make it of weights alone.")
    results, _ = jax.tree_util.tree_flatten_with_path(jax.tree.unflatten(graph.structure, graph.outputs))
    for path, number in results:
        if number not in over_time:
            raise ValueError(
                "the network's result does not depend on its input, so it has nothing to spike for"
                + (f": leave out {jax.tree_util.keystr(path)}." if path else ".")
            )


def _check(graph: Graph, operation: Operation, places: set[int]) -> None:
    """Refuse an operation that is not linear in its inputs at some places, those that depend on time."""
    name, avals = operation.primitive.name, [graph.avals[number] for number in operation.outputs]
    is_linear = name == "custom_jvp_call" or acts_linearly(name, places, avals)  # one that is not linear is opened
    if not is_linear:
        advice = ADVICE.get(name, "of what depends on the input only sums, weights and ReLU become spiking: use these")
        dtype = graph.avals[graph.input].dtype
        if not jnp.issubdtype(dtype, jnp.inexact):
            advice = f"the network's input is {dtype}: give it floating-point numbers, or embed whole ones before it"
        raise ValueError(f"{name} in {operation.where} can't become spiking: {advice}.")


def run_over_time(
    operation: Operation, values: Sequence[Any], over_time: Sequence[bool], kernels: Kernels
) -> list[Any]:
    """An operation that `check_can_spike` lets pass, with an axis of time in front of each input that depends on it."""
    rule = _RULES.get(operation.primitive.name)
    if rule is not None:
        result = rule(kernels, operation, values, over_time)
        if result is not None:
            return [result]
    axes = [0 if is_over_time else None for is_over_time in over_time]
    return jax.vmap(operation.call, axes)(*values)


def convolve_batch(kernels: Kernels, options: Mapping[str, Any], x: jax.Array, kernel: jax.Array) -> jax.Array | None:
    """A convolution by the kernels, in the dtype that XLA would give; None where the batch is not in front.

    None for numbers that are not summed as by the kernels, too.
    """
    numbers = options["dimension_numbers"]
    in_front = (numbers.lhs_spec[0], numbers.out_spec[0], options["batch_group_count"]) == (0, 0, 1)
    if not in_front or not _is_summed_alike(options, x, kernel):
        return None
    return kernels.convolve(x, kernel, options).astype(options["preferred_element_type"] or x.dtype)


def multiply_batch(kernels: Kernels, options: Mapping[str, Any], x: jax.Array, matrix: jax.Array) -> jax.Array | None:
    """A dense layer's product [..., in] with [in, out] by the kernels; None for other products and other sums."""
    (of_x, of_matrix), (batch, _) = options["dimension_numbers"]
    is_dense = matrix.ndim == 2 and (tuple(of_x), tuple(of_matrix), tuple(batch)) == ((x.ndim - 1,), (0,), ())
    if not is_dense or not _is_summed_alike(options, x, matrix):
        return None
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    product = kernels.multiply(rows, matrix, options["precision"])
    plain = partial(jax.lax.dot_general, dimension_numbers=options["dimension_numbers"])
    result = jax.eval_shape(partial(plain, preferred_element_type=options["preferred_element_type"]), x, matrix)
    return product.reshape(result.shape).astype(result.dtype)


def _is_summed_alike(options: Mapping[str, Any], *operands: jax.Array) -> bool:
    """Whether the platform would sum products as the kernels do: no whole numbers, and nothing wider than they."""
    if not all(jnp.issubdtype(array.dtype, jnp.floating) for array in operands):
        return False
    wanted, sums = options["preferred_element_type"], [dtype_of_sums(array.dtype) for array in operands]
    return wanted is None or jnp.promote_types(wanted, jnp.result_type(*sums)) == jnp.result_type(*sums)


# What convolutions and products are replaced by: (kernels, parameters of the primitive, x, weights) -> result or None.
ON_BATCHES = {"conv_general_dilated": convolve_batch, "dot_general": multiply_batch}


def _merged(kernels: Kernels, operation: Operation, values: Sequence[Any], over_time: Sequence[bool]) -> Any:
    """Time merged into the batch: a vmap of convolutions would sum their gradients step by step."""
    x, weights = values
    if tuple(over_time) != (True, False) or x.ndim < 3:
        return None
    merged = ON_BATCHES[operation.primitive.name](kernels, operation.options, x.reshape(-1, *x.shape[2:]), weights)
    return None if merged is None else merged.reshape(*x.shape[:2], *merged.shape[1:])


def _pool(kernels: Kernels, operation: Operation, values: Sequence[Any], over_time: Sequence[bool]) -> Any:
    """A pool as a sum of slices, which XLA fuses with what makes its input."""
    del kernels, over_time
    (x,), options = values, operation.options
    return pool_sum(x, (1, *options["window_dimensions"]), (1, *options["window_strides"]), options)


_RULES: dict[str, Callable[..., Any]] = {**dict.fromkeys(ON_BATCHES, _merged), "reduce_window_sum": _pool}
