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

from experiments.benchmark.contestant import Contestant
from experiments.benchmark.problem import Problem
from jsnn.convolution import conv_general_dilated

LEARNING_RATE = 1e-4


def make(problem: Problem, num_steps: int, device: str, own_gradient: bool = True) -> Contestant:
    """The spyx network as a contestant.

    Args:
        problem, num_steps, device: see `ours.make`.
        own_gradient: whether the convolutions are XLA's, gradients included; else jsnn's, which XLA:CPU compiles to
            faster code inside a scan.

    Returns:
        The contestant.
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
        layers = (*(f"conv{i}" for i in range(len(problem.pools))), *problem.hidden)
        means = (float(count.mean()) / num_steps for count in counts(network, images, keys()))
        return dict(zip(layers, means, strict=True))

    return Contestant(train, lambda: np.asarray(logits(network, images, keys())), rates)


def _logits(network: spyx.nn.Sequential, images: jax.Array, key: jax.Array, num_steps: int) -> jax.Array:
    """The sum of the readout's currents over the steps."""
    return spyx.nn.run(network, _poisson(images, key, num_steps))[0].sum(0)


def _loss(
    network: spyx.nn.Sequential, images: jax.Array, labels: jax.Array, key: jax.Array, num_steps: int
) -> jax.Array:
    """Mean cross-entropy."""
    logits = _logits(network, images, key, num_steps)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _counts(network: spyx.nn.Sequential, images: jax.Array, key: jax.Array, num_steps: int) -> list[jax.Array]:
    """Each layer's spikes per neuron, from spyx's counters put behind the neurons."""
    layers = []
    for layer in network.layers:
        layers.append(layer)
        if hasattr(layer, "hidden_shape"):
            layers.append(spyx.nn.ActivityRegularization(layer.hidden_shape))
    _, states = spyx.nn.run(spyx.nn.Sequential(*layers), _poisson(images, key, num_steps))
    return [s for layer, s in zip(layers, states, strict=True) if isinstance(layer, spyx.nn.ActivityRegularization)]


def _poisson(images: jax.Array, key: jax.Array, num_steps: int) -> jax.Array:
    """All input spikes, [T, B, H, W, C], which is what `spyx.nn.run` takes."""
    fired = jax.random.uniform(key, (num_steps, *images.shape)) < jnp.abs(images)
    return jnp.sign(images) * fired


def _network(problem: Problem, convolve: nnx.nn.linear.ConvGeneralDilatedT) -> spyx.nn.Sequential:
    """The layers in forward order."""
    height, width = problem.images.shape[1:3]
    layers = []
    for i, pooled in enumerate(problem.pools):
        kernel = problem.kernels[f"conv{i}"]
        layers += [_convolution(kernel, convolve), _neurons(problem, f"conv{i}", (height, width, kernel.shape[-1]))]
        if pooled:
            layers.append(partial(nnx.avg_pool, window_shape=(2, 2), strides=(2, 2)))
            height, width = height // 2, width // 2
    layers.append(spyx.nn.Flatten())
    for name in problem.hidden:
        kernel = problem.kernels[name]
        layers += [_dense(kernel), _neurons(problem, name, kernel.shape[-1:])]
    return spyx.nn.Sequential(*layers, _dense(problem.kernels["readout"]))


def _convolution(kernel: np.ndarray, convolve: nnx.nn.linear.ConvGeneralDilatedT) -> nnx.Conv:
    """A 3x3 convolution around a kernel."""
    options = {"padding": ((1, 1), (1, 1)), "use_bias": False, "conv_general_dilated": convolve}
    module = nnx.Conv(*kernel.shape[2:], kernel.shape[:2], rngs=nnx.Rngs(0), **options)
    module.kernel[...] = jnp.asarray(kernel)
    return module


def _dense(kernel: np.ndarray) -> nnx.Linear:
    """A dense layer around a kernel."""
    module = nnx.Linear(*kernel.shape, use_bias=False, rngs=nnx.Rngs(0))
    module.kernel[...] = jnp.asarray(kernel)
    return module


def _neurons(problem: Problem, layer: str, shape: tuple[int, ...]) -> spyx.nn.IF | spyx.nn.LIF:
    """A layer's neurons, with the problem's threshold and leak."""
    if problem.leak == 1:
        return spyx.nn.IF(shape, threshold=problem.thresholds[layer])
    neurons = spyx.nn.LIF(shape, beta=problem.leak, threshold=problem.thresholds[layer], rngs=nnx.Rngs(0))
    neurons.beta = nnx.Variable(neurons.beta[...])  # spyx would train it, which no other contestant does
    return neurons
