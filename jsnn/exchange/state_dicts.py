"""From the state_dict of a PyTorch network to the variables of a Flax one."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsnn.conversion.thresholds import check_finite
from jsnn.network.activations import WITH_WEIGHTS
from jsnn.network.calls import Call
from jsnn.network.graph import Graph, made_of, names_of, trace
from jsnn.network.transformation import Variables

Path = tuple[str, ...]  # of a leaf of variables: its collection, modules and name
NAMES = {"weight": "kernel", "running_mean": "mean", "running_var": "var"}  # of PyTorch and of Flax
IGNORED = "num_batches_tracked"


class Layer(NamedTuple):
    """A module with weights, and those without that follow it, as its batch norm."""

    names: tuple[str, ...]  # of the modules
    leaves: tuple[dict[str, Any], ...]  # of each, by Flax's names: paths of a Flax net, arrays of a PyTorch one
    shapes: tuple[dict[str, tuple[int, ...]], ...]  # of them, in Flax's layout


def from_torch(
    state_dict: Mapping[str, Any], apply: Callable[..., Any], variables: Variables, x: Any, *args: Any, **kwargs: Any
) -> Variables:
    """The variables of a Flax network with the weights of a PyTorch one of the same layers.

    A layer is a convolution or dense map with the batch norm behind it. In the order in which the Flax net runs, each
    gets the first of its shape that is left in the state_dict, which must be in forward order but for layers that no
    other of the net is like, as shortcuts, which PyTorch makes last. Kernels go from OIHW to HWIO and from [out, in]
    to [in, out]; a dense layer behind a flattened map has its rows from CHW to HWC.

    Args:
        state_dict: name -> tensor or array, as `module.state_dict()` has them in the order in which the module made its
            layers; a file may keep another order, see `read_torch_file`. All names may begin with the "module." of
            DataParallel.
        apply: (variables, x, *args, **kwargs) -> results, the Flax net's function, as `model.apply`.
        variables: of the Flax net, or their shapes: `jax.eval_shape(model.init, key, x)`.
        x: [B, H, W, C] an input of it, or its jax.ShapeDtypeStruct.
        args, kwargs: of the function behind its input, as it is evaluated.

    Returns:
        The variables, each leaf in the dtype that it has in `variables`. Nothing is done to the function. Flax and
        PyTorch have the same default of batch norm's epsilon, but "SAME" pads a stride of 2 at one side.

    Raises:
        ValueError: where a layer is left on one side or the other, or weights are not finite.
    """
    leaves = {names_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}
    graph = trace(apply, Call(variables, x, args, kwargs))
    maps, values = _maps_in_front(graph), {}
    theirs = _layers_of(_torch_modules(state_dict), np.shape)
    for layer in _layers_of(_flax_modules(graph, leaves), lambda path: leaves[path].shape):
        source = next((other for other in theirs if other.shapes == layer.shapes), None)
        if source is None:
            there = f"the first that is left is {_described(theirs[0])}" if theirs else "all of its layers are taken"
            raise ValueError(f"the state_dict has no layer for {_described(layer)} of the Flax net: {there}.")
        theirs = [other for other in theirs if other is not source]
        for paths, arrays in zip(layer.leaves, source.leaves, strict=True):
            values |= {path: _channels_last(arrays[name], maps.get(path)) for name, path in paths.items()}
    if theirs:
        raise ValueError(
            f"the Flax net has no layer for {_described(theirs[0])} of the state_dict: all of its own are filled."
        )
    if unused := next((path for path in leaves if path not in values), None):
        raise ValueError(f"{'/'.join(unused)} plays no part in the Flax net's result, so that nothing belongs there.")
    filled = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(values[names_of(path)], leaf.dtype), variables
    )
    check_finite(filled)
    return filled


def as_array(value: Any) -> np.ndarray:
    """A tensor, wherever it is, or an array as a NumPy array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() and value.itemsize < 4 else value  # NumPy has no bfloat16
        return value.numpy()
    return np.asarray(value)


