"""Evaluation: top-1 and loss at every time step, spikes per neuron of every layer, from one pass.

The readout's potential is a running sum, so the logits at step t are those of a presentation of t steps.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from jsnn.conversion.scaling import scale_thresholds
from jsnn.data.sources import PADDING, Batch, Source
from jsnn.network.simulation import Observed, Presentation, samples_of, simulate_images, spikes_per_neuron
from jsnn.network.transformation import Variables
from jsnn.neurons.packing import STEPS_PER_WORD
from jsnn.training.loss import check_classes, correct, cross_entropies, in_dtype_of_sums


class Evaluation(NamedTuple):
    """Sums over samples, or means per sample after `mean`; an ANN counts as one time step."""

    count: jax.Array  # [] number of samples
    accuracy: jax.Array  # [T] top-1 after t + 1 steps: samples classified correctly, see `correct`, or their share
    loss: jax.Array  # [T] cross-entropy of the logits after t + 1 steps, nats
    spikes: dict[str, jax.Array]  # layer -> [T] spikes per neuron at step t


Sums = TypeVar("Sums", bound=tuple)
Unit = Callable[[Variables], Any]
Evaluate = Callable[[Variables, Any, Any, jax.Array], Evaluation]  # (variables, resident, item, key)


def sum_over_time(variables: Variables) -> float:
    """The unit of logits that are sums over time of the network's results."""
    del variables
    return 1.0


def mean(sums: Sums) -> Sums:
    """Turn sums over samples into means per sample, with the count, which comes first, as it was."""
    return type(sums)(sums[0], *jax.tree.map(lambda x: x / sums[0], tuple(sums[1:])))


def ann_evaluation(apply: Callable[..., jax.Array], source: Source) -> Evaluate:
    """How an ANN is scored, without noise.

    Args:
        apply: (variables, images [B, ...]) -> logits [B, classes].
        source: tells how to take samples.

    Returns:
        (variables, resident, item, key) -> Evaluation of sums over the item, T = 1; padding does not count. The key is
        not used: an ANN is fed the image itself.
    """

    def evaluate(variables: Variables, resident: Any, item: Any, key: jax.Array) -> Evaluation:
        del key
        batch = source.take(resident, item)
        logits = apply(variables, source.prepare(batch.images))
        check_classes(source.num_labels, logits)
        accuracy, loss = _sums(batch, *_scores(logits[None], batch.labels, jnp.ones(1)))
        return Evaluation(_count(batch), accuracy, loss[:, 0], {})

    return evaluate


def snn_evaluation(presentation: Presentation, source: Source, unit: Unit = sum_over_time) -> Evaluate:
    """How an SNN is scored at every time step, dropout off.

    Args:
        presentation: the SNN, the encoding of the images and the time steps.
        source: tells how to take samples.
        unit: variables -> factor that makes logits of sums over time, for the loss.

    Returns:
        (variables, resident, item, key) -> Evaluation of sums over the item; padding does not count. The key is of the
        encoding, one for each stream of noise.
    """

    def evaluate(variables: Variables, resident: Any, item: Any, key: jax.Array) -> Evaluation:
        scales = unit(variables) * jnp.ones(1)
        scores = _present(presentation, source, source.take(resident, item), scales, variables, key)
        return scores._replace(loss=scores.loss[:, 0])

    return evaluate


def factor_sweep(
    presentation: Presentation,
    source: Source,
    factors: Sequence[float],
    scales: Sequence[float],
    scaled: Callable[[Variables, jax.Array], Variables] = scale_thresholds,
    unit: Unit = sum_over_time,
) -> Evaluate:
    """How a converted SNN is scored at each of F threshold factors and S scales of the logits, in one program.

    The sum of currents over time is mostly far too sure of itself. The scale of the least loss calibrates it and
    changes no decision (temperature scaling: Guo et al., 2017, arXiv:1706.04599). The evaluation is that of
    `snn_evaluation` with leading axis F, but for the count, which all factors share; the loss is [F, T, S].
    """

    def evaluate(variables: Variables, resident: Any, item: Any, key: jax.Array) -> Evaluation:
        batch = source.take(resident, item)

        def at(factor: jax.Array) -> Evaluation:
            candidate = scaled(variables, factor)
            return _present(presentation, source, batch, unit(candidate) * jnp.asarray(scales), candidate, key)

        scores = jax.lax.map(at, jnp.asarray(factors))
        return scores._replace(count=scores.count[0])

    return evaluate


def _present(
    presentation: Presentation, source: Source, batch: Batch, scales: jax.Array, variables: Variables, key: jax.Array
) -> Evaluation:
    """Sums over a batch, with the loss [T, S] at each scale of the logits, which are sums over time."""

    def observe(observed: Observed) -> Any:
        check_classes(source.num_labels, observed.total)
        words = observed.layers["words"]
        spikes = spikes_per_neuron(words, len(observed.total), samples, len(batch.index))
        return _sums(batch, *_scores(observed.total, batch.labels, scales), spikes)

    presentation = presentation._replace(chunk=min(presentation.chunk, STEPS_PER_WORD))
    images = source.prepare(batch.images)
    samples = samples_of(presentation, variables, images, batch.index, key)
    sums = simulate_images(presentation, variables, images, batch.index, key, observe, collect=("words",))
    return Evaluation(_count(batch), *sums)


def _scores(logits: jax.Array, labels: jax.Array, scales: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Correct (0 or 1) [K, B] and cross-entropy [K, S, B] at each scale, of [K, B, classes] logits."""
    logits = in_dtype_of_sums(logits)
    scaled = scales.astype(logits.dtype)[:, None, None] * logits[:, None]
    losses = cross_entropies(scaled, jnp.broadcast_to(labels, (*scaled.shape[:2], *labels.shape)))
    return correct(logits, labels).astype(logits.dtype), losses


def _sums(batch: Batch, *scores: Any) -> Any:
    """Sums of scores [..., B] over the samples that are no padding."""
    return jax.tree.map(lambda x: jnp.where(batch.index != PADDING, x, 0).sum(-1), scores)


def _count(batch: Batch) -> jax.Array:
    """The number of samples that are no padding."""
    return (batch.index != PADDING).sum().astype(jnp.float32)
