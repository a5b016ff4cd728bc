"""Derivatives of every kind: forward mode, Jacobians, Hessian-vector products; and those that are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsnn
from jsnn.network.bptt import Keys, present
from jsnn.neurons.surrogate import arctan, fast_sigmoid, forward_mode, linear, stdb

STEPS, CHUNK, BATCH = 7, 3, 2
INDEX, KEYS = jnp.arange(BATCH, dtype=jnp.int32), Keys(jax.random.key(2), jax.random.key(3))
IMAGES = np.random.default_rng(9).uniform(-1, 1, (BATCH, 4, 4, 2))
THRESHOLDS = {"conv": 0.5, "hidden": 0.4}
SHAPES = {"conv": (3, 3, 2, 3), "bias": (3,), "hidden": (12, 5), "out": (5, 3)}

pytestmark = pytest.mark.usefixtures("float64")


def layer(params, x):
    x = jax.lax.conv_general_dilated(x, params["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jax.nn.relu(x + params["bias"])


def network(params, x):
    x = layer(params, x).reshape(len(x), 2, 2, 2, 2, 3).mean((2, 4))
    return jax.nn.relu(x.reshape(len(x), -1) @ params["hidden"]) @ params["out"]


def drawn(seed):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[0])) for name, shape in SHAPES.items()}


def held(time):
    return jnp.broadcast_to(IMAGES, (len(time), *IMAGES.shape))


def results_of(surrogate, forward=True, leak=0.9):
    """The function of the weights that gives the results [T, B, 3], and that of the spikes."""
    snn = jsnn.spiking(network, jsnn.lif(surrogate), forward_mode=forward)

    def run(params):
        variables = jsnn.convert(snn, params, THRESHOLDS, leak=leak)
        return jsnn.simulate(snn, variables, held, lambda observed: observed.results, num_steps=STEPS, chunk=CHUNK)

    def spikes(params):
        return jsnn.record(snn, jsnn.convert(snn, params, THRESHOLDS, leak=leak), held, num_steps=STEPS)["spikes"]

    return run, jax.jit(spikes)


def loss_of(run):
    def loss(params):
        logits = run(params).mean(0)
        return optax.softmax_cross_entropy_with_integer_labels(3 * logits, jnp.arange(BATCH)).mean()

    return loss


def inner(one, other):
    return sum(jax.tree.leaves(jax.tree.map(lambda a, b: float((a * b).sum()), one, other)))


@pytest.mark.parametrize(
    "surrogate", [linear(), arctan(), fast_sigmoid(2.0), stdb(0.4, 0.05)], ids=["linear", "arctan", "sigmoid", "stdb"]
)
def test_forward_mode_is_reverse_mode_transposed(surrogate):
    run, spikes = results_of(forward_mode(surrogate))
    params, tangent = drawn(0), drawn(1)
    results, along = jax.jit(lambda *at: jax.jvp(run, *at))((params,), (tangent,))
    cotangent = jnp.asarray(np.random.default_rng(2).normal(size=results.shape))
    (gradient,) = jax.jit(lambda params: jax.vjp(run, params)[1](cotangent))(params)
    assert inner(cotangent, along) == pytest.approx(inner(gradient, tangent), rel=1e-12)
    assert min(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) > 0
    assert all(0 < train.mean() < 1 for train in spikes(params).values())

    fast = results_of(surrogate, forward=False)[0]
    (expected,) = jax.jit(lambda params: jax.vjp(fast, params)[1](cotangent))(params)
    for name, leaf in gradient.items():
        np.testing.assert_allclose(leaf, expected[name], rtol=1e-10, atol=1e-13)


def membrane_of(surrogate, threshold):
    """leak -> the membranes [T, 1, 1] of one neuron with a constant current of 1."""
    snn = jsnn.spiking(lambda params, x: jax.nn.relu(x @ params["w"]), jsnn.lif(surrogate), forward_mode=True)

    def membrane(leak):
        variables = jsnn.convert(snn, {"w": jnp.ones((1, 1))}, {"w": threshold}, leak=leak)
        options = {"num_steps": STEPS, "what": ("membranes",), "chunk": CHUNK}
        shown = jsnn.record(snn, variables, lambda time: jnp.ones((len(time), 1, 1)), **options)
        return shown["membranes"]["w"].ravel()

    return membrane


def test_the_jacobian_of_a_membrane():
    leak, steps = 0.8, np.arange(STEPS)
    below = membrane_of(forward_mode(linear()), threshold=100.0)
    expected = np.array([sum(k * leak ** (k - 1) for k in range(1, t + 1)) for t in steps])
    np.testing.assert_allclose(jax.jacfwd(below)(leak), expected, rtol=1e-12)
    spiking = membrane_of(forward_mode(linear()), threshold=1.5)
    forward, reverse = jax.jacfwd(spiking)(leak), jax.jacrev(spiking)(leak)
    np.testing.assert_allclose(forward, reverse, rtol=1e-12)
    assert np.abs(forward - expected).max() > 0.1  # it fires: what is taken off is leaked on


def hessian_vector_products(loss, params, tangent):
    """H v: forward over reverse, and reverse over reverse."""
    gradient = jax.grad(loss)
    forward = jax.jit(lambda params: jax.jvp(gradient, (params,), (tangent,))[1])(params)

    def along(params):
        products = jax.tree.map(lambda slope, v: (slope * v).sum(), gradient(params), tangent)
        return sum(jax.tree.leaves(products))

    return forward, jax.jit(jax.grad(along))(params)


def test_a_hessian_vector_product_is_the_difference_of_gradients_where_spikes_stay():
    # One layer, and a loss linear in its spikes: else autodiff follows surrogates of spikes that stay as they are.
    x, tangent = ({name: drawn(seed)[name] for name in ("conv", "bias")} for seed in (0, 1))
    snn = jsnn.spiking(layer, jsnn.lif(forward_mode(linear())), forward_mode=True)

    def trains(params):
        variables = jsnn.convert(snn, params, {"conv": 0.5}, leak=0.9)
        return jsnn.record(snn, variables, held, num_steps=STEPS, chunk=CHUNK)["spikes"]["conv"]

    weights = jnp.asarray(np.random.default_rng(4).normal(size=(STEPS, BATCH, 4, 4, 3)))

    def loss(params):
        return (weights * trains(params)).sum()

    def moved(step):
        return jax.tree.map(lambda leaf, v: leaf + step * v, x, tangent)

    step, gradient = 1e-6, jax.jit(jax.grad(loss))
    for at in (step, -step):
        np.testing.assert_array_equal(trains(moved(at)), trains(x))
    expected = jax.tree.map(lambda a, b: (a - b) / (2 * step), gradient(moved(step)), gradient(moved(-step)))
    for actual in hessian_vector_products(loss, x, tangent):
        for name, leaf in actual.items():
            assert np.abs(expected[name]).max() > 1e-3
            np.testing.assert_allclose(leaf, expected[name], rtol=1e-6, atol=1e-8)


def test_hessian_vector_products_of_a_deep_network_are_symmetric_and_the_same_in_every_mode():
    loss = loss_of(results_of(forward_mode(linear()))[0])
    params, one, other = drawn(0), drawn(1), drawn(5)
    forward, reverse = hessian_vector_products(loss, params, one)
    assert min(float(jnp.abs(leaf).max()) for leaf in forward.values()) > 0
    for name, leaf in forward.items():
        np.testing.assert_allclose(leaf, reverse[name], rtol=1e-10, atol=1e-13)
    mirrored = hessian_vector_products(loss, params, other)[0]
    assert inner(other, forward) == pytest.approx(inner(one, mirrored), rel=1e-9)


def test_reverse_over_reverse_goes_through_the_fast_kernels_too():
    params, tangent = drawn(0), drawn(1)
    expected = hessian_vector_products(loss_of(results_of(forward_mode(linear()))[0]), params, tangent)[1]
    loss = loss_of(results_of(linear(), forward=False)[0])

    def along(params):
        return sum((jax.grad(loss)(params)[name] * tangent[name]).sum() for name in tangent)

    actual = jax.jit(jax.grad(along))(params)
    for name, leaf in actual.items():
        np.testing.assert_allclose(leaf, expected[name], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    ("surrogate", "forward"),
    [(linear(), True), (forward_mode(linear()), False), (stdb(), True)],
    ids=["surrogate", "kernels", "stdb"],
)
def test_forward_mode_fails_aloud_where_it_is_not_asked_for(surrogate, forward):
    run = results_of(surrogate, forward)[0]
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(run, (drawn(0),), (drawn(1),))


def packed():
    """(weights, neurons) -> a loss by spike trains alone."""
    snn = jsnn.spiking(network, jsnn.lif(stdb(0.4, 0.05)))
    presentation = jsnn.Presentation(snn, jsnn.encoding.constant, STEPS, CHUNK)

    def loss(params, neurons):
        outcome = present(presentation, {**params, "neurons": neurons}, jnp.asarray(IMAGES), INDEX, KEYS)
        return (jsnn.averaged(outcome) ** 2).sum()

    return loss, jsnn.convert(snn, drawn(0), THRESHOLDS)["neurons"]


def test_spike_trains_alone_give_a_first_derivative_and_refuse_a_second():
    loss, neurons = packed()
    gradient = jax.grad(loss)
    assert float(jnp.abs(gradient(drawn(0), neurons)["conv"]).max()) > 0

    def along(params):
        return gradient(params, neurons)["out"].sum()

    with pytest.raises(ValueError, match="no second derivative: differentiate jsnn"):
        jax.grad(along)(drawn(0))
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(along, (drawn(0),), (drawn(1),))


def test_spike_trains_alone_refuse_a_gradient_in_the_parameters_of_neurons():
    loss, neurons = packed()
    with pytest.raises(ValueError, match="parameters of neurons: take it in the weights only"):
        jax.grad(loss, 1)(drawn(0), neurons)


def test_spike_trains_alone_refuse_forward_mode():
    loss, neurons = packed()
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(lambda params: loss(params, neurons), (drawn(0),), (drawn(1),))


@pytest.mark.parametrize("surrogate", [linear(), forward_mode(stdb())], ids=["linear", "forward mode"])
def test_neurons_that_need_membranes_are_refused_by_spike_trains(surrogate):
    snn = jsnn.spiking(network, jsnn.lif(surrogate))
    variables = jsnn.convert(snn, drawn(0), THRESHOLDS)
    presentation = jsnn.Presentation(snn, jsnn.encoding.constant, STEPS, CHUNK)
    with pytest.raises(ValueError, match="bits alone do not give the gradient of these neurons"):
        present(presentation, variables, jnp.asarray(IMAGES), INDEX, KEYS)
