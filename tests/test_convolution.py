"""Convolutions and their gradients, whatever way they are computed, equal those of jax.lax."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.kernels import cpu_convolution, fast_kernels, patches, pool_sum, strips, winograd, xla_kernels
from jsnn.kernels.convolution import conv_general_dilated
from jsnn.kernels.products import product
from jsnn.network.acceleration import accelerate
from jsnn.network.rules import convolve_batch, multiply_batch

# (images, channels in, channels out, height, width): odd and even sides, tiny ones, many channels, a prime number.
SHAPES = [(5, 3, 8, 9, 12), (4, 6, 5, 7, 7), (3, 40, 72, 6, 5), (2, 130, 36, 4, 4), (6, 5, 4, 2, 2), (4, 3, 5, 1, 2)]
SHAPES += [(7, 4, 4, 2, 9)]


def arrays(shape, size, seed=0, dtype=jnp.float32):
    """Random images and a random kernel."""
    batch, channels, features, height, width = shape
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batch, height, width, channels))
    kernel = rng.normal(size=(size, size, channels, features))
    return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)


def reference(x, kernel, stride, padding=None):
    """The convolution by jax.lax alone."""
    padding = padding or [(kernel.shape[0] // 2,) * 2] * 2
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )


def ours(x, kernel, stride, padding=None, operands=None):
    padding = padding or [(kernel.shape[0] // 2,) * 2] * 2
    return conv_general_dilated(x, kernel, (stride, stride), padding, operands=operands)


def with_gradients(convolve, *cases):
    """The result and both gradients for a random cotangent, of all pairs of images and kernel; compiled at once."""

    def of_pair(x, kernel):
        y, backward = jax.vjp(convolve, x, kernel)
        cotangent = jnp.asarray(np.random.default_rng(1).normal(size=y.shape), y.dtype)
        return (y, *backward(cotangent))

    return jax.jit(lambda *cases: [of_pair(*case) for case in cases])(*cases)


def assert_close(actual, expected, tolerance):
    """Shapes and dtypes equal, values within `tolerance` of the norm."""
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b), a.shape


NEVER, ALWAYS = 10**6, 1
# On a CPU or not, whether XLA takes narrow convolutions, from how many channels on Winograd's way and strips are taken.
WAYS = {
    "products": (True, False, NEVER, NEVER),
    "XLA's": (True, True, NEVER, NEVER),
    "Winograd's": (True, True, ALWAYS, NEVER),
    "strips": (True, True, NEVER, ALWAYS),
    "platform's": (False, False, NEVER, NEVER),
}


def lower_for(on_cpu, monkeypatch):
    """Run what a CPU is given, or what other platforms are."""
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, cpu, default: (cpu if on_cpu else default)(*args))


def take(way, monkeypatch):
    """Have convolutions go one way where they can."""
    on_cpu, narrow_ones, for_winograd, for_strips = WAYS[way]
    lower_for(on_cpu, monkeypatch)
    monkeypatch.setattr(cpu_convolution, "XLA_TAKES_NARROW_ONES", narrow_ones)
    monkeypatch.setattr(cpu_convolution, "CHANNELS_FOR_WINOGRAD", for_winograd)
    monkeypatch.setattr(cpu_convolution, "CHANNELS_FOR_STRIPS", for_strips)
    monkeypatch.setattr(cpu_convolution, "NARROW", NEVER if for_strips == ALWAYS else 0)
    monkeypatch.setattr(cpu_convolution, "has_few_bits", lambda dtype: True)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3])
def test_results_and_gradients_equal_those_of_autodiff(size, stride, way, monkeypatch):
    take(way, monkeypatch)
    cases = [arrays(shape, size) for shape in SHAPES]
    actual, expected = (with_gradients(partial(convolve, stride=stride), *cases) for convolve in (ours, reference))
    assert_close(actual, expected, 1e-6)


PADDINGS = [(2, [(0, 1), (0, 1)]), (1, [(0, 0), (0, 0)]), (1, [(4, 0), (1, 3)]), (2, [(3, 1), (0, 5)])]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("stride", "padding"), PADDINGS, ids=str)
def test_padding_may_be_one_sided_or_wide(stride, padding, way, monkeypatch):
    take(way, monkeypatch)
    case = arrays((2, 5, 6, 8, 7), 3)
    actual, expected = (
        with_gradients(partial(convolve, stride=stride, padding=padding), case) for convolve in (ours, reference)
    )
    assert_close(actual, expected, 1e-6)


@pytest.mark.parametrize("way", ["products", "strips"])
def test_windows_need_not_be_square(way, monkeypatch):
    take(way, monkeypatch)
    x, kernel = arrays((3, 6, 5, 7, 9), 5)
    cases = [(x, kernel[:height, :width]) for height, width in ((1, 3), (3, 1), (2, 2), (4, 5))]
    around = {"stride": 1, "padding": [(1, 2), (0, 1)]}
    actual, expected = (with_gradients(partial(convolve, **around), *cases) for convolve in (ours, reference))
    assert_close(actual, expected, 1e-6)


@pytest.mark.parametrize(
    ("operands", "channels", "expected"),
    [
        (jnp.bfloat16, 16, {"convolve", "filter_gradient"}),
        (jnp.bfloat16, 8, {"filter_gradient"}),
        (None, 16, {"filter_gradient"}),
        (None, 64, set()),
    ],
)
def test_few_bits_and_narrow_kernels_go_by_strips(operands, channels, expected, monkeypatch):
    calls = set()
    for name in ("convolve", "filter_gradient"):
        way = getattr(strips, name)
        monkeypatch.setattr(strips, name, lambda *args, name=name, way=way: calls.add(name) or way(*args))
    x, kernel = arrays((2, channels, channels, 8, 8), 3)
    jax.eval_shape(partial(with_gradients, partial(ours, stride=1, operands=operands)), (x, kernel))
    assert calls == expected


@pytest.mark.parametrize(("operands", "count"), [(None, 1), (jnp.bfloat16, 0)], ids=str)
def test_first_layers_of_few_bits_are_left_to_xla(operands, count, monkeypatch):
    calls, way = [], patches.convolve
    monkeypatch.setattr(patches, "convolve", lambda *args: calls.append(args) or way(*args))
    jax.eval_shape(partial(ours, stride=1, operands=operands), *arrays((2, 3, 64, 8, 8), 3))
    assert len(calls) == count


@pytest.mark.parametrize("way", ["products", "Winograd's", "strips"])
def test_large_batches_are_cut_into_pieces(way, monkeypatch):
    take(way, monkeypatch)
    monkeypatch.setattr(patches, "PATCHES_AT_ONCE", 20_000)
    monkeypatch.setattr(winograd, "NUMBERS_AT_ONCE", 20_000)
    monkeypatch.setattr(strips, "NUMBERS_AT_ONCE", 20_000)
    monkeypatch.setattr(strips, "STRIPS_AT_ONCE", 1)
    cases = [arrays((batch, 36, 40, 5, 6), 3) for batch in (96, 97)]
    actual, expected = (with_gradients(partial(convolve, stride=1), *cases) for convolve in (ours, reference))
    assert_close(actual, expected, 1e-6)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("sides", [(8, 8), (5, 6)], ids=str)
def test_winograds_sums_of_spikes_are_exact_where_plain_ones_are(sides):
    rng = np.random.default_rng(0)
    spikes = jnp.asarray(rng.random((3, *sides, 40)) < 0.2, jnp.float32)
    kernel = jnp.asarray(rng.integers(-999, 1000, (3, 3, 40, 36)) / 1024, jnp.float32)
    exact = reference(spikes, kernel, 1)
    convolve = jax.jit(partial(winograd.convolve, padding=((1, 1), (1, 1))))
    assert (convolve(spikes, kernel) == exact).all()


def test_gradients_inside_a_scan():
    x, kernel = arrays((6, 4, 5, 8, 8), 3)
    steps = jnp.stack([x, 2 * x, -x])

    def total(convolve, kernel):
        return jax.lax.scan(lambda s, x: (s + (convolve(x, kernel, 1) ** 2).sum(), None), 0.0, steps)[0]

    actual, expected = (jax.jit(jax.grad(partial(total, convolve)))(kernel) for convolve in (ours, reference))
    assert_close([actual], [expected], 1e-6)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("way", ["products", "Winograd's", "strips"])
def test_the_filter_gradient_on_cpu_is_made_of_matrix_products(way, monkeypatch):
    """XLA:CPU runs a filter gradient that is a convolution at a hundredth of the machine's rate inside a loop."""
    take(way, monkeypatch)
    x, kernel = arrays((8, 36, 40, 8, 8), 3)

    def program(convolve):
        def gradient(x, kernel, cotangent):
            return jax.vjp(lambda kernel: convolve(x, kernel, 1), kernel)[1](cotangent)

        return jax.jit(gradient).lower(x, kernel, reference(x, kernel, 1)).compile().as_text()

    assert "convolution(" not in program(ours)
    assert "convolution(" in program(reference)


