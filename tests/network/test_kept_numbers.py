"""Numbers that a spiking network must not lose: few bits, whole numbers, NaN, ceilings, the sample of a rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsnn
from jsnn.data import array_source
from jsnn.training.forward import with_rates
from tests.plain_networks import run

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(0, 1, (4, 6)), jnp.float32)
A, B = (jnp.asarray(RNG.normal(size=size), jnp.float32) for size in ((6, 8), (8, 8)))
COUNTS, REALS = RNG.integers(0, 3, (8, 3)), RNG.normal(size=(8, 3))
STEPS, KEY = 32, jax.random.key(0)
INDEX = np.arange(4, dtype=np.int32)


def one_layer(variables, x):
    return jax.nn.relu(x @ variables["a"]) @ variables["out"]


def two_layers(variables, x):
    return jax.nn.relu(jax.nn.relu(x @ variables["a"]) @ variables["b"]) @ variables["out"]


def mean(snn, variables, chunk, x=X):
    def inputs(time):
        return jnp.broadcast_to(x, (len(time), *x.shape))

    results = jsnn.simulate(snn, variables, inputs, lambda observed: observed.results, num_steps=STEPS, chunk=chunk)
    return results.mean(0)


@pytest.mark.parametrize(
    ("out", "scale"),
    [
        (jnp.asarray(COUNTS, jnp.int32), 1.3),
        (jnp.asarray(COUNTS, jnp.int8), 1.3),
        (jnp.asarray(COUNTS > 0), 1.3),
        (jnp.full((8, 3), 50, jnp.float16), 3000.0),
        (jnp.full((8, 3), 1e-4, jnp.float16), 1e-4),
        (jnp.asarray(REALS, jnp.bfloat16), 1.3),
    ],
    ids=["int32", "int8", "bool", "large float16", "small float16", "bfloat16"],
)
def test_weights_that_would_round_a_threshold_are_taken_as_they_are(out, scale):
    """In chunks of 16 steps the threshold would go into the weights, which are then fewer than the results."""
    snn, weights = jsnn.spiking(one_layer), {"a": scale * A, "out": out}
    variables = jsnn.convert(snn, weights, {"a": 1.7 * scale}, initial=0.5)
    in_float32 = jsnn.convert(snn, {**weights, "out": out.astype(jnp.float32)}, {"a": 1.7 * scale}, initial=0.5)
    expected = mean(snn, in_float32, 16)
    for chunk in (1, 16):
        np.testing.assert_allclose(mean(snn, variables, chunk), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_a_float16_product_does_not_overflow_before_the_threshold_is_in_it():
    def network(variables, x):
        return jax.nn.relu(x @ variables["a"]).astype(jnp.float16) @ variables["out"]

    snn, ones = jsnn.spiking(network), jnp.ones((4, 6))
    variables = jsnn.convert(snn, {"a": jnp.ones((6, 2000)), "out": jnp.full((2000, 3), 50, jnp.float16)}, {"a": 0.01})
    np.testing.assert_allclose(run(snn, variables, ones[None])[0], np.full((4, 3), 1000), rtol=1e-2)


SPOILED = {
    "nan in an image": lambda x, w: (x.at[1, 2].set(jnp.nan), w),
    "an infinite pixel": lambda x, w: (x.at[1, 2].set(-jnp.inf), w),
    "nan in a weight": lambda x, w: (x, {**w, "b": w["b"].at[0, 0].set(jnp.nan)}),
    "an infinite weight": lambda x, w: (x, {**w, "b": w["b"].at[0, 0].set(jnp.inf)}),
}
LIF = {
    "bits": jsnn.lif(),
    "membranes": jsnn.lif(jsnn.surrogate.linear()),
    "hard reset": jsnn.hard_reset_lif(),
    "another state": jsnn.current_lif(),
}


@pytest.mark.parametrize("neuron", LIF.values(), ids=LIF)
def test_what_is_not_finite_stays_so_in_results_loss_and_step(neuron):
    encode = jsnn.encoding.constant if neuron is LIF["bits"] else jsnn.encoding.poisson
    snn, optimizer = jsnn.spiking(two_layers, neuron), optax.sgd(0.1)
    weights = jsnn.convert(snn, {"a": A, "b": B, "out": jnp.asarray(REALS, jnp.float32)}, {"a": 1.0, "b": 1.0})
    presentation = jsnn.Presentation(snn, encode, 10, 3)
    source = array_source(np.asarray(X), np.arange(4) % 3)
    evaluate = jax.jit(jsnn.snn_evaluation(presentation, source))
    forward = jsnn.snn_forward(presentation, jsnn.averaged)
    outputs = jax.jit(lambda variables, x: forward(variables, x, INDEX, KEY)[0])
    step = jax.jit(jsnn.train_step(source, jsnn.snn_forward(presentation, jsnn.averaged, ("a",)), optimizer))
    assert np.all(np.isfinite(outputs(weights, X)))
    for name, spoil in SPOILED.items():
        x, variables = spoil(X, weights)
        is_nan = np.isnan(outputs(variables, x)).any(1)
        np.testing.assert_array_equal(is_nan, [True] * 4 if "weight" in name else [False, True, False, False])
        resident = source.resident._replace(images=np.asarray(x))
        scores = evaluate(variables, resident, INDEX, KEY)
        assert np.all(np.isnan(scores.loss))
        state = jsnn.init_state(variables, optimizer, ("a",))
        after, metrics = step(state, resident, INDEX, KEY)
        assert np.isnan(metrics.loss)
        np.testing.assert_array_equal(after.params["a"], state.params["a"])


@pytest.mark.parametrize("chunk", [1, 4, 10])
def test_events_are_lost_from_their_step_on_whatever_the_chunk(chunk):
    snn = jsnn.spiking(two_layers)
    weights = jsnn.convert(snn, {"a": A, "b": B, "out": jnp.asarray(REALS, jnp.float32)}, {"a": 1.0, "b": 1.0})
    inputs = jnp.broadcast_to(X, (10, *X.shape)).at[5, 2, 0].set(jnp.nan)
    total = jsnn.simulate(
        snn, weights, lambda time: inputs[time], lambda observed: observed.total, num_steps=10, chunk=chunk
    )
    expected = np.zeros((10, 4), bool)
    expected[5:, 2] = True
    np.testing.assert_array_equal(np.isnan(total).any(-1), expected)


@pytest.mark.parametrize("threshold", [9.0, 6.0, 4.0])
def test_the_ceiling_of_relu6_is_kept_by_convert_scaling_and_gradients(threshold):
    def network(variables, x):
        return jax.nn.relu6(x @ variables["a"])

    snn, x = jsnn.spiking(network, jsnn.lif(jsnn.surrogate.linear())), 9 * jnp.ones((1, 1))
    for variables in (
        jsnn.convert(snn, {"a": jnp.ones((1, 1))}, {"a": threshold}),
        jsnn.scale_thresholds(jsnn.convert(snn, {"a": jnp.ones((1, 1))}, {"a": threshold / 3}), 3.0),
    ):
        np.testing.assert_allclose(mean(snn, variables, 8, x), [[min(threshold, 6.0)]], rtol=1e-6)
    forward = jsnn.snn_forward(
        jsnn.Presentation(snn, jsnn.encoding.constant, 9, 3), jsnn.averaged, ("neurons",), "byte"
    )

    def result(threshold):
        neurons = {"a": {**variables["neurons"]["a"], "threshold": threshold}}
        return forward({**variables, "neurons": neurons}, x, INDEX[:1], KEY)[0].sum()

    slope, slope_below = (jax.grad(result)(jnp.float32(at)) for at in (threshold, threshold - 1e-4))
    np.testing.assert_allclose(slope, 0 if threshold > 6 else slope_below, rtol=1e-2)  # not half of it at the ceiling


def columns(variables, x):
    return (variables["a"] @ jax.nn.relu(variables["a"] @ x.T)).T


TURNED = {
    "transposed": columns,
    "moved in a map": lambda variables, x: jax.nn.relu(jnp.moveaxis(x[:, None] * jnp.ones((1, 3, 1)), 0, 2))[0].T,
    "by einsum": lambda variables, x: jax.nn.relu(jnp.einsum("oc,bc->ob", variables["a"], x)).T,
    "as it is": lambda variables, x: jax.nn.relu(x @ variables["a"]) @ variables["a"],
}


@pytest.mark.parametrize("network", TURNED.values(), ids=TURNED)
@pytest.mark.parametrize("residuals", ["membranes", "bits"])
def test_rates_are_by_sample_where_another_axis_is_as_long(network, residuals):
    """One sample fires much, three hardly: by channel their rates would all be alike."""
    x = jnp.asarray([[4.0] * 4, *[[0.1] * 4] * 3])
    snn = jsnn.spiking(network)
    variables = snn.init({"a": jnp.full((4, 4), 0.2)}, x)
    presentation = jsnn.Presentation(snn, jsnn.encoding.constant, 6, 6 if residuals == "membranes" else 1)
    outputs, _ = jsnn.snn_forward(presentation, with_rates)(variables, x, INDEX, KEY)
    for rate in outputs.rates.values():
        assert rate[0] > 0.5
        np.testing.assert_array_less(rate[1:], 0.2)
    source = array_source(np.asarray(x), np.zeros(4, int))
    scores = jsnn.snn_evaluation(presentation, source)(variables, source.resident, np.array([0, -1, -1, -1]), KEY)
    for layer, spikes in scores.spikes.items():
        np.testing.assert_allclose(spikes.sum() / 6, outputs.rates[layer][0], rtol=1e-6)


def test_spikes_of_tokens_in_the_batch_are_the_batches_mean():
    def tokens(variables, x):
        return jax.nn.relu(x.reshape(-1, 3) @ jnp.ones((3, 2))).reshape(len(x), -1)

    snn, x = jsnn.spiking(tokens), jnp.asarray(RNG.uniform(size=(4, 6)), jnp.float32)
    forward = jsnn.snn_forward(jsnn.Presentation(snn, jsnn.encoding.constant, 4, 4), with_rates)
    (rate,) = forward(snn.init({}, x), x, INDEX, KEY)[0].rates.values()
    assert rate.shape == (4,)
    assert len(np.unique(rate)) == 1
