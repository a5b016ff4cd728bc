import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jsnn.encoding import constant, poisson
from jsnn.randomness import dropout_mask

KEY = jax.random.key(3)


def test_poisson_rate_and_sign_are_the_pixels():
    images = jnp.linspace(-1, 1, 9)[None]
    spikes = poisson(images, KEY, jnp.array([0]), jnp.arange(4000))
    assert set(np.unique(spikes)) == {-1, 0, 1}
    np.testing.assert_allclose(spikes.mean(0), images, atol=0.03)
    np.testing.assert_array_equal(spikes[:, 0, [0, -1]], np.tile([-1.0, 1.0], (4000, 1)))


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(1, 9), order=st.permutations(range(4)))
def test_a_draw_depends_on_key_sample_and_time_alone(cut, order):
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (4, 3, 5)), jnp.float32)
    index, time = jnp.array([7, 0, 12, 3]), jnp.arange(10)
    whole = poisson(images, KEY, index, time)
    chunked = [poisson(images, KEY, index, part) for part in (time[:cut], time[cut:])]
    np.testing.assert_array_equal(np.concatenate(chunked), whole)
    order = jnp.array(order)
    np.testing.assert_array_equal(poisson(images[order], KEY, index[order], time), whole[:, order])
    np.testing.assert_array_equal(poisson(images[1:2], KEY, index[1:2], time), whole[:, 1:2])


def test_samples_steps_and_keys_differ():
    images = jnp.full((2, 200), 0.5)
    index, time = jnp.array([0, 1]), jnp.arange(2)
    spikes = poisson(images, KEY, index, time)
    assert (spikes[0, 0] != spikes[0, 1]).any()
    assert (spikes[0, 0] != spikes[1, 0]).any()
    assert (spikes != poisson(images, jax.random.key(4), index, time)).any()


def test_constant_repeats_the_image():
    images = jnp.arange(6.0).reshape(2, 3)
    inputs = constant(images, KEY, jnp.arange(2), jnp.arange(5))
    np.testing.assert_array_equal(inputs, np.tile(images, (5, 1, 1)))


def test_dropout_masks_belong_to_the_sample():
    index = jnp.array([5, 9, 5])
    mask = dropout_mask(KEY, index, (40, 50), 0.25, jnp.float32)
    np.testing.assert_array_equal(mask[0], mask[2])
    assert (mask[0] != mask[1]).any()
    np.testing.assert_allclose(np.unique(mask), [0, 1 / 0.75], rtol=1e-6)
    np.testing.assert_allclose(mask.mean(), 1, atol=0.03)