@pytest.mark.parametrize("stride", [1, 2])
def test_double_precision_is_kept(float64, stride):
    case = arrays(SHAPES[2], 3, dtype=jnp.float64)
    actual, expected = (with_gradients(partial(convolve, stride=stride), case) for convolve in (ours, reference))
    assert_close(actual, expected, 1e-14)


# Winograd's sums of operands would be rounded, so that these go another way there.
@pytest.mark.parametrize("way", ["Winograd's", "strips", "platform's"])
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[4]], ids=str)
def test_bfloat16_operands_give_float32_sums(shape, way, monkeypatch):
    take(way, monkeypatch)
    x, kernel = arrays(shape, 3)
    x = jnp.sign(x)  # exact in bfloat16, as spikes are
    (actual,) = with_gradients(partial(ours, stride=1, operands=jnp.bfloat16), (x, kernel))
    (exact,) = with_gradients(partial(reference, stride=1), (x, kernel))
    assert_close(actual, exact, 4e-3)  # bfloat16 has 8 bits
    rounded = reference(x, kernel.astype(jnp.bfloat16).astype(jnp.float32), 1)
    assert_close(actual[0], rounded, 1e-6)  # only operands are rounded, not the sums
    for gradient in actual[1:]:
        assert (gradient != gradient.astype(jnp.bfloat16).astype(jnp.float32)).any()


