"""VGG and ResNet, ONE definition each for the ANN and the SNN.

With `neuron=ReLU` a model maps images [B, H, W, C] to logits [B, classes]; with LIF neurons (see `spiking`) it maps
inputs [T, B, H, W, C] to logits at every step [T, B, classes]. Both have the same `params` tree. No bias, no batch
norm, average pooling only: section 2.2 of Rathi et al., 2020 (arXiv:2005.01807).

A layer's weights and the neurons that they drive carry one name: params["conv0"]["kernel"] drives the neurons with
neuron["conv0"]["threshold"]. Dropout is on when a "dropout" key is given; it then needs the samples' indices.
"""

import math
from collections.abc import Sequence
from functools import cache, partial

import flax.linen as nn
import jax
from jax.typing import DTypeLike

from jsnn.layers import LARGEST_SIDE, Dropout, Layer, ModuleDef, conv, dense, flatten, pool, too_large
from jsnn.modules import LIF, Identity, Integrator, ReLU
from jsnn.surrogate import Surrogate

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
        operands: dtype in which weights and spikes enter matrix products, e.g. bfloat16; membranes, sums and gradients
            keep float32. None leaves them as they are.
        neuron: makes the neurons of a layer.
        readout: makes the neurons of the readout.
    """

    stages: Sequence[int | str]
    hidden: Sequence[int] = (4096, 4096)
    num_classes: int = 10
    conv_dropout: float = 0.2
    dense_dropout: float = 0.5
    dense_std: float = DENSE_STD
    operands: DTypeLike | None = None
    neuron: ModuleDef = ReLU
    readout: ModuleDef = Identity
    reach = 1  # spiking layers back from which a layer gets input

    @property
    def spiking_layers(self) -> tuple[str, ...]:
        """Names of the layers with a threshold, in forward order."""
        convs = sum(stage != POOL for stage in self.stages)
        return (*(f"conv{i}" for i in range(convs)), *(f"dense{i}" for i in range(len(self.hidden))))

    @nn.compact
    def __call__(self, x: jax.Array, index: jax.Array | None = None) -> jax.Array:
        names = iter(self.spiking_layers)
        for stage, following in zip(self.stages, (*self.stages[1:], None), strict=True):
            if stage == POOL:
                x = pool(x)
                continue
            name = next(names)
            x = Layer(conv(stage, operands=self.operands), self.neuron, name=name)(x)
            if following != POOL and not (following is None and too_large(x)):
                x = Dropout(self.conv_dropout, unit_dims=3, name=f"{name}_dropout")(x, index)
        while too_large(x):
            x = pool(x)
        x = flatten(x)
        for features in self.hidden:
            name = next(names)
            x = Layer(dense(features, self.dense_std, self.operands), self.neuron, name=name)(x)
            x = Dropout(self.dense_dropout, unit_dims=1, name=f"{name}_dropout")(x, index)
        return Layer(dense(self.num_classes, self.dense_std, self.operands), self.readout, name="readout")(x)


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
        operands: dtype in which weights and spikes enter matrix products, e.g. bfloat16; membranes, sums and gradients
            keep float32. None leaves them as they are.
        neuron: makes the neurons of a layer.
        readout: makes the neurons of the readout.
    """

    blocks: Sequence[int] = (2, 2, 2, 2)
    channels: Sequence[int] = RESNET_CHANNELS
    num_classes: int = 10
    conv_dropout: float = 0.2
    dense_std: float = DENSE_STD
    operands: DTypeLike | None = None
    neuron: ModuleDef = ReLU
    readout: ModuleDef = Identity
    reach = 2  # spiking layers back from which a layer gets input: a shortcut passes over one

    @property
    def stem_layers(self) -> tuple[str, ...]:
        """Names of the stem's layers, in forward order."""
        return ("conv0", "conv1", "conv2")

    @property
    def spiking_layers(self) -> tuple[str, ...]:
        """Names of the layers with a threshold, in forward order."""
        blocks = range(sum(self.blocks))
        return (*self.stem_layers, *(f"block{i}_conv{j}" for i in blocks for j in range(2)))

    @nn.compact
    def __call__(self, x: jax.Array, index: jax.Array | None = None) -> jax.Array:
        x = self._stem(x, index)
        block = 0
        for stage, (count, features) in enumerate(zip(self.blocks, self.channels, strict=True)):
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                x = self._block(x, index, f"block{block}", features, stride)
                block += 1
        return Layer(dense(self.num_classes, self.dense_std, self.operands), self.readout, name="readout")(flatten(x))

    def _stem(self, x: jax.Array, index: jax.Array | None) -> jax.Array:
        for name in self.stem_layers:
            x = Layer(conv(self.channels[0], operands=self.operands), self.neuron, name=name)(x)
            if name != self.stem_layers[-1]:
                x = Dropout(self.conv_dropout, unit_dims=3, name=f"{name}_dropout")(x, index)
        halvings = sum(count > 0 for count in self.blocks[1:])
        x = pool(x)
        while too_large(x, LARGEST_SIDE * 2**halvings):
            x = pool(x)
        return x

    def _block(self, x: jax.Array, index: jax.Array | None, name: str, features: int, stride: int) -> jax.Array:
        """conv, spike, dropout, conv; the shortcut is added to the input current of the second neuron."""
        same = stride == 1 and x.shape[-1] == features
        shortcut = x if same else conv(features, 1, stride, self.operands)(name=f"{name}_shortcut")(x)
        x = Layer(conv(features, 3, stride, self.operands), self.neuron, name=f"{name}_conv0")(x)
        x = Dropout(self.conv_dropout, unit_dims=3, name=f"{name}_conv0_dropout")(x, index)
        return Layer(conv(features, operands=self.operands), self.neuron, name=f"{name}_conv1")(x, shortcut)


