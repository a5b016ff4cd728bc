"""Leaky integrate-and-fire dynamics as pure functions, and the same as linen modules.

Time is the first axis, [T, ...]; whatever follows it are independent neurons. A state goes in and comes out, so that
time can be cut into chunks. The zero state is the state of a network at rest.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jsnn.surrogate import Surrogate, stdb


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
        surrogate: the spike function, see jsnn.surrogate.

    Returns:
        (spikes [...] of 0 and 1, the next LIFState).
    """
    just_fired = (state.age == 1).astype(current.dtype)
    membrane = leak * state.membrane + current - jax.lax.stop_gradient(threshold * just_fired)
    spikes = surrogate(membrane / threshold - 1, state.age)
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
        surrogate: the spike function.

    Returns:
        (spikes [T, ...], the LIFState after the last step).

    Raises:
        ValueError: where the state does not fit the current.
    """
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


class LIF(nn.Module):
    """LIF neurons of a layer, [T, B, ...] -> [T, B, ...].

    `neuron` holds the layer's threshold (1 at first) and leak (1) and, where a shortcut is added to the current, its
    gain: 1 is the paper's equation, `jsnn.conversion.convert` sets what the block's thresholds call for. `state`
    carries the LIFState where it is mutable; without it the layer starts from rest. Current and spikes are sown into
    collections of these names.

    Attributes:
        surrogate: the spike function.
    """

    surrogate: Surrogate = stdb()

    @nn.compact
    def __call__(self, current: jax.Array, shortcut: jax.Array | None = None) -> jax.Array:
        if shortcut is not None:
            gain = self.variable("neuron", "shortcut_gain", jnp.ones, (), current.dtype)
            current = current + gain.value * shortcut
        threshold = self.variable("neuron", "threshold", jnp.ones, (), current.dtype)
        leak = self.variable("neuron", "leak", jnp.ones, (), current.dtype)
        state = self.get_variable("state", "lif", lif_rest(current[0]))
        spikes, state = lif(current, state, threshold.value, leak.value, self.surrogate)
        _carry(self, "lif", state)
        _expose(self, "current", current)
        _expose(self, "spikes", spikes)
        return spikes


class Integrator(nn.Module):
    """The readout of an SNN, [T, B, classes] of currents -> logits at every step; the potential is kept in `state`."""

    @nn.compact
    def __call__(self, current: jax.Array) -> jax.Array:
        membrane = self.get_variable("state", "membrane", jnp.zeros_like(current[0]))
        logits, membrane = integrate(current, membrane)
        _carry(self, "membrane", membrane)
        return logits


class ReLU(nn.Module):
    """The ANN's neuron: max(0, current), a shortcut added to the current where there is one."""

    @nn.compact
    def __call__(self, current: jax.Array, shortcut: jax.Array | float = 0.0) -> jax.Array:
        return nn.relu(current + shortcut)


class Identity(nn.Module):
    """The ANN's readout: the current is the logits."""

    @nn.compact
    def __call__(self, current: jax.Array) -> jax.Array:
        return current


def _carry(module: nn.Module, name: str, value: LIFState | jax.Array) -> None:
    """Keep `value` in `state` where the caller asks for it; a new network is at rest."""
    if module.is_mutable_collection("state") and not module.is_initializing():
        module.put_variable("state", name, value)


def _expose(module: nn.Module, name: str, value: jax.Array) -> None:
    """Sow `value` as collection[layer][name] where the caller asks for it, overwriting what was there."""
    if module.is_initializing():
        return
    module.sow(name, name, value, init_fn=lambda: None, reduce_fn=lambda _, new: new)
