"""Random numbers that belong to a sample, not to its place in a batch.

Every draw is a function of (seed, train step, index of the sample in the data set) and, for inputs, of the time step.
Splitting a batch over devices, cutting time into chunks or resuming a run therefore leaves all noise as it was.
"""

import jax
import jax.numpy as jnp


def sample_keys(key: jax.Array, index: jax.Array) -> jax.Array:
    """One random key for each sample: fold_in(key, index).

    Args:
        key: a key that stands for (seed, train step).
        index: [B] int32, the samples' indices in the data set.

    Returns:
        [B] keys.
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)


def step_keys(keys: jax.Array, time: jax.Array) -> jax.Array:
    """One random key for each time step and sample: fold_in(keys[b], time[k]).

    Args:
        keys: [B] keys of the samples.
        time: [K] int32, time steps.

    Returns:
        [K, B] keys.
    """
    per_sample = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    return jax.vmap(per_sample, in_axes=(None, 0))(keys, time)


def dropout_mask(key: jax.Array, index: jax.Array, shape: tuple[int, ...], rate: float, dtype: jnp.dtype) -> jax.Array:
    """An inverted-dropout mask for each sample: 1 / (1 - rate) with probability 1 - rate, else 0.

    Args:
        key: a key that stands for (seed, train step, layer).
        index: [B] int32, the samples' indices in the data set.
        shape: the shape of one sample.
        rate: the share of units dropped, in [0, 1).
        dtype: of the mask.

    Returns:
        [B, *shape], to be held for all time steps.
    """
    draw = jax.vmap(lambda sample_key: jax.random.uniform(sample_key, shape, jnp.float32) >= rate)
    return draw(sample_keys(key, index)).astype(dtype) / (1 - rate)
