"""The transformation: from the function of an ANN to a spiking network.

The function is traced to a graph, and every ReLU in it becomes a layer of neurons. The graph then runs with an axis of
time in front of every value that depends on the input. Other values, such as a dropout mask or the scale of a batch
norm, are computed once for all steps of a chunk.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jsnn.caching import cached
from jsnn.checks import is_broadcastable
from jsnn.encoding import Repeated
from jsnn.kernels import Kernels, fast_kernels, xla_kernels
from jsnn.network.activations import with_neurons
from jsnn.network.calls import Call, arrays_of, check_mesh, check_variables, is_array, signature
from jsnn.network.graph import Graph, trace
from jsnn.network.rules import check_can_spike
from jsnn.network.running import Program, Spike, run
from jsnn.network.samples import with_not_finite
from jsnn.neurons.leaky import lif
from jsnn.neurons.neuron import Neuron, Parameters, State, check_neuron, check_step, over_time

MOST_GRAPHS = 64  # of an SNN, each of other shapes; an older one is traced again
NEURONS = "neurons"  # the collection of SNN variables that an ANN's variables don't have
Variables = Mapping[str, Any]


class SNN(NamedTuple):
    """A spiking network as pure functions. `args` and `kwargs` are those of the ANN's function behind its input.

    Attributes:
        init: (variables, x [B, ...], *args, **kwargs) -> the variables with a collection "neurons" more: layer ->
            the parameters of its neurons.
        initial_state: (variables, x [B, ...], *args, **kwargs) -> layer -> the state of its neurons before a
            presentation.
        apply: (variables, state, inputs [K, B, ...], *args, **kwargs) -> (results [K, B, ...], the next state) of K
            time steps. The mean of the results over time tends to the ANN's result.
        trace: (variables, x [B, ...], *args, **kwargs) -> (its Graph with layers, the arrays that it is run with).
        neuron: of all layers.
        kernels: what it computes with.
    """

    init: Callable[..., Variables]
    initial_state: Callable[..., dict[str, State]]
    apply: Callable[..., tuple[Any, dict[str, State]]]
    trace: Callable[..., tuple[Graph, list[Any]]]
    neuron: Neuron
    kernels: Kernels


@cached
def spiking(
    apply: Callable[..., Any],
    neuron: Neuron | None = None,
    operands: DTypeLike | None = None,
    *,
    forward_mode: bool = False,
) -> SNN:
    """Make a spiking network of an ANN's function, as `jax.grad` makes a gradient of it.

        I_l[t] = (the ANN's operations between its ReLUs) of v_k o_k[t] of the layers k before,    o_l = neuron(I_l)

    A neuron that fires stands for its threshold v, so that all numbers keep the ANN's units: of `lif` without leak, v
    times the firing rate tends to the value of the ReLU (Rueckauer et al., 2017, doi:10.3389/fnins.2017.00682). Biases,
    batch norm and sums are right as they are.

    Args:
        apply: (variables, x [B, ...], *args, **kwargs) -> results [B, ...]: of Flax linen `model.apply`, of NNX
            `lambda variables, x: nnx.merge(graphdef, variables["params"])(x)`, or any function whose variables are a
            dict. It may consist of operations that are linear in what depends on x, and of ReLU, relu6, clip and
            `jsnn.qcfs`. As with `jax.jit`, what it closes over stays as it was when it was first called.
        neuron: of all layers; None is `jsnn.lif()`.
        operands: dtype in which numbers enter matrix products, e.g. bfloat16; membranes, sums and gradients keep
            float32. None leaves them as they are.
        forward_mode: whether products are XLA's own, which have forward mode (jvp, jacfwd) as well and are slow on a
            CPU; the surrogate then is one of `jsnn.surrogate.forward_mode`.

    Returns:
        The SNN, the same one for the same arguments as long as it is among the 256 used last.

    Raises:
        ValueError: where the neuron is none, or operands are no floating-point dtype, or given in forward mode; of the
            SNN's functions, for an operation that can't become spiking, and for variables, inputs and parameters of
            neurons that don't fit.
    """
    if forward_mode and operands is not None:
        raise ValueError(f"XLA's own products take numbers as they are: leave out operands, got {operands}.")
    neuron = lif() if neuron is None else neuron
    check_neuron(neuron)
    kernels = xla_kernels() if forward_mode else fast_kernels(operands)

    graphs: dict[Any, Graph] = {}

    def traced(variables: Variables, x: Any, *args: Any, **kwargs: Any) -> tuple[Graph, list[Any]]:
        _check_call(variables, x)
        ann = {name: value for name, value in variables.items() if name != NEURONS}
        call = Call(ann, x, args, kwargs)
        key = signature(call)
        if key in graphs:
            return graphs[key], arrays_of(call)
        graph = with_neurons(trace(apply, call))
        check_can_spike(graph)
        if key is not None and not any(isinstance(value, jax.core.Tracer) for value in graph.constants.values()):
            graphs[key] = graph
            if len(graphs) > MOST_GRAPHS:
                del graphs[next(iter(graphs))]
        return graph, arrays_of(call)

    def init(variables: Variables, x: Any, *args: Any, **kwargs: Any) -> Variables:
        graph, _ = traced(variables, x, *args, **kwargs)
        parameters = {
            name: {key: jnp.asarray(value, layer.dtype) for key, value in neuron.parameters().items()}
            for name, layer in graph.layers.items()
        }
        return {**variables, NEURONS: parameters}

    def initial_state(variables: Variables, x: Any, *args: Any, **kwargs: Any) -> dict[str, State]:
        check_mesh(x, axis=0)
        graph, _ = traced(variables, x, *args, **kwargs)
        return {
            name: neuron.init(parameters, jnp.zeros(graph.layers[name].shape, graph.layers[name].dtype))
            for name, parameters in neurons_of(graph, neuron, variables).items()
        }

    def step(
        variables: Variables, state: Mapping[str, State], inputs: jax.Array, *args: Any, **kwargs: Any
    ) -> tuple[Any, dict[str, State]]:
        later = {}

        def spike(layer: str, parameters: Parameters, current: jax.Array) -> jax.Array:
            if layer not in state:
                raise ValueError(f"the state has no layer {layer!r}: get it from snn.initial_state.")
            spikes, later[layer], _ = over_time(neuron, parameters, state[layer], current)
            return spikes

        results = drive(snn, spike, variables, inputs, *args, **kwargs)
        graph, _ = traced(variables, without_time(inputs), *args, **kwargs)
        return with_not_finite(graph, results, inputs, later), later

    snn = SNN(init, initial_state, step, traced, neuron, kernels)
    return snn


def _check_call(variables: Any, x: Any) -> None:
    """Refuse arguments of other kinds than those of an ANN's function."""
    check_variables(variables)
    if not is_array(x):
        raise ValueError(f"x is one array [B, ...], got {type(x).__name__}: pass all else as further arguments.")


def drive(snn: SNN, spike: Spike, variables: Variables, inputs: jax.Array | Repeated, *args: Any, **kwargs: Any) -> Any:
    """Run a network over inputs [K, B, ...] with neurons that the caller runs; returns the results [K, B, ...]."""
    try:
        graph, arrays = snn.trace(variables, without_time(inputs), *args, **kwargs)
    except Exception as error:
        shape = getattr(inputs, "shape", None)
        error.add_note(f"The network was traced with inputs of shape {shape} as time-major [K, B, ...].")
        raise
    is_repeated = isinstance(inputs, Repeated)
    check_mesh(inputs.value if is_repeated else inputs, axis=0 if is_repeated else 1)
    program = Program(graph, arrays, snn.kernels, neurons_of(graph, snn.neuron, variables))
    results = run(program, inputs, spike, graph.outputs)
    return jax.tree.unflatten(graph.structure, results)


def without_time(inputs: Any, num_steps: int | None = None) -> jax.ShapeDtypeStruct:
    """The shape and dtype of inputs [K, B, ...] at one step; ValueError where there is no such axis of K steps."""
    shape = getattr(inputs, "shape", ())
    if len(shape) < 2 or num_steps not in (None, shape[0]):
        steps = "K" if num_steps is None else num_steps
        raise ValueError(f"a spiking network takes time-major inputs [{steps}, B, ...], got the shape {shape}.")
    return jax.ShapeDtypeStruct(inputs.shape[1:], inputs.dtype)


def neurons_of(graph: Graph, neuron: Neuron, variables: Variables) -> dict[str, Parameters]:
    """Layer -> the parameters that its neurons run with, in forward order.

    They are those of the variables, but for thresholds above the largest value of the activation that a layer stands
    for, as relu6: its neurons have that value as their threshold, for their spikes would go beyond it.
    """
    _check_neurons(graph, neuron, variables)
    neurons = {}
    for name, layer in graph.layers.items():
        threshold = jnp.asarray(variables[NEURONS][name]["threshold"])
        if layer.ceiling is not None:
            threshold = jnp.where(threshold > layer.ceiling, layer.ceiling, threshold)  # half a gradient has `minimum`
        neurons[name] = {**variables[NEURONS][name], "threshold": threshold}
    return neurons


def _check_neurons(graph: Graph, neuron: Neuron, variables: Variables) -> None:
    """Refuse variables without the parameters of all neurons, or with those of others or of other shapes.

    Of which shapes a parameter of a neuron of one's own may be, the neuron knows alone.
    """
    neurons = variables.get(NEURONS)
    if neurons is None:
        raise ValueError('variables have no "neurons": get them from snn.init or jsnn.convert.')
    if set(neurons) != set(graph.layers):
        raise ValueError(
            f"the network spikes in {', '.join(graph.layers)}, but its variables have neurons for {', '.join(neurons)}."
        )
    for layer, parameters in neurons.items():
        if not isinstance(parameters, Mapping):
            raise ValueError(f"the neurons of {layer} are a mapping of parameters, got {type(parameters).__name__}.")
        if missing := set(neuron.parameters()) - set(parameters):
            raise ValueError(
                f"the neurons of {layer} have no {min(missing)!r}: get their parameters from snn.init or jsnn.convert."
            )
        check_step(
            neuron, layer, parameters, jax.ShapeDtypeStruct(graph.layers[layer].shape, graph.layers[layer].dtype)
        )
        for name in ("threshold", *(one.name for one in neuron.ranges if one.name in parameters)):
            value = parameters[name]
            if not is_broadcastable(jnp.shape(value), graph.layers[layer].shape):
                raise ValueError(
                    f"the {name} of {layer} is of the shape {jnp.shape(value)}: give it one that is broadcastable to "
                    f"the layer, {graph.layers[layer].shape}."
                )
