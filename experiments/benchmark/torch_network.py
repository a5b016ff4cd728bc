"""What the PyTorch contestants share: weights, input spikes, the loop over time, and the training step around it."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from experiments.benchmark.problem import LEARNING_RATE, READOUT, Contestant, Layer, Problem, layers

Format = torch.memory_format
FAST = torch.channels_last  # of weights and inputs, which decide that of all activations

Observe = Callable[[str, Tensor], None]  # is handed every layer's spikes, one step or all of them at a time
Fire = Callable[[Tensor, Any, int], tuple[Tensor, Any]]  # (current, state or None, t) -> (spikes, next state)
Neurons = Mapping[str, Fire]  # of the spiking layers, in forward order


def ignore(layer: str, spikes: Tensor) -> None:
    """Observe nothing."""


def synapses(problem: Problem, device: str, layout: Format = FAST) -> nn.ModuleDict:
    """Each layer from the spikes of the one before to its input currents, in forward order: pool, flatten, weights."""
    network = nn.ModuleDict()
    for layer in layers(problem):
        before: list[nn.Module] = [nn.AvgPool2d(2)] if layer.pooled else []
        before += [nn.Flatten()] if len(layer.inputs) > len(layer.outputs) else []
        network[layer.name] = nn.Sequential(*before, _weights(layer))
    return network.to(device, memory_format=layout)


def _weights(layer: Layer) -> nn.Conv2d | nn.Linear:
    """A convolution or a dense layer without bias, channels first."""
    inputs, outputs = layer.kernel.shape[-2:]
    if layer.kernel.ndim == 4:
        module, kernel = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), layer.kernel.transpose(3, 2, 0, 1)
    else:
        by_channel = np.moveaxis(layer.kernel.reshape(*layer.inputs, outputs), -2, 0)
        module, kernel = nn.Linear(inputs, outputs, bias=False), by_channel.reshape(inputs, outputs).T
    module.weight = nn.Parameter(torch.from_numpy(kernel.copy()))
    return module


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


def step_by_step(
    network: nn.ModuleDict, neurons: Neurons, inputs: Iterable[Tensor], observe: Observe = ignore
) -> Iterator[Tensor]:
    """Run the layers that have neurons at one time step before the next; yields the last one's spikes at each."""
    states: dict[str, Any] = {}
    for time, x in enumerate(inputs):
        for layer, fire in neurons.items():
            x, states[layer] = fire(network[layer](x), states.get(layer), time)
            observe(layer, x)
        yield x


def looping(
    problem: Problem, num_steps: int, device: str, network: nn.ModuleDict, neurons: Neurons, layout: Format = FAST
) -> Contestant:
    """A contestant that goes step by step."""
    draw = poisson_inputs(problem, device, layout)

    def simulate(observe: Observe) -> Tensor:
        inputs = (draw() for _ in range(num_steps))
        with parametrize.cached():  # what norse makes of the weights is made once, not at every step
            return sum(network[READOUT](x) for x in step_by_step(network, neurons, inputs, observe))

    return contestant(problem, device, network, simulate)


def contestant(problem: Problem, device: str, network: nn.Module, simulate: Callable[[Observe], Tensor]) -> Contestant:
    """A contestant from what draws inputs, runs T steps and returns the logits [B, classes], differentiable."""
    if device == "cuda":  # TF32, which JAX uses unasked, and cuDNN's choice among its algorithms
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    labels = torch.from_numpy(problem.labels.astype(np.int64)).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, fused=True)

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(simulate(ignore), labels).backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    @torch.no_grad()
    def evaluate() -> np.ndarray:
        return simulate(ignore).cpu().numpy()

    @torch.no_grad()
    def rates() -> dict[str, float]:
        means: dict[str, list[Tensor]] = defaultdict(list)
        simulate(lambda layer, spikes: means[layer].append(spikes.mean()))
        return {layer: torch.stack(steps).mean().item() for layer, steps in means.items()}

    return Contestant(train, evaluate, rates)
