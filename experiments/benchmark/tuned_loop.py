"""The step loop of `step_loop`, as fast as we could make it in PyTorch: the same mathematics, another order of work.

Channels last in memory, updates in place where nothing of them is saved, and exp(-beta * dt) as a trace that is
multiplied by exp(-beta) at each step and set back by a spike, so that nothing but it is kept for the backward pass.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from experiments.benchmark.contestant import Contestant
from experiments.benchmark.problem import Problem
from experiments.benchmark.step_loop import ALPHA, BETA
from experiments.benchmark.torch_loop import looping, neurons_of
from experiments.benchmark.torch_network import synapses

DECAY = math.exp(-BETA)


class State(NamedTuple):
    """What a layer of neurons keeps from one step to the next.

    Attributes:
        membrane: u.
        spikes: o, without gradient.
        trace: exp(-beta * dt) of the step to come, 0 before the first spike.
    """

    membrane: Tensor
    spikes: Tensor
    trace: Tensor


class Spike(torch.autograd.Function):
    """Fire where u > v; do/du = alpha / v * exp(-beta * dt)."""

    @staticmethod
    def forward(ctx: Any, membrane: Tensor, trace: Tensor, threshold: float) -> Tensor:
        """Compare with the threshold.

        Args:
            ctx: what backward is handed.
            membrane: u.
            trace: exp(-beta * dt).
            threshold: v.

        Returns:
            0 or 1.
        """
        ctx.save_for_backward(trace)
        ctx.scale = ALPHA / threshold
        return (membrane > threshold).to(membrane.dtype)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None]:
        """Multiply by the surrogate derivative.

        Args:
            ctx: what forward left.
            cotangent: gradient with respect to the spikes.

        Returns:
            Gradient with respect to the membrane; the trace and the threshold have none.
        """
        (trace,) = ctx.saved_tensors
        return (cotangent * trace).mul_(ctx.scale), None, None


def fire(current: Tensor, state: State | None, time: int, threshold: float, leak: float) -> tuple[Tensor, State]:
    """One time step of a layer of neurons.

        u[t] = leak * u[t-1] + I[t] - v * o[t-1],  o[t] = u[t] > v

    Args:
        current: I[t].
        state: the layer's state; None at the first step.
        time: not used.
        threshold: v.
        leak: of the membrane.

    Returns:
        o[t] and the next state.
    """
    del time
    if state is None:
        zeros = torch.zeros_like(current)
        state = State(zeros, zeros, zeros)
    # In place where nothing of it is saved for backward; the reset has no gradient.
    membrane = torch.add(current, state.membrane, alpha=leak).sub_(state.spikes, alpha=threshold)
    spikes = Spike.apply(membrane, state.trace, threshold)
    fired, trace = spikes.detach(), state.trace
    if torch.is_grad_enabled():
        trace = torch.maximum(trace, fired).mul_(DECAY)  # a spike sets exp(-beta * dt) back to exp(-beta)
    return spikes, State(membrane, fired, trace)


def make(problem: Problem, num_steps: int, device: str) -> Contestant:
    """The tuned step loop as a contestant.

    Args:
        problem, num_steps, device: see `ours.make`.

    Returns:
        The contestant.
    """
    return looping(problem, num_steps, device, synapses(problem, device), neurons_of(problem, fire))
