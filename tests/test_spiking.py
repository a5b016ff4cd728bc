"""Networks that were not written for jsnn, as their authors would bring them: converted, composed, refused."""

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

STEPS = (16, 64, 256)
IMAGES = jax.random.uniform(jax.random.key(1), (4, 6, 6, 2), minval=-1)
ROWS = jax.random.uniform(jax.random.key(2), (4, 5), minval=-1)


class Block(nn.Module):
    channels: int

    @nn.compact
    def __call__(self, x):
        y = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(self.channels, (3, 3))(x)))
        return nn.relu(x + nn.Conv(self.channels, (3, 3))(y))


class CNN(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic=True):
        x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3))(x)))
        x = Block(4)(x)
        x = nn.avg_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(6)(x.reshape(len(x), -1)))
        x = nn.Dropout(0.5, deterministic=deterministic)(x)
        return nn.Dense(3)(x)


def drawn(tree, seed=0):
    """Random numbers in place of all floating ones, the variances among them positive."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        noise = rng.normal(size=leaf.shape) / max(1, np.sqrt(np.prod(leaf.shape[:-1])))
        name = jax.tree_util.keystr(path)
        noise = 1 + noise**2 if "var" in name else 0.3 * noise if leaf.ndim == 1 and "scale" not in name else noise
        return jnp.asarray(noise, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, tree)


def variables_of(model, x=IMAGES):
    return drawn(jax.eval_shape(model.init, jax.random.key(0), x))


def held(x):
    return lambda time: jnp.broadcast_to(x, (len(time), *x.shape))


def means(snn, variables, x, num_steps, chunk=16, **kwargs):
    """The mean of the results over the first t steps, [T, ...]."""

    @jax.jit
    def run(variables, x):
        return jsnn.simulate(
            snn, variables, held(x), lambda observed: observed.total, num_steps=num_steps, chunk=chunk, **kwargs
        )

    totals = run(variables, x)
    return totals / jnp.arange(1, num_steps + 1).reshape(-1, *[1] * (totals.ndim - 1))


def converted(apply, variables, x):
    snn = jsnn.spiking(apply)
    thresholds = jsnn.balance_thresholds(snn, variables, x, jsnn.encoding.constant, jax.random.key(0), num_steps=32)
    return snn, jsnn.convert(snn, variables, thresholds, initial=0.5)


def assert_tends_to_the_ann(apply, variables, x, names=None, **kwargs):
    snn, spiking = converted(apply, variables, x)
    assert names is None or list(spiking["neurons"]) == names
    expected = apply(variables, x, **kwargs)
    actual = means(snn, spiking, x, STEPS[-1], **kwargs)
    errors = [float(jnp.abs(actual[t - 1] - expected).mean()) for t in STEPS]
    assert errors[-1] < 0.02 * float(jnp.abs(expected).mean())
    assert all(later < error / 2.5 for error, later in pairwise(errors)), errors
    return actual


def test_a_flax_network_in_three_lines():
    model = CNN()
    names = ["Conv_0", "Block_0/Conv_0", "Block_0/Conv_1", "Dense_0"]
    assert_tends_to_the_ann(model.apply, variables_of(model), IMAGES, names)


def test_dropout_has_one_mask_over_time():
    def network(variables, x, rngs=None):
        x = nn.relu(nn.Dense(8).apply({"params": variables["params"]["hidden"]}, x))
        return nn.Dropout(0.5, deterministic=rngs is None).apply({}, x, rngs=rngs)

    hidden = drawn(jax.eval_shape(nn.Dense(8).init, jax.random.key(0), ROWS))["params"]
    rngs = {"dropout": jax.random.key(3)}
    actual = assert_tends_to_the_ann(network, {"params": {"hidden": hidden}}, ROWS, ["hidden"], rngs=rngs)
    np.testing.assert_array_equal((actual != 0).any(0), network({"params": {"hidden": hidden}}, ROWS, rngs) > 0)


def test_an_nnx_network():
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

    net = Net(nnx.Rngs(0))
    net.eval()
    graphdef, state = nnx.split(net)
    variables = {"params": drawn(state)}
    assert_tends_to_the_ann(
        lambda variables, x: nnx.merge(graphdef, variables["params"])(x), variables, IMAGES, ["conv", "layers/0"]
    )


def dense(params, x):
    return x @ params["w"] + params["b"]


def plain(activation):
    """A function of a dict of parameters, with no library."""

    def network(params, x):
        return dense(params["out"], activation(dense(params["hidden"], x)))

    return network


PLAIN = {
    "hidden": {"w": jax.ShapeDtypeStruct((5, 6), jnp.float32), "b": jax.ShapeDtypeStruct((6,), jnp.float32)},
    "out": {"w": jax.ShapeDtypeStruct((6, 3), jnp.float32), "b": jax.ShapeDtypeStruct((3,), jnp.float32)},
}


def test_a_plain_function_of_a_dict():
    assert_tends_to_the_ann(plain(jax.nn.relu), drawn(PLAIN), ROWS, ["hidden"])


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


def test_a_threshold_is_no_larger_than_the_ceiling():
    apply, variables = plain(lambda x: jnp.clip(x, 0, 0.5)), drawn(PLAIN)
    assert float(converted(apply, variables, ROWS)[1]["neurons"]["hidden"]["threshold"]) == 0.5
    assert_tends_to_the_ann(apply, variables, ROWS)


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


def test_operations_that_are_linear():
    model = Operations()
    names = ["grouped", "dilated", "again", "upward", "along"]
    assert_tends_to_the_ann(model.apply, variables_of(model), IMAGES, names)


def test_half_precision():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(3, (3, 3), dtype=jnp.bfloat16, name="first")(x))
            x = nn.relu(nn.Conv(3, (3, 3), dtype=jnp.bfloat16, param_dtype=jnp.bfloat16, name="second")(x))
            return nn.Dense(3, dtype=jnp.bfloat16)(x.reshape(len(x), -1))

    model = Net()
    variables = variables_of(model)
    snn, spiking = converted(model.apply, variables, IMAGES)
    assert spiking["neurons"]["second"]["threshold"].dtype == jnp.float32
    expected = model.apply(variables, IMAGES).astype(jnp.float32)
    errors = jnp.abs(means(snn, spiking, IMAGES, 128) - expected).mean((1, 2))
    assert errors[127] < errors[15] / 4
    assert errors[127] < 0.05 * jnp.abs(expected).mean()


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
    ],
    ids=["none", "another network's", "another neuron's"],
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
    "network", [lambda params, x: params["a"], lambda params, x: (x, params["a"] * jnp.zeros_like(x)[0])]
)
def test_a_result_that_does_not_depend_on_the_input(network):
    with pytest.raises(ValueError, match="result does not depend on its input"):
        jsnn.spiking(network).init({"a": jnp.ones(5)}, ROWS)


def test_a_network_without_activations_is_not_balanced():
    with pytest.raises(ValueError, match="no activation"):
        converted(lambda params, x: dense(params["out"], x), {"out": {"w": jnp.ones((5, 3)), "b": jnp.ones(3)}}, ROWS)


def test_equal_models_and_arguments_give_the_same_functions():
    """And so the same programs; a model that can't be hashed is made spiking as any other."""

    class Net(nn.Module):
        features: list | tuple = (3,)

        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(nn.relu(nn.Dense(self.features[0])(x)))

    neuron = jsnn.lif(jsnn.surrogate.linear())
    assert jsnn.spiking(Net().apply, neuron) is jsnn.spiking(Net().apply, neuron)
    assert jsnn.accelerate(Net().apply) is jsnn.accelerate(Net().apply)
    assert jsnn.spiking(Net((4,)).apply, neuron) is not jsnn.spiking(Net().apply, neuron)
    unhashable = Net([3])
    variables = unhashable.init(jax.random.key(0), jnp.ones((1, 4)))
    assert set(jsnn.spiking(unhashable.apply, neuron).init(variables, jnp.ones((1, 4)))["neurons"]) == {"Dense_1"}


