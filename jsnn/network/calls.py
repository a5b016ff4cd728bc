"""Calls of an ANN's function, and the calls and equations in its jaxpr."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var, jaxpr_as_fun

from jsnn.caching import identity

LOOPS = ("scan", "while", "cond")
REMAT = ("checkpoint", "remat", "remat2")
CALLS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vmap_call", *REMAT)


class Call(NamedTuple):
    """The arguments of an ANN's function."""

    variables: Any  # pytree of arrays
    x: Any  # [B, ...] the input, or its jax.ShapeDtypeStruct
    args: tuple[Any, ...] = ()  # other arguments; what is no array in them is static
    kwargs: Mapping[str, Any] = {}  # likewise; never written to


def arrays_of(call: Call) -> list[Any]:
    """The arrays among the arguments of a call but for its input, in the order of `Graph.arrays`."""
    return [leaf for leaf in jax.tree.leaves(call._replace(x=None)) if is_array(leaf)]


def signature(call: Call) -> Any:
    """What the graph of a call depends on, to be compared with others; None where that can't be."""
    leaves, structure = jax.tree.flatten(call)
    context = jax.config.jax_enable_x64, jax.config.jax_default_matmul_precision, jax.sharding.get_abstract_mesh()
    key = structure, tuple(map(_kind, leaves)), context
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _kind(leaf: Any) -> tuple:
    """What a trace sees of a leaf."""
    if is_array(leaf):
        return leaf.shape, str(leaf.dtype), getattr(leaf, "weak_type", False)
    return identity(leaf)


def closed_jaxpr(apply: Callable[..., Any], call: Call) -> tuple[ClosedJaxpr, Any]:
    """The jaxpr of a call, whose inputs are `arrays_of` it and then x, and the treedef of the results."""
    leaves, structure = jax.tree.flatten(call._replace(x=None))

    def run(arrays: list[Any], x: Any) -> Any:
        values = iter(arrays)
        filled = jax.tree.unflatten(structure, [next(values) if is_array(leaf) else leaf for leaf in leaves])
        return apply(filled.variables, x, *filled.args, **filled.kwargs)

    closed, shapes = jax.make_jaxpr(run, return_shape=True)(arrays_of(call), call.x)
    return closed, jax.tree.structure(shapes)


def is_array(leaf: Any) -> bool:
    """Whether a leaf of arguments is an array, which is no static one."""
    return isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct)


def check_variables(variables: Any) -> None:
    """Refuse variables that are no mapping, or hold functions, as a whole module of equinox does."""
    if not isinstance(variables, Mapping):
        raise ValueError(f"variables are a mapping, as {{'params': ...}}, got {type(variables).__name__}.")
    for path, leaf in jax.tree_util.tree_leaves_with_path(dict(variables)):
        if callable(leaf):
            where = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(
                f"variables are arrays, but {where} is a function: split the module, as by equinox.partition, and put "
                "it together again within the ANN's function."
            )


def check_mesh(array: Any, axis: int) -> None:
    """Refuse an array whose batch, an axis of it, is split over a mesh with Explicit axes.

    There each operation must say how its result is split, as those that merge time into the batch can't.
    """
    sharding = getattr(jax.typeof(array), "sharding", None)
    if sharding is not None and sharding.spec[axis : axis + 1] not in ((), (None,)):  # of Auto axes it names none
        raise ValueError(
            f"the batch of an array of shape {array.shape} is split over Explicit axes, {sharding.spec}: call the "
            "network within jax.shard_map(..., check_vma=False) or jax.pmap, where each device computes its own part, "
            "or make the mesh with axis_types=(jax.sharding.AxisType.Auto,), where each computes the whole batch."
        )


def as_function(jaxpr: Jaxpr, equation: JaxprEqn) -> Callable[..., list[Any]]:
    """One equation of a jaxpr as a function: the values of all of its inputs -> a list of those of its outputs."""
    variables = list(dict.fromkeys(atom for atom in equation.invars if isinstance(atom, Var)))
    places = [equation.invars.index(variable) for variable in variables]
    unnamed = jaxpr.debug_info._replace(arg_names=None, result_paths=None)
    alone = jaxpr.replace(constvars=[], invars=variables, outvars=equation.outvars, eqns=[equation], debug_info=unnamed)
    function = jaxpr_as_fun(ClosedJaxpr(alone, ()))
    return lambda *values: function(*(values[place] for place in places))


def called(equation: JaxprEqn) -> ClosedJaxpr | None:
    """What an equation calls with all of its inputs: jit, remat, custom_jvp, custom_vmap; of others None."""
    if equation.primitive.name not in CALLS:
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr", "call"):
        jaxpr = equation.params.get(name)
        if isinstance(jaxpr, Jaxpr):
            jaxpr = ClosedJaxpr(jaxpr, ())
        if isinstance(jaxpr, ClosedJaxpr) and len(jaxpr.jaxpr.invars) == len(equation.invars):
            return jaxpr
    return None
