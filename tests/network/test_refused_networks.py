"""Networks that can't become spiking are refused: by operation, module and line, with a way out."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import jsnn
from tests.plain_networks import HIDDEN, IMAGES, ROWS, converted, dense


class Refused(nn.Module):
    operation: object

    @nn.compact
    def __call__(self, x):
        x = self.operation(nn.relu(nn.Conv(2, (3, 3))(x)))
        return nn.Dense(3)(x.reshape(len(x), -1))


class Net(nn.Module):
    operation: object

    @nn.compact
    def __call__(self, x):
        return Refused(self.operation, name="block")(x)


REFUSED = {
    "max pool": (lambda x: nn.max_pool(x, (2, 2), (2, 2)), "reduce_window_max", "average pool"),
    "tanh": (lambda x: nn.tanh(x), "tanh", "jax.nn.relu"),
    "sigmoid": (lambda x: nn.sigmoid(x), "logistic", "jax.nn.relu"),
    "softmax": (lambda x: nn.softmax(x), "reduce_max", "a mean or a sum"),
    "gelu": (lambda x: nn.gelu(x), "integer_pow", "weights"),
    "leaky relu": (lambda x: nn.leaky_relu(x), "ge", "jax.nn.relu"),
    "hard tanh": (lambda x: nn.hard_tanh(x), "gt", "jax.nn.relu"),
    "elu": (lambda x: nn.elu(x), "gt", "jax.nn.relu"),
    "swish": (lambda x: nn.swish(x), "logistic", "jax.nn.relu"),
    "gating": (lambda x: x * x[:, ::-1], "mul", "use a sum"),
    "attention": (lambda x: jnp.einsum("bhwc,bhwd->bcd", x, x), "dot_general", "use weights for one of them"),
    "square": (lambda x: x**2, "integer_pow", "weights"),
    "norm of the batch": (lambda x: x / jnp.sqrt(0.1 + x.var((0, 1, 2))), "square", "running averages"),
    "norm of the layer": (lambda x: nn.LayerNorm(use_fast_variance=False)(x), "square", "running averages"),
    "loop": (lambda x: jax.lax.scan(lambda x, _: (nn.relu(x - 0.1), x), x, None, 2)[0], "scan", "unroll"),
    "branch": (lambda x: jax.lax.cond(jnp.ones(()) > 0, nn.relu, lambda x: -x, x), "cond", "unroll"),
    "argmax": (lambda x: x - x.argmax(-1)[..., None], "argmax", "of the network's result"),
    "sort": (lambda x: jnp.sort(x, -1), "sort", "only sums, weights and ReLU"),
    "abs": (lambda x: jnp.abs(x), "abs", "jax.nn.relu"),
    "exp": (lambda x: jnp.exp(x), "exp", "jax.nn.relu"),
    "maximum of another constant": (lambda x: jnp.maximum(x, 1), "max", "must be with 0"),
    "clip from below 0": (lambda x: jnp.clip(x, -1, 1), "max", "must be with 0"),
    "rounding": (lambda x: x.astype(int) / 2, "convert_element_type", "only sums, weights and ReLU"),
    "division by a norm": (lambda x: x / (1 + x.sum()), "div", "only sums, weights and ReLU"),
}


@pytest.mark.parametrize(("operation", "primitive", "advice"), REFUSED.values(), ids=REFUSED)
def test_refusals_name_operation_module_line_and_way_out(operation, primitive, advice):
    model = Net(operation)
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    with pytest.raises(ValueError, match="can't become spiking") as caught:
        jsnn.spiking(model.apply).init(variables, IMAGES)
    matched = re.fullmatch(r"(\w+) in (.*) \((.*):(\d+)\) can't become spiking: (.*)\.", str(caught.value))
    assert matched[1] == primitive
    assert matched[2].startswith("Net/block")
    assert matched[3] == __file__
    assert int(matched[4]) == operation.__code__.co_firstlineno
    assert advice in matched[5]


def test_the_line_is_that_of_the_call_not_of_an_earlier_one():
    def earlier(x):
        return nn.gelu(x)

    def later(params, x):
        return nn.gelu(x)

    jax.eval_shape(earlier, ROWS)
    with pytest.raises(ValueError, match=rf"\.py:{later.__code__.co_firstlineno + 1}\)"):
        jsnn.spiking(later).init({}, ROWS)


@pytest.mark.parametrize(
    ("network", "which"),
    [
        (lambda params, x: params["a"], "nothing to spike for"),
        (lambda params, x: (x, params["a"] * jnp.zeros_like(x)[0]), r"leave out \[1\]"),
        (lambda params, x: (x, {"n": jnp.ones(3)}), r"leave out \[1\]\['n'\]"),
    ],
)
def test_a_result_that_does_not_depend_on_the_input(network, which):
    with pytest.raises(ValueError, match=f"result does not depend on its input.*{which}"):
        jsnn.spiking(network).init({"a": jnp.ones(5)}, ROWS)


def test_a_network_without_activations_is_not_balanced():
    with pytest.raises(ValueError, match="no activation"):
        converted(lambda params, x: dense(params["out"], x), {"out": {"w": jnp.ones((5, 3)), "b": jnp.ones(3)}}, ROWS)


def reduced(variables, x):
    return jax.lax.reduce(jax.nn.relu(x @ variables["w"]), 0.0, lambda a, b: jax.lax.max(a, b) * 1.0, (1,))


@jax.custom_vjp
def reversal(x):
    return x


reversal.defvjp(lambda x: (x, None), lambda _, cotangent: (-cotangent,))


def reversed_gradient(variables, x):
    return reversal(jax.nn.relu(x @ variables["w"])) @ variables["out"]


@pytest.mark.parametrize(
    ("apply", "word"),
    [
        (reduced, "^reduce in"),
        (reversed_gradient, "^custom_vjp_call in .* a gradient of its own would be lost"),
    ],
)
def test_what_looks_linear_is_refused(apply, word):
    with pytest.raises(ValueError, match=word):
        jsnn.spiking(apply).init(HIDDEN, jnp.ones((1, 3)))


@pytest.mark.parametrize(
    ("apply", "word"),
    [
        (lambda v, x: jax.nn.relu(x) @ v["w"], "no floating-point number"),
        (lambda v, x: jax.nn.relu(jax.lax.div(x, 2).astype(jnp.float32) @ v["w"]), "^div in"),
    ],
)
def test_integers_are_no_currents_and_are_not_divided(apply, word):
    with pytest.raises(ValueError, match=word):
        jsnn.spiking(apply).init(HIDDEN, jnp.ones((1, 3), jnp.int32))
