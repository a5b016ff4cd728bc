"""What the PyTorch contestants share: weights, input spikes, and the training step around a simulation."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from experiments.benchmark.contestant import Contestant
from experiments.benchmark.problem import Problem

LEARNING_RATE = 1e-4

Observe = Callable[[str, Tensor], None]  # is handed every layer's spikes, one step or all of them at a time
Simulate = Callable[[Observe], Tensor]  # draws inputs, runs T steps and returns the logits [B, classes]


def synapses(
    problem: Problem, device: str, memory_format: torch.memory_format = torch.channels_last
) -> dict[str, nn.Sequential]:
    """The layers' modules from the spikes of the layer before to input currents: pool, flatten, weights.

    Args:
        problem: the problem.
        device: "cpu" or "cuda".
        memory_format: of the weights, which decides that of all activations; channels last is the faster one.

    Returns:
        layer -> module on the device, channels first, in forward order; its last part has the layer's weight.
    """
    convolutions = len(problem.pools)
    pooled = dict(enumerate(problem.pools, start=1))  # by the layer that follows the pool
    modules = {}
    for i, layer in enumerate((*spiking_layers(problem), "readout")):
        before: list[nn.Module] = [nn.AvgPool2d(2)] if pooled.get(i, False) else []
        before += [nn.Flatten()] if i == convolutions else []
        kernel = _channels_first(problem, layer, flattened=i == convolutions)
        modules[layer] = nn.Sequential(*before, _weights(kernel)).to(device, memory_format=memory_format)
    return modules


def spiking_layers(problem: Problem) -> tuple[str, ...]:
    """All layers but the readout.

    Args:
        problem: the problem; its thresholds are not used.

    Returns:
        Their names, in forward order.
    """
    return (*(f"conv{i}" for i in range(len(problem.pools))), *problem.hidden)


def parameters_of(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """The trainable parameters of several modules.

    Args:
        modules: the modules.

    Returns:
        Their parameters, in order.
    """
    return [parameter for module in modules for parameter in module.parameters()]


class PoissonInputs:
    """The input spikes of a problem's images: sign(x) * Bernoulli(|x|), fresh at every draw."""

    def __init__(self, problem: Problem, device: str, memory_format: torch.memory_format = torch.channels_last) -> None:
        images = channels_first(problem.images, device).to(memory_format=memory_format)
        self.rates, self.signs = images.abs(), images.sign()

    def one_by_one(self, num_steps: int) -> Iterator[Tensor]:
        """Draw one time step after the other.

        Args:
            num_steps: T.

        Returns:
            T times [B, C, H, W] of -1, 0 and 1.
        """
        for _ in range(num_steps):
            yield self.signs * (torch.rand_like(self.rates) < self.rates)

    def steps(self, num_steps: int) -> Tensor:
        """Draw all time steps at once, for libraries that go layer by layer.

        Args:
            num_steps: T.

        Returns:
            [T, B, C, H, W] of -1, 0 and 1.
        """
        return self.signs * (torch.rand(num_steps, *self.rates.shape, device=self.rates.device) < self.rates)


def channels_first(images: np.ndarray, device: str) -> Tensor:
    """Images as PyTorch wants them.

    Args:
        images: [B, H, W, C].
        device: "cpu" or "cuda".

    Returns:
        [B, C, H, W] on the device.
    """
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(device)


def ignore(layer: str, spikes: Tensor) -> None:
    """Observe nothing.

    Args:
        layer: not used.
        spikes: not used.
    """


def contestant(problem: Problem, device: str, parameters: list[nn.Parameter], simulate: Simulate) -> Contestant:
    """A Contestant from a simulation in PyTorch.

    Args:
        problem: the problem, for its labels.
        device: "cpu" or "cuda".
        parameters: what is trained.
        simulate: runs the network for T steps on fresh inputs; differentiable.

    Returns:
        The contestant.
    """
    if device == "cuda":
        _use_fast_products()
    labels = torch.from_numpy(problem.labels.astype(np.int64)).to(device)
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(simulate(ignore), labels).backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    def evaluate() -> np.ndarray:
        with torch.no_grad():
            return simulate(ignore).cpu().numpy()

    return Contestant(train, evaluate, lambda: _rates(simulate))


def _rates(simulate: Simulate) -> dict[str, float]:
    """Mean of each layer's spikes over one simulation."""
    means: dict[str, list[Tensor]] = defaultdict(list)
    with torch.no_grad():
        simulate(lambda layer, spikes: means[layer].append(spikes.mean()))
    return {layer: torch.stack(found).mean().item() for layer, found in means.items()}


def _channels_first(problem: Problem, layer: str, flattened: bool) -> Tensor:
    """A kernel as PyTorch wants it: [out, in, 3, 3] or [out, in], rows of the first dense one by channel first."""
    kernel = problem.kernels[layer]
    if kernel.ndim == 4:
        return torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    if flattened:
        halvings = sum(problem.pools)
        height, width = (side // 2**halvings for side in problem.images.shape[1:3])
        kernel = kernel.reshape(height, width, -1, kernel.shape[-1]).transpose(2, 0, 1, 3).reshape(kernel.shape)
    return torch.from_numpy(kernel.T.copy())


def _weights(kernel: Tensor) -> nn.Conv2d | nn.Linear:
    """A convolution or a dense layer without bias around a kernel."""
    outputs, inputs = kernel.shape[:2]
    if kernel.ndim == 4:
        module = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    else:
        module = nn.Linear(inputs, outputs, bias=False)
    module.weight = nn.Parameter(kernel)
    return module


def _use_fast_products() -> None:
    """Let products of float32 run as TF32, which JAX does unasked, and let cuDNN try its algorithms."""
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
