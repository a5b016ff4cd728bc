"""The distance of a membrane to its threshold in a byte.

The first bit says whether the neuron fires, z > 0. The other seven bits are a code for |z|. Its unit is a width: below
one width there are even steps, above it four steps per octave. With 96 even steps, 8 octaves are left, up to 256
widths. Near the threshold, where a surrogate's derivative varies, the error of z is then at most width / 192. Further
away it is at most an eighth of z. The width and the number of even steps are chosen for the surrogate. A derivative
that is steep and falls off slowly, such as that of `fast_sigmoid`, gets fewer even steps, a smaller width and more
octaves. One that is steeper still has no code: its few large values come from membranes that a code tells to an eighth.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

FIRES, EVEN, PER_OCTAVE = 128, 96, 4
MANTISSA, BIAS = 21, 127 * PER_OCTAVE  # of a float32 without all but the first two bits of its mantissa
WIDTHS = [2.0**-k for k in range(-2, 7)]  # of equally good ones the widest is taken, which tells most of the membrane
FEWER_EVEN = (EVEN, 80, 64)
FAR = 1000.0  # thresholds, as far as derivatives are compared
GOOD, BEARABLE = 0.05, 0.04  # errors of a derivative: of the usual code, else of the best of all, or there is none


class Code(NamedTuple):
    """A code of distances."""

    width: float  # of a power of two, in thresholds
    even: int = EVEN  # steps below it


def encode(z: jax.Array, width: float, even: int = EVEN) -> jax.Array:
    """Distances to the threshold [...] as codes [...] uint8, of a `Code`."""
    y = jnp.abs(z.astype(jnp.float32)) * (1 / width)
    # The exponent and two bits of the mantissa of a float count quarters of octaves.
    steps = jax.lax.bitcast_convert_type(y, jnp.int32) >> MANTISSA
    magnitude = jnp.where(y < 1, (y * even).astype(jnp.int32), jnp.minimum(steps - BIAS + even, FIRES - 1))
    return (magnitude | (z > 0).astype(jnp.int32) * FIRES).astype(jnp.uint8)


def decode(codes: jax.Array, width: float, dtype: jnp.dtype, even: int = EVEN) -> jax.Array:
    """The distances [...] in the middle of what codes [...] stand for."""
    magnitude = (codes & FIRES - 1).astype(jnp.int32)
    near = (magnitude.astype(jnp.float32) + 0.5) / even
    far = jax.lax.bitcast_convert_type(magnitude - even + BIAS << MANTISSA | 1 << MANTISSA - 1, jnp.float32)
    y = jnp.where(magnitude < even, near, far) * width
    return jnp.where(codes >= FIRES, y, -y).astype(dtype)


def fires(codes: jax.Array) -> jax.Array:
    """Whether neurons [...] fire, of codes [...]."""
    return codes >= FIRES


@cache
def fitting_code(derivative: Callable[[jax.Array, None], jax.Array]) -> Code | None:
    """The code that tells a surrogate's derivative best; None where none tells it well.

    With 96 even steps it is the width of the least mean square error over |z| < 2. Where its `_error` is above 5 %, as
    of a steep derivative, that of the least error among all widths, and fewer even steps.
    """
    with jax.ensure_compile_time_eval():
        z = jnp.linspace(-2, 2, 4001)
        exact = derivative(z, None)

        def mean_square(width: float) -> float:
            return float(jnp.square(derivative(decode(encode(z, width), width, z.dtype), None) - exact).mean())

        usual = Code(min(WIDTHS, key=mean_square))
        if _error(derivative, usual) <= GOOD:
            return usual
        others = (Code(width, even) for even in FEWER_EVEN for width in WIDTHS)
        errors = {code: _error(derivative, code) for code in (usual, *others)}
    best = min(errors, key=lambda code: errors[code])
    return best if errors[best] <= BEARABLE else None


def _error(derivative: Callable[[jax.Array, None], jax.Array], code: Code) -> float:
    """How far a derivative of decoded distances is off, infinite where it is not finite.

    The larger one of the largest error, as a share of the derivative's peak, and the mean one over membranes that are
    anywhere within `FAR` alike, as a share of the mean derivative. The distances lie close at 0, where steep ones vary.
    """
    octaves = 2.0 ** np.concatenate([np.arange(-30, -10, 1 / 16), np.arange(1, np.log2(FAR), 1 / 64)])
    above = np.unique(np.concatenate([octaves, np.linspace(0, 2, 8001)[1:]]))
    z = np.concatenate([-above[::-1], [0.0], above]).astype(np.float32)
    weights = np.gradient(z.astype(np.float64))
    told = decode(encode(jnp.asarray(z), code.width, code.even), code.width, jnp.float32, code.even)
    exact, actual = (np.asarray(derivative(jnp.asarray(at), None), np.float64) for at in (z, told))
    off, tiny = np.abs(actual - exact), np.finfo(np.float32).tiny
    error = max(off.max() / max(np.abs(exact).max(), tiny), weights @ off / max(weights @ np.abs(exact), tiny))
    return float(error) if np.isfinite(error) else np.inf
