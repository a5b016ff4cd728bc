"""Threshold balancing in one pass over the layers.

Each layer runs twice over all time steps (three times for a percentile). The first run gives its input currents, and so
its threshold. The second run uses this threshold and gives its spikes. The spikes are kept as bits. The next layers
start from them, so no layer runs again from the network's input.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsnn.checks import check_array, is_whole
from jsnn.conversion.layerwise import Probe, bytes_of_spikes, inputs_like, layers_run, probe_layer
from jsnn.conversion.percentile import all_finite, from_halves, lower_histogram, total, upper_half, upper_histogram
from jsnn.conversion.thresholds import Thresholds, check_finite, thresholds_of_qcfs
from jsnn.encoding import Encoding
from jsnn.network.calls import check_variables
from jsnn.network.chunks import check_steps
from jsnn.network.graph import Graph
from jsnn.network.simulation import Presentation
from jsnn.network.transformation import NEURONS, SNN, Variables
from jsnn.progress import Progress, unwatched

KEEP_BYTES = 2**31  # of a layer's spikes, in the host's memory

Words = dict[str, list[np.ndarray]]  # layer -> words [C, B, ...] of each batch
AllGather = Callable[[np.ndarray], np.ndarray]


class Setting(NamedTuple):
    """What all passes of a balancing share."""

    presentation: Presentation
    key: jax.Array  # of the encoding
    images: jax.Array  # [B, ...] as the encoding takes them
    index: jax.Array  # [B] int32, their indices
    batches: Sequence[slice]  # which images go through at a time
    progress: Progress  # watches a pass
    all_gather: AllGather  # gives the arrays of all processes


class Measure(NamedTuple):
    """A statistic of a layer's input current."""

    name: str  # of the passes that take it
    statistic: Callable[..., jax.Array]  # (current [K, B, ...], counted [K, 1, ...], *arguments) -> array
    combine: Callable[[Any], Any]  # [n, ...] of n parts of the current -> [...] of all
    arguments: tuple[jax.Array, ...] = ()  # of the statistic


