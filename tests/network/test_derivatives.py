"""Derivatives of every kind: forward mode, Jacobians, Hessian-vector products, a function's own; others are refused."""

from functools import partial
from itertools import count

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsnn
from jsnn.network.bptt import Keys, present
from jsnn.neurons.surrogate import forward_mode, linear, stdb
from tests.network.own_network import held

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


def results_of(surrogate, forward=True):
    """The function of the weights that gives the results [T, B, 3]."""
    snn = jsnn.spiking(network, jsnn.lif(surrogate), forward_mode=forward)

    def run(params):
        variables = jsnn.convert(snn, params, THRESHOLDS, leak=0.9)
        return jsnn.simulate(snn, variables, held(IMAGES), lambda seen: seen.results, num_steps=STEPS, chunk=CHUNK)

    return run


def inner(one, other):
    return sum(jax.tree.leaves(jax.tree.map(lambda a, b: (a * b).sum(), one, other)))


def assert_close(actual, expected, rtol=1e-10, atol=1e-13):
    """Trees are equal leaf by leaf, and no leaf is zero."""
    for leaf, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.abs(other).max() > 0
        np.testing.assert_allclose(leaf, other, rtol=rtol, atol=atol)


@pytest.mark.parametrize("surrogate", [linear(), stdb(0.4, 0.05)], ids=["linear", "stdb"])
def test_forward_mode_is_reverse_mode_transposed(surrogate):
    run, fast = results_of(forward_mode(surrogate)), results_of(surrogate, forward=False)
    params, tangent = drawn(0), drawn(1)
    cotangent = jnp.asarray(np.random.default_rng(2).normal(size=(STEPS, BATCH, 3)))

    @jax.jit
    def derivatives(params):
        gradients = (jax.vjp(function, params)[1](cotangent)[0] for function in (run, fast))
        return jax.jvp(run, (params,), (tangent,))[1], *gradients

    along, gradient, by_fast_kernels = derivatives(params)
    np.testing.assert_allclose(inner(cotangent, along), inner(gradient, tangent), rtol=1e-12)
    assert_close(gradient, by_fast_kernels)


def test_the_jacobian_of_a_membrane():
    """Of one neuron with a constant current of 1, which fires at the lower of two thresholds."""
    neuron, one = jsnn.lif(forward_mode(linear())), jnp.ones((1, 1))
    snn = jsnn.spiking(lambda params, x: jax.nn.relu(x @ params["w"]), neuron, forward_mode=True)

    def membranes(leak, threshold):
        variables = jsnn.convert(snn, {"w": one}, {"w": threshold}, leak=leak)
        options = {"num_steps": STEPS, "what": ("membranes",), "chunk": CHUNK}
        return jsnn.record(snn, variables, held(one), **options)["membranes"]["w"].ravel()

    leak, (forward, reverse) = 0.8, (jax.jit(mode(membranes)) for mode in (jax.jacfwd, jax.jacrev))
    expected = np.array([sum(k * leak ** (k - 1) for k in range(1, t + 1)) for t in range(STEPS)])
    np.testing.assert_allclose(forward(leak, 100.0), expected, rtol=1e-12)
    np.testing.assert_allclose(forward(leak, 1.5), reverse(leak, 1.5), rtol=1e-12)
    assert np.abs(forward(leak, 1.5) - expected).max() > 0.1  # what is taken off is leaked on


def forward_over_reverse(loss):
    """(weights, v) -> the Hessian's product with v."""
    return jax.jit(lambda params, tangent: jax.jvp(jax.grad(loss), (params,), (tangent,))[1])


def reverse_over_reverse(loss):
    return jax.jit(jax.grad(lambda params, tangent: inner(jax.grad(loss)(params), tangent)))


def test_a_hessian_vector_product_is_the_difference_of_gradients_where_spikes_stay():
    # One layer, and a loss linear in its spikes: else autodiff follows surrogates of spikes that stay as they are.
    x, tangent = ({name: drawn(seed)[name] for name in ("conv", "bias")} for seed in (0, 1))
    snn = jsnn.spiking(layer, jsnn.lif(forward_mode(linear())), forward_mode=True)
    weights = jnp.asarray(np.random.default_rng(4).normal(size=(STEPS, BATCH, 4, 4, 3)))

    def loss(params):
        variables = jsnn.convert(snn, params, {"conv": 0.5}, leak=0.9)
        spikes = jsnn.record(snn, variables, held(IMAGES), num_steps=STEPS, chunk=CHUNK)["spikes"]["conv"]
        return (weights * spikes).sum(), spikes

    @jax.jit
    def gradient(step):
        return jax.grad(loss, has_aux=True)(jax.tree.map(lambda leaf, v: leaf + step * v, x, tangent))

    (below, *of_below), (_, spikes), (above, *of_above) = (gradient(step) for step in (-1e-6, 0.0, 1e-6))
    for other in of_below + of_above:
        np.testing.assert_array_equal(other, spikes)
    expected = jax.tree.map(lambda a, b: (a - b) / 2e-6, above, below)
    assert min(np.abs(leaf).max() for leaf in expected.values()) > 1e-3
    for products in (forward_over_reverse, reverse_over_reverse):
        assert_close(products(lambda params: loss(params)[0])(x, tangent), expected, 1e-6, 1e-8)


