"""Question c: whether batches agree on how a surrogate moves a layer's weights, and whether the loss follows.

Noise averages out between batches. What they agree on does not, and carries the weights along step by step, whether
the loss falls on the way or not.
"""

import jax
import jax.numpy as jnp

from experiments.finetune import logit_scale
from experiments.runs.networks import surrogate_of
from experiments.runs.workdir import Results, Run
from experiments.study.descent import BATCH, batch_gradients, changes, half_of_validation, mean_gradient, scores_on
from jsnn.simulation import Variables


def agreement(run: Run, snn: Variables) -> Results:
    """How far the batches of a run agree on their gradients, and what a step along the mean of these does.

    Args:
        run: whose surrogate, batch size and loss it is.
        snn: the net that the gradients are of.

    Returns:
        {"share": layer -> agreement of the batches of one half of the validation images, see `share`, "loss": layer ->
        change of the loss on the other half by a step downhill, in nats}.
    """
    config, factor = run.config, logit_scale(run)
    first = half_of_validation(config, 0, config.data.batch_size)
    scores = scores_on(half_of_validation(config, 1, BATCH), config, snn, factor)
    gradients = batch_gradients(config, surrogate_of(config), snn, first, factor)
    return {
        "share": {layer: share(of_batches["kernel"]) for layer, of_batches in gradients.items()},
        "loss": changes(scores, snn["params"], mean_gradient(gradients))["loss"],
    }


def share(gradients: jax.Array) -> float:
    """The mean gradient over the root mean square, averaged over the weights that have a gradient.

    Args:
        gradients: of N batches, [N, ...].

    Returns:
        1 where all batches agree; about 0.8 / sqrt(N) where each is only noise; 0 where no weight has a gradient.
    """
    size = jnp.sqrt((gradients**2).mean(0))
    ratios = jnp.abs(gradients.mean(0)) / jnp.where(size > 0, size, 1)
    return float(ratios.sum() / jnp.maximum((size > 0).sum(), 1))
