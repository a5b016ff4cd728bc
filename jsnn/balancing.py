"""Threshold balancing in one pass over the layers.

Each layer runs twice over all time steps: once for its input currents, which give its threshold, and once for its
spikes, kept as bits. The next layer starts from these bits, so that no layer is run again from the input.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsnn.conversion import Thresholds, check_convertible, with_neurons
from jsnn.encoding import Encoding
from jsnn.models import VGG, ResNet
from jsnn.packed import Train
from jsnn.packing import MOST_STEPS, word_dtype
from jsnn.percentile import percentile_of_stream
from jsnn.simulation import Variables, check_steps, from_silence, rest, time_chunks

Trains = dict[str, list[np.ndarray]]  # layer -> words [C, B, ...] of each batch
Statistic = Callable[..., jax.Array]


class Plan(NamedTuple):
    """What stays the same from layer to layer, besides arrays.

    Attributes:
        model: the SNN.
        encode: the encoding.
        num_steps: T.
        chunk: time steps per chunk.
    """

    model: VGG | ResNet
    encode: Encoding
    num_steps: int
    chunk: int

    def times(self) -> jax.Array:
        """The time steps [C, K] of all chunks."""
        return time_chunks(self.num_steps, min(self.chunk, MOST_STEPS))


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
    watch: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> Thresholds:
    """Thresholds for the weights of an ANN, layer by layer, with the earlier layers spiking.

        v_l = max over units, samples and steps of the input current I_l[t],    l = 1 .. L-1, leak 1

    Algorithm 1 of Rathi et al., 2020 (arXiv:2005.01807); or a percentile in place of the maximum, as in follow-up work
    (99.7).

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
        chunk: time steps per chunk; bounds the device's memory, does not change the result.
        batch_size: images at a time; bounds the device's memory, does not change the result.
        keep_bytes: the most that a layer's spikes may take in the host's memory, one bit per neuron, image and step; a
            layer with more is run again for the layers behind it. Does not change the result.
        watch: wraps the iterable of layers, e.g. into a progress bar.

    Returns:
        Layer -> threshold, in forward order.

    Raises:
        ValueError: where the params can't be converted, an argument is out of its range, or a layer's current is
            never above 0, so that no threshold exists.
    """
    check_convertible(variables, model.spiking_layers)
    check_steps(num_steps, chunk)
    chosen = _checked_layers(model, layers, len(images), percentile, batch_size)
    plan = Plan(model, encode, num_steps, chunk)
    thresholds = {layer: jnp.ones((), images.dtype) for layer in model.spiking_layers}
    sizes = _train_bytes(plan, with_neurons(variables, thresholds, 1.0), images)
    trains: Trains = {}
    for layer in watch(model.spiking_layers[: 1 + model.spiking_layers.index(chosen[-1])]):
        batches = partial(_batches, images, trains, batch_size)
        if layer in chosen:
            measure = partial(_measure, plan, layer, with_neurons(variables, thresholds, 1.0), key, batches)
            thresholds[layer] = jnp.asarray(_threshold(layer, measure, percentile), images.dtype)
        if layer != chosen[-1] and sizes[layer] <= keep_bytes:
            snn = with_neurons(variables, thresholds, 1.0)
            words = [np.asarray(_record(plan, layer, snn, key, *batch)) for batch in batches()]
            trains = _within_reach(model, {**trains, layer: words})
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


def _threshold(layer: str, measure: Callable[..., jax.Array], percentile: float) -> np.ndarray:
    """The maximum or percentile of a layer's currents, above 0."""
    threshold = measure(_maximum).max() if percentile == 100 else percentile_of_stream(measure, percentile)
    if not threshold > 0:
        raise ValueError(
            f"the input current of {layer} has maximum or percentile {float(threshold)}, so it would never spike: "
            "train the ANN longer, balance on more images or raise the percentile."
        )
    return threshold


def _maximum(current: jax.Array, counted: jax.Array) -> jax.Array:
    """The largest of the currents that count."""
    return jnp.max(current, where=counted, initial=-jnp.inf)


def _batches(images: jax.Array, trains: Trains, batch_size: int) -> Iterator[tuple]:
    """Each batch: images, their indices and the spikes that are kept of them."""
    index = jnp.arange(len(images), dtype=jnp.int32)
    for number, start in enumerate(range(0, len(images), batch_size)):
        batch = slice(start, start + batch_size)
        yield images[batch], index[batch], {layer: words[number] for layer, words in trains.items()}