def build(
    architecture: str,
    num_classes: int,
    *,
    width: float = 1.0,
    hidden: Sequence[int] = (4096, 4096),
    conv_dropout: float = 0.2,
    dense_dropout: float = 0.5,
    dense_std: float = DENSE_STD,
    operands: DTypeLike | None = None,
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
        operands: dtype in which weights and spikes enter matrix products, e.g. bfloat16; None leaves them as they are.

    Returns:
        The linen module; `spiking` makes the SNN of it.

    Raises:
        ValueError: where the architecture is unknown or a number is out of its range.
    """
    _check_build(architecture, num_classes, width, hidden, conv_dropout, dense_dropout)

    def narrowed(channels: int) -> int:
        return max(1, round(channels * width))

    if architecture in VGG_STAGES:
        words = VGG_STAGES[architecture].split()
        stages = tuple(word if word == POOL else narrowed(int(word)) for word in words)
        return VGG(stages, tuple(hidden), num_classes, conv_dropout, dense_dropout, dense_std, operands)
    channels = tuple(map(narrowed, RESNET_CHANNELS))
    return ResNet(RESNET_BLOCKS[architecture], channels, num_classes, conv_dropout, dense_std, operands)


@cache
def spiking(model: VGG | ResNet, surrogate: Surrogate) -> VGG | ResNet:
    """The SNN of an ANN: the same module and parameter tree with LIF neurons and an integrating readout.

    Args:
        model: an ANN.
        surrogate: the spike function of its neurons.

    Returns:
        The linen module; the same one for the same arguments.
    """
    return model.clone(neuron=partial(LIF, surrogate=surrogate), readout=Integrator)


def surrogate_of(model: nn.Module) -> Surrogate:
    """The surrogate of an SNN's neurons.

    Args:
        model: an SNN, see `spiking`.

    Returns:
        The surrogate.
    """
    return model.neuron().surrogate


def _check_build(
    architecture: str, num_classes: int, width: float, hidden: Sequence[int], conv_dropout: float, dense_dropout: float
) -> None:
    """Raise a ValueError for the first argument of `build` that is out of its range."""
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}: choose one of {', '.join(ARCHITECTURES)}.")
    if num_classes < 2:
        raise ValueError(f"a classifier needs at least 2 classes, got num_classes {num_classes}.")
    if not 0 < width < math.inf:
        raise ValueError(f"width must be above 0 and finite, got {width}.")
    if min(hidden, default=1) < 1:
        raise ValueError(f"hidden dense layers need at least 1 unit, got {tuple(hidden)}.")
    for name, rate in (("conv_dropout", conv_dropout), ("dense_dropout", dense_dropout)):
        if not 0 <= rate < 1:
            raise ValueError(f"{name} must be in [0, 1), got {rate}.")
