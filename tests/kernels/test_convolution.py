"""Convolutions and their gradients, whatever way and precision they are computed in, equal those of jax.lax."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.kernels import cpu_convolution, patches, strips, winograd
from tests.kernels.convolutions import SHAPES, WAYS, arrays, assert_close, ours, reference, take, with_gradients

PADDINGS = [(2, ((0, 1), (0, 1))), (1, ((0, 0), (0, 0))), (1, ((4, 0), (1, 3))), (2, ((3, 1), (0, 5)))]
# Shapes, windows, strides and paddings.
GROUPS = {
    "1x1": [(shape, 1, stride, None) for shape in SHAPES for stride in (1, 2)],
    "stride 1": [(shape, 3, 1, None) for shape in SHAPES],
    "stride 2": [(shape, 3, 2, None) for shape in SHAPES],
    "one-sided or wide padding": [((2, 5, 6, 8, 7), 3, *each) for each in PADDINGS],
    "not square": [((3, 6, 5, 7, 9), window, 1, ((1, 2), (0, 1))) for window in ((1, 3), (3, 1), (2, 2), (4, 5))],
    "large batches": [((batch, 36, 40, 5, 6), 3, 1, None) for batch in (96, 97)],
}
# All ways of a CPU are the same for windows of 1x1, so that one of them is enough there.
SOME = {
    "1x1": ["products", "platform's"],
    "not square": ["products", "strips"],
    "large batches": ["products", "Winograd's", "strips"],
}


def results_of(convolve, group):
    """Results and gradients of a group's cases."""
    return with_gradients(*((partial(convolve, stride=s, padding=p), *arrays(*of)) for *of, s, p in GROUPS[group]))


expected_of = cache(partial(results_of, reference))


@pytest.mark.parametrize(("group", "way"), [(group, way) for group in GROUPS for way in SOME.get(group, WAYS)])
def test_results_and_gradients_equal_those_of_autodiff(group, way, monkeypatch):
    take(way, monkeypatch)
    if group == "large batches":  # are cut into pieces
        monkeypatch.setattr(patches, "PATCHES_AT_ONCE", 20_000)
        monkeypatch.setattr(winograd, "NUMBERS_AT_ONCE", 20_000)
        monkeypatch.setattr(strips, "NUMBERS_AT_ONCE", 20_000)
        monkeypatch.setattr(strips, "STRIPS_AT_ONCE", 1)
    assert_close(results_of(ours, group), expected_of(group), 1e-6)


def test_double_precision_is_kept(float64):
    case, strides = arrays(SHAPES[2], 3, jnp.float64), (1, 2)
    ways = (with_gradients(*((partial(way, stride=s), *case) for s in strides)) for way in (ours, reference))
    assert_close(*ways, 1e-14)


@cache
def exact_of(arguments, operands):
    """By jax.lax of what operands are rounded to; gradients are rounded as they are returned."""
    cases = [[leaf.astype(operands).astype(jnp.float32) for leaf in case] for case in few_bits(arguments)]
    exact = with_gradients(*((reference, *case) for case in cases))
    return [(sums, *(leaf.astype(arguments).astype(jnp.float32) for leaf in gradients)) for sums, *gradients in exact]


def few_bits(dtype):
    return [arrays(shape, 3, dtype) for shape in (SHAPES[0], SHAPES[4])]


# Winograd's sums of operands would be rounded, so that these go another way there.
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("arguments", "operands", "tolerance"),
    [
        ("float32", "bfloat16", 4e-3),
        ("float32", "float8_e4m3fn", 5e-2),
        ("bfloat16", None, 4e-3),
        ("bfloat16", "float32", 5e-4),
    ],
)
def test_only_operands_are_rounded_and_gradients_have_the_dtypes_of_arguments(
    arguments, operands, tolerance, way, monkeypatch
):
    take(way, monkeypatch)
    every = with_gradients(*((partial(ours, operands=operands), *case) for case in few_bits(arguments)))
    for (sums, *gradients), (exact, *expected) in zip(every, exact_of(arguments, operands or arguments), strict=True):
        assert [sums.dtype, *(leaf.dtype for leaf in gradients)] == ["float32", arguments, arguments]
        assert_close(sums, exact, 1e-6)
        assert_close([leaf.astype(jnp.float32) for leaf in gradients], expected, tolerance)  # of the cotangent's bits
        assert arguments == "bfloat16" or all((leaf != leaf.astype("bfloat16")).any() for leaf in gradients)