def _front(model: VGG | ResNet, given: Iterable[str]) -> int:
    """The position of the first layer that may have to run where the spikes of some are given."""
    positions = {model.spiking_layers.index(layer) for layer in given}
    closed = [i for i in positions if all(i - k in positions or i < k for k in range(model.reach))]
    return max(closed, default=-1) + 1


def _within_reach(model: VGG | ResNet, trains: Trains) -> Trains:
    """The spikes that later layers can start from."""
    first = max(0, _front(model, trains) - model.reach)
    return {layer: words for layer, words in trains.items() if model.spiking_layers.index(layer) >= first}


def _train_bytes(plan: Plan, variables: Variables, images: jax.Array) -> dict[str, int]:
    """What the spikes of each layer take, with one bit per neuron, image and step."""
    image = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
    state = jax.eval_shape(lambda image: rest(plan.model, variables, lambda time: image[None]), image)
    num_chunks, length = plan.times().shape
    per_neuron = len(images) * num_chunks * word_dtype(length).itemsize
    return {layer: per_neuron * state[layer]["lif"].membrane.size for layer in plan.model.spiking_layers}


def _measure(
    plan: Plan,
    layer: str,
    variables: Variables,
    key: jax.Array,
    batches: Callable[[], Iterator[tuple]],
    statistic: Statistic,
    *arguments: jax.Array,
) -> jax.Array:
    """`statistic` of a layer's input current for each batch and chunk, stacked along the first axis."""
    return jnp.concatenate([_statistics(plan, layer, statistic, variables, key, *batch, *arguments) for batch in batches()])


@partial(jax.jit, static_argnums=(0, 1, 2))
def _statistics(
    plan: Plan,
    layer: str,
    statistic: Statistic,
    variables: Variables,
    key: jax.Array,
    images: jax.Array,
    index: jax.Array,
    trains: Mapping[str, jax.Array],
    *arguments: jax.Array,
) -> jax.Array:
    """`statistic` of a layer's input current in each chunk; steps of silence do not count."""

    def observe(seen: Variables, time: jax.Array) -> jax.Array:
        current = seen["current"][layer]["current"]
        return statistic(current, (time >= 0).reshape(-1, *[1] * (current.ndim - 1)), *arguments)

    return _scan(plan, layer, "current", observe, variables, key, images, index, trains)


@partial(jax.jit, static_argnums=(0, 1))
def _record(
    plan: Plan,
    layer: str,
    variables: Variables,
    key: jax.Array,
    images: jax.Array,
    index: jax.Array,
    trains: Mapping[str, jax.Array],
) -> jax.Array:
    """The spikes of a layer, [C, B, ...] of words."""

    def observe(seen: Variables, time: jax.Array) -> jax.Array:
        del time
        return seen["trains"][layer]["lif"]

    return _scan(plan, layer, "trains", observe, variables, key, images, index, trains)


def _scan(
    plan: Plan,
    layer: str,
    collection: str,
    observe: Callable[[Variables, jax.Array], jax.Array],
    variables: Variables,
    key: jax.Array,
    images: jax.Array,
    index: jax.Array,
    trains: Mapping[str, jax.Array],
) -> jax.Array:
    """What `observe` sees of a layer in each chunk. Layers whose spikes are given, and those behind, are not run."""
    names = plan.model.spiking_layers
    ahead = names[_front(plan.model, trains) : names.index(layer) + 1]
    running = [name for name in ahead if name not in trains]

    def inputs(time: jax.Array) -> jax.Array:
        return from_silence(lambda time: plan.encode(images, key, index, time), time)

    def run(state: Variables, now: tuple[jax.Array, Mapping[str, jax.Array]]) -> tuple[Variables, jax.Array]:
        time, words = now
        given = {name: {"lif": Train(word, age=jnp.zeros_like(word))} for name, word in words.items()}
        collections = {**variables, "state": {**at_rest, **state}, "trains": given}
        _, seen = plan.model.apply(collections, inputs(time), mutable=["state", collection])
        return {name: seen["state"][name] for name in running}, observe(seen, time)

    at_rest: Any = rest(plan.model, variables, inputs)
    _, observed = jax.lax.scan(run, {name: at_rest[name] for name in running}, (plan.times(), trains))
    return observed
