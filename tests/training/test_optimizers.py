import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jsnn.training.optimizers import learning_rate, optimizer


def test_tenths_divide_at_60_80_and_90_percent():
    rate = learning_rate("tenths", 1.0, epochs=10, steps_per_epoch=7)
    by_epoch = [float(rate(epoch * 7)) for epoch in range(10)]
    np.testing.assert_allclose(by_epoch, [1] * 6 + [0.1] * 2 + [0.01, 0.001], rtol=1e-5)
    np.testing.assert_allclose([rate(41), rate(42)], [1, 0.1], rtol=1e-5)


def test_tenths_of_a_short_run_fall_within_its_epochs():
    rate = learning_rate("tenths", 1.0, epochs=2, steps_per_epoch=10)
    rates = [rate(step) for step in (11, 12, 15, 16, 18)]
    np.testing.assert_allclose(rates, [1, 0.1, 0.1, 0.01, 0.001], rtol=1e-5)


def test_halvings_come_every_five_epochs():
    rate = learning_rate("halvings", 1.0, epochs=12, steps_per_epoch=2)
    np.testing.assert_allclose([float(rate(2 * e)) for e in (0, 4, 5, 9, 10, 11)], [1, 1, 0.5, 0.5, 0.25, 0.25])


def test_cosine_falls_to_nothing_in_half_a_wave():
    rate = learning_rate("cosine", 2.0, epochs=4, steps_per_epoch=5)
    np.testing.assert_allclose([rate(step) for step in range(21)], 1 + np.cos(np.pi * np.arange(21) / 20), atol=1e-6)


def test_constant_is_constant():
    rate = learning_rate("constant", 0.5, epochs=12, steps_per_epoch=2)
    assert rate(0) == rate(23) == 0.5


def test_warmup_rises_to_the_schedule():
    rate = learning_rate("tenths", 1.0, epochs=10, steps_per_epoch=4, warmup=2.0)
    np.testing.assert_allclose([rate(step) for step in (0, 3, 7, 8, 23, 24)], [1 / 8, 0.5, 1, 1, 1, 0.1], rtol=1e-6)


def test_clipping_scales_the_whole_gradient_down_before_anything_else():
    rule = optimizer("sgd", optax.constant_schedule(1.0), 0.5, clip=1.0)
    weights = {"a": jnp.array(2.0), "b": jnp.array(0.0)}
    change, _ = rule.update({"a": jnp.array(6.0), "b": jnp.array(8.0)}, rule.init(weights), weights)
    np.testing.assert_allclose([change["a"], change["b"]], [-(0.6 + 0.5 * 2), -0.8], rtol=1e-6)
    small, _ = rule.update({"a": jnp.array(0.3), "b": jnp.array(0.4)}, rule.init(weights), weights)
    np.testing.assert_allclose([small["a"], small["b"]], [-(0.3 + 0.5 * 2), -0.4], rtol=1e-6)


def updates(name, gradients, weight=2.0, decay=0.1, rate=0.5):
    """Weights after each of several steps on one scalar weight."""
    rule = optimizer(name, optax.constant_schedule(rate), decay)
    weight = jnp.array(weight)
    state, weights = rule.init(weight), []
    for gradient in gradients:
        change, state = rule.update(jnp.array(gradient), state, weight)
        weight = optax.apply_updates(weight, change)
        weights.append(float(weight))
    return weights


def test_sgd_adds_the_decay_to_the_gradient_before_the_momentum():
    weight, momentum, expected = 2.0, 0.0, []
    for gradient in (1.0, -0.5, 0.25):
        momentum = 0.9 * momentum + (gradient + 0.1 * weight)
        weight -= 0.5 * momentum
        expected.append(weight)
    np.testing.assert_allclose(updates("sgd", (1.0, -0.5, 0.25)), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["adam", "amsgrad"])
def test_adam_adds_the_decay_to_the_gradient_before_the_moments(name):
    weight, first, second, largest, expected = 2.0, 0.0, 0.0, 0.0, []
    for step, gradient in enumerate((3.0, -0.5, 0.25), start=1):
        gradient += 0.1 * weight
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        corrected = second / (1 - 0.999**step)
        largest = max(largest, corrected)
        scale = largest if name == "amsgrad" else corrected
        weight -= 0.5 * first / (1 - 0.9**step) / (np.sqrt(scale) + 1e-8)
        expected.append(weight)
    np.testing.assert_allclose(updates(name, (3.0, -0.5, 0.25)), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: learning_rate("sine", 1.0, 10, 5), "sine"),
        (lambda: learning_rate("tenths", 0.0, 10, 5), "above 0"),
        (lambda: learning_rate("tenths", 1.0, 0, 5), "at least one"),
        (lambda: optimizer("lion", optax.constant_schedule(1.0), 0.0), "lion"),
        (lambda: optimizer("sgd", optax.constant_schedule(1.0), -1.0), "weight_decay"),
    ],
)
def test_bad_arguments_are_refused(make, word):
    with pytest.raises(ValueError, match=word):
        make()
