"""The network in snnTorch: a loop over time of `snn.Leaky` neurons, as its tutorials write it."""

from functools import partial

import snntorch as snn
from snntorch import surrogate
from torch import Tensor

from experiments.benchmark.problem import Problem, spiking_layers
from experiments.benchmark.roster import Contestant
from experiments.benchmark.torch_network import looping, synapses


def make(problem: Problem, num_steps: int, device: str) -> Contestant:
    """The snnTorch network as a contestant."""
    neurons = {layer: partial(_fire, _neurons(problem, layer).to(device)) for layer in spiking_layers(problem)}
    return looping(problem, num_steps, device, synapses(problem, device), neurons)


def _fire(neurons: snn.Leaky, current: Tensor, membrane: Tensor | None, _time: int) -> tuple[Tensor, Tensor]:
    """One time step of a layer's neurons, from rest at the first."""
    return neurons(current, neurons.reset_mem() if membrane is None else membrane)


def _neurons(problem: Problem, layer: str) -> snn.Leaky:
    """A layer's neurons: soft reset at the step after the spike, without gradient, which is the paper's."""
    options = {"spike_grad": surrogate.fast_sigmoid(), "reset_mechanism": "subtract"}
    return snn.Leaky(beta=problem.leak, threshold=problem.thresholds[layer], **options)
