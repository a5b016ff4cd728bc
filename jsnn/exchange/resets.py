"""Finds neurons that other libraries have, by what they compute, so that a user's own neuron can be one of them."""

import jax.numpy as jnp
import numpy as np

from jsnn.caching import cached
from jsnn.neurons import hard_reset_lif, lif
from jsnn.neurons.neuron import Neuron, over_time

SOFT, HARD = "soft", "hard"
NUM_STEPS, NUM_NEURONS = 24, 256  # of currents at which no two neurons that differ spike alike
PARAMETERS = {"threshold": 0.75, "leak": 0.875, "initial": 0.5}


@cached
def reset_of(neuron: Neuron) -> str | None:
    """The reset of a leaky integrate-and-fire neuron: SOFT of `jsnn.lif`, HARD of `jsnn.hard_reset_lif`.

    Args:
        neuron: any.

    Returns:
        Of the neuron that has the same parameters and spikes alike at random currents; None where neither does.
    """
    if set(neuron.parameters()) != set(PARAMETERS):
        return None
    train = _train(neuron)
    known = ((SOFT, lif()), (HARD, hard_reset_lif()))
    return next((reset for reset, one in known if np.array_equal(_train(one), train)), None)


def _train(neuron: Neuron) -> np.ndarray:
    """Spikes [T, N]."""
    currents = np.random.default_rng(0).normal(0.2, 0.8, (NUM_STEPS, NUM_NEURONS)).astype(np.float32)
    state = neuron.init(PARAMETERS, currents[0])
    return np.asarray(over_time(neuron, PARAMETERS, state, jnp.asarray(currents))[0])
