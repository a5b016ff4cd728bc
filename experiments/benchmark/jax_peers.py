"""The network in other JAX libraries; each is imported where it is used, for not all need be installed."""

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.benchmark.problem import LEARNING_RATE, Contestant, Layer, Problem, layers, network
from experiments.benchmark.roster import LINEAR
from jsnn.kernels.convolution import conv_general_dilated

# (weights, input spikes [T, B, H, W, C], how many modules) -> what the last of so many modules gives at each step
Run = Callable[[Any, jax.Array, int | None], jax.Array]
linen_pool, nnx_pool = (partial(kind.avg_pool, window_shape=(2, 2), strides=(2, 2)) for kind in (nn, nnx))


def contestant(problem: Problem, num_steps: int, weights: Any, run: Run) -> Contestant:
    """A contestant that trains its weights, a pytree, with optax."""
    rule, data = optax.adam(LEARNING_RATE), jax.device_put((problem.images, problem.labels))
    weights = jax.tree.map(jnp.asarray, weights)
    state, keys = rule.init(weights), map(jax.random.key, count())
    parts = network(problem, "pool", "flatten", lambda _: "synapses", lambda _: "neurons")
    ends = [place for place, part in enumerate(parts, start=1) if part == "neurons"]

    def outputs(weights: Any, images: jax.Array, key: jax.Array, end: int | None = None) -> jax.Array:
        fired = jax.random.uniform(key, (num_steps, *images.shape)) < jnp.abs(images)
        return run(weights, jnp.sign(images) * fired, end)

    scores = jax.jit(lambda *given: outputs(*given).sum(0))
    means = jax.jit(lambda *given: [outputs(*given, end).mean() for end in ends])

    def loss(weights: Any, images: jax.Array, labels: jax.Array, key: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(scores(weights, images, key), labels).mean()

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(weights: Any, state: optax.OptState, *batch: jax.Array) -> tuple[Any, optax.OptState]:
        updates, state = rule.update(jax.grad(loss)(weights, *batch), state)
        return optax.apply_updates(weights, updates), state

    def train() -> None:
        nonlocal weights, state
        weights, state = jax.block_until_ready(step(weights, state, *data, next(keys)))

    def rates() -> dict[str, float]:
        return dict(zip(problem.thresholds, map(float, means(weights, data[0], next(keys))), strict=True))

    return Contestant(train, lambda: np.asarray(scores(weights, data[0], next(keys))), rates)


def jaxpike(problem: Problem, num_steps: int, _device: str) -> Contestant:
    """`jaxpike.unroll`, layer by layer: products over all time steps at once, and a scan of the neurons alone.

    The reset has a gradient, which jaxpike gives no means to leave out; tau is not trained. Its neurons average as
    those of `torch_peers.norse` do, with weights and a leak to match.
    """
    import equinox
    import jaxpike

    loss, plain = max(1 - problem.leak, 2.0**-20), {"use_bias": False, "key": jax.random.key(0)}
    surrogate = jaxpike.Triangular() if problem.surrogate == LINEAR else jaxpike.FastSigmoid()
    neurons = jaxpike.LIF(-1 / np.log1p(-loss), surrogate=surrogate)
    gains = [*(1 / (loss * threshold) for threshold in problem.thresholds.values()), 1]

    def synapses(layer: Layer) -> Any:
        *window, inputs, outputs = layer.kernel.shape
        return jaxpike.Conv2d(inputs, outputs, 3, **plain) if window else jaxpike.Dense(inputs, outputs, **plain)

    fixed = jaxpike.Sequential(*network(problem, jaxpike.Pool2d(2), jaxpike.Flatten(), synapses, lambda _: neurons))

    def run(weights: list[jax.Array], inputs: jax.Array, end: int | None) -> jax.Array:
        scaled = [weight * gain for weight, gain in zip(weights, gains, strict=True)]
        with_weights = [i for i, part in enumerate(fixed.layers) if hasattr(part, "weight")]
        parts = equinox.tree_at(lambda network: [network.layers[i].weight for i in with_weights], fixed, scaled).layers
        return jaxpike.unroll(jaxpike.Sequential(*parts[:end]), inputs)[0]

    kernels = [layer.kernel if layer.kernel.ndim == 4 else layer.kernel.T for layer in layers(problem)]
    return contestant(problem, num_steps, kernels, run)


def sparx(problem: Problem, num_steps: int, _device: str) -> Contestant:
    """Flax layers and `sparx.nn.IF`, layer by layer; a membrane of the threshold fires, the reset has no gradient."""
    import sparx

    lossy = {"tau": -1 / np.log(problem.leak)} if problem.leak < 1 else {}

    def synapses(layer: Layer) -> nn.Module:
        *window, _, outputs = layer.kernel.shape
        return nn.Conv(outputs, window, use_bias=False) if window else nn.Dense(outputs, use_bias=False)

    def neurons(layer: Layer) -> nn.Module:
        v = problem.thresholds[layer.name]
        triangle = sparx.surrogate.Triangle(width=v, scale=1 / v)
        surrogate = triangle if problem.surrogate == LINEAR else sparx.surrogate.ATan()
        return (sparx.nn.LIF if lossy else sparx.nn.IF)(threshold=v, detach_reset=True, surrogate=surrogate, **lossy)

    modules = network(problem, linen_pool, lambda x: x.reshape(*x.shape[:2], -1), synapses, neurons)
    names = [f"layers_{i}" for i, module in enumerate(modules) if isinstance(module, nn.Conv | nn.Dense)]
    weights = {name: {"kernel": layer.kernel} for name, layer in zip(names, layers(problem), strict=True)}

    def run(weights: Any, inputs: jax.Array, end: int | None) -> jax.Array:
        return nn.Sequential(modules[:end]).apply({"params": weights}, inputs)

    return contestant(problem, num_steps, weights, run)


def spyx(problem: Problem, num_steps: int, _device: str, own_gradient: bool = True) -> Contestant:
    """spyx: one scan of the whole network over time, its convolutions XLA's or, faster inside a scan on a CPU, jsnn's.

    Spyx's neurons compare the membrane of the step before with the threshold, so that each hidden layer adds a step of
    delay; T steps are run, delay included. The reset has a gradient, which spyx gives no means to leave out.
    """
    import spyx

    def convolve(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **_: Any) -> jax.Array:
        return conv_general_dilated(x, kernel, strides, padding)  # dilations and groups are one here

    way = {} if own_gradient else {"conv_general_dilated": convolve}
    convolution, rngs = partial(nnx.Conv, kernel_size=(3, 3), padding=((1, 1), (1, 1)), **way), nnx.Rngs(0)

    def synapses(layer: Layer) -> nnx.Module:
        *window, inputs, outputs = layer.kernel.shape
        fixed = {"use_bias": False, "kernel_init": lambda *_: jnp.asarray(layer.kernel), "rngs": rngs}
        return (convolution if window else nnx.Linear)(inputs, outputs, **fixed)

    def neurons(layer: Layer) -> nnx.Module:
        v = problem.thresholds[layer.name]
        surrogate = spyx.axn.triangular(1 / v) if problem.surrogate == LINEAR else spyx.axn.superspike()
        if problem.leak == 1:
            return spyx.nn.IF(layer.outputs, threshold=v, activation=surrogate)
        lossy = spyx.nn.LIF(layer.outputs, beta=problem.leak, threshold=v, activation=surrogate, rngs=rngs)
        lossy.beta = nnx.Variable(lossy.beta[...])  # spyx would train it, which no other contestant does
        return lossy

    whole = spyx.nn.Sequential(*network(problem, nnx_pool, spyx.nn.Flatten(), synapses, neurons))
    graph, weights, rest = nnx.split(whole, nnx.Param, ...)

    def run(weights: Any, inputs: jax.Array, end: int | None) -> jax.Array:
        parts = nnx.merge(graph, weights, rest).layers
        return spyx.nn.run(spyx.nn.Sequential(*parts[:end]), inputs)[0]

    return contestant(problem, num_steps, weights, run)
