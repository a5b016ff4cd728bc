"""Graphs of NIR step by step, from NIR's equations alone, in NumPy. An edge that closes a loop, on the way from the
input, brings what its node gave a step before."""

import numpy as np
import pytest

from tests.exchange.numpy_maps import convolved, windows

nir = pytest.importorskip("nir")


def graph_of(nodes, edges=None, shape=(3,), result=(3,), ends=("input", "output"), checked=False):
    """Nodes between an input and an output, one behind the other where no edges say otherwise.

    As libraries make graphs that nir's own inference of shapes does not pass, or checked by it.
    """
    first, last = nir.Input({"input": np.array(shape)}), nir.Output({"output": np.array(result)})
    nodes = {ends[0]: first, **nodes, ends[1]: last}
    return nir.NIRGraph(nodes, edges or [*zip(nodes, [*nodes][1:], strict=False)], type_check=checked)


class Simulation:
    """A graph at rest; `step` takes [C, H, W] or [features] to the outputs of all nodes."""

    def __init__(self, graph, dt):
        self.graph, self.dt, self.state, self.before = graph, dt, {}, {}
        self.order, self.back, self.under_way = [], set(), set()
        for name, node in graph.nodes.items():
            if type(node) is nir.Input:
                self.visit(name)
        self.sources = {name: [a for a, b in graph.edges if b == name] for name in graph.nodes}

    def visit(self, name):
        """All that can be reached, the last first."""
        self.under_way.add(name)
        for source, target in self.graph.edges:
            if source == name and target in self.under_way:
                self.back.add((source, target))
            elif source == name and target not in self.order:
                self.visit(target)
        self.under_way.remove(name)
        self.order.append(name)

    def step(self, x):
        now = {}
        for name in reversed(self.order):
            arriving = [self.before.get(a, 0.0) if (a, name) in self.back else now[a] for a in self.sources[name]]
            now[name] = self.run(name, self.graph.nodes[name], sum(arriving)) if arriving else x
        self.before = now
        return now

    def run(self, name, node, x):
        match node:
            case nir.Output():
                return x
            case nir.Affine():
                return node.weight @ x + node.bias
            case nir.Linear():
                return node.weight @ x
            case nir.Conv2d():
                return convolve(node, x)
            case nir.AvgPool2d():
                return windows(x, node.kernel_size, node.stride, both_sides(node.padding)).mean((-2, -1))
            case nir.SumPool2d():
                return windows(x, node.kernel_size, node.stride, both_sides(node.padding)).sum((-2, -1))
            case nir.Flatten():
                return x.reshape(-1)
            case nir.Scale():
                return node.scale * x
            case nir.Threshold():
                return (x > node.threshold).astype(float)
        return self.neurons(name, node, x)

    def neurons(self, name, node, x):
        v = self.state.get(name, node.metadata.get("initial", 0.0))
        leaky = isinstance(node, nir.LIF | nir.LI)
        v = v + self.dt / node.tau * (node.v_leak - v + node.r * x) if leaky else v + node.r * x
        if isinstance(node, nir.LI | nir.I):
            self.state[name] = v
            return v
        if node.metadata.get("reset") == "subtract":  # a step later, as a spike that comes back would
            v = v - node.v_threshold * self.before.get(name, 0.0)
        spikes = (v > node.v_threshold).astype(float)
        self.state[name] = v if node.metadata.get("reset") == "subtract" else np.where(spikes, node.v_reset, v)
        return spikes


def both_sides(padding):
    return [(int(zeros),) * 2 for zeros in np.broadcast_to(padding, 2)]


def convolve(node, x):
    kernel, options = node.weight.transpose(2, 3, 1, 0), (both_sides(node.padding), node.dilation, node.groups)
    maps = convolved(np.moveaxis(x, 0, -1)[None], kernel, node.stride, *options)
    return np.moveaxis(maps[0], -1, 0) + node.bias[:, None, None]


def run(graph, inputs, dt=1.0):
    """Node -> its outputs [T, ...], of inputs [T, ...], both channels last."""
    simulation = Simulation(graph, dt)
    steps = [simulation.step(np.moveaxis(x, -1, 0)) for x in np.asarray(inputs, np.float64)]
    return {name: np.stack([np.moveaxis(step[name], 0, -1) for step in steps]) for name in graph.nodes}
