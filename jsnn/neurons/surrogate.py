"""Spike functions: a Heaviside step forward, a surrogate derivative backward.

The spike is a function of the normalised distance to the threshold, z = u / v - 1, and of the steps since the neuron's
last spike. The forward pass is the strict step `z > 0`; the backward pass uses the surrogate's derivative. The
functions that make surrogates return the same object for the same arguments, so compiled programs are reused.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Surrogate(NamedTuple):
    """A spike function and its derivative.

    Attributes:
        spike: (z [...], age [...] int32 or None) -> spikes [...] of 0 and 1; age is 0 before the first spike.
        derivative: (z [...], age [...]) -> do/dz [...].
        by_age: (age [...] int32, dtype) -> do/dz [...], where it depends on spike times alone: then spike trains are
            all that backpropagation through time has to keep. None where it needs the membrane and no age.
        inside: z [...] -> bool [...], whether do/dz is `height`, where it is that or 0; None elsewhere.
        height: see `inside`.
    """

    spike: Callable[[jax.Array, jax.Array | None], jax.Array]
    derivative: Callable[[jax.Array, jax.Array | None], jax.Array]
    by_age: Callable[[jax.Array, jnp.dtype], jax.Array] | None = None
    inside: Callable[[jax.Array], jax.Array] | None = None
    height: float = 0.0


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
    _check_positive("stdb", "alpha", alpha)
    if not 0 <= beta < math.inf:
        raise ValueError(f"stdb needs beta of at least 0 and finite, got {beta}.")
    return from_spike_time(lambda dt: alpha * jnp.exp(-beta * dt))


@cache
def linear(gamma: float = 0.3) -> Surrogate:
    """The linear (triangular) surrogate, which the paper compares STDB with: do/dz = gamma * max(0, 1 - |z|).

    Bellec et al., "Long short-term memory and learning-to-learn in networks of spiking neurons", 2018.

    Args:
        gamma: the derivative at the threshold, above 0, dimensionless.

    Returns:
        The surrogate.

    Raises:
        ValueError: where gamma is not above 0.
    """
    _check_positive("linear", "gamma", gamma)
    return from_derivative(lambda z: gamma * jnp.maximum(0, 1 - jnp.abs(z)))


@cache
def arctan(alpha: float = 2.0) -> Surrogate:
    """The derivative of an arctangent: do/dz = alpha / 2 / (1 + (pi * alpha * z / 2)^2).

    Fang et al., "Incorporating learnable membrane time constant", 2021 (arXiv:2007.05785).

    Args:
        alpha: its steepness; the derivative at the threshold is alpha / 2. Above 0, dimensionless.

    Returns:
        The surrogate.

    Raises:
        ValueError: where alpha is not above 0.
    """
    _check_positive("arctan", "alpha", alpha)
    return from_derivative(lambda z: alpha / 2 / (1 + (math.pi / 2 * alpha * z) ** 2))


@cache
def fast_sigmoid(slope: float = 25.0) -> Surrogate:
    """The derivative of a fast sigmoid: do/dz = 1 / (1 + slope * |z|)^2.

    Zenke and Ganguli, "SuperSpike", 2018 (arXiv:1705.11146).

    Args:
        slope: its steepness, above 0, dimensionless.

    Returns:
        The surrogate.

    Raises:
        ValueError: where slope is not above 0.
    """
    _check_positive("fast_sigmoid", "slope", slope)
    return from_derivative(lambda z: 1 / (1 + slope * jnp.abs(z)) ** 2)


@cache
def boxcar(width: float = 1.0, height: float = 1.0) -> Surrogate:
    """A box around the threshold: do/dz = height where |z| < width / 2, else 0.

    Wu et al., "Spatio-temporal backpropagation", 2018 (arXiv:1706.02609).

    Args:
        width: of the box, above 0, dimensionless.
        height: of the box, above 0, dimensionless.

    Returns:
        The surrogate.

    Raises:
        ValueError: where width or height is not above 0.
    """
    _check_positive("boxcar", "width", width)
    _check_positive("boxcar", "height", height)

    def inside(z: jax.Array) -> jax.Array:
        return jnp.abs(z) < width / 2

    box = from_derivative(lambda z: jnp.where(inside(z), height, 0).astype(z.dtype))
    return box._replace(inside=inside, height=height)


@cache
def from_derivative(derivative: Callable[[jax.Array], jax.Array]) -> Surrogate:
    """A surrogate of your own, whose derivative is a function of the distance to the threshold.

    Args:
        derivative: z [...] -> do/dz [...].

    Returns:
        The surrogate, the same one for the same function.
    """

    def of_both(z: jax.Array, age: jax.Array | None) -> jax.Array:
        del age
        return jnp.asarray(derivative(z), z.dtype)

    return Surrogate(_spike_function(of_both), of_both)


@cache
def from_spike_time(derivative: Callable[[jax.Array], jax.Array]) -> Surrogate:
    """A surrogate of your own, whose derivative is a function of the time since the neuron's previous spike.

    Args:
        derivative: dt [...] float, steps since the previous spike, at least 1 -> do/dz [...]. A neuron that has not
            fired yet has derivative 0.

    Returns:
        The surrogate, the same one for the same function.
    """

    def by_age(age: jax.Array, dtype: jnp.dtype) -> jax.Array:
        return jnp.where(age > 0, derivative(age.astype(dtype)), 0)

    def of_both(z: jax.Array, age: jax.Array | None) -> jax.Array:
        return by_age(age, z.dtype)

    return Surrogate(_spike_function(of_both), of_both, by_age)


@cache
def forward_mode(surrogate: Surrogate) -> Surrogate:
    """The same surrogate with a derivative for forward mode too: jvp, jacfwd, Hessian-vector products.

    Args:
        surrogate: any.

    Returns:
        The surrogate, its spike a `jax.custom_jvp` in place of a `jax.custom_vjp`. Bits and bytes have no forward
        mode, so backpropagation keeps membranes, and a second derivative is that of the derivative as a function of z.
        Third derivatives lack terms.
    """

    @jax.custom_jvp
    def spike(z: jax.Array, age: jax.Array | None) -> jax.Array:
        del age
        return (z > 0).astype(z.dtype)

    @spike.defjvp
    def jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
        slope, z = surrogate.derivative(*primals), primals[0]
        # Not `spike` again: in a loop, jax 0.10 takes the second derivative without its rule, and so without a word.
        fires = jax.lax.stop_gradient((z > 0).astype(z.dtype))
        zero = jnp.where(jnp.isfinite(z), z - jax.lax.stop_gradient(z), 0)  # which has a derivative
        return fires + zero * jax.lax.stop_gradient(slope), slope * tangents[0]

    return surrogate._replace(spike=spike)


def is_forward_mode(surrogate: Surrogate) -> bool:
    """Whether a surrogate has a derivative for forward mode."""
    return isinstance(surrogate.spike, jax.custom_jvp)


def _spike_function(derivative: Callable) -> Callable:
    """A step at z > 0 whose backward pass multiplies by `derivative(z, age)`."""

    @jax.custom_vjp
    def spike(z: jax.Array, age: jax.Array | None) -> jax.Array:
        del age
        return (z > 0).astype(z.dtype)

    def forward(z: jax.Array, age: jax.Array | None) -> tuple[jax.Array, tuple]:
        return spike(z, age), (z, age)

    def backward(residuals: tuple, cotangent: jax.Array) -> tuple[jax.Array, None]:
        return derivative(*residuals) * cotangent, None

    spike.defvjp(forward, backward)
    return spike


def _check_positive(surrogate: str, name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{surrogate} needs {name} above 0 and finite, got {value}.")
