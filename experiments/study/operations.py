"""Operations of a network for one image: the ANN's multiply-accumulates, the SNN's accumulates.

An SNN adds the weights of a synapse where a spike arrives: a neuron that spikes s times in a presentation costs
s * (its synapses) accumulates, in a layer s * (neurons) * MACs / (inputs). Average pools sum spikes and count nothing.
Energy by Horowitz (2014), 45 nm, float32: 4.6 pJ a multiply-accumulate, 0.9 pJ an accumulate.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.config import AUTO, Config
from experiments.convert import FACTORS
from experiments.runs.networks import build_ann
from jsnn.datasets import info
from jsnn.layers import Layer

PICOJOULES_MAC, PICOJOULES_AC = 4.6, 0.9
TRAINING_IMAGES, VALIDATION_IMAGES = {"fashion_mnist": 55_000, "cifar10": 45_000}, 5_000  # of the splits


def macs(config: Config) -> dict[str, int]:
    """Layer -> multiply-accumulates of a VGG for one image, the readout's last; padding counts as if it were there."""
    return {name: outputs * fan_in for name, (_, outputs, fan_in) in _shapes(config).items()}


def neurons(config: Config) -> dict[str, int]:
    """Spiking layer -> number of its neurons."""
    return {name: outputs for name, (_, outputs, _) in _shapes(config).items() if name != "readout"}


def operations_of_training(config: Config) -> dict[str, float]:
    """Multiply-accumulates of a run on dense hardware, as jsnn executes it: an SNN's at every time step.

    A backward pass counts as two forward passes. The conversion balances thresholds and tries all factors.

    Returns:
        {"ann epoch": ..., "conversion": ..., "snn epoch": ...}.
    """
    of_image, images, convert = sum(macs(config).values()), TRAINING_IMAGES[config.data.dataset], config.convert
    factors = len(FACTORS) if convert.scaling_factor == AUTO else 1
    balancing = convert.balance_images * convert.balance_steps
    return {
        "ann epoch": 3.0 * images * of_image,
        "conversion": (balancing + factors * VALIDATION_IMAGES * convert.num_steps) * of_image,
        "snn epoch": 3.0 * images * of_image * convert.num_steps,
    }


def accumulates(config: Config, spikes_per_neuron: Mapping[str, float], input_spikes: float) -> dict[str, float]:
    """Layer -> accumulates of a VGG's SNN in its synapses for one image, the readout's last.

    Args:
        config: of the VGG.
        spikes_per_neuron: layer -> spikes of a presentation, per neuron.
        input_spikes: of a presentation, per pixel and channel.
    """
    costs: dict[str, float] = {}
    arriving = input_spikes * math.prod(info(config.data.dataset).image_shape)  # spikes of all neurons before the layer
    for name, (inputs, outputs, fan_in) in _shapes(config).items():
        costs[name] = arriving * outputs * fan_in / inputs
        arriving = spikes_per_neuron.get(name, 0.0) * outputs
    return costs


def _shapes(config: Config) -> dict[str, tuple[int, int, int]]:
    """Layer -> (inputs, outputs, synapses of an output)."""
    shapes: dict[str, tuple[int, int, int]] = {}

    def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        outputs = call(*args, **kwargs)
        if isinstance(context.module, Layer) and context.method_name == "__call__":
            kernel = context.module.get_variable("params", "kernel")
            shapes[context.module.name] = (args[0].size, outputs.size, kernel.size // kernel.shape[-1])
        return outputs

    with nn.intercept_methods(note):
        images = jnp.zeros((1, *info(config.data.dataset).image_shape))
        jax.eval_shape(build_ann(config).init, jax.random.key(0), images)
    return shapes
