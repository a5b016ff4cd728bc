"""The recipe's optimisers and learning-rate schedules, from optax.

Weight decay is L2 in the gradient (added before the momentum and the second moments), not AdamW's.
"""

import math
from functools import partial

import jax.numpy as jnp
import optax

SCHEDULES = ("tenths", "halvings", "cosine", "constant")
RULES = {"sgd": partial(optax.sgd, momentum=0.9), "adam": optax.adam, "amsgrad": optax.amsgrad}
OPTIMIZERS = tuple(RULES)


def learning_rate(
    schedule: str, initial: float, epochs: int, steps_per_epoch: int, warmup: float = 0.0
) -> optax.Schedule:
    """A learning-rate schedule of the recipe, step -> rate.

    ValueError where it is unknown or a number is out of its range.

    "tenths" divides by 10 after 60, 80 and 90 % of all steps (appendix of Rathi et al., 2020); "halvings" halves every
    5 epochs (the authors' early code); "cosine" falls to 0 in half a wave; "constant" does not. Over the epochs of a
    warm-up the rate rises to the schedule's.
    """
    if not 0 <= warmup < math.inf:
        raise ValueError(f"warmup must be at least 0 epochs and finite, got {warmup}.")
    if not 0 < initial < math.inf or epochs < 1 or steps_per_epoch < 1:
        raise ValueError(
            f"a schedule needs a finite learning rate above 0 and at least one epoch and step, "
            f"got {initial}, {epochs} epochs and {steps_per_epoch} steps per epoch."
        )
    steps, rising = epochs * steps_per_epoch, warmup * steps_per_epoch
    factors: dict[int, float] = {}
    if schedule == "tenths":
        for step in (steps * percent // 100 for percent in (60, 80, 90)):
            factors[step] = factors.get(step, 1.0) / 10
    elif schedule == "halvings":
        factors = {epoch * steps_per_epoch: 0.5 for epoch in range(5, epochs, 5)}
    elif schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}: choose one of {', '.join(SCHEDULES)}.")
    if schedule == "cosine":
        rate = optax.cosine_decay_schedule(initial, steps)
    else:
        rate = optax.piecewise_constant_schedule(initial, factors)
    return (lambda step: rate(step) * jnp.minimum(1, (step + 1) / rising)) if rising else rate


def optimizer(
    name: str, rate: optax.Schedule, weight_decay: float, clip: float | None = None
) -> optax.GradientTransformation:
    """An optimiser of the recipe: SGD with momentum 0.9 for the ANN, Adam or AMSGrad for the SNN.

    The weights times `weight_decay` are added to the gradient before the rule sees it. A gradient whose norm is above
    `clip` is scaled down to it as a whole before that. ValueError where the name is unknown, the
    weight decay is negative or clip is not above 0.
    """
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay must be at least 0 and finite, got {weight_decay}.")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip must be above 0, or None, got {clip}.")
    if name not in RULES:
        raise ValueError(f"unknown optimiser {name!r}: choose one of {', '.join(OPTIMIZERS)}.")
    first = () if clip is None else (optax.clip_by_global_norm(clip),)
    return optax.chain(*first, optax.add_decayed_weights(weight_decay), RULES[name](rate))
