"""ANN-to-SNN conversion as pytree transforms: balance thresholds, convert, scale thresholds.

Section 2.2 of Rathi et al., 2020 (arXiv:2005.01807). The weights are never touched: conversion adds a `neuron`
collection with a threshold and a leak for each layer to the ANN's `params`.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp

from jsnn.encoding import Encoding
from jsnn.models import VGG, ResNet
from jsnn.percentile import percentile_of_stream
from jsnn.simulation import Variables, check_steps, simulate

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
        thresholds: layer -> threshold > 0, see `balance_thresholds`.
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
    return _with_neurons(variables, thresholds, leak)


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


def balance_thresholds(
    model: VGG | ResNet,
    variables: Variables,
    images: jax.Array,
    encode: Encoding,
    key: jax.Array,
    *,
    num_steps: int,
    percentile: float = 100.0,
    layers: Sequence[str] | None = None,
    chunk: int = 16,
    batch_size: int = 64,
    watch: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> Thresholds:
    """Thresholds for the weights of an ANN, layer by layer, with the earlier layers spiking.

        v_l = max over units, samples and steps of the input current I_l[t],    l = 1 .. L-1, leak 1

    Algorithm 1 of the paper; or a percentile in place of the maximum, as in follow-up work (99.7).

    Args:
        model: the SNN, see `jsnn.models.spiking`.
        variables: {"params": ...} of the ANN.
        images: [B, H, W, C] training images in [-1, 1].
        encode: the encoding, see jsnn.encoding.
        key: random key of the encoding.
        num_steps: T, time steps of the presentation.
        percentile: in (0, 100]: the smallest current that at least this share of all currents does not exceed.
        layers: names of the layers to balance; the others keep threshold 1 (the paper's way with ResNets is
            `model.stem_layers`). None balances every spiking layer.
        chunk: time steps per chunk; bounds the memory, does not change the result.
        batch_size: images at a time; bounds the memory, does not change the result.
        watch: wraps the iterable of layers, e.g. into a progress bar.

    Returns:
        Layer -> threshold, in forward order.

    Raises:
        ValueError: where the params can't be converted, an argument is out of its range, or a layer's current is
            never above 0, so that no threshold exists.
    """
    check_convertible(variables, model.spiking_layers)
    check_steps(num_steps, chunk)
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile must be in (0, 100], got {percentile}.")
    if batch_size < 1 or len(images) < 1:
        raise ValueError(f"balancing needs images and a batch_size of at least 1, got {len(images)} and {batch_size}.")
    chosen = model.spiking_layers if layers is None else tuple(layers)
    for layer in chosen:
        if layer not in model.spiking_layers:
            raise ValueError(f"no layer {layer!r} to balance: the model has {', '.join(model.spiking_layers)}.")

    thresholds = {layer: jnp.ones((), images.dtype) for layer in model.spiking_layers}
    for layer in watch([name for name in model.spiking_layers if name in chosen]):
        snn = _with_neurons(variables, thresholds, leak=1.0)
        measure = partial(_measure, model, encode, layer, num_steps, chunk, batch_size, snn, images, key)
        threshold = measure(jnp.max).max() if percentile == 100 else percentile_of_stream(measure, percentile)
        if not threshold > 0:
            raise ValueError(
                f"the input current of {layer} has maximum or percentile {float(threshold)}, so it would never spike: "
                "train the ANN longer, balance on more images or raise the percentile."
            )
        thresholds[layer] = jnp.asarray(threshold, images.dtype)
    return thresholds


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


def _is_known(value: jax.Array | float) -> bool:
    """Whether a value can be checked: inside a transformation of jax it has none yet."""
    return not isinstance(value, jax.core.Tracer)


def _with_neurons(
    variables: Variables, thresholds: Mapping[str, jax.Array | float], leak: jax.Array | float
) -> Variables:
    """`convert` without its checks."""
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
    if _is_known(leaf) and not jnp.isfinite(leaf).all():
        return "it holds NaN or infinity; go back to a checkpoint with finite weights"
    return None


def _measure(
    model: VGG | ResNet,
    encode: Encoding,
    layer: str,
    num_steps: int,
    chunk: int,
    batch_size: int,
    variables: Variables,
    images: jax.Array,
    key: jax.Array,
    statistic: Callable[..., jax.Array],
    *arguments: jax.Array,
) -> jax.Array:
    """`statistic` of the input current of one layer for each batch and chunk, stacked along the first axis."""
    index = jnp.arange(images.shape[0], dtype=jnp.int32)
    run = partial(_measure_batch, model, encode, layer, num_steps, chunk, statistic, variables, key)
    starts = range(0, images.shape[0], batch_size)
    batches = [slice(start, start + batch_size) for start in starts]
    return jnp.concatenate([run(images[batch], index[batch], *arguments) for batch in batches])


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5))
def _measure_batch(
    model: VGG | ResNet,
    encode: Encoding,
    layer: str,
    num_steps: int,
    chunk: int,
    statistic: Callable[..., jax.Array],
    variables: Variables,
    key: jax.Array,
    images: jax.Array,
    index: jax.Array,
    *arguments: jax.Array,
) -> jax.Array:
    """`statistic` of each chunk. Layers behind the one asked for are not observed, so the compiler drops them."""
    return simulate(
        model,
        variables,
        lambda time: encode(images, key, index, time),
        lambda _, seen: statistic(seen["current"][layer]["current"], *arguments)[None],
        num_steps=num_steps,
        chunk=chunk,
        collect=("current",),
    )
