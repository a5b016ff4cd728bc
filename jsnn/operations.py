"""What a network costs: the ANN's multiply-accumulates, the SNN's accumulates, and the energy of either.

An ANN multiplies every input by every weight. An SNN adds the weights of a synapse where a spike arrives, so that it
costs what its neurons fire. Average pools sum spikes and count nothing; padding counts as if it were there.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

PICOJOULES_MAC, PICOJOULES_AC = 4.6, 0.9  # float32 at 45 nm: multiply and add, add alone (Horowitz, ISSCC 2014)


class LayerShape(NamedTuple):
    """The size of a layer for one image.

    Attributes:
        inputs: numbers that enter it.
        outputs: neurons that it drives.
        fan_in: synapses of each of them.
    """

    inputs: int
    outputs: int
    fan_in: int


def layer_shapes(model: nn.Module, image_shape: Sequence[int]) -> dict[str, LayerShape]:
    """The sizes of all layers with weights, found by tracing the model, which computes nothing.

    Args:
        model: an ANN, see `jsnn.models.build`.
        image_shape: (H, W, C), in pixels and channels.

    Returns:
        Layer -> LayerShape in forward order; a ResNet's shortcuts that have weights are layers of their own.
    """
    shapes: dict[str, LayerShape] = {}

    def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        outputs = call(*args, **kwargs)
        if context.method_name == "__call__" and context.module.has_variable("params", "kernel"):
            kernel = context.module.get_variable("params", "kernel")
            fan_in = kernel.size // kernel.shape[-1]
            shapes[context.module.scope.name] = LayerShape(args[0].size, outputs.size, fan_in)
        return outputs

    with nn.intercept_methods(note):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *image_shape)))
    return shapes


def multiply_accumulates(model: nn.Module, image_shape: Sequence[int]) -> dict[str, int]:
    """The multiply-accumulates of an ANN for one image, outputs * fan_in in each layer.

    Also those of one time step of its SNN on dense hardware, which multiplies silent inputs too.

    Args:
        model: an ANN.
        image_shape: (H, W, C), in pixels and channels.

    Returns:
        Layer -> number of multiply-accumulates, the readout's last.
    """
    return {name: shape.outputs * shape.fan_in for name, shape in layer_shapes(model, image_shape).items()}


def neurons(model: nn.Module, image_shape: Sequence[int]) -> dict[str, int]:
    """The numbers of spiking neurons.

    Args:
        model: a VGG or ResNet.
        image_shape: (H, W, C), in pixels and channels.

    Returns:
        Layer with a threshold -> number of its neurons, in forward order.
    """
    shapes = layer_shapes(model, image_shape)
    return {name: shapes[name].outputs for name in model.spiking_layers}


def accumulates(
    model: nn.Module, image_shape: Sequence[int], spikes_per_neuron: Mapping[str, float], input_spikes: float
) -> dict[str, float]:
    """The accumulates of an SNN for one image, (arriving spikes) * outputs * fan_in / inputs in each layer's synapses.

    A spike costs one accumulate for each synapse that it reaches, its fan-out (Rueckauer et al., 2017,
    doi:10.3389/fnins.2017.00682), which is outputs * fan_in / inputs on average over the inputs of a layer. A
    pool hands a spike on to the synapses of one pixel.

    Args:
        model: a VGG, as an ANN: each layer gets input from the one before it alone.
        image_shape: (H, W, C), in pixels and channels.
        spikes_per_neuron: layer -> spikes in a presentation, a mean over its neurons; 0 where it is missing.
        input_spikes: spikes in a presentation, a mean over pixels and channels.

    Returns:
        Layer -> number of accumulates, the readout's last.

    Raises:
        ValueError: where layers get input from farther back, as by a ResNet's shortcuts.
    """
    if model.reach != 1:
        raise ValueError("accumulates can be counted where each layer follows the one before it, as in a VGG.")
    costs: dict[str, float] = {}
    arriving = input_spikes * math.prod(image_shape)  # spikes of all neurons before the layer
    for name, (inputs, outputs, fan_in) in layer_shapes(model, image_shape).items():
        costs[name] = arriving * outputs * fan_in / inputs
        arriving = spikes_per_neuron.get(name, 0.0) * outputs
    return costs
