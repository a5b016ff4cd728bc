"""Networks with dropout and what is presented to them, a loss of all that they do, and the comparison of gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.network.bptt import Keys, Outcome
from jsnn.neurons.surrogate import stdb
from tests.networks import SMALL_RESNET, SMALL_VGG

STEPS, BATCH = 21, 3
STDB = stdb(0.4, 0.05)
INDEX, KEYS = np.array([4, 0, 9], np.int32), Keys(jax.random.key(2), jax.random.key(3))
NETWORKS = {
    "vgg": SMALL_VGG.clone(conv_dropout=0.3, dense_dropout=0.4),
    "vgg without dropout": SMALL_VGG.clone(conv_dropout=0.0, dense_dropout=0.0),
    "resnet": SMALL_RESNET.clone(conv_dropout=0.3),
    "resnet without dropout": SMALL_RESNET.clone(conv_dropout=0.0),
}


def loss_of_all(outcome: Outcome) -> jax.Array:
    """One that looks at every step, every sample and every layer, and at each of them in another way."""
    results, spikes = outcome
    weights = 1 + jnp.arange(results.size, dtype=results.dtype).reshape(results.shape) % 7
    samples = jnp.arange(1, BATCH + 1)
    activity = [(i * samples * spikes[layer] ** 2).sum() for i, layer in enumerate(sorted(spikes), start=1)]
    return (weights * results**2).sum() + sum(activity)


def assert_equal_gradients(one: Any, other: Any, tolerance: float) -> None:
    """Losses equal, every leaf of the gradients within `tolerance` of its norm, none of them zero."""
    assert float(one[0]) == pytest.approx(float(other[0]), rel=tolerance)
    for a, b in zip(jax.tree.leaves(one[1]), jax.tree.leaves(other[1]), strict=True):
        assert a.dtype == b.dtype
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)
    assert all(np.linalg.norm(leaf) > 0 for leaf in jax.tree.leaves(other[1][0]))
