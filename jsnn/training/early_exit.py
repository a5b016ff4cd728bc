"""Early exit: a sample is presented only until the network is sure of its class.

At every time step a spiking network has an answer: the mean of its results so far. Easy samples need few steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsnn.data.sources import PADDING, Source
from jsnn.network.simulation import Presentation, simulate_images
from jsnn.network.transformation import Variables
from jsnn.training.loss import check_classes, correct

# Closer to 1 by the fourth root of 10 each; at 0 every sample stops after one step, at 1 none before the last.
CONFIDENCES = (*(1 - 10 ** (-i / 4) for i in range(17)), 1.0)

EvaluateExits = Callable[[Variables, Any, Any, jax.Array], "Exits"]  # (variables, resident, item, key)


class Exits(NamedTuple):
    """Sums over samples, or means per sample after `jsnn.training.evaluation.mean`, at each of C confidences."""

    count: jax.Array  # [] number of samples
    accuracy: jax.Array  # [C] samples classified correctly at the step at which they stop, or their share
    steps: jax.Array  # [C] time steps until then


def exit_evaluation(
    presentation: Presentation,
    source: Source,
    scale: Callable[[Variables], Any] = lambda _: 1.0,
    confidences: tuple[float, ...] = CONFIDENCES,
) -> EvaluateExits:
    """How an SNN is scored whose samples stop at the first step t at which it is sure of them.

        max softmax(scale (sum of the results of steps 1 to t) / t) > confidence,    or t = T

    Args:
        presentation: the SNN, the encoding of the images and T.
        source: tells how to take samples.
        scale: variables -> factor that makes logits of the mean over time of the results.
        confidences: in [0, 1].

    Returns:
        (variables, resident, item, key) -> Exits of sums over the item, dropout off; padding does not count.
    """
    num_steps = presentation.num_steps

    def evaluate(variables: Variables, resident: Any, item: Any, key: jax.Array) -> Exits:
        batch = source.take(resident, item)
        images = source.prepare(batch.images)
        totals = simulate_images(presentation, variables, images, batch.index, key, lambda observed: observed.total)
        check_classes(source.num_labels, totals)
        means = scale(variables) * totals / jnp.arange(1, num_steps + 1, dtype=totals.dtype)[:, None, None]
        confidence, is_correct = jax.nn.softmax(means).max(-1), correct(means, batch.labels)
        is_sample = batch.index != PADDING

        def at(least: jax.Array) -> tuple[jax.Array, jax.Array]:
            last = jnp.argmax((confidence > least).at[-1].set(True), axis=0)
            hits = jnp.take_along_axis(is_correct, last[None], axis=0)[0]
            return jnp.where(is_sample, hits, 0).sum(), jnp.where(is_sample, last + 1, 0).sum()

        sums = jax.lax.map(at, jnp.asarray(confidences))
        return Exits(*(value.astype(jnp.float32) for value in (is_sample.sum(), *sums)))

    return evaluate


def cheapest(exits: Exits, cost: float) -> int:
    """The place of the least confidence at which the accuracy is at most `cost` below that at the last step.

    Args:
        exits: means at rising confidences, the last of which stops no sample before T.
        cost: share of the samples, at least 0.
    """
    return int(np.argmax(np.asarray(exits.accuracy) >= float(exits.accuracy[-1]) - cost))
