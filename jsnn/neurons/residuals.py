"""What leaky neurons keep of a chunk of time for their gradient, and the gradient from that alone.

Let the membrane be the neuron's only state, u[t] = integrate(u[t-1], o[t-1], I[t]), and let no gradient flow through
the spike of a reset. The gradient of a layer is then a linear recursion backwards in time,

    d[t] = du[t+1]/du[t] * d[t+1] + (do/dz)[t] / v * dL/do[t],    dL/dI[t] = d[t] = dL/du[t]

The membrane appears only in the derivative do/dz. So the forward pass keeps no membranes, and the backward pass
computes none. Per neuron and step it keeps one bit if do/dz depends on spike times, as with STDB (equations 8 to 10 of
arXiv:2005.01807), two bits if do/dz is either 0 or one other value, and else a byte. The byte also gives the membrane,
rounded, for the gradients of thresholds and leaks.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jsnn.neurons import codes
from jsnn.neurons.neuron import Parameters
from jsnn.neurons.packing import age_at, bit_at, unpack, word_dtype
from jsnn.neurons.surrogate import Surrogate

# (parameters, membrane before, spikes before, current) -> membrane, [...] all
Integrate = Callable[[Parameters, jax.Array, jax.Array, jax.Array], jax.Array]


class Kept(NamedTuple):
    """What is kept of a layer over a chunk of K time steps."""

    spikes: jax.Array | None = None  # [...] unsigned, bit t is step t of the chunk; None where codes tell them
    inside: jax.Array | None = None  # [...] unsigned, bit t: whether the derivative is not 0; None where none is kept
    codes: jax.Array | None = None  # [K, ...] uint8, distances to the threshold, see `jsnn.neurons.codes`


class Train(NamedTuple):
    """A layer over a chunk, as its gradient needs it."""

    kept: Kept
    spikes: jax.Array  # [...] of the step before the chunk
    membrane: jax.Array | None = None  # [...] after that step; None where bits are kept
    age: jax.Array | None = None  # [...] integer, steps from the last spike to the chunk's first step; 0 without one


class Residuals(NamedTuple):
    """How a neuron's gradient is kept.

    Attributes:
        integrate: the neuron's membrane, to which a current is added as it is.
        slope: (train, time, dtype) -> do/dz [...] at a step of the chunk; None where spikes are kept for no gradient.
        by_age: whether `slope` asks for ages.
        inside: z [...] -> whether the derivative is not 0, where that is a bit to keep.
        code: of the distances where these are kept, see `jsnn.neurons.codes`; they give the parameters a gradient, too.
    """

    integrate: Integrate
    slope: Callable[[Train, jax.Array, jnp.dtype], jax.Array] | None = None
    by_age: bool = False
    inside: Callable[[jax.Array], jax.Array] | None = None
    code: codes.Code | None = None


def lossless(integrate: Integrate, surrogate: Surrogate) -> Residuals | None:
    """Bits, for the gradient of weights, equal to autodiff's; None where they do not tell the derivative."""
    if surrogate.by_age is not None:

        def by_age(train: Train, time: jax.Array, dtype: jnp.dtype) -> jax.Array:
            return surrogate.by_age(age_at(train.kept.spikes, train.age.astype(jnp.int32), time), dtype)

        return Residuals(integrate, by_age, by_age=True)
    if surrogate.inside is not None:

        def inside(train: Train, time: jax.Array, dtype: jnp.dtype) -> jax.Array:
            return surrogate.height * bit_at(train.kept.inside, time).astype(dtype)

        return Residuals(integrate, inside, inside=surrogate.inside)
    return None


@cache
def in_bytes(integrate: Integrate, surrogate: Surrogate) -> Residuals | None:
    """A byte, for the gradients of weights and parameters to its rounding, where ages do not tell the derivative.

    None where a byte does not tell it either.
    """
    code = codes.fitting_code(surrogate.derivative)
    if code is None:
        return None

    def slope(train: Train, time: jax.Array, dtype: jnp.dtype) -> jax.Array:
        z = codes.decode(train.kept.codes[time], code.width, dtype, code.even)
        return surrogate.derivative(z, None)

    return Residuals(integrate, slope, code=code)


def record(
    residuals: Residuals, parameters: Parameters, membrane: jax.Array, spikes: jax.Array, current: jax.Array
) -> tuple[Kept, jax.Array, jax.Array]:
    """Neurons over currents [K, ...] without a gradient: what is kept, and membrane and spikes of the last step."""
    dtype, integrate, code = word_dtype(len(current)), residuals.integrate, residuals.code
    predicates = [] if code else [lambda z: z > 0, *([residuals.inside] if residuals.inside else [])]

    def step(carry: tuple, now: tuple[jax.Array, jax.Array]) -> tuple[tuple, jax.Array | None]:
        (membrane, spikes, words), (current, time) = carry, now
        membrane = integrate(parameters, membrane, spikes, current)
        z = membrane / parameters["threshold"] - 1
        words = [word | holds(z).astype(dtype) << time for word, holds in zip(words, predicates, strict=True)]
        return (membrane, (z > 0).astype(spikes.dtype), words), codes.encode(z, *code) if code else None

    start = membrane, spikes, [jnp.zeros_like(membrane, dtype) for _ in predicates]
    (membrane, spikes, words), coded = jax.lax.scan(step, start, (current, jnp.arange(len(current), dtype=dtype)))
    return Kept(*words, **{"codes": coded} if code else {}), membrane, spikes


