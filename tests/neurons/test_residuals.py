"""Neurons whose gradient comes from bits or a byte a step, against the plain neuron under autodiff."""

from collections import OrderedDict
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsnn.encoding import constant
from jsnn.network import Presentation, spiking
from jsnn.neurons import codes, hard_reset_lif, lif, over_time, refractory_lif
from jsnn.neurons.residuals import Kept, Train, record, replay
from jsnn.neurons.surrogate import arctan, boxcar, fast_sigmoid, forward_mode, from_derivative, linear, stdb
from jsnn.training.forward import residuals_of

WIDTHS = [0.25, 1.0, 2.0]
PARAMETERS = {"threshold": 0.7, "leak": 0.9, "initial": 0.3}
BITS = {"stdb": stdb(0.3, 0.05), "boxcar": boxcar(0.8, 1.5)}
BYTES = {"linear": linear(1.0), "arctan": arctan(), "fast_sigmoid": fast_sigmoid(), "boxcar": boxcar(1.0)}
RESETS = {"soft": lif, "hard": hard_reset_lif}


@partial(jax.jit, static_argnums=1)
def through_a_code(z, width):
    code = codes.encode(z, width)
    return codes.decode(code, width, jnp.float32), codes.fires(code)


@given(st.floats(-300, 300, width=32, allow_subnormal=False), st.sampled_from(WIDTHS))
def test_a_code_tells_the_spike_and_the_distance_to_its_step(z, width):
    actual, fires = through_a_code(np.float32(z), width)
    assert (actual > 0) == (z > 0) == bool(fires)
    if abs(z) < 255 * width:
        assert abs(float(actual) - z) <= max(width / 192, abs(z) / 8) * (1 + 1e-5)


def test_codes_are_those_counted_by_hand():
    """96 even steps below the width, then 4 an octave: 1 and 1.25 widths are 96 and 97, an octave on 100."""
    z = jnp.array([0.0, 0.0104, 0.0105, 0.999, 1.0, 1.24, 1.25, 2.0, 1e9, -0.5, -2.0])
    expected = [0, 128, 129, 128 + 95, 128 + 96, 128 + 96, 128 + 97, 128 + 100, 255, 48, 100]
    np.testing.assert_array_equal(codes.encode(z, 1.0), np.array(expected, np.uint8))


@pytest.mark.parametrize(
    ("name", "most"), [("linear", 0.0053), ("arctan", 0.018), ("fast_sigmoid", 0.032), ("boxcar", 0.0)]
)
def test_a_byte_tells_the_derivative_to_a_share_of_its_peak(name, most):
    """As `residuals_of` says."""
    surrogate = BYTES[name]
    z, (width, even) = jnp.linspace(-3, 3, 20_001), codes.fitting_code(surrogate.derivative)
    exact = surrogate.derivative(z, None)
    actual = surrogate.derivative(codes.decode(codes.encode(z, width, even), width, z.dtype, even), None)
    assert jnp.abs(actual - exact).max() <= most * exact.max()


def driven(num_steps, seed=0, shape=(2, 300)):
    """Currents [K, ...]."""
    return jnp.asarray(np.random.default_rng(seed).normal(0.4, 0.8, (num_steps, *shape)), jnp.float32)


@partial(jax.jit, static_argnums=(0, 1, 3, 4, 5))
def gradients(neuron, residuals, parameters, num_steps=13, cut=8, dtype="float32"):
    """Of parameters and currents, by the plain neuron over all steps and by replays of two chunks."""
    current, weights = (driven(num_steps, seed).astype(dtype) for seed in (0, 1))
    of_end = jnp.linspace(-1, 1, current[0].size).reshape(current.shape[1:])

    def plain(parameters, current):
        spikes, end, _ = over_time(neuron, parameters, neuron.init(parameters, current[0]), current)
        return (spikes * weights).sum() + (end.membrane * of_end).sum()

    def replayed(parameters, current):
        stand_in = membrane = neuron.init(parameters, current[0]).membrane
        start, age, parts = (membrane, jnp.zeros_like(current[0])), jnp.zeros_like(membrane, jnp.int32), []
        for part in (current[:cut], current[cut:]):
            kept, *end = record(residuals, *jax.lax.stop_gradient((parameters, *start, part)))
            train = Train(kept, start[1], start[0], age)
            spikes, stand_in = replay(residuals, parameters, part, stand_in, jax.lax.stop_gradient(train))
            parts.append(spikes)
            later = jnp.where(age > 0, age + len(part), 0)
            start, age = end, jnp.where(spikes.any(0), 1 + spikes[::-1].argmax(0), later)
        return (jnp.concatenate(parts) * weights).sum() + (stand_in * of_end).sum()

    return [jax.grad(function, (0, 1))(parameters, current) for function in (plain, replayed)]


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("surrogate", BITS)
def test_bits_give_the_gradient_of_currents_exactly(surrogate, reset):
    neuron = RESETS[reset](BITS[surrogate])
    (_, expected), (_, actual) = gradients(neuron, neuron.lossless, PARAMETERS)
    chex.assert_trees_all_close(actual, expected, rtol=1e-6, atol=1e-7)
    assert np.abs(expected).max() > 0


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("surrogate", BYTES)
def test_a_byte_gives_the_gradients_of_currents_and_parameters_to_its_rounding(surrogate, reset):
    neuron = RESETS[reset](BYTES[surrogate])
    (of_parameters, of_current), actual = gradients(neuron, neuron.in_bytes(), PARAMETERS)
    assert np.linalg.norm(actual[1] - of_current) <= 0.025 * np.linalg.norm(of_current)
    for name, expected in of_parameters.items():
        assert abs(actual[0][name] - expected) <= 0.05 * abs(expected), name


