"""Running an SNN over time, a chunk of time steps after the other.

Within a chunk the network runs layer by layer over all of its steps, [K, B, ...] at a time; between chunks only the
neurons' states are carried. Forward, memory is bounded by the chunk, whatever the number of steps; backward, the states
at the chunks' borders are kept and each chunk is run again (`jsnn.bptt` has STDB's gradient for less). The result does
not depend on the chunk.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jsnn.encoding import Encoding
from jsnn.packing import MOST_STEPS, unpack

FITTING_CHUNKS, BEARABLE_SILENCE = range(8, 13), 0.03

Variables = Mapping[str, Any]
Inputs = Callable[[jax.Array], jax.Array]
Observer = Callable[[jax.Array, Variables], Any]


class Presentation(NamedTuple):
    """How a network is shown images, besides arrays, where its spikes are kept as bits.

    Attributes:
        model: an SNN without bias.
        encode: the encoding of the images.
        num_steps: T, at least 1.
        chunk: time steps per chunk, at least 1; more than 32 count as 32. Does not change the result.
    """

    model: nn.Module
    encode: Encoding
    num_steps: int
    chunk: int

    def times(self) -> jax.Array:
        """The time steps [C, K] of all chunks."""
        return time_chunks(self.num_steps, min(self.chunk, MOST_STEPS))

    def inputs(self, images: jax.Array, key: jax.Array, index: jax.Array, time: jax.Array) -> jax.Array:
        """The network's inputs [K, B, ...] at times [K]."""
        return from_silence(lambda time: self.encode(images, key, index, time), time)


def simulate(
    model: nn.Module,
    variables: Variables,
    inputs: Inputs,
    observe: Observer,
    *,
    num_steps: int,
    chunk: int,
    collect: Sequence[str] = (),
    index: jax.Array | None = None,
    rngs: Mapping[str, jax.Array] | None = None,
) -> Any:
    """Run an SNN from rest for `num_steps` steps and return what `observe` saw.

    Args:
        model: an SNN, see `jsnn.models.spiking`.
        variables: its `params` and `neuron` collections.
        inputs: time [K] int32 -> inputs [K, B, H, W, C] of these steps.
        observe: (logits [K, B, classes], collected) -> pytree of arrays [K, ...]; what is not observed is not kept.
        num_steps: T, at least 1.
        chunk: K, time steps per chunk, at least 1; it need not divide `num_steps`.
        collect: collections that layers shall expose to `observe`: "spikes" and "current", as
            collected["spikes"]["conv0"]["spikes"] of shape [K, B, ...], and "trains", the spikes as bits, as
            collected["trains"]["conv0"]["lif"] of shape [B, ...], without gradient and for chunks of at most 32 steps.
        index: [B] int32, the samples' indices in the data set; needed where dropout is on.
        rngs: {"dropout": key} turns dropout on, with the same mask at every step.

    Returns:
        The pytree of `observe` with leaves [T, ...].

    Raises:
        ValueError: where num_steps or chunk is below 1.
    """
    check_steps(num_steps, chunk)

    def run(state: Variables, time: jax.Array) -> tuple[Variables, Any]:
        mutable = ["state", *collect]
        inputs_now = from_silence(inputs, time)
        logits, seen = model.apply({**variables, "state": state}, inputs_now, index, rngs=rngs, mutable=mutable)
        state = seen.pop("state")
        return state, observe(logits, seen)

    times = time_chunks(num_steps, chunk)
    state = rest(model, variables, inputs)
    if len(times) == 1:
        return run(state, times[0])[1]
    # Backward, a chunk is run again from the state at its start.
    _, seen = jax.lax.scan(jax.checkpoint(run), state, times)
    silence = times.size - num_steps
    return jax.tree.map(lambda x: x.reshape(times.size, *x.shape[2:])[silence:], seen)


def spikes_per_neuron(trains: Variables, num_steps: int) -> dict[str, jax.Array]:
    """The mean number of spikes per neuron of each layer, at each step and for each sample.

    Args:
        trains: what `simulate` shows to its observer as collected["trains"].
        num_steps: K, the steps that the observer sees.

    Returns:
        Layer -> [K, B], spikes per neuron and step. Summed over time this is the paper's activity metric.
    """
    spikes = {layer: unpack(train["lif"], num_steps, jnp.float32) for layer, train in trains.items()}
    return {layer: x.mean(axis=tuple(range(2, x.ndim))) for layer, x in spikes.items()}


def check_steps(num_steps: int, chunk: int) -> None:
    """Refuse a number of time steps, or of steps per chunk, that is below 1.

    Args:
        num_steps: T.
        chunk: K.

    Raises:
        ValueError: naming the number.
    """
    for name, value in (("num_steps", num_steps), ("chunk", chunk)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1 time step, got {value}.")


def time_chunks(num_steps: int, chunk: int) -> jax.Array:
    """The time steps of each chunk: as few chunks as possible, all of the same length.

    Where the number of steps does not divide, time begins before 0, with steps of silence.

    Args:
        num_steps: T, at least 1.
        chunk: time steps per chunk at most.

    Returns:
        [C, K] int32, the last of them T - 1.

    Raises:
        ValueError: where num_steps or chunk is below 1.
    """
    check_steps(num_steps, chunk)
    count = -(-num_steps // chunk)
    length = -(-num_steps // count)
    return jnp.arange(num_steps - count * length, num_steps, dtype=jnp.int32).reshape(count, length)


def fitting_chunk(num_steps: int) -> int:
    """A number of time steps per chunk that serves a presentation well.

    Short chunks stay within a CPU's caches, long ones feed a GPU. Eight steps of spikes fill a byte; where they would
    leave more than 3 % of the steps in silence (see `time_chunks`), up to twelve that leave fewer.

    Args:
        num_steps: T, at least 1.

    Returns:
        The most steps of a chunk, in [8, 12].
    """
    enough = (1 + BEARABLE_SILENCE) * num_steps
    return min(FITTING_CHUNKS, key=lambda chunk: max(enough, time_chunks(num_steps, chunk).size))


def from_silence(inputs: Inputs, time: jax.Array) -> jax.Array:
    """The inputs of some time steps; silence before step 0, which leaves a network without bias at rest.

    Args:
        inputs: time [K] int32 -> inputs [K, B, ...].
        time: [K] int32.

    Returns:
        [K, B, ...].
    """
    found = inputs(time)
    return jnp.where(time.reshape(-1, *[1] * (found.ndim - 1)) >= 0, found, 0)


def rest(model: nn.Module, variables: Variables, inputs: Inputs) -> Variables:
    """The state of all layers at rest, which is zero everywhere.

    Args:
        model: an SNN.
        variables: its `params` and `neuron` collections.
        inputs: time [K] int32 -> inputs [K, B, ...].

    Returns:
        The `state` collection.
    """

    def first_step() -> Variables:
        return model.apply(variables, inputs(jnp.zeros(1, jnp.int32)), mutable=["state"])[1]["state"]

    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(first_step))
