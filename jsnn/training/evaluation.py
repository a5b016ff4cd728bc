"""Evaluation: top-1 and loss at every time step, spikes per neuron of every layer, from one pass.

The readout's potential is a running sum, so the logits at step t are those of a presentation of t steps.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jsnn.accuracy import correct
from jsnn.augment import scale
from jsnn.conversion import scale_thresholds
from jsnn.packing import MOST_STEPS
from jsnn.simulation import Presentation, Variables, simulate, spikes_per_neuron
from jsnn.sources import PADDING, Batch, Source


class Evaluation(NamedTuple):
    """Sums over samples, or means per sample after `mean`; an ANN counts as one time step.

    Attributes:
        count: [] number of samples.
        accuracy: [T] top-1 after t + 1 steps: samples classified correctly, see `correct`, or their share.
        loss: [T] cross-entropy of the logits after t + 1 steps, nats.
        spikes: layer -> [T] spikes per neuron at step t.
    """

    count: jax.Array
    accuracy: jax.Array
    loss: jax.Array
    spikes: dict[str, jax.Array]


Evaluate = Callable[[Variables, Any, Any, jax.Array], Evaluation]  # (variables, resident, item, key)


def mean(sums: Evaluation) -> Evaluation:
    """Turn sums over samples into means per sample.

    Args:
        sums: Evaluation of sums.

    Returns:
        Evaluation of means, with the count as it was.
    """
    return Evaluation(sums.count, *jax.tree.map(lambda x: x / sums.count, tuple(sums[1:])))


def ann_evaluation(model: nn.Module, source: Source) -> Evaluate:
    """How an ANN is scored, dropout off.

    Args:
        model: the ANN.
        source: tells how to take samples.

    Returns:
        (variables, resident, item, key) -> Evaluation of sums over the item, T = 1; padding does not count. The key is
        not used: an ANN is fed the image itself.
    """

    def evaluate(variables: Variables, resident: Any, item: Any, key: jax.Array) -> Evaluation:
        del key
        batch = source.take(resident, item)
        logits = model.apply({"params": variables["params"]}, scale(batch.images))
        accuracy, loss = _sums(batch, *_scores(logits[None], batch.labels, (1.0,)))
        return Evaluation(_count(batch), accuracy, loss[:, 0], {})

    return evaluate


def snn_evaluation(presentation: Presentation, source: Source) -> Evaluate:
    """How an SNN is scored at every time step, dropout off.

    Args:
        presentation: the SNN, the encoding of the images and the time steps.
        source: tells how to take samples.

    Returns:
        (variables, resident, item, key) -> Evaluation of sums over the item; padding does not count. The key is of the
        encoding, one for each stream of noise.
    """

    def evaluate(variables: Variables, resident: Any, item: Any, key: jax.Array) -> Evaluation:
        scores = _present(presentation, source.take(resident, item), (1.0,), variables, key)
        return scores._replace(loss=scores.loss[:, 0])

    return evaluate


def factor_sweep(
    presentation: Presentation, source: Source, factors: Sequence[float], scales: Sequence[float]
) -> Evaluate:
    """How a converted SNN is scored at each of several threshold factors and scales of the logits, in one program.

    The sum of currents over time comes in units of its own, mostly far too sure of itself. The scale of the least loss
    calibrates it and changes no decision (temperature scaling: Guo et al., 2017, arXiv:1706.04599).

    Args:
        presentation: the SNN, the encoding of the images and the time steps.
        source: tells how to take samples.
        factors: F factors on the thresholds, each above 0.
        scales: S factors on the logits in the loss, each above 0.

    Returns:
        (variables, resident, item, key) -> Evaluation of sums over the item with leading axis F, but for the count,
        which all factors share; the loss is [F, T, S].
    """

    def evaluate(variables: Variables, resident: Any, item: Any, key: jax.Array) -> Evaluation:
        batch = source.take(resident, item)

        def at(factor: jax.Array) -> Evaluation:
            return _present(presentation, batch, scales, scale_thresholds(variables, factor), key)

        scores = jax.lax.map(at, jnp.asarray(factors))
        return scores._replace(count=scores.count[0])

    return evaluate


def _present(
    presentation: Presentation, batch: Batch, scales: Sequence[float], variables: Variables, key: jax.Array
) -> Evaluation:
    """Sums over a batch, with the loss [T, S] at each scale of the logits."""
    model, encode, num_steps, chunk = presentation
    images = scale(batch.images)

    def observe(logits: jax.Array, collected: Variables) -> Any:
        spikes = spikes_per_neuron(collected["trains"], len(logits))
        return _sums(batch, *_scores(logits, batch.labels, scales), spikes)

    sums = simulate(
        model,
        variables,
        lambda time: encode(images, key, batch.index, time),
        observe,
        num_steps=num_steps,
        chunk=min(chunk, MOST_STEPS),
        collect=("trains",),
    )
    return Evaluation(_count(batch), *sums)


def _scores(logits: jax.Array, labels: jax.Array, scales: Sequence[float]) -> tuple[jax.Array, jax.Array]:
    """Correct (0 or 1) [K, B] and cross-entropy [K, S, B] at each scale, of [K, B, classes] logits."""
    scaled = jnp.asarray(scales, logits.dtype)[:, None, None] * logits[:, None]
    losses = optax.softmax_cross_entropy_with_integer_labels(scaled, jnp.broadcast_to(labels, scaled.shape[:-1]))
    return correct(logits, labels).astype(logits.dtype), losses


def _sums(batch: Batch, *scores: Any) -> Any:
    """Sums of scores [..., B] over the samples that are no padding."""
    return jax.tree.map(lambda x: jnp.where(batch.index != PADDING, x, 0).sum(-1), scores)


def _count(batch: Batch) -> jax.Array:
    """The number of samples that are no padding."""
    return (batch.index != PADDING).sum().astype(jnp.float32)
