"""Matrix products in a chosen precision: operands of one dtype, sums of at least float32, forward and backward."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

Arrays = tuple[jax.Array, jax.Array]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def product(operands: jnp.dtype | None, x: jax.Array, matrix: jax.Array) -> jax.Array:
    """The product x @ matrix of [N, in] and [in, out], of at least float32, and its gradients likewise.

    Numbers enter it in the dtype of `operands`; None leaves them as they are.
    """
    return _sums(*cast(operands, x, matrix))


def cast(operands: jnp.dtype | None, *arrays: jax.Array) -> list[jax.Array]:
    """The arrays in the dtype of operands; None leaves them as they are."""
    return [array if operands is None else array.astype(operands) for array in arrays]


def widened(operands: jnp.dtype | None, x: jax.Array, weights: jax.Array) -> tuple[jnp.dtype, jax.Array, jax.Array]:
    """The dtype of operands, which is the arrays' own where None, and the arrays as float32 at least.

    Products have gradients as wide as their sums; through this cast they come back in the arrays' own dtypes.
    """
    operands = operands or _common_dtype(x, weights)
    return operands, *cast(dtype_of_sums(operands), x, weights)


def kept(operands: jnp.dtype | None, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Arrays for a backward pass, in the dtype of operands; what derivatives come back through them is rounded to it.

    None is an input itself: where a scan is differentiated twice, jax 0.10 takes such residuals for others.
    """
    return tuple(
        leaf.astype(operands) if operands not in (None, leaf.dtype) else jax.lax.reduce_precision(leaf, *_bits(leaf))
        for leaf in arrays
    )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def rounded(operands: jnp.dtype, x: jax.Array) -> jax.Array:
    """An array rounded to a dtype of few bits but kept in its own, its gradient not rounded."""
    return x.astype(operands).astype(x.dtype)


def transposed(matrix: jax.Array) -> jax.Array:
    """The transposed matrix, ready to be multiplied.

    Where a CPU has matrix units for numbers of few bits, as AMX, XLA:CPU uses them for row-major operands only, and
    stops with an error where such a product is to be column-major. Numbers of more bits it takes as they lie.
    """
    return _row_major(matrix.T) if has_few_bits(matrix.dtype) else matrix.T


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


def _row_major(matrix: jax.Array) -> jax.Array:
    """A matrix that a CPU keeps row-major, whatever is made of it."""
    keep = partial(with_layout_constraint, layouts=Layout(major_to_minor=tuple(range(matrix.ndim))))
    return jax.lax.platform_dependent(matrix, cpu=keep, default=lambda matrix: matrix)


def _rounded_forward(operands: jnp.dtype, x: jax.Array) -> tuple[jax.Array, None]:
    return rounded(operands, x), None


def _rounded_backward(operands: jnp.dtype, residuals: None, cotangent: jax.Array) -> tuple[jax.Array]:
    del operands, residuals
    return (cotangent,)


rounded.defvjp(_rounded_forward, _rounded_backward)


def _sums(x: jax.Array, matrix: jax.Array) -> jax.Array:
    sums = jnp.matmul(x, matrix, preferred_element_type=dtype_of_sums(x.dtype))
    return _row_major(sums) if has_few_bits(x.dtype) else sums


def _common_dtype(x: jax.Array, weights: jax.Array) -> jnp.dtype:
    """The dtype of both, or of two different ones one that holds either; jax names none for eight bits."""
    if x.dtype == weights.dtype:
        return x.dtype
    dtypes = [dtype_of_sums(leaf.dtype) if jnp.finfo(leaf.dtype).bits < 16 else leaf.dtype for leaf in (x, weights)]
    return jnp.promote_types(*dtypes)


def _bits(x: jax.Array) -> tuple[int, int]:
    """Bits of the exponent and of the mantissa."""
    return jnp.finfo(x.dtype).nexp, jnp.finfo(x.dtype).nmant


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
