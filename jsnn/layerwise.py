"""One layer of a presentation at a time: what it is fed, from the kept spikes of the layers before it.

The layers whose spikes are given are replayed, see `jsnn.packed`, so neither they nor what is before them run again.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import jax
import jax.numpy as jnp

from jsnn.models import VGG, ResNet
from jsnn.packed import Train
from jsnn.packing import word_dtype
from jsnn.simulation import Presentation, Variables, rest

Words = Mapping[str, jax.Array]  # layer -> its spikes as words [C, B, ...]


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def observe(
    what: Presentation,
    layer: str,
    before: str | None,
    statistic: Callable[..., jax.Array],
    variables: Variables,
    key: jax.Array,
    images: jax.Array,
    index: jax.Array,
    words: Words,
    *arguments: jax.Array,
) -> tuple[jax.Array, jax.Array | None]:
    """A statistic of a layer's input current in each chunk, and the spikes of the layer before it, in one run.

    Only the layers between those whose spikes are given and this one are run.

    Args:
        what: the presentation.
        layer: name of the layer.
        before: name of the earlier layer whose spikes are asked for, or None.
        statistic: (current [K, B, ...], counted [K, 1, ...], *arguments) -> array; steps of silence do not count.
        variables: SNN variables.
        key: random key of the encoding.
        images: [B, H, W, C] in [-1, 1].
        index: [B] int32, their indices.
        words: spikes of earlier layers.
        arguments: of the statistic.

    Returns:
        (the statistic [C, ...], words [C, B, ...] of the layer before or None).
    """
    names = what.model.spiking_layers
    ahead = names[first_to_run(what.model, words) : names.index(layer)]
    running = [name for name in ahead if name not in words]

    inputs = partial(what.inputs, images, key, index)

    def run(state: Variables, now: tuple[jax.Array, Words]) -> tuple[Variables, tuple[jax.Array, jax.Array | None]]:
        time, words = now
        given = {name: {"lif": Train(word, age=jnp.zeros_like(word))} for name, word in words.items()}
        collections = {**variables, "state": {**at_rest, **state}, "trains": given}
        _, seen = what.model.apply(collections, inputs(time), mutable=["state", "current", "trains"])
        current = seen["current"][layer]["current"]
        found = statistic(current, (time >= 0).reshape(-1, *[1] * (current.ndim - 1)), *arguments)
        spikes = None if before is None else seen["trains"][before]["lif"]
        return {name: seen["state"][name] for name in running}, (found, spikes)

    at_rest = rest(what.model, variables, inputs)
    _, observed = jax.lax.scan(run, {name: at_rest[name] for name in running}, (what.times(), words))
    return observed


def bytes_of_spikes(what: Presentation, variables: Variables, images: jax.Array) -> dict[str, int]:
    """What the spikes of each layer take, kept as words.

    Args:
        what: the presentation.
        variables: SNN variables.
        images: [B, H, W, C], all of them.

    Returns:
        Layer -> bytes.
    """
    image = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
    state = jax.eval_shape(lambda image: rest(what.model, variables, lambda time: image[None]), image)
    num_chunks, length = what.times().shape
    per_neuron = len(images) * num_chunks * word_dtype(length).itemsize
    return {layer: per_neuron * state[layer]["lif"].membrane.size for layer in what.model.spiking_layers}


def first_to_run(model: VGG | ResNet, given: Iterable[str]) -> int:
    """The first layer that has to run where the spikes of some are given.

    Args:
        model: the SNN.
        given: names of layers.

    Returns:
        Its position among the spiking layers.
    """
    positions = {model.spiking_layers.index(layer) for layer in given}
    closed = [i for i in positions if all(i - k in positions or i < k for k in range(model.reach))]
    return max(closed, default=-1) + 1
