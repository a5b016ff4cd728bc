"""Matrix products in a chosen precision: operands of one dtype, sums of at least float32, forward and backward."""

from functools import partial

import jax
import jax.numpy as jnp


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def product(operands: jnp.dtype | None, x: jax.Array, matrix: jax.Array) -> jax.Array:
    """The product x @ matrix of [N, in] and [in, out], of at least float32, and its gradients likewise.

    Numbers enter it in the dtype of `operands`; None leaves them as they are.
    """
    x, matrix = cast(operands, x, matrix)
    return jnp.matmul(x, matrix, preferred_element_type=dtype_of_sums(x.dtype))


def cast(operands: jnp.dtype | None, *arrays: jax.Array) -> list[jax.Array]:
    """The arrays in the dtype of operands; None leaves them as they are."""
    return [array if operands is None else array.astype(operands) for array in arrays]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def rounded(operands: jnp.dtype, x: jax.Array) -> jax.Array:
    """An array rounded to a dtype of few bits but kept in its own, its gradient not rounded."""
    return x.astype(operands).astype(x.dtype)


def dtype_of_sums(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype in which products are summed: float32, or better where the operands are."""
    return jnp.promote_types(dtype, jnp.float32)


def _rounded_forward(operands: jnp.dtype, x: jax.Array) -> tuple[jax.Array, None]:
    return rounded(operands, x), None


def _rounded_backward(operands: jnp.dtype, residuals: None, cotangent: jax.Array) -> tuple[jax.Array]:
    del operands, residuals
    return (cotangent,)


rounded.defvjp(_rounded_forward, _rounded_backward)


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
