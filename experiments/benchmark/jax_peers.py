"""The network in other JAX libraries; each is imported where it is used, for not all need be installed.

Both go layer by layer: products over all time steps at once, and a scan over time of the neurons alone.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmark.problem import LEARNING_RATE, LINEAR, READOUT, Contestant, Problem, layers

# (weights, input spikes [T, B, H, W, C]) -> the readout's currents [T, B, classes], or each layer's firing rate
Present = Callable[[Any, jax.Array], jax.Array]
Rates = Callable[[Any, jax.Array], Sequence[jax.Array]]


def poisson_inputs(images: jax.Array, key: jax.Array, num_steps: int) -> jax.Array:
    """Input spikes of all time steps, [T, B, H, W, C]."""
    fired = jax.random.uniform(key, (num_steps, *images.shape)) < jnp.abs(images)
    return jnp.sign(images) * fired


def contestant(problem: Problem, num_steps: int, device: str, weights: Any, run: tuple[Present, Rates]) -> Contestant:
    """A contestant that trains its weights, a pytree, with optax."""
    present, rates_of = run
    jax.config.update("jax_platforms", device)
    rule, data = optax.adam(LEARNING_RATE), jax.device_put((problem.images, problem.labels))
    weights = jax.tree.map(jnp.asarray, weights)
    state, keys = rule.init(weights), map(jax.random.key, count())

    def scores(weights: Any, images: jax.Array, key: jax.Array) -> jax.Array:
        return present(weights, poisson_inputs(images, key, num_steps)).sum(0)

    def loss(weights: Any, images: jax.Array, labels: jax.Array, key: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(scores(weights, images, key), labels).mean()

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(weights: Any, state: optax.OptState, *batch: jax.Array) -> tuple[Any, optax.OptState]:
        updates, state = rule.update(jax.grad(loss)(weights, *batch), state)
        return optax.apply_updates(weights, updates), state

    logits, means = (
        jax.jit(scores),
        jax.jit(lambda weights, *batch: rates_of(weights, poisson_inputs(*batch, num_steps))),
    )

    def train() -> None:
        nonlocal weights, state
        weights, state = jax.block_until_ready(step(weights, state, *data, next(keys)))

    def rates() -> dict[str, float]:
        each = map(float, means(weights, data[0], next(keys)))
        return dict(zip(problem.thresholds, each, strict=True))

    return Contestant(train, lambda: np.asarray(logits(weights, data[0], next(keys))), rates)


def jaxpike(problem: Problem, num_steps: int, device: str) -> Contestant:
    """`jaxpike.unroll`. The reset has a gradient, which jaxpike gives no means to leave out; tau is not trained.

    Its neurons average as norse's do, so they have weights over (1 - leak) and the threshold, and a leak of 2^-20 where
    the problem has none, see `torch_peers.norse`.
    """
    import equinox
    import jaxpike

    loss, parts, gains, weights = max(1 - problem.leak, 2.0**-20), [], [], []
    tau, plain = -1 / np.log1p(-loss), {"use_bias": False, "key": jax.random.key(0)}
    surrogate = jaxpike.Triangular() if problem.surrogate == LINEAR else jaxpike.FastSigmoid()
    for layer in layers(problem):
        parts += [jaxpike.Pool2d(2)] if layer.pooled else []
        parts += [jaxpike.Flatten()] if len(layer.inputs) > len(layer.outputs) else []
        *window, inputs, outputs = layer.kernel.shape
        parts += [jaxpike.Conv2d(inputs, outputs, 3, **plain) if window else jaxpike.Dense(inputs, outputs, **plain)]
        weights += [layer.kernel if window else layer.kernel.T]
        gains += [1 if layer.name == READOUT else 1 / (loss * problem.thresholds[layer.name])]
        parts += [] if layer.name == READOUT else [jaxpike.LIF(tau, surrogate=surrogate)]
    fixed = jaxpike.Sequential(*parts)

    def network(weights: list[jax.Array]) -> jaxpike.Sequential:
        scaled = [weight * gain for weight, gain in zip(weights, gains, strict=True)]
        return equinox.tree_at(_weights, fixed, scaled)

    def present(weights: list[jax.Array], inputs: jax.Array) -> jax.Array:
        return jaxpike.unroll(network(weights), inputs)[0]

    def rates(weights: list[jax.Array], inputs: jax.Array) -> list[jax.Array]:
        parts = network(weights).layers
        ends = [i + 1 for i, part in enumerate(parts) if isinstance(part, jaxpike.LIF)]
        return [jaxpike.unroll(jaxpike.Sequential(*parts[:end]), inputs)[0].mean() for end in ends]

    return contestant(problem, num_steps, device, weights, (present, rates))


def _weights(network: Any) -> list[jax.Array]:
    """The leaves of a jaxpike network that are trained."""
    return [part.weight for part in network.layers if hasattr(part, "weight")]


def sparx(problem: Problem, num_steps: int, device: str) -> Contestant:
    """Flax layers and `sparx.nn.IF`; a membrane of exactly the threshold fires, and the reset has no gradient."""
    import sparx

    parts: list[Callable[[jax.Array], jax.Array]] = []
    weights: dict[str, dict[str, np.ndarray]] = {}
    for layer in layers(problem):
        parts += [partial(nn.avg_pool, window_shape=(2, 2), strides=(2, 2))] if layer.pooled else []
        parts += [lambda x: x.reshape(*x.shape[:2], -1)] if len(layer.inputs) > len(layer.outputs) else []
        *window, outputs = (*layer.kernel.shape[:-2], layer.kernel.shape[-1])
        weights[f"layers_{len(parts)}"] = {"kernel": layer.kernel}
        parts += [nn.Conv(outputs, window, use_bias=False) if window else nn.Dense(outputs, use_bias=False)]
        if layer.name in problem.thresholds:
            v = problem.thresholds[layer.name]
            triangle, lossy = sparx.surrogate.Triangle(width=v, scale=1 / v), problem.leak < 1
            options = {"surrogate": triangle if problem.surrogate == LINEAR else sparx.surrogate.ATan()}
            options |= {"threshold": v, "detach_reset": True, **({"tau": -1 / np.log(problem.leak)} if lossy else {})}
            parts += [(sparx.nn.LIF if lossy else sparx.nn.IF)(**options)]
    network = nn.Sequential(parts)

    def present(weights: Any, inputs: jax.Array) -> jax.Array:
        return network.apply({"params": weights}, inputs)

    def rates(weights: Any, inputs: jax.Array) -> list[jax.Array]:
        _, collections = network.apply({"params": weights}, inputs, mutable=[sparx.nn.RATES])
        by_layer = collections[sparx.nn.RATES]
        return [by_layer[f"layers_{i}"]["rate"][0].mean() for i in range(len(parts)) if f"layers_{i}" in by_layer]

    return contestant(problem, num_steps, device, weights, (present, rates))