def test_fast_kernels_give_a_deep_networks_hessian_vector_products():
    def loss_of(run, params):
        return optax.softmax_cross_entropy_with_integer_labels(3 * run(params).mean(0), INDEX).mean()

    loss, fast = partial(loss_of, results_of(forward_mode(linear()))), partial(loss_of, results_of(linear(), False))
    assert_close(reverse_over_reverse(fast)(drawn(0), drawn(1)), forward_over_reverse(loss)(drawn(0), drawn(1)))


def packed(params, neurons=None, surrogate=stdb(0.4, 0.05)):
    """A loss by spike trains alone."""
    presentation = jsnn.Presentation(jsnn.spiking(network, jsnn.lif(surrogate)), jsnn.encoding.constant, STEPS, CHUNK)
    variables = {**params, "neurons": neurons or of_neurons()}
    return (jsnn.averaged(present(presentation, variables, jnp.asarray(IMAGES), INDEX, KEYS)) ** 2).sum()


def of_neurons():
    return jsnn.convert(jsnn.spiking(network), drawn(0), THRESHOLDS)["neurons"]


def along_weights(function):
    """The derivative of a function of the weights in some direction."""
    return jax.jvp(function, (drawn(0),), (drawn(1),))


def summed(params):
    return jax.grad(packed)(params)["out"].sum()


MEMBRANES = (ValueError, "bits alone do not give the gradient of these neurons")


@pytest.mark.parametrize(
    ("derivative", "error", "sentence"),
    [
        (lambda: along_weights(results_of(linear())), TypeError, "custom_vjp"),
        (lambda: along_weights(results_of(forward_mode(linear()), forward=False)), TypeError, "custom_vjp"),
        (lambda: along_weights(packed), TypeError, "custom_vjp"),
        (lambda: jax.eval_shape(lambda: along_weights(jax.grad(packed))), ValueError, "no second derivative"),
        (lambda: jax.eval_shape(jax.grad(summed), drawn(0)), ValueError, "second derivative: differentiate jsnn"),
        (lambda: jax.grad(packed, 1)(drawn(0), of_neurons()), ValueError, "of neurons: take it in the weights only"),
        (lambda: packed(drawn(0), surrogate=linear()), *MEMBRANES),
        (lambda: packed(drawn(0), surrogate=forward_mode(stdb())), *MEMBRANES),
    ],
    ids=count(),
)
def test_a_derivative_that_is_not_there_is_refused(derivative, error, sentence):
    with pytest.raises(error, match=sentence):
        derivative()


@jax.custom_jvp
def reversal(x):
    """The identity, by way of two products with numbers, with a gradient of the other sign."""
    return 2.0 * (x / 2)


reversal.defjvp(lambda primals, tangents: (reversal(*primals), -tangents[0]))


@pytest.mark.parametrize("residuals", ["exact", "byte"])
def test_a_linear_function_keeps_a_derivative_of_its_own(residuals):
    weights = {"first": jnp.asarray(np.random.default_rng(0).normal(0, 0.2, (32, 5))), "out": drawn(0)["out"]}

    def gradient(between):
        def apply(v, x):
            return between(jax.nn.relu(x.reshape(len(x), -1) @ v["first"])) @ v["out"]

        snn = jsnn.spiking(apply, jsnn.lif(linear()))
        presentation = jsnn.Presentation(snn, jsnn.encoding.constant, 6, 2)
        forward = jsnn.snn_forward(presentation, jsnn.averaged, ("first", "out"), residuals)
        loss = jax.jit(jax.value_and_grad(lambda v: (forward(v, jnp.asarray(IMAGES), INDEX, KEYS.noise)[0] ** 2).sum()))
        return loss(jsnn.convert(snn, weights, {"first": 0.5}))

    (actual, reverse), (expected, plain) = (gradient(between) for between in (reversal, lambda x: x))
    assert float(actual) == pytest.approx(float(expected), rel=1e-6)
    assert_close([reverse["first"], reverse["out"]], [-plain["first"], plain["out"]], rtol=1e-5, atol=0)


def test_accelerated_functions_keep_a_batching_rule_of_their_own():
    @jax.custom_batching.custom_vmap
    def multiply(x):
        return x @ jnp.eye(3)

    multiply.def_vmap(lambda size, are_mapped, x: (-multiply(x), True))
    x = jnp.ones((4, 2, 3))
    np.testing.assert_array_equal(jax.vmap(jsnn.accelerate(multiply))(x), -x)
