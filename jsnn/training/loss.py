"""What training minimises."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jsnn.data.sources import Batch
from jsnn.training.accuracy import correct

Loss = Callable[[Any, Batch], tuple[jax.Array, dict[str, jax.Array]]]


def cross_entropy(logits: jax.Array, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Softmax cross-entropy of logits [B, classes] in nats, and {"accuracy"}; means over the batch."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
    return losses.mean(), {"accuracy": correct(logits, batch.labels).mean(dtype=jnp.float32)}
