"""Precision of matrix products: the dtypes of operands, of sums, and of what is kept for the backward pass or moved."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

Arrays = tuple[jax.Array, jax.Array]


def cast(operands: jnp.dtype | None, *arrays: jax.Array) -> list[jax.Array]:
    """The arrays in the dtype of operands; None leaves them as they are."""
    return [array if operands is None else array.astype(operands) for array in arrays]


def widened(operands: DTypeLike | None, x: jax.Array, weights: jax.Array) -> tuple[jnp.dtype, jax.Array, jax.Array]:
    """The dtype of operands, which is the arrays' own where None, and the arrays as float32 at least.

    Products have gradients as wide as their sums; through this cast they come back in the arrays' own dtypes.
    """
    dtype = _common_dtype(x, weights) if operands is None else jnp.dtype(operands)
    return dtype, *cast(dtype_of_sums(dtype), x, weights)


def kept(operands: jnp.dtype | None, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Arrays for a backward pass, in the dtype of operands; what derivatives come back through them is rounded to it.

    None is an input itself: where a scan is differentiated twice, jax 0.10 takes such residuals for others. A program
    holds no such copy.
    """
    return tuple(map(jnp.copy, cast(operands, *arrays)))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def rounded(operands: jnp.dtype, x: jax.Array) -> jax.Array:
    """An array rounded to a dtype of few bits but kept in its own, its gradient not rounded."""
    return x.astype(operands).astype(x.dtype)


def as_bits(x: jax.Array) -> jax.Array:
    """Numbers of few bits as whole numbers of the same bits, to be moved: XLA:CPU moves bfloat16 as float32.

    Bits have no derivative. What moves them needs none: the derivatives of a convolution are convolutions.
    """
    return jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}") if has_few_bits(x.dtype) else x


def from_bits(bits: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The numbers of a dtype that `as_bits` gave the bits of."""
    return jax.lax.bitcast_convert_type(bits, dtype) if has_few_bits(dtype) else bits


def dtype_of_sums(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype in which products are summed: float32, or better where the operands are."""
    return jnp.dtype(jnp.float32) if has_few_bits(dtype) else jnp.promote_types(dtype, jnp.float32)


def has_few_bits(dtype: jnp.dtype) -> bool:
    """Whether numbers of a dtype are to be summed as float32 for having fewer bits, as bfloat16."""
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32


def _common_dtype(x: jax.Array, weights: jax.Array) -> jnp.dtype:
    """The dtype of both, or of two different ones one that holds either; jax names none for eight bits."""
    if x.dtype == weights.dtype:
        return x.dtype
    dtypes = [dtype_of_sums(leaf.dtype) if jnp.finfo(leaf.dtype).bits < 16 else leaf.dtype for leaf in (x, weights)]
    return jnp.promote_types(*dtypes)


def _rounded_forward(operands: jnp.dtype, x: jax.Array) -> tuple[jax.Array, None]:
    return rounded(operands, x), None


def _rounded_backward(operands: jnp.dtype, residuals: None, cotangent: jax.Array) -> tuple[jax.Array]:
    del operands, residuals
    return (cotangent,)


rounded.defvjp(_rounded_forward, _rounded_backward)
