"""What becomes a layer of neurons, however it is spelled, and tends to the ANN; what can't is refused by its line."""

import re
from functools import partial
from itertools import pairwise

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jsnn
from tests.network.own_network import held
from tests.plain_networks import HIDDEN, IMAGES, PLAIN, ROWS, converted, dense, drawn, plain


class Operations(nn.Module):
    """Grouped, dilated, transposed and 1-D convolutions, concatenation, a padded pool, remat, jit, moved arrays."""

    @nn.compact
    def __call__(self, x):
        grouped = nn.relu(nn.Conv(4, (3, 3), feature_group_count=2, name="grouped")(x))
        dilated = nn.relu(nn.Conv(2, (3, 3), kernel_dilation=2, name="dilated")(x))
        x = jnp.concatenate([grouped, dilated, x], axis=-1)
        x = nn.relu(nn.remat(nn.Conv)(3, (1, 1), name="again")(x))
        x = nn.avg_pool(x, (3, 3), (2, 2), "SAME", count_include_pad=False)
        x = nn.relu(nn.ConvTranspose(2, (2, 2), strides=(2, 2), name="upward")(x))
        x = jnp.pad(jnp.roll(x[:, ::2], 1, axis=2), ((0, 0), (1, 0), (0, 0), (0, 0)))
        x = jnp.stack(jnp.split(x, 2, axis=2), axis=1).transpose(0, 2, 1, 3, 4).reshape(len(x), -1, 6)
        x = jax.jit(nn.relu)(nn.Conv(3, (3,), name="along")(jnp.tile(x, (1, 1, 2))))
        return nn.DenseGeneral(3, axis=(1, 2), name="out")(x * jnp.arange(3) - x.mean(1, keepdims=True))


class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(36, 6, rngs=rngs)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.avg_pool(nnx.relu(self.norm(self.conv(x))), (2, 2), (2, 2))
        x = nnx.relu(self.layers[0](x.reshape(len(x), -1)))
        return self.out(self.dropout(x))


def of_flax(model):
    """The function of a Flax network, random variables and images."""
    return model.apply, drawn(jax.eval_shape(model.init, jax.random.key(0), IMAGES)), IMAGES


def of_nnx():
    net = Net(nnx.Rngs(0))
    net.eval()
    graphdef, state = nnx.split(net)
    return lambda v, x: nnx.merge(graphdef, v["params"])(x), {"params": drawn(state)}, IMAGES


def means(snn, variables, x, num_steps, **kwargs):
    """The mean of the results over the first t steps, [T, ...]."""

    @jax.jit
    def run(variables, x):
        return jsnn.simulate(snn, variables, held(x), lambda seen: seen.total, num_steps=num_steps, chunk=16, **kwargs)

    totals = run(variables, x)
    return totals / jnp.arange(1, num_steps + 1).reshape(-1, *[1] * (totals.ndim - 1))


def assert_tends_to_the_ann(names, apply, variables, x, **kwargs):
    """The layers have these names, and four times the steps make the error smaller by more than 2.5."""
    snn, spiking = converted(apply, variables, x)
    assert list(spiking["neurons"]) == names
    expected = jax.jit(partial(apply, **kwargs))(variables, x)
    actual = means(snn, spiking, x, 256, **kwargs)
    errors = [float(jnp.abs(actual[t - 1] - expected).mean()) for t in (16, 64, 256)]
    assert errors[-1] < 0.02 * float(jnp.abs(expected).mean())
    assert all(later < error / 2.5 for error, later in pairwise(errors)), errors
    return spiking, actual


@pytest.mark.parametrize(
    ("network", "names"),
    [
        (lambda: of_flax(Operations()), ["grouped", "dilated", "again", "upward", "along"]),
        (of_nnx, ["conv", "layers/0"]),
    ],
    ids=["Flax, all operations that are linear", "NNX"],
)
def test_a_network_as_it_comes_tends_to_the_ann(network, names):
    assert_tends_to_the_ann(names, *network())


def test_a_ceiling_is_the_largest_threshold():
    network = plain(lambda x: jnp.clip(x, 0, 0.5)), drawn(PLAIN), ROWS
    spiking, _ = assert_tends_to_the_ann(["hidden"], *network)
    assert float(spiking["neurons"]["hidden"]["threshold"]) == 0.5


def test_dropout_has_one_mask_over_time():
    def network(params, x, rngs=None):
        return nn.Dropout(0.5, deterministic=rngs is None).apply({}, jax.nn.relu(dense(params["hidden"], x)), rngs=rngs)

    variables, rngs = {"hidden": drawn(PLAIN)["hidden"]}, {"dropout": jax.random.key(3)}
    _, actual = assert_tends_to_the_ann(["hidden"], network, variables, ROWS, rngs=rngs)
    np.testing.assert_array_equal((actual != 0).any(0), network(variables, ROWS, rngs) > 0)


def test_half_precision():
    first = nn.Conv(3, (3, 3), dtype=jnp.bfloat16)
    second = nn.Conv(3, (3, 3), dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    last = nn.Dense(3, dtype=jnp.bfloat16)
    model = nn.Sequential([first, nn.relu, second, nn.relu, lambda x: x.reshape(len(x), -1), last])
    apply, variables, _ = of_flax(model)
    snn, spiking = converted(apply, variables, IMAGES)
    assert spiking["neurons"]["layers_2"]["threshold"].dtype == jnp.float32
    expected = apply(variables, IMAGES).astype(jnp.float32)
    errors = jnp.abs(means(snn, spiking, IMAGES, 128) - expected).mean((1, 2))
    assert errors[127] < errors[15] / 4
    assert errors[127] < 0.05 * jnp.abs(expected).mean()


def test_a_fill_value_is_no_spike():
    take = partial(jnp.take, indices=jnp.array([0, 9]), axis=1, mode="fill", fill_value=1.0)
    snn, x = jsnn.spiking(lambda v, x: take(jax.nn.relu(x @ v["w"]))), jnp.array([[1.0, 0.5, 0.0]])
    mean = means(snn, jsnn.convert(snn, HIDDEN, {"w": 2.0}), x, 64)[-1]
    np.testing.assert_allclose(mean, [[1.0, 1.0]], atol=0.05)


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
