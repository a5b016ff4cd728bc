"""Running the graph of a network with an axis of time in front of every value that depends on its input.

A spike stands for its threshold V. If V is one number for a layer, spikes stay 0 and 1, and V is a separate factor. The
next convolution or product multiplies V into its weights or its result, whichever is smaller. So matrix products work
on spikes, which are exact in any precision. If weights are rounded, they are rounded without the factor.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsnn.encoding import Repeated
from jsnn.kernels import Kernels
from jsnn.network.activations import WITH_WEIGHTS
from jsnn.network.graph import Graph, Operation, needed
from jsnn.network.rules import run_over_time
from jsnn.neurons.neuron import Parameters

# Operations of one input that a factor passes through.
HOMOGENEOUS = {
    *"mul div neg reshape transpose squeeze broadcast_in_dim slice dynamic_slice rev copy name".split(),
    *"reduce_sum reduce_window_sum cumsum convert_element_type".split(),
}

# (layer, parameters of its neurons, current [K, B, ...]) -> spikes [K, B, ...]
Spike = Callable[[str, Parameters, jax.Array], jax.Array]


class Program(NamedTuple):
    """A network's graph and what it is run with."""

    graph: Graph  # of the SNN
    arrays: Sequence[Any]  # of the graph, see `Graph.arrays`
    kernels: Kernels  # what it computes with
    neurons: Mapping[str, Parameters]  # layer -> the parameters of its neurons


class Value(NamedTuple):
    """A value while a graph runs."""

    array: Any  # the number, divided by the factor
    factor: Any = None  # a scalar, or None for 1
    over_time: bool = False  # whether it has an axis of time in front

    def product(self) -> Any:
        """The number itself."""
        return self.array if self.factor is None else (self.factor * self.array).astype(self.array.dtype)

    def repeated(self, num_steps: int) -> "Value":
        """The same at each of so many steps, where it has one."""
        if not self.over_time or len(self.array) == num_steps:
            return self
        # Not a broadcast, whose gradient is a slow sum over an axis: that of slices is fused with what makes them.
        return self._replace(array=jnp.concatenate([self.array] * num_steps))


def run(
    program: Program,
    inputs: jax.Array | Repeated,
    spike: Spike,
    targets: Sequence[int],
    recorded: Mapping[str, jax.Array] | None = None,
) -> list[jax.Array]:
    """Values [K, B, ...] of a network's graph for inputs [K, B, ...], of which only what the values need is run.

    Nothing runs before layers whose spikes [K, B, ...] were recorded.
    """
    graph, num_steps = program.graph, len(inputs)
    # What is the same at every step has an axis of time of one, until it meets neurons or what differs.
    inputs = inputs.value[None] if isinstance(inputs, Repeated) else inputs
    values = _constants_and_arrays(program) | {graph.input: Value(inputs, over_time=True)}
    names = {layer.output: name for name, layer in graph.layers.items()}
    known = {graph.layers[name].output: _emitted(program, name, spikes) for name, spikes in (recorded or {}).items()}
    values |= known
    for operation in needed(graph.operations, targets, [graph.input, *known]):
        taken = [values[number] for number in operation.inputs]
        if operation.primitive is None:
            name = names[operation.outputs[0]]
            current = taken[0].repeated(num_steps).product()
            spikes = spike(name, program.neurons[name], current.astype(graph.layers[name].dtype))
            results = [_emitted(program, name, spikes)]
        elif operation.over_time:
            results = _over_time(program, operation, taken)
        else:
            results = [Value(array) for array in operation.call(*(value.array for value in taken))]
        values.update(zip(operation.outputs, results, strict=True))
    return [values[number].repeated(num_steps).product() for number in targets]


def constants(program: Program, targets: Sequence[int]) -> list[Any]:
    """Values of a network's graph that do not depend on its input."""
    values = {number: value.array for number, value in _constants_and_arrays(program).items()}
    for operation in needed(program.graph.operations, targets):
        results = operation.call(*(values[number] for number in operation.inputs))
        values.update(zip(operation.outputs, results, strict=True))
    return [values[number] for number in targets]


def _constants_and_arrays(program: Program) -> dict[int, Value]:
    """The values that nothing makes, but for the input."""
    arrays = zip(program.graph.arrays, program.arrays, strict=True)
    return {number: Value(array) for number, array in (*program.graph.constants.items(), *arrays)}


def _emitted(program: Program, name: str, spikes: jax.Array) -> Value:
    """What comes behind the neurons of a layer: its threshold for a spike."""
    threshold, output = program.neurons[name]["threshold"], program.graph.layers[name].output
    dtype = program.graph.avals[output].dtype
    if threshold.ndim == 0 and _has_room(program, [output]):
        return Value(spikes.astype(dtype), threshold, over_time=True)
    return Value((threshold * spikes).astype(dtype), over_time=True)


def _over_time(program: Program, operation: Operation, taken: Sequence[Value]) -> list[Value]:
    """An operation with an axis of time in front of what depends on it."""
    longest = max(len(value.array) for value in taken if value.over_time)
    taken = [value.repeated(longest) for value in taken]
    over_time = [value.over_time for value in taken]
    factors = [value.factor for value in taken if value.factor is not None]
    name, factor = operation.primitive.name, None
    may_pass = len(factors) == sum(over_time) == 1 and _has_room(program, operation.outputs)
    if may_pass and name in HOMOGENEOUS:
        factor, arrays = factors[0], [value.array for value in taken]
    elif may_pass and name in WITH_WEIGHTS:
        factor, arrays = _taken_up(program, operation, taken)
    else:
        arrays = [value.product() for value in taken]
    results = run_over_time(operation, arrays, over_time, program.kernels)
    return [Value(array, factor, over_time=True) for array in results]


def _has_room(program: Program, outputs: Sequence[int]) -> bool:
    """Whether sums of spikes fit the dtype of some values: float16 ends at 65,504, and so gets no factor beside it."""
    return all(program.graph.avals[number].dtype != jnp.float16 for number in outputs)


def _taken_up(program: Program, operation: Operation, taken: Sequence[Value]) -> tuple[Any, list[Any]]:
    """The factor of a product's result and what enters it, the factor in the weights where these are smaller.

    Weights whose dtype would round the factor, or what becomes of them, stay as they are: whole numbers, few bits.
    """
    spikes = next(value for value in taken if value.factor is not None)
    weights = next(value.array for value in taken if value.factor is None)
    result = len(spikes.array) * program.graph.avals[operation.outputs[0]].size
    is_rounded = jnp.result_type(spikes.factor, weights) != weights.dtype
    if weights.size >= result or program.kernels.operands is not None or is_rounded:
        return spikes.factor, [value.array for value in taken]
    return None, [spikes.factor * weights if value.factor is None else value.array for value in taken]
