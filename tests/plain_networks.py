"""Networks as plain functions of a dict, and for any networks random weights, inputs and a conversion."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jsnn

IMAGES = jax.random.uniform(jax.random.key(1), (4, 6, 6, 2), minval=-1)
ROWS = jax.random.uniform(jax.random.key(2), (4, 5), minval=-1)
PLAIN = {"hidden": {"w": jnp.zeros((5, 6)), "b": jnp.zeros(6)}, "out": {"w": jnp.zeros((6, 3)), "b": jnp.zeros(3)}}
HIDDEN = {"w": jnp.eye(3), "out": jnp.eye(3)}


def drawn(tree: Any, seed: int = 0) -> Any:
    """Random numbers in place of all floating ones, the variances among them positive."""
    rng = np.random.default_rng(seed)

    def draw(path: tuple, leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        noise = rng.normal(size=leaf.shape) / max(1, np.sqrt(np.prod(leaf.shape[:-1])))
        name = jax.tree_util.keystr(path)
        noise = 1 + noise**2 if "var" in name else 0.3 * noise if leaf.ndim == 1 and "scale" not in name else noise
        return jnp.asarray(noise, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, tree)


def dense(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """A dense layer."""
    return x @ params["w"] + params["b"]


def plain(activation: Callable[[jax.Array], jax.Array]) -> Callable[[Any, jax.Array], jax.Array]:
    """A function of a dict of parameters as `PLAIN`, with no library."""

    def network(params: Any, x: jax.Array) -> jax.Array:
        return dense(params["out"], activation(dense(params["hidden"], x)))

    return network


def converted(apply: Callable, variables: Any, x: jax.Array) -> tuple[jsnn.SNN, Any]:
    """The SNN of a function and its variables, balanced for some inputs."""
    snn = jsnn.spiking(apply)
    thresholds = jsnn.balance_thresholds(snn, variables, x, jsnn.encoding.constant, jax.random.key(0), num_steps=32)
    return snn, jsnn.convert(snn, variables, thresholds, initial=0.5)


@partial(jax.jit, static_argnums=0)
def run(snn: jsnn.SNN, variables: Any, inputs: jax.Array) -> Any:
    """The results of a whole presentation."""
    return snn.apply(variables, snn.initial_state(variables, inputs[0]), inputs)[0]
