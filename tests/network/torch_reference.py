"""Whole spiking networks in PyTorch: a step loop and its autograd gradients, the yardstick for jsnn's networks.

Written from the equations of the method alone; shares no code with jsnn. NumPy arrays in and out, everything in the
dtype of `inputs`. Activations are channels-last, [B, H, W, C], so that flattening and masks need no thought.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

# On CPUs with AVX2 alone, oneDNN writes past the end of a buffer and returns wrong filter gradients where a 1x1
# convolution of stride 2 has few channels (oneDNN's issue 6035).
torch.backends.mkldnn.enabled = False
torch.set_num_threads(1)  # small networks: threads would take fifteen times as long, waiting for each other

Arrays = Mapping[str, np.ndarray]
Surrogate = tuple[str, float, float] | tuple[str, float]  # ("stdb", alpha, beta) or ("linear", gamma)


class Network(NamedTuple):
    """What a reference run returns."""

    spikes: dict[str, np.ndarray]  # layer -> [T, B, H, W, C] or [T, B, units], before any mask
    logits: np.ndarray  # [T, B, classes]: the readout's membrane at every step
    loss: float  # mean softmax cross-entropy of logits[T-1] over the batch
    gradients: dict[str, np.ndarray]  # layer -> d loss / d kernel, in the layout of the kernel given


class Spike(torch.autograd.Function):
    """A step function of z whose derivative is the one handed in."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, derivative: Tensor) -> Tensor:
        """Fire where z is strictly positive."""
        ctx.save_for_backward(derivative)
        return (z > 0).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        """Multiply by the surrogate derivative do/dz."""
        (derivative,) = ctx.saved_tensors
        return cotangent * derivative, None


class Neurons:
    """One layer of leaky integrate-and-fire neurons at rest; each call is one time step."""

    def __init__(self, threshold: float, leak: float, surrogate: Surrogate) -> None:
        self.threshold, self.leak, self.surrogate = float(threshold), float(leak), surrogate
        self.membrane: Tensor | float = 0.0
        self.spikes: Tensor | float = 0.0
        self.elapsed: Tensor | float = math.inf  # steps since the previous spike; infinite if there was none

    def __call__(self, current: Tensor) -> Tensor:
        """u[t] = leak * u[t-1] + I[t] - v * o[t-1], then the spikes o[t]."""
        reset = self.threshold * (self.spikes.detach() if isinstance(self.spikes, Tensor) else self.spikes)
        self.membrane = self.leak * self.membrane + current - reset
        z = self.membrane / self.threshold - 1
        self.spikes = Spike.apply(z, self.derivative(z.detach()))
        self.elapsed = torch.where(self.spikes.detach() > 0, 1.0, self.elapsed + 1.0)
        return self.spikes

    def derivative(self, z: Tensor) -> Tensor:
        """Return the surrogate do/dz at this step; STDB's looks only at spikes before it."""
        kind, *constants = self.surrogate
        if kind == "linear":
            (gamma,) = constants
            return gamma * (1 - z.abs()).clamp(min=0)
        if kind != "stdb":
            raise ValueError(f"unknown surrogate {kind!r}")
        alpha, beta = constants
        elapsed = torch.as_tensor(self.elapsed, dtype=z.dtype).expand_as(z)
        return torch.where(elapsed.isfinite(), alpha * torch.exp(-beta * elapsed), 0.0)


