"""Backpropagation through time from bits or bytes of neurons, in chunks of time steps.

The forward pass runs chunk by chunk and keeps the neurons' residuals, see `jsnn.neurons.residuals`. The backward pass
takes the chunks in reverse order. It unpacks, pools and masks each layer's spikes again, and draws the inputs again. It
computes no neuron and no product of the forward pass twice.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values

from jsnn.network.chunks import check_steps
from jsnn.network.graph import Graph
from jsnn.network.samples import axes_of_samples, mean_over_neurons, with_not_finite
from jsnn.network.simulation import Inputs, Presentation, at_one_step, compacted
from jsnn.network.storage import Bits, Recorded, Stored, codes_of, no_bits, trains_at, with_bits
from jsnn.network.trains import Words, ages_before, ages_between
from jsnn.network.transformation import NEURONS, Variables, drive, neurons_of
from jsnn.neurons.neuron import Parameters, State
from jsnn.neurons.residuals import Residuals, Train, record, replay, spikes_of


class Keys(NamedTuple):
    """Random keys of a presentation.

    Attributes:
        encoding: of the inputs.
        noise: of the network, as dropout's masks.
    """

    encoding: jax.Array
    noise: jax.Array


class Outcome(NamedTuple):
    """What a network gives in a presentation, differentiable.

    Attributes:
        results: [T, B, ...] at each step; their sum or mean over time are the logits.
        spikes: layer -> [B] spikes per neuron in the presentation, see `mean_over_neurons`.
    """

    results: Any
    spikes: dict[str, jax.Array]


class _Settings(NamedTuple):
    """What is run, besides arrays."""

    presentation: Presentation
    residuals: Residuals


class _Arrays(NamedTuple):
    """All arrays of a presentation."""

    variables: Variables
    images: jax.Array
    index: jax.Array
    keys: Keys


def present(
    presentation: Presentation,
    variables: Variables,
    images: jax.Array,
    index: jax.Array,
    keys: Keys,
    residuals: Residuals | None = None,
) -> Outcome:
    """What an SNN gives in training for images [B, ...], differentiable in its weights and in the images.

    Their index [B] int32 in the data set is what their noise belongs to. Residuals are the neuron's lossless ones, if
    none are given; those in bytes give the parameters of neurons a gradient, too. ValueError where a number of steps
    is no whole one from 1, inputs are not of the steps that they are called for, there are no residuals, or a gradient
    that they do not give, or a second derivative, is asked for.
    """
    check_steps(presentation.num_steps, presentation.chunk)
    residuals = residuals or presentation.snn.neuron.lossless
    if residuals is None:
        raise ValueError(
            "bits alone do not give the gradient of these neurons: differentiate jsnn.simulate, take the neuron's "
            "residuals in bytes, or lif(stdb()) with the spike of its reset detached."
        )
    return _present(_Settings(presentation, residuals), _Arrays(dict(variables), images, index, keys))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _present(settings: _Settings, arrays: _Arrays) -> Outcome:
    return _run(settings, arrays)[0]


def _run(settings: _Settings, arrays: _Arrays) -> tuple[Outcome, Stored]:
    """What the network gives, and what is kept of all layers."""
    presentation, residuals = settings
    encode, noise = _encoding_and_noise(presentation, arrays)
    times, graph = presentation.times(), _graph(presentation, arrays)
    state, samples = compacted(presentation.snn, _first_states(presentation, arrays)), axes_of_samples(graph)

    def run(carry: tuple[Any, Bits], now: tuple[jax.Array, jax.Array]) -> tuple[tuple[Any, Bits], tuple]:
        (state, bits), (chunk, time) = carry, now
        later, kept, counts = {}, {}, {}

        def spike(layer: str, parameters: Parameters, current: jax.Array) -> jax.Array:
            before = state[layer].membrane, state[layer].spikes
            kept[layer], membrane, last = record(residuals, parameters, *before, current)
            later[layer] = state[layer]._replace(membrane=membrane, spikes=last)
            spikes = spikes_of(kept[layer], len(current), current.dtype)
            mean = mean_over_neurons(spikes, samples[layer], len(arrays.images))
            counts[layer] = _summed(presentation, mean, time)
            return spikes

        inputs = encode(time)
        results = drive(presentation.snn, spike, arrays.variables, inputs, **noise)
        results = with_not_finite(graph, results, inputs, later)
        return (later, with_bits(bits, kept, chunk, len(time))), (results, counts, codes_of(kept))

    start = state, no_bits(residuals, {layer: one.membrane.shape for layer, one in state.items()}, times)
    (_, bits), (results, counts, codes) = jax.lax.scan(run, start, (jnp.arange(len(times)), times))
    outcome = Outcome(_joined(results, presentation.num_steps), jax.tree.map(lambda count: count.sum(0), counts))
    return outcome, Stored(bits, codes)


def _summed(presentation: Presentation, counts: jax.Array, time: jax.Array) -> jax.Array:
    """The sum [B] of counts [K, B] over a chunk, those of padding steps left out."""
    return jnp.where((time < presentation.num_steps)[:, None], counts, 0).sum(0)


def _joined(results: Any, num_steps: int) -> Any:
    """[C, K, B, ...] -> [T, B, ...]."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:num_steps], results)


