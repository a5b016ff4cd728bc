"""Convolutions that nir can read back: one group, a square window, and the same padding at both ends."""

from typing import NamedTuple

import nir
import numpy as np

from jsnn.exchange.nodes import Convolution, Node


class Axis(NamedTuple):
    """A spatial axis of a convolution."""

    window: int
    inputs: int  # of it, without padding
    outputs: int
    stride: int
    padding: tuple[int, int]  # in front and behind
    dilation: int

    def zeros_in_front(self, size: int) -> int | None:
        """How many zeros in front of the kernel let it have a size and the padding in front behind, too; else None."""
        for zeros in range(size - self.window + 1):
            padding = self.padding_with(zeros)
            last = self.inputs + 2 * padding - self.dilation * (size - 1) - 1  # where the last window may begin
            if padding >= 0 and last >= 0 and last // self.stride + 1 == self.outputs:
                return zeros
        return None

    def padding_with(self, zeros: int) -> int:
        """The padding, with so many zeros in front of the kernel."""
        return self.padding[0] + self.dilation * zeros


def convolution_of(node: Node, shape: tuple[int, ...]) -> nir.Conv2d:
    """The node of NIR for a convolution of inputs [H, W, C], its window and its groups filled up with zeros.

    nir infers the shape of a result from the first side of a window alone, and of inputs from one group's channels.
    """
    layer = node.layer
    if len(layer.padding) != 2:
        raise ValueError(f"{node.where} has {len(layer.padding)} spatial axes: networks of 2 are exported to NIR.")
    sides = layer.kernel.shape[:2], shape[:2], node.shape[:2], layer.strides, layer.padding, layer.dilation
    axes = [Axis(*side) for side in zip(*sides, strict=True)]
    size, in_front = _square_window(axes, node.where)
    around = [(zeros, size - axis.window - zeros) for axis, zeros in zip(axes, in_front, strict=True)]
    kernel = np.pad(_of_one_group(layer), [*around, (0, 0), (0, 0)])
    return nir.Conv2d(
        input_shape=shape[:2],
        weight=np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)),
        stride=layer.strides,
        padding=tuple(axis.padding_with(zeros) for axis, zeros in zip(axes, in_front, strict=True)),
        dilation=layer.dilation,
        groups=1,
        bias=bias_of(layer.bias, layer.kernel),
    )


def bias_of(bias: np.ndarray | None, kernel: np.ndarray) -> np.ndarray:
    """A bias, zeros where there is none: not all simulators can do without."""
    return np.zeros(kernel.shape[-1], np.float32) if bias is None else bias


def _square_window(axes: list[Axis], where: str) -> tuple[int, list[int]]:
    """The smallest square window that serves, and the zeros in front of the kernel by axis."""
    smallest = max(axis.window for axis in axes)
    for size in range(smallest, smallest + 2 * max(abs(zeros) for axis in axes for zeros in axis.padding) + 2):
        in_front = [axis.zeros_in_front(size) for axis in axes]
        if None not in in_front:
            return size, in_front
    window, padding = tuple(axis.window for axis in axes), tuple(axis.padding for axis in axes)
    raise ValueError(
        f"{where} has the window {window} with padding {padding}: nir reads back square windows alone, with as many "
        "zeros at both ends, and no zeros around this kernel make it one. Choose another padding."
    )


def _of_one_group(layer: Convolution) -> np.ndarray:
    """The kernel [*window, in, out], zero between the inputs and the outputs of different groups."""
    *window, into, out = layer.kernel.shape
    blocks = np.zeros((*window, layer.groups, into, layer.groups, out // layer.groups), layer.kernel.dtype)
    for group, block in enumerate(np.split(layer.kernel, layer.groups, axis=-1)):
        blocks[..., group, :, group, :] = block
    return blocks.reshape(*window, layer.groups * into, out)