@pytest.mark.parametrize("operands", [None, jnp.float32], ids=str)
@pytest.mark.parametrize("way", ["products", "strips", "platform's"])
def test_gradients_have_the_dtypes_of_what_they_are_of(way, operands, monkeypatch):
    take(way, monkeypatch)
    arguments = arrays((3, 3, 8, 9, 12), 3, dtype=jnp.bfloat16)
    (actual,) = with_gradients(partial(ours, stride=1, operands=operands), arguments)
    (exact,) = with_gradients(partial(reference, stride=1), [leaf.astype(jnp.float32) for leaf in arguments])
    assert [leaf.dtype for leaf in actual] == [jnp.float32, jnp.bfloat16, jnp.bfloat16]
    rounded = [exact[0], *(leaf.astype(jnp.bfloat16).astype(jnp.float32) for leaf in exact[1:])]
    assert_close([leaf.astype(jnp.float32) for leaf in actual], rounded, 4e-3 if operands is None else 5e-4)


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


@pytest.mark.parametrize("way", ["products", "strips", "XLA's"])
def test_operands_may_have_eight_bits(way, monkeypatch):
    take(way, monkeypatch)
    eight = jnp.float8_e4m3fn
    x, kernel = arrays((3, 3, 8, 9, 12), 3)
    rounded = [leaf.astype(eight).astype(jnp.float32) for leaf in (x, kernel)]
    (actual,) = with_gradients(partial(ours, stride=1, operands=eight), (x, kernel))
    (exact,) = with_gradients(partial(reference, stride=1), rounded)
    assert_close(actual[:1], exact[:1], 1e-6)
    assert_close(actual[1:], exact[1:], 5e-2)  # of the cotangent's rounding: four bits


PADDING = ((0, 2), (1, 0))


def gradient_of_squares(derivatives):
    return jax.grad(lambda *leaves: sum((leaf**2).sum() for leaf in derivatives(*leaves)), (0, 1))


def of_order(order, convolve, x, kernel):
    """Derivatives of an order, each the gradient of the squares of those before."""

    def derivatives(*leaves):
        return (convolve(*leaves),)

    for _ in range(order):
        derivatives = gradient_of_squares(derivatives)
    return jax.jit(derivatives)(x, kernel)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("way", ["products", "strips", "platform's"])
def test_higher_derivatives_equal_those_of_jax(way, order, float64, monkeypatch):
    take(way, monkeypatch)
    x, kernel = arrays((2, 3, 4, 7, 8), 3, dtype=jnp.float64)
    stride, kernel = (1, kernel[:2]) if way == "strips" else (2, kernel[:2])
    actual, expected = (
        of_order(order, lambda *leaves, way=way: way(*leaves, stride, PADDING), x, kernel) for way in (ours, reference)
    )
    assert_close(actual, expected, 1e-11)