def spikes_of(kept: Kept, num_steps: int, dtype: jnp.dtype) -> jax.Array:
    """The spikes [K, ...] of a chunk, as 0 and 1."""
    return codes.fires(kept.codes).astype(dtype) if kept.spikes is None else unpack(kept.spikes, num_steps, dtype)


def read(
    residuals: Residuals, parameters: Parameters, coded: jax.Array, dtype: jnp.dtype
) -> tuple[jax.Array, jax.Array]:
    """Membrane, to rounding, and spikes [...] of codes [...]."""
    z = codes.decode(coded, residuals.code.width, dtype, residuals.code.even)
    return (parameters["threshold"] * (1 + z)).astype(dtype), codes.fires(coded).astype(dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def replay(
    residuals: Residuals, parameters: Parameters, current: jax.Array, membrane: jax.Array, train: Train
) -> tuple[jax.Array, jax.Array]:
    """The spikes [K, ...] of a chunk that was recorded, with the gradient of the neuron that it was recorded of.

    Current [K, ...] and membrane [...] are only what the gradient is taken with respect to: their values are not looked
    at, so that whatever computes them is not run. Returned beside the spikes is what stands for the membrane after the
    chunk. Parameters, scalars or broadcastable to [...], get a gradient from codes only.
    """
    return spikes_of(train.kept, current.shape[0], current.dtype), membrane


def _replay_forward(
    residuals: Residuals, parameters: Parameters, current: jax.Array, membrane: jax.Array, train: Train
) -> tuple[tuple[jax.Array, jax.Array], tuple[Parameters, Train]]:
    return (spikes_of(train.kept, current.shape[0], current.dtype), membrane), (parameters, train)


def _replay_backward(residuals: Residuals, saved: tuple[Parameters, Train], cotangents: tuple) -> tuple:
    (parameters, train), (of_spikes, of_end) = saved, cotangents
    differentiated = parameters if residuals.code else {}
    dtype = of_end.dtype  # of membranes, which may be wider than their current

    def distance(differentiated: Parameters, membrane: jax.Array) -> jax.Array:
        return membrane / {**parameters, **differentiated}["threshold"] - 1

    def step(carry: tuple[jax.Array, Parameters], now: tuple[jax.Array, jax.Array]) -> tuple[tuple, jax.Array]:
        (of_later, of_parameters), (of_spikes, time) = carry, now
        membrane, _ = _at(residuals, parameters, train, time, dtype)
        before, reset = _before(residuals, parameters, train, time, dtype)

        def integrate(differentiated: Parameters, before: jax.Array) -> jax.Array:
            return residuals.integrate({**parameters, **differentiated}, before, reset, jnp.zeros_like(before))

        _, of_distance = jax.vjp(distance, differentiated, membrane)
        of_threshold, of_membrane = of_distance(residuals.slope(train, time, dtype) * of_spikes.astype(dtype))
        of_membrane = of_later + of_membrane
        _, of_integrate = jax.vjp(integrate, differentiated, before)
        of_differentiated, of_before = of_integrate(of_membrane)
        of_parameters = jax.tree.map(lambda *parts: sum(parts), of_parameters, of_threshold, of_differentiated)
        return (of_before, of_parameters), of_membrane.astype(of_spikes.dtype)

    time, zeros = jnp.arange(len(of_spikes), dtype=jnp.int32), jax.tree.map(jnp.zeros_like, differentiated)
    (of_start, of_parameters), of_current = jax.lax.scan(step, (of_end, zeros), (of_spikes, time), reverse=True)
    return (of_parameters if residuals.code else None), of_current, of_start, None


replay.defvjp(_replay_forward, _replay_backward)


def _at(
    residuals: Residuals, parameters: Parameters, train: Train, time: jax.Array, dtype: jnp.dtype
) -> tuple[jax.Array, jax.Array]:
    """Membrane, where codes tell it, and spikes [...] after a step of the chunk."""
    if residuals.code is None:
        spikes = bit_at(train.kept.spikes, time).astype(dtype)
        return jnp.zeros_like(spikes), spikes
    return read(residuals, parameters, train.kept.codes[time], dtype)


def _before(
    residuals: Residuals, parameters: Parameters, train: Train, time: jax.Array, dtype: jnp.dtype
) -> tuple[jax.Array, jax.Array]:
    """Membrane, where codes tell it, and spikes [...] before a step of the chunk."""
    membrane, spikes = _at(residuals, parameters, train, jnp.maximum(time - 1, 0), dtype)
    membrane = membrane if residuals.code is None else jnp.where(time > 0, membrane, train.membrane)
    return membrane, jnp.where(time > 0, spikes, train.spikes.astype(dtype))
