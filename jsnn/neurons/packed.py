"""LIF neurons whose spike trains are kept as bits, and their gradient from these bits alone.

Where the surrogate's derivative depends on spike times alone, as STDB's does, and the reset carries no gradient, the
gradient of a layer is a linear recursion backwards in time,

    d[t] = leak * d[t+1] + (do/dz[t] / v) * dL/do[t],    dL/dI[t] = d[t],    d[t] = dL/du[t]

in which no membrane appears. One bit per neuron and time step is all that the forward pass has to keep.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jsnn.neurons.neuron import Parameters
from jsnn.neurons.packing import age_at, unpack, word_dtype

ByAge = Callable[[jax.Array, jnp.dtype], jax.Array]


class Train(NamedTuple):
    """The spikes of a layer over a chunk of K time steps."""

    words: jax.Array  # [...] unsigned, bit t is step t of the chunk
    age: jax.Array  # [...] integer, steps from the last spike before the chunk to its first step; 0 where there is none


def record(
    current: jax.Array, membrane: jax.Array, spikes: jax.Array, threshold: jax.Array | float, leak: jax.Array | float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """LIF neurons over currents [K, ...] without a gradient: words, and membrane and spikes of the last step, [...]."""
    dtype = word_dtype(len(current))

    def step(carry: tuple[jax.Array, ...], now: tuple[jax.Array, jax.Array]) -> tuple[tuple[jax.Array, ...], None]:
        (membrane, spikes, words), (current, time) = carry, now
        membrane = leak * membrane + current - threshold * spikes
        fires = membrane / threshold - 1 > 0
        return (membrane, fires.astype(spikes.dtype), words | fires.astype(dtype) << time), None

    start = (membrane, spikes, jnp.zeros_like(membrane, dtype))
    (membrane, spikes, words), _ = jax.lax.scan(step, start, (current, jnp.arange(len(current), dtype=dtype)))
    return words, membrane, spikes


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def replay(
    by_age: ByAge, neuron: Parameters, current: jax.Array, membrane: jax.Array, train: Train
) -> tuple[jax.Array, jax.Array]:
    """The spikes [K, ...] of a recorded chunk, with the gradient that `jsnn.neurons.lif` has.

        d[t] = leak * d[t+1] + (do/dz)[t] / v * dL/do[t],    dL/dI[t] = d[t] = dL/du[t]

    for the spike times give do/dz and the reset carries no gradient (equations 8 to 10 of arXiv:2005.01807).

    Current [K, ...] and membrane [...] are only what the gradient is taken with respect to: their values are not looked
    at, so that whatever computes them is not run. Returned beside the spikes is what stands for the membrane after the
    chunk. Threshold and leak, scalars or broadcastable to [...], get no gradient.
    """
    return unpack(train.words, current.shape[0], current.dtype), membrane


def _replay_forward(
    by_age: ByAge, neuron: Parameters, current: jax.Array, membrane: jax.Array, train: Train
) -> tuple[tuple[jax.Array, jax.Array], tuple[Parameters, Train]]:
    return (unpack(train.words, current.shape[0], current.dtype), membrane), (neuron, train)


def _replay_backward(
    by_age: ByAge, residuals: tuple[Parameters, Train], cotangents: tuple[jax.Array, jax.Array]
) -> tuple[None, jax.Array, jax.Array, None]:
    (neuron, train), (of_spikes, of_end) = residuals, cotangents
    age = train.age.astype(jnp.int32)

    def step(of_later: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        of_spikes, time = now
        slope = by_age(age_at(train.words, age, time), of_spikes.dtype) / neuron["threshold"]
        of_membrane = of_later + slope * of_spikes
        return neuron["leak"] * of_membrane, of_membrane

    time = jnp.arange(of_spikes.shape[0], dtype=jnp.int32)
    of_start, of_current = jax.lax.scan(step, of_end, (of_spikes, time), reverse=True)
    return None, of_current, of_start, None


replay.defvjp(_replay_forward, _replay_backward)
