"""The spike trains of all layers in a presentation: words of bits, and the ages of neurons before them.

A word holds the spikes of one chunk, or of several short chunks, so that its bits are used. The neurons of a sample are
one axis, because a TPU would pad 64 channels to 128.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jsnn.neurons.packing import age_after, age_at, age_dtype, word_dtype

STEPS_PER_BYTE = 8
STEPS_BETWEEN_AGES = 64  # ages are kept this often, and counted on from the spikes in between

Words = dict[str, jax.Array]  # layer -> spikes as bits [W, B, neurons], one word after the other
Shapes = Mapping[str, tuple[int, ...]]  # layer -> shape [B, ...] of its neurons


def no_words(shapes: Shapes, times: jax.Array) -> Words:
    """Words without a spike, for times [C, K]."""
    num_chunks, num_steps = times.shape
    count, dtype = -(-num_chunks // _chunks_of_word(num_steps)), word_dtype(_steps_of_word(num_steps))
    return {name: jnp.zeros((count, batch, math.prod(rest)), dtype) for name, (batch, *rest) in shapes.items()}


def put(words: jax.Array, spikes: jax.Array, chunk: jax.Array, num_steps: int) -> jax.Array:
    """A layer's words with the spikes [B, ...] of another chunk of `num_steps` steps, as bits."""
    number, shift = _place(chunk, num_steps)
    bits = spikes.reshape(words.shape[1:]).astype(words.dtype)
    return words.at[number].set(words[number] | bits << shift.astype(words.dtype))


def ages_between(words: Words, times: jax.Array) -> Words:
    """The ages of all neurons before every stride-th of W words, [ceil(W / stride), B, neurons], for times [C, K]."""
    if not words:
        return {}
    num_steps, dtype = times.shape[1], age_dtype(times.size)
    count, stride = len(jax.tree.leaves(words)[0]), _stride(num_steps)

    def stretch(ages: Words, first: jax.Array) -> tuple[Words, Words]:
        last = _forward(words, ages, first, jnp.minimum(first + stride, count), num_steps)
        return last, ages

    never = jax.tree.map(lambda words: jnp.zeros_like(words[0], dtype), words)
    return jax.lax.scan(stretch, never, jnp.arange(0, count, stride))[1]


def ages_before(words: Words, kept: Words, times: jax.Array, chunk: jax.Array, later: Words) -> Words:
    """The ages of all neurons before the word of a chunk, from those kept by `ages_between`.

    Chunks come in reverse order: `later` are the ages of the chunk after it, which are the same within a word.
    """
    num_steps = times.shape[1]
    (number, _), stride = _place(chunk, num_steps), _stride(num_steps)

    def count() -> Words:
        nearest = jax.tree.map(lambda ages: ages[number // stride], kept)
        return _forward(words, nearest, number // stride * stride, number, num_steps)

    if _chunks_of_word(num_steps) == 1:
        return count()
    is_last_of_word = (chunk + 1) % _chunks_of_word(num_steps) == 0
    return jax.lax.cond(is_last_of_word | (chunk == len(times) - 1), count, lambda: later)


def bits_of(words: jax.Array, chunk: jax.Array, num_steps: int, shape: tuple[int, ...]) -> jax.Array:
    """The bits [B, ...] of one chunk of a layer's words."""
    number, shift = _place(chunk, num_steps)
    word = words[number].reshape(shape)
    return word if _chunks_of_word(num_steps) == 1 else word >> shift.astype(word.dtype) & (1 << num_steps) - 1


def ages_at(words: jax.Array, ages: jax.Array, chunk: jax.Array, num_steps: int, shape: tuple[int, ...]) -> jax.Array:
    """The ages [B, ...] of a layer before a chunk, from those before its word."""
    (number, shift), age = _place(chunk, num_steps), ages.reshape(shape)
    if _chunks_of_word(num_steps) == 1:
        return age
    return age_at(words[number].reshape(shape), age.astype(jnp.int32), shift).astype(age.dtype)


def _forward(words: Words, ages: Words, first: jax.Array, last: jax.Array, num_steps: int) -> Words:
    """From the ages before one word to those before a later one."""

    def advance(number: jax.Array, ages: Words) -> Words:
        def of_layer(age: jax.Array, words: jax.Array) -> jax.Array:
            return age_after(words[number], age.astype(jnp.int32), _steps_of_word(num_steps)).astype(age.dtype)

        return jax.tree.map(of_layer, ages, words)

    return jax.lax.fori_loop(first, last, advance, ages)


def _place(chunk: jax.Array, num_steps: int) -> tuple[jax.Array, jax.Array]:
    """The word that holds a chunk's spikes, and the first of its bits."""
    chunks = _chunks_of_word(num_steps)
    return chunk // chunks, chunk % chunks * num_steps


def _chunks_of_word(num_steps: int) -> int:
    """Chunks of `num_steps` steps that share a word."""
    return max(1, STEPS_PER_BYTE // num_steps)


def _steps_of_word(num_steps: int) -> int:
    """Steps of a word that holds chunks of `num_steps` steps."""
    return num_steps * _chunks_of_word(num_steps)


def _stride(num_steps: int) -> int:
    """Words from one age that is kept to the next."""
    return max(1, STEPS_BETWEEN_AGES // _steps_of_word(num_steps))
