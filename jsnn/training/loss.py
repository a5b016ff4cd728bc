"""What training minimises, and what counts as a correct decision."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jsnn.data.sources import Batch
from jsnn.kernels.precision import dtype_of_sums

Loss = Callable[[Any, Batch], tuple[jax.Array, dict[str, jax.Array]]]


class Outputs(NamedTuple):
    """What a network gives for a loss that looks at more than its logits.

    Attributes:
        logits: [B, classes].
        teacher: [B, classes] logits of another network for the same samples, without a gradient; None without one.
        rates: layer -> [B] spikes per neuron and time step.
    """

    logits: jax.Array
    teacher: jax.Array | None
    rates: dict[str, jax.Array]


def cross_entropy(logits: jax.Array, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Softmax cross-entropy in nats of logits [B, classes], and {"accuracy"}: means over the batch, float32 or more.

    Labels are whole numbers [B] below the number of classes, else a ValueError; inside jit, where their values are not
    known, the loss and its gradient are NaN.
    """
    labels, classes = batch.labels, logits.shape[-1]
    losses = cross_entropies(in_dtype_of_sums(logits), labels)
    known = None if isinstance(labels, jax.core.Tracer) else np.asarray(labels)
    if known is not None and not np.all((known >= 0) & (known < classes)):
        raise ValueError(f"labels must be from 0 to {classes - 1}, got {known.min()} to {known.max()}.")
    return losses.mean(), {"accuracy": correct(logits, labels).mean(dtype=jnp.float32)}


def cross_entropies(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Softmax cross-entropy [...] in nats of logits [..., classes], NaN for labels [...] that are no class."""
    if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"labels must be whole numbers of the shape {logits.shape[:-1]}, one for each sample, got {labels.dtype} "
            f"of {labels.shape}: take the argmax of one-hot ones."
        )
    is_class = (labels >= 0) & (labels < logits.shape[-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels) * jnp.where(is_class, 1, jnp.nan)


def check_classes(num_labels: int | None, logits: Any) -> None:
    """Refuse logits [..., classes] of fewer classes than a source has labels of."""
    classes = jax.tree.leaves(logits)[0].shape[-1]
    if num_labels is not None and num_labels > classes:
        raise ValueError(
            f"the labels go up to {num_labels - 1}, but the network has logits for {classes} classes, from 0 to "
            f"{classes - 1}: give it {num_labels} outputs, or count the labels from 0."
        )


def takes_labels(loss: Loss) -> bool:
    """Whether a loss is one of this module, which are of logits and labels."""
    return getattr(loss, "__module__", None) == __name__


@cache
def few_steps_loss(distillation: float = 0.0, temperature: float = 1.0, rate_penalty: float = 0.0) -> Loss:
    """Cross-entropy that a teacher may soften and spikes may add to.

        (1 - a) CE(logits, label) + a tau^2 KL(softmax(teacher / tau) || softmax(logits / tau)) + b mean rate

    Hinton et al., "Distilling the knowledge in a neural network", 2015 (arXiv:1503.02531).

    Args:
        distillation: a in [0, 1], the teacher's share; with 0 there need be none.
        temperature: tau, above 0, by which both logits are divided.
        rate_penalty: b at least 0, nats for a spike of every neuron at every time step; each layer counts alike.

    Returns:
        (Outputs, batch) -> (loss in nats, {"accuracy"}), means over the batch; the same for the same arguments.

    Raises:
        ValueError: where a number is out of its range; of the loss, where a teacher's share is asked of none, or it is
            not called with Outputs.
    """
    if not (0 <= distillation <= 1 and 0 < temperature < math.inf and 0 <= rate_penalty < math.inf):
        raise ValueError(
            "few_steps_loss needs distillation in [0, 1], temperature above 0 and rate_penalty of at least 0, all "
            f"finite, got {distillation}, {temperature} and {rate_penalty}."
        )

    def loss(outputs: Outputs, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        check_outputs(outputs)
        if distillation and outputs.teacher is None:
            raise ValueError("distillation needs a teacher's logits: wrap the forward function by with_teacher.")
        value, scores = cross_entropy(outputs.logits, batch)
        if distillation:
            softened = jax.nn.log_softmax(in_dtype_of_sums(outputs.logits) / temperature)
            teacher = jax.nn.log_softmax(in_dtype_of_sums(outputs.teacher) / temperature)
            divergence = temperature**2 * optax.losses.kl_divergence_with_log_targets(softened, teacher).mean()
            value = (1 - distillation) * value + distillation * divergence
        if rate_penalty:  # else no gradient flows through the rates
            value += rate_penalty * sum(rate.mean() for rate in outputs.rates.values()) / len(outputs.rates)
        return value, scores

    return loss


def check_outputs(outputs: Any) -> None:
    """Refuse what a network gives where it is no Outputs."""
    if not isinstance(outputs, Outputs):
        raise ValueError(
            f"the forward function must give Outputs, got {type(outputs).__name__}: make it with the readout "
            "jsnn.training.forward.with_rates."
        )


def in_dtype_of_sums(logits: jax.Array) -> jax.Array:
    """Logits in at least float32, for sums over a split are wrong in few bits."""
    return logits.astype(dtype_of_sums(logits.dtype))


def correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether the largest of the logits [..., classes] is that of the label [...].

    Logits that are all equal, as of a net whose spikes don't reach the readout, decide for no class, not for the first.
    """
    is_decided = logits.max(-1) > logits.min(-1)
    return is_decided & (logits.argmax(-1) == labels)
