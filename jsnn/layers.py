"""What models are made of: a layer of weights and neurons, dropout, convolution, dense map, pool.

All of them accept [B, ...] (ANN) and [T, B, ...] (SNN) alike.
"""

import math
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
from jax.typing import DTypeLike

from jsnn.convolution import conv_general_dilated
from jsnn.products import dot_general
from jsnn.randomness import dropout_mask

ModuleDef = Callable[..., nn.Module]
LARGEST_SIDE = 8  # pixels; feature maps are pooled down to this before they are flattened


class Layer(nn.Module):
    """Weights and the neurons that they drive, under one name.

    Attributes:
        weights: makes the linear map, without bias.
        neuron: makes the neurons.
    """

    weights: ModuleDef
    neuron: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array, *shortcut: jax.Array) -> jax.Array:
        weights, neuron = self.weights(), self.neuron()
        nn.share_scope(self, weights)
        nn.share_scope(self, neuron)
        return neuron(weights(x), *shortcut)


class Dropout(nn.Module):
    """Inverted dropout with one mask per sample, held for all time steps; no effect without a "dropout" key.

    Attributes:
        rate: the share of units dropped, in [0, 1).
        unit_dims: how many of the last axes make up a sample.

    Raises:
        ValueError: where dropout is on and the samples' indices are missing.
    """

    rate: float
    unit_dims: int

    @nn.compact
    def __call__(self, x: jax.Array, index: jax.Array | None) -> jax.Array:
        if self.rate == 0 or not self.has_rng("dropout"):
            return x
        if index is None:
            raise ValueError("dropout draws its mask by sample: pass `index`, the samples' indices in the data set.")
        mask = dropout_mask(self.make_rng("dropout"), index, x.shape[-self.unit_dims :], self.rate, x.dtype)
        self.sow("masks", "mask", mask, init_fn=lambda: None, reduce_fn=lambda _, new: new)
        return x * mask


def conv(features: int, size: int = 3, stride: int = 1, operands: DTypeLike | None = None) -> ModuleDef:
    """A `size` x `size` convolution without bias, SAME padding, weights from N(0, sqrt(2 / (size^2 * features)))."""
    init = nn.initializers.normal(math.sqrt(2 / (size * size * features)))
    window, strides = (size, size), (stride, stride)
    padding = [(size // 2, size // 2)] * 2  # as PyTorch pads; "SAME" would pad one-sided where the stride is 2
    convolve = partial(conv_general_dilated, operands=operands)
    options = {"padding": padding, "use_bias": False, "kernel_init": init, "conv_general_dilated": convolve}
    return partial(nn.Conv, features, window, strides, **options)


def dense(features: int, std: float, operands: DTypeLike | None = None) -> ModuleDef:
    """A matrix without bias, weights from N(0, std)."""
    init, product = nn.initializers.normal(std), partial(dot_general, operands=operands)
    return partial(nn.Dense, features, use_bias=False, kernel_init=init, dot_general=product)


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
    # Four strided slices, not a window reduction: XLA fuses them with what makes x.
    corners = [x[..., i : height // 2 * 2 : 2, j : width // 2 * 2 : 2, :] for i in range(2) for j in range(2)]
    return sum(corners) / 4


def flatten(x: jax.Array) -> jax.Array:
    """[..., H, W, C] -> [..., H * W * C]."""
    return x.reshape(*x.shape[:-3], -1)


def too_large(x: jax.Array, largest_side: int = LARGEST_SIDE) -> bool:
    """Whether a feature map [..., H, W, C] has a side of more than `largest_side` pixels."""
    return max(x.shape[-3:-1]) > largest_side