@pytest.mark.parametrize(
    ("operands", "channels", "tolerance"), [(None, 4, 1e-5), (jnp.bfloat16, 4, 3e-2), (jnp.bfloat16, 16, 3e-2)], ids=str
)
def test_a_scan_of_convolutions_and_products_is_differentiated_twice(operands, channels, tolerance):
    x, kernel = arrays((2, channels, channels, 6, 6), 3)

    def over_time(convolve, multiply, x, kernel):
        def step(state, _):
            state = jnp.tanh(convolve(state, kernel / (1.5 * channels**0.5), 1))
            return state + multiply(state.reshape(-1, channels), kernel[0, 0] / 9).reshape(state.shape), None

        return jax.lax.scan(step, x, length=3)[0]

    ways = (partial(ours, operands=operands), fast_kernels(operands).multiply), (reference, jnp.matmul)
    actual, expected = (of_order(2, partial(over_time, *way), x, kernel) for way in ways)
    assert_close(actual, expected, tolerance)


@pytest.mark.parametrize("rows", [2, 50])
def test_second_derivatives_of_products_of_few_bits(rows):
    rng = np.random.default_rng(0)
    x, matrix = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((rows, 40), (40, 30)))
    actual, expected = (of_order(2, way, x, matrix) for way in (fast_kernels(jnp.bfloat16).multiply, jnp.matmul))
    assert_close(actual, expected, 2e-2)


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


@pytest.mark.parametrize(("channels", "features"), [(3, 64), (16, 64)])
def test_the_smaller_matrix_is_transposed_and_few_bits_move_as_whole_numbers(channels, features):
    """Patches are of 27 and 144 columns."""
    images = jnp.ones((2, 6, 6, channels), jnp.bfloat16)
    cotangent = jnp.ones((2, 6, 6, features), jnp.bfloat16)
    gradient = jax.jit(partial(patches.filter_gradient, window=(3, 3), strides=(1, 1), padding=((1, 1), (1, 1))))
    program = gradient.lower(images, cotangent).as_text()
    moves = [line for line in program.splitlines() if "stablehlo.pad" in line or "stablehlo.concatenate" in line]
    assert moves
    assert all("xui16>" in line and "bf16" not in line for line in moves)
    narrow, wide = sorted((9 * channels, features))
    products = [line for line in program.splitlines() if "stablehlo.dot_general" in line]
    assert products
    assert all(f"-> tensor<{narrow}x{wide}xf32>" in line for line in products)


def options_of(x, kernel, strides, padding, layout, **others):
    """The parameters that jax.lax gives its primitive."""
    convolve = partial(
        jax.lax.conv_general_dilated, window_strides=strides, padding=padding, dimension_numbers=layout, **others
    )
    return jax.make_jaxpr(convolve)(x, kernel).eqns[0].params


ONES_2D, ONES_1D = [(1, 1), (1, 1)], [(1, 1)]
NHWC, NWC = ("NHWC", "HWIO", "NHWC"), ("NWC", "WIO", "NWC")
# Shapes of images and kernel, strides, padding, layout, other options.
CONVOLUTIONS = {
    "plain": ((2, 6, 5, 4), (3, 3, 4, 6), (1, 2), ONES_2D, NHWC, {}),
    "grouped": ((2, 6, 5, 4), (3, 3, 2, 6), (1, 1), ONES_2D, NHWC, {"feature_group_count": 2}),
    "depthwise": ((2, 6, 5, 4), (3, 3, 1, 4), (2, 1), ONES_2D, NHWC, {"feature_group_count": 4}),
    "grouped batch": ((4, 6, 5, 4), (3, 3, 4, 6), (1, 1), ONES_2D, NHWC, {"batch_group_count": 2}),
    "dilated": ((2, 9, 8, 4), (3, 3, 4, 6), (1, 1), ONES_2D, NHWC, {"rhs_dilation": (2, 3)}),
    "transposed": ((2, 6, 5, 4), (3, 3, 4, 6), (1, 1), ONES_2D, NHWC, {"lhs_dilation": (2, 2)}),
    "cropped": ((2, 9, 8, 4), (3, 3, 4, 6), (1, 1), [(-1, 0), (0, -2)], NHWC, {}),
    "without a pixel": ((2, 2, 2, 4), (3, 3, 4, 6), (1, 1), [(0, 0), (0, 0)], NHWC, {}),
    "smaller than the window": ((2, 5, 5, 4), (7, 7, 4, 6), (1, 1), [(0, 0), (0, 0)], NHWC, {}),
    "1-D": ((2, 9, 4), (3, 4, 6), (2,), ONES_1D, NWC, {}),
    "1-D grouped": ((2, 9, 4), (3, 2, 6), (1,), ONES_1D, NWC, {"feature_group_count": 2}),
    "3-D": ((2, 4, 3, 5, 4), (3, 3, 3, 4, 6), (1, 1, 1), [(1, 1)] * 3, ("NDHWC", "DHWIO", "NDHWC"), {}),
    "channels first": ((2, 4, 6, 5), (6, 4, 3, 3), (1, 1), ONES_2D, ("NCHW", "OIHW", "NCHW"), {}),
}


