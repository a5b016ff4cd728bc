"""The paper's VGG and ResNet as ordinary networks in plain Flax: `jsnn.spiking` makes the SNN.

They have no biases, and average pooling only: section 2.2 of Rathi et al., 2020 (arXiv:2005.01807). Batch norm and QCFS
in place of ReLU are options that the paper does not use. Dropout is on when a "dropout" key is given; it then needs the
samples' indices.
"""

import math
from collections.abc import Collection, Sequence

import flax.linen as nn
import jax

from jsnn.checks import is_whole
from jsnn.models.layers import (
    FOLDED,
    LARGEST_SIDE,
    NORMS,
    Dropout,
    activated,
    conv,
    dense,
    normalized,
    pool,
    too_large,
)

POOL = "A"
DENSE_STD = 0.01  # the paper's

VGG_STAGES = {
    "vgg5": "64 A 128 128 A",
    "vgg9": "64 A 128 256 A 256 512 A 512 A 512",
    "vgg11": "64 A 128 256 A 512 512 A 512 A 512 512",
    "vgg13": "64 64 A 128 128 A 256 256 A 512 512 512 A 512",
    "vgg16": "64 64 A 128 128 A 256 256 256 A 512 512 512 A 512 512 512",
    "vgg19": "64 64 A 128 128 A 256 256 256 256 A 512 512 512 512 A 512 512 512 512",
}
RESNET_BLOCKS = {"resnet8": (1, 1, 0, 0), "resnet12": (1, 1, 1, 1), "resnet20": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
RESNET_CHANNELS = (64, 128, 256, 512)
ARCHITECTURES = (*VGG_STAGES, *RESNET_BLOCKS)


class VGG(nn.Module):
    """A VGG: 3x3 convolutions and 2x2 average pools, then hidden dense layers and the readout.

    A feature map with a side of more than 8 pixels after the last stage is pooled until it has none (at 224 px that
    is one more pool for VGG16, which makes it the classic 7x7; three for VGG5). The layer before a pool has the pool
    in place of the dropout.

    Attributes:
        stages: output channels of each convolution, "A" for a pool.
        hidden: units of each hidden dense layer.
        num_classes: units of the readout.
        conv_dropout: rate after convolutions.
        dense_dropout: rate after hidden dense layers.
        dense_std: standard deviation of the initial weights of dense layers.
        norm: "batch", "folded" or None as in the paper, see `build`.
        levels: of QCFS in place of ReLU, see `jsnn.qcfs`; None for ReLU.
    """

    stages: Sequence[int | str]
    hidden: Sequence[int] = (4096, 4096)
    num_classes: int = 10
    conv_dropout: float = 0.2
    dense_dropout: float = 0.5
    dense_std: float = DENSE_STD
    norm: str | None = None
    levels: int | None = None

    @property
    def spiking_layers(self) -> tuple[str, ...]:
        """Names of the layers before an activation, in forward order."""
        convs = sum(stage != POOL for stage in self.stages)
        return (*(f"conv{i}" for i in range(convs)), *(f"dense{i}" for i in range(len(self.hidden))))

    @nn.compact
    def __call__(self, x: jax.Array, index: jax.Array | None = None, train: bool = False) -> jax.Array:
        names = iter(self.spiking_layers)
        for stage, following in zip(self.stages, (*self.stages[1:], None), strict=True):
            if stage == POOL:
                x = pool(x)
                continue
            name = next(names)
            x = self._activated(conv(stage, name=name, bias=self.norm == FOLDED)(x), name, train)
            if following != POOL and not (following is None and too_large(x)):
                x = Dropout(self.conv_dropout, name=f"{name}_dropout")(x, index)
        while too_large(x):
            x = pool(x)
        x = x.reshape(len(x), -1)
        for features in self.hidden:
            name = next(names)
            x = self._activated(dense(features, self.dense_std, name, bias=self.norm == FOLDED)(x), name, train)
            x = Dropout(self.dense_dropout, name=f"{name}_dropout")(x, index)
        return dense(self.num_classes, self.dense_std, "readout")(x)

    def _activated(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        return activated(normalized(x, self.norm, name, train), self.levels, name)


class ResNet(nn.Module):
    """The paper's ResNet: a stem of three 3x3 convolutions and a pool, basic blocks in four stages, the readout.

    The pool of the stem is repeated until the last feature map has no side of more than 8 pixels (at 224 px the
    blocks then start at 56x56, as in He et al., 2016; at 32 px there is one pool, as in the paper).

    Attributes:
        blocks: number of basic blocks in each stage.
        channels: channels of each stage; the stem has those of the first.
        num_classes: units of the readout.
        conv_dropout: rate after convolutions.
        dense_std: standard deviation of the initial weights of the readout.
        norm: "batch", "folded" or None as in the paper, see `build`.
        levels: of QCFS in place of ReLU, see `jsnn.qcfs`; None for ReLU.
    """

    blocks: Sequence[int] = (2, 2, 2, 2)
    channels: Sequence[int] = RESNET_CHANNELS
    num_classes: int = 10
    conv_dropout: float = 0.2
    dense_std: float = DENSE_STD
    norm: str | None = None
    levels: int | None = None

    @property
    def stem_layers(self) -> tuple[str, ...]:
        """Names of the stem's layers, in forward order."""
        return ("conv0", "conv1", "conv2")

    @property
    def spiking_layers(self) -> tuple[str, ...]:
        """Names of the layers before an activation, in forward order."""
        blocks = range(sum(self.blocks))
        return (*self.stem_layers, *(f"block{i}_conv{j}" for i in blocks for j in range(2)))

    @nn.compact
    def __call__(self, x: jax.Array, index: jax.Array | None = None, train: bool = False) -> jax.Array:
        if len(self.blocks) != len(self.channels):
            raise ValueError(f"blocks and channels are by stage, got {self.blocks} and {self.channels}.")
        x = self._stem(x, index, train)
        block = 0
        for stage, (count, features) in enumerate(zip(self.blocks, self.channels, strict=True)):
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                x = self._block(x, index, f"block{block}", features, stride=stride, train=train)
                block += 1
        return dense(self.num_classes, self.dense_std, "readout")(x.reshape(len(x), -1))

    def _stem(self, x: jax.Array, index: jax.Array | None, train: bool) -> jax.Array:
        for name in self.stem_layers:
            x = activated(self._conv(x, self.channels[0], name=name, train=train), self.levels, name)
            if name != self.stem_layers[-1]:
                x = Dropout(self.conv_dropout, name=f"{name}_dropout")(x, index)
        halvings = sum(count > 0 for count in self.blocks[1:])
        x = pool(x)
        while too_large(x, LARGEST_SIDE * 2**halvings):
            x = pool(x)
        return x

    def _block(
        self, x: jax.Array, index: jax.Array | None, name: str, features: int, *, stride: int, train: bool
    ) -> jax.Array:
        """conv, ReLU, dropout, conv; the shortcut is added before the second ReLU."""
        shortcut = x
        if stride != 1 or x.shape[-1] != features:
            shortcut = self._conv(x, features, 1, stride, name=f"{name}_shortcut", train=train)
        first, second = f"{name}_conv0", f"{name}_conv1"
        x = activated(self._conv(x, features, 3, stride, name=first, train=train), self.levels, first)
        x = Dropout(self.conv_dropout, name=f"{first}_dropout")(x, index)
        return activated(self._conv(x, features, name=second, train=train) + shortcut, self.levels, second)

    def _conv(
        self, x: jax.Array, features: int, size: int = 3, stride: int = 1, *, name: str, train: bool
    ) -> jax.Array:
        x = conv(features, size, stride, name=name, bias=self.norm == FOLDED)(x)
        return normalized(x, self.norm, name, train)


def build(
    architecture: str,
    num_classes: int,
    *,
    width: float = 1.0,
    hidden: Sequence[int] = (4096, 4096),
    conv_dropout: float = 0.2,
    dense_dropout: float = 0.5,
    dense_std: float = DENSE_STD,
    norm: str | None = None,
    levels: int | None = None,
) -> VGG | ResNet:
    """The ANN of one of the paper's architectures.

    Args:
        architecture: one of ARCHITECTURES.
        num_classes: units of the readout.
        width: factor on the channels of all convolutions; 1 is the paper's.
        hidden: units of the hidden dense layers of a VGG; a ResNet has none.
        conv_dropout: rate after convolutions, in [0, 1).
        dense_dropout: rate after hidden dense layers, in [0, 1).
        dense_std: standard deviation of the initial weights of dense layers; the paper's 0.01 suits layers of 4096
            units, narrow ones need more or the ANN does not start to learn.
        norm: "batch" for batch norm behind every convolution and hidden dense map; "folded" for biases there, as
            `fold_batch_norm` gives them; None, the paper's, for neither.
        levels: of QCFS in place of ReLU, see `jsnn.qcfs`; None for ReLU.

    Returns:
        The linen module.

    Raises:
        ValueError: where the architecture is unknown or a number is out of its range.
    """
    rates = {"conv_dropout": conv_dropout, "dense_dropout": dense_dropout}
    _check_build(architecture, num_classes, width, hidden, rates)
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(map(repr, NORMS))}, got {norm!r}.")
    if levels is not None and levels < 1:
        raise ValueError(f"levels must be at least 1, or None for ReLU, got {levels}.")

    def narrowed(channels: int) -> int:
        return max(1, round(channels * width))

    if architecture in VGG_STAGES:
        words = VGG_STAGES[architecture].split()
        stages = tuple(word if word == POOL else narrowed(int(word)) for word in words)
        return VGG(stages, tuple(hidden), num_classes, conv_dropout, dense_dropout, dense_std, norm, levels)
    channels = tuple(map(narrowed, RESNET_CHANNELS))
    return ResNet(RESNET_BLOCKS[architecture], channels, num_classes, conv_dropout, dense_std, norm, levels)


def _check_build(
    architecture: str, num_classes: int, width: float, hidden: Sequence[int], rates: dict[str, float]
) -> None:
    """Raise a ValueError for the first argument of `build` that is out of its range."""
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}: choose one of {', '.join(ARCHITECTURES)}.")
    if not is_whole(num_classes) or num_classes < 2:
        raise ValueError(f"a classifier needs at least 2 classes, got num_classes {num_classes}.")
    if not 0 < width < math.inf:
        raise ValueError(f"width must be above 0 and finite, got {width}.")
    if not isinstance(hidden, Collection) or not all(is_whole(units) and units >= 1 for units in hidden):
        raise ValueError(f"hidden dense layers need at least 1 unit each, as (4096, 4096), got {hidden!r}.")
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ValueError(f"{name} must be in [0, 1), got {rate}.")
