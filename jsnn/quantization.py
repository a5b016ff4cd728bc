"""QCFS: the activation that an integrate-and-fire neuron has in L time steps, for an ANN that is to be converted."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
        ValueError: where there is no step, x is no floating-point number, or lam is not above 0 (where it is known:
            inside jit it is not).
    """
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
        raise ValueError(f"qcfs needs a floating-point current, got {jnp.result_type(x)}: convert it first.")
    if levels < 1:
        raise ValueError(f"qcfs needs at least 1 level above 0, got {levels}.")
    if not isinstance(lam, jax.core.Tracer) and not np.all(np.asarray(lam) > 0):
        raise ValueError(f"qcfs needs lam above 0, got {lam}: train it as the softplus or exponential of a number.")
    return _marked(levels)(x, lam)


def is_qcfs(name: str, options: Mapping[str, Any]) -> bool:
    """Whether an operation of a jaxpr, by its primitive's name and parameters, is a call of `qcfs`."""
    return name in ("jit", "pjit") and options.get("name") == MARK


@cache
def _marked(levels: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    def quantized(x: jax.Array, lam: jax.Array) -> jax.Array:
        lam = lam.astype(x.dtype)
        share = jnp.where(x >= lam, 1, jnp.where(x > 0, x / lam, 0))  # a clip's gradient is a half at its borders
        rounded = jnp.floor(share * levels + 0.5) / levels
        return lam * (share + jax.lax.stop_gradient(rounded - share))

    quantized.__name__ = MARK
    return jax.jit(quantized)
