"""QCFS: an activation with L levels, the mean output of an integrate-and-fire neuron after L time steps."""

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsnn.checks import is_broadcastable, is_whole

MARK = "jsnn_qcfs"  # the name of its call in a jaxpr, by which the transformation knows it


def qcfs(x: jax.Array, lam: jax.Array | float, levels: int) -> jax.Array:
    """Quantisation, clip, floor and shift: the rate that an IF neuron with a constant current has after L steps.

        a = lam clip(floor(x L / lam + 1/2) / L, 0, 1)

    Bu et al., "Optimal ANN-SNN conversion for high-accuracy and ultra-low-latency spiking neural networks", 2022
    (arXiv:2303.04347). The floor has the gradient of a straight line: da/dx = 1 for 0 < x < lam, else 0; da/dlam = 1
    above lam, (a - x) / lam below it and 0 below 0. `jsnn.spiking` puts a layer of neurons in its place, for which
    `jsnn.trained_thresholds` finds lam as the threshold; the initial membrane that belongs to it is half of that.

    Args:
        x: [B, ...] the current.
        lam: its largest value, above 0 and in the unit of x; a scalar, or broadcastable to x, as [C] for one by
            channel. To be trained with the weights.
        levels: L, the number of steps above 0, at least 1. It serves best as many time steps as it has.

    Returns:
        [B, ...], one of the L + 1 multiples of lam / L from 0 to lam.

    Raises:
        ValueError: where levels are no whole number from 1, x is no floating-point number, or lam is not above 0 and
            finite (where it is known: inside jit it is not) or not broadcastable to x.
    """
    if not is_whole(levels) or levels < 1:
        raise ValueError(f"qcfs needs at least 1 level above 0, a whole number of them, got {levels}.")
    is_known = not isinstance(lam, jax.core.Tracer)
    if is_known and not np.all((np.asarray(lam) > 0) & (np.asarray(lam) < math.inf)):
        raise ValueError(
            f"qcfs needs lam above 0 and finite, got {lam}: train it as the softplus or exponential of a number."
        )
    x, lam = jnp.asarray(x), jnp.asarray(lam)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"qcfs needs a floating-point current, got {x.dtype}: convert it first.")
    if not is_broadcastable(lam.shape, x.shape):
        raise ValueError(f"lam of qcfs must be broadcastable to the current {x.shape}, got {lam.shape}.")
    lam = lam if jnp.issubdtype(lam.dtype, jnp.floating) else lam.astype(x.dtype)  # whole numbers have no derivative
    return _quantized(int(levels))(x, lam)


def is_qcfs(name: str, options: Mapping[str, Any]) -> bool:
    """Whether an operation of a jaxpr, by its primitive's name and parameters, is a call of `qcfs`."""
    return name in ("jit", "pjit") and options.get("name") == MARK


@cache
def _quantized(levels: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """QCFS of a number of levels, with the derivatives of a straight line, one marked call in every jaxpr."""

    def jsnn_qcfs(x: jax.Array, lam: jax.Array) -> jax.Array:
        lam = lam.astype(x.dtype)
        share = jnp.where(x >= lam, 1, jnp.where(x <= 0, 0, x / lam))  # neither for NaN, which stays
        return lam * (jnp.floor(share * levels + 0.5) / levels)

    marked = jax.custom_batching.custom_vmap(jax.jit(jsnn_qcfs))

    # By JAX's own rules mapped axes of other places would be moved within the call, which is to be elementwise.
    @marked.def_vmap
    def mapped(size: int, are_mapped: list[bool], x: jax.Array, lam: jax.Array) -> tuple[jax.Array, bool]:
        x_is_mapped, lam_is_mapped = are_mapped
        if not x_is_mapped:
            x = jnp.broadcast_to(x, (size, *x.shape))
        if lam_is_mapped:
            lam = lam.reshape(size, *(1,) * (x.ndim - lam.ndim), *lam.shape[1:])
        return marked(x, lam), True

    function = jax.custom_jvp(marked)

    @function.defjvp
    def derivative(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        (x, lam), (dx, dlam) = primals, (tangent.astype(primals[0].dtype) for tangent in tangents)
        a, lam_x = function(x, lam), lam.astype(x.dtype)
        is_above, is_below = x >= lam_x, x <= 0
        by_lam = jnp.where(is_above, 1, jnp.where(is_below, 0, (a - x) / lam_x))
        return a, jnp.where(is_above | is_below, 0, dx) + by_lam * dlam

    return function
