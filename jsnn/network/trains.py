"""The spike trains of all layers in a presentation: words of each chunk, and the ages of neurons before them."""

import jax
import jax.numpy as jnp

from jsnn.neurons.packed import Train
from jsnn.neurons.packing import age_after, age_dtype

STEPS_BETWEEN_AGES = 64  # ages are kept this often, and counted on from the spikes in between

Words = dict[str, jax.Array]  # layer -> spikes as bits [C, B, ...]


def ages_between(words: Words, times: jax.Array) -> Words:
    """The ages of all neurons before every stride-th of C chunks, [ceil(C / stride), B, ...], for times [C, K]."""
    num_chunks, num_steps = times.shape
    stride = _stride(num_steps)
    dtype = age_dtype(times.size)

    def of_layer(words: jax.Array) -> jax.Array:
        def stretch(age: jax.Array, first: jax.Array) -> tuple[jax.Array, jax.Array]:
            last = _forward(
                words, Train(words[first], age), first, jnp.minimum(first + stride, num_chunks) - 1, num_steps
            )
            return age_after(*last, num_steps), age.astype(dtype)

        never = jnp.zeros_like(words[0], dtype=jnp.int32)
        return jax.lax.scan(stretch, never, jnp.arange(0, num_chunks, stride))[1]

    return jax.tree.map(of_layer, words)


def trains_of(words: Words, ages: Words, times: jax.Array, chunk: jax.Array) -> dict[str, Train]:
    """The spike trains of all layers over one chunk of times [C, K], from the ages of `ages_between`."""
    num_steps = times.shape[1]
    kept, first = chunk // _stride(num_steps), chunk // _stride(num_steps) * _stride(num_steps)

    def of_layer(words: jax.Array, ages: jax.Array) -> Train:
        return _forward(words, Train(words[first], ages[kept].astype(jnp.int32)), first, chunk, num_steps)

    return jax.tree.map(of_layer, words, ages)


def _forward(words: jax.Array, train: Train, first: jax.Array, last: jax.Array, num_steps: int) -> Train:
    """From the train of one chunk to that of a later one."""

    def advance(chunk: jax.Array, train: Train) -> Train:
        return Train(words[chunk + 1], age_after(*train, num_steps))

    return jax.lax.fori_loop(first, last, advance, train)


def _stride(num_steps: int) -> int:
    """Chunks of `num_steps` steps from one age that is kept to the next."""
    return max(1, STEPS_BETWEEN_AGES // num_steps)
