"""A plain PyTorch step loop with STDB, the way the paper's authors wrote theirs: the graph of all steps, then backward.

Written by us from the equations of Rathi et al., 2020 (arXiv:2005.01807). Their spikes reach the next layer one step
later; here they do not, otherwise the mathematics is the same. Also their way of balancing thresholds.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from experiments.benchmark.contestant import Contestant
from experiments.benchmark.problem import Problem
from experiments.benchmark.torch_network import (
    Observe,
    PoissonInputs,
    channels_first,
    contestant,
    ignore,
    parameters_of,
    spiking_layers,
    synapses,
)

ALPHA, BETA = 0.3, 0.01
Synapses = dict[str, nn.Sequential]
NEVER = -math.inf  # time of the last spike of a neuron that has not fired


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


def fire(current: Tensor, state: State, time: int, threshold: float, leak: float) -> State:
    """One time step of a layer of neurons.

        u[t] = leak * u[t-1] + I[t] - v * o[t-1],    z[t] = u[t] / v - 1,    o[t] = z[t] > 0

    Args:
        current: I[t].
        state: the layer's state.
        time: t.
        threshold: v.
        leak: of the membrane.

    Returns:
        The next state.
    """
    membrane = leak * state.membrane + current - threshold * state.spikes.detach()
    spikes = STDB.apply(membrane / threshold - 1, time - state.last_spike)
    return State(membrane, spikes, state.last_spike.masked_fill(spikes.bool(), time))


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
    for time, x in enumerate(inputs):
        logits = logits + layers["readout"](_advance(layers, thresholds, leak, x, time, states, observe))
    return logits


def make(problem: Problem, num_steps: int, device: str) -> Contestant:
    """The step loop as a contestant.

    Args:
        problem: the problem.
        num_steps: T.
        device: "cpu" or "cuda".

    Returns:
        The contestant.
    """
    layers, poisson = synapses(problem, device, torch.contiguous_format), PoissonInputs(problem, device)
    thresholds = {layer: problem.thresholds[layer] for layer in spiking_layers(problem)}

    def run(observe: Observe) -> Tensor:
        inputs = (poisson.step().contiguous() for _ in range(num_steps))
        return simulate(layers, thresholds, problem.leak, inputs, observe)

    return contestant(problem, device, parameters_of(layers.values()), run)


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
    layers, thresholds = synapses(problem, device, torch.contiguous_format), {}
    for layer in spiking_layers(problem):
        largest = -math.inf
        states: dict[str, State] = {}
        for time in range(num_steps):
            x = channels_first(inputs(time), device)
            x = _advance(layers, thresholds, 1.0, x, time, states, ignore)
            largest = max(largest, layers[layer](x).max().item())
        thresholds[layer] = largest
    return thresholds


def _advance(
    layers: Synapses,
    thresholds: dict[str, float],
    leak: float,
    x: Tensor,
    time: int,
    states: dict[str, State],
    observe: Observe,
) -> Tensor:
    """One time step of the layers that have a threshold; updates their states, returns the spikes of the last."""
    for layer, threshold in thresholds.items():
        current = layers[layer](x)
        states[layer] = fire(current, states.get(layer) or _rest(current), time, threshold, leak)
        x = states[layer].spikes
        observe(layer, x)
    return x


def _rest(like: Tensor) -> State:
    """Neurons at rest, as many as there are currents."""
    zeros = torch.zeros_like(like)
    return State(zeros, zeros, torch.full_like(like, NEVER))
