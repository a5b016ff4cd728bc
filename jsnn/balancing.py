"""Threshold balancing in one pass over the layers.

Each layer runs twice over all time steps (three times for a percentile): for its input currents, which give its
threshold, and with that threshold, together with the currents of the next layer. Its spikes are kept as bits, from
which the layers behind it start, so that no layer is run again from the input.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsnn.conversion import Thresholds, check_convertible, with_neurons
from jsnn.encoding import Encoding
from jsnn.layerwise import bytes_of_spikes, first_to_run, observe
from jsnn.models import VGG, ResNet
from jsnn.percentile import lower_histogram, total, upper_half, upper_histogram, whole
from jsnn.simulation import Presentation, Variables, check_steps

Trains = dict[str, list[np.ndarray]]  # layer -> words [C, B, ...] of each batch
Statistic = Callable[..., jax.Array]
Gather = Callable[[Any], Any]
AllGather = Callable[[np.ndarray], np.ndarray]


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
    keep_bytes: int = 2**31,
    index: jax.Array | None = None,
    watch: Callable[[Iterable[str]], Iterable[str]] = iter,
    all_gather: AllGather = lambda value: value[None],
) -> Thresholds:
    """Thresholds for the weights of an ANN, layer by layer, with the earlier layers spiking.

        v_l = max over units, samples and steps of the input current I_l[t],    l = 1 .. L-1, leak 1

    Algorithm 1 of Rathi et al., 2020 (arXiv:2005.01807); or a percentile in place of the maximum, as in follow-up work
    (99.7).

    Args:
        model: the SNN, see `jsnn.models.spiking`.
        variables: {"params": ...} of the ANN.
        images: [B, H, W, C] training images in [-1, 1]; of several processes, each brings its own, and the thresholds
            are those of all.
        encode: the encoding, see jsnn.encoding.
        key: random key of the encoding.
        num_steps: T, time steps of the presentation.
        percentile: in (0, 100]: the smallest current that at least this share of all currents does not exceed.
        layers: names of the layers to balance; the others keep threshold 1 (the paper's way with ResNets is
            `model.stem_layers`). None balances every spiking layer.
        chunk: time steps per chunk; bounds the device's memory, does not change the result.
        batch_size: images at a time; bounds the device's memory, does not change the result.
        keep_bytes: the most that a layer's spikes may take in the host's memory, one bit per neuron, image and step; a
            layer with more is run again for the layers behind it. Does not change the result.
        index: [B] int32, the images' indices in the data set, which their noise depends on; None counts from 0.
        watch: wraps the iterable of layers, e.g. into a progress bar.
        all_gather: an array [...] of each of P processes -> [P, ...] of all, see `jsnn.training.hosts.all_gather`; the
            default is that of a process alone.

    Returns:
        Layer -> threshold, in forward order.

    Raises:
        ValueError: where the params can't be converted, an argument is out of its range, or a layer's current is
            never above 0, so that no threshold exists.
    """
    check_convertible(variables, model.spiking_layers)
    check_steps(num_steps, chunk)
    chosen = _checked_layers(model, layers, len(images), percentile, batch_size)
    what = Presentation(model, encode, num_steps, chunk)
    index = jnp.arange(len(images), dtype=jnp.int32) if index is None else index
    thresholds = {layer: jnp.ones((), images.dtype) for layer in model.spiking_layers}
    sizes = bytes_of_spikes(what, images)
    kept = [layer for layer in model.spiking_layers if sizes[layer] <= keep_bytes]
    trains: Trains = {}
    for layer in watch(chosen):
        snn = with_neurons(variables, thresholds, 1.0)
        look = partial(_look, what, layer, snn, key, (images, index), batch_size)
        statistic, gather = (_maximum, np.max) if percentile == 100 else (upper_histogram, total)
        found, words = look(trains, _layer_before(model, layer, kept), statistic, gather)
        trains = _within_reach(model, {**trains, **words})
        threshold = gather(all_gather(gather(found)))
        if percentile < 100:
            upper = upper_half(threshold, percentile)
            found, _ = look(trains, None, lower_histogram, total, jnp.uint32(upper.bits))
            threshold = whole(upper, total(all_gather(total(found))))
        thresholds[layer] = jnp.asarray(_positive(layer, threshold), images.dtype)
    return thresholds


def _checked_layers(
    model: VGG | ResNet, layers: Sequence[str] | None, num_images: int, percentile: float, batch_size: int
) -> list[str]:
    """The layers to balance in forward order, all arguments in their range."""
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile must be in (0, 100], got {percentile}.")
    if batch_size < 1 or num_images < 1:
        raise ValueError(f"balancing needs images and a batch_size of at least 1, got {num_images} and {batch_size}.")
    chosen = model.spiking_layers if layers is None else tuple(layers)
    for layer in chosen:
        if layer not in model.spiking_layers:
            raise ValueError(f"no layer {layer!r} to balance: the model has {', '.join(model.spiking_layers)}.")
    if not chosen:
        raise ValueError("no layers to balance: name at least one, or None for all.")
    return [layer for layer in model.spiking_layers if layer in chosen]


def _positive(layer: str, threshold: np.floating) -> np.floating:
    """The threshold of a layer, above 0."""
    if not threshold > 0:
        raise ValueError(
            f"the input current of {layer} has maximum or percentile {float(threshold)}, so it would never spike: "
            "train the ANN longer, balance on more images or raise the percentile."
        )
    return threshold


def _maximum(current: jax.Array, counted: jax.Array) -> jax.Array:
    """The largest of the currents that count."""
    return jnp.max(current, where=counted, initial=-jnp.inf)


def _batches(images: jax.Array, index: jax.Array, trains: Trains, batch_size: int) -> Iterator[tuple]:
    """Each batch: images, their indices and the spikes that are kept of them."""
    for number, start in enumerate(range(0, len(images), batch_size)):
        batch = slice(start, start + batch_size)
        yield images[batch], index[batch], {layer: words[number] for layer, words in trains.items()}


def _within_reach(model: VGG | ResNet, trains: Trains) -> Trains:
    """The spikes that later layers can start from."""
    first = max(0, first_to_run(model, trains) - model.reach)
    return {layer: words for layer, words in trains.items() if model.spiking_layers.index(layer) >= first}


def _layer_before(model: VGG | ResNet, layer: str, kept: Sequence[str]) -> str | None:
    """The spiking layer before this one, if its spikes are to be kept."""
    position = model.spiking_layers.index(layer)
    before = model.spiking_layers[position - 1] if position else None
    return before if before in kept else None


def _look(
    what: Presentation,
    layer: str,
    variables: Variables,
    key: jax.Array,
    samples: tuple[jax.Array, jax.Array],
    batch_size: int,
    trains: Trains,
    before: str | None,
    statistic: Statistic,
    gather: Gather,
    *arguments: jax.Array,
) -> tuple[list[np.ndarray], Trains]:
    """A statistic of a layer's current, gathered over the chunks of each batch, and the spikes of the layer before."""
    found, words = [], []
    for batch in _batches(*samples, trains, batch_size):
        value, spikes = observe(what, layer, before, statistic, variables, key, *batch, *arguments)
        found.append(gather(np.asarray(value)))
        words.append(jax.device_get(spikes))
    return found, {} if before is None else {before: words}
