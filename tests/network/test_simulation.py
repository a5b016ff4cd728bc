"""Spiking networks run over time: in chunks, under JAX's transformations and on several devices as in one call."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jsnn
from jsnn.models import dropout_of
from jsnn.network.chunks import time_chunks
from tests.networks import TINY_VGG, random_inputs, random_snn
from tests.neurons.numpy_reference import lif_loop
from tests.plain_networks import PLAIN, dense, drawn, plain, run

STEPS = 10


@pytest.fixture(scope="module")
def small():
    """A plain function with a convolution as an SNN, its variables and inputs over time."""

    def network(params, x):
        x = jax.lax.conv_general_dilated(x, params["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return dense(params["out"], jax.nn.relu(x).reshape(len(x), -1))

    weights = drawn({"conv": jnp.zeros((3, 3, 2, 3)), "out": {"w": jnp.zeros((108, 3)), "b": jnp.zeros(3)}})
    snn = jsnn.spiking(network, jsnn.lif(jsnn.surrogate.linear()))
    inputs = jax.random.uniform(jax.random.key(5), (STEPS, 4, 6, 6, 2), minval=-1)
    return snn, jsnn.convert(snn, weights, {"conv": 0.4}, leak=0.9), inputs


def in_chunks(chunk, snn, variables, inputs):
    def at(time):
        return inputs.at[time].get(mode="fill", fill_value=7)  # a value of its own behind the last step

    return jsnn.simulate(snn, variables, at, lambda observed: observed.results, num_steps=STEPS, chunk=chunk)


def by_scan(snn, variables, inputs):
    def step(state, inputs):
        results, state = snn.apply(variables, state, inputs)
        return state, results

    chunks = inputs.reshape(5, 2, *inputs.shape[1:])
    return jax.lax.scan(step, snn.initial_state(variables, inputs[0]), chunks)[1].reshape(10, 4, 3)


def by_pmap(snn, variables, inputs):
    parts = inputs.reshape(10, 4, 1, *inputs.shape[2:])
    results = jax.pmap(partial(run, snn), in_axes=(None, 1), out_axes=1)(variables, parts)
    assert len(results.sharding.device_set) == 4
    return results.reshape(10, 4, 3)


def on_a_mesh(variables, inputs, axis_type=AxisType.Auto):
    """Variables and inputs on a mesh of four devices."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(axis_type,))
    everywhere, by_sample = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), (None, "data")))
    return jax.device_put(variables, everywhere), jax.device_put(inputs, by_sample)


def by_sharding(snn, variables, inputs):
    results = run(snn, *on_a_mesh(variables, inputs))
    assert len(results.sharding.device_set) == 4
    return results


compiled = partial(jax.jit, static_argnums=0)
WAYS = {
    "in chunks with padding behind": compiled(partial(in_chunks, 3)),
    "in chunks that divide": compiled(partial(in_chunks, 5)),
    "in a chunk that is too long": compiled(partial(in_chunks, 100)),
    "by jax.lax.scan": compiled(by_scan),
    "by jax.pmap": by_pmap,
    "by sharded arrays": by_sharding,
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_results_are_those_of_one_call(way, small):
    np.testing.assert_allclose(way(*small), run(*small), rtol=1e-5, atol=1e-6)


def test_vmap_of_a_gradient_is_the_gradient_of_each(small):
    snn, variables, inputs = small
    others = {**variables, "conv": -variables["conv"]}

    def stacked(*trees):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    @jax.grad
    def gradient(variables):
        return (run(snn, variables, inputs).mean(0) ** 2).sum()

    together, one_by_one = jax.jit(jax.vmap(gradient))(stacked(variables, others)), jax.jit(gradient)
    alone = stacked(one_by_one(variables), one_by_one(others))
    assert all(np.abs(leaf[i]).max() > 0 for leaf in jax.tree.leaves(alone) for i in (0, 1))
    chex.assert_trees_all_close(together, alone, rtol=1e-4, atol=1e-5)


def test_the_gradient_from_sharded_arrays_is_that_from_one_device(small):
    snn, *arrays = small
    presentation = jsnn.Presentation(snn, lambda images, key, index, time: images[time], 10, 4)
    forward = jsnn.snn_forward(presentation, jsnn.averaged, residuals="byte")

    @jax.jit
    @jax.grad
    def gradient(variables, inputs):
        return (forward(variables, inputs, jnp.arange(4), jax.random.key(0))[0] ** 2).sum()

    chex.assert_trees_all_close(gradient(*on_a_mesh(*arrays)), gradient(*arrays), rtol=1e-4, atol=1e-6)


def test_batches_that_are_split_over_explicit_axes_are_refused(small):
    """JAX's meshes have such axes unless they are asked for others."""
    snn, variables, inputs = small
    everywhere, by_sample = on_a_mesh(variables, inputs, AxisType.Explicit)
    sentence = r"is split over Explicit axes, .* within jax.shard_map\(.*check_vma=False\) or jax.pmap"
    for call in (lambda: snn.initial_state(everywhere, by_sample[0]), lambda: snn.apply(everywhere, {}, by_sample)):
        with pytest.raises(ValueError, match=sentence):
            call()
    np.testing.assert_allclose(run(snn, everywhere, inputs), run(*small), rtol=1e-5, atol=1e-6)


def test_results_are_a_tree_and_integers_go_in():
    def network(params, x):
        hidden = jax.nn.relu(dense(params["hidden"], x.astype(jnp.float32) / 255))
        return {"logits": dense(params["out"], hidden), "features": (hidden, x)}

    x, snn = np.random.default_rng(0).integers(0, 256, (4, 5), np.uint8), jsnn.spiking(network)
    variables = snn.init(drawn(PLAIN), x)
    results, apply = run(snn, variables, jnp.stack([x] * 3)), jsnn.spiking(plain(jax.nn.relu))
    assert jax.tree.map(jnp.shape, results) == {"logits": (3, 4, 3), "features": ((3, 4, 6), (3, 4, 5))}
    np.testing.assert_allclose(results["logits"], run(apply, variables, jnp.stack([x / 255] * 3)), rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 3, 4, 10, 32])