HIDDEN = {"w": jnp.eye(3), "out": jnp.eye(3)}


def mean_of(apply, variables, x, threshold=2.0, steps=64):
    """The mean over time of a converted function's results."""
    snn = jsnn.spiking(apply)
    spiking = snn.init(variables, x)
    spiking["neurons"] = {name: {**n, "threshold": jnp.asarray(threshold)} for name, n in spiking["neurons"].items()}
    return snn.apply(spiking, snn.initial_state(spiking, x), jnp.broadcast_to(x, (steps, *x.shape)))[0].mean(0)


def test_a_fill_value_is_no_spike():
    def apply(variables, x):
        return jnp.take(jax.nn.relu(x @ variables["w"]), jnp.array([0, 9]), axis=1, mode="fill", fill_value=1.0)

    actual = mean_of(apply, HIDDEN, jnp.array([[1.0, 0.5, 0.0]]))
    np.testing.assert_allclose(actual, [[1.0, 1.0]], atol=0.05)


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
    [(reduced, "^reduce in"), (reversed_gradient, "a gradient of its own would be lost")],
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


def test_arguments_of_another_type_are_other_arguments():
    def apply(variables, x, flag):
        return jax.nn.relu(x @ variables["w"]) * (3.0 if flag is True else 1.0)

    snn, x = jsnn.spiking(apply), jnp.ones((1, 3))
    variables = snn.init(HIDDEN, x, True)
    state = snn.initial_state(variables, x, True)
    results = [snn.apply(variables, state, jnp.stack([2 * x] * 2), flag)[0] for flag in (True, 1)]
    np.testing.assert_allclose(results[0], 3 * results[1])


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


def test_a_graph_is_of_the_precision_that_it_was_traced_with():
    snn, x = jsnn.spiking(lambda variables, x: jax.nn.relu(x @ variables["w"])), jnp.ones((1, 3))

    def precisions():
        operations = snn.trace(HIDDEN, x)[0].operations
        return [operation.options["precision"] for operation in operations if "precision" in operation.options]

    assert precisions() == [None]
    with jax.default_matmul_precision("highest"):
        assert precisions() == [(jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)]
    assert precisions() == [None]
