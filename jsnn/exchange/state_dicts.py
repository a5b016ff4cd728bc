"""From the state_dict of a PyTorch network to the variables of a Flax one."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsnn.conversion.thresholds import check_finite
from jsnn.exchange.orders import Path, orders_of_weights, sources_of
from jsnn.network.calls import Call
from jsnn.network.graph import Graph, made_of, names_of, trace
from jsnn.network.transformation import Variables

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
    other of the net is like, as shortcuts, which PyTorch makes last. Where a shortcut is like another layer of its
    block, the Flax net has to run them in the order of the state_dict. Kernels go from OIHW to HWIO and from [out, in]
    to [in, out]; behind a flattened map a dense layer's rows, or a batch norm, go from CHW to HWC, but not where the
    map was transposed to CHW in front.

    Args:
        state_dict: name -> tensor or array, as `module.state_dict()` has them in the order in which the module made its
            layers; a file may keep another order, see `read_torch_file`. All names may begin with the "module." of
            DataParallel.
        apply: (variables, x, *args, **kwargs) -> results, the Flax net's function, as `model.apply`.
        variables: of the Flax net, or their shapes: `jax.eval_shape(model.init, key, x)`. An nnx.State and a
            dict of plain JAX serve as well, with weights named "kernel", "bias", "scale", "mean" and "var".
        x: [B, H, W, C] an input of it, or its jax.ShapeDtypeStruct. One of [B, H, W] is the same in PyTorch; taken by
            convolutions, dense layers, pools or norms of groups first, it is a sequence [B, L, C], there [B, C, L].
        args, kwargs: of the function behind its input, as it is evaluated.

    Returns:
        The variables, each leaf in the dtype that it has in `variables`, random keys as they are; none shares memory
        with the state_dict. Nothing is done to the function. Flax and PyTorch have the same default of batch norm's
        epsilon, but "SAME" pads a stride of 2 at one side.

    Raises:
        ValueError: where a layer is left on one side or the other, weights are not finite, or an operation, which is
            named with its line, takes flattened features in an order that is not known, as a concatenation does. So are
            transposed convolutions, but for those of stride 1 under a name of their own, which are like any other.
    """
    leaves = {names_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}
    _check_state_dict(state_dict)
    graph = trace(apply, Call(variables, x, args, kwargs))
    orders = orders_of_weights(graph, {path: leaf.shape for path, leaf in leaves.items()})
    values: dict[Path, np.ndarray] = {}
    theirs = _layers_of(_torch_modules(state_dict), np.shape)
    for layer in _layers_of(_flax_modules(graph, leaves), lambda path: leaves[path].shape):
        source = next((other for other in theirs if other.shapes == layer.shapes), None)
        if source is None:
            there = f"the first that is left is {_described(theirs[0])}" if theirs else "all of its layers are taken"
            raise ValueError(f"the state_dict has no layer for {_described(layer)} of the Flax net: {there}.")
        theirs = [other for other in theirs if other is not source]
        for paths, arrays in zip(layer.leaves, source.leaves, strict=True):
            values |= {path: arrays[name][orders.get(path, ...)] for name, path in paths.items()}
    if theirs:
        raise ValueError(
            f"the Flax net has no layer for {_described(theirs[0])} of the state_dict: all of its own are filled."
        )
    numbers = (path for path, leaf in leaves.items() if jnp.issubdtype(leaf.dtype, jnp.floating))  # no random keys
    if unused := next((path for path in numbers if path not in values), None):
        raise ValueError(f"{'/'.join(unused)} plays no part in the Flax net's result, so that nothing belongs there.")
    copies = {path: jnp.array(value, leaves[path].dtype) for path, value in values.items()}  # PyTorch trains its own
    check_finite({"/".join(path): copy for path, copy in copies.items()})
    return jax.tree_util.tree_map_with_path(lambda path, leaf: copies.get(names_of(path), leaf), variables)


def as_array(value: Any) -> np.ndarray:
    """A tensor, wherever it is, or an array as a NumPy array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() and value.itemsize < 4 else value  # NumPy has no bfloat16
        return value.numpy()
    return np.asarray(value)


def _check_state_dict(state_dict: Any) -> None:
    """Refuse what is no state_dict, saying where one is."""
    if hasattr(state_dict, "state_dict"):
        raise ValueError(f"this is a module, a {type(state_dict).__name__}: pass its state_dict().")
    if not isinstance(state_dict, Mapping) or not state_dict:
        kind = "an empty one" if isinstance(state_dict, Mapping) else f"a {type(state_dict).__name__}"
        raise ValueError(f"a state_dict has names and tensors, got {kind}: pass module.state_dict().")
    for name, value in state_dict.items():
        if isinstance(value, Mapping):
            raise ValueError(f"this holds a state_dict, or another dict, as {name!r}: pass checkpoint[{name!r}].")
        if not isinstance(name, str) or not hasattr(value, "shape"):
            raise ValueError(f"a state_dict has names and tensors, got {name!r} with a {type(value).__name__}.")


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
    sources, in_collections = sources_of(graph), any(path[0] == "params" for path in leaves)
    for operation in filter(lambda operation: operation.over_time, graph.operations):
        for path in made_of(sources, operation):
            if path in leaves:
                *module, name = path[:-1] if path[-1] == "value" else path  # as in an nnx.State
                modules.setdefault("/".join(module[1:] if in_collections else module), {})[name] = path
    return modules


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


def _described(layer: Layer) -> str:
    """A layer with its shapes, for a message."""
    sizes = (f"{leaf} {'x'.join(map(str, shape))}" for shapes in layer.shapes for leaf, shape in shapes.items())
    return f"{' + '.join(layer.names)} ({', '.join(sizes)})"
