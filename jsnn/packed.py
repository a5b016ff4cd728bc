"""LIF neurons whose spike trains are kept as bits, and their gradient from these bits alone.

Where the surrogate's derivative depends on spike times alone, as STDB's does, and the reset carries no gradient, the
gradient of a layer is a linear recursion backwards in time,

    d[t] = leak * d[t+1] + (do/dz[t] / v) * dL/do[t],    dL/dI[t] = d[t],    d[t] = dL/du[t]

in which no membrane appears. One bit per neuron and time step is all that the forward pass has to keep.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jsnn.neuron import LIFState
from jsnn.packing import MOST_STEPS, age_after, age_at, unpack, word_dtype
from jsnn.surrogate import Surrogate


class Train(NamedTuple):
    """The spikes of a layer over a chunk of K time steps.

    Attributes:
        words: [...] unsigned, bit t is step t of the chunk.
        age: [...] integer, steps from the last spike before the chunk to its first step; 0 where there is none.
    """

    words: jax.Array
    age: jax.Array


def record(
    current: jax.Array, state: LIFState, threshold: jax.Array | float, leak: jax.Array | float
) -> tuple[jax.Array, LIFState]:
    """LIF neurons over a chunk of time, `jsnn.neuron.lif` without a gradient: spikes as bits.

    Args:
        current: [K, ...] the input current, K at most 32.
        state: LIFState [...].
        threshold: v > 0, a scalar or broadcastable to [...].
        leak: in (0, 1] per step, a scalar or broadcastable to [...].

    Returns:
        (words [...] unsigned, the LIFState after the last step).

    Raises:
        ValueError: where there are more than 32 steps.
    """
    num_steps = current.shape[0]
    if num_steps > MOST_STEPS:
        raise ValueError(f"a word holds {MOST_STEPS} time steps of spikes, got {num_steps}: choose a smaller chunk.")
    dtype = word_dtype(num_steps)

    def step(carry: tuple[jax.Array, jax.Array, jax.Array], now: tuple[jax.Array, jax.Array]) -> tuple:
        membrane, spikes, words = carry
        current, time = now
        membrane = leak * membrane + current - threshold * spikes
        fires = membrane / threshold - 1 > 0
        return (membrane, fires.astype(current.dtype), words | fires.astype(dtype) << time), None

    start = (state.membrane, (state.age == 1).astype(current.dtype), jnp.zeros_like(state.age, dtype=dtype))
    (membrane, _, words), _ = jax.lax.scan(step, start, (current, jnp.arange(num_steps, dtype=dtype)))
    return words, LIFState(membrane, age_after(words, state.age, num_steps))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def replay(
    surrogate: Surrogate,
    current: jax.Array,
    membrane: jax.Array,
    train: Train,
    threshold: jax.Array | float,
    leak: jax.Array | float,
) -> tuple[jax.Array, jax.Array]:
    """The spikes of a recorded chunk, with the gradient that `jsnn.neuron.lif` has.

        d[t] = leak * d[t+1] + (do/dz)[t] / v * dL/do[t],    dL/dI[t] = d[t] = dL/du[t]

    for the spike times give do/dz and the reset carries no gradient (equations 8 to 10 of arXiv:2005.01807).

    Neither the current nor the membrane is looked at, so that whatever computes them is not run; they are what the
    gradient is taken with respect to.

    Args:
        surrogate: one whose derivative depends on spike times alone.
        current: [K, ...] stands for the input current.
        membrane: [...] stands for the membrane before the chunk.
        train: the chunk's spikes.
        threshold: v > 0, a scalar or broadcastable to [...]; gets no gradient.
        leak: in (0, 1] per step, a scalar or broadcastable to [...]; gets no gradient.

    Returns:
        (spikes [K, ...], [...] that stands for the membrane after the chunk).
    """
    return unpack(train.words, current.shape[0], current.dtype), membrane


def _replay_forward(
    surrogate: Surrogate, current: jax.Array, membrane: jax.Array, train: Train, threshold: jax.Array, leak: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], tuple[Train, jax.Array, jax.Array]]:
    return replay(surrogate, current, membrane, train, threshold, leak), (train, threshold, leak)


def _replay_backward(
    surrogate: Surrogate,
    residuals: tuple[Train, jax.Array, jax.Array],
    cotangents: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array, None, None, None]:
    train, threshold, leak = residuals
    of_spikes, of_end = cotangents
    age = train.age.astype(jnp.int32)

    def step(of_later: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        of_spikes, time = now
        slope = surrogate.by_age(age_at(train.words, age, time), of_spikes.dtype) / threshold
        of_membrane = of_later + slope * of_spikes
        return leak * of_membrane, of_membrane

    time = jnp.arange(of_spikes.shape[0], dtype=jnp.int32)
    of_start, of_current = jax.lax.scan(step, of_end, (of_spikes, time), reverse=True)
    return of_current, of_start, None, None, None


replay.defvjp(_replay_forward, _replay_backward)
