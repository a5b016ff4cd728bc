"""What a spiking neuron is: parameters, an initial state and one time step, as pure functions.

Time is the first axis, [T, ...]; the other axes are independent neurons. A step takes a state and returns the next one,
so time can be cut into chunks.

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
import numpy as np

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
        step: (parameters, state, current [...]) -> (spikes [...] of 0 and 1, the next state). A state that was NaN or
            infinite stays so; then the network's results say of a sample that its numbers are not finite.
        record: (parameters, state, current [K, ...]) -> (spikes as words [...], the next state), where there is a
            faster way than `step`; without a gradient.
        compact: state -> the state as it may be kept between chunks, in fewer bytes where a part carries no gradient.
        lossless: what is kept of the neurons where that gives their gradient exactly, see `jsnn.neurons.residuals`.
        in_bytes: () -> what is kept of them where a byte a step gives it to rounding, None where it does not.
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


def check_neuron(neuron: Any) -> None:
    """Refuse what is no neuron, by what it says of itself and by trying it on a few currents.

    Those of this library are known. One that can't run with its parameters as it gives them, as a recurrent one that
    needs a matrix, is not tried: `check_step` is told the parameters that it runs with.
    """
    if not isinstance(neuron, Neuron):
        raise ValueError(f"neuron must be a jsnn.Neuron, as jsnn.lif() gives one, got {neuron!r}.")
    parameters = neuron.parameters()
    if "threshold" not in parameters:
        raise ValueError(f'a neuron has a "threshold", which a spike stands for, this one has {", ".join(parameters)}.')
    if _is_ours(neuron):
        return
    with jax.ensure_compile_time_eval():
        parameters = {name: jnp.asarray(value, jnp.float32) for name, value in parameters.items()}
        currents = jnp.broadcast_to(parameters["threshold"] * jnp.linspace(-4, 4, 33), (6, 33))
        try:
            check_step(neuron, "", parameters, currents[0])
        except ValueError as error:
            if error.__cause__ is None:
                raise
            return
        spikes = jax.jit(lambda: over_time(neuron, parameters, neuron.init(parameters, currents[0]), currents)[0])()
        others = np.setdiff1d(spikes, [0, 1])
    if len(others):
        raise ValueError(f"a neuron emits 0 or 1 at each step, for that is kept as a bit, this one {others[0]:g}.")


def check_step(neuron: Neuron, layer: str, parameters: Parameters, like: Any) -> None:
    """Refuse a neuron that can't make a step of a layer with these parameters, or gives other shapes than it takes.

    Its current is like an array [...] or jax.ShapeDtypeStruct.
    """
    if _is_ours(neuron):
        return

    def step(parameters: Parameters, current: jax.Array) -> tuple[State, tuple[jax.Array, State]]:
        state = neuron.init(parameters, current)
        return state, neuron.step(parameters, state, current)

    where = f" of {layer}" if layer else ""
    try:
        state, (spikes, later) = jax.eval_shape(step, dict(parameters), like)
    except Exception as error:
        shapes = ", ".join(f"{name} {jnp.shape(value)}" for name, value in parameters.items())
        raise ValueError(
            f"the neurons{where} can't make a step with parameters of the shapes {shapes}: snn.init makes a number of "
            f"each, so put arrays where they need some. It ended in {type(error).__name__}: {error}"
        ) from error
    if spikes.shape != like.shape:
        raise ValueError(f"the neurons{where} give spikes of shape {spikes.shape} for a current of {like.shape}.")
    if jax.tree.map(jnp.shape, later) != jax.tree.map(jnp.shape, state):
        raise ValueError(f"the neurons{where} give another state than they take: as `init` makes it, so `step` does.")


def _is_ours(neuron: Neuron) -> bool:
    """Whether a neuron is one of this library, which are tested."""
    # A function that `exec` made, as a doctest does, has None for a module.
    return str(getattr(neuron.step, "__module__", None)).startswith("jsnn.")


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
