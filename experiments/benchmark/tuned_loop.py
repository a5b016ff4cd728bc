"""The step loop of `step_loop`, as fast as we could make it in PyTorch: the same mathematics, another order of work.

Channels last in memory, updates in place where nothing of them is saved, and exp(-beta * dt) as a trace that is
multiplied by exp(-beta) at each step and set back by a spike, so that nothing but it is kept for the backward pass.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from experiments.benchmark.contestant import Contestant
from experiments.benchmark.problem import Problem
from experiments.benchmark.torch_network import (
    Observe,
    PoissonInputs,
    contestant,
    parameters_of,
    spiking_layers,
    synapses,
)

ALPHA, BETA = 0.3, 0.01
DECAY = math.exp(-BETA)

Synapses = dict[str, nn.Sequential]


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


def fire(current: Tensor, state: State | None, threshold: float, leak: float) -> tuple[Tensor, State]:
    """One time step of a layer of neurons.

        u[t] = leak * u[t-1] + I[t] - v * o[t-1],  o[t] = u[t] > v

    Args:
        current: I[t].
        state: the layer's state; None at the first step.
        threshold: v.
        leak: of the membrane.

    Returns:
        o[t] and the next state.
    """
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


def simulate(
    layers: Synapses, thresholds: dict[str, float], leak: float, inputs: Iterable[Tensor], observe: Observe
) -> Tensor:
    """Run the network over the inputs of all steps.

    Args:
        layers: the synapses, the readout last.
        thresholds: layer -> threshold of the spiking layers, in forward order.
        leak: of the membranes.
        inputs: T times [B, C, H, W].
        observe: is handed each layer's spikes at each step.

    Returns:
        [B, classes], the sum of the readout's currents.
    """
    logits: Tensor | float = 0.0
    states: dict[str, State] = {}
    for x in inputs:
        for layer, threshold in thresholds.items():
            x, states[layer] = fire(layers[layer](x), states.get(layer), threshold, leak)
            observe(layer, x)
        logits = logits + layers["readout"](x)
    return logits


def make(problem: Problem, num_steps: int, device: str) -> Contestant:
    """The tuned step loop as a contestant.

    Args:
        problem: the problem.
        num_steps: T.
        device: "cpu" or "cuda".

    Returns:
        The contestant.
    """
    layers, poisson = synapses(problem, device), PoissonInputs(problem, device)
    thresholds = {layer: problem.thresholds[layer] for layer in spiking_layers(problem)}

    def run(observe: Observe) -> Tensor:
        inputs = (poisson.step() for _ in range(num_steps))
        return simulate(layers, thresholds, problem.leak, inputs, observe)

    return contestant(problem, device, parameters_of(layers.values()), run)
