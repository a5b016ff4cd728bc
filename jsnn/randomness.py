"""Random numbers that belong to a sample, not to its place in a batch.

Every draw is a function of (seed, train step, index of the sample in the data set) and, for inputs, of the time step.
So the noise stays the same when a batch is split over devices, time is cut into chunks, or a run is resumed.
"""

import jax
import jax.numpy as jnp


def sample_keys(key: jax.Array, index: jax.Array) -> jax.Array:
    """One random key for each sample: fold_in(key, index[b]) for indices [B] int32 in the data set gives [B] keys."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)


def step_keys(keys: jax.Array, time: jax.Array) -> jax.Array:
    """One random key for each time step and sample: fold_in(keys[b], time[k]) for keys [B], times [K] gives [K, B]."""
    per_sample = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    return jax.vmap(per_sample, in_axes=(None, 0))(keys, time)


def dropout_mask(key: jax.Array, index: jax.Array, shape: tuple[int, ...], rate: float, dtype: jnp.dtype) -> jax.Array:
    """Inverted dropout [B, *shape] for samples of indices [B]: 1 / (1 - rate) with probability 1 - rate, else 0."""
    draw = jax.vmap(lambda sample_key: jax.random.uniform(sample_key, shape, jnp.float32) >= rate)
    return draw(sample_keys(key, index)).astype(dtype) / (1 - rate)
