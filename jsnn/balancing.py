"""Threshold balancing in one pass over the layers.

Each layer runs twice over all time steps (three times for a percentile): for its input currents, which give its
threshold, and with that threshold, together with the currents of the next layer. Its spikes are kept as bits, from
which the layers behind it start, so that no layer is run again from the input.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsnn.conversion import Thresholds, check_convertible, with_neurons
from jsnn.encoding import Encoding
from jsnn.folding import Fold, State, fold
from jsnn.layerwise import bytes_of_spikes, first_to_run, observe
from jsnn.models import VGG, ResNet
from jsnn.percentile import lower_histogram, total, upper_half, upper_histogram, whole
from jsnn.simulation import Presentation, Variables, check_steps

Trains = dict[str, list[np.ndarray]]  # layer -> words [C, B, ...] of each batch
AllGather = Callable[[np.ndarray], np.ndarray]


class Setting(NamedTuple):
    """What all passes of a balancing share.

    Attributes:
        presentation: of the SNN.
        key: random key of the encoding.
        images: [B, H, W, C] in [-1, 1].
        index: [B] int32, their indices.
        batch_size: images at a time.
        fold: how a pass is run.
        all_gather: gives the arrays of all processes.
    """

    presentation: Presentation
    key: jax.Array
    images: jax.Array
    index: jax.Array
    batch_size: int
    fold: Fold
    all_gather: AllGather


class Measure(NamedTuple):
    """A statistic of a layer's input current.

    Attributes:
        name: of the passes that take it.
        statistic: (current [K, B, ...], counted [K, 1, ...], *arguments) -> array.
        gather: [n, ...] of n parts of the current -> [...] of all.
        arguments: of the statistic.
    """

    name: str
    statistic: Callable[..., jax.Array]
    gather: Callable[[Any], Any]
    arguments: tuple[jax.Array, ...] = ()


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
    fold: Fold = fold,
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
        fold: how each pass over the batches is run, see `jsnn.folding.fold`; its state is a statistic of the currents.
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
    index = jnp.arange(len(images), dtype=jnp.int32) if index is None else index
    what = Presentation(model, encode, num_steps, chunk)
    setting = Setting(what, key, images, index, batch_size, fold, all_gather)
    thresholds = {layer: jnp.ones((), images.dtype) for layer in model.spiking_layers}
    sizes = bytes_of_spikes(what, images)
    kept = [layer for layer in model.spiking_layers if sizes[layer] <= keep_bytes]
    trains: Trains = {}
    first = Measure("maximum", _maximum, np.max) if percentile == 100 else Measure("upper half", upper_histogram, total)
    for layer in chosen:
        snn = with_neurons(variables, thresholds, 1.0)
        threshold, words = _measured(setting, first, layer, snn, trains, _layer_before(model, layer, kept))
        trains = _within_reach(model, {**trains, **words})
        if percentile < 100:
            upper = upper_half(threshold, percentile)
            second = Measure("lower half", lower_histogram, total, (jnp.uint32(upper.bits),))
            threshold = whole(upper, _measured(setting, second, layer, snn, trains)[0])
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


def _within_reach(model: VGG | ResNet, trains: Trains) -> Trains:
    """The spikes that later layers can start from."""
    first = max(0, first_to_run(model, trains) - model.reach)
    return {layer: words for layer, words in trains.items() if model.spiking_layers.index(layer) >= first}


def _layer_before(model: VGG | ResNet, layer: str, kept: Sequence[str]) -> str | None:
    """The spiking layer before this one, if its spikes are to be kept."""
    position = model.spiking_layers.index(layer)
    before = model.spiking_layers[position - 1] if position else None
    return before if before in kept else None


def _measured(
    setting: Setting, measure: Measure, layer: str, snn: Variables, trains: Trains, before: str | None = None
) -> tuple[Any, Trains]:
    """A statistic of a layer's current over all batches of all processes, and the spikes of the layer before.

    There are no spikes where the pass went on from a state that was saved: then the next layer's gives them.
    """
    images, index, size = setting.images, setting.index, setting.batch_size
    batches, words = -(-len(images) // size), []

    def items(start: int) -> Iterator[tuple]:
        for number in range(start, batches):
            batch = slice(number * size, (number + 1) * size)
            yield images[batch], index[batch], {name: kept[number] for name, kept in trains.items()}

    def add(state: State, batch: tuple) -> State:
        value, spikes = observe(
            setting.presentation, layer, before, measure.statistic, snn, setting.key, *batch, *measure.arguments
        )
        words.append(jax.device_get(spikes))
        value = measure.gather(setting.all_gather(measure.gather(np.asarray(value))))
        return {"value": value if state is None else measure.gather([state["value"], value])}

    value = setting.fold(f"{layer}, {measure.name}", batches, items, add)["value"]
    return value, {before: words} if before and len(words) == batches else {}
