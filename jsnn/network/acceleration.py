"""An ANN's function with the library's convolutions and products: fast gradients on a CPU, a chosen precision."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jax.typing import DTypeLike

from jsnn.caching import cached
from jsnn.kernels import Kernels, fast_kernels
from jsnn.network.calls import REMAT, Call, arrays_of, as_function, called, closed_jaxpr
from jsnn.network.rules import ON_BATCHES

OWN_RULES = ("custom_jvp_call", "custom_vmap_call")  # calls with a derivative or a batching of their own


@cached
def accelerate(apply: Callable[..., Any], operands: DTypeLike | None = None) -> Callable[..., Any]:
    """The same function, computed with convolutions and products as those of `jsnn.spiking`.

    XLA's own gradient of a convolution is up to a hundred times slower on a CPU than it need be.

    Args:
        apply: any function of arrays.
        operands: dtype in which numbers enter matrix products, e.g. bfloat16; None leaves them as they are.

    Returns:
        A function of the same arguments, equal to rounding, with reverse-mode derivatives; the same one for the same
        arguments. A convolution inside a loop, a branch or a function with a derivative of its own stays as it is.

    Raises:
        ValueError: where operands are no floating-point dtype.
    """
    kernels = fast_kernels(operands)

    def accelerated(*args: Any, **kwargs: Any) -> Any:
        call = Call(args, None, (), kwargs)
        closed, structure = closed_jaxpr(lambda args, _, **kwargs: apply(*args, **kwargs), call)
        return jax.tree.unflatten(structure, _evaluate(kernels, closed, arrays_of(call)))

    return accelerated


def _evaluate(kernels: Kernels, closed: ClosedJaxpr, arrays: Sequence[Any]) -> list[Any]:
    jaxpr = closed.jaxpr
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *arrays), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        results = _run(kernels, jaxpr, equation, [read(atom) for atom in equation.invars])
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _run(kernels: Kernels, jaxpr: Jaxpr, equation: JaxprEqn, taken: list[Any]) -> list[Any]:
    """One equation; a call is opened where there is something to replace in it and no rule of its own to lose."""
    name, inner = equation.primitive.name, called(equation)
    if inner is not None and name not in OWN_RULES and _has_weights(inner.jaxpr):
        return (_checkpointed(equation) if name in REMAT else _evaluate)(kernels, inner, taken)
    replaced = ON_BATCHES[name](kernels, equation.params, *taken) if name in ON_BATCHES else None
    return as_function(jaxpr, equation)(*taken) if replaced is None else [replaced]


def _checkpointed(equation: JaxprEqn) -> Callable[..., list[Any]]:
    """The evaluation of a call of `jax.checkpoint`, which is run again backward as far as its policy says."""
    policy = {name: equation.params[name] for name in ("policy", "prevent_cse")}
    return jax.checkpoint(_evaluate, static_argnums=(0, 1), **policy)


def _has_weights(jaxpr: Jaxpr) -> bool:
    """Whether something in a jaxpr can be replaced."""
    inner = [call.jaxpr for call in map(called, jaxpr.eqns) if call is not None]
    return any(equation.primitive.name in ON_BATCHES for equation in jaxpr.eqns) or any(map(_has_weights, inner))
