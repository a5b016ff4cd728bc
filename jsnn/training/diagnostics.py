"""What surrogate gradients are worth: whether batches agree on them, where a step along them leads, who has none.

Spikes have no gradient to compare a surrogate's with, but the slope along it can be measured: weights are moved a
little with and against it, and the spiking network is run on both sides. Between batches noise averages out. What they
agree on does not, and carries the weights along step by step, whether the loss falls on the way or not.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jsnn.data.augment import scale
from jsnn.data.sources import Batch
from jsnn.network.simulation import Observer, Presentation, simulate_images
from jsnn.network.transformation import Variables
from jsnn.training.loss import correct, cross_entropies


class Scores(NamedTuple):
    """Means over samples."""

    loss: jax.Array  # [] cross-entropy, nats
    accuracy: jax.Array  # [] share of the samples classified correctly


class SilentNeurons(NamedTuple):
    """Shares of neurons that have not fired."""

    never: dict[str, jax.Array]  # layer -> [], of all (neuron, sample) those without a spike in the whole presentation
    so_far: dict[str, jax.Array]  # layer -> [], of all (neuron, sample, step) those without a spike before: no gradient


@partial(jax.jit, static_argnums=0)
def mean_scores(
    presentation: Presentation, variables: Variables, batches: Batch, key: jax.Array, logit_scale: float = 1.0
) -> Scores:
    """How an SNN scores on batches [N, B, ...], none of it padding, after the last time step, dropout off.

    The loss is that of the sums over time times `logit_scale`.
    """
    score = partial(_score, presentation, variables, key, logit_scale)
    return jax.tree.map(jnp.mean, jax.lax.map(score, batches))


@partial(jax.jit, static_argnums=0)
def batch_gradients(
    presentation: Presentation, variables: Variables, batches: Batch, key: jax.Array, logit_scale: float = 1.0
) -> Any:
    """The gradient of the loss of each of the batches [N, B, ...] by the SNN's surrogate, [N, ...] for each weight.

    The loss is that of `mean_scores`; the mean of the gradients is that of all samples' loss.
    """

    def loss(params: Any, batch: Batch) -> jax.Array:
        return _score(presentation, {**variables, "params": params}, key, logit_scale, batch).loss

    return jax.lax.map(partial(jax.grad(loss), variables["params"]), batches)


def agreement(gradients: jax.Array) -> jax.Array:
    """How far batches agree on the gradient of some weights, of their gradients [N, ...].

        mean over weights of |mean over n of g[n]| / sqrt(mean over n of g[n]^2)

    It is 1 where all batches agree, about 0.8 / sqrt(N) where each is only noise, and 0 where no weight has a gradient.
    Weights that have none in any batch do not count.
    """
    root_mean_square = jnp.sqrt((gradients**2).mean(0))
    ratios = jnp.abs(gradients.mean(0)) / jnp.where(root_mean_square > 0, root_mean_square, 1)
    return ratios.sum() / jnp.maximum((root_mean_square > 0).sum(), 1)


def step_changes(score: Callable[[Variables], Any], variables: Variables, gradients: Any, size: float) -> Any:
    """What a small step down a gradient does to scores, as far as it differs from a step up, in one layer at a time.

        change = (score(w - s) - score(w + s)) / 2    with    s = size * |w| * g / |g|

    of a layer's weights w and the mean g of its gradients [N, ...]. Returned is the score's pytree with layer -> change
    in the place of each number. Where the score is smooth in w and g its gradient, that is -|g| |s|, but for terms of
    the third order. A layer without a gradient takes no step.
    """
    params = variables["params"]

    def change(layer: str) -> Any:
        weights, along = params[layer], jax.tree.map(lambda of_batches: of_batches.mean(0), gradients[layer])
        length = optax.tree.norm(along)
        share = size * optax.tree.norm(weights) / jnp.where(length > 0, length, 1)
        step = jax.tree.map(lambda g: share * g, along)
        moved = (jax.tree.map(move, weights, step) for move in (jnp.subtract, jnp.add))
        down, up = (score({**variables, "params": {**params, layer: new}}) for new in moved)
        return jax.tree.map(lambda after, before: (after - before) / 2, down, up)

    return jax.tree.map(lambda *changes: dict(zip(params, changes, strict=True)), *map(change, params))


@partial(jax.jit, static_argnums=0)
def silent_neurons(presentation: Presentation, variables: Variables, batches: Batch, key: jax.Array) -> SilentNeurons:
    """How many neurons have not fired, by layer, in batches [N, B, ...], none of it padding."""

    def of_batch(batch: Batch) -> SilentNeurons:
        spikes = _present(presentation, variables, key, batch, lambda observed: observed.layers["spikes"], "spikes")
        never = {layer: (train.sum(0) == 0).mean() for layer, train in spikes.items()}
        so_far = {layer: (train.cumsum(0) == train).mean() for layer, train in spikes.items()}
        return SilentNeurons(never, so_far)

    return jax.tree.map(jnp.mean, jax.lax.map(of_batch, batches))


def _score(
    presentation: Presentation, variables: Variables, key: jax.Array, logit_scale: float, batch: Batch
) -> Scores:
    """The scores of one batch."""
    logits = logit_scale * _present(presentation, variables, key, batch, lambda observed: observed.total)[-1]
    losses = cross_entropies(logits, batch.labels)
    return Scores(losses.mean(), correct(logits, batch.labels).mean())


def _present(
    presentation: Presentation, variables: Variables, key: jax.Array, batch: Batch, observe: Observer, *collect: str
) -> Any:
    """What is observed while the network is presented one batch."""
    images = scale(batch.images)
    return simulate_images(presentation, variables, images, batch.index, key, observe, collect=collect)
