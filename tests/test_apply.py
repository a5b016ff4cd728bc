"""Spiking networks are applied in chunks and under JAX's transformations, to inputs that fit; others are refused."""

from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jsnn
from tests.plain_networks import IMAGES, PLAIN, ROWS, dense, drawn, plain


@pytest.fixture(scope="module")
def small():
    """A plain function with convolution, its SNN, variables and inputs over time."""

    def network(params, x):
        x = jax.lax.conv_general_dilated(x, params["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return dense(params["out"], jax.nn.relu(x).reshape(len(x), -1))

    shapes = {
        "conv": jax.ShapeDtypeStruct((3, 3, 2, 3), jnp.float32),
        "out": {"w": jax.ShapeDtypeStruct((108, 3), jnp.float32), "b": jax.ShapeDtypeStruct((3,), jnp.float32)},
    }
    snn = jsnn.spiking(network, jsnn.lif(jsnn.surrogate.linear()))
    variables = jsnn.convert(snn, drawn(shapes), {"conv": 0.4}, leak=0.9)
    inputs = jax.random.uniform(jax.random.key(5), (10, 4, 6, 6, 2), minval=-1)
    return snn, variables, inputs


@partial(jax.jit, static_argnums=0)
def run(snn, variables, inputs):
    return snn.apply(variables, snn.initial_state(variables, inputs[0]), inputs)[0]


def test_chunks_give_what_the_whole_gives(small):
    snn, variables, inputs = small
    at_once = run(snn, variables, inputs)

    @partial(jax.jit, static_argnums=0)
    def in_chunks(chunk, variables, inputs):
        def at(time):
            return inputs.at[time].get(mode="fill", fill_value=7)

        return jsnn.simulate(snn, variables, at, lambda observed: observed.results, num_steps=10, chunk=chunk)

    for chunk in (3, 5, 100):
        np.testing.assert_allclose(in_chunks(chunk, variables, inputs), at_once, rtol=1e-5, atol=1e-6)


def test_composes_with_jit_and_scan(small):
    snn, variables, inputs = small

    @jax.jit
    def scanned(variables, inputs):
        def step(state, inputs):
            results, state = snn.apply(variables, state, inputs)
            return state, results

        chunks = inputs.reshape(5, 2, *inputs.shape[1:])
        return jax.lax.scan(step, snn.initial_state(variables, inputs[0]), chunks)[1].reshape(10, 4, 3)

    np.testing.assert_allclose(scanned(variables, inputs), run(snn, variables, inputs), rtol=1e-5, atol=1e-6)


def test_composes_with_vmap_and_grad(small):
    snn, variables, inputs = small
    others = {**variables, "conv": -variables["conv"]}
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), variables, others)

    @jax.grad
    def gradient(variables):
        return (run(snn, variables, inputs).mean(0) ** 2).sum()

    together = jax.jit(jax.vmap(gradient))(both)
    for position, one in enumerate((variables, others)):
        alone = jax.jit(gradient)(one)
        assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(alone))
        for leaf, expected in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(leaf[position], expected, rtol=1e-4, atol=1e-5)


def test_composes_with_pmap(small):
    snn, variables, inputs = small
    parts = inputs.reshape(10, 4, 1, *inputs.shape[2:])
    actual = jax.pmap(lambda variables, inputs: run(snn, variables, inputs), in_axes=(None, 1), out_axes=1)(
        variables, parts
    )
    assert len(actual.sharding.device_set) == 4
    np.testing.assert_allclose(actual.reshape(10, 4, 3), run(snn, variables, inputs), rtol=1e-5, atol=1e-6)


@pytest.fixture
def split(small):
    """The SNN, and its variables and inputs on a mesh of four devices with axes of a type."""

    def on_mesh(kind):
        snn, variables, inputs = small
        mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,))
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


def test_arrays_split_over_explicit_axes_are_refused(split):
    """Which JAX's meshes have as a rule."""
    snn, variables, inputs = split(AxisType.Explicit)
    network = jsnn.accelerate(lambda variables, x: x @ variables["out"]["w"])
    for call in (
        lambda: snn.apply(variables, {}, inputs),
        lambda: snn.initial_state(variables, inputs.swapaxes(0, 1)),
        lambda: network(variables, inputs.reshape(10, 4, 72)),
    ):
        with pytest.raises(ValueError, match=r"is split over Explicit axes, .* make the mesh with axis_types="):
            call()


def test_results_are_a_tree():
    def network(params, x):
        hidden = jax.nn.relu(dense(params["hidden"], x))
        return {"logits": dense(params["out"], hidden), "features": (hidden, x)}

    snn = jsnn.spiking(network)
    results = run(snn, snn.init(drawn(PLAIN), ROWS), ROWS[None])
    shapes = jax.tree.map(jnp.shape, results)
    assert shapes == {"logits": (1, 4, 3), "features": ((1, 4, 6), (1, 4, 5))}


def test_integers_go_in():
    apply, variables = plain(jax.nn.relu), drawn(PLAIN)

    def of_bytes(params, x):
        return apply(params, x.astype(jnp.float32) / 255)

    x = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 5)), jnp.uint8)
    snn = jsnn.spiking(of_bytes)
    spiking = snn.init(variables, x)
    expected = run(jsnn.spiking(apply), spiking, jnp.stack([x / 255] * 3))
    np.testing.assert_allclose(run(snn, spiking, jnp.stack([x] * 3)), expected, rtol=1e-5)


