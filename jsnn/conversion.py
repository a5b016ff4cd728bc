"""ANN-to-SNN conversion as pytree transforms: convert, scale thresholds.

Section 2.2 of Rathi et al., 2020 (arXiv:2005.01807). The weights are never touched: conversion adds a `neuron`
collection with a threshold and a leak for each layer to the ANN's `params`.
"""

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jsnn.simulation import Variables

Thresholds = dict[str, jax.Array]
FIRST_OF_BLOCK, JOINED_BY_SHORTCUT = "_conv0", "_conv1"  # how the layers of a ResNet's block end


def convert(
    variables: Variables, thresholds: Mapping[str, jax.Array | float], leak: jax.Array | float = 1.0
) -> Variables:
    """The SNN variables of an ANN: the very same weights, with a threshold and a leak for each layer.

    A layer's rates come in units of the product of all thresholds up to it. In a ResNet's block the shortcut has
    passed one threshold v less than the branch that it meets, so it gets the gain 1 / v; in the paper v is 1 there.

    Works inside jit, grad and vmap too, where values are not known and not checked.

    Args:
        variables: {"params": ...} of an ANN without bias and batch norm.
        thresholds: layer -> threshold > 0, see `jsnn.balancing`.
        leak: per step, in (0, 1]; 1 is the IF neuron.

    Returns:
        {"params": the same arrays, "neuron": {layer: {"threshold": [], "leak": []}}}, with a "shortcut_gain": [] in
        layers that a shortcut joins.

    Raises:
        ValueError: where a leaf can't be converted, named by its path, or a threshold or the leak is out of its range.
    """
    check_convertible(variables, tuple(thresholds))
    if _is_known(leak) and not 0 < leak <= 1:
        raise ValueError(f"leak must be in (0, 1], got {leak}: 1 keeps the membrane as it is (IF).")
    for layer, threshold in thresholds.items():
        if _is_known(threshold) and not 0 < float(threshold) < math.inf:
            raise ValueError(f"the threshold of {layer} must be above 0 and finite, got {float(threshold)}.")
    return with_neurons(variables, thresholds, leak)


def scale_thresholds(variables: Variables, factor: jax.Array | float) -> Variables:
    """Multiply all thresholds of an SNN by a factor, for fewer time steps.

    Section 2.2 of the paper: 0.7 at T of 100 to 200, smaller where T is smaller.

    Args:
        variables: SNN variables, see `convert`.
        factor: above 0, a number or a traced scalar.

    Returns:
        SNN variables with the same weights and leaks; shortcut gains follow the thresholds.

    Raises:
        ValueError: where the factor is not above 0 or not finite.
    """
    if _is_known(factor) and not 0 < factor < math.inf:
        raise ValueError(f"the threshold scaling factor must be above 0 and finite, got {factor}.")
    neuron = {layer: dict(values) for layer, values in variables["neuron"].items()}
    for values in neuron.values():
        values["threshold"] = values["threshold"] * factor
        if "shortcut_gain" in values:
            values["shortcut_gain"] = values["shortcut_gain"] / factor
    return {**variables, "neuron": neuron}


def check_convertible(variables: Variables, spiking_layers: Sequence[str]) -> None:
    """Refuse a tree that is not an ANN of bias-free layers with finite weights.

    Args:
        variables: the ANN's variables.
        spiking_layers: names of the layers with a threshold.

    Raises:
        ValueError: naming the path of the first offending leaf and what to do about it.
    """
    if "params" not in variables:
        raise ValueError('variables have no "params": pass {"params": ...}, as the ANN\'s init gives them.')
    for path, leaf in jax.tree_util.tree_leaves_with_path(dict(variables)):
        names = [str(getattr(entry, "key", entry)) for entry in path]
        reason = _objection(names, leaf, spiking_layers)
        if reason:
            raise ValueError(f"{'/'.join(names)} can't be converted: {reason}.")
    missing = [layer for layer in spiking_layers if layer not in variables.get("params", {})]
    if missing:
        raise ValueError(f"params/{missing[0]} can't be converted: the layer has a threshold but no weights.")


def with_neurons(
    variables: Variables, thresholds: Mapping[str, jax.Array | float], leak: jax.Array | float
) -> Variables:
    """`convert` without its checks, for trees that passed them.

    Args:
        variables: {"params": ...}.
        thresholds: layer -> threshold.
        leak: per step.

    Returns:
        {"params": ..., "neuron": ...}.
    """
    dtype = jax.tree.leaves(variables["params"])[0].dtype
    neuron = {
        layer: {"threshold": jnp.asarray(threshold, dtype), "leak": jnp.asarray(leak, dtype)}
        for layer, threshold in thresholds.items()
    }
    for layer, values in neuron.items():
        if layer.endswith(JOINED_BY_SHORTCUT):
            first = layer.removesuffix(JOINED_BY_SHORTCUT) + FIRST_OF_BLOCK
            values["shortcut_gain"] = 1 / neuron[first]["threshold"]
    return {"params": variables["params"], "neuron": neuron}


def _is_known(value: jax.Array | float) -> bool:
    """Whether a value can be checked: inside a transformation of jax it has none yet."""
    return not isinstance(value, jax.core.Tracer)


def _objection(names: list[str], leaf: jax.Array, spiking_layers: Sequence[str]) -> str | None:
    """Why the leaf at the path `names` can't be converted, or None."""
    text = "/".join(names).lower()
    if names[0] == "batch_stats" or "batchnorm" in text or names[-1] in ("scale", "mean", "var"):
        return "spiking networks here have no batch norm; train the ANN without it"
    if names[-1] == "bias":
        return "layers must have no bias; train the ANN with use_bias=False"
    layer = names[1] if len(names) == 3 else text
    known = layer in spiking_layers or layer == "readout" or layer.endswith("_shortcut")
    if names[0] != "params" or names[-1] != "kernel" or not known:
        return f"it is no kernel of a layer with a threshold ({', '.join(spiking_layers)}) or the readout"
    if _is_known(leaf) and not np.isfinite(leaf).all():  # on the host: nothing to compile
        return "it holds NaN or infinity; go back to a checkpoint with finite weights"
    return None
