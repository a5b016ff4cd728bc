"""Every surrogate's derivative is its formula, in every dtype, in reverse and in forward mode."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.neurons import hard_reset_lif, lif
from jsnn.neurons.surrogate import (
    arctan,
    boxcar,
    fast_sigmoid,
    forward_mode,
    from_derivative,
    from_spike_time,
    linear,
    stdb,
)
from tests.neurons.random_neurons import CHANNELS, a_bell, currents, one_over, parameters_of, run

# The surrogate and its derivative as a function of z and of the steps since the last spike, 0 without one.
SURROGATES = {
    "stdb": (stdb(0.4, 0.1), lambda z, dt: np.where(dt > 0, 0.4 * np.exp(-0.1 * dt), 0)),
    "linear": (linear(0.4), lambda z, dt: 0.4 * np.maximum(0, 1 - np.abs(z))),
    "arctan": (arctan(3.0), lambda z, dt: 3 / 2 / (1 + (np.pi * 3 * z / 2) ** 2)),
    "fast sigmoid": (fast_sigmoid(10.0), lambda z, dt: 1 / (1 + 10 * np.abs(z)) ** 2),
    "boxcar": (boxcar(0.8, 0.6), lambda z, dt: 0.6 * (np.abs(z) < 0.4)),
    "by distance": (from_derivative(a_bell), lambda z, dt: np.exp(-(z**2))),
    "by spike time": (from_spike_time(one_over), lambda z, dt: np.where(dt > 0, 1 / np.maximum(dt, 1), 0)),
}
Z = np.concatenate([np.linspace(-2.5, 2.5, 41), [-0.4, 0.4, -1, 1]])
AGE = np.arange(len(Z), dtype=np.int32) % 7
AGES = jnp.asarray(AGE)


@pytest.mark.parametrize("name", SURROGATES)
def test_a_surrogates_derivative_is_its_formula(float64, name):
    surrogate, formula = SURROGATES[name]
    expected = formula(Z, AGE)
    ones = np.ones_like(Z)
    np.testing.assert_allclose(jax.vjp(lambda z: surrogate.spike(z, AGES), Z)[1](ones)[0], expected, rtol=1e-14)
    np.testing.assert_allclose(surrogate.derivative(jnp.asarray(Z), AGES), expected, rtol=1e-14)
    spikes, slope = jax.jvp(lambda z: forward_mode(surrogate).spike(z, AGES), (Z,), (ones,))
    np.testing.assert_array_equal(spikes, Z > 0)
    np.testing.assert_allclose(slope, expected, rtol=1e-14)
    if name in ("stdb", "by spike time"):
        np.testing.assert_allclose(surrogate.by_age(AGES, Z.dtype), expected, rtol=1e-14)
    else:
        assert surrogate.by_age is None
        np.testing.assert_allclose(surrogate.derivative(jnp.asarray(Z), None), expected, rtol=1e-14)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", SURROGATES)
def test_spikes_and_derivatives_keep_the_dtype(name, dtype):
    surrogate, z = SURROGATES[name][0], jnp.asarray(Z, dtype)
    spikes, backward = jax.vjp(lambda z: surrogate.spike(z, AGES), z)
    (gradient,) = backward(jnp.ones_like(z))
    assert spikes.dtype == gradient.dtype == surrogate.derivative(z, AGES).dtype == dtype


@pytest.mark.parametrize("make", [lif, hard_reset_lif])
@pytest.mark.parametrize("name", SURROGATES)
def test_forward_and_reverse_mode_agree(float64, name, make):
    """<J v, w> by the surrogate for forward mode equals <v, J^T w> by either."""
    surrogate = SURROGATES[name][0]
    plain, forward = (make(each, detach_spike=False) for each in (surrogate, forward_mode(surrogate)))
    rng = np.random.default_rng(5)
    given = parameters_of(plain, (CHANNELS,)), currents(15)
    tangents = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), given)

    def results(neuron, parameters, current):
        spikes, end, _ = run(neuron, parameters, current)
        return spikes, end.membrane

    primal, along = jax.jvp(partial(results, forward), given, tangents)
    cotangents = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), primal)
    expected = sum((a * b).sum() for a, b in zip(along, cotangents, strict=True))
    assert abs(expected) > 0
    for neuron in (plain, forward):
        value, backward = jax.vjp(partial(results, neuron), *given)
        products = jax.tree.map(lambda a, b: (a * b).sum(), backward(cotangents), tangents)
        chex.assert_trees_all_equal(value, primal)
        np.testing.assert_allclose(sum(jax.tree.leaves(products)), expected, rtol=1e-10)


def test_forward_mode_has_second_derivatives(float64):
    """That of the derivative as a function of z."""
    bell = forward_mode(from_derivative(a_bell)).spike
    second = jax.vmap(jax.hessian(lambda z: bell(z, None)))(jnp.asarray(Z))
    np.testing.assert_allclose(second, -2 * Z * np.exp(-(Z**2)), rtol=1e-13)


def test_forward_mode_keeps_what_is_infinite():
    spike = forward_mode(linear()).spike
    values, _ = jax.jvp(lambda z: spike(z, None), (jnp.array([jnp.inf, -jnp.inf, 1.0]),), (jnp.ones(3),))
    np.testing.assert_array_equal(values, [1, 0, 1])


def test_a_derivative_may_be_a_condition():
    box = from_derivative(lambda z: jnp.abs(z) < 0.5)
    slopes = box.derivative(jnp.array([0.4, -0.6], jnp.bfloat16), None)
    assert slopes.dtype == jnp.bfloat16
    np.testing.assert_array_equal(slopes, [1, 0])
    np.testing.assert_array_equal(jax.grad(lambda z: box.spike(z, None).sum())(jnp.array([0.4, -0.6])), [1, 0])
