"""Matrix products in a chosen precision: operands of one dtype, sums of at least float32, forward and backward."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from jsnn.kernels.precision import Arrays, cast, dtype_of_sums, has_few_bits, kept


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def product(operands: jnp.dtype | None, x: jax.Array, matrix: jax.Array) -> jax.Array:
    """The product x @ matrix of [N, in] and [in, out], of at least float32, and its gradients likewise.

    Numbers enter it in the dtype of `operands`; None leaves them as they are.
    """
    return _sums(*cast(operands, x, matrix))


def transposed(matrix: jax.Array) -> jax.Array:
    """The transposed matrix, ready to be multiplied.

    Where a CPU has matrix units for numbers of few bits, as AMX, XLA:CPU uses them for row-major operands only, and
    stops with an error where such a product is to be column-major. Numbers of more bits it takes as they lie.
    """
    return _row_major(matrix.T) if has_few_bits(matrix.dtype) else matrix.T


def _row_major(matrix: jax.Array) -> jax.Array:
    """A matrix that a CPU keeps row-major, whatever is made of it."""
    keep = partial(with_layout_constraint, layouts=Layout(major_to_minor=tuple(range(matrix.ndim))))
    return jax.lax.platform_dependent(matrix, cpu=keep, default=lambda matrix: matrix)


def _sums(x: jax.Array, matrix: jax.Array) -> jax.Array:
    sums = jnp.matmul(x, matrix, preferred_element_type=dtype_of_sums(x.dtype))
    return _row_major(sums) if has_few_bits(x.dtype) else sums


# Products by a transposed matrix and of one: with the plain product, each has the other two as its gradients.


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _by_transposed(operands: jnp.dtype | None, x: jax.Array, matrix: jax.Array) -> jax.Array:
    """The product x @ matrix.T; of few rows as (matrix @ x.T).T where transposing moves numbers in memory.

    This then moves those of x and of the result, which are fewer than the matrix's.
    """
    x, matrix = cast(operands, x, matrix)
    rows = x.shape[0]  # no number where a program is exported for any batch
    moves = has_few_bits(x.dtype) and isinstance(rows, int)
    if moves and 2 * rows * sum(matrix.shape) < matrix.size:  # by measurement; sums have twice the bits
        return _row_major(_sums(matrix, transposed(x)).T)
    return _sums(x, transposed(matrix))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _of_transposed(operands: jnp.dtype | None, x: jax.Array, y: jax.Array) -> jax.Array:
    """The product x.T @ y."""
    x, y = cast(operands, x, y)
    return _sums(transposed(x), y)


def _product_backward(operands: jnp.dtype | None, residuals: Arrays, cotangent: jax.Array) -> Arrays:
    x, matrix = cast(cotangent.dtype, *residuals)
    return _by_transposed(operands, cotangent, matrix), _of_transposed(operands, x, cotangent)


def _by_transposed_backward(operands: jnp.dtype | None, residuals: Arrays, cotangent: jax.Array) -> Arrays:
    x, matrix = cast(cotangent.dtype, *residuals)
    return product(operands, cotangent, matrix), _of_transposed(operands, cotangent, x)


def _of_transposed_backward(operands: jnp.dtype | None, residuals: Arrays, cotangent: jax.Array) -> Arrays:
    x, y = cast(cotangent.dtype, *residuals)
    return _by_transposed(operands, y, cotangent), product(operands, x, cotangent)


def _forward(way: Callable[..., jax.Array], operands: jnp.dtype | None, *arrays: jax.Array) -> tuple[jax.Array, Arrays]:
    return way(operands, *arrays), kept(operands, *arrays)


product.defvjp(partial(_forward, product), _product_backward)
_by_transposed.defvjp(partial(_forward, _by_transposed), _by_transposed_backward)
_of_transposed.defvjp(partial(_forward, _of_transposed), _of_transposed_backward)
