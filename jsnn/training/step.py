"""One training step for ANN and SNN: forward, cross-entropy, gradient, optimiser.

What differs between the two is the forward function alone: `ann_forward` runs the model once, `snn_forward` over time.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jsnn.accuracy import correct
from jsnn.augment import scale
from jsnn.bptt import Keys, present
from jsnn.encoding import Encoding
from jsnn.models import surrogate_of
from jsnn.randomness import sample_keys
from jsnn.simulation import Presentation, Variables, simulate
from jsnn.sources import Source

Forward = Callable[[Variables, jax.Array, jax.Array, jax.Array], jax.Array]


class TrainState(NamedTuple):
    """Everything that a step changes or needs besides the data.

    Attributes:
        step: [] int32, optimiser steps taken.
        params: weights of the network, trained.
        neuron: thresholds and leaks, kept as they are; empty for an ANN.
        opt_state: the optimiser's state.
    """

    step: jax.Array
    params: Any
    neuron: Any
    opt_state: optax.OptState


class Metrics(NamedTuple):
    """What a step reports of the global batch.

    Attributes:
        loss: [] float32 mean cross-entropy, nats.
        accuracy: [] float32, share of the training samples classified correctly.
        finite: layer -> [] bool, whether all numbers of its gradient and of its next weights are finite; "optimizer"
            tells it of the optimiser's next state.
    """

    loss: jax.Array
    accuracy: jax.Array
    finite: dict[str, jax.Array]


Step = Callable[[TrainState, Any, Any, jax.Array], tuple[TrainState, Metrics]]  # (state, resident, item, key)


def init_state(variables: Variables, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step.

    Args:
        variables: {"params": ...} of an ANN, or with "neuron" of an SNN.
        optimizer: the optax transformation to be used.

    Returns:
        The TrainState, which holds copies, for a step may overwrite it in place.
    """
    params, neuron = jax.tree.map(jnp.copy, (variables["params"], variables.get("neuron", {})))
    return TrainState(jnp.zeros((), jnp.int32), params, neuron, optimizer.init(params))


def ann_forward(model: nn.Module) -> Forward:
    """The forward function of an ANN in training, dropout on.

    Args:
        model: the ANN.

    Returns:
        (variables, images [B, H, W, C] in [-1, 1], index [B], key) -> logits [B, classes].
    """

    def forward(variables: Variables, images: jax.Array, index: jax.Array, key: jax.Array) -> jax.Array:
        return model.apply({"params": variables["params"]}, images, index, rngs={"dropout": key})

    return forward


def snn_forward(model: nn.Module, encode: Encoding, num_steps: int, chunk: int, logit_scale: float = 1.0) -> Forward:
    """The forward function of an SNN in training, dropout on with one mask over time.

    Args:
        model: the SNN, see `jsnn.models.spiking`.
        encode: the encoding of the images.
        num_steps: T, time steps of a presentation.
        chunk: time steps per chunk, see `jsnn.simulation.fitting_chunk`; does not change the result.
        logit_scale: factor on the logits, above 0; 1 is the paper's equation, see `evaluation.factor_sweep`.

    Returns:
        (variables, images [B, H, W, C] in [-1, 1], index [B], key) -> logits [B, classes], the sum over time, scaled.
    """

    def from_spikes(variables: Variables, images: jax.Array, index: jax.Array, key: jax.Array) -> jax.Array:
        what = Presentation(model, encode, num_steps, chunk)
        return logit_scale * present(what, variables, images, index, Keys(*jax.random.split(key)))

    def from_membranes(variables: Variables, images: jax.Array, index: jax.Array, key: jax.Array) -> jax.Array:
        input_key, dropout_key = jax.random.split(key)
        logits = simulate(
            model,
            variables,
            lambda time: encode(images, input_key, index, time),
            lambda logits, _: logits,
            num_steps=num_steps,
            chunk=chunk,
            index=index,
            rngs={"dropout": dropout_key},
        )
        return logit_scale * logits[-1]

    return from_membranes if surrogate_of(model).by_age is None else from_spikes


def train_step(
    source: Source, forward: Forward, optimizer: optax.GradientTransformation, axis_name: str | None = None
) -> Step:
    """One optimiser step on one batch.

        loss = mean over the batch of cross-entropy(logits, label)

    All randomness is a function of (key, state.step, index of the sample). Where a number is not finite, in the loss,
    a gradient or what comes of it, the step is counted but params and optimiser stay as they are.

    Args:
        source: tells how to take and augment samples.
        forward: of the network, see `ann_forward` and `snn_forward`.
        optimizer: the optax transformation.
        axis_name: name of the mapped device axis over which gradients are averaged; None on a single device.

    Returns:
        (state, resident, item, key) -> (the next TrainState, Metrics), with what `source.resident` holds on the device,
        this device's part of an item of the source, and the random key of the run.
    """

    def step(state: TrainState, resident: Any, item: Any, key: jax.Array) -> tuple[TrainState, Metrics]:
        augment_key, forward_key = jax.random.split(jax.random.fold_in(key, state.step))
        batch = source.take(resident, item)
        images = scale(source.augment(batch.images, sample_keys(augment_key, batch.index)))

        def objective(params: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            logits = forward({"params": params, "neuron": state.neuron}, images, batch.index, forward_key)
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()
            return loss, (loss, correct(logits, batch.labels).mean())

        gradients, means = jax.grad(objective, has_aux=True)(state.params)
        if axis_name is not None:
            gradients, means = jax.lax.pmean((gradients, means), axis_name)
        return _updated(optimizer, state, gradients, means)

    return step


def _updated(
    optimizer: optax.GradientTransformation, state: TrainState, gradients: Any, means: tuple[jax.Array, jax.Array]
) -> tuple[TrainState, Metrics]:
    """The state after a step along the gradients, or as it was where a number is not finite."""
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    finite = {layer: _all_finite((gradients[layer], params[layer])) for layer in params}
    metrics = Metrics(*means, {**finite, "optimizer": _all_finite(opt_state)})
    is_sound = _all_true(metrics.finite) & jnp.isfinite(metrics.loss)
    before = (state.params, state.opt_state)
    params, opt_state = jax.tree.map(partial(jnp.where, is_sound), (params, opt_state), before)
    return TrainState(state.step + 1, params, state.neuron, opt_state), metrics


def _all_finite(tree: Any) -> jax.Array:
    return _all_true(jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), tree))


def _all_true(tree: Any) -> jax.Array:
    return jax.tree.reduce(jnp.logical_and, tree, jnp.array(True))