def _present_forward(settings: _Settings, arrays: Any) -> tuple[Outcome, tuple]:
    of_neurons = jax.tree.leaves(arrays.variables.get(NEURONS))
    if settings.residuals.code is None and any(leaf.perturbed for leaf in of_neurons):
        raise ValueError(
            "bits alone do not give the gradient in the parameters of neurons: take it in the weights only, take "
            "residuals in bytes, or differentiate jsnn.simulate, which keeps membranes."
        )
    differentiated = [leaf.value if leaf.perturbed else None for leaf in jax.tree.leaves(arrays)]
    arrays = custom_vjp_primal_tree_values(arrays)
    outcome, stored = _run(settings, arrays)
    return outcome, (arrays, differentiated, stored)


def _present_backward(settings: _Settings, saved: tuple, of_outcome: Outcome) -> tuple[Any]:
    def is_zero(leaf: Any) -> bool:
        return isinstance(leaf, SymbolicZero)

    def dense(leaf: Any) -> jax.Array:
        return jnp.zeros(leaf.shape, leaf.dtype) if is_zero(leaf) else leaf

    of_results = jax.tree.map(dense, of_outcome.results, is_leaf=is_zero)
    of_spikes = {layer: None if is_zero(leaf) else leaf for layer, leaf in of_outcome.spikes.items()}
    arrays, differentiated, stored = saved
    cotangents = iter(_first_derivative(settings, arrays, differentiated, stored, of_results, of_spikes))
    structure = jax.tree.structure(arrays)
    return (jax.tree.unflatten(structure, [None if leaf is None else next(cotangents) for leaf in differentiated]),)


