"""A plain PyTorch step loop, the way the paper's authors wrote theirs: the graph of all steps, then backward.

Written by us from the equations of Rathi et al., 2020 (arXiv:2005.01807). Their spikes reach the next layer one step
later; here they do not. The tuned loop is as fast as we could make it in PyTorch: channels last in memory, updates in
place, and for backward one array a step. Here are also the authors' way of balancing thresholds, and what the other
PyTorch contestants share: weights, input spikes, the loop over time, and the training step around it.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from experiments.benchmark.problem import LEARNING_RATE, READOUT, Contestant, Problem, layers
from experiments.benchmark.roster import LINEAR

ALPHA, BETA, GAMMA = 0.3, 0.01, 1.0
Format = torch.memory_format
FAST = torch.channels_last  # of weights and inputs, which decide that of all activations

State = tuple[Tensor | None, ...] | None  # membrane u, spikes o, of STDB the last one's time or its trace
Neurons = Mapping[str, Callable[[Tensor, Any, int], tuple[Tensor, Any]]]  # current, state, t -> spikes, next state
Outputs = Iterator[tuple[str, Tensor]]  # a layer's name and its spikes, the readout's logits; of one step or of several


def synapses(problem: Problem, device: str, layout: Format = FAST) -> nn.ModuleDict:
    """Each layer from the spikes of the one before to its input currents, in forward order: pool, flatten, weights."""
    network = nn.ModuleDict()
    for layer in layers(problem):
        *window, inputs, outputs = layer.kernel.shape
        kind = partial(nn.Conv2d, kernel_size=3, padding=1) if window else nn.Linear
        module, sizes = kind(inputs, outputs, bias=False), window or layer.inputs[:-1]
        kernel = np.moveaxis(layer.kernel.reshape(*sizes, -1, outputs), (-1, -2), (0, 1))  # channels first
        module.weight = nn.Parameter(torch.from_numpy(kernel.reshape(module.weight.shape).copy()))
        before = [nn.AvgPool2d(2)] * layer.pooled + [nn.Flatten()] * layer.flattens
        network[layer.name] = nn.Sequential(*before, module)
    return network.to(device, memory_format=layout)


def channels_first(images: np.ndarray, device: str) -> Tensor:
    """[B, H, W, C] as [B, C, H, W] on the device."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(device)


def poisson_inputs(problem: Problem, device: str, layout: Format = FAST) -> Callable[..., Tensor]:
    """Draws of input spikes: () -> one time step, [B, C, H, W], or T -> as many at once, [T, B, C, H, W]."""
    images = channels_first(problem.images, device).to(memory_format=layout)
    rates, signs = images.abs(), images.sign()

    def draw(num_steps: int | None = None) -> Tensor:
        uniform = torch.rand_like(rates) if num_steps is None else torch.rand(num_steps, *rates.shape, device=device)
        return signs * (uniform < rates)

    return draw


def step_by_step(network: nn.ModuleDict, neurons: Neurons, inputs: Iterable[Tensor]) -> Outputs:
    """Run one time step before the next, the layers up to the first without neurons, whose currents come last."""
    states: dict[str, Any] = {}
    for time, x in enumerate(inputs):
        for layer, fire in neurons.items():
            x, states[layer] = fire(network[layer](x), states.get(layer), time)
            yield layer, x
        last = [*network][len(neurons)]
        yield last, network[last](x)


def looping(
    problem: Problem, num_steps: int, device: str, network: nn.ModuleDict, neurons: Neurons, layout: Format = FAST
) -> Contestant:
    """A contestant that goes step by step."""
    draw = poisson_inputs(problem, device, layout)

    def simulate() -> Outputs:
        with parametrize.cached():  # what norse makes of the weights is made once, not at every step
            yield from step_by_step(network, neurons, (draw() for _ in range(num_steps)))

    return contestant(problem, device, network, simulate)