def _torch_modules(state_dict: Mapping[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """Module -> its arrays in Flax's layout, by Flax's names."""
    prefix = "module." if all(name.startswith("module.") for name in state_dict) else ""  # of DataParallel
    modules: dict[str, dict[str, np.ndarray]] = {}
    for name, value in state_dict.items():
        module, _, leaf = name.removeprefix(prefix).rpartition(".")
        if leaf == IGNORED:
            continue
        array = as_array(value)
        flax = "scale" if leaf == "weight" and array.ndim == 1 else NAMES.get(leaf, leaf)
        if flax == "kernel":
            array = array.transpose(*range(2, array.ndim), 1, 0)
        modules.setdefault(module, {})[flax] = array
    return modules


def _flax_modules(graph: Graph, leaves: Mapping[Path, Any]) -> dict[str, dict[str, Path]]:
    """Module -> the paths of its leaves by name, in the order in which they are used."""
    modules: dict[str, dict[str, Path]] = {}
    sources = _sources(graph)
    for operation in filter(lambda operation: operation.over_time, graph.operations):
        for path in made_of(sources, operation):
            if path in leaves:
                modules.setdefault("/".join(path[1:-1]), {})[path[-1]] = path
    return modules


def _sources(graph: Graph) -> dict[int, tuple[Path, ...]]:
    """Value number -> the paths of all that it is made of, where it does not depend on the network's input."""
    sources: dict[int, tuple[Path, ...]] = {number: (path,) for number, path in graph.paths.items()}
    for operation in graph.operations:
        if not operation.over_time:
            sources |= dict.fromkeys(operation.outputs, made_of(sources, operation))
    return sources


def _layers_of(modules: Mapping[str, dict[str, Any]], shape: Callable[[Any], tuple[int, ...]]) -> list[Layer]:
    """Modules with a kernel, each with those behind it that have none."""
    layers: list[Layer] = []
    for name, leaves in modules.items():
        own = Layer((name,), (leaves,), ({leaf: tuple(shape(value)) for leaf, value in leaves.items()},))
        if "kernel" in leaves or not layers:
            layers.append(own)
        else:
            layers[-1] = Layer(*(former + latter for former, latter in zip(layers[-1], own, strict=True)))
    return layers


def _maps_in_front(graph: Graph) -> dict[Path, tuple[int, ...]]:
    """Path of a dense layer's weights -> the shape [H, W, C] of the map that was flattened in front of it."""
    sources, flattened, in_front = _sources(graph), {}, {}
    for operation in filter(lambda operation: operation.over_time, graph.operations):
        shape = graph.avals[operation.outputs[0]].shape
        before = [number for number in operation.inputs if graph.avals[number].shape == shape and number in flattened]
        if operation.primitive.name in WITH_WEIGHTS:
            maps = [flattened[number] for number in operation.inputs if number in flattened]
            in_front |= {path: shape for path in made_of(sources, operation) for shape in maps}
        elif operation.primitive.name in ("reshape", "squeeze"):
            batch, *rest = graph.avals[operation.inputs[0]].shape
            if len(rest) > 1 and shape == (batch, math.prod(rest)):
                flattened[operation.outputs[0]] = tuple(rest)
        elif before:
            flattened |= dict.fromkeys(operation.outputs, flattened[before[0]])
    return in_front


def _channels_last(array: np.ndarray, flattened: tuple[int, ...] | None) -> np.ndarray:
    """A kernel behind a flattened map, its rows from [C, H, W] to [H, W, C]; others as they are."""
    if flattened is None:
        return array
    *window, channels = flattened
    return np.moveaxis(array.reshape(channels, *window, -1), 0, -2).reshape(array.shape)


def _described(layer: Layer) -> str:
    """A layer with its shapes, for a message."""
    sizes = (f"{leaf} {'x'.join(map(str, shape))}" for shapes in layer.shapes for leaf, shape in shapes.items())
    return f"{' + '.join(layer.names)} ({', '.join(sizes)})"