@pytest.mark.parametrize(
    ("surrogate", "most"), [(fast_sigmoid(200), 0.02), (arctan(300), 0.05)], ids=["fast_sigmoid", "arctan"]
)
def test_a_code_follows_a_steep_surrogate(surrogate, most):
    neuron = lif(surrogate)
    (_, expected), (_, actual) = gradients(neuron, neuron.in_bytes(), PARAMETERS)
    assert np.linalg.norm(actual - expected) <= most * np.linalg.norm(expected)


def test_a_membrane_far_from_the_threshold_is_taken_for_none_that_is_nearer():
    """A slowly falling derivative of many far membranes would else outweigh that of few near ones."""
    z, (width, even) = jnp.array([-200.0, -50.0, 50.0, 200.0]), codes.fitting_code(fast_sigmoid().derivative)
    actual = codes.decode(codes.encode(z, width, even), width, z.dtype, even)
    np.testing.assert_allclose(actual, z, rtol=1 / 8)


@pytest.mark.parametrize(("surrogate", "most"), [(linear(1.0), 0.02), (fast_sigmoid(), 0.05)], ids=["linear", "other"])
def test_parameters_by_neuron_get_their_gradients_to_the_rounding_of_all(surrogate, most):
    """Each is a sum of few terms of both signs, which may cancel; a wrong one would be off by as much as they are."""
    rng, ranges = np.random.default_rng(3), {"threshold": (0.3, 1), "leak": (0.5, 1), "initial": (-1, 1)}
    apart = {name: jnp.asarray(rng.uniform(*ends, 300), jnp.float32) for name, ends in ranges.items()}
    (expected, _), (actual, _) = gradients(lif(surrogate), lif(surrogate).in_bytes(), apart, 19, 7)
    for name in apart:
        assert np.linalg.norm(actual[name] - expected[name]) <= most * np.linalg.norm(expected[name]), name


def test_a_surrogate_that_a_byte_does_not_tell_has_none():
    narrow = from_derivative(lambda z: jnp.exp(-(((z - 0.3) / 0.001) ** 2)))
    endless = from_derivative(lambda z: 1 / jnp.abs(z))
    for surrogate in (narrow, endless, fast_sigmoid(1e3), fast_sigmoid(1e30), arctan(1e3)):
        assert lif(surrogate).in_bytes() is None
    presentation = Presentation(spiking(lambda _, x: jnp.maximum(x, 0), lif(narrow)), constant, 8, 4)
    assert residuals_of(presentation, ("params",), "auto") is None
    with pytest.raises(ValueError, match=r"is neither too steep nor too flat for it, .* choose residuals='exact'"):
        residuals_of(presentation, ("params",), "byte")


@pytest.mark.parametrize("others", [{}, {"threshold": 0.5, "initial": 0.0}], ids=str)
def test_a_membrane_may_be_wider_than_its_current(others):
    """As of a network in bfloat16, whose neurons have float32 parameters; any Mapping of them serves."""
    parameters = OrderedDict({name: jnp.float32(value) for name, value in {**PARAMETERS, **others}.items()})
    for neuron, residuals in ((one := lif(linear(1.0)), one.in_bytes()), (two := lif(stdb()), two.lossless)):
        (_, expected), (_, actual) = gradients(neuron, residuals, parameters, dtype="bfloat16")
        assert actual.dtype == expected.dtype == jnp.bfloat16
        assert expected.any()
        assert jnp.linalg.norm((actual - expected).astype(float)) <= 0.02 * jnp.linalg.norm(expected.astype(float))


def test_a_replay_looks_at_nothing_but_what_is_kept():
    """What would compute currents and membranes may be left out of a program."""
    neuron, current = lif(linear(1.0)), driven(6)
    start = jnp.zeros_like(current[0])
    for residuals in (neuron.in_bytes(), lif(stdb()).lossless):
        kept, *_ = record(residuals, PARAMETERS, start, start, current)
        nothing = jnp.full_like(current, jnp.nan)
        spikes, _ = replay(residuals, PARAMETERS, nothing, nothing[0], Train(kept, start, start, start.astype(int)))
        expected = over_time(neuron, PARAMETERS, neuron.init(PARAMETERS | {"initial": 0.0}, start), current)[0]
        np.testing.assert_array_equal(spikes, expected)


def test_what_is_kept_is_a_bit_two_or_a_byte():
    current = driven(8, shape=(5,))
    bit, byte = jax.ShapeDtypeStruct((5,), jnp.uint8), jax.ShapeDtypeStruct((8, 5), jnp.uint8)
    for residuals, expected in (
        (lif(stdb()).lossless, Kept(bit)),
        (lif(boxcar()).lossless, Kept(bit, bit)),
        (lif(boxcar()).in_bytes(), Kept(codes=byte)),
        (lif(arctan()).in_bytes(), Kept(codes=byte)),
    ):
        kept, *_ = record(residuals, PARAMETERS, current[0], jnp.zeros_like(current[0]), current)
        chex.assert_trees_all_equal_shapes_and_dtypes(kept, expected)


def test_residuals_replace_membranes_only_where_they_tell_the_gradient():
    mine = from_derivative(lambda z: jnp.maximum(0, 1 - jnp.abs(z)))
    assert lif(mine).lossless is None
    assert lif(mine).in_bytes().code == codes.fitting_code(mine.derivative)
    assert lif(stdb()).in_bytes is None
    for other in (lif(stdb(), detach_spike=False), lif(forward_mode(boxcar())), refractory_lif()):
        assert other.lossless is other.in_bytes is None
