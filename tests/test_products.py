"""Matrix products of any dtypes and batches, and their gradients, equal those of JAX."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.kernels import fast_kernels
from jsnn.kernels.products import product
from jsnn.network.acceleration import accelerate
from jsnn.network.rules import multiply_batch
from tests.convolutions import arrays, assert_close, reference


@pytest.mark.parametrize("operands", [None, jnp.bfloat16], ids=str)
@pytest.mark.parametrize(("of_x", "of_matrix"), [("float32", "bfloat16"), ("bfloat16", "float32"), ("float64",) * 2])
def test_products_of_any_dtypes_have_gradients_in_them(of_x, of_matrix, operands, float64):
    rng = np.random.default_rng(0)
    x, matrix = jnp.asarray(rng.normal(size=(5, 40)), of_x), jnp.asarray(rng.normal(size=(40, 7)), of_matrix)
    y, backward = jax.vjp(fast_kernels(operands).multiply, x, matrix)
    gradients = backward(y)
    exact = [leaf.astype("float64") for leaf in (x, matrix, x @ matrix)]
    assert [leaf.dtype for leaf in gradients] == [of_x, of_matrix]
    expected = [exact[2], exact[2] @ exact[1].T, exact[0].T @ exact[2]]
    assert_close([leaf.astype("float64") for leaf in (y, *gradients)], expected, 1e-2)
    if operands is None:  # of different dtypes the wider is kept
        assert_close([y.astype("float64")], expected[:1], 1e-6)


def test_whole_numbers_and_empty_batches_go_as_in_jax():
    numbers = jnp.full((1, 3), 8193), jnp.full((3, 1), 8193)
    assert int(accelerate(jnp.matmul, "bfloat16")(*numbers)[0, 0]) == 3 * 8193**2  # more than float32 can tell
    x, kernel = arrays((0, 3, 8, 9, 12), 3)
    network = accelerate(lambda x, kernel, matrix: reference(x, kernel, 1).reshape(0, 9 * 12 * 8) @ matrix)
    assert jax.grad(lambda *leaves: network(*leaves).sum(), 1)(x, kernel, jnp.ones((864, 5))).shape == kernel.shape
    tiny = accelerate(lambda x, kernel: reference(x, kernel, 1))
    assert jax.grad(lambda *leaves: tiny(*leaves).sum(), 1)(x[:, :2, :2], kernel).shape == kernel.shape


@pytest.mark.parametrize(
    "dtypes", [("bfloat16", "float32"), ("float8_e5m2", "bfloat16"), ("float32", "float16")], ids=str
)
def test_products_of_two_dtypes_are_of_the_one_that_jax_gives(dtypes):
    x, matrix = (jnp.ones(shape, dtype) for shape, dtype in zip(((3, 40), (40, 7)), dtypes, strict=True))
    multiply = partial(jax.lax.dot_general, dimension_numbers=(((1,), (0,)), ((), ())))
    assert accelerate(multiply)(x, matrix).dtype == multiply(x, matrix).dtype


def test_gradients_of_dense_layers_are_exported_for_any_batch():
    (rows,), layout = jax.export.symbolic_shape("rows"), jax.export.DisabledSafetyCheck.custom_call("LayoutConstraint")
    shapes = jax.ShapeDtypeStruct((rows, 40), jnp.float32), jax.ShapeDtypeStruct((40, 7), jnp.float32)
    for operands in (None, "bfloat16"):
        network = accelerate(jnp.matmul, operands)
        gradient = jax.jit(jax.grad(lambda x, matrix, network=network: network(x, matrix).sum(), (0, 1)))
        exported = jax.export.export(gradient, disabled_checks=[layout])(*shapes)
        of_x, of_matrix = exported.call(jnp.ones((3, 40)), jnp.ones((40, 7)))
        assert (of_x == 7).all()
        assert (of_matrix == 3).all()


@pytest.mark.parametrize("features", [7, 100])
def test_products_take_operands_of_their_own_dtype(features):
    rng = np.random.default_rng(0)
    x, matrix = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((3, 5, 40), (40, features)))
    options = {"dimension_numbers": (((2,), (0,)), ((), ())), "preferred_element_type": None}
    exact = multiply_batch(fast_kernels(), options, x, matrix)
    np.testing.assert_allclose(exact, np.einsum("tbi,io->tbo", x, matrix), rtol=1e-5, atol=1e-5)

    def squared(multiply):
        return jax.jit(jax.value_and_grad(lambda *leaves: (multiply(*leaves) ** 2).sum(), (0, 1)))(x[0], matrix)

    (actual, gradients), expected = squared(partial(product, jnp.bfloat16)), squared(jnp.matmul)
    assert float(actual) == pytest.approx(float(expected[0]), rel=1e-2)
    assert_close(gradients, expected[1], 1e-2)
    assert all(np.linalg.norm(a - b) > 0 for a, b in zip(gradients, expected[1], strict=True))


@pytest.mark.parametrize(("operands", "rows", "count"), [(jnp.bfloat16, 8, 5), (jnp.bfloat16, 2, 6), (None, 2, 0)])
def test_a_cpu_multiplies_numbers_of_few_bits_row_major(operands, rows, count):
    """Three results and two transposed operands: XLA:CPU's matrix units neither take nor give column-major ones.

    Of few rows a result is transposed too, not the matrix.
    """
    x, matrix = jnp.ones((rows, 40)), jnp.ones((40, 7))
    gradients = jax.jit(jax.grad(lambda *leaves: (product(operands, *leaves) ** 2).sum(), (0, 1)))
    assert gradients.lower(x, matrix).as_text().count("LayoutConstraint") == count
    assert (jax.jit(lambda *leaves: product(operands, *leaves).T)(x, matrix) == 40).all()  # column-major, if it could
