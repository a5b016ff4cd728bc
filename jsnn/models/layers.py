"""What the models are made of, in plain Flax: convolutions and dense maps without bias, dropout by sample, pools."""

import math
from typing import Any

import flax.linen as nn
import jax

from jsnn.randomness import dropout_mask

LARGEST_SIDE = 8  # pixels; feature maps are pooled down to this before they are flattened
NORM = "_norm"  # behind the name of a layer, that of its batch norm


class Dropout(nn.Module):
    """Inverted dropout whose mask is drawn by sample; no effect without a "dropout" key.

    Attributes:
        rate: the share of units dropped, in [0, 1).

    Raises:
        ValueError: where dropout is on and the samples' indices are missing.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, index: jax.Array | None) -> jax.Array:
        if self.rate == 0 or not self.has_rng("dropout"):
            return x
        if index is None:
            raise ValueError("dropout draws its mask by sample: pass `index`, the samples' indices in the data set.")
        mask = dropout_mask(self.make_rng("dropout"), index, x.shape[1:], self.rate, x.dtype)
        self.sow("masks", "mask", mask, init_fn=lambda: None, reduce_fn=lambda _, new: new)
        return x * mask


def dropout_of(index: jax.Array, key: jax.Array) -> dict[str, Any]:
    """The keyword arguments that turn the models' dropout on, the `noise` of a presentation.

    Args:
        index: [B] int32, the samples' indices in the data set.
        key: random key.

    Returns:
        {"index", "rngs"}.
    """
    return {"index": index, "rngs": {"dropout": key}}


def conv(features: int, size: int = 3, stride: int = 1, name: str | None = None) -> nn.Conv:
    """A `size` x `size` convolution without bias, SAME padding, weights from N(0, sqrt(2 / (size^2 * features)))."""
    init = nn.initializers.normal(math.sqrt(2 / (size * size * features)))
    padding = [(size // 2, size // 2)] * 2  # as PyTorch pads; "SAME" would pad one-sided where the stride is 2
    options = {"strides": (stride, stride), "padding": padding, "use_bias": False, "kernel_init": init}
    return nn.Conv(features, (size, size), name=name, **options)


def dense(features: int, std: float, name: str) -> nn.Dense:
    """A matrix without bias, weights from N(0, std)."""
    return nn.Dense(features, use_bias=False, kernel_init=nn.initializers.normal(std), name=name)


def normalized(x: jax.Array, norm: str | None, name: str, train: bool) -> jax.Array:
    """Batch norm of [B, ..., C] where the model has it: with the batch's statistics in training, else the averages.

    Training by `jax.pmap` gives the statistics of a device's part of the batch; their averages are those of all.
    """
    if norm is None:
        return x
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, name=name + NORM)(x)


def pool(x: jax.Array) -> jax.Array:
    """2x2 average pool of [..., H, W, C]; an odd last row or column is left out.

    Raises:
        ValueError: where a side has less than two pixels.
    """
    height, width = x.shape[-3:-1]
    if min(height, width) < 2:
        raise ValueError(
            f"the image is too small for this model: a feature map of {height}x{width} cannot be pooled; "
            "use larger images or a model with fewer pools."
        )
    return nn.avg_pool(x, (2, 2), (2, 2))


def too_large(x: jax.Array, largest_side: int = LARGEST_SIDE) -> bool:
    """Whether a feature map [..., H, W, C] has a side of more than `largest_side` pixels."""
    return max(x.shape[-3:-1]) > largest_side
