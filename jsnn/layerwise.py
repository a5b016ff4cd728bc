"""One layer of a presentation at a time: what it is fed, from the kept spikes of the layers before it.

The layers whose spikes are given hand them on as they are, so neither they nor what is before them run again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jsnn.layers import Layer
from jsnn.models import VGG, ResNet
from jsnn.neuron import LIFState
from jsnn.packing import unpack, word_dtype
from jsnn.simulation import Presentation, Variables

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
    one = states_at_rest(what.model, images.shape[1:], images.dtype)

    def run(state: Variables, now: tuple[jax.Array, Words]) -> tuple[Variables, tuple[jax.Array, jax.Array | None]]:
        time, words = now
        inputs = what.inputs(images, key, index, time)
        idle = {name: jnp.zeros((*inputs.shape[:2], *state.membrane.shape[1:])) for name, state in one.items()}
        given = {name: unpack(word, len(time), inputs.dtype) for name, word in words.items()}
        known = {name: spikes for name, spikes in {**idle, **given}.items() if name not in (*running, layer)}
        with _given(known):
            collections = {**variables, "state": state}
            _, seen = what.model.apply(collections, inputs, mutable=["state", "current", "trains"])
        current = seen["current"][layer]["current"]
        found = statistic(current, (time >= 0).reshape(-1, *[1] * (current.ndim - 1)), *arguments)
        spikes = None if before is None else seen["trains"][before]["lif"]
        return {name: seen["state"][name] for name in running}, (found, spikes)

    def at_rest(name: str) -> LIFState:
        return jax.tree.map(lambda leaf: jnp.zeros((len(images), *leaf.shape[1:]), leaf.dtype), one[name])

    return jax.lax.scan(run, {name: {"lif": at_rest(name)} for name in running}, (what.times(), words))[1]


@contextmanager
def _given(known: dict[str, Any]) -> Iterator[None]:
    """Within it, layers whose outputs are known need not run, and programs have nothing of them."""
    with nn.intercept_methods(partial(_unless_known, known)):
        try:
            yield
        finally:  # flax forgets the interceptor in an assert: without asserts (python -O) it stays, and must do nothing
            known.clear()


def _unless_known(known: Mapping[str, jax.Array], run: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    """A layer's output: the one that is known, or what the layer gives."""
    if isinstance(context.module, Layer) and context.module.name in known:
        return known[context.module.name]
    return run(*args, **kwargs)


@cache
def states_at_rest(model: VGG | ResNet, image_shape: tuple[int, ...], dtype: jnp.dtype) -> dict[str, LIFState]:
    """The states of all spiking layers for one image, as shapes: tracing the whole model takes a while.

    Args:
        model: the SNN.
        image_shape: (H, W, C).
        dtype: of the images.

    Returns:
        Layer -> LIFState of jax.ShapeDtypeStruct [1, ...].
    """

    def first_step() -> Variables:
        inputs = jnp.zeros((1, 1, *image_shape), dtype)
        return model.apply(model.init(jax.random.key(0), inputs), inputs, mutable=["state"])[1]["state"]

    states = jax.eval_shape(first_step)
    return {layer: states[layer]["lif"] for layer in model.spiking_layers}


def bytes_of_spikes(what: Presentation, images: jax.Array) -> dict[str, int]:
    """What the spikes of each layer take, kept as words.

    Args:
        what: the presentation.
        images: [B, H, W, C], all of them.

    Returns:
        Layer -> bytes.
    """
    num_chunks, length = what.times().shape
    per_neuron = len(images) * num_chunks * word_dtype(length).itemsize
    states = states_at_rest(what.model, images.shape[1:], images.dtype)
    return {layer: per_neuron * state.membrane.size for layer, state in states.items()}


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
