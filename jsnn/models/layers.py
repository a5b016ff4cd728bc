"""The layers of the models, in plain Flax: convolutions, dense layers, batch norm, activations, dropout, pools."""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jsnn.checks import is_whole
from jsnn.quantization import qcfs
from jsnn.randomness import dropout_mask

LARGEST_SIDE = 8  # pixels; feature maps are pooled down to this before they are flattened
NORM, QUANTIZED = "_norm", "_qcfs"  # behind the name of a layer, those of its batch norm and of its activation
BATCH, FOLDED = "batch", "folded"  # batch norm, and biases in its place, see `fold_batch_norm`
NORMS = (None, BATCH, FOLDED)
EPSILON = 1e-5  # of a batch norm's variance
INITIAL_LAM = 2.0  # what the currents of a fresh network seldom exceed


class Dropout(nn.Module):
    """Inverted dropout whose mask is drawn by sample; no effect without a "dropout" key.

    Attributes:
        rate: the share of units dropped, in [0, 1).

    Raises:
        ValueError: where the rate is not in [0, 1), or dropout is on and the samples' indices are missing or others.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, index: jax.Array | None) -> jax.Array:
        if not 0 <= self.rate < 1:
            raise ValueError(f"the rate of dropout must be in [0, 1), got {self.rate}: 0 turns it off.")
        if self.rate == 0 or not self.has_rng("dropout"):
            return x
        index = None if index is None else jnp.asarray(index)
        if index is None or index.shape != x.shape[:1]:
            raise ValueError(
                "dropout draws its mask by sample: pass `index`, the samples' indices in the data set, of shape "
                f"{x.shape[:1]}, got {'none' if index is None else index.shape}."
            )
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


class QCFS(nn.Module):
    """`jsnn.qcfs` with a trained lam of its layer, the softplus of a number, which keeps it above 0.

    Attributes:
        levels: L, see `jsnn.qcfs`.
    """

    levels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        start = math.log(math.expm1(INITIAL_LAM))
        return qcfs(x, nn.softplus(self.param("lam", nn.initializers.constant(start), ())), self.levels)


def activated(x: jax.Array, levels: int | None, name: str) -> jax.Array:
    """The activation of a layer: ReLU, or QCFS of so many levels."""
    return nn.relu(x) if levels is None else QCFS(levels, name=name + QUANTIZED)(x)


def conv(features: int, size: int = 3, stride: int = 1, *, name: str, bias: bool = False) -> nn.Conv:
    """A `size` x `size` convolution, padded by size // 2 all around, weights from N(0, sqrt(2 / (size^2 features)))."""
    _check_units(features, name)
    init = nn.initializers.normal(math.sqrt(2 / (size * size * features)))
    padding = [(size // 2, size // 2)] * 2  # as PyTorch pads; "SAME" would pad one-sided where the stride is 2
    options = {"strides": (stride, stride), "padding": padding, "use_bias": bias, "kernel_init": init}
    return nn.Conv(features, (size, size), name=name, **options)


def dense(features: int, std: float, name: str, bias: bool = False) -> nn.Dense:
    """A matrix, weights from N(0, std)."""
    _check_units(features, name)
    return nn.Dense(features, use_bias=bias, kernel_init=nn.initializers.normal(std), name=name)


def _check_units(features: Any, name: str) -> None:
    if not is_whole(features) or features < 1:
        raise ValueError(f"{name} needs a whole number of units, at least 1, got {features!r}.")


def normalized(x: jax.Array, norm: str | None, name: str, train: bool) -> jax.Array:
    """Batch norm of [B, ..., C] where the model has it: with the batch's statistics in training, else the averages.

    Training by `jax.pmap` gives the statistics of a device's part of the batch; their averages are those of all.
    """
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(map(repr, NORMS))}, got {norm!r}.")
    if norm != BATCH:
        return x
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=EPSILON, name=name + NORM)(x)


def fold_batch_norm(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of a model with `norm` "folded" that computes what one with batch norm does, by its averages.

        W x scale / sqrt(var + eps) + (bias - mean scale / sqrt(var + eps))

    Args:
        variables: {"params", "batch_stats"} of a model with `norm` "batch", and, of its SNN, "neurons".

    Returns:
        The variables without "batch_stats", with a bias for each kernel that a batch norm stood behind.

    Raises:
        ValueError: where the variables have no "batch_stats", or others than those of this package's models.
    """
    if "batch_stats" not in variables:
        raise ValueError('these variables have no "batch_stats": pass those of a model with norm="batch".')
    params, averages = dict(variables["params"]), variables["batch_stats"]
    for norm, average in averages.items():
        name, affine = norm.removesuffix(NORM), params.pop(norm, {})
        if name not in params or not {"scale", "bias"} <= set(affine):
            raise ValueError(f"{norm} is no batch norm of a model of jsnn.models, so it has no weights to fold into.")
        factor = affine["scale"] / jnp.sqrt(average["var"] + EPSILON)
        bias = affine["bias"] - average["mean"] * factor
        params[name] = {"kernel": params[name]["kernel"] * factor, "bias": bias}
    return {name: part for name, part in variables.items() if name != "batch_stats"} | {"params": params}


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
