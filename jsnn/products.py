"""Matrix products in a chosen precision: operands of one dtype, sums of at least float32, forward and backward."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp


def dot_general(
    lhs: jax.Array, rhs: jax.Array, dimension_numbers: Any, operands: jnp.dtype | None = None, **options: Any
) -> jax.Array:
    """The product of a dense layer, to be given to `flax.linen.Dense` as its `dot_general`.

    Args:
        lhs: [..., in].
        rhs: [in, out].
        dimension_numbers: those of linen, which are the only ones supported.
        operands: see `product`.
        options: what linen passes beside.

    Returns:
        [..., out].

    Raises:
        ValueError: where other axes are to be multiplied.
    """
    del options
    if dimension_numbers != (((lhs.ndim - 1,), (0,)), ((), ())):
        raise ValueError(f"a dense layer multiplies its last axis with the matrix's first, got {dimension_numbers}.")
    return product(operands, lhs.reshape(-1, lhs.shape[-1]), rhs).reshape(*lhs.shape[:-1], -1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def product(operands: jnp.dtype | None, x: jax.Array, matrix: jax.Array) -> jax.Array:
    """The product x @ matrix, and its gradients likewise.

    Args:
        operands: dtype in which numbers enter the products, of the gradients too; None leaves them as they are.
        x: [N, in].
        matrix: [in, out].

    Returns:
        [N, out] of at least float32.
    """
    x, matrix = cast(operands, x, matrix)
    return jnp.matmul(x, matrix, preferred_element_type=dtype_of_sums(x.dtype))


def cast(operands: jnp.dtype | None, *arrays: jax.Array) -> list[jax.Array]:
    """The arrays in the dtype of operands.

    Args:
        operands: the dtype; None leaves them as they are.
        arrays: [...].

    Returns:
        The arrays, in the same order.
    """
    return [array if operands is None else array.astype(operands) for array in arrays]


def dtype_of_sums(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype in which products are summed: float32, or better where the operands are.

    Args:
        dtype: of the operands.

    Returns:
        float32 or float64.
    """
    return jnp.promote_types(dtype, jnp.float32)


def _product_forward(
    operands: jnp.dtype | None, x: jax.Array, matrix: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return product(operands, x, matrix), tuple(cast(operands, x, matrix))


def _product_backward(
    operands: jnp.dtype | None, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, matrix = residuals
    return product(operands, cotangent, matrix.T), product(operands, x.T, cotangent)


product.defvjp(_product_forward, _product_backward)
