"""One training step for ANN and SNN: forward, loss, gradient, optimiser.

Only the forward function differs between the two, see `jsnn.training.forward`. Variables are a dict of collections; the
chosen collections are trained.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jsnn.data.sources import Source
from jsnn.network.graph import names_of
from jsnn.network.transformation import Variables
from jsnn.randomness import sample_keys
from jsnn.training.forward import Forward
from jsnn.training.loss import Loss, check_classes, cross_entropy, takes_labels


class TrainState(NamedTuple):
    """Everything that a step changes or needs besides the data.

    Attributes:
        step: [] int32, optimiser steps taken.
        params: collections that the optimiser trains, as {"params": ...}.
        fixed: collections that it does not, as the neurons of an SNN and the statistics of a batch norm.
        opt_state: the optimiser's state.
    """

    step: jax.Array
    params: dict[str, Any]
    fixed: dict[str, Any]
    opt_state: optax.OptState

    def variables(self) -> Variables:
        """All collections of the network."""
        return {**self.fixed, **self.params}


class Metrics(NamedTuple):
    """What a step reports of the global batch.

    Attributes:
        loss: [] of at least float32, a mean over the batch.
        scores: what else the loss function reports, as "accuracy"; means over devices.
        finite: layer -> [] bool, whether all numbers of its gradient and of its next weights are finite; "optimizer"
            tells it of the optimiser's next state.
    """

    loss: jax.Array
    scores: dict[str, jax.Array]
    finite: dict[str, jax.Array]


Step = Callable[[TrainState, Any, Any, jax.Array], tuple[TrainState, Metrics]]  # (state, resident, item, key)


def init_state(
    variables: Variables, optimizer: optax.GradientTransformation, trained: Sequence[str] = ("params",)
) -> TrainState:
    """The state before the first step.

    Args:
        variables: of the ANN or SNN, a dict of collections.
        optimizer: the optax transformation to be used.
        trained: names of the collections to train, as ("params", "neurons") for thresholds and leaks too.

    Returns:
        The TrainState, which holds copies, for a step may overwrite it in place.

    Raises:
        ValueError: where the variables have no such collection.
    """
    for name in trained:
        if name not in variables:
            raise ValueError(f"there is no collection {name!r} to train, the variables have {', '.join(variables)}.")
    copies = jax.tree.map(jnp.copy, dict(variables))
    params = {name: copies.pop(name) for name in trained}
    return TrainState(jnp.zeros((), jnp.int32), params, copies, optimizer.init(params))


def train_step(
    source: Source,
    forward: Forward,
    optimizer: optax.GradientTransformation,
    axis_name: str | None = None,
    loss: Loss = cross_entropy,
    accumulate: int = 1,
) -> Step:
    """One optimiser step on one batch.

    All randomness is a function of (key, state.step, index of the sample). Where a number is not finite, in the loss,
    a gradient or what comes of it, the step is counted but everything else stays as it is. So it does where an item has
    padding, or a label that is no class: then the loss and its gradient are NaN.

    Args:
        source: tells how to take and augment samples.
        forward: of the network, see `jsnn.training.forward`.
        optimizer: the optax transformation.
        axis_name: name of the mapped device axis over which gradients, metrics and collections that the forward
            function changes are averaged, of these what is a floating-point number; None on a single device.
        loss: (outputs, batch) -> (scalar, other scores), means over the batch.
        accumulate: N micro-batches that run one after the other, for less memory. Gradients and metrics are means over
            them, those of the whole batch to rounding; but a batch norm in training takes the statistics of each. A
            device's part of the batch must divide by it, else the step raises a ValueError.

    Returns:
        (state, resident, item, key) -> (the next TrainState, Metrics), with what `source.resident` holds on the device,
        this device's part of an item of the source, and the random key of the run.
    """

    def step(state: TrainState, resident: Any, item: Any, key: jax.Array) -> tuple[TrainState, Metrics]:
        augment_key, forward_key = jax.random.split(jax.random.fold_in(key, state.step))

        def gradient(item: Any) -> tuple[Any, tuple]:
            batch = source.take(resident, item)
            inputs = source.prepare(source.augment(batch.images, sample_keys(augment_key, batch.index)))

            def objective(params: Any) -> tuple[jax.Array, tuple]:
                outputs, changed = forward({**state.fixed, **params}, inputs, batch.index, forward_key)
                if takes_labels(loss):
                    check_classes(source.num_labels, outputs)
                value, scores = loss(outputs, batch)
                value *= jnp.where((batch.index >= 0).all(), 1, jnp.nan)  # padding is no sample to train on
                return value, (value, scores, changed)

            return jax.grad(objective, has_aux=True)(state.params)

        gradients, (value, scores, changed) = mean_over_parts(gradient, item, accumulate)
        if axis_name is not None:
            gradients, value, scores = jax.lax.pmean((gradients, value, scores), axis_name)
            changed = jax.tree.map(lambda leaf: jax.lax.pmean(leaf, axis_name) if _is_float(leaf) else leaf, changed)
        return _updated(optimizer, state, gradients, (value, scores), changed)

    return step


def mean_over_parts(function: Callable[[Any], Any], item: Any, parts: int) -> Any:
    """The mean of what a function gives for equal parts of an item [B, ...], one after the other.

    Of what is no floating-point number, as a counter, it is the last part's. ValueError where B does not divide.
    """
    check_parts(len(jax.tree.leaves(item)[0]), parts)
    if parts == 1:
        return function(item)
    split = jax.tree.map(lambda leaf: leaf.reshape(parts, -1, *leaf.shape[1:]), item)

    def add(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(lambda old, new: old + new if _is_float(new) else new, total, function(part)), None

    like = jax.eval_shape(function, jax.tree.map(lambda leaf: leaf[0], split))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
    total, _ = jax.lax.scan(add, zeros, split)
    return jax.tree.map(lambda leaf: leaf / parts if _is_float(leaf) else leaf, total)


def check_parts(samples: int, parts: int) -> None:
    """Refuse parts that a device's samples of a batch can't be split into evenly."""
    if parts < 1 or samples % parts:
        raise ValueError(f"accumulate {parts} can't split {samples} samples evenly: choose a divisor of {samples}.")


def _is_float(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _updated(
    optimizer: optax.GradientTransformation, state: TrainState, gradients: Any, means: tuple, changed: Variables
) -> tuple[TrainState, Metrics]:
    """The state after a step along the gradients, or as it was where a number is not finite."""
    if others := sorted({*changed} - {*state.fixed}):
        raise ValueError(
            f"the forward function changes the collection {others[0]!r}, but what it may change is "
            f"{', '.join(state.fixed) or 'none'}: leave it out of mutable, or put it into the variables, untrained."
        )
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params, fixed = optax.apply_updates(state.params, updates), {**state.fixed, **changed}
    finite = {**_finite_by_layer(gradients, params), "optimizer": _all_finite((opt_state, changed))}
    metrics = Metrics(*means, finite)
    is_sound = _all_true(metrics.finite) & jnp.isfinite(metrics.loss)
    before, after = state[1:], (params, fixed, opt_state)
    return TrainState(state.step + 1, *jax.tree.map(partial(jnp.where, is_sound), after, before)), metrics


def _finite_by_layer(*trees: dict[str, Any]) -> dict[str, jax.Array]:
    """Layer -> whether all of its numbers are finite in all trees of collections; "neurons/conv0" beside "conv0"."""
    is_finite: dict[str, jax.Array] = {}
    for path, leaf in (item for tree in trees for item in jax.tree_util.tree_leaves_with_path(tree)):
        collection, *layer = names_of(path[:2])
        name = "/".join(layer if collection == "params" and layer else [collection, *layer])
        is_finite[name] = is_finite.get(name, True) & _is_finite(leaf)
    return is_finite


def _all_finite(tree: Any) -> jax.Array:
    return _all_true(jax.tree.map(_is_finite, tree))


def _is_finite(leaf: jax.Array) -> jax.Array:
    """Whether all numbers of a leaf are, for infinity less infinity is NaN.

    On a CPU this takes half the time of asking each. XLA:CPU's maximum of an array would not do: it may pass over NaN.
    """
    return (leaf - leaf).sum() == 0 if _is_float(leaf) else jnp.array(True)


def _all_true(tree: Any) -> jax.Array:
    return jax.tree.reduce(jnp.logical_and, tree, jnp.array(True))
