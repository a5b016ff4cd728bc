"""Running an SNN over time, one chunk of time steps after the other.

Within a chunk the network runs layer by layer, each layer over all K steps at once, [K, B, ...]. Only the neurons'
states go from one chunk to the next. So the forward pass needs the memory of one chunk, whatever the number of steps.
For the gradient, the states between chunks are kept and each chunk runs again. For leaky neurons `jsnn.network.bptt`
does it with less. The result does not depend on the size of the chunks.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsnn.encoding import Encoding, Repeated
from jsnn.network.chunks import check_steps, time_chunks
from jsnn.network.samples import axes_of_samples, mean_over_neurons, with_not_finite
from jsnn.network.transformation import SNN, Variables, drive, without_time
from jsnn.neurons.neuron import Parameters, State, over_time, record
from jsnn.neurons.packing import STEPS_PER_WORD, unpack

COLLECTIONS = ("spikes", "currents", "states", "words")
FEW_STEPS = 8  # at most, for unrolled ones are all in the program, and in memory

Inputs = Callable[[jax.Array], jax.Array | Repeated]
Observer = Callable[["Observed"], Any]
Noise = Callable[[jax.Array, jax.Array], dict[str, Any]]


def no_noise(index: jax.Array, key: jax.Array) -> dict[str, Any]:
    """The keyword arguments of a network without noise: none."""
    del index, key
    return {}


class Presentation(NamedTuple):
    """How a network is shown images, besides arrays.

    Attributes:
        snn: the network.
        encode: the encoding of the images.
        num_steps: T, at least 1.
        chunk: time steps per chunk, at least 1. Does not change the result.
        noise: (index [B], key) -> keyword arguments of the ANN's function in training, as {"rngs": {"dropout": key}}.
    """

    snn: SNN
    encode: Encoding
    num_steps: int
    chunk: int
    noise: Noise = no_noise

    def times(self) -> jax.Array:
        """The time steps [C, K] of all chunks; those from T on are padding."""
        return time_chunks(self.num_steps, min(self.chunk, STEPS_PER_WORD))


class Observed(NamedTuple):
    """What an observer of a simulation is shown of K time steps."""

    results: Any  # of the network at each step, [K, B, ...]
    total: Any  # their running sum from the first step of the presentation on, [K, B, ...]
    layers: dict[str, dict[str, Any]]  # what is collected -> layer -> arrays, see `simulate`


class Carried(NamedTuple):
    """What goes from one chunk of a simulation to the next."""

    neurons: dict[str, State]  # layer -> the state of its neurons
    total: Any  # the sum over time of the network's results so far, [B, ...]


def simulate(
    snn: SNN,
    variables: Variables,
    inputs: Inputs,
    observe: Observer,
    *,
    num_steps: int,
    chunk: int,
    collect: Sequence[str] = (),
    **kwargs: Any,
) -> Any:
    """Run an SNN from its initial state for `num_steps` steps and return what `observe` made of it.

    Args:
        snn: the network.
        variables: of the SNN.
        inputs: time [K] int32 -> inputs [K, B, ...] of these steps; what it gives for steps from `num_steps` on does
            not matter.
        observe: Observed -> pytree of arrays [K, ...]; what is not observed is not kept.
        num_steps: T, at least 1.
        chunk: K, time steps per chunk, at least 1; it need not divide `num_steps`.
        collect: what `observe` shall see of each layer, as layers["spikes"]["conv0"]: "spikes" and "currents"
            [K, B, ...], "states" with leaves [K, B, ...] after each step, "words", the spikes as bits [B, ...], without
            gradient and for chunks of at most 32 steps, which goes with none of the others.
        kwargs: keyword arguments of the ANN's function, as {"rngs": {"dropout": key}}; the same at every step.

    Returns:
        The pytree of `observe` with leaves [T, ...].

    Raises:
        ValueError: where num_steps or chunk is no whole number from 1, inputs are not of the steps that they are called
            for, something else is to be collected, or words are beside others or in longer chunks.
    """
    check_steps(num_steps, chunk)
    if unknown := set(collect) - set(COLLECTIONS):
        raise ValueError(f"there is no {min(unknown)!r} to collect: choose from {', '.join(COLLECTIONS)}.")
    if "words" in collect and len(collect) > 1:
        raise ValueError(f"words are collected alone, got {', '.join(collect)}: take spikes in their place.")

    times = time_chunks(num_steps, chunk)
    x = at_one_step(inputs, times.shape[1])
    graph, _ = snn.trace(variables, x, **kwargs)
    start = initial_carry(snn, variables, x, **kwargs)
    run_chunk = _chunk_runner(snn, variables, collect, in_few_steps(num_steps, chunk), kwargs)

    def run(carried: Carried, time: jax.Array) -> tuple[Carried, Any]:
        shown = inputs(time)
        results, state, collected = run_chunk(carried.neurons, shown)
        results = with_not_finite(graph, results, shown, state)
        total, totals = running_sum(carried.total, results)
        return Carried(state, total), observe(Observed(results, totals, collected))

    if "states" not in collect:
        start = start._replace(neurons=compacted(snn, start.neurons))
    if len(times) == 1:
        return run(start, times[0])[1]
    # Backward, a chunk is run again from the state at its start.
    _, observations = jax.lax.scan(jax.checkpoint(run), start, times)
    return jax.tree.map(lambda x: x.reshape(times.size, *x.shape[2:])[:num_steps], observations)


def simulate_images(
    presentation: Presentation,
    variables: Variables,
    images: jax.Array,
    index: jax.Array,
    key: jax.Array,
    observe: Observer,
    /,
    **kwargs: Any,
) -> Any:
    """What `observe` makes of a presentation of images [B, ...], whose index [B] and key their noise depends on.

    Keywords are `collect` of `simulate`, and those of the ANN's function.
    """
    snn, encode, num_steps, chunk, _ = presentation
    inputs = partial(encode, images, key, index)
    return simulate(snn, variables, inputs, observe, num_steps=num_steps, chunk=chunk, **kwargs)


def samples_of(
    presentation: Presentation,
    variables: Variables,
    images: jax.Array,
    index: jax.Array,
    key: jax.Array,
    /,
    **kwargs: Any,
) -> dict[str, int | None]:
    """Layer -> the axis of its neurons that is the batch, if one is, in `simulate_images` of the same arguments."""
    x = at_one_step(partial(presentation.encode, images, key, index), presentation.times().shape[1])
    return axes_of_samples(presentation.snn.trace(variables, x, **kwargs)[0])


def in_few_steps(num_steps: int, chunk: int) -> bool:
    """Whether a presentation is one chunk of few steps, which are unrolled."""
    return num_steps <= min(chunk, FEW_STEPS)


def _chunk_runner(
    snn: SNN, variables: Variables, collect: Sequence[str], unroll: bool, kwargs: Mapping[str, Any]
) -> Callable[[Mapping[str, State], jax.Array | Repeated], tuple[Any, dict[str, State], dict[str, dict[str, Any]]]]:
    """A function (state, inputs) -> results, next state and what is collected of one chunk."""

    def run_chunk(state: Mapping[str, State], inputs: jax.Array | Repeated) -> tuple:
        later: dict[str, State] = {}
        collected: dict[str, dict[str, Any]] = {name: {} for name in collect}

        def spike(layer: str, parameters: Parameters, current: jax.Array) -> jax.Array:
            if "words" in collect:
                words, later[layer] = record(snn.neuron, parameters, state[layer], current)
                collected["words"][layer] = words
                return unpack(words, len(current), current.dtype)
            spikes, later[layer], states = over_time(snn.neuron, parameters, state[layer], current, unroll)
            for name, value in (("spikes", spikes), ("currents", current), ("states", states)):
                if name in collect:
                    collected[name][layer] = value
            return spikes

        return drive(snn, spike, variables, inputs, **kwargs), later, collected

    return run_chunk


def compacted(snn: SNN, states: Mapping[str, State]) -> dict[str, State]:
    """The states of all layers as they are kept between chunks."""
    compact = snn.neuron.compact or (lambda state: state)
    return {layer: compact(state) for layer, state in states.items()}


def running_sum(total: Any, results: Any) -> tuple[Any, Any]:
    """Sums over time, added step by step: their rounding does not depend on where time is cut.

    From a total [B, ...] and results [K, B, ...] to the total after the last step and the totals [K, B, ...].
    """

    def step(total: Any, result: Any) -> tuple[Any, Any]:
        total = jax.tree.map(jnp.add, total, result)
        return total, total

    return jax.lax.scan(step, total, results)


def at_one_step(inputs: Inputs, length: int) -> jax.ShapeDtypeStruct:
    """The shape of inputs at one of the steps of a chunk; ValueError where they are not of the steps asked for."""
    return without_time(jax.eval_shape(inputs, jax.ShapeDtypeStruct((length,), jnp.int32)), length)


def initial_carry(snn: SNN, variables: Variables, x: jax.ShapeDtypeStruct, **kwargs: Any) -> Carried:
    """What a simulation begins with, of inputs x at one step."""
    graph, _ = snn.trace(variables, x, **kwargs)
    results = [graph.avals[number] for number in graph.outputs]
    total = [jnp.zeros(result.shape, jnp.promote_types(result.dtype, jnp.float32)) for result in results]
    return Carried(snn.initial_state(variables, x, **kwargs), jax.tree.unflatten(graph.structure, total))


def spikes_per_neuron(
    words: Mapping[str, jax.Array], num_steps: int, samples: Mapping[str, int | None], batch: int
) -> dict[str, jax.Array]:
    """Layer -> mean number of spikes per neuron [K, B], at each of K steps and for each sample, of words [B, ...].

    Of each layer the axis of samples is given, see `samples_of`. Summed over time this is the paper's activity metric.
    """
    spikes = {layer: unpack(word, num_steps, jnp.float32) for layer, word in words.items()}
    return {layer: mean_over_neurons(x, samples[layer], batch) for layer, x in spikes.items()}