def balance_thresholds(
    snn: SNN,
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
    keep_bytes: int = KEEP_BYTES,
    index: jax.Array | None = None,
    progress: Progress = unwatched,
    all_gather: AllGather = lambda value: value[None],
) -> Thresholds:
    """Thresholds for the weights of an ANN, layer by layer, with the earlier layers spiking.

        V_l = max over units, samples and steps of the input current I_l[t],    l = 1 .. L-1

    Algorithm 1 of Rathi et al., 2020 (arXiv:2005.01807); or a percentile in place of the maximum, as in follow-up work
    (99.7). A layer that stands for relu6 or clip gets no more than their largest value, and one that stands for
    `jsnn.qcfs` its lam, unseen.

    Args:
        snn: the network, see `jsnn.spiking`; its neurons have their own parameters but for the threshold.
        variables: of the ANN.
        images: [B, ...] training images as the encoding takes them; of several processes, each brings its own, as many
            batches as the others, and the thresholds are those of all.
        encode: the encoding, see jsnn.encoding.
        key: random key of the encoding.
        num_steps: T, time steps of the presentation.
        percentile: in (0, 100]: the smallest current that at least this share of all currents does not exceed; below
            100, of float64 currents rounded to float32.
        layers: names of the layers to balance; the others take the threshold of the layer before them, which is 1 in
            the paper's units (its way with ResNets). None balances every spiking layer.
        chunk: time steps per chunk; bounds the device's memory, does not change the result.
        batch_size: images at a time; bounds the device's memory, does not change the result.
        keep_bytes: the most that a layer's spikes may take in the host's memory, a word of at least 8 bits per neuron,
            image and chunk; a layer with more is run again for the layers behind it. Does not change the result.
        index: [B] int32, the images' indices in the data set, which their noise depends on; None counts from 0.
        progress: watches each pass over the batches, see `jsnn.progress.unwatched`.
        all_gather: an array [...] of each of P processes -> [P, ...] of all, see `jsnn.training.hosts.all_gather`; the
            default is that of a process alone.

    Returns:
        Layer -> threshold, in forward order.

    Raises:
        ValueError: where the network can't become spiking, a weight or a current is not finite, an argument is out of
            its range, processes have different numbers of batches, or a layer's current is never above 0, so that no
            threshold exists.
    """
    check_steps(num_steps, chunk)
    check_variables(variables)
    check_finite(variables)
    _check(variables, images, percentile, batch_size)
    num_batches = _common_number(-(-len(images) // batch_size), all_gather)
    index = jnp.arange(len(images), dtype=jnp.int32) if index is None else index
    presentation = Presentation(snn, encode, num_steps, chunk)
    batches = [slice(number * batch_size, (number + 1) * batch_size) for number in range(num_batches)]
    setting = Setting(presentation, key, images, index, batches, progress, all_gather)
    x = inputs_like(presentation, (images[:batch_size], index[:batch_size], key))
    (graph, _), snn_variables = snn.trace(variables, x), snn.init(variables, x)
    chosen, trained = _checked_layers(graph, layers), thresholds_of_qcfs(snn, variables, x)
    sizes = {name: bytes_of_spikes(presentation, layer.shape, len(images)) for name, layer in graph.layers.items()}
    first = Measure("maximum", maximum, np.max) if percentile == 100 else Measure("upper half", upper_histogram, total)
    thresholds: Thresholds = {}
    words: Words = {}
    before = jnp.ones((), next(iter(graph.layers.values())).dtype)
    for position, (name, layer) in enumerate(graph.layers.items()):
        if name in trained:
            before = jnp.max(trained[name])
        elif name in chosen:
            wanted = tuple(other for other in layers_run(graph, name, words) if sizes[other] <= keep_bytes)
            threshold, spikes = _measured(setting, first, name, snn_variables, words, wanted)
            words = _still_read(graph, position, {**words, **spikes})
            _check_current(name, all_finite(threshold) if percentile < 100 else math.isfinite(threshold))
            if percentile < 100:
                upper = upper_half(threshold, percentile)
                second = Measure("lower half", lower_histogram, total, (jnp.uint32(upper.bits),))
                threshold = from_halves(upper, _measured(setting, second, name, snn_variables, words, ())[0])
            before = jnp.asarray(_positive(name, threshold), layer.dtype)
        if layer.ceiling is not None:
            before = jnp.minimum(before, layer.ceiling)
        thresholds[name] = trained.get(name, before)
        snn_variables[NEURONS][name]["threshold"] = jnp.asarray(thresholds[name], layer.dtype)
    return thresholds


def _still_read(graph: Graph, position: int, words: Words) -> Words:
    """The spikes that later layers begin with, or this one's second pass."""
    later = list(graph.layers.values())[position:]
    return {name: word for name, word in words.items() if any(name in layer.feeds for layer in later)}


def _check(variables: Variables, images: jax.Array, percentile: float, batch_size: int) -> None:
    """Refuse arguments that are out of their range, and those whose values are not known."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((dict(variables), images))):
        raise ValueError("balancing looks at currents on the host, so call it outside of jit, vmap and grad.")
    check_array("images", images)
    if not is_whole(batch_size):
        raise ValueError(f"batch_size must be a whole number of images, got {batch_size!r}.")
    num_images = len(images)
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile must be in (0, 100], got {percentile}.")
    if batch_size < 1 or num_images < 1:
        raise ValueError(f"balancing needs images and a batch_size of at least 1, got {num_images} and {batch_size}.")


def _common_number(num_batches: int, all_gather: AllGather) -> int:
    """The number of batches, which all processes must have: each waits for the others after every batch."""
    numbers = all_gather(np.asarray(num_batches)).tolist()
    if len(set(numbers)) > 1:
        raise ValueError(f"processes balance on as many batches each, got {numbers}: leave out those that others lack.")
    return num_batches


def _checked_layers(graph: Graph, layers: Sequence[str] | None) -> set[str]:
    """The layers to balance, which the network has."""
    if isinstance(layers, str):
        raise ValueError(f"layers are a sequence of names, got {layers!r}: write [{layers!r}].")
    chosen = set(graph.layers if layers is None else layers)
    for layer in chosen - set(graph.layers):
        raise ValueError(f"no layer {layer!r} to balance: the network has {', '.join(graph.layers)}.")
    if not graph.layers:
        raise ValueError("the network has no activation, as jax.nn.relu, that would become a layer of neurons.")
    if not chosen:
        raise ValueError("no layers to balance: name at least one, or None for all.")
    return chosen


def _check_current(layer: str, is_finite: bool) -> None:
    """Refuse to balance a layer whose current is somewhere NaN or infinite."""
    if not is_finite:
        raise ValueError(
            f"the input current of {layer} is not finite: look for NaN in the images, or balance in a dtype in which "
            "it does not overflow."
        )


def _positive(layer: str, threshold: np.floating) -> np.floating:
    """The threshold of a layer, above 0."""
    if not threshold > 0:
        raise ValueError(
            f"the input current of {layer} has maximum or percentile {float(threshold)}, so it would never spike: "
            f"balance on more images, raise the percentile, train the ANN longer or, where {layer} is behind neurons "
            "of your own, see that these spike."
        )
    return threshold


def maximum(current: jax.Array, counted: jax.Array) -> jax.Array:
    """The largest of the currents that count, NaN where one of them is not finite."""
    largest = jnp.max(current, where=counted, initial=-jnp.inf)
    return largest + jnp.sum(0 * current, where=counted)  # XLA:CPU's maximum of many numbers may pass over NaN


def _measured(
    setting: Setting, measure: Measure, layer: str, variables: Variables, words: Words, wanted: tuple[str, ...]
) -> tuple[Any, Words]:
    """A statistic of a layer's current over all batches of all processes, and the spikes of layers before it."""
    probe, recorded, result = Probe(layer, wanted, measure.statistic), {name: [] for name in wanted}, None
    batches = setting.progress(setting.batches, f"{layer}, {measure.name}", len(setting.batches))
    for number, batch in enumerate(batches):
        presented = setting.images[batch], setting.index[batch], setting.key
        if not words:
            inputs_like(setting.presentation, presented)  # refuses pixels out of range, which jit does not know
        kept = {name: of_batches[number] for name, of_batches in words.items()}
        value, spikes = probe_layer(setting.presentation, probe, variables, presented, kept, *measure.arguments)
        for name, word in jax.device_get(spikes).items():
            recorded[name].append(word)
        value = measure.combine(setting.all_gather(measure.combine(np.asarray(value))))
        result = value if result is None else measure.combine([result, value])
    return result, recorded