_present.defvjp(_present_forward, _present_backward, symbolic_zeros=True)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _first_derivative(
    settings: _Settings, arrays: _Arrays, differentiated: list[Any], stored: Stored, of_results: Any, of_spikes: Any
) -> list[jax.Array]:
    """The gradient in the leaves of `arrays` that are differentiated."""
    presentation, residuals = settings
    leaves, structure = jax.tree.flatten(arrays)
    chosen = [leaf for leaf in differentiated if leaf is not None]
    times = presentation.times()
    spikes = stored.bits.spikes if residuals.by_age else {}
    kept = ages_between(spikes, times)

    def filled(chosen: list[jax.Array]) -> _Arrays:
        values = iter(chosen)
        together = zip(leaves, differentiated, strict=True)
        return jax.tree.unflatten(structure, [old if leaf is None else next(values) for old, leaf in together])

    def first_membranes(chosen: list[jax.Array]) -> dict[str, jax.Array]:
        states = _first_states(presentation, filled(chosen))
        return {layer: state.membrane for layer, state in states.items()}

    membranes, of_start = jax.vjp(first_membranes, chosen)
    neurons = neurons_of(_graph(presentation, arrays), presentation.snn.neuron, arrays.variables)
    recorded = Recorded(residuals, stored, times, neurons, membranes)

    def run(chosen: list[jax.Array], membranes: dict[str, jax.Array], chunk: jax.Array, ages: Words) -> tuple:
        trains = trains_at(recorded, chunk, ages)
        results, later, counts = _replay_chunk(settings, filled(chosen), trains, membranes, times[chunk])
        return results, later, {layer: count for layer, count in counts.items() if of_spikes[layer] is not None}

    def step(carry: tuple, now: tuple[jax.Array, Any]) -> tuple[tuple, None]:
        (total, of_membranes, ages), (chunk, of_results) = carry, now
        ages = ages_before(spikes, kept, times, chunk, ages)
        unused = jax.tree.map(jnp.zeros_like, of_membranes)  # the values of membranes, which nothing looks at
        _, backward = jax.vjp(partial(run, chunk=chunk, ages=ages), chosen, unused)
        of_counts = {layer: cotangent for layer, cotangent in of_spikes.items() if cotangent is not None}
        of_chunk, of_membranes = backward((of_results, of_membranes, of_counts))
        return (jax.tree.map(jnp.add, total, of_chunk), of_membranes, ages), None

    first_ages = jax.tree.map(lambda ages: ages[0], kept)
    start = jax.tree.map(jnp.zeros_like, chosen), jax.tree.map(jnp.zeros_like, membranes), first_ages
    chunks = jax.tree.map(lambda leaf: _cut(leaf, times.shape), of_results)
    (total, of_membranes, _), _ = jax.lax.scan(step, start, (jnp.arange(len(times)), chunks), reverse=True)
    return jax.tree.map(jnp.add, total, of_start(of_membranes)[0])


@_first_derivative.defjvp
def _second_derivative(settings: _Settings, primals: tuple, tangents: tuple) -> tuple:
    del settings, primals, tangents
    raise ValueError(
        "spike trains as bits or bytes have no second derivative: differentiate jsnn.simulate, which keeps membranes, "
        "with a surrogate of jsnn.surrogate.forward_mode for Hessian-vector products."
    )


def _replay_chunk(
    settings: _Settings, arrays: _Arrays, trains: dict[str, Train], membranes: dict[str, jax.Array], time: jax.Array
) -> tuple[Any, dict[str, jax.Array], dict[str, jax.Array]]:
    """Results, what stands for the membranes behind the chunk, and spikes per neuron."""
    (presentation, residuals), later, counts = settings, {}, {}
    samples = axes_of_samples(_graph(presentation, arrays))

    def spike(layer: str, parameters: Parameters, current: jax.Array) -> jax.Array:
        spikes, later[layer] = replay(residuals, parameters, current, membranes[layer], trains[layer])
        counts[layer] = _summed(presentation, mean_over_neurons(spikes, samples[layer], len(arrays.images)), time)
        return spikes

    encode, noise = _encoding_and_noise(presentation, arrays)
    return drive(presentation.snn, spike, arrays.variables, encode(time), **noise), later, counts


def _graph(presentation: Presentation, arrays: _Arrays) -> Graph:
    """The graph of the network."""
    encode, noise = _encoding_and_noise(presentation, arrays)
    x = at_one_step(encode, presentation.times().shape[1])
    return presentation.snn.trace(arrays.variables, x, **noise)[0]


def _first_states(presentation: Presentation, arrays: _Arrays) -> dict[str, State]:
    """The states of all layers before the first step."""
    encode, noise = _encoding_and_noise(presentation, arrays)
    x = at_one_step(encode, presentation.times().shape[1])
    return presentation.snn.initial_state(arrays.variables, x, **noise)


def _encoding_and_noise(presentation: Presentation, arrays: _Arrays) -> tuple[Inputs, dict[str, Any]]:
    """The inputs as a function of time, and the keyword arguments of the network that are its noise."""
    encode = partial(presentation.encode, arrays.images, arrays.keys.encoding, arrays.index)
    return encode, presentation.noise(arrays.index, arrays.keys.noise)


def _cut(leaf: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """[T, B, ...] -> [C, K, B, ...], filled up with zeros."""
    missing = shape[0] * shape[1] - len(leaf)
    return jnp.concatenate([leaf, jnp.zeros((missing, *leaf.shape[1:]), leaf.dtype)]).reshape(*shape, *leaf.shape[1:])
