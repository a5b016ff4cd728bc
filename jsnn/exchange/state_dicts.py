"""From the state_dict of a PyTorch network to the variables of a Flax one."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsnn.conversion.thresholds import check_finite
from jsnn.exchange.orders import MOVES, Path, orders_of_weights, sources_of
from jsnn.exchange.pairing import Layer, in_order_of_names, pairs_of_layers
from jsnn.network.calls import Call
from jsnn.network.graph import Graph, made_of, names_of, trace
from jsnn.network.transformation import Variables

NAMES = {"weight": "kernel", "running_mean": "mean", "running_var": "var"}  # of PyTorch and of Flax
IGNORED = "num_batches_tracked"
WRAPPERS = re.compile(r"(?:module\.|_orig_mod\.)*")  # prefixes of DataParallel and of torch.compile
EPSILON = 1e-6  # of two numbers for a batch norm, the share by which float32 may set them apart
# Of outputs, as a share of the largest. In float32, 10 to 100 convolutions differ by up to 3e-7 of it on CPU, and with
# another epsilon, 1e-4 in place of 1e-5, by 1e-4.
DIFFERENCE = 1e-5


def from_torch(
    module: Any,
    apply: Callable[..., Any],
    variables: Variables,
    x: Any,
    *args: Any,
    mapping: Mapping[str, str] | None = None,
    check: tuple[Any, Any] | None = None,
    **kwargs: Any,
) -> Variables:
    """The variables of a Flax network with the weights of a PyTorch one of the same layers.

    A layer is a convolution or dense map with the batch norm behind it, and gets the one of its shapes. Among several
    of the same shapes names decide: those that agree on both sides, as layer1_0/conv1 and layer1.0.conv1, or else the
    numbers in PyTorch's, as in features.3 and features.10, which count in the order in which the Flax net runs. Where
    these do not decide, or contradict each other, a `mapping` has to. Norms are those that PyTorch made right behind a
    layer, but where the names of all modules agree. Kernels go from OIHW to HWIO and from [out, in] to [in, out];
    behind a flattened map a dense layer's rows, or a batch norm, go from CHW to HWC, but not where the map was
    transposed to CHW in front.

    Args:
        module: of PyTorch, or its state_dict: name -> tensor or array. All names may begin with the "module." of
            DataParallel or the "_orig_mod." of torch.compile. A module also tells the epsilon of its batch norms, and
            which convolutions are transposed. A state_dict tells neither: a transposed convolution with as many
            channels in as out fills a convolution, and another epsilon stays unseen, but for `check`.
        apply: (variables, x, *args, **kwargs) -> results, the Flax net's function, as `model.apply`.
        variables: of the Flax net, or their shapes: `jax.eval_shape(model.init, key, x)`. An nnx.State and a
            dict of plain JAX serve as well, with weights named "kernel", "bias", "scale", "mean" and "var".
        x: [B, H, W, C] an input of it, or its jax.ShapeDtypeStruct. One of [B, H, W] is the same in PyTorch; taken by
            convolutions, dense layers, pools or norms of groups first, it is a sequence [B, L, C], there [B, C, L].
        args, kwargs: of the function behind its input, as it is evaluated.
        mapping: name of a layer of the Flax net, as "stem/conv" -> that of PyTorch, as "stem.0"; goes before all names.
            A layer has the name of the module with its kernel.
        check: (x, y), an input of the Flax net and the PyTorch net's output for it as it is evaluated, tensors or
            arrays in Flax's layout. The filled net has to give the same but for rounding in float32, which TF32 on a
            GPU is not enough for.

    Returns:
        The variables, each leaf in the dtype that it has in `variables`, random keys as they are; none shares memory
        with the state_dict. Nothing is done to the function: Flax and PyTorch have the same default of batch norm's
        epsilon, but not of those of layers and groups, and "SAME" pads a stride of 2 at one side.

    Raises:
        ValueError: where a layer is left on one side, no name decides, the mapping does not fit, a module has another
            epsilon or a transposed convolution, weights are not finite, or the results differ from those of `check`;
            and where an operation, which is named with its line, takes flattened features in an order that is not
            known, as a concatenation does. So are transposed convolutions of Flax refused, but for those of stride 1
            under a name of their own, which are like any other.
    """
    leaves = {names_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}
    state_dict, modules, prefix = _taken_apart(module)
    graph = trace(apply, Call(variables, x, args, kwargs))
    orders = orders_of_weights(graph, {path: leaf.shape for path, leaf in leaves.items()})
    values: dict[Path, np.ndarray] = {}
    flax_modules = _flax_modules(graph, leaves)
    theirs = _layers_of(in_order_of_names([*flax_modules], _torch_modules(state_dict)), np.shape)
    ours = _layers_of(flax_modules, lambda path: leaves[path].shape)
    names = {our: their.removeprefix(prefix) for our, their in (mapping or {}).items()}
    pairs, epsilons = pairs_of_layers(ours, theirs, names), _epsilons(graph)
    for layer in ours:
        source = pairs[layer.names[0]]
        _check_epsilons(layer, source, epsilons, modules)
        for paths, arrays in zip(layer.leaves, source.leaves, strict=True):
            values |= {path: arrays[name][orders.get(path, ...)] for name, path in paths.items()}
    numbers = (path for path, leaf in leaves.items() if jnp.issubdtype(leaf.dtype, jnp.floating))  # no random keys
    if unused := next((path for path in numbers if path not in values), None):
        raise ValueError(f"{'/'.join(unused)} plays no part in the Flax net's result, so that nothing belongs there.")
    copies = {path: jnp.array(value, leaves[path].dtype) for path, value in values.items()}  # PyTorch trains its own
    check_finite({"/".join(path): copy for path, copy in copies.items()})
    filled = jax.tree_util.tree_map_with_path(lambda path, leaf: copies.get(names_of(path), leaf), variables)
    if check is not None:
        with jax.default_matmul_precision("highest"):
            _check_output(apply(filled, jnp.asarray(as_array(check[0])), *args, **kwargs), as_array(check[1]))
    return filled


def _taken_apart(module: Any) -> tuple[dict[str, Any], dict[str, Any], str]:
    """A module's state_dict, or the one given, its modules, and the prefix of all names, which they are without."""
    modules = dict(module.named_modules()) if hasattr(module, "named_modules") else {}
    state_dict = module.state_dict() if modules else module
    _check_state_dict(state_dict)
    for name, part in modules.items():
        if any("ConvTranspose" in kind.__name__ for kind in type(part).__mro__):
            raise ValueError(
                f"{name or 'the module'} is a {type(part).__name__}: transposed convolutions have other kernels in "
                "PyTorch, so set its weights by hand."
            )
    prefix = min((WRAPPERS.match(name)[0] for name in state_dict), key=len)
    bare = ({name.removeprefix(prefix): part for name, part in parts.items()} for parts in (state_dict, modules))
    return *bare, prefix


