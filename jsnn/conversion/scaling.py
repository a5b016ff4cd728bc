"""Thresholds multiplied by a factor, for fewer time steps, and in the paper's units.

Section 2.2 of Rathi et al., 2020 (arXiv:2005.01807). In the paper's units a spike is 1. So the currents of layer l and
its threshold v_l are divided by the threshold V of the layer before,

    v_l = V_l / V_(l-1),    logits = (sum over time of the readout's currents) / V_L
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsnn.conversion.thresholds import all_values
from jsnn.network.transformation import NEURONS, Variables


def scale_thresholds(variables: Variables, factor: jax.Array | float) -> Variables:
    """Multiply the thresholds of an SNN by one factor, for fewer time steps.

        V_l -> factor * V_l

    No layer that stands for relu6 or clip runs with more than the largest value of that, see `convert`. Meant for
    neurons with initial 1/2: with initial 0 a layer spikes late behind layers that do, and deep ones hardly
    within few steps, see `scale_paper_thresholds`.

    Args:
        variables: of the SNN, see `convert`.
        factor: above 0, a number or a traced scalar.

    Returns:
        The variables, with the same weights and other parameters.

    Raises:
        ValueError: where the factor is no number above 0, or a threshold times it is none (inside jit neither is
            known), or there are no neurons.
    """
    if NEURONS not in variables:
        raise ValueError('variables have no "neurons" whose thresholds could be scaled: get them from jsnn.convert.')
    return _scaled(variables, dict.fromkeys(variables[NEURONS], factor), factor)


def scale_paper_thresholds(variables: Variables, factor: jax.Array | float, order: tuple[str, ...]) -> Variables:
    """Multiply each of the paper's thresholds v_l by one factor, so that V_l falls with depth.

        v_l -> factor * v_l,    V_l -> factor^l * V_l,    l = 1, 2, ... layers in forward order

    Section 2.2 of the paper: 0.7 at T of 100 to 200, smaller where T is smaller.

    Args:
        variables: of the SNN, see `convert`.
        factor: above 0, a number or a traced scalar.
        order: names of the layers in forward order.

    Returns:
        The variables, with the same weights and other parameters.

    Raises:
        ValueError: where the factor is not above 0 or not finite, or a threshold no longer is (inside jit neither is
            known), or the order is not of all layers.
    """
    if sorted(order) != sorted(variables[NEURONS]):
        raise ValueError(f"the order must name the layers {', '.join(variables[NEURONS])}, got {', '.join(order)}.")
    return _scaled(variables, {layer: factor**depth for depth, layer in enumerate(order, start=1)}, factor)


def paper_thresholds(thresholds: Mapping[str, Any]) -> dict[str, Any]:
    """Thresholds in the paper's units: v_l = V_l / V_(l-1).

    Args:
        thresholds: layer -> V_l, a scalar, in forward order, as `balance_thresholds` gives them; jit sorts a dict by
            its names.

    Returns:
        Layer -> v_l.
    """
    values = [1.0, *thresholds.values()]
    return {layer: v / before for layer, (before, v) in zip(thresholds, pairwise(values), strict=True)}


def from_paper_thresholds(thresholds: Mapping[str, Any]) -> dict[str, Any]:
    """Thresholds of the paper in the ANN's units: V_l = v_l V_(l-1).

    Args:
        thresholds: layer -> v_l, in forward order.

    Returns:
        Layer -> V_l.
    """
    product, ours = 1.0, {}
    for layer, v in thresholds.items():
        product = ours[layer] = product * v
    return ours


def _scaled(variables: Variables, factors: Mapping[str, Any], factor: Any) -> Variables:
    if not isinstance(factor, Real | np.ndarray | jax.Array) or jnp.shape(factor) != ():
        raise ValueError(f"the threshold scaling factor must be one number, got {factor!r}.")
    if not all_values(factor, lambda f: (f > 0) & (f < math.inf)):
        raise ValueError(f"the threshold scaling factor must be above 0 and finite, got {factor}.")
    neurons = {}
    for layer, values in variables[NEURONS].items():
        threshold = values["threshold"] * factors[layer]
        if not all_values(threshold, lambda v: (v > 0) & (v < math.inf)):
            raise ValueError(f"the threshold of {layer} times {factor} is {threshold}: take a factor nearer to 1.")
        neurons[layer] = {**values, "threshold": threshold}
    return {**variables, NEURONS: neurons}
