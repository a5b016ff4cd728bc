"""The network in spyx (JAX): one scan of the whole network over time, differentiated by JAX.

Spyx's neurons compare the membrane of the step before with the threshold, so that each hidden layer adds a step of
delay, as in the paper's authors' code; apart from that the dynamics are the paper's. The reset has a gradient, which
spyx gives no means to leave out. T steps are run, delay included.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import spyx
from flax import nnx

from experiments.benchmark.problem import LEARNING_RATE, Contestant, Layer, Problem, layers
from jsnn.convolution import conv_general_dilated

Network = spyx.nn.Sequential


def make(problem: Problem, num_steps: int, device: str, own_gradient: bool = True) -> Contestant:
    """The spyx network as a contestant.

    Its convolutions are XLA's, gradients included, or jsnn's, which XLA:CPU compiles to faster code inside a scan.
    """
    jax.config.update("jax_platforms", device)
    place = jax.devices(device)[0]
    with jax.default_device(place):
        network = _network(problem, jax.lax.conv_general_dilated if own_gradient else conv_general_dilated)
        optimizer = nnx.Optimizer(network, optax.adam(LEARNING_RATE), wrt=nnx.Param)
        keys = nnx.Rngs(0)
        images, labels = jax.device_put((problem.images, problem.labels), place)
    step = spyx.optimize.make_train_step(partial(_loss, num_steps=num_steps))
    logits = nnx.jit(lambda network, images, key: _run(network, images, key, num_steps)[0].sum(0))
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
    fired = jax.random.uniform(key, (num_steps, *images.shape)) < jnp.abs(images)
    return spyx.nn.run(network, jnp.sign(images) * fired)


def _loss(network: Network, images: jax.Array, labels: jax.Array, key: jax.Array, num_steps: int) -> jax.Array:
    """Mean cross-entropy of the sums of the readout's currents."""
    logits = _run(network, images, key, num_steps)[0].sum(0)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _counts(network: Network, images: jax.Array, key: jax.Array, num_steps: int) -> list[jax.Array]:
    """Each layer's spikes per neuron, from spyx's counters put behind the neurons."""
    parts = []
    for part in network.layers:
        counters = [spyx.nn.ActivityRegularization(part.hidden_shape)] if hasattr(part, "hidden_shape") else []
        parts += [part, *counters]
    _, states = _run(Network(*parts), images, key, num_steps)
    return [s for part, s in zip(parts, states, strict=True) if isinstance(part, spyx.nn.ActivityRegularization)]


def _network(problem: Problem, convolve: Callable[..., jax.Array]) -> Network:
    """The layers in forward order."""
    parts = []
    for layer in layers(problem):
        parts += [partial(nnx.avg_pool, window_shape=(2, 2), strides=(2, 2))] if layer.pooled else []
        parts += [spyx.nn.Flatten()] if len(layer.inputs) > len(layer.outputs) else []
        parts += [_weights(layer.kernel, convolve)]
        parts += [_neurons(problem, layer)] if layer.name in problem.thresholds else []
    return Network(*parts)


def _weights(kernel: np.ndarray, convolve: Callable[..., jax.Array]) -> nnx.Conv | nnx.Linear:
    """A 3x3 convolution or a dense layer around a kernel."""
    options = {"use_bias": False, "kernel_init": lambda *_: jnp.asarray(kernel), "rngs": nnx.Rngs(0)}
    if kernel.ndim == 2:
        return nnx.Linear(*kernel.shape, **options)
    options |= {"padding": ((1, 1), (1, 1)), "conv_general_dilated": convolve}
    return nnx.Conv(*kernel.shape[2:], kernel.shape[:2], **options)


def _neurons(problem: Problem, layer: Layer) -> spyx.nn.IF | spyx.nn.LIF:
    """A layer's neurons, with the problem's threshold and leak."""
    threshold = problem.thresholds[layer.name]
    if problem.leak == 1:
        return spyx.nn.IF(layer.outputs, threshold=threshold)
    neurons = spyx.nn.LIF(layer.outputs, beta=problem.leak, threshold=threshold, rngs=nnx.Rngs(0))
    neurons.beta = nnx.Variable(neurons.beta[...])  # spyx would train it, which no other contestant does
    return neurons
