"""What is kept of all layers in a presentation, and its way back to chunks."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jsnn.network.trains import Shapes, Words, ages_at, bits_of, no_words, put
from jsnn.neurons import codes
from jsnn.neurons.neuron import Parameters
from jsnn.neurons.packing import bit_at
from jsnn.neurons.residuals import Kept, Residuals, Train


class Stored(NamedTuple):
    """What is kept of a presentation by layer, see `jsnn.neurons.residuals.Kept`; of no layer what nobody asks for."""

    spikes: Words
    inside: Words
    codes: dict[str, jax.Array]  # [C, K, B, neurons], neurons of a sample on one axis as in words


class Recorded(NamedTuple):
    """A presentation that was run, as backpropagation looks at it."""

    residuals: Residuals
    stored: Stored
    times: jax.Array  # [C, K]
    neurons: Mapping[str, Parameters]  # layer -> parameters
    membranes: Mapping[str, jax.Array]  # layer -> [B, ...] before the first step


def nothing_stored(residuals: Residuals, shapes: Shapes, times: jax.Array) -> Stored:
    """Room for the bits of a presentation. Codes are stacked chunk by chunk, and so need none."""
    words = no_words(shapes, times)
    return Stored({} if residuals.width else words, words if residuals.inside else {}, {})


def store(stored: Stored, kept: Mapping[str, Kept], chunk: jax.Array, num_steps: int) -> Stored:
    """With the bits of another chunk, and its codes [K, B, neurons] alone."""
    spikes = {layer: put(words, kept[layer].spikes, chunk, num_steps) for layer, words in stored.spikes.items()}
    inside = {layer: put(words, kept[layer].inside, chunk, num_steps) for layer, words in stored.inside.items()}
    coded = {layer: one.codes for layer, one in kept.items() if one.codes is not None}
    return Stored(spikes, inside, {layer: code.reshape(*code.shape[:2], -1) for layer, code in coded.items()})


def trains_at(recorded: Recorded, chunk: jax.Array, ages: Words) -> dict[str, Train]:
    """The trains of all layers over one chunk, from the ages before its word where the residuals ask for them."""
    residuals, stored, times, neurons, membranes = recorded
    num_steps = times.shape[1]
    earlier = jnp.maximum(chunk - 1, 0)

    def of_codes(layer: str, start: jax.Array) -> Train:
        coded, shape = stored.codes[layer], start.shape
        last = coded[earlier, -1].reshape(shape)
        z = codes.decode(last, residuals.width, start.dtype)
        membrane = jnp.where(chunk > 0, (neurons[layer]["threshold"] * (1 + z)).astype(start.dtype), start)
        spikes = codes.fires(last) & (chunk > 0)
        return Train(Kept(codes=coded[chunk].reshape(num_steps, *shape)), spikes, membrane)

    def of_bits(layer: str, start: jax.Array) -> Train:
        words, shape = stored.spikes[layer], start.shape
        inside = bits_of(stored.inside[layer], chunk, num_steps, shape) if residuals.inside else None
        age = ages_at(words, ages[layer], chunk, num_steps, shape) if residuals.by_age else None
        last = bit_at(bits_of(words, earlier, num_steps, shape), num_steps - 1)
        return Train(Kept(bits_of(words, chunk, num_steps, shape), inside), (last > 0) & (chunk > 0), None, age)

    of_layer = of_codes if residuals.width else of_bits
    return {layer: of_layer(layer, start) for layer, start in membranes.items()}
