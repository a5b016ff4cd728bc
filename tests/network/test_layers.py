"""What becomes a layer of neurons, however it is spelled; other networks are refused by operation, module and line."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsnn
from tests.plain_networks import HIDDEN, IMAGES, PLAIN, ROWS, plain

ACTIVATIONS = {
    "jax.nn.relu": (jax.nn.relu, None),
    "maximum": (lambda x: jnp.maximum(x, 0), None),
    "maximum with zeros of a unit": (lambda x: jnp.maximum(x, np.zeros(6, np.float32)), None),
    "lax.max": (lambda x: jax.lax.max(x, jnp.zeros_like(x)), None),
    "where >": (lambda x: jnp.where(x > 0, x, 0), None),
    "where <": (lambda x: jnp.where(x < 0, 0, x), None),
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
    shapes = jsnn.layer_shapes(lambda v, x: jax.nn.relu(x @ v["w"]) @ v["w"], HIDDEN, jnp.ones((1, 3)))
    assert list(shapes) == ["w", "w_2"]


def test_a_layer_of_relu6_gets_no_more_than_six_from_the_layer_before():
    snn = jsnn.spiking(lambda v, x: jax.nn.relu6(jax.nn.relu(x @ v["w"]) @ v["out"]))
    given = HIDDEN, jnp.full((2, 3), 20.0), jsnn.encoding.constant, jax.random.key(0)
    actual = jsnn.balance_thresholds(snn, *given, num_steps=4, layers=["w"])
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
    "hard tanh": (lambda x: nn.hard_tanh(x), "gt", "jax.nn.relu"),
    "gating": (lambda x: x * x[:, ::-1], "mul", "use a sum"),
    "attention": (lambda x: jnp.einsum("bhwc,bhwd->bcd", x, x), "dot_general", "use weights for one of them"),
    "square": (lambda x: x**2, "integer_pow", "weights"),
    "norm of the batch": (lambda x: x / jnp.sqrt(0.1 + x.var((0, 1, 2))), "square", "running averages"),
    "loop": (lambda x: jax.lax.scan(lambda x, _: (nn.relu(x - 0.1), x), x, None, 2)[0], "scan", "unroll"),
    "branch": (lambda x: jax.lax.cond(jnp.ones(()) > 0, nn.relu, lambda x: -x, x), "cond", "unroll"),
    "argmax": (lambda x: x - x.argmax(-1)[..., None], "argmax", "of the network's result"),
    "abs": (lambda x: jnp.abs(x), "abs", "jax.nn.relu"),
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
    def later(params, x):
        return nn.gelu(x)

    jax.eval_shape(lambda x: nn.gelu(x), ROWS)
    with pytest.raises(ValueError, match=rf"\.py:{later.__code__.co_firstlineno + 1}\)"):
        jsnn.spiking(later).init({}, ROWS)