@pytest.mark.parametrize("kernels", [fast_kernels(None), xla_kernels()], ids=["fast", "platform's"])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions_of_every_kind_equal_those_of_jax(kind, kernels):
    of_x, of_kernel, strides, padding, layout, others = CONVOLUTIONS[kind]
    rng = np.random.default_rng(0)
    case = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in (of_x, of_kernel)]
    options = options_of(*case, strides, padding, layout, **others)

    def jaxs(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=layout, **others)

    actual = with_gradients(lambda x, kernel: kernels.convolve(x, kernel, options), case)
    assert_close(actual, with_gradients(jaxs, case), 1e-6)


@pytest.mark.parametrize("kind", ["plain", "grouped", "dilated", "1-D"])
def test_operands_are_rounded_in_convolutions_of_every_kind(kind):
    """Sums and gradients are not, but for what numbers of few bits enter them."""
    of_x, of_kernel, strides, padding, layout, others = CONVOLUTIONS[kind]
    rng = np.random.default_rng(0)
    case = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in (of_x, of_kernel)]
    options = options_of(*case, strides, padding, layout, **others)
    (actual,), (exact,), (of_rounded,) = (
        with_gradients(lambda x, kernel, kernels=kernels: kernels.convolve(x, kernel, options), leaves)
        for kernels, leaves in (
            (fast_kernels(jnp.bfloat16), case),
            (xla_kernels(), case),
            (xla_kernels(), [leaf.astype(jnp.bfloat16).astype(jnp.float32) for leaf in case]),
        )
    )
    assert_close(actual, exact, 1e-2)
    assert_close(actual[0], of_rounded[0], 1e-6)
    for part in actual:
        assert (part != part.astype(jnp.bfloat16).astype(jnp.float32)).any()


def test_what_has_no_batch_in_front_is_left_to_jax():
    x, kernel = arrays(SHAPES[0], 3)
    options = options_of(x, kernel, (1, 1), ONES_2D, ("HWNC", "HWIO", "HWNC"))
    assert convolve_batch(fast_kernels(), options, x, kernel) is None
    for axes in ((((1,), (0,)), ((), ())), (((2,), (1,)), ((), ())), (((2,), (0,)), ((0,), (1,)))):
        assert multiply_batch(fast_kernels(), {"dimension_numbers": axes}, x[0], kernel[0, 0]) is None
    assert multiply_batch(fast_kernels(), {"dimension_numbers": (((3,), (2,)), ((), ()))}, x, kernel) is None


PLAIN = {"padding": [(0, 0)] * 4, "base_dilation": (1,) * 4, "window_dilation": (1,) * 4}


@pytest.mark.parametrize(
    ("window", "shape"),
    [
        ((1, 2, 2, 1), (3, 6, 8, 5)),
        ((1, 2, 2, 1), (3, 7, 5, 2)),
        ((1, 3, 1, 2), (2, 7, 4, 5)),
        ((1, 4, 4, 1), (2, 8, 9, 3)),
    ],
    ids=str,
)
def test_a_pool_equals_a_window_reduction(window, shape):
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)

    def with_gradient(pool):
        def both(x):
            y, backward = jax.vjp(pool, x)
            return y, *backward(jnp.asarray(np.random.default_rng(1).normal(size=y.shape), y.dtype))

        return jax.jit(both)(x)

    actual = with_gradient(lambda x: pool_sum(x, window, window, PLAIN))
    expected = with_gradient(lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, window, window, "VALID"))
    assert_close(actual, expected, 1e-6)


@pytest.mark.parametrize(
    ("window", "strides", "change"),
    [
        ((1, 3, 3, 1), (1, 2, 2, 1), {}),
        ((1, 2, 2, 1), (1, 2, 2, 1), {"padding": [(0, 0), (0, 1), (0, 0), (0, 0)]}),
        ((1, 2, 2, 1), (1, 2, 2, 1), {"base_dilation": (1, 2, 1, 1)}),
        ((1, 2, 2, 1), (1, 2, 2, 1), {"window_dilation": (1, 2, 1, 1)}),
        ((1, 5, 5, 1), (1, 5, 5, 1), {}),
        ((4, 1, 1, 1), (4, 1, 1, 1), {}),
    ],
    ids=["overlapping", "padded", "dilated", "with a dilated window", "large", "larger than the image"],
)
def test_other_pools_are_left_to_jax(window, strides, change):
    assert pool_sum(jnp.ones((2, 10, 10, 3)), window, strides, {**PLAIN, **change}) is None
