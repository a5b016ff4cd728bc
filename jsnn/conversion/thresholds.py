"""ANN-to-SNN conversion as pytree transforms: convert, scale thresholds, the paper's units.

Section 2.2 of Rathi et al., 2020 (arXiv:2005.01807). The weights are never touched: conversion adds a collection
"neurons" to the ANN's variables, with a threshold for each layer, in the ANN's units.

The paper's units are others: there a spike is 1, so that the currents of layer l, and its threshold v_l with them, are
smaller by the threshold V of the layer before,

    v_l = V_l / V_(l-1),    logits = (sum over time of the readout's currents) / V_L
"""

import math
from collections.abc import Callable, Collection, Mapping
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsnn.network.running import Program, constants
from jsnn.network.transformation import NEURONS, SNN, Variables

Thresholds = dict[str, jax.Array]  # layer -> threshold in forward order, a scalar or one by channel or neuron


def convert(
    snn: SNN, variables: Variables, thresholds: Mapping[str, Any], **parameters: jax.Array | float
) -> Variables:
    """The SNN variables of an ANN: the very same weights, with the parameters of its neurons.

    Works inside jit, grad and vmap too, where values are not known and not checked.

    Args:
        snn: the network, see `jsnn.spiking`.
        variables: of the ANN, {"params": ...} and what else it has.
        thresholds: layer -> threshold > 0, a scalar or broadcastable to the layer, see `jsnn.balance_thresholds`.
        parameters: others of the neurons, one for all layers, as leak of `jsnn.lif` (1 is the IF neuron, its default).

    Returns:
        The variables with "neurons" beside what was there: layer -> {"threshold", "leak", ...}.

    Raises:
        ValueError: where a weight, a threshold or another parameter is out of its range, or the neurons have no such
            parameter.
    """
    if "threshold" in parameters:
        raise ValueError(f"thresholds are named by layer: leave out threshold, got {parameters['threshold']}.")
    values = {**snn.neuron.parameters(), **parameters}
    _check_names(snn, parameters)
    for name, value in parameters.items():
        if not _all(value, np.isfinite):
            raise ValueError(f"{name} must be finite, got {value}.")
    for name, text, holds, advice in snn.neuron.ranges:
        if name in values and not _all(values[name], holds):
            raise ValueError(f"{name} must be {text}, got {values[name]}: {advice}.")
    for layer, threshold in thresholds.items():
        if not _all(threshold, lambda v: (v > 0) & (v < math.inf)):
            raise ValueError(f"the threshold of {layer} must be above 0 and finite, got {threshold}.")
    check_finite(variables)
    weights = [leaf for leaf in jax.tree.leaves(variables) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]
    dtype = jnp.result_type(*weights, jnp.float32)
    neurons = {
        layer: {name: jnp.asarray(value, dtype) for name, value in {**values, "threshold": threshold}.items()}
        for layer, threshold in thresholds.items()
    }
    return {**variables, NEURONS: neurons}


def trained_thresholds(snn: SNN, variables: Variables, x: Any, *args: Any, **kwargs: Any) -> Thresholds:
    """The thresholds that an ANN was trained with: lam of `jsnn.qcfs`, where that is its activation everywhere.

        V_l = lam_l,    to be converted with initial 1/2: `jsnn.convert(snn, variables, thresholds, initial=0.5)`

    Theorem 2 of Bu et al., 2022 (arXiv:2303.04347). Nothing is run but what lam is made of.

    Args:
        snn: the network, see `jsnn.spiking`.
        variables: of the ANN.
        x: [B, ...] inputs of one time step, or their jax.ShapeDtypeStruct.
        args, kwargs: of the ANN's function behind its input.

    Returns:
        Layer -> threshold of the shape of lam, in forward order.

    Raises:
        ValueError: where a layer has another activation: then `balance_thresholds` finds the thresholds, these too.
    """
    thresholds = thresholds_of_qcfs(snn, variables, x, *args, **kwargs)
    graph, _ = snn.trace(variables, x, *args, **kwargs)
    if others := [name for name in graph.layers if name not in thresholds]:
        raise ValueError(f"{others[0]} stands for no qcfs, so that it has no threshold yet: use balance_thresholds.")
    return thresholds


def thresholds_of_qcfs(snn: SNN, variables: Variables, x: Any, *args: Any, **kwargs: Any) -> Thresholds:
    """Layer -> lam of each layer that stands for `jsnn.qcfs`, see `trained_thresholds`."""
    graph, arrays = snn.trace(variables, x, *args, **kwargs)
    numbers = {name: layer.threshold for name, layer in graph.layers.items() if layer.threshold is not None}
    program = Program(graph, arrays, snn.kernels, {})
    return dict(zip(numbers, constants(program, list(numbers.values())), strict=True))


def parameters_by_channel(snn: SNN, variables: Variables, x: Any, names: Collection[str]) -> Variables:
    """Some parameters of neurons as arrays [C], one number for each channel of a layer, to be trained apart.

    Args:
        snn: the network.
        variables: of the SNN.
        x: [B, ...] inputs of one time step, or their jax.ShapeDtypeStruct.
        names: of the parameters, as "initial"; others are left as they are.

    Returns:
        The variables, which compute the same.

    Raises:
        ValueError: where the neurons have no parameter of a name.
    """
    _check_names(snn, names)
    layers = snn.trace(variables, x)[0].layers
    neurons = {
        layer: {
            name: jnp.broadcast_to(value, layers[layer].shape[-1:]) if name in names else value
            for name, value in parameters.items()
        }
        for layer, parameters in variables[NEURONS].items()
    }
    return {**variables, NEURONS: neurons}


def _check_names(snn: SNN, names: Collection[str]) -> None:
    """Refuse names of parameters that the neurons do not have."""
    for name in set(names) - set(snn.neuron.parameters()):
        raise ValueError(f"these neurons have no {name!r}, but {', '.join(snn.neuron.parameters())}.")


def check_finite(variables: Variables) -> None:
    """Refuse variables that hold NaN or infinity, naming the first that does."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(dict(variables)):
        if not _all(leaf, np.isfinite):
            where = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(f"{where} holds NaN or infinity: go back to a checkpoint with finite weights.")


def scale_thresholds(variables: Variables, factor: jax.Array | float) -> Variables:
    """Multiply the thresholds of an SNN by one factor, for fewer time steps.

        V_l -> factor * V_l

    Meant for neurons with initial 1/2: with initial 0 a layer spikes late behind layers that do, and deep ones hardly
    within few steps, see `scale_paper_thresholds`.

    Args:
        variables: of the SNN, see `convert`.
        factor: above 0, a number or a traced scalar.

    Returns:
        The variables, with the same weights and other parameters.

    Raises:
        ValueError: where the factor is not above 0 or not finite.
    """
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
        ValueError: where the factor is not above 0 or not finite, or the order is not of all layers.
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
    if not _all(factor, lambda f: (f > 0) & (f < math.inf)):
        raise ValueError(f"the threshold scaling factor must be above 0 and finite, got {factor}.")
    neurons = {
        layer: {**values, "threshold": values["threshold"] * factors[layer]}
        for layer, values in variables[NEURONS].items()
    }
    return {**variables, NEURONS: neurons}


def _all(value: Any, holds: Callable[[np.ndarray], Any]) -> bool:
    """Whether a condition holds everywhere; inside a transformation of jax nothing is known yet, and it passes.

    So do values that are no numbers, as the random keys of an NNX network's dropout.
    """
    if isinstance(value, jax.core.Tracer) or not jnp.issubdtype(jnp.result_type(value), np.number):
        return True
    return bool(np.all(holds(np.asarray(value))))
