"""Arguments of neurons and surrogates: defaults, equal ones for the same object, bad ones refused in a sentence."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from jsnn.neurons import adaptive_lif, current_lif, hard_reset_lif, lif, over_time, refractory_lif
from jsnn.neurons.neuron import record
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
from tests.neurons.random_neurons import a_bell, one_over


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


def test_the_surrogates_numbers_unless_told():
    at_threshold, once = jnp.zeros(1), jnp.ones(1, jnp.int32)
    made = [make().derivative(at_threshold, once).item() for make in (stdb, linear, arctan, fast_sigmoid, boxcar)]
    np.testing.assert_allclose(made, [0.3 * np.exp(-0.01), 0.3, 1, 1, 1], rtol=1e-6)
    assert fast_sigmoid().derivative(at_threshold + 0.04, None).item() == pytest.approx(0.25)
    np.testing.assert_array_equal(boxcar().derivative(jnp.array([-0.51, -0.49, 0.49, 0.51]), None), [0, 1, 1, 0])


def test_the_same_function_gives_the_same_surrogate():
    assert from_derivative(a_bell) is from_derivative(a_bell)
    assert from_spike_time(one_over) is from_spike_time(one_over)
    assert forward_mode(linear()) is forward_mode(linear())


CURRENT = jnp.ones((4, 3))
ONE = {"threshold": 1.0, "leak": 1.0, "initial": 0.0}


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        *((partial(make, stdb()), "by spike times, as stdb, is for lif") for make in (adaptive_lif, current_lif)),
        (lambda: refractory_lif(from_spike_time(one_over)), "by spike times, as stdb, is for lif and hard_reset_lif"),
        (lambda: refractory_lif(period=0), "a refractory period takes at least 1 time step, got 0"),
        *((partial(refractory_lif, period=p), "at least 1 time step") for p in (1.5, float("nan"), float("inf"))),
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
    ids=range(17),
)
def test_bad_input_is_told_in_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        call()
    assert "\n" not in str(error.value)
