"""What counts as a correct decision of a classifier."""

import jax


def correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether the largest of the logits [..., classes] is that of the label [...].

    Logits that are all equal, as of a net whose spikes don't reach the readout, decide for no class, not for the first.
    """
    is_decided = logits.max(-1) > logits.min(-1)
    return is_decided & (logits.argmax(-1) == labels)
