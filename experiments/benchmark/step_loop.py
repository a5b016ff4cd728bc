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

from experiments.benchmark.problem import Contestant, Problem
from experiments.benchmark.torch_network import FAST, Fire, channels_first, looping, step_by_step, synapses

ALPHA, BETA = 0.3, 0.01
NEVER = -math.inf  # time of the last spike of a neuron that has not fired

State = tuple[Tensor, Tensor, Tensor]  # membrane u, spikes o, and the time of the last one or the trace exp(-beta * dt)


class Spike(torch.autograd.Function):
    """Fire where x is above a level; `derive` takes the cotangent and what is kept to the gradient of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, level: float, kept: Tensor, derive: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The spikes, 0 or 1."""
        ctx.save_for_backward(kept)
        ctx.derive = derive
        return (x > level).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None, None]:
        """The gradient of x; nothing else has one."""
        return ctx.derive(cotangent, *ctx.saved_tensors), None, None, None


def fire(current: Tensor, state: State | None, time: int, threshold: float, leak: float) -> tuple[Tensor, State]:
    """One time step: u[t] = leak * u[t-1] + I[t] - v * o[t-1],  z[t] = u[t] / v - 1,  o[t] = z[t] > 0."""
    if state is None:
        zeros = torch.zeros_like(current)
        state = zeros, zeros, torch.full_like(current, NEVER)
    membrane, spikes, last_spike = state
    membrane = leak * membrane + current - threshold * spikes.detach()
    z, elapsed = membrane / threshold - 1, time - last_spike
    spikes = Spike.apply(z, 0.0, elapsed, lambda g, elapsed: g * ALPHA * torch.exp(-BETA * elapsed))
    return spikes, (membrane, spikes, last_spike.masked_fill(spikes.bool(), time))


def tuned_fire(current: Tensor, state: State | None, _time: int, threshold: float, leak: float) -> tuple[Tensor, State]:
    """The same, in place where nothing of it is saved for backward; the reset has no gradient."""
    membrane, spikes, trace = state or [torch.zeros_like(current)] * 3
    membrane = torch.add(current, membrane, alpha=leak).sub_(spikes, alpha=threshold)
    spikes = Spike.apply(membrane, threshold, trace, lambda g, trace: (g * trace).mul_(ALPHA / threshold))
    fired = spikes.detach()
    if torch.is_grad_enabled():
        trace = torch.maximum(trace, fired).mul_(math.exp(-BETA))  # a spike sets exp(-beta * dt) back to exp(-beta)
    return spikes, (membrane, fired, trace)


def make(problem: Problem, num_steps: int, device: str, tuned: bool = False) -> Contestant:
    """The step loop as a contestant, in PyTorch's default memory format or tuned."""
    layout = FAST if tuned else torch.contiguous_format
    step = partial(tuned_fire if tuned else fire, leak=problem.leak)
    neurons = {layer: partial(step, threshold=threshold) for layer, threshold in problem.thresholds.items()}
    return looping(problem, num_steps, device, synapses(problem, device, layout), neurons, layout)


@torch.no_grad()
def balance(problem: Problem, num_steps: int, device: str, inputs: Callable[[int], np.ndarray]) -> dict[str, float]:
    """Thresholds as the authors find them: for each layer, all steps again from the input up to it, without leak.

    Args:
        problem: its own thresholds and leak are not used.
        num_steps: T.
        device: "cpu" or "cuda".
        inputs: t -> [B, H, W, C] float32 input spikes of step t, the same at every call.
    """
    network, thresholds = synapses(problem, device, torch.contiguous_format), {}
    neurons: dict[str, Fire] = {}
    for layer in [*network][:-1]:
        steps = (channels_first(inputs(time), device) for time in range(num_steps))
        thresholds[layer] = max(network[layer](x).max().item() for x in step_by_step(network, neurons, steps))
        neurons[layer] = partial(fire, threshold=thresholds[layer], leak=1.0)
    return thresholds
