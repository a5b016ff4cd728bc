"""What a spiking neuron is: parameters, an initial state and one time step, as pure functions.

Time is the first axis, [T, ...]; whatever follows it are independent neurons. A state goes in and comes out, so that
time can be cut into chunks.

A neuron of your own is three functions:

    class State(NamedTuple):
        membrane: jax.Array
        spikes: jax.Array

    def init(neuron, current):
        return State(jnp.zeros_like(current), jnp.zeros_like(current))

    def step(neuron, state, current):
        membrane = neuron["leak"] * state.membrane * (1 - state.spikes) + current
        spikes = surrogate.linear().spike(membrane / neuron["threshold"] - 1, None)
        return spikes, State(membrane, spikes)

    mine = Neuron(lambda: {"threshold": 1.0, "leak": 0.9}, init, step)
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsnn.neurons.packing import STEPS_PER_WORD, word_dtype

State = Any  # a NamedTuple of arrays [...], one number for each neuron
Parameters = Mapping[str, Any]  # name -> a scalar, or an array broadcastable to [...], as [C] for one by channel


class Range(NamedTuple):
    """Where the values of a parameter of neurons may lie.

    Attributes:
        name: of the parameter.
        text: as a sentence says it, "in (0, 1]".
        holds: value -> whether it lies there, elementwise.
        advice: what a value of it means.
    """

    name: str
    text: str
    holds: Callable[[Any], Any]
    advice: str


LEAK = Range("leak", "in (0, 1]", lambda leak: (leak > 0) & (leak <= 1), "1 keeps the membrane as it is (IF)")


class Neuron(NamedTuple):
    """A spiking neuron.

    Attributes:
        parameters: () -> their names and values before anything is known of them; "threshold" is one, for that is what
            a spike stands for: what comes behind the neuron gets threshold * spike.
        init: (parameters, current [...]) -> the state before the first step; the current gives shape and dtype alone.
        step: (parameters, state, current [...]) -> (spikes [...] of 0 and 1, the next state).
        record: (parameters, state, current [K, ...]) -> (spikes as words [...], the next state), where there is a
            faster way than `step`; without a gradient.
        compact: state -> the state as it may be kept between chunks, in fewer bytes where a part carries no gradient.
        lossless: what is kept of the neurons where that gives their gradient exactly, see `jsnn.neurons.residuals`.
        in_bytes: () -> what is kept of them where a byte a step gives it to rounding.
        ranges: of parameters beside the threshold, as far as the neuron has them; `jsnn.convert` checks them.
    """

    parameters: Callable[[], dict[str, float]]
    init: Callable[[Parameters, jax.Array], State]
    step: Callable[[Parameters, State, jax.Array], tuple[jax.Array, State]]
    record: Callable[..., tuple[jax.Array, State]] | None = None
    compact: Callable[[State], State] | None = None
    lossless: Any = None
    in_bytes: Callable[[], Any] | None = None
    ranges: tuple[Range, ...] = (LEAK,)


def over_time(
    neuron: Neuron, parameters: Parameters, state: State, current: jax.Array, unroll: bool = False
) -> tuple[jax.Array, State, State]:
    """Neurons over time: `step` scanned over the first axis.

    Args:
        neuron: which.
        parameters: its parameters.
        state: of [...] neurons.
        current: [T, ...] the input current.
        unroll: whether steps are written out one after the other, so that nothing is put into arrays over time and read
            from them step by step; for few steps, as compiling takes longer and memory is that of all of them.

    Returns:
        (spikes [T, ...], the state after the last step, the states after each step with leaves [T, ...]).

    Raises:
        ValueError: where the state does not fit the current, or the current is no floating-point number.
    """
    check_fits(state, current)

    def step(state: State, current: jax.Array) -> tuple[State, tuple[jax.Array, State]]:
        spikes, state = neuron.step(parameters, state, current)
        return state, (spikes, state)

    state, (spikes, states) = jax.lax.scan(step, state, current, unroll=unroll)
    return spikes, state, states


def record(neuron: Neuron, parameters: Parameters, state: State, current: jax.Array) -> tuple[jax.Array, State]:
    """Neurons over a chunk of time without a gradient, their spikes as bits.

    Currents [K, ...] and a state of [...] neurons give words [...], bit t for step t, and the next state. ValueError
    where K is above 32 or the state does not fit the current.
    """
    check_fits(state, current)
    num_steps = len(current)
    if num_steps > STEPS_PER_WORD:
        raise ValueError(
            f"a word holds {STEPS_PER_WORD} time steps of spikes, got {num_steps}: choose a smaller chunk."
        )
    if neuron.record is not None:
        return neuron.record(parameters, state, current)
    dtype = word_dtype(num_steps)

    def step(carry: tuple[State, jax.Array], now: tuple[jax.Array, jax.Array]) -> tuple[tuple, None]:
        (state, words), (current, time) = carry, now
        spikes, state = neuron.step(parameters, state, current)
        return (state, words | (spikes > 0).astype(dtype) << time), None

    start = state, jnp.zeros_like(current[0], dtype)
    (state, words), _ = jax.lax.scan(step, start, (current, jnp.arange(num_steps, dtype=dtype)))
    return words, state


def check_fits(state: State, current: jax.Array) -> None:
    """Refuse a current [T, ...] that is no floating-point number, or a state whose leaves are not [...]."""
    if not jnp.issubdtype(current.dtype, jnp.floating):
        raise ValueError(f"an input current is a floating-point number, got {current.dtype}.")
    for leaf in jax.tree.leaves(state):
        if leaf.shape != current.shape[1:]:
            raise ValueError(
                f"a state of shape {leaf.shape} does not fit a current of shape {current.shape}: "
                "pass time-major currents [T, ...] and a state of [...]."
            )
