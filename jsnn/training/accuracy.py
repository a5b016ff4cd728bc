"""What counts as a correct decision of a classifier."""

import jax


def correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether the largest logit is the label's.

    Logits that are all equal, as of a net whose spikes don't reach the readout, decide for no class, not for the first.

    Args:
        logits: [..., classes].
        labels: [...] int32.

    Returns:
        [...] bool.
    """
    is_decided = logits.max(-1) > logits.min(-1)
    return is_decided & (logits.argmax(-1) == labels)
