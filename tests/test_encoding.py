"""Encodings against their definition: rates, signs, steps, gradients, and that draws belong to their sample."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsnn
from jsnn.encoding import constant, events, poisson, poisson_straight_through
from jsnn.randomness import dropout_mask

KEY = jax.random.key(3)
present = jax.jit(poisson)


@pytest.mark.parametrize("seed", range(2))
def test_poisson_rate_and_sign_are_the_pixels(seed):
    """Of any key, sample and pixel: within six deviations of as many draws."""
    rng, num_steps = np.random.default_rng(seed), 512
    images = rng.uniform(-1, 1, (200, 9)).astype(np.float32)
    images[:, :5] = -1, 0, 1, 1e-6, -1e-6
    index = rng.integers(0, 2**31 - 1, 200, np.int32)
    spikes = np.asarray(present(images, jax.random.key(seed), index, np.arange(num_steps)))
    assert set(np.unique(spikes)) == {-1, 0, 1}
    assert (spikes * np.sign(images) >= 0).all()
    np.testing.assert_array_equal(spikes[..., :3], np.broadcast_to(images[:, :3], spikes[..., :3].shape))
    deviation = np.sqrt(np.abs(images) * (1 - np.abs(images)) / num_steps)
    assert (np.abs(spikes.mean(0) - images) <= 6 * deviation + 1 / num_steps).all()


@pytest.mark.parametrize(("cut", "order"), [(1, [0, 1, 2, 3]), (4, [2, 0, 3, 1]), (9, [3, 2, 1, 0])])
def test_a_draw_depends_on_key_sample_and_time_alone(cut, order):
    images = np.random.default_rng(0).uniform(-1, 1, (4, 3, 5)).astype(np.float32)
    index, time = np.array([7, 0, 12, 3], np.int32), np.arange(10, dtype=np.int32)
    at_once = np.asarray(present(images, KEY, index, time))
    chunked = [present(images, KEY, index, part) for part in (time[:cut], time[cut:])]
    np.testing.assert_array_equal(np.concatenate(chunked), at_once)
    np.testing.assert_array_equal(present(images[order], KEY, index[order], time), at_once[:, order])
    np.testing.assert_array_equal(present(images[1:2], KEY, index[1:2], time), at_once[:, 1:2])


def test_samples_steps_and_keys_differ():
    images, index, time = jnp.full((2, 200), 0.5), jnp.arange(2), jnp.arange(2)
    draws = [draw for key in (KEY, jax.random.key(4)) for draw in present(images, key, index, time).reshape(4, 200)]
    assert len(np.unique(draws, axis=0)) == 8


def test_constant_repeats_the_image_as_often_as_there_are_steps():
    images = jnp.arange(6.0).reshape(2, 3)
    inputs = constant(images, KEY, jnp.arange(2), jnp.arange(5))
    np.testing.assert_array_equal(inputs, np.tile(images, (5, 1, 1)))
    np.testing.assert_array_equal(list(inputs), inputs)


def test_what_is_the_same_at_every_step_is_computed_once():
    def apply(variables, x):
        first = x @ variables["first"]
        return jax.nn.relu(first) @ variables["second"] + first[:, :3]

    weights = {name: jax.random.normal(KEY, (4, width)) for name, width in (("first", 4), ("second", 3))}
    images, snn = jax.random.normal(KEY, (2, 4)), jsnn.spiking(apply)
    variables = snn.init(weights, images)
    state, held = snn.initial_state(variables, images), constant(images, KEY, jnp.arange(2), jnp.arange(5))
    run = jax.jit(snn.apply)
    results, later = run(variables, state, held)
    chex.assert_trees_all_close((results, later), run(variables, state, jnp.asarray(np.asarray(held))), rtol=1e-6)
    assert results.shape == (5, 2, 3)
    text = run.lower(variables, state, held).as_text()
    assert "tensor<2x4xf32>, tensor<4x4xf32>" in text  # one step of the first product
    assert "tensor<10x4xf32>, tensor<4x4xf32>" not in text


def test_poisson_has_no_gradient_but_the_straight_through_one_has_that_of_the_mean():
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 50)), jnp.float32)
    index, time = jnp.arange(2), jnp.arange(7)
    weights = np.random.default_rng(1).normal(size=(7, 2, 50)).astype(np.float32)

    def gradient(encode):
        return jax.jit(jax.grad(lambda images: (encode(images, KEY, index, time) * weights).sum()))(images)

    np.testing.assert_array_equal(poisson_straight_through(images, KEY, index, time), poisson(images, KEY, index, time))
    np.testing.assert_array_equal(gradient(poisson), 0)
    np.testing.assert_allclose(gradient(poisson_straight_through), weights.sum(0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("encode", [poisson, poisson_straight_through])
@pytest.mark.parametrize(("value", "shown"), [(1.5, "1.5"), (-2, "2.0"), (np.inf, "inf"), (np.nan, "nan")])
def test_pixels_out_of_range_are_refused(encode, value, shown):
    images = np.zeros((2, 3), np.float32)
    images[1, 2] = value
    with pytest.raises(ValueError, match=rf"takes pixels in \[-1, 1\], got up to {shown}: scale them first"):
        encode(images, KEY, np.arange(2), np.arange(4))


def test_events_arrive_at_their_steps():
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 3)), jnp.float32)
    inputs = events(images, KEY, jnp.arange(2), jnp.array([3, 0, 4, 5, 90]))
    steps, nothing = images.swapaxes(0, 1), 0 * images[:, 0]
    np.testing.assert_array_equal(inputs, [steps[3], steps[0], steps[4], nothing, nothing])
    assert inputs.dtype == images.dtype


def test_dropout_masks_belong_to_the_sample():
    index = jnp.array([5, 9, 5])
    mask = np.asarray(jax.jit(lambda index: dropout_mask(KEY, index, (40, 50), 0.25, jnp.float32))(index))
    np.testing.assert_array_equal(mask[0], mask[2])
    assert (mask[0] != mask[1]).any()
    np.testing.assert_allclose(np.unique(mask), [0, 1 / 0.75], rtol=1e-6)
    np.testing.assert_allclose(mask.mean(), 1, atol=0.03)
