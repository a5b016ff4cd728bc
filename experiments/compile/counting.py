"""Operations of a function and the bytes that its products read and write, counted from its jaxpr with loops' trips.

Counted are matrix products and convolutions, a multiply-add as two operations, zeros of padding and between pixels left
out; what is not used is not counted. A product reads its operands and writes its result, each once, as far as they
exceed the memory beside the cores: XLA runs one product after the other, and may save some of it where it fuses what
makes an operand, as spikes from bits, with the product.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jax.interpreters import partial_eval


class Work(NamedTuple):
    """What a program has to do."""

    operations: int
    bytes: int


class Platform(NamedTuple):
    """What counts there."""

    name: str  # "cpu", "tpu" or "cuda", where a function does not do the same on all
    near_bytes: int = 0  # memory beside the cores, whose contents need not be read again
    operand_bytes: int = 4  # of a number that enters a product


def count(function: Callable[..., Any], arguments: tuple, platform: Platform, gathered: Sequence[int] = ()) -> Work:
    """What a function of arrays, or their jax.ShapeDtypeStruct, has to do on a platform.

    Arguments and results are read and written once, but for arguments at places `gathered`, of which rows are taken.
    """
    closed = jax.make_jaxpr(function)(*arguments)
    jaxpr, used = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    is_gathered = [place in gathered for place, argument in enumerate(arguments) for _ in jax.tree.leaves(argument)]
    inputs = zip(closed.jaxpr.invars, used, is_gathered, strict=True)
    read = [var for var, is_used, rows_alone in inputs if is_used and not rows_alone]
    once = sum(atom.aval.size * atom.aval.dtype.itemsize for atom in (*read, *jaxpr.outvars))
    operations, moved = map(int, _work(jaxpr, platform))
    return Work(operations, moved + once)


def _work(jaxpr: Jaxpr, platform: Platform) -> np.ndarray:
    """Operations and bytes of all products of a jaxpr; a loop whose trips depend on values counts as one trip."""
    return sum((_of_equation(equation, platform) for equation in jaxpr.eqns), np.zeros(2, np.int64))


def _of_equation(equation: JaxprEqn, platform: Platform) -> np.ndarray:
    name, params = equation.primitive.name, equation.params
    if name in ("dot_general", "conv_general_dilated"):
        return _of_product(equation, platform)
    if name == "cond":
        platforms = params.get("branches_platforms") or [None] * len(params["branches"])
        mine = [one for one, of in zip(params["branches"], platforms, strict=True) if of is None or platform.name in of]
        chosen = mine[:1] if params.get("branches_platforms") else mine
        return min((_work(branch.jaxpr, platform) for branch in chosen), key=lambda work: work[0])
    inner = [leaf for leaf in jax.tree.leaves(list(params.values())) if isinstance(leaf, ClosedJaxpr | Jaxpr)]
    trips = params["length"] if name == "scan" else 1
    return trips * sum((_work(getattr(leaf, "jaxpr", leaf), platform) for leaf in inner), np.zeros(2, np.int64))


def _of_product(equation: JaxprEqn, platform: Platform) -> np.ndarray:
    (x, weights), result = (atom.aval for atom in equation.invars), equation.outvars[0].aval
    sizes = (platform.operand_bytes * x.size, platform.operand_bytes * weights.size, 4 * result.size)  # float32 sums
    moved = sum(max(0, size - platform.near_bytes) for size in sizes)
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return np.array([2 * result.size * math.prod(x.shape[axis] for axis in contracted), moved])
    return np.array([2 * _multiply_adds(equation, x, weights, result), moved])


def _multiply_adds(equation: JaxprEqn, x: Any, weights: Any, result: Any) -> int:
    """Of a convolution: those of a number of the image with one of the kernel, at every place of the window."""
    params, layout = equation.params, equation.params["dimension_numbers"]
    sides, outputs = layout.lhs_spec[2:], layout.out_spec[2:]
    pairs = 1
    for axis, (of_x, of_kernel, of_result) in enumerate(zip(sides, layout.rhs_spec[2:], outputs, strict=True)):
        starts = params["window_strides"][axis] * np.arange(result.shape[of_result]) - params["padding"][axis][0]
        places = starts[:, None] + params["rhs_dilation"][axis] * np.arange(weights.shape[of_kernel])
        step = params["lhs_dilation"][axis]  # pixels lie so far apart, with zeros in between
        pairs *= int(((places >= 0) & (places <= step * (x.shape[of_x] - 1)) & (places % step == 0)).sum())
    others = result.size // math.prod(result.shape[axis] for axis in outputs)
    return others * weights.shape[layout.rhs_spec[1]] * pairs
