"""Whole spiking networks in PyTorch: a step loop and its autograd gradients, the yardstick for jsnn's networks.

Written from the equations of the method alone; shares no code with jsnn. NumPy arrays in and out, everything in the
dtype of `inputs`. Activations are channels-last, [B, H, W, C].
"""

import math
from collections import defaultdict
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

# On CPUs with AVX2 alone, oneDNN writes past the end of a buffer and returns wrong filter gradients where a 1x1
# convolution of stride 2 has few channels (oneDNN's issue 6035).
torch.backends.mkldnn.enabled = False
torch.set_num_threads(1)  # small networks: threads would take fifteen times as long, waiting for each other


class Network(NamedTuple):
    """What a reference run returns."""

    spikes: dict[str, np.ndarray]  # layer -> [T, B, H, W, C] or [T, B, units], before any mask
    logits: np.ndarray  # [T, B, classes]: the readout's membrane at every step
    loss: float  # mean softmax cross-entropy of logits[T-1] over the batch
    gradients: dict[str, np.ndarray]  # layer -> d loss / d kernel, in the layout of the kernel given


class Spike(torch.autograd.Function):
    """A step function of z whose derivative is the one handed in."""

    @staticmethod
    def forward(ctx, z, derivative):
        ctx.save_for_backward(derivative)
        return (z > 0).to(z.dtype)

    @staticmethod
    def backward(ctx, cotangent):
        (derivative,) = ctx.saved_tensors
        return cotangent * derivative, None


def derivative(surrogate, z, elapsed):
    """The surrogate do/dz, ("linear", gamma) at z or ("stdb", alpha, beta) at the steps since the previous spike."""
    kind, *constants = surrogate
    if kind == "linear":
        return constants[0] * (1 - z.detach().abs()).clamp(min=0)
    alpha, beta = constants
    return alpha * torch.exp(-beta * torch.as_tensor(elapsed, dtype=z.dtype)).expand_as(z)


class Simulation:
    """The data, kernels and masks of one run, the state of its neurons and the record of their spikes."""

    def __init__(self, kernels, thresholds, leak, surrogate, inputs, labels, masks):
        self.inputs = torch.from_numpy(np.array(inputs))
        self.labels = torch.from_numpy(np.array(labels, np.int64))
        self.kernels = {name: self.tensor(kernel).requires_grad_() for name, kernel in kernels.items()}
        self.masks = {name: self.tensor(mask) for name, mask in masks.items()}
        self.thresholds, self.leak, self.surrogate = thresholds, leak, surrogate
        self.membranes, self.record = defaultdict(float), defaultdict(list)
        self.elapsed = defaultdict(lambda: math.inf)  # steps since the previous spike; infinite if there was none

    def tensor(self, array):
        return torch.from_numpy(np.array(array)).to(self.inputs.dtype)

    def conv(self, name, x, stride=1):
        """Convolve without bias: a 3x3 kernel with padding 1, a 1x1 kernel with padding 0."""
        kernel = self.kernels[name].permute(3, 2, 0, 1)  # HWIO -> OIHW
        y = functional.conv2d(x.permute(0, 3, 1, 2), kernel, stride=stride, padding=kernel.shape[-1] // 2)
        return y.permute(0, 2, 3, 1)

    def fire(self, name, current):
        """One time step of a layer, u[t] = leak * u[t-1] + I[t] - v * o[t-1]; what the next receives, mask * o[t]."""
        threshold, before = float(self.thresholds[name]), self.record[name][-1] if self.record[name] else 0.0
        self.membranes[name] = self.leak * self.membranes[name] + current - threshold * before
        z = self.membranes[name] / threshold - 1
        spikes = Spike.apply(z, derivative(self.surrogate, z, self.elapsed[name]))
        self.record[name].append(spikes.detach())
        self.elapsed[name] = torch.where(spikes.detach() > 0, 1.0, self.elapsed[name] + 1.0)
        mask = self.masks.get(name, torch.ones_like(spikes))
        assert mask.shape == spikes.shape, f"the mask of {name} does not fit {tuple(spikes.shape)}"
        return mask * spikes

    def convolved(self, name, x, stride=1):
        return self.fire(name, self.conv(name, x, stride))

    def run(self, step):
        """Feed the inputs [T, B, H, W, C] through `step`, integrate the readout, and differentiate the loss."""
        logits = torch.stack([step(x) @ self.kernels["readout"] for x in self.inputs]).cumsum(0)
        loss = functional.cross_entropy(logits[-1], self.labels)
        gradients = torch.autograd.grad(loss, list(self.kernels.values()))
        return Network(
            spikes={name: torch.stack(spikes).numpy() for name, spikes in self.record.items()},
            logits=logits.detach().numpy(),
            loss=loss.item(),
            gradients={name: gradient.numpy() for name, gradient in zip(self.kernels, gradients, strict=True)},
        )


def pool(x):
    """Average 2x2 windows; an odd last row or column is dropped."""
    return functional.avg_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def run_vgg(stages, kernels, *of_run):
    """Run a VGG: `stages` of 3x3 convs and pools ("A"), then the dense layers in `kernels`; see `Simulation`."""
    sim = Simulation(kernels, *of_run)

    def step(x):
        names = (f"conv{i}" for i in count())
        for stage in stages:
            x = pool(x) if stage == "A" else sim.convolved(next(names), x)
        x = x.flatten(1)
        for name in sorted(name for name in kernels if name.startswith("dense")):
            x = sim.fire(name, x @ sim.kernels[name])
        return x

    return sim.run(step)


def run_resnet(blocks, kernels, *of_run):
    """Run a ResNet: three stem convs, a pool, then stages of `blocks` basic blocks, halving at every new stage."""
    sim = Simulation(kernels, *of_run)
    strides = [2 if stage > 0 and i == 0 else 1 for stage, count in enumerate(blocks) for i in range(count)]

    def step(x):
        for name in ("conv0", "conv1", "conv2"):
            x = sim.convolved(name, x)
        x = pool(x)
        for name, stride in ((f"block{i}", stride) for i, stride in enumerate(strides)):
            skipped = sim.conv(f"{name}_shortcut", x, stride) if f"{name}_shortcut" in kernels else x
            x = sim.convolved(f"{name}_conv0", x, stride)
            x = sim.fire(f"{name}_conv1", sim.conv(f"{name}_conv1", x) + skipped)
        return x.flatten(1)

    return sim.run(step)


def dense_lif(inputs, leaves, gamma, of_spikes, of_end, *, hard_reset, detach_spike, detach_threshold):
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
        kept = membrane * (1 - before) if hard_reset else membrane
        membrane = leak * kept + x @ weights - (0 if hard_reset else in_reset * before)
        z = membrane / threshold - 1
        spikes = Spike.apply(z, derivative(("linear", gamma), z, 0))
        every.append(spikes)
    value = (torch.stack(every) * torch.from_numpy(of_spikes)).sum() + (membrane * torch.from_numpy(of_end)).sum()
    gradients = zip(tensors, torch.autograd.grad(value, list(tensors.values())), strict=True)
    return torch.stack(every).detach().numpy(), {name: leaf.numpy() for name, leaf in gradients}
