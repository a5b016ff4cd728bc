"""Every neuron against loops in NumPy and PyTorch, every surrogate against its formula."""

from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.neurons import Neuron, adaptive_lif, current_lif, hard_reset_lif, lif, over_time, refractory_lif
from jsnn.neurons.neuron import record
from jsnn.neurons.packing import unpack
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
from tests.numpy_reference import (
    adaptive_lif_loop,
    current_lif_loop,
    hard_reset_lif_loop,
    lif_loop,
    refractory_lif_loop,
)

NEURONS = {
    "lif": (lif(), lif_loop),
    "lif, linear": (lif(linear()), lif_loop),
    "lif, live spike": (lif(detach_spike=False), lif_loop),
    "lif, detached threshold": (lif(detach_threshold=True), lif_loop),
    "lif, both other": (lif(linear(), detach_spike=False, detach_threshold=True), lif_loop),
    "hard reset": (hard_reset_lif(), hard_reset_lif_loop),
    "hard reset, linear, live spike": (hard_reset_lif(linear(), detach_spike=False), hard_reset_lif_loop),
    "adaptive": (adaptive_lif(), adaptive_lif_loop),
    "current": (current_lif(), current_lif_loop),
    "refractory": (refractory_lif(), partial(refractory_lif_loop, period=1)),
    "refractory for 3": (refractory_lif(boxcar(), period=3), partial(refractory_lif_loop, period=3)),
}
RANGES = {
    "threshold": (0.5, 1.2),
    "leak": (0.7, 1.0),
    "initial": (0.2, 0.9),
    "decay": (0.2, 0.9),
    "strength": (0.1, 0.6),
}
CHANNELS = 4


def parameters_of(neuron, shape, seed=0):
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.uniform(*RANGES[name], shape)) for name in neuron.parameters()}


def currents(num_steps, seed=0):
    return np.random.default_rng(seed).normal(0.4, 0.8, (num_steps, 3, CHANNELS))


@partial(jax.jit, static_argnums=0)
def run(neuron, parameters, current):
    return over_time(neuron, parameters, neuron.init(parameters, current[0]), current)


@pytest.mark.parametrize("shape", [(), (CHANNELS,)], ids=["scalars", "by channel"])
@pytest.mark.parametrize("name", NEURONS)
def test_equals_a_numpy_loop(float64, name, shape):
    (neuron, loop), current = NEURONS[name], currents(32)
    parameters = parameters_of(neuron, shape)
    spikes, end, states = run(neuron, parameters, current)
    membranes, expected = loop(current, **parameters)
    np.testing.assert_array_equal(spikes, expected)
    np.testing.assert_allclose(states.membrane, membranes, rtol=1e-12, atol=1e-13)
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf[-1], states), end)
    assert all(0.05 < spikes[..., channel].mean() < 0.8 for channel in range(CHANNELS))
    if getattr(end, "age", None) is not None:
        np.testing.assert_array_equal(end.age, np.where(expected.any(0), 1 + expected[::-1].argmax(0), 0))


@pytest.mark.parametrize("name", NEURONS)
def test_time_can_be_cut_and_spikes_kept_as_bits(float64, name):
    neuron, current = NEURONS[name][0], currents(20)
    parameters = parameters_of(neuron, (CHANNELS,))
    spikes, end, _ = run(neuron, parameters, current)

    @jax.jit
    def in_words(current):
        state, every = neuron.init(parameters, current[0]), []
        for piece in (current[:7], current[7:]):
            words, state = record(neuron, parameters, state, piece)
            every.append(unpack(words, len(piece), current.dtype))
        return jnp.concatenate(every), state

    actual, later = in_words(jnp.asarray(current))
    np.testing.assert_array_equal(actual, spikes)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13), later, end)


def test_a_refractory_neuron_pauses():
    spikes = run(refractory_lif(period=2), {"threshold": 1.0, "leak": 1.0}, jnp.full((8, 1), 3.0))[0]
    np.testing.assert_array_equal(spikes[:, 0], [1, 0, 0, 1, 0, 0, 1, 0])


def test_the_parameters_before_anything_is_known():
    of_lif = {"threshold": 1.0, "leak": 1.0, "initial": 0.0}
    assert lif().parameters() == hard_reset_lif().parameters() == of_lif
    assert adaptive_lif().parameters() == {"threshold": 1.0, "leak": 1.0, "decay": 0.9, "strength": 0.1}
    assert current_lif().parameters() == {"threshold": 1.0, "leak": 1.0, "decay": 0.5}
    assert refractory_lif().parameters() == {"threshold": 1.0, "leak": 1.0}


def test_the_same_arguments_give_the_same_neuron():
    for make in (lif, hard_reset_lif, adaptive_lif, current_lif, refractory_lif):
        assert make(linear(0.2)) is make(linear(0.2))
        assert make(linear(0.2)) is not make(linear(0.3))


class Mine(NamedTuple):
    membrane: jax.Array
    spikes: jax.Array


def test_a_neuron_of_ones_own():
    """That of the module's text, which is `hard_reset_lif` without its options."""

    def init(neuron, current):
        return Mine(jnp.zeros_like(current), jnp.zeros_like(current))

    def step(neuron, state, current):
        membrane = neuron["leak"] * state.membrane * (1 - state.spikes) + current
        spikes = linear().spike(membrane / neuron["threshold"] - 1, None)
        return spikes, Mine(membrane, spikes)

    mine = Neuron(lambda: {"threshold": 1.0, "leak": 0.9}, init, step)
    theirs = hard_reset_lif(linear(), detach_spike=False)
    parameters, current = {"threshold": 0.7, "leak": 0.9, "initial": 0.0}, jnp.asarray(currents(20), jnp.float32)

    def both(neuron):
        def total(current):
            spikes = run(neuron, parameters, current)[0]
            return (spikes * currents(20, seed=1)).sum(), spikes

        return jax.grad(total, has_aux=True)(current)

    chex.assert_trees_all_equal(both(mine), both(theirs))


