"""What training minimises, and what counts as a correct decision."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jsnn.data.sources import Batch

Loss = Callable[[Any, Batch], tuple[jax.Array, dict[str, jax.Array]]]


def cross_entropy(logits: jax.Array, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Softmax cross-entropy of logits [B, classes] in nats, and {"accuracy"}; means over the batch."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
    return losses.mean(), {"accuracy": correct(logits, batch.labels).mean(dtype=jnp.float32)}


def correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether the largest of the logits [..., classes] is that of the label [...].

    Logits that are all equal, as of a net whose spikes don't reach the readout, decide for no class, not for the first.
    """
    is_decided = logits.max(-1) > logits.min(-1)
    return is_decided & (logits.argmax(-1) == labels)
