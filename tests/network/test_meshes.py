"""Arrays that are split over a mesh of devices go through a network as those of one device, or are refused."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jsnn
from tests.plain_networks import run


@pytest.fixture
def split(small):
    """The SNN, and its variables and inputs on a mesh of four devices with axes of a type."""

    def on_mesh(axis_type):
        snn, variables, inputs = small
        mesh = jax.make_mesh((4,), ("data",), axis_types=(axis_type,))
        everywhere, by_sample = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), (None, "data")))
        return snn, jax.device_put(variables, everywhere), jax.device_put(inputs, by_sample)

    return on_mesh


def test_composes_with_arrays_split_over_a_mesh(small, split):
    def loss(variables, inputs):
        presentation = jsnn.Presentation(small[0], lambda images, key, index, time: images[time], 10, 4)
        forward = jsnn.snn_forward(presentation, jsnn.averaged, residuals="byte")
        return (forward(variables, inputs, jnp.arange(4), jax.random.key(0))[0] ** 2).sum()

    snn, *arrays = split(AxisType.Auto)
    actual = run(snn, *arrays)
    assert len(actual.sharding.device_set) == 4
    np.testing.assert_allclose(actual, run(*small), rtol=1e-5, atol=1e-6)
    gradients = [jax.jit(jax.grad(loss))(*leaves) for leaves in (arrays, small[1:])]
    chex.assert_trees_all_close(*gradients, rtol=1e-4, atol=1e-6)


def test_batches_split_over_explicit_axes_are_refused(split):
    """Which JAX's meshes have as a rule."""
    snn, variables, inputs = split(AxisType.Explicit)
    for call in (lambda: snn.initial_state(variables, inputs[0]), lambda: snn.apply(variables, {}, inputs)):
        with pytest.raises(
            ValueError, match=r"is split over Explicit axes, .* within jax.shard_map\(.*check_vma=False\) or jax.pmap"
        ):
            call()
    expected = run(snn, variables, jax.device_get(inputs))  # variables that lie everywhere are taken
    np.testing.assert_allclose(expected, run(*split(AxisType.Auto)), rtol=1e-5, atol=1e-6)
