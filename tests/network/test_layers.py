"""The layers of a spiking network: one for each ReLU, however it is spelled, with its ceiling and its weights' name."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import jsnn
from tests.plain_networks import HIDDEN, PLAIN, ROWS, plain

SPELLINGS = {
    "jax.nn.relu": jax.nn.relu,
    "nn.relu": nn.relu,
    "maximum": lambda x: jnp.maximum(x, 0),
    "maximum, 0 first": lambda x: jnp.maximum(0.0, x),
    "lax.max": lambda x: jax.lax.max(x, jnp.zeros_like(x)),
    "where >": lambda x: jnp.where(x > 0, x, 0),
    "where >=": lambda x: jnp.where(x >= 0, x, 0.0),
    "where <": lambda x: jnp.where(x < 0, 0, x),
    "where <=": lambda x: jnp.where(x <= 0, 0.0, x),
    "clip from 0": lambda x: jnp.clip(x, 0),
    "jitted": jax.jit(lambda x: jax.nn.relu(x)),
    "checkpointed": jax.checkpoint(jax.nn.relu),
    "mapped": jax.vmap(jax.nn.relu),
}
CEILINGS = {
    "relu6": (nn.relu6, 6),
    "clip": (lambda x: jnp.clip(x, 0, 0.5), 0.5),
    "clamp": (lambda x: jax.lax.clamp(0.0, x, 0.5), 0.5),
    "minimum of maximum": (lambda x: jnp.minimum(jnp.maximum(x, 0), 0.5), 0.5),
    "maximum of minimum": (lambda x: jnp.maximum(jnp.minimum(x, 0.5), 0), 0.5),
}


def layers_of(apply, variables, x):
    return jsnn.spiking(apply).trace(variables, x)[0].layers


@pytest.mark.parametrize("activation", SPELLINGS.values(), ids=SPELLINGS)
def test_spellings_of_relu(activation):
    layers = layers_of(plain(activation), PLAIN, ROWS)
    assert [(name, layer.shape, layer.ceiling) for name, layer in layers.items()] == [("hidden", (4, 6), None)]


@pytest.mark.parametrize(("activation", "ceiling"), CEILINGS.values(), ids=CEILINGS)
def test_activations_with_a_ceiling(activation, ceiling):
    layers = layers_of(plain(activation), PLAIN, ROWS)
    assert [(name, layer.ceiling) for name, layer in layers.items()] == [("hidden", ceiling)]


def test_names_of_layers():
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


def test_a_layer_of_relu6_gets_no_more_than_six_from_the_layer_before():
    def apply(variables, x):
        return jax.nn.relu6(jax.nn.relu(x @ variables["w"]) @ variables["out"])

    x, key = jnp.full((2, 3), 20.0), jax.random.key(0)
    actual = jsnn.balance_thresholds(
        jsnn.spiking(apply), HIDDEN, x, jsnn.encoding.constant, key, num_steps=4, layers=["w"]
    )
    assert (float(actual["w"]), float(actual["out"])) == (20.0, 6.0)


def test_weights_that_are_used_twice_are_counted_twice():
    def apply(variables, x):
        return jax.nn.relu(x @ variables["w"]) @ variables["w"]

    shapes = jsnn.layer_shapes(apply, HIDDEN, jnp.ones((1, 3)))
    assert list(shapes) == ["w", "w_2"]
