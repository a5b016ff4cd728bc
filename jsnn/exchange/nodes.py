"""A network as a graph of layers, which is what other libraries know. A sample's axes are [H, W, C], channels last."""

from typing import NamedTuple

import numpy as np


class Input(NamedTuple):
    """What the network is shown."""

    shape: tuple[int, ...]  # of a sample


class Convolution(NamedTuple):
    """Of [H, W, in], or of another number of spatial axes."""

    kernel: np.ndarray  # [*window, in / groups, out]
    bias: np.ndarray | None  # [out]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]  # zeros in front and behind, by spatial axis
    dilation: tuple[int, ...]
    groups: int


class Dense(NamedTuple):
    """A product of [in] with a matrix."""

    kernel: np.ndarray  # [in, out]
    bias: np.ndarray | None  # [out]


class AveragePool(NamedTuple):
    """The mean of each window, in which zeros of the padding count."""

    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]  # zeros in front and behind, by spatial axis


class Flatten(NamedTuple):
    """From [H, W, C] to [H * W * C], the channel changes fastest."""

    shape: tuple[int, ...]  # of what goes in


class Rescaling(NamedTuple):
    """scale * x + offset, where there were no weights in front of it to take it in."""

    scale: np.ndarray  # of as many axes as x, broadcastable to it
    offset: np.ndarray | None  # likewise


class Add(NamedTuple):
    """The sum of all inputs."""


class Neurons(NamedTuple):
    """A layer of spiking neurons. A spike goes on as the threshold."""

    layer: str  # its name among the variables' "neurons"
    parameters: dict[str, np.ndarray]  # each a scalar, or broadcastable to the neurons


class Node(NamedTuple):
    """A layer in its place."""

    layer: Input | Convolution | Dense | AveragePool | Flatten | Rescaling | Add | Neurons
    inputs: tuple[str, ...]  # names of the nodes whose outputs go in
    shape: tuple[int, ...]  # of its output for a sample
    where: str  # the scope of the module and the line of source that it comes from


class LayerGraph(NamedTuple):
    """A network's layers, and what goes from one to the other."""

    nodes: dict[str, Node]  # by name, in an order in which they can run; the input is the first
    output: str  # name of the node whose output is the network's result
