"""What becomes a layer of neurons, however it is spelled; other networks are refused by operation, module and line."""

import re
from itertools import count

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsnn
from tests.plain_networks import HIDDEN, IMAGES, PLAIN, ROWS, converted, dense, plain

ACTIVATIONS = {
    "jax.nn.relu": (jax.nn.relu, None),
    "nn.relu": (nn.relu, None),
    "maximum": (lambda x: jnp.maximum(x, 0), None),
    "maximum, 0 first": (lambda x: jnp.maximum(0.0, x), None),
    "maximum with a row of zeros": (lambda x: jnp.maximum(x, np.zeros((1, 6))), None),
    "maximum with zeros of a unit": (lambda x: jnp.maximum(x, np.zeros(6, np.float32)), None),
    "maximum with zeros of JAX": (lambda x: jnp.maximum(x, jnp.zeros((6,))), None),
    "lax.max": (lambda x: jax.lax.max(x, jnp.zeros_like(x)), None),
    "where >": (lambda x: jnp.where(x > 0, x, 0), None),
    "where >=": (lambda x: jnp.where(x >= 0, x, 0.0), None),
    "where <": (lambda x: jnp.where(x < 0, 0, x), None),
    "where <=": (lambda x: jnp.where(x <= 0, 0.0, x), None),
    "clip from 0": (lambda x: jnp.clip(x, 0), None),
    "jitted": (jax.jit(lambda x: jax.nn.relu(x)), None),
    "checkpointed": (jax.checkpoint(jax.nn.relu), None),
    "mapped": (jax.vmap(jax.nn.relu), None),
    "relu6": (nn.relu6, 6),
    "clip": (lambda x: jnp.clip(x, 0, 0.5), 0.5),
    "clamp": (lambda x: jax.lax.clamp(0.0, x, 0.5), 0.5),
    "minimum of maximum": (lambda x: jnp.minimum(jnp.maximum(x, 0), 0.5), 0.5),
    "maximum of minimum": (lambda x: jnp.maximum(jnp.minimum(x, 0.5), 0), 0.5),
}


def layers_of(apply, variables, x):
    return jsnn.spiking(apply).trace(variables, x)[0].layers


@pytest.mark.parametrize(("activation", "ceiling"), ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_every_spelling_of_an_activation_is_a_layer_with_its_ceiling(activation, ceiling):
    layers = layers_of(plain(activation), PLAIN, ROWS)
    assert [(name, layer.shape, layer.ceiling) for name, layer in layers.items()] == [("hidden", (4, 6), ceiling)]


def test_layers_have_the_names_of_their_weights():
    class Inner(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.relu(nn.Dense(4, name="map")(nn.relu(x)))

    class Net(nn.Module):
        def setup(self):
            self.first = nn.Dense(4)
            self.inner = [Inner(), Inner()]
            self.out = nn.Dense(3)

        def __call__(self, x):
            x = self.first(nn.relu(x))
            for inner in self.inner:
                x = inner(x)
            return self.out(x + nn.relu(x - 1))

    names = list(layers_of(Net().apply, jax.eval_shape(Net().init, jax.random.key(0), ROWS), ROWS))
    assert names == ["neurons", "first", "inner_0/map", "inner_0/map_2", "inner_1/map", "inner_1/map_2"]


def test_weights_that_are_used_twice_are_counted_twice():
    def apply(variables, x):
        return jax.nn.relu(x @ variables["w"]) @ variables["w"]

    shapes = jsnn.layer_shapes(apply, HIDDEN, jnp.ones((1, 3)))
    assert list(shapes) == ["w", "w_2"]


def test_a_layer_of_relu6_gets_no_more_than_six_from_the_layer_before():
    def apply(variables, x):
        return jax.nn.relu6(jax.nn.relu(x @ variables["w"]) @ variables["out"])

    snn, x, encode = jsnn.spiking(apply), jnp.full((2, 3), 20.0), jsnn.encoding.constant
    actual = jsnn.balance_thresholds(snn, HIDDEN, x, encode, jax.random.key(0), num_steps=4, layers=["w"])
    assert (float(actual["w"]), float(actual["out"])) == (20.0, 6.0)


class Between(nn.Module):
    operation: object

    @nn.compact
    def __call__(self, x):
        x = self.operation(nn.relu(nn.Conv(2, (3, 3))(x)))
        return nn.Dense(3)(x.reshape(len(x), -1))


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
    model = nn.Sequential([Between(operation)])
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    with pytest.raises(ValueError, match="can't become spiking") as caught:
        jsnn.spiking(model.apply).init(variables, IMAGES)
    matched = re.fullmatch(r"(\w+) in (.*) \((.*):(\d+)\) can't become spiking: (.*)\.", str(caught.value))
    assert matched[1] == primitive
    assert matched[2].startswith("Sequential/layers_0")
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


def test_a_network_without_activations_is_not_balanced():
    with pytest.raises(ValueError, match="no activation"):
        converted(lambda params, x: dense(params["out"], x), {"out": {"w": jnp.ones((5, 3)), "b": jnp.ones(3)}}, ROWS)


def reduced(variables, x):
    return jax.lax.reduce(jax.nn.relu(x @ variables["w"]), 0.0, lambda a, b: jax.lax.max(a, b) * 1.0, (1,))


def with_gradient(function):
    """A function with a derivative of its own."""
    own = jax.custom_jvp(function)
    own.defjvp(lambda primals, tangents: (function(*primals), tangents[0]))
    return lambda variables, x: own(jax.nn.relu(x @ variables["w"]))


@jax.custom_vjp
def reversal(x):
    return x


reversal.defvjp(lambda x: (x, None), lambda _, cotangent: (-cotangent,))


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (lambda params, x: params["w"], "result does not depend on its input.*nothing to spike for"),
        (lambda params, x: (x, params["w"] * jnp.zeros_like(x)[0]), r"not depend on its input.*leave out \[1\]"),
        (lambda params, x: (x, {"n": jnp.ones(3)}), r"not depend on its input.*leave out \[1\]\['n'\]"),
        (reduced, "^reduce in"),
        (with_gradient(jnp.tanh), "^tanh in .* use jax.nn.relu"),
        (with_gradient(lambda x: x * x), "^mul in .* two values that depend on the input"),
        (lambda params, x: reversal(x @ params["w"]), "^custom_vjp_call in .* a gradient of its own would be lost"),
    ],
    ids=count(),
)
def test_what_only_looks_linear_is_refused_for_what_it_is(network, sentence):
    with pytest.raises(ValueError, match=sentence):
        jsnn.spiking(network).init(HIDDEN, jnp.ones((1, 3)))
