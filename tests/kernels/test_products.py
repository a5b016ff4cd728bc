"""Matrix products of any dtypes and batches, and higher derivatives of these and of convolutions equal those of JAX."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn import accelerate, lif, spiking, surrogate
from jsnn.kernels import fast_kernels
from jsnn.kernels.cpu_convolution import CHANNELS_LAST
from jsnn.kernels.products import MANY_COLUMNS, product
from jsnn.network.rules import multiply_batch
from tests.kernels.convolutions import arrays, assert_close, ours, reference, take, with_gradients


@pytest.mark.parametrize("operands", [None, jnp.bfloat16], ids=str)
@pytest.mark.parametrize(("of_x", "of_matrix"), [("float32", "bfloat16"), ("bfloat16", "float32"), ("float64",) * 2])
@pytest.mark.parametrize("features", [7, 100])
def test_products_of_any_dtypes_have_gradients_in_them(features, of_x, of_matrix, operands, float64):
    rng = np.random.default_rng(0)
    x, matrix = jnp.asarray(rng.normal(size=(5, 40)), of_x), jnp.asarray(rng.normal(size=(40, features)), of_matrix)
    wide = [leaf.astype("float64") for leaf in (x, matrix)]
    actual, expected = with_gradients((fast_kernels(operands).multiply, x, matrix), (jnp.matmul, *wide))
    assert [leaf.dtype for leaf in actual[1:]] == [of_x, of_matrix]
    actual = [leaf.astype("float64") for leaf in actual]
    assert_close(actual, list(expected), 1e-2)
    if operands is None:  # of different dtypes the wider is kept
        assert_close(actual[0], expected[0], 1e-6)
    elif of_x == "float64":  # no sum is as it was
        assert all((a != b).any() for a, b in zip(actual, expected, strict=True))


def test_whole_numbers_and_empty_batches_go_as_in_jax():
    numbers = jnp.full((1, 3), 8193), jnp.full((3, 1), 8193)
    assert int(accelerate(jnp.matmul, "bfloat16")(*numbers)[0, 0]) == 3 * 8193**2  # more than float32 can tell
    x, kernel = arrays((0, 3, 8, 9, 12), 3)
    deep = accelerate(lambda x, kernel: reference(x, kernel).reshape(0, 864) @ jnp.ones((864, 5)))
    for network, images in ((deep, x), (accelerate(reference), x[:, :2, :2])):
        gradient = jax.jit(jax.grad(lambda kernel, images, network=network: network(images, kernel).sum()))
        assert gradient(kernel, images).shape == kernel.shape


@pytest.mark.parametrize(
    ("of_x", "of_matrix", "of_sums"),
    [
        *(("bfloat16", "float32", None), ("float8_e5m2", "bfloat16", None), ("float32", "float16", None)),
        *(("float32", whole, "float32") for whole in ("int8", "int32", "bool")),
    ],
)
def test_products_of_two_dtypes_are_those_of_jax(of_x, of_matrix, of_sums):
    x, matrix = jnp.linspace(-1, 1, 120).reshape(3, 40).astype(of_x), jnp.ones((40, 7), of_matrix)
    axes = ((1,), (0,)), ((), ())
    multiply = partial(jax.lax.dot_general, dimension_numbers=axes, preferred_element_type=of_sums)
    actual, expected = accelerate(multiply)(x, matrix), multiply(x, matrix)
    assert actual.dtype == expected.dtype
    if of_sums is not None:
        np.testing.assert_array_equal(actual, expected)


def test_sums_wider_than_those_of_the_kernels_are_those_of_jax(float64):
    """Each of one large number and many small ones, which float32 drops."""
    x, matrix = jnp.ones((1, 3), jnp.float32), jnp.array([[1e8], [1], [-1e8]], jnp.float32)
    multiply = partial(jnp.matmul, preferred_element_type="float64")
    options = {"dimension_numbers": CHANNELS_LAST, "preferred_element_type": "float64"}
    convolve = partial(jax.lax.conv_general_dilated, window_strides=(1, 1), padding="VALID", **options)
    assert accelerate(multiply)(x, matrix) == 1
    assert accelerate(convolve)(x.reshape(1, 1, 1, 3), matrix.reshape(1, 1, 3, 1)) == 1


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("mode", ["accelerated", "spiking", "forward mode"])
def test_a_precision_of_ones_own_reaches_every_product_and_gradient(mode, platform):
    """By the program that is lowered, for a CPU has one precision."""
    images, params = jnp.ones((2, 9, 9, 3)), {"a": jnp.ones((3, 3, 3, 8)), "b": jnp.ones((648, 5))}

    def network(params, x):
        x = reference(x, params["a"])
        return jnp.matmul(jax.nn.relu(x).reshape(len(x), -1), params["b"], precision="highest")

    neuron = lif(surrogate.forward_mode(surrogate.linear()))
    snn = spiking(network, neuron, forward_mode=True) if mode == "forward mode" else spiking(network)

    def over_time(variables, x):
        return snn.apply(variables, snn.initial_state(variables, x), x[None])[0]

    loss, variables = (accelerate(network), params) if mode == "accelerated" else (over_time, snn.init(params, images))
    gradients = jax.jit(jax.grad(lambda *leaves: loss(*leaves).sum(), (0, 1)))
    text = gradients.trace(variables, images).lower(lowering_platforms=(platform,)).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line or "stablehlo.convolution" in line]
    assert len(products) >= 5
    assert all("HIGHEST" in line for line in products)


def test_gradients_of_dense_layers_are_exported_for_any_batch():
    shapes = [jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape), jnp.float32) for shape in ("rows, 40", "40, 7")]
    layout = jax.export.DisabledSafetyCheck.custom_call("LayoutConstraint")
    for operands in (None, "bfloat16"):
        network = accelerate(jnp.matmul, operands)
        gradient = jax.jit(jax.grad(lambda x, matrix, network=network: network(x, matrix).sum(), (0, 1)))
        exported = jax.export.export(gradient, disabled_checks=[layout])(*shapes)
        of_x, of_matrix = exported.call(jnp.ones((3, 40)), jnp.ones((40, 7)))
        assert (of_x == 7).all()
        assert (of_matrix == 3).all()


def test_products_over_time_are_those_of_all_steps_at_once():
    x, matrix = (jnp.asarray(np.random.default_rng(0).normal(size=shape)) for shape in ((3, 5, 40), (40, 7)))
    options = {"dimension_numbers": (((2,), (0,)), ((), ())), "preferred_element_type": None, "precision": None}
    actual = multiply_batch(fast_kernels(), options, x, matrix)
    np.testing.assert_allclose(actual, np.einsum("tbi,io->tbo", x, matrix), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("operands", "rows", "columns", "count"),
    [(jnp.bfloat16, 8, 7, 5), (jnp.bfloat16, 2, 7, 6), (None, 2, 7, 0), (None, 2, MANY_COLUMNS, 1)],
)
def test_a_cpu_multiplies_row_major(operands, rows, columns, count):
    """Of few bits three results and two transposed operands: matrix units neither take nor give column-major ones.

    Of few rows a result is transposed too, not the matrix. Of float32 only what makes the gradient of a wide matrix is.
    """
    x, matrix = jnp.ones((rows, 40)), jnp.ones((40, columns))
    gradients = jax.jit(jax.grad(lambda *leaves: (product(operands, *leaves) ** 2).sum(), (0, 1)))
    assert gradients.lower(x, matrix).as_text().count("LayoutConstraint") == count
    assert (jax.jit(lambda *leaves: product(operands, *leaves).T)(x, matrix) == 40).all()  # column-major, if it could


def test_the_policy_of_a_checkpoint_holds():
    """By the products of the gradient: what may be kept is not computed again."""

    def products(policy):
        block = jax.checkpoint(lambda matrix, x: jnp.sin(jnp.sin(x @ matrix) @ matrix), policy=policy)
        gradient = jax.grad(lambda matrix: accelerate(block)(matrix, jnp.ones((2, 6))).sum())
        return str(jax.make_jaxpr(gradient)(jnp.eye(6))).count("dot_general[")

    assert products(jax.checkpoint_policies.everything_saveable) < products(None)


def of_order(order, function, x, y):
    """Derivatives of an order, each the gradient of the squares of those before."""

    def squares(order, *leaves):
        before = jax.grad(partial(squares, order - 1), (0, 1))(*leaves) if order else [function(*leaves)]
        return sum((leaf**2).sum() for leaf in before)

    return jax.jit(jax.grad(partial(squares, order - 1), (0, 1)))(x, y)


@pytest.mark.parametrize(("way", "stride"), [("products", 2), ("strips", 1), ("platform's", 2)])
def test_third_derivatives_equal_those_of_jax(way, stride, float64, monkeypatch):
    """Those of second order are within them."""
    take(way, monkeypatch)
    case, how = arrays((2, 3, 4, 7, 8), (2, 3), jnp.float64), {"stride": stride, "padding": ((0, 2), (1, 0))}
    assert_close(*(of_order(3, partial(way, **how), *case) for way in (ours, reference)), 1e-11)


@cache
def in_a_scan(convolve, multiply, channels):
    """Second derivatives of convolutions and products in turn, over three steps."""
    x, kernel = arrays((2, channels, channels, 6, 6), 3)

    def over_time(x, kernel):
        def step(state, _):
            state = jnp.tanh(convolve(state, kernel / (1.5 * channels**0.5), 1))
            return state + multiply(state.reshape(-1, channels), kernel[0, 0] / 9).reshape(state.shape), None

        return jax.lax.scan(step, x, length=3)[0]

    return of_order(2, over_time, x, kernel)


@pytest.mark.parametrize(
    ("operands", "channels", "tolerance"), [(None, 4, 1e-5), (jnp.bfloat16, 4, 3e-2), (jnp.bfloat16, 16, 3e-2)], ids=str
)
def test_a_scan_of_convolutions_and_products_is_differentiated_twice(operands, channels, tolerance):
    actual = in_a_scan(partial(ours, operands=operands), fast_kernels(operands).multiply, channels)
    assert_close(actual, in_a_scan(reference, jnp.matmul, channels), tolerance)


def test_second_derivatives_of_products_of_few_bits_and_rows():
    rng = np.random.default_rng(0)
    case = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 40), (40, 30))]
    assert_close(*(of_order(2, way, *case) for way in (fast_kernels(jnp.bfloat16).multiply, jnp.matmul)), 2e-2)
