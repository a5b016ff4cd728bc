"""Every surrogate spikes strictly above the threshold, and its derivative is its formula in both modes of autodiff."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.neurons import adaptive_lif, current_lif, hard_reset_lif, lif, over_time, refractory_lif
from jsnn.neurons.surrogate import arctan, boxcar, fast_sigmoid, forward_mode, from_derivative, linear, stdb
from tests.neurons.random_neurons import CHANNELS, by_distance, by_spike_time, currents, parameters_of

# The surrogate and its derivative as a function of z and of the steps since the last spike, 0 without one.
SURROGATES = {
    "stdb": (stdb(0.4, 0.1), lambda z, dt: np.where(dt > 0, 0.4 * np.exp(-0.1 * dt), 0)),
    "stdb without decay": (stdb(0.5, 0.0), lambda z, dt: np.where(dt > 0, 0.5, 0)),
    "linear": (linear(0.4), lambda z, dt: 0.4 * np.maximum(0, 1 - np.abs(z))),
    "arctan": (arctan(3.0), lambda z, dt: 3 / 2 / (1 + (np.pi * 3 * z / 2) ** 2)),
    "fast sigmoid": (fast_sigmoid(10.0), lambda z, dt: 1 / (1 + 10 * np.abs(z)) ** 2),
    "boxcar": (boxcar(0.8, 0.6), lambda z, dt: 0.6 * (np.abs(z) < 0.4)),
    "by distance": (by_distance(), lambda z, dt: np.exp(-(z**2))),
    "by spike time": (by_spike_time(), lambda z, dt: np.where(dt > 0, 1 / np.maximum(dt, 1), 0)),
}
Z = np.concatenate([np.linspace(-2.5, 2.5, 41), [-0.4, 0.4, -1, 1]])
AGE = np.arange(len(Z), dtype=np.int32) % 7
AGES = jnp.asarray(AGE)


@pytest.mark.parametrize("name", SURROGATES)
def test_a_derivative_is_its_formula_in_the_dtype_of_distances(float64, name):
    surrogate, formula = SURROGATES[name]
    expected, weights = formula(Z, AGE), np.linspace(1, 2, len(Z))

    @jax.jit
    def every_way(z):
        vector = jnp.asarray(weights, z.dtype)
        spikes, backward = jax.vjp(lambda z: surrogate.spike(z, AGES), z)
        other_spikes, slope = jax.jvp(lambda z: forward_mode(surrogate).spike(z, AGES), (z,), (vector,))
        return (spikes, other_spikes), (backward(vector)[0], slope), surrogate.derivative(z, AGES)

    for dtype in ("float32", "bfloat16"):
        shapes = jax.tree.leaves(jax.eval_shape(every_way, jnp.asarray(Z, dtype)))
        assert {shape.dtype.name for shape in shapes} == {dtype}

    spikes, slopes, derivative = every_way(Z)
    for each in spikes:
        np.testing.assert_array_equal(each, Z > 0)
    for slope in slopes:
        np.testing.assert_allclose(slope, expected * weights, rtol=1e-14)
    np.testing.assert_allclose(derivative, expected, rtol=1e-14)
    if "time" in name or "stdb" in name:
        np.testing.assert_allclose(surrogate.by_age(AGES, Z.dtype), expected, rtol=1e-14)
    else:
        assert surrogate.by_age is None
        np.testing.assert_allclose(surrogate.derivative(jnp.asarray(Z), None), expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("name", "make"), [*((name, lif) for name in SURROGATES), ("stdb", hard_reset_lif), ("linear", hard_reset_lif)]
)
def test_forward_and_reverse_mode_agree(float64, name, make):
    """<J v, w> by the surrogate for forward mode equals <v, J^T w> by either."""
    surrogate = SURROGATES[name][0]
    plain, forward = (make(each, detach_spike=False) for each in (surrogate, forward_mode(surrogate)))
    rng = np.random.default_rng(5)
    given = parameters_of(plain, (CHANNELS,)), currents(15)
    tangents = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), given)
    cotangents = rng.normal(size=given[1].shape), rng.normal(size=given[1][0].shape)

    def results(neuron, parameters, current):
        spikes, end, _ = over_time(neuron, parameters, neuron.init(parameters, current[0]), current)
        return spikes, end.membrane

    @jax.jit
    def both_modes(given):
        along = jax.jvp(partial(results, forward), given, tangents)
        return along, *(
            (value, back(cotangents))
            for value, back in (jax.vjp(partial(results, neuron), *given) for neuron in (plain, forward))
        )

    (primal, along), *reverse = both_modes(given)
    expected = sum((a * b).sum() for a, b in zip(along, cotangents, strict=True))
    assert abs(expected) > 0
    for value, gradients in reverse:
        products = jax.tree.map(lambda a, b: (a * b).sum(), gradients, tangents)
        chex.assert_trees_all_equal(value, primal)
        np.testing.assert_allclose(sum(jax.tree.leaves(products)), expected, rtol=1e-10)


def test_forward_mode_has_second_derivatives(float64):
    """The second derivative is that of the surrogate's derivative as a function of z."""
    bell = forward_mode(by_distance()).spike
    second = jax.jit(jax.vmap(jax.hessian(lambda z: bell(z, None))))(jnp.asarray(Z))
    np.testing.assert_allclose(second, -2 * Z * np.exp(-(Z**2)), rtol=1e-13)


def test_forward_mode_takes_infinite_distances():
    spike = forward_mode(linear()).spike
    values, _ = jax.jvp(lambda z: spike(z, None), (jnp.array([jnp.inf, -jnp.inf, 1.0]),), (jnp.ones(3),))
    np.testing.assert_array_equal(values, [1, 0, 1])


def test_a_derivative_may_be_a_condition():
    box = from_derivative(lambda z: jnp.abs(z) < 0.5)
    slopes = box.derivative(jnp.array([0.4, -0.6], jnp.bfloat16), None)
    assert slopes.dtype == jnp.bfloat16
    np.testing.assert_array_equal(slopes, [1, 0])
    np.testing.assert_array_equal(jax.grad(lambda z: box.spike(z, None).sum())(jnp.array([0.4, -0.6])), [1, 0])


def test_the_default_numbers_of_surrogates():
    at_threshold, once = jnp.zeros(1), jnp.ones(1, jnp.int32)
    made = [make().derivative(at_threshold, once).item() for make in (stdb, linear, arctan, fast_sigmoid, boxcar)]
    np.testing.assert_allclose(made, [0.3 * np.exp(-0.01), 0.3, 1, 1, 1], rtol=1e-6)
    assert fast_sigmoid().derivative(at_threshold + 0.04, None).item() == pytest.approx(0.25)
    np.testing.assert_array_equal(boxcar().derivative(jnp.array([-0.51, -0.49, 0.49, 0.51]), None), [0, 1, 1, 0])


def test_the_same_arguments_give_the_same_surrogate_or_neuron():
    calls = [
        *(partial(make, 0.3) for make in (stdb, linear, arctan, fast_sigmoid, boxcar)),
        *(by_distance, by_spike_time, partial(forward_mode, linear())),
        *(partial(make, linear(g)) for make in (lif, hard_reset_lif, adaptive_lif, current_lif) for g in (0.2, 0.3)),
        *(partial(refractory_lif, linear(), period) for period in (1, 2)),
    ]
    assert all(make() is make() for make in calls)
    assert len({make() for make in calls}) == len(calls)
    assert stdb(0.3, 0.01) is not stdb(0.3, 0.02)
