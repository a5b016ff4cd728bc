"""What is kept of all layers in a presentation, and how chunks read it again."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jsnn.network.trains import Shapes, Words, ages_at, bits_of, no_words, put
from jsnn.neurons.neuron import Parameters
from jsnn.neurons.packing import bit_at
from jsnn.neurons.residuals import Kept, Residuals, Train, read


class Bits(NamedTuple):
    """The bits of a presentation by layer, see `jsnn.neurons.residuals.Kept`; none where the residuals have none."""

    spikes: Words
    inside: Words


class Stored(NamedTuple):
    """What is kept of a presentation."""

    bits: Bits
    codes: dict[str, jax.Array]  # layer -> [C, K, B, neurons], neurons of a sample on one axis as in words


class Recorded(NamedTuple):
    """A presentation that was run, as backpropagation looks at it."""

    residuals: Residuals
    stored: Stored
    times: jax.Array  # [C, K]
    neurons: Mapping[str, Parameters]  # layer -> parameters
    membranes: Mapping[str, jax.Array]  # layer -> [B, ...] before the first step


def no_bits(residuals: Residuals, shapes: Shapes, times: jax.Array) -> Bits:
    """Room for the bits of a presentation."""
    words = {} if residuals.code else no_words(shapes, times)
    return Bits(words, words if residuals.inside else {})


def with_bits(bits: Bits, kept: Mapping[str, Kept], chunk: jax.Array, num_steps: int) -> Bits:
    """With those of another chunk."""
    spikes = {layer: put(words, kept[layer].spikes, chunk, num_steps) for layer, words in bits.spikes.items()}
    inside = {layer: put(words, kept[layer].inside, chunk, num_steps) for layer, words in bits.inside.items()}
    return Bits(spikes, inside)


def codes_of(kept: Mapping[str, Kept]) -> dict[str, jax.Array]:
    """Layer -> the codes of a chunk [K, B, neurons], where there are some."""
    coded = {layer: one.codes for layer, one in kept.items() if one.codes is not None}
    return {layer: codes.reshape(*codes.shape[:2], -1) for layer, codes in coded.items()}


def trains_at(recorded: Recorded, chunk: jax.Array, ages: Words) -> dict[str, Train]:
    """The trains of all layers over one chunk, from the ages before its word where the residuals ask for them."""
    residuals, stored, times, neurons, membranes = recorded
    num_steps = times.shape[1]
    earlier = jnp.maximum(chunk - 1, 0)

    def of_codes(layer: str, start: jax.Array) -> Train:
        coded, shape = stored.codes[layer], start.shape
        membrane, spikes = read(residuals, neurons[layer], coded[earlier, -1].reshape(shape), start.dtype)
        kept = Kept(codes=coded[chunk].reshape(num_steps, *shape))
        return Train(kept, jnp.where(chunk > 0, spikes, 0), jnp.where(chunk > 0, membrane, start))

    def of_bits(layer: str, start: jax.Array) -> Train:
        words, shape = stored.bits.spikes[layer], start.shape
        inside = bits_of(stored.bits.inside[layer], chunk, num_steps, shape) if residuals.inside else None
        age = ages_at(words, ages[layer], chunk, num_steps, shape) if residuals.by_age else None
        last = bit_at(bits_of(words, earlier, num_steps, shape), num_steps - 1)
        kept = Kept(bits_of(words, chunk, num_steps, shape), inside)
        return Train(kept, jnp.where(chunk > 0, last, 0), age=age)

    of_layer = of_codes if residuals.code else of_bits
    return {layer: of_layer(layer, start) for layer, start in membranes.items()}
