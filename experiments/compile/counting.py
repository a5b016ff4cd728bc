"""Operations of a function and the bytes that it must move, counted from its jaxpr with the trips of its loops.

Counted are matrix products and convolutions, a multiply-add as two operations. What is not used is not counted. A
product must read its operands from the device's memory and write its result there where the memory beside the cores is
too small for them; sums, spikes and random numbers in between may be fused with products and count nothing, so that
both figures are lower bounds.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jax.interpreters import partial_eval

RESULT_BYTES = 4  # of a number: sums are float32


class Work(NamedTuple):
    """What a program must do at least."""

    operations: float
    bytes: float


def count(
    function: Callable[..., Any], arguments: tuple, platform: str, near_bytes: int = 0, operand_bytes: int = 4
) -> Work:
    """What a function of arrays, or their jax.ShapeDtypeStruct, must do on a platform.

    Args:
        function: traced, not run.
        arguments: of the function.
        platform: "cpu", "tpu" or "cuda", where a function does not do the same on all.
        near_bytes: arrays up to this size need not move.
        operand_bytes: of a number that enters a product.
    """
    closed = jax.make_jaxpr(function)(*arguments)
    jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    operations = moved = 0.0
    for equation, times in _products(jaxpr, platform, 1):
        (x, weights), result = (atom.aval for atom in equation.invars), equation.outvars[0].aval
        operations += times * 2 * result.size * _summands(equation, x, weights)
        sizes = (operand_bytes * x.size, operand_bytes * weights.size, RESULT_BYTES * result.size)
        moved += times * sum(size for size in sizes if size > near_bytes)
    once = sum(atom.aval.size * atom.aval.dtype.itemsize for atom in (*closed.jaxpr.invars, *closed.jaxpr.outvars))
    return Work(operations, moved + once)


def _products(jaxpr: Jaxpr, platform: str, times: int) -> Iterator[tuple[JaxprEqn, int]]:
    """All products, each with how often it runs; a loop whose trips depend on values counts as one trip."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation, times
        trips = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in _inner(equation, platform):
            yield from _products(inner, platform, times * trips)


def _inner(equation: JaxprEqn, platform: str) -> list[Jaxpr]:
    """The jaxprs that an equation runs; of a choice by platform the one for it."""
    branches, platforms = equation.params.get("branches"), equation.params.get("branches_platforms")
    if branches and platforms:
        chosen = [one for one, names in zip(branches, platforms, strict=True) if names is None or platform in names]
        return [chosen[0].jaxpr]
    leaves = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda leaf: isinstance(leaf, ClosedJaxpr | Jaxpr))
    return [leaf.jaxpr if isinstance(leaf, ClosedJaxpr) else leaf for leaf in leaves if hasattr(leaf, "eqns")]


def _summands(equation: JaxprEqn, x: Any, weights: Any) -> int:
    """How many products each number of a result is the sum of."""
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return math.prod(x.shape[axis] for axis in contracted)
    features = weights.shape[equation.params["dimension_numbers"].rhs_spec[0]]
    zeros = math.prod(equation.params["lhs_dilation"])  # of an image gradient with strides, of which one place counts
    return weights.size // features // zeros
