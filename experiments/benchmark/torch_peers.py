"""The network in other PyTorch libraries; each is imported where it is used, for not all need be installed."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from experiments.benchmark.problem import Contestant, Problem
from experiments.benchmark.roster import LINEAR
from experiments.benchmark.step_loop import Outputs, contestant, looping, poisson_inputs, synapses


def snntorch(problem: Problem, num_steps: int, device: str) -> Contestant:
    """A loop over time of `snn.Leaky`, as the tutorials write it; soft reset at the next step, without gradient.

    Its own triangle is none (the derivative's sign changes at the threshold), so fast_sigmoid stands for either.
    """
    from snntorch import Leaky, surrogate

    leaky = partial(Leaky, beta=problem.leak, spike_grad=surrogate.fast_sigmoid(), reset_mechanism="subtract")

    def fire(neurons: Leaky, current: Tensor, membrane: Tensor | None, _time: int) -> tuple[Tensor, Tensor]:
        return neurons(current, neurons.reset_mem() if membrane is None else membrane)

    neurons = {layer: partial(fire, leaky(threshold=v).to(device)) for layer, v in problem.thresholds.items()}
    return looping(problem, num_steps, device, synapses(problem, device), neurons)


def norse(problem: Problem, num_steps: int, device: str) -> Contestant:
    """A loop over time of norse's cheapest cells that can subtract the threshold, LIF without a synaptic current.

    They average, u[t] = u[t-1] + (1 - leak) * (I[t] - u[t-1]), and their triangle is two units wide: so weights are the
    problem's over (1 - leak) and the threshold, and thresholds one. Without a leak 1 - leak is 2^-20, which no sum over
    some hundred steps notices. A leak also takes its share of the reset.
    """
    from norse.torch import LIFBoxCell, LIFBoxFeedForwardState, LIFBoxParameters

    def subtract(z: Tensor, v: Tensor, reset: Tensor, th: Tensor) -> Tensor:
        return v - th * z.detach()  # norse's `reset_subtract` without its gradient and its five temporary arrays

    def fire(cell: LIFBoxCell, current: Tensor, state: LIFBoxFeedForwardState | None, _time: int) -> tuple:
        # The first state of norse's own is a scalar on the CPU that asks for a gradient.
        return cell(current, LIFBoxFeedForwardState(torch.zeros_like(current)) if state is None else state)

    network = synapses(problem, device)
    loss = max(1 - problem.leak, 2.0**-20)  # a power of two, so that the weights' scaling and its undoing are exact
    surrogate = {"method": "triangle", "alpha": 1.0} if problem.surrogate == LINEAR else {}
    lossy = LIFBoxParameters(torch.tensor(loss), v_th=torch.tensor(1.0), reset_method=subtract, **surrogate)
    for layer, threshold in problem.thresholds.items():
        gain = nn.Module()  # the layer multiplies with its weight times this
        gain.forward = partial(torch.mul, other=1 / (loss * threshold))
        parametrize.register_parametrization(network[layer][-1], "weight", gain)
    neurons = {layer: partial(fire, LIFBoxCell(lossy, dt=1.0)) for layer in problem.thresholds}
    return looping(problem, num_steps, device, network, neurons)


class Block(nn.Sequential):
    """A layer's synapses and neurons: the piece whose insides SpikingJelly's memory optimisation computes again."""


def spikingjelly(problem: Problem, num_steps: int, device: str, memory_optimised: bool = False) -> Contestant:
    """Layer by layer over all time steps, as is or keeping of each layer only the input spikes, packed to a bit each.

    A membrane of exactly the threshold fires, and a leak below 1 also takes its share of the reset. The library chooses
    how neurons run: on a CPU by its step loop, on CUDA by its extension where there is one, else by Triton kernels.
    """
    from spikingjelly.activation_based import functional, layer, memopt, neuron, surrogate

    lossy = {"tau": 1 / (1 - problem.leak), "decay_input": False} if problem.leak < 1 else {}
    neurons = partial(neuron.LIFNode if lossy else neuron.IFNode, v_reset=None, detach_reset=True, step_mode="m")
    network, draw = nn.Sequential(), partial(poisson_inputs(problem, device), num_steps)
    for name, synapse in synapses(problem, device).items():
        part = layer.SeqToANNContainer(*synapse)
        if name in problem.thresholds:  # soft reset without gradient
            v = float(problem.thresholds[name])
            of_spikes = surrogate.PiecewiseQuadratic(1 / v) if problem.surrogate == LINEAR else surrogate.ATan()
            part = Block(part, neurons(v_threshold=v, surrogate_function=of_spikes, **lossy))
        network.add_module(name, part)

    @torch.no_grad()
    def run(part: nn.Module) -> Tensor:
        functional.reset_net(part)
        return part(draw())

    def simulate() -> Outputs:
        functional.reset_net(network)
        x = draw()
        for name, block in network.named_children():
            x = block(x)
            yield name, x if name in problem.thresholds else x.sum(0)

    if memory_optimised:  # a Block's input is packed where it proves to be binary: its pool is inside for that
        network.to(memory_format=torch.contiguous_format)  # with channels last, packing would copy the spikes first
        memopt.optimize_memory(network, Block, run, level=1, checkpoint_budget="memory", compress=True)
    return contestant(problem, device, network, simulate)
