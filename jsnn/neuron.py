"""Leaky integrate-and-fire dynamics as pure functions.

Time is the first axis, [T, ...]; whatever follows it are independent neurons. A state goes in and comes out, so that
time can be cut into chunks. The zero state is the state of a network at rest.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jsnn.surrogate import Surrogate


class LIFState(NamedTuple):
    """What a LIF neuron carries from one time step to the next.

    Attributes:
        membrane: u[t], the membrane potential before the reset that its spike calls for; unit of the threshold.
        age: int32, steps from the neuron's last spike to the step that comes; 0 where it has not fired yet.
    """

    membrane: jax.Array
    age: jax.Array


def lif_rest(like: jax.Array) -> LIFState:
    """The state of neurons at rest: zero potential, no spike so far.

    Args:
        like: [...], an array with one element per neuron; its values are not used.

    Returns:
        LIFState of that shape and dtype.
    """
    return LIFState(membrane=jnp.zeros_like(like), age=jnp.zeros_like(like, dtype=jnp.int32))


def lif_step(
    current: jax.Array, state: LIFState, threshold: jax.Array | float, leak: jax.Array | float, surrogate: Surrogate
) -> tuple[jax.Array, LIFState]:
    """One time step of leaky integrate-and-fire neurons with soft reset.

        u[t] = leak * u[t-1] + I[t] - v * o[t-1]
        o[t] = 1 if u[t] / v - 1 > 0 else 0

    Equations 1 and 2 of Rathi et al., 2020 (arXiv:2005.01807). The reset is not leaked and carries no gradient; leak 1
    is the IF neuron.

    Args:
        current: [...] I[t], the input current.
        state: LIFState [...].
        threshold: v > 0, a scalar or broadcastable to [...]; unit of the current.
        leak: in (0, 1] per step, a scalar or broadcastable to [...].
        surrogate: the spike and its derivative, see jsnn.surrogate.

    Returns:
        (spikes [...] of 0 and 1, the next LIFState).
    """
    just_fired = (state.age == 1).astype(current.dtype)
    membrane = leak * state.membrane + current - jax.lax.stop_gradient(threshold * just_fired)
    spikes = surrogate.spike(membrane / threshold - 1, state.age)
    older = jnp.where(state.age > 0, state.age + 1, 0)
    return spikes, LIFState(membrane, age=jnp.where(spikes > 0, 1, older))


def lif(
    current: jax.Array, state: LIFState, threshold: jax.Array | float, leak: jax.Array | float, surrogate: Surrogate
) -> tuple[jax.Array, LIFState]:
    """LIF neurons over time: `lif_step` scanned over the first axis.

    Args:
        current: [T, ...] the input current.
        state: LIFState [...].
        threshold: v > 0, a scalar or broadcastable to [...].
        leak: in (0, 1] per step, a scalar or broadcastable to [...].
        surrogate: the spike and its derivative.

    Returns:
        (spikes [T, ...], the LIFState after the last step).

    Raises:
        ValueError: where the state does not fit the current, or the current is no floating-point number.
    """
    if not jnp.issubdtype(current.dtype, jnp.floating):
        raise ValueError(f"an input current is a floating-point number, got {current.dtype}.")
    if state.membrane.shape != current.shape[1:]:
        raise ValueError(
            f"the state of shape {state.membrane.shape} does not fit a current of shape {current.shape}: "
            "pass time-major currents [T, ...] and a state [...]."
        )

    def step(state: LIFState, current: jax.Array) -> tuple[LIFState, jax.Array]:
        spikes, state = lif_step(current, state, threshold, leak, surrogate)
        return state, spikes

    state, spikes = jax.lax.scan(step, state, current)
    return spikes, state


def integrate(current: jax.Array, membrane: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The readout over time: a neuron without leak, threshold or spike.

        u[t] = u[t-1] + I[t]

    Args:
        current: [T, ...] the input current.
        membrane: [...] u before the first step.

    Returns:
        (u [T, ...], u [...] after the last step). The logits are the raw sum over time, never its mean.
    """

    def step(membrane: jax.Array, current: jax.Array) -> tuple[jax.Array, jax.Array]:
        membrane = membrane + current
        return membrane, membrane

    # A sequential sum, not jnp.cumsum: its rounding does not depend on where time is cut.
    last, potentials = jax.lax.scan(step, membrane, current)
    return potentials, last
