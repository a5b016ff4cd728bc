"""Finds the operations that are linear in their inputs over time: only these may act on spikes."""

from collections.abc import Collection, Sequence
from typing import Any

import jax.numpy as jnp
from jax.extend.core import Jaxpr, Literal

from jsnn.network.calls import called

# Linear, or affine, in all inputs together.
JOINTLY_LINEAR = {
    *"add add_any sub neg concatenate pad copy stop_gradient real imag split tile stack unstack name pvary".split(),
    *"broadcast_in_dim reshape transpose squeeze slice rev reduce_precision reduce_sum cumsum".split(),
    *"reduce_window_sum optimization_barrier sharding_constraint device_put convert_element_type".split(),
}
# Linear in each of them while the others do not depend on time.
SEPARATELY_LINEAR = {"mul", "dot_general", "conv_general_dilated"}
# Linear in the inputs at these places; the others must not depend on time.
LINEAR_AT = {
    "div": (0,),
    "dynamic_slice": (0,),
    "dynamic_update_slice": (0, 1),
    "gather": (0,),
    "scatter-add": (0, 2),
    "scatter-sub": (0, 2),
    "scatter": (0, 2),
}


def acts_linearly(name: str, places: Collection[int], outputs: Sequence[Any]) -> bool:
    """Whether a primitive is linear in its inputs at some places, those that depend on time.

    None is where an output, by its aval, is a whole number, for that is rounded.
    """
    if not all(jnp.issubdtype(aval.dtype, jnp.inexact) for aval in outputs):
        return False
    return (
        name in JOINTLY_LINEAR
        or (name in SEPARATELY_LINEAR and len(places) == 1)
        or (name == "select_n" and 0 not in places)
        or (name in LINEAR_AT and set(places) <= set(LINEAR_AT[name]))
    )


def is_linear(jaxpr: Jaxpr, places: Collection[int]) -> bool:
    """Whether a jaxpr is linear in its inputs at some places, those that depend on time, operation by operation."""
    over_time = {jaxpr.invars[place] for place in places}
    for equation in jaxpr.eqns:
        inside = called(equation)
        depend = [i for i, x in enumerate(equation.invars) if not isinstance(x, Literal) and x in over_time]
        avals = [variable.aval for variable in equation.outvars]
        if not depend:
            continue
        if not (is_linear(inside.jaxpr, depend) if inside else acts_linearly(equation.primitive.name, depend, avals)):
            return False
        over_time.update(equation.outvars)
    return True