@pytest.mark.parametrize(
    ("operands", "channels", "features", "expected"),
    [
        ("bfloat16", 16, 16, {"strips.convolve", "strips.filter_gradient"}),
        ("bfloat16", 8, 8, {"strips.filter_gradient"}),
        (None, 16, 16, {"strips.filter_gradient"}),
        (None, 64, 64, set()),
        (None, 3, 64, {"patches.convolve"}),
        ("bfloat16", 3, 64, set()),
    ],
)
def test_few_bits_and_narrow_kernels_go_by_strips_and_first_layers_by_patches_or_xla(
    operands, channels, features, expected, monkeypatch
):
    calls = set()
    monkeypatch.setattr(cpu_convolution, "XLA_TAKES_NARROW_ONES", True)
    for module, name in ((strips, "convolve"), (strips, "filter_gradient"), (patches, "convolve")):
        call, way = f"{module.__name__.split('.')[-1]}.{name}", getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, call=call, way=way: calls.add(call) or way(*args))
    case = partial(ours, operands=operands), *arrays((2, channels, features, 8, 8), 3)
    jax.eval_shape(lambda: with_gradients(case))
    assert calls == expected


@pytest.mark.usefixtures("optimized")
def test_winograds_sums_of_spikes_are_exact_where_plain_ones_are():
    rng = np.random.default_rng(0)
    every = [jnp.asarray(rng.random((3, *sides, 40)) < 0.2, jnp.float32) for sides in ((8, 8), (5, 6))]
    kernel = jnp.asarray(rng.integers(-999, 1000, (3, 3, 40, 36)) / 1024, jnp.float32)
    convolve = jax.jit(lambda every: [winograd.convolve(spikes, kernel, ((1, 1), (1, 1))) for spikes in every])
    for actual, spikes in zip(convolve(every), every, strict=True):
        np.testing.assert_array_equal(actual, reference(spikes, kernel))


@pytest.mark.usefixtures("optimized")
def test_the_filter_gradient_on_cpu_is_made_of_matrix_products(monkeypatch):
    """XLA:CPU runs a filter gradient that is a convolution at a hundredth of the machine's rate inside a loop."""
    x, kernel = arrays((8, 36, 40, 8, 8), 3)

    def is_a_convolution(convolve):
        def gradient(x, kernel, cotangent):
            return jax.vjp(partial(convolve, x), kernel)[1](cotangent)

        return "convolution(" in jax.jit(gradient).lower(x, kernel, reference(x, kernel)).compile().as_text()

    assert is_a_convolution(reference)
    for way in ("products", "Winograd's", "strips"):
        take(way, monkeypatch)
        assert not is_a_convolution(ours), way


@pytest.mark.parametrize(("channels", "features"), [(3, 64), (16, 64)])
def test_the_smaller_matrix_is_transposed_and_few_bits_move_as_whole_numbers(channels, features):
    """Patches are of 27 and 144 columns."""
    images, cotangent = (jnp.ones((2, 6, 6, width), jnp.bfloat16) for width in (channels, features))
    gradient = jax.jit(partial(patches.filter_gradient, window=(3, 3), strides=(1, 1), padding=((1, 1), (1, 1))))
    lines = gradient.lower(images, cotangent).as_text().splitlines()
    moves = [line for line in lines if "stablehlo.pad" in line or "stablehlo.concatenate" in line]
    products = [line for line in lines if "stablehlo.dot_general" in line]
    assert moves
    assert products
    assert all("xui16>" in line and "bf16" not in line for line in moves)
    narrow, wide = sorted((9 * channels, features))
    assert all(f"-> tensor<{narrow}x{wide}xf32>" in line for line in products)
