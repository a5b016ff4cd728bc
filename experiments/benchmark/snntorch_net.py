"""The network in snnTorch: a loop over time of `snn.Leaky` neurons, as its tutorials write it."""

from functools import partial

import snntorch as snn
from snntorch import surrogate
from torch import Tensor

from experiments.benchmark.problem import Contestant, Problem
from experiments.benchmark.torch_network import looping, synapses


def make(problem: Problem, num_steps: int, device: str) -> Contestant:
    """The snnTorch network as a contestant: soft reset at the next step, without gradient, which is the paper's."""
    leaky = partial(snn.Leaky, beta=problem.leak, spike_grad=surrogate.fast_sigmoid(), reset_mechanism="subtract")
    neurons = {layer: partial(_fire, leaky(threshold=v).to(device)) for layer, v in problem.thresholds.items()}
    return looping(problem, num_steps, device, synapses(problem, device), neurons)


def _fire(neurons: snn.Leaky, current: Tensor, membrane: Tensor | None, _time: int) -> tuple[Tensor, Tensor]:
    """One time step of a layer's neurons, from rest at the first."""
    return neurons(current, neurons.reset_mem() if membrane is None else membrane)
