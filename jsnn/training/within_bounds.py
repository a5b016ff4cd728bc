"""Training the neurons' parameters within bounds: thresholds above 0, leaks up to 1, initial membranes.

    v <- v exp(step of log v),    leak <- clip(leak + step, 0.01, 1),    initial <- clip(initial + step, -1, 1)

after DIET-SNN (Rathi and Roy, 2020, arXiv:2008.03658), which does not keep thresholds above 0.
"""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jsnn.network.graph import names_of
from jsnn.network.transformation import NEURONS

LOWEST_STEP = -5.0  # of a logarithm: one of -18 would round a threshold to 0
BOUNDS = {"leak": (0.01, 1.0), "initial": (-1.0, 1.0)}
WEIGHTS, FIXED = "weights", "fixed"


def weights_and_neurons(
    weights: optax.GradientTransformation, neurons: optax.GradientTransformation, trained: Collection[str]
) -> optax.GradientTransformation:
    """One rule for the weights, and one for the parameters of neurons, each of which stays in its range.

    Args:
        weights: of all collections but "neurons", with a weight decay if there is any.
        neurons: of the parameters of neurons, without one.
        trained: which are trained: any of "weights", "threshold", "leak", "initial" and others of the neurons, which
            have no range; the rest stays as it is.

    Returns:
        The optax transformation of params {"params": ..., "neurons": layer -> parameters}, which needs their values.

    Raises:
        ValueError: of its functions, where nothing has one of the names.
    """

    def label(path: tuple[Any, ...], _: Any) -> str:
        collection, *_, name = names_of(path)
        name = name if collection == NEURONS else WEIGHTS
        return name if name in trained else FIXED

    def rule(name: str) -> optax.GradientTransformation:
        if name == "threshold":
            return in_log(neurons)
        return within(neurons, *BOUNDS[name]) if name in BOUNDS else neurons

    def labels(params: Any) -> Any:
        chosen = jax.tree_util.tree_map_with_path(label, params)
        if missing := sorted(set(trained) - set(jax.tree.leaves(chosen))):
            raise ValueError(f"nothing to train is named {missing[0]!r}: pass init_state the collection that holds it.")
        return chosen

    rules = {name: weights if name == WEIGHTS else rule(name) for name in trained}
    return optax.partition({**rules, FIXED: optax.set_to_zero()}, labels)


def in_log(rule: optax.GradientTransformation) -> optax.GradientTransformation:
    """A rule that steps in the logarithm of parameters, which thus stay above 0.

    dL/d(log v) = v dL/dv,    v <- v exp(step), step at least -5
    """

    def update(gradients: Any, state: optax.OptState, params: Any) -> tuple[Any, optax.OptState]:
        steps, state = rule.update(jax.tree.map(jnp.multiply, gradients, params), state, jax.tree.map(jnp.log, params))
        return jax.tree.map(lambda v, step: v * jnp.expm1(jnp.maximum(step, LOWEST_STEP)), params, steps), state

    return optax.GradientTransformation(rule.init, update)


def within(rule: optax.GradientTransformation, low: float, high: float) -> optax.GradientTransformation:
    """A rule whose steps end at the borders of a range."""

    def update(gradients: Any, state: optax.OptState, params: Any) -> tuple[Any, optax.OptState]:
        steps, state = rule.update(gradients, state, params)
        return jax.tree.map(lambda value, step: jnp.clip(value + step, low, high) - value, params, steps), state

    return optax.GradientTransformation(rule.init, update)
