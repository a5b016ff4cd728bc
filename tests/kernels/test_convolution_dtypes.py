"""Convolutions in every precision: operands may have few bits, sums keep theirs, gradients have arguments' dtypes."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import pytest

from jsnn.kernels import patches
from tests.kernels.convolutions import SHAPES, arrays, assert_close, ours, reference, take, with_gradients


@pytest.mark.parametrize("stride", [1, 2])
def test_double_precision_is_kept(float64, stride):
    case = arrays(SHAPES[2], 3, dtype=jnp.float64)
    assert_close(*(with_gradients(partial(convolve, stride=stride), case) for convolve in (ours, reference)), 1e-14)


# Exact in bfloat16, as spikes are.
SIGNS = [(jnp.sign(x), kernel) for x, kernel in (arrays(SHAPES[0], 3), arrays(SHAPES[4], 3))]


@cache
def exact_of_signs():
    return with_gradients(partial(reference, stride=1), *SIGNS)


# Winograd's sums of operands would be rounded, so that these go another way there.
@pytest.mark.parametrize("way", ["Winograd's", "strips", "platform's"])
def test_bfloat16_operands_give_float32_sums(way, monkeypatch):
    take(way, monkeypatch)
    every = with_gradients(partial(ours, stride=1, operands=jnp.bfloat16), *SIGNS)
    assert_close(every, exact_of_signs(), 4e-3)  # bfloat16 has 8 bits
    for (x, kernel), (sums, *gradients) in zip(SIGNS, every, strict=True):
        rounded = reference(x, kernel.astype(jnp.bfloat16).astype(jnp.float32), 1)
        assert_close(sums, rounded, 1e-6)  # only operands are rounded, not the sums
        for gradient in gradients:
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