def contestant(problem: Problem, device: str, network: nn.Module, simulate: Callable[[], Outputs]) -> Contestant:
    """A contestant from what draws inputs and runs T steps, differentiable."""
    if device == "cuda":  # TF32, which JAX uses unasked, and cuDNN's choice among its algorithms
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    labels = torch.from_numpy(problem.labels.astype(np.int64)).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, fused=True)

    def logits() -> Tensor:
        return sum(x for layer, x in simulate() if layer == READOUT)

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(logits(), labels).backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    @torch.no_grad()
    def rates() -> dict[str, float]:
        means: dict[str, list[Tensor]] = {layer: [] for layer in (*problem.thresholds, READOUT)}
        for layer, x in simulate():
            means[layer].append(x.mean())
        return {layer: torch.stack(means[layer]).mean().item() for layer in problem.thresholds}

    return Contestant(train, torch.no_grad()(lambda: logits().cpu().numpy()), rates)


class Spike(torch.autograd.Function):
    """Fire where x is above a level; `derive` takes the cotangent and what is kept to the gradient of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, level: float, kept: Tensor, derive: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.derive = derive
        return (x > level).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.derive(cotangent, *ctx.saved_tensors), None, None, None


def fire(current: Tensor, state: State, time: int, threshold: float, problem: Problem) -> tuple[Tensor, State]:
    """One time step: u[t] = leak * u[t-1] + I[t] - v * o[t-1],  z[t] = u[t] / v - 1,  o[t] = z[t] > 0."""
    membrane, spikes, last_spike = state or (*[torch.zeros_like(current)] * 2, torch.full_like(current, -math.inf))
    membrane = problem.leak * membrane + current - threshold * spikes.detach()
    z = membrane / threshold - 1
    if problem.surrogate == LINEAR:
        spikes = Spike.apply(z, 0.0, z, lambda g, z: g * GAMMA * torch.relu(1 - z.abs()))
        return spikes, (membrane, spikes, None)
    spikes = Spike.apply(z, 0.0, time - last_spike, lambda g, elapsed: g * ALPHA * torch.exp(-BETA * elapsed))
    return spikes, (membrane, spikes, last_spike.masked_fill(spikes.bool(), time))


def tuned_fire(current: Tensor, state: State, _: int, threshold: float, problem: Problem) -> tuple[Tensor, State]:
    """As `fire`, in place where nothing of it is saved for backward: the trace, or for the linear one the membrane."""

    def triangle(g: Tensor, membrane: Tensor) -> Tensor:
        return membrane.sub(threshold).abs_().neg_().add_(threshold).clamp_(min=0).mul_(g).mul_(GAMMA / threshold**2)

    membrane, spikes, trace = state or [torch.zeros_like(current)] * 3
    membrane = torch.add(current, membrane, alpha=problem.leak).sub_(spikes, alpha=threshold)
    if problem.surrogate == LINEAR:
        spikes = Spike.apply(membrane, threshold, membrane, triangle)
        return spikes, (membrane, spikes.detach(), None)
    spikes = Spike.apply(membrane, threshold, trace, lambda g, trace: (g * trace).mul_(ALPHA / threshold))
    fired = spikes.detach()
    if torch.is_grad_enabled():
        trace = torch.maximum(trace, fired).mul_(math.exp(-BETA))  # a spike sets exp(-beta * dt) back to exp(-beta)
    return spikes, (membrane, fired, trace)


def neurons(problem: Problem, tuned: bool) -> Neurons:
    """The neurons of each spiking layer, with the problem's surrogate."""
    step = partial(tuned_fire if tuned else fire, problem=problem)
    return {layer: partial(step, threshold=threshold) for layer, threshold in problem.thresholds.items()}


def make(problem: Problem, num_steps: int, device: str, tuned: bool = False) -> Contestant:
    """The step loop as a contestant, in PyTorch's default memory format or tuned."""
    layout = FAST if tuned else torch.contiguous_format
    return looping(problem, num_steps, device, synapses(problem, device, layout), neurons(problem, tuned), layout)


@torch.no_grad()
def balance(problem: Problem, num_steps: int, device: str) -> dict[str, float]:
    """The authors' thresholds: for each layer all steps again up to it, without leak, on the problem's inputs."""
    network, thresholds, neurons = synapses(problem, device, torch.contiguous_format), {}, {}
    for layer in [*network][:-1]:
        steps = (channels_first(x.astype(np.float32), device) for x in problem.inputs[:num_steps])
        currents = (x for name, x in step_by_step(network, neurons, steps) if name == layer)
        thresholds[layer] = max(x.max().item() for x in currents)
        neurons[layer] = partial(fire, threshold=thresholds[layer], problem=problem._replace(leak=1.0))
    return thresholds
