import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.neurons.surrogate import linear, stdb

Z = np.array([-1.5, -0.5, 0.0, 0.25, 0.5, 2.0], np.float32)
AGE = np.array([0, 1, 2, 10, 0, 200], np.int32)


@pytest.mark.parametrize("surrogate", [stdb(), linear()])
def test_forward_is_a_strict_step(surrogate):
    np.testing.assert_array_equal(surrogate.spike(Z, AGE), [0, 0, 0, 1, 1, 1])


def test_stdb_derivative_decays_with_the_time_since_the_last_spike():
    gradient = jax.grad(lambda z: stdb(0.3, 0.01).spike(z, AGE).sum())(Z)
    expected = [0, 0.3 * np.exp(-0.01), 0.3 * np.exp(-0.02), 0.3 * np.exp(-0.1), 0, 0.3 * np.exp(-2)]
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_stdb_without_decay_is_alpha_for_those_that_have_fired():
    gradient = jax.grad(lambda z: stdb(0.5, 0.0).spike(z, AGE).sum())(Z)
    np.testing.assert_array_equal(gradient, [0, 0.5, 0.5, 0.5, 0, 0.5])


def test_linear_derivative_is_a_triangle():
    gradient = jax.grad(lambda z: linear(0.3).spike(z, AGE).sum())(Z)
    np.testing.assert_allclose(gradient, [0, 0.15, 0.3, 0.225, 0.15, 0], rtol=1e-6)


def test_only_the_derivative_of_stdb_is_known_from_spike_times():
    gradient = jax.grad(lambda z: stdb(0.3, 0.01).spike(z, AGE).sum())(Z)
    np.testing.assert_array_equal(stdb(0.3, 0.01).by_age(AGE, Z.dtype), gradient)
    assert linear(0.3).by_age is None


def test_cotangents_multiply_the_derivative():
    _, pullback = jax.vjp(lambda z: linear(1.0).spike(z, AGE), Z)
    (gradient,) = pullback(jnp.arange(6.0))
    np.testing.assert_allclose(gradient, [0, 0.5, 2, 2.25, 2, 0], rtol=1e-6)


def test_the_same_numbers_give_the_same_function():
    assert stdb(0.3, 0.01) is stdb(0.3, 0.01)
    assert stdb(0.3, 0.01) is not stdb(0.3, 0.02)


@pytest.mark.parametrize(
    ("make", "word"),
    [(lambda: stdb(alpha=0), "alpha"), (lambda: stdb(beta=-1), "beta"), (lambda: linear(gamma=-0.1), "gamma")],
)
def test_numbers_out_of_range_are_refused(make, word):
    with pytest.raises(ValueError, match=word):
        make()