class Simulation:
    """The data, kernels, neurons and masks of one run, and the record of its spikes."""

    def __init__(
        self, kernels: Arrays, thresholds: Mapping[str, float], leak: float, surrogate: Surrogate,
        inputs: np.ndarray, labels: np.ndarray, masks: Arrays,
    ) -> None:  # fmt: skip
        self.inputs = torch.from_numpy(np.array(inputs))
        self.labels = torch.from_numpy(np.array(labels, np.int64))
        self.kernels = {name: self.tensor(kernel).requires_grad_() for name, kernel in kernels.items()}
        self.masks = {name: self.tensor(mask) for name, mask in masks.items()}
        self.neurons = {name: Neurons(threshold, leak, surrogate) for name, threshold in thresholds.items()}
        self.record: dict[str, list[Tensor]] = defaultdict(list)

    def tensor(self, array: np.ndarray) -> Tensor:
        """Copy an array, in the dtype of the inputs."""
        return torch.from_numpy(np.array(array)).to(self.inputs.dtype)

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        """Convolve without bias: a 3x3 kernel with padding 1, a 1x1 kernel with padding 0."""
        kernel = self.kernels[name].permute(3, 2, 0, 1)  # HWIO -> OIHW
        y = functional.conv2d(x.permute(0, 3, 1, 2), kernel, stride=stride, padding=kernel.shape[-1] // 2)
        return y.permute(0, 2, 3, 1)

    def fire(self, name: str, current: Tensor) -> Tensor:
        """Step the layer's neurons, record their spikes and return what the next layer receives: mask * spikes."""
        spikes = self.neurons[name](current)
        self.record[name].append(spikes.detach())
        if name not in self.masks:
            return spikes
        assert self.masks[name].shape == spikes.shape, f"the mask of {name} does not fit {tuple(spikes.shape)}"
        return self.masks[name] * spikes

    def run(self, step: Callable[[Tensor], Tensor]) -> Network:
        """Feed the inputs [T, B, H, W, C] through `step`, integrate the readout, and differentiate the loss."""
        membranes, membrane = [], 0.0
        for x in self.inputs:
            membrane = membrane + step(x) @ self.kernels["readout"]
            membranes.append(membrane)
        loss = functional.cross_entropy(membrane, self.labels)
        gradients = torch.autograd.grad(loss, list(self.kernels.values()))
        return Network(
            spikes={name: torch.stack(spikes).numpy() for name, spikes in self.record.items()},
            logits=torch.stack(membranes).detach().numpy(),
            loss=loss.item(),
            gradients={name: gradient.numpy() for name, gradient in zip(self.kernels, gradients, strict=True)},
        )


def pool(x: Tensor) -> Tensor:
    """Average 2x2 windows; an odd last row or column is dropped."""
    return functional.avg_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def run_vgg(
    stages: Sequence[int | str], kernels: Arrays, thresholds: Mapping[str, float], leak: float, surrogate: Surrogate,
    inputs: np.ndarray, labels: np.ndarray, masks: Arrays,
) -> Network:  # fmt: skip
    """Run a VGG: `stages` of 3x3 convs (their widths) and pools ("A"), then the hidden dense layers in `kernels`."""
    sim = Simulation(kernels, thresholds, leak, surrogate, inputs, labels, masks)
    widths = [stage for stage in stages if stage != "A"]
    assert widths == [kernels[f"conv{i}"].shape[-1] for i in range(len(widths))], "stages and kernels disagree"
    hidden = sum(name.startswith("dense") for name in kernels)

    def step(x: Tensor) -> Tensor:
        names = (f"conv{i}" for i in range(len(widths)))
        for stage in stages:
            if stage == "A":
                x = pool(x)
            else:
                name = next(names)
                x = sim.fire(name, sim.conv(name, x))
        x = x.flatten(1)
        for name in (f"dense{i}" for i in range(hidden)):
            x = sim.fire(name, x @ sim.kernels[name])
        return x

    return sim.run(step)


def run_resnet(
    blocks: Sequence[int], kernels: Arrays, thresholds: Mapping[str, float], leak: float, surrogate: Surrogate,
    inputs: np.ndarray, labels: np.ndarray, masks: Arrays,
) -> Network:  # fmt: skip
    """Run a ResNet: three stem convs, a pool, then stages of `blocks` basic blocks, halving at every new stage."""
    sim = Simulation(kernels, thresholds, leak, surrogate, inputs, labels, masks)
    strides = [2 if stage > 0 and i == 0 else 1 for stage, count in enumerate(blocks) for i in range(count)]

    def block(name: str, x: Tensor, stride: int) -> Tensor:
        shortcut = f"{name}_shortcut"
        skipped = sim.conv(shortcut, x, stride) if shortcut in kernels else x
        x = sim.fire(f"{name}_conv0", sim.conv(f"{name}_conv0", x, stride))
        return sim.fire(f"{name}_conv1", sim.conv(f"{name}_conv1", x) + skipped)

    def step(x: Tensor) -> Tensor:
        for name in ("conv0", "conv1", "conv2"):
            x = sim.fire(name, sim.conv(name, x))
        x = pool(x)
        for index, stride in enumerate(strides):
            x = block(f"block{index}", x, stride)
        return x.flatten(1)

    return sim.run(step)


def dense_lif(
    inputs: np.ndarray, leaves: Arrays, gamma: float, of_spikes: np.ndarray, of_end: np.ndarray, *,
    hard_reset: bool, detach_spike: bool, detach_threshold: bool,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:  # fmt: skip
    """Spikes [T, N, C] of a dense layer of neurons with the linear surrogate, and the gradients of all leaves.

    u[t] = leak * u[t-1] + x[t] W - v * o[t-1],    u[-1] = initial * v
    or, by a hard reset,    u[t] = leak * u[t-1] * (1 - o[t-1]) + x[t] W.

    The gradients are those of sum(of_spikes * o) + sum(of_end * u[T-1]); the leaves are weights, threshold, leak and
    initial.
    """
    tensors = {name: torch.from_numpy(np.array(leaf)).requires_grad_() for name, leaf in leaves.items()}
    weights, threshold, leak, initial = (tensors[name] for name in ("weights", "threshold", "leak", "initial"))
    in_reset = threshold.detach() if detach_threshold else threshold
    membrane, spikes, every = initial * threshold, torch.zeros(of_end.shape, dtype=weights.dtype), []
    for x in torch.from_numpy(inputs):
        before = spikes.detach() if detach_spike else spikes
        if hard_reset:
            membrane = leak * membrane * (1 - before) + x @ weights
        else:
            membrane = leak * membrane + x @ weights - in_reset * before
        z = membrane / threshold - 1
        spikes = Spike.apply(z, gamma * (1 - z.detach().abs()).clamp(min=0))
        every.append(spikes)
    value = (torch.stack(every) * torch.from_numpy(of_spikes)).sum() + (membrane * torch.from_numpy(of_end)).sum()
    gradients = torch.autograd.grad(value, list(tensors.values()))
    by_name = {name: gradient.numpy() for name, gradient in zip(tensors, gradients, strict=True)}
    return torch.stack(every).detach().numpy(), by_name
