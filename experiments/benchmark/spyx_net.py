"""The network in spyx (JAX): one scan of the whole network over time, differentiated by JAX.

Spyx's neurons compare the membrane of the step before with the threshold, so that each hidden layer adds a step of
delay, as in the paper's authors' code; apart from that the dynamics are the paper's. The reset has a gradient, which
spyx gives no means to leave out. T steps are run, delay included.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import spyx
from flax import nnx

from experiments.benchmark.problem import LEARNING_RATE, READOUT, Layer, Problem, layers, spiking_layers
from experiments.benchmark.roster import Contestant
from jsnn.convolution import conv_general_dilated


def make(problem: Problem, num_steps: int, device: str, own_gradient: bool = True) -> Contestant:
    """The spyx network as a contestant.

    Args:
        problem, num_steps, device: see `ours.make`.
        own_gradient: whether the convolutions are XLA's, gradients included; else jsnn's, which XLA:CPU compiles to
            faster code inside a scan.
    """
    jax.config.update("jax_platforms", device)
    place = jax.devices(device)[0]
    with jax.default_device(place):
        network = _network(problem, jax.lax.conv_general_dilated if own_gradient else conv_general_dilated)
        optimizer = nnx.Optimizer(network, optax.adam(LEARNING_RATE), wrt=nnx.Param)
        keys = nnx.Rngs(0)
        images, labels = jax.device_put((problem.images, problem.labels), place)
    step = spyx.optimize.make_train_step(partial(_loss, num_steps=num_steps))
    logits = nnx.jit(partial(_logits, num_steps=num_steps))
    counts = nnx.jit(partial(_counts, num_steps=num_steps))

    def train() -> None:
        step(network, optimizer, images, labels, keys())
        jax.block_until_ready(nnx.state(network))

    def rates() -> dict[str, float]:
        means = (float(count.mean()) / num_steps for count in counts(network, images, keys()))
        return dict(zip(spiking_layers(problem), means, strict=True))

    return Contestant(train, lambda: np.asarray(logits(network, images, keys())), rates)


def _run(network: spyx.nn.Sequential, images: jax.Array, key: jax.Array, num_steps: int) -> tuple[jax.Array, list]:
    """The readout's currents and the states after all steps; the input spikes, [T, B, H, W, C], are drawn first."""
    fired = jax.random.uniform(key, (num_steps, *images.shape)) < jnp.abs(images)
    return spyx.nn.run(network, jnp.sign(images) * fired)


def _logits(network: spyx.nn.Sequential, images: jax.Array, key: jax.Array, num_steps: int) -> jax.Array:
    """The sum of the readout's currents over the steps."""
    return _run(network, images, key, num_steps)[0].sum(0)


def _loss(
    network: spyx.nn.Sequential, images: jax.Array, labels: jax.Array, key: jax.Array, num_steps: int
) -> jax.Array:
    """Mean cross-entropy."""
    logits = _logits(network, images, key, num_steps)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _counts(network: spyx.nn.Sequential, images: jax.Array, key: jax.Array, num_steps: int) -> list[jax.Array]:
    """Each layer's spikes per neuron, from spyx's counters put behind the neurons."""
    parts = []
    for part in network.layers:
        counters = [spyx.nn.ActivityRegularization(part.hidden_shape)] if hasattr(part, "hidden_shape") else []
        parts += [part, *counters]
    _, states = _run(spyx.nn.Sequential(*parts), images, key, num_steps)
    return [s for part, s in zip(parts, states, strict=True) if isinstance(part, spyx.nn.ActivityRegularization)]


def _network(problem: Problem, convolve: nnx.nn.linear.ConvGeneralDilatedT) -> spyx.nn.Sequential:
    """The layers in forward order."""
    parts = []
    for layer in layers(problem):
        parts += [partial(nnx.avg_pool, window_shape=(2, 2), strides=(2, 2))] if layer.pooled else []
        parts += [spyx.nn.Flatten()] if len(layer.inputs) > len(layer.outputs) else []
        parts += [_weights(layer.kernel, convolve)]
        parts += [_neurons(problem, layer)] if layer.name != READOUT else []
    return spyx.nn.Sequential(*parts)


def _weights(kernel: np.ndarray, convolve: nnx.nn.linear.ConvGeneralDilatedT) -> nnx.Conv | nnx.Linear:
    """A 3x3 convolution or a dense layer around a kernel."""
    options = {"use_bias": False, "rngs": nnx.Rngs(0)}
    if kernel.ndim == 4:
        options |= {"padding": ((1, 1), (1, 1)), "conv_general_dilated": convolve}
        module = nnx.Conv(*kernel.shape[2:], kernel.shape[:2], **options)
    else:
        module = nnx.Linear(*kernel.shape, **options)
    module.kernel[...] = jnp.asarray(kernel)
    return module


def _neurons(problem: Problem, layer: Layer) -> spyx.nn.IF | spyx.nn.LIF:
    """A layer's neurons, with the problem's threshold and leak."""
    threshold = problem.thresholds[layer.name]
    if problem.leak == 1:
        return spyx.nn.IF(layer.outputs, threshold=threshold)
    neurons = spyx.nn.LIF(layer.outputs, beta=problem.leak, threshold=threshold, rngs=nnx.Rngs(0))
    neurons.beta = nnx.Variable(neurons.beta[...])  # spyx would train it, which no other contestant does
    return neurons