@pytest.mark.parametrize("head", [lambda x: x.reshape(len(x), -1), lambda x: x.mean((-3, -2))], ids=["flat", "mean"])
def test_inputs_without_time(head):
    def network(params, x):
        return dense(params["out"], head(jax.nn.relu(nn.Conv(4, (3, 3)).apply({"params": params["conv"]}, x))))

    conv = drawn(jax.eval_shape(nn.Conv(4, (3, 3)).init, jax.random.key(0), IMAGES))["params"]
    size = head(jnp.zeros((1, 6, 6, 4))).shape[1]
    snn = jsnn.spiking(network)
    variables = snn.init({"conv": conv, "out": {"w": jnp.ones((size, 3)), "b": jnp.ones(3)}}, IMAGES)
    state = snn.initial_state(variables, IMAGES)
    with pytest.raises((ValueError, TypeError)) as caught:
        snn.apply(variables, state, IMAGES)
    message = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "time-major" in message
    assert "(4, 6, 6, " in message


def test_a_batch_of_another_size_than_the_state(small):
    snn, variables, inputs = small
    state = snn.initial_state(variables, inputs[0])
    with pytest.raises(ValueError, match=r"a state of shape \(4, 6, 6, 3\) does not fit a current of"):
        snn.apply(variables, state, inputs[:, :2])


def test_inputs_without_a_batch(small):
    snn, variables, inputs = small
    with pytest.raises(ValueError, match=r"time-major inputs \[K, B, ...\], got the shape \(2,\)"):
        snn.apply(variables, snn.initial_state(variables, inputs[0]), inputs[0, 0, 0, 0])


@pytest.mark.parametrize(
    ("neurons", "message"),
    [
        (None, 'variables have no "neurons": get them from snn.init or jsnn.convert'),
        ({"stem": {}, "other": {}}, "the network spikes in conv, but its variables have neurons for stem, other"),
        ({"conv": {"threshold": 1.0, "leak": 1.0}}, "the neurons of conv have no 'initial'"),
        ({"conv": 1.0}, "the neurons of conv are a mapping of parameters, got float"),
        (
            {"conv": {"threshold": jnp.ones(2), "leak": 1.0, "initial": 0.0}},
            r"of conv is of the shape \(2,\)",
        ),
    ],
    ids=["none", "another network's", "another neuron's", "no mapping", "another shape"],
)
def test_variables_with_neurons_that_are_not_the_networks(small, neurons, message):
    snn, variables, inputs = small
    state = snn.initial_state(variables, inputs[0])
    wrong = {name: value for name, value in variables.items() if name != "neurons"}
    wrong |= {} if neurons is None else {"neurons": neurons}
    for call in (lambda: snn.initial_state(wrong, inputs[0]), lambda: snn.apply(wrong, state, inputs)):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("variables", "x", "message"),
    [
        ([jnp.ones((3, 3))], jnp.ones((1, 3)), "variables are a mapping, .* got list"),
        ({}, (jnp.ones((1, 3)), jnp.ones((1, 3))), "takes one array x, got tuple"),
    ],
)
def test_arguments_of_other_kinds(variables, x, message):
    with pytest.raises(ValueError, match=message):
        jsnn.spiking(lambda variables, x: jax.nn.relu(x)).init(variables, x)


def test_what_is_no_neuron():
    with pytest.raises(ValueError, match=r"must be a jsnn.Neuron, as jsnn.lif\(\) gives one"):
        jsnn.spiking(lambda variables, x: jax.nn.relu(x), jsnn.lif)


@pytest.mark.parametrize("shape", [(1,), (8,), ()], ids=["one step", "all steps", "no time"])
def test_inputs_of_other_steps_than_those_asked_for(small, shape):
    """Which would be another presentation than the one that is asked for."""
    snn, variables, inputs = small

    def of_other_steps(time):
        return jnp.broadcast_to(inputs[0], (*shape, *inputs.shape[1:]))

    with pytest.raises(ValueError, match=r"takes time-major inputs \[3, B, ...\], got the shape"):
        jsnn.simulate(snn, variables, of_other_steps, lambda observed: observed.results, num_steps=9, chunk=3)
    presentation = jsnn.Presentation(snn, lambda images, key, index, time: of_other_steps(time), 9, 3)
    forward = jsnn.snn_forward(presentation, jsnn.averaged)
    with pytest.raises(ValueError, match=r"takes time-major inputs \[3, B, ...\], got the shape"):
        forward(variables, inputs[0], jnp.arange(len(inputs[0])), jax.random.key(0))


@pytest.mark.parametrize(("num_steps", "chunk"), [(2.5, 2), (3, 2.0)])
def test_numbers_of_steps_that_are_not_whole(small, num_steps, chunk):
    snn, variables, inputs = small
    with pytest.raises(ValueError, match="must be a whole number of time steps"):
        jsnn.simulate(snn, variables, lambda time: inputs, lambda seen: seen.results, num_steps=num_steps, chunk=chunk)
