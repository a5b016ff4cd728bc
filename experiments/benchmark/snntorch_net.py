"""The network in snnTorch: a loop over time of `snn.Leaky` neurons, as its tutorials write it."""

import snntorch as snn
from snntorch import surrogate
from torch import Tensor

from experiments.benchmark.contestant import Contestant
from experiments.benchmark.problem import Problem
from experiments.benchmark.torch_network import (
    Observe,
    PoissonInputs,
    contestant,
    parameters_of,
    spiking_layers,
    synapses,
)


def make(problem: Problem, num_steps: int, device: str) -> Contestant:
    """The snnTorch network as a contestant.

    Args:
        problem: the problem.
        num_steps: T.
        device: "cpu" or "cuda".

    Returns:
        The contestant.
    """
    layers, poisson = synapses(problem, device), PoissonInputs(problem, device)
    neurons = {layer: _neurons(problem, layer).to(device) for layer in spiking_layers(problem)}

    def simulate(observe: Observe) -> Tensor:
        logits: Tensor | float = 0.0
        membranes = {layer: neuron.reset_mem() for layer, neuron in neurons.items()}
        for _ in range(num_steps):
            x = poisson.step()
            for layer, neuron in neurons.items():
                x, membranes[layer] = neuron(layers[layer](x), membranes[layer])
                observe(layer, x)
            logits = logits + layers["readout"](x)
        return logits

    return contestant(problem, device, parameters_of(layers.values()), simulate)


def _neurons(problem: Problem, layer: str) -> snn.Leaky:
    """A layer's neurons: soft reset at the step after the spike, without gradient, which is the paper's."""
    return snn.Leaky(
        beta=problem.leak,
        threshold=problem.thresholds[layer],
        spike_grad=surrogate.fast_sigmoid(),
        reset_mechanism="subtract",
    )
