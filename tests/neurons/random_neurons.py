"""Random parameters and currents of neurons, their run over time, and surrogates of functions of one's own."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsnn.neurons import Neuron, over_time
from jsnn.neurons.surrogate import from_derivative, from_spike_time

RANGES = {"threshold": (0.5, 1.2), "leak": (0.7, 1.0), "initial": (0.2, 0.9)}
RANGES |= {"decay": (0.2, 0.9), "strength": (0.1, 0.6)}
CHANNELS = 4

by_distance = partial(from_derivative, lambda z: jnp.exp(-(z**2)))
by_spike_time = partial(from_spike_time, lambda dt: 1 / dt)


def parameters_of(neuron: Neuron, shape: tuple[int, ...], seed: int = 0) -> dict[str, np.ndarray]:
    """Random values of all parameters that a neuron has."""
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.uniform(*RANGES[name], shape)) for name in neuron.parameters()}


def currents(num_steps: int, seed: int = 0) -> np.ndarray:
    """Random currents [T, 3, CHANNELS]."""
    return np.random.default_rng(seed).normal(0.4, 0.8, (num_steps, 3, CHANNELS))


@partial(jax.jit, static_argnums=0)
def run(neuron: Neuron, parameters: dict[str, jax.Array], current: jax.Array) -> tuple[jax.Array, Any, Any]:
    """Spikes, the state at the end and the states of all steps, from the first state on."""
    return over_time(neuron, parameters, neuron.init(parameters, current[0]), current)
