"""Spike functions: a Heaviside step forward, a surrogate derivative backward.

The spike is a function of the normalised distance to the threshold, z = u / v - 1, and of the steps since the neuron's
last spike. Forward it is the strict step `z > 0`; backward it is what the factory of the surrogate says. The factories
return the same surrogate for the same numbers, so that compiled programs are shared.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp

Derivative = Callable[[jax.Array, jax.Array], jax.Array]


class Surrogate(NamedTuple):
    """A spike function and what is known of its derivative.

    Attributes:
        spike: (z [...], age [...] int32) -> spikes [...] of 0 and 1; age is 0 before the first spike.
        by_age: (age [...] int32, dtype) -> do/dz [...], where it depends on spike times alone: then spike trains are
            all that backpropagation through time has to keep. None where it needs the membrane.
    """

    spike: Derivative
    by_age: Callable[[jax.Array, jnp.dtype], jax.Array] | None = None


@cache
def stdb(alpha: float = 0.3, beta: float = 0.01) -> Surrogate:
    """Spike-timing-dependent backpropagation: the derivative decays with the time since the last spike.

        do/dz = alpha * exp(-beta * dt),    0 for a neuron that has not fired yet

    with dt = t - (time of the neuron's previous spike) >= 1. Equation 10 of Rathi et al., "Enabling Deep Spiking Neural
    Networks with Hybrid Conversion and Spike Timing Dependent Backpropagation", 2020 (arXiv:2005.01807).

    Args:
        alpha: the derivative right after a spike, above 0, dimensionless.
        beta: its decay per time step, at least 0.

    Returns:
        The surrogate; its derivative depends on spike times alone.

    Raises:
        ValueError: where alpha or beta is out of its range.
    """
    _check(0 < alpha < math.inf, f"stdb needs alpha above 0 and finite, got {alpha}.")
    _check(0 <= beta < math.inf, f"stdb needs beta of at least 0 and finite, got {beta}.")

    def by_age(age: jax.Array, dtype: jnp.dtype) -> jax.Array:
        return jnp.where(age > 0, alpha * jnp.exp(-beta * age.astype(dtype)), 0)

    return Surrogate(_spike_function(lambda z, age: by_age(age, z.dtype)), by_age)


@cache
def linear(gamma: float = 0.3) -> Surrogate:
    """The linear (triangular) surrogate, which the paper compares STDB with.

        do/dz = gamma * max(0, 1 - |z|)

    Bellec et al., "Long short-term memory and learning-to-learn in networks of spiking neurons", 2018.

    Args:
        gamma: the derivative at the threshold, above 0, dimensionless.

    Returns:
        The surrogate; its derivative depends on the membrane alone.

    Raises:
        ValueError: where gamma is not above 0.
    """
    _check(0 < gamma < math.inf, f"linear needs gamma above 0 and finite, got {gamma}.")

    def derivative(z: jax.Array, age: jax.Array) -> jax.Array:
        del age
        return gamma * jnp.maximum(0, 1 - jnp.abs(z))

    return Surrogate(_spike_function(derivative))


def _spike_function(derivative: Derivative) -> Derivative:
    """A step at z > 0 whose backward pass multiplies by `derivative(z, age)`."""

    @jax.custom_vjp
    def spike(z: jax.Array, age: jax.Array) -> jax.Array:
        del age
        return (z > 0).astype(z.dtype)

    def forward(z: jax.Array, age: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        return spike(z, age), (z, age)

    def backward(residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, None]:
        return derivative(*residuals) * cotangent, None

    spike.defvjp(forward, backward)
    return spike


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
