"""ANN-to-SNN conversion as a pytree transform, and the thresholds that an ANN was trained with.

Section 2.2 of Rathi et al., 2020 (arXiv:2005.01807). The weights are never touched: conversion adds a collection
"neurons" to the ANN's variables, with a threshold for each layer, in the ANN's units.
"""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsnn.kernels.precision import dtype_of_sums
from jsnn.network.calls import check_variables, is_array
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
        thresholds: layer -> threshold > 0, a scalar or broadcastable to the layer, see `jsnn.balance_thresholds`. The
            neurons of a layer that stands for relu6 or clip run with the largest value of that where theirs is above.
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
    check_variables(variables)
    check_finite(variables)
    dtype = _dtype_of_neurons(variables)
    values = {name: _as_numbers(name, value, dtype) for name, value in values.items()}
    for name in parameters:
        if not all_values(values[name], np.isfinite):
            raise ValueError(f"{name} must be finite, got {values[name]}.")
    for name, text, holds, advice in snn.neuron.ranges:
        if name in values and not all_values(values[name], holds):
            raise ValueError(f"{name} must be {text}, got {values[name]}: {advice}.")
    if not isinstance(thresholds, Mapping):
        raise ValueError(f"thresholds are a mapping of layers to theirs, got {thresholds!r}: name each layer.")
    neurons = {}
    for layer, threshold in thresholds.items():
        of_layer = _as_numbers(f"the threshold of {layer}", threshold, dtype)
        if not all_values(of_layer, lambda v: (v > 0) & (v < math.inf)):
            raise ValueError(f"the threshold of {layer} must be above 0 and finite, got {of_layer}.")
        neurons[layer] = jax.tree.map(jnp.asarray, {**values, "threshold": of_layer})
    return {**variables, NEURONS: neurons}


def _dtype_of_neurons(variables: Variables) -> np.dtype:
    """The dtype of neurons' parameters, that of the weights but for those of fewer bits than float32."""
    dtypes = (leaf.dtype for leaf in jax.tree.leaves(variables) if is_array(leaf))
    sums = (dtype_of_sums(dtype) for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating))
    return jnp.result_type(jnp.float32, *sums)


def _as_numbers(name: str, value: Any, dtype: np.dtype) -> jax.Array | np.ndarray:
    """A parameter of neurons in a dtype, an array of NumPy where it is known: inside jit one of JAX is not."""
    numbers = value if isinstance(value, jax.core.Tracer) else np.asarray(value)
    if not (jnp.issubdtype(numbers.dtype, jnp.floating) or jnp.issubdtype(numbers.dtype, jnp.integer)):
        raise ValueError(f"{name} must be real numbers, got {value!r}.")
    with np.errstate(over="ignore"):  # what becomes infinite is refused
        return numbers.astype(dtype)


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
        if not all_values(leaf, np.isfinite):
            where = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(f"{where} holds NaN or infinity: go back to a checkpoint with finite weights.")


def all_values(value: Any, holds: Callable[[np.ndarray], Any]) -> bool:
    """Whether a condition holds everywhere; inside a transformation of jax nothing is known yet, and it passes.

    So do values that are no numbers, as the random keys of an NNX network's dropout.
    """
    if isinstance(value, jax.core.Tracer) or not jnp.issubdtype(jnp.result_type(value), np.number):
        return True
    return bool(np.all(holds(np.asarray(value))))
