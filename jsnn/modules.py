"""Neurons as linen modules: LIF and the integrating readout of an SNN, their counterparts of an ANN."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jsnn.neuron import LIFState, integrate, lif, lif_rest
from jsnn.packed import record, replay
from jsnn.packing import unpack
from jsnn.surrogate import Surrogate, stdb


class LIF(nn.Module):
    """LIF neurons of a layer, [T, B, ...] -> [T, B, ...].

    `neuron` holds the layer's threshold (1 at first) and leak (1) and, where a shortcut is added to the current, its
    gain: 1 is the paper's equation, `jsnn.conversion.convert` sets what the block's thresholds call for. `state`
    carries the LIFState where it is mutable; without it the layer starts from rest. Current and spikes are sown into
    collections of these names. Where spikes are given in `trains` they are replayed; where it is mutable they are
    written there, as bits: see `jsnn.packed`.

    Attributes:
        surrogate: the spike and its derivative.
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
        spikes, state = self._run(current, state, threshold.value, leak.value)
        _carry(self, "lif", state)
        _expose(self, "current", current)
        _expose(self, "spikes", spikes)
        return spikes

    def _run(self, current: jax.Array, state: Any, threshold: jax.Array, leak: jax.Array) -> tuple[jax.Array, Any]:
        """The layer's spikes and its next state, in the way that the collections ask for."""
        if self.has_variable("trains", "lif"):
            train = self.get_variable("trains", "lif")
            return replay(self.surrogate, current, state, train, threshold, leak)
        if self.is_mutable_collection("trains") and not self.is_initializing():
            words, state = record(current, state, threshold, leak)
            self.put_variable("trains", "lif", words)
            return unpack(words, len(current), current.dtype), state
        return lif(current, state, threshold, leak, self.surrogate)


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
