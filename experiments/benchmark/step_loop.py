"""A plain PyTorch step loop with STDB, the way the paper's authors wrote theirs: the graph of all steps, then backward.

Written by us from the equations of Rathi et al., 2020 (arXiv:2005.01807). Their spikes reach the next layer one step
later; here they do not, otherwise the mathematics is the same. Also their way of balancing thresholds.

The tuned loop is the same mathematics as fast as we could make it in PyTorch: channels last in memory, updates in place
where nothing of them is saved, and exp(-beta * dt) as a trace that is multiplied by exp(-beta) at each step and set
back by a spike, so that nothing but it is kept for the backward pass.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.benchmark.problem import Problem, spiking_layers
from experiments.benchmark.roster import Contestant
from experiments.benchmark.torch_network import FAST, Fire, channels_first, looping, step_by_step, synapses

ALPHA, BETA = 0.3, 0.01
DECAY = math.exp(-BETA)
NEVER = -math.inf  # time of the last spike of a neuron that has not fired

State = tuple[Tensor, Tensor, Tensor]  # membrane u, spikes o, and the time of the last one or the trace exp(-beta * dt)


class STDB(torch.autograd.Function):
    """Fire where z > 0; do/dz = alpha * exp(-beta * dt), dt steps after the last spike."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, elapsed: Tensor) -> Tensor:
        """The spikes, 0 or 1."""
        ctx.save_for_backward(elapsed)
        return (z > 0).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        """The gradient with respect to z; dt has none."""
        (elapsed,) = ctx.saved_tensors
        return cotangent * ALPHA * torch.exp(-BETA * elapsed), None


class TracedSTDB(torch.autograd.Function):
    """Fire where u > v; do/du = alpha / v * exp(-beta * dt)."""

    @staticmethod
    def forward(ctx: Any, membrane: Tensor, trace: Tensor, threshold: float) -> Tensor:
        """The spikes, 0 or 1."""
        ctx.save_for_backward(trace)
        ctx.scale = ALPHA / threshold
        return (membrane > threshold).to(membrane.dtype)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None]:
        """The gradient with respect to the membrane; the trace and the threshold have none."""
        (trace,) = ctx.saved_tensors
        return (cotangent * trace).mul_(ctx.scale), None, None


def fire(current: Tensor, state: State | None, time: int, threshold: float, leak: float) -> tuple[Tensor, State]:
    """One time step: u[t] = leak * u[t-1] + I[t] - v * o[t-1],  z[t] = u[t] / v - 1,  o[t] = z[t] > 0."""
    if state is None:
        zeros = torch.zeros_like(current)
        state = zeros, zeros, torch.full_like(current, NEVER)
    membrane, spikes, last_spike = state
    membrane = leak * membrane + current - threshold * spikes.detach()
    spikes = STDB.apply(membrane / threshold - 1, time - last_spike)
    return spikes, (membrane, spikes, last_spike.masked_fill(spikes.bool(), time))


def tuned_fire(current: Tensor, state: State | None, _time: int, threshold: float, leak: float) -> tuple[Tensor, State]:
    """The same, in place where nothing of it is saved for backward; the reset has no gradient."""
    membrane, spikes, trace = state or [torch.zeros_like(current)] * 3
    membrane = torch.add(current, membrane, alpha=leak).sub_(spikes, alpha=threshold)
    spikes = TracedSTDB.apply(membrane, trace, threshold)
    fired = spikes.detach()
    if torch.is_grad_enabled():
        trace = torch.maximum(trace, fired).mul_(DECAY)  # a spike sets exp(-beta * dt) back to exp(-beta)
    return spikes, (membrane, fired, trace)


def neurons_of(problem: Problem, tuned: bool) -> dict[str, Fire]:
    """The neurons of all spiking layers, with the problem's thresholds and leak."""
    one_step, thresholds = tuned_fire if tuned else fire, problem.thresholds
    return {
        layer: partial(one_step, threshold=thresholds[layer], leak=problem.leak) for layer in spiking_layers(problem)
    }


def make(problem: Problem, num_steps: int, device: str, tuned: bool = False) -> Contestant:
    """The step loop as a contestant, in PyTorch's default memory format or tuned."""
    memory_format = FAST if tuned else torch.contiguous_format
    network = synapses(problem, device, memory_format)
    return looping(problem, num_steps, device, network, neurons_of(problem, tuned), memory_format)


@torch.no_grad()
def balance(problem: Problem, num_steps: int, device: str, inputs: Callable[[int], np.ndarray]) -> dict[str, float]:
    """Thresholds as the authors find them: for each layer, all steps again from the input up to it, without leak.

    Args:
        problem: its own thresholds and leak are not used.
        num_steps: T.
        device: "cpu" or "cuda".
        inputs: t -> [B, H, W, C] float32 input spikes of step t, the same at every call.

    Returns:
        Layer -> largest input current, of every layer but the readout.
    """
    network, thresholds = synapses(problem, device, torch.contiguous_format), {}
    neurons: dict[str, Fire] = {}
    for layer in spiking_layers(problem):
        steps = (channels_first(inputs(time), device) for time in range(num_steps))
        thresholds[layer] = max(network[layer](x).max().item() for x in step_by_step(network, neurons, steps))
        neurons[layer] = partial(fire, threshold=thresholds[layer], leak=1.0)
    return thresholds