def _epsilons(graph: Graph) -> dict[Path, float]:
    """Path of a variance -> the number that is added to it, which may have been broadcast before."""
    sources, numbers, epsilons = sources_of(graph), dict(graph.constants), {}
    for operation in filter(lambda operation: not operation.over_time, graph.operations):
        name = operation.primitive.name
        if name in (*MOVES, "convert_element_type") and operation.inputs[0] in numbers:
            numbers |= dict.fromkeys(operation.outputs, numbers[operation.inputs[0]])
        for number, other in (operation.inputs, operation.inputs[::-1]) if name in ("add", "add_any") else ():
            added, paths = np.unique(numbers.get(other, ())), sources.get(number, ())
            if len(added) == len(paths) == 1:
                epsilons.setdefault(paths[0], float(added[0]))
    return epsilons


def _check_epsilons(layer: Layer, source: Layer, epsilons: Mapping[Path, float], modules: Mapping[str, Any]) -> None:
    """Refuse batch norms that add another number to the variance than PyTorch's, where its modules are known."""
    for name, paths, theirs in zip(layer.names, layer.leaves, source.names, strict=True):
        ours, eps = epsilons.get(paths.get("var", ())), getattr(modules.get(theirs), "eps", None)
        if ours is not None and eps is not None and abs(ours - eps) > EPSILON * eps:
            raise ValueError(
                f"{name} of the Flax net has the epsilon {ours:.3g}, and {theirs} of the PyTorch one {eps:.3g}: make "
                f"the Flax one with epsilon={eps:g}."
            )


def _check_output(ours: Any, theirs: np.ndarray) -> None:
    """Refuse an output that is not PyTorch's."""
    if not hasattr(ours, "shape") or ours.shape != theirs.shape:
        shape = getattr(ours, "shape", f"of a {type(ours).__name__}")
        raise ValueError(
            f"the Flax net's output is {shape}, that of PyTorch in check {theirs.shape}: give it alike, channels last."
        )
    difference, largest = (float(np.max(np.abs(array), initial=0)) for array in (ours - theirs, theirs))
    if not difference <= DIFFERENCE * largest:
        raise ValueError(
            f"the Flax net's output differs from PyTorch's by up to {difference:.3g}, of up to {largest:.3g}: look for "
            "layers that run in another order (mapping), another epsilon or padding, a `check` with channels first, "
            "TF32, and dropout or batch norm in training on one side."
        )


def as_array(value: Any) -> np.ndarray:
    """A tensor, wherever it is, or an array as a NumPy array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() and value.itemsize < 4 else value  # NumPy has no bfloat16
        return value.numpy()
    return np.asarray(value)


def _check_state_dict(state_dict: Any) -> None:
    """Refuse what is no state_dict, saying where one is."""
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
    modules: dict[str, dict[str, np.ndarray]] = {}
    for name, value in state_dict.items():
        module, _, leaf = name.rpartition(".")
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
