"""Rules for neurons' parameters: in the logarithm, within ranges, and nothing else touched."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jsnn.training.within_bounds import BOUNDS, in_log, weights_and_neurons, within

STARTS = {"threshold": 0.4, "leak": 0.99, "initial": 0.5}


def taken(rule, params, gradients):
    """Parameters after a step along each gradient."""
    state = rule.init(params)
    for gradient in gradients:
        updates, state = rule.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_a_step_in_the_logarithm_is_one_of_the_logarithm():
    loss = lambda v: (jnp.log(v) - 1) ** 2 * jnp.sqrt(v)  # noqa: E731
    v, log = jnp.array(0.3), jnp.log(jnp.array(0.3))
    plain = optax.adam(0.2)
    logged, state, plain_state = in_log(plain), in_log(plain).init(v), plain.init(log)
    for _ in range(5):
        updates, state = logged.update(jax.grad(loss)(v), state, v)
        v = optax.apply_updates(v, updates)
        updates, plain_state = plain.update(jax.grad(lambda log: loss(jnp.exp(log)))(log), plain_state, log)
        log = optax.apply_updates(log, updates)
        np.testing.assert_allclose(jnp.log(v), log, rtol=1e-5)


@settings(max_examples=30, derandomize=False)
@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=6), st.sampled_from([0.1, 1.0, 5.0]))
def test_parameters_stay_in_their_ranges(gradients, rate):
    names = tuple(STARTS)
    rule = weights_and_neurons(optax.sgd(rate), optax.adam(rate), names)
    params = {"neurons": {"a": {name: jnp.array(value) for name, value in STARTS.items()}}}
    actual = taken(rule, params, [jax.tree.map(lambda _, g=g: jnp.array(g, jnp.float32), params) for g in gradients])
    values = {name: float(value) for name, value in actual["neurons"]["a"].items()}
    assert 0 < values["threshold"] < np.inf
    for name, (low, high) in BOUNDS.items():
        assert low - 1e-6 <= values[name] <= high + 1e-6


def test_within_goes_up_to_the_border_and_back():
    rule = within(optax.sgd(1.0), 0.0, 1.0)
    assert float(taken(rule, jnp.array(0.9), [jnp.array(-0.5)])) == 1
    np.testing.assert_allclose(taken(rule, jnp.array(0.9), [jnp.array(-0.5), jnp.array(0.25)]), 0.75)


@pytest.mark.parametrize("trained", [("weights",), ("threshold",), ("weights", "leak"), ("weights", *STARTS)])
def test_only_what_is_named_is_trained_and_neurons_do_not_decay(trained):
    decaying = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1))
    rule = weights_and_neurons(decaying, optax.sgd(0.1), trained)
    neurons = {"a": {name: jnp.array(value) for name, value in STARTS.items()}}
    params = {"params": {"a": {"kernel": jnp.ones(2)}}, "neurons": neurons}
    after = taken(rule, params, [jax.tree.map(jnp.zeros_like, params)])
    np.testing.assert_allclose(after["params"]["a"]["kernel"], 0.95 if "weights" in trained else 1)
    assert {name: float(value) for name, value in after["neurons"]["a"].items()} == pytest.approx(STARTS)
    moved = taken(rule, params, [jax.tree.map(jnp.ones_like, params)])
    for name, value in STARTS.items():
        assert (float(moved["neurons"]["a"][name]) == pytest.approx(value)) != (name in trained)


@pytest.mark.parametrize("trained", [("weights", "treshold"), ("weights", "leak")])
def test_a_name_that_nothing_has_is_refused(trained):
    params = {"params": {"a": jnp.ones(2)}, "neurons": {"a": {"threshold": jnp.ones(())}}}
    with pytest.raises(ValueError, match=f"nothing to train is named '{trained[1]}'"):
        weights_and_neurons(optax.sgd(0.1), optax.sgd(0.1), trained).init(params)


def test_no_step_however_large_takes_a_threshold_to_zero():
    fallen = taken(in_log(optax.sgd(1.0)), jnp.array(0.4), [jnp.array(1e4)])
    np.testing.assert_allclose(fallen, 0.4 * np.exp(-5), rtol=1e-4)