WITHOUT_TORCH = pytest.mark.skipif(find_spec("torch") is None, reason="parity needs PyTorch: pip install torch")


@pytest.mark.torch
@WITHOUT_TORCH
@pytest.mark.parametrize("shape", [(), (CHANNELS,)], ids=["scalars", "by channel"])
@pytest.mark.parametrize(
    ("hard_reset", "detach_spike", "detach_threshold"),
    [
        *((False, spike, threshold) for spike in (True, False) for threshold in (True, False)),
        (True, True, False),
        (True, False, False),
    ],
)
def test_gradients_of_weights_and_parameters_equal_pytorchs(float64, hard_reset, detach_spike, detach_threshold, shape):
    from tests.torch_reference import dense_lif

    make = partial(hard_reset_lif, linear(0.4)) if hard_reset else partial(lif, linear(0.4))
    neuron = make(detach_spike=detach_spike, **({} if hard_reset else {"detach_threshold": detach_threshold}))
    rng = np.random.default_rng(3)
    inputs = rng.choice([-1.0, 0, 1], (12, 5, 6), p=[0.2, 0.4, 0.4])
    leaves = {"weights": rng.normal(0.1, 0.5, (6, CHANNELS)), **parameters_of(neuron, shape)}
    of_spikes, of_end = rng.normal(size=(12, 5, CHANNELS)), rng.normal(size=(5, CHANNELS))

    def value(leaves):
        spikes, end, _ = run(neuron, leaves, jnp.asarray(inputs) @ leaves["weights"])
        return (spikes * of_spikes).sum() + (end.membrane * of_end).sum(), spikes

    gradients, spikes = jax.grad(value, has_aux=True)(jax.tree.map(jnp.asarray, leaves))
    expected_spikes, expected = dense_lif(
        inputs, leaves, 0.4, of_spikes, of_end,
        hard_reset=hard_reset, detach_spike=detach_spike, detach_threshold=detach_threshold,
    )  # fmt: skip
    np.testing.assert_array_equal(spikes, expected_spikes)
    assert 0.1 < expected_spikes.mean() < 0.6
    for name, gradient in expected.items():
        assert np.linalg.norm(gradient) > 0, name
        assert np.linalg.norm(gradients[name] - gradient) <= 1e-10 * np.linalg.norm(gradient), name


def a_bell(z):
    return jnp.exp(-(z**2))


def one_over(dt):
    return 1 / dt


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


def test_the_surrogates_numbers_unless_told():
    at_threshold, once = jnp.zeros(1), jnp.ones(1, jnp.int32)
    made = [make().derivative(at_threshold, once).item() for make in (stdb, linear, arctan, fast_sigmoid, boxcar)]
    np.testing.assert_allclose(made, [0.3 * np.exp(-0.01), 0.3, 1, 1, 1], rtol=1e-6)
    assert fast_sigmoid().derivative(at_threshold + 0.04, None).item() == pytest.approx(0.25)
    np.testing.assert_array_equal(boxcar().derivative(jnp.array([-0.51, -0.49, 0.49, 0.51]), None), [0, 1, 1, 0])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", SURROGATES)
def test_spikes_and_derivatives_keep_the_dtype(name, dtype):
    surrogate, z = SURROGATES[name][0], jnp.asarray(Z, dtype)
    spikes, backward = jax.vjp(lambda z: surrogate.spike(z, AGES), z)
    (gradient,) = backward(jnp.ones_like(z))
    assert spikes.dtype == gradient.dtype == surrogate.derivative(z, AGES).dtype == dtype


def test_the_same_function_gives_the_same_surrogate():
    assert from_derivative(a_bell) is from_derivative(a_bell)
    assert from_spike_time(one_over) is from_spike_time(one_over)
    assert forward_mode(linear()) is forward_mode(linear())


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


CURRENT = jnp.ones((4, 3))
ONE = {"threshold": 1.0, "leak": 1.0, "initial": 0.0}


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        *((partial(make, stdb()), "by spike times, as stdb, is for lif") for make in (adaptive_lif, current_lif)),
        (lambda: refractory_lif(from_spike_time(one_over)), "by spike times, as stdb, is for lif and hard_reset_lif"),
        (lambda: refractory_lif(period=0), "a refractory period takes at least 1 time step, got 0"),
        (lambda: stdb(alpha=float("inf")), "stdb needs alpha above 0 and finite, got inf"),
        (lambda: arctan(0), "arctan needs alpha above 0 and finite, got 0"),
        (lambda: fast_sigmoid(-1.0), "fast_sigmoid needs slope above 0 and finite, got -1.0"),
        (lambda: boxcar(0.0), "boxcar needs width above 0 and finite, got 0.0"),
        (lambda: boxcar(1.0, float("nan")), "boxcar needs height above 0 and finite, got nan"),
        *(
            (partial(call, lif(), ONE, lif().init(ONE, CURRENT[0]), current), sentence)
            for call in (over_time, record)
            for current, sentence in (
                (jnp.ones((4, 2)), r"a state of shape \(3,\) does not fit a current of shape \(4, 2\)"),
                (jnp.ones((4, 3), int), "an input current is a floating-point number, got int32"),
            )
        ),
        (
            lambda: record(current_lif(), ONE, current_lif().init(ONE, CURRENT[0]), jnp.ones((33, 3))),
            "a word holds 32 time steps of spikes, got 33: choose a smaller chunk",
        ),
    ],
    ids=range(14),
)
def test_bad_input_is_told_in_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        call()
    assert "\n" not in str(error.value)
