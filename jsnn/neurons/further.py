"""Other neurons than LIF: with an adaptive threshold, a current-based synapse, a refractory period."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jsnn.checks import is_whole
from jsnn.neurons.neuron import LEAK, Neuron, Parameters, Range
from jsnn.neurons.surrogate import Surrogate, linear


class TraceState(NamedTuple):
    """The state of a neuron with one variable beside its membrane.

    Attributes:
        membrane: u[t], unit of the threshold.
        spikes: o[t].
        trace: the other variable, see each neuron.
    """

    membrane: jax.Array
    spikes: jax.Array
    trace: jax.Array


DECAY = Range("decay", "in [0, 1)", lambda decay: (decay >= 0) & (decay < 1), "0 forgets at once")
STRENGTH = Range("strength", "at least 0", lambda strength: strength >= 0, "0 leaves the threshold as it is")
Step = Callable[[Parameters, TraceState, jax.Array], tuple[jax.Array, TraceState]]


@cache
def adaptive_lif(surrogate: Surrogate = linear()) -> Neuron:
    """LIF neurons with soft reset whose threshold rises with every spike and falls back.

        a[t] = decay * a[t-1] + o[t-1],    w[t] = v * (1 + strength * a[t])
        u[t] = leak * u[t-1] + I[t] - w[t-1] * o[t-1],    o[t] = 1 if u[t] / w[t] - 1 > 0 else 0

    Bellec et al., 2018 (arXiv:1803.09574). Parameters: threshold, leak, decay in [0, 1) per step, strength >= 0.

    Args:
        surrogate: the spike and its derivative, which may not depend on the time since the last spike.

    Returns:
        The Neuron, the same one for the same surrogate.

    Raises:
        ValueError: where the surrogate depends on the time since the last spike, as stdb.
    """

    def raised(neuron: Parameters, trace: jax.Array) -> jax.Array:
        return neuron["threshold"] * (1 + neuron["strength"] * trace)

    def step(neuron: Parameters, state: TraceState, current: jax.Array) -> tuple[jax.Array, TraceState]:
        before = jax.lax.stop_gradient(state.spikes)
        membrane = neuron["leak"] * state.membrane + current - raised(neuron, state.trace) * before
        trace = neuron["decay"] * state.trace + before
        spikes = surrogate.spike(membrane / raised(neuron, trace) - 1, None)
        return spikes, TraceState(membrane, spikes, trace)

    return _neuron(surrogate, {"leak": 1.0, "decay": 0.9, "strength": 0.1}, step)


@cache
def current_lif(surrogate: Surrogate = linear()) -> Neuron:
    """LIF neurons with soft reset behind a synapse whose current falls off by itself.

        i[t] = decay * i[t-1] + (1 - decay) * I[t]
        u[t] = leak * u[t-1] + i[t] - v * o[t-1],    o[t] = 1 if u[t] / v - 1 > 0 else 0

    The factor 1 - decay leaves the mean current, and so the rate that an ANN's activation calls for, as it is. The
    CuBa-LIF of the field, as in Loihi (Davies et al., 2018). Parameters: threshold, leak, decay in [0, 1) per step.

    Args:
        surrogate: the spike and its derivative, which may not depend on the time since the last spike.

    Returns:
        The Neuron, the same one for the same surrogate.

    Raises:
        ValueError: where the surrogate depends on the time since the last spike, as stdb.
    """

    def step(neuron: Parameters, state: TraceState, current: jax.Array) -> tuple[jax.Array, TraceState]:
        trace = neuron["decay"] * state.trace + (1 - neuron["decay"]) * current
        reset = neuron["threshold"] * jax.lax.stop_gradient(state.spikes)
        membrane = neuron["leak"] * state.membrane + trace - reset
        spikes = surrogate.spike(membrane / neuron["threshold"] - 1, None)
        return spikes, TraceState(membrane, spikes, trace)

    return _neuron(surrogate, {"leak": 1.0, "decay": 0.5}, step)


@cache
def refractory_lif(surrogate: Surrogate = linear(), period: int = 1) -> Neuron:
    """LIF neurons with soft reset that cannot fire for some steps after a spike, while their membrane goes on.

        o[t] = 1 if u[t] / v - 1 > 0 and no spike in the last `period` steps, else 0

    with u of `lif`. Its trace is the number of steps still to wait. Parameters: threshold, leak.

    Args:
        surrogate: the spike and its derivative, which may not depend on the time since the last spike.
        period: steps without a spike after each, a whole number from 1.

    Returns:
        The Neuron, the same one for the same arguments.

    Raises:
        ValueError: where the period is no such number, or the surrogate depends on the time since the last spike, as
            stdb.
    """
    if not is_whole(period) or period < 1:
        raise ValueError(f"a refractory period takes at least 1 time step, got {period}: it is a whole number.")

    def step(neuron: Parameters, state: TraceState, current: jax.Array) -> tuple[jax.Array, TraceState]:
        reset = neuron["threshold"] * jax.lax.stop_gradient(state.spikes)
        membrane = neuron["leak"] * state.membrane + current - reset
        is_ready = state.trace == 0
        spikes = jnp.where(is_ready, surrogate.spike(membrane / neuron["threshold"] - 1, None), 0)
        waiting = jnp.where(is_ready, period * jax.lax.stop_gradient(spikes), state.trace - 1)
        return spikes, TraceState(membrane, spikes, waiting)

    return _neuron(surrogate, {"leak": 1.0}, step)


def _neuron(surrogate: Surrogate, parameters: dict[str, float], step: Step) -> Neuron:
    """A neuron that starts with zeros; its surrogate knows no time since the last spike."""
    if surrogate.by_age is not None:
        raise ValueError("a surrogate by spike times, as stdb, is for lif and hard_reset_lif: take another here.")

    def init(neuron: Parameters, current: jax.Array) -> TraceState:
        del neuron
        return TraceState(*[jnp.zeros_like(current)] * 3)

    return Neuron(lambda: {"threshold": 1.0, **parameters}, init, step, ranges=(LEAK, DECAY, STRENGTH))
