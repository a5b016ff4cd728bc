"""Derivatives and batching rules of one's own, of functions within a network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsnn
from tests.plain_networks import HIDDEN, ROWS, dense, drawn

DENSE = {"w": jax.ShapeDtypeStruct((5, 5), jnp.float32), "b": jax.ShapeDtypeStruct((5,), jnp.float32)}


@jax.custom_jvp
def reversal(x):
    """The identity, by way of two products with numbers, with a gradient of the other sign."""
    return 2.0 * (x / 2)


reversal.defjvp(lambda primals, tangents: (reversal(*primals), -tangents[0]))


def gradient(between, residuals):
    def apply(variables, x):
        return dense(variables["b"], between(jax.nn.relu(dense(variables["a"], x))))

    snn = jsnn.spiking(apply, jsnn.lif(jsnn.surrogate.linear()))
    variables = jsnn.convert(snn, drawn({"a": DENSE, "b": DENSE}), {"a": 0.5})
    forward = jsnn.snn_forward(jsnn.Presentation(snn, jsnn.encoding.constant, 6, 2), jsnn.averaged, residuals=residuals)

    def loss(weights):
        return (forward({**variables, **weights}, ROWS, jnp.arange(len(ROWS)), jax.random.key(0))[0] ** 2).sum()

    return jax.value_and_grad(loss)({name: variables[name] for name in "ab"})


@pytest.mark.parametrize("residuals", ["exact", "byte"])
def test_what_is_linear_keeps_a_derivative_of_its_own(residuals):
    (actual, reverse), (expected, plain) = (gradient(between, residuals) for between in (reversal, lambda x: x))
    assert float(actual) == pytest.approx(float(expected), rel=1e-6)
    assert np.abs(plain["a"]["w"]).max() > 0
    for name, sign in (("a", -1), ("b", 1)):
        jax.tree.map(lambda a, b, s=sign: np.testing.assert_allclose(a, s * b, rtol=1e-5), reverse[name], plain[name])


@pytest.mark.parametrize(
    ("function", "advice"),
    [(jnp.tanh, "^tanh in .* use jax.nn.relu"), (lambda x: x * x, "^mul in .* two values that depend on the input")],
)
def test_what_is_not_linear_is_refused_for_what_it_is(function, advice):
    own = jax.custom_jvp(function)
    own.defjvp(lambda primals, tangents: (function(*primals), tangents[0]))
    with pytest.raises(ValueError, match=advice):
        jsnn.spiking(lambda variables, x: own(jax.nn.relu(x @ variables["w"]))).init(HIDDEN, jnp.ones((1, 3)))


def test_accelerated_functions_keep_a_batching_rule_of_their_own():
    @jax.custom_batching.custom_vmap
    def multiply(x):
        return x @ HIDDEN["w"]

    @multiply.def_vmap
    def rule(size, are_mapped, x):
        return -multiply(x), True

    x = jnp.ones((4, 2, 3))
    np.testing.assert_array_equal(jax.vmap(jsnn.accelerate(multiply))(x), -x)