def test_chunks_are_few_and_of_one_length_and_padded_behind(chunk):
    times = np.asarray(time_chunks(STEPS, chunk))
    np.testing.assert_array_equal(times.ravel(), np.arange(times.size))
    assert times.shape[1] <= chunk
    assert len(times) == -(-STEPS // chunk)
    assert STEPS <= times.size < STEPS + len(times)


def test_the_spikes_of_states_have_the_gradient_of_spikes():
    """Between chunks they are kept in a byte, which carries none, only where nobody asks for states."""
    (snn, variables), inputs = random_snn(TINY_VGG, seed=1, leak=0.9), random_inputs(STEPS, batch=2)

    @partial(jax.jit, static_argnums=0)
    @partial(jax.grad, argnums=1)
    def gradient(observe, params):
        options = {"num_steps": STEPS, "chunk": 5, "collect": ("states", "spikes")}
        options |= dropout_of(jnp.arange(2), jax.random.key(5))
        return jsnn.simulate(snn, {**variables, "params": params}, inputs.__getitem__, observe, **options).sum()

    of_states, of_spikes = (
        gradient(observe, variables["params"])
        for observe in (lambda seen: seen.layers["states"]["conv0"].spikes, lambda seen: seen.layers["spikes"]["conv0"])
    )
    chex.assert_trees_all_close(of_states, of_spikes, rtol=1e-6)
    assert float(jnp.abs(of_states["conv0"]["kernel"]).max()) > 0


def test_what_is_recorded_is_what_loops_in_numpy_give(float64):
    def network(params, x):
        return jax.nn.relu(jax.nn.relu(x @ params["first"] + params["bias"]) @ params["second"])

    rng, shapes = np.random.default_rng(2), {"first": (4, 6), "bias": (6,), "second": (6, 5)}
    weights, snn = {name: rng.normal(size=shape) for name, shape in shapes.items()}, jsnn.spiking(network)
    by_channel, inputs = np.array([0.2, 0.4, 0.6, 0.8, 1.0, 1.2]), rng.normal(size=(STEPS, 3, 4))
    variables = jsnn.convert(snn, weights, {"first": by_channel, "second": 0.9}, leak=0.8)
    options = {"num_steps": STEPS, "what": ("spikes", "membranes", "currents"), "chunk": 4}
    shown = jsnn.record(snn, variables, jnp.concatenate([inputs, inputs]).__getitem__, **options)
    current = inputs @ weights["first"] + weights["bias"]
    for layer, threshold in (("first", by_channel), ("second", 0.9)):
        membranes, spikes = lif_loop(current, threshold, 0.8)
        for what, expected in {"currents": current, "membranes": membranes, "spikes": spikes}.items():
            np.testing.assert_allclose(shown[what][layer], expected, rtol=1e-12, atol=1e-12)
        assert 0 < spikes.mean() < 1
        current = threshold * spikes @ weights["second"] if layer == "first" else None
    halved = jsnn.scale_thresholds(variables, 0.5)["neurons"]["first"]["threshold"]
    np.testing.assert_array_equal(halved, by_channel / 2)
