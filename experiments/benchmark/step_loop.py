"""A plain PyTorch step loop with STDB, the way the paper's authors wrote theirs: the graph of all steps, then backward.

Written by us from the equations of Rathi et al., 2020 (arXiv:2005.01807). Their spikes reach the next layer one step
later; here they do not, otherwise the mathematics is the same. Also their way of balancing thresholds.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from experiments.benchmark.contestant import Contestant
from experiments.benchmark.problem import Problem
from experiments.benchmark.torch_loop import advance, looping, neurons_of
from experiments.benchmark.torch_network import channels_first, ignore, spiking_layers, synapses

ALPHA, BETA = 0.3, 0.01
NEVER = -math.inf  # time of the last spike of a neuron that has not fired
MEMORY_FORMAT = torch.contiguous_format  # PyTorch's default


class State(NamedTuple):
    """What a layer of neurons keeps from one step to the next.

    Attributes:
        membrane: u.
        spikes: o.
        last_spike: time step of the last spike.
    """

    membrane: Tensor
    spikes: Tensor
    last_spike: Tensor


class STDB(torch.autograd.Function):
    """Fire where z > 0; do/dz = alpha * exp(-beta * dt)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, elapsed: Tensor) -> Tensor:
        """Compare with the threshold.

        Args:
            ctx: what backward is handed.
            z: u / v - 1.
            elapsed: dt, steps since the last spike; infinite where there is none.

        Returns:
            0 or 1.
        """
        ctx.save_for_backward(elapsed)
        return (z > 0).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        """Multiply by the surrogate derivative.

        Args:
            ctx: what forward left.
            cotangent: gradient with respect to the spikes.

        Returns:
            Gradient with respect to z; dt has none.
        """
        (elapsed,) = ctx.saved_tensors
        return cotangent * ALPHA * torch.exp(-BETA * elapsed), None


def fire(current: Tensor, state: State | None, time: int, threshold: float, leak: float) -> tuple[Tensor, State]:
    """One time step of a layer of neurons.

        u[t] = leak * u[t-1] + I[t] - v * o[t-1],    z[t] = u[t] / v - 1,    o[t] = z[t] > 0

    Args:
        current: I[t].
        state: the layer's state; None at the first step.
        time: t.
        threshold: v.
        leak: of the membrane.

    Returns:
        o[t] and the next state.
    """
    if state is None:
        zeros = torch.zeros_like(current)
        state = State(zeros, zeros, torch.full_like(current, NEVER))
    membrane = leak * state.membrane + current - threshold * state.spikes.detach()
    spikes = STDB.apply(membrane / threshold - 1, time - state.last_spike)
    return spikes, State(membrane, spikes, state.last_spike.masked_fill(spikes.bool(), time))


def make(problem: Problem, num_steps: int, device: str) -> Contestant:
    """The step loop as a contestant.

    Args:
        problem, num_steps, device: see `ours.make`.

    Returns:
        The contestant.
    """
    layers = synapses(problem, device, MEMORY_FORMAT)
    return looping(problem, num_steps, device, layers, neurons_of(problem, fire), MEMORY_FORMAT)


@torch.no_grad()
def balance(problem: Problem, num_steps: int, device: str, inputs: Callable[[int], np.ndarray]) -> dict[str, float]:
    """Thresholds as the authors find them: for each layer, all steps again from the input up to it, without leak.

    Args:
        problem: the problem; its own thresholds and leak are not used.
        num_steps: T.
        device: "cpu" or "cuda".
        inputs: t -> [B, H, W, C] float32 input spikes of step t, the same at every call.

    Returns:
        Layer -> largest input current, of every layer but the readout.
    """
    layers, thresholds = synapses(problem, device, MEMORY_FORMAT), {}
    neurons: dict[str, Callable] = {}
    for layer in spiking_layers(problem):
        largest = -math.inf
        states: dict[str, State] = {}
        for time in range(num_steps):
            x = advance(layers, neurons, channels_first(inputs(time), device), time, states, ignore)
            largest = max(largest, layers[layer](x).max().item())
        thresholds[layer] = largest
        neurons[layer] = partial(fire, threshold=largest, leak=1.0)
    return thresholds
