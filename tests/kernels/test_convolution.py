"""Convolutions and their gradients, whatever way they are computed, equal those of jax.lax."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.kernels import patches, strips, winograd
from tests.kernels.convolutions import (
    SHAPES,
    WAYS,
    arrays,
    assert_close,
    assert_equals_reference,
    ours,
    reference,
    take,
    with_gradients,
)


# All ways of a CPU are the same for windows of 1x1, so that one of them is enough there.
@pytest.mark.parametrize(("size", "way"), [(1, "products"), (1, "platform's"), *((3, way) for way in WAYS)])
@pytest.mark.parametrize("stride", [1, 2])
def test_results_and_gradients_equal_those_of_autodiff(size, stride, way, monkeypatch):
    take(way, monkeypatch)
    assert_equals_reference(stride, None, *((shape, size) for shape in SHAPES))


PADDINGS = [(2, ((0, 1), (0, 1))), (1, ((0, 0), (0, 0))), (1, ((4, 0), (1, 3))), (2, ((3, 1), (0, 5)))]


def with_every_padding(convolve):
    """Results of all paddings in one row, and gradients of them together."""

    def results(x, kernel):
        return jnp.concatenate([convolve(x, kernel, stride, padding).ravel() for stride, padding in PADDINGS])

    return with_gradients(results, arrays((2, 5, 6, 8, 7), 3))


@pytest.mark.parametrize("way", WAYS)
def test_padding_may_be_one_sided_or_wide(way, monkeypatch):
    take(way, monkeypatch)
    assert_close(with_every_padding(ours), with_every_padding(reference), 1e-6)


@pytest.mark.parametrize("way", ["products", "strips"])
def test_windows_need_not_be_square(way, monkeypatch):
    take(way, monkeypatch)
    windows = (1, 3), (3, 1), (2, 2), (4, 5)
    assert_equals_reference(1, ((1, 2), (0, 1)), *(((3, 6, 5, 7, 9), window) for window in windows))


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
    assert_equals_reference(1, None, *(((batch, 36, 40, 5, 6), 3) for batch in (96, 97)))


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("sides", [(8, 8), (5, 6)], ids=str)
def test_winograds_sums_of_spikes_are_exact_where_plain_ones_are(sides):
    rng = np.random.default_rng(0)
    spikes = jnp.asarray(rng.random((3, *sides, 40)) < 0.2, jnp.float32)
    kernel = jnp.asarray(rng.integers(-999, 1000, (3, 3, 40, 36)) / 1024, jnp.float32)
    exact = reference(spikes, kernel, 1)
    convolve = jax.jit(partial(winograd.convolve, padding=((1, 1), (1, 1))))
    assert (convolve(spikes, kernel) == exact).all()


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
