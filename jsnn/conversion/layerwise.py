"""Running one layer at a time: its currents, from the kept spikes of the layers before it.

Layers with kept spikes pass these on. Neither they nor anything before them runs again.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax

from jsnn.network.graph import Graph, needed
from jsnn.network.running import Program, run
from jsnn.network.simulation import Presentation
from jsnn.network.transformation import Variables, neurons_of, without_time
from jsnn.neurons.neuron import Parameters, record
from jsnn.neurons.packing import unpack, word_dtype

Words = Mapping[str, jax.Array]  # layer -> its spikes as words [C, B, ...]
Presented = tuple[jax.Array, jax.Array, jax.Array]  # images [B, ...], their index [B] int32, key of the encoding


class Probe(NamedTuple):
    """What is measured of a layer's current, and which spikes are kept on the way to it."""

    layer: str
    wanted: tuple[str, ...]  # names of earlier layers, among those that run, whose spikes are kept
    statistic: Callable[..., jax.Array]  # (current [K, B, ...], counted [K, 1, ...], *arguments) -> array


@partial(jax.jit, static_argnums=(0, 1))
def probe_layer(
    presentation: Presentation,
    probe: Probe,
    variables: Variables,
    presented: Presented,
    words: Words,
    *arguments: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """A statistic [C, ...] of a layer's current in each chunk and the spikes, words [C, B, ...], of layers before it.

    Only the layers between those whose spikes are given as `words` and this one are run.
    """
    images, index, key = presented
    x = inputs_like(presentation, presented)
    graph, arrays = presentation.snn.trace(variables, x)
    target = graph.layers[probe.layer].current
    program = Program(graph, arrays, presentation.snn.kernels, neurons_of(graph, presentation.snn.neuron, variables))
    ahead = layers_run(graph, probe.layer, words)

    def of_chunk(state: dict, now: tuple[jax.Array, Words]) -> tuple[dict, tuple[jax.Array, dict[str, jax.Array]]]:
        time, words = now
        later, recorded = {}, {}

        def spike(name: str, parameters: Parameters, current: jax.Array) -> jax.Array:
            recorded[name], later[name] = record(presentation.snn.neuron, parameters, state[name], current)
            return unpack(recorded[name], len(time), current.dtype)

        inputs = presentation.encode(images, key, index, time)
        spikes = {name: unpack(word, len(time), graph.layers[name].dtype) for name, word in words.items()}
        (current,) = run(program, inputs, spike, [target], spikes)
        counted = (time < presentation.num_steps).reshape(-1, *[1] * (current.ndim - 1))
        value = probe.statistic(current, counted, *arguments)
        return later, (value, {name: recorded[name] for name in probe.wanted})

    states = presentation.snn.initial_state(variables, x)
    return jax.lax.scan(of_chunk, {name: states[name] for name in ahead}, (presentation.times(), words))[1]


def inputs_like(presentation: Presentation, presented: Presented) -> jax.ShapeDtypeStruct:
    """The shape of what a network is fed at one step."""
    images, index, key = presented
    time = presentation.times()[0]
    return without_time(jax.eval_shape(lambda: presentation.encode(images, key, index, time)), len(time))


def layers_run(graph: Graph, layer: str, recorded: Sequence[str] | Words) -> list[str]:
    """The layers, in forward order, that run for the current of one where the spikes of some were recorded."""
    known = {graph.layers[name].output for name in recorded}
    known.add(graph.input)
    operations = needed(graph.operations, [graph.layers[layer].current], known)
    outputs = {number for operation in operations for number in operation.outputs}
    return [name for name, other in graph.layers.items() if other.output in outputs]


def bytes_of_spikes(presentation: Presentation, shape: Sequence[int], num_images: int) -> int:
    """What the spikes of a layer [B, ...] take for all images of a balancing, kept as words."""
    num_chunks, length = presentation.times().shape
    return num_images * num_chunks * word_dtype(length).itemsize * math.prod(shape[1:])
