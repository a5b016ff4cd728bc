"""The network in spyx (JAX): one scan of the whole network over time, differentiated by JAX.

Spyx's neurons compare the membrane of the step before with the threshold, so that each hidden layer adds a step of
delay, as in the paper's authors' code; apart from that the dynamics are the paper's. The reset has a gradient, which
spyx gives no means to leave out. T steps are run, delay included.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import spyx
from flax import nnx
from spyx.nn import Sequential as Network

from experiments.benchmark.jax_peers import poisson_inputs
from experiments.benchmark.problem import LEARNING_RATE, LINEAR, Contestant, Problem, layers
from jsnn.kernels.convolution import conv_general_dilated


def make(problem: Problem, num_steps: int, device: str, own_gradient: bool = True) -> Contestant:
    """The spyx network; its convolutions are XLA's, or jsnn's, whose gradients XLA:CPU makes faster inside a scan."""
    jax.config.update("jax_platforms", device)
    place = jax.devices(device)[0]
    with jax.default_device(place):
        network = _network(problem, jax.lax.conv_general_dilated if own_gradient else _convolve)
        optimizer, keys = nnx.Optimizer(network, optax.adam(LEARNING_RATE), wrt=nnx.Param), nnx.Rngs(0)
        images, labels = jax.device_put((problem.images, problem.labels), place)

    def scores(network: Network, images: jax.Array, key: jax.Array) -> jax.Array:
        return _run(network, images, key, num_steps)[0].sum(0)

    def loss(network: Network, images: jax.Array, labels: jax.Array, key: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(scores(network, images, key), labels).mean()

    step, logits = spyx.optimize.make_train_step(loss), nnx.jit(scores)
    counts = nnx.jit(partial(_counts, num_steps=num_steps))

    def train() -> None:
        step(network, optimizer, images, labels, keys())
        jax.block_until_ready(nnx.state(network))

    def rates() -> dict[str, float]:
        means = (float(count.mean()) / num_steps for count in counts(network, images, keys()))
        return dict(zip(problem.thresholds, means, strict=True))

    return Contestant(train, lambda: np.asarray(logits(network, images, keys())), rates)


def _run(network: Network, images: jax.Array, key: jax.Array, num_steps: int) -> tuple[jax.Array, list]:
    """The readout's currents and the states after all steps; the input spikes, [T, B, H, W, C], are drawn first."""
    return spyx.nn.run(network, poisson_inputs(images, key, num_steps))


def _convolve(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **_: Any) -> jax.Array:
    """The convolution of jsnn as a Flax layer calls it, whose dilations and groups are one here."""
    return conv_general_dilated(x, kernel, strides, padding)


def _counts(network: Network, images: jax.Array, key: jax.Array, num_steps: int) -> list[jax.Array]:
    """Each layer's spikes per neuron, from spyx's counters put behind the neurons."""
    counter, parts = spyx.nn.ActivityRegularization, []
    for part in network.layers:
        parts += [part, counter(part.hidden_shape)] if hasattr(part, "hidden_shape") else [part]
    _, states = _run(Network(*parts), images, key, num_steps)
    return [state for part, state in zip(parts, states, strict=True) if isinstance(part, counter)]


def _network(problem: Problem, convolve: Callable[..., jax.Array]) -> Network:
    """The layers in forward order."""
    parts, rngs = [], nnx.Rngs(0)
    convolution = partial(nnx.Conv, padding=((1, 1), (1, 1)), conv_general_dilated=convolve)
    for layer in layers(problem):
        parts += [partial(nnx.avg_pool, window_shape=(2, 2), strides=(2, 2))] if layer.pooled else []
        parts += [spyx.nn.Flatten()] if len(layer.inputs) > len(layer.outputs) else []
        *window, inputs, outputs = layer.kernel.shape
        weights = partial(convolution, kernel_size=tuple(window)) if window else nnx.Linear
        fixed = partial(lambda kernel, *_: jnp.asarray(kernel), layer.kernel)
        parts += [weights(inputs, outputs, use_bias=False, kernel_init=fixed, rngs=rngs)]
        if layer.name in problem.thresholds:
            threshold = problem.thresholds[layer.name]
            surrogate = spyx.axn.triangular(1 / threshold) if problem.surrogate == LINEAR else spyx.axn.superspike()
            options = {"threshold": threshold, "activation": surrogate}
            neurons = spyx.nn.IF(layer.outputs, **options)
            if problem.leak < 1:
                neurons = spyx.nn.LIF(layer.outputs, beta=problem.leak, rngs=rngs, **options)
                neurons.beta = nnx.Variable(neurons.beta[...])  # spyx would train it, which no other contestant does
            parts += [neurons]
    return Network(*parts)
