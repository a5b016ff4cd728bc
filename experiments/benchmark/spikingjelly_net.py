"""The network in SpikingJelly, layer by layer over all time steps, as is or with its memory optimisation.

Differences from the paper: a membrane of exactly the threshold fires, and a leak below 1 also takes its share of the
reset. The library chooses the neurons' implementation by itself: its own step loop on CPU; on CUDA its compiled
extension where there is one, else its Triton kernels.
"""

from functools import partial

import torch
from spikingjelly.activation_based import functional, layer, memopt, neuron, surrogate
from torch import Tensor, nn

from experiments.benchmark.problem import Contestant, Problem
from experiments.benchmark.torch_network import Observe, contestant, poisson_inputs, synapses


class Block(nn.Sequential):
    """A layer's synapses and neurons: the piece whose insides the memory optimisation computes again."""


def make(problem: Problem, num_steps: int, device: str, memory_optimised: bool = False) -> Contestant:
    """SpikingJelly as a contestant.

    Optimised, it keeps of each layer only the input spikes, packed to a bit each, and computes it again in backward.
    """
    lossy = {"tau": 1 / (1 - problem.leak), "decay_input": False} if problem.leak < 1 else {}
    neurons = partial(
        neuron.LIFNode if lossy else neuron.IFNode, v_reset=None, detach_reset=True, step_mode="m", **lossy
    )
    network, draw = nn.Sequential(), partial(poisson_inputs(problem, device), num_steps)
    for name, synapse in synapses(problem, device).items():
        part = layer.SeqToANNContainer(*synapse)
        if name in problem.thresholds:  # soft reset without gradient
            options = {"v_threshold": float(problem.thresholds[name]), "surrogate_function": surrogate.ATan()}
            part = Block(part, neurons(**options))
        network.add_module(name, part)

    def run(part: nn.Module) -> Tensor:
        functional.reset_net(part)
        with torch.no_grad():
            return part(draw())

    def simulate(observe: Observe) -> Tensor:
        functional.reset_net(network)
        x = draw()
        for name, block in network.named_children():
            x = block(x)
            if name in problem.thresholds:
                observe(name, x)
        return x.sum(0)

    if memory_optimised:  # a Block's input is packed where it proves to be binary: its pool is inside for that
        network.to(memory_format=torch.contiguous_format)  # with channels last, packing would copy the spikes first
        memopt.optimize_memory(network, Block, run, level=1, checkpoint_budget="memory", compress=True)
    return contestant(problem, device, network, simulate)
