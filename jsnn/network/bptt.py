"""Backpropagation through time from spike trains alone, in chunks of time steps.

Forward, the network runs chunk by chunk and keeps the spikes of its neurons as bits. Backward, the chunks come in
reverse order: each layer's spikes are unpacked, pooled and masked again, the inputs drawn again, and no neuron and no
product of the forward pass is computed twice.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values

from jsnn.network.chunks import check_steps
from jsnn.network.simulation import Presentation, compacted, initial_carry
from jsnn.network.trains import Words, ages_before, ages_between, no_words, put, trains_of
from jsnn.network.transformation import NEURONS, Variables, drive
from jsnn.neurons.neuron import record
from jsnn.neurons.packed import Train
from jsnn.neurons.packing import unpack


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
        spikes: layer -> [B] spikes per neuron in the presentation.
    """

    results: Any
    spikes: dict[str, jax.Array]


class _Given(NamedTuple):
    """All arrays of a presentation."""

    variables: Variables
    images: jax.Array
    index: jax.Array
    keys: Keys


def present(what: Presentation, variables: Variables, images: jax.Array, index: jax.Array, keys: Keys) -> Outcome:
    """What an SNN gives in training for images [B, ...], differentiable in its weights and in the images.

    Their index [B] int32 in the data set is what their noise belongs to. The parameters of its neurons get no gradient.
    ValueError where a number of steps is below 1, the neurons need membranes for their gradient, or a gradient in their
    parameters or a second derivative is asked for.
    """
    check_steps(what.num_steps, what.chunk)
    if what.snn.neuron.replay is None:
        raise ValueError(
            "spike trains alone do not give the gradient of these neurons: differentiate jsnn.simulate, or take "
            "lif(stdb()) with the spike of its reset detached."
        )
    return _present(what, _Given(dict(variables), images, index, keys))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _present(what: Presentation, given: _Given) -> Outcome:
    return _run(what, given)[0]


def _run(what: Presentation, given: _Given) -> tuple[Outcome, Words]:
    """What the network gives, and the spikes of all layers."""
    noise = what.noise(given.index, given.keys.noise)
    encode = partial(what.encode, given.images, given.keys.encoding, given.index)
    state = compacted(what.snn, initial_carry(what.snn, given.variables, encode, **noise).neurons)
    neurons, times = given.variables[NEURONS], what.times()

    def run(carry: tuple[Any, Words], now: tuple[jax.Array, jax.Array]) -> tuple[tuple[Any, Words], tuple]:
        (state, words), (chunk, time) = carry, now
        later, longer, counts = {}, {}, {}

        def spike(layer: str, current: jax.Array) -> jax.Array:
            word, later[layer] = record(what.snn.neuron, neurons[layer], state[layer], current)
            longer[layer] = put(words[layer], word, chunk, len(current))
            spikes = unpack(word, len(current), current.dtype)
            counts[layer] = _per_neuron(what, spikes, time)
            return spikes

        results = drive(what.snn, spike, given.variables, encode(time), **noise)
        return (later, longer), (results, counts)

    silence = no_words({layer: neurons.membrane.shape for layer, neurons in state.items()}, times)
    (_, words), (results, counts) = jax.lax.scan(run, (state, silence), (jnp.arange(len(times)), times))
    return Outcome(_joined(results, what.num_steps), jax.tree.map(lambda count: count.sum(0), counts)), words


def _per_neuron(what: Presentation, spikes: jax.Array, time: jax.Array) -> jax.Array:
    """Spikes per neuron [B] in a chunk, those of padding steps left out."""
    return jnp.where((time < what.num_steps)[:, None], spikes.mean(axis=tuple(range(2, spikes.ndim))), 0).sum(0)


