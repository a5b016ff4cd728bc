"""Leaky integrate-and-fire neurons: the paper's, with soft reset, and with hard reset."""

from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jsnn.neurons import residuals
from jsnn.neurons.neuron import Neuron, Parameters
from jsnn.neurons.packing import age_after
from jsnn.neurons.residuals import Integrate, Residuals
from jsnn.neurons.surrogate import Surrogate, is_forward_mode, stdb


class LIFState(NamedTuple):
    """What a LIF neuron carries from one time step to the next.

    Attributes:
        membrane: u[t], the membrane potential before the reset that its spike calls for; unit of the threshold.
        spikes: o[t], boolean where they are kept between chunks and carry no gradient.
        age: int32, steps from the neuron's last spike to the step that comes; 0 where it has not fired yet. None where
            the surrogate does not depend on it.
    """

    membrane: jax.Array
    spikes: jax.Array
    age: jax.Array | None


@cache
def lif(surrogate: Surrogate = stdb(), detach_spike: bool = True, detach_threshold: bool = False) -> Neuron:
    """Leaky integrate-and-fire neurons with soft reset.

        u[t] = leak * u[t-1] + I[t] - v * o[t-1],    u[-1] = initial * v
        o[t] = 1 if u[t] / v - 1 > 0 else 0

    Equations 1 and 2 of Rathi et al., 2020 (arXiv:2005.01807). The reset is not leaked; leak 1 is the IF neuron.
    Parameters, each a scalar or broadcastable to [...]: threshold v > 0, in units of the current; leak in (0, 1] per
    step; initial, the membrane before the first step as a share of the threshold (1/2 serves a converted net at few
    steps: Bu et al., 2022, arXiv:2303.04347).

    Args:
        surrogate: the spike and its derivative.
        detach_spike: whether no gradient flows through the spike of the reset, as in the paper.
        detach_threshold: whether none flows through the threshold of the reset.

    Returns:
        The Neuron, the same one for the same arguments.
    """

    def integrate(neuron: Parameters, membrane: jax.Array, spikes: jax.Array, current: jax.Array) -> jax.Array:
        threshold = jax.lax.stop_gradient(neuron["threshold"]) if detach_threshold else neuron["threshold"]
        return neuron["leak"] * membrane + current - threshold * spikes

    return _leaky(integrate, surrogate, detach_spike)


@cache
def hard_reset_lif(surrogate: Surrogate = stdb(), detach_spike: bool = True) -> Neuron:
    """Leaky integrate-and-fire neurons whose spike sets the membrane to 0: what is above the threshold is lost.

        u[t] = leak * u[t-1] * (1 - o[t-1]) + I[t],    u[-1] = initial * v
        o[t] = 1 if u[t] / v - 1 > 0 else 0

    Its parameters are those of `lif`.

    Args:
        surrogate: the spike and its derivative.
        detach_spike: whether no gradient flows through the spike of the reset.

    Returns:
        The Neuron, the same one for the same arguments.
    """

    def integrate(neuron: Parameters, membrane: jax.Array, spikes: jax.Array, current: jax.Array) -> jax.Array:
        return neuron["leak"] * membrane * (1 - spikes) + current

    return _leaky(integrate, surrogate, detach_spike)


def _leaky(integrate: Integrate, surrogate: Surrogate, detach_spike: bool) -> Neuron:
    """Neurons of one membrane that fire above their threshold."""

    def step(neuron: Parameters, state: LIFState, current: jax.Array) -> tuple[jax.Array, LIFState]:
        before = jax.lax.stop_gradient(state.spikes) if detach_spike else state.spikes
        membrane = integrate(neuron, state.membrane, before, current)
        spikes = surrogate.spike(membrane / neuron["threshold"] - 1, state.age)
        later = spikes.astype(state.spikes.dtype)
        if state.age is None:
            return spikes, LIFState(membrane, later, None)
        older = jnp.where(state.age > 0, state.age + 1, 0)
        return spikes, LIFState(membrane, later, jnp.where(spikes > 0, 1, older))

    def record(neuron: Parameters, state: LIFState, current: jax.Array) -> tuple[jax.Array, LIFState]:
        """Words, and the state behind them; ages are counted from the words, not step by step."""
        kept, membrane, spikes = residuals.record(Residuals(integrate), neuron, state.membrane, state.spikes, current)
        age = None if state.age is None else age_after(kept.spikes, state.age, len(current))
        return kept.spikes, LIFState(membrane, spikes, age)

    neuron = Neuron(_parameters, partial(_init, surrogate), step, record)
    # No spike of the reset appears in the gradient that residuals give, and they have reverse mode alone.
    if not detach_spike or is_forward_mode(surrogate):
        return neuron
    bits = residuals.lossless(integrate, surrogate)
    in_bytes = partial(residuals.in_bytes, integrate, surrogate) if surrogate.by_age is None else None
    return neuron._replace(compact=_in_a_byte, lossless=bits, in_bytes=in_bytes)


def _parameters() -> dict[str, float]:
    return {"threshold": 1.0, "leak": 1.0, "initial": 0.0}


def _init(surrogate: Surrogate, neuron: Parameters, current: jax.Array) -> LIFState:
    zero = jnp.zeros_like(current)
    age = None if surrogate.by_age is None else jnp.zeros_like(current, dtype=jnp.int32)
    return LIFState(zero + neuron["initial"] * neuron["threshold"], zero, age)


def _in_a_byte(state: LIFState) -> LIFState:
    return state._replace(spikes=state.spikes > 0)
