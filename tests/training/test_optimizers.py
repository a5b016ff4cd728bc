"""Learning rates by hand, optimisers against their formulas."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jsnn.training.optimizers import learning_rate, optimizer


@pytest.mark.parametrize(
    ("name", "rate", "epochs", "steps_per_epoch", "warmup", "expected"),
    [
        ("tenths", 1.0, 10, 7, 0, {0: 1, 35: 1, 41: 1, 42: 0.1, 55: 0.1, 56: 0.01, 62: 0.01, 63: 0.001}),
        ("tenths", 1.0, 2, 10, 0, {11: 1, 12: 0.1, 15: 0.1, 16: 0.01, 18: 0.001}),  # within the epochs of a short run
        ("halvings", 1.0, 12, 2, 0, {0: 1, 8: 1, 10: 0.5, 18: 0.5, 20: 0.25, 22: 0.25}),
        ("cosine", 2.0, 4, 5, 0, {step: 1 + np.cos(np.pi * step / 20) for step in range(21)}),
        ("constant", 0.5, 12, 2, 0, {0: 0.5, 23: 0.5}),
        ("tenths", 1.0, 10, 4, 2.0, {0: 1 / 8, 3: 0.5, 7: 1, 8: 1, 23: 1, 24: 0.1}),
    ],
)
def test_the_rate_falls_as_its_schedule_says_after_a_warmup(name, rate, epochs, steps_per_epoch, warmup, expected):
    actual = learning_rate(name, rate, epochs, steps_per_epoch, warmup)
    rtol, atol = (1e-6 if name == "tenths" else 1e-7, 1e-6 if name == "cosine" else 0)
    np.testing.assert_allclose([actual(step) for step in expected], [*expected.values()], rtol=rtol, atol=atol)


@pytest.mark.parametrize(("gradient", "clipped"), [((6.0, 8.0), (0.6, 0.8)), ((0.3, 0.4), (0.3, 0.4))])
def test_clipping_scales_the_whole_gradient_down_before_anything_else(gradient, clipped):
    rule = optimizer("sgd", optax.constant_schedule(1.0), 0.5, clip=1.0)
    weights, gradients = ({"a": jnp.array(a), "b": jnp.array(b)} for a, b in ((2.0, 0.0), gradient))
    change, _ = rule.update(gradients, rule.init(weights), weights)
    np.testing.assert_allclose([change["a"], change["b"]], [-(clipped[0] + 0.5 * 2), -clipped[1]], rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adam", "amsgrad"])
def test_the_decay_is_added_to_the_gradient_before_the_moments(name):
    rule, actual = optimizer(name, optax.constant_schedule(0.5), 0.1), jnp.array(2.0)
    state, weight, first, second, largest = rule.init(actual), 2.0, 0.0, 0.0, 0.0
    for step, gradient in enumerate((3.0, -0.5, 0.25), start=1):
        change, state = rule.update(jnp.array(gradient), state, actual)
        actual = optax.apply_updates(actual, change)
        gradient += 0.1 * weight
        if name == "sgd":
            first = 0.9 * first + gradient
            weight -= 0.5 * first
        else:
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            corrected = second / (1 - 0.999**step)
            largest = max(largest, corrected)
            scale = largest if name == "amsgrad" else corrected
            weight -= 0.5 * first / (1 - 0.9**step) / (np.sqrt(scale) + 1e-8)
        np.testing.assert_allclose(actual, weight, rtol=1e-6 if name == "sgd" else 1e-5)
