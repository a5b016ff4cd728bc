"""Networks in PyTorch that go through all layers at one time step before the next: what such contestants share."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from experiments.benchmark.contestant import Contestant
from experiments.benchmark.problem import Problem
from experiments.benchmark.torch_network import Observe, PoissonInputs, contestant, parameters_of, spiking_layers

Synapses = Mapping[str, nn.Sequential]
Fire = Callable[[Tensor, Any, int], tuple[Tensor, Any]]  # (current, state or None, t) -> (spikes, next state)
Neurons = Mapping[str, Fire]  # of the spiking layers, in forward order


def neurons_of(problem: Problem, fire: Callable[..., tuple[Tensor, Any]]) -> Neurons:
    """The neurons of all spiking layers, with the problem's thresholds and leak.

    Args:
        problem: the problem.
        fire: (current, state or None, t, threshold, leak) -> (spikes, next state).

    Returns:
        The neurons.
    """
    return {
        layer: partial(fire, threshold=problem.thresholds[layer], leak=problem.leak)
        for layer in spiking_layers(problem)
    }


def looping(
    problem: Problem,
    num_steps: int,
    device: str,
    layers: Synapses,
    neurons: Neurons,
    memory_format: torch.memory_format = torch.channels_last,
) -> Contestant:
    """A contestant that runs step by step.

    Args:
        problem: the problem.
        num_steps: T.
        device: "cpu" or "cuda".
        layers: the synapses, the readout last.
        neurons: of the spiking layers.
        memory_format: of the inputs, the same as the weights'.

    Returns:
        The contestant.
    """
    poisson = PoissonInputs(problem, device, memory_format)

    def simulate(observe: Observe) -> Tensor:
        return step_by_step(layers, neurons, poisson.one_by_one(num_steps), observe)

    return contestant(problem, device, parameters_of(layers.values()), simulate)


def step_by_step(layers: Synapses, neurons: Neurons, inputs: Iterable[Tensor], observe: Observe) -> Tensor:
    """Run a network over the inputs of all steps.

    Args:
        layers: the synapses, the readout last.
        neurons: of the spiking layers.
        inputs: T times [B, C, H, W].
        observe: is handed each layer's spikes at each step.

    Returns:
        [B, classes], the sum of the readout's currents.
    """
    logits: Tensor | float = 0.0
    states: dict[str, Any] = {}
    for time, x in enumerate(inputs):
        logits = logits + layers["readout"](advance(layers, neurons, x, time, states, observe))
    return logits


def advance(
    layers: Synapses, neurons: Neurons, x: Tensor, time: int, states: dict[str, Any], observe: Observe
) -> Tensor:
    """One time step of the layers that have neurons.

    Args:
        layers: the synapses.
        neurons: of the spiking layers.
        x: [B, C, H, W] the input of the step.
        time: t.
        states: of the neurons; updated.
        observe: is handed each layer's spikes.

    Returns:
        The spikes of the last layer.
    """
    for layer, fire in neurons.items():
        x, states[layer] = fire(layers[layer](x), states.get(layer), time)
        observe(layer, x)
    return x
