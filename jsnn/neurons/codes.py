"""The distance of a membrane to its threshold in a byte.

The first bit says whether the neuron fires, z > 0. The other seven are |z| in units of a width: 96 even steps below 1,
and above it four steps an octave, up to 256. So z is known to width / 192 near the threshold, where a surrogate's
derivative varies, and to an eighth of itself, at most, further off.
"""

from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp

FIRES, EVEN, PER_OCTAVE = 128, 96, 4
MANTISSA, BIAS = 21, 127 * PER_OCTAVE  # of a float32 without all but the first two bits of its mantissa
WIDTHS = [2.0**-k for k in range(-2, 7)]  # of equally good ones the widest is taken, which tells most of the membrane


def encode(z: jax.Array, width: float) -> jax.Array:
    """Distances to the threshold [...] as codes [...] uint8."""
    y = jnp.abs(z.astype(jnp.float32)) * (1 / width)
    # The exponent and two bits of the mantissa of a float count quarters of octaves.
    steps = jax.lax.bitcast_convert_type(y, jnp.int32) >> MANTISSA
    magnitude = jnp.where(y < 1, (y * EVEN).astype(jnp.int32), jnp.minimum(steps - BIAS + EVEN, FIRES - 1))
    return (magnitude | (z > 0).astype(jnp.int32) * FIRES).astype(jnp.uint8)


def decode(codes: jax.Array, width: float, dtype: jnp.dtype) -> jax.Array:
    """The distances [...] in the middle of what codes [...] stand for."""
    magnitude = (codes & FIRES - 1).astype(jnp.int32)
    near = (magnitude.astype(jnp.float32) + 0.5) / EVEN
    far = jax.lax.bitcast_convert_type(magnitude - EVEN + BIAS << MANTISSA | 1 << MANTISSA - 1, jnp.float32)
    y = jnp.where(magnitude < EVEN, near, far) * width
    return jnp.where(codes >= FIRES, y, -y).astype(dtype)


def fires(codes: jax.Array) -> jax.Array:
    """Whether neurons [...] fire, of codes [...]."""
    return codes >= FIRES


@cache
def fitting_width(derivative: Callable[[jax.Array, None], jax.Array]) -> float:
    """The width, a power of two, whose codes tell a surrogate's derivative best: in the mean square over |z| < 2."""
    with jax.ensure_compile_time_eval():
        z = jnp.linspace(-2, 2, 4001)
        exact = derivative(z, None)

        def error(width: float) -> float:
            return float(jnp.square(derivative(decode(encode(z, width), width, z.dtype), None) - exact).mean())

        return min(WIDTHS, key=error)
