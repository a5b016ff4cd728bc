"""The network in norse: a loop over time of LIF cells without a synaptic current ("box"), its cheapest.

Norse's integrate-and-fire cell resets to a value; only the box cell can subtract the threshold. It averages,

    u[t] = u[t-1] + (1 - leak) * (I[t] - u[t-1])

so the weights that it is given are the problem's over (1 - leak), and where the problem has no leak the cell has one
of 2^-20, which no sum over some hundred steps notices. A leak also takes its share of the reset.
"""

from functools import partial

import torch
from norse.torch import LIFBoxCell, LIFBoxFeedForwardState, LIFBoxParameters
from torch import Tensor, nn
from torch.nn.utils import parametrize

from experiments.benchmark.problem import Contestant, Problem
from experiments.benchmark.torch_network import looping, synapses

LEAST_LOSS = 2.0**-20  # a power of two, so that the weights' scaling and its undoing are exact


class Gain(nn.Module):
    """A weight times a number."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, weight: Tensor) -> Tensor:
        """What the layer multiplies with."""
        return self.gain * weight


def make(problem: Problem, num_steps: int, device: str) -> Contestant:
    """The norse network as a contestant."""
    loss, network = max(1 - problem.leak, LEAST_LOSS), synapses(problem, device)
    for layer in problem.thresholds:
        parametrize.register_parametrization(network[layer][-1], "weight", Gain(1 / loss))
    lossy = partial(LIFBoxParameters, tau_mem_inv=torch.tensor(loss), reset_method=_subtract)
    cells = {layer: LIFBoxCell(lossy(v_th=torch.tensor(v)), dt=1.0) for layer, v in problem.thresholds.items()}
    neurons = {layer: partial(_fire, cell) for layer, cell in cells.items()}
    return looping(problem, num_steps, device, network, neurons)


def _fire(cell: LIFBoxCell, current: Tensor, state: LIFBoxFeedForwardState | None, _time: int) -> tuple:
    """One time step of a layer's cells."""
    # The first state of norse's own is a scalar on the CPU that asks for a gradient.
    return cell(current, LIFBoxFeedForwardState(torch.zeros_like(current)) if state is None else state)


def _subtract(z: Tensor, v: Tensor, reset: Tensor, th: Tensor) -> Tensor:
    """Norse's `reset_subtract`, (1 - z) * v + z * (v - th), without its gradient and its five temporary arrays."""
    return v - th * z.detach()
