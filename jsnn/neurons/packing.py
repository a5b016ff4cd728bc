"""Spike trains as bits: up to 32 time steps of a neuron in one unsigned integer, bit t for step t.

An `age` is the number of steps since the last spike, 1 right after it, and 0 if there was none.
"""

import jax
import jax.numpy as jnp

STEPS_PER_WORD = 32  # at most


def word_dtype(num_steps: int) -> jnp.dtype:
    """The smallest unsigned integer that holds `num_steps` bits, 1 to 32."""
    return jnp.dtype(jnp.uint8 if num_steps <= 8 else jnp.uint16 if num_steps <= 16 else jnp.uint32)


def age_dtype(num_steps: int) -> jnp.dtype:
    """The smallest integer that holds every age within `num_steps` steps."""
    return jnp.dtype(jnp.uint8 if num_steps < 2**8 else jnp.uint16 if num_steps < 2**16 else jnp.int32)


def unpack(words: jax.Array, num_steps: int, dtype: jnp.dtype) -> jax.Array:
    """The spikes [K, ...] of the first `num_steps` bits of words [...], as 0 and 1."""
    time = jnp.arange(num_steps, dtype=words.dtype).reshape(num_steps, *[1] * words.ndim)
    return (words >> time & 1).astype(dtype)


def bit_at(words: jax.Array, time: jax.Array | int) -> jax.Array:
    """The bit [...] of step `time` of words [...], 0 or 1."""
    return words >> jnp.asarray(time, words.dtype) & 1


def age_at(words: jax.Array, age: jax.Array, time: jax.Array | int) -> jax.Array:
    """The age [...] int32 at step `time`, in [0, 32), from words [...] and the age at step 0."""
    earlier = (jnp.uint32(1) << jnp.asarray(time, jnp.uint32)) - 1
    return _age(words.astype(jnp.uint32) & earlier, age, time)


def age_after(words: jax.Array, age: jax.Array, num_steps: int) -> jax.Array:
    """The age [...] int32 at the step after the last of `num_steps`, from words [...] and the age at step 0."""
    return _age(words.astype(jnp.uint32), age, num_steps)


def _age(earlier: jax.Array, age: jax.Array, time: jax.Array | int) -> jax.Array:
    """The age at step `time` where `earlier` holds the spikes before it."""
    last = 31 - jax.lax.clz(earlier).astype(jnp.int32)
    return jnp.where(earlier > 0, time - last, jnp.where(age > 0, age + time, 0))
