"""The network in SpikingJelly, layer by layer over all time steps, as is or with its memory optimisation.

Differences from the paper: a membrane of exactly the threshold fires, and a leak below 1 also takes its share of the
reset. The library chooses the neurons' implementation by itself: its own step loop on CPU; on CUDA its compiled
extension where there is one, else its Triton kernels.
"""

from collections.abc import Callable

import torch
from spikingjelly.activation_based import functional, layer, memopt, neuron, surrogate
from torch import Tensor, nn

from experiments.benchmark.problem import Problem, spiking_layers
from experiments.benchmark.roster import Contestant
from experiments.benchmark.torch_network import Observe, contestant, poisson_inputs, synapses


class Block(nn.Sequential):
    """A layer's synapses and neurons: the piece whose insides the memory optimisation computes again."""


def make(problem: Problem, num_steps: int, device: str, memory_optimised: bool = False) -> Contestant:
    """SpikingJelly as a contestant.

    Args:
        problem, num_steps, device: see `ours.make`.
        memory_optimised: keep of each layer only its input spikes, packed to a bit each, and compute it again in the
            backward pass.
    """
    network, draw = _network(problem, device), poisson_inputs(problem, device)
    spiking = spiking_layers(problem)
    if memory_optimised:
        _optimise(network, lambda: draw(num_steps))

    def simulate(observe: Observe) -> Tensor:
        functional.reset_net(network)
        x = draw(num_steps)
        for name, block in network.named_children():
            x = block(x)
            if name in spiking:
                observe(name, x)
        return x.sum(0)

    return contestant(problem, device, network, simulate)


def _network(problem: Problem, device: str) -> nn.Sequential:
    """A Block for each spiking layer, and the readout's synapses."""
    network = nn.Sequential()
    for name, synapse in synapses(problem, device).items():
        over_time = layer.SeqToANNContainer(*synapse)
        spikes = name in spiking_layers(problem)
        network.add_module(name, Block(over_time, _neurons(problem, name)) if spikes else over_time)
    return network


def _neurons(problem: Problem, name: str) -> neuron.BaseNode:
    """A layer's neurons: soft reset without gradient."""
    options = {"v_threshold": float(problem.thresholds[name]), "v_reset": None, "detach_reset": True, "step_mode": "m"}
    options["surrogate_function"] = surrogate.ATan()
    if problem.leak == 1:
        return neuron.IFNode(**options)
    return neuron.LIFNode(tau=1 / (1 - problem.leak), decay_input=False, **options)


def _optimise(network: nn.Sequential, draw: Callable[[], Tensor]) -> None:
    """Checkpoint every Block, in place, and pack its input where that proves to be binary.

    A pool is part of the block after it, so that every block but the first is fed spikes and not their averages.
    """

    def example(current: nn.Module) -> Tensor:
        functional.reset_net(current)
        with torch.no_grad():
            return current(draw())

    network.to(memory_format=torch.contiguous_format)  # with channels last, packing would copy the spikes first
    memopt.optimize_memory(network, Block, example, level=1, checkpoint_budget="memory", compress=True)