def _joined(results: Any, num_steps: int) -> Any:
    """[C, K, B, ...] -> [T, B, ...]."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:num_steps], results)


def _present_forward(what: Presentation, given: Any) -> tuple[Outcome, tuple]:
    if any(leaf.perturbed for leaf in jax.tree.leaves(given.variables.get(NEURONS))):
        raise ValueError(
            "spike trains alone do not give the gradient in the parameters of neurons: take it in the weights only, or "
            "differentiate jsnn.simulate, which keeps membranes."
        )
    differentiated = [leaf.value if leaf.perturbed else None for leaf in jax.tree.leaves(given)]
    given = custom_vjp_primal_tree_values(given)
    outcome, words = _run(what, given)
    return outcome, (given, differentiated, words)


def _present_backward(what: Presentation, residuals: tuple, of_outcome: Outcome) -> tuple[Any]:
    def is_zero(leaf: Any) -> bool:
        return isinstance(leaf, SymbolicZero)

    def dense(leaf: Any) -> jax.Array:
        return jnp.zeros(leaf.shape, leaf.dtype) if is_zero(leaf) else leaf

    of_results = jax.tree.map(dense, of_outcome.results, is_leaf=is_zero)
    of_spikes = {layer: None if is_zero(leaf) else leaf for layer, leaf in of_outcome.spikes.items()}
    given, differentiated, words = residuals
    found = iter(_first_derivative(what, given, differentiated, words, of_results, of_spikes))
    structure = jax.tree.structure(given)
    return (jax.tree.unflatten(structure, [None if leaf is None else next(found) for leaf in differentiated]),)


_present.defvjp(_present_forward, _present_backward, symbolic_zeros=True)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _first_derivative(
    what: Presentation, given: _Given, differentiated: list[Any], words: Words, of_results: Any, of_spikes: Any
) -> list[jax.Array]:
    """The gradient in the leaves of `given` that are differentiated."""
    leaves, structure = jax.tree.flatten(given)
    chosen = [leaf for leaf in differentiated if leaf is not None]
    times = what.times()
    kept = ages_between(words, times)

    def filled(chosen: list[jax.Array]) -> _Given:
        values = iter(chosen)
        together = zip(leaves, differentiated, strict=True)
        return jax.tree.unflatten(structure, [old if leaf is None else next(values) for old, leaf in together])

    def run(chosen: list[jax.Array], membranes: dict[str, jax.Array], chunk: jax.Array, ages: Words) -> tuple:
        trains = trains_of(words, ages, times, chunk, {layer: leaf.shape for layer, leaf in membranes.items()})
        results, later, counts = _replay_chunk(what, filled(chosen), trains, membranes, times[chunk])
        return results, later, {layer: count for layer, count in counts.items() if of_spikes[layer] is not None}

    def step(carry: tuple, now: tuple[jax.Array, Any]) -> tuple[tuple, None]:
        (total, of_membranes, ages), (chunk, of_results) = carry, now
        ages = ages_before(words, kept, times, chunk, ages)
        unused = jax.tree.map(jnp.zeros_like, of_membranes)  # the values of membranes, which nothing looks at
        _, backward = jax.vjp(partial(run, chunk=chunk, ages=ages), chosen, unused)
        of_counts = {layer: cotangent for layer, cotangent in of_spikes.items() if cotangent is not None}
        found, of_membranes = backward((of_results, of_membranes, of_counts))
        return (jax.tree.map(jnp.add, total, found), of_membranes, ages), None

    nobody = jax.tree.map(lambda ages: ages[0], kept)
    start = jax.tree.map(jnp.zeros_like, chosen), _no_membranes(what, given), nobody
    chunks = jax.tree.map(lambda leaf: _cut(leaf, times.shape), of_results)
    (total, *_), _ = jax.lax.scan(step, start, (jnp.arange(len(times)), chunks), reverse=True)
    return total


@_first_derivative.defjvp
def _second_derivative(what: Presentation, primals: tuple, tangents: tuple) -> tuple:
    del what, primals, tangents
    raise ValueError(
        "spike trains as bits have no second derivative: differentiate jsnn.simulate, which keeps membranes, with a "
        "surrogate of jsnn.surrogate.forward_mode for Hessian-vector products."
    )


def _replay_chunk(
    what: Presentation, given: _Given, trains: dict[str, Train], membranes: dict[str, jax.Array], time: jax.Array
) -> tuple[Any, dict[str, jax.Array], dict[str, jax.Array]]:
    """Results, what stands for the membranes behind the chunk, and spikes per neuron."""
    later, counts = {}, {}

    def spike(layer: str, current: jax.Array) -> jax.Array:
        parameters = given.variables[NEURONS][layer]
        spikes, later[layer] = what.snn.neuron.replay(parameters, current, membranes[layer], trains[layer])
        counts[layer] = _per_neuron(what, spikes, time)
        return spikes

    inputs = what.encode(given.images, given.keys.encoding, given.index, time)
    return drive(what.snn, spike, given.variables, inputs, **what.noise(given.index, given.keys.noise)), later, counts


def _no_membranes(what: Presentation, given: _Given) -> dict[str, jax.Array]:
    """Zeros of the shapes of all membranes."""
    encode = partial(what.encode, given.images, given.keys.encoding, given.index)
    carry = initial_carry(what.snn, given.variables, encode, **what.noise(given.index, given.keys.noise))
    return {layer: jnp.zeros_like(state.membrane) for layer, state in carry.neurons.items()}


def _cut(leaf: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """[T, B, ...] -> [C, K, B, ...], filled up with zeros."""
    missing = shape[0] * shape[1] - len(leaf)
    return jnp.concatenate([leaf, jnp.zeros((missing, *leaf.shape[1:]), leaf.dtype)]).reshape(*shape, *leaf.shape[1:])
